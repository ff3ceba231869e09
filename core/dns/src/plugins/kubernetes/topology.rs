//! `zone_order`: where a client is, and which endpoints are near it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use sealane_catalog::{Endpoint, Node, Service, Snapshot};

use super::Kubernetes;
use super::records::service_key;
use crate::chain::{Context, Query, Reply, shuffle};
use crate::message::{Data, rtype};

/// Prefixes of nodes' Pods, and the nodes' own addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Topology {
    networks: HashMap<(bool, u8, u128), Arc<str>>,
    /// Lengths of prefixes, by family.
    lengths: BTreeSet<(bool, u8)>,
}

/// An address's first bits, in front.
fn prefix(ip: IpAddr, length: u8) -> (bool, u8, u128) {
    let (v4, bits) = match ip {
        IpAddr::V4(ip) => (true, u128::from(u32::from(ip)) << 96),
        IpAddr::V6(ip) => (false, u128::from(ip)),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    (v4, length, bits & mask)
}

impl Topology {
    /// Takes the nodes of a snapshot.
    pub(super) fn learn(&mut self, snapshot: &Snapshot) {
        *self = Topology::default();
        for node in snapshot.nodes() {
            let own = node.addresses.iter().map(|ip| (*ip, if ip.is_ipv4() { 32 } else { 128 }));
            let pods = node.pod_cidrs.iter().filter_map(|cidr| {
                let (ip, length) = cidr.split_once('/')?;
                let (ip, length): (IpAddr, u8) = (ip.parse().ok()?, length.parse().ok()?);
                (length <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, length))
            });
            for (ip, length) in own.chain(pods) {
                self.lengths.insert((ip.is_ipv4(), length));
                self.networks.insert(prefix(ip, length), node.name.clone());
            }
        }
    }

    /// The node that a client is on: its Pod's where Pods are known, the one that has its address in its range else.
    fn node<'a>(&self, snapshot: &'a Snapshot, client: IpAddr) -> Option<&'a Node> {
        let client = client.to_canonical();
        let mut pods = snapshot.by_pod_ip(client).iter().filter_map(|key| snapshot.pod(key));
        if let Some(node) = pods.find_map(|pod| snapshot.node(&pod.node)) {
            return Some(node);
        }
        let longest_first = self.lengths.iter().rev().filter(|(v4, _)| *v4 == client.is_ipv4());
        let mut names = longest_first.filter_map(|(_, length)| self.networks.get(&prefix(client, *length)));
        names.find_map(|name| snapshot.node(name)).map(|node| &**node)
    }
}

/// How endpoints are near: by hints where all of them have some, as for kube-proxy (`pkg/proxy/topology.go`), by where
/// they are otherwise.
struct Nearness<'a> {
    node: &'a Node,
    node_hints: bool,
    zone_hints: bool,
    same_node: bool,
}

impl<'a> Nearness<'a> {
    fn new<'e>(
        node: &'a Node,
        service: &Service,
        endpoints: impl Iterator<Item = &'e Endpoint> + Clone,
    ) -> Self {
        Nearness {
            node,
            node_hints: endpoints.clone().all(|endpoint| !endpoint.hint_nodes().is_empty()),
            zone_hints: endpoints.clone().all(|endpoint| !endpoint.hint_zones().is_empty()),
            same_node: &*service.traffic_distribution == "PreferSameNode",
        }
    }

    /// 0 is on the node, 1 in the zone, 2 elsewhere.
    fn rank(&self, endpoint: &Endpoint) -> u8 {
        let Node { name, zone, .. } = self.node;
        let here = if self.node_hints {
            endpoint.hint_nodes().contains(name)
        } else {
            self.same_node && *endpoint.node() == **name
        };
        let near = || {
            let zones = endpoint.hint_zones();
            !zone.is_empty()
                && if self.zone_hints { zones.contains(zone) } else { *endpoint.zone() == **zone }
        };
        match here {
            true => 0,
            false if near() => 1,
            false => 2,
        }
    }
}

impl Kubernetes {
    /// Puts the addresses of a headless Service that are near the client before the others.
    pub(super) fn order(&self, query: &mut Query, reply: &mut Reply, cx: &mut Context<'_>) {
        let Some(topology) = &self.zone_order else { return };
        if !matches!(query.question().rtype, rtype::A | rtype::AAAA) {
            return;
        }
        // Behind aliases the last name has the addresses.
        let Some(owner) = reply.answers.last().map(|record| record.name.clone()) else { return };
        let snapshot = &cx.world.snapshot;
        // Where other clusters' endpoints are is not known here.
        let zone = self.zone_of(&owner).filter(|zone| !self.is_multicluster(zone));
        let Some(key) = zone.and_then(|zone| service_key(&owner, zone)) else { return };
        let Some(entry) = snapshot.service(&key) else { return };
        let Some(service) = entry.service.as_ref().filter(|service| service.headless) else { return };
        // Clients elsewhere have other answers, whether this one's place is known or not.
        (query.for_client, query.basis) = (true, None);
        let at = reply.answers.iter().position(|record| !matches!(record.data, Data::Cname(_)));
        let addresses = &mut reply.answers[at.unwrap_or(0)..];
        let node = topology.node(snapshot, query.client.ip());
        let mut ranks: HashMap<IpAddr, u8> = HashMap::new();
        if let Some(node) = node {
            let endpoints = entry.slices.iter().flat_map(|slice| &slice.endpoints).filter(|e| e.ready);
            let nearness = Nearness::new(node, service, endpoints.clone());
            ranks.extend(endpoints.map(|endpoint| (endpoint.address, nearness.rank(endpoint))));
        }
        // `loadbalance` leaves the order to us.
        if query.block.plugins.contains(&"loadbalance") {
            shuffle(addresses, cx.random());
        }
        let rank = |data: &Data| match data {
            Data::A(ip) => ranks.get(&IpAddr::V4(*ip)).copied(),
            Data::Aaaa(ip) => ranks.get(&IpAddr::V6(*ip)).copied(),
            _ => None,
        };
        addresses.sort_by_key(|record| rank(&record.data).unwrap_or(u8::MAX));
    }
}

#[cfg(test)]
mod tests {
    use sealane_catalog::NamespacedName;

    use super::*;

    #[test]
    fn prefixes() {
        for (a, b, length, same) in [
            ("10.244.1.9", "10.244.1.0", 24, true),
            ("10.244.2.9", "10.244.1.0", 24, false),
            ("10.0.0.1", "203.0.113.1", 0, true),
            ("fd00:1::9", "fd00:1::", 64, true),
            ("fd00:1::9", "fd00:1::8", 128, false),
        ] {
            let [a, b] = [a, b].map(|ip| prefix(ip.parse().unwrap(), length));
            assert_eq!(a == b, same, "{a:?} {b:?}");
        }
        assert_ne!(prefix("10.0.0.1".parse().unwrap(), 0), prefix("fd00::1".parse().unwrap(), 0));
    }

    #[test]
    fn keys() {
        let zone = "cluster.local".parse().unwrap();
        let key = |name: &str| service_key(&name.parse().unwrap(), &zone);
        assert_eq!(key("Web.Default.svc.cluster.local"), Some(NamespacedName::new("default", "web")));
        assert_eq!(key("x.web.default.svc.cluster.local"), None);
    }
}
