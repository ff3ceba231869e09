//! The frontends of all Services, and what a change of some of them changes.

use crate::compile::weighed_table;
use crate::{Backend, Frontend, FrontendKey, NodeContext, Shares, Target};
use sealane_catalog::{Entry, NamespacedName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One change of the frontends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A frontend that was not there.
    AddFrontend(Arc<Frontend>),
    /// A frontend that changed. What the backends are is at the same place in both, where they stayed.
    SetFrontend {
        /// As it was.
        old: Arc<Frontend>,
        /// As it is.
        new: Arc<Frontend>,
    },
    /// A frontend that is gone.
    RemoveFrontend(Arc<Frontend>),
}

impl Change {
    /// What was there before.
    pub fn before(&self) -> Option<&Arc<Frontend>> {
        match self {
            Change::AddFrontend(_) => None,
            Change::SetFrontend { old, .. } | Change::RemoveFrontend(old) => Some(old),
        }
    }

    /// What is there now.
    pub fn after(&self) -> Option<&Arc<Frontend>> {
        match self {
            Change::AddFrontend(new) | Change::SetFrontend { new, .. } => Some(new),
            Change::RemoveFrontend(_) => None,
        }
    }

    /// Which frontend.
    pub fn key(&self) -> FrontendKey {
        match self {
            Change::AddFrontend(f) | Change::SetFrontend { new: f, .. } | Change::RemoveFrontend(f) => f.key,
        }
    }
}

/// A Service's claim to a key; the least wins: the oldest Service, then the first by name.
type Rank = (i64, NamespacedName);

/// The service table of a node.
#[derive(Clone, Debug)]
pub struct Table {
    node: NodeContext,
    /// All claims to each key; the first is what stands in `frontends`.
    claims: BTreeMap<FrontendKey, BTreeMap<Rank, Arc<Frontend>>>,
    frontends: BTreeMap<FrontendKey, Arc<Frontend>>,
    owners: BTreeMap<NamespacedName, (i64, Vec<FrontendKey>)>,
    entries: BTreeMap<NamespacedName, Entry>,
    /// Services that are not spread evenly.
    shares: BTreeMap<NamespacedName, Shares>,
}

impl Table {
    /// An empty table for a node.
    pub fn new(node: NodeContext) -> Self {
        Self {
            node,
            claims: BTreeMap::new(),
            frontends: BTreeMap::new(),
            owners: BTreeMap::new(),
            entries: BTreeMap::new(),
            shares: BTreeMap::new(),
        }
    }

    /// The node that it is for.
    pub fn node(&self) -> &NodeContext {
        &self.node
    }

    /// What packets meet, by key.
    pub fn frontends(&self) -> &BTreeMap<FrontendKey, Arc<Frontend>> {
        &self.frontends
    }

    /// A Service as it was last taken.
    pub fn entry(&self, name: &NamespacedName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Takes the new state of some Services (`None`: gone) and says what that changes, by key. The cost is that of
    /// the Services given, whatever the number of others.
    pub fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = (&'a NamespacedName, Option<&'a Entry>)>,
    ) -> Vec<Change> {
        let mut touched = BTreeSet::new();
        for (name, entry) in changed {
            match entry {
                // Clones shared slices and the shared Service: pointers.
                Some(entry) => self.entries.insert(name.clone(), entry.clone()),
                None => self.entries.remove(name),
            };
            self.claim(name, &mut touched);
        }
        touched.into_iter().filter_map(|key| self.settle(key)).collect()
    }

    /// Gives a Service's backends new shares (`None`: even ones), which come into force with its next
    /// [`update`](Self::update). Whether they are others.
    pub fn set_shares(&mut self, name: &NamespacedName, shares: Option<Shares>) -> bool {
        let before = match shares {
            Some(shares) => self.shares.insert(name.clone(), shares),
            None => self.shares.remove(name),
        };
        before.as_ref() != self.shares.get(name)
    }

