//! `cache`: answers of the plugins behind it, for as long as they may be kept (`plugin/cache`). It is asked on the way
//! down and filled on the way up.
//!
//! Answers that come from the cluster are kept, too, but for one state of it only: what is gone is gone from the next
//! answer.

mod answers;
mod config;
mod store;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;

use crate::chain::{Context, Failure, Flow, Note, Passage, Plugin, Query, Setup, Up};
use crate::corefile::{CorefileError, Directive};
use crate::message::Message;
use crate::metrics::{Family, Handle, Metrics, relabelled};
use crate::name::Name;
use crate::prepared::Aging;
use answers::Key;
pub use config::{CacheSide, Config, Prefetch, ServeStale};
use store::{About, Shelves, Side, Stored};

static REQUESTS: Family = Family::counter("coredns_cache_requests_total", "The count of cache requests.");
static HITS: Family = Family::counter("coredns_cache_hits_total", "The count of cache hits.");
static MISSES: Family = Family::counter(
    "coredns_cache_misses_total",
    "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
);
static PREFETCHES: Family = Family::counter(
    "coredns_cache_prefetch_total",
    "The number of times the cache has prefetched a cached item.",
);
static STALE: Family =
    Family::counter("coredns_cache_served_stale_total", "The number of requests served from stale entries.");
static DROPS: Family = Family::counter(
    "coredns_cache_drops_total",
    "The number responses that are not cached, because the reply is malformed.",
);
static EVICTIONS: Family = Family::counter("coredns_cache_evictions_total", "The count of cache evictions.");
static ENTRIES: Family = Family::gauge("coredns_cache_entries", "The number of elements in the cache.");

/// `cache`
#[derive(Debug)]
pub struct Cache {
    shelves: Shelves,
    /// Its zones, as metrics call them.
    zones: String,
    /// Where the last query's server counts, as far as it does by now.
    series: (Arc<str>, [Option<Handle>; 4]),
}

/// `cache [TTL] [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let config = config::read(&setup.zones(), d)?;
    let zones: Vec<String> = config.zones.iter().map(Name::to_string).collect();
    setup.add(Cache {
        shelves: Shelves::new(config),
        zones: zones.join(","),
        series: (Arc::from(""), [None; 4]),
    });
    Ok(())
}

/// What is counted with each query.
#[derive(Clone, Copy, Debug)]
enum Counted {
    Request,
    Miss,
    Hit(Side),
}

impl Counted {
    fn place(self) -> usize {
        match self {
            Counted::Request => 0,
            Counted::Miss => 1,
            Counted::Hit(Side::Success) => 2,
            Counted::Hit(Side::Denial) => 3,
        }
    }
}

/// How often to see whether the answer has come that a stale one would stand in for.
const LOOK: Duration = Duration::from_millis(5);
/// Label of `metadata`: the wildcard that an answer was made from.
const WILDCARD: &str = "zone/wildcard";

/// With a query that was not answered from the cache.
#[derive(Clone, Debug)]
struct Missed {
    key: Key,
    /// The client wants to know whether the answer is authentic (RFC 6840 section 5.7).
    wants_authentic: bool,
    why: Why,
}

#[derive(Clone, Debug)]
enum Why {
    /// There is nothing in the cache.
    Nothing,
    /// There is an ended answer, better than none (`serve_stale verify`).
    Verify(Side, Message),
    /// In the background: the item is to be asked for again. It has ended, or is about to.
    Refresh(Side, Ended),
}

type Ended = bool;

/// With a query that waits for the background.
#[derive(Debug)]
struct Waiting {
    key: Key,
    side: Side,
    stale: Message,
    until: Duration,
}

impl Cache {
    /// What the lines say.
    pub fn config(&self) -> &Config {
        self.shelves.config()
    }

    /// An answer from the cache.
    fn serve(query: &Query, mut message: Message) -> Flow {
        // As CoreDNS: some clients discard what is not authoritative.
        message.flags.authoritative = true;
        message.flags.authentic &= query.dnssec_ok() || query.request.flags.authentic;
        Flow::Reply(message)
    }

    fn stale(&self, query: &Query, message: Message, cx: &mut Context<'_>) -> Flow {
        cx.metrics.count(&STALE, &self.labels(query));
        Cache::serve(query, message)
    }

