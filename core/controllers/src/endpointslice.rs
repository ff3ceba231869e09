//! EndpointSlices of Services with a selector (upstream `staging/src/k8s.io/endpointslice/reconciler.go`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doc::Key;
use crate::index::Index;
use crate::names::Names;
use crate::plan::{Plan, Write, delete, row, update};
use crate::slice_layout::{Layout, lay_out};
use crate::{meta, pods, ports};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub(crate) fn plan(index: &Index, key: &Key, names: &mut Names) -> Plan {
    let mut plan = Plan::default();
    // A Service that is gone leaves its slices to the garbage collector.
    let Some(service) = index.service(key) else { return plan };
    let Some(spec) = &service.spec else { return plan };
    let Some(selector) = &spec.selector else { return plan };
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let existing: Vec<EndpointSlice> = index
        .slices_of(key)
        .filter(|s| label(s, MANAGED_BY) == Some(MANAGER) && s.metadata.deletion_timestamp.is_none())
        .map(|s| EndpointSlice::clone(s))
        .collect();
    let mut selected = index.pods_with(&key.namespace, selector);
    selected.retain(|pod| pods::in_endpoints(pod, true));
    let families = address_types(service);
    for slice in existing.iter().filter(|s| !families.contains(&s.address_type.as_str())) {
        plan.push(delete(row("discovery.k8s.io/v1", "EndpointSlice"), &slice.metadata));
    }
    for family in families {
        let held = existing.iter().filter(|s| s.address_type == family).cloned().collect();
        plan_family(index, service, family, &selected, held, names, &mut plan);
    }
    plan
}

fn label<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// IPv4, IPv6 or both. A headless Service made before dual-stack says nothing: IPv4 then.
fn address_types(service: &Service) -> Vec<&'static str> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let of = |f: &String| if f == "IPv6" { "IPv6" } else { "IPv4" };
    match families {
        Some(list) if !list.is_empty() => list.iter().map(of).collect(),
        _ => {
            let v6 = service
                .spec
                .as_ref()
                .and_then(|s| s.cluster_ip.as_deref())
                .is_some_and(|ip| ip.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6()));
            vec![if v6 { "IPv6" } else { "IPv4" }]
        }
    }
}

fn plan_family(
    index: &Index,
    service: &Service,
    family: &'static str,
    selected: &[&std::sync::Arc<Pod>],
    held: Vec<EndpointSlice>,
    names: &mut Names,
    plan: &mut Plan,
) {
    let mut desired: Vec<(Vec<EndpointPort>, BTreeMap<String, Endpoint>)> = Vec::new();
    let publish = publishes_not_ready(service);
    for pod in selected {
        let node = pods::node(pod);
        // An endpoint on a Node that isn't there (or isn't chosen yet) could hang about for ever.
        if index.node(node).is_none() && !publish {
            continue;
        }
        let Some(endpoint) = endpoint(index, service, pod, family) else { continue };
        let ports = endpoint_ports(service, pod);
        let name = meta::name(&pod.metadata).to_owned();
        match desired.iter_mut().find(|(p, _)| *p == ports) {
            Some((_, set)) => {
                set.insert(name, endpoint);
            }
            None => desired.push((ports, [(name, endpoint)].into())),
        }
    }
    let before = held.clone();
    let labels = slice_labels(service);
    let mut layout = lay_out(held, desired, |slice| slice.metadata.labels.as_ref() == Some(&labels));
    for pod in selected {
        if let Some(at) = pods::ready_since(pod) {
            layout.times.insert(meta::name(&pod.metadata).to_owned(), at);
        }
    }
    if before.len() == layout.delete.len() && layout.create.is_empty() && layout.update.is_empty() {
        // A Service without endpoints keeps one empty slice, so that consumers know that there are none.
        let is_placeholder = |s: &EndpointSlice| {
            s.endpoints.as_ref().is_none_or(Vec::is_empty)
                && s.ports.as_ref().is_none_or(Vec::is_empty)
                && s.metadata.labels.as_ref() == Some(&labels)
        };
        if layout.delete.len() == 1 && is_placeholder(&layout.delete[0]) {
            layout.delete.clear();
        } else {
            layout.create.push(EndpointSlice::default());
        }
    }
    reuse(service, &mut layout);
    hints(service, &mut layout, &before);
    write(service, family, labels, layout, &before, names, plan);
}

/// A slice that would go is given the content of one that would come: one write for two, and its name stays.
fn reuse(service: &Service, layout: &mut Layout) {
    let mut at = 0;
    while at < layout.delete.len() && !layout.create.is_empty() {
        if meta::is_controlled_by(&layout.delete[at].metadata, meta::uid(&service.metadata)) {
            let old = layout.delete.remove(at);
            if let Some(new) = layout.create.pop() {
                layout.update.push(EndpointSlice { metadata: old.metadata, ..new });
            }
        } else {
            at += 1;
        }
    }
}

