//! Where the cluster's state comes from: one source for all configurations, or what each of them needs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dns::chain::Needs;
use sealane_dns::{Effect, Event, Now, Server};
use tokio::sync::watch;

use crate::shared::Shared;

/// Who waits for the cluster says so every so often.
const WAITING: Duration = Duration::from_millis(500);

/// The cluster's state, whole ones, the newest only. A writer that is gone leaves the last one: names go on being
/// answered. Who writes learns from the channel that nobody reads any more.
#[derive(Clone, Debug)]
pub struct Feeds {
    /// The cluster's own.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What comes from other clusters, where [`Needs::imports`] asks for it.
    pub imports: Option<watch::Receiver<Arc<Snapshot>>>,
}

/// What makes feeds; an error is one line.
pub type Feeding = Pin<Box<dyn Future<Output = Result<Feeds, String>> + Send>>;

/// Begins to watch what a configuration needs.
pub type Feeder = Arc<dyn Fn(Needs) -> Feeding + Send + Sync>;

/// Where feeds come from.
#[derive(Clone)]
pub enum Feed {
    /// The same for all configurations, which have what there is.
    Given(Feeds),
    /// Asked for at the start, and again with each configuration that needs something else than the one before. That
    /// one keeps its own until it is replaced.
    Made(Feeder),
}

impl From<watch::Receiver<Arc<Snapshot>>> for Feed {
    fn from(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Feed::Given(Feeds { snapshots, imports: None })
    }
}

impl Feed {
    /// What a configuration with these needs reads from now on; complete, or what there was of it in time.
    pub(crate) async fn begin(self, needs: Needs, shared: Arc<Shared>) -> Result<Feeds, String> {
        let mut feeds = match self {
            Feed::Given(feeds) => feeds,
            Feed::Made(make) => make(needs.clone()).await?,
        };
        feeds.known(&needs, &shared).await;
        Ok(feeds)
    }

    /// Whether a configuration with these needs can go on with the feeds of the one before.
    pub(crate) fn lasts(&self, before: &Needs, needs: &Needs) -> bool {
        let watched = |needs: &Needs| Needs { startup_timeout: Duration::ZERO, ..needs.clone() };
        matches!(self, Feed::Given(_)) || watched(before) == watched(needs)
    }
}

impl Feeds {
    fn synced(&self) -> bool {
        let imported = self.imports.as_ref().is_none_or(|imports| imports.borrow().synced());
        imported && self.snapshots.borrow().synced()
    }

    /// The next change; never, where nobody writes any more.
    pub(crate) async fn next(&mut self) -> Event<'static> {
        let imports = async {
            match &mut self.imports {
                Some(imports) => next(imports).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            snapshot = next(&mut self.snapshots) => Event::Snapshot(snapshot),
            imports = imports => Event::Imports(imports),
        }
    }

    /// What there is.
    pub(crate) fn latest(&mut self) -> Vec<Event<'static>> {
        let own = Event::Snapshot(self.snapshots.borrow_and_update().clone());
        let imports = self.imports.as_mut().map(|imports| imports.borrow_and_update().clone());
        std::iter::once(own).chain(imports.map(Event::Imports)).collect()
    }

    /// Takes the place of other feeds. Snapshots of two writers are not compared: each follows from the empty one.
    pub(crate) fn instead(&mut self, server: &mut Server, now: Now) -> Vec<Effect> {
        let none = [Event::Snapshot(Arc::default()), Event::Imports(Arc::default())];
        none.into_iter().chain(self.latest()).flat_map(|event| server.step(event, now)).collect()
    }

    /// Waits for the cluster, but for no longer than the configuration says (`startup_timeout` of `kubernetes`): clients
    /// that ask nobody ask another server, or wait, where SERVFAIL would be their answer.
    async fn known(&mut self, needs: &Needs, shared: &Shared) {
        if !needs.cluster || needs.startup_timeout.is_zero() || self.synced() {
            return;
        }
        let mut there = self.clone();
        let synced = async {
            // Writers that are gone leave what there is.
            let _ = there.snapshots.wait_for(|snapshot| snapshot.synced()).await;
            if let Some(imports) = &mut there.imports {
                let _ = imports.wait_for(|imports| imports.synced()).await;
            }
        };
        let waiting = async {
            loop {
                tokio::time::sleep(WAITING).await;
                shared.log("[INFO] plugin/kubernetes: waiting for Kubernetes API before starting server");
            }
        };
        let synced = async {
            tokio::select! {
                () = synced => {}
                () = waiting => {}
            }
        };
        // Whether that was long enough is seen below.
        let _ = tokio::time::timeout(needs.startup_timeout, synced).await;
        if !self.synced() {
            shared.log("[WARNING] plugin/kubernetes: starting server with unsynced Kubernetes API");
        }
    }
}

async fn next(receiver: &mut watch::Receiver<Arc<Snapshot>>) -> Arc<Snapshot> {
    match receiver.changed().await {
        Ok(()) => receiver.borrow_and_update().clone(),
        Err(_) => std::future::pending().await,
    }
}
