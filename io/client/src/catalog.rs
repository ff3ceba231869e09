//! Feeds the catalog and publishes its Snapshots.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use kube::Client;
use sealane_api::Object;
use sealane_api::kinds::by_kind;
use sealane_catalog::read::Fields;
use sealane_catalog::{Builder, Event, Snapshot, Source};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::feed::{Fed, Watched, feed};
use crate::warm::{self, WarmStart};

/// An API that has not listed all by then is away, where a saved snapshot is at hand.
const AWAY: Duration = Duration::from_secs(2);
/// How often what changed is saved.
const SAVE: Duration = Duration::from_secs(60);
/// Readers have this long to take what a list brought before [`CatalogOptions::loaded`] is called.
const SETTLE: Duration = Duration::from_secs(1);

/// Leaves a Service to another proxy, and marks slices of headless Services (cmd/kube-proxy/app/server.go, Run).
const OTHER_PROXY: &str = "!service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "!service.kubernetes.io/headless";

/// What else the catalog does.
#[derive(Default)]
pub struct CatalogOptions {
    /// Keeps a snapshot on disk, and begins with it where the API does not answer.
    pub warm_start: Option<WarmStart>,
    /// Called some time after lists were taken in: what they needed can be given back.
    pub loaded: Option<Box<dyn Fn() + Send + Sync>>,
    /// Watches what a service proxy on the Node of this name needs alone: that Node, and neither Services of other
    /// proxies nor slices of headless ones. Nothing is found by address.
    pub proxy_on: Option<String>,
    /// But all Nodes, even so.
    pub all_nodes: bool,
}

impl CatalogOptions {
    fn narrowed(&self, source: Source, watched: Watched) -> Watched {
        let Some(node) = &self.proxy_on else { return watched };
        match source {
            Source::Services => Watched { label: OTHER_PROXY, ..watched },
            Source::EndpointSlices => Watched { label: HEADLESS, ..watched },
            Source::Nodes if !self.all_nodes => Watched { name: node.clone(), ..watched },
            _ => watched,
        }
    }
}

/// Istio's, which Sealane's own API does not serve.
const DESTINATION_RULES: Watched = Watched {
    group: "networking.istio.io",
    version: "v1",
    plural: "destinationrules",
    label: "",
    name: String::new(),
    optional: true,
};

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

/// Whether answers need it.
fn required(source: &Source) -> bool {
    *source != Source::DestinationRules
}

/// Seconds since 1970.
fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(crate) fn event(source: Source, fed: Fed) -> [Option<Event>; 2] {
    match fed {
        Fed::ListBegins => [Some(Event::RelistBegin(source)), None],
        Fed::Listed(value) | Fed::Applied(value) => [Some(Event::Applied(source, Object::new(value))), None],
        Fed::Deleted(value) => [Some(Event::Deleted(source, Object::new(value))), None],
        Fed::ListEnds(revision) => [Some(Event::RelistEnd(source)), Some(Event::Revision(source, revision))],
        Fed::ListFails => [Some(Event::RelistFailed(source)), None],
        Fed::Revision(revision) => [Some(Event::Revision(source, revision)), None],
        Fed::Connected => [Some(Event::Connected(source)), None],
        Fed::Lost => [Some(Event::Lost(source, unix())), None],
    }
}

/// What feeds and publisher share.
#[derive(Default)]
struct Desk {
    builder: Mutex<Builder>,
    changed: Notify,
    lost: Notify,
    listed: Notify,
}

impl Desk {
    fn builder(&self) -> MutexGuard<'_, Builder> {
        // A feed that panicked has not begun to apply anything, or is done.
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message at once: nothing waits in a queue, however long the list is.
    fn take(&self, source: Source, fed: Fed) {
        let (lost, listed) = (matches!(fed, Fed::Lost) && required(&source), matches!(fed, Fed::ListEnds(_)));
        let mut builder = self.builder();
        event(source, fed).into_iter().flatten().for_each(|event| builder.apply(event));
        drop(builder);
        self.changed.notify_one();
        if lost {
            self.lost.notify_one();
        }
        if listed {
            self.listed.notify_one();
        }
    }
}

