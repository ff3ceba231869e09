//! [`Plan`]: what is to be written. Carrying it out takes no decisions.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sealane_api::kinds::{Subresource, by_kind};
use serde_json::Value;

use crate::doc::{Key, Row};

/// `propagationPolicy` of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The object first, its dependents later.
    Background,
    /// Its dependents first.
    Foreground,
    /// Its dependents stay.
    Orphan,
}

impl Propagation {
    /// As DeleteOptions spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// A patch's media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

/// One request. A `resourceVersion` or `uid` in a body or patch is its precondition.
#[derive(Clone, Debug)]
pub enum Write {
    /// POST; the name is in the body.
    Create {
        /// Kind.
        kind: Row,
        /// Namespace.
        namespace: String,
        /// The object.
        body: Value,
    },
    /// PUT of the object or of its subresource.
    Update {
        /// Kind.
        kind: Row,
        /// Which object.
        key: Key,
        /// `status`, `finalize`, or the object itself.
        subresource: Option<Subresource>,
        /// The object, with its `resourceVersion`.
        body: Value,
    },
    /// PATCH of the object or of its subresource.
    Patch {
        /// Kind.
        kind: Row,
        /// Which object.
        key: Key,
        /// `status`, or the object itself.
        subresource: Option<Subresource>,
        /// Media type.
        patch: Patch,
        /// The patch.
        body: Value,
    },
    /// DELETE of one object.
    Delete {
        /// Kind.
        kind: Row,
        /// Which object.
        key: Key,
        /// `preconditions.uid`.
        uid: String,
        /// `preconditions.resourceVersion`.
        resource_version: Option<String>,
        /// `propagationPolicy`; `None`: the kind's own.
        propagation: Option<Propagation>,
        /// `gracePeriodSeconds`; `None`: the object's own.
        grace_seconds: Option<u32>,
    },
    /// DELETE of all objects of a kind in a namespace (of kinds that the index doesn't hold).
    DeleteCollection {
        /// Kind.
        kind: Row,
        /// Namespace.
        namespace: String,
    },
    /// POST to a Pod's `binding`.
    Bind {
        /// The Pod.
        key: Key,
        /// Its uid.
        uid: String,
        /// The Node.
        node: String,
    },
    /// GET of an owner or Node that the index doesn't hold: answer with [`crate::Event::Written`] where it exists with
    /// this uid ("": any), with [`crate::Event::Absent`] where it doesn't.
    Confirm {
        /// Kind.
        kind: Row,
        /// Which object.
        key: Key,
        /// Its uid.
        uid: String,
    },
}

/// An Event (kind Event) to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// About which object.
    pub regarding: ObjectReference,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// `ScalingReplicaSet`, …
    pub reason: &'static str,
    /// What happened.
    pub message: String,
    /// Where the write fails: the warning's reason and what stands before the error in its message.
    pub failure: Option<(&'static str, String)>,
}

impl Note {
    /// A normal Event.
    pub fn normal(regarding: ObjectReference, reason: &'static str, message: String) -> Self {
        Note { regarding, warning: false, reason, message, failure: None }
    }
    /// A warning.
    pub fn warning(regarding: ObjectReference, reason: &'static str, message: String) -> Self {
        Note { regarding, warning: true, reason, message, failure: None }
    }
    /// With a warning for where the write fails.
    #[must_use]
    pub fn or(mut self, reason: &'static str, before_error: String) -> Self {
        self.failure = Some((reason, before_error));
        self
    }
}

/// A write, and the Event to record once it is done.
#[derive(Clone, Debug)]
pub struct Action {
    /// The request.
    pub write: Write,
    /// Its Event.
    pub note: Option<Note>,
}

/// What to do now for one key. Its actions don't depend on each other and may be carried out in any order or at once:
/// what must wait for another's end is planned when that is seen.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Requests.
    pub actions: Vec<Action>,
    /// Events that hang on no write.
    pub notes: Vec<Note>,
    /// Plan again then, even if nothing changes.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    pub(crate) fn push(&mut self, write: Write) {
        self.actions.push(Action { write, note: None });
    }

    pub(crate) fn push_noted(&mut self, write: Write, note: Note) {
        self.actions.push(Action { write, note: Some(note) });
    }

    /// Plans again at the soonest of all times asked for.
    pub(crate) fn again_after(&mut self, after: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(after, |old| old.min(after)));
    }
}

/// The row of a kind that controllers write. The table of kinds has them all (a test holds it).
pub(crate) fn row(api_version: &str, kind: &str) -> Row {
    Row(by_kind(api_version, kind).unwrap_or(&sealane_api::kinds::KINDS[0]))
}

/// A deletion that holds for this very object.
pub(crate) fn delete(kind: Row, meta: &ObjectMeta) -> Write {
    Write::Delete {
        kind,
        key: Key::of(meta),
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: None,
        propagation: None,
        grace_seconds: None,
    }
}

/// A merge patch that holds for this very version of an object.
pub(crate) fn merge(kind: Row, meta: &ObjectMeta, mut body: Value) -> Write {
    body["metadata"]["resourceVersion"] = meta.resource_version.clone().into();
    body["metadata"]["uid"] = meta.uid.clone().into();
    Write::Patch { kind, key: Key::of(meta), subresource: None, patch: Patch::Merge, body }
}

/// The whole object, or its status, over this very version.
pub(crate) fn update<T: serde::Serialize>(
    kind: Row,
    meta: &ObjectMeta,
    subresource: Option<Subresource>,
    object: &T,
) -> Write {
    // Views are structs with string keys: writing them as a Value cannot fail.
    let body = serde_json::to_value(object).unwrap_or_default();
    Write::Update { kind, key: Key::of(meta), subresource, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_written_has_a_row() {
        for (api, kind) in [
            ("v1", "Pod"),
            ("v1", "Namespace"),
            ("v1", "Node"),
            ("v1", "Service"),
            ("v1", "Endpoints"),
            ("v1", "ConfigMap"),
            ("v1", "ServiceAccount"),
            ("v1", "Event"),
            ("apps/v1", "Deployment"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("apps/v1", "ReplicaSet"),
            ("apps/v1", "StatefulSet"),
            ("apps/v1", "ControllerRevision"),
        ] {
            assert_eq!(row(api, kind).kind, kind);
        }
    }
}
