//! Field errors: what validation reports, in the words of
//! `k8s.io/apimachinery/pkg/util/validation/field`.

use serde_json::Value;

/// The path of a field, e.g. `spec.ports[0].targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path that starts at the object itself.
    pub fn root(field: &str) -> Self {
        Path(field.to_owned())
    }
    /// `self.field`.
    #[must_use]
    pub fn child(&self, field: &str) -> Self {
        Path(if self.0.is_empty() { field.to_owned() } else { format!("{}.{field}", self.0) })
    }
    /// `self[index]`.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }
    /// `self[key]`, for maps.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a field is refused (`field.ErrorType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueTooLong`
    TooLong,
    /// `FieldValueTooMany`
    TooMany,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// `FieldValueNotFound`
    NotFound,
}

impl Reason {
    /// The cause's `reason` in a Status.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
            Reason::NotFound => "FieldValueNotFound",
        }
    }
}

/// One refused field; `message` is the cause's whole message (e.g. `Invalid value: 0: must be …`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Why.
    pub reason: Reason,
    /// Which field.
    pub field: String,
    /// The cause's message.
    pub message: String,
}

/// The errors of one object, in the order in which upstream finds them.
pub type FieldErrors = Vec<FieldError>;

/// How upstream prints a bad value: strings quoted, everything else as JSON (`%#v` in spirit).
pub fn show(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

impl FieldError {
    /// `Required value[: detail]`
    pub fn required(path: &Path, detail: &str) -> Self {
        Self::of(Reason::Required, path, join("Required value", detail))
    }
    /// `Invalid value: VALUE: detail`
    pub fn invalid(path: &Path, value: &Value, detail: &str) -> Self {
        Self::of(Reason::Invalid, path, join(&format!("Invalid value: {}", show(value)), detail))
    }
    /// `Unsupported value: VALUE: supported values: "A", "B"`
    pub fn not_supported(path: &Path, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail =
            if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::of(Reason::NotSupported, path, join(&format!("Unsupported value: {}", show(value)), &detail))
    }
    /// `Forbidden: detail`
    pub fn forbidden(path: &Path, detail: &str) -> Self {
        Self::of(Reason::Forbidden, path, join("Forbidden", detail))
    }
    /// `Duplicate value: VALUE`
    pub fn duplicate(path: &Path, value: &Value) -> Self {
        Self::of(Reason::Duplicate, path, format!("Duplicate value: {}", show(value)))
    }
    /// `Not found: VALUE`
    pub fn not_found(path: &Path, value: &Value) -> Self {
        Self::of(Reason::NotFound, path, format!("Not found: {}", show(value)))
    }
    /// `Too many: ACTUAL: must have at most MAX items`
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        Self::of(Reason::TooMany, path, format!("Too many: {actual}: must have at most {max} items"))
    }
    /// `Too long: may not be more than MAX bytes`
    pub fn too_long(path: &Path, max: usize) -> Self {
        Self::of(Reason::TooLong, path, format!("Too long: may not be more than {max} bytes"))
    }
    /// An error with its cause message spelled out.
    pub fn of(reason: Reason, path: &Path, message: String) -> Self {
        FieldError { reason, field: path.as_str().to_owned(), message }
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}
