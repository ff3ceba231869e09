//! Reading and filling untyped documents: what is missing reads as null, "", 0 or empty.

use serde_json::{Map, Value};

/// The string, or "".
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// The list's items, or none.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The map's entries in key order, or none.
pub fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

/// The integer, or 0.
pub fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Whether it is `true`.
pub fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

/// Whether Go would leave it out with `omitempty`: null, "", false, 0, an empty list or map.
pub fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
    }
}

/// `value[key]` as a map to change, made where it is anything else: decoding has refused what is neither
/// missing nor a map.
pub fn map<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let at = &mut value[key];
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    at
}

/// Sets `value[key]` where it is missing or null.
pub fn preset(value: &mut Value, key: &str, to: impl Into<Value>) {
    if value.is_object() && value[key].is_null() {
        value[key] = to.into();
    }
}

/// Sets `value[key]` where it is missing, null or Go's zero value.
pub fn preset_zero(value: &mut Value, key: &str, to: impl Into<Value>) {
    if value.is_object() && value.get(key).is_none_or(empty) {
        value[key] = to.into();
    }
}

/// Removes the keys whose values are empty (Go's `omitempty`).
pub fn omit_empty(value: &mut Value, keys: &[&str]) {
    if let Some(fields) = value.as_object_mut() {
        for key in keys {
            if fields.get(*key).is_some_and(empty) {
                fields.remove(*key);
            }
        }
    }
}

/// Removes a key.
pub fn remove(value: &mut Value, key: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(key);
    }
}

/// Copies `from[key]` to `to[key]`, removing it where `from` has none.
pub fn inherit(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) if to.is_object() => to[key] = value.clone(),
        _ => remove(to, key),
    }
}

/// Removes what is null: in Go's types null and missing are the same.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The items that are maps, to change, or none.
pub fn items_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter(|v| v.is_object())
}
