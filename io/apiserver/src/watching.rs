//! Watches: a kind's events as one answer that goes on, each event encoded once for all who see it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, Stream};
use sealane_api::{columns, protobuf};
use sealane_store::Revision;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::{Cache, Entry, Event, Listing, line, view};
use crate::negotiate::Format;
use crate::selection::Selection;

/// How often a watcher that wants bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(60);

/// What a watch asks for.
pub struct Watch {
    /// Among which objects.
    pub selection: Selection,
    /// How events are written.
    pub format: Format,
    /// After this version; what it lists first where there is a listing.
    pub from: Revision,
    /// Objects shown as ADDED before anything else.
    pub initial: Option<Listing>,
    /// Whether a bookmark ends the initial events (`sendInitialEvents`).
    pub marks_initial_end: bool,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// When it ends.
    pub timeout: Duration,
    /// Seconds since 1970, for ages in tables.
    pub clock: fn() -> i64,
}

struct State {
    watch: Watch,
    cache: Arc<Cache>,
    changed: watch::Receiver<Revision>,
    stop: watch::Receiver<bool>,
    at: Revision,
    ends: Instant,
    bookmark: Instant,
    first_row: bool,
    done: bool,
}

/// The body of a watch's answer. It ends with the timeout, with `stop`, or with an ERROR event where the history
/// no longer holds what comes next.
pub fn body(watch: Watch, cache: Arc<Cache>, stop: watch::Receiver<bool>) -> Body {
    Body::from_stream(frames(watch, cache, stop))
}

fn frames(
    mut watch: Watch,
    cache: Arc<Cache>,
    stop: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    let changed = cache.changes(watch.selection.kind);
    let now = Instant::now();
    let initial = watch.initial.take();
    let mut state = State {
        at: watch.from,
        ends: now + watch.timeout,
        bookmark: now + BOOKMARK,
        first_row: true,
        done: false,
        watch,
        cache,
        changed,
        stop,
    };
    let mut first = Vec::new();
    if let Some(listing) = initial {
        state.at = listing.revision;
        for entry in listing.entries {
            if state.watch.selection.has(&entry) {
                first.push(state.encode("ADDED", &entry));
            }
        }
        if state.watch.marks_initial_end {
            let mark = state.mark(true);
            first.push(mark);
        }
    }
    stream::unfold((state, first), |(mut state, first)| async move {
        let chunk = if first.is_empty() { state.next().await? } else { join(first) };
        Some((Ok(chunk), (state, Vec::new())))
    })
}

fn join(mut frames: Vec<Bytes>) -> Bytes {
    if frames.len() == 1 {
        return frames.remove(0);
    }
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    frames.iter().for_each(|f| all.put_slice(f));
    all.freeze()
}

