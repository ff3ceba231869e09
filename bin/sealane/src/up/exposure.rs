//! Tells the agents when the service rules of all nodes have let go of a Pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use sealane_catalog::{Endpoint, Snapshot};
use sealane_node::{Endpoints, PodEndpoint};
use sealane_pod::ending::Exposure;
use tokio::sync::watch;

/// What is known of Services, and the revisions that the nodes' proxies have in force.
#[derive(Clone)]
pub(crate) struct Rules {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    applied: Arc<Mutex<BTreeMap<String, watch::Receiver<u64>>>>,
}

impl Rules {
    pub(crate) fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Rules { snapshots, applied: Arc::default() }
    }

    /// A node's proxy begins, or begins anew.
    pub(crate) fn insert(&self, node: &str, applied: watch::Receiver<u64>) {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), applied);
    }

    fn nodes(&self) -> Vec<watch::Receiver<u64>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Endpoints for Rules {
    fn fallen(&self, of: &PodEndpoint, most: Exposure) -> BoxFuture<'static, Exposure> {
        let (rules, of) = (self.clone(), of.clone());
        Box::pin(async move {
            let mut snapshots = rules.snapshots.clone();
            let is = |snapshot: &Arc<Snapshot>| snapshot.synced() && exposure(snapshot, &of) <= most;
            let (found, revision) = match snapshots.wait_for(is).await {
                Ok(snapshot) => (exposure(&snapshot, &of), snapshot.revision()),
                // Nobody is told of changes any more: all of it ends.
                Err(_) => return Exposure::Removed,
            };
            for mut applied in rules.nodes() {
                // A proxy that has ended leads nobody anywhere.
                let _ = applied.wait_for(|in_force| *in_force >= revision).await;
            }
            found
        })
    }
}

/// As what a Pod stands in slices, of all its Services the most.
fn exposure(snapshot: &Snapshot, of: &PodEndpoint) -> Exposure {
    let entries = snapshot.by_endpoint(of.address).iter().filter(|key| *key.namespace == *of.namespace);
    let slices = entries.filter_map(|key| snapshot.service(key)).flat_map(|entry| &entry.slices);
    let own = |e: &&Endpoint| e.address == of.address && e.pod() == of.pod;
    slices
        .flat_map(|slice| slice.endpoints.iter().filter(own))
        .map(of_endpoint)
        .max()
        .unwrap_or(Exposure::Removed)
}

fn of_endpoint(endpoint: &Endpoint) -> Exposure {
    match (endpoint.terminating, endpoint.ready || endpoint.serving) {
        (_, false) => Exposure::Removed,
        (true, true) => Exposure::Terminating,
        (false, true) => Exposure::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::Object;
    use sealane_catalog::{Builder, Event, Source};
    use serde_json::{Value, json};

    fn endpoint(pod: &str, address: &str, [ready, serving, terminating]: [bool; 3]) -> Value {
        json!({"addresses": [address], "targetRef": {"kind": "Pod", "namespace": "n", "name": pod},
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    /// Slices of Services `s0`, `s1`, … in a namespace.
    fn apply(builder: &mut Builder, namespace: &str, revision: u64, endpoints: &[Value]) {
        for (at, endpoint) in endpoints.iter().enumerate() {
            let labels = json!({"kubernetes.io/service-name": format!("s{at}")});
            let meta = json!({"namespace": namespace, "name": format!("s{at}-x"), "labels": labels,
                "resourceVersion": revision.to_string()});
            let slice =
                json!({"metadata": meta, "addressType": "IPv4", "endpoints": [endpoint], "ports": []});
            builder.apply(Event::Applied(Source::EndpointSlices, Object::new(slice)));
        }
    }

    fn builder() -> Builder {
        let mut builder = Builder::new(&[Source::EndpointSlices]);
        builder.apply(Event::RelistBegin(Source::EndpointSlices));
        builder.apply(Event::RelistEnd(Source::EndpointSlices));
        builder
    }

    fn own() -> PodEndpoint {
        PodEndpoint { namespace: "n".into(), pod: "p".into(), address: [10, 244, 0, 2].into() }
    }

    #[test]
    fn of_all_services_the_most() {
        let (ready, out) = ([true, true, false], [false, false, false]);
        let (draining, published) = ([false, true, true], [true, false, true]);
        let one = |conditions| endpoint("p", "10.244.0.2", conditions);
        for (name, namespace, endpoints, expected) in [
            ("no Service", "n", vec![], Exposure::Removed),
            ("ready", "n", vec![one(ready)], Exposure::Ready),
            ("terminating", "n", vec![one(draining)], Exposure::Terminating),
            ("ended", "n", vec![one([false, false, true])], Exposure::Removed),
            ("publishNotReadyAddresses", "n", vec![one(published)], Exposure::Terminating),
            ("one Service is late", "n", vec![one(draining), one(ready), one(out)], Exposure::Ready),
            (
                "another Pod's former address",
                "n",
                vec![endpoint("q", "10.244.0.2", ready)],
                Exposure::Removed,
            ),
            ("another address", "n", vec![endpoint("p", "10.244.0.3", ready)], Exposure::Removed),
            ("another namespace", "m", vec![one(ready)], Exposure::Removed),
        ] {
            let mut builder = builder();
            apply(&mut builder, namespace, 7, &endpoints);
            assert_eq!(exposure(&builder.publish().0, &own()), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn every_node_has_to_have_it_in_force() {
        let mut builder = builder();
        apply(&mut builder, "n", 7, &[endpoint("p", "10.244.0.2", [true, true, false])]);
        let (publish, snapshots) = watch::channel(builder.publish().0);
        let rules = Rules::new(snapshots);
        let (first, in_first) = watch::channel(7);
        let (second, in_second) = watch::channel(7);
        let (lost, in_lost) = watch::channel(1);
        rules.insert("a", in_first);
        rules.insert("b", in_second);
        rules.insert("c", in_lost);
        let mut waits = tokio::spawn(rules.fallen(&own(), Exposure::Terminating));
        let still = async || {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(!waits.is_finished());
        };
        still().await;
        apply(&mut builder, "n", 9, &[endpoint("p", "10.244.0.2", [false, true, true])]);
        publish.send_replace(builder.publish().0);
        still().await;
        second.send_replace(9);
        still().await;
        drop(lost);
        first.send_replace(8);
        still().await;
        first.send_replace(9);
        assert_eq!((&mut waits).await.unwrap(), Exposure::Terminating);
    }
}
