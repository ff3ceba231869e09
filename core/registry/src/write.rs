//! Creates and updates: from a decoded body to the document that is stored.

use bytes::Bytes;
use sealane_api::document::{int, map, remove, text};
use sealane_api::managed::{self, Writer};
use sealane_api::{Kind, Object, Status, defaults, time};
use serde_json::{Value, json};

use crate::metadata::{before_create, before_update, check_preconditions, settle_namespace};
use crate::{Context, Result, pods};

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Whole,
    /// The status alone.
    Status,
    /// A Namespace's finalizers.
    Finalizers,
}

/// The document that a create stores, but for what an allocator gives ([`crate::services`]).
///
/// # Errors
/// 400 for another namespace, 403 where the namespace ends or admission refuses, 404 where the namespace does
/// not exist, 422 where validation refuses.
pub fn create(kind: &'static Kind, mut body: Value, namespace: &str, context: &Context<'_>) -> Result<Value> {
    settle_namespace(kind, &mut body, namespace)?;
    let name = text(&body["metadata"]["name"]).to_owned();
    check_namespace(kind, &name, namespace, context)?;
    defaults::apply(kind, &mut body);
    if !context.manager.is_empty() {
        let now = time::format(context.now);
        managed::update(
            kind,
            &mut body,
            None,
            &Writer { manager: context.manager, subresource: "", now: &now },
        );
    }
    (kind.prepare_create)(&mut body);
    before_create(kind, &mut body, context);
    if kind.kind == "Pod" {
        pods::admit(kind, &mut body, context)?;
    }
    let mut errors = match kind.kind {
        "Service" => {
            let families = if context.families.is_empty() { &["IPv4"][..] } else { context.families };
            defaults::service_families::settle(&mut body, families)
        }
        _ => Vec::new(),
    };
    if errors.is_empty() {
        errors = (kind.validate)(&body, None);
    }
    if errors.is_empty() { Ok(body) } else { Err(Status::invalid(kind, &name, &errors)) }
}

