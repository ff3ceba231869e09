//! The watch cache: every stored object decoded once, with its encoding and the recent events of its kind.
//!
//! Reads and watches are served from it alone. One lock covers all kinds, so that a list's version and its items
//! belong together; values are parsed before it is taken.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use sealane_api::kinds::KINDS;
use sealane_api::{Kind, Object};
use sealane_store::{Change, Revision, Versioned};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Events kept for each kind: a watch that begins further back is told to list again.
const HISTORY: usize = 4096;

/// One version of an object, and its encoding.
#[derive(Debug)]
pub struct Entry {
    /// The object, resourceVersion in it.
    pub object: Object,
    /// JSON without `kind` and `apiVersion`, `{` first.
    body: OnceLock<Bytes>,
}

impl Entry {
    fn read(value: &Bytes, revision: Revision) -> Option<Arc<Self>> {
        let mut document: Value = serde_json::from_slice(value).ok()?;
        document
            .get_mut("metadata")?
            .as_object_mut()?
            .insert("resourceVersion".into(), json!(revision.to_string()));
        Some(Self::of(document))
    }

    /// An entry of a document that has its version.
    pub fn of(document: Value) -> Arc<Self> {
        Arc::new(Entry { object: Object::new(document), body: OnceLock::new() })
    }

    /// The JSON of the object without `kind` and `apiVersion`, as a list has it; made once.
    pub fn body(&self) -> &Bytes {
        self.body.get_or_init(|| {
            let mut out = Vec::with_capacity(512);
            out.push(b'{');
            for (key, value) in self.object.value().as_object().into_iter().flatten() {
                if key == "kind" || key == "apiVersion" {
                    continue;
                }
                if out.len() > 1 {
                    out.push(b',');
                }
                // Writing to memory cannot fail.
                let _ = serde_json::to_writer(&mut out, key);
                out.push(b':');
                let _ = serde_json::to_writer(&mut out, value);
            }
            out.push(b'}');
            Bytes::from(out)
        })
    }

    /// The JSON of the whole object appended to `out`.
    pub fn write_whole(&self, out: &mut Vec<u8>) {
        let (kind, version) = (self.object.kind(), self.object.api_version());
        // Kinds and versions are plain words: nothing to escape.
        out.extend_from_slice(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\"").as_bytes());
        let rest = &self.body()[1..];
        if rest.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(rest);
    }
}

/// What happened to one object.
#[derive(Debug)]
pub struct Event {
    /// Its new state; where it was deleted the last one, with the deletion's version.
    pub entry: Arc<Entry>,
    /// Its former state.
    pub previous: Option<Arc<Entry>>,
    /// Whether it was deleted.
    pub deleted: bool,
    /// The commit.
    pub revision: Revision,
    key: Arc<str>,
    lines: [OnceLock<Bytes>; 3],
    /// The former state with this event's version: what a watcher sees whose selection the object leaves.
    left: OnceLock<Arc<Entry>>,
}

/// How a watcher sees an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It came into the selection.
    Added,
    /// It changed.
    Modified,
    /// It left the selection.
    Deleted,
}

impl Seen {
    /// The event's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Seen::Added => "ADDED",
            Seen::Modified => "MODIFIED",
            Seen::Deleted => "DELETED",
        }
    }
}

/// A watch event's JSON line.
pub fn line(seen: &str, entry: &Entry) -> Bytes {
    let mut out = Vec::with_capacity(entry.body().len() + 96);
    out.extend_from_slice(format!("{{\"type\":\"{seen}\",\"object\":").as_bytes());
    entry.write_whole(&mut out);
    out.extend_from_slice(b"}\n");
    Bytes::from(out)
}

impl Event {
    /// What a watcher is shown that sees the event so.
    pub fn shown(&self, seen: Seen) -> &Arc<Entry> {
        if seen != Seen::Deleted || self.deleted {
            return &self.entry;
        }
        self.left.get_or_init(|| {
            let mut document = self.previous.as_ref().unwrap_or(&self.entry).object.to_value();
            document["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            Entry::of(document)
        })
    }

    /// The JSON line, made once for all watchers.
    pub fn line(&self, seen: Seen) -> Bytes {
        self.lines[seen as usize].get_or_init(|| line(seen.as_str(), self.shown(seen))).clone()
    }
}

#[derive(Debug)]
struct Room {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    events: VecDeque<Arc<Event>>,
    /// Every event after this revision is in `events`.
    floor: Revision,
    changed: watch::Sender<Revision>,
}

#[derive(Debug)]
struct State {
    revision: Revision,
    rooms: Vec<Room>,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    state: RwLock<State>,
    index: HashMap<String, usize>,
    applied: watch::Sender<Revision>,
}

/// Objects and the version that they show.
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// The version of the whole.
    pub revision: Revision,
}