    /// Gives some Services' backends new shares (`None`: even ones) and says what that changes, by key.
    pub fn weigh(
        &mut self,
        shares: impl IntoIterator<Item = (NamespacedName, Option<Shares>)>,
    ) -> Vec<Change> {
        let mut touched = BTreeSet::new();
        for (name, shares) in shares {
            if self.set_shares(&name, shares) {
                self.claim(&name, &mut touched);
            }
        }
        touched.into_iter().filter_map(|key| self.settle(key)).collect()
    }

    /// Takes new facts of the node; everything is compiled anew, and what comes out different is said.
    pub fn set_node(&mut self, node: NodeContext) -> Vec<Change> {
        if node == self.node {
            return Vec::new();
        }
        self.node = node;
        let mut touched = BTreeSet::new();
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.claim(&name, &mut touched);
        }
        touched.into_iter().filter_map(|key| self.settle(key)).collect()
    }

    /// Replaces the claims of one Service.
    fn claim(&mut self, name: &NamespacedName, touched: &mut BTreeSet<FrontendKey>) {
        if let Some((created, keys)) = self.owners.remove(name) {
            let rank = (created, name.clone());
            for key in keys {
                touched.insert(key);
                if let Some(claims) = self.claims.get_mut(&key) {
                    claims.remove(&rank);
                    if claims.is_empty() {
                        self.claims.remove(&key);
                    }
                }
            }
        }
        let Some(entry) = self.entries.get(name) else { return };
        let created = entry.service.as_ref().map_or(0, |s| s.created);
        let mut keys = Vec::new();
        for frontend in weighed_table(entry, &self.node, self.shares.get(name)) {
            let key = frontend.key;
            keys.push(key);
            touched.insert(key);
            self.claims.entry(key).or_default().insert((created, name.clone()), Arc::new(frontend));
        }
        if !keys.is_empty() {
            self.owners.insert(name.clone(), (created, keys));
        }
    }

    /// Puts a key's winner in place.
    fn settle(&mut self, key: FrontendKey) -> Option<Change> {
        let winner = self.claims.get(&key).and_then(|claims| claims.values().next());
        let old = self.frontends.get(&key);
        match (old.cloned(), winner) {
            (None, None) => None,
            (Some(old), None) => {
                self.frontends.remove(&key);
                Some(Change::RemoveFrontend(old))
            }
            (None, Some(new)) => {
                self.frontends.insert(key, new.clone());
                Some(Change::AddFrontend(new.clone()))
            }
            (Some(old), Some(new)) => {
                let mut arranged = Frontend::clone(new);
                arranged.target = arrange(&old.target, &new.target);
                arranged.outside = match (&old.outside, &new.outside) {
                    (Some(old), Some(new)) => Some(arrange(old, new)),
                    (_, new) => new.clone(),
                };
                if *old == arranged {
                    return None;
                }
                let new = Arc::new(arranged);
                self.frontends.insert(key, new.clone());
                Some(Change::SetFrontend { old, new })
            }
        }
    }
}

/// Keeps backends at their places: who stays moves only when its place is beyond the new end, and newcomers fill the
/// holes first. So a change of k backends, or slots, rewrites at most 2k places.
fn arrange(old: &Target, new: &Target) -> Target {
    let (Target::Balance(old), Target::Balance(new)) = (old, new) else { return new.clone() };
    let mut wanted: BTreeMap<Backend, usize> = BTreeMap::new();
    new.iter().for_each(|b| *wanted.entry(*b).or_default() += 1);
    let mut take = |backend: &Backend| {
        let left = wanted.get_mut(backend).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    };
    let mut places: Vec<Option<Backend>> =
        (0..new.len()).map(|i| old.get(i).copied().filter(&mut take)).collect();
    let mut rest = new.iter().copied().filter(take);
    for place in places.iter_mut().filter(|p| p.is_none()) {
        *place = rest.next();
    }
    Target::Balance(places.into_iter().flatten().collect())
}
