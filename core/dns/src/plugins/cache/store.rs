//! What is kept, for how long, and what may still be served (RFC 2308, `plugin/cache/{cache,item}.go`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use crate::chain::{Class, classify};
use crate::message::{Data, Message, rcode};
use crate::name::Name;

/// How long answers are kept that have no TTL to go by.
const LEAST: Duration = Duration::from_secs(5);

/// What is asked, as far as answers differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Name.
    pub name: Name,
    /// Type.
    pub rtype: u16,
    /// DNSSEC records wanted.
    pub dnssec_ok: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
}

/// `success` or `denial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Answers with records.
    Success,
    /// NXDOMAIN, NODATA, SERVFAIL.
    Denial,
}

#[derive(Debug)]
struct Item {
    message: Arc<Message>,
    stored: Duration,
    ttl: Duration,
    hits: u32,
    last_hit: Duration,
    refreshing: bool,
    /// It holds for this state of the cluster alone.
    epoch: Option<u64>,
}

#[derive(Debug, Default)]
struct Shelf {
    items: HashMap<Key, Item>,
    /// In the order in which they came; what is stored again is in here twice.
    order: VecDeque<(Key, Duration)>,
}

/// What is in the cache for a question.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or nothing that may be served.
    Nothing,
    /// An answer, TTLs counted down; `refresh`: ask again in the background.
    Fresh {
        /// The answer.
        message: Message,
        /// Where it was.
        side: Side,
        /// Worth asking again.
        refresh: bool,
    },
    /// An ended answer that may be served; `verify`: ask first.
    Stale {
        /// The answer, TTLs 0.
        message: Message,
        /// Where it was.
        side: Side,
        /// Ask first.
        verify: bool,
        /// Ask now, in the background where `verify` is off.
        refresh: bool,
    },
}

/// What a server block's cache holds.
#[derive(Debug)]
pub struct Shelves {
    config: Config,
    epoch: u64,
    success: Shelf,
    denial: Shelf,
}

impl Shelves {
    /// An empty one.
    pub fn new(config: Config) -> Self {
        Shelves { config, epoch: 0, success: Shelf::default(), denial: Shelf::default() }
    }

    /// Entries of a side.
    pub fn len(&self, side: Side) -> usize {
        match side {
            Side::Success => self.success.items.len(),
            Side::Denial => self.denial.items.len(),
        }
    }

    /// Looks a question up. Times count from any fixed point.
    pub fn find(&mut self, key: &Key, now: Duration) -> Found {
        for side in [Side::Denial, Side::Success] {
            let config = &self.config;
            let shelf = match side {
                Side::Success => &mut self.success,
                Side::Denial => &mut self.denial,
            };
            let Some(item) = shelf.items.get_mut(key) else { continue };
            // The cluster has changed: its old state is nothing to serve, not even as a stale one.
            if item.epoch.is_some_and(|epoch| epoch != self.epoch) {
                continue;
            }
            let age = now.saturating_sub(item.stored);
            let left = item.ttl.saturating_sub(age);
            if let Some(prefetch) = config.prefetch {
                let gap = now.saturating_sub(item.last_hit);
                item.hits = if gap > prefetch.duration { 1 } else { item.hits.saturating_add(1) };
                item.last_hit = now;
            }
            let mut message = (*item.message).clone();
            if !left.is_zero() {
                if !config.keep_ttl {
                    set_ttl(&mut message, seconds(left));
                }
                let worth = config.prefetch.is_some_and(|p| {
                    item.hits >= p.amount && left <= item.ttl.mul_f64(f64::from(p.percentage) / 100.0)
                });
                let refresh = worth && !std::mem::replace(&mut item.refreshing, worth);
                return Found::Fresh { message, side, refresh };
            }
            if let Some(stale) = config.serve_stale
                && age < item.ttl + stale.duration
                && item.message.rcode != rcode::SERVFAIL
            {
                set_ttl(&mut message, 0);
                let refresh = !std::mem::replace(&mut item.refreshing, true);
                return Found::Stale { message, side, verify: stale.verify, refresh };
            }
        }
        Found::Nothing
    }

