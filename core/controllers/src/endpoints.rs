//! Endpoints of Services with a selector (upstream `pkg/controller/endpoint`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doc::Key;
use crate::endpointslice::{
    HEADLESS, TRIGGER_TIME, hostname, is_headless, publishes_not_ready, target_ref, written,
};
use crate::index::Index;
use crate::plan::{Plan, Write, delete, row, update};
use crate::{meta, pods, ports};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object at most.
const CAPACITY: usize = 1000;

pub(crate) fn plan(index: &Index, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let held = index.endpoints(key);
    let Some(service) = index.service(key) else {
        // Endpoints have no owner: those that this controller made go with their Service, by name.
        if let Some(held) = held.filter(|e| is_ours(e) && e.metadata.deletion_timestamp.is_none()) {
            plan.push(delete(row("v1", "Endpoints"), &held.metadata));
        }
        return plan;
    };
    let Some(spec) = &service.spec else { return plan };
    let Some(selector) = &spec.selector else { return plan };
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let publish = publishes_not_ready(service);
    let mut subsets = Subsets::default();
    for pod in index.pods_with(&key.namespace, selector) {
        if pods::in_endpoints(pod, publish)
            && let Some(address) = address(service, pod)
        {
            let ready = publish || pods::is_ready(pod);
            subsets.add(service, pod, &address, ready);
        }
    }
    let (subsets, over) = truncate(subsets.repack());
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    let over = over.then(|| "truncated".to_owned());
    let namespace = key.namespace.to_string();
    let kind = row("v1", "Endpoints");
    match held {
        None => {
            let mut annotations = BTreeMap::new();
            if let Some(at) = meta::created(&service.metadata) {
                annotations.insert(TRIGGER_TIME.to_owned(), written(at));
            }
            annotations.extend(over.map(|o| (OVER_CAPACITY.to_owned(), o)));
            let metadata = ObjectMeta {
                name: Some(key.name.to_string()),
                namespace: Some(namespace.clone()),
                labels: Some(labels),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            };
            let object = Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) };
            let body = serde_json::to_value(&object).unwrap_or_default();
            plan.push(Write::Create { kind, namespace, body });
        }
        Some(held) => {
            let old = held.subsets.clone().unwrap_or_default();
            let annotation = |k: &str| held.metadata.annotations.as_ref().and_then(|a| a.get(k)).cloned();
            if old == subsets
                && held.metadata.labels.as_ref() == Some(&labels)
                && annotation(OVER_CAPACITY) == over
            {
                return plan;
            }
            let mut new = Endpoints::clone(held);
            let mut annotations = new.metadata.annotations.take().unwrap_or_default();
            annotations.remove(TRIGGER_TIME);
            annotations.remove(OVER_CAPACITY);
            let at = trigger_time(index, key, &old, &subsets);
            annotations.extend(at.map(|t| (TRIGGER_TIME.to_owned(), written(t))));
            annotations.extend(over.map(|o| (OVER_CAPACITY.to_owned(), o)));
            new.metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
            new.metadata.labels = Some(labels);
            new.subsets = Some(subsets).filter(|s| !s.is_empty());
            plan.push(update(kind, &held.metadata, None, &new));
        }
    }
    plan
}

fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().is_some_and(|l| l.contains_key(MANAGED_BY))
}

/// The earliest change of readiness among the addresses that moved.
fn trigger_time(
    index: &Index,
    key: &Key,
    old: &[EndpointSubset],
    new: &[EndpointSubset],
) -> Option<jiff::Timestamp> {
    let ready = |subsets: &[EndpointSubset]| -> BTreeMap<String, bool> {
        let mut out = BTreeMap::new();
        for subset in subsets {
            for (list, ready) in [(&subset.not_ready_addresses, false), (&subset.addresses, true)] {
                for address in list.iter().flatten() {
                    let name = address.target_ref.as_ref().and_then(|t| t.name.clone()).unwrap_or_default();
                    out.insert(name, ready);
                }
            }
        }
        out
    };
    let (old, new) = (ready(old), ready(new));
    new.iter()
        .filter(|(name, ready)| old.get(*name) != Some(ready))
        .filter_map(|(name, _)| pods::ready_since(index.pod(&Key::new(&key.namespace, name))?))
        .min()
}

