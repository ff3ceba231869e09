//! Validation: what must not be stored, refused with upstream's words, order and field paths
//! (`pkg/apis/*/validation`).

pub mod address;
pub mod cluster;
pub mod container;
pub mod endpoints;
pub mod meta;
pub mod objects;
pub mod options;
pub mod pod;
pub mod pod_update;
pub mod rbac;
pub mod service;
pub mod stateful_set;
pub mod volume;
pub mod warnings;
pub mod workload;

use serde_json::Value;

use crate::document::int;
use crate::field::{FieldError, FieldErrors, Path};
use crate::names;

/// Refuses a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// One error for each message about a value.
fn each(errors: &mut FieldErrors, path: &Path, value: &Value, messages: &[String]) {
    errors.extend(messages.iter().map(|m| FieldError::invalid(path, value, m)));
}

fn immutable(errors: &mut FieldErrors, path: &Path, new: &Value, old: &Value) {
    if new != old {
        errors.push(FieldError::invalid(path, new, IMMUTABLE));
    }
}

fn not_negative(errors: &mut FieldErrors, path: &Path, value: &Value) {
    if int(value) < 0 {
        errors.push(FieldError::invalid(path, value, NOT_NEGATIVE));
    }
}

/// Required, and one of a set.
fn one_of(errors: &mut FieldErrors, path: &Path, value: &Value, supported: &[&str]) {
    match value.as_str() {
        None | Some("") => errors.push(FieldError::required(path, "")),
        Some(s) if supported.contains(&s) => {}
        Some(_) => errors.push(FieldError::not_supported(path, value, supported)),
    }
}

fn port_number(errors: &mut FieldErrors, path: &Path, value: &Value) {
    if let Some(message) = names::port_number(int(value)) {
        errors.push(FieldError::invalid(path, value, &message));
    }
}

/// `ValidatePortNumOrName`
fn port_number_or_name(errors: &mut FieldErrors, path: &Path, value: &Value) {
    match value {
        Value::String(name) => each(errors, path, value, &names::port_name(name)),
        Value::Null => port_number(errors, path, &Value::from(0)),
        number => port_number(errors, path, number),
    }
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