fn write(
    service: &Service,
    family: &'static str,
    labels: BTreeMap<String, String>,
    layout: Layout,
    before: &[EndpointSlice],
    names: &mut Names,
    plan: &mut Plan,
) {
    let kind = row("discovery.k8s.io/v1", "EndpointSlice");
    let first = before.is_empty();
    let name = meta::name(&service.metadata);
    for mut slice in layout.create {
        let trigger =
            if first { meta::created(&service.metadata) } else { trigger_time(&slice, None, &layout.times) };
        let base = format!("{name}-");
        slice.metadata = ObjectMeta {
            name: Some(names.suffixed(&base)),
            generate_name: Some(base),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![meta::controller_reference::<Service>(&service.metadata)]),
            annotations: trigger.map(|t| [(TRIGGER_TIME.to_owned(), written(t))].into()),
            ..ObjectMeta::default()
        };
        slice.address_type = family.to_owned();
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let body = serde_json::to_value(&slice).unwrap_or_default();
        plan.push(Write::Create { kind, namespace, body });
    }
    for mut slice in layout.update {
        let old = before.iter().find(|s| s.metadata.name == slice.metadata.name);
        let trigger = trigger_time(&slice, old, &layout.times);
        let mut annotations = slice.metadata.annotations.take().unwrap_or_default();
        match trigger {
            Some(t) => annotations.insert(TRIGGER_TIME.to_owned(), written(t)),
            None => annotations.remove(TRIGGER_TIME),
        };
        slice.metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
        slice.metadata.labels = Some(labels.clone());
        slice.address_type = family.to_owned();
        let meta = slice.metadata.clone();
        plan.push(update(kind, &meta, None, &slice));
    }
    for slice in layout.delete {
        plan.push(delete(kind, &slice.metadata));
    }
}

/// RFC 3339 with the fraction where there is one, as Go's `time.RFC3339Nano`.
pub(crate) fn written(at: Timestamp) -> String {
    at.to_string()
}

/// When what a slice newly says came about: the earliest change of its new endpoints. Upstream keeps the last times it
/// saw per Service in memory; comparing with the slice as it was says the same and survives a restart.
fn trigger_time(
    slice: &EndpointSlice,
    old: Option<&EndpointSlice>,
    times: &BTreeMap<String, Timestamp>,
) -> Option<Timestamp> {
    let was: Vec<&Endpoint> = old.and_then(|s| s.endpoints.as_ref()).into_iter().flatten().collect();
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(|e| !was.contains(e))
        .filter_map(|e| times.get(e.target_ref.as_ref()?.name.as_deref()?).copied())
        .min()
}

/// `spec.publishNotReadyAddresses`.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// Has no virtual address.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).is_none_or(|ip| ip.is_empty() || ip == "None")
}

/// The Service's own labels and those that say whose slice it is.
fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.insert(SERVICE_NAME.to_owned(), meta::name(&service.metadata).to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).into_iter().flatten();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(ports::target(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// What a headless Service's DNS calls the Pod: its `hostname`, where its `subdomain` is the Service.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.as_ref().filter(|h| !h.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| host.clone())
}

/// `targetRef` of a Pod.
pub(crate) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn endpoint(index: &Index, service: &Service, pod: &Pod, family: &str) -> Option<Endpoint> {
    let of_family = |ip: &&&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
    let address = pods::addresses(pod).iter().find(of_family).map(|ip| (*ip).to_owned())?;
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let node = Some(pods::node(pod)).filter(|n| !n.is_empty());
    let zone = node
        .and_then(|n| index.node(n))
        .and_then(|n| n.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned())
        .filter(|z| !z.is_empty());
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_owned),
        zone,
        target_ref: Some(target_ref(pod)),
        ..Endpoint::default()
    })
}

/// `trafficDistribution` as hints (`trafficdist.go`): endpoints that may take new connections are for their own zone
/// and, with PreferSameNode, for their own node, as far as these are known.
fn hints(service: &Service, layout: &mut Layout, before: &[EndpointSlice]) {
    let wanted = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()).unwrap_or("");
    let by_zone = matches!(wanted, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    let by_node = wanted == "PreferSameNode";
    let is_ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready) != Some(false);
    let hint = |e: &Endpoint| {
        let zone = e.zone.clone().filter(|_| by_zone && is_ready(e)).map(|name| vec![ForZone { name }]);
        let node = e.node_name.clone().filter(|_| by_node && is_ready(e)).map(|name| vec![ForNode { name }]);
        (zone.is_some() || node.is_some()).then_some(EndpointHints { for_zones: zone, for_nodes: node })
    };
    let apply = |slice: &mut EndpointSlice| {
        let mut changed = false;
        for endpoint in slice.endpoints.iter_mut().flatten() {
            let hints = hint(endpoint);
            changed |= endpoint.hints != hints;
            endpoint.hints = hints;
        }
        changed
    };
    let mut unchanged = std::mem::take(&mut layout.unchanged);
    let mut create = std::mem::take(&mut layout.create);
    let mut update = std::mem::take(&mut layout.update);
    create.iter_mut().chain(&mut update).for_each(|s| {
        apply(s);
    });
    let mut kept = Vec::new();
    for mut slice in unchanged.drain(..) {
        if apply(&mut slice) { update.push(slice) } else { kept.push(slice) }
    }
    // What comes out as it was isn't written.
    update.retain(|s| !before.contains(s) || s.metadata.labels != Some(slice_labels(service)));
    (layout.create, layout.update, layout.unchanged) = (create, update, kept);
}
