//! Bodies become documents: JSON and YAML held against a kind's schema, as `encoding/json` and the API's
//! serializers do (`apimachinery/pkg/runtime/serializer/json`).

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::schema::{self, Definition, Field};
use crate::status::Status;
use crate::{protobuf, yaml};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// A field that the schema doesn't know, or that stands twice; upstream's words (`unknown field "spec.foo"`).
pub type Problem = String;

/// The document of a body, unknown fields left out and listed. The kind's `apiVersion` and `kind` are filled in.
///
/// # Errors
/// 400 where it cannot be read, is another kind's, or a field has the wrong type.
pub fn body(kind: &Kind, bytes: &[u8], format: Format) -> Result<(Value, Vec<Problem>), Status> {
    let mut problems = Vec::new();
    let mut value = match format {
        Format::Json => json(kind, bytes, &mut problems)?,
        Format::Yaml => {
            let text = String::from_utf8_lossy(bytes);
            yaml::parse(&text).map_err(|e| unrecognized(kind, &format!("yaml: {e}"), &text))?
        }
        Format::Protobuf => {
            protobuf::decode(bytes).map_err(|e| unrecognized(kind, &e.to_string(), "protobuf"))?
        }
    };
    let Some(object) = value.as_object_mut() else {
        return Err(unrecognized(kind, "json: cannot unmarshal into Go value of type struct", "…"));
    };
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let (version, name) = (text("apiVersion"), text("kind"));
    let own = kind.api_version();
    if !version.is_empty() && version != own || !name.is_empty() && name != kind.kind {
        return Err(other_kind(kind, &version, &name));
    }
    object.insert("apiVersion".into(), own.into());
    object.insert("kind".into(), kind.kind.into());
    conform(kind, &mut value, &mut problems)?;
    Ok((value, problems))
}

/// Holds a document against its kind's schema: unknown fields go, nulls go, types must fit.
///
/// # Errors
/// 400 with Go's words for the first field of a wrong type.
pub fn conform(kind: &Kind, value: &mut Value, problems: &mut Vec<Problem>) -> Result<(), Status> {
    let Some(definition) = schema::definition(kind.schema) else { return Ok(()) };
    let mut walk = Walk { problems, path: Vec::new() };
    walk.definition(definition, value, kind.kind).map_err(|why| {
        let what = kind.kind;
        Status::bad_request(format!(
            "{what} in version {:?} cannot be handled as a {what}: {why}",
            kind.version
        ))
    })
}

fn json(kind: &Kind, bytes: &[u8], problems: &mut Vec<Problem>) -> Result<Value, Status> {
    let shown = if bytes.is_empty() { "<empty>".into() } else { String::from_utf8_lossy(bytes) };
    let fail = |e: serde_json::Error| {
        unrecognized(kind, &format!("json parse error: {}", go_syntax(&e, bytes)), &shown)
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut path = Vec::new();
    let value = Strict { path: &mut path, problems }.deserialize(&mut deserializer).map_err(fail)?;
    deserializer.end().map_err(fail)?;
    Ok(value)
}

/// Go's words for a syntax error, where they are easy to tell.
fn go_syntax(e: &serde_json::Error, bytes: &[u8]) -> String {
    if e.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or_default();
    let sign = line.chars().nth(e.column().saturating_sub(1)).unwrap_or(' ');
    let said = e.to_string();
    if said.starts_with("key must be a string") {
        format!("invalid character '{sign}' looking for beginning of object key string")
    } else if said.starts_with("expected value") || said.starts_with("expected ident") {
        format!("invalid character '{sign}' looking for beginning of value")
    } else {
        said
    }
}

fn unrecognized(kind: &Kind, why: &str, shown: &str) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; {why} ({shown})",
        kind.kind
    ))
}

fn other_kind(kind: &Kind, version: &str, name: &str) -> Status {
    let short = version.rsplit('/').next().unwrap_or(version);
    let why = if crate::kinds::by_kind(version, name).is_some() {
        format!("{name} is no {}", kind.kind)
    } else {
        format!(
            "no kind {name:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
        )
    };
    Status::bad_request(format!("{name} in version {short:?} cannot be handled as a {}: {why}", kind.kind))
}

