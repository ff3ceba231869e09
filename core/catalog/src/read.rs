//! The API's JSON, as it comes in: lists of any length one object at a time, watches line by line, and of each object
//! only what discovery reads. Nothing here grows with the cluster.

use serde::de::{Deserialize, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::snapshot::Source;

/// Of a list, what is beside its items; more is no list.
const BESIDE: usize = 1 << 20;

/// Which fields of a document are wanted; none named: all.
#[derive(Clone, Copy, Debug)]
pub struct Fields(&'static [(&'static str, Fields)]);

const ALL: Fields = Fields(&[]);

macro_rules! fields {
    ($($name:literal $(: $below:tt)?),* $(,)?) => { Fields(&[$(($name, fields!(@ $($below)?))),*]) };
    (@) => { ALL };
    (@ { $($inner:tt)* }) => { fields!($($inner)*) };
}

static EVERYTHING: Fields = ALL;
static SERVICE: Fields = fields!(
    "metadata": { "namespace", "name", "resourceVersion", "creationTimestamp", "labels", "annotations" },
    "spec",
    "status": { "loadBalancer" },
);
static SLICE: Fields = fields!(
    "metadata": {
        "namespace", "name", "resourceVersion", "labels",
        "annotations": { "endpoints.kubernetes.io/last-change-trigger-time" }
    },
    "addressType",
    "ports",
    "endpoints": {
        "addresses", "conditions", "hints", "hostname", "nodeName", "zone", "targetRef": { "kind", "name" }
    },
);
static NAMESPACE: Fields = fields!("metadata": { "name", "resourceVersion", "labels" });
static NODE: Fields = fields!(
    "metadata": { "name", "resourceVersion", "labels", "deletionTimestamp" },
    "spec": { "podCIDR", "podCIDRs", "taints" },
    "status": { "addresses", "conditions" },
);
static POD: Fields = fields!(
    "metadata": { "namespace", "name", "resourceVersion" },
    "spec": { "nodeName" },
    "status": { "phase", "podIP", "podIPs" },
);
static DESTINATION_RULE: Fields = fields!(
    "metadata": { "namespace", "name", "resourceVersion", "creationTimestamp" },
    "spec": { "host", "workloadSelector", "trafficPolicy": { "loadBalancer" } },
);

impl Fields {
    /// Whole documents.
    pub fn all() -> &'static Fields {
        &EVERYTHING
    }

    /// What the catalog reads of a source's objects.
    pub fn of(source: Source) -> &'static Fields {
        match source {
            Source::Services => &SERVICE,
            Source::EndpointSlices => &SLICE,
            Source::Namespaces => &NAMESPACE,
            Source::Nodes => &NODE,
            Source::Pods => &POD,
            Source::DestinationRules => &DESTINATION_RULE,
        }
    }

    /// Reads one document.
    ///
    /// # Errors
    /// Where it is no JSON.
    pub fn read(&'static self, json: &[u8]) -> Result<Value, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let value = Wanted(self).deserialize(&mut reader)?;
        reader.end().map(|()| value)
    }
}

/// Reads a value, of whose fields only those that are wanted.
struct Wanted(&'static Fields);

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        if self.0.0.is_empty() { Value::deserialize(reader) } else { reader.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Wanted {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(Wanted(self.0))? {
            out.push(item);
        }
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(field) = entries.next_key_seed(Field(self.0))? {
            match field {
                Some((name, below)) => {
                    out.insert((*name).to_owned(), entries.next_value_seed(Wanted(below))?);
                }
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(out.into())
    }
}

/// Reads a field's name: the wanted field of that name.
struct Field(&'static Fields);

impl<'de> DeserializeSeed<'de> for Field {
    type Value = Option<&'static (&'static str, Fields)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Field {
    type Value = Option<&'static (&'static str, Fields)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.0.iter().find(|(wanted, _)| *wanted == name))
    }
}

/// Why what came is no list, or no watch.
#[derive(Debug)]
pub struct ReadError(String);

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReadError {}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> Self {
        ReadError(error.to_string())
    }
}

