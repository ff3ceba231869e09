//! The labels that `kubernetes` knows about a query (`plugin/kubernetes/metadata.go`).

use super::{Kubernetes, PodMode};
use crate::chain::{Query, World};
use crate::name::Name;

/// The parts of a name of the cluster; empty where the name does not say.
#[derive(Debug, Default, PartialEq)]
struct Parts {
    kind: String,
    namespace: String,
    service: String,
    endpoint: String,
    protocol: String,
    port: String,
}

impl Parts {
    /// Of the labels left of the zone; `None` where they are no request (`parse.go`).
    fn read(labels: &[&[u8]]) -> Option<Self> {
        let text = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        let bare = |label: &[u8]| text(label.strip_prefix(b"_").unwrap_or(label));
        let mut parts = Parts::default();
        let Some((kind, rest)) = labels.split_last() else { return Some(parts) };
        let kind = text(kind);
        if !matches!(kind.as_str(), "svc" | "pod") {
            return None;
        }
        if rest.is_empty() {
            return Some(parts);
        }
        parts.kind = kind;
        match rest {
            [rest @ .., namespace] => {
                parts.namespace = text(namespace);
                let Some((service, rest)) = rest.split_last() else { return Some(parts) };
                parts.service = text(service);
                match rest {
                    [] => {}
                    [endpoint] => parts.endpoint = text(endpoint),
                    [port, protocol] => (parts.port, parts.protocol) = (bare(port), bare(protocol)),
                    _ => return None,
                }
            }
            [] => {}
        }
        Some(parts)
    }
}

/// The label's value; an empty one is none to those who ask.
pub(super) fn value(kubernetes: &Kubernetes, label: &str, query: &Query, world: &World) -> Option<String> {
    let label = label.strip_prefix("kubernetes/")?;
    if let Some(part) = label.strip_prefix("client-") {
        // Pods are known where `pods verified` asks for them.
        let keys = world.snapshot.by_pod_ip(query.client.ip().to_canonical());
        let pod = keys.first().filter(|_| kubernetes.pods == PodMode::Verified)?;
        return match part {
            "namespace" => Some(pod.namespace.to_string()),
            "pod-name" => Some(pod.name.to_string()),
            _ => None,
        };
    }
    let name = &query.asked().name;
    let around = kubernetes.zones.iter().filter(|zone| name.is_within(zone));
    let zone: &Name = around.max_by_key(|zone| zone.wire().len())?;
    let parts = Parts::read(&name.within(zone)?);
    match (label, parts) {
        ("parse-error", None) => Some("invalid query name".to_owned()),
        ("kind", Some(parts)) => Some(parts.kind),
        ("namespace", Some(parts)) => Some(parts.namespace),
        ("service", Some(parts)) => Some(parts.service),
        ("endpoint", Some(parts)) => Some(parts.endpoint),
        ("protocol", Some(parts)) => Some(parts.protocol),
        ("port-name", Some(parts)) => Some(parts.port),
        _ => None,
    }
}
