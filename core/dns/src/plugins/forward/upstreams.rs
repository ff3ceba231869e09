//! What is known of upstreams: their order, which are down, and how they are counted.

use std::net::SocketAddr;
use std::time::Duration;

use super::config::{Policy, rcode_name};
use crate::chain::{Via, shuffle};
use crate::metrics::{Family, Handle, Metrics};

static FAILURES: Family = Family::counter(
    "coredns_proxy_healthcheck_failures_total",
    "Counter of the number of failed healthchecks.",
);
static DURATION: Family =
    Family::times("coredns_proxy_request_duration_seconds", "Histogram of the time each request took.");
static HITS: Family = Family::counter(
    "coredns_proxy_conn_cache_hits_total",
    "Counter of connection cache hits per upstream and protocol.",
);
static MISSES: Family = Family::counter(
    "coredns_proxy_conn_cache_misses_total",
    "Counter of connection cache misses per upstream and protocol.",
);

/// One of a line's upstreams.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Where it is always asked over TLS: how.
    pub(super) tls: Option<Via>,
    fails: u32,
    /// Failed since it last answered: it is checked until it does.
    suspect: bool,
    next_probe: Duration,
    probing: bool,
    /// Series that were needed, by response code, and by protocol and whether there was a connection.
    by_rcode: Vec<(u16, Handle)>,
    by_proto: Vec<((&'static str, bool), Handle)>,
}

impl Upstream {
    fn new(address: SocketAddr, tls: Option<Via>) -> Self {
        Upstream {
            address,
            tls,
            fails: 0,
            suspect: false,
            next_probe: Duration::ZERO,
            probing: false,
            by_rcode: Vec::new(),
            by_proto: Vec::new(),
        }
    }

    /// Counts whether there was a connection, and where there is an answer, its response code and how long it took.
    pub(super) fn count(
        &mut self,
        via: &Via,
        (kept, rcode, took): (Option<bool>, Option<u16>, Duration),
        metrics: &mut Metrics,
    ) {
        let to = self.address;
        if let Some(kept) = kept {
            let (family, proto) = (if kept { &HITS } else { &MISSES }, via.as_str());
            let labels = || format!("proxy_name=\"forward\",to=\"{to}\",proto=\"{proto}\"");
            let make = || metrics.handle(family, &labels());
            let handle = known(&mut self.by_proto, (proto, kept), make);
            metrics.add_at(handle, 1.0);
        }
        if let Some(rcode) = rcode {
            let labels = || format!("proxy_name=\"forward\",to=\"{to}\",rcode=\"{}\"", rcode_name(rcode));
            let handle = known(&mut self.by_rcode, rcode, || metrics.handle(&DURATION, &labels()));
            metrics.add_at(handle, took.as_secs_f64());
        }
    }
}

/// Series that are looked up once.
fn known<K: PartialEq>(known: &mut Vec<(K, Handle)>, key: K, make: impl FnOnce() -> Handle) -> Handle {
    if let Some((_, handle)) = known.iter().find(|(other, _)| *other == key) {
        return *handle;
    }
    let handle = make();
    known.push((key, handle));
    handle
}

/// So many in the order of asking; `turn` counts for round robin (policy.go).
pub(in crate::plugins) fn order(policy: Policy, count: usize, turn: &mut usize, random: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    match policy {
        Policy::Sequential => {}
        Policy::Random => shuffle(&mut order, random),
        Policy::RoundRobin => {
            *turn = turn.wrapping_add(1);
            let first = *turn % count.max(1);
            if first < count {
                order[..=first].rotate_right(1);
            }
        }
    }
    order
}

/// A line's upstreams.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    list: Vec<Upstream>,
    turn: usize,
}

impl Upstreams {
    /// Takes these; what is known of those that stay is forgotten, too.
    pub(super) fn set(&mut self, upstreams: Vec<(SocketAddr, Option<Via>)>) {
        self.list.clear();
        for (address, tls) in upstreams {
            if !self.list.iter().any(|known| known.address == address && known.tls == tls) {
                self.list.push(Upstream::new(address, tls));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&mut self, at: usize) -> Option<&mut Upstream> {
        self.list.get_mut(at)
    }

    /// Upstreams in the order of asking (policy.go).
    pub(super) fn order(&mut self, policy: Policy, random: u64) -> Vec<usize> {
        order(policy, self.list.len(), &mut self.turn, random)
    }

    /// It failed too many checks.
    pub(super) fn down(&self, at: usize, max_fails: u32) -> bool {
        max_fails != 0 && self.list.get(at).is_none_or(|upstream| upstream.fails > max_fails)
    }

    /// All are up, and asked without TLS.
    pub(super) fn all_plain(&self, max_fails: u32) -> bool {
        let plain =
            |upstream: &Upstream| upstream.tls.is_none() && (max_fails == 0 || upstream.fails <= max_fails);
        !self.list.is_empty() && self.list.iter().all(plain)
    }

    /// One did not answer: it is checked from now on.
    pub(super) fn suspect(&mut self, at: usize, now: Duration) {
        if let Some(upstream) = self.list.get_mut(at).filter(|upstream| !upstream.suspect) {
            upstream.suspect = true;
            upstream.next_probe = now;
        }
    }

    /// Those that have to be checked now.
    pub(super) fn due(&mut self, now: Duration, interval: Duration) -> Vec<(usize, SocketAddr, Option<Via>)> {
        let mut due = Vec::new();
        for (at, upstream) in self.list.iter_mut().enumerate() {
            if upstream.suspect && !upstream.probing && upstream.next_probe <= now {
                upstream.probing = true;
                upstream.next_probe = now + interval;
                due.push((at, upstream.address, upstream.tls.clone()));
            }
        }
        due
    }

    /// A check is over.
    pub(super) fn checked(&mut self, at: usize, there: bool, metrics: &mut Metrics) {
        let Some(upstream) = self.list.get_mut(at) else { return };
        upstream.probing = false;
        if there {
            upstream.suspect = false;
            upstream.fails = 0;
        } else {
            upstream.fails = upstream.fails.saturating_add(1);
            metrics.count(&FAILURES, &format!("proxy_name=\"forward\",to=\"{}\"", upstream.address));
        }
    }
}
