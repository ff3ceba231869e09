//! What a batch does to one family: element by element from each frontend's state to its next.

use super::action::OUTSIDE_OFFSET;
use super::elements::{ElementList, backend_octets, frontend_octets, put_address};
use super::layout::Set;
use crate::message::Messages;
use sealane_proxy::{Backend, Cidr, Class, Frontend};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Elements on their way, by set.
pub(super) type Lists = BTreeMap<Set, ElementList>;

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan {
    /// New chains, and what leads to them.
    pub(super) chains: Messages,
    /// Goes before anything comes.
    pub(super) delete: Lists,
    pub(super) add: Lists,
    /// Goes when no packet is between its look-ups any more.
    pub(super) later: Lists,
    /// By how much the use of a cluster address changes, in frontends.
    pub(super) cluster: HashMap<IpAddr, i64>,
    /// By how much the use of an endpoint's address changes, in slots.
    pub(super) hairpin: HashMap<IpAddr, i64>,
}

/// A frontend, the number of what serves it, and of what serves those outside.
#[derive(Clone, Copy)]
pub(super) struct Laid<'a> {
    pub(super) frontend: &'a Frontend,
    pub(super) inside: u32,
    pub(super) outside: Option<u32>,
}

impl<'a> Laid<'a> {
    /// What stands from index 0 on, and what stands from [`OUTSIDE_OFFSET`] on.
    fn slots(self) -> [&'a [Backend]; 2] {
        let outside = self.frontend.outside.as_ref();
        [self.frontend.target.backends(), outside.map_or(&[], |t| t.backends())]
    }

    /// Backends that affinity may lead to.
    fn members(self) -> BTreeSet<Backend> {
        let sticky = self.frontend.affinity.is_some();
        self.slots().into_iter().flatten().filter(|_| sticky).copied().collect()
    }

    fn sources(self) -> BTreeSet<Cidr> {
        self.frontend.sources.iter().flat_map(|r| r.iter()).copied().collect()
    }
}

impl Plan {
    /// Adds what leads from one state of a frontend to another, but for what frontends share, which is counted.
    pub(super) fn change(&mut self, old: Option<Laid<'_>>, new: Option<Laid<'_>>) {
        let Some(key) = new.or(old).map(|l| frontend_octets(&l.frontend.key)) else { return };
        self.number(Set::Services, &key, old.map(|l| l.inside), new.map(|l| l.inside));
        self.number(Set::Outside, &key, old.and_then(|l| l.outside), new.and_then(|l| l.outside));
        let slots = |laid: Option<Laid<'_>>| laid.map_or([0, 0], |l| l.slots().map(<[_]>::len));
        let counts = (slots(old), slots(new));
        for (which, offset) in [(0, 0), (1, OUTSIDE_OFFSET)] {
            let at = |laid: Option<Laid<'_>>, i: usize| laid.and_then(|l| l.slots()[which].get(i).copied());
            for (i, index) in (0..counts.0[which].max(counts.1[which])).zip(offset..) {
                self.slot(&key, index, at(old, i), at(new, i));
            }
        }
        let members = [old, new].map(|l| l.map(Laid::members).unwrap_or_default());
        self.several(Set::Members, &members, |member| [&key[..], &backend_octets(member)].concat());
        let sources = [old, new].map(|l| l.map(Laid::sources).unwrap_or_default());
        self.several(Set::Sources, &sources, |range| {
            // Where a range begins and where it ends, in one.
            let mut both = key.clone();
            put_address(&mut both, range.network());
            both.extend_from_slice(&key);
            put_address(&mut both, range.last());
            both
        });
        for (laid, by) in [(old, -1), (new, 1)] {
            if let Some(laid) = laid.filter(|l| l.frontend.class == Class::ClusterIp) {
                *self.cluster.entry(laid.frontend.key.address).or_default() += by;
            }
        }
    }

    /// What a map of actions says of a frontend.
    fn number(&mut self, set: Set, key: &[u8], before: Option<u32>, after: Option<u32>) {
        if before == after {
            return;
        }
        if before.is_some() {
            self.delete.entry(set).or_default().push(set, key, &[]);
        }
        if let Some(after) = after {
            self.add.entry(set).or_default().push(set, key, &after.to_ne_bytes());
        }
    }

    /// What stands at an index.
    fn slot(&mut self, key: &[u8], index: u32, before: Option<Backend>, after: Option<Backend>) {
        if before == after {
            return;
        }
        let set = Set::Endpoints;
        let element = [key, &index.to_ne_bytes()].concat();
        if let Some(before) = before {
            // A packet that met the old number may be about to look its endpoint up.
            let list = if after.is_some() { &mut self.delete } else { &mut self.later };
            list.entry(set).or_default().push(set, &element, &[]);
            *self.hairpin.entry(before.address).or_default() -= 1;
        }
        if let Some(after) = after {
            self.add.entry(set).or_default().push(set, &element, &backend_octets(&after));
            *self.hairpin.entry(after.address).or_default() += 1;
        }
    }

    /// What a set has of a frontend, before and after.
    fn several<T: Ord>(&mut self, set: Set, [before, after]: &[BTreeSet<T>; 2], key: impl Fn(&T) -> Vec<u8>) {
        for gone in before.difference(after) {
            self.delete.entry(set).or_default().push(set, &key(gone), &[]);
        }
        for come in after.difference(before) {
            self.add.entry(set).or_default().push(set, &key(come), &[]);
        }
    }
}
