//! What `metadata` learns from this plugin (`metadata.go`).

use sealane_catalog::NamespacedName;

use super::records::request;
use super::{Kubernetes, PodMode};
use crate::chain::{Query, World};

impl Kubernetes {
    /// The Pod that a query is from; known with `pods verified` alone.
    pub(crate) fn client_pod<'a>(&self, query: &Query, world: &'a World) -> Option<&'a NamespacedName> {
        if self.pods != PodMode::Verified {
            return None;
        }
        world.snapshot.by_pod_ip(query.client.ip().to_canonical()).first()
    }

    pub(super) fn label(&self, label: &str, query: &Query, world: &World) -> Option<String> {
        let what = label.strip_prefix("kubernetes/")?;
        match what {
            "client-namespace" => return self.client_pod(query, world).map(|pod| pod.namespace.to_string()),
            "client-pod-name" => return self.client_pod(query, world).map(|pod| pod.name.to_string()),
            _ => {}
        }
        let name = &query.question().name;
        let r = match request(&name.within(self.zone_of(name)?)?, self.zonal) {
            Ok(r) => r,
            Err(_) => return (what == "parse-error").then(|| "invalid query name".to_owned()),
        };
        match what {
            "port-name" => Some(r.port),
            "protocol" => Some(r.protocol),
            "endpoint" => Some(r.endpoint),
            "service" => Some(r.service),
            "namespace" => Some(r.namespace),
            "kind" => Some(r.kind),
            "zone" if self.zonal => Some(r.zone),
            _ => None,
        }
    }
}
