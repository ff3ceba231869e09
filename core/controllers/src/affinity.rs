//! Pods beside Pods, and away from them (upstream `pkg/scheduler/framework/plugins/interpodaffinity`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, WeightedPodAffinityTerm};

use crate::doc::Key;
use crate::index::Index;
use crate::{labels, meta, pods};

/// What a Node's score is out of.
const TOP: i64 = 100;
/// What a Pod counts that must be beside the one to be placed (`HardPodAffinityWeight`).
const MUST: i64 = 1;

/// A topology key and its value: a zone, a host.
type Domain<'a> = (&'a str, &'a str);

/// What Pods say of each other, those that run and one that is to be placed.
#[derive(Default)]
pub(crate) struct Neighbours<'a> {
    /// Keys of the Pod's own terms that must be met, and how many Pods meet all of these, by domain.
    together: Vec<&'a str>,
    found: BTreeMap<Domain<'a>, usize>,
    /// It is what it asks for, so that the first of many has a place.
    takes_itself: bool,
    /// Where it won't go.
    away: BTreeSet<Domain<'a>>,
    /// Where others won't have it.
    apart: BTreeSet<Domain<'a>>,
    weights: BTreeMap<Domain<'a>, i64>,
}

/// The terms of a Pod: what must be, what should be.
struct Terms<'a> {
    affinity: &'a [PodAffinityTerm],
    anti: &'a [PodAffinityTerm],
    liked: &'a [WeightedPodAffinityTerm],
    disliked: &'a [WeightedPodAffinityTerm],
}

impl<'a> Terms<'a> {
    fn of(pod: &'a Pod) -> Option<Self> {
        let all = pod.spec.as_ref()?.affinity.as_ref()?;
        let (affinity, anti) = (all.pod_affinity.as_ref(), all.pod_anti_affinity.as_ref());
        if affinity.is_none() && anti.is_none() {
            return None;
        }
        let liked = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let disliked = anti.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let must = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
        let must_not = anti.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
        Some(Terms {
            affinity: must.unwrap_or_default(),
            anti: must_not.unwrap_or_default(),
            liked: liked.unwrap_or_default(),
            disliked: disliked.unwrap_or_default(),
        })
    }

