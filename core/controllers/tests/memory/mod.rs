//! An API server in memory, just as much as controllers need, and controllers run on it with simulated time.
#![allow(dead_code)] // each test binary uses a part

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use sealane_api::kinds::{KINDS, Kind, Subresource, by_resource};
use sealane_api::patch::{self, PatchKind};
use sealane_controllers::{
    Config, Controller, Doc, Event, Index, Key, Note, Patch, Plan, Pools, Row, Work, Write, plan,
};
use serde_json::{Value, json};

pub type Id = (&'static str, String, String);

/// Refused: the HTTP status.
pub type Answer = Result<Value, u16>;

/// The store: objects by kind, namespace and name, and what watchers have not yet been told.
pub struct Api {
    pub objects: BTreeMap<Id, Value>,
    pub news: Vec<Event>,
    pub revision: u64,
    uids: u64,
    pub now: Timestamp,
}

pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn id(kind: &Kind, namespace: &str, name: &str) -> Id {
    let namespace = if kind.namespaced() { namespace } else { "" };
    (kind.plural, namespace.to_owned(), name.to_owned())
}

impl Api {
    pub fn new() -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Api { objects: BTreeMap::new(), news: Vec::new(), revision: 100, uids: 0, now }
    }

    fn store(&mut self, kind: &'static Kind, mut value: Value) -> Value {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let at = id(kind, text(&value, "/metadata/namespace"), text(&value, "/metadata/name"));
        let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len)
            + value.pointer("/spec/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
        let grace =
            value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        let ended = value.pointer("/metadata/deletionTimestamp").is_some() && finalizers == 0 && grace == 0;
        if ended {
            self.objects.remove(&at);
            self.news.push(Event::Deleted(Doc::of(Row(kind), value.clone()).unwrap()));
        } else {
            self.objects.insert(at, value.clone());
            self.news.push(Event::Applied(Doc::of(Row(kind), value.clone()).unwrap()));
        }
        value
    }

    pub fn create(&mut self, kind: &'static Kind, namespace: &str, mut value: Value) -> Answer {
        value["apiVersion"] = json!(kind.api_version());
        value["kind"] = json!(kind.kind);
        if kind.namespaced() {
            value["metadata"]["namespace"] = json!(namespace);
            let home = self.objects.get(&("namespaces", String::new(), namespace.to_owned()));
            if home.is_none_or(|n| n.pointer("/metadata/deletionTimestamp").is_some()) {
                return Err(403);
            }
        }
        if self.objects.contains_key(&id(kind, namespace, text(&value, "/metadata/name"))) {
            return Err(409);
        }
        (kind.default)(&mut value);
        self.uids += 1;
        value["metadata"]["uid"] = json!(format!("uid-{:05}", self.uids));
        value["metadata"]["creationTimestamp"] = json!(self.now.to_string());
        value["metadata"]["generation"] = json!(1);
        match kind.kind {
            "Pod" if value.pointer("/status/phase").is_none() => {
                value["status"] = json!({"phase": "Pending"})
            }
            "Service" if text(&value, "/spec/clusterIP").is_empty() => {
                value["spec"]["clusterIP"] = json!("10.96.0.9")
            }
            "Namespace" => {
                value["spec"] = json!({"finalizers": ["kubernetes"]});
                value["status"] = json!({"phase": "Active"});
            }
            _ => {}
        }
        Ok(self.store(kind, value))
    }

    pub fn get(&self, plural: &'static str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(plural, namespace.to_owned(), name.to_owned()))
    }

    pub fn list(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let of = |(id, _): &(&Id, &Value)| id.0 == plural && (namespace.is_empty() || id.1 == namespace);
        self.objects.iter().filter(of).map(|(_, v)| v.clone()).collect()
    }

    pub fn put(&mut self, kind: &'static Kind, key: &Id, mut new: Value, sub: Option<Subresource>) -> Answer {
        let old = self.objects.get(key).ok_or(404_u16)?.clone();
        let given = text(&new, "/metadata/resourceVersion");
        if !given.is_empty() && given != text(&old, "/metadata/resourceVersion") {
            return Err(409);
        }
        let given = text(&new, "/metadata/uid");
        if !given.is_empty() && given != text(&old, "/metadata/uid") {
            return Err(409);
        }
        (kind.default)(&mut new);
        match sub {
            Some(Subresource::Status) => {
                kind.prepare_status(&mut new, &old);
            }
            Some(Subresource::Finalize) => {
                let mut kept = old.clone();
                kept["spec"]["finalizers"] = new["spec"]["finalizers"].clone();
                new = kept;
            }
            _ => {
                if old.get("status").is_some() {
                    new["status"] = old["status"].clone();
                }
                for field in ["uid", "creationTimestamp", "namespace", "deletionTimestamp", "generation"] {
                    if let Some(held) = old["metadata"].get(field) {
                        new["metadata"][field] = held.clone();
                    }
                }
                if old["spec"] != new["spec"] {
                    new["metadata"]["generation"] =
                        json!(old["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
                }
            }
        }
        let mut as_was = new.clone();
        as_was["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if as_was == old {
            return Ok(old);
        }
        Ok(self.store(kind, new))
    }

    pub fn patch(
        &mut self,
        kind: &'static Kind,
        key: &Id,
        how: PatchKind,
        body: &Value,
        sub: Option<Subresource>,
    ) -> Answer {
        let old = self.objects.get(key).ok_or(404_u16)?.clone();
        let new = patch::apply(kind, how, &old, body.to_string().as_bytes()).map_err(|s| s.code)?;
        self.put(kind, key, new, sub)
    }

    /// `Ok` with what is left of the object.
    pub fn delete(&mut self, kind: &'static Kind, key: &Id, options: &Value) -> Answer {
        let mut value = self.objects.get(key).ok_or(404_u16)?.clone();
        for (given, held) in [("uid", "uid"), ("resourceVersion", "resourceVersion")] {
            let given = text(options, &format!("/preconditions/{given}"));
            if !given.is_empty() && given != text(&value, &format!("/metadata/{held}")) {
                return Err(409);
            }
        }
        let started = value.pointer("/metadata/deletionTimestamp").is_some();
        let mut grace = options.get("gracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
        let finalizer = match text(options, "/propagationPolicy") {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer.filter(|_| !started) {
            let mut list = value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            list.push(json!(finalizer));
            value["metadata"]["finalizers"] = json!(list);
        }
        // A Pod that runs nowhere has nothing to end.
        if kind.kind != "Pod" || text(&value, "/spec/nodeName").is_empty() {
            grace = 0;
        }
        if started && grace != 0 {
            return Ok(value);
        }
        if !started {
            value["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
        }
        if kind.kind == "Namespace" {
            value["status"]["phase"] = json!("Terminating");
        }
        value["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        Ok(self.store(kind, value))
    }

    /// A write as an executor sends it; what the index is to be told of its answer.
    pub fn execute(&mut self, write: &Write) -> Result<Vec<Event>, u16> {
        let written = |kind: &Row, value: Value| vec![Event::Written(Doc::of(*kind, value).unwrap())];
        match write {
            Write::Create { kind, namespace, body } => {
                self.create(kind.0, namespace, body.clone()).map(|v| written(kind, v))
            }
            Write::Update { kind, key, subresource, body } => {
                let id = id(kind, &key.namespace, &key.name);
                self.put(kind.0, &id, body.clone(), *subresource).map(|v| self.left(*kind, &id, v))
            }
            Write::Patch { kind, key, subresource, patch, body } => {
                let how = match patch {
                    Patch::Merge => PatchKind::of("application/merge-patch+json"),
                    Patch::Strategic => PatchKind::of("application/strategic-merge-patch+json"),
                };
                let id = id(kind, &key.namespace, &key.name);
                self.patch(kind.0, &id, how.unwrap(), body, *subresource).map(|v| self.left(*kind, &id, v))
            }
            Write::Delete { kind, key, uid, resource_version, propagation, grace_seconds } => {
                let mut options = json!({"preconditions": {"uid": uid}});
                if let Some(v) = resource_version {
                    options["preconditions"]["resourceVersion"] = json!(v);
                }
                if let Some(p) = propagation {
                    options["propagationPolicy"] = json!(p.as_str());
                }
                if let Some(g) = grace_seconds {
                    options["gracePeriodSeconds"] = json!(g);
                }
                let id = id(kind, &key.namespace, &key.name);
                match self.delete(kind.0, &id, &options) {
                    Ok(value) => Ok(self.left(*kind, &id, value)),
                    Err(404) => Ok(vec![Event::Removed { kind: *kind, key: key.clone(), uid: uid.clone() }]),
                    Err(code) => Err(code),
                }
            }
            Write::DeleteCollection { .. } => Ok(Vec::new()),
            Write::Bind { key, uid, node } => {
                let pods = by_resource("", "v1", "pods").unwrap();
                let id = id(pods, &key.namespace, &key.name);
                let mut value = self.objects.get(&id).ok_or(404_u16)?.clone();
                if text(&value, "/metadata/uid") != uid || !text(&value, "/spec/nodeName").is_empty() {
                    return Err(409);
                }
                value["spec"]["nodeName"] = json!(node);
                self.store(pods, value);
                Ok(Vec::new())
            }
            Write::Confirm { kind, key, uid } => {
                let held = self.objects.get(&id(kind, &key.namespace, &key.name));
                match held.filter(|v| uid.is_empty() || text(v, "/metadata/uid") == uid) {
                    Some(value) => Ok(written(kind, value.clone())),
                    None => Ok(vec![Event::Absent { kind: *kind, key: key.clone(), uid: uid.clone() }]),
                }
            }
        }
    }

    fn left(&self, kind: Row, id: &Id, value: Value) -> Vec<Event> {
        if self.objects.contains_key(id) {
            vec![Event::Written(Doc::of(kind, value).unwrap())]
        } else {
            let uid = text(&value, "/metadata/uid").to_owned();
            vec![Event::Removed { kind, key: Key::new(&id.1, &id.2), uid }]
        }
    }
}

/// Controllers on an [`Api`].
pub struct Cluster {
    pub api: Api,
    pub index: Index,
    pub controllers: Vec<Controller>,
    pub work: BTreeSet<Work>,
    timers: BTreeMap<Timestamp, BTreeSet<Work>>,
    pub notes: Vec<Note>,
    pub writes: usize,
    /// What the watches have not delivered, kind by kind in order.
    lag: BTreeMap<&'static str, VecDeque<Event>>,
    random: u64,
}

impl Cluster {
    pub fn new(controllers: &[Controller]) -> Self {
        Self::with_pools(controllers, "", "")
    }

    pub fn with_pools(controllers: &[Controller], external: &str, internal: &str) -> Self {
        let config = Config {
            root_ca: "CA".to_owned(),
            started: "2026-01-01T00:00:00Z".parse().unwrap(),
            load_balancers: Pools {
                external: external.parse().unwrap(),
                internal: internal.parse().unwrap(),
            },
            ..Config::default()
        };
        let mut index = Index::new(config);
        for kind in KINDS.iter().filter(|k| k.kind != "Event") {
            index.apply(Event::ListBegins(Row(kind)));
            index.apply(Event::ListEnds(Row(kind)));
        }
        Cluster {
            api: Api::new(),
            index,
            controllers: controllers.to_vec(),
            work: BTreeSet::new(),
            timers: BTreeMap::new(),
            notes: Vec::new(),
            writes: 0,
            lag: BTreeMap::new(),
            random: 1,
        }
    }

    /// Another order of what happens, and other names.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.random = seed;
        self
    }

    pub fn random(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// A namespace, and a Node `n1` in zone-a.
    pub fn with_namespace(mut self, name: &str) -> Self {
        self.create("namespaces", "", json!({"metadata": {"name": name}}));
        self.create(
            "nodes",
            "",
            json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "zone-a"}}, "spec": {},
                "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        self
    }

    pub fn kind(plural: &str) -> &'static Kind {
        KINDS.iter().find(|k| k.plural == plural).unwrap()
    }

    pub fn create(&mut self, plural: &str, namespace: &str, value: Value) -> Value {
        self.api.create(Self::kind(plural), namespace, value).unwrap()
    }

    pub fn merge(
        &mut self,
        plural: &str,
        namespace: &str,
        name: &str,
        body: Value,
        sub: Option<Subresource>,
    ) {
        let kind = Self::kind(plural);
        let how = PatchKind::of("application/merge-patch+json").unwrap();
        self.api.patch(kind, &id(kind, namespace, name), how, &body, sub).unwrap();
    }

    pub fn delete(&mut self, plural: &str, namespace: &str, name: &str, options: Value) {
        let kind = Self::kind(plural);
        self.api.delete(kind, &id(kind, namespace, name), &options).unwrap();
    }

    fn learn(&mut self, event: Event) {
        for work in self.index.apply(event) {
            if self.controllers.contains(&work.controller) {
                self.work.insert(work);
            }
        }
    }

    fn collect_news(&mut self) {
        for event in std::mem::take(&mut self.api.news) {
            let (Event::Applied(doc) | Event::Deleted(doc)) = &event else { unreachable!() };
            self.lag.entry(doc.kind().unwrap().0.plural).or_default().push_back(event);
        }
    }

    /// Lets one watch deliver its next event; false where there is none.
    pub fn deliver_one(&mut self) -> bool {
        self.collect_news();
        let with: Vec<&'static str> =
            self.lag.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        if with.is_empty() {
            return false;
        }
        let choice = with[usize::try_from(self.random()).unwrap() % with.len()];
        let event = self.lag.get_mut(choice).and_then(VecDeque::pop_front).unwrap();
        self.learn(event);
        true
    }

    /// Plans and carries out one key; false where there is nothing to do.
    pub fn step(&mut self) -> bool {
        if self.work.is_empty() {
            return false;
        }
        let at = usize::try_from(self.random()).unwrap() % self.work.len();
        let work = self.work.iter().nth(at).cloned().unwrap();
        self.work.remove(&work);
        let random = self.random();
        let made: Plan = plan(work.controller, &self.index, &work.key, self.api.now, random);
        self.notes.extend(made.notes);
        if let Some(after) = made.requeue_after {
            let at = self.api.now + SignedDuration::try_from(after).unwrap();
            self.timers.entry(at).or_default().insert(work.clone());
        }
        for action in made.actions {
            self.writes += 1;
            self.index.dispatched(&action.write);
            match self.api.execute(&action.write) {
                Ok(events) => {
                    self.notes.extend(action.note);
                    events.into_iter().for_each(|e| self.learn(e));
                }
                Err(_) => {
                    self.index.failed(&action.write);
                    self.work.insert(work.clone());
                }
            }
        }
        true
    }

    /// Until all is delivered and planned, or it goes on for ever.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            let delivered = self.deliver_one();
            let stepped = self.step();
            if !delivered && !stepped {
                return;
            }
        }
        panic!("the controllers don't come to rest: {:?}", self.work);
    }

    /// Lets time pass; timers that are due are planned.
    pub fn pass(&mut self, seconds: i64) {
        self.api.now += SignedDuration::from_secs(seconds);
        while let Some(entry) = self.timers.first_entry()
            && *entry.key() <= self.api.now
        {
            self.work.extend(entry.remove());
        }
        self.settle();
    }

    pub fn pods(&self, namespace: &str) -> Vec<Value> {
        self.api.list("pods", namespace)
    }

    /// Sets a Pod's phase and readiness as a node does.
    pub fn pod_status(&mut self, namespace: &str, name: &str, ip: &str, ready: bool) {
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": self.api.now.to_string()}]}});
        self.merge("pods", namespace, name, status, Some(Subresource::Status));
    }
}

impl Cluster {
    /// A watch breaks: what it had not delivered is lost, and a list begins that will be delivered like news.
    pub fn relist(&mut self, plural: &'static str) {
        self.collect_news();
        let kind = Row(Self::kind(plural));
        let listed = self.api.list(plural, "").into_iter().map(|v| Event::Listed(Doc::of(kind, v).unwrap()));
        // What is written from now on may reach the index before the list does.
        let mut events: VecDeque<Event> = [Event::ListBegins(kind)].into_iter().chain(listed).collect();
        events.push_back(Event::ListEndsAt(kind, self.api.revision));
        self.lag.insert(plural, events);
    }
}
