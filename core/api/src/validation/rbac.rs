//! Roles and their bindings (`pkg/apis/rbac/validation`).

use serde_json::{Value, json};

use super::{each, meta};
use crate::document::{items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Role.
pub fn role(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::object(new, old, Scope::Namespaced, names::path_segment);
    rules(&mut errors, &new["rules"], true);
    errors
}

/// ClusterRole.
pub fn cluster_role(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = meta::object(new, old, Scope::Cluster, names::path_segment);
    rules(&mut errors, &new["rules"], false);
    let selectors = &new["aggregationRule"]["clusterRoleSelectors"];
    let path = Path::root("aggregationRule").child("clusterRoleSelectors");
    if !new["aggregationRule"].is_null() && items(selectors).is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(&path, detail));
    }
    for (i, selector) in items(selectors).iter().enumerate() {
        meta::label_selector(&mut errors, &path.index(i), selector);
    }
    errors
}

fn rules(errors: &mut FieldErrors, rules: &Value, namespaced: bool) {
    for (i, rule) in items(rules).iter().enumerate() {
        let path = Path::root("rules").index(i);
        let none = |key: &str| items(&rule[key]).is_empty();
        if none("verbs") {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !none("nonResourceURLs") {
            let (at, urls) = (path.child("nonResourceURLs"), &rule["nonResourceURLs"]);
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&at, urls, detail));
            }
            if !none("apiGroups") || !none("resources") || !none("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&at, urls, detail));
            }
            continue;
        }
        if none("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.child("apiGroups"), detail));
        }
        if none("resources") {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.child("resources"), detail));
        }
    }
}

/// RoleBinding.
pub fn role_binding(new: &Value, old: Option<&Value>) -> FieldErrors {
    binding(new, old, Scope::Namespaced, &["Role", "ClusterRole"])
}

/// ClusterRoleBinding.
pub fn cluster_role_binding(new: &Value, old: Option<&Value>) -> FieldErrors {
    binding(new, old, Scope::Cluster, &["ClusterRole"])
}

fn binding(new: &Value, old: Option<&Value>, scope: Scope, kinds: &[&str]) -> FieldErrors {
    let mut errors = meta::object(new, old, scope, names::path_segment);
    let (reference, path) = (&new["roleRef"], Path::root("roleRef"));
    if text(&reference["apiGroup"]) != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), &reference["apiGroup"], &[GROUP]));
    }
    if !kinds.contains(&text(&reference["kind"])) {
        let kind = json!(text(&reference["kind"]));
        errors.push(FieldError::not_supported(&path.child("kind"), &kind, kinds));
    }
    let name = text(&reference["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        each(&mut errors, &path.child("name"), &reference["name"], &names::path_segment(name));
    }
    for (i, subject) in items(&new["subjects"]).iter().enumerate() {
        self::subject(&mut errors, &Path::root("subjects").index(i), subject, scope);
    }
    if old.is_some_and(|old| old["roleRef"] != *reference) {
        errors.push(FieldError::invalid(&path, reference, "cannot change roleRef"));
    }
    errors
}

fn subject(errors: &mut FieldErrors, path: &Path, subject: &Value, scope: Scope) {
    let name = text(&subject["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let group = json!(text(&subject["apiGroup"]));
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                each(errors, &path.child("name"), &subject["name"], &names::dns1123_subdomain(name));
            }
            if !text(&group).is_empty() {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), &group, &[""]));
            }
            if scope == Scope::Cluster && text(&subject["namespace"]).is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if text(&group) != GROUP {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), &group, &[GROUP]));
            }
        }
        kind => {
            let known = &["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(&path.child("kind"), &json!(kind), known));
        }
    }
}
