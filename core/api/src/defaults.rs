//! Defaults: what a client left out, filled in as kube-apiserver 1.36 does
//! (`pkg/apis/*/v1/defaults.go`), and what its strategies settle before validation.

pub mod cluster;
pub mod endpoints;
pub mod objects;
pub mod pod;
pub mod pod_admission;
pub mod prepare;
pub mod service;
pub mod service_families;
pub mod workload;

use serde_json::Value;

use crate::document::{drop_nulls, map, omit_empty, preset};
use crate::kinds::Kind;

/// Defaults a decoded object of a kind: nulls are dropped (except in what the kind does not look
/// into), its metadata is tidied, and the kind's own defaults are filled in.
pub fn apply(kind: &Kind, object: &mut Value) {
    // A ControllerRevision's data is somebody else's document.
    let opaque = (kind.kind == "ControllerRevision").then(|| object.get("data").cloned()).flatten();
    drop_nulls(object);
    if let Some(data) = opaque {
        object["data"] = data;
    }
    metadata(map(object, "metadata"));
    (kind.default)(object);
}

/// Leaves out what Go's `omitempty` would.
pub fn metadata(metadata: &mut Value) {
    omit_empty(
        metadata,
        &[
            "name",
            "generateName",
            "namespace",
            "selfLink",
            "uid",
            "resourceVersion",
            "generation",
            "labels",
            "annotations",
            "ownerReferences",
            "finalizers",
            "managedFields",
        ],
    );
}

/// A label selector, empty lists and maps left out.
pub(crate) fn label_selector(owner: &mut Value) {
    if let Some(selector) = owner.get_mut("selector") {
        omit_empty(selector, &["matchLabels", "matchExpressions"]);
    }
}

/// Go writes a condition's times even where they are unset.
pub(crate) fn condition_times(status: &mut Value, keys: &[&str]) {
    for condition in crate::document::items_mut(status, "conditions") {
        for key in keys {
            if condition.get(*key).is_none() && condition.is_object() {
                condition[*key] = Value::Null;
            }
        }
    }
}

/// `list[i].key` where it is missing.
pub(crate) fn preset_each(owner: &mut Value, list: &str, key: &str, to: &str) {
    for item in crate::document::items_mut(owner, list) {
        preset(item, key, to);
    }
}
