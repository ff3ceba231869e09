//! ReplicaSets (upstream `pkg/controller/replicaset`).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use sealane_api::kinds::Subresource;
use serde_json::json;

use crate::doc::{Doc, Key};
use crate::index::Index;
use crate::names::Names;
use crate::plan::{Note, Plan, Write, delete, merge, row, update};
use crate::{labels, meta, pods};

/// Pods made or deleted by one plan at most (`BurstReplicas`).
const BURST: usize = 500;

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp, names: &mut Names) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = index.replica_set(key) else { return plan };
    let Some(spec) = &set.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return plan;
    }
    let mine = claim::<ReplicaSet>(index, &set.metadata, &spec.selector, &|_| true, &mut plan);
    let active: Vec<&Arc<Pod>> = mine.iter().copied().filter(|p| pods::is_active(p)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() {
        match active.len().cmp(&wanted) {
            Ordering::Less => {
                let template = spec.template.clone().unwrap_or_default();
                let owner = meta::controller_reference::<ReplicaSet>(&set.metadata);
                for _ in 0..(wanted - active.len()).min(BURST) {
                    let base = format!("{}-", meta::name(&set.metadata));
                    let name = names.suffixed(&base);
                    let pod = pod_of(&template, &set.metadata, owner.clone(), &name, &base);
                    let note = Note::normal(
                        meta::reference::<ReplicaSet>(&set.metadata),
                        "SuccessfulCreate",
                        format!("Created pod: {name}"),
                    )
                    .or("FailedCreate", "Error creating: ".to_owned());
                    let body = serde_json::to_value(&pod).unwrap_or_default();
                    plan.push_noted(
                        Write::Create { kind: row("v1", "Pod"), namespace: key.namespace.to_string(), body },
                        note,
                    );
                }
            }
            Ordering::Greater => {
                let related = related_pods(index, set);
                for pod in to_delete(&active, &related, active.len() - wanted, now).into_iter().take(BURST) {
                    let name = meta::name(&pod.metadata);
                    let note = Note::normal(
                        meta::reference::<ReplicaSet>(&set.metadata),
                        "SuccessfulDelete",
                        format!("Deleted pod: {name}"),
                    )
                    .or("FailedDelete", "Error deleting: ".to_owned());
                    plan.push_noted(delete(row("v1", "Pod"), &pod.metadata), note);
                }
            }
            Ordering::Equal => {}
        }
    }
    status(set, &mine, &active, now, &mut plan);
    plan
}

/// The Pods that a set owns. Orphans that it selects are adopted, Pods that it doesn't select any more are let go
/// (`PodControllerRefManager`).
pub(crate) fn claim<'a, T: k8s_openapi::Resource>(
    index: &'a Index,
    owner: &ObjectMeta,
    selector: &LabelSelector,
    accepts: &dyn Fn(&Pod) -> bool,
    plan: &mut Plan,
) -> Vec<&'a Arc<Pod>> {
    let uid = meta::uid(owner);
    let mut mine = Vec::new();
    for doc in index.owned_by(uid) {
        let Doc::Pod(pod) = doc else { continue };
        if !meta::is_controlled_by(&pod.metadata, uid) {
            continue;
        }
        if labels::selects(selector, pod.metadata.labels.as_ref()) {
            mine.push(pod);
        } else if !pods::is_terminating(pod) && owner.deletion_timestamp.is_none() {
            let kept: Vec<_> =
                pod.metadata.owner_references.iter().flatten().filter(|o| o.uid != uid).collect();
            plan.push(merge(row("v1", "Pod"), &pod.metadata, json!({"metadata": {"ownerReferences": kept}})));
        }
    }
    if owner.deletion_timestamp.is_none() {
        let namespace = owner.namespace.as_deref().unwrap_or("");
        let none = labels::Labels::new();
        let near = index.pods_with(namespace, selector.match_labels.as_ref().unwrap_or(&none));
        for pod in near {
            if meta::controller_of(&pod.metadata).is_none()
                && pods::is_active(pod)
                && accepts(pod)
                && labels::selects(selector, pod.metadata.labels.as_ref())
            {
                let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
                owners.push(meta::controller_reference::<T>(owner));
                plan.push(merge(
                    row("v1", "Pod"),
                    &pod.metadata,
                    json!({"metadata": {"ownerReferences": owners}}),
                ));
                // Counted at once: its adoption must not race a creation in its stead.
                mine.push(pod);
            }
        }
    }
    mine
}