/// Reads any JSON, noting keys that stand twice; the last one counts.
struct Strict<'a> {
    path: &'a mut Vec<String>,
    problems: &'a mut Vec<Problem>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        // 3.0 is an integer to Go's JSON where it fits one.
        #[allow(clippy::cast_possible_truncation)]
        let whole = v as i64;
        #[allow(clippy::cast_precision_loss, clippy::float_cmp)]
        if whole as f64 == v { Ok(whole.into()) } else { Ok(v.into()) }
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            self.path.push(format!("[{}]", out.len()));
            let item = items.next_element_seed(Strict { path: self.path, problems: self.problems })?;
            self.path.pop();
            match item {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            self.path.push(key.clone());
            let value = fields.next_value_seed(Strict { path: self.path, problems: self.problems })?;
            if out.insert(key, value).is_some() {
                self.problems.push(format!("duplicate field {:?}", join(self.path)));
            }
            self.path.pop();
        }
        Ok(Value::Object(out))
    }
}

fn join(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if !out.is_empty() && !part.starts_with('[') {
            out.push('.');
        }
        out.push_str(part);
    }
    out
}

struct Walk<'a> {
    problems: &'a mut Vec<Problem>,
    path: Vec<String>,
}

impl Walk<'_> {
    fn definition(&mut self, definition: &Definition, value: &mut Value, name: &str) -> Result<(), String> {
        if definition.fields.is_empty() {
            return Ok(());
        }
        let Value::Object(object) = value else { return Err(self.mismatch(value, name, name)) };
        object.retain(|_, v| !v.is_null());
        let unknown: Vec<String> =
            object.keys().filter(|k| !definition.fields.contains_key(k.as_str())).cloned().collect();
        for key in unknown {
            object.remove(&key);
            self.path.push(key);
            self.problems.push(format!("unknown field {:?}", join(&self.path)));
            self.path.pop();
        }
        for (key, value) in object.iter_mut() {
            if let Some(field) = definition.fields.get(key.as_str()) {
                self.path.push(key.clone());
                self.field(field, value, name)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, value: &mut Value, owner: &str) -> Result<(), String> {
        if !field.reference.is_empty() {
            return match field.type_name() {
                "Quantity" => {
                    self.scalar(value, owner, "resource.Quantity", |v| v.is_string() || v.is_number())
                }
                "IntOrString" => {
                    self.scalar(value, owner, "intstr.IntOrString", |v| v.is_string() || v.is_i64())
                }
                "Time" | "MicroTime" => self.scalar(value, owner, "string", Value::is_string),
                name => match field.definition() {
                    Some(definition) => self.definition(definition, value, name),
                    None => Ok(()),
                },
            };
        }
        match field.kind {
            "string" if field.format == "byte" => self.bytes(value, owner),
            "string" => self.scalar(value, owner, "string", Value::is_string),
            "boolean" => self.scalar(value, owner, "bool", Value::is_boolean),
            "integer" => {
                let wide = field.format != "int32";
                let fits = move |v: &Value| v.as_i64().is_some_and(|n| wide || i32::try_from(n).is_ok());
                self.scalar(value, owner, if wide { "int64" } else { "int32" }, fits)
            }
            "number" => self.scalar(value, owner, "float64", Value::is_number),
            "array" => {
                let Value::Array(items) = value else {
                    return Err(self.mismatch(value, owner, &go_type(field)));
                };
                let Some(item) = &field.items else { return Ok(()) };
                for (n, value) in items.iter_mut().enumerate() {
                    self.path.push(format!("[{n}]"));
                    self.field(item, value, owner)?;
                    self.path.pop();
                }
                Ok(())
            }
            "object" => {
                let Value::Object(fields) = value else {
                    return Err(self.mismatch(value, owner, &go_type(field)));
                };
                let Some(inner) = &field.values else { return Ok(()) };
                for (key, value) in fields.iter_mut() {
                    // A null in a map of strings is its zero value.
                    if value.is_null() && inner.kind == "string" {
                        *value = Value::String(String::new());
                    }
                    self.path.push(key.clone());
                    self.field(inner, value, owner)?;
                    self.path.pop();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn bytes(&mut self, value: &mut Value, owner: &str) -> Result<(), String> {
        use base64::Engine;
        let Some(text) = value.as_str() else { return Err(self.mismatch(value, owner, "[]uint8")) };
        match base64::engine::general_purpose::STANDARD.decode(text.replace(['\r', '\n'], "")) {
            Ok(_) => Ok(()),
            Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
                Err(format!("illegal base64 data at input byte {at}"))
            }
            Err(_) => Err(format!("illegal base64 data at input byte {}", text.len() / 4 * 4)),
        }
    }

    fn scalar(
        &mut self,
        value: &Value,
        owner: &str,
        go: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<(), String> {
        if fits(value) { Ok(()) } else { Err(self.mismatch(value, owner, go)) }
    }

    /// Go's `UnmarshalTypeError`.
    fn mismatch(&self, value: &Value, owner: &str, go: &str) -> String {
        let what = match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(n) if go == "int32" || go == "int64" => format!("number {n}"),
            Value::Number(_) => "number".into(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".into(),
        };
        let path: Vec<String> = self.path.iter().filter(|p| !p.starts_with('[')).cloned().collect();
        format!("json: cannot unmarshal {what} into Go struct field {owner}.{} of type {go}", join(&path))
    }
}

/// A field's type as Go prints it.
fn go_type(field: &Field) -> String {
    if !field.reference.is_empty() {
        return format!("v1.{}", field.type_name());
    }
    match field.kind {
        "array" => format!("[]{}", field.items.as_deref().map_or_else(|| "string".into(), go_type)),
        "object" => {
            format!("map[string]{}", field.values.as_deref().map_or_else(|| "string".into(), go_type))
        }
        "integer" => {
            if field.format == "int64" {
                "int64".into()
            } else {
                "int32".into()
            }
        }
        "boolean" => "bool".into(),
        other => other.into(),
    }
}

/// For callers that have a document already, e.g. a patch's result: any JSON text.
///
/// # Errors
/// Go's words for the syntax error.
pub fn any_json(bytes: &[u8]) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Value::deserialize(&mut deserializer).map_err(|e| go_syntax(&e, bytes))?;
    deserializer.end().map_err(|e| go_syntax(&e, bytes))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(name: &str) -> &'static Kind {
        crate::kinds::KINDS.iter().find(|k| k.kind == name).unwrap()
    }

    #[test]
    fn unknown_and_double_fields_are_listed_and_left_out() {
        let text = br#"{"metadata":{"name":"s","nope":1},"data":{"k":"1"},"data":{"k":"2"},"extra":2}"#;
        let (value, mut problems) = body(kind("ConfigMap"), text, Format::Json).unwrap();
        problems.sort();
        assert_eq!(
            problems,
            [r#"duplicate field "data""#, r#"unknown field "extra""#, r#"unknown field "metadata.nope""#]
        );
        let whole =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"k": "2"}});
        assert_eq!(value, whole);
    }

    #[test]
    fn refusals_have_upstreams_words() {
        let cases: &[(&str, &str, &str)] = &[
            ("ConfigMap", "{not json", "looking for beginning of object key string ({not json)"),
            ("ConfigMap", "", "unexpected end of JSON input (<empty>)"),
            (
                "Deployment",
                r#"{"spec":{"replicas":"many"}}"#,
                "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go \
                 struct field DeploymentSpec.spec.replicas of type int32",
            ),
            ("Secret", r#"{"data":{"k":"v"}}"#, "illegal base64 data at input byte 0"),
            (
                "ConfigMap",
                r#"{"apiVersion":"v9","kind":"ConfigMap"}"#,
                "no kind \"ConfigMap\" is registered for version \"v9\"",
            ),
        ];
        for (name, text, why) in cases {
            let refused = body(kind(name), text.as_bytes(), Format::Json).unwrap_err();
            assert_eq!(refused.code, 400);
            assert!(refused.message.contains(why), "{}", refused.message);
        }
    }

    #[test]
    fn yaml_and_json_give_the_same() {
        let yaml =
            body(kind("Pod"), b"spec:\n  containers:\n  - name: a\n    image: x\n", Format::Yaml).unwrap();
        let json = body(kind("Pod"), br#"{"spec":{"containers":[{"name":"a","image":"x"}]}}"#, Format::Json)
            .unwrap();
        assert_eq!(yaml, json);
    }
}
