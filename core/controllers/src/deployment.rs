//! Deployments (upstream `pkg/controller/deployment`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::deployment_status::{self as status, Progress};
use crate::doc::{Doc, Key};
use crate::index::Index;
use crate::meta::annotation;
use crate::plan::{Note, Plan, Write, delete, merge, row};
use crate::rollout::{self, MAX_REPLICAS, REVISION, Sets, size, wanted};
use crate::{labels, meta, names, pods};

/// The label that tells the Pods of a Deployment's ReplicaSets apart.
const HASH: &str = "pod-template-hash";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotations of a Deployment that its ReplicaSets don't get.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX_REPLICAS,
];

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(deployment) = index.deployment(key) else { return plan };
    let Some(spec) = &deployment.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return plan;
    }
    let claimed = claim(index, deployment, &mut plan);
    if !plan.actions.is_empty() {
        // Whose the sets are comes first; the answers bring the next plan.
        return plan;
    }
    let sets = sort(deployment, claimed);
    let mut progress = Progress::of(deployment, &sets);
    if deployment.metadata.deletion_timestamp.is_none() {
        let paused = spec.paused.unwrap_or(false);
        progress.note_pause(deployment, paused, now);
        let scaling = sets.all().any(|s| {
            let desired = annotation(&s.metadata, DESIRED).and_then(|n| n.parse::<i32>().ok());
            size(s) > 0 && desired.is_some_and(|n| n != wanted(deployment))
        });
        if let Some(new) = &sets.new {
            progress.revision = annotation(&new.metadata, REVISION).map(str::to_owned);
            progress.note_found(deployment, new, now);
        }
        if paused || scaling {
            scale(deployment, &sets, &mut plan);
            progress.is_rollout = false;
            if paused {
                cleanup(deployment, &sets, &mut plan);
            }
        } else if rollout::is_rolling(deployment) {
            roll(index, deployment, &sets, &mut progress, now, &mut plan);
        } else {
            recreate(index, deployment, &sets, &mut progress, now, &mut plan);
        }
    } else {
        progress.is_rollout = false;
    }
    status::write(deployment, &sets, progress, now, &mut plan);
    plan
}

/// The ReplicaSets that a Deployment owns; orphans that it selects are adopted, others let go.
fn claim(index: &Index, deployment: &Deployment, plan: &mut Plan) -> Vec<Arc<ReplicaSet>> {
    let owner = &deployment.metadata;
    let Some(spec) = &deployment.spec else { return Vec::new() };
    let kind = row("apps/v1", "ReplicaSet");
    let mut mine = Vec::new();
    for (_, doc) in index.range("replicasets", owner.namespace.as_deref()) {
        let Doc::ReplicaSet(set) = doc else { continue };
        let selected = labels::selects(&spec.selector, set.metadata.labels.as_ref());
        let going = owner.deletion_timestamp.is_some();
        match meta::controller_of(&set.metadata) {
            Some(controller) if controller.uid == meta::uid(owner) => {
                if selected {
                    mine.push(set.clone());
                } else if !going && !doc.is_terminating() {
                    let others = set.metadata.owner_references.iter().flatten();
                    let kept: Vec<_> = others.filter(|o| o.uid != meta::uid(owner)).collect();
                    plan.push(merge(kind, &set.metadata, json!({"metadata": {"ownerReferences": kept}})));
                }
            }
            None if selected && !going && !doc.is_terminating() => {
                let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
                owners.push(meta::controller_reference::<Deployment>(owner));
                plan.push(merge(kind, &set.metadata, json!({"metadata": {"ownerReferences": owners}})));
            }
            _ => {}
        }
    }
    mine
}

/// The set of the present template, the oldest if there are two, and the others by age.
fn sort(deployment: &Deployment, mut sets: Vec<Arc<ReplicaSet>>) -> Sets {
    sets.sort_by_key(|s| (meta::created(&s.metadata), s.metadata.name.clone()));
    let template = template_of(deployment);
    let same = |set: &Arc<ReplicaSet>| {
        let held = set.spec.as_ref().and_then(|s| s.template.as_ref());
        held.is_some_and(|held| without_hash(held) == without_hash(&template))
    };
    let new = sets.iter().position(same).map(|at| sets.remove(at));
    Sets { new, old: sets }
}

