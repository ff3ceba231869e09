//! Field ownership and server-side apply (KEP-555, `apimachinery/pkg/util/managedfields`): who wrote which field
//! of an object, and what a configuration that somebody applies changes of it.
//!
//! A document must be as Go would write it: decoded, defaulted, and not yet prepared by its kind's strategy.

mod compare;
mod entries;
mod merge;
mod set;
mod shape;
mod step;

use serde_json::{Value, json};

use crate::document::{items, map, remove, text};
use crate::kinds::{Kind, Subresource};
use crate::protobuf;
use crate::status::Status;
use compare::Comparison;
use entries::{Owned, Owner, Owners};
use set::Set;
use shape::Shape;

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or what the `User-Agent` has before its first `/`.
    pub manager: &'a str,
    /// `status`, `scale`, …; "" where the object itself is written.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}

/// What nobody owns (`stripmeta.go`).
const UNTRACKED: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.clusterName",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// The owner of what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

impl Writer<'_> {
    fn owner(&self, kind: &Kind, operation: &'static str) -> Owner {
        Owner {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            operation,
            api_version: kind.api_version(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// What a request to this subresource cannot change (the strategies' `GetResetFields`).
fn ignored(kind: &Kind, subresource: &str) -> Set {
    let of_status: &[&str] = match kind.kind {
        "Deployment" => &["spec", "metadata.labels"],
        "Pod" => &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"],
        "CustomResourceDefinition" | "APIService" => &["spec", "metadata"],
        _ => &["spec"],
    };
    match subresource {
        "status" => Set::of(of_status),
        "" if kind.has(Subresource::Status) => Set::of(&["status"]),
        _ => Set::default(),
    }
}

/// Writes `metadata.managedFields` of an object that is created (`old` is `None`) or updated: the writer owns
/// what differs, others lose what was changed or removed. To be called after decoding and defaulting, before
/// the kind's strategy, allocation and admission. What `new` says of its managedFields counts (`[{}]` forgets
/// them) but for a subresource; an object that nobody tracks stays so.
pub fn update(kind: &Kind, new: &mut Value, old: Option<&Value>, by: &Writer<'_>) {
    let mut owners = before(new, old, by.subresource);
    remove(map(new, "metadata"), "managedFields");
    if let (Some(_), true) = (old, owners.0.is_empty()) {
        return;
    }
    let owner = by.owner(kind, "Update");
    match old {
        Some(old) => track(kind, &mut owners, old, new, owner, by),
        None => track(kind, &mut owners, &protobuf::zero(&kind.api_version(), kind.kind), new, owner, by),
    }
    owners.cap();
    owners.write(new);
}

/// The owners that an update starts from (`fieldmanager.go`, `decodeLiveOrNew`).
fn before(new: &Value, old: Option<&Value>, subresource: &str) -> Owners {
    let live = || old.and_then(Owners::read).unwrap_or_default();
    if !subresource.is_empty() {
        return live();
    }
    if matches!(items(&new["metadata"]["managedFields"]), [only] if *only == json!({})) {
        return Owners::default();
    }
    match Owners::read(new) {
        Some(owners) if !owners.0.is_empty() => owners,
        _ => live(),
    }
}

/// `updater.Update`.
fn track(kind: &Kind, owners: &mut Owners, old: &Value, new: &Value, owner: Owner, by: &Writer<'_>) {
    let change = Comparison::between(&Shape::of_kind(kind), old, new).without(&ignored(kind, by.subresource));
    let written = change.written().difference(&Set::of(UNTRACKED));
    owners.lose(&change.written().union(&change.removed));
    if written.is_empty() {
        return;
    }
    let set = owners.set_of(&owner).map_or_else(|| written.clone(), |own| own.union(&written));
    owners.0.insert(owner, Owned { set, time: by.now.into() });
}

/// An object without its managedFields.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    remove(map(&mut object, "metadata"), "managedFields");
    object
}

/// The object that an applied configuration makes of the live one, its managedFields written. It still has to be
/// decoded against its schema (`decode::conform`) and defaulted; where it then equals the live object nothing is
/// to be stored. Without a live object it is the one to create.
///
/// # Errors
/// 409 with a cause a field that others own and the configuration changes, unless `force`; 400 for
/// managedFields or another version in the configuration; 500, as upstream, for fields without a type.
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    applied: &Value,
    by: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    check(kind, applied)?;
    let shape = Shape::of_kind(kind);
    let owner = by.owner(kind, "Apply");
    let mut owners = live.and_then(Owners::read).unwrap_or_default();
    if let (Some(live), true) = (live, owners.0.is_empty()) {
        let first = Writer { manager: BEFORE_FIRST_APPLY, ..*by };
        let zero = protobuf::zero(&kind.api_version(), kind.kind);
        track(kind, &mut owners, &zero, live, first.owner(kind, "Update"), &first);
    }
    let empty = json!({"apiVersion": kind.api_version(), "kind": kind.kind});
    let live_bare = bare(live.unwrap_or(&empty));
    let ignored = ignored(kind, by.subresource);
    let last = owners.take(&owner);
    let set = merge::field_set(&shape, applied).without(&ignored).difference(&Set::of(UNTRACKED));

    let mut object = merge::merge(&shape, &live_bare, applied);
    if let Some(last) = last.as_ref().filter(|last| !last.set.is_empty()) {
        let kept = owners.0.values().fold(set.clone(), |all, owned| all.union(&owned.set));
        object = prune(&shape, &object, &last.set, &kept);
    }
    let change = Comparison::between(&shape, &live_bare, &object).without(&ignored);
    let written = change.written();
    let conflicts: Vec<(&Owner, Vec<String>)> = owners
        .0
        .iter()
        .map(|(owner, owned)| (owner, owned.set.intersection(&written).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    owners.lose(&written.union(&change.removed));
    let set = set.difference(&change.removed);
    if !set.is_empty() {
        let unchanged = last.filter(|last| change.is_same() && last.set == set);
        let time = unchanged.map_or_else(|| by.now.into(), |last| last.time);
        owners.0.insert(owner, Owned { set, time });
    }
    owners.write(&mut object);
    Ok(object)
}

/// Refuses a configuration that cannot be applied.
fn check(kind: &Kind, applied: &Value) -> Result<(), Status> {
    if !items(&applied["metadata"]["managedFields"]).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let (version, own) = (text(&applied["apiVersion"]), kind.api_version());
    if version != own {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {own}"
        )));
    }
    let problems = merge::problems(&Shape::of_kind(kind), applied);
    let why = match &problems[..] {
        [] => return Ok(()),
        [only] => only.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let metadata = &applied["metadata"];
    Err(Status::new(
        500,
        "",
        format!(
            "failed to create typed patch object ({}/{}; {own}, Kind={}): {why}",
            text(&metadata["namespace"]),
            text(&metadata["name"]),
            kind.kind
        ),
    ))
}

/// Takes out what the manager applied before and nobody has any more (`merge/update.go`, `prune`).
fn prune(shape: &Shape, merged: &Value, last: &Set, kept: &Set) -> Value {
    let named = |set: &Set| set.with_named_fields(shape);
    let all = named(&merge::field_set(shape, merged));
    let pruned = merge::remove(shape, merged, &named(last));
    // What others own comes back, though it stood below something that went.
    let stays = named(&merge::field_set(shape, &pruned)).union(&named(kept));
    let pruned = merge::remove(shape, merged, &all.difference(&stays));
    // What nobody owned comes back as well.
    let left = named(&merge::field_set(shape, &pruned));
    merge::remove(shape, merged, &all.difference(&left).intersection(&named(last)))
}

/// 409 in upstream's words (`NewConflictError`).
fn conflict(conflicts: &[(&Owner, Vec<String>)]) -> Status {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts {
        [(owner, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {}: {}", owner.spoken(), paths[0])
        }
        _ => {
            let parts: Vec<String> = conflicts
                .iter()
                .map(|(owner, paths)| format!("conflicts with {}:\n- {}", owner.spoken(), paths.join("\n- ")))
                .collect();
            format!("Apply failed with {count} conflicts: {}", parts.join("\n"))
        }
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .flat_map(|(owner, paths)| paths.iter().map(move |path| (owner, path)))
        .map(|(owner, path)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", owner.spoken()),
                "field": path})
        })
        .collect();
    Status { code: 409, reason: "Conflict", message, details: json!({"causes": causes}) }
}

#[cfg(test)]
mod tests;