/// A Pod from a template (`GetPodFromTemplate`).
pub(crate) fn pod_of(
    template: &PodTemplateSpec,
    parent: &ObjectMeta,
    owner: OwnerReference,
    name: &str,
    base: &str,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            generate_name: Some(base.to_owned()),
            namespace: parent.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// How many active Pods the sets of the same owner have on each node: Pods that share a node go first.
fn related_pods(index: &Index, set: &ReplicaSet) -> HashMap<String, usize> {
    let mut on: HashMap<String, usize> = HashMap::new();
    let siblings: Vec<&Doc> = match meta::controller_of(&set.metadata) {
        Some(owner) => index.owned_by(&owner.uid).collect(),
        None => Vec::new(),
    };
    let uids = siblings.iter().map(|d| d.uid()).chain([meta::uid(&set.metadata)]);
    let unique: std::collections::BTreeSet<&str> = uids.collect();
    for uid in unique {
        for doc in index.owned_by(uid) {
            if let Doc::Pod(pod) = doc
                && pods::is_active(pod)
            {
                *on.entry(pods::node(pod).to_owned()).or_default() += 1;
            }
        }
    }
    on
}

/// The Pods to delete first, in upstream's order (`ActivePodsWithRanks`).
fn to_delete<'a>(
    active: &[&'a Arc<Pod>],
    related: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<&'a Arc<Pod>> {
    let mut ranked = active.to_vec();
    ranked.sort_by(|a, b| before(a, b, related, now));
    ranked.truncate(count);
    ranked
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost")?.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    containers.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

/// Ages count by powers of two: among Pods of about the same age the choice is by uid, that is, by chance.
fn age_rank(at: Timestamp, now: Timestamp) -> u32 {
    let seconds = u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0);
    u64::BITS - seconds.leading_zeros()
}

fn before(a: &Pod, b: &Pod, related: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let assigned = |p: &Pod| !pods::node(p).is_empty();
    let phase = |p: &Pod| match pods::phase(p) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let doubled = |p: &Pod| related.get(pods::node(p)).copied().unwrap_or(0);
    // Younger first, those without a time before all.
    let younger = |x: Option<Timestamp>, y: Option<Timestamp>| match (x, y) {
        (Some(x), Some(y)) if x != y => {
            age_rank(x, now).cmp(&age_rank(y, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
        }
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        _ => Ordering::Equal,
    };
    let ready_time = || {
        if pods::is_ready(a) && pods::is_ready(b) {
            younger(pods::ready_since(a), pods::ready_since(b))
        } else {
            Ordering::Equal
        }
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| doubled(b).cmp(&doubled(a)))
        .then_with(ready_time)
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger(meta::created(&a.metadata), meta::created(&b.metadata)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// `Some` where it isn't 0: the API leaves zeros out.
pub(crate) fn nonzero(count: usize) -> Option<i32> {
    i32::try_from(count).ok().filter(|n| *n != 0)
}

fn status(set: &ReplicaSet, mine: &[&Arc<Pod>], active: &[&Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &set.spec else { return };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template =
        spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let count = |f: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| f(p)).count();
    let terminating = mine.iter().filter(|p| pods::is_terminating(p) && !pods::is_terminal(p)).count();
    let new = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: nonzero(count(&|p| labels::has_all(&template, p.metadata.labels.as_ref()))),
        ready_replicas: nonzero(count(&pods::is_ready)),
        available_replicas: nonzero(count(&|p| pods::is_available(p, min_ready, now))),
        terminating_replicas: i32::try_from(terminating).ok(),
        observed_generation: set.metadata.generation,
        conditions: old.conditions.clone(),
    };
    // Readiness ripens without an event.
    for pod in active {
        if let Some(wait) = pods::available_at(pod, min_ready).and_then(|at| meta::until(at, now)) {
            plan.again_after(wait);
        }
    }
    if old != new {
        let object = ReplicaSet { status: Some(new), ..ReplicaSet::clone(set) };
        plan.push(update(row("apps/v1", "ReplicaSet"), &set.metadata, Some(Subresource::Status), &object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: &str, phase: &str, ready_at: Option<&str>, cost: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": uid, "uid": uid,
                    "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost.to_string()}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": ready_at.map(|at| json!([
                    {"type": "Ready", "status": "True", "lastTransitionTime": at}])).unwrap_or(json!([]))},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn which_pods_go_first() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let pods = [
            pod("old", "n1", "Running", Some("2026-01-01T00:00:00Z"), 0),
            pod("young", "n1", "Running", Some("2026-01-01T00:59:50Z"), 0),
            pod("dear", "n1", "Running", Some("2026-01-01T00:59:55Z"), 5),
            pod("crowded", "n2", "Running", Some("2026-01-01T00:00:00Z"), 0),
            pod("unready", "n1", "Running", None, 9),
            pod("pending", "n1", "Pending", None, 0),
            pod("unassigned", "", "Pending", None, 0),
        ];
        let all: Vec<&Arc<Pod>> = pods.iter().collect();
        let related = HashMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 2)]);
        let names: Vec<_> =
            to_delete(&all, &related, 7, now).iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "crowded", "young", "old", "dear"]);
    }
}