fn template_of(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default()
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH);
    }
    template
}

fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn roll(
    index: &Index,
    deployment: &Deployment,
    sets: &Sets,
    progress: &mut Progress,
    now: Timestamp,
    plan: &mut Plan,
) {
    let Some(new) = &sets.new else { return create(index, deployment, sets, progress, now, plan) };
    let all: i32 = sets.all().map(|s| held(index, s)).sum();
    let target = rollout::new_size(deployment, size(new), all);
    settle(deployment, new, target, newest(sets), plan);
    if target == size(new) {
        for (set, to) in rollout::shrink_old(deployment, new, &sets.old) {
            settle(deployment, &set, to, None, plan);
        }
        if progress.is_complete(deployment) {
            cleanup(deployment, sets, plan);
        }
    }
}

fn recreate(
    index: &Index,
    deployment: &Deployment,
    sets: &Sets,
    progress: &mut Progress,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut scaled = false;
    for set in sets.old.iter().filter(|s| size(s) > 0) {
        settle(deployment, set, 0, None, plan);
        scaled = true;
    }
    // All old Pods have ended, and not just been told to, before a new one begins.
    let running = sets.old.iter().any(|set| {
        set.status.as_ref().is_some_and(|s| s.replicas > 0)
            || index
                .owned_by(meta::uid(&set.metadata))
                .any(|d| matches!(d, Doc::Pod(p) if !pods::is_terminal(p)))
    });
    if scaled || running {
        return;
    }
    let Some(new) = &sets.new else { return create(index, deployment, sets, progress, now, plan) };
    settle(deployment, new, wanted(deployment), newest(sets), plan);
    if progress.is_complete(deployment) {
        cleanup(deployment, sets, plan);
    }
}

/// A set's size, or its Pods where more are still there: a set that was told to shrink makes room when it has, so that
/// there are never more than `maxSurge` allows.
fn held(index: &Index, set: &ReplicaSet) -> i32 {
    let active = |doc: &&Doc| matches!(doc, Doc::Pod(pod) if pods::is_active(pod));
    let pods = index.owned_by(meta::uid(&set.metadata)).filter(active).count();
    size(set).max(i32::try_from(pods).unwrap_or(i32::MAX))
}

/// The revision that the new set must have: above that of all others.
fn newest(sets: &Sets) -> Option<i64> {
    Some(sets.old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1)
}

fn create(
    index: &Index,
    deployment: &Deployment,
    sets: &Sets,
    progress: &mut Progress,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = meta::name(&deployment.metadata);
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    let Some(spec) = &deployment.spec else { return };
    let mut template = spec.template.clone();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let mut document = serde_json::to_vec(&template).unwrap_or_default();
    document.extend(collisions.iter().flat_map(|n| n.to_le_bytes()));
    let hash = names::hash(&document);
    let set_name = format!("{name}-{hash}");
    if index.replica_set(&Key::new(&namespace, &set_name)).is_some() {
        // Another's, or another template's: the next hash takes the count in.
        progress.collisions = Some(collisions.unwrap_or(0) + 1);
        return;
    }
    let hashed = (HASH.to_owned(), hash);
    template.metadata.get_or_insert_default().labels.get_or_insert_default().extend([hashed.clone()]);
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().extend([hashed]);
    let all: i32 = sets.all().map(|s| held(index, s)).sum();
    let replicas = rollout::new_size(deployment, 0, all);
    let revision = newest(sets).unwrap_or(1).to_string();
    let mut annotations = inherited(deployment);
    annotations.insert(REVISION.to_owned(), revision.clone());
    annotations.extend(replica_annotations(deployment));
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name.clone()),
            namespace: Some(namespace.clone()),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_reference::<Deployment>(&deployment.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let body = serde_json::to_value(&set).unwrap_or_default();
    let write = Write::Create { kind: row("apps/v1", "ReplicaSet"), namespace, body };
    let message = format!("Scaled up replica set {set_name} from 0 to {replicas}");
    let note =
        Note::normal(meta::reference::<Deployment>(&deployment.metadata), "ScalingReplicaSet", message)
            .or("ReplicaSetCreateError", format!("Failed to create new replica set {set_name:?}: "));
    if replicas > 0 {
        plan.push_noted(write, note)
    } else {
        plan.push(write)
    }
    progress.revision = Some(revision);
    progress.note_created(deployment, &set_name, now);
}