/// Where in a list a reader is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Beside,
    /// In the array of items, between two.
    Between,
    Item,
}

/// A list's octets in pieces of any length; its items come out as soon as they are whole.
#[derive(Debug)]
pub struct ListReader {
    fields: &'static Fields,
    part: Part,
    /// All but the items.
    beside: Vec<u8>,
    /// What earlier pieces had of the item that has begun.
    item: Vec<u8>,
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// Where the last text of the outermost object begins in `beside`, and whether it is `items`.
    text: usize,
    items_next: bool,
}

impl ListReader {
    /// For a list of objects of which these fields are wanted.
    pub fn new(fields: &'static Fields) -> Self {
        ListReader {
            fields,
            part: Part::Beside,
            beside: Vec::new(),
            item: Vec::new(),
            depth: 0,
            in_text: false,
            escaped: false,
            text: 0,
            items_next: false,
        }
    }

    /// Takes the next octets and hands out what they complete.
    ///
    /// # Errors
    /// Where this is no list; it is of no use any more then.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Value)) -> Result<(), ReadError> {
        // What stands before is kept where it belongs.
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_text {
                if self.ends_text(*byte) && self.depth == 1 {
                    self.beside.extend_from_slice(&bytes[from..at]);
                    from = at;
                    self.items_next = self.beside[self.text..] == *b"items";
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.in_text = true;
                    if self.depth == 1 {
                        self.beside.extend_from_slice(&bytes[from..=at]);
                        (from, self.text) = (at + 1, self.beside.len());
                    }
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.part == Part::Between {
                        (self.part, from) = (Part::Item, at);
                    } else if *byte == b'[' && self.depth == 2 && self.items_next {
                        self.beside.extend_from_slice(&bytes[from..=at]);
                        self.part = Part::Between;
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.part == Part::Item && self.depth == 2 {
                        each(self.whole(&bytes[from..=at])?);
                        self.part = Part::Between;
                    } else if self.part == Part::Between {
                        (self.part, from) = (Part::Beside, at);
                    }
                }
                _ => {}
            }
        }
        match self.part {
            Part::Beside => self.beside.extend_from_slice(&bytes[from..]),
            Part::Item => self.item.extend_from_slice(&bytes[from..]),
            Part::Between => {}
        }
        if self.beside.len() > BESIDE {
            return Err(ReadError("this is no list of objects".to_owned()));
        }
        Ok(())
    }

    /// The item of which this is the end.
    fn whole(&mut self, end: &[u8]) -> Result<Value, ReadError> {
        if self.item.is_empty() {
            return Ok(self.fields.read(end)?);
        }
        self.item.extend_from_slice(end);
        let item = self.fields.read(&self.item)?;
        self.item.clear();
        Ok(item)
    }

    fn ends_text(&mut self, byte: u8) -> bool {
        if self.escaped {
            self.escaped = false;
            return false;
        }
        self.escaped = byte == b'\\';
        self.in_text = byte != b'"';
        !self.in_text
    }

    /// The list's own metadata.
    ///
    /// # Errors
    /// Where it has not come to its end.
    pub fn finish(self) -> Result<Value, ReadError> {
        let mut list: Value = serde_json::from_slice(&self.beside)?;
        match list.get_mut("metadata") {
            Some(metadata @ Value::Object(_)) => Ok(metadata.take()),
            _ => Err(ReadError("this is no list of objects".to_owned())),
        }
    }
}

/// A line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Added or modified.
    Applied(Value),
    /// Deleted; the last version.
    Deleted(Value),
    /// Nothing else up to this object's resourceVersion.
    Bookmark(Value),
    /// A `Status`.
    Error(Value),
}

