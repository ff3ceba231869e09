//! [`Index`]: the objects that controllers read, by what they look for.

mod apply;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, discovery::v1 as discovery};

use crate::doc::{Doc, Id, Key, Row};
use crate::labels::{self, Labels};
use crate::plan::Write;
use crate::pool::Pools;
use crate::{balancer, meta, pods};

/// So many uids of deleted objects are remembered; an older one costs a look-up at the API, nothing else.
const REMEMBERED_UIDS: usize = 65_536;

/// What controllers are told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CA that ConfigMap `kube-root-ca.crt` carries (PEM); empty: no such ConfigMaps.
    pub root_ca: String,
    /// When the controllers began: silence of Nodes counts from then at the earliest.
    pub started: Timestamp,
    /// So long after its last sign of life a Node counts as unreachable (seconds; upstream's
    /// `--node-monitor-grace-period`).
    pub node_grace_seconds: u32,
    /// What Services of type LoadBalancer get their addresses from.
    pub load_balancers: Pools,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root_ca: String::new(),
            started: Timestamp::UNIX_EPOCH,
            node_grace_seconds: 50,
            load_balancers: Pools::default(),
        }
    }
}

/// Something that the index learns.
#[derive(Clone, Debug)]
pub enum Event {
    /// A watch saw this version.
    Applied(Doc),
    /// A watch saw it go; the last version.
    Deleted(Doc),
    /// A list of all objects of a kind begins (again).
    ListBegins(Row),
    /// An object of the list.
    Listed(Doc),
    /// The list is complete: what was not in it is gone. Only where nothing is written beside it: what was written
    /// after the list was drawn up and before this index heard that it begins would go too.
    ListEnds(Row),
    /// The list, drawn up at this revision (its `metadata.resourceVersion`), is complete: what was not in it and is
    /// no newer is gone. Right whatever is written meanwhile.
    ListEndsAt(Row, u64),
    /// The API answered a write (or a [`Write::Confirm`]) with this version.
    Written(Doc),
    /// The API answered that the object is gone for good.
    Removed {
        /// Its kind.
        kind: Row,
        /// Its key.
        key: Key,
        /// Its uid.
        uid: String,
    },
    /// The API answered that there is no such object with this uid ("": of this name).
    Absent {
        /// Its kind.
        kind: Row,
        /// Its key.
        key: Key,
        /// Its uid.
        uid: String,
    },
}

#[derive(Default)]
struct Relist {
    seen: HashSet<Key>,
    /// Written since the list was asked for: the list may be older.
    written: HashSet<Key>,
}

