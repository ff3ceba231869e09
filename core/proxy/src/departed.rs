//! Which endpoints no slice has any more: connections to those have nobody who could end them. One that merely takes no
//! new connections, or has left one of its Services, ends its own.

use crate::Table;
use sealane_catalog::{Entry, Slice};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Endpoints that left some Service since they were last looked for.
#[derive(Clone, Debug, Default)]
pub struct Departed(BTreeSet<IpAddr>);

impl Departed {
    /// Takes a change of an entry in; `None`: it was, or is, not there.
    pub fn note(&mut self, before: Option<&Entry>, after: Option<&Entry>) {
        let slices = |entry: Option<&'_ Entry>| entry.map_or_else(Vec::new, |e| e.slices.clone());
        let (old, new) = (slices(before), slices(after));
        // Slices that stayed are shared.
        let changed = old.iter().filter(|o| !new.iter().any(|n| Arc::ptr_eq(o, n)));
        let mut left: BTreeSet<IpAddr> = changed.flat_map(addresses).collect();
        if !left.is_empty() {
            for address in new.iter().flat_map(addresses) {
                left.remove(&address);
            }
            self.0.append(&mut left);
        }
    }

    /// Those that are in no slice of the table, each once. Where there may be some, all slices are looked through.
    pub fn take(&mut self, table: &Table) -> BTreeSet<IpAddr> {
        let mut left = std::mem::take(&mut self.0);
        for address in table.entries().flat_map(|e| &e.slices).flat_map(addresses) {
            if left.is_empty() {
                break;
            }
            left.remove(&address);
        }
        left
    }
}

fn addresses(slice: &Arc<Slice>) -> impl Iterator<Item = IpAddr> {
    slice.endpoints.iter().map(|e| e.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;
    use sealane_catalog::NamespacedName;
    use std::collections::BTreeMap;

    /// Against what is left when all slices before and after a round are compared.
    #[test]
    fn who_is_in_no_slice_has_left() {
        let mut left_some = 0;
        for seed in 0..40 {
            let mut table = Table::new(contract::node());
            let mut departed = Departed::default();
            let mut entries: BTreeMap<NamespacedName, Entry> = BTreeMap::new();
            let all = |entries: &BTreeMap<NamespacedName, Entry>| -> BTreeSet<IpAddr> {
                entries.values().flat_map(|e| &e.slices).flat_map(addresses).collect()
            };
            for round in contract::history(seed, 12) {
                let before = all(&entries);
                for (name, entry) in &round {
                    departed.note(table.entry(name), entry.as_ref());
                    table.update([(name, entry.as_ref())]);
                    match entry {
                        Some(entry) => entries.insert(name.clone(), entry.clone()),
                        None => entries.remove(name),
                    };
                }
                let after = all(&entries);
                let expected: BTreeSet<IpAddr> = before.difference(&after).copied().collect();
                left_some += expected.len();
                assert_eq!(departed.take(&table), expected, "seed {seed}");
                assert!(departed.take(&table).is_empty());
            }
        }
        assert!(left_some > 40, "{left_some}");
    }
}