/// NamespaceLifecycle: nothing is made in a namespace that is not there or on its way out.
fn check_namespace(kind: &Kind, name: &str, namespace: &str, context: &Context<'_>) -> Result<()> {
    if !kind.namespaced() {
        return Ok(());
    }
    let namespaces = sealane_api::kinds::by_kind("v1", "Namespace");
    match (context.namespace, namespaces) {
        (Some(found), _) if found.is_terminating() => {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut status = Status::forbidden(kind, name, &why);
            if let Some(details) = status.details.as_object_mut() {
                let message = format!("namespace {namespace} is being terminated");
                details.insert(
                    "causes".into(),
                    json!([{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]),
                );
            }
            Err(status)
        }
        (Some(_), _) => Ok(()),
        (None, Some(namespaces)) => Err(Status::not_found(namespaces, namespace)),
        (None, None) => Err(Status::new(404, "NotFound", format!("namespaces {namespace:?} not found"))),
    }
}

/// The document that an update stores, or `None` where it changes nothing: then nothing is written and the
/// version stays. `by` becomes the owner of what it changes; without, the body says who owns what.
///
/// # Errors
/// 409 where the body's version or uid is not the object's, 422 where validation refuses.
pub fn replace(
    kind: &'static Kind,
    part: Part,
    mut body: Value,
    old: &Object,
    by: Option<&Writer<'_>>,
) -> Result<Option<Value>> {
    settle_namespace(kind, &mut body, old.namespace())?;
    let meta = &body["metadata"];
    if part == Part::Whole && text(&meta["resourceVersion"]).is_empty() && !kind.unconditional_update {
        let path = sealane_api::field::Path::root("metadata").child("resourceVersion");
        let error =
            sealane_api::field::FieldError::invalid(&path, &json!(0), "must be specified for an update");
        return Err(Status::invalid(kind, old.name(), &vec![error]));
    }
    check_preconditions(kind, old, text(&meta["resourceVersion"]), text(&meta["uid"]))?;
    defaults::apply(kind, &mut body);
    if let Some(by) = by {
        managed::update(kind, &mut body, Some(old.value()), by);
    }
    before_update(&mut body, old);
    let errors = match part {
        Part::Whole => {
            (kind.prepare_update)(&mut body, old.value());
            (kind.validate)(&body, Some(old.value()))
        }
        Part::Status => {
            kind.prepare_status(&mut body, old.value());
            (kind.validate_status)(&body, old.value())
        }
        Part::Finalizers => {
            let finalizers = body["spec"]["finalizers"].clone();
            let meta = body["metadata"].clone();
            body = old.to_value();
            map(&mut body, "spec")["finalizers"] = finalizers;
            for field in ["finalizers", "managedFields"] {
                match meta.get(field) {
                    Some(value) => map(&mut body, "metadata")[field] = value.clone(),
                    None => remove(map(&mut body, "metadata"), field),
                }
            }
            Vec::new()
        }
    };
    if !errors.is_empty() {
        return Err(Status::invalid(kind, old.name(), &errors));
    }
    map(&mut body, "metadata")["resourceVersion"] =
        old.get(&["metadata", "resourceVersion"]).cloned().unwrap_or_default();
    if same(&body, old.value()) {
        return Ok(None);
    }
    if part == Part::Whole && kind.generation_changes(&body, old.value()) {
        map(&mut body, "metadata")["generation"] = json!(int(&old.value()["metadata"]["generation"]) + 1);
    }
    Ok(Some(body))
}

/// Equal but for when fields were last managed.
fn same(new: &Value, old: &Value) -> bool {
    let bare = |v: &Value| {
        let mut v = v.clone();
        for entry in sealane_api::document::items_mut(map(&mut v, "metadata"), "managedFields") {
            remove(entry, "time");
        }
        v
    };
    new == old || bare(new) == bare(old)
}

/// Whether an update has taken the last finalizer of an object that was to be deleted: then it goes.
pub fn finalized(new: &Value) -> bool {
    let meta = &new["metadata"];
    let pending = meta.get("finalizers").is_some_and(|f| !sealane_api::document::empty(f))
        || new["spec"]
            .get("finalizers")
            .is_some_and(|f| new["kind"] == "Namespace" && !sealane_api::document::empty(f));
    let grace = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    meta.get("deletionTimestamp").is_some() && !pending && grace == 0
}

/// The bytes that are stored: in the kind's kept form, without its version, which is the commit's.
pub fn stored(kind: &'static Kind, document: &Value) -> Bytes {
    let mut kept = document.clone();
    if let Some(stored) = kind.stored_as {
        (stored.into)(&mut kept);
    }
    remove(map(&mut kept, "metadata"), "resourceVersion");
    // Keys of documents are strings.
    Bytes::from(serde_json::to_vec(&kept).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::kinds::by_kind;

    fn namespace(terminating: bool) -> Object {
        let mut ns = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
        if terminating {
            ns["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Object::new(ns)
    }

    fn made(version: u64) -> Object {
        let ns = namespace(false);
        let kind = by_kind("apps/v1", "Deployment").unwrap();
        let body = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        let mut body = body;
        body["apiVersion"] = json!("apps/v1");
        body["kind"] = json!("Deployment");
        let context = Context { now: 100, namespace: Some(&ns), ..Context::default() };
        let mut made = create(kind, body, "x", &context).unwrap();
        made["metadata"]["resourceVersion"] = json!(version.to_string());
        Object::new(made)
    }

    #[test]
    fn nothing_is_made_where_no_namespace_is_or_where_it_ends() {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
        let missing = create(kind, body.clone(), "x", &Context::default()).unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"x\" not found"));
        let ending = namespace(true);
        let context = Context { namespace: Some(&ending), ..Context::default() };
        let refused = create(kind, body, "x", &context).unwrap_err();
        assert_eq!(refused.code, 403);
        assert!(refused.message.ends_with("because it is being terminated"), "{}", refused.message);
    }

    #[test]
    fn generation_counts_changes_of_the_spec_alone() {
        let kind = by_kind("apps/v1", "Deployment").unwrap();
        let old = made(7);
        assert_eq!(old.value()["metadata"]["generation"], 1);
        assert_eq!(replace(kind, Part::Whole, old.to_value(), &old, None).unwrap(), None, "nothing changed");
        let mut scaled = old.to_value();
        scaled["spec"]["replicas"] = json!(3);
        let scaled = replace(kind, Part::Whole, scaled, &old, None).unwrap().unwrap();
        assert_eq!(scaled["metadata"]["generation"], 2);
        let mut status = old.to_value();
        status["status"]["replicas"] = json!(3);
        status["spec"]["replicas"] = json!(9);
        let status = replace(kind, Part::Status, status, &old, None).unwrap().unwrap();
        assert_eq!(status["metadata"]["generation"], 1);
        assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(3)));
    }

    #[test]
    fn an_old_version_is_a_conflict() {
        let kind = by_kind("apps/v1", "Deployment").unwrap();
        let old = made(7);
        let mut body = old.to_value();
        body["metadata"]["resourceVersion"] = json!("6");
        let refused = replace(kind, Part::Whole, body, &old, None).unwrap_err();
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    }
}
