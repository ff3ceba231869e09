//! Feeds the catalog and publishes its Snapshots.

use std::future::Future;
use std::sync::Arc;

use kube::Client;
use sealane_api::kinds::by_kind;
use sealane_api::{Kind, Object};
use sealane_catalog::{Builder, Event, Snapshot, Source};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::feed::{Fed, feed};

fn kind_of(source: Source) -> Option<&'static Kind> {
    match source {
        Source::Services => by_kind("v1", "Service"),
        Source::EndpointSlices => by_kind("discovery.k8s.io/v1", "EndpointSlice"),
        Source::Namespaces => by_kind("v1", "Namespace"),
        Source::Nodes => by_kind("v1", "Node"),
        Source::Pods => by_kind("v1", "Pod"),
    }
}

fn event(source: Source, fed: Fed) -> [Option<Event>; 2] {
    match fed {
        Fed::ListBegins => [Some(Event::RelistBegin(source)), None],
        Fed::Listed(value) | Fed::Applied(value) => [Some(Event::Applied(source, Object::new(value))), None],
        Fed::Deleted(value) => [Some(Event::Deleted(source, Object::new(value))), None],
        Fed::ListEnds(revision) => [Some(Event::RelistEnd(source)), Some(Event::Revision(source, revision))],
        Fed::Revision(revision) => [Some(Event::Revision(source, revision)), None],
    }
}

/// What is watched of a source: all, or what a selector leaves.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Which objects.
    pub source: Source,
    /// A label selector, "" for all.
    pub labels: String,
    /// A field selector, "" for all.
    pub fields: String,
}

impl Selection {
    /// All objects of a source.
    pub fn all(source: Source) -> Selection {
        Selection { source, labels: String::new(), fields: String::new() }
    }

    /// As a part of a URI's query. Selectors are made of what may stand there, but for these.
    fn query(&self) -> String {
        let escaped = |text: &str| text.replace('%', "%25").replace('=', "%3D").replace(',', "%2C");
        let both = [("labelSelector", &self.labels), ("fieldSelector", &self.fields)];
        let given = both.iter().filter(|(_, selector)| !selector.is_empty());
        given.map(|(name, selector)| format!("{name}={}", escaped(selector))).collect::<Vec<_>>().join("&")
    }
}

/// [`watch_selected`] for whole sources.
pub async fn watch_catalog(
    client: Client,
    sources: &[Source],
    publish: watch::Sender<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    let whole: Vec<Selection> = sources.iter().copied().map(Selection::all).collect();
    watch_selected(client, &whole, publish, shutdown).await;
}

/// Watches sources and publishes a whole [`Snapshot`] for every change, the first one when all lists are in. Changes
/// that are queued by then come together; none is waited for. Returns when `shutdown` does, or when nobody reads.
pub async fn watch_selected(
    client: Client,
    selections: &[Selection],
    publish: watch::Sender<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Source, Fed)>();
    let mut feeds = JoinSet::new();
    for selection in selections {
        let source = selection.source;
        if let Some(kind) = kind_of(source) {
            let (client, sender) = (client.clone(), sender.clone());
            feeds.spawn(feed(client, kind, selection.query(), move |fed| sender.send((source, fed)).is_ok()));
        }
    }
    drop(sender);
    let sources: Vec<Source> = selections.iter().map(|s| s.source).collect();
    let mut builder = Builder::new(&sources);
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
