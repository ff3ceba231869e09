//! The paths that a document sets, one document merged into another, and paths taken out of one
//! (`structured-merge-diff/typed`: `tofieldset.go`, `merge.go`, `remove.go`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Shape, View, view};
use super::step::{Step, field, spoken};

/// The paths that a document sets.
pub(super) fn field_set(shape: &Shape, value: &Value) -> Set {
    let mut out = Set::default();
    collect(shape, value, &mut Vec::new(), &mut out);
    out
}

fn collect(shape: &Shape, value: &Value, path: &mut Vec<Step>, out: &mut Set) {
    match view(shape, value) {
        View::Leaf => out.insert(path),
        View::Map(fields) => {
            for (name, value) in fields.into_iter().flatten() {
                path.push(field(name));
                collect(&shape.field(name), value, path, out);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !shape.declares(name) {
                    out.insert(path);
                }
                path.pop();
            }
        }
        View::List(items) => {
            for item in items {
                let Ok(step) = shape.item_step(item) else { continue };
                path.push(step);
                collect(&shape.item(), item, path, out);
                out.insert(path);
                path.pop();
            }
        }
    }
}

/// What is wrong with an applied configuration: fields without a type, list items without or with another's keys.
pub(super) fn problems(shape: &Shape, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check(shape, value, "", &mut out);
    out
}

fn check(shape: &Shape, value: &Value, path: &str, out: &mut Vec<String>) {
    match view(shape, value) {
        View::Map(fields) => {
            for (name, value) in fields.into_iter().flatten() {
                let path = format!("{path}.{name}");
                if matches!(shape, Shape::Struct(_)) && !shape.declares(name) {
                    out.push(format!("{path}: field not declared in schema"));
                } else {
                    check(&shape.field(name), value, &path, out);
                }
            }
        }
        View::List(items) => {
            let mut seen = BTreeSet::new();
            for (n, item) in items.iter().enumerate() {
                match shape.item_step(item) {
                    Ok(step) => {
                        let inner = format!("{path}{}", spoken(&step));
                        if !seen.insert(step) {
                            out.push(format!("{path}: duplicate entries for key {}", &inner[path.len()..]));
                        }
                        check(&shape.item(), item, &inner, out);
                    }
                    Err(key) => out.push(format!(
                        "{path}: element {n}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                    )),
                }
            }
        }
        View::Leaf => match (shape, value) {
            (Shape::Struct(_) | Shape::Map(_), other) => {
                out.push(format!("{path}: expected map, got {}", spoken_type(other)));
            }
            (Shape::SetList | Shape::MapList(..), other) => {
                out.push(format!("{path}: expected list, got {}", spoken_type(other)));
            }
            _ => {}
        },
    }
}

fn spoken_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

/// `applied` merged into `live`.
pub(super) fn merge(shape: &Shape, live: &Value, applied: &Value) -> Value {
    match (view(shape, live), view(shape, applied)) {
        (View::Map(Some(before)), View::Map(Some(after))) => {
            let mut out = before.clone();
            for (name, value) in after {
                let merged = match before.get(name) {
                    Some(old) => merge(&shape.field(name), old, value),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        // A null says nothing of the fields below it.
        (View::Map(Some(fields)), View::Map(None)) if !fields.is_empty() => live.clone(),
        (View::List(before), View::List(after)) if !before.is_empty() || !after.is_empty() => {
            merge_items(shape, before, after)
        }
        _ => applied.clone(),
    }
}

/// The live list's order, in which the applied items stand in their own order.
fn merge_items(shape: &Shape, live: &[Value], applied: &[Value]) -> Value {
    let steps =
        |items: &[Value]| -> Vec<Option<Step>> { items.iter().map(|i| shape.item_step(i).ok()).collect() };
    let (old_steps, new_steps) = (steps(live), steps(applied));
    let wanted: BTreeSet<&Step> = new_steps.iter().flatten().collect();
    let had: BTreeMap<&Step, &Value> =
        old_steps.iter().zip(live).filter_map(|(step, item)| Some((step.as_ref()?, item))).collect();
    // The items of both, as the configuration orders them.
    let mut shared = new_steps.iter().flatten().filter(|step| had.contains_key(step)).peekable();
    let mut merged: BTreeSet<&Step> = BTreeSet::new();
    let item = shape.item();
    let mut out = Vec::with_capacity(live.len() + applied.len());
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < applied.len() {
        let same = l < live.len() && r < applied.len() && old_steps[l] == new_steps[r];
        if l < live.len() && !same {
            let step = old_steps[l].as_ref();
            if step.is_none_or(|step| !wanted.contains(step)) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            // Merged already, or its turn in the configuration comes later.
            let later = shared.peek().is_some_and(|next| Some(*next) != step);
            if later || r == applied.len() || step.is_some_and(|step| merged.contains(step)) {
                l += 1;
                continue;
            }
        }
        let step = new_steps[r].as_ref();
        let old = step.and_then(|step| had.get(step));
        out.push(old.map_or_else(|| applied[r].clone(), |old| merge(&item, old, &applied[r])));
        merged.extend(step);
        shared.next_if(|next| Some(*next) == step);
        r += 1;
        l += usize::from(same);
    }
    Value::Array(out)
}

/// `value` without the paths of a set; a map or list that loses all it holds becomes null.
pub(super) fn remove(shape: &Shape, value: &Value, gone: &Set) -> Value {
    let keep = |step: &Step, inner: &Shape, value: &Value| {
        if gone.members.contains(step) {
            return None;
        }
        Some(gone.children.get(step).map_or_else(|| value.clone(), |below| remove(inner, value, below)))
    };
    match view(shape, value) {
        View::Map(Some(fields)) if !fields.is_empty() => {
            let left: Map<String, Value> = fields
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.clone(), keep(&field(name), &shape.field(name), value)?))
                })
                .collect();
            if left.is_empty() { Value::Null } else { Value::Object(left) }
        }
        View::List(items) if !items.is_empty() => {
            let inner = shape.item();
            let left: Vec<Value> = items
                .iter()
                .filter_map(|item| match shape.item_step(item) {
                    Ok(step) => keep(&step, &inner, item),
                    Err(_) => Some(item.clone()),
                })
                .collect();
            if left.is_empty() { Value::Null } else { Value::Array(left) }
        }
        _ => value.clone(),
    }
}
