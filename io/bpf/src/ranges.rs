//! Which runs of the map of backends are in use.

use crate::raw::Range;
use std::collections::{BTreeMap, BTreeSet};

/// Runs of places, taken and given back. What is given back is held until no program can be reading it.
#[derive(Debug)]
pub(crate) struct Ranges {
    size: u32,
    /// Free runs by their first place, never two that touch.
    free: BTreeMap<u32, u32>,
    /// The same by length, then first place.
    by_length: BTreeSet<(u32, u32)>,
    held: Vec<Range>,
    held_places: u32,
}

impl Ranges {
    /// All of `size` places are free.
    pub fn new(size: u32) -> Self {
        let mut ranges = Self {
            size,
            free: BTreeMap::new(),
            by_length: BTreeSet::new(),
            held: Vec::new(),
            held_places: 0,
        };
        ranges.insert(Range { base: 0, count: size });
        ranges
    }

    /// A run of so many places, from the shortest that has room; `None`: there is none.
    pub fn take(&mut self, count: u32) -> Option<Range> {
        if count == 0 {
            return Some(Range::default());
        }
        let (length, base) = *self.by_length.range((count, 0)..).next()?;
        self.remove(Range { base, count: length });
        self.insert(Range { base: base + count, count: length - count });
        Some(Range { base, count })
    }

    /// Gives a run back; it is free after the next [`release`](Self::release).
    pub fn give(&mut self, range: Range) {
        if range.count > 0 {
            self.held_places += range.count;
            self.held.push(range);
        }
    }

    /// Whether so many places are held that it is worth waiting for who may be reading them.
    pub fn crowded(&self) -> bool {
        self.held_places > self.size / 8
    }

    /// Frees what was given back: nobody reads it any more.
    pub fn release(&mut self) {
        self.held_places = 0;
        for mut range in std::mem::take(&mut self.held) {
            // Runs that touch become one.
            if let Some((&base, &count)) = self.free.range(..range.base).next_back()
                && base + count == range.base
            {
                self.remove(Range { base, count });
                range = Range { base, count: count + range.count };
            }
            let next = range.base + range.count;
            if let Some(&count) = self.free.get(&next) {
                self.remove(Range { base: next, count });
                range.count += count;
            }
            self.insert(range);
        }
    }

    fn insert(&mut self, range: Range) {
        if range.count > 0 {
            self.free.insert(range.base, range.count);
            self.by_length.insert((range.count, range.base));
        }
    }

    fn remove(&mut self, range: Range) {
        self.free.remove(&range.base);
        self.by_length.remove(&(range.count, range.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No place is given to two, held ones to nobody, and all of them come back.
        #[test]
        fn places_have_one_owner(steps in prop::collection::vec((0u32..9, any::<prop::sample::Index>()), 1..200)) {
            let mut ranges = Ranges::new(64);
            let (mut taken, mut held): (Vec<Range>, Vec<Range>) = Default::default();
            for (count, which) in steps {
                match count {
                    0 if !taken.is_empty() => {
                        let range = taken.swap_remove(which.index(taken.len()));
                        ranges.give(range);
                        held.push(range);
                    }
                    8 => {
                        ranges.release();
                        held.clear();
                    }
                    _ => if let Some(range) = ranges.take(count) {
                        prop_assert_eq!(range.count, count);
                        prop_assert!(range.base + range.count <= 64);
                        taken.push(range);
                    }
                }
                let mut owned: Vec<Range> = taken.iter().chain(&held).copied().filter(|r| r.count > 0).collect();
                owned.sort();
                for pair in owned.windows(2) {
                    prop_assert!(pair[0].base + pair[0].count <= pair[1].base, "{:?}", pair);
                }
            }
            taken.into_iter().for_each(|r| ranges.give(r));
            ranges.release();
            prop_assert_eq!(ranges.take(64), Some(Range { base: 0, count: 64 }));
            prop_assert_eq!(ranges.take(1), None);
        }
    }
}
