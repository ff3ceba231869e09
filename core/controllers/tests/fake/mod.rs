//! A tiny API in memory whose watches lag, and a runner that plans against it: time is simulated, order is chosen.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use sealane_api::kinds::{Generation, Subresource, by_kind};
use sealane_controllers::{
    Config, Doc, Event, Index, Key, Note, Propagation, Row, Work, Write, plan, watched_kinds,
};
use serde_json::{Value, json};

type Id = (&'static str, String, String);

pub struct World {
    pub objects: BTreeMap<Id, Value>,
    revision: u64,
    pub now: Timestamp,
    /// What watches have not yet delivered.
    lag: VecDeque<(Row, bool, Value)>,
    pub index: Index,
    pub work: BTreeSet<Work>,
    random: u64,
    pub notes: Vec<Note>,
    pub refused: usize,
    /// The most Pods that each owner had at one time, terminating ones left out.
    pub most: BTreeMap<String, usize>,
}

fn merge(to: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            to.as_object_mut().unwrap().remove(key);
        } else if key == "conditions" {
            // A strategic merge goes by type; so does a merge here, which only ever adds or replaces.
            let held = to[key].as_array().cloned().unwrap_or_default();
            let new = value.as_array().unwrap();
            let kept = held.into_iter().filter(|h| !new.iter().any(|n| n["type"] == h["type"]));
            to[key] = kept.chain(new.iter().cloned()).collect();
        } else {
            merge(&mut to[key], value);
        }
    }
}

