//! [`Builder`]: the one writer. Events in, Snapshots out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use sealane_api::Object;

use crate::compile;
use crate::delta::{Delta, changes};
use crate::intern::Interner;
use crate::model::{Entry, Namespace, NamespacedName, Node, Pod, Service, Slice};
use crate::rules::{Rule, Rules};
use crate::snapshot::{Keys, Snapshot, Source};
use crate::trie::Trie;

/// What a watch says.
#[derive(Clone, Debug)]
pub enum Event {
    /// Added or modified.
    Applied(Source, Object),
    /// Deleted; only its name, and its revision where it is newer, are read.
    Deleted(Source, Object),
    /// A list begins: what is `Applied` up to `RelistEnd` is all there is.
    RelistBegin(Source),
    /// The list is complete: what was not in it is gone. Only now does it show, and everything else that came in
    /// the meantime.
    RelistEnd(Source),
    /// The list broke off: what it said counts, what it did not say says nothing.
    RelistFailed(Source),
    /// A list's or bookmark's resourceVersion.
    Revision(Source, u64),
    /// The watch broke, or could not begin, at this time (seconds since 1970): what is known grows old.
    Lost(Source, u64),
    /// The watch is there (again).
    Connected(Source),
}

/// A compiled object.
#[derive(Clone, Debug)]
enum Compiled {
    Service(Service),
    Slice(Slice),
    Namespace(Namespace),
    Node(Node),
    Pod(Pod),
    Rule(Rule),
}

/// Applies events and publishes snapshots. What changes costs what changed, but for the slices of one Service,
/// which are looked through when one of them loses an address. A list costs its names while it comes: an object that
/// is known already stays as it is.
#[derive(Debug, Default)]
pub struct Builder {
    next: Snapshot,
    published: Arc<Snapshot>,
    required: Vec<Source>,
    listed: HashSet<Source>,
    /// Lists under way: the objects that they have had.
    listing: HashMap<Source, HashSet<NamespacedName>>,
    /// Since when watches are broken.
    lost: HashMap<Source, u64>,
    /// When what [`Builder::restore`] took was true; until all that is required has been listed.
    pub(crate) restored: Option<u64>,
    /// Which Service each slice was last seen with; it is in the slice's namespace.
    slices: HashMap<NamespacedName, Arc<str>>,
    rules: Rules,
    dirty: Dirty,
    texts: Interner,
    /// Nobody asks by address.
    unindexed: bool,
}

#[derive(Debug, Default)]
struct Dirty {
    services: HashSet<NamespacedName>,
    namespaces: HashSet<Arc<str>>,
    nodes: HashSet<Arc<str>>,
    pods: HashSet<NamespacedName>,
}

impl Builder {
    /// A builder whose snapshots are [`Snapshot::synced`] once `required` have been listed: for DNS
    /// Services, EndpointSlices and Namespaces, for a proxy Services, EndpointSlices and Nodes.
    pub fn new(required: &[Source]) -> Self {
        Builder { required: required.to_vec(), ..Builder::default() }
    }

    /// The same without [`Snapshot::by_cluster_ip`] and [`Snapshot::by_endpoint`], which find nothing then: a proxy goes
    /// by names alone, and a large cluster's addresses take room and time.
    #[must_use]
    pub fn without_addresses(self) -> Self {
        Builder { unindexed: true, ..self }
    }

