//! From a Service and its slices to frontends.

use crate::endpoints::{proxied, select, target_for};
use crate::{Class, Frontend, FrontendKey, Masquerade, NodeContext};
use sealane_catalog::{Entry, Service, ServicePort, ServiceType, TrafficPolicy};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The frontends of an entry on a node, each key once, cluster addresses first. Backends stand in the order of
/// their addresses; a [`Table`](crate::Table) arranges them anew.
pub fn service_table(entry: &Entry, node: &NodeContext) -> Vec<Frontend> {
    let Some(service) = proxied(entry) else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let mut frontends = Vec::new();
    for port in &service.ports {
        for ipv6 in [false, true] {
            port_frontends(entry, service, port, ipv6, node, &mut frontends);
        }
    }
    frontends.retain(|f: &Frontend| seen.insert(f.key));
    frontends
}

fn port_frontends(
    entry: &Entry,
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    node: &NodeContext,
    out: &mut Vec<Frontend>,
) {
    let cluster_ips: Vec<IpAddr> = of_family(service.cluster_ips.iter(), ipv6);
    let external: Vec<(IpAddr, u16)> = external_addresses(service, port, ipv6, node);
    if cluster_ips.is_empty() && external.is_empty() {
        return;
    }
    let selection = select(entry, port, ipv6, node);
    let frontend = |address, number, class, masquerade, target, outside| Frontend {
        key: FrontendKey { address, protocol: port.protocol, port: number },
        service: service.key.clone(),
        port_name: port.name.clone(),
        class,
        affinity: service.affinity_seconds,
        masquerade,
        target,
        outside,
    };
    let inside_masquerade = match (node.masquerade_all, node.detects_pods(ipv6)) {
        (true, _) => Masquerade::Always,
        (false, true) => Masquerade::OffCluster,
        (false, false) => Masquerade::Never,
    };
    for address in cluster_ips {
        let target = target_for(service.internal_policy, &selection);
        out.push(frontend(address, port.port, Class::ClusterIp, inside_masquerade, target, None));
    }
    for (address, number) in external {
        // Under Local, Pods and the node still get all endpoints: kube-proxy's short circuit.
        let (masquerade, outside) = match service.external_policy {
            TrafficPolicy::Cluster => (Masquerade::Always, None),
            TrafficPolicy::Local => (Masquerade::Never, Some(selection.local.clone())),
        };
        let target = selection.cluster.clone();
        out.push(frontend(address, number, Class::External, masquerade, target, outside));
    }
}

/// Addresses and ports at which others than the cluster reach a port.
fn external_addresses(
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    node: &NodeContext,
) -> Vec<(IpAddr, u16)> {
    let balanced = service.ingress.iter().filter(|_| service.kind == ServiceType::LoadBalancer);
    // KEP-1860: ipMode Proxy has traffic go out to the load balancer.
    let balanced = balanced.filter(|i| !i.proxy_mode).filter_map(|i| i.ip.as_ref());
    let mut found: Vec<(IpAddr, u16)> = of_family(service.external_ips.iter().chain(balanced), ipv6)
        .into_iter()
        .map(|address| (address, port.port))
        .collect();
    // A family without a cluster address is not the Service's: its node port does not answer there.
    let of_service = service.cluster_ips.iter().any(|a| a.is_ipv6() == ipv6);
    if port.node_port != 0 && service.kind != ServiceType::ClusterIp && of_service {
        let addresses = of_family(node.node_port_addresses.iter(), ipv6);
        found.extend(addresses.into_iter().map(|address| (address, port.node_port)));
    }
    found
}

fn of_family<'a>(addresses: impl Iterator<Item = &'a IpAddr>, ipv6: bool) -> Vec<IpAddr> {
    addresses.copied().filter(|a| a.is_ipv6() == ipv6).collect()
}
