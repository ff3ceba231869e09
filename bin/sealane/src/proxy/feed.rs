//! Carries what changed, of Services, of the Node and of the machine's addresses, to the proxy's thread, and listens
//! where Services have health checks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use sealane_catalog::{Node, Snapshot};
use sealane_dataplane::{Answerer, Servers, Update};
use sealane_proxy::config::Config;
use sealane_proxy::{Cidr, NodeContext};
use tokio::sync::watch;
use tokio::time::Instant;

use super::servers::State;

/// Before a health check's port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What it goes by.
pub(super) struct Feed {
    pub(super) configs: watch::Receiver<Arc<Config>>,
    /// The Node's name.
    pub(super) name: Arc<str>,
    pub(super) state: Arc<State>,
}

/// What was given to the thread last.
#[derive(Default)]
struct Given {
    snapshot: Arc<Snapshot>,
    context: Option<NodeContext>,
    servers: Servers,
    /// Some health check's port could not be had.
    missing: bool,
}

/// Ranges of Services, those within others left out; the API may hold what is none, and overlapping ones.
fn outermost(ranges: &BTreeSet<String>) -> Vec<Cidr> {
    Cidr::outermost(ranges.iter().filter_map(|range| range.trim().parse().ok()))
}

impl Feed {
    /// Runs until the catalog's or the proxy's thread ends. The first update waits for all lists, the addresses and the
    /// ranges of Services.
    pub(super) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut addresses: watch::Receiver<Option<BTreeSet<IpAddr>>>,
        mut ranges: watch::Receiver<Option<BTreeSet<String>>>,
        updates: Sender<Update>,
    ) {
        let mut given = Given::default();
        let mut waits = false;
        loop {
            let config = self.configs.borrow_and_update().clone();
            let now = snapshots.borrow_and_update().clone();
            let own = addresses.borrow_and_update().clone();
            let services = ranges.borrow_and_update().clone();
            if let (Some(own), Some(services)) = (own.filter(|_| now.synced()), services) {
                let node = now.node(&self.name).cloned();
                self.state.set_eligible(node.as_ref().is_some_and(|n| !n.leaving));
                let context = config.node_context(&self.name, node.as_deref(), &own);
                let context = context.map(|c| NodeContext { service_cidrs: outermost(&services), ..c });
                if context.is_none() && !std::mem::replace(&mut waits, true) {
                    tracing::warn!(
                        "detectLocalMode NodeCIDR: Node {} has no podCIDRs; no rules are written until it has",
                        self.name
                    );
                }
                if let Some(context) = context
                    && !self.give(&mut given, now, context, node.as_deref(), &updates)
                {
                    return;
                }
            }
            let begun = Instant::now();
            let open = tokio::select! {
                changed = snapshots.changed() => changed.is_ok(),
                changed = addresses.changed() => changed.is_ok(),
                changed = self.configs.changed() => changed.is_ok(),
                changed = ranges.changed() => changed.is_ok(),
                () = tokio::time::sleep(AGAIN), if given.missing => true,
            };
            if !open {
                return;
            }
            // Whoever asks for a pause between writes gets it; what comes meanwhile goes in at once. Nobody else waits:
            // a sleep until a time that is over lasts to the timer's next millisecond.
            let least = config.min_sync_period.get();
            if !least.is_zero() {
                tokio::time::sleep_until(begun + least).await;
            }
        }
    }

    /// Hands over what changed; whether somebody took it.
    fn give(
        &self,
        given: &mut Given,
        now: Arc<Snapshot>,
        context: NodeContext,
        node: Option<&Node>,
        updates: &Sender<Update>,
    ) -> bool {
        let delta = now.since(&given.snapshot);
        let moved = given.context.as_ref() != Some(&context);
        let mut listen = moved || given.missing;
        let services: Vec<_> = delta.services.into_iter().map(|c| (c.key, c.after)).collect();
        {
            let mut checks = self.state.checks();
            for (key, entry) in &services {
                listen |= checks.update(key, entry.as_deref(), &self.name);
            }
        }
        let node_context = moved.then(|| context.clone());
        let update = Update { revision: now.revision().max(1), services, node: node_context };
        given.snapshot = now;
        if updates.send(update).is_err() {
            return false;
        }
        if listen {
            let config = self.configs.borrow().clone();
            let all = [false, true].map(|ipv6| config.all_addresses(node, ipv6));
            let wanted = self.state.checks().listeners(&context, all);
            self.listen(given, &wanted);
        }
        given.context = Some(context);
        true
    }

    fn listen(&self, given: &mut Given, wanted: &BTreeSet<SocketAddr>) {
        let answer = |listener| -> Answerer {
            let state = Arc::clone(&self.state);
            Arc::new(move |_| state.check(listener))
        };
        let failed = given.servers.set(wanted, answer);
        // Said once, tried again for as long as it takes.
        if !given.missing {
            for (address, error) in &failed {
                tracing::warn!("healthCheckNodePort {address}: {error}; trying again every {AGAIN:?}");
            }
        }
        given.missing = !failed.is_empty();
    }
}
