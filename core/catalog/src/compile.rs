//! Objects to the model's shapes, leniently: an object of another cluster may be older, newer or odd, and one bad
//! field must not take the rest of the cluster's names and addresses away.

use std::net::IpAddr;
use std::sync::Arc;

use sealane_api::{Document, Object};

use crate::intern::Interner;
use crate::model::{
    Endpoint, EndpointPort, Ingress, Labels, Namespace, NamespacedName, Node, Pod, Protocol, Service,
    ServicePort, ServiceType, Slice, TrafficPolicy,
};

/// When what a slice's controller reacted to happened (`v1.EndpointsLastChangeTriggerTime`).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The cluster autoscaler's mark on a Node that it is about to delete (KEP-3836).
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// kubectl's copy of the whole object; nobody discovers by it.
const COPY: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// kube-proxy's default ClientIP timeout (`v1.DefaultClientIPServiceAffinitySeconds`).
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

fn text<'a>(value: &'a Document, field: &str) -> &'a str {
    value.get(field).and_then(Document::as_str).unwrap_or("")
}

fn list<'a>(value: &'a Document, field: &str) -> &'a [Document] {
    value.get(field).and_then(Document::as_array).map_or(&[], |items| items)
}

fn port(value: &Document, field: &str) -> u16 {
    value.get(field).and_then(Document::as_u64).and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

fn strings<'a>(value: &'a Document, field: &str) -> impl Iterator<Item = &'a str> {
    list(value, field).iter().filter_map(Document::as_str)
}

fn map(value: Option<&Document>, texts: &mut Interner) -> Labels {
    let entries = value.and_then(Document::as_object).into_iter().flatten();
    entries
        .filter(|(key, _)| *key != COPY)
        .filter_map(|(key, value)| Some((texts.text(key), texts.text(value.as_str()?))))
        .collect()
}

/// Without room for more.
fn exact<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.shrink_to_fit();
    items
}

fn protocol(value: &Document) -> Option<Protocol> {
    Some(match text(value, "protocol") {
        "" | "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    })
}

fn key(object: &Object, texts: &mut Interner) -> Option<NamespacedName> {
    let (namespace, name) = (object.namespace(), object.name());
    (!namespace.is_empty() && !name.is_empty()).then(|| texts.name(namespace, name))
}

fn empty() -> &'static Document {
    &Document::Null
}

/// `None` where the object has no name.
pub(crate) fn service(object: &Object, texts: &mut Interner) -> Option<Service> {
    let spec = object.get(&["spec"]).unwrap_or(empty());
    let kind = match text(spec, "type") {
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        _ => ServiceType::ClusterIp,
    };
    let policy = |field| match text(spec, field) {
        "Local" => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    };
    let named = kind != ServiceType::ExternalName;
    let headless = named && text(spec, "clusterIP") == "None";
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    if named && !headless {
        for ip in [text(spec, "clusterIP")].into_iter().chain(strings(spec, "clusterIPs")) {
            if let Ok(ip) = ip.parse()
                && !cluster_ips.contains(&ip)
            {
                cluster_ips.push(ip);
            }
        }
    }
    let affinity = (text(spec, "sessionAffinity") == "ClientIP").then(|| {
        spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
            .and_then(Document::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .unwrap_or(DEFAULT_AFFINITY_SECONDS)
    });
    cluster_ips.shrink_to_fit();
    Some(Service {
        key: key(object, texts)?,
        revision: object.revision(),
        created: object
            .str(&["metadata", "creationTimestamp"])
            .parse::<jiff::Timestamp>()
            .map_or(0, jiff::Timestamp::as_second),
        kind,
        headless,
        cluster_ips,
        external_name: texts.text(if named { "" } else { text(spec, "externalName") }),
        ports: exact(list(spec, "ports").iter().filter_map(|port| service_port(port, texts))),
        affinity_seconds: affinity,
        internal_policy: policy("internalTrafficPolicy"),
        external_policy: policy("externalTrafficPolicy"),
        external_ips: exact(strings(spec, "externalIPs").filter_map(|ip| ip.parse().ok())),
        ingress: exact(
            object
                .get(&["status", "loadBalancer"])
                .map_or(&[][..], |lb| list(lb, "ingress"))
                .iter()
                .filter_map(|one| ingress(one, texts)),
        ),
        source_ranges: exact(strings(spec, "loadBalancerSourceRanges").map(|range| texts.text(range))),
        health_check_node_port: port(spec, "healthCheckNodePort"),
        publish_not_ready: spec.get("publishNotReadyAddresses").and_then(Document::as_bool).unwrap_or(false),
        traffic_distribution: texts.text(text(spec, "trafficDistribution")),
        grpc_policy: None,
        labels: map(object.get(&["metadata", "labels"]), texts),
        annotations: map(object.get(&["metadata", "annotations"]), texts),
    })
}

fn service_port(value: &Document, texts: &mut Interner) -> Option<ServicePort> {
    Some(ServicePort {
        name: texts.text(text(value, "name")),
        protocol: protocol(value)?,
        port: Some(port(value, "port")).filter(|port| *port != 0)?,
        node_port: port(value, "nodePort"),
        app_protocol: texts.text(text(value, "appProtocol")),
    })
}

fn ingress(value: &Document, texts: &mut Interner) -> Option<Ingress> {
    let ip = text(value, "ip").parse().ok();
    let hostname = text(value, "hostname");
    (ip.is_some() || !hostname.is_empty()).then(|| Ingress {
        ip,
        hostname: texts.text(if ip.is_some() { "" } else { hostname }),
        proxy_mode: text(value, "ipMode") == "Proxy",
    })
}

/// `None` where the object has no name, belongs to no Service, or holds host names (`addressType: FQDN`).
pub(crate) fn slice(object: &Object, texts: &mut Interner) -> Option<Slice> {
    let own = key(object, texts)?;
    let owner = object.label("kubernetes.io/service-name").filter(|name| !name.is_empty())?;
    let ipv6 = match object.str(&["addressType"]) {
        "IPv4" => false,
        "IPv6" => true,
        _ => return None,
    };
    Some(Slice {
        service: NamespacedName { namespace: own.namespace.clone(), name: texts.text(owner) },
        key: own,
        revision: object.revision(),
        ipv6,
        ports: list(object.value(), "ports").iter().filter_map(|port| endpoint_port(port, texts)).collect(),
        endpoints: list(object.value(), "endpoints")
            .iter()
            .filter_map(|e| endpoint(e, ipv6, texts))
            .collect(),
        triggered: object
            .str(&["metadata", "annotations", TRIGGER_TIME])
            .parse::<jiff::Timestamp>()
            .map_or(0, jiff::Timestamp::as_millisecond),
    })
}

fn endpoint_port(value: &Document, texts: &mut Interner) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: texts.text(text(value, "name")),
        protocol: protocol(value)?,
        // kube-proxy treats 0 as it does nil (endpointslicecache.go).
        port: Some(port(value, "port")).filter(|port| *port != 0),
        app_protocol: texts.text(text(value, "appProtocol")),
    })
}

