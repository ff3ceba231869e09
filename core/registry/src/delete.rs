//! Deletion: at once, or marked and left to finalizers, the node or the namespace controller
//! (upstream `rest.BeforeDelete`, `registry/generic/registry/store.go`).

use sealane_api::document::{int, items, map, text};
use sealane_api::{Kind, Object, Status, time};
use serde_json::{Value, json};

use crate::{Context, Result};

/// `metav1.DeleteOptions`, as far as it decides anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_seconds: Option<i64>,
    /// `preconditions.uid`, "" where not given.
    pub uid: String,
    /// `preconditions.resourceVersion`, "" where not given.
    pub version: String,
    /// `Orphan`, `Background`, `Foreground`, "" where not given.
    pub propagation: String,
}

impl DeleteOptions {
    /// From a DeleteOptions document.
    pub fn from_document(document: &Value) -> Self {
        let orphan = document["orphanDependents"].as_bool();
        let propagation = match (text(&document["propagationPolicy"]), orphan) {
            ("", Some(true)) => "Orphan",
            (given, _) => given,
        };
        DeleteOptions {
            grace_seconds: document["gracePeriodSeconds"].as_i64(),
            uid: text(&document["preconditions"]["uid"]).to_owned(),
            version: text(&document["preconditions"]["resourceVersion"]).to_owned(),
            propagation: propagation.to_owned(),
        }
    }
}

/// What a delete does.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// The object goes now.
    Now,
    /// It is marked; somebody takes it away later. The new document.
    Marked(Value),
    /// It is marked already, and nothing changes.
    Pending,
}

/// Decides what a delete does to an object.
///
/// # Errors
/// 409 where a precondition does not hold.
pub fn delete(
    kind: &'static Kind,
    old: &Object,
    options: &DeleteOptions,
    context: &Context<'_>,
) -> Result<Deletion> {
    check_deletable(kind, old, options)?;
    let mut new = old.to_value();
    let wish = match options.propagation.as_str() {
        "Orphan" => Some("orphan"),
        "Foreground" => Some("foregroundDeletion"),
        _ => None,
    };
    set_finalizers(&mut new, wish, &options.propagation);
    let grace = grace(kind, old, options.grace_seconds);
    let finalizers = !items(&new["metadata"]["finalizers"]).is_empty()
        || kind.kind == "Namespace" && !items(&new["spec"]["finalizers"]).is_empty();
    if grace == 0 && !finalizers {
        return Ok(Deletion::Now);
    }
    let meta = map(&mut new, "metadata");
    let marked = meta.get("deletionTimestamp").is_some();
    let before = meta.get("deletionGracePeriodSeconds").map(int);
    // A shorter grace period counts, a longer one does not.
    if !marked || before.is_some_and(|b| grace < b) {
        meta["deletionTimestamp"] = json!(time::format(context.now + grace));
        // A Namespace is finalized, not given time.
        if kind.kind != "Namespace" {
            meta["deletionGracePeriodSeconds"] = json!(grace);
        }
        // The new generation tells the node that there is something to do.
        if let Some(generation) = meta.get("generation").map(int)
            && generation > 0
        {
            meta["generation"] = json!(generation + 1);
        }
    }
    if kind.kind == "Namespace" {
        map(&mut new, "status")["phase"] = json!("Terminating");
    }
    if new == *old.value() { Ok(Deletion::Pending) } else { Ok(Deletion::Marked(new)) }
}

/// A delete names the kind where other requests name the resource (`rest.BeforeDelete`).
fn check_deletable(kind: &Kind, old: &Object, options: &DeleteOptions) -> Result<()> {
    let refuse = |why: String| {
        let mut status = Status::conflict(kind, old.name(), &why);
        let own = if kind.group.is_empty() {
            kind.kind.to_owned()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        status.message = format!("Operation cannot be fulfilled on {own} {:?}: {why}", old.name());
        status.details["kind"] = json!(kind.kind);
        Err(status)
    };
    let tail = "The object might have been deleted and then recreated";
    if !options.uid.is_empty() && options.uid != old.uid() {
        let (asked, own) = (&options.uid, old.uid());
        return refuse(format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({own}). {tail}"
        ));
    }
    let own = old.str(&["metadata", "resourceVersion"]);
    if !options.version.is_empty() && options.version != own {
        let asked = &options.version;
        return refuse(format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({own}). \
             The object might have been modified"
        ));
    }
    Ok(())
}