#[derive(Default)]
struct Gone {
    uids: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Gone {
    fn insert(&mut self, uid: &str) {
        if uid.is_empty() || self.uids.contains(uid) {
            return;
        }
        let uid: Arc<str> = uid.into();
        self.order.push_back(uid.clone());
        self.uids.insert(uid);
        if self.order.len() > REMEMBERED_UIDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

/// A label as a place to look for objects: namespace, key, value.
type Term = (Arc<str>, String, String);

/// The objects, and the ways to find them. One writer; no locks.
pub struct Index {
    pub(crate) config: Config,
    objects: BTreeMap<Id, Doc>,
    by_uid: HashMap<Arc<str>, Id>,
    owned: HashMap<Arc<str>, BTreeSet<Id>>,
    pods_by_label: HashMap<Term, BTreeSet<Key>>,
    services_by_term: HashMap<Term, BTreeSet<Key>>,
    pods_on: HashMap<Arc<str>, BTreeSet<Key>>,
    unscheduled: BTreeSet<Key>,
    slices_of: HashMap<Key, BTreeSet<Key>>,
    gone: Gone,
    absent_nodes: HashSet<Arc<str>>,
    relists: HashMap<&'static str, Relist>,
    listed: HashSet<&'static str>,
    assumed: HashMap<Key, Arc<str>>,
    /// Services by the addresses of their load balancers, those that are being written among them.
    balanced: BTreeMap<IpAddr, BTreeSet<Key>>,
    /// Services for which an address that comes free may be.
    waiting: BTreeSet<Key>,
    /// Addresses that are being written.
    promised: HashMap<Key, Vec<IpAddr>>,
}

impl Index {
    /// An empty index.
    pub fn new(config: Config) -> Self {
        Index {
            config,
            objects: BTreeMap::new(),
            by_uid: HashMap::new(),
            owned: HashMap::new(),
            pods_by_label: HashMap::new(),
            services_by_term: HashMap::new(),
            pods_on: HashMap::new(),
            unscheduled: BTreeSet::new(),
            slices_of: HashMap::new(),
            gone: Gone::default(),
            absent_nodes: HashSet::new(),
            relists: HashMap::new(),
            listed: HashSet::new(),
            assumed: HashMap::new(),
            balanced: BTreeMap::new(),
            waiting: BTreeSet::new(),
            promised: HashMap::new(),
        }
    }

    /// Whether a kind's first list is complete. Nothing may be planned before all kinds' are.
    pub fn is_listed(&self, kind: Row) -> bool {
        self.listed.contains(kind.plural)
    }

    /// Notes what a write will do before it is sent: a Pod that is being bound takes up its Node at once, and a load
    /// balancer's address is taken.
    pub fn dispatched(&mut self, write: &Write) {
        match write {
            Write::Bind { key, node, .. } => {
                self.assumed.insert(key.clone(), node.as_str().into());
            }
            Write::Patch { kind, key, body, .. } if kind.kind == "Service" => {
                let ingress = body.pointer("/status/loadBalancer/ingress").and_then(|i| i.as_array());
                let addresses = ingress.into_iter().flatten().filter_map(|i| i["ip"].as_str()?.parse().ok());
                self.promised.insert(key.clone(), addresses.collect());
                self.balance(key);
            }
            _ => {}
        }
    }

    /// Takes that back where the write failed.
    pub fn failed(&mut self, write: &Write) {
        match write {
            Write::Bind { key, .. } => {
                self.assumed.remove(key);
            }
            Write::Patch { kind, key, .. } if kind.kind == "Service" => self.settled(key),
            _ => {}
        }
    }

    /// What was promised to a Service has been written, or has not.
    fn settled(&mut self, key: &Key) {
        for address in self.promised.remove(key).unwrap_or_default() {
            take(&mut self.balanced, &address, key);
        }
        self.balance(key);
    }

    /// Enters the addresses that a Service has and is getting.
    fn balance(&mut self, key: &Key) {
        let held: Vec<IpAddr> =
            self.service(key).map(|s| balancer::addresses(s).collect()).unwrap_or_default();
        for address in held.iter().chain(self.promised.get(key).into_iter().flatten()) {
            self.balanced.entry(*address).or_default().insert(key.clone());
        }
    }

    fn link(&mut self, id: &Id, doc: &Doc) {
        self.by_uid.insert(doc.uid().into(), id.clone());
        for owner in doc.meta().owner_references.iter().flatten() {
            self.owned.entry(owner.uid.as_str().into()).or_default().insert(id.clone());
        }
        match doc {
            Doc::Pod(pod) => {
                for term in terms(&id.key, pod.metadata.labels.as_ref()) {
                    self.pods_by_label.entry(term).or_default().insert(id.key.clone());
                }
                let node = pods::node(pod);
                if node.is_empty() {
                    self.unscheduled.insert(id.key.clone());
                } else {
                    self.pods_on.entry(node.into()).or_default().insert(id.key.clone());
                    self.assumed.remove(&id.key);
                }
            }
            Doc::Service(service) => {
                if let Some(term) = service_term(&id.key, service) {
                    self.services_by_term.entry(term).or_default().insert(id.key.clone());
                }
                for address in balancer::addresses(service) {
                    self.balanced.entry(address).or_default().insert(id.key.clone());
                }
                if balancer::is_waiting(service) {
                    self.waiting.insert(id.key.clone());
                }
            }
            Doc::EndpointSlice(slice) => {
                if let Some(service) = slice_service(slice) {
                    self.slices_of.entry(service).or_default().insert(id.key.clone());
                }
            }
            Doc::Node(_) => {
                self.absent_nodes.remove(&id.key.name);
            }
            _ => {}
        }
    }

    fn unlink(&mut self, id: &Id, doc: &Doc) {
        self.by_uid.remove(doc.uid());
        for owner in doc.meta().owner_references.iter().flatten() {
            take(&mut self.owned, &Arc::from(owner.uid.as_str()), id);
        }
        match doc {
            Doc::Pod(pod) => {
                for term in terms(&id.key, pod.metadata.labels.as_ref()) {
                    take(&mut self.pods_by_label, &term, &id.key);
                }
                self.unscheduled.remove(&id.key);
                take(&mut self.pods_on, &Arc::from(pods::node(pod)), &id.key);
            }
            Doc::Service(service) => {
                if let Some(term) = service_term(&id.key, service) {
                    take(&mut self.services_by_term, &term, &id.key);
                }
                let promised = self.promised.get(&id.key);
                for address in balancer::addresses(service) {
                    if !promised.is_some_and(|p| p.contains(&address)) {
                        take(&mut self.balanced, &address, &id.key);
                    }
                }
                self.waiting.remove(&id.key);
            }
            Doc::EndpointSlice(slice) => {
                if let Some(service) = slice_service(slice) {
                    take(&mut self.slices_of, &service, &id.key);
                }
            }
            _ => {}
        }
    }

    /// All objects of a kind, or those in one namespace.
    pub(crate) fn range<'a>(
        &'a self,
        plural: &'static str,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = (&'a Id, &'a Doc)> + use<'a> {
        let namespace: Option<Arc<str>> = namespace.map(Into::into);
        let from = Id { plural, key: Key::new(namespace.as_deref().unwrap_or(""), "") };
        self.objects.range(from..).take_while(move |(id, _)| {
            id.plural == plural && namespace.as_ref().is_none_or(|ns| id.key.namespace == *ns)
        })
    }

    pub(crate) fn get(&self, plural: &'static str, key: &Key) -> Option<&Doc> {
        self.objects.get(&Id { plural, key: key.clone() })
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<&Doc> {
        self.objects.get(self.by_uid.get(uid)?)
    }

    /// Whether an object of this uid was there and is gone.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.gone.uids.contains(uid)
    }

    pub(crate) fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Doc> {
        self.owned.get(uid).into_iter().flatten().filter_map(|id| self.objects.get(id))
    }

    /// Whether the API said that there is no such Node.
    pub(crate) fn is_absent_node(&self, name: &str) -> bool {
        self.absent_nodes.contains(name)
    }

    pub(crate) fn unscheduled(&self) -> impl Iterator<Item = &Key> {
        self.unscheduled.iter().filter(|key| !self.assumed.contains_key(*key))
    }

    pub(crate) fn is_assumed(&self, pod: &Key) -> bool {
        self.assumed.contains_key(pod)
    }

    /// Pods on a Node, those that are being bound to it among them.
    pub(crate) fn pods_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<core::Pod>> {
        let assumed = self.assumed.iter().filter(move |(_, on)| &***on == node).map(|(key, _)| key);
        self.pods_on.get(node).into_iter().flatten().chain(assumed).filter_map(|key| self.pod(key))
    }

    /// Pods of a namespace that have all of these labels.
    pub(crate) fn pods_with<'a>(&'a self, namespace: &str, terms: &Labels) -> Vec<&'a Arc<core::Pod>> {
        let rarest = terms
            .iter()
            .map(|(k, v)| self.pods_by_label.get(&(Arc::from(namespace), k.clone(), v.clone())))
            .min_by_key(|set| set.map_or(0, BTreeSet::len));
        match rarest {
            None => self.pods_in(namespace).collect(),
            Some(set) => set
                .into_iter()
                .flatten()
                .filter_map(|key| self.pod(key))
                .filter(|pod| labels::has_all(terms, pod.metadata.labels.as_ref()))
                .collect(),
        }
    }

    pub(crate) fn pods_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<core::Pod>> + use<'a> {
        self.range("pods", Some(namespace)).filter_map(|(_, doc)| match doc {
            Doc::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    /// Services whose selector takes a Pod with these labels.
    pub(crate) fn services_selecting<'a>(
        &'a self,
        pod: &'a Key,
        labels: Option<&'a Labels>,
    ) -> impl Iterator<Item = &'a Key> {
        terms(pod, labels).into_iter().filter_map(|term| self.services_by_term.get(&term)).flatten().filter(
            move |key| {
                self.service(key).is_some_and(|s| {
                    let selector = s.spec.as_ref().and_then(|s| s.selector.as_ref());
                    selector.is_some_and(|terms| labels::has_all(terms, labels))
                })
            },
        )
    }

    /// Services that have, or are getting, this address of a load balancer.
    pub(crate) fn balanced_by(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.balanced.get(&address).into_iter().flatten()
    }

    /// Load balancers' addresses between two, in order.
    pub(crate) fn balanced(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.balanced.range(first..=last).map(|(address, _)| *address)
    }

    /// Services for which an address that comes free may be.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Key> {
        self.waiting.iter()
    }

