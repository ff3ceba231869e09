//! A snapshot as a file, for a start without the API: a line for each object, as the API would list it and of that what
//! discovery reads; the first line says of what time and of which sources, the last one that all of it is there.

use std::io::{self, Write};

use sealane_api::{Document, Object};
use serde_json::{Value, json};

use crate::builder::Builder;
use crate::model::{
    Endpoint, GrpcPolicy, Ingress, Labels, Protocol, Service, ServiceType, Slice, TrafficPolicy,
};
use crate::read::Fields;
use crate::snapshot::{Snapshot, Source};

/// The first words of the file; another version is another number.
const BEGIN: &str = "sealane-catalog 1";

/// Why a file is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum SavedError {
    /// Something else, or of another version.
    Foreign,
    /// Cut off or changed.
    Damaged,
    /// It lacks a source that is required.
    Lacks(Source),
}

impl std::fmt::Display for SavedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SavedError::Foreign => f.write_str("it is no snapshot that this version wrote"),
            SavedError::Damaged => f.write_str("it is cut off or damaged"),
            SavedError::Lacks(source) => write!(f, "it has no {source:?}"),
        }
    }
}

impl std::error::Error for SavedError {}

/// FNV-1a, 64 bits: against chance, not against people, who could write the whole file.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    const NEW: Sum = Sum(0xcbf2_9ce4_8422_2325);

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Writes a snapshot, true as of `now` (seconds since 1970) unless it is older itself. Takes no more memory than an
/// object's line.
///
/// # Errors
/// Where `out` has one.
pub fn save(snapshot: &Snapshot, sources: &[Source], now: u64, out: &mut impl Write) -> io::Result<()> {
    let mut sum = Sum::NEW;
    let mut put = |line: String| {
        sum.take(line.as_bytes());
        out.write_all(line.as_bytes())
    };
    let as_of = snapshot.as_of().unwrap_or(now);
    let names: Vec<String> = sources.iter().map(|source| format!("{source:?}")).collect();
    put(format!("{BEGIN} {as_of} {}\n", names.join(",")))?;
    let mut object = |source: Source, value: Value| put(format!("{source:?} {value}\n"));
    for (_, entry) in snapshot.services() {
        if let Some(service) = &entry.service {
            object(Source::Services, service_object(service))?;
            if let Some(policy) = service.grpc_policy {
                object(Source::DestinationRules, rule_object(service, policy))?;
            }
        }
        for slice in &entry.slices {
            object(Source::EndpointSlices, slice_object(slice))?;
        }
    }
    for namespace in snapshot.namespaces() {
        let metadata = json!({"name": &*namespace.name, "labels": labels(&namespace.labels)});
        object(Source::Namespaces, json!({ "metadata": metadata }))?;
    }
    for node in snapshot.nodes() {
        let addresses = node.addresses.iter();
        let addresses: Vec<Value> =
            addresses.map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
        let ready = if node.ready { json!([{"type": "Ready", "status": "True"}]) } else { json!([]) };
        let value = json!({
            "metadata": {"name": &*node.name, "labels": labels(&node.labels)},
            "spec": {"podCIDRs": node.pod_cidrs.iter().map(|range| &**range).collect::<Vec<_>>()},
            "status": {"addresses": addresses, "conditions": ready},
        });
        object(Source::Nodes, value)?;
    }
    for pod in snapshot.pods.values() {
        let ips: Vec<Value> = pod.addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        let value = json!({
            "metadata": {"namespace": &*pod.key.namespace, "name": &*pod.key.name},
            "spec": {"nodeName": &*pod.node},
            "status": {"podIPs": ips},
        });
        object(Source::Pods, value)?;
    }
    writeln!(out, "end {:016x}", sum.0)
}

fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(key, value)| (key.to_string(), Value::from(&**value))).collect()
}

fn service_object(service: &Service) -> Value {
    let created = jiff::Timestamp::from_second(service.created).map(|at| at.to_string());
    let policy = |policy| if policy == TrafficPolicy::Local { "Local" } else { "Cluster" };
    let kind = match service.kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::ExternalName => "ExternalName",
    };
    let ports = service.ports.iter().map(|port| {
        json!({"name": &*port.name, "protocol": port.protocol.as_str(), "port": port.port, "nodePort": port.node_port,
            "appProtocol": &*port.app_protocol})
    });
    let ingress = service.ingress.iter().map(|Ingress { ip, hostname, proxy_mode }| {
        json!({"ip": ip.map(|ip| ip.to_string()), "hostname": &**hostname,
            "ipMode": if *proxy_mode { "Proxy" } else { "VIP" }})
    });
    let ips = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut spec = json!({
        "type": kind,
        "clusterIPs": ips(&service.cluster_ips),
        "externalName": &*service.external_name,
        "ports": ports.collect::<Vec<_>>(),
        "internalTrafficPolicy": policy(service.internal_policy),
        "externalTrafficPolicy": policy(service.external_policy),
        "externalIPs": ips(&service.external_ips),
        "loadBalancerSourceRanges": service.source_ranges.iter().map(|range| &**range).collect::<Vec<_>>(),
        "healthCheckNodePort": service.health_check_node_port,
        "publishNotReadyAddresses": service.publish_not_ready,
        "trafficDistribution": &*service.traffic_distribution,
    });
    if service.headless {
        spec["clusterIP"] = json!("None");
    }
    if let Some(seconds) = service.affinity_seconds {
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    json!({
        "metadata": {
            "namespace": &*service.key.namespace,
            "name": &*service.key.name,
            "resourceVersion": service.revision.to_string(),
            "creationTimestamp": created.unwrap_or_default(),
            "labels": labels(&service.labels),
            "annotations": labels(&service.annotations),
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}},
    })
}

