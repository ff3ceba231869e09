//! Carries what changed, of Services and of the Node, to a node's proxy, and listens in the node's network where Services
//! have health checks.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sealane_catalog::Snapshot;
use sealane_dataplane::{Answerer, Metrics, Servers, Update};
use sealane_host::Host;
use sealane_proxy::NodeContext;
use sealane_proxy::config::Span;
use sealane_proxy::health::HealthChecks;
use tokio::sync::watch;

/// kube-proxy's `iptables.syncPeriod` and `nftables.syncPeriod`, by which it judges its health.
const SYNC_PERIOD: Span = Span::seconds(30);
/// Before a health check's port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What it goes by, and what was given last.
pub(crate) struct Feed {
    host: Host,
    context: NodeContext,
    checks: Arc<Checks>,
    servers: Servers,
    /// Where to listen has changed, or some health check's port could not be had.
    due: bool,
    /// That it could not was said.
    said: bool,
}

/// What health checks are answered from.
struct Checks {
    metrics: Arc<Metrics>,
    of_services: Mutex<HealthChecks>,
}

impl Checks {
    fn lock(&self) -> MutexGuard<'_, HealthChecks> {
        self.of_services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    pub(crate) fn new(host: Host, context: NodeContext, metrics: Arc<Metrics>) -> Self {
        let checks = Arc::new(Checks { metrics, of_services: Mutex::default() });
        Feed { host, context, checks, servers: Servers::default(), due: false, said: false }
    }

    /// Runs until the catalog's or the proxy's thread ends.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        updates: Sender<Update>,
    ) {
        let mut last = Arc::new(Snapshot::default());
        loop {
            let now = snapshots.borrow_and_update().clone();
            if now.synced() {
                if updates.send(self.update(&last, &now)).is_err() {
                    return;
                }
                last = now;
            }
            if self.due {
                self.listen().await;
            }
            let open = tokio::select! {
                changed = snapshots.changed() => changed.is_ok(),
                () = tokio::time::sleep(AGAIN), if self.due => true,
            };
            if !open {
                return;
            }
        }
    }

    /// What changed, for the thread.
    fn update(&mut self, last: &Snapshot, now: &Snapshot) -> Update {
        let delta = now.since(last);
        let services: Vec<_> = delta.services.into_iter().map(|c| (c.key, c.after)).collect();
        for (key, entry) in &services {
            self.due |= self.checks.lock().update(key, entry.as_deref(), &self.context.name);
        }
        // Somebody may move the node into another zone.
        let zone = now.node(&self.context.name).map(|n| n.zone.clone()).filter(|z| *z != self.context.zone);
        let node = zone.map(|zone| {
            self.context.zone = zone;
            self.context.clone()
        });
        Update { revision: now.revision().max(1), services, node }
    }

    /// Listens where health checks are wanted, and nowhere else.
    async fn listen(&mut self) {
        let wanted = self.checks.lock().listeners(&self.context, [false; 2]);
        let (mut servers, checks) = (std::mem::take(&mut self.servers), Arc::clone(&self.checks));
        let runtime = tokio::runtime::Handle::current();
        let set = self.host.node_network(move || {
            let _runtime = runtime.enter();
            let failed = servers.set(&wanted, |listener| answerer(&checks, listener));
            (servers, failed)
        });
        match set.await {
            Ok((servers, failed)) => {
                self.servers = servers;
                self.due = !failed.is_empty();
                for (address, error) in failed.iter().filter(|_| !self.said) {
                    tracing::warn!("healthCheckNodePort {address}: {error}; trying again every {AGAIN:?}");
                }
                self.said = self.due;
            }
            // The node is lost; its keeper knows.
            Err(_) => self.due = false,
        }
    }
}

fn answerer(checks: &Arc<Checks>, listener: SocketAddr) -> Answerer {
    let checks = Arc::clone(checks);
    Arc::new(move |_| {
        let healthy = checks.metrics.progress().healthy(SYNC_PERIOD, Timestamp::now());
        checks.lock().answer(listener, healthy)
    })
}