impl State {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.done {
                return None;
            }
            self.changed.mark_unchanged();
            let Some((events, upto)) = self.cache.events(self.watch.selection.kind, self.at) else {
                self.done = true;
                return Some(self.expired());
            };
            let frames: Vec<Bytes> = events.iter().filter_map(|e| self.event(e)).collect();
            // A watch from a version of the future shows nothing until then.
            self.at = self.at.max(upto);
            if !frames.is_empty() {
                return Some(join(frames));
            }
            if *self.stop.borrow() {
                return None;
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                _ = self.stop.changed() => return None,
                () = tokio::time::sleep_until(self.ends) => {
                    self.done = true;
                    return self.watch.bookmarks.then(|| self.mark(false));
                }
                () = tokio::time::sleep_until(self.bookmark), if self.watch.bookmarks => {
                    self.bookmark += BOOKMARK;
                    return Some(self.mark(false));
                }
            }
        }
    }

    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let kind = self.watch.selection.kind;
        let seen = self.watch.selection.sees(event)?;
        if self.watch.format == Format::Json && kind.stored_as.is_none() {
            return Some(event.line(seen));
        }
        let entry = view(kind, event.shown(seen));
        Some(self.encode(seen.as_str(), &entry))
    }

    fn encode(&mut self, seen: &str, entry: &Entry) -> Bytes {
        let object = entry.object.value();
        match self.watch.format {
            Format::Json => line(seen, entry),
            Format::Table(include) => {
                let now = (self.watch.clock)();
                let mut table = columns::table(self.watch.selection.kind, [&entry.object], now, include);
                table["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
                if !std::mem::take(&mut self.first_row) {
                    table["columnDefinitions"] = Value::Null;
                }
                json_line(seen, &table)
            }
            Format::Partial => json_line(seen, &columns::partial(object)),
            Format::Yaml => {
                let event = json!({"type": seen, "object": object});
                Bytes::from(format!("---\n{}", sealane_api::yaml::write(&event)))
            }
            Format::Protobuf => protobuf::encode_watch_event(seen, object).unwrap_or_default(),
        }
    }

    fn mark(&mut self, initial_end: bool) -> Bytes {
        let kind = self.watch.selection.kind;
        let mut metadata = json!({"resourceVersion": self.at.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mark = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        match self.watch.format {
            // A table's bookmark has no rows, but the object in a row of its own.
            Format::Table(_) => {
                let columns = if std::mem::take(&mut self.first_row) {
                    columns::definitions(kind)
                } else {
                    Value::Null
                };
                let row = json!({"cells": vec![Value::Null; kind.columns.len()], "object": columns::partial(&mark)});
                let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                    "columnDefinitions": columns, "rows": [row]});
                json_line("BOOKMARK", &table)
            }
            _ => self.encode("BOOKMARK", &Entry::of(mark)),
        }
    }

    fn expired(&mut self) -> Bytes {
        let (asked, floor) = (self.at, self.cache.revision());
        let status =
            sealane_api::Status::new(410, "Expired", format!("too old resource version: {asked} ({floor})"));
        match self.watch.format {
            Format::Protobuf => self.encode("ERROR", &Entry::of(status.to_value())),
            _ => json_line("ERROR", &status.to_value()),
        }
    }
}

