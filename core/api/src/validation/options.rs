//! Options of requests, and the bodies of subresources that are no view of the object
//! (`apimachinery/pkg/apis/meta/v1/validation`, `meta/internalversion/validation`). They are refused as
//! `CreateOptions`, `ListOptions`, … of `meta.k8s.io` by [`crate::Status::invalid_of`].

use serde_json::{Value, json};

use crate::document::{int, items, text};
use crate::field::{FieldError, FieldErrors, Path};

/// What a name of a field manager may grow to, in bytes.
pub const MANAGER_MAX: usize = 128;

/// The query of a create, update or patch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Write<'a> {
    /// `dryRun`, each time that it was given.
    pub dry_run: &'a [&'a str],
    /// `fieldManager`, "" for none.
    pub field_manager: &'a str,
    /// `fieldValidation`, "" for none.
    pub field_validation: &'a str,
    /// Whether it is a server-side apply, which needs a manager.
    pub apply: bool,
}

/// `ValidateCreateOptions`, `ValidateUpdateOptions`, `ValidatePatchOptions`
pub fn write(options: Write<'_>) -> FieldErrors {
    let mut errors = Vec::new();
    let manager = Path::root("fieldManager");
    if options.apply && options.field_manager.is_empty() {
        errors.push(FieldError::required(&manager, "is required for apply patch"));
    }
    if options.field_manager.len() > MANAGER_MAX {
        errors.push(FieldError::too_long(&manager, MANAGER_MAX));
    }
    if let Some(odd) = options.field_manager.chars().find(|c| c.is_control()) {
        let detail = format!("{} should not contain non-printable characters", odd.escape_default());
        errors.push(FieldError::invalid(&manager, &json!(options.field_manager), &detail));
    }
    dry_run(&mut errors, &json!(options.dry_run));
    let validation = json!(options.field_validation);
    let known = &["", "Ignore", "Strict", "Warn"];
    if !known.contains(&options.field_validation) {
        errors.push(FieldError::not_supported(&Path::root("fieldValidation"), &validation, known));
    }
    errors
}

fn dry_run(errors: &mut FieldErrors, values: &Value) {
    if items(values).iter().any(|v| text(v) != "All") {
        errors.push(FieldError::not_supported(&Path::root("dryRun"), values, &["All"]));
    }
}

/// `ValidateDeleteOptions`, of the body.
pub fn delete(options: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let (policy, path) = (&options["propagationPolicy"], Path::root("propagationPolicy"));
    if !policy.is_null() {
        if !options["orphanDependents"].is_null() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy, detail));
        }
        if !matches!(text(policy), "Foreground" | "Background" | "Orphan") {
            let known = &["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported(&path, policy, known));
        }
    }
    dry_run(&mut errors, &options["dryRun"]);
    errors
}

/// The query of a list or watch.
#[derive(Clone, Copy, Debug, Default)]
pub struct List<'a> {
    /// Whether it watches.
    pub watch: bool,
    /// `resourceVersion`, "" for none.
    pub resource_version: &'a str,
    /// `resourceVersionMatch`, "" for none.
    pub version_match: &'a str,
    /// `continue`, "" for none.
    pub continues: &'a str,
    /// `sendInitialEvents`, where it was given.
    pub initial_events: Option<bool>,
}

/// `ValidateListOptions`
pub fn list(options: List<'_>) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::root("resourceVersionMatch");
    let forbid = |errors: &mut FieldErrors, detail: &str| errors.push(FieldError::forbidden(&path, detail));
    let said = options.version_match;
    if options.watch {
        if options.initial_events.is_none() {
            if !said.is_empty() {
                forbid(
                    &mut errors,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            return errors;
        }
        if said.is_empty() {
            forbid(&mut errors, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        } else if said != "NotOlderThan" {
            let known = &["NotOlderThan"];
            errors.push(FieldError::not_supported(&path, &json!(said), known));
        }
        if !options.continues.is_empty() {
            forbid(&mut errors, "resourceVersionMatch is forbidden when continue is provided");
        }
        return errors;
    }
    if options.initial_events.is_some() {
        let detail = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden(&Path::root("sendInitialEvents"), detail));
    }
    if said.is_empty() {
        return errors;
    }
    if options.resource_version.is_empty() {
        forbid(&mut errors, "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !options.continues.is_empty() {
        forbid(&mut errors, "resourceVersionMatch is forbidden when continue is provided");
    }
    if !matches!(said, "Exact" | "NotOlderThan") {
        let known = &["Exact", "NotOlderThan", ""];
        errors.push(FieldError::not_supported(&path, &json!(said), known));
    }
    if said == "Exact" && options.resource_version == "0" {
        forbid(&mut errors, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
    }
    errors
}

/// `ValidatePodBinding`
pub fn binding(binding: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let (target, path) = (&binding["target"], Path::root("target"));
    if !matches!(text(&target["kind"]), "" | "Node") {
        errors.push(FieldError::not_supported(&path.child("kind"), &target["kind"], &["Node", "<empty>"]));
    }
    if text(&target["name"]).is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    errors
}

/// `ValidateTokenRequest`
pub fn token_request(request: &Value) -> FieldErrors {
    let (seconds, path) =
        (&request["spec"]["expirationSeconds"], Path::root("spec").child("expirationSeconds"));
    if seconds.is_null() {
        return Vec::new();
    }
    let detail = match int(seconds) {
        ..600 => "may not specify a duration less than 10 minutes",
        s if s > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
        _ => return Vec::new(),
    };
    vec![FieldError::invalid(&path, seconds, detail)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_watches_say_what_they_may() {
        let of = |o: List<'_>| list(o).len();
        assert_eq!(of(List::default()), 0);
        assert_eq!(of(List { resource_version: "5", version_match: "Exact", ..List::default() }), 0);
        assert_eq!(of(List { resource_version: "5", version_match: "Near", ..List::default() }), 1);
        assert_eq!(of(List { initial_events: Some(true), ..List::default() }), 1);
        let watch = List { watch: true, initial_events: Some(true), ..List::default() };
        assert_eq!(of(watch), 1);
        assert_eq!(of(List { version_match: "NotOlderThan", ..watch }), 0);
        assert_eq!(of(List { watch: true, version_match: "Exact", ..List::default() }), 1);
    }

    #[test]
    fn bodies_of_subresources_are_checked() {
        assert_eq!(binding(&json!({"target": {"kind": "Node", "name": "n"}})), []);
        assert_eq!(binding(&json!({"target": {"kind": "Pod"}})).len(), 2);
        assert_eq!(token_request(&json!({"spec": {"expirationSeconds": 599}})).len(), 1);
        assert_eq!(token_request(&json!({"spec": {}})), []);
    }
}
