//! A StatefulSet's history (`pkg/controller/history`, `stateful_set_utils.go`): one ControllerRevision for each template.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::doc::Doc;
use crate::index::Index;
use crate::plan::{Plan, Write, delete, merge, row};
use crate::{meta, names};

/// The label of Pods and revisions.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";

/// A set's revisions, oldest first.
pub(crate) fn held(index: &Index, set: &StatefulSet) -> Vec<Arc<ControllerRevision>> {
    let uid = meta::uid(&set.metadata);
    let mut all: Vec<_> = index
        .owned_by(uid)
        .filter(|d| meta::is_controlled_by(d.meta(), uid))
        .filter_map(|doc| match doc {
            Doc::ControllerRevision(revision) => Some(revision.clone()),
            _ => None,
        })
        .collect();
    all.sort_by_key(|r| (r.revision, meta::created(&r.metadata), r.metadata.name.clone()));
    all
}

/// What a revision keeps of a set: a patch that brings its template back.
fn data(set: &StatefulSet) -> Value {
    let mut template = serde_json::to_value(set.spec.as_ref().map(|s| &s.template)).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The revision of the present template, by its template: the newest such.
pub(crate) fn of_now(set: &StatefulSet, held: &[Arc<ControllerRevision>]) -> Option<Arc<ControllerRevision>> {
    let now = set.spec.as_ref().map(|s| &s.template);
    held.iter().rev().find(|r| template(r).as_ref() == now).cloned()
}

/// Makes the revision of the present template, or makes an old one the newest again (a rollback).
pub(crate) fn settle(set: &StatefulSet, held: &[Arc<ControllerRevision>], plan: &mut Plan) {
    let next = held.last().map_or(1, |r| r.revision + 1);
    let kind = row("apps/v1", "ControllerRevision");
    match of_now(set, held) {
        Some(same) if same.revision + 1 == next => {}
        Some(same) => plan.push(merge(kind, &same.metadata, json!({"revision": next}))),
        None => {
            let data = data(set);
            let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
            let mut document = serde_json::to_vec(&data).unwrap_or_default();
            document.extend(collisions.to_le_bytes());
            let hash = names::hash(&document);
            let name = meta::name(&set.metadata);
            let labels = set.spec.as_ref().and_then(|s| s.template.metadata.as_ref()?.labels.clone());
            let mut labels = labels.unwrap_or_default();
            labels.insert(HASH.to_owned(), hash.clone());
            let revision = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(format!("{name}-{hash}")),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels),
                    annotations: set.metadata.annotations.clone(),
                    owner_references: Some(vec![meta::controller_reference::<StatefulSet>(&set.metadata)]),
                    ..ObjectMeta::default()
                },
                data: Some(k8s_openapi::apimachinery::pkg::runtime::RawExtension(data)),
                revision: next,
            };
            let body = serde_json::to_value(&revision).unwrap_or_default();
            plan.push(Write::Create {
                kind,
                namespace: set.metadata.namespace.clone().unwrap_or_default(),
                body,
            });
        }
    }
}

/// Deletes what `revisionHistoryLimit` doesn't keep; `live` are in use.
pub(crate) fn truncate(set: &StatefulSet, held: &[Arc<ControllerRevision>], live: &[&str], plan: &mut Plan) {
    let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let old: Vec<_> = held.iter().filter(|r| !live.contains(&meta::name(&r.metadata))).collect();
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in old.into_iter().take(surplus) {
        plan.push(delete(row("apps/v1", "ControllerRevision"), &revision.metadata));
    }
}
