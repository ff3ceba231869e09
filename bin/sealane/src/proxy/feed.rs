//! Carries what changed, of Services, of the Node and of the machine's addresses, to the proxy's thread, and listens
//! where Services have health checks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use sealane_catalog::{Node, Snapshot};
use sealane_dataplane::{Answerer, Servers, Update};
use sealane_proxy::NodeContext;
use sealane_proxy::config::Config;
use tokio::sync::watch;
use tokio::time::Instant;

use super::servers::State;

/// Before a health check's port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What it goes by.
pub(super) struct Feed {
    pub(super) config: Arc<Config>,
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

impl Feed {
    /// Runs until the catalog's or the proxy's thread ends. The first update waits for all lists and the addresses.
    pub(super) async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut addresses: watch::Receiver<Option<BTreeSet<IpAddr>>>,
        updates: Sender<Update>,
    ) {
        let mut given = Given::default();
        let least = self.config.min_sync_period.get();
        let mut waits = false;
        loop {
            let now = snapshots.borrow_and_update().clone();
            let own = addresses.borrow_and_update().clone();
            if let Some(own) = own.filter(|_| now.synced()) {
                let node = now.node(&self.name).cloned();
                self.state.set_eligible(node.as_ref().is_some_and(|n| !n.leaving));
                let context = self.config.node_context(&self.name, node.as_deref(), &own);
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
                () = tokio::time::sleep(AGAIN), if given.missing => true,
            };
            if !open {
                return;
            }
            // Whoever asks for a pause between writes gets it; what comes meanwhile goes in at once. Nobody else waits:
            // a sleep until a time that is over lasts to the timer's next millisecond.
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
            let all = [false, true].map(|ipv6| self.config.all_addresses(node, ipv6));
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
