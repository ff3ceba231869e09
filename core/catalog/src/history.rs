//! [`History`]: what the deltas that led to a snapshot touched, of as many as are cheaper than a comparison.

use std::sync::Arc;

use crate::delta::{Change, Delta};
use crate::model::NamespacedName;

/// How many changes a snapshot remembers for readers that skipped some (see [`crate::Snapshot::since`]).
const MOST: usize = 1024;
/// So many deltas are copied, at most, for one that is added; older ones are shared with the snapshot before.
const CHUNK: usize = 32;

type Chunk = Arc<[Arc<Touched>]>;

/// The keys that a delta changed. What they had been, and were then, is not held any longer than its snapshot.
#[derive(Debug)]
pub(crate) struct Touched {
    from: u64,
    pub(crate) services: Box<[NamespacedName]>,
    pub(crate) namespaces: Box<[Arc<str>]>,
    pub(crate) nodes: Box<[Arc<str>]>,
    pub(crate) pods: Box<[NamespacedName]>,
}

impl Touched {
    fn by(delta: &Delta) -> Self {
        fn keys<K: Clone, V>(changes: &[Change<K, V>]) -> Box<[K]> {
            changes.iter().map(|change| change.key.clone()).collect()
        }
        Touched {
            from: delta.from,
            services: keys(&delta.services),
            namespaces: keys(&delta.namespaces),
            nodes: keys(&delta.nodes),
            pods: keys(&delta.pods),
        }
    }

    /// An empty delta costs room too.
    fn cost(&self) -> usize {
        (self.services.len() + self.namespaces.len() + self.nodes.len() + self.pods.len()).max(1)
    }
}

/// Deltas' keys, oldest first, one after the other without a gap. Cloning is cheap; adding one costs a chunk and the
/// number of chunks, however many deltas are remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    earlier: Arc<[Chunk]>,
    /// Fewer than [`CHUNK`].
    latest: Chunk,
    cost: usize,
}

fn cost(deltas: &[Arc<Touched>]) -> usize {
    deltas.iter().map(|delta| delta.cost()).sum()
}

impl History {
    /// With one more; the oldest ones are forgotten for it.
    pub(crate) fn with(&self, delta: &Delta) -> History {
        if delta.len() > MOST {
            return History::default();
        }
        let delta = Touched::by(delta);
        let cost = self.cost + delta.cost();
        let latest: Vec<_> = self.latest.iter().cloned().chain([Arc::new(delta)]).collect();
        let mut history = if latest.len() < CHUNK {
            History { earlier: self.earlier.clone(), latest: latest.into(), cost }
        } else {
            let earlier = self.earlier.iter().cloned().chain([latest.into()]).collect();
            History { earlier, latest: Chunk::default(), cost }
        };
        history.forget();
        history
    }

    fn forget(&mut self) {
        let mut gone = 0;
        while let Some(chunk) = self.earlier.get(gone).filter(|_| self.cost > MOST) {
            self.cost -= cost(chunk);
            gone += 1;
        }
        if gone > 0 {
            self.earlier = self.earlier[gone..].into();
        }
        let mut gone = 0;
        while let Some(delta) = self.latest.get(gone..=gone).filter(|_| self.cost > MOST) {
            self.cost -= cost(delta);
            gone += 1;
        }
        if gone > 0 {
            self.latest = self.latest[gone..].into();
        }
    }

    /// What changed from a snapshot of this number on; `None`: that is forgotten.
    pub(crate) fn since(&self, from: u64) -> Option<impl Iterator<Item = &Touched> + Clone> {
        let first = self.earlier.partition_point(|chunk| chunk.last().is_none_or(|delta| delta.from < from));
        let led = self.earlier[first..]
            .iter()
            .flat_map(|chunk| chunk.iter())
            .chain(self.latest.iter())
            .map(|d| &**d);
        let led = led.skip_while(move |delta| delta.from != from);
        led.clone().next().map(|_| led)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(from: u64, changes: usize) -> Delta {
        let key = |n: usize| NamespacedName::new("a", &n.to_string());
        let services = (0..changes).map(|n| Change { key: key(n), before: None, after: None }).collect();
        Delta { from, to: from + 1, services, ..Delta::default() }
    }

    /// By the number of changes in each delta: how many deltas are remembered at the end.
    #[test]
    fn as_many_deltas_are_remembered_as_changes_fit() {
        let rows: [(&str, Vec<usize>, std::ops::RangeInclusive<usize>); 6] = [
            ("few", vec![1; 40], 40..=40),
            ("as many as fit", vec![1; MOST], MOST..=MOST),
            ("a chunk is forgotten at once", vec![1; 3 * MOST + 7], MOST - CHUNK + 1..=MOST),
            ("empty ones cost room, too", vec![0; 2 * MOST], MOST - CHUNK + 1..=MOST),
            ("large ones push out single ones", vec![MOST / 2, 1, MOST / 2], 2..=2),
            ("one too large pushes out all, and itself", vec![1, 1, MOST + 1], 0..=0),
        ];
        for (what, sizes, expected) in rows {
            let mut history = History::default();
            for (from, size) in sizes.iter().enumerate() {
                history = history.with(&delta(from as u64, *size));
            }
            let last = sizes.len() as u64;
            let reach = (0..last).filter(|from| history.since(*from).is_some()).count();
            assert!(expected.contains(&reach), "{what}: {reach}, expected {expected:?}");
            for from in last - reach as u64..last {
                let led: Vec<u64> =
                    history.since(from).expect("remembered").map(|delta| delta.from).collect();
                assert_eq!(led, (from..last).collect::<Vec<_>>(), "{what}");
            }
            assert!(history.since(last).is_none(), "{what}: nothing leads on from the last one");
        }
    }
}
