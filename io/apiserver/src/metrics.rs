//! `/metrics`: requests by verb, resource and code, under kube-apiserver's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Verb, group, resource, subresource, code.
type Key = (&'static str, String, String, String, u16);

/// Counters of requests.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<Key, (u64, Duration)>>);

impl Metrics {
    /// Counts an answered request.
    pub fn count(
        &self,
        verb: &'static str,
        resource: Option<(String, String, String)>,
        code: u16,
        took: Duration,
    ) {
        let (group, resource, subresource) = resource.unwrap_or_default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry((verb, group, resource, subresource, code)).or_default();
        entry.0 += 1;
        entry.1 += took;
    }

    /// In the Prometheus text format.
    pub fn text(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, resource and code.\n\
             # TYPE apiserver_request_total counter\n",
        );
        for ((verb, group, resource, subresource, code), (count, _)) in all.iter() {
            let verb = verb.to_ascii_uppercase();
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "apiserver_request_total{{code=\"{code}\",group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{verb}\"}} {count}"
            );
        }
        out.push_str("# HELP sealane_apiserver_request_seconds_total Time to answer, a watch's until it begins.\n# TYPE sealane_apiserver_request_seconds_total counter\n");
        for ((verb, group, resource, subresource, code), (_, took)) in all.iter() {
            let verb = verb.to_ascii_uppercase();
            let _ = writeln!(
                out,
                "sealane_apiserver_request_seconds_total{{code=\"{code}\",group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{verb}\"}} {}",
                took.as_secs_f64()
            );
        }
        out
    }
}
