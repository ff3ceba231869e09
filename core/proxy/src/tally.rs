//! What a change of an entry counts for in metrics.

use sealane_catalog::{Entry, NamespacedName, Slice};
use std::sync::Arc;

/// Changes of a Service and of its slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Service objects that changed.
    pub services: u64,
    /// Slices that came, changed or went.
    pub slices: u64,
    /// For each slice that came or changed and says when what led to it happened: whether it is IPv6's, and when,
    /// in milliseconds since 1970.
    pub triggered: Vec<(bool, i64)>,
}

/// Compares two states of an entry; `None`: it is not there.
pub fn tally(before: Option<&Entry>, after: Option<&Entry>) -> Tally {
    let service = |e: Option<&Entry>| e.and_then(|e| e.service.clone());
    let slices = |e: Option<&Entry>| e.map_or_else(Vec::new, |e| e.slices.clone());
    let (old, new) = (slices(before), slices(after));
    // Slices stand in the order of their names.
    let find = |all: &[Arc<Slice>], key: &NamespacedName| all.binary_search_by(|s| s.key.cmp(key)).ok();
    let gone = old.iter().filter(|o| find(&new, &o.key).is_none()).count();
    let fresh: Vec<_> = new.iter().filter(|n| find(&old, &n.key).is_none_or(|at| old[at] != **n)).collect();
    Tally {
        services: u64::from(service(before) != service(after)),
        slices: (gone + fresh.len()) as u64,
        triggered: fresh.iter().filter(|s| s.triggered > 0).map(|s| (s.ipv6, s.triggered)).collect(),
    }
}
