//! Two answers compared, what differs from run to run left out, and what was learned of it kept.

use std::collections::HashMap;

use serde_json::Value;

/// Recorded words and ours: versions, uids, generated names, tokens.
#[derive(Clone, Default)]
pub struct Learned(HashMap<String, String>);

impl Learned {
    /// A recorded text with our words in it.
    pub fn ours(&self, recorded: &str) -> String {
        let mut text = recorded.to_owned();
        // The longest first: a name holds the hash of what it was made from.
        let mut words: Vec<_> =
            self.0.iter().filter(|(t, _)| t.len() > 7 && text.contains(t.as_str())).collect();
        words.sort_by_key(|(theirs, _)| std::cmp::Reverse(theirs.len()));
        for (theirs, ours) in words {
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

    fn knows(&self, theirs: &str) -> Option<&str> {
        self.0.get(theirs).map(String::as_str)
    }

    fn learn_hash(&mut self, theirs: &str, ours: &str) {
        self.learn(theirs, ours);
        // A set's revision ends with the hash.
        if let (Some((_, theirs)), Some((_, ours))) = (theirs.rsplit_once('-'), ours.rsplit_once('-')) {
            self.learn(theirs, ours);
        }
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
        && text.ends_with(['s', 'm', 'h', 'd', 'y'])
        && text.bytes().all(|b| b.is_ascii_digit() || b"smhdy".contains(&b))
}

/// The length of `(324d ago)` at the beginning: such an age was right when it was recorded, and kinds_against_golden of
/// sealane-api looks at it as of then.
fn since(text: &str) -> Option<usize> {
    let (age, _) = text.strip_prefix('(')?.split_once(" ago)")?;
    is_age(age).then_some("( ago)".len() + age.len())
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
        } else if let Some(length) = since(rest) {
            out.push_str("(AGE ago)");
            at += length;
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
    let (mut theirs, mut ours) = (theirs.clone(), ours.clone());
    behind(&mut theirs, &mut ours);
    unordered(&mut theirs);
    unordered(&mut ours);
    let mut found = Vec::new();
    walk("", &theirs, &ours, learned, &mut found);
    found
}

/// Labels that hold a hash of what the object was made from: the hash is one's own, which objects share it is not.
const HASHES: [&str; 3] = ["pod-template-hash", "controller-revision-hash", "controller.kubernetes.io/hash"];

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let labels = object.pointer("/metadata/labels").or_else(|| object.pointer("/object/metadata/labels"));
    labels.or_else(|| object.get("labels"))?.get(name)
}

/// `k:{"uid":"…"}` of managedFields, and `k:{"ip":"…"}`: which Pod of a set got which address is chance.
fn same_key(theirs: &str, ours: &str) -> bool {
    let ip = |key: &str| key.starts_with("k:{\"ip\":");
    theirs.starts_with("k:") && masked(theirs) == masked(ours) || ip(theirs) && ip(ours)
}

/// Whether the metadata is of an object that a controller alone writes: in how many steps is chance.
fn counts_writes(metadata: &Value) -> bool {
    let owner = metadata.pointer("/ownerReferences/0/controller") == Some(&Value::Bool(true));
    owner || label(metadata, "endpointslice.kubernetes.io/managed-by").is_some()
}

/// Our items in the order of theirs, as far as that is an order of generated names, which is chance: an item
/// that was met before is the same one again, a new one is the next of the same making.
fn aligned(theirs: &[Value], ours: &[Value], learned: &Learned) -> Vec<Value> {
    let text = |item: &Value, path: &str| {
        let item = item.get("object").unwrap_or(item);
        item.pointer(path).and_then(Value::as_str).map(str::to_owned)
    };
    let name = |item: &Value| text(item, "/metadata/name").or_else(|| text(item, "/targetRef/name"));
    let making = |item: &Value| HASHES.iter().find_map(|h| label(item, h)?.as_str().map(str::to_owned));
    let chance = |item: &Value| making(item).is_some() || text(item, "/metadata/generateName").is_some();
    if !theirs.iter().any(|t| chance(t) || name(t).is_some_and(|n| learned.knows(&n).is_some())) {
        return ours.to_vec();
    }
    let mut left: Vec<Value> = ours.to_vec();
    let mut order: Vec<Option<Value>> = vec![None; theirs.len()];
    let place =
        |order: &mut Vec<Option<Value>>, left: &mut Vec<Value>, fits: &dyn Fn(&Value, &Value) -> bool| {
            for (place, item) in order.iter_mut().zip(theirs).filter(|(p, _)| p.is_none()) {
                if let Some(at) = left.iter().position(|o| fits(item, o)) {
                    *place = Some(left.remove(at));
                }
            }
        };
    place(&mut order, &mut left, &|t, o| {
        let known = name(t).and_then(|n| learned.knows(&n).map(str::to_owned));
        known.is_some() && known == name(o) || name(t).is_some() && !chance(t) && name(t) == name(o)
    });
    let met: Vec<&String> = learned.0.values().collect();
    place(&mut order, &mut left, &|t, o| match (making(t), making(o)) {
        (Some(t), Some(o)) => match learned.knows(&t) {
            Some(known) => known == o,
            None => !met.contains(&&o),
        },
        (None, None) => text(t, "/metadata/generateName") == text(o, "/metadata/generateName"),
        _ => false,
    });
    let mut rest = left.into_iter();
    let mut all: Vec<Value> = order.into_iter().filter_map(|p| p.or_else(|| rest.next())).collect();
    all.extend(rest);
    all
}

/// managedFields without what tells who was faster: entries of one second stand by manager, and who was the first
/// to write into a map owns the map.
fn unordered(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for shared in ["f:annotations", "f:conditions"] {
                if let Some(Value::Object(fields)) = map.get_mut(shared) {
                    fields.remove(".");
                }
            }
            if let Some(Value::Array(list)) = map.get_mut("managedFields") {
                let text = |m: &Value, key: &str| m[key].as_str().unwrap_or("").to_owned();
                list.sort_by_key(|m| (text(m, "operation"), text(m, "manager"), text(m, "subresource")));
            }
            map.values_mut().for_each(unordered);
        }
        Value::Array(list) => list.iter_mut().for_each(unordered),
        _ => {}
    }
}