/// Reads a line of a watch.
///
/// # Errors
/// Where it is none.
pub fn line(fields: &'static Fields, json: &[u8]) -> Result<Line, ReadError> {
    #[derive(serde::Deserialize)]
    struct Raw<'a> {
        #[serde(rename = "type")]
        kind: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let Raw { kind, object } = serde_json::from_slice(json)?;
    let object = object.get().as_bytes();
    Ok(match &*kind {
        "ADDED" | "MODIFIED" => Line::Applied(fields.read(object)?),
        "DELETED" => Line::Deleted(fields.read(object)?),
        "BOOKMARK" => Line::Bookmark(fields.read(object)?),
        "ERROR" => Line::Error(Fields::all().read(object)?),
        other => return Err(ReadError(format!("a watch has no events of type {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(bytes: &[u8], piece: usize) -> (Vec<Value>, Result<Value, ReadError>) {
        let (mut reader, mut items) = (ListReader::new(Fields::all()), Vec::new());
        for piece in bytes.chunks(piece) {
            if let Err(error) = reader.push(piece, |item| items.push(item)) {
                return (items, Err(error));
            }
        }
        (items, reader.finish())
    }

    #[test]
    fn a_list_comes_out_item_by_item_however_it_is_cut() {
        let odd = json!({"a": "}]\"\\", "items": [1, {"items": []}], "\u{e9}\"": {"x": [[{}]]}});
        let table = [
            (json!({"kind": "L", "metadata": {"resourceVersion": "7"}, "items": [odd, {}, odd]}), 3),
            (json!({"items": [], "metadata": {"resourceVersion": "7"}}), 0),
            (json!({"items": null, "metadata": {"resourceVersion": "7"}}), 0),
            (json!({"apiVersion": "items", "x": [{"items": [{}]}], "metadata": {"resourceVersion": "7"}}), 0),
        ];
        for (value, count) in table {
            for text in [value.to_string(), format!("{value:#}")] {
                for piece in [1, 2, 3, 7, text.len()] {
                    let (items, metadata) = list(text.as_bytes(), piece);
                    assert_eq!(items.len(), count, "{text}");
                    assert!(items.iter().all(|item| *item == odd || *item == json!({})), "{text}");
                    assert_eq!(metadata.ok(), Some(json!({"resourceVersion": "7"})), "{text}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_list_says_so() {
        for text in
            ["", "{}", "[]", "{\"metadata\":{},\"items\":[{}", "{\"metadata\":{},\"items\":[{]}", "]]]"]
        {
            assert!(list(text.as_bytes(), 3).1.is_err(), "{text}");
        }
        assert!(list(&vec![b' '; BESIDE + 1], 4096).1.is_err());
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let slice = json!({"kind": "EndpointSlice", "metadata": {"name": "a", "managedFields": [{"a": 1}], "labels": {"k": "v"}},
            "endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {}, "targetRef": {"kind": "Pod", "uid": "u"}}, 7]});
        let kept = json!({"metadata": {"name": "a", "labels": {"k": "v"}},
            "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod"}}, 7]});
        let read = |text: String| Fields::of(Source::EndpointSlices).read(text.as_bytes()).ok();
        assert_eq!(read(slice.to_string()), Some(kept));
        assert_eq!(read(format!("{slice} x")), None);
        for odd in [json!(null), json!([1, -1, 1.5, true, "x"]), json!({"metadata": 3})] {
            assert_eq!(read(odd.to_string()), Some(odd));
        }
    }

    #[test]
    fn a_watchs_lines() {
        let read = |text: &str| line(Fields::of(Source::Namespaces), text.as_bytes()).ok();
        let object = json!({"metadata": {"name": "a"}});
        assert_eq!(
            read(r#"{"type":"ADDED","object":{"kind":"N","metadata":{"name":"a"}}}"#),
            Some(Line::Applied(object.clone()))
        );
        assert_eq!(
            read(r#"{"object":{"metadata":{"name":"a"}},"type":"DELETED"}"#),
            Some(Line::Deleted(object))
        );
        assert_eq!(
            read(r#"{"type":"ERROR","object":{"code":410}}"#),
            Some(Line::Error(json!({"code": 410})))
        );
        assert!(matches!(read(r#"{"type":"BOOKMARK","object":{}}"#), Some(Line::Bookmark(_))));
        for bad in ["", "{}", r#"{"type":"NEWS","object":{}}"#, r#"{"type":"ADDED"}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
