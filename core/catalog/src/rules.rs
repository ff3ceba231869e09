//! DestinationRules (networking.istio.io/v1), as far as they say how a Service's endpoints are chosen.

use std::collections::{BTreeSet, HashMap};

use sealane_api::{Document, Object};

use crate::model::{GrpcPolicy, NamespacedName};

/// The domain of Services that come from other clusters (KEP-1645, DNS): a rule for one of them is none for the
/// cluster's own Service of the same name.
const IMPORTED: &str = "clusterset.local";

/// A DestinationRule that says how endpoints are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `spec.host`.
    service: NamespacedName,
    /// Seconds since 1970.
    created: i64,
    policy: GrpcPolicy,
}

impl Rule {
    /// `None` where it says nothing about that, or not to everybody.
    pub(crate) fn read(object: &Object) -> Option<Rule> {
        let spec = object.get(&["spec"])?;
        // Clients are not known by their labels here.
        let some = spec.pointer("/workloadSelector/matchLabels").and_then(Document::as_object);
        if some.is_some_and(|labels| !labels.is_empty()) {
            return None;
        }
        let balancer = spec.pointer("/trafficPolicy/loadBalancer")?;
        let policy = match balancer.get("simple").and_then(Document::as_str) {
            Some("PASSTHROUGH") => GrpcPolicy::PickFirst,
            Some("ROUND_ROBIN" | "LEAST_REQUEST" | "LEAST_CONN" | "RANDOM") => GrpcPolicy::RoundRobin,
            // Stock clients have no `ring_hash` without xDS.
            _ if balancer.get("consistentHash").is_some() => GrpcPolicy::RoundRobin,
            _ => return None,
        };
        let created = object.str(&["metadata", "creationTimestamp"]).parse::<jiff::Timestamp>();
        Some(Rule {
            service: service(spec.get("host")?.as_str()?, object.namespace())?,
            created: created.map_or(0, jiff::Timestamp::as_second),
            policy,
        })
    }
}

/// `SVC`, `SVC.NS`, `SVC.NS.svc`, `SVC.NS.svc.ZONE`; a short name is of the rule's namespace.
fn service(host: &str, namespace: &str) -> Option<NamespacedName> {
    let mut parts = host.splitn(4, '.');
    let (name, namespace) = (parts.next()?, parts.next().unwrap_or(namespace));
    let within = parts.next().is_none_or(|part| part == "svc") && parts.next() != Some(IMPORTED);
    (within && !name.is_empty() && !namespace.is_empty()).then(|| NamespacedName::new(namespace, name))
}

/// All that are known.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    by_name: HashMap<NamespacedName, Rule>,
    /// Those of a Service, the oldest first.
    of: HashMap<NamespacedName, BTreeSet<(i64, NamespacedName)>>,
}

impl Rules {
    /// Replaces a rule: the Services that this may concern.
    pub(crate) fn put(&mut self, key: &NamespacedName, new: Option<Rule>) -> Vec<NamespacedName> {
        if self.by_name.get(key) == new.as_ref() {
            return Vec::new();
        }
        let mut concerned = Vec::new();
        if let Some(old) = self.by_name.remove(key) {
            if let Some(rules) = self.of.get_mut(&old.service) {
                rules.remove(&(old.created, key.clone()));
                if rules.is_empty() {
                    self.of.remove(&old.service);
                }
            }
            concerned.push(old.service);
        }
        if let Some(new) = new {
            self.of.entry(new.service.clone()).or_default().insert((new.created, key.clone()));
            concerned.push(new.service.clone());
            self.by_name.insert(key.clone(), new);
        }
        concerned
    }

    /// What the oldest rule of a Service says.
    pub(crate) fn policy(&self, service: &NamespacedName) -> Option<GrpcPolicy> {
        let (_, oldest) = self.of.get(service)?.first()?;
        self.by_name.get(oldest).map(|rule| rule.policy)
    }

    /// The rules' own names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NamespacedName> {
        self.by_name.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (host, found) in [
            ("db", Some("shop/db")),
            ("db.prod", Some("prod/db")),
            ("db.prod.svc", Some("prod/db")),
            ("db.prod.svc.cluster.local", Some("prod/db")),
            ("db.prod.svc.clusterset.local", None),
            ("db.prod.pod.cluster.local", None),
            ("db.example.com", None),
            ("", None),
            ("db.", None),
        ] {
            let service = service(host, "shop").map(|service| service.to_string());
            assert_eq!(service.as_deref(), found, "{host}");
        }
    }
}
