//! Protobuf into JSON documents, as Go would marshal the same object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::table::{Field, Message, message};
use super::{MAGIC, UNKNOWN, message_name};

/// Deeper than any object nests (JSON schemas nest, and must not take the stack).
const DEPTH: usize = 64;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They don't begin with `k8s\0`.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// They end early.
    #[error("unexpected EOF")]
    Short,
    /// A wire type that doesn't fit its field, or too deep.
    #[error("proto: wrong wireType or nesting in {0}")]
    Wire(String),
    /// A wire type that there is none of.
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    /// A kind that the table doesn't have.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Kind {
        /// As the body names it.
        api_version: String,
        /// As the body names it.
        kind: String,
    },
}

/// The object of a body.
///
/// # Errors
/// Where it is none.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let unknown = message(UNKNOWN).ok_or_else(|| DecodeError::Wire(UNKNOWN.into()))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Parts(rest) {
        match part? {
            (1, Wire::Bytes(type_meta)) => {
                for part in Parts(type_meta) {
                    match part? {
                        (1, Wire::Bytes(b)) => api_version = String::from_utf8_lossy(b).into_owned(),
                        (2, Wire::Bytes(b)) => kind = String::from_utf8_lossy(b).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(b)) => raw = b,
            (number, _) if unknown.field(number).is_none() => return Err(DecodeError::Wire(UNKNOWN.into())),
            _ => {}
        }
    }
    let known = message_name(&api_version, &kind).and_then(|name| message(&name));
    let known =
        known.ok_or_else(|| DecodeError::Kind { api_version: api_version.clone(), kind: kind.clone() })?;
    let mut value = object(known, raw, DEPTH)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".into(), api_version.into());
        fields.insert("kind".into(), kind.into());
    }
    Ok(value)
}

/// A field's content on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Field numbers and contents, one after the other.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), DecodeError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Result<(u32, Wire<'a>), DecodeError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| DecodeError::Short)?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| DecodeError::Short)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Short)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let four: [u8; 4] = self.take(4)?.try_into().map_err(|_| DecodeError::Short)?;
                Wire::Number(u32::from_le_bytes(four).into())
            }
            other => return Err(DecodeError::WireType(other)),
        };
        Ok((number, wire))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in 0..10 {
            let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Short)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << (shift * 7).min(63);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Short)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        if length > self.0.len() {
            return Err(DecodeError::Short);
        }
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }
}

fn object(kind: &'static Message, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    if let Some(special) = special(kind, bytes)? {
        return Ok(special);
    }
    let mut out = Map::new();
    fields(kind, bytes, depth, &mut out)?;
    Ok(Value::Object(out))
}

