//! [`Object`]: one immutable version of an API object, its encodings made once and shared.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One version of an object. Cloning is cheap; every reader and watcher shares the encoded copy.
#[derive(Clone, Debug)]
pub struct Object(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    value: Value,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

impl Object {
    /// Wraps a document. `metadata.resourceVersion`, where there is one, must already be in it.
    pub fn new(value: Value) -> Self {
        Object(Arc::new(Inner { value, json: OnceLock::new(), protobuf: OnceLock::new() }))
    }

    /// The document.
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// A copy of the document to change.
    pub fn to_value(&self) -> Value {
        self.0.value.clone()
    }

    /// The JSON encoding, made at the first call and shared from then on.
    pub fn json(&self) -> Bytes {
        // Writing a `Value` to memory cannot fail: its keys are strings.
        self.0.json.get_or_init(|| Bytes::from(serde_json::to_vec(&self.0.value).unwrap_or_default())).clone()
    }

    /// The protobuf encoding, made by `encode` at the first call and shared from then on.
    pub fn protobuf(&self, encode: impl FnOnce(&Value) -> Bytes) -> Bytes {
        self.0.protobuf.get_or_init(|| encode(&self.0.value)).clone()
    }

    /// The field at `path`, or `None` where any step of it is missing.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.0.value, |at, key| at.get(key))
    }

    /// The string at `path`, or "" where there is none.
    pub fn str(&self, path: &[&str]) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or("")
    }

    /// `apiVersion`, e.g. `apps/v1`.
    pub fn api_version(&self) -> &str {
        self.str(&["apiVersion"])
    }

    /// `kind`, e.g. `Deployment`.
    pub fn kind(&self) -> &str {
        self.str(&["kind"])
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.str(&["metadata", "name"])
    }

    /// `metadata.namespace`, "" for what lives in none.
    pub fn namespace(&self) -> &str {
        self.str(&["metadata", "namespace"])
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.str(&["metadata", "uid"])
    }

    /// `metadata.resourceVersion` as the store's revision, 0 where it is unset.
    pub fn revision(&self) -> u64 {
        self.str(&["metadata", "resourceVersion"]).parse().unwrap_or(0)
    }

    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.get(&["metadata", "labels", key]).and_then(Value::as_str)
    }

    /// One annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.get(&["metadata", "annotations", key]).and_then(Value::as_str)
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_terminating(&self) -> bool {
        self.get(&["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
    }

    /// A typed view (a `k8s_openapi` type, mostly).
    ///
    /// # Errors
    /// Where a field has another type than the view's.
    pub fn view<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0.value)
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.value == other.0.value
    }
}