/// Where the recording was faster than its controllers, their part is left out on both sides.
fn behind(theirs: &mut Value, ours: &mut Value) {
    let seen = |v: &Value| v.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or(0);
    if theirs.get("spec").is_some() && seen(theirs) < seen(ours) {
        for object in [&mut *theirs, &mut *ours] {
            object.as_object_mut().map(|o| o.remove("status"));
            if let Some(Value::Array(list)) = object.pointer_mut("/metadata/managedFields") {
                list.retain(|m| m["manager"] != "kube-controller-manager");
            }
            if let Some(Value::Object(meta)) = object.get_mut("metadata")
                && let Some(Value::Object(annotations)) = meta.get_mut("annotations")
            {
                annotations.remove("deployment.kubernetes.io/revision");
                if annotations.is_empty() {
                    meta.remove("annotations");
                }
            }
        }
    }
    if let (Some(Value::Array(a)), Some(Value::Array(b))) = (theirs.get_mut("items"), ours.get_mut("items")) {
        a.iter_mut().zip(b).for_each(|(a, b)| behind(a, b));
    }
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
            for hash in HASHES {
                if let (Some(Value::String(x)), Some(Value::String(y))) =
                    (label(theirs, hash), label(ours, hash))
                {
                    learned.learn_hash(x, y);
                }
            }
            for revision in ["currentRevision", "updateRevision"] {
                if let (Some(Value::String(x)), Some(Value::String(y))) = (a.get(revision), b.get(revision))
                    && learned.knows(x).is_none()
                {
                    learned.learn_hash(x, y);
                }
            }
            if let (Some(Value::String(x)), Some(Value::String(y)), Some(Value::String(base))) =
                (a.get("name"), b.get("name"), a.get("generateName"))
                && x.starts_with(base.as_str())
                && y.starts_with(learned.ours(base).as_str())
            {
                learned.learn(x, y);
            }
            for (key, value) in a {
                // A certificate is the cluster's own.
                if matches!(key.as_str(), "storageVersionHash" | "ca.crt") {
                    continue;
                }
                let at = format!("{path}.{key}");
                if key == "generation" && counts_writes(theirs) {
                    continue;
                }
                match b.get(key).or_else(|| b.iter().find(|(k, _)| same_key(key, k)).map(|(_, v)| v)) {
                    Some(other) => walk(&at, value, other, learned, found),
                    None => found.push(format!("{at}: missing, theirs {}", short(value))),
                }
            }
            for key in b.keys().filter(|k| !a.contains_key(*k) && !a.keys().any(|t| same_key(t, k))) {
                found.push(format!("{path}.{key}: ours alone, {}", short(&b[key])));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let b = &aligned(a, b, learned);
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
