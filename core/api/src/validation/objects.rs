//! ConfigMaps, Secrets, ServiceAccounts, Events and Leases.

use serde_json::Value;

use super::{each, immutable, meta, not_negative};
use crate::document::{entries, int, text, truth};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;

/// What a ConfigMap's or Secret's values may weigh together, in bytes.
pub const DATA_MAX: usize = 1024 * 1024;

const FROZEN: &str = "field is immutable when `immutable` is set";

/// Once `immutable` is true, it and these fields stay.
fn frozen(errors: &mut FieldErrors, new: &Value, old: &Value, fields: &[&str]) {
    if !truth(&old["immutable"]) {
        return;
    }
    if !truth(&new["immutable"]) {
        errors.push(FieldError::forbidden(&Path::root("immutable"), FROZEN));
    }
    for field in fields {
        if new[*field] != old[*field] {
            errors.push(FieldError::forbidden(&Path::root(field), FROZEN));
        }
    }
}

/// Bytes of a base64 text, decoded.
fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// ConfigMap.
pub fn config_map(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(meta::update(new, old));
        frozen(&mut errors, new, old, &["data", "binaryData"]);
    }
    errors.extend(meta::create(new, Scope::Namespaced, names::dns1123_subdomain));
    let mut weight = 0;
    for (key, value) in entries(&new["data"]) {
        let path = Path::root("data").key(key);
        each(&mut errors, &path, &Value::from(key), &names::config_key(key));
        if new["binaryData"].get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(&path, &Value::from(key), detail));
        }
        weight += text(value).len();
    }
    for (key, value) in entries(&new["binaryData"]) {
        let path = Path::root("binaryData").key(key);
        each(&mut errors, &path, &Value::from(key), &names::config_key(key));
        weight += decoded_len(text(value));
    }
    if weight > DATA_MAX {
        errors.push(FieldError::too_long(&Path::root(""), DATA_MAX));
    }
    errors
}

/// Secret.
pub fn secret(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(meta::update(new, old));
        immutable(&mut errors, &Path::root("type"), &new["type"], &old["type"]);
        frozen(&mut errors, new, old, &["data"]);
    }
    errors.extend(meta::create(new, Scope::Namespaced, names::dns1123_subdomain));
    let data = Path::root("data");
    let mut weight = 0;
    for (key, value) in entries(&new["data"]) {
        each(&mut errors, &data.key(key), &Value::from(key), &names::config_key(key));
        weight += decoded_len(text(value));
    }
    if weight > DATA_MAX {
        errors.push(FieldError::too_long(&data, DATA_MAX));
    }
    let needs: &[&str] = match text(&new["type"]) {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needs {
        if new["data"].get(*key).is_none() {
            errors.push(FieldError::required(&data.key(key), ""));
        }
    }
    let has = |key: &str| new["data"].get(key).is_some();
    if text(&new["type"]) == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        errors.push(FieldError::required(&data.key("username"), ""));
        errors.push(FieldError::required(&data.key("password"), ""));
    }
    let account = "kubernetes.io/service-account.name";
    if text(&new["type"]) == "kubernetes.io/service-account-token"
        && text(&new["metadata"]["annotations"][account]).is_empty()
    {
        let path = Path::root("metadata").child("annotations").key(account);
        errors.push(FieldError::required(&path, ""));
    }
    errors
}

/// ServiceAccount.
pub fn service_account(new: &Value, old: Option<&Value>) -> FieldErrors {
    meta::only(new, old)
}

/// Event: it is about an object of its own namespace (`legacyValidateEvent`).
pub fn event(new: &Value, old: Option<&Value>) -> FieldErrors {
    about(new, old, "involvedObject")
}

/// `events.k8s.io` Event.
pub fn events_event(new: &Value, old: Option<&Value>) -> FieldErrors {
    about(new, old, "regarding")
}

fn about(new: &Value, old: Option<&Value>, field: &str) -> FieldErrors {
    let mut errors = meta::only(new, old);
    let (of, own) = (text(&new[field]["namespace"]), text(&new["metadata"]["namespace"]));
    // What is about an object of no namespace is kept in the default one.
    let expected = if of.is_empty() { "default" } else { of };
    if own != expected && !(of.is_empty() && own == "kube-system") {
        let path = Path::root(field).child("namespace");
        errors.push(FieldError::invalid(&path, &new[field]["namespace"], "does not match event.namespace"));
    }
    errors
}

/// Lease.
pub fn lease(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::only(new, old);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let duration = &spec["leaseDurationSeconds"];
    if !duration.is_null() && int(duration) <= 0 {
        let at = path.child("leaseDurationSeconds");
        errors.push(FieldError::invalid(&at, duration, "must be greater than 0"));
    }
    not_negative(&mut errors, &path.child("leaseTransitions"), &spec["leaseTransitions"]);
    errors
}