/// The annotations that a ReplicaSet has from its Deployment.
fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut all = deployment.metadata.annotations.clone().unwrap_or_default();
    all.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    all
}

fn replica_annotations(deployment: &Deployment) -> [(String, String); 2] {
    let wanted = wanted(deployment);
    let most = wanted.saturating_add(rollout::fenceposts(deployment).0);
    [(DESIRED.to_owned(), wanted.to_string()), (MAX_REPLICAS.to_owned(), most.to_string())]
}

/// Brings a set to a size and its annotations up to date, in one write; `revision` is that of the new set.
fn settle(deployment: &Deployment, set: &ReplicaSet, to: i32, newest: Option<i64>, plan: &mut Plan) {
    let mut annotations: BTreeMap<String, String> = replica_annotations(deployment).into();
    let mut body = json!({});
    if let Some(newest) = newest {
        annotations.extend(inherited(deployment));
        let held = revision(set);
        if held < newest {
            annotations.insert(REVISION.to_owned(), newest.to_string());
            if held > 0 {
                let before = annotation(&set.metadata, HISTORY).filter(|h| !h.is_empty());
                let history = before.map_or(held.to_string(), |b| format!("{b},{held}"));
                annotations.insert(HISTORY.to_owned(), history);
            }
        }
        let min_ready = |n: Option<i32>| n.unwrap_or(0);
        let wanted = deployment.spec.as_ref().map_or(0, |s| min_ready(s.min_ready_seconds));
        if set.spec.as_ref().map_or(0, |s| min_ready(s.min_ready_seconds)) != wanted {
            body["spec"]["minReadySeconds"] = wanted.into();
        }
    }
    annotations.retain(|key, value| annotation(&set.metadata, key) != Some(value));
    if !annotations.is_empty() {
        body["metadata"]["annotations"] = json!(annotations);
    }
    let from = size(set);
    if from != to {
        body["spec"]["replicas"] = to.into();
    }
    if body == json!({}) {
        return;
    }
    let write = merge(row("apps/v1", "ReplicaSet"), &set.metadata, body);
    if from == to {
        return plan.push(write);
    }
    let direction = if to > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {from} to {to}", meta::name(&set.metadata));
    let about = meta::reference::<Deployment>(&deployment.metadata);
    plan.push_noted(write, Note::normal(about, "ScalingReplicaSet", message));
}

/// Follows `spec.replicas` where no rollout goes on (or it is paused).
fn scale(deployment: &Deployment, sets: &Sets, plan: &mut Plan) {
    let active: Vec<Arc<ReplicaSet>> = sets.all().filter(|s| size(s) > 0).cloned().collect();
    let one = match active.as_slice() {
        [] => sets.new.as_ref().or(sets.old.last()),
        [only] => Some(only),
        _ => None,
    };
    if let Some(set) = one {
        return settle(deployment, set, wanted(deployment), None, plan);
    }
    // The rollout is done but for old sets that are not empty yet.
    let saturated = sets.new.as_ref().filter(|new| {
        let desired = annotation(&new.metadata, DESIRED).and_then(|n| n.parse::<i32>().ok());
        let wanted = wanted(deployment);
        size(new) == wanted && desired == Some(wanted) && rollout::available(new) == wanted
    });
    if saturated.is_some() {
        for set in sets.old.iter().filter(|s| size(s) > 0) {
            settle(deployment, set, 0, None, plan);
        }
    } else if rollout::is_rolling(deployment) {
        for (set, to) in rollout::proportional(deployment, &active) {
            settle(deployment, &set, to, None, plan);
        }
    }
}

/// Deletes what `revisionHistoryLimit` doesn't keep, oldest revisions first.
fn cleanup(deployment: &Deployment, sets: &Sets, plan: &mut Plan) {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let mut alive: Vec<_> = sets.old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|s| (revision(s), meta::created(&s.metadata)));
    for set in alive.into_iter().take(surplus) {
        let status = set.status.clone().unwrap_or_default();
        let settled = set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0);
        if status.replicas == 0 && size(set) == 0 && settled {
            plan.push(delete(row("apps/v1", "ReplicaSet"), &set.metadata));
        }
    }
}
