//! [`Doc`]: one version of an object as controllers read it, its typed view made once.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1 as apps, coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sealane_api::kinds::{Kind, by_kind};
use serde_json::Value;

/// Namespace ("" for what lives in none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}

/// A row of the table of kinds, compared by identity.
#[derive(Clone, Copy)]
pub struct Row(pub &'static Kind);

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind)
    }
}

impl Deref for Row {
    type Target = Kind;
    fn deref(&self) -> &Kind {
        self.0
    }
}

/// Kind, namespace and name: what tells an object from all others at one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) plural: &'static str,
    pub(crate) key: Key,
}

macro_rules! docs {
    ($($variant:ident($type:ty) $api:literal $kind:literal,)*) => {
        /// One version of an object.
        #[derive(Clone, Debug)]
        pub enum Doc {
            $(
                #[doc = concat!("A ", $kind, ".")]
                $variant(Arc<$type>),
            )*
            /// Any other kind: controllers read its metadata alone.
            Other(Row, Arc<ObjectMeta>),
        }

        impl Doc {
            /// Reads a document by its `apiVersion` and `kind`.
            ///
            /// # Errors
            /// Where it is of a kind that isn't served, or a field has another type than its schema's.
            pub fn parse(value: Value) -> Result<Self, DocError> {
                let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
                let (api, kind) = (text("apiVersion"), text("kind"));
                let row = by_kind(&api, &kind).ok_or_else(|| DocError::Unknown(format!("{api} {kind}")))?;
                Self::of(Row(row), value)
            }

            /// Reads a document of a known kind; items of a list carry neither `apiVersion` nor `kind`.
            ///
            /// # Errors
            /// Where a field has another type than its schema's.
            pub fn of(row: Row, mut value: Value) -> Result<Self, DocError> {
                if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                    meta.remove("managedFields");
                }
                match (row.group, row.kind) {
                    $(($api, $kind) => Ok(Doc::$variant(Arc::new(serde_json::from_value::<$type>(value)?))),)*
                    _ => {
                        let meta = value.get_mut("metadata").map(Value::take).unwrap_or_default();
                        Ok(Doc::Other(row, Arc::new(serde_json::from_value(meta)?)))
                    }
                }
            }

            /// Its metadata.
            pub fn meta(&self) -> &ObjectMeta {
                match self {
                    $(Doc::$variant(object) => &object.metadata,)*
                    Doc::Other(_, meta) => meta,
                }
            }

            /// Its row, `None` for a kind that the API doesn't serve.
            pub fn kind(&self) -> Option<Row> {
                match self {
                    $(Doc::$variant(_) => sealane_api::kinds::KINDS.iter().find(|k| k.group == $api && k.kind == $kind).map(Row),)*
                    Doc::Other(kind, _) => Some(*kind),
                }
            }
        }

        $(impl From<$type> for Doc {
            fn from(object: $type) -> Self { Doc::$variant(Arc::new(object)) }
        })*
    };
}

docs! {
    Namespace(core::Namespace) "" "Namespace",
    Node(core::Node) "" "Node",
    Pod(core::Pod) "" "Pod",
    Service(core::Service) "" "Service",
    Endpoints(core::Endpoints) "" "Endpoints",
    EndpointSlice(discovery::EndpointSlice) "discovery.k8s.io" "EndpointSlice",
    ConfigMap(core::ConfigMap) "" "ConfigMap",
    Lease(coordination::Lease) "coordination.k8s.io" "Lease",
    Deployment(apps::Deployment) "apps" "Deployment",
    ReplicaSet(apps::ReplicaSet) "apps" "ReplicaSet",
    StatefulSet(apps::StatefulSet) "apps" "StatefulSet",
    ControllerRevision(apps::ControllerRevision) "apps" "ControllerRevision",
}

impl Doc {
    pub(crate) fn id(&self) -> Option<Id> {
        Some(Id { plural: self.kind()?.plural, key: Key::of(self.meta()) })
    }

    pub(crate) fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or("")
    }

    pub(crate) fn revision(&self) -> u64 {
        self.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}

/// Why a document can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DocError {
    /// Not a row of the table of kinds.
    #[error("no such kind: {0}")]
    Unknown(String),
    /// A field of another type.
    #[error("{0}")]
    Shape(#[from] serde_json::Error),
}
