//! Who answers for a load balancer's address on the network that its clients are on.

use crate::endpoints::proxied;
use sealane_catalog::{Entry, Node, Service, ServiceType, Snapshot, TrafficPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Keeps a Node out of load balancers' way (staging/src/k8s.io/api/core/v1/well_known_labels.go).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The addresses of load balancers that the Node of this name answers for; `None`: a machine in front of all Nodes.
///
/// One Node has an address: of those that are Ready, not on their way out and not excluded, and with policy Local have
/// endpoints of the Service, the one with the highest number by a hash of both. So all reckon alike without talking to
/// each other, and a Node that goes moves none but its own addresses.
pub fn announced(snapshot: &Snapshot, node: Option<&str>) -> BTreeSet<IpAddr> {
    let fit = |n: &&Arc<Node>| n.ready && !n.leaving && n.labels.get(EXCLUDED).is_none();
    let nodes: Vec<&str> = snapshot.nodes().filter(fit).map(|n| &*n.name).collect();
    // An address with several Services goes where the endpoints of all policies are, as far as that can be.
    let mut wanted: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for (_, entry) in snapshot.services() {
        let Some(service) = proxied(entry).filter(|s| s.kind == ServiceType::LoadBalancer) else { continue };
        let mut own: Option<Vec<&str>> = None;
        for address in service.ingress.iter().filter(|i| !i.proxy_mode).filter_map(|i| i.ip) {
            let own = own.get_or_insert_with(|| homes(entry, service, &nodes));
            wanted
                .entry(address)
                .and_modify(|held| held.retain(|n| own.contains(n)))
                .or_insert_with(|| own.iter().copied().collect());
        }
    }
    let mine = |(address, homes): (IpAddr, BTreeSet<&str>)| match node {
        None => Some(address),
        Some(node) => {
            let first = homes.into_iter().max_by_key(|name| (rank(address, name), *name));
            (first == Some(node)).then_some(address)
        }
    };
    wanted.into_iter().filter_map(mine).collect()
}

/// The Nodes whose answer would lead to endpoints.
fn homes<'a>(entry: &Entry, service: &Service, nodes: &[&'a str]) -> Vec<&'a str> {
    if service.external_policy == TrafficPolicy::Cluster {
        return nodes.to_vec();
    }
    let serving: BTreeSet<&str> = entry
        .slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter())
        .filter(|e| e.ready || (e.serving && e.terminating))
        .map(|e| e.node())
        .collect();
    nodes.iter().copied().filter(|n| serving.contains(n)).collect()
}

/// FNV-1a, which spreads enough and is the same on every machine; then mixed, for names that differ in their last
/// letter alone.
fn rank(address: IpAddr, node: &str) -> u64 {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = octets.iter().chain(node.as_bytes()).fold(0xcbf2_9ce4_8422_2325, step);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 31)
}
