//! How server-side apply sees a value: a leaf, a map or a list that merges (`structured-merge-diff/schema`).

use serde_json::{Map, Value};

use super::step::{self, Step};
use crate::kinds::Kind;
use crate::schema::{self, Definition, Field};

/// A type as far as merging goes.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// A scalar, or what is replaced as a whole.
    Leaf,
    /// A struct.
    Struct(&'static Definition),
    /// A map by strings.
    Map(&'static Field),
    /// A list of scalars without order.
    SetList,
    /// A list whose items are told apart by some of their fields.
    MapList(&'static [&'static str], &'static Field),
    /// No schema: maps merge, lists are replaced (`DeducedTypeDefinition`).
    Deduced,
}

impl Shape {
    pub(super) fn of_kind(kind: &Kind) -> Self {
        schema::definition(kind.schema).map_or(Shape::Deduced, Self::of_definition)
    }

    fn of_definition(definition: &'static Definition) -> Self {
        // Quantity, Time, RawExtension, … have no fields of their own.
        if definition.map == Some("atomic") || definition.fields.is_empty() {
            Shape::Leaf
        } else {
            Shape::Struct(definition)
        }
    }

    pub(super) fn of(field: &'static Field) -> Self {
        if field.map == "atomic" {
            return Shape::Leaf;
        }
        if !field.reference.is_empty() {
            return field.definition().map_or(Shape::Leaf, Self::of_definition);
        }
        match (field.kind, field.list, field.items.as_deref(), field.values.as_deref()) {
            ("array", "set", ..) => Shape::SetList,
            ("array", "map", Some(items), _) => Shape::MapList(&field.keys, items),
            ("object", _, _, Some(values)) => Shape::Map(values),
            _ => Shape::Leaf,
        }
    }

    /// Whether a field is one of a struct's own.
    pub(super) fn declares(&self, name: &str) -> bool {
        matches!(self, Shape::Struct(definition) if definition.fields.contains_key(name))
    }

    /// The type of a field.
    pub(super) fn field(&self, name: &str) -> Shape {
        match self {
            Shape::Struct(definition) => definition.fields.get(name).map_or(Shape::Deduced, Self::of),
            Shape::Map(values) => Self::of(values),
            _ => Shape::Deduced,
        }
    }

    /// The type of a list's items.
    pub(super) fn item(&self) -> Shape {
        match self {
            Shape::MapList(_, items) => Self::of(items),
            _ => Shape::Leaf,
        }
    }

    /// The type behind a step.
    pub(super) fn step(&self, step: &str) -> Shape {
        step.strip_prefix("f:").map_or_else(|| self.item(), |name| self.field(name))
    }

    /// The step to an item; an item without one of its keys has its default, or `Err` with the key.
    pub(super) fn item_step(&self, item: &Value) -> Result<Step, String> {
        let Shape::MapList(keys, items) = self else { return Ok(format!("v:{item}")) };
        let mut found = Map::new();
        for name in *keys {
            let value = match item.get(*name).filter(|v| !v.is_null()) {
                Some(value) => value.clone(),
                None => key_default(items, name).ok_or_else(|| (*name).to_owned())?,
            };
            found.insert((*name).to_owned(), value);
        }
        Ok(step::key(found))
    }
}

/// A key's default (`+default` beside `+listMapKey` upstream).
fn key_default(items: &Field, name: &str) -> Option<Value> {
    match (items.type_name(), name) {
        ("ContainerPort" | "ServicePort", "protocol") => Some("TCP".into()),
        ("LocalObjectReference", "name") => Some("".into()),
        _ => None,
    }
}

/// A value by what merging makes of it.
pub(super) enum View<'a> {
    /// Compared and replaced as a whole.
    Leaf,
    /// Field by field.
    Map(Option<&'a Map<String, Value>>),
    /// Item by item.
    List(&'a [Value]),
}

/// A value of a type; null is an empty map or list, and anything that doesn't fit the type is a leaf.
pub(super) fn view<'a>(shape: &Shape, value: &'a Value) -> View<'a> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(fields))
        | (Shape::Deduced, Value::Object(fields)) => View::Map(Some(fields)),
        (Shape::Struct(_) | Shape::Map(_), Value::Null) => View::Map(None),
        (Shape::SetList | Shape::MapList(..), Value::Array(items)) => View::List(items),
        (Shape::SetList | Shape::MapList(..), Value::Null) => View::List(&[]),
        _ => View::Leaf,
    }
}
