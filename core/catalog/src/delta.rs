//! [`Delta`]: what changed between two snapshots.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::model::{Entry, Namespace, NamespacedName, Node, Pod};
use crate::trie::Trie;

/// The changes of `keys` between two maps, by key, each key once, what is equal left out.
pub(crate) fn changes<'a, K, V>(
    keys: impl Iterator<Item = &'a K>,
    old: &Trie<K, Arc<V>>,
    new: &Trie<K, Arc<V>>,
) -> Vec<Change<K, V>>
where
    K: Clone + Eq + Hash + Ord + 'a,
    V: Eq,
{
    let mut seen = HashSet::new();
    let mut out: Vec<_> = keys
        .filter(|key| seen.insert(*key))
        .filter_map(|key| {
            let (before, after) = (old.get(key), new.get(key));
            let same = match (before, after) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
                (None, None) => true,
                _ => false,
            };
            (!same).then(|| Change { key: key.clone(), before: before.cloned(), after: after.cloned() })
        })
        .collect();
    out.sort_by(|a, b| a.key.cmp(&b.key));
    out
}

/// One key's state before and after; never equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<K, V> {
    /// Which.
    pub key: K,
    /// The state that was published first; `None`: it was not there.
    pub before: Option<Arc<V>>,
    /// The state that is published now; `None`: it is gone.
    pub after: Option<Arc<V>>,
}

/// What changed between two snapshots: first-before and last-after of each key, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Sequence of the snapshot before.
    pub from: u64,
    /// Sequence of the snapshot after.
    pub to: u64,
    /// Services with their slices.
    pub services: Vec<Change<NamespacedName, Entry>>,
    /// Namespaces.
    pub namespaces: Vec<Change<Arc<str>, Namespace>>,
    /// Nodes.
    pub nodes: Vec<Change<Arc<str>, Node>>,
    /// Pods.
    pub pods: Vec<Change<NamespacedName, Pod>>,
}

impl Delta {
    /// How many keys changed.
    pub fn len(&self) -> usize {
        self.services.len() + self.namespaces.len() + self.nodes.len() + self.pods.len()
    }

    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