    /// Takes one event. Nothing shows before [`Builder::publish`].
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Applied(source, object) => {
                self.seen(source, object.revision());
                let key = self.take(source, &object);
                if let Some(listed) = self.listing.get_mut(&source) {
                    listed.insert(key);
                }
            }
            Event::Deleted(source, object) => {
                self.seen(source, object.revision());
                let key = self.texts.name(object.namespace(), object.name());
                self.put(source, &key, None);
            }
            Event::RelistBegin(source) => {
                self.listing.insert(source, HashSet::new());
            }
            Event::RelistEnd(source) => self.sweep(source),
            Event::RelistFailed(source) => {
                self.listing.remove(&source);
            }
            Event::Revision(source, revision) => self.seen(source, revision),
            // What is not required to answer makes no answer old.
            Event::Lost(source, now) => {
                if self.required.contains(&source) {
                    self.lost.entry(source).or_insert(now);
                }
            }
            Event::Connected(source) => {
                self.lost.remove(&source);
            }
        }
    }

    /// Publishes what was applied since the last time: the snapshot, and what changed in it. Publishes the same
    /// snapshot again, with an empty delta, where nothing did; while a list is under way only how old things are
    /// changes.
    pub fn publish(&mut self) -> (Arc<Snapshot>, Delta) {
        let whole = self.required.iter().all(|source| self.listed.contains(source));
        if whole && self.listing.is_empty() {
            self.restored = None;
        }
        let as_of = self.lost.values().copied().chain(self.restored).min();
        // Half a list is no state of the cluster, nor are some kinds as they are and others as they were.
        let half = !self.listing.is_empty() || (self.published.restored && self.restored.is_some());
        let old = self.published.clone();
        let (mut new, mut delta) = if half {
            ((*old).clone(), Delta { from: old.sequence, to: old.sequence, ..Delta::default() })
        } else {
            let delta = self.difference();
            (self.next.clone(), delta)
        };
        if !half {
            new.synced = whole || self.restored.is_some();
            new.restored = self.restored.is_some();
        }
        new.as_of = as_of;
        let same = old.revisions == new.revisions && old.synced == new.synced && old.restored == new.restored;
        if delta.is_empty() && same && old.as_of == as_of {
            return (old, delta);
        }
        new.sequence = old.sequence + 1;
        delta.to = new.sequence;
        new.history = old.history.with(&delta);
        self.published = Arc::new(new);
        (self.published.clone(), delta)
    }

    /// What changed since the last publication; what is equal is identical from then on.
    fn difference(&mut self) -> Delta {
        let dirty = std::mem::take(&mut self.dirty);
        let (old, new) = (&self.published, &mut self.next);
        restore(&dirty.services, &old.services, &mut new.services);
        restore(&dirty.namespaces, &old.namespaces, &mut new.namespaces);
        restore(&dirty.nodes, &old.nodes, &mut new.nodes);
        restore(&dirty.pods, &old.pods, &mut new.pods);
        Delta {
            from: old.sequence,
            to: old.sequence,
            services: changes(dirty.services.iter(), &old.services, &new.services),
            namespaces: changes(dirty.namespaces.iter(), &old.namespaces, &new.namespaces),
            nodes: changes(dirty.nodes.iter(), &old.nodes, &new.nodes),
            pods: changes(dirty.pods.iter(), &old.pods, &new.pods),
        }
    }

    /// Adds or replaces an object.
    pub(crate) fn take(&mut self, source: Source, object: &Object) -> NamespacedName {
        let key = self.texts.name(object.namespace(), object.name());
        let compiled = compiled(source, object, &mut self.texts);
        self.put(source, &key, compiled);
        key
    }

    fn seen(&mut self, source: Source, revision: u64) {
        let at = &mut self.next.revisions[source.index()];
        *at = revision.max(*at);
    }

    fn sweep(&mut self, source: Source) {
        let Some(there) = self.listing.remove(&source) else { return };
        let gone = |key: &&NamespacedName| !there.contains(*key);
        let gone: Vec<NamespacedName> = match source {
            Source::Services => {
                let entries = self.next.services.iter();
                entries
                    .filter(|(_, e)| e.service.is_some())
                    .map(|(key, _)| key)
                    .filter(gone)
                    .cloned()
                    .collect()
            }
            Source::EndpointSlices => self.slices.keys().filter(gone).cloned().collect(),
            Source::Namespaces => self.next.namespaces.keys().map(cluster_scoped).collect(),
            Source::Nodes => self.next.nodes.keys().map(cluster_scoped).collect(),
            Source::Pods => self.next.pods.keys().filter(gone).cloned().collect(),
            Source::DestinationRules => self.rules.names().filter(gone).cloned().collect(),
        };
        for key in gone.iter().filter(|key| !there.contains(*key)) {
            self.put(source, key, None);
        }
        self.listed.insert(source);
        self.lost.remove(&source);
    }

    /// Whether a list of this source is, or was, there: what is restored does not go over it.
    pub(crate) fn has(&self, source: Source) -> bool {
        self.listed.contains(&source) || self.listing.contains_key(&source)
    }

    pub(crate) fn required(&self) -> &[Source] {
        &self.required
    }

    fn put(&mut self, source: Source, key: &NamespacedName, compiled: Option<Compiled>) {
        match (source, compiled) {
            (Source::Services, Some(Compiled::Service(service))) => self.put_service(key, Some(service)),
            (Source::Services, _) => self.put_service(key, None),
            (Source::EndpointSlices, Some(Compiled::Slice(slice))) => self.put_slice(key, Some(slice)),
            (Source::EndpointSlices, _) => self.put_slice(key, None),
            (Source::Namespaces, compiled) => {
                let new = if let Some(Compiled::Namespace(n)) = compiled { Some(n) } else { None };
                put(&mut self.next.namespaces, &mut self.dirty.namespaces, &key.name, new);
            }
            (Source::Nodes, compiled) => {
                let new = if let Some(Compiled::Node(n)) = compiled { Some(n) } else { None };
                put(&mut self.next.nodes, &mut self.dirty.nodes, &key.name, new);
            }
            (Source::Pods, Some(Compiled::Pod(pod))) => self.put_pod(key, Some(pod)),
            (Source::Pods, _) => self.put_pod(key, None),
            (Source::DestinationRules, compiled) => {
                let new = if let Some(Compiled::Rule(rule)) = compiled { Some(rule) } else { None };
                self.put_rule(key, new);
            }
        }
    }

    fn put_rule(&mut self, key: &NamespacedName, new: Option<Rule>) {
        for service in self.rules.put(key, new) {
            let known = self.next.services.get(&service).and_then(|e| e.service.clone());
            if let Some(known) = known {
                self.put_service(&service, Some((*known).clone()));
            }
        }
    }

    fn put_service(&mut self, key: &NamespacedName, new: Option<Service>) {
        let old = self.next.services.get(key).and_then(|e| e.service.clone());
        let new = new.map(|mut new| {
            new.grpc_policy = self.rules.policy(key);
            let published = self.published.services.get(key).and_then(|e| e.service.clone());
            let known = old.iter().chain(&published).find(|known| same_service(known, &new));
            known.cloned().unwrap_or_else(|| Arc::new(new))
        });
        if old == new {
            return;
        }
        if !self.unindexed {
            let before = old.iter().flat_map(|service| service.cluster_ips.iter().copied()).collect();
            let after = new.iter().flat_map(|service| service.cluster_ips.iter().copied()).collect();
            reindex(&mut self.next.cluster_ips, key, &before, &after);
        }
        let slices = entry_slices(&self.next, key);
        self.put_entry(key, Entry { service: new, slices });
    }

    fn put_slice(&mut self, key: &NamespacedName, new: Option<Slice>) {
        let home = self.slices.get(key);
        let home = home.map(|name| NamespacedName { namespace: key.namespace.clone(), name: name.clone() });
        if let Some(home) = home
            && new.as_ref().is_none_or(|slice| slice.service != home)
        {
            self.slices.remove(key);
            self.replace_slice(&home, key, None);
        }
        if let Some(slice) = new {
            let home = slice.service.clone();
            self.slices.insert(key.clone(), home.name.clone());
            self.replace_slice(&home, key, Some(slice));
        }
    }

    fn replace_slice(&mut self, home: &NamespacedName, key: &NamespacedName, new: Option<Slice>) {
        let mut slices = entry_slices(&self.next, home);
        let at = slices.binary_search_by(|slice| slice.key.cmp(key));
        let old = at.ok().map(|at| slices[at].clone());
        let new = new.map(|new| {
            let published = entry_slices(&self.published, home);
            let known = old.iter().chain(&published).find(|known| same_slice(known, &new));
            known.cloned().unwrap_or_else(|| Arc::new(new))
        });
        if old == new {
            return;
        }
        match (at, new.clone()) {
            (Ok(at), Some(new)) => slices[at] = new,
            (Ok(at), None) => {
                slices.remove(at);
            }
            (Err(at), Some(new)) => {
                slices.reserve_exact(1);
                slices.insert(at, new);
            }
            (Err(_), None) => return,
        }
        if !self.unindexed {
            self.reindex_endpoints(home, old.as_deref(), new.as_deref(), &slices);
        }
        let service = self.next.services.get(home).and_then(|e| e.service.clone());
        self.put_entry(home, Entry { service, slices });
    }

    /// After a slice changed; `slices` are all of its Service's now.
    fn reindex_endpoints(
        &mut self,
        home: &NamespacedName,
        old: Option<&Slice>,
        new: Option<&Slice>,
        slices: &[Arc<Slice>],
    ) {
        let addresses = |slice: Option<&Slice>| -> BTreeSet<IpAddr> {
            slice.into_iter().flat_map(|slice| &slice.endpoints).map(|e| e.address).collect()
        };
        let (mut before, after) = (addresses(old), addresses(new));
        let elsewhere =
            |ip: &IpAddr| slices.iter().flat_map(|slice| &slice.endpoints).any(|e| e.address == *ip);
        before.retain(|ip| after.contains(ip) || !elsewhere(ip));
        reindex(&mut self.next.endpoints, home, &before, &after);
    }

    fn put_entry(&mut self, key: &NamespacedName, entry: Entry) {
        self.dirty.services.insert(key.clone());
        if entry.service.is_none() && entry.slices.is_empty() {
            self.next.services.remove(key);
        } else {
            self.next.services.insert(key.clone(), Arc::new(entry));
        }
    }

    fn put_pod(&mut self, key: &NamespacedName, new: Option<Pod>) {
        let before =
            self.next.pods.get(key).into_iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let after = new.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        reindex(&mut self.next.pod_ips, key, &before, &after);
        put(&mut self.next.pods, &mut self.dirty.pods, key, new);
    }
}

