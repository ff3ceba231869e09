//! [`Status`]: the answer to a request that fails (`metav1.Status`, `apimachinery/pkg/api/errors`).

use serde_json::{Map, Value, json};

use crate::field::FieldErrors;
use crate::kinds::Kind;

/// A refused request, as the client reads it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `Conflict`, `Invalid`, …; empty where upstream leaves it out.
    pub reason: &'static str,
    /// The sentence that kubectl prints.
    pub message: String,
    /// `details`, `Null` where there are none.
    pub details: Value,
}

impl Status {
    /// Any status, with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), details: Value::Null }
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::named(404, "NotFound", kind, name, format!("{} {name:?} not found", kind.qualified_plural()))
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::named(
            409,
            "AlreadyExists",
            kind,
            name,
            format!("{} {name:?} already exists", kind.qualified_plural()),
        )
    }

    /// 409: somebody else wrote in between, or a precondition does not hold.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        Self::named(
            409,
            "Conflict",
            kind,
            name,
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified_plural()),
        )
    }

    /// 403: `why` is the whole tail after `is forbidden: `.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let qualified = kind.qualified_plural();
        let message = if name.is_empty() {
            format!("{qualified} is forbidden: {why}")
        } else {
            format!("{qualified} {name:?} is forbidden: {why}")
        };
        Self::named(403, "Forbidden", kind, name, message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422 with one cause a field error.
    pub fn invalid(kind: &Kind, name: &str, errors: &FieldErrors) -> Self {
        Self::invalid_of(kind.group, kind.kind, name, errors)
    }

    /// 422 of what has no row, such as the options of a request (`CreateOptions` of `meta.k8s.io`).
    pub fn invalid_of(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        // The sentence says each error once (`ErrorList.ToAggregate`); the causes keep all.
        let mut said: Vec<String> = Vec::new();
        for error in errors {
            let line = format!("{}: {}", error.field, error.message);
            if !said.contains(&line) {
                said.push(line);
            }
        }
        let list = if said.len() == 1 { said.remove(0) } else { format!("[{}]", said.join(", ")) };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.reason.as_str(), "message": e.message, "field": e.field}))
            .collect();
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".into(), json!(name));
        }
        if !group.is_empty() {
            details.insert("group".into(), json!(group));
        }
        details.insert("kind".into(), json!(kind));
        if !causes.is_empty() {
            details.insert("causes".into(), Value::Array(causes));
        }
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        Status {
            code: 422,
            reason: "Invalid",
            message: format!("{qualified} {name:?} is invalid: {list}"),
            details: Value::Object(details),
        }
    }

    fn named(code: u16, reason: &'static str, kind: &Kind, name: &str, message: String) -> Self {
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".into(), json!(name));
        }
        if !kind.group.is_empty() {
            details.insert("group".into(), json!(kind.group));
        }
        details.insert("kind".into(), json!(kind.plural));
        Status { code, reason, message, details: Value::Object(details) }
    }

    /// The `Status` document.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code});
        if !self.reason.is_empty() {
            out["reason"] = json!(self.reason);
        }
        if !self.details.is_null() {
            out["details"] = self.details.clone();
        }
        out
    }
}
