//! Follows the ranges of Service addresses, for service proxies.

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use sealane_catalog::read::Fields;
use serde_json::Value;
use tokio::sync::watch;

use crate::feed::{Fed, Watched, feed};

/// Served from Kubernetes 1.33 on.
const SERVICE_CIDRS: Watched = Watched {
    group: "networking.k8s.io",
    version: "v1",
    plural: "servicecidrs",
    label: "",
    name: String::new(),
    optional: true,
};

/// What is known of the objects.
#[derive(Default)]
struct Held {
    ranges: BTreeMap<String, Vec<String>>,
    /// Those of a list that is not complete yet.
    listed: Option<BTreeMap<String, Vec<String>>>,
    complete: bool,
}

impl Held {
    fn take(&mut self, fed: Fed) {
        match fed {
            Fed::ListBegins => self.listed = Some(BTreeMap::new()),
            Fed::Listed(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(name(&object), cidrs(&object));
                }
            }
            Fed::ListEnds(_) => {
                self.ranges = self.listed.take().unwrap_or_default();
                self.complete = true;
            }
            Fed::ListFails => self.listed = None,
            Fed::Applied(object) => {
                self.ranges.insert(name(&object), cidrs(&object));
            }
            Fed::Deleted(object) => {
                self.ranges.remove(&name(&object));
            }
            Fed::Revision(_) | Fed::Connected | Fed::Lost => {}
        }
    }

    fn all(&self) -> Option<BTreeSet<String>> {
        self.complete.then(|| self.ranges.values().flatten().cloned().collect())
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn cidrs(object: &Value) -> Vec<String> {
    let list = object["spec"]["cidrs"].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Watches ServiceCIDRs and publishes the ranges of all of them, as they are written, for every change, the first time
/// when the list is in. Without ServiceCIDRs in the API, or the right to see them, there are none. Returns when nobody
/// reads.
pub async fn watch_service_cidrs(client: Client, publish: watch::Sender<Option<BTreeSet<String>>>) {
    let mut held = Held::default();
    let reader = publish.clone();
    let take = move |fed| {
        held.take(fed);
        let all = held.all();
        publish.send_if_modified(|old| {
            let changed = *old != all;
            *old = all;
            changed
        });
        !publish.is_closed()
    };
    tokio::select! {
        () = feed(client, SERVICE_CIDRS, Fields::all(), take) => {}
        () = reader.closed() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_of_all_objects() {
        let object =
            |name: &str, cidrs: &[&str]| json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let mut held = Held::default();
        let mut is = |fed: Fed, ranges: Option<&[&str]>| {
            let what = format!("{fed:?}");
            held.take(fed);
            let ranges = ranges.map(|r| r.iter().map(|r| (*r).to_owned()).collect());
            assert_eq!(held.all(), ranges, "{what}");
        };
        is(Fed::ListBegins, None);
        is(Fed::Listed(object("kubernetes", &["10.96.0.0/12", "fd00::/108"])), None);
        is(Fed::ListEnds(7), Some(&["10.96.0.0/12", "fd00::/108"]));
        is(Fed::Applied(object("more", &["10.96.0.0/12"])), Some(&["10.96.0.0/12", "fd00::/108"]));
        is(Fed::Deleted(object("kubernetes", &[])), Some(&["10.96.0.0/12"]));
        // What was deleted while nobody watched is not in the next list; a list that breaks off changes nothing.
        is(Fed::ListBegins, Some(&["10.96.0.0/12"]));
        is(Fed::ListFails, Some(&["10.96.0.0/12"]));
        is(Fed::ListBegins, Some(&["10.96.0.0/12"]));
        is(Fed::ListEnds(9), Some(&[]));
    }
}
