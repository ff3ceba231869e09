//! The table of messages.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// A field of a message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Field {
    name: &'static str,
    /// Scalar (`string`, `int64`, …) or message, within the package unless it has dots; "" for a map.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// Key and value types.
    #[serde(borrow)]
    pub(super) map: Option<(&'static str, &'static str)>,
    pub(super) repeated: bool,
    json: Option<&'static str>,
    /// A zero value is left out of the JSON.
    pub(super) omitempty: bool,
    /// Absent and zero differ.
    pub(super) pointer: bool,
    /// The inner message's fields stand in the outer JSON.
    pub(super) inline: bool,
}

impl Field {
    /// Name in JSON.
    pub(super) fn json(&self) -> &'static str {
        self.json.unwrap_or(self.name)
    }
}

/// A message's fields by number, in the numbers' order.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) package: &'static str,
    pub(super) name: &'static str,
    pub(super) fields: Vec<(u32, Field)>,
}

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        self.fields.binary_search_by_key(&number, |(n, _)| *n).ok().map(|at| &self.fields[at].1)
    }

    /// The full name of a type that a field of this message names.
    pub(super) fn resolve(&self, kind: &str) -> Option<&'static Message> {
        if kind.contains('.') { message(kind) } else { message(&format!("{}.{kind}", self.package)) }
    }
}

/// A message by its full name.
pub(super) fn message(name: &str) -> Option<&'static Message> {
    static TABLE: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    TABLE.get_or_init(read).get(name)
}

fn read() -> HashMap<&'static str, Message> {
    // The data is part of the program; the tests decode with it.
    let raw: HashMap<&'static str, HashMap<&'static str, Field>> =
        serde_json::from_str(include_str!("../../data/protobuf.json")).unwrap_or_default();
    raw.into_iter()
        .map(|(full, fields)| {
            let mut fields: Vec<(u32, Field)> =
                fields.into_iter().filter_map(|(n, f)| n.parse().ok().map(|n| (n, f))).collect();
            fields.sort_by_key(|(n, _)| *n);
            let (package, name) = full.rsplit_once('.').unwrap_or(("", full));
            (full, Message { package, name, fields })
        })
        .collect()
}