fn compiled(source: Source, object: &Object, texts: &mut Interner) -> Option<Compiled> {
    match source {
        Source::Services => compile::service(object, texts).map(Compiled::Service),
        Source::EndpointSlices => compile::slice(object, texts).map(Compiled::Slice),
        Source::Namespaces => compile::namespace(object, texts).map(Compiled::Namespace),
        Source::Nodes => compile::node(object, texts).map(Compiled::Node),
        Source::Pods => compile::pod(object, texts).map(Compiled::Pod),
        Source::DestinationRules => Rule::read(object).map(Compiled::Rule),
    }
}

/// A new version may have the same meaning (another status, a field that discovery does not read): then the
/// version that is known stays, and nobody has work.
fn same_service(a: &Service, b: &Service) -> bool {
    *a == Service { revision: a.revision, ..b.clone() }
}

fn same_slice(a: &Slice, b: &Slice) -> bool {
    a.key == b.key
        && a.service == b.service
        && a.ipv6 == b.ipv6
        && a.ports == b.ports
        && a.endpoints == b.endpoints
}

fn cluster_scoped(name: &Arc<str>) -> NamespacedName {
    NamespacedName { namespace: "".into(), name: name.clone() }
}

fn entry_slices(snapshot: &Snapshot, key: &NamespacedName) -> Vec<Arc<Slice>> {
    snapshot.services.get(key).map(|e| e.slices.clone()).unwrap_or_default()
}

