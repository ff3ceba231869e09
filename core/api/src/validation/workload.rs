//! Deployments, ReplicaSets and ControllerRevisions (`pkg/apis/apps/validation`).

use serde_json::{Value, json};

use super::{each, immutable, meta, not_negative, pod};
use crate::document::{entries, int, items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;
use crate::selector::Selector;

/// Deployment.
pub fn deployment(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = metadata(new, old);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    not_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
    if let Some(selector) = selector(&mut errors, spec, &path, "deployment") {
        template(&mut errors, spec, &selector, &path.child("template"), "ReplicaSet");
    }
    strategy(&mut errors, &spec["strategy"], &path.child("strategy"));
    not_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    not_negative(&mut errors, &path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
    let (deadline, at) = (&spec["progressDeadlineSeconds"], path.child("progressDeadlineSeconds"));
    if !deadline.is_null() {
        not_negative(&mut errors, &at, deadline);
        if int(deadline) <= int(&spec["minReadySeconds"]) {
            errors.push(FieldError::invalid(&at, deadline, "must be greater than minReadySeconds"));
        }
    }
    if let Some(old) = old {
        immutable(&mut errors, &path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
    errors
}

/// ReplicaSet.
pub fn replica_set(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = metadata(new, old);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    not_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
    not_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
    if let Some(selector) = selector(&mut errors, spec, &path, "deployment") {
        template(&mut errors, spec, &selector, &path.child("template"), "ReplicaSet");
    }
    if let Some(old) = old {
        immutable(&mut errors, &path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
    errors
}

/// ControllerRevision: its data stays.
pub fn controller_revision(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = metadata(new, old);
    if new["data"].is_null() {
        errors.push(FieldError::required(&Path::root("data"), "data is mandatory"));
    }
    not_negative(&mut errors, &Path::root("revision"), &new["revision"]);
    if let Some(old) = old {
        immutable(&mut errors, &Path::root("data"), &new["data"], &old["data"]);
    }
    errors
}

/// Updates validate the metadata's change alone: what stood stands.
pub(super) fn metadata(new: &Value, old: Option<&Value>) -> FieldErrors {
    old.map_or_else(
        || meta::create(new, Scope::Namespaced, names::dns1123_subdomain),
        |old| meta::update(new, old),
    )
}

/// The selector, checked; `None` where it is none.
pub(super) fn selector(errors: &mut FieldErrors, spec: &Value, path: &Path, of: &str) -> Option<Selector> {
    let (selector, path) = (&spec["selector"], path.child("selector"));
    if selector.is_null() {
        errors.push(FieldError::required(&path, ""));
    } else {
        meta::label_selector(errors, &path, selector);
        if entries(&selector["matchLabels"]).next().is_none()
            && items(&selector["matchExpressions"]).is_empty()
        {
            let detail = format!("empty selector is invalid for {of}");
            errors.push(FieldError::invalid(&path, selector, &detail));
        }
    }
    match Selector::from_label_selector(selector) {
        Ok(selector) => Some(selector),
        Err(_) => {
            errors.push(FieldError::invalid(&path, selector, "invalid label selector"));
            None
        }
    }
}

/// The template: its labels are selected, its Pods run for ever.
pub(super) fn template(errors: &mut FieldErrors, spec: &Value, selector: &Selector, path: &Path, of: &str) {
    let template = &spec["template"];
    if template.is_null() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let labels = &template["metadata"]["labels"];
    if !selector.is_everything() && !selector.matches(labels) {
        let at = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&at, labels, "`selector` does not match template `labels`"));
    }
    pod::template(errors, template, path);
    let path = path.child("spec");
    let policy = &template["spec"]["restartPolicy"];
    if text(policy) != "Always" {
        errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let detail = format!("activeDeadlineSeconds in {of} is not Supported");
        errors.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), &detail));
    }
}

/// `ValidateDeploymentStrategy`
fn strategy(errors: &mut FieldErrors, strategy: &Value, path: &Path) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "Recreate" if !rolling.is_null() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&at, detail));
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => {
            errors.push(FieldError::required(&at, "this should be defaulted and never be nil"));
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            number_or_percent(errors, &at.child("maxUnavailable"), unavailable);
            number_or_percent(errors, &at.child("maxSurge"), surge);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(&at.child("maxUnavailable"), unavailable, detail));
            }
            at_most_all(errors, &at.child("maxUnavailable"), unavailable);
        }
        _ => {
            let known = &["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported(
                &path.child("type"),
                &json!(text(&strategy["type"])),
                known,
            ));
        }
    }
}

fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| digits.parse().unwrap_or(i64::MAX))
}

/// `getIntOrPercentValue`
fn amount(value: &Value) -> i64 {
    percent(value).unwrap_or_else(|| int(value))
}

/// `ValidatePositiveIntOrPercent`
pub(super) fn number_or_percent(errors: &mut FieldErrors, path: &Path, value: &Value) {
    if !value.is_string() {
        not_negative(errors, path, value);
    } else if percent(value).is_none() {
        let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
            '93%', regex used for validation is '[0-9]+%')";
        each(errors, path, value, &[detail.to_owned()]);
    }
}

/// `IsNotMoreThan100Percent`
pub(super) fn at_most_all(errors: &mut FieldErrors, path: &Path, value: &Value) {
    if percent(value).is_some_and(|p| p > 100) {
        errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
    }
}

/// Status of a Deployment: counts that fit together.
pub fn deployment_status(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = meta::update(new, old);
    let keys = &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
    ];
    counts(&mut errors, &new["status"], keys, &["updatedReplicas", "readyReplicas", "availableReplicas"]);
    errors
}

/// Status of a ReplicaSet: counts that fit together.
pub fn replica_set_status(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = meta::update(new, old);
    let within = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    let keys =
        &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    counts(&mut errors, &new["status"], keys, within);
    errors
}

/// None is negative, and none of `within` exceeds `replicas`.
pub(super) fn counts(errors: &mut FieldErrors, status: &Value, keys: &[&str], within: &[&str]) {
    let path = Path::root("status");
    for key in keys {
        not_negative(errors, &path.child(key), &status[*key]);
    }
    for key in within {
        if int(&status[*key]) > int(&status["replicas"]) {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(&path.child(key), &status[*key], detail));
        }
    }
    if int(&status["availableReplicas"]) > int(&status["readyReplicas"]) {
        let detail = "cannot be greater than readyReplicas";
        errors.push(FieldError::invalid(
            &path.child("availableReplicas"),
            &status["availableReplicas"],
            detail,
        ));
    }
}
