//! Feeds the catalog and publishes its Snapshots.

use std::future::Future;
use std::sync::Arc;

use kube::Client;
use sealane_api::Object;
use sealane_api::kinds::by_kind;
use sealane_catalog::{Builder, Event, Snapshot, Source};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::feed::{Fed, Watched, feed};

/// Istio's, which Sealane's own API does not serve.
const DESTINATION_RULES: Watched =
    Watched { group: "networking.istio.io", version: "v1", plural: "destinationrules", label: "" };

fn watched(source: Source) -> Option<Watched> {
    let kind = match source {
        Source::Services => by_kind("v1", "Service"),
        Source::EndpointSlices => by_kind("discovery.k8s.io/v1", "EndpointSlice"),
        Source::Namespaces => by_kind("v1", "Namespace"),
        Source::Nodes => by_kind("v1", "Node"),
        Source::Pods => by_kind("v1", "Pod"),
        Source::DestinationRules => return Some(DESTINATION_RULES),
    };
    kind.map(Watched::from)
}

pub(crate) fn event(source: Source, fed: Fed) -> [Option<Event>; 2] {
    match fed {
        Fed::ListBegins => [Some(Event::RelistBegin(source)), None],
        Fed::Listed(value) | Fed::Applied(value) => [Some(Event::Applied(source, Object::new(value))), None],
        Fed::Deleted(value) => [Some(Event::Deleted(source, Object::new(value))), None],
        Fed::ListEnds(revision) => [Some(Event::RelistEnd(source)), Some(Event::Revision(source, revision))],
        Fed::Revision(revision) => [Some(Event::Revision(source, revision)), None],
    }
}

/// Watches `sources` and publishes a whole [`Snapshot`] for every change, the first one when all lists are in. Changes
/// that are queued by then come together; none is waited for. DestinationRules may be missing, for whatever reason: they
/// only refine answers. Returns when `shutdown` does, or when nobody reads.
pub async fn watch_catalog(
    client: Client,
    sources: &[Source],
    publish: watch::Sender<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Source, Fed)>();
    let mut feeds = JoinSet::new();
    for source in sources.iter().copied() {
        if let Some(watched) = watched(source) {
            let (client, sender) = (client.clone(), sender.clone());
            feeds.spawn(feed(client, watched, move |fed| sender.send((source, fed)).is_ok()));
        }
    }
    drop(sender);
    let required: Vec<Source> =
        sources.iter().copied().filter(|source| *source != Source::DestinationRules).collect();
    let mut builder = Builder::new(&required);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let first = tokio::select! {
            () = &mut shutdown => return,
            () = publish.closed() => return,
            message = receiver.recv() => message,
        };
        let Some(first) = first else { return };
        let mut next = Some(first);
        while let Some((source, fed)) = next {
            event(source, fed).into_iter().flatten().for_each(|e| builder.apply(e));
            next = receiver.try_recv().ok();
        }
        let (snapshot, _) = builder.publish();
        if snapshot.synced() && !Arc::ptr_eq(&snapshot, &publish.borrow()) {
            publish.send_replace(snapshot);
        }
    }
}