fn fields(
    kind: &'static Message,
    bytes: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), DecodeError> {
    let wrong = || DecodeError::Wire(kind.name.to_owned());
    let depth = depth.checked_sub(1).ok_or_else(wrong)?;
    // What Go always writes, however empty.
    for (_, field) in &kind.fields {
        if !field.omitempty
            && !field.pointer
            && !field.inline
            && field.kind == "string"
            && !field.repeated
            && !field.json().is_empty()
        {
            out.entry(field.json()).or_insert_with(|| json!(""));
        }
    }
    for part in Parts(bytes) {
        let (number, wire) = part?;
        // A newer client may know fields that we don't.
        let Some(field) = kind.field(number) else { continue };
        if let Some((_, value_kind)) = field.map {
            let Wire::Bytes(entry) = wire else { return Err(wrong()) };
            let (key, value) = map_entry(kind, value_kind, entry, depth)?;
            let slot = out.entry(field.json()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                map.insert(key, value);
            }
        } else if field.inline {
            let (Some(inner), Wire::Bytes(inner_bytes)) = (kind.resolve(field.kind), wire) else {
                return Err(wrong());
            };
            fields(inner, inner_bytes, depth, out)?;
        } else if field.repeated {
            let items = values(kind, field, &wire, depth)?;
            let slot = out.entry(field.json()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = slot {
                list.extend(items);
            }
        } else {
            let value = one(kind, field.kind, &wire, depth)?;
            if keep(field, &value) {
                out.insert(field.json().to_owned(), value);
            } else {
                out.remove(field.json());
            }
        }
    }
    Ok(())
}

/// Whether Go's JSON shows a value that is on the wire.
fn keep(field: &Field, value: &Value) -> bool {
    if field.pointer {
        return !value.is_null();
    }
    match value {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(false) => !field.omitempty,
        Value::Number(n) => !field.omitempty || n.as_f64() != Some(0.0),
        Value::String(s) => !field.omitempty || !s.is_empty(),
        _ => true,
    }
}

/// Repeated numbers may be packed.
fn values(
    kind: &'static Message,
    field: &Field,
    wire: &Wire<'_>,
    depth: usize,
) -> Result<Vec<Value>, DecodeError> {
    let numeric = matches!(field.kind, "int32" | "int64" | "bool");
    if let (true, Wire::Bytes(packed)) = (numeric, wire) {
        let mut parts = Parts(packed);
        let mut out = Vec::new();
        while !parts.0.is_empty() {
            out.push(number(field.kind, parts.varint()?));
        }
        return Ok(out);
    }
    Ok(vec![one(kind, field.kind, wire, depth)?])
}

#[allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation)]
fn number(kind: &str, raw: u64) -> Value {
    match kind {
        "bool" => Value::Bool(raw != 0),
        "int32" => Value::from(raw as i32),
        "double" => Value::from(f64::from_bits(raw)),
        _ => Value::from(raw as i64),
    }
}

fn one(within: &'static Message, kind: &str, wire: &Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    let wrong = || DecodeError::Wire(format!("{}.{kind}", within.name));
    Ok(match (kind, wire) {
        ("bool" | "int32" | "int64" | "double", Wire::Number(raw)) => number(kind, *raw),
        ("string", Wire::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned().into(),
        ("bytes", Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (_, Wire::Bytes(bytes)) => object(within.resolve(kind).ok_or_else(wrong)?, bytes, depth)?,
        _ => return Err(wrong()),
    })
}

fn map_entry(
    kind: &'static Message,
    value_kind: &str,
    entry: &[u8],
    depth: usize,
) -> Result<(String, Value), DecodeError> {
    let (mut key, mut value) = (String::new(), None);
    for part in Parts(entry) {
        match part? {
            (1, Wire::Bytes(b)) => key = String::from_utf8_lossy(b).into_owned(),
            (2, wire) => value = Some(one(kind, value_kind, &wire, depth)?),
            _ => {}
        }
    }
    Ok((
        key,
        value.unwrap_or_else(|| {
            if value_kind == "string" || value_kind == "bytes" { json!("") } else { json!({}) }
        }),
    ))
}

/// Messages whose JSON is no object of their fields.
fn special(kind: &'static Message, bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    let mut numbers = [0u64; 4];
    let mut text: &[u8] = &[];
    let wanted = matches!(
        kind.name,
        "Quantity" | "IntOrString" | "Time" | "MicroTime" | "Duration" | "RawExtension" | "FieldsV1" | "JSON"
    );
    let wrapper = kind.fields.len() == 1
        && kind.fields[0].1.repeated
        && kind.fields[0].1.json() == "items"
        && kind.fields[0].1.kind == "string";
    if wrapper {
        let mut items = Vec::new();
        for part in Parts(bytes) {
            if let (1, Wire::Bytes(b)) = part? {
                items.push(Value::from(String::from_utf8_lossy(b)));
            }
        }
        return Ok(Some(Value::Array(items)));
    }
    if !wanted {
        return Ok(None);
    }
    for part in Parts(bytes) {
        match part? {
            (n @ 1..=3, Wire::Number(raw)) => numbers[n as usize] = raw,
            (_, Wire::Bytes(b)) => text = b,
            _ => {}
        }
    }
    let string = || String::from_utf8_lossy(text).into_owned();
    Ok(Some(match kind.name {
        "Quantity" => string().into(),
        "IntOrString" if numbers[1] == 0 => number("int32", numbers[2]),
        "IntOrString" => string().into(),
        "Time" => time(numbers[1], 0, false),
        "MicroTime" => time(numbers[1], numbers[2], true),
        "Duration" => format!("{}ns", numbers[1]).into(),
        _ if text.is_empty() => Value::Null,
        _ => serde_json::from_slice(text).map_err(|_| DecodeError::Wire(kind.name.to_owned()))?,
    }))
}

#[allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation)]
fn time(seconds: u64, nanos: u64, micro: bool) -> Value {
    if seconds == 0 && nanos == 0 {
        return Value::Null;
    }
    match Timestamp::new(seconds as i64, nanos as i32) {
        Ok(at) if micro => at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into(),
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
        Err(_) => Value::Null,
    }
}
