//! Spreading Pods of one kind over Nodes and zones (upstream `pkg/scheduler/framework/plugins/podtopologyspread`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::doc::Key;
use crate::index::Index;
use crate::labels::{self, Labels};
use crate::{meta, pods};

const HOSTNAME: &str = "kubernetes.io/hostname";
/// Which skew is nothing to mind for Pods that state no constraints of their own (`systemDefaultConstraints`).
const DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)];
/// What a Node's score is out of.
const TOP: i64 = 100;

/// Pods that count: those of the namespace with these labels, which the selector takes too.
struct Like {
    labels: Labels,
    selector: Option<LabelSelector>,
}

impl Like {
    fn takes(&self, pod: &Pod) -> bool {
        let held = pod.metadata.labels.as_ref();
        labels::has_all(&self.labels, held) && self.selector.as_ref().is_none_or(|s| labels::selects(s, held))
    }
}

/// One constraint, and how it stands.
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: Option<i32>,
    /// `DoNotSchedule`.
    required: bool,
    /// The Pod to be placed counts itself.
    takes_itself: bool,
    /// Pods by Node.
    on: BTreeMap<String, i64>,
}

impl Constraint {
    fn domain<'a>(&self, node: &'a Node) -> Option<&'a str> {
        node.metadata.labels.as_ref()?.get(&self.key).map(String::as_str)
    }

    fn count(&self, node: &Node) -> i64 {
        self.on.get(meta::name(&node.metadata)).copied().unwrap_or(0)
    }

    /// Pods by domain, over some Nodes.
    fn domains<'a>(&self, nodes: &[&'a Node]) -> BTreeMap<&'a str, i64> {
        let mut found = BTreeMap::new();
        for node in nodes {
            if let Some(domain) = self.domain(node) {
                *found.entry(domain).or_default() += self.count(node);
            }
        }
        found
    }
}

/// Where Pods like one that is to be placed are.
pub(crate) struct Spread<'a> {
    constraints: Vec<Constraint>,
    /// The constraints are the Pod's own: a Node without one of their labels is out of the question.
    own: bool,
    /// Nodes that the Pod's selector and affinity take.
    eligible: Vec<&'a Node>,
}

impl<'a> Spread<'a> {
    /// Counts, for a Pod, over the Nodes that its selector and affinity take.
    pub(crate) fn of(index: &Index, key: &Key, pod: &Pod, spec: &PodSpec, eligible: Vec<&'a Node>) -> Self {
        let own = spec.topology_spread_constraints.as_deref().unwrap_or(&[]);
        let count = |like: &Like| {
            let each = eligible.iter().map(|node| {
                let name = meta::name(&node.metadata);
                let there = index.pods_on(name).filter(|p| {
                    p.metadata.namespace == pod.metadata.namespace
                        && !pods::is_terminating(p)
                        && like.takes(p)
                });
                (name.to_owned(), i64::try_from(there.count()).unwrap_or(i64::MAX))
            });
            each.collect::<BTreeMap<_, _>>()
        };
        let mut constraints: Vec<Constraint> = Vec::new();
        for c in own {
            let held = pod.metadata.labels.as_ref();
            let keys = c.match_label_keys.iter().flatten();
            let labels = keys.filter_map(|k| Some((k.clone(), held?.get(k)?.clone()))).collect();
            // Without a selector nothing counts (`LabelSelectorAsSelector` of nil).
            let Some(selector) = c.label_selector.clone() else { continue };
            let like = Like { labels, selector: Some(selector) };
            constraints.push(Constraint {
                key: c.topology_key.clone(),
                max_skew: i64::from(c.max_skew),
                min_domains: c.min_domains,
                required: c.when_unsatisfiable == "DoNotSchedule",
                takes_itself: like.takes(pod),
                on: count(&like),
            });
        }
        if own.is_empty()
            && let Some(like) = default_selector(index, key, pod)
        {
            let on = count(&like);
            constraints.extend(DEFAULTS.map(|(key, max_skew)| Constraint {
                key: key.to_owned(),
                max_skew,
                min_domains: None,
                required: false,
                takes_itself: true,
                on: on.clone(),
            }));
        }
        Spread { constraints, own: !own.is_empty(), eligible }
    }

