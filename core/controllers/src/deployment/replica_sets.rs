//! A Deployment's ReplicaSets: made, numbered and cleared away (`util/deployment_util.go`, `sync.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::{REVISION, View, annotation, plain, rolling, size};
use crate::plan::{Plan, Write, delete, merge, row};
use crate::{meta, names};

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";

fn number(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The annotations of a Deployment that its sets don't carry (`annotationsToSkip`).
fn is_copied(key: &str) -> bool {
    !matches!(
        key,
        "kubectl.kubernetes.io/last-applied-configuration" | "deprecated.deployment.rollback.to" | HISTORY
    ) && ![REVISION, DESIRED, MAX].contains(&key)
}

/// The size annotations for a Deployment of this size now.
pub(super) fn sizes(view: &View) -> [(String, String); 2] {
    let wanted = view.wanted();
    [(DESIRED.to_owned(), wanted.to_string()), (MAX.to_owned(), (wanted + view.bounds().0).to_string())]
}

/// Makes the set of the current template; the name's hash makes a second creation the same one.
pub(super) fn create(view: &View, plan: &mut Plan) {
    let Some(spec) = &view.deployment.spec else { return };
    let template = plain(&spec.template);
    let bytes = serde_json::to_vec(&template).unwrap_or_default();
    let mut hash = names::hash(&bytes);
    let owner = &view.deployment.metadata;
    let name = |hash: &str| format!("{}-{hash}", meta::name(owner));
    // Somebody else's set may have the name; another hash then.
    let namespace = owner.namespace.as_deref().unwrap_or("");
    let mut salt = 0_u8;
    while view.index.replica_set(&crate::doc::Key::new(namespace, &name(&hash))).is_some() && salt < u8::MAX {
        salt += 1;
        hash = names::hash(&[bytes.as_slice(), &[salt]].concat());
    }
    let mut labelled = template;
    labelled.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let replicas = rolling::new_size(view, 0);
    let last = view.sets.iter().map(|s| number(s)).max().unwrap_or(0);
    let mut annotations: BTreeMap<String, String> =
        owner.annotations.clone().unwrap_or_default().into_iter().filter(|(k, _)| is_copied(k)).collect();
    annotations.insert(REVISION.to_owned(), (last + 1).to_string());
    annotations.extend(sizes(view));
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name(&hash)),
            namespace: owner.namespace.clone(),
            labels: labelled.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_reference::<Deployment>(owner)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(replicas),
            selector,
            template: Some(labelled),
        }),
        status: None,
    };
    let body = serde_json::to_value(&set).unwrap_or_default();
    let write = Write::Create { kind: row("apps/v1", "ReplicaSet"), namespace: namespace.to_owned(), body };
    if replicas > 0 {
        let message = format!("Scaled up replica set {} from 0 to {replicas}", name(&hash));
        plan.push_noted(write, view.note("ScalingReplicaSet", message));
    } else {
        plan.push(write);
    }
    number_deployment(view, last + 1, plan);
}

/// Keeps the current set's annotations right: it has the highest revision (a rollback takes an old set up again) and
/// the Deployment's sizes. Says whether a write was needed.
pub(super) fn annotate(view: &View, plan: &mut Plan) -> bool {
    let Some(new) = view.new else { return false };
    let last = view.old().iter().map(|s| number(s)).max().unwrap_or(0);
    let old = number(new);
    let revision = if old > last { old } else { last + 1 };
    number_deployment(view, revision, plan);
    let mut wanted: BTreeMap<String, String> = view
        .deployment
        .metadata
        .annotations
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|(k, _)| is_copied(k))
        .collect();
    wanted.insert(REVISION.to_owned(), revision.to_string());
    if revision != old && old > 0 {
        let mut history: Vec<String> =
            annotation(new, HISTORY).unwrap_or("").split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        history.push(old.to_string());
        wanted.insert(HISTORY.to_owned(), history.join(","));
    }
    let min_ready = view.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
    let same_ready = new.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) == min_ready.unwrap_or(0);
    if same_ready && wanted.iter().all(|(k, v)| annotation(new, k) == Some(v)) {
        return false;
    }
    let body = json!({"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": min_ready.unwrap_or(0)}});
    plan.push(merge(row("apps/v1", "ReplicaSet"), &new.metadata, body));
    true
}

fn number_deployment(view: &View, revision: i64, plan: &mut Plan) {
    let meta = &view.deployment.metadata;
    let held = meta.annotations.as_ref().and_then(|a| a.get(REVISION));
    if held != Some(&revision.to_string()) {
        let body = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
        plan.push(merge(row("apps/v1", "Deployment"), meta, body));
    }
}

/// Gives a set another size, and the annotations that say for which size of the Deployment.
pub(super) fn resize(view: &View, set: &ReplicaSet, to: i32, plan: &mut Plan) {
    let from = size(set);
    let sizes: BTreeMap<String, String> = sizes(view).into();
    let annotated = sizes.iter().all(|(k, v)| annotation(set, k) == Some(v));
    if from == to && annotated {
        return;
    }
    let mut body = json!({"metadata": {"annotations": sizes}});
    if from == to {
        plan.push(merge(row("apps/v1", "ReplicaSet"), &set.metadata, body));
        return;
    }
    body["spec"] = json!({"replicas": to});
    let verb = if to > from { "up" } else { "down" };
    let message = format!("Scaled {verb} replica set {} from {from} to {to}", meta::name(&set.metadata));
    let note = view.note("ScalingReplicaSet", message);
    plan.push_noted(merge(row("apps/v1", "ReplicaSet"), &set.metadata, body), note);
}

/// Deletes the oldest sets beyond `revisionHistoryLimit`.
pub(super) fn clean_up(view: &View, plan: &mut Plan) {
    let limit = view.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let mut old: Vec<_> = view.old().into_iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|s| number(s));
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for set in old.into_iter().take(surplus) {
        let idle = set.status.as_ref().is_none_or(|s| s.replicas == 0) && size(set) == 0;
        let seen = set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation;
        if idle && seen {
            plan.push(delete(row("apps/v1", "ReplicaSet"), &set.metadata));
        }
    }
}
