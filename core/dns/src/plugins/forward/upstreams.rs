//! What is known of upstreams: their order, and which are down.

use std::net::SocketAddr;
use std::time::Duration;

use super::config::Policy;
use crate::chain::shuffle;

/// Rounds over the upstreams.
const ROUNDS: usize = 2;

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    fails: u32,
    /// Failed since it last answered: it is checked until it does.
    suspect: bool,
    next_probe: Duration,
    probing: bool,
}

/// A line's upstreams.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    list: Vec<Upstream>,
    turn: usize,
}

impl Upstreams {
    /// Takes these addresses; what is known of those that stay is forgotten, too.
    pub(super) fn set(&mut self, addresses: Vec<SocketAddr>) {
        let upstream = |address| Upstream {
            address,
            fails: 0,
            suspect: false,
            next_probe: Duration::ZERO,
            probing: false,
        };
        self.list = addresses.into_iter().map(upstream).collect();
    }

    /// Where one is; the first where there is no such one (a list that became shorter).
    pub(super) fn address(&self, at: usize) -> SocketAddr {
        let upstream = self.list.get(at).or(self.list.first());
        upstream.map_or(SocketAddr::from(([0, 0, 0, 0], 53)), |upstream| upstream.address)
    }

    /// Upstreams in the order of asking, reversed: those that are up, then, should all be down, any.
    pub(super) fn order(&mut self, policy: Policy, max_fails: u32, random: u64) -> Vec<usize> {
        let count = self.list.len();
        let mut order: Vec<usize> = (0..count).collect();
        match policy {
            Policy::Sequential => {}
            Policy::Random => shuffle(&mut order, random),
            Policy::RoundRobin => {
                order.rotate_left(self.turn % count.max(1));
                self.turn = self.turn.wrapping_add(1);
            }
        }
        let up = |at: &usize| max_fails == 0 || self.list[*at].fails <= max_fails;
        let alive: Vec<usize> = order.iter().copied().filter(up).collect();
        // All down: the checks may be what is wrong, so one is asked all the same.
        let list: Vec<usize> = if alive.is_empty() { order.into_iter().take(1).collect() } else { alive };
        let mut list = list.repeat(ROUNDS);
        list.reverse();
        list
    }

    /// One did not answer: it is checked from now on.
    pub(super) fn suspect(&mut self, at: usize, now: Duration) {
        if let Some(upstream) = self.list.get_mut(at).filter(|upstream| !upstream.suspect) {
            upstream.suspect = true;
            upstream.next_probe = now;
        }
    }

    /// Those that have to be checked now.
    pub(super) fn due(&mut self, now: Duration, interval: Duration) -> Vec<(usize, SocketAddr)> {
        let mut due = Vec::new();
        for (at, upstream) in self.list.iter_mut().enumerate() {
            if upstream.suspect && !upstream.probing && upstream.next_probe <= now {
                upstream.probing = true;
                upstream.next_probe = now + interval;
                due.push((at, upstream.address));
            }
        }
        due
    }

    /// A check is over.
    pub(super) fn checked(&mut self, at: usize, there: bool) {
        let Some(upstream) = self.list.get_mut(at) else { return };
        upstream.probing = false;
        if there {
            upstream.suspect = false;
            upstream.fails = 0;
        } else {
            upstream.fails = upstream.fails.saturating_add(1);
        }
    }
}