    pub(crate) fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Arc<discovery::EndpointSlice>> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|key| {
            match self.get("endpointslices", key) {
                Some(Doc::EndpointSlice(slice)) => Some(slice),
                _ => None,
            }
        })
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Arc<core::Node>> {
        match self.get("nodes", &Key::new("", name))? {
            Doc::Node(node) => Some(node),
            _ => None,
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<core::Node>> {
        self.range("nodes", None).filter_map(|(_, doc)| match doc {
            Doc::Node(node) => Some(node),
            _ => None,
        })
    }
}

macro_rules! getters {
    ($($name:ident $plural:literal $variant:ident $type:ty;)*) => {
        impl Index {
            $(pub(crate) fn $name(&self, key: &Key) -> Option<&Arc<$type>> {
                match self.get($plural, key)? {
                    Doc::$variant(object) => Some(object),
                    _ => None,
                }
            })*
        }
    };
}

getters! {
    pod "pods" Pod core::Pod;
    service "services" Service core::Service;
    endpoints "endpoints" Endpoints core::Endpoints;
    namespace "namespaces" Namespace core::Namespace;
    deployment "deployments" Deployment apps::Deployment;
    replica_set "replicasets" ReplicaSet apps::ReplicaSet;
    stateful_set "statefulsets" StatefulSet apps::StatefulSet;
}

/// The Service that a slice says it belongs to.
pub(crate) fn slice_service(slice: &discovery::EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or(""), name))
}

