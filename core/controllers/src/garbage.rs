//! The garbage collector (upstream `pkg/controller/garbagecollector`): what lost its owners is deleted, an owner that
//! is deleted in the foreground waits for what blocks it, an orphaning one lets go first.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sealane_api::kinds::by_kind;
use serde_json::json;

use crate::doc::{Doc, Key, Row};
use crate::index::Index;
use crate::meta;
use crate::plan::{Plan, Propagation, Write, merge};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// `key`'s name is the object's uid.
pub(crate) fn plan(index: &Index, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(doc) = index.by_uid(&key.name) else { return plan };
    let Some(kind) = doc.kind() else { return plan };
    if !doc.is_terminating() {
        dependent(index, kind, doc, &mut plan);
    } else if has(doc.meta(), ORPHAN) {
        orphan(index, kind, doc, &mut plan);
    } else if has(doc.meta(), FOREGROUND) {
        foreground(index, kind, doc, &mut plan);
    }
    plan
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

fn without_finalizer(kind: Row, meta: &ObjectMeta, finalizer: &str) -> Write {
    let kept: Vec<_> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    merge(kind, meta, json!({"metadata": {"finalizers": kept}}))
}

fn without_owners(kind: Row, meta: &ObjectMeta, gone: impl Fn(&OwnerReference) -> bool) -> Write {
    let kept: Vec<_> = meta.owner_references.iter().flatten().filter(|o| !gone(o)).collect();
    merge(kind, meta, json!({"metadata": {"ownerReferences": kept}}))
}

/// Lets go of all dependents; the finalizer goes when none is left.
fn orphan(index: &Index, kind: Row, owner: &Doc, plan: &mut Plan) {
    for dependent in index.owned_by(owner.uid()) {
        if let Some(row) = dependent.kind() {
            plan.push(without_owners(row, dependent.meta(), |o| o.uid == owner.uid()));
        }
    }
    if plan.actions.is_empty() {
        plan.push(without_finalizer(kind, owner.meta(), ORPHAN));
    }
}

/// Waits for the dependents that block; each of them deletes itself when it is looked at.
fn foreground(index: &Index, kind: Row, owner: &Doc, plan: &mut Plan) {
    let blocks = |doc: &&Doc| {
        let mut owners = doc.meta().owner_references.iter().flatten();
        owners.any(|o| o.uid == owner.uid() && o.block_owner_deletion == Some(true))
    };
    let waiting: Vec<&Doc> = index.owned_by(owner.uid()).filter(blocks).collect();
    if waiting.is_empty() {
        plan.push(without_finalizer(kind, owner.meta(), FOREGROUND));
    }
    for doc in waiting {
        if let Some(row) = doc.kind().filter(|_| !doc.is_terminating()) {
            dependent(index, row, doc, plan);
        }
    }
}

fn dependent(index: &Index, kind: Row, doc: &Doc, plan: &mut Plan) {
    let meta = doc.meta();
    let Some(owners) = meta.owner_references.as_ref().filter(|o| !o.is_empty()) else { return };
    let namespace = meta.namespace.as_deref().unwrap_or("");
    let (mut solid, mut waiting, mut dangling, mut unknown) = (0, 0, 0, Vec::new());
    for owner in owners {
        match state(index, namespace, owner) {
            State::Solid => solid += 1,
            State::Waiting => waiting += 1,
            State::Gone => dangling += 1,
            State::Unknown(kind, key) => unknown.push(Write::Confirm { kind, key, uid: owner.uid.clone() }),
        }
    }
    if !unknown.is_empty() {
        unknown.into_iter().for_each(|w| plan.push(w));
    } else if solid > 0 {
        if waiting + dangling > 0 {
            plan.push(without_owners(kind, meta, |o| !matches!(state(index, namespace, o), State::Solid)));
        }
    } else {
        let has_dependents = index.owned_by(doc.uid()).next().is_some();
        let propagation = if (waiting > 0 && has_dependents) || has(meta, FOREGROUND) {
            Propagation::Foreground
        } else if has(meta, ORPHAN) {
            Propagation::Orphan
        } else {
            Propagation::Background
        };
        plan.push(Write::Delete {
            kind,
            key: Key::of(meta),
            uid: doc.uid().to_owned(),
            resource_version: meta.resource_version.clone(),
            propagation: Some(propagation),
            grace_seconds: None,
        });
    }
}

enum State {
    /// It is there.
    Solid,
    /// It is being deleted in the foreground and waits for this dependent.
    Waiting,
    /// It was there and is gone.
    Gone,
    /// To be asked for.
    Unknown(Row, Key),
}

fn state(index: &Index, namespace: &str, owner: &OwnerReference) -> State {
    if let Some(held) = index.by_uid(&owner.uid) {
        let waits =
            held.is_terminating() && has(held.meta(), FOREGROUND) && owner.block_owner_deletion == Some(true);
        let same = meta::name(held.meta()) == owner.name
            && held.meta().namespace.as_deref().is_none_or(|n| n == namespace);
        return match (same, waits) {
            (true, true) => State::Waiting,
            (true, false) => State::Solid,
            // The uid is another object's: this owner never was.
            (false, _) => State::Gone,
        };
    }
    if index.is_gone(&owner.uid) {
        return State::Gone;
    }
    match by_kind(&owner.api_version, &owner.kind) {
        Some(kind) => {
            let namespace = if kind.namespaced() { namespace } else { "" };
            State::Unknown(Row(kind), Key::new(namespace, &owner.name))
        }
        // Of a kind that isn't served nothing is known: it stays.
        None => State::Solid,
    }
}