impl World {
    pub fn new(random: u64) -> Self {
        let mut world = World {
            objects: BTreeMap::new(),
            revision: 10,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            lag: VecDeque::new(),
            index: Index::new(Config { root_ca: "PEM".to_owned(), ..Config::default() }),
            work: BTreeSet::new(),
            random,
            notes: Vec::new(),
            refused: 0,
            most: BTreeMap::new(),
        };
        for row in watched_kinds() {
            world.index.apply(Event::ListBegins(row));
            world.index.apply(Event::ListEnds(row));
        }
        world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"},
            "spec": {"finalizers": ["kubernetes"]}}));
        world.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}}));
        world
    }

    pub fn draw(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) as usize) % below
    }

    fn row(value: &Value) -> Row {
        Row(by_kind(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()).unwrap())
    }

    pub fn id(plural: &'static str, name: &str) -> Id {
        (plural, "a".to_owned(), name.to_owned())
    }

    fn stored(&mut self, row: Row, id: Id, mut value: Value) -> Value {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        value["apiVersion"] = row.0.api_version().into();
        value["kind"] = row.0.kind.into();
        self.objects.insert(id, value.clone());
        self.lag.push_back((row, true, value.clone()));
        value
    }

    pub fn create(&mut self, mut value: Value) -> Option<Value> {
        let row = Self::row(&value);
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let id = (row.0.plural, text(&value["metadata"]["namespace"]), text(&value["metadata"]["name"]));
        if self.objects.contains_key(&id) {
            return None;
        }
        value["metadata"]["uid"] = format!("{}-{}", row.0.singular, self.revision).into();
        value["metadata"]["creationTimestamp"] = self.now.to_string().into();
        if row.0.generation != Generation::None {
            value["metadata"]["generation"] = 1.into();
        }
        if row.0.kind == "Pod" {
            value["status"]["phase"] = "Pending".into();
        }
        let value = self.stored(row, id, value);
        self.count();
        Some(value)
    }

    fn count(&mut self) {
        let mut now: BTreeMap<String, usize> = BTreeMap::new();
        for ((plural, ..), pod) in &self.objects {
            let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
            if *plural == "pods" && pod["metadata"]["deletionTimestamp"].is_null() && !ended {
                *now.entry(pod["metadata"]["labels"]["app"].as_str().unwrap_or("").to_owned())
                    .or_default() += 1;
            }
        }
        for (app, n) in now {
            let most = self.most.entry(app).or_default();
            *most = (*most).max(n);
        }
    }

    /// Changes an object by a merge patch; `None` where a precondition doesn't hold.
    pub fn patch(&mut self, id: &Id, patch: &Value, subresource: Option<Subresource>) -> Result<Value, bool> {
        let old = self.objects.get(id).cloned().ok_or(true)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &patch["metadata"][field];
            if !wanted.is_null() && *wanted != old["metadata"][field] {
                return Err(field == "uid");
            }
        }
        let row = Self::row(&old);
        let mut new = old.clone();
        match subresource {
            Some(Subresource::Status) => {
                merge(&mut new, &json!({"status": patch["status"]}));
                if let Some(annotations) = patch["metadata"].get("annotations") {
                    new["metadata"]["annotations"] = annotations.clone();
                }
            }
            _ => {
                merge(&mut new, patch);
                if row.0.generation != Generation::None && new["spec"] != old["spec"] {
                    new["metadata"]["generation"] =
                        (old["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
                }
            }
        }
        let emptied = new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let namespace_done = row.0.kind != "Namespace" || emptied;
        let finalizers = new["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let waits = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        if !new["metadata"]["deletionTimestamp"].is_null() && finalizers && namespace_done && !waits {
            self.gone(row, id);
            return Ok(new);
        }
        Ok(self.stored(row, id.clone(), new))
    }

    fn gone(&mut self, row: Row, id: &Id) {
        if let Some(mut last) = self.objects.remove(id) {
            self.revision += 1;
            last["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.lag.push_back((row, false, last));
        }
    }

    /// `None`: it is gone; the object: it is on its way.
    pub fn delete(&mut self, id: &Id, propagation: Option<Propagation>, grace: bool) -> Option<Value> {
        let held = self.objects.get(id).cloned()?;
        let row = Self::row(&held);
        let finalizer = match propagation {
            Some(Propagation::Foreground) => Some("foregroundDeletion"),
            Some(Propagation::Orphan) => Some("orphan"),
            _ => None,
        };
        let mut metadata = held["metadata"].clone();
        if let Some(finalizer) = finalizer
            && metadata["deletionTimestamp"].is_null()
        {
            metadata["finalizers"] = json!([finalizer]);
        }
        let running = row.0.kind == "Pod" && held["spec"]["nodeName"].is_string() && grace;
        let has = metadata["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if !running && !has && row.0.kind != "Namespace" {
            self.gone(row, id);
            return None;
        }
        if metadata["deletionTimestamp"].is_null() {
            metadata["deletionTimestamp"] = self.now.to_string().into();
            metadata["deletionGracePeriodSeconds"] = if running { 30.into() } else { 0.into() };
            let mut new = held;
            new["metadata"] = metadata;
            return Some(self.stored(row, id.clone(), new));
        }
        Some(held)
    }

    /// One watch event comes.
    pub fn deliver(&mut self) -> bool {
        let Some((row, applied, value)) = self.lag.pop_front() else { return false };
        let doc = Doc::of(row, value).unwrap();
        let event = if applied { Event::Applied(doc) } else { Event::Deleted(doc) };
        self.work.extend(self.index.apply(event));
        true
    }

    /// Plans one key and carries it out.
    pub fn step(&mut self) -> bool {
        if self.work.is_empty() {
            return false;
        }
        let at = self.draw(self.work.len());
        let work = self.work.iter().nth(at).unwrap().clone();
        self.work.remove(&work);
        let random = self.draw(usize::MAX >> 34) as u64 ^ (self.revision << 20);
        let plan = plan(work.controller, &self.index, &work.key, self.now, random);
        self.notes.extend(plan.notes);
        for action in plan.actions {
            self.index.dispatched(&action.write);
            match self.execute(&action.write) {
                Ok(event) => {
                    self.notes.extend(action.note);
                    if let Some(event) = event {
                        self.work.extend(self.index.apply(event));
                    }
                    if matches!(action.write, Write::Confirm { .. }) {
                        self.work.insert(work.clone());
                    }
                }
                Err(()) => {
                    self.refused += 1;
                    self.index.failed(&action.write);
                    self.work.insert(work.clone());
                }
            }
        }
        true
    }

    fn execute(&mut self, write: &Write) -> Result<Option<Event>, ()> {
        let id = |kind: &Row, key: &Key| (kind.0.plural, key.namespace.to_string(), key.name.to_string());
        let written = |kind: Row, value: Value| Ok(Some(Event::Written(Doc::of(kind, value).unwrap())));
        match write {
            Write::Create { kind, body, .. } => match self.create(body.clone()) {
                Some(value) => written(*kind, value),
                None => Err(()),
            },
            Write::Update { kind, key, subresource, body } => {
                // A PUT replaces: what it leaves out goes.
                let id = id(kind, key);
                let held = self.objects.get(&id).cloned().ok_or(())?;
                if held["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Err(());
                }
                if let Some(old) = self.objects.get_mut(&id) {
                    old["status"] = Value::Null;
                }
                self.patch(&id, body, *subresource).map_err(|_| ()).and_then(|value| written(*kind, value))
            }
            Write::Patch { kind, key, subresource, body, .. } => {
                match self.patch(&id(kind, key), body, *subresource) {
                    Ok(value) => written(*kind, value),
                    Err(_) => Err(()),
                }
            }
            Write::Delete { kind, key, uid, resource_version, propagation, grace_seconds } => {
                let id = id(kind, key);
                let held = self.objects.get(&id);
                if held.is_none_or(|h| h["metadata"]["uid"] != **uid) {
                    return Ok(Some(Event::Absent { kind: *kind, key: key.clone(), uid: uid.clone() }));
                }
                let version = held.map(|h| h["metadata"]["resourceVersion"].clone());
                if resource_version.as_ref().is_some_and(|v| version.as_ref().is_some_and(|held| held != v)) {
                    return Err(());
                }
                match self.delete(&id, *propagation, *grace_seconds != Some(0)) {
                    Some(value) => written(*kind, value),
                    None => Ok(Some(Event::Removed { kind: *kind, key: key.clone(), uid: uid.clone() })),
                }
            }
            Write::DeleteCollection { .. } => Ok(None),
            Write::Bind { key, node, .. } => {
                let id = ("pods", key.namespace.to_string(), key.name.to_string());
                let bound = self.objects.get(&id).is_none_or(|p| p["spec"]["nodeName"].is_string());
                if bound {
                    return Err(());
                }
                self.patch(&id, &json!({"spec": {"nodeName": node}}), None).map(|_| None).map_err(|_| ())
            }
            Write::Confirm { kind, key, uid } => match self.objects.get(&id(kind, key)) {
                Some(value) if uid.is_empty() || value["metadata"]["uid"] == **uid => {
                    written(*kind, value.clone())
                }
                _ => Ok(Some(Event::Absent { kind: *kind, key: key.clone(), uid: uid.clone() })),
            },
        }
    }

    /// The objects of a kind in namespace `a`.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|((p, ns, _), _)| *p == plural && ns == "a")
            .map(|(_, v)| v.clone())
            .collect()
    }

    pub fn names(&self, plural: &str) -> Vec<String> {
        self.all(plural).iter().map(|v| v["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What a node does: runs what is bound to it, ends what is told to end.
    pub fn node(&mut self, ready: bool) -> bool {
        let mut changed = false;
        for pod in self.all("pods") {
            let id = Self::id("pods", pod["metadata"]["name"].as_str().unwrap());
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.patch(&id, &json!({"metadata": {"deletionGracePeriodSeconds": 0}}), None).unwrap();
                changed = true;
            } else if ready && pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending" {
                let ip = format!("10.244.0.{}", self.revision % 250 + 1);
                let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": self.now.to_string()}]}});
                self.patch(&id, &status, Some(Subresource::Status)).unwrap();
                changed = true;
            }
        }
        changed
    }

    /// Delivers, plans and runs until nothing moves.
    pub fn settle(&mut self, ready: bool) {
        for round in 0..4_000 {
            if (self.work.is_empty() || self.draw(3) == 0) && self.deliver() {
                continue;
            }
            if !self.step() && !self.deliver() && !self.node(ready) {
                return;
            }
            assert!(round < 3_999, "no end: {:?}", self.work);
        }
    }
}
