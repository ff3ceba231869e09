//! Bodies become documents: JSON and YAML held against a kind's schema, as `encoding/json` and the API's
//! serializers do (`apimachinery/pkg/runtime/serializer/json`).

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::schema::{self, Definition, Field};
use crate::status::Status;
use crate::{protobuf, time, yaml};

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
    let refuse = |why: &str| unrecognized(kind, why, bytes);
    let no_kind = |why: &str| refuse(&format!("couldn't get version/kind; json parse error: {why}"));
    let mut value = match format {
        Format::Json => json(bytes, &mut problems).map_err(|why| no_kind(&why))?,
        Format::Yaml => yaml::parse(&String::from_utf8_lossy(bytes)).map_err(|e| no_kind(&e.to_string()))?,
        Format::Protobuf => protobuf::decode(bytes).map_err(|e| refuse(&e.to_string()))?,
    };
    let Some(object) = value.as_object_mut() else {
        let what = json_type(&value);
        return Err(no_kind(&format!("json: cannot unmarshal {what} into Go value of type {TYPE_META}")));
    };
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(no_kind(&format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            json_type(other)
        ))),
    };
    let (version, name) = (text("apiVersion")?, text("kind")?);
    let own = kind.api_version();
    if !version.is_empty() && version != own || !name.is_empty() && name != kind.kind {
        return Err(other_kind(kind, &version, &name, value));
    }
    object.insert("apiVersion".into(), own.into());
    object.insert("kind".into(), kind.kind.into());
    conform(kind, &mut value, &mut problems)?;
    if format == Format::Json && problems.len() > 1 {
        in_document_order(bytes, &mut problems);
    }
    Ok((value, problems))
}

/// What Go calls the struct that a body's kind is read into.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// Holds a document against its kind's schema: unknown fields go, nulls go, types must fit.
///
/// # Errors
/// 400 with Go's words for the first field of a wrong type.
pub fn conform(kind: &Kind, value: &mut Value, problems: &mut Vec<Problem>) -> Result<(), Status> {
    let Some(definition) = schema::definition(kind.schema) else { return Ok(()) };
    let mut walk = Walk { problems, path: Vec::new() };
    walk.definition(definition, value, kind.kind)
        .map_err(|why| unhandled(kind.kind, kind.version, kind.kind, &why))
}

fn unhandled(name: &str, version: &str, wanted: &str, why: &str) -> Status {
    Status::bad_request(format!("{name} in version {version:?} cannot be handled as a {wanted}: {why}"))
}

fn json(bytes: &[u8], problems: &mut Vec<Problem>) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let strict = Strict { path: &mut Vec::new(), problems, paths: &mut None };
    let value = strict.deserialize(&mut deserializer).map_err(|e| go_syntax(&e, bytes))?;
    deserializer.end().map_err(|e| go_syntax(&e, bytes))?;
    Ok(value)
}

/// Problems are said as the body has them; a document's fields are sorted.
fn in_document_order(bytes: &[u8], problems: &mut [Problem]) {
    let mut paths = Some(Vec::new());
    let strict = Strict { path: &mut Vec::new(), problems: &mut Vec::new(), paths: &mut paths };
    // It has been read before.
    let _ = strict.deserialize(&mut serde_json::Deserializer::from_slice(bytes));
    let paths = paths.unwrap_or_default();
    let field = |problem: &Problem| problem.split_once(" field ").map_or("", |(_, field)| field).to_owned();
    problems.sort_by_cached_key(|problem| paths.iter().position(|path| *path == field(problem)));
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

/// The body's beginning stands behind the reason, in hexadecimal where it is no JSON object (`summarizeData`).
fn unrecognized(kind: &Kind, why: &str, bytes: &[u8]) -> Status {
    const SHOWN: usize = 1024;
    let head = &bytes[..bytes.len().min(SHOWN)];
    let mut shown = match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if bytes.len() > SHOWN {
        shown.push_str(" ...");
    }
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({shown})",
        kind.kind
    ))
}