    /// What should be, with its weight.
    fn preferred(&self) -> impl Iterator<Item = (&'a PodAffinityTerm, i64)> + use<'a> {
        let weighed = |sign: i64| {
            move |w: &'a WeightedPodAffinityTerm| (&w.pod_affinity_term, sign * i64::from(w.weight))
        };
        self.liked.iter().map(weighed(1)).chain(self.disliked.iter().map(weighed(-1)))
    }
}

/// Whether Pods say anything of others.
pub(crate) fn has_terms(pod: &Pod) -> bool {
    Terms::of(pod).is_some()
}

/// Whether a term of one Pod means another.
fn takes(index: &Index, term: &PodAffinityTerm, of: &Pod, other: &Pod) -> bool {
    let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
    let named = term.namespaces.as_deref().unwrap_or_default();
    let there = match &term.namespace_selector {
        None if named.is_empty() => other.metadata.namespace == of.metadata.namespace,
        selector => {
            let held = index.namespace(&Key::new("", namespace)).and_then(|n| n.metadata.labels.as_ref());
            named.iter().any(|n| n == namespace)
                || selector.as_ref().is_some_and(|s| labels::selects(s, held))
        }
    };
    let (own, held) = (of.metadata.labels.as_ref(), other.metadata.labels.as_ref());
    // Keys that the Pod itself lacks count for nothing (`applyMatchLabelKeysAndMismatchLabelKeys`).
    let same = |key: &String| own.and_then(|l| l.get(key)).map(|v| held.and_then(|l| l.get(key)) == Some(v));
    there
        // Without a selector a term means nobody.
        && term.label_selector.as_ref().is_some_and(|s| labels::selects(s, held))
        && term.match_label_keys.iter().flatten().all(|key| same(key) != Some(false))
        && term.mismatch_label_keys.iter().flatten().all(|key| same(key) != Some(true))
}

fn domain<'a>(node: &'a Node, term: &'a PodAffinityTerm) -> Option<Domain<'a>> {
    let value = node.metadata.labels.as_ref()?.get(&term.topology_key)?;
    Some((&term.topology_key, value))
}

impl<'a> Neighbours<'a> {
    /// Looks at what runs on these Nodes.
    pub(crate) fn of(index: &'a Index, pod: &'a Pod, nodes: &[&'a Node]) -> Self {
        let own = Terms::of(pod);
        let must = own.as_ref().map_or(&[][..], |own| own.affinity);
        let mut all = Neighbours {
            together: must.iter().map(|term| term.topology_key.as_str()).collect(),
            takes_itself: must.iter().all(|term| takes(index, term, pod, pod)),
            ..Neighbours::default()
        };
        for node in nodes {
            for other in index.pods_on(meta::name(&node.metadata)).filter(|p| !pods::is_terminal(p)) {
                let theirs = Terms::of(other);
                if let Some(own) = &own {
                    all.note_own(index, own, pod, other, node);
                }
                if let Some(theirs) = &theirs {
                    all.note_theirs(index, theirs, other, pod, node);
                }
            }
        }
        all
    }

    fn note_own(&mut self, index: &Index, own: &Terms<'a>, pod: &Pod, other: &Pod, node: &'a Node) {
        if own.affinity.iter().all(|term| takes(index, term, pod, other)) {
            for domain in own.affinity.iter().filter_map(|term| domain(node, term)) {
                *self.found.entry(domain).or_default() += 1;
            }
        }
        let meant = |term: &&PodAffinityTerm| takes(index, term, pod, other);
        self.away.extend(own.anti.iter().filter(meant).filter_map(|term| domain(node, term)));
        self.weigh(own.preferred().filter(|(term, _)| meant(term)), node);
    }

    fn note_theirs(&mut self, index: &Index, theirs: &Terms<'a>, other: &Pod, pod: &Pod, node: &'a Node) {
        let meant = |term: &&PodAffinityTerm| takes(index, term, other, pod);
        self.apart.extend(theirs.anti.iter().filter(meant).filter_map(|term| domain(node, term)));
        let must = theirs.affinity.iter().map(|term| (term, MUST));
        self.weigh(theirs.preferred().chain(must).filter(|(term, _)| meant(term)), node);
    }

    fn weigh(&mut self, terms: impl Iterator<Item = (&'a PodAffinityTerm, i64)>, node: &'a Node) {
        for (term, weight) in terms {
            if let Some(domain) = domain(node, term) {
                *self.weights.entry(domain).or_default() += weight;
            }
        }
    }

    /// Why a Node won't do, in upstream's words.
    pub(crate) fn refusal(&self, node: &Node) -> Option<&'static str> {
        let held = node.metadata.labels.as_ref();
        let value = |key: &str| held.and_then(|l| l.get(key)).map(String::as_str);
        let labelled = self.together.iter().all(|key| value(key).is_some());
        let met =
            self.together.iter().all(|key| value(key).is_some_and(|v| self.found.contains_key(&(*key, v))));
        let first = self.found.is_empty() && self.takes_itself;
        let inside = |domains: &BTreeSet<Domain<'_>>| domains.iter().any(|(key, v)| value(key) == Some(*v));
        match () {
            () if !(labelled && (met || first)) => Some("node(s) didn't match pod affinity rules"),
            () if inside(&self.away) => Some("node(s) didn't match pod anti-affinity rules"),
            () if inside(&self.apart) => Some("node(s) didn't satisfy existing pods anti-affinity rules"),
            () => None,
        }
    }

    /// How well each of these Nodes does: 0 to 100, in their order; all 0 where there is no difference (`scoring.go`).
    pub(crate) fn scores(&self, nodes: &[&Node]) -> Vec<i64> {
        let score = |node: &&Node| {
            let held = node.metadata.labels.as_ref();
            let own = |(key, value): &Domain<'_>| held.and_then(|l| l.get(*key)).is_some_and(|v| v == value);
            self.weights.iter().filter(|(domain, _)| own(domain)).map(|(_, weight)| *weight).sum()
        };
        let raw: Vec<i64> = nodes.iter().map(score).collect();
        let (least, most) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
        raw.iter().map(|s| if most > least { TOP * (s - least) / (most - least) } else { 0 }).collect()
    }
}
