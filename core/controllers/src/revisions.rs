//! ControllerRevisions: the templates that a StatefulSet has had (upstream `pkg/controller/history`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::doc::Doc;
use crate::index::Index;
use crate::{meta, names};

/// Upstream's label on a revision.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";

/// A set's revisions, oldest first.
pub(crate) fn of_set(index: &Index, set: &StatefulSet) -> Vec<Arc<ControllerRevision>> {
    let mut list: Vec<Arc<ControllerRevision>> = index
        .owned_by(meta::uid(&set.metadata))
        .filter_map(|doc| match doc {
            Doc::ControllerRevision(r) if meta::is_controlled_by(&r.metadata, meta::uid(&set.metadata)) => {
                Some(Arc::clone(r))
            }
            _ => None,
        })
        .collect();
    list.sort_by(|a, b| a.revision.cmp(&b.revision).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    list
}

/// The part of a set that a revision keeps: a strategic merge patch that puts the template back.
pub(crate) fn data(set: &StatefulSet) -> Value {
    let mut template =
        set.spec.as_ref().and_then(|s| serde_json::to_value(&s.template).ok()).unwrap_or_else(|| json!({}));
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The revision that the set's template is, to be made where there is none like it.
pub(crate) fn wanted(set: &StatefulSet, number: i64) -> ControllerRevision {
    let data = data(set);
    let hash = names::hash(data.to_string().as_bytes());
    let mut labels = set.spec.as_ref().and_then(|s| s.template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(&set.metadata))),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![meta::controller_reference::<StatefulSet>(&set.metadata)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}
