//! The zones as a whole, for `transfer` (`plugin/kubernetes/xfr.go`).

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use sealane_catalog::imports::source_cluster;
use sealane_catalog::{Endpoint, Service, ServiceType, Slice};

use super::Kubernetes;
use super::records::{View, endpoint_name};
use crate::message::{Data, Record};
use crate::name::Name;

impl Kubernetes {
    /// All records of one of its zones, its SOA first; `None`: it is none of them. Pods' names are not among them, nor
    /// those that are made up when they are asked for.
    pub(super) fn records(&self, view: View<'_>, zone: &Name) -> Option<Vec<Record>> {
        let zone = self.zones.iter().find(|own| *own == zone)?;
        let mut records = vec![self.soa(view, zone)];
        let (servers, addresses) = self.name_servers(view, zone, zone);
        records.extend(servers.into_iter().chain(addresses));
        if zone.labels().last() == Some(b"arpa") {
            self.reverse_records(view, zone, &mut records);
            return Some(records);
        }
        let imported = self.is_multicluster(zone);
        for (key, entry) in view.snapshot.services().filter(|(key, _)| self.exposed(view, &key.namespace)) {
            let Some(service) = self.served(entry) else { continue };
            let base = zone.under(&[&key.name, &key.namespace, "svc"]);
            match service.kind {
                ServiceType::ExternalName => records.extend(self.alias(service, &base)),
                _ if service.headless => {
                    for slice in self.slices(entry) {
                        let cluster = if imported { source_cluster(slice) } else { "" };
                        self.slice_records(slice, (&base, cluster), &mut records);
                    }
                }
                // It has no records when it is asked for either.
                _ if imported && service.ports.is_empty() => {}
                _ => self.virtual_records(service, &base, &mut records),
            }
        }
        // An endpoint may be in two slices, two ports have one number, and name servers are Services.
        let mut seen = HashSet::new();
        records.retain(|record| seen.insert((record.name.clone(), record.data.rtype(), record.data.wire())));
        Some(records)
    }

    fn alias(&self, service: &Service, base: &Name) -> Option<Record> {
        let is_address = service.external_name.parse::<IpAddr>().is_ok() || service.external_name.is_empty();
        let target = service.external_name.parse().ok().filter(|_| !is_address)?;
        Some(self.record(base, Data::Cname(target)))
    }

    fn virtual_records(&self, service: &Service, base: &Name, records: &mut Vec<Record>) {
        records.extend(service.cluster_ips.iter().map(|ip| self.record(base, Data::address(*ip))));
        if service.cluster_ips.is_empty() {
            return;
        }
        for port in &service.ports {
            let data = Data::Srv(0, 100, port.port, base.clone());
            records.push(self.record(base, data.clone()));
            if !port.name.is_empty() {
                let name = port_name(base, &port.name, port.protocol.as_str());
                records.push(self.record(&name, data));
            }
        }
    }

    fn slice_records(&self, slice: &Slice, (base, cluster): (&Name, &str), records: &mut Vec<Record>) {
        let ready: Vec<&Endpoint> = slice.endpoints.iter().filter(|endpoint| endpoint.ready).collect();
        let weight = u16::try_from(100 / ready.len().max(1)).unwrap_or(1).max(1);
        for endpoint in ready {
            // CoreDNS leaves the cluster out, so that nobody can ask for the name.
            let place = if cluster.is_empty() { base.clone() } else { base.under(&[cluster]) };
            let host = place.under(&[&endpoint_name(endpoint, self.endpoint_pod_names)]);
            let address = Data::address(endpoint.address);
            records.extend([self.record(base, address.clone()), self.record(&host, address)]);
            let named = slice.ports.iter().filter(|port| !port.name.is_empty());
            for (port, number) in named.filter_map(|port| Some((port, port.port?))) {
                let name = port_name(base, &port.name, port.protocol.as_str());
                records.push(self.record(&name, Data::Srv(0, weight, number, host.clone())));
            }
        }
    }

    /// The names of the addresses of a reverse zone. CoreDNS hands out Services' names below it, which nobody asks for.
    fn reverse_records(&self, view: View<'_>, zone: &Name, records: &mut Vec<Record>) {
        let mut addresses = BTreeSet::new();
        for (_, entry) in view.cluster.services() {
            let service = entry.service.iter().flat_map(|service| &service.cluster_ips).copied();
            let endpoints = entry.slices.iter().flat_map(|slice| &slice.endpoints).map(|e| e.address);
            addresses.extend(service.chain(endpoints));
        }
        for name in addresses.into_iter().map(Name::of_address).filter(|name| name.is_within(zone)) {
            records.extend(self.pointers(view, zone, &name).unwrap_or_default());
        }
    }
}

/// `_http._tcp` below a Service's name.
pub(crate) fn port_name(base: &Name, port: &str, protocol: &str) -> Name {
    let [port, protocol] = [port, protocol].map(|label| format!("_{}", label.to_ascii_lowercase()));
    base.under(&[&port, &protocol])
}
