//! What a load balancer in front of several nodes does: addresses of Services that keep traffic on the nodes where their
//! endpoints are (`externalTrafficPolicy: Local`) are led to such a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sealane_catalog::{Entry, NamespacedName, ServiceType, Snapshot, TrafficPolicy};
use sealane_host::Network;
use tokio::sync::watch;

/// Nodes by name, with their addresses, in their order.
pub(crate) type Nodes = Vec<(String, Ipv4Addr)>;

/// Runs until nobody publishes.
pub(crate) async fn run(network: Network, nodes: Nodes, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut last = Arc::new(Snapshot::default());
    let mut of: BTreeMap<NamespacedName, Ways> = BTreeMap::new();
    loop {
        let now = snapshots.borrow_and_update().clone();
        let mut changed = false;
        for change in now.since(&last).services {
            let ways = change.after.as_deref().map(|e| ways(e, &nodes)).unwrap_or_default();
            changed |= match ways.is_empty() {
                true => of.remove(&change.key).is_some(),
                false => of.insert(change.key, ways.clone()) != Some(ways),
            };
        }
        if changed && let Err(e) = network.lead(of.values().flatten().map(|(a, n)| (*a, n.clone())).collect())
        {
            tracing::warn!("{e}");
        }
        last = now;
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Addresses, and the nodes that they may be led to.
type Ways = BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>;

/// What a Service asks for: nothing, unless its traffic has to stay where it comes in.
fn ways(entry: &Entry, nodes: &Nodes) -> Ways {
    let Some(service) = &entry.service else { return Ways::new() };
    if service.kind != ServiceType::LoadBalancer || service.external_policy != TrafficPolicy::Local {
        return Ways::new();
    }
    // As the nodes' health checks answer.
    let ready = entry.slices.iter().flat_map(|s| &s.endpoints).filter(|e| e.ready);
    let there: BTreeSet<&str> = ready.map(|e| e.node()).collect();
    let to: Vec<Ipv4Addr> =
        nodes.iter().filter(|(n, _)| there.contains(n.as_str())).map(|(_, a)| *a).collect();
    let addresses = service.ingress.iter().filter(|i| !i.proxy_mode).filter_map(|i| match i.ip {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    });
    addresses.map(|a| (a, to.clone())).collect()
}