fn endpoint(value: &Document, ipv6: bool, texts: &mut Interner) -> Option<Endpoint> {
    let address: IpAddr = strings(value, "addresses").next()?.parse().ok()?;
    if address.is_ipv6() != ipv6 {
        return None;
    }
    let conditions = value.get("conditions").unwrap_or(empty());
    let condition = |name: &str| conditions.get(name).and_then(Document::as_bool);
    let ready = condition("ready").unwrap_or(true);
    let hints = value.get("hints").unwrap_or(empty());
    let mut hint = |field: &str| -> Vec<Arc<str>> {
        let names = list(hints, field).iter().map(|hint| text(hint, "name"));
        names.filter(|name| !name.is_empty()).map(|name| texts.text(name)).collect()
    };
    let (hint_zones, hint_nodes) = (hint("forZones"), hint("forNodes"));
    let target = value.get("targetRef").unwrap_or(empty());
    let pod = if text(target, "kind") == "Pod" { text(target, "name") } else { "" };
    let place = texts.place(text(value, "nodeName"), text(value, "zone"));
    let endpoint = Endpoint::new(address).at(place).with_pod(pod);
    let mut endpoint = endpoint.with(text(value, "hostname"), hint_zones, hint_nodes);
    endpoint.ready = ready;
    endpoint.serving = condition("serving").unwrap_or(ready);
    endpoint.terminating = condition("terminating").unwrap_or(false);
    Some(endpoint)
}

pub(crate) fn namespace(object: &Object, texts: &mut Interner) -> Option<Namespace> {
    (!object.name().is_empty()).then(|| Namespace {
        name: texts.text(object.name()),
        labels: map(object.get(&["metadata", "labels"]), texts),
    })
}

pub(crate) fn node(object: &Object, texts: &mut Interner) -> Option<Node> {
    let status = object.get(&["status"]).unwrap_or(empty());
    let spec = object.get(&["spec"]).unwrap_or(empty());
    let mut pod_cidrs: Vec<Arc<str>> = exact(strings(spec, "podCIDRs").map(|range| texts.text(range)));
    if pod_cidrs.is_empty() && !text(spec, "podCIDR").is_empty() {
        pod_cidrs.push(texts.text(text(spec, "podCIDR")));
    }
    (!object.name().is_empty()).then(|| Node {
        name: texts.text(object.name()),
        zone: texts.text(object.label("topology.kubernetes.io/zone").unwrap_or("")),
        addresses: ["InternalIP", "ExternalIP"]
            .iter()
            .flat_map(|kind| list(status, "addresses").iter().filter(move |a| text(a, "type") == *kind))
            .filter_map(|a| text(a, "address").parse().ok())
            .collect(),
        pod_cidrs,
        leaving: object.is_terminating()
            || list(spec, "taints").iter().any(|t| text(t, "key") == LEAVING_TAINT),
        ready: list(status, "conditions")
            .iter()
            .any(|c| text(c, "type") == "Ready" && text(c, "status") == "True"),
        labels: map(object.get(&["metadata", "labels"]), texts),
    })
}

pub(crate) fn pod(object: &Object, texts: &mut Interner) -> Option<Pod> {
    let status = object.get(&["status"]).unwrap_or(empty());
    let ended = matches!(text(status, "phase"), "Succeeded" | "Failed");
    let mut addresses: Vec<IpAddr> = Vec::new();
    let all = [text(status, "podIP")].into_iter().chain(list(status, "podIPs").iter().map(|p| text(p, "ip")));
    for ip in all.filter(|_| !ended).filter_map(|ip| ip.parse().ok()) {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses.shrink_to_fit();
    Some(Pod { key: key(object, texts)?, addresses, node: texts.text(object.str(&["spec", "nodeName"])) })
}
