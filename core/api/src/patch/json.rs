//! JSON patch (RFC 6902). An operation that cannot be done refuses the whole.

use serde_json::Value;

pub(super) fn apply(old: &Value, operations: &Value) -> Result<Value, ()> {
    let mut document = old.clone();
    for operation in operations.as_array().ok_or(())? {
        let path = pointer(operation, "path")?;
        let value = || operation.get("value").cloned();
        match operation.get("op").and_then(Value::as_str).ok_or(())? {
            "add" => add(&mut document, &path, value().ok_or(())?)?,
            "remove" => drop(remove(&mut document, &path)?),
            "replace" => *find(&mut document, &path)? = value().ok_or(())?,
            "move" => {
                let from = pointer(operation, "from")?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(());
                }
                let moved = remove(&mut document, &from)?;
                add(&mut document, &path, moved)?;
            }
            "copy" => {
                let copied = find(&mut document, &pointer(operation, "from")?)?.clone();
                add(&mut document, &path, copied)?;
            }
            "test" => {
                // A missing field equals null (evanphx/json-patch).
                let found = find(&mut document, &path).map(|v| v.clone()).unwrap_or(Value::Null);
                if found != value().unwrap_or(Value::Null) {
                    return Err(());
                }
            }
            _ => return Err(()),
        }
    }
    Ok(document)
}

/// RFC 6901.
fn pointer(operation: &Value, name: &str) -> Result<Vec<String>, ()> {
    let text = operation.get(name).and_then(Value::as_str).ok_or(())?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or(())?;
    Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

fn position(part: &str, length: usize) -> Result<usize, ()> {
    let plain = part == "0" || !part.starts_with('0');
    let n: usize = part.parse().map_err(|_| ())?;
    if plain && n < length { Ok(n) } else { Err(()) }
}

fn find<'a>(document: &'a mut Value, path: &[String]) -> Result<&'a mut Value, ()> {
    path.iter().try_fold(document, |at, part| match at {
        Value::Object(fields) => fields.get_mut(part).ok_or(()),
        Value::Array(items) => {
            let n = position(part, items.len())?;
            items.get_mut(n).ok_or(())
        }
        _ => Err(()),
    })
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), ()> {
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    match find(document, parents)? {
        Value::Object(fields) => drop(fields.insert(last.clone(), value)),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let n = position(last, items.len() + 1)?;
            items.insert(n, value);
        }
        _ => return Err(()),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, ()> {
    let (last, parents) = path.split_last().ok_or(())?;
    match find(document, parents)? {
        Value::Object(fields) => fields.remove(last).ok_or(()),
        Value::Array(items) => {
            let n = position(last, items.len())?;
            Ok(items.remove(n))
        }
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_do_what_the_rfc_says() {
        let old = json!({"a": {"b/c": 1, "d~e": 2}, "l": [1, 2, 3]});
        let cases = [
            (
                json!([{"op": "add", "path": "/l/1", "value": 9}]),
                Some(json!({"a": {"b/c": 1, "d~e": 2}, "l": [1, 9, 2, 3]})),
            ),
            (
                json!([{"op": "add", "path": "/l/-", "value": 9}]),
                Some(json!({"a": {"b/c": 1, "d~e": 2}, "l": [1, 2, 3, 9]})),
            ),
            (json!([{"op": "remove", "path": "/a/b~1c"}]), Some(json!({"a": {"d~e": 2}, "l": [1, 2, 3]}))),
            (
                json!([{"op": "move", "from": "/l/0", "path": "/a/d~0e"}]),
                Some(json!({"a": {"b/c": 1, "d~e": 1}, "l": [2, 3]})),
            ),
            (json!([{"op": "test", "path": "/none", "value": null}]), Some(old.clone())),
            (json!([{"op": "test", "path": "/l/0", "value": 2}]), None),
            (json!([{"op": "remove", "path": "/none"}]), None),
            (json!([{"op": "replace", "path": "/none", "value": 1}]), None),
            (json!([{"op": "add", "path": "/l/01", "value": 1}]), None),
            (json!([{"op": "add", "path": "/l/5", "value": 1}]), None),
            (json!([{"op": "move", "from": "/a", "path": "/a/x"}]), None),
            (json!([{"op": "frob", "path": "/a"}]), None),
            (json!({"op": "add"}), None),
        ];
        for (patch, expected) in cases {
            assert_eq!(apply(&old, &patch).ok(), expected, "{patch}");
        }
    }
}