fn json_line(seen: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{seen}\",\"object\":{object}}}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use sealane_api::kinds::by_kind;
    use sealane_store::Change;

    fn put(name: &str, on: &str, revision: Revision) -> Change {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x",
            "labels": {"on": on}}});
        let key = format!("/core/configmaps/x/{name}").into();
        Change { key, value: Some(Bytes::from(value.to_string())), previous: None, revision }
    }

    fn asked(labels: &str, from: Revision) -> Watch {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        Watch {
            selection: Selection::parse(kind, "x", labels, "").unwrap(),
            format: Format::Json,
            from,
            initial: None,
            marks_initial_end: false,
            bookmarks: false,
            timeout: Duration::from_secs(600),
            clock: || 0,
        }
    }

    /// Types, names (or reasons) and versions of what a watch writes.
    async fn read(
        watch: Watch,
        cache: &Arc<Cache>,
        stop: watch::Receiver<bool>,
    ) -> Vec<(String, String, u64)> {
        let events = if watch.format == Format::Protobuf { messages } else { lines };
        let chunks: Vec<_> = frames(watch, Arc::clone(cache), stop).collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
        let said = events(&bytes).into_iter().map(|(seen, object)| {
            let object = sealane_api::Object::new(object);
            let name = if object.name().is_empty() { object.str(&["reason"]) } else { object.name() };
            (seen, name.to_owned(), object.revision())
        });
        said.collect()
    }

    fn lines(bytes: &[u8]) -> Vec<(String, Value)> {
        let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        let events = lines.map(|line| {
            let mut event: Value = serde_json::from_slice(line).unwrap();
            (event["type"].as_str().unwrap().to_owned(), event["object"].take())
        });
        events.collect()
    }

    /// As client-go reads them: the length, four octets, big-endian (apimachinery, pkg/util/framer), and so many of one
    /// WatchEvent, whose object is a body of its own.
    fn messages(mut bytes: &[u8]) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        while let [a, b, c, d, rest @ ..] = bytes {
            let (message, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            let [(0x0a, seen), (0x12, raw)] = fields(message)[..] else { panic!("{message:?} is no event") };
            let [(0x0a, body)] = fields(raw)[..] else { panic!("{raw:?} is no object") };
            events.push((String::from_utf8_lossy(seen).into(), protobuf::decode(body).unwrap()));
            bytes = rest;
        }
        assert!(bytes.is_empty(), "{bytes:?} is left");
        events
    }

    /// Tags and values of a message's fields, all of them octets, with lengths of one octet or two.
    fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
        let mut fields = Vec::new();
        while let [tag, low, rest @ ..] = message {
            let (length, rest) = match rest {
                [high, rest @ ..] if *low >= 0x80 => {
                    (usize::from(low & 0x7f) | usize::from(*high) << 7, rest)
                }
                rest => (usize::from(*low), rest),
            };
            let (value, rest) = rest.split_at(length);
            fields.push((*tag, value));
            message = rest;
        }
        assert!(message.is_empty(), "{message:?} is left");
        fields
    }

    fn expect(said: &[(&str, &str, u64)]) -> Vec<(String, String, u64)> {
        said.iter().map(|(a, b, c)| ((*a).into(), (*b).into(), *c)).collect()
    }

    #[tokio::test]
    async fn what_leaves_the_selection_is_deleted_and_what_comes_back_is_added() {
        let cache = Arc::new(Cache::new(&[], 0));
        for change in
            [put("a", "1", 1), put("b", "0", 2), put("a", "0", 3), put("b", "1", 4), put("b", "1", 5)]
        {
            cache.apply(&[change]);
        }
        cache.apply(&[Change { value: None, ..put("b", "", 6) }]);
        let (_keep, stop) = watch::channel(true);
        let said = read(asked("on=1", 0), &cache, stop).await;
        let wanted = [
            ("ADDED", "a", 1),
            ("DELETED", "a", 3),
            ("ADDED", "b", 4),
            ("MODIFIED", "b", 5),
            ("DELETED", "b", 6),
        ];
        assert_eq!(said, expect(&wanted));
    }

    #[tokio::test]
    async fn initial_events_end_with_a_bookmark() {
        let cache = Arc::new(Cache::new(&[], 0));
        cache.apply(&[put("a", "1", 1)]);
        cache.apply(&[put("b", "1", 2)]);
        let (_keep, stop) = watch::channel(true);
        let kind = by_kind("v1", "ConfigMap").unwrap();
        for format in [Format::Json, Format::Protobuf] {
            let initial = Some(cache.list(kind, "x"));
            let watch = Watch { initial, marks_initial_end: true, format, ..asked("", 0) };
            let said = read(watch, &cache, stop.clone()).await;
            assert_eq!(
                said,
                expect(&[("ADDED", "a", 1), ("ADDED", "b", 2), ("BOOKMARK", "", 2)]),
                "{format:?}"
            );
        }
    }

    #[tokio::test]
    async fn too_old_a_version_is_expired() {
        let cache = Arc::new(Cache::new(&[], 7));
        let (_keep, stop) = watch::channel(false);
        for format in [Format::Json, Format::Protobuf] {
            let said = read(Watch { format, ..asked("", 3) }, &cache, stop.clone()).await;
            assert_eq!(said, expect(&[("ERROR", "Expired", 0)]), "{format:?}");
        }
    }

    #[tokio::test]
    async fn a_waiting_watcher_is_woken() {
        let cache = Arc::new(Cache::new(&[], 0));
        let (keep, stop) = watch::channel(false);
        let stream = frames(asked("", 0), Arc::clone(&cache), stop);
        let mut stream = Box::pin(stream);
        let reader = tokio::spawn(async move { stream.next().await });
        tokio::task::yield_now().await;
        cache.apply(&[put("a", "1", 1)]);
        assert!(reader.await.unwrap().is_some());
        drop(keep);
    }
}
