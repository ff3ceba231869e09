//! Deployments (upstream `pkg/controller/deployment`).

mod replica_sets;
mod rolling;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::doc::{Doc, Key};
use crate::index::Index;
use crate::plan::{Note, Plan, merge, row};
use crate::{labels, meta, pods};

pub(crate) use replica_sets::HASH_LABEL;

/// The annotation that counts rollouts.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(deployment) = index.deployment(key) else { return plan };
    let Some(spec) = &deployment.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return plan;
    }
    let Some(sets) = claim(index, deployment, &mut plan) else { return plan };
    let view = View::new(index, deployment, &sets, now);
    if deployment.metadata.deletion_timestamp.is_some() {
        status::write(&view, None, &mut plan);
        return plan;
    }
    if spec.paused == Some(true) {
        // Paused: no new template is rolled out, but a change of size is.
        rolling::scale(&view, &mut plan);
        replica_sets::clean_up(&view, &mut plan);
        status::write(&view, view.new, &mut plan);
        return plan;
    }
    let recreate = spec.strategy.as_ref().is_some_and(|s| s.type_.as_deref() == Some("Recreate"));
    if view.is_scaling_event() {
        if !replica_sets::annotate(&view, &mut plan) {
            rolling::scale(&view, &mut plan);
        }
        status::write(&view, view.new, &mut plan);
        return plan;
    }
    if recreate {
        rolling::recreate(&view, &mut plan);
    } else {
        rolling::roll(&view, &mut plan);
    }
    if view.is_complete() {
        replica_sets::clean_up(&view, &mut plan);
    }
    status::write(&view, view.new, &mut plan);
    plan
}

/// The ReplicaSets of a Deployment: orphans are adopted, those that it doesn't select any more let go. `None` while
/// adoptions are under way: what they bring is not yet counted.
fn claim(index: &Index, deployment: &Deployment, plan: &mut Plan) -> Option<Vec<Arc<ReplicaSet>>> {
    let selector = &deployment.spec.as_ref()?.selector;
    let uid = meta::uid(&deployment.metadata);
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or("");
    let (mut mine, mut adopting) = (Vec::new(), false);
    for (_, doc) in index.range("replicasets", Some(namespace)) {
        let Doc::ReplicaSet(set) = doc else { continue };
        let selected = labels::selects(selector, set.metadata.labels.as_ref());
        match meta::controller_of(&set.metadata) {
            Some(owner) if owner.uid == uid => {
                if selected {
                    mine.push(Arc::clone(set));
                } else if deployment.metadata.deletion_timestamp.is_none() {
                    let kept: Vec<_> = set.metadata.owner_references.iter().flatten().filter(|o| o.uid != uid).collect();
                    let body = json!({"metadata": {"ownerReferences": kept}});
                    plan.push(merge(row("apps/v1", "ReplicaSet"), &set.metadata, body));
                }
            }
            None if selected
                && set.metadata.deletion_timestamp.is_none()
                && deployment.metadata.deletion_timestamp.is_none() =>
            {
                let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
                owners.push(meta::controller_reference::<Deployment>(&deployment.metadata));
                let body = json!({"metadata": {"ownerReferences": owners}});
                plan.push(merge(row("apps/v1", "ReplicaSet"), &set.metadata, body));
                adopting = true;
            }
            _ => {}
        }
    }
    (!adopting).then_some(mine)
}

/// A Deployment as one plan sees it.
pub(super) struct View<'a> {
    pub(super) index: &'a Index,
    pub(super) deployment: &'a Deployment,
    /// All its sets, oldest first.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// The one with the current template.
    pub(super) new: Option<&'a Arc<ReplicaSet>>,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    fn new(index: &'a Index, deployment: &'a Deployment, sets: &'a [Arc<ReplicaSet>], now: Timestamp) -> Self {
        let wanted = deployment.spec.as_ref().map(|s| plain(&s.template));
        let mut same: Vec<&Arc<ReplicaSet>> = sets
            .iter()
            .filter(|set| set.spec.as_ref().and_then(|s| s.template.as_ref()).map(plain) == wanted)
            .collect();
        // Of several with the same template the oldest counts, as upstream's FindNewReplicaSet.
        same.sort_by_key(|s| age(s));
        View { index, deployment, sets, new: same.first().copied(), now }
    }

    /// Sets with another template than the current one, oldest first.
    pub(super) fn old(&self) -> Vec<&'a Arc<ReplicaSet>> {
        let new = self.new.map(|s| meta::uid(&s.metadata));
        let mut old: Vec<_> = self.sets.iter().filter(|s| Some(meta::uid(&s.metadata)) != new).collect();
        old.sort_by_key(|s| age(s));
        old
    }

    /// `spec.replicas`.
    pub(super) fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
        strategy.is_none_or(|s| s.type_.as_deref() != Some("Recreate"))
    }

    /// maxSurge and maxUnavailable as numbers; never both 0.
    pub(super) fn bounds(&self) -> (i32, i32) {
        if !self.is_rolling() || self.wanted() == 0 {
            return (0, 0);
        }
        let rolling = self.deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let (surge, mut down) = (share(surge, self.wanted(), true), share(unavailable, self.wanted(), false));
        if surge == 0 && down == 0 {
            down = 1;
        }
        (surge, down.min(self.wanted()))
    }

    /// The Deployment's size changed since its sets were last sized.
    fn is_scaling_event(&self) -> bool {
        let active: Vec<_> = self.sets.iter().filter(|s| size(s) > 0).collect();
        // Recreate never shares a size out among several sets.
        (self.is_rolling() || active.len() <= 1) && active.iter().any(|set| {
            annotation(set, replica_sets::DESIRED).and_then(|d| d.parse().ok()).is_some_and(|d: i32| d != self.wanted())
        })
    }

    /// All Pods are of the current template and available, and no other is left.
    pub(super) fn is_complete(&self) -> bool {
        let new = self.new.and_then(|s| s.status.as_ref());
        let wanted = self.wanted();
        new.map_or(0, |s| s.replicas) == wanted
            && total(self.sets, |s| s.replicas) == wanted
            && total(self.sets, |s| s.available_replicas.unwrap_or(0)) == wanted
    }

    pub(super) fn note(&self, reason: &'static str, message: String) -> Note {
        Note::normal(meta::reference::<Deployment>(&self.deployment.metadata), reason, message)
    }

    /// Pods of the old sets that run, or may do so.
    fn has_old_pods(&self) -> bool {
        self.old().iter().any(|set| {
            self.index.owned_by(meta::uid(&set.metadata)).any(|doc| match doc {
                Doc::Pod(pod) => !pods::is_terminal(pod),
                _ => false,
            })
        })
    }
}

/// A template without what a ReplicaSet adds to it.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut plain = template.clone();
    if let Some(meta) = &mut plain.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.creation_timestamp = None;
    }
    plain
}

/// Order of making.
fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<String>) {
    (meta::created(&set.metadata), set.metadata.name.clone())
}

/// `spec.replicas` of a set.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A sum over the sets' statuses.
pub(super) fn total(
    sets: &[Arc<ReplicaSet>],
    of: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32,
) -> i32 {
    sets.iter().filter_map(|s| s.status.as_ref()).map(of).sum()
}

/// A number or a percentage of `whole`; what is neither counts as 0.
pub(crate) fn share(value: &IntOrString, whole: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(s) => {
            let percent: i64 = s.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let scaled = percent * i64::from(whole);
            i32::try_from(if up { (scaled + 99) / 100 } else { scaled / 100 }).unwrap_or(i32::MAX)
        }
    }
}
