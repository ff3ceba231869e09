//! Which endpoints serve a Service port, as kube-proxy's CategorizeEndpoints (pkg/proxy/topology.go) has it.

use crate::{Backend, NodeContext, Target};
use sealane_catalog::{Endpoint, Entry, Service, ServicePort, TrafficPolicy};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What serves a port's traffic under each policy.
pub(crate) struct Selection {
    /// Policy Cluster.
    pub cluster: Target,
    /// Policy Local.
    pub local: Target,
    /// All that serve, ready or not, near or far: flows that they have go on (conntrack/cleanup.go).
    pub serving: Vec<Backend>,
    /// Ready ones that hints keep out of `cluster`.
    pub beyond: Vec<Backend>,
}

/// The endpoints of one family for a Service port, each address and port once. kube-proxy takes the first of two
/// with the same address and port, but one on this node over the others (endpointslicecache.go, addEndpoints).
fn candidates<'a>(
    entry: &'a Entry,
    port: &ServicePort,
    ipv6: bool,
    node: &NodeContext,
) -> BTreeMap<Backend, &'a Endpoint> {
    let mut found: BTreeMap<Backend, &Endpoint> = BTreeMap::new();
    for slice in entry.slices.iter().filter(|s| s.ipv6 == ipv6) {
        let target = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
        // A slice without a number means all ports: nothing that a rule could translate to.
        let Some(target) = target.and_then(|p| p.port) else { continue };
        for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv6() == ipv6) {
            let backend = Backend { address: endpoint.address, port: target };
            if is_here(endpoint, node) {
                found.insert(backend, endpoint);
            } else {
                found.entry(backend).or_insert(endpoint);
            }
        }
    }
    found
}

/// An endpoint of no node is nowhere, on a node of no name nothing is (endpointslicecache.go, isLocal).
fn is_here(endpoint: &Endpoint, node: &NodeContext) -> bool {
    !node.name.is_empty() && *endpoint.node() == *node.name
}

/// How far hints narrow the endpoints down.
#[derive(Clone, Copy, PartialEq)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

/// Hints count only where every ready endpoint has them and at least one is for us (topology.go, topologyModeFromHints).
fn topology(ready: &[&Endpoint], node: &NodeContext) -> Topology {
    let all_nodes = ready.iter().all(|e| !e.hint_nodes().is_empty());
    if all_nodes && ready.iter().any(|e| e.hint_nodes().contains(&node.name)) {
        return Topology::SameNode;
    }
    let all_zones = ready.iter().all(|e| !e.hint_zones().is_empty());
    if all_zones && !node.zone.is_empty() && ready.iter().any(|e| e.hint_zones().contains(&node.zone)) {
        return Topology::SameZone;
    }
    Topology::Anywhere
}

fn target(backends: Vec<Backend>, otherwise: Target) -> Target {
    if backends.is_empty() { otherwise } else { Target::Balance(backends.into()) }
}

/// Endpoints for both policies; serving ones that terminate stand in where none is ready (KEP-1669).
pub(crate) fn select(entry: &Entry, port: &ServicePort, ipv6: bool, node: &NodeContext) -> Selection {
    let all = candidates(entry, port, ipv6, node);
    let leaving = |e: &Endpoint| e.serving && e.terminating;
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Backend> {
        all.iter().filter(|(_, e)| wanted(e)).map(|(b, _)| *b).collect()
    };
    let ready: Vec<&Endpoint> = all.values().copied().filter(|e| e.ready).collect();
    let mode = topology(&ready, node);
    let near = |e: &Endpoint| match mode {
        Topology::Anywhere => true,
        Topology::SameZone => e.hint_zones().contains(&node.zone),
        Topology::SameNode => e.hint_nodes().contains(&node.name),
    };
    let beyond = if mode == Topology::Anywhere { Vec::new() } else { pick(&|e| e.ready && !near(e)) };
    let mut cluster = pick(&|e| e.ready && near(e));
    if cluster.is_empty() {
        cluster = pick(&leaving);
    }
    let here = |e: &Endpoint| is_here(e, node);
    let mut local = pick(&|e| e.ready && here(e));
    if local.is_empty() {
        local = pick(&|e| leaving(e) && here(e));
    }
    // No endpoint anywhere is refused, none here is dropped (nftables/proxier.go, syncProxyRules).
    let none_here = if cluster.is_empty() { Target::Reject } else { Target::Drop };
    let serving = pick(&|e| e.serving);
    Selection { cluster: target(cluster, Target::Reject), local: target(local, none_here), serving, beyond }
}

/// A ready endpoint of a Service port, and what weights may go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub backend: Backend,
    /// Its Pod's name, "" where it is none.
    pub pod: Box<str>,
    /// Node, "" where unset.
    pub node: Box<str>,
    /// Zone, "" where unset.
    pub zone: Box<str>,
    /// Hints keep it out of policy Cluster.
    pub beyond: bool,
}

/// What is known of a port's ready endpoints, each address and port once, in order.
pub(crate) fn facts(entry: &Entry, port: &ServicePort, ipv6: bool, node: &NodeContext) -> Vec<Fact> {
    let beyond = select(entry, port, ipv6, node).beyond;
    let all = candidates(entry, port, ipv6, node);
    let ready = all.into_iter().filter(|(_, e)| e.ready);
    let fact = |(backend, e): (Backend, &Endpoint)| Fact {
        backend,
        pod: e.pod().into(),
        node: e.node().into(),
        zone: e.zone().into(),
        beyond: beyond.binary_search(&backend).is_ok(),
    };
    ready.map(fact).collect()
}

/// What serves traffic under a policy.
pub(crate) fn target_for(policy: TrafficPolicy, selection: &Selection) -> Target {
    match policy {
        TrafficPolicy::Cluster => selection.cluster.clone(),
        TrafficPolicy::Local => selection.local.clone(),
    }
}

/// Labels of Services that are somebody else's: kube-proxy lists none that has one, whatever its value
/// (cmd/kube-proxy/app/server.go; staging/src/k8s.io/api/core/v1/well_known_labels.go).
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// The Service of an entry, where rules are due to it: not headless, not a mere CNAME, no other proxy's.
pub(crate) fn proxied(entry: &Entry) -> Option<&Arc<Service>> {
    use sealane_catalog::ServiceType::ExternalName;
    let ours = |s: &&Arc<Service>| {
        !s.headless && s.kind != ExternalName && !NOT_OURS.iter().any(|label| s.labels.get(label).is_some())
    };
    entry.service.as_ref().filter(ours)
}
