//! The `cache` plugin: what upstreams answered, for as long as it may be kept (RFC 2308, `plugin/cache`).
//!
//! Answers of `kubernetes` and `hosts` never come here: they are at hand, and a kept copy would be an old one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::message::{Data, Message, rcode};
use crate::name::Name;

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

/// A server block's cache.
#[derive(Debug)]
pub struct Cache {
    config: config::Cache,
    success: Shelf,
    denial: Shelf,
}

impl Cache {
    /// An empty one.
    pub fn new(config: config::Cache) -> Self {
        Cache { config, success: Shelf::default(), denial: Shelf::default() }
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
                    set_ttl(&mut message, |_| seconds(left));
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
                set_ttl(&mut message, |_| 0);
                let refresh = !std::mem::replace(&mut item.refreshing, true);
                return Found::Stale { message, side, verify: stale.verify, refresh };
            }
        }
        Found::Nothing
    }

    /// Keeps an upstream's answer, where it may be kept, and caps its TTLs (also for the one who asked now).
    pub fn store(&mut self, key: Key, message: &mut Message, now: Duration) {
        let Some((side, ttl)) = self.lifetime(&key.name, message) else {
            self.refreshed(&key);
            return;
        };
        if !self.config.keep_ttl {
            set_ttl(message, |_| seconds(ttl));
        }
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
        let item =
            Item { message: Arc::new(kept), stored: now, ttl, hits: 0, last_hit: now, refreshing: false };
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

    fn lifetime(&self, name: &Name, message: &Message) -> Option<(Side, Duration)> {
        if message.flags.truncated {
            return None;
        }
        let minimum = message.authority.iter().find_map(|r| match &r.data {
            Data::Soa(soa) => Some(soa.minimum),
            _ => None,
        });
        let (side, config) = match (message.rcode, message.answers.is_empty(), minimum) {
            (rcode::NOERROR, false, _) => (Side::Success, &self.config.success),
            (rcode::NOERROR, true, Some(_)) | (rcode::NXDOMAIN, _, Some(_)) | (rcode::SERVFAIL, ..) => {
                (Side::Denial, &self.config.denial)
            }
            _ => return None,
        };
        if config.capacity == 0 || config.disabled.iter().any(|zone| name.is_within(zone)) {
            return None;
        }
        if message.rcode == rcode::SERVFAIL {
            let ttl = self.config.servfail;
            return (!ttl.is_zero()).then_some((side, ttl));
        }
        let records = message.answers.iter().chain(&message.authority).chain(&message.additional);
        let least = records.map(|r| r.ttl).chain(minimum.filter(|_| side == Side::Denial)).min()?;
        let ttl = Duration::from_secs(least.into());
        Some((side, ttl.max(config.min_ttl).min(config.max_ttl)))
    }
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

fn set_ttl(message: &mut Message, to: impl Fn(u32) -> u32) {
    let sections = [&mut message.answers, &mut message.authority, &mut message.additional];
    for record in sections.into_iter().flatten() {
        record.ttl = to(record.ttl);
    }
}
