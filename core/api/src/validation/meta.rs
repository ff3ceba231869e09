//! `metadata` (`apimachinery/pkg/api/validation/objectmeta.go`).

use serde_json::{Value, json};

use super::{each, immutable, not_negative};
use crate::document::{entries, items, text, truth};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;

/// What annotations may weigh, keys and values together, in bytes.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// A rule for names.
pub type NameRule = fn(&str) -> Vec<String>;

const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Metadata alone, of a namespaced kind whose names are subdomains.
pub fn only(new: &Value, old: Option<&Value>) -> FieldErrors {
    object(new, old, Scope::Namespaced, names::dns1123_subdomain)
}

/// Metadata on create, or on update where there is an old object.
pub fn object(new: &Value, old: Option<&Value>, scope: Scope, rule: NameRule) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(update(new, old));
    }
    errors.extend(create(new, scope, rule));
    errors
}

/// `ValidateObjectMeta`
pub fn create(object: &Value, scope: Scope, rule: NameRule) -> FieldErrors {
    let (meta, path) = (&object["metadata"], Path::root("metadata"));
    let mut errors = Vec::new();
    let prefix = text(&meta["generateName"]);
    if !prefix.is_empty() {
        // What follows is appended: a trailing dash is fine.
        let masked = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |p| format!("{p}a"));
        each(&mut errors, &path.child("generateName"), &meta["generateName"], &rule(&masked));
    }
    let name = text(&meta["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        each(&mut errors, &path.child("name"), &meta["name"], &rule(name));
    }
    let namespace = text(&meta["namespace"]);
    match scope {
        Scope::Namespaced if namespace.is_empty() => {
            errors.push(FieldError::required(&path.child("namespace"), ""));
        }
        Scope::Namespaced => {
            let wrong = names::dns1123_label(namespace);
            each(&mut errors, &path.child("namespace"), &meta["namespace"], &wrong);
        }
        Scope::Cluster if !namespace.is_empty() => {
            errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type"));
        }
        Scope::Cluster => {}
    }
    not_negative(&mut errors, &path.child("generation"), &meta["generation"]);
    labels(&mut errors, &path.child("labels"), &meta["labels"]);
    annotations(&mut errors, &path.child("annotations"), &meta["annotations"]);
    owners(&mut errors, &path.child("ownerReferences"), &meta["ownerReferences"]);
    finalizers(&mut errors, &path.child("finalizers"), &meta["finalizers"]);
    for (i, finalizer) in items(&meta["finalizers"]).iter().enumerate() {
        standard_finalizer(&mut errors, &path.child("finalizers").index(i), finalizer);
    }
    errors
}

/// `ValidateObjectMetaUpdate`
pub fn update(new: &Value, old: &Value) -> FieldErrors {
    let (meta, before, path) = (&new["metadata"], &old["metadata"], Path::root("metadata"));
    let mut errors = Vec::new();
    if !before["deletionTimestamp"].is_null() {
        let had = items(&before["finalizers"]);
        let added: Vec<&str> =
            items(&meta["finalizers"]).iter().filter(|f| !had.contains(f)).map(text).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), &detail));
        }
    }
    let generation = |m: &Value| m["generation"].as_i64().unwrap_or(0);
    if generation(meta) < generation(before) {
        let at = path.child("generation");
        errors.push(FieldError::invalid(&at, &meta["generation"], "must not be decremented"));
    }
    for key in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        immutable(&mut errors, &path.child(key), &meta[key], &before[key]);
    }
    labels(&mut errors, &path.child("labels"), &meta["labels"]);
    annotations(&mut errors, &path.child("annotations"), &meta["annotations"]);
    owners(&mut errors, &path.child("ownerReferences"), &meta["ownerReferences"]);
    errors
}

/// Keys and values of labels.
pub fn labels(errors: &mut FieldErrors, path: &Path, labels: &Value) {
    for (key, value) in entries(labels) {
        each(errors, path, &json!(key), &names::qualified_name(key));
        each(errors, path, value, &names::label_value(text(value)));
    }
}

/// Keys of annotations, and their weight.
pub fn annotations(errors: &mut FieldErrors, path: &Path, annotations: &Value) {
    let mut weight = 0;
    for (key, value) in entries(annotations) {
        // Only the case of letters is freer than a label's key.
        each(errors, path, &json!(key), &names::qualified_name(&key.to_lowercase()));
        weight += key.len() + text(value).len();
    }
    if weight > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owners(errors: &mut FieldErrors, path: &Path, owners: &Value) {
    let mut controller: Option<&Value> = None;
    for owner in items(owners) {
        let api_version = text(&owner["apiVersion"]);
        let version = api_version.rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            let at = path.child("apiVersion");
            errors.push(FieldError::invalid(&at, &json!(api_version), "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(&owner[key]).is_empty() {
                errors.push(FieldError::invalid(&path.child(key), &json!(""), "must not be empty"));
            }
        }
        if api_version == "v1" && text(&owner["kind"]) == "Event" {
            errors.push(FieldError::invalid(
                path,
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if truth(&owner["controller"]) {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    text(&first["name"]),
                    text(&owner["name"])
                );
                errors.push(FieldError::invalid(path, owners, &detail));
                break;
            }
            controller = Some(owner);
        }
    }
}

fn finalizers(errors: &mut FieldErrors, path: &Path, finalizers: &Value) {
    let list = items(finalizers);
    for finalizer in list {
        each(errors, path, finalizer, &names::qualified_name(text(finalizer)));
    }
    let has = |name: &str| list.iter().any(|f| text(f) == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer set must not contain both orphan and foregroundDeletion";
        errors.push(FieldError::invalid(path, finalizers, detail));
    }
}

/// `validateKubeFinalizerName`: a name without a domain must be a standard one.
pub fn standard_finalizer(errors: &mut FieldErrors, path: &Path, finalizer: &Value) {
    let name = text(finalizer);
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, finalizer, detail));
    }
}

/// `metav1/validation.ValidateLabelSelector`
pub fn label_selector(errors: &mut FieldErrors, path: &Path, selector: &Value) {
    labels(errors, &path.child("matchLabels"), &selector["matchLabels"]);
    for (i, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = items(&expression["values"]);
        match text(&expression["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&path.child("values"), detail));
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" => {}
            _ => {
                let at = path.child("operator");
                errors.push(FieldError::invalid(
                    &at,
                    &expression["operator"],
                    "not a valid selector operator",
                ));
            }
        }
        let key = &expression["key"];
        each(errors, &path.child("key"), key, &names::qualified_name(text(key)));
        for (j, value) in values.iter().enumerate() {
            each(errors, &path.child("values").index(j), value, &names::label_value(text(value)));
        }
    }
}
