//! The document of a kind's zero value: what Go writes of an object in which nothing is set.

use serde_json::{Map, Value, json};

use super::message_name;
use super::table::{Field, Message, message};

/// `apiVersion`, `kind` and the fields that have no `omitempty`; nothing more where the kind has no message.
pub fn zero(api_version: &str, kind: &str) -> Value {
    let mut out = Map::new();
    if let Some(known) = message_name(api_version, kind).and_then(|name| message(&name)) {
        fields(known, &mut out);
    }
    out.insert("apiVersion".into(), api_version.into());
    out.insert("kind".into(), kind.into());
    Value::Object(out)
}

fn fields(kind: &'static Message, out: &mut Map<String, Value>) {
    for (_, field) in &kind.fields {
        match kind.resolve(field.kind) {
            Some(inner) if field.inline => fields(inner, out),
            inner => {
                if let Some(value) = written(field, inner) {
                    out.insert(field.json().to_owned(), value);
                }
            }
        }
    }
}

/// Go's `omitempty` leaves out no struct; times of metadata are `omitzero`.
fn written(field: &Field, inner: Option<&'static Message>) -> Option<Value> {
    if field.pointer || field.repeated || field.map.is_some() {
        return (!field.omitempty).then_some(Value::Null);
    }
    match (inner.map(|m| m.name), field.kind) {
        (Some("Time" | "MicroTime" | "RawExtension" | "FieldsV1" | "JSON"), _) => {
            (!field.omitempty).then_some(Value::Null)
        }
        (Some("Quantity"), _) => Some("0".into()),
        (Some("IntOrString"), _) => Some(0.into()),
        (Some("Duration"), _) => Some("0s".into()),
        (Some(_), _) => {
            let mut out = Map::new();
            if let Some(inner) = inner {
                fields(inner, &mut out);
            }
            Some(Value::Object(out))
        }
        _ if field.omitempty => None,
        (None, "bool") => Some(json!(false)),
        (None, "int32" | "int64" | "double") => Some(json!(0)),
        (None, "bytes") => Some(Value::Null),
        (None, _) => Some(json!("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_has_its_structs_and_no_more() {
        let spec = zero("apps/v1", "Deployment")["spec"].clone();
        let wanted = json!({"selector": null, "strategy": {},
            "template": {"metadata": {}, "spec": {"containers": null}}});
        assert_eq!(spec, wanted);
        assert_eq!(
            zero("example.com/v1", "Widget"),
            json!({"apiVersion": "example.com/v1", "kind": "Widget"})
        );
    }
}