fn address(service: &Service, pod: &k8s_openapi::api::core::v1::Pod) -> Option<EndpointAddress> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let v6 = families.and_then(|f| f.first()).is_some_and(|f| f == "IPv6");
    let of_family = |ip: &&&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6);
    Some(EndpointAddress {
        ip: pods::addresses(pod).iter().find(of_family).map(|ip| (*ip).to_owned())?,
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(target_ref(pod)),
    })
}

/// Address by IP (by value, not by text) and Pod.
type AddressKey = (Option<IpAddr>, String);
/// Port by name, number and protocol.
type PortKey = (String, i32, String, Option<String>);

fn port_key(port: &EndpointPort) -> PortKey {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    (port.name.clone().unwrap_or_default(), port.port, protocol, port.app_protocol.clone())
}

/// Which addresses have a port, and whether they are ready; subsets are ports with the very same addresses
/// (`pkg/api/v1/endpoints.RepackSubsets`).
#[derive(Default)]
pub(crate) struct Subsets {
    addresses: BTreeMap<AddressKey, EndpointAddress>,
    by_port: BTreeMap<Option<PortKey>, BTreeMap<AddressKey, bool>>,
}

impl Subsets {
    fn add(
        &mut self,
        service: &Service,
        pod: &k8s_openapi::api::core::v1::Pod,
        address: &EndpointAddress,
        ready: bool,
    ) {
        let uid = address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
        let key = (address.ip.parse().ok(), uid);
        self.addresses.insert(key.clone(), address.clone());
        let list = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or(&[]);
        if list.is_empty() && is_headless(service) {
            self.by_port.entry(None).or_default().insert(key, ready);
            return;
        }
        for port in list {
            if let Some(number) = ports::target(pod, port) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let name = port.name.clone().unwrap_or_default();
                let at = (name, number, protocol, port.app_protocol.clone());
                self.by_port.entry(Some(at)).or_default().insert(key.clone(), ready);
            }
        }
    }

    /// Subsets as somebody wrote them. Where an address is ready and is not, it is not.
    pub(crate) fn written(subsets: &[EndpointSubset]) -> Self {
        let mut all = Subsets::default();
        for subset in subsets {
            let ports: Vec<Option<PortKey>> = match subset.ports.as_deref().unwrap_or(&[]) {
                [] => vec![None],
                ports => ports.iter().map(|p| Some(port_key(p))).collect(),
            };
            for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
                for address in list.iter().flatten() {
                    let uid = address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
                    let key = (address.ip.parse().ok(), uid);
                    all.addresses.entry(key.clone()).or_insert_with(|| address.clone());
                    for port in &ports {
                        let known =
                            all.by_port.entry(port.clone()).or_default().entry(key.clone()).or_insert(ready);
                        *known &= ready;
                    }
                }
            }
        }
        all
    }

    /// The fewest subsets that say the same.
    pub(crate) fn repack(self) -> Vec<EndpointSubset> {
        let mut grouped: BTreeMap<BTreeMap<AddressKey, bool>, Vec<EndpointPort>> = BTreeMap::new();
        for (port, addresses) in self.by_port {
            let group = grouped.entry(addresses).or_default();
            group.extend(port.map(|(name, port, protocol, app_protocol)| EndpointPort {
                name: Some(name).filter(|n| !n.is_empty()),
                port,
                protocol: Some(protocol),
                app_protocol,
            }));
        }
        grouped
            .into_iter()
            .map(|(addresses, ports)| {
                let of = |wanted: bool| -> Option<Vec<EndpointAddress>> {
                    let list: Vec<_> = addresses
                        .iter()
                        .filter(|(_, ready)| **ready == wanted)
                        .filter_map(|(key, _)| self.addresses.get(key).cloned())
                        .collect();
                    Some(list).filter(|l| !l.is_empty())
                };
                EndpointSubset {
                    addresses: of(true),
                    not_ready_addresses: of(false),
                    ports: Some(ports).filter(|p| !p.is_empty()),
                }
            })
            .collect()
    }
}

/// Keeps the first thousand addresses, ready ones first.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| len(&s.addresses) + len(&s.not_ready_addresses)).sum();
    if total <= CAPACITY {
        return (subsets, false);
    }
    let mut room = CAPACITY;
    for ready in [true, false] {
        for subset in &mut subsets {
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            if let Some(addresses) = list {
                addresses.truncate(room);
                room -= addresses.len();
            }
            if len(list) == 0 {
                *list = None;
            }
        }
    }
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    (subsets, true)
}
