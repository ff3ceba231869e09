//! `metadata`: what the server fills in, keeps, and refuses to change (upstream
//! `k8s.io/apiserver/pkg/registry/rest`).

use sealane_api::document::{map, text};
use sealane_api::{Kind, Object, Status, names, time};
use serde_json::{Value, json};

use crate::{Context, Result};

/// A version 4 UUID of random bytes.
pub fn uuid(random: [u8; 16]) -> String {
    let mut b = random;
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Checks that the body's namespace is the path's and writes it where the body has none
/// (`rest.EnsureObjectNamespaceMatchesRequestNamespace`).
///
/// # Errors
/// 400 where they differ.
pub(crate) fn settle_namespace(kind: &Kind, document: &mut Value, namespace: &str) -> Result<()> {
    let given = text(&document["metadata"]["namespace"]).to_owned();
    let wanted = if kind.namespaced() { namespace } else { "" };
    if given.is_empty() {
        if !wanted.is_empty() {
            map(document, "metadata")["namespace"] = json!(wanted);
        }
        return Ok(());
    }
    if given == wanted {
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// Fills in a new object's metadata (`rest.BeforeCreate`).
pub(crate) fn before_create(kind: &Kind, document: &mut Value, context: &Context<'_>) {
    let meta = map(document, "metadata");
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"]
    {
        sealane_api::document::remove(meta, field);
    }
    let base = text(&meta["generateName"]).to_owned();
    if text(&meta["name"]).is_empty() && !base.is_empty() {
        meta["name"] = json!(names::generate(&base, context.suffix));
    }
    meta["uid"] = json!(uuid(context.uid));
    meta["creationTimestamp"] = json!(time::format(context.now));
    if kind.generation != sealane_api::kinds::Generation::None {
        meta["generation"] = json!(1);
    }
    drop_empty(meta);
}

/// Carries over what an update may not touch (`rest.BeforeUpdate`).
pub(crate) fn before_update(document: &mut Value, old: &Object) {
    let meta = map(document, "metadata");
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "namespace",
    ] {
        match old.get(&["metadata", field]) {
            Some(value) => meta[field] = value.clone(),
            None => sealane_api::document::remove(meta, field),
        }
    }
    if meta.get("generateName").is_none()
        && let Some(value) = old.get(&["metadata", "generateName"])
    {
        meta["generateName"] = value.clone();
    }
    sealane_api::document::remove(meta, "selfLink");
    drop_empty(meta);
}

/// Go's `omitempty`: empty maps, lists and strings of `metadata` are not written.
fn drop_empty(meta: &mut Value) {
    let Some(meta) = meta.as_object_mut() else { return };
    meta.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
}

/// Refuses a write whose preconditions do not hold: a resourceVersion and a uid, "" where not given.
///
/// # Errors
/// 409 with upstream's words for each.
pub fn check_preconditions(kind: &Kind, old: &Object, version: &str, uid: &str) -> Result<()> {
    let name = old.name();
    if !version.is_empty() && version != "0" && version != old.str(&["metadata", "resourceVersion"]) {
        return Err(Status::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    if !uid.is_empty() && uid != old.uid() {
        let key = registry_key(kind, old.namespace(), name);
        return Err(Status::conflict(
            kind,
            name,
            &format!(
                "StorageError: invalid object, Code: 4, Key: /registry{key}, ResourceVersion: 0, AdditionalErrorMsg: \
                 Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old.uid()
            ),
        ));
    }
    Ok(())
}

/// The key that upstream's storage error names.
fn registry_key(kind: &Kind, namespace: &str, name: &str) -> String {
    let resource = match (kind.group, kind.plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        (_, plural) => plural,
    };
    if namespace.is_empty() {
        format!("/{resource}/{name}")
    } else {
        format!("/{resource}/{namespace}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_version_4() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn a_body_may_leave_its_namespace_out_but_not_change_it() {
        let kind = sealane_api::kinds::by_kind("v1", "ConfigMap").unwrap();
        let mut body = json!({"metadata": {"name": "a"}});
        settle_namespace(kind, &mut body, "x").unwrap();
        assert_eq!(body["metadata"]["namespace"], "x");
        assert_eq!(settle_namespace(kind, &mut body, "y").unwrap_err().code, 400);
    }
}