    /// Why a Node won't do, in upstream's words.
    pub(crate) fn refusal(&self, node: &Node) -> Option<String> {
        for constraint in self.constraints.iter().filter(|c| c.required) {
            const REFUSED: &str = "node(s) didn't match pod topology spread constraints";
            let Some(domain) = constraint.domain(node) else {
                return Some(format!("{REFUSED} (missing required label)"));
            };
            let domains = constraint.domains(&self.eligible);
            let few = constraint
                .min_domains
                .is_some_and(|least| domains.len() < usize::try_from(least).unwrap_or(0));
            let least = if few { 0 } else { domains.values().min().copied().unwrap_or(0) };
            let here = domains.get(domain).copied().unwrap_or(0) + i64::from(constraint.takes_itself);
            if here - least > constraint.max_skew {
                return Some(REFUSED.to_owned());
            }
        }
        None
    }

    /// How well each of these Nodes spreads: 0 to 100, in their order (`scoring.go`).
    pub(crate) fn scores(&self, nodes: &[&Node]) -> Vec<i64> {
        let soft: Vec<&Constraint> = self.constraints.iter().filter(|c| !c.required).collect();
        if soft.is_empty() {
            return vec![0; nodes.len()];
        }
        let ignored = |node: &Node| self.own && soft.iter().any(|c| c.domain(node).is_none());
        let taken: Vec<&Node> = nodes.iter().filter(|n| !ignored(n)).copied().collect();
        let mut raw = vec![0.0; nodes.len()];
        for constraint in &soft {
            let among: BTreeSet<&str> = taken.iter().filter_map(|n| constraint.domain(n)).collect();
            let size = if constraint.key == HOSTNAME { taken.len() } else { among.len() };
            // Few domains weigh less: a skew between zones is more Pods than one between Nodes.
            let weight = (size as f64 + 2.0).ln();
            let domains = constraint.domains(&self.eligible);
            for (score, node) in raw.iter_mut().zip(nodes) {
                if let Some(domain) = constraint.domain(node) {
                    let count = match constraint.key.as_str() {
                        HOSTNAME => constraint.count(node),
                        _ => domains.get(domain).copied().unwrap_or(0),
                    };
                    *score += count as f64 * weight + (constraint.max_skew - 1) as f64;
                }
            }
        }
        let rounded: Vec<Option<i64>> =
            raw.iter().zip(nodes).map(|(s, n)| (!ignored(n)).then(|| s.round() as i64)).collect();
        let most = rounded.iter().flatten().max().copied().unwrap_or(0);
        let least = rounded.iter().flatten().min().copied().unwrap_or(0);
        let normal = |score: Option<i64>| match score {
            None => 0,
            Some(_) if most == 0 => TOP,
            Some(score) => TOP * (most + least - score) / most,
        };
        rounded.into_iter().map(normal).collect()
    }
}

/// What a Pod without constraints of its own is spread among: those that its Services and its controller take
/// (`helper.DefaultSelector`). `None`: it belongs to nothing.
fn default_selector(index: &Index, key: &Key, pod: &Pod) -> Option<Like> {
    let mut labels = Labels::new();
    for service in index.services_selecting(key, pod.metadata.labels.as_ref()) {
        let selector = index.service(service).and_then(|s| s.spec.as_ref()?.selector.clone());
        labels.extend(selector.unwrap_or_default());
    }
    let owner = meta::controller_of(&pod.metadata);
    let selector = owner.and_then(|owner| {
        let key = Key::new(&key.namespace, &owner.name);
        match owner.kind.as_str() {
            "ReplicaSet" => Some(index.replica_set(&key)?.spec.as_ref()?.selector.clone()),
            "StatefulSet" => Some(index.stateful_set(&key)?.spec.as_ref()?.selector.clone()),
            _ => None,
        }
    });
    (!labels.is_empty() || selector.is_some()).then_some(Like { labels, selector })
}
