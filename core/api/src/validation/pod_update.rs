//! What of a Pod may change (`ValidatePodUpdate`, `ValidatePodStatusUpdate`).

use serde_json::{Value, json};

use super::{each, meta};
use crate::document::{inherit, int, items, remove, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::names;

const REFUSAL: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update of a Pod: images, the deadline, added tolerations, removed scheduling gates.
pub fn update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = meta::update(new, old);
    let (spec, before, path) = (&new["spec"], &old["spec"], Path::root("spec"));
    for list in ["containers", "initContainers"] {
        if items(&spec[list]).len() != items(&before[list]).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(list), detail));
            return errors;
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, container) in items(&spec[list]).iter().enumerate() {
            let at = path.child(list).index(i).child("image");
            let image = text(&container["image"]);
            if image.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(&at, &container["image"], detail));
            }
        }
    }
    deadline(&mut errors, spec, before, &path.child("activeDeadlineSeconds"));
    let gates_before = items(&before["schedulingGates"]);
    for gate in items(&spec["schedulingGates"]).iter().filter(|g| !gates_before.contains(g)) {
        let detail =
            format!("only deletion is allowed, but found new scheduling gate '{}'", text(&gate["name"]));
        errors.push(FieldError::forbidden(&path.child("schedulingGates"), &detail));
    }
    tolerations(&mut errors, spec, before, &path.child("tolerations"));
    if !errors.is_empty() {
        return errors;
    }
    let munged = munge(spec, before);
    if munged != *before {
        errors.push(FieldError::forbidden(&path, &format!("{REFUSAL}\n{}", difference(before, &munged))));
    }
    errors
}

/// The new spec, with what may change set back to what it was.
fn munge(spec: &Value, before: &Value) -> Value {
    let mut munged = spec.clone();
    for list in ["containers", "initContainers"] {
        let Some(containers) = munged.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for (container, before) in containers.iter_mut().zip(items(&before[list])) {
            inherit(container, before, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        inherit(&mut munged, before, key);
    }
    let grace = "terminationGracePeriodSeconds";
    if int(&before[grace]) < 0 && int(&spec[grace]) == 1 {
        inherit(&mut munged, before, grace);
    }
    // A gated Pod's node selector may gain labels (KEP-3838).
    if !items(&before["schedulingGates"]).is_empty() {
        let added_only = before["nodeSelector"]
            .as_object()
            .is_none_or(|was| was.iter().all(|(k, v)| spec["nodeSelector"].get(k) == Some(v)));
        if added_only {
            inherit(&mut munged, before, "nodeSelector");
        }
    }
    munged
}

/// The top fields that differ, before and after, one a line.
fn difference(before: &Value, after: &Value) -> String {
    let mut keys: Vec<&String> =
        [before, after].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut said = String::new();
    for key in keys {
        let (was, is) = (before.get(key), after.get(key));
        if was != is {
            for (sign, value) in [('-', was), ('+', is)] {
                if let Some(value) = value {
                    said.push_str(&format!("{sign} {key:?}: {value},\n"));
                }
            }
        }
    }
    said
}

fn deadline(errors: &mut FieldErrors, spec: &Value, before: &Value, path: &Path) {
    let (new, old) = (&spec["activeDeadlineSeconds"], &before["activeDeadlineSeconds"]);
    match (new.as_i64(), old.as_i64()) {
        (Some(seconds), _) if seconds < 0 || seconds > i64::from(i32::MAX) => {
            let detail = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.push(FieldError::invalid(path, new, &detail));
        }
        (Some(now), Some(was)) if now > was => {
            errors.push(FieldError::invalid(path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, new, detail));
        }
        _ => {}
    }
}

/// `validateOnlyAddedTolerations`
fn tolerations(errors: &mut FieldErrors, spec: &Value, before: &Value, path: &Path) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, "tolerationSeconds");
        t
    };
    let now: Vec<Value> = items(&spec["tolerations"]).iter().map(bare).collect();
    if items(&before["tolerations"]).iter().any(|old| !now.contains(&bare(old))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// An update of a Pod's status by its node or scheduler.
pub fn status(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = meta::update(new, old);
    let (status, path) = (&new["status"], Path::root("status"));
    let nominated = &status["nominatedNodeName"];
    if !text(nominated).is_empty() {
        let wrong = names::dns1123_subdomain(text(nominated));
        each(&mut errors, &path.child("nominatedNodeName"), nominated, &wrong);
    }
    for (i, ip) in items(&status["podIPs"]).iter().enumerate() {
        super::address::ip(&mut errors, &path.child("podIPs").index(i), &json!(text(&ip["ip"])));
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        ended_for_good(&mut errors, new, old, list);
    }
    errors
}

/// `ValidateContainerStateTransition`: what ended for good does not come back.
fn ended_for_good(errors: &mut FieldErrors, new: &Value, old: &Value, list: &str) {
    let policy = text(&new["spec"]["restartPolicy"]);
    if policy == "Always" || list == "initContainerStatuses" {
        return;
    }
    for (i, before) in items(&old["status"][list]).iter().enumerate() {
        let ended = &before["state"]["terminated"];
        if ended.is_null() || (policy == "OnFailure" && int(&ended["exitCode"]) != 0) {
            continue;
        }
        let now = items(&new["status"][list]).iter().find(|c| c["name"] == before["name"]);
        if now.is_some_and(|c| c["state"]["terminated"].is_null()) {
            let path = Path::root("status").child(list).index(i).child("state");
            errors.push(FieldError::forbidden(&path, "may not be transitioned to non-terminated state"));
        }
    }
}
