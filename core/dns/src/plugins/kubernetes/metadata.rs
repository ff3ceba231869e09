//! The labels that `kubernetes` knows about a query (`plugin/kubernetes/metadata.go`).

use sealane_catalog::NamespacedName;

use super::{Kubernetes, PodMode};
use crate::chain::{Query, World};

impl Kubernetes {
    /// The Pod that a query is from; known with `pods verified` alone.
    pub(crate) fn client_pod<'a>(&self, query: &Query, world: &'a World) -> Option<&'a NamespacedName> {
        let keys = world.snapshot.by_pod_ip(query.client.ip().to_canonical());
        keys.first().filter(|_| self.pods == PodMode::Verified)
    }
}

/// The label's value; an empty one is none to those who ask.
pub(super) fn value(kubernetes: &Kubernetes, label: &str, query: &Query, world: &World) -> Option<String> {
    let label = label.strip_prefix("kubernetes/")?;
    if let Some(part) = label.strip_prefix("client-") {
        let pod = kubernetes.client_pod(query, world)?;
        return match part {
            "namespace" => Some(pod.namespace.to_string()),
            "pod-name" => Some(pod.name.to_string()),
            _ => None,
        };
    }
    let name = &query.asked().name;
    let zone = kubernetes.zone_of(name)?;
    let multicluster = kubernetes.is_multicluster(zone);
    let Ok(parts) = kubernetes.request(zone, &name.within(zone)?) else {
        return (label == "parse-error").then(|| "invalid query name".to_owned());
    };
    match label {
        "kind" => Some(parts.kind),
        "namespace" => Some(parts.namespace),
        "service" => Some(parts.service),
        "endpoint" => Some(parts.endpoint),
        "protocol" => Some(parts.protocol),
        "port-name" => Some(parts.port),
        "cluster" if multicluster => Some(parts.cluster),
        "zone" if kubernetes.zonal => Some(parts.zone),
        _ => None,
    }
}
