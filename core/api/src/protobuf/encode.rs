//! JSON documents into protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{Message, message};
use super::{MAGIC, message_name};

/// The body of an object, `None` where its kind has no message.
pub fn encode(object: &Value) -> Option<Bytes> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let known = message(&message_name(api_version, kind)?)?;
    let mut type_meta = BytesMut::new();
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut raw = BytesMut::new();
    put_fields(&mut raw, known, object.as_object()?);
    let mut out = BytesMut::with_capacity(raw.len() + 64);
    out.put_slice(MAGIC);
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, &raw);
    // contentEncoding and contentType are written though empty.
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    Some(out.freeze())
}

/// A watch event as it goes over the wire: four octets of length, and a `WatchEvent` whose object is a body of its
/// own.
pub fn encode_watch_event(kind: &str, object: &Value) -> Option<Bytes> {
    let body = encode(object)?;
    let mut raw = BytesMut::new();
    put_bytes(&mut raw, 1, &body);
    let mut event = BytesMut::new();
    put_bytes(&mut event, 1, kind.as_bytes());
    put_bytes(&mut event, 2, &raw);
    let mut out = BytesMut::with_capacity(event.len() + 4);
    out.put_u32(u32::try_from(event.len()).ok()?);
    out.put_slice(&event);
    Some(out.freeze())
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

fn put_bytes(out: &mut BytesMut, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_number(out: &mut BytesMut, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

fn put_fields(out: &mut BytesMut, kind: &'static Message, object: &Map<String, Value>) {
    for (number, field) in &kind.fields {
        let number = *number;
        if field.inline {
            if let Some(inner) = kind.resolve(field.kind) {
                let mut body = BytesMut::new();
                put_fields(&mut body, inner, object);
                put_bytes(out, number, &body);
            }
            continue;
        }
        let value = object.get(field.json()).unwrap_or(&Value::Null);
        match (value, field.map) {
            (Value::Null, _) => {}
            (Value::Object(entries), Some((_, value_kind))) => {
                for (key, value) in entries {
                    let mut entry = BytesMut::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put_one(&mut entry, kind, 2, value_kind, value);
                    put_bytes(out, number, &entry);
                }
            }
            (Value::Array(items), None) if field.repeated => {
                items.iter().for_each(|item| put_one(out, kind, number, field.kind, item));
            }
            (value, None) => put_one(out, kind, number, field.kind, value),
            _ => {}
        }
    }
}

#[allow(clippy::cast_sign_loss)]
fn put_one(out: &mut BytesMut, within: &'static Message, number: u32, kind: &str, value: &Value) {
    match kind {
        "string" => put_bytes(out, number, value.as_str().unwrap_or("").as_bytes()),
        "bytes" => put_bytes(out, number, &STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default()),
        "bool" => put_number(out, number, u64::from(value.as_bool().unwrap_or(false))),
        // Negative int32 too takes ten octets.
        "int32" | "int64" => put_number(out, number, value.as_i64().unwrap_or(0) as u64),
        "double" => {
            put_varint(out, u64::from(number) << 3 | 1);
            out.put_f64_le(value.as_f64().unwrap_or(0.0));
        }
        other => {
            if let Some(inner) = within.resolve(other) {
                let mut body = BytesMut::new();
                put_message(&mut body, inner, value);
                put_bytes(out, number, &body);
            }
        }
    }
}

#[allow(clippy::cast_sign_loss)]
fn put_message(out: &mut BytesMut, kind: &'static Message, value: &Value) {
    match (kind.name, value) {
        ("Quantity", Value::String(text)) => put_bytes(out, 1, text.as_bytes()),
        ("Quantity", Value::Number(n)) => put_bytes(out, 1, n.to_string().as_bytes()),
        ("IntOrString", Value::String(text)) => {
            put_number(out, 1, 1);
            put_number(out, 2, 0);
            put_bytes(out, 3, text.as_bytes());
        }
        ("IntOrString", value) => {
            put_number(out, 1, 0);
            put_number(out, 2, value.as_i64().unwrap_or(0) as u64);
            put_bytes(out, 3, b"");
        }
        ("Time" | "MicroTime", Value::String(text)) => {
            if let Ok(at) = text.parse::<Timestamp>() {
                put_number(out, 1, at.as_second() as u64);
                put_number(out, 2, i64::from(at.subsec_nanosecond()) as u64);
            }
        }
        ("Duration", Value::String(text)) => {
            let nanos = text.strip_suffix("ns").and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
            put_number(out, 1, nanos as u64);
        }
        ("RawExtension" | "FieldsV1" | "JSON", value) => put_bytes(out, 1, value.to_string().as_bytes()),
        (_, Value::Array(items)) => {
            items.iter().for_each(|item| put_bytes(out, 1, item.as_str().unwrap_or("").as_bytes()));
        }
        (_, Value::Object(fields)) => put_fields(out, kind, fields),
        _ => {}
    }
}
