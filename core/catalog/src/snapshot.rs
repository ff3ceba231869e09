//! [`Snapshot`]: one published state.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use crate::delta::{Change, Delta, changes};
use crate::history::{History, Touched};
use crate::model::{Entry, Namespace, NamespacedName, Node, Pod};
use crate::trie::Trie;

/// Where events come from: one watch each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Namespaces.
    Namespaces,
    /// Nodes.
    Nodes,
    /// Pods; fed only where somebody asks (`pods verified`).
    Pods,
    /// Istio's DestinationRules; fed only where somebody asks (`grpc_config`).
    DestinationRules,
}

impl Source {
    /// All of them.
    pub const ALL: [Source; 6] = [
        Source::Services,
        Source::EndpointSlices,
        Source::Namespaces,
        Source::Nodes,
        Source::Pods,
        Source::DestinationRules,
    ];

    /// By an object's `kind`.
    pub fn of_kind(kind: &str) -> Option<Source> {
        Some(match kind {
            "Service" => Source::Services,
            "EndpointSlice" => Source::EndpointSlices,
            "Namespace" => Source::Namespaces,
            "Node" => Source::Nodes,
            "Pod" => Source::Pods,
            "DestinationRule" => Source::DestinationRules,
            _ => return None,
        })
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

pub(crate) type Keys = Arc<[NamespacedName]>;

/// One published state. Cloning is cheap, snapshots share structure, and nothing in one ever changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(crate) services: Trie<NamespacedName, Arc<Entry>>,
    pub(crate) cluster_ips: Trie<IpAddr, Keys>,
    pub(crate) endpoints: Trie<IpAddr, Keys>,
    pub(crate) namespaces: Trie<Arc<str>, Arc<Namespace>>,
    pub(crate) nodes: Trie<Arc<str>, Arc<Node>>,
    pub(crate) pods: Trie<NamespacedName, Arc<Pod>>,
    pub(crate) pod_ips: Trie<IpAddr, Keys>,
    pub(crate) revisions: [u64; Source::ALL.len()],
    pub(crate) synced: bool,
    pub(crate) restored: bool,
    pub(crate) as_of: Option<u64>,
    pub(crate) sequence: u64,
    /// What the deltas that led here touched, oldest first.
    pub(crate) history: History,
}

impl Snapshot {
    /// A Service with its slices. The entry's `service` is `None` where slices stand without a Service.
    pub fn service(&self, key: &NamespacedName) -> Option<&Arc<Entry>> {
        self.services.get(key)
    }

    /// All entries, in no order.
    pub fn services(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<Entry>)> {
        self.services.iter()
    }

    /// The Services with this cluster IP, by name. (More than one only while one is replaced by the next.)
    pub fn by_cluster_ip(&self, ip: IpAddr) -> &[NamespacedName] {
        self.cluster_ips.get(&ip).map_or(&[], |keys| keys)
    }

    /// The entries with an endpoint of this address in any state, by name.
    pub fn by_endpoint(&self, ip: IpAddr) -> &[NamespacedName] {
        self.endpoints.get(&ip).map_or(&[], |keys| keys)
    }

    /// A Namespace.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// All Namespaces, in no order.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All Nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// A Pod, where Pods are fed.
    pub fn pod(&self, key: &NamespacedName) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// The Pods with this address, by name (host-network Pods share their node's).
    pub fn by_pod_ip(&self, ip: IpAddr) -> &[NamespacedName] {
        self.pod_ips.get(&ip).map_or(&[], |keys| keys)
    }

    /// The newest resourceVersion that is in here.
    pub fn revision(&self) -> u64 {
        self.revisions.into_iter().max().unwrap_or(0)
    }

    /// The newest resourceVersion of one source.
    pub fn source_revision(&self, source: Source) -> u64 {
        self.revisions[source.index()]
    }

    /// Every source that the builder requires has been listed once, or is restored: absence means something.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// It is (partly) what [`crate::Builder::restore`] took: the API has not answered yet.
    pub fn restored(&self) -> bool {
        self.restored
    }

    /// The time (seconds since 1970) of which nothing newer is known, where a watch is broken or the snapshot is
    /// restored; `None`: it is as new as can be.
    pub fn as_of(&self) -> Option<u64> {
        self.as_of
    }

    /// Counts publications of one builder, from 1; 0 is the empty snapshot that all builders start from.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What changed from `old`, an earlier snapshot of the same builder (or the empty one), to this one. A reader
    /// that takes whole snapshots from a watch channel and keeps the last one it applied misses nothing,
    /// however many it skipped. Costs what changed for a reader that keeps up, and a comparison of both
    /// snapshots otherwise.
    pub fn since(&self, old: &Snapshot) -> Delta {
        if old.sequence == self.sequence {
            return Delta { from: old.sequence, to: self.sequence, ..Delta::default() };
        }
        match self.history.since(old.sequence) {
            Some(touched) => self.fold(old, touched),
            None => self.compare(old),
        }
    }

    fn fold<'a>(&'a self, old: &Snapshot, touched: impl Iterator<Item = &'a Touched> + Clone) -> Delta {
        let all = || touched.clone();
        Delta {
            from: old.sequence,
            to: self.sequence,
            services: changes(all().flat_map(|t| &t.services), &old.services, &self.services),
            namespaces: changes(all().flat_map(|t| &t.namespaces), &old.namespaces, &self.namespaces),
            nodes: changes(all().flat_map(|t| &t.nodes), &old.nodes, &self.nodes),
            pods: changes(all().flat_map(|t| &t.pods), &old.pods, &self.pods),
        }
    }

    fn compare(&self, old: &Snapshot) -> Delta {
        fn both<'a, K: Clone + Eq + Hash + Ord, V: Eq>(
            old: &'a Trie<K, Arc<V>>,
            new: &'a Trie<K, Arc<V>>,
        ) -> Vec<Change<K, V>> {
            changes(old.keys().chain(new.keys()), old, new)
        }
        Delta {
            from: old.sequence,
            to: self.sequence,
            services: both(&old.services, &self.services),
            namespaces: both(&old.namespaces, &self.namespaces),
            nodes: both(&old.nodes, &self.nodes),
            pods: both(&old.pods, &self.pods),
        }
    }
}

/// Equal content; `synced`, revisions, age and the way here do not count.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.services == other.services
            && self.cluster_ips == other.cluster_ips
            && self.endpoints == other.endpoints
            && self.namespaces == other.namespaces
            && self.nodes == other.nodes
            && self.pods == other.pods
            && self.pod_ips == other.pod_ips
    }
}
