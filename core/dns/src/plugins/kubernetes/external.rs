//! What `k8s_external` asks this plugin for (`plugin/kubernetes/external.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use sealane_catalog::{NamespacedName, Service};

use super::records::endpoint_name;
use super::transfer::port_name;
use super::{Kubernetes, view};
use crate::chain::World;
use crate::name::Name;

/// An address or name under which a Service is reached from outside, and the port there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    /// An address, or a load balancer's name.
    pub(crate) host: Arc<str>,
    /// `None`: no SRV record can say it.
    pub(crate) port: Option<u16>,
    /// The labels that SRV's target puts before the zone.
    pub(crate) owner: Vec<String>,
}

/// `externalIPs`, then the load balancers' addresses and names (`object/service.go`).
pub(crate) fn hosts(service: &Service) -> Vec<Arc<str>> {
    let ips = service.external_ips.iter().map(|ip| ip.to_string().into());
    let ingress = service.ingress.iter().map(|ingress| match ingress.ip {
        Some(ip) => ip.to_string().into(),
        None => ingress.hostname.clone(),
    });
    ips.chain(ingress).filter(|host: &Arc<str>| !host.is_empty()).collect()
}

impl Kubernetes {
    /// What a name below a zone stands for outside; no rows: it exists, and has none. `None`: it does not exist.
    pub(crate) fn external(&self, world: &World, labels: &[&[u8]], headless: bool) -> Option<Vec<Exposed>> {
        let bare = |label: &[u8]| {
            let text = String::from_utf8_lossy(label).to_ascii_lowercase();
            text.strip_prefix('_').map(ToOwned::to_owned).unwrap_or(text)
        };
        let text = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        let (namespace, rest) = labels.split_last()?;
        let namespace = text(namespace);
        if !self.exposed(view(world), &namespace) {
            return None;
        }
        let Some((service, rest)) = rest.split_last() else { return Some(Vec::new()) };
        let key = NamespacedName::new(&namespace, &text(service));
        let (port, protocol, endpoint) = match rest {
            [] => Default::default(),
            [endpoint] => (String::new(), String::new(), bare(endpoint)),
            [port, protocol] => (bare(port), bare(protocol), String::new()),
            _ => return None,
        };
        let asked = |name: &str, of: &str| {
            (port.is_empty() || port.eq_ignore_ascii_case(name))
                && (protocol.is_empty() || protocol.eq_ignore_ascii_case(of))
        };
        let entry = world.snapshot.service(&key)?;
        let service = self.served(entry)?;
        let owner = vec![key.name.to_string(), namespace];
        let (mut rows, hosts) = (Vec::new(), hosts(service));
        if headless && hosts.is_empty() && (service.headless || !endpoint.is_empty()) {
            for slice in self.slices(entry) {
                let mut ports: Vec<_> = slice
                    .ports
                    .iter()
                    .filter(|p| asked(&p.name, p.protocol.as_str()))
                    .map(|p| p.port)
                    .collect();
                if slice.ports.is_empty() && asked("", "") {
                    ports.push(None);
                }
                for e in slice.endpoints.iter().filter(|e| e.ready) {
                    let name = endpoint_name(e, self.endpoint_pod_names);
                    if endpoint.is_empty() || endpoint.eq_ignore_ascii_case(&name) {
                        let owner: Vec<String> = std::iter::once(name).chain(owner.iter().cloned()).collect();
                        let host: Arc<str> = e.address.to_string().into();
                        rows.extend(ports.iter().map(|port| Exposed {
                            host: host.clone(),
                            port: *port,
                            owner: owner.clone(),
                        }));
                    }
                }
            }
        } else {
            let mut ports: Vec<_> = service
                .ports
                .iter()
                .filter(|p| asked(&p.name, p.protocol.as_str()))
                .map(|p| Some(p.port))
                .collect();
            if service.ports.is_empty() && asked("", "") {
                ports.push(None);
            }
            for host in hosts {
                let row =
                    |port: &Option<u16>| Exposed { host: host.clone(), port: *port, owner: owner.clone() };
                rows.extend(ports.iter().map(row));
            }
        }
        (!rows.is_empty()).then_some(rows)
    }

    /// The names below a zone that [`Kubernetes::external`] has something for.
    pub(crate) fn external_names(&self, world: &World, zone: &Name, headless: bool) -> Vec<Name> {
        let mut names = Vec::new();
        for (key, entry) in world.snapshot.services() {
            let Some(service) = self.served(entry) else { continue };
            if !self.exposed(view(world), &key.namespace) {
                continue;
            }
            let base = zone.under(&[&key.name, &key.namespace]);
            let by_endpoint = headless && service.headless && hosts(service).is_empty();
            let ports: BTreeSet<(&str, &str)> = if by_endpoint {
                let endpoints = self.slices(entry).iter().flat_map(|slice| &slice.endpoints);
                let hosts: BTreeSet<String> = endpoints
                    .filter(|endpoint| endpoint.ready)
                    .map(|endpoint| endpoint_name(endpoint, self.endpoint_pod_names))
                    .collect();
                names.extend(hosts.iter().map(|host| base.under(&[host])));
                let ports = self.slices(entry).iter().flat_map(|slice| &slice.ports);
                ports.map(|port| (&*port.name, port.protocol.as_str())).collect()
            } else {
                service.ports.iter().map(|port| (&*port.name, port.protocol.as_str())).collect()
            };
            let named = ports.into_iter().filter(|(name, _)| !name.is_empty());
            names.extend(named.map(|(name, protocol)| port_name(&base, name, protocol)));
            names.push(base);
        }
        names
    }

    /// Addresses under which this server is reached from outside; its own where no Service leads to it.
    pub(crate) fn external_addresses(&self, world: &World, headless: bool) -> Vec<IpAddr> {
        let (mut out, mut behind_service) = (Vec::new(), false);
        for key in world.local.iter().flat_map(|ip| world.snapshot.by_endpoint(*ip)) {
            behind_service = true;
            let Some(entry) = world.snapshot.service(key) else { continue };
            let Some(service) = &entry.service else { continue };
            if headless && service.headless {
                let endpoints = entry.slices.iter().flat_map(|slice| &slice.endpoints);
                out.extend(endpoints.filter(|e| e.ready).map(|e| e.address));
            } else {
                out.extend(hosts(service).iter().filter_map(|host| host.parse::<IpAddr>().ok()));
            }
        }
        if !behind_service {
            out.extend(&world.local);
        }
        out
    }

    /// Whether a Service's names may be given away.
    pub(crate) fn shows(&self, world: &World, key: &NamespacedName) -> bool {
        let exposed = !self.filtered() || self.exposed(view(world), &key.namespace);
        exposed && world.snapshot.service(key).is_some_and(|entry| self.served(entry).is_some())
    }
}
