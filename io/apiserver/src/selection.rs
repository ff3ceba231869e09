//! What a list or watch asks for: namespace, name, label and field selectors.

use std::sync::Arc;

use sealane_api::selector::{FieldSelector, Selector};
use sealane_api::{Kind, Status};
use serde_json::Value;

use crate::cache::{Entry, Event, Seen};

/// A selection among the objects of a kind.
#[derive(Clone)]
pub struct Selection {
    /// The kind.
    pub kind: &'static Kind,
    /// A namespace, "" for all.
    pub namespace: String,
    labels: Selector,
    fields: FieldSelector,
}

impl Selection {
    /// From the query's selectors, "" for none.
    ///
    /// # Errors
    /// 400 where one cannot be read, or names a field that cannot be selected by.
    pub fn parse(kind: &'static Kind, namespace: &str, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = Selector::parse(labels).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = FieldSelector::parse(fields, kind).map_err(|e| Status::bad_request(e.to_string()))?;
        Ok(Selection { kind, namespace: namespace.to_owned(), labels, fields })
    }

    /// Whether there are no selectors.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that it can match, for authorization by resourceNames.
    pub fn only_name(&self) -> Option<&str> {
        self.fields.required("metadata.name")
    }

    /// Whether an object is in it.
    pub fn has(&self, entry: &Entry) -> bool {
        let object = entry.object.value();
        if self.is_everything() {
            return true;
        }
        let labels = object.get("metadata").and_then(|m| m.get("labels")).unwrap_or(&Value::Null);
        self.labels.matches(labels) && self.fields.matches(object, self.kind)
    }

    fn holds(&self, entry: &Arc<Entry>) -> bool {
        (self.namespace.is_empty() || entry.object.namespace() == self.namespace) && self.has(entry)
    }

    /// How a watcher with this selection sees an event; `None` where it doesn't.
    pub fn sees(&self, event: &Event) -> Option<Seen> {
        let before = event.previous.as_ref().is_some_and(|p| self.holds(p));
        let after = !event.deleted && self.holds(&event.entry);
        match (before, after) {
            (false, true) => Some(Seen::Added),
            (true, true) => Some(Seen::Modified),
            (true, false) => Some(Seen::Deleted),
            (false, false) => None,
        }
    }
}