    /// The lines that it goes by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cluster has changed: what was kept of it is over.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Sets an answer's TTLs to how long it would be kept.
    pub fn limit(&self, key: &Key, message: &mut Message) {
        let (_, ttl) = self.lifetime(key, message);
        set_ttl(message, seconds(ttl));
    }

    /// Keeps an answer, where it may be kept, and sets its TTLs to how long (CoreDNS does so whether it keeps it or
    /// not). `from_cluster`: it holds until the cluster changes only.
    pub fn store(&mut self, key: Key, message: &mut Message, from_cluster: bool, now: Duration) {
        let (class, ttl) = self.lifetime(&key, message);
        set_ttl(message, seconds(ttl));
        let Some(side) = self.side(&key, message, class).filter(|_| !ttl.is_zero()) else {
            self.refreshed(&key);
            return;
        };
        let (shelf, other, capacity) = match side {
            Side::Success => (&mut self.success, &mut self.denial, self.config.success.capacity),
            Side::Denial => (&mut self.denial, &mut self.success, self.config.denial.capacity),
        };
        // A failure does not displace an answer that may still be served stale.
        if message.rcode != rcode::SERVFAIL {
            other.items.remove(&key);
        }
        let mut kept = message.clone();
        kept.questions.clear();
        kept.edns = None;
        let epoch = from_cluster.then_some(self.epoch);
        let item = Item {
            message: Arc::new(kept),
            stored: now,
            ttl,
            hits: 0,
            last_hit: now,
            refreshing: false,
            epoch,
        };
        shelf.items.insert(key.clone(), item);
        shelf.order.push_back((key, now));
        while shelf.items.len() > capacity
            || shelf.order.len() > capacity.saturating_mul(2).saturating_add(16)
        {
            let Some((oldest, stored)) = shelf.order.pop_front() else { break };
            if shelf.items.get(&oldest).is_some_and(|item| item.stored == stored) {
                shelf.items.remove(&oldest);
            }
        }
    }

    /// A question in the background came back without anything to keep.
    pub fn refreshed(&mut self, key: &Key) {
        for shelf in [&mut self.success, &mut self.denial] {
            if let Some(item) = shelf.items.get_mut(key) {
                item.refreshing = false;
            }
        }
    }

    /// Where an answer is kept; `None`: nowhere (`key` and `set` in cache.go).
    fn side(&self, key: &Key, message: &Message, class: Class) -> Option<Side> {
        let soa = message.authority.iter().any(|record| matches!(record.data, Data::Soa(_)));
        let (side, config) = match class {
            Class::NameError if !soa => return None,
            Class::NameError | Class::NoData | Class::ServerError => (Side::Denial, &self.config.denial),
            Class::NoError | Class::Delegation => (Side::Success, &self.config.success),
            Class::Meta | Class::Update | Class::OtherError => return None,
        };
        let off = message.flags.truncated
            || config.capacity == 0
            || config.disabled.iter().any(|zone| key.name.is_within(zone));
        (!off).then_some(side)
    }

    /// How long an answer may be kept (`MinimalTTL`, and RFC 2308 section 5 for denials: no longer than their SOA's
    /// minimum).
    fn lifetime(&self, key: &Key, message: &Message) -> (Class, Duration) {
        let class = classify(message, key.rtype);
        let side = match class {
            Class::ServerError => return (class, self.config.servfail),
            Class::NameError | Class::NoData => &self.config.denial,
            _ => &self.config.success,
        };
        let minimum = message.authority.iter().find_map(|record| match &record.data {
            Data::Soa(soa) => Some(soa.minimum),
            _ => None,
        });
        let records = message.answers.iter().chain(&message.authority).chain(&message.additional);
        let denial = matches!(class, Class::NameError | Class::NoData);
        let least = records.map(|record| record.ttl).chain(minimum.filter(|_| denial)).min();
        let known = denial || class == Class::NoError;
        let ttl = least.filter(|_| known).map_or(LEAST, |ttl| Duration::from_secs(ttl.into()));
        (class, ttl.max(side.min_ttl).min(side.max_ttl))
    }
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

fn set_ttl(message: &mut Message, ttl: u32) {
    let sections = [&mut message.answers, &mut message.authority, &mut message.additional];
    for record in sections.into_iter().flatten() {
        record.ttl = ttl;
    }
}