/// Watches `sources` and publishes a whole [`Snapshot`] for every change, the first one when all lists are in, or with
/// [`CatalogOptions::warm_start`] when the API does not answer. Changes that came in by then come together; none is
/// waited for. DestinationRules may be missing, for whatever reason: they only refine answers. Returns when `shutdown`
/// does, or when nobody reads.
pub async fn watch_catalog(
    client: Client,
    sources: &[Source],
    options: CatalogOptions,
    publish: watch::Sender<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    let builder = Builder::new(&sources.iter().copied().filter(required).collect::<Vec<_>>());
    let builder = if options.proxy_on.is_some() { builder.without_addresses() } else { builder };
    let desk = Arc::new(Desk { builder: Mutex::new(builder), ..Desk::default() });
    let mut feeds = JoinSet::new();
    for source in sources.iter().copied() {
        if let Some(watched) = watched(source).map(|watched| options.narrowed(source, watched)) {
            let (client, desk) = (client.clone(), desk.clone());
            let take = move |fed| {
                desk.take(source, fed);
                true
            };
            feeds.spawn(feed(client, watched, Fields::of(source), take));
        }
    }
    let warm = options.warm_start.as_ref();
    let mut saver = interval(SAVE);
    saver.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut saved, mut settle) = (0, None);
    let away = Instant::now() + AWAY;
    let mut cold = warm.is_some();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // The server ends before this is told to: what is known is saved all the same.
            () = publish.closed() => break,
            () = desk.changed.notified() => {}
            () = desk.lost.notified(), if cold => cold = restore(warm, &desk).await,
            () = sleep_until(away), if cold => cold = restore(warm, &desk).await,
            () = desk.listed.notified(), if options.loaded.is_some() => settle = Some(Instant::now() + SETTLE),
            () = sleep_until(settle.unwrap_or(away)), if settle.is_some() => {
                settle = None;
                options.loaded.iter().for_each(|loaded| loaded());
                continue;
            }
            _ = saver.tick(), if warm.is_some() => {
                save(warm, sources, &publish, &mut saved).await;
                continue;
            }
        }
        let (snapshot, _) = desk.builder().publish();
        if snapshot.synced() && !Arc::ptr_eq(&snapshot, &publish.borrow()) {
            cold = false;
            publish.send_replace(snapshot);
        }
    }
    feeds.shutdown().await;
    save(warm, sources, &publish, &mut saved).await;
}

/// Begins with what was saved, once; returns `false`: there is no second time.
async fn restore(warm: Option<&WarmStart>, desk: &Arc<Desk>) -> bool {
    let Some(warm) = warm.cloned() else { return false };
    let desk = desk.clone();
    let restored =
        tokio::task::spawn_blocking(move || warm::restore(&warm, unix(), &mut desk.builder())).await;
    match restored {
        Ok(Ok(Some(said))) => tracing::warn!("{said}"),
        Ok(Ok(None)) => {}
        Ok(Err(why)) => tracing::warn!("starting without saved snapshot: {why}"),
        Err(panicked) => tracing::error!("starting without saved snapshot: {panicked}"),
    }
    false
}

/// Saves what was published, where it is from the API and news.
async fn save(
    warm: Option<&WarmStart>,
    sources: &[Source],
    publish: &watch::Sender<Arc<Snapshot>>,
    saved: &mut u64,
) {
    let Some(warm) = warm.cloned() else { return };
    let snapshot = publish.borrow().clone();
    if !snapshot.synced() || snapshot.restored() || snapshot.sequence() == *saved {
        return;
    }
    *saved = snapshot.sequence();
    let sources = sources.to_vec();
    let done = tokio::task::spawn_blocking(move || warm::save(&warm.path, &snapshot, &sources, unix())).await;
    if let Ok(Err(why)) = done {
        tracing::warn!("the snapshot cannot be saved: {why}");
    }
}
