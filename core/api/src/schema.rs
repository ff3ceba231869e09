//! The facts of the API's schemas (`data/schemas.json`): field types and how lists and maps merge.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// A type: its fields, or nothing where it is a special one (Quantity, Time, IntOrString, RawExtension, …).
#[derive(Debug, Default, Deserialize)]
pub struct Definition {
    /// By JSON name.
    #[serde(borrow, default)]
    pub fields: HashMap<&'static str, Field>,
    /// Fields that must be there.
    #[serde(borrow, default)]
    pub required: Vec<&'static str>,
    /// `atomic` where the whole is replaced by server-side apply.
    #[serde(default)]
    pub map: Option<&'static str>,
}

/// A field, an item of a list or a value of a map.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Field {
    /// `string`, `integer`, `number`, `boolean`, `array`, `object`; "" with a reference.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `int32`, `int64`, `double`, `byte`, `date-time`, `int-or-string`; "" where there is none.
    pub format: &'static str,
    /// The type's key, "" where the field is simple.
    #[serde(rename = "ref")]
    pub reference: &'static str,
    /// What a list holds.
    pub items: Option<Box<Field>>,
    /// What a map holds.
    pub values: Option<Box<Field>>,
    /// For apply: `atomic`, `set`, `map`; "" is atomic.
    pub list: &'static str,
    /// The keys of a `map` list.
    #[serde(borrow)]
    pub keys: Vec<&'static str>,
    /// For apply: `atomic`, or "" for granular.
    pub map: &'static str,
    /// For strategic merge: `merge`, `retainKeys`, both, or "" for replace.
    pub merge: &'static str,
    /// Strategic merge's key of a list's items.
    pub key: &'static str,
}

impl Field {
    /// The type that the field refers to.
    pub fn definition(&self) -> Option<&'static Definition> {
        definition(self.reference)
    }

    /// The last part of the referred type's key, e.g. `PodSpec`.
    pub fn type_name(&self) -> &'static str {
        self.reference.rsplit('.').next().unwrap_or_default()
    }
}

/// A type by its key, e.g. `io.k8s.api.core.v1.Pod`.
pub fn definition(key: &str) -> Option<&'static Definition> {
    static SCHEMAS: OnceLock<HashMap<&'static str, Definition>> = OnceLock::new();
    let all = SCHEMAS.get_or_init(|| {
        // The data is part of the program; the test below reads it.
        serde_json::from_str(include_str!("../data/schemas.json")).unwrap_or_default()
    });
    all.get(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_schema_and_references_lead_somewhere() {
        let all: HashMap<&'static str, Definition> =
            serde_json::from_str(include_str!("../data/schemas.json")).unwrap();
        for kind in crate::kinds::KINDS {
            assert!(definition(kind.schema).is_some(), "{}", kind.schema);
        }
        fn check(all: &HashMap<&'static str, Definition>, field: &Field) {
            assert!(field.reference.is_empty() || all.contains_key(field.reference), "{}", field.reference);
            field.items.iter().chain(&field.values).for_each(|f| check(all, f));
        }
        all.values().flat_map(|d| d.fields.values()).for_each(|f| check(&all, f));
        let ports = &definition("io.k8s.api.core.v1.ServiceSpec").unwrap().fields["ports"];
        assert_eq!((ports.merge, ports.key, ports.list), ("merge", "port", "map"));
    }
}
