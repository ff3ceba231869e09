//! Steps of field paths and their forms, in FieldsV1 and in messages (`structured-merge-diff/fieldpath/element.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One step of a path as FieldsV1 writes it: `f:name`, `k:{"name":"c"}`, `v:"x"`, `i:0`.
pub(super) type Step = String;

/// The step to a field.
pub(super) fn field(name: &str) -> Step {
    format!("f:{name}")
}

/// The step to an item of a list that is a map by `keys`.
pub(super) fn key(keys: Map<String, Value>) -> Step {
    let sorted: BTreeMap<String, Value> = keys.into_iter().collect();
    let inner: Vec<String> =
        sorted.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
    format!("k:{{{}}}", inner.join(","))
}

/// A step in the form that this program writes, `None` where it is none.
pub(super) fn canonical(step: &str) -> Option<Step> {
    let (kind, rest) = step.split_once(':')?;
    match kind {
        "f" => Some(step.to_owned()),
        "k" => match serde_json::from_str(rest).ok()? {
            Value::Object(keys) => Some(key(keys)),
            _ => None,
        },
        "v" => Some(format!("v:{}", serde_json::from_str::<Value>(rest).ok()?)),
        "i" => rest.parse::<usize>().ok().map(|n| format!("i:{n}")),
        _ => None,
    }
}

/// A step as messages write it (`PathElement.String`).
pub(super) fn spoken(step: &str) -> String {
    let (kind, rest) = step.split_once(':').unwrap_or(("", step));
    match kind {
        "f" => format!(".{rest}"),
        "k" => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let inner: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", inner.join(","))
        }
        "v" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}
