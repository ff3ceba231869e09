//! The parameters of SVCB and HTTPS records (RFC 9460 section 2.1 and 7, RFC 9461, RFC 9540).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;

/// How a parameter's value is written.
#[derive(Clone, Copy)]
enum Value {
    Keys,
    List,
    Empty,
    Port,
    Ipv4,
    Ipv6,
    Base64,
    Octets,
}

const KEYS: &[(u16, &str, Value)] = &[
    (0, "mandatory", Value::Keys),
    (1, "alpn", Value::List),
    (2, "no-default-alpn", Value::Empty),
    (3, "port", Value::Port),
    (4, "ipv4hint", Value::Ipv4),
    (5, "ech", Value::Base64),
    (6, "ipv6hint", Value::Ipv6),
    (7, "dohpath", Value::Octets),
    (8, "ohttp", Value::Empty),
];

fn key_of(name: &str) -> Option<(u16, Value)> {
    if let Some(row) = KEYS.iter().find(|row| row.1 == name) {
        return Some((row.0, row.2));
    }
    let number: u16 = name.strip_prefix("key")?.parse().ok()?;
    Some((number, KEYS.iter().find(|row| row.0 == number).map_or(Value::Octets, |row| row.2)))
}

fn name_of(key: u16) -> String {
    KEYS.iter().find(|row| row.0 == key).map_or_else(|| format!("key{key}"), |row| row.1.to_owned())
}

/// Comma-separated, `\,` and `\\` escaped (RFC 9460 appendix A.1).
fn list(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut items = vec![Vec::new()];
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b',' => items.push(Vec::new()),
            byte => {
                let byte = if byte == b'\\' { *bytes.next()? } else { byte };
                items.last_mut()?.push(byte);
            }
        }
    }
    items.iter().all(|i| !i.is_empty()).then_some(items)
}

fn each(value: &[u8]) -> Option<impl Iterator<Item = &str>> {
    Some(std::str::from_utf8(value).ok()?.split(','))
}

fn encode(kind: Value, value: Option<&[u8]>) -> Option<Vec<u8>> {
    let Some(value) = value else { return matches!(kind, Value::Empty | Value::Octets).then(Vec::new) };
    let mut out = Vec::new();
    match kind {
        Value::Empty => return value.is_empty().then_some(out),
        Value::Octets => out.extend_from_slice(value),
        Value::Port => {
            out.extend_from_slice(&std::str::from_utf8(value).ok()?.parse::<u16>().ok()?.to_be_bytes());
        }
        Value::Base64 => out = base64::engine::general_purpose::STANDARD.decode(value).ok()?,
        Value::List => {
            for item in list(value)? {
                out.push(u8::try_from(item.len()).ok()?);
                out.extend_from_slice(&item);
            }
        }
        Value::Keys => {
            let mut keys = each(value)?.map(|k| key_of(k).map(|k| k.0)).collect::<Option<Vec<u16>>>()?;
            keys.sort_unstable();
            if keys.contains(&0) || keys.windows(2).any(|pair| pair[0] == pair[1]) {
                return None;
            }
            out.extend(keys.into_iter().flat_map(u16::to_be_bytes));
        }
        Value::Ipv4 => {
            for ip in each(value)? {
                out.extend_from_slice(&ip.parse::<Ipv4Addr>().ok()?.octets());
            }
        }
        Value::Ipv6 => {
            for ip in each(value)? {
                out.extend_from_slice(&ip.parse::<Ipv6Addr>().ok()?.octets());
            }
        }
    }
    Some(out)
}

/// The wire form of parameters, given by name and value; the error names the parameter that is none.
pub(super) fn parse(params: &[(String, Option<Vec<u8>>)]) -> Result<Vec<u8>, String> {
    let mut sorted = BTreeMap::new();
    for (name, value) in params {
        let bad = || format!("\"{name}\" is no service parameter that reads so");
        let (key, kind) = key_of(name).ok_or_else(bad)?;
        let value = encode(kind, value.as_deref()).ok_or_else(bad)?;
        if sorted.insert(key, value).is_some() {
            return Err(format!("service parameter \"{name}\" is given twice"));
        }
    }
    if let Some(mandatory) = sorted.get(&0) {
        for pair in mandatory.chunks_exact(2) {
            let key = u16::from_be_bytes([pair[0], pair[1]]);
            if !sorted.contains_key(&key) {
                return Err(format!("service parameter \"{}\" is mandatory and not given", name_of(key)));
            }
        }
    }
    let mut out = Vec::new();
    for (key, value) in sorted {
        out.extend_from_slice(&key.to_be_bytes());
        let len = u16::try_from(value.len()).map_err(|_| "service parameters are too long".to_owned())?;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&value);
    }
    Ok(out)
}

fn decode(kind: Value, value: &[u8]) -> Option<Vec<u8>> {
    let join = |items: Vec<String>| (!items.is_empty()).then(|| items.join(",").into_bytes());
    match kind {
        Value::Empty => value.is_empty().then(Vec::new),
        Value::Octets => Some(value.to_vec()),
        Value::Port => Some(u16::from_be_bytes(value.try_into().ok()?).to_string().into_bytes()),
        Value::Base64 => Some(base64::engine::general_purpose::STANDARD.encode(value).into_bytes()),
        Value::List => {
            let (mut out, mut rest) = (Vec::new(), value);
            while let Some((&len, after)) = rest.split_first() {
                let (item, after) = after.split_at_checked(usize::from(len)).filter(|_| len > 0)?;
                if !out.is_empty() {
                    out.push(b',');
                }
                for &byte in item {
                    if byte == b',' || byte == b'\\' {
                        out.push(b'\\');
                    }
                    out.push(byte);
                }
                rest = after;
            }
            (!out.is_empty()).then_some(out)
        }
        Value::Keys if value.len().is_multiple_of(2) => {
            join(value.chunks_exact(2).map(|p| name_of(u16::from_be_bytes([p[0], p[1]]))).collect())
        }
        Value::Ipv4 if value.len().is_multiple_of(4) => join(
            value
                .chunks_exact(4)
                .filter_map(|p| <[u8; 4]>::try_from(p).ok())
                .map(|p| Ipv4Addr::from(p).to_string())
                .collect(),
        ),
        Value::Ipv6 if value.len().is_multiple_of(16) => join(
            value
                .chunks_exact(16)
                .filter_map(|p| <[u8; 16]>::try_from(p).ok())
                .map(|p| Ipv6Addr::from(p).to_string())
                .collect(),
        ),
        Value::Keys | Value::Ipv4 | Value::Ipv6 => None,
    }
}

/// Names and values of parameters; `None` where the octets are none that [`parse`] gives.
pub(super) fn print(mut wire: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let (whole, mut out) = (wire, Vec::new());
    while !wire.is_empty() {
        let (head, rest) = wire.split_at_checked(4)?;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(len)?;
        let name = name_of(u16::from_be_bytes([head[0], head[1]]));
        let (_, kind) = key_of(&name)?;
        out.push((name, decode(kind, value)?));
        wire = rest;
    }
    let given: Vec<_> = out.iter().map(|(k, v)| (k.clone(), (!v.is_empty()).then(|| v.clone()))).collect();
    (parse(&given).ok()?.as_slice() == whole).then_some(out)
}
