//! Strategic merge patch (`apimachinery/pkg/util/strategicpatch`): lists of objects merge by key, and directives
//! say what a merge cannot.

use serde_json::{Map, Value};

use crate::schema::{Definition, Field};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// The wished order of a list's keys or values.
type Order = Vec<Value>;

/// Merges `patch` into `target`, an object of the given type.
///
/// # Errors
/// A sentence where a directive makes no sense, or a list's item lacks its key.
pub(super) fn merge(
    target: &mut Value,
    patch: &Map<String, Value>,
    definition: Option<&Definition>,
) -> Result<(), String> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = patch.clone();
            whole.remove(DIRECTIVE);
            *target = Value::Object(whole);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("Unknown patch type found: {other}")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(object) = target else { return Ok(()) };
    if let Some(Value::Array(kept)) = patch.get(RETAIN) {
        object.retain(|key, _| kept.iter().any(|k| k == key));
    }
    for (key, values) in patch {
        if let (Some(name), Value::Array(values)) = (key.strip_prefix(DELETE_PREFIX), values)
            && let Some(Value::Array(items)) = object.get_mut(name)
        {
            items.retain(|item| !values.contains(item));
        }
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN || key.starts_with(DELETE_PREFIX) {
            continue;
        }
        let field = |name: &str| definition.and_then(|d| d.fields.get(name));
        if let Some(name) = key.strip_prefix(ORDER_PREFIX) {
            // Together with the list's own patch, where there is one.
            if !patch.contains_key(name)
                && let (Some(Value::Array(items)), Value::Array(order)) = (object.get_mut(name), value)
            {
                // Items that the order doesn't name keep their place among those that it does.
                let server = items.clone();
                *items = arrange(std::mem::take(items), order, &server, field(name).map_or("", |f| f.key));
            }
            continue;
        }
        if value.is_null() {
            object.remove(key);
            continue;
        }
        let order = patch.get(&format!("{ORDER_PREFIX}{key}")).and_then(Value::as_array);
        merge_field(object, key, value, field(key), order)?;
    }
    Ok(())
}

fn merge_field(
    object: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    field: Option<&Field>,
    order: Option<&Order>,
) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            let definition = field.and_then(Field::definition);
            let slot = object.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            // What patches of new fields say is the field, without nulls and directives: merging into nothing does that.
            merge(slot, fields, definition)
        }
        Value::Array(items) => {
            let merges = field.is_some_and(|f| f.merge.split(',').any(|m| m == "merge"));
            let old = match object.remove(key) {
                Some(Value::Array(old)) if merges => old,
                _ => Vec::new(),
            };
            let new = match field {
                Some(field) if merges => merge_list(old, items, field, order)?,
                _ => plain(items, field)?,
            };
            object.insert(key.to_owned(), Value::Array(new));
            Ok(())
        }
        other => {
            object.insert(key.to_owned(), other.clone());
            Ok(())
        }
    }
}

/// A list that replaces another, its items freed of directives.
fn plain(items: &[Value], field: Option<&Field>) -> Result<Vec<Value>, String> {
    let definition = field.and_then(|f| f.items.as_deref()).and_then(Field::definition);
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::Object(fields) if fields.get(DIRECTIVE).is_some() && fields.len() == 1 => {}
            Value::Object(fields) => {
                let mut fresh = Value::Object(Map::new());
                merge(&mut fresh, fields, definition)?;
                out.push(fresh);
            }
            other => out.push(other.clone()),
        }
    }
    Ok(out)
}

fn merge_list(
    old: Vec<Value>,
    patch: &[Value],
    field: &Field,
    order: Option<&Order>,
) -> Result<Vec<Value>, String> {
    let server: Vec<Value> = old.clone();
    let mut items = old;
    if field.key.is_empty() || patch.iter().chain(&items).all(|v| !v.is_object()) {
        for value in patch {
            if !items.contains(value) {
                items.push(value.clone());
            }
        }
        return Ok(arrange(items, order.map_or(patch, Vec::as_slice), &server, ""));
    }
    let replaces = |v: &Value| v.get(DIRECTIVE).and_then(Value::as_str) == Some("replace");
    if patch.iter().any(replaces) {
        let rest: Vec<Value> = patch.iter().filter(|v| !replaces(v)).cloned().collect();
        return plain(&rest, Some(field));
    }
    let definition = field.items.as_deref().and_then(Field::definition);
    for change in patch {
        let Value::Object(fields) = change else { continue };
        let id = fields
            .get(field.key)
            .ok_or_else(|| format!("map: {change} does not contain declared merge key: {}", field.key))?;
        let at = items.iter().position(|item| item.get(field.key) == Some(id));
        if fields.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
            items.retain(|item| item.get(field.key) != Some(id));
            continue;
        }
        match at {
            Some(at) => merge(&mut items[at], fields, definition)?,
            None => {
                let mut fresh = Value::Object(Map::new());
                merge(&mut fresh, fields, definition)?;
                items.push(fresh);
            }
        }
    }
    // Without a wished order the patch's own counts, so new items stand before those that only the server has.
    Ok(arrange(items, order.map_or(patch, Vec::as_slice), &server, field.key))
}

/// Items that the order names stand in its order; others keep their place among those that they stood with
/// (`normalizeElementOrder`).
fn arrange(items: Vec<Value>, order: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let id = |item: &Value| {
        if key.is_empty() { item.clone() } else { item.get(key).cloned().unwrap_or(Value::Null) }
    };
    let wish =
        |v: &Value| order.iter().position(|o| if key.is_empty() { o == v } else { o.get(key) == v.get(key) });
    let place = |v: &Value| server.iter().position(|s| id(s) == id(v));
    let (mut named, others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|v| wish(v).is_some());
    named.sort_by_key(|v| wish(v));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        if let Some(here) = place(&item) {
            while let Some(other) = others.next_if(|o| place(o).is_some_and(|p| p < here)) {
                out.push(other);
            }
        }
        out.push(item);
    }
    out.extend(others);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    #[test]
    fn an_order_alone_leaves_unnamed_items_where_they_stand() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}]}});
        let definition = schema::definition("io.k8s.api.core.v1.Pod");
        merge(&mut pod, patch.as_object().unwrap(), definition).unwrap();
        let names: Vec<&str> = pod["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "sidecar", "b"]);
    }
}
