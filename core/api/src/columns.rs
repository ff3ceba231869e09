//! Tables: what `kubectl get` prints (`pkg/printers/internalversion`).

pub mod cluster;
mod descriptions;
pub mod network;
pub mod objects;
pub mod pod;
pub mod rbac;
pub mod workload;

use serde_json::{Value, json};

use crate::document::{entries, text};
use crate::kinds::{Column, Kind};
use crate::{Object, time};
use descriptions as says;

/// How much of each object a row carries (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing: `object` is null.
    None,
    /// Its metadata, as `PartialObjectMetadata`: what clients get unless they ask.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// The value of the query's `includeObject`, "" for the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// The `Table` of some objects of a kind; the caller fills in `metadata` (the list's resourceVersion,
/// `continue`), and leaves `columnDefinitions` out of all but a watch's first event.
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Object>,
    now: i64,
    include: Include,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|o| row(kind, o.value(), now, include)).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": definitions(kind), "rows": rows})
}

/// The definitions of a kind's columns.
pub fn definitions(kind: &Kind) -> Value {
    let definition = |c: &Column| {
        json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description,
            "priority": c.priority})
    };
    kind.columns.iter().map(definition).collect()
}

/// One row.
pub fn row(kind: &Kind, object: &Value, now: i64, include: Include) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|c| (c.cell)(object, now)).collect();
    let mut row = json!({"cells": cells});
    if let Some(conditions) = kind.row_conditions.map(|of| of(object)).filter(|c| !c.is_null()) {
        row["conditions"] = conditions;
    }
    row["object"] = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(object),
        Include::Object => {
            let mut whole = object.clone();
            whole["apiVersion"] = json!(kind.api_version());
            whole["kind"] = json!(kind.kind);
            whole
        }
    };
    row
}

/// The object's metadata as `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// The columns of a kind that has none of its own.
pub const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(crate) const fn column(
    name: &'static str,
    kind: &'static str,
    priority: u8,
    description: &'static str,
    cell: fn(&Value, i64) -> Value,
) -> Column {
    Column { name, kind, format: "", priority, description, cell }
}

pub(crate) const NAME: Column = Column {
    format: "name",
    ..column("Name", "string", 0, says::NAME, |o, _| o["metadata"]["name"].clone())
};
pub(crate) const AGE: Column = column("Age", "string", 0, says::AGE, age);

fn age(object: &Value, now: i64) -> Value {
    json!(time::age(text(&object["metadata"]["creationTimestamp"]), now))
}

/// Labels as `a=b,c=d`, `<none>` where there are none.
fn labels(labels: &Value) -> String {
    let all: Vec<String> = entries(labels).map(|(k, v)| format!("{k}={}", text(v))).collect();
    or_none(all.join(","))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}
