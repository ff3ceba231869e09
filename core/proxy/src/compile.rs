//! From a Service and its slices to frontends.

use crate::endpoints::{proxied, select, target_for};
use crate::{Backend, Cidr, Class, Frontend, FrontendKey, Masquerade, NodeContext, Shares, Target};
use sealane_catalog::{Entry, Service, ServicePort, ServiceType, TrafficPolicy};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The frontends of an entry on a node, each key once, cluster addresses first. Backends stand in the order of
/// their addresses; a [`Table`](crate::Table) arranges them anew.
pub fn service_table(entry: &Entry, node: &NodeContext) -> Vec<Frontend> {
    weighed_table(entry, node, None)
}

/// As [`service_table`], its backends in uneven shares.
pub(crate) fn weighed_table(entry: &Entry, node: &NodeContext, shares: Option<&Shares>) -> Vec<Frontend> {
    let Some(service) = proxied(entry) else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let mut frontends = Vec::new();
    for ipv6 in [false, true] {
        // A family without a cluster address is not the Service's, whatever else it has of that family
        // (servicechangetracker.go, serviceToServiceMap).
        let Some(cluster_ip) = service.cluster_ips.iter().copied().find(|a| a.is_ipv6() == ipv6) else {
            continue;
        };
        let family = FamilyOf { entry, service, cluster_ip, ipv6, node, shares };
        let balancers = family.balancers();
        let sources = family.sources(&balancers);
        for port in &service.ports {
            family.frontends(port, &balancers, sources.as_ref(), &mut frontends);
        }
    }
    frontends.retain(|f: &Frontend| seen.insert(f.key));
    frontends
}

/// One family of a Service.
struct FamilyOf<'a> {
    entry: &'a Entry,
    service: &'a Service,
    cluster_ip: IpAddr,
    ipv6: bool,
    node: &'a NodeContext,
    shares: Option<&'a Shares>,
}

impl FamilyOf<'_> {
    fn own<'i>(&self, addresses: impl Iterator<Item = &'i IpAddr>) -> Vec<IpAddr> {
        addresses.copied().filter(|a| a.is_ipv6() == self.ipv6).collect()
    }

    /// Addresses of load balancers whose packets arrive with them as destination (KEP-1860: not `ipMode: Proxy`).
    fn balancers(&self) -> Vec<IpAddr> {
        self.own(self.service.ingress.iter().filter(|i| !i.proxy_mode).filter_map(|i| i.ip.as_ref()))
    }

    /// Whom the load balancer's addresses admit. Ranges of the other family restrict nothing here, nor does what is
    /// no range. A balancer's address may be the node's, and then is the source of what the node says to it
    /// (nftables/proxier.go, firewall chain).
    fn sources(&self, balancers: &[IpAddr]) -> Option<Arc<[Cidr]>> {
        // The API lets white space pass (serviceport.go).
        let ranges = self.service.source_ranges.iter().filter_map(|r| r.trim().parse::<Cidr>().ok());
        let mut ranges: Vec<Cidr> = ranges.filter(|r| r.network().is_ipv6() == self.ipv6).collect();
        if ranges.is_empty() {
            return None;
        }
        if self.node.addresses.iter().any(|a| ranges.iter().any(|r| r.contains(*a))) {
            ranges.extend(balancers.iter().map(|a| Cidr::host(*a)));
        }
        Some(Cidr::outermost(ranges).into())
    }

    fn frontends(
        &self,
        port: &ServicePort,
        balancers: &[IpAddr],
        sources: Option<&Arc<[Cidr]>>,
        out: &mut Vec<Frontend>,
    ) {
        let (service, node) = (self.service, self.node);
        let mut selection = select(self.entry, port, self.ipv6, node);
        if let Some(shares) = self.shares {
            selection = shares.weigh(selection, &port.name, self.ipv6);
        }
        let frontend = |address, number, class, masquerade, target: Target, outside: Option<Target>| {
            let lingering = lingering(&selection.serving, &target, outside.as_ref());
            Frontend {
                key: FrontendKey { address, protocol: port.protocol, port: number },
                service: service.key.clone(),
                port_name: port.name.clone(),
                class,
                affinity: service.affinity_seconds,
                masquerade,
                target,
                sources: None,
                lingering,
                outside,
            }
        };
        let inside = match (node.masquerade_all, node.detects_pods(self.ipv6)) {
            (true, _) => Masquerade::Always,
            (false, true) => Masquerade::OffCluster,
            (false, false) => Masquerade::Never,
        };
        let target = target_for(service.internal_policy, &selection);
        out.push(frontend(self.cluster_ip, port.port, Class::ClusterIp, inside, target, None));
        // Under Local, Pods and the node still get all endpoints: kube-proxy's short circuit.
        let (masquerade, outside) = match external_policy(service) {
            TrafficPolicy::Cluster => (Masquerade::Always, None),
            TrafficPolicy::Local => (Masquerade::Never, Some(selection.local.clone())),
        };
        let external = |address, number| {
            let target = selection.cluster.clone();
            frontend(address, number, Class::External, masquerade, target, outside.clone())
        };
        // The ranges hold for a balancer's address even where it is an external one as well.
        for address in balancers {
            out.push(Frontend { sources: sources.cloned(), ..external(*address, port.port) });
        }
        for address in self.own(service.external_ips.iter()) {
            out.push(external(address, port.port));
        }
        if port.node_port != 0 {
            let addresses = self.own(node.node_port_addresses.iter());
            out.extend(
                addresses.into_iter().filter(|a| !a.is_loopback()).map(|a| external(a, port.node_port)),
            );
        }
    }
}

/// Serving endpoints that none of the targets has.
fn lingering(serving: &[Backend], target: &Target, outside: Option<&Target>) -> Arc<[Backend]> {
    // Both stand in order, and mostly they are the same.
    if target.backends() == serving {
        return Arc::default();
    }
    let served: BTreeSet<&Backend> =
        target.backends().iter().chain(outside.into_iter().flat_map(|t| t.backends())).collect();
    serving.iter().copied().filter(|b| !served.contains(b)).collect()
}

/// The policy for traffic from outside, which counts only where the type or an external address lets any in
/// (pkg/api/v1/service/util.go, ExternalPolicyLocal).
fn external_policy(service: &Service) -> TrafficPolicy {
    let open = match service.kind {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    if open { service.external_policy } else { TrafficPolicy::Cluster }
}