fn terms(key: &Key, labels: Option<&Labels>) -> Vec<Term> {
    labels.into_iter().flatten().map(|(k, v)| (key.namespace.clone(), k.clone(), v.clone())).collect()
}

/// Where a Service is found by its Pods: the first term of its selector, which every Pod of it has.
fn service_term(key: &Key, service: &core::Service) -> Option<Term> {
    let (k, v) = service.spec.as_ref()?.selector.as_ref()?.first_key_value()?;
    Some((key.namespace.clone(), k.clone(), v.clone()))
}

/// A map of sets, ordered or not.
trait Sets<K, V> {
    fn set(&mut self, key: &K) -> Option<&mut BTreeSet<V>>;
    fn drop_set(&mut self, key: &K);
}

impl<K: std::hash::Hash + Eq, V> Sets<K, V> for HashMap<K, BTreeSet<V>> {
    fn set(&mut self, key: &K) -> Option<&mut BTreeSet<V>> {
        self.get_mut(key)
    }
    fn drop_set(&mut self, key: &K) {
        self.remove(key);
    }
}

impl<K: Ord, V> Sets<K, V> for BTreeMap<K, BTreeSet<V>> {
    fn set(&mut self, key: &K) -> Option<&mut BTreeSet<V>> {
        self.get_mut(key)
    }
    fn drop_set(&mut self, key: &K) {
        self.remove(key);
    }
}

fn take<K, V: Ord>(map: &mut impl Sets<K, V>, key: &K, value: &V) {
    if let Some(set) = map.set(key) {
        set.remove(value);
        if set.is_empty() {
            map.drop_set(key);
        }
    }
}

/// Whether a Namespace takes new objects.
pub(crate) fn is_active_namespace(index: &Index, name: &str) -> bool {
    index.namespace(&Key::new("", name)).is_some_and(|n| n.metadata.deletion_timestamp.is_none())
}

/// What `meta` is called in messages.
pub(crate) fn full_name(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    format!("{}/{}", meta.namespace.as_deref().unwrap_or(""), meta::name(meta))
}