impl Cache {
    /// What the store holds at `revision`.
    pub fn new(values: &[Versioned], revision: Revision) -> Self {
        let kinds = KINDS.iter().filter(|k| k.stored_as.is_none());
        let index: HashMap<String, usize> = kinds.enumerate().map(|(i, k)| (k.prefix(""), i)).collect();
        let room = || Room {
            objects: BTreeMap::new(),
            events: VecDeque::new(),
            floor: revision,
            changed: watch::Sender::new(revision),
        };
        let mut rooms: Vec<Room> = index.iter().map(|_| room()).collect();
        for value in values {
            let Some((room, key)) = place(&index, &value.key) else { continue };
            if let Some(entry) = Entry::read(&value.value, value.revision) {
                rooms[room].objects.insert(key.into(), entry);
            } else {
                tracing::error!("the value of {} is no object; it is left out", value.key);
            }
        }
        let state = RwLock::new(State { revision, rooms });
        Cache { state, index, applied: watch::Sender::new(revision) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self, kind: &'static Kind) -> usize {
        // Every row of the table has its room.
        self.index.get(&kind.storage().prefix("")).copied().unwrap_or_default()
    }

    /// Takes in the changes of one or more whole commits.
    pub fn apply(&self, changes: &[Change]) {
        let Some(revision) = changes.last().map(|c| c.revision) else { return };
        let parsed: Vec<Option<Arc<Entry>>> =
            changes.iter().map(|c| c.value.as_ref().and_then(|v| Entry::read(v, c.revision))).collect();
        let mut touched = Vec::new();
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for (change, entry) in changes.iter().zip(parsed) {
                let Some((room, key)) = place(&self.index, &change.key) else { continue };
                state.rooms[room].change(key, entry, change.revision);
                if !touched.contains(&room) {
                    touched.push(room);
                }
            }
            state.revision = revision;
            for room in touched {
                state.rooms[room].changed.send_replace(revision);
            }
        }
        self.applied.send_replace(revision);
    }

    /// Waits until the cache shows a revision; `false` where the store's feed has ended.
    pub async fn shows(&self, revision: Revision) -> bool {
        let mut applied = self.applied.subscribe();
        applied.wait_for(|at| *at >= revision).await.is_ok()
    }

    /// The revision that it shows.
    pub fn revision(&self) -> Revision {
        self.read().revision
    }

    /// One object.
    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let key = if kind.namespaced() { format!("{namespace}/{name}") } else { name.to_owned() };
        let entry = self.read().rooms[self.room(kind)].objects.get(key.as_str()).cloned();
        entry.map(|e| view(kind, &e))
    }

    /// The objects of a kind, of one namespace where it is not "".
    pub fn list(&self, kind: &'static Kind, namespace: &str) -> Listing {
        let state = self.read();
        let objects = &state.rooms[self.room(kind)].objects;
        Listing { entries: within(kind, objects, namespace), revision: state.revision }
    }

    /// The objects as they were at a revision; `None` where the history does not reach back to it.
    pub fn list_at(&self, kind: &'static Kind, namespace: &str, revision: Revision) -> Option<Listing> {
        let state = self.read();
        let room = &state.rooms[self.room(kind)];
        if revision < room.floor {
            return None;
        }
        if room.events.back().is_none_or(|e| e.revision <= revision) {
            return Some(Listing { entries: within(kind, &room.objects, namespace), revision });
        }
        let mut objects = room.objects.clone();
        for event in room.events.iter().rev().take_while(|e| e.revision > revision) {
            match &event.previous {
                Some(previous) => objects.insert(Arc::clone(&event.key), Arc::clone(previous)),
                None => objects.remove(&event.key),
            };
        }
        Some(Listing { entries: within(kind, &objects, namespace), revision })
    }

    /// The events of a kind after a revision and the revision up to which they are complete; `None` where the
    /// history does not reach back so far.
    pub fn events(&self, kind: &'static Kind, after: Revision) -> Option<(Vec<Arc<Event>>, Revision)> {
        let state = self.read();
        let room = &state.rooms[self.room(kind)];
        if after < room.floor {
            return None;
        }
        let start = room.events.partition_point(|e| e.revision <= after);
        Some((room.events.range(start..).cloned().collect(), state.revision))
    }

    /// Tells when a kind's objects change.
    pub fn changes(&self, kind: &'static Kind) -> watch::Receiver<Revision> {
        self.read().rooms[self.room(kind)].changed.subscribe()
    }

    /// When a kind's objects last changed.
    pub fn last_change(&self, kind: &'static Kind) -> Revision {
        *self.read().rooms[self.room(kind)].changed.borrow()
    }
}

