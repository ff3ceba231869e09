//! Feeds what comes from other clusters, and publishes its Snapshots.

use std::future::Future;
use std::sync::Arc;

use kube::Client;
use sealane_api::kinds::by_kind;
use sealane_catalog::imports::SERVICE_LABEL;
use sealane_catalog::read::Fields;
use sealane_catalog::{Imports, Snapshot, Source};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::catalog::event;
use crate::feed::{Fed, Watched, feed};

/// The Multi-Cluster Services API's, which comes as a CustomResourceDefinition.
const SERVICE_IMPORTS: Watched = Watched {
    group: "multicluster.x-k8s.io",
    version: "v1alpha1",
    plural: "serviceimports",
    label: "",
    name: String::new(),
    optional: false,
};

/// Watches ServiceImports and the EndpointSlices that stand for them, and publishes a whole [`Snapshot`] for every
/// change, the first one when both lists are in; without ServiceImports in the API an empty one. Returns when `shutdown`
/// does, or when nobody reads.
pub async fn watch_imports(
    client: Client,
    publish: watch::Sender<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Source, Fed)>();
    let mut feeds = JoinSet::new();
    let slices = by_kind("discovery.k8s.io/v1", "EndpointSlice");
    let slices = slices.map(|kind| Watched { label: SERVICE_LABEL, ..Watched::from(kind) });
    let all = [(Source::Services, Some(SERVICE_IMPORTS)), (Source::EndpointSlices, slices)];
    for (source, watched) in all {
        if let Some(watched) = watched {
            let (client, sender) = (client.clone(), sender.clone());
            feeds.spawn(feed(client, watched, Fields::of(source), move |fed| {
                sender.send((source, fed)).is_ok()
            }));
        }
    }
    drop(sender);
    let mut imports = Imports::default();
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
            event(source, fed).into_iter().flatten().for_each(|event| imports.apply(event));
            next = receiver.try_recv().ok();
        }
        let (snapshot, _) = imports.publish();
        if snapshot.synced() && !Arc::ptr_eq(&snapshot, &publish.borrow()) {
            publish.send_replace(snapshot);
        }
    }
}
