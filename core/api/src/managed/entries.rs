//! `metadata.managedFields` as a table of owners (`apimachinery/pkg/util/managedfields/internal`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::Set;
use crate::document::{items, map, remove, text};

/// How many owners by update an object keeps; the oldest become one.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Whose fields: the order is that of the entries, their times aside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) manager: String,
    /// `Apply` or `Update`.
    pub(super) operation: &'static str,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Owner {
    /// As a conflict names it.
    pub(super) fn spoken(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    /// An owner by apply is the same whatever version it writes.
    fn same(&self, other: &Owner) -> bool {
        (&self.manager, self.operation, &self.subresource)
            == (&other.manager, other.operation, &other.subresource)
            && (self.operation == "Apply" || self.api_version == other.api_version)
    }
}

/// What an owner has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owned {
    pub(super) set: Set,
    /// RFC 3339, null where nobody knows.
    pub(super) time: Value,
}

/// The owners of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Owners(pub(super) BTreeMap<Owner, Owned>);

impl Owners {
    /// `None` where an entry cannot be read.
    pub(super) fn read(object: &Value) -> Option<Self> {
        let mut out = Owners::default();
        for entry in items(&object["metadata"]["managedFields"]) {
            let owner = Owner {
                manager: text(&entry["manager"]).to_owned(),
                operation: match text(&entry["operation"]) {
                    "Apply" => "Apply",
                    "Update" => "Update",
                    _ => return None,
                },
                api_version: text(&entry["apiVersion"]).to_owned(),
                subresource: text(&entry["subresource"]).to_owned(),
            };
            let set = Set::from_value(&entry["fieldsV1"])?;
            out.0.insert(owner, Owned { set, time: entry["time"].clone() });
        }
        Some(out)
    }

    /// The entry of an owner, whatever version an owner by apply wrote.
    pub(super) fn find(&self, owner: &Owner) -> Option<&Owner> {
        self.0.keys().find(|known| known.same(owner))
    }

    pub(super) fn set_of(&self, owner: &Owner) -> Option<&Set> {
        self.find(owner).and_then(|known| self.0.get(known)).map(|owned| &owned.set)
    }

    pub(super) fn take(&mut self, owner: &Owner) -> Option<Owned> {
        let known = self.find(owner)?.clone();
        self.0.remove(&known)
    }

    /// Takes paths from all.
    pub(super) fn lose(&mut self, gone: &Set) {
        for owned in self.0.values_mut() {
            owned.set = owned.set.difference(gone);
        }
        self.0.retain(|_, owned| !owned.set.is_empty());
    }

    /// The oldest owners by update become one a version (`capmanagers.go`).
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(String, Owner)> = self
            .0
            .iter()
            .filter(|(owner, _)| owner.operation == "Update")
            .map(|(owner, owned)| (text(&owned.time).to_owned(), owner.clone()))
            .collect();
        let mut left = updaters.len();
        if left <= MAX_UPDATERS {
            return;
        }
        updaters.sort();
        let mut first: BTreeMap<String, Owner> = BTreeMap::new();
        for (time, owner) in updaters {
            if left <= MAX_UPDATERS {
                break;
            }
            let version = owner.api_version.clone();
            let Some(oldest) = first.get(&version) else {
                first.insert(version, owner);
                continue;
            };
            let bucket = Owner {
                manager: ANCIENT.into(),
                operation: "Update",
                api_version: version,
                subresource: String::new(),
            };
            let before = self.0.remove(&bucket).or_else(|| self.0.remove(oldest));
            let mut set = before.map(|owned| owned.set).unwrap_or_default();
            if let Some(owned) = self.0.remove(&owner) {
                set = set.union(&owned.set);
            }
            self.0.insert(bucket, Owned { set, time: time.into() });
            left -= 1;
        }
    }

    /// Writes the entries in upstream's order, or none.
    pub(super) fn write(self, object: &mut Value) {
        let mut entries: Vec<(Owner, Owned)> = self.0.into_iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let by = |owner: &Owner, owned: &Owned| (owner.operation, text(&owned.time).to_owned());
            by(a, x).cmp(&by(b, y)).then_with(|| a.cmp(b))
        });
        let metadata = map(object, "metadata");
        if entries.is_empty() {
            remove(metadata, "managedFields");
            return;
        }
        let entries = entries.into_iter().map(|(owner, owned)| {
            let mut entry = Map::new();
            entry.insert("manager".into(), owner.manager.into());
            entry.insert("operation".into(), owner.operation.into());
            entry.insert("apiVersion".into(), owner.api_version.into());
            if !owned.time.is_null() {
                entry.insert("time".into(), owned.time);
            }
            entry.insert("fieldsType".into(), json!("FieldsV1"));
            entry.insert("fieldsV1".into(), owned.set.to_value());
            if !owner.subresource.is_empty() {
                entry.insert("subresource".into(), owner.subresource.into());
            }
            Value::Object(entry)
        });
        metadata["managedFields"] = entries.collect();
    }
}
