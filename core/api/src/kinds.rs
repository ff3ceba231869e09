//! The table of kinds: everything generic about a kind is a row of [`KINDS`].

mod discovery;
mod rows;
mod select;
mod storage;

use serde_json::Value;

use crate::document::{inherit, map, text};
use crate::field::FieldErrors;

pub use discovery::{ResponseKind, Subresource, VIRTUAL, Virtual};
pub use rows::KINDS;
pub use select::{FieldRefusal, SelectableField};
pub use storage::Stored;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
}

/// What makes `metadata.generation` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Nothing: the kind has none.
    None,
    /// A change of `spec`.
    Spec,
    /// A change of `spec` or of the annotations (Deployment).
    SpecAndAnnotations,
    /// A change of anything but `metadata` (EndpointSlice).
    Content,
}

/// A row: what the API, the registry and kubectl need to know of a kind.
///
/// A write goes through the hooks in this order (as upstream's decode, then `rest.BeforeCreate` or
/// `rest.BeforeUpdate`): [`Kind::default`], [`Kind::prepare_create`] or [`Kind::prepare_update`],
/// what the registry fills in (names, addresses, admission), [`Kind::validate`], [`Kind::warnings`].
pub struct Kind {
    /// API group, "" for core.
    pub group: &'static str,
    /// API version, e.g. `v1`.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// `deployment`.
    pub singular: &'static str,
    /// kubectl's short names.
    pub short_names: &'static [&'static str],
    /// `all`, where kubectl's `get all` shows it.
    pub categories: &'static [&'static str],
    /// Where it lives.
    pub scope: Scope,
    /// What discovery says can be done with it.
    pub verbs: &'static [&'static str],
    /// What stands behind its name in a path.
    pub subresources: &'static [Subresource],
    /// Its key in `schemas.json`.
    pub schema: &'static str,
    /// The form that its objects are kept in, where it is another kind's.
    pub stored_as: Option<&'static Stored>,
    /// Whether a PUT of what is not there creates it.
    pub create_on_update: bool,
    /// Whether an update may leave out `metadata.resourceVersion`.
    pub unconditional_update: bool,
    /// The `Warning` header that every request for it gets.
    pub deprecated: Option<&'static str>,
    /// Fills in what a client left out (upstream `zz_generated.defaults.go`).
    pub default: fn(&mut Value),
    /// Settles what a client may not say on create, such as `status` (upstream's strategies).
    pub prepare_create: fn(new: &mut Value),
    /// Carries over what a client may leave out or not change on update, such as `status`.
    pub prepare_update: fn(new: &mut Value, old: &Value),
    /// Refuses what must not be stored; `old` is set on updates (upstream `pkg/apis/*/validation`).
    pub validate: fn(new: &Value, old: Option<&Value>) -> FieldErrors,
    /// The same for updates of the `status` subresource.
    pub validate_status: fn(new: &Value, old: &Value) -> FieldErrors,
    /// `Warning` headers for what is stored all the same (upstream's `WarningsOnCreate`, `WarningsOnUpdate`).
    pub warnings: fn(new: &Value, old: Option<&Value>) -> Vec<String>,
    /// What its field selectors know beside `metadata.name` and `metadata.namespace`.
    pub fields: &'static [SelectableField],
    /// How an unknown field selector is refused.
    pub field_refusal: FieldRefusal,
    /// kubectl's columns (upstream `pkg/printers/internalversion`); empty: name and age.
    pub columns: &'static [Column],
    /// Whether rows are ready to be marked done in a table: the row's `conditions`.
    pub row_conditions: Option<fn(&Value) -> Value>,
    /// What `metadata.generation` counts.
    pub generation: Generation,
}

/// A column of a kind's table.
pub struct Column {
    /// Heading, e.g. `Cluster-IP`.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: &'static str,
    /// OpenAPI format, `name` for the first column.
    pub format: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    /// The description that the table's definition carries.
    pub description: &'static str,
    /// The cell; `now` is seconds since 1970.
    pub cell: fn(object: &Value, now: i64) -> Value,
}

impl Kind {
    /// `pods`, `deployments.apps`: how messages name a resource.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether it has this subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether discovery lists this verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether its objects have a `metadata.generation`, which a create starts at 1.
    pub fn counts_generation(&self) -> bool {
        self.generation != Generation::None
    }

    /// Whether `metadata.generation` goes up by this update.
    pub fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        match self.generation {
            Generation::None => false,
            Generation::Spec => new["spec"] != old["spec"],
            Generation::SpecAndAnnotations => {
                new["spec"] != old["spec"] || new["metadata"]["annotations"] != old["metadata"]["annotations"]
            }
            Generation::Content => {
                let bare = |v: &Value| {
                    let mut v = v.clone();
                    crate::document::remove(&mut v, "metadata");
                    v
                };
                bare(new) != bare(old)
            }
        }
    }

    /// The row of the form that its objects are kept in: mostly itself.
    pub fn storage(&'static self) -> &'static Kind {
        self.stored_as.and_then(|stored| by_kind(stored.api_version, stored.kind)).unwrap_or(self)
    }

    /// Settles an update of the `status` subresource: all but `status` and the metadata is the old object's,
    /// and so are the owners.
    pub fn prepare_status(&self, new: &mut Value, old: &Value) {
        let keys: Vec<String> = [&*new, old]
            .into_iter()
            .filter_map(Value::as_object)
            .flat_map(|fields| fields.keys().cloned())
            .filter(|key| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
            .collect();
        for key in keys {
            inherit(new, old, &key);
        }
        inherit(map(new, "metadata"), &old["metadata"], "ownerReferences");
        if self.kind == "Pod" && text(&new["status"]["qosClass"]).is_empty() {
            inherit(map(new, "status"), &old["status"], "qosClass");
        }
    }

    /// The store's key of one object: `/GROUP/PLURAL/[NAMESPACE/]NAME`, the group of core being `core`.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.prefix(namespace);
        key.push_str(name);
        key
    }

    /// The store's prefix of all objects, or of those of one namespace where `namespace` is not empty.
    pub fn prefix(&self, namespace: &str) -> String {
        // Both kinds of Events are kept under the core's key.
        let group = match self.stored_as {
            Some(_) => "core",
            None if self.group.is_empty() => "core",
            None => self.group,
        };
        if namespace.is_empty() || !self.namespaced() {
            format!("/{group}/{}/", self.plural)
        } else {
            format!("/{group}/{}/{namespace}/", self.plural)
        }
    }
}

/// The row of a resource by its path segments.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The row of an object by its `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    KINDS.iter().find(|k| k.kind == kind && k.group == group && k.version == version)
}
