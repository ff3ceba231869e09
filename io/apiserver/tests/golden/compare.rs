//! Two answers compared, what differs from run to run left out, and what was learned of it kept.

use std::collections::HashMap;

use serde_json::Value;

/// Recorded words and ours: versions, uids, generated names, tokens.
#[derive(Default)]
pub struct Learned(HashMap<String, String>);

impl Learned {
    /// A recorded text with our words in it.
    pub fn ours(&self, recorded: &str) -> String {
        let mut text = recorded.to_owned();
        for (theirs, ours) in self.0.iter().filter(|(t, _)| t.len() > 7) {
            text = text.replace(theirs.as_str(), ours);
        }
        text
    }

    /// A recorded path and query with our words in it: there versions stand alone.
    pub fn path(&self, recorded: &str) -> String {
        let text = self.ours(recorded);
        let Some((path, query)) = text.split_once('?') else { return text };
        let query: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once("resourceVersion=") {
                Some(("", version)) => {
                    format!("resourceVersion={}", self.0.get(version).map_or(version, String::as_str))
                }
                _ => pair.to_owned(),
            })
            .collect();
        format!("{path}?{}", query.join("&"))
    }

    fn learn(&mut self, theirs: &str, ours: &str) {
        self.0.insert(theirs.to_owned(), ours.to_owned());
    }
}

fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T' && text.ends_with('Z')
}

fn is_age(text: &str) -> bool {
    !text.is_empty()
        && text.ends_with(['s', 'm', 'h', 'd'])
        && text.bytes().all(|b| b.is_ascii_digit() || b"smhd".contains(&b))
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.octets()[0] == 10)
}

/// The text with times, uids, generated suffixes and the like masked.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let uid = rest.as_bytes().get(..36).is_some_and(|u| {
            u.iter().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => *b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
        });
        if uid {
            out.push_str("UID");
            at += 36;
        } else if rest.is_char_boundary(20.min(rest.len())) && rest.len() >= 20 && is_time(&rest[..20]) {
            out.push_str("TIME");
            at += 20;
        } else if let Some(number) = rest.strip_prefix("current: ") {
            out.push_str("current: N");
            at += rest.len() - number.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        } else if rest.starts_with("kube-api-access-") && rest.len() >= 21 {
            out.push_str("kube-api-access-X");
            at += 21;
        } else {
            let c = rest.chars().next().unwrap_or(' ');
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// What differs, one line each.
pub fn differences(theirs: &Value, ours: &Value, learned: &mut Learned) -> Vec<String> {
    let mut found = Vec::new();
    walk("", theirs, ours, learned, &mut found);
    found
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 300 {
        format!("{}…", text.chars().take(300).collect::<String>())
    } else {
        text
    }
}

fn walk(path: &str, theirs: &Value, ours: &Value, learned: &mut Learned, found: &mut Vec<String>) {
    let key = path.rsplit('.').next().unwrap_or("");
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            if let (Some(Value::String(x)), Some(Value::String(y)), Some(Value::String(base))) =
                (a.get("name"), b.get("name"), a.get("generateName"))
                && x.starts_with(base.as_str())
                && y.starts_with(base.as_str())
            {
                learned.learn(x, y);
            }
            for (key, value) in a {
                // A certificate is the cluster's own.
                if matches!(key.as_str(), "storageVersionHash" | "ca.crt") {
                    continue;
                }
                let at = format!("{path}.{key}");
                match b.get(key) {
                    Some(other) => walk(&at, value, other, learned, found),
                    None => found.push(format!("{at}: missing, theirs {}", short(value))),
                }
            }
            for key in b.keys().filter(|k| !a.contains_key(*k)) {
                found.push(format!("{path}.{key}: ours alone, {}", short(&b[key])));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                found.push(format!("{path}: {} items, ours {}", a.len(), b.len()));
            }
            for (n, (x, y)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{n}]"), x, y, learned, found);
            }
        }
        (Value::String(a), Value::String(b)) => {
            if matches!(key, "uid" | "resourceVersion" | "continue") {
                learned.learn(a, b);
                return;
            }
            let same = a == b
                || masked(a) == masked(b)
                || learned.ours(a) == *b
                || is_time(a) && is_time(b)
                || is_age(a) && is_age(b)
                || is_address(a) && is_address(b);
            if !same {
                found.push(format!("{path}: theirs {} ours {}", short(theirs), short(ours)));
            }
        }
        _ if theirs == ours => {}
        (Value::Number(a), Value::Number(b))
            if key.starts_with("nodePort") && a.as_i64() >= Some(30000) && b.as_i64() >= Some(30000) => {}
        _ => found.push(format!("{path}: theirs {} ours {}", short(theirs), short(ours))),
    }
}
