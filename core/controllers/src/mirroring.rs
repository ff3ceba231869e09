//! EndpointSlices of Endpoints that somebody wrote for a Service without a selector
//! (upstream `pkg/controller/endpointslicemirroring`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doc::Key;
use crate::endpoints::Subsets;
use crate::endpointslice::TRIGGER_TIME;
use crate::index::Index;
use crate::meta;
use crate::names::Names;
use crate::plan::{Note, Plan, Write, delete, row, update};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Old clients elect their leaders by Endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses mirrored of a subset at most (`--mirroring-max-endpoints-per-subset`): a slice holds as many.
const CAPACITY: usize = 1000;

pub(crate) fn plan(index: &Index, key: &Key, names: &mut Names) -> Plan {
    let mut plan = Plan::default();
    let mut held: Vec<&Arc<EndpointSlice>> = index
        .slices_of(key)
        .filter(|s| s.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER))
        .filter(|s| s.metadata.deletion_timestamp.is_none())
        .collect();
    let kind = row("discovery.k8s.io/v1", "EndpointSlice");
    if let Some(endpoints) = mirrored(index, key) {
        let mut left_out = LeftOut::default();
        let mut fresh = Vec::new();
        for slice in slices(endpoints, &mut left_out) {
            let same =
                |s: &&Arc<EndpointSlice>| s.address_type == slice.address_type && s.ports == slice.ports;
            match held.iter().position(same) {
                Some(at) => rewrite(held.remove(at), slice, &mut plan),
                None => fresh.push(slice),
            }
        }
        for mut slice in fresh {
            // A slice that would go becomes one that would come; its family stays what it is.
            if let Some(at) = held.iter().position(|s| s.address_type == slice.address_type) {
                rewrite(held.remove(at), slice, &mut plan);
                continue;
            }
            let base = format!("{}-", key.name);
            slice.metadata.name = Some(names.suffixed(&base));
            slice.metadata.generate_name = Some(base);
            let body = serde_json::to_value(&slice).unwrap_or_default();
            plan.push(Write::Create { kind, namespace: key.namespace.to_string(), body });
        }
        if !plan.actions.is_empty() {
            left_out.say(endpoints, &mut plan);
        }
    }
    for slice in held {
        plan.push(delete(kind, &slice.metadata));
    }
    plan
}

/// Endpoints of a Service that has no selector, unless they are marked otherwise.
fn mirrored<'a>(index: &'a Index, key: &Key) -> Option<&'a Endpoints> {
    let endpoints = index.endpoints(key)?;
    let service = index.service(key)?;
    let skip = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let selected = service.spec.as_ref().is_some_and(|s| s.selector.is_some());
    let elects = meta::annotation(&endpoints.metadata, LEADER).is_some();
    let stays =
        endpoints.metadata.deletion_timestamp.is_none() && service.metadata.deletion_timestamp.is_none();
    (!skip && !selected && !elects && stays).then_some(&**endpoints)
}

/// Gives a slice other content, where it is another.
fn rewrite(old: &EndpointSlice, new: EndpointSlice, plan: &mut Plan) {
    let metadata = ObjectMeta {
        labels: new.metadata.labels,
        annotations: new.metadata.annotations,
        owner_references: new.metadata.owner_references,
        ..old.metadata.clone()
    };
    let new = EndpointSlice { metadata, ..new };
    if new != *old {
        plan.push(update(row("discovery.k8s.io/v1", "EndpointSlice"), &old.metadata, None, &new));
    }
}

/// What is not mirrored.
#[derive(Default)]
struct LeftOut {
    invalid: usize,
    beyond: usize,
}

impl LeftOut {
    fn say(&self, endpoints: &Endpoints, plan: &mut Plan) {
        let mut warn = |reason, message| {
            plan.notes.push(Note::warning(
                meta::reference::<Endpoints>(&endpoints.metadata),
                reason,
                message,
            ));
        };
        if self.invalid > 0 {
            let message =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", self.invalid);
            warn("InvalidIPAddress", message);
        }
        if self.beyond > 0 {
            let message = format!(
                "A max of {CAPACITY} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                self.beyond
            );
            warn("TooManyAddressesToMirror", message);
        }
    }
}

/// The slices that say the same, without names: one for each family of each subset.
fn slices(endpoints: &Endpoints, left_out: &mut LeftOut) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in Subsets::written(endpoints.subsets.as_deref().unwrap_or(&[])).repack() {
        let ports = ports(&subset);
        let mut families: BTreeMap<bool, Vec<Endpoint>> = BTreeMap::new();
        let mut mirrored = 0;
        for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
            for address in list.iter().flatten() {
                match address.ip.parse::<IpAddr>() {
                    Err(_) => left_out.invalid += 1,
                    Ok(_) if mirrored == CAPACITY => left_out.beyond += 1,
                    Ok(ip) => {
                        mirrored += 1;
                        families.entry(ip.is_ipv6()).or_default().push(endpoint(address, ip, ready));
                    }
                }
            }
        }
        for (ipv6, list) in families {
            slices.push(EndpointSlice {
                metadata: metadata(endpoints),
                address_type: if ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
                endpoints: Some(list),
                ports: ports.clone(),
            });
        }
    }
    slices
}

fn ports(subset: &EndpointSubset) -> Option<Vec<EndpointPort>> {
    let ports: Vec<EndpointPort> = subset
        .ports
        .iter()
        .flatten()
        .map(|p| EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(p.port),
            protocol: p.protocol.clone(),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    Some(ports).filter(|p| !p.is_empty())
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Labels and annotations of the Endpoints, and whose slice it is.
fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), meta::name(&endpoints.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != TRIGGER_TIME && key != LAST_APPLIED);
    ObjectMeta {
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations).filter(|a| !a.is_empty()),
        owner_references: Some(vec![meta::controller_reference::<Endpoints>(&endpoints.metadata)]),
        ..ObjectMeta::default()
    }
}