fn put<K: Clone + Eq + Hash, V: Eq>(
    map: &mut Trie<K, Arc<V>>,
    dirty: &mut HashSet<K>,
    key: &K,
    new: Option<V>,
) {
    let old = map.get(key);
    if old.map(|v| &**v) == new.as_ref() {
        return;
    }
    dirty.insert(key.clone());
    match new {
        Some(new) => map.insert(key.clone(), Arc::new(new)),
        None => {
            map.remove(key);
        }
    }
}

/// Where a key went away and came back the same, the published copy stays: equal means identical to readers.
fn restore<K: Clone + Eq + Hash, V: Eq>(
    dirty: &HashSet<K>,
    old: &Trie<K, Arc<V>>,
    new: &mut Trie<K, Arc<V>>,
) {
    for key in dirty {
        if let (Some(a), Some(b)) = (old.get(key), new.get(key))
            && a == b
        {
            new.insert(key.clone(), a.clone());
        }
    }
}

/// Takes `key` from the addresses `before` that are not in `after`, and adds it to those of `after` that are not in
/// `before`; those in both have it.
fn reindex(
    index: &mut Trie<IpAddr, Keys>,
    key: &NamespacedName,
    before: &BTreeSet<IpAddr>,
    after: &BTreeSet<IpAddr>,
) {
    for ip in before.difference(after) {
        let Some(keys) = index.get(ip) else { continue };
        let kept: Vec<NamespacedName> = keys.iter().filter(|k| *k != key).cloned().collect();
        if kept.is_empty() {
            index.remove(ip);
        } else {
            index.insert(*ip, kept.into());
        }
    }
    // Most addresses are one Service's alone, and all of those share the list of one.
    let alone = |keys: &&Keys| ***keys == *std::slice::from_ref(key);
    let mut own: Option<Keys> =
        before.intersection(after).find_map(|ip| index.get(ip).filter(alone).cloned());
    for ip in after.difference(before) {
        let keys = match index.get(ip) {
            None => own.get_or_insert_with(|| Arc::new([key.clone()])).clone(),
            Some(keys) => {
                let Err(at) = keys.binary_search(key) else { continue };
                let mut keys = keys.to_vec();
                keys.insert(at, key.clone());
                keys.into()
            }
        };
        index.insert(*ip, keys);
    }
}
