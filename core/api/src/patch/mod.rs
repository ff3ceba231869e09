//! Patches: what a request changes of an object, in each of the API's languages but apply.

mod json;
mod strategic;

use serde_json::Value;

use crate::decode::any_json;
use crate::kinds::Kind;
use crate::schema;
use crate::status::Status;
use crate::yaml;

/// The patch languages, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// Server-side apply: see `managed`.
    Apply,
}

impl PatchKind {
    /// By content type, parameters left out.
    pub fn of(content_type: &str) -> Option<Self> {
        Some(match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => PatchKind::Json,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/strategic-merge-patch+json" => PatchKind::Strategic,
            "application/apply-patch+yaml" => PatchKind::Apply,
            _ => return None,
        })
    }
}

/// The document that `old` becomes.
///
/// # Errors
/// 400 where the patch cannot be read, 422 where it cannot be applied.
pub fn apply(kind: &Kind, patch: PatchKind, old: &Value, body: &[u8]) -> Result<Value, Status> {
    let unreadable = |e: String| Status::bad_request(format!("error decoding patch: {e}"));
    match patch {
        PatchKind::Json => {
            let operations = any_json(body).map_err(unreadable)?;
            json::apply(old, &operations).map_err(|()| {
                Status::new(422, "Invalid", "the server rejected our request due to an error in our request")
            })
        }
        PatchKind::Merge => {
            let patch = any_json(body).map_err(unreadable)?;
            let mut new = old.clone();
            merge(&mut new, &patch);
            Ok(new)
        }
        PatchKind::Strategic => {
            let patch = any_json(body).map_err(unreadable)?;
            let Some(patch) = patch.as_object() else {
                return Err(unreadable(
                    "json: cannot unmarshal into Go value of type map[string]interface {}".into(),
                ));
            };
            let mut new = old.clone();
            strategic::merge(&mut new, patch, schema::definition(kind.schema))
                .map_err(|why| Status::new(422, "Invalid", why))?;
            Ok(new)
        }
        PatchKind::Apply => yaml::parse(&String::from_utf8_lossy(body)).map_err(unreadable),
    }
}

/// RFC 7386, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = target else { return };
    for (key, value) in fields {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
