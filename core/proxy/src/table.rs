//! The frontends of all Services, and what a change of some of them changes.

use crate::compile::weighed_table;
use crate::{Backend, Frontend, FrontendKey, NodeContext, Shares, Target};
use sealane_catalog::{Entry, NamespacedName};
use std::collections::BTreeMap;
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

/// A Service's claim to a key; the least wins: the oldest Service, then the first by name. None stands before all.
type Rank = Option<(i64, NamespacedName)>;

/// Keys whose claims changed, and whether the claim of who holds one is gone.
type Touched = BTreeMap<FrontendKey, bool>;

/// A Service as it was last taken, and the keys that it claims.
#[derive(Clone, Debug)]
struct Owner {
    entry: Entry,
    keys: Box<[FrontendKey]>,
}

impl Owner {
    fn rank(&self, name: &NamespacedName) -> Rank {
        Some((self.entry.service.as_ref().map_or(0, |s| s.created), name.clone()))
    }
}

/// The service table of a node.
#[derive(Clone, Debug)]
pub struct Table {
    node: NodeContext,
    /// What won each key, …
    frontends: BTreeMap<FrontendKey, Arc<Frontend>>,
    /// … and the claims that lost: few, or none.
    waiting: BTreeMap<(FrontendKey, Rank), Arc<Frontend>>,
    owners: BTreeMap<NamespacedName, Owner>,
    /// Services that are not spread evenly.
    shares: BTreeMap<NamespacedName, Shares>,
}

impl Table {
    /// An empty table for a node.
    pub fn new(node: NodeContext) -> Self {
        Self {
            node,
            frontends: BTreeMap::new(),
            waiting: BTreeMap::new(),
            owners: BTreeMap::new(),
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
        self.owners.get(name).map(|owner| &owner.entry)
    }

    /// All Services as they were last taken.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.owners.values().map(|owner| &owner.entry)
    }

    /// Takes the new state of some Services (`None`: gone) and says what that changes, by key. The cost is that of
    /// the Services given, whatever the number of others.
    pub fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = (&'a NamespacedName, Option<&'a Entry>)>,
    ) -> Vec<Change> {
        let mut touched = Touched::new();
        for (name, entry) in changed {
            // Clones shared slices and the shared Service: pointers.
            self.claim(name, entry.cloned(), &mut touched);
        }
        self.settle_all(touched)
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
        let mut touched = Touched::new();
        for (name, shares) in shares {
            if self.set_shares(&name, shares) {
                let entry = self.entry(&name).cloned();
                self.claim(&name, entry, &mut touched);
            }
        }
        self.settle_all(touched)
    }

    /// Takes new facts of the node; everything is compiled anew, and what comes out different is said.
    pub fn set_node(&mut self, node: NodeContext) -> Vec<Change> {
        if node == self.node {
            return Vec::new();
        }
        self.node = node;
        let mut touched = Touched::new();
        for name in self.owners.keys().cloned().collect::<Vec<_>>() {
            let entry = self.entry(&name).cloned();
            self.claim(&name, entry, &mut touched);
        }
        self.settle_all(touched)
    }

    /// Replaces the claims of one Service.
    fn claim(&mut self, name: &NamespacedName, entry: Option<Entry>, touched: &mut Touched) {
        if let Some(owner) = self.owners.remove(name) {
            let rank = owner.rank(name);
            for key in owner.keys {
                let held = self.frontends.get(&key).is_some_and(|f| f.service == *name);
                *touched.entry(key).or_default() |= held;
                self.waiting.remove(&(key, rank.clone()));
            }
        }
        let Some(entry) = entry else { return };
        let frontends = weighed_table(&entry, &self.node, self.shares.get(name));
        let owner = Owner { entry, keys: frontends.iter().map(|f| f.key).collect() };
        let rank = owner.rank(name);
        for frontend in frontends {
            touched.entry(frontend.key).or_default();
            self.waiting.insert((frontend.key, rank.clone()), Arc::new(frontend));
        }
        self.owners.insert(name.clone(), owner);
    }

    fn settle_all(&mut self, touched: Touched) -> Vec<Change> {
        touched.into_iter().filter_map(|(key, vacant)| self.settle(key, vacant)).collect()
    }

    /// Puts a key's winner in place; `vacant`: who holds it claims it no more.
    fn settle(&mut self, key: FrontendKey, vacant: bool) -> Option<Change> {
        let mut claims = self.waiting.range((key, None)..);
        let best = claims.next().map(|(claim, _)| claim).filter(|(claimed, _)| *claimed == key).cloned();
        let holder = self.frontends.get(&key);
        let rank = holder.filter(|_| !vacant).and_then(|f| self.owners.get(&f.service)?.rank(&f.service));
        let Some(best) = best.filter(|(_, best)| rank.is_none() || *best < rank) else {
            return if vacant { self.frontends.remove(&key).map(Change::RemoveFrontend) } else { None };
        };
        let new = self.waiting.remove(&best)?;
        let Some(old) = self.frontends.get(&key).cloned() else {
            self.frontends.insert(key, new.clone());
            return Some(Change::AddFrontend(new));
        };
        if rank.is_some() {
            self.waiting.insert((key, rank), old.clone());
        }
        let mut arranged = Frontend::clone(&new);
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
