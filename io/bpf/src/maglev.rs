//! Tables that lead a flow to the same backend on every node, and most flows to the one that they had when some
//! backends come or go (Maglev, Eisenbud et al. 2016, section 3.4).

use sealane_proxy::Backend;
use std::net::IpAddr;

/// Lengths of tables, all of them prime.
const LENGTHS: [usize; 5] = [251, 1021, 4093, 16_381, 65_521];
/// Entries that each slot gets at least, where a table is long enough: shares then differ by a hundredth.
const EACH: usize = 100;
/// And where none is: by a tenth. Beyond that no table is made.
const LEAST: usize = 10;

/// How long the table of so many slots is; 0: there is none.
pub(crate) fn length(slots: usize) -> usize {
    let longest = LENGTHS[LENGTHS.len() - 1];
    if slots == 0 || slots * LEAST > longest {
        return 0;
    }
    LENGTHS.into_iter().find(|l| *l >= slots * EACH).unwrap_or(longest)
}

/// For every entry the slot that it leads to. It follows from which backends there are and how often, not from their
/// order, in which nodes may differ.
pub(crate) fn table(slots: &[Backend]) -> Vec<u32> {
    let length = length(slots.len());
    let mut sorted: Vec<(Backend, u32)> = slots.iter().copied().zip(0..).collect();
    sorted.sort_unstable();
    let mut turns: Vec<Turn> = Vec::with_capacity(sorted.len());
    let mut copy = 0;
    for (at, (backend, slot)) in sorted.iter().enumerate() {
        copy = if at > 0 && sorted[at - 1].0 == *backend { copy + 1 } else { 0 };
        turns.push(Turn::new(*backend, copy, *slot, length));
    }
    let mut table = vec![u32::MAX; length];
    let mut free = length;
    while free > 0 {
        for turn in &mut turns {
            let place = turn.next_free(&table);
            table[place] = turn.slot;
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    table
}

/// A slot and the order in which it asks for entries.
struct Turn {
    slot: u32,
    next: usize,
    skip: usize,
}

impl Turn {
    fn new(backend: Backend, copy: u64, slot: u32, length: usize) -> Self {
        let octets = match backend.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let address = u128::from_be_bytes(octets);
        let parts = [(address >> 64) as u64, address as u64, u64::from(backend.port), copy];
        let hash = parts.into_iter().fold(0, |hash, part| mix(hash ^ part));
        // The length is prime: any step but 0 comes by every entry.
        let (length, other) = (length as u64, mix(hash));
        Self { slot, next: (hash % length) as usize, skip: (other % (length - 1)) as usize + 1 }
    }

    /// The next entry in its order that nobody has. There is one: the caller counts them.
    fn next_free(&mut self, table: &[u32]) -> usize {
        loop {
            let place = self.next;
            self.next = (self.next + self.skip) % table.len();
            if table[place] == u32::MAX {
                return place;
            }
        }
    }
}

/// SplitMix64's: numbers that are close come out far apart, and the same on every machine.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn backend(number: u8) -> Backend {
        Backend { address: [10, 244, 0, number].into(), port: 8080 }
    }

    /// What each entry leads to.
    fn led(slots: &[Backend]) -> Vec<Backend> {
        table(slots).into_iter().map(|slot| slots[slot as usize]).collect()
    }

    proptest! {
        #[test]
        fn shares_are_even_and_order_is_nothing(
            slots in prop::collection::vec(1u8..60, 1..40),
            rotation in any::<prop::sample::Index>(),
        ) {
            let slots: Vec<Backend> = slots.into_iter().map(backend).collect();
            let table = table(&slots);
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            table.iter().for_each(|slot| *counts.entry(*slot).or_default() += 1);
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            prop_assert!(counts.len() == slots.len() && most - least <= 1, "{:?}", counts);
            let mut turned = slots.clone();
            turned.rotate_left(rotation.index(slots.len()));
            prop_assert_eq!(led(&slots), led(&turned));
        }

        #[test]
        fn who_stays_keeps_most_flows(count in 3u8..30, gone in any::<prop::sample::Index>()) {
            let all: Vec<Backend> = (1..=count).map(backend).collect();
            let mut rest = all.clone();
            let gone = rest.swap_remove(gone.index(all.len()));
            let (before, after) = (led(&all), led(&rest));
            // Of the same length unless a border is crossed.
            prop_assume!(before.len() == after.len());
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && a != b).count();
            prop_assert!(moved * 4 < before.len(), "{} of {}", moved, before.len());
        }
    }

    #[test]
    fn tables_are_as_long_as_is_worth_it() {
        for (slots, expected) in [
            (0, 0),
            (1, 251),
            (2, 251),
            (3, 1021),
            (10, 1021),
            (11, 4093),
            (700, 65_521),
            (6552, 65_521),
            (6553, 0),
        ] {
            assert_eq!(length(slots), expected, "{slots}");
        }
        assert_eq!(table(&[]), Vec::<u32>::new());
    }
}
