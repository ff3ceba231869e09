//! StatefulSets (`ValidateStatefulSet`, `ValidateStatefulSetUpdate`).

use serde_json::{Value, json};

use super::workload::{at_most_all, counts, metadata, number_or_percent, selector, template};
use super::{meta, not_negative};
use crate::document::{empty, inherit, text};
use crate::field::{FieldError, FieldErrors, Path};

const REFUSAL: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
    'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are \
    forbidden";

/// StatefulSet.
pub fn stateful_set(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = metadata(new, old);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    management(&mut errors, spec, &path);
    for (key, value) in [
        ("replicas", &spec["replicas"]),
        ("minReadySeconds", &spec["minReadySeconds"]),
        ("revisionHistoryLimit", &spec["revisionHistoryLimit"]),
    ] {
        not_negative(&mut errors, &path.child(key), value);
    }
    let start = path.child("ordinals").child("start");
    not_negative(&mut errors, &start, &spec["ordinals"]["start"]);
    if let Some(selector) = selector(&mut errors, spec, &path, "statefulset") {
        template(&mut errors, spec, &selector, &path.child("template"), "StatefulSet");
    }
    if let Some(old) = old {
        let mut munged = spec.clone();
        for key in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ] {
            inherit(&mut munged, &old["spec"], key);
        }
        if munged != old["spec"] {
            errors.push(FieldError::forbidden(&path, REFUSAL));
        }
    }
    errors
}

fn management(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let (policy, at) = (&spec["podManagementPolicy"], path.child("podManagementPolicy"));
    match text(policy) {
        "" => errors.push(FieldError::required(&at, "")),
        "OrderedReady" | "Parallel" => {}
        _ => errors.push(FieldError::invalid(&at, policy, "must be 'OrderedReady' or 'Parallel'")),
    }
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    let (rolling, rolling_at) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "" => errors.push(FieldError::required(&at, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(FieldError::invalid(&rolling_at, rolling, detail));
            }
        }
        "RollingUpdate" => {
            not_negative(errors, &rolling_at.child("partition"), &rolling["partition"]);
            let most = &rolling["maxUnavailable"];
            if !most.is_null() {
                let at = rolling_at.child("maxUnavailable");
                number_or_percent(errors, &at, most);
                if empty(most) || *most == json!("0%") {
                    errors.push(FieldError::invalid(&at, most, "cannot be 0"));
                }
                at_most_all(errors, &at, most);
            }
        }
        _ => errors.push(FieldError::invalid(&at, strategy, "must be 'RollingUpdate' or 'OnDelete'")),
    }
    let (retention, at) =
        (&spec["persistentVolumeClaimRetentionPolicy"], path.child("persistentVolumeClaimRetentionPolicy"));
    for key in ["whenDeleted", "whenScaled"] {
        if !retention.is_null() && !matches!(text(&retention[key]), "Retain" | "Delete") {
            errors.push(FieldError::not_supported(&at.child(key), &retention[key], &["Delete", "Retain"]));
        }
    }
}

/// Status: counts that fit together.
pub fn status(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = meta::update(new, old);
    let within = &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    let keys = &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    counts(&mut errors, &new["status"], keys, within);
    errors
}
