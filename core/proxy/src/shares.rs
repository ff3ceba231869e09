//! Uneven shares of new connections: how many slots of its frontends each backend has.

use crate::endpoints::Selection;
use crate::{Backend, Target};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Service port in one family: the port's name, and whether it is IPv6.
pub(crate) type PortOf = (Arc<str>, bool);

/// A Service's backends and their slots, by port and family. A port that is not in it is spread evenly, and so is a
/// target none of whose backends has a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares(BTreeMap<PortOf, BTreeMap<Backend, u32>>);

impl Shares {
    /// Gives the backends of a port their slots; those that are not given have none.
    pub fn set(&mut self, port: &Arc<str>, ipv6: bool, slots: BTreeMap<Backend, u32>) {
        self.0.insert((Arc::clone(port), ipv6), slots);
    }

    /// Whether every port is spread evenly.
    pub fn is_even(&self) -> bool {
        self.0.is_empty()
    }

    /// The same selection with each backend as often as it has slots. Where all endpoints may serve, those beyond the
    /// hints that have slots do as well.
    pub(crate) fn weigh(&self, selection: Selection, port: &Arc<str>, ipv6: bool) -> Selection {
        let Some(slots) = self.0.get(&(Arc::clone(port), ipv6)) else { return selection };
        let beyond = &selection.beyond;
        Selection {
            cluster: weighed(&selection.cluster, beyond, slots),
            local: weighed(&selection.local, &[], slots),
            ..selection
        }
    }
}

fn weighed(target: &Target, beyond: &[Backend], slots: &BTreeMap<Backend, u32>) -> Target {
    let Target::Balance(near) = target else { return target.clone() };
    let all = near.iter().chain(beyond);
    let list: Arc<[Backend]> =
        all.flat_map(|b| (0..slots.get(b).copied().unwrap_or(0)).map(|_| *b)).collect();
    if list.is_empty() { target.clone() } else { Target::Balance(list) }
}