    fn labels(&self, query: &Query) -> String {
        relabelled(&query.labels, "zones", &self.zones)
    }

    /// Counts a query. Labels are written once while one server's queries come.
    fn count(&mut self, what: Counted, query: &Query, cx: &mut Context<'_>) -> Handle {
        if !Arc::ptr_eq(&self.series.0, &query.labels) {
            self.series = (query.labels.clone(), [None; 4]);
        }
        let known = self.series.1[what.place()];
        let handle = known.unwrap_or_else(|| {
            let labels = self.labels(query);
            match what {
                Counted::Request => cx.metrics.handle(&REQUESTS, &labels),
                Counted::Miss => cx.metrics.handle(&MISSES, &labels),
                Counted::Hit(side) => {
                    cx.metrics.handle(&HITS, &format!("{labels},type=\"{}\"", side.as_str()))
                }
            }
        });
        self.series.1[what.place()] = Some(handle);
        cx.metrics.add_at(handle, 1.0);
        handle
    }

    fn store(&mut self, missed: &Missed, query: &Query, reply: &mut Message, cx: &mut Context<'_>) {
        let refreshes = matches!(missed.why, Why::Refresh(..));
        let wildcard = cx.peers.metadata(WILDCARD, query, cx.world);
        let about = About { from_cluster: query.from_cluster, refreshes, wildcard };
        match self.shelves.store(&missed.key, reply, about, cx.now) {
            Stored::Dropped => cx.metrics.count(&DROPS, &self.labels(query)),
            Stored::Kept(side, true) => {
                let labels = format!("{},type=\"{}\"", self.labels(query), side.as_str());
                cx.metrics.count(&EVICTIONS, &labels);
            }
            Stored::Kept(_, false) | Stored::No => {}
        }
    }

    /// Asks for an item again in the background.
    fn refresh(&self, missed: Missed, query: &Query, cx: &mut Context<'_>) {
        cx.metrics.count(&PREFETCHES, &self.labels(query));
        cx.refresh(Note::new(missed));
    }

    /// An ended answer: what is done before it is served.
    fn ended(
        &mut self,
        key: Key,
        side: Side,
        stale: Message,
        query: &mut Query,
        note: &mut Note,
        cx: &mut Context<'_>,
    ) -> Flow {
        let Some(config) = self.config().serve_stale else { return Cache::serve(query, stale) };
        let now = cx.now.monotonic;
        let wants_authentic = query.request.flags.authentic;
        // Without a time for failures everybody asks for himself; in the background one is enough.
        let turn = self.shelves.begin_refresh(side, &key, now)
            || config.verify && config.timeout.is_zero() && config.recheck.is_zero();
        match (config.verify, turn) {
            (true, true) if config.timeout.is_zero() => {
                note.set(Missed { key, wants_authentic, why: Why::Verify(side, stale) });
                query.request.flags.authentic = true;
                Flow::Next
            }
            (true, turn) if turn || config.recheck.is_zero() => {
                if turn {
                    let why = Why::Refresh(side, true);
                    cx.refresh(Note::new(Missed { key: key.clone(), wants_authentic, why }));
                }
                note.set(Waiting { key, side, stale, until: now + config.timeout });
                // First of all the background has its turn.
                Flow::Wait(Duration::ZERO)
            }
            (verify, turn) => {
                if turn && !verify {
                    let missed = Missed { key, wants_authentic, why: Why::Refresh(side, true) };
                    self.refresh(missed, query, cx);
                }
                self.stale(query, stale, cx)
            }
        }
    }
}

