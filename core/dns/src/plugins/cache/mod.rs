//! `cache`: answers of the plugins behind it, for as long as they may be kept (`plugin/cache`). It is asked on the way
//! down and filled on the way up.
//!
//! Answers that come from the cluster are kept, too, but for one state of it only: what is gone is gone from the next
//! answer.

mod config;
mod store;

use std::sync::Arc;

use sealane_catalog::Snapshot;

use crate::chain::{Context, Failure, Flow, Note, Passage, Plugin, Query, Setup, Up};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, rcode};
use crate::metrics::{Family, Metrics};
pub use config::{CacheSide, Config, Prefetch, ServeStale};
use store::{Found, Key, Shelves, Side};

static REQUESTS: Family = Family::counter("coredns_cache_requests_total", "The count of cache requests.");
static HITS: Family = Family::counter("coredns_cache_hits_total", "The count of cache hits.");
static MISSES: Family = Family::counter("coredns_cache_misses_total", "The count of cache misses.");
static PREFETCHES: Family = Family::counter(
    "coredns_cache_prefetch_total",
    "The number of times the cache has prefetched a cached item.",
);
static STALE: Family =
    Family::counter("coredns_cache_served_stale_total", "The number of requests served from stale entries.");
static ENTRIES: Family = Family::gauge("coredns_cache_entries", "The number of elements in the cache.");

/// `cache`
#[derive(Debug)]
pub struct Cache {
    shelves: Shelves,
}

/// `cache [TTL] [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let config = config::read(&setup.zones(), d)?;
    setup.add(Cache { shelves: Shelves::new(config) });
    Ok(())
}

/// With a query that was not answered from the cache.
#[derive(Clone, Debug)]
struct Missed {
    key: Key,
    /// An ended answer that is better than none (`serve_stale verify`).
    stale: Option<Message>,
}

impl Cache {
    /// What the lines say.
    pub fn config(&self) -> &Config {
        self.shelves.config()
    }

    fn serve(mut message: Message) -> Flow {
        // As CoreDNS: some clients discard what is not authoritative.
        message.flags.authoritative = true;
        Flow::Reply(message)
    }
}

impl Plugin for Cache {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        if !self.config().zones.iter().any(|zone| question.name.is_within(zone)) {
            return Flow::Next;
        }
        let key = Key {
            name: question.name.clone(),
            rtype: question.rtype,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.request.flags.checking_disabled,
        };
        let labels = &query.labels;
        cx.metrics.count(&REQUESTS, labels);
        let found = self.shelves.find(&key, cx.now.monotonic);
        let (message, side, refresh) = match found {
            Found::Nothing => {
                cx.metrics.count(&MISSES, labels);
                note.set(Missed { key, stale: None });
                return Flow::Next;
            }
            Found::Stale { message, verify: true, .. } => {
                note.set(Missed { key, stale: Some(message) });
                return Flow::Next;
            }
            Found::Fresh { message, side, refresh } => (message, side, refresh),
            Found::Stale { message, side, refresh, .. } => {
                cx.metrics.count(&STALE, labels);
                (message, side, refresh)
            }
        };
        let kind = if side == Side::Success { "success" } else { "denial" };
        cx.metrics.count(&HITS, &format!("{labels},type=\"{kind}\""));
        if refresh {
            cx.metrics.count(&PREFETCHES, labels);
            cx.refresh(Note::new(Missed { key, stale: None }));
        }
        Cache::serve(message)
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let Some(missed) = note.take::<Missed>() else { return Up::Pass };
        // What the cluster says is at hand, and always new (`crate::prepared`).
        // And what is meant for this client is nobody else's.
        if query.basis.is_some() || query.for_client {
            self.shelves.limit(&missed.key, reply);
            return Up::Pass;
        }
        if let Some(stale) = missed.stale
            && !matches!(reply.rcode, rcode::NOERROR | rcode::NXDOMAIN)
        {
            self.shelves.refreshed(&missed.key);
            cx.metrics.count(&STALE, &query.labels);
            return Up::Instead(Cache::serve(stale));
        }
        self.shelves.store(missed.key, reply, query.from_cluster, cx.now.monotonic);
        Up::Pass
    }

    fn failed(&mut self, query: &mut Query, note: &mut Note, _: &Failure, cx: &mut Context<'_>) -> Up {
        let Some(missed) = note.take::<Missed>() else { return Up::Pass };
        self.shelves.refreshed(&missed.key);
        let Some(stale) = missed.stale else { return Up::Pass };
        cx.metrics.count(&STALE, &query.labels);
        Up::Instead(Cache::serve(stale))
    }

    fn snapshot_changed(&mut self, _: &Snapshot, cx: &mut Context<'_>) {
        self.shelves.set_epoch(cx.world.epoch);
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        self.shelves.set_epoch(cx.world.epoch);
    }

    fn render_metrics(&self, labels: &[Arc<str>], out: &mut Metrics) {
        for labels in labels {
            for (side, name) in [(Side::Success, "success"), (Side::Denial, "denial")] {
                let entries = self.shelves.len(side) as f64;
                out.add(&ENTRIES, &format!("{labels},type=\"{name}\""), entries);
            }
        }
    }
}