/// A body that names another kind is read as that kind first, and fails at the latest where it would be converted.
fn other_kind(kind: &Kind, version: &str, name: &str, mut value: Value) -> Status {
    let short = version.rsplit('/').next().unwrap_or(version);
    let refuse = |why: &str| unhandled(name, short, kind.kind, why);
    let Some(named) = crate::kinds::by_kind(version, name) else {
        return refuse(&format!(
            "no kind {name:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
        ));
    };
    if let Some(definition) = schema::definition(named.schema) {
        let mut walk = Walk { problems: &mut Vec::new(), path: Vec::new() };
        if let Err(why) = walk.definition(definition, &mut value, name) {
            return refuse(&why);
        }
    }
    let package = kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    refuse(&format!("converting ({short}.{name}) to ({package}.{}): unknown conversion", kind.kind))
}

/// Reads any JSON, noting keys that stand twice; the last one counts.
struct Strict<'a> {
    path: &'a mut Vec<String>,
    problems: &'a mut Vec<Problem>,
    /// Where there is one: every field's path in quotes, as they come.
    paths: &'a mut Option<Vec<String>>,
}

impl Strict<'_> {
    fn inner(&mut self) -> Strict<'_> {
        Strict { path: self.path, problems: self.problems, paths: self.paths }
    }
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
        // 3.0 stays what it is: Go's JSON takes it for no integer.
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            self.path.push(format!("[{}]", out.len()));
            let item = items.next_element_seed(self.inner())?;
            self.path.pop();
            match item {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            self.path.push(key.clone());
            if let Some(paths) = self.paths.as_mut() {
                paths.push(format!("{:?}", join(self.path)));
            }
            let value = fields.next_value_seed(self.inner())?;
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
        let mut unknown = Vec::new();
        for (key, value) in object.iter_mut() {
            self.path.push(key.clone());
            match definition.fields.get(key.as_str()) {
                Some(field) => self.field(field, value, name)?,
                None => {
                    self.problems.push(format!("unknown field {:?}", join(&self.path)));
                    unknown.push(key.clone());
                }
            }
            self.path.pop();
        }
        for key in unknown {
            object.remove(&key);
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, value: &mut Value, owner: &str) -> Result<(), String> {
        if !field.reference.is_empty() {
            return match field.type_name() {
                "Quantity" => quantity(value),
                "IntOrString" => {
                    self.scalar(value, owner, "intstr.IntOrString", |v| v.is_string() || v.is_i64())
                }
                "Time" => self.time(value, owner, false),
                "MicroTime" => self.time(value, owner, true),
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
                    zero_for_null(item, value);
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
                    zero_for_null(inner, value);
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

    /// Go writes times in UTC, whole or in microseconds.
    fn time(&self, value: &mut Value, owner: &str, micro: bool) -> Result<(), String> {
        let Some(text) = value.as_str() else { return Err(self.mismatch(value, owner, "string")) };
        let written = if micro {
            time::parse_micro(text).map(time::format_micro)
        } else {
            time::parse(text).map(time::format)
        };
        let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        let why = || format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"");
        *value = written.ok_or_else(why)?.into();
        Ok(())
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
            Value::Number(n) if go == "int32" || go == "int64" => format!("number {n}"),
            other => json_type(other).to_owned(),
        };
        let path: Vec<String> = self.path.iter().filter(|p| !p.starts_with('[')).cloned().collect();
        format!("json: cannot unmarshal {what} into Go struct field {owner}.{} of type {go}", join(&path))
    }
}

/// What Go's JSON calls a value.
fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A null in a list or a map is its type's zero value.
fn zero_for_null(field: &Field, value: &mut Value) {
    if !value.is_null() {
        return;
    }
    *value = match (field.type_name(), field.kind) {
        ("Quantity", _) => "0".into(),
        ("IntOrString", _) | (_, "integer" | "number") => 0.into(),
        ("Time" | "MicroTime", _) => return,
        (_, "string") => "".into(),
        (_, "boolean") => false.into(),
        (_, "array") => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    };
}

/// Go writes quantities in their canonical form.
fn quantity(value: &mut Value) -> Result<(), String> {
    let canonical = crate::quantity::canonical(value).ok_or(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    )?;
    *value = canonical.into();
    Ok(())
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