impl Plugin for Cache {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        // A NOTIFY asks nothing.
        if query.request.flags.opcode != 0 {
            return Flow::Next;
        }
        if !self.config().zones.iter().any(|zone| question.name.is_within(zone)) {
            return Flow::Next;
        }
        let key = Key {
            name: question.name.clone(),
            rtype: question.rtype,
            class: question.class,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.request.flags.checking_disabled,
        };
        let requests = self.count(Counted::Request, query, cx);
        let wants_authentic = query.request.flags.authentic;
        let Some(hit) = self.shelves.find(&key, cx.now.monotonic) else {
            self.count(Counted::Miss, query, cx);
            note.set(Missed { key, wants_authentic, why: Why::Nothing });
            // Those behind say whether it is authentic, for others who ask later.
            query.request.flags.authentic = true;
            return Flow::Next;
        };
        let hits = self.count(Counted::Hit(hit.side), query, cx);
        if let Some(wildcard) = hit.wildcard {
            query.set_label(WILDCARD, wildcard);
        }
        if hit.stale {
            return self.ended(key, hit.side, hit.message, query, note, cx);
        }
        if hit.prefetch && self.shelves.begin_refresh(hit.side, &key, cx.now.monotonic) {
            self.refresh(Missed { key, wants_authentic, why: Why::Refresh(hit.side, false) }, query, cx);
        }
        query.aging = hit.lasts.map(|(counts, until)| Aging { counts, until, series: [requests, hits] });
        Cache::serve(query, hit.message)
    }

    fn waited(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let Some(waiting) = note.take::<Waiting>() else { return Flow::Next };
        let now = cx.now.monotonic;
        if let Some(hit) = self.shelves.find(&waiting.key, now).filter(|hit| !hit.stale) {
            return Cache::serve(query, hit.message);
        }
        if now >= waiting.until || !self.shelves.refreshing(waiting.side, &waiting.key) {
            return self.stale(query, waiting.stale, cx);
        }
        let time = LOOK.min(waiting.until.saturating_sub(now));
        note.set(waiting);
        Flow::Wait(time)
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let Some(mut missed) = note.take::<Missed>() else { return Up::Pass };
        query.request.flags.authentic = missed.wants_authentic;
        // What the cluster says is at hand, and always new (`crate::prepared`).
        // And what is meant for this client is nobody else's.
        if query.basis.is_some() || query.for_client {
            self.shelves.limit(&missed.key, reply, cx.now);
            return Up::Pass;
        }
        let renews = self.shelves.renews(&missed.key, reply, cx.now);
        let positive = self.config().serve_stale.is_some_and(|stale| stale.prefer_positive);
        match std::mem::replace(&mut missed.why, Why::Nothing) {
            Why::Nothing => self.store(&missed, query, reply, cx),
            Why::Verify(side, stale) => {
                if renews || positive {
                    self.store(&missed, query, reply, cx);
                }
                self.shelves.end_refresh(side, &missed.key, renews, cx.now.monotonic);
                if !renews {
                    return Up::Instead(self.stale(query, stale, cx));
                }
            }
            Why::Refresh(side, ended) => {
                if renews || positive || !ended {
                    missed.why = Why::Refresh(side, ended);
                    self.store(&missed, query, reply, cx);
                }
                self.shelves.end_refresh(side, &missed.key, renews || !ended, cx.now.monotonic);
            }
        }
        reply.flags.authentic &= query.dnssec_ok() || missed.wants_authentic;
        Up::Pass
    }

    fn failed(&mut self, query: &mut Query, note: &mut Note, _: &Failure, cx: &mut Context<'_>) -> Up {
        let Some(missed) = note.take::<Missed>() else { return Up::Pass };
        query.request.flags.authentic = missed.wants_authentic;
        match missed.why {
            Why::Nothing => Up::Pass,
            Why::Verify(side, stale) => {
                self.shelves.end_refresh(side, &missed.key, false, cx.now.monotonic);
                Up::Instead(self.stale(query, stale, cx))
            }
            Why::Refresh(side, ended) => {
                self.shelves.end_refresh(side, &missed.key, !ended, cx.now.monotonic);
                Up::Pass
            }
        }
    }

    fn snapshot_changed(&mut self, _: &Snapshot, cx: &mut Context<'_>) {
        self.shelves.set_epoch(cx.world.epoch);
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.shelves.set_epoch(cx.world.epoch);
    }

    fn render_metrics(&self, labels: &[Arc<str>], out: &mut Metrics) {
        // Keys of one port are one server.
        let servers: BTreeSet<String> =
            labels.iter().map(|labels| relabelled(labels, "zones", &self.zones)).collect();
        for labels in servers {
            for side in [Side::Success, Side::Denial] {
                let entries = self.shelves.len(side) as f64;
                out.add(&ENTRIES, &format!("{labels},type=\"{}\"", side.as_str()), entries);
            }
        }
    }
}