fn set_finalizers(new: &mut Value, wish: Option<&str>, propagation: &str) {
    if wish.is_none() && propagation.is_empty() {
        return;
    }
    let meta = map(new, "metadata");
    let mut finalizers: Vec<Value> = items(&meta["finalizers"]).to_vec();
    finalizers.retain(|f| f != "orphan" && f != "foregroundDeletion");
    finalizers.extend(wish.map(Value::from));
    if finalizers.is_empty() {
        sealane_api::document::remove(meta, "finalizers");
    } else {
        meta["finalizers"] = json!(finalizers);
    }
}

/// Seconds that an object gets: Pods that run somewhere their own, everything else none
/// (`pkg/registry/core/pod/strategy.go`, `CheckGracefulDelete`).
fn grace(kind: &Kind, old: &Object, asked: Option<i64>) -> i64 {
    if kind.kind != "Pod" {
        return 0;
    }
    let own = || old.get(&["spec", "terminationGracePeriodSeconds"]).map_or(30, int);
    let period = asked.unwrap_or_else(own);
    let period = if period < 0 { 1 } else { period };
    let phase = old.str(&["status", "phase"]);
    let nowhere = old.str(&["spec", "nodeName"]).is_empty();
    if nowhere || phase == "Failed" || phase == "Succeeded" { 0 } else { period }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::kinds::by_kind;

    fn object(value: Value) -> Object {
        Object::new(value)
    }

    fn options(grace: Option<i64>, propagation: &str) -> DeleteOptions {
        DeleteOptions { grace_seconds: grace, propagation: propagation.into(), ..DeleteOptions::default() }
    }

    #[test]
    fn pods_that_run_get_their_time() {
        let kind = by_kind("v1", "Pod").unwrap();
        let context = Context { now: 1000, ..Context::default() };
        let running = object(json!({"metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": "n",
            "terminationGracePeriodSeconds": 7}, "status": {"phase": "Running"}}));
        let Deletion::Marked(marked) = delete(kind, &running, &options(None, ""), &context).unwrap() else {
            panic!("not marked")
        };
        assert_eq!(marked["metadata"]["deletionTimestamp"], time::format(1007));
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
        let marked = object(marked);
        assert_eq!(delete(kind, &marked, &options(None, ""), &context).unwrap(), Deletion::Pending);
        let shorter = delete(kind, &marked, &options(Some(2), ""), &context).unwrap();
        assert!(matches!(shorter, Deletion::Marked(v) if v["metadata"]["deletionGracePeriodSeconds"] == 2));
        assert_eq!(delete(kind, &marked, &options(Some(0), ""), &context).unwrap(), Deletion::Now);
        let waiting = object(json!({"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending"}}));
        assert_eq!(delete(kind, &waiting, &options(None, ""), &context).unwrap(), Deletion::Now);
    }

    #[test]
    fn finalizers_hold_an_object() {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let context = Context { now: 1000, ..Context::default() };
        let held = object(json!({"metadata": {"name": "c", "finalizers": ["x.io/y"]}}));
        assert!(matches!(delete(kind, &held, &options(None, ""), &context).unwrap(), Deletion::Marked(_)));
        let free = object(json!({"metadata": {"name": "c"}}));
        assert_eq!(delete(kind, &free, &options(None, "Background"), &context).unwrap(), Deletion::Now);
        let Deletion::Marked(v) = delete(kind, &free, &options(None, "Foreground"), &context).unwrap() else {
            panic!("not marked")
        };
        assert_eq!(v["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    }

    #[test]
    fn a_namespace_ends_when_its_content_has() {
        let kind = by_kind("v1", "Namespace").unwrap();
        let ns = object(
            json!({"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        );
        let Deletion::Marked(v) = delete(kind, &ns, &options(None, ""), &Context::default()).unwrap() else {
            panic!("not marked")
        };
        assert_eq!(v["status"]["phase"], "Terminating");
    }

    #[test]
    fn preconditions_hold_or_nothing_happens() {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let found = object(json!({"metadata": {"name": "c", "uid": "u", "resourceVersion": "3"}}));
        for (uid, version) in [("other", ""), ("", "2")] {
            let wish = DeleteOptions { uid: uid.into(), version: version.into(), ..DeleteOptions::default() };
            assert_eq!(delete(kind, &found, &wish, &Context::default()).unwrap_err().code, 409);
        }
    }
}