/// A rule that says what is known; the rules themselves are not.
fn rule_object(service: &Service, policy: GrpcPolicy) -> Value {
    let simple = match policy {
        GrpcPolicy::RoundRobin => "ROUND_ROBIN",
        GrpcPolicy::PickFirst => "PASSTHROUGH",
    };
    json!({
        "metadata": {"namespace": &*service.key.namespace, "name": &*service.key.name},
        "spec": {"host": &*service.key.name, "trafficPolicy": {"loadBalancer": {"simple": simple}}},
    })
}

fn slice_object(slice: &Slice) -> Value {
    let protocol = |protocol: Protocol| protocol.as_str();
    let ports = slice.ports.iter().map(|port| {
        json!({"name": &*port.name, "protocol": protocol(port.protocol), "port": port.port,
            "appProtocol": &*port.app_protocol})
    });
    json!({
        "metadata": {
            "namespace": &*slice.key.namespace,
            "name": &*slice.key.name,
            "resourceVersion": slice.revision.to_string(),
            "labels": {"kubernetes.io/service-name": &*slice.service.name},
        },
        "addressType": if slice.ipv6 { "IPv6" } else { "IPv4" },
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": slice.endpoints.iter().map(endpoint_object).collect::<Vec<_>>(),
    })
}

fn endpoint_object(endpoint: &Endpoint) -> Value {
    let hints = |names: &[std::sync::Arc<str>]| -> Vec<Value> {
        names.iter().map(|name| json!({"name": &**name})).collect()
    };
    let (ready, serving, terminating) = (endpoint.ready, endpoint.serving, endpoint.terminating);
    let mut value = json!({
        "addresses": [endpoint.address.to_string()],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    });
    let texts = [("hostname", endpoint.hostname()), ("nodeName", endpoint.node()), ("zone", endpoint.zone())];
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        value[field] = json!(text);
    }
    if !endpoint.pod().is_empty() {
        value["targetRef"] = json!({"kind": "Pod", "name": endpoint.pod()});
    }
    let (zones, nodes) = (endpoint.hint_zones(), endpoint.hint_nodes());
    if !zones.is_empty() || !nodes.is_empty() {
        value["hints"] = json!({"forZones": hints(zones), "forNodes": hints(nodes)});
    }
    value
}

/// A file that is whole.
#[derive(Clone, Debug)]
pub struct Saved<'a> {
    as_of: u64,
    sources: Vec<Source>,
    objects: &'a str,
}

impl<'a> Saved<'a> {
    /// Looks at a file's content.
    ///
    /// # Errors
    /// Where it is none of ours, or not all of it.
    pub fn read(content: &'a [u8]) -> Result<Self, SavedError> {
        if !content.starts_with(BEGIN.as_bytes()) || content.get(BEGIN.len()) != Some(&b' ') {
            return Err(SavedError::Foreign);
        }
        let text = std::str::from_utf8(content).map_err(|_| SavedError::Damaged)?;
        let (head, rest) = text.split_once('\n').ok_or(SavedError::Damaged)?;
        // "end", a sum of 16 digits, and the ends of two lines.
        let (objects, end) =
            rest.len().checked_sub(21).and_then(|at| rest.split_at_checked(at)).ok_or(SavedError::Damaged)?;
        let mut sum = Sum::NEW;
        sum.take(&content[..head.len() + 1 + objects.len()]);
        if end != format!("end {:016x}\n", sum.0) {
            return Err(SavedError::Damaged);
        }
        let mut words = head[BEGIN.len()..].split_whitespace();
        let as_of = words.next().and_then(|word| word.parse().ok()).ok_or(SavedError::Damaged)?;
        let sources = words.next().unwrap_or("").split(',').filter_map(named).collect();
        Ok(Saved { as_of, sources, objects })
    }

    /// The time of which it is true, seconds since 1970.
    pub fn as_of(&self) -> u64 {
        self.as_of
    }
}

fn named(name: &str) -> Option<Source> {
    Source::ALL.into_iter().find(|source| format!("{source:?}") == name)
}

impl Builder {
    /// Takes a saved snapshot in the place of lists that have not come yet, so that what is published next is
    /// [`Snapshot::restored`]. It stays so until all that is required has been listed; then what the lists do not have
    /// goes.
    ///
    /// # Errors
    /// Where it lacks a source (the builder stays as it is then), or a line cannot be read, which in a file that is
    /// whole is none of ours: what came before it is there until lists come.
    pub fn restore(&mut self, saved: &Saved<'_>) -> Result<(), SavedError> {
        if let Some(lacks) = self.required().iter().find(|source| !saved.sources.contains(source)) {
            return Err(SavedError::Lacks(*lacks));
        }
        for line in saved.objects.lines() {
            let (name, json) = line.split_once(' ').ok_or(SavedError::Damaged)?;
            let source = named(name).ok_or(SavedError::Damaged)?;
            let value: Document = Fields::all().read(json.as_bytes()).map_err(|_| SavedError::Damaged)?;
            if !self.has(source) {
                // Not their revisions: the cluster may be another one by now.
                self.take(source, &Object::new(value));
            }
        }
        self.restored = Some(saved.as_of);
        Ok(())
    }
}