impl Room {
    fn change(&mut self, key: &str, entry: Option<Arc<Entry>>, revision: Revision) {
        let key: Arc<str> = key.into();
        let (entry, previous, deleted) = match entry {
            Some(entry) => {
                let previous = self.objects.insert(Arc::clone(&key), Arc::clone(&entry));
                (entry, previous, false)
            }
            None => {
                let Some(previous) = self.objects.remove(&key) else { return };
                let mut last = previous.object.to_value();
                last["metadata"]["resourceVersion"] = json!(revision.to_string());
                (Entry::of(last), Some(previous), true)
            }
        };
        if self.events.len() == HISTORY
            && let Some(oldest) = self.events.pop_front()
        {
            self.floor = oldest.revision;
        }
        let lines = [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        let event = Event { entry, previous, deleted, revision, key, lines, left: OnceLock::new() };
        self.events.push_back(Arc::new(event));
    }
}

/// The object in a kind's own form where it is kept in another's.
pub fn view(kind: &'static Kind, entry: &Arc<Entry>) -> Arc<Entry> {
    let Some(stored) = kind.stored_as else { return Arc::clone(entry) };
    let mut document = entry.object.to_value();
    (stored.from)(&mut document);
    Entry::of(document)
}

fn within(kind: &'static Kind, objects: &BTreeMap<Arc<str>, Arc<Entry>>, namespace: &str) -> Vec<Arc<Entry>> {
    if namespace.is_empty() || !kind.namespaced() {
        return objects.values().map(|e| view(kind, e)).collect();
    }
    let prefix = format!("{namespace}/");
    let from = (std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded);
    objects
        .range::<str, _>(from)
        .take_while(|(key, _)| key.starts_with(&prefix))
        .map(|(_, e)| view(kind, e))
        .collect()
}

/// The room of a key, and the rest of the key: `/core/pods/default/web` is `default/web` among Pods.
fn place<'k>(index: &HashMap<String, usize>, key: &'k str) -> Option<(usize, &'k str)> {
    let end = key.match_indices('/').nth(2)?.0 + 1;
    Some((*index.get(&key[..end])?, &key[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::kinds::by_kind;

    fn put(name: &str, revision: Revision) -> Change {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x"},
            "data": {"at": revision.to_string()}});
        let key: Arc<str> = format!("/core/configmaps/x/{name}").into();
        Change { key, value: Some(Bytes::from(value.to_string())), previous: None, revision }
    }

    fn gone(name: &str, revision: Revision) -> Change {
        Change { value: None, ..put(name, revision) }
    }

    fn names(listing: &Listing) -> Vec<String> {
        listing.entries.iter().map(|e| format!("{}@{}", e.object.name(), e.object.revision())).collect()
    }

    #[test]
    fn the_past_can_be_listed_as_far_as_the_history_reaches() {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let cache = Cache::new(&[], 0);
        for change in [put("a", 1), put("b", 2), put("a", 3), gone("b", 4)] {
            cache.apply(&[change]);
        }
        let at = |revision| names(&cache.list_at(kind, "x", revision).unwrap());
        assert_eq!(at(4), ["a@3"]);
        assert_eq!(at(3), ["a@3", "b@2"]);
        assert_eq!(at(2), ["a@1", "b@2"]);
        assert_eq!(at(1), ["a@1"]);
        assert!(at(0).is_empty());
        let (events, upto) = cache.events(kind, 2).unwrap();
        assert_eq!((events.len(), upto), (2, 4));
        assert!(events[1].deleted);
        assert_eq!(events[1].entry.object.revision(), 4, "a deletion carries its own version");
    }

    #[test]
    fn history_ends_and_says_so() {
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let cache = Cache::new(&[], 0);
        for revision in 1..=(HISTORY as u64 + 10) {
            cache.apply(&[put("a", revision)]);
        }
        assert!(cache.events(kind, 9).is_none());
        assert_eq!(cache.events(kind, 10).unwrap().0.len(), HISTORY);
        assert!(cache.list_at(kind, "", 5).is_none());
    }

    #[test]
    fn one_encoding_serves_whole_objects_lists_and_events() {
        let cache = Cache::new(&[], 0);
        cache.apply(&[put("a", 1)]);
        let kind = by_kind("v1", "ConfigMap").unwrap();
        let entry = cache.get(kind, "x", "a").unwrap();
        let mut whole = Vec::new();
        entry.write_whole(&mut whole);
        assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap(), *entry.object.value());
        let event = &cache.events(kind, 0).unwrap().0[0];
        let line: Value = serde_json::from_slice(&event.line(Seen::Added)).unwrap();
        assert_eq!((&line["type"], &line["object"]), (&json!("ADDED"), entry.object.value()));
        let body: Value = serde_json::from_slice(entry.body()).unwrap();
        assert!(body.get("kind").is_none() && body.get("apiVersion").is_none());
    }
}
