//! What is kept, for how long, and what may still be served (RFC 2308, `plugin/cache/{cache,handler,item}.go`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::answers::{Key, answers, has_soa, leads_nowhere, sort};
use super::config::{Config, Prefetch};
use crate::chain::{Class, Now};
use crate::message::{Data, Message, rcode};

/// A popular item is seen so often at least within the time in which it has to be asked for (`prefetch`).
const SEEN: u32 = 8;
/// How long answers are kept that have no TTL to go by.
const LEAST: Duration = Duration::from_secs(5);

/// `success` or `denial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Answers with records.
    Success,
    /// NXDOMAIN, NODATA, SERVFAIL.
    Denial,
}

impl Side {
    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        if self == Side::Success { "success" } else { "denial" }
    }
}

#[derive(Clone, Debug)]
struct Item {
    message: Arc<Message>,
    stored: Duration,
    /// Seconds.
    ttl: u64,
    hits: u32,
    last_hit: Duration,
    refreshing: bool,
    /// A refresh failed: not before this time again.
    retry_after: Duration,
    /// It holds for this state of the cluster alone.
    epoch: Option<u64>,
    /// It says what was asked for.
    answering: bool,
    /// The last item that did, where this one does not (`prefer_positive`).
    good: Option<Box<Item>>,
    /// The wildcard that it was made from, for `metadata`.
    wildcard: Option<String>,
}

impl Item {
    /// Seconds that are left; negative ones have gone by since.
    fn left(&self, now: Duration) -> i64 {
        let age = now.saturating_sub(self.stored).as_secs();
        i64::try_from(self.ttl).unwrap_or(i64::MAX) - i64::try_from(age).unwrap_or(i64::MAX)
    }

    /// Until when all that happens to it is that it is handed out: its end, or when it may have to be asked for again.
    /// Who does not ask here is not counted here, so with `prefetch` it is one that is popular enough anyway, and is
    /// seen again soon enough to know that it still is.
    fn lasts(&self, prefetch: Option<Prefetch>, now: Duration) -> Option<Duration> {
        let end = self.stored + Duration::from_secs(self.ttl);
        let until = match prefetch.filter(|prefetch| prefetch.amount > 0) {
            None => end,
            Some(prefetch) if self.hits < prefetch.amount => return None,
            Some(prefetch) => {
                let due = Duration::from_secs(self.ttl.saturating_sub(self.threshold(prefetch)));
                (self.stored + due).min(self.last_hit + prefetch.duration / SEEN)
            }
        };
        (self.epoch.is_none() && until > now).then_some(until)
    }

    /// Seconds of the TTL in which it is asked for again.
    fn threshold(&self, prefetch: Prefetch) -> u64 {
        (self.ttl * u64::from(prefetch.percentage)).div_ceil(100)
    }

    /// It, or what it took the place of, says what was asked for.
    fn answering(&self) -> Option<&Item> {
        if self.answering { Some(self) } else { self.good.as_deref() }
    }
}

#[derive(Debug, Default)]
struct Shelf {
    items: HashMap<Key, Item>,
    /// In the order in which they came; what is stored again is in here twice.
    order: VecDeque<(Key, Duration)>,
}

/// What is in the cache for a question.
#[derive(Debug)]
pub struct Hit {
    /// The answer, TTLs counted down.
    pub message: Message,
    /// Where it was.
    pub side: Side,
    /// It has ended.
    pub stale: bool,
    /// It is popular, and about to end.
    pub prefetch: bool,
    /// The wildcard that it was made from.
    pub wildcard: Option<String>,
    /// Where it may be handed out again without asking here: what its TTL counts from, and until when.
    pub lasts: Option<Lasts>,
}

/// When an item was stored, its TTL in seconds where that counts down, and until when nothing is decided about it.
pub type Lasts = (Option<(Duration, u64)>, Duration);

/// What came of storing an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is not one to keep.
    No,
    /// It would be kept, but answers another question.
    Dropped,
    /// It is kept; whether another one had to go.
    Kept(Side, bool),
}

/// With an answer that is to be stored.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// It holds until the cluster changes only.
    pub from_cluster: bool,
    /// Nobody waits for it: it renews an item.
    pub refreshes: bool,
    /// The wildcard that it was made from.
    pub wildcard: Option<String>,
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
        self.shelf(side).items.len()
    }

    fn shelf(&self, side: Side) -> &Shelf {
        if side == Side::Success { &self.success } else { &self.denial }
    }

    fn item(&mut self, side: Side, key: &Key) -> Option<&mut Item> {
        let shelf = if side == Side::Success { &mut self.success } else { &mut self.denial };
        shelf.items.get_mut(key)
    }

    /// It may be served, as it is or as a stale one. The cluster's old state is nothing to serve, not even stale.
    fn servable(&self, item: &Item, now: Duration) -> bool {
        let current = item.epoch.is_none_or(|epoch| epoch == self.epoch);
        let left = item.left(now);
        let stale = self.config.serve_stale.map_or(0, |stale| stale.duration.as_secs());
        current && (left > 0 || left.unsigned_abs() < stale)
    }

    /// Where the item for a question is, and whether what it took the place of is meant (`getIfNotStale`).
    fn place(&self, key: &Key, now: Duration) -> Option<(Side, bool)> {
        let positive = self.success.items.get(key);
        if self.config.serve_stale.is_some_and(|stale| stale.prefer_positive)
            && let Some(item) = positive
            && item.answering().is_some_and(|item| self.servable(item, now))
        {
            return Some((Side::Success, !item.answering));
        }
        let positive = positive.filter(|item| self.servable(item, now));
        if let Some(item) = self.denial.items.get(key).filter(|item| self.servable(item, now)) {
            // A failure passes, and hides no answer.
            let failure = item.message.rcode == rcode::SERVFAIL;
            return Some((if failure && positive.is_some() { Side::Success } else { Side::Denial }, false));
        }
        positive.map(|_| (Side::Success, false))
    }

    /// Looks a question up. Times count from any fixed point.
    pub fn find(&mut self, key: &Key, now: Duration) -> Option<Hit> {
        let (side, good) = self.place(key, now)?;
        let (prefetch, keep_ttl, stale) =
            (self.config.prefetch, self.config.keep_ttl, self.config.serve_stale);
        let item = self.item(side, key)?;
        let item = if good { item.good.as_deref_mut()? } else { item };
        let left = item.left(now);
        let configured = prefetch;
        let prefetch = prefetch.filter(|prefetch| left > 0 && prefetch.amount > 0).is_some_and(|prefetch| {
            let gap = now.saturating_sub(item.last_hit);
            item.hits = if gap > prefetch.duration { 1 } else { item.hits.saturating_add(1) };
            item.last_hit = now;
            item.hits >= prefetch.amount && left.unsigned_abs() <= item.threshold(prefetch)
        });
        let lasts = item.lasts(configured, now).filter(|_| !prefetch && !good);
        let counts = (!keep_ttl).then_some((item.stored, item.ttl));
        let lasts = lasts.map(|until| (counts, until));
        let mut message = (*item.message).clone();
        let given = stale.map_or(0, |stale| stale.ttl);
        set_ttl(
            &mut message,
            match left {
                ..=0 if given > 0 => given,
                _ if keep_ttl => seconds(Duration::from_secs(item.ttl)),
                left => u32::try_from(left.max(0)).unwrap_or(u32::MAX),
            },
        );
        let wildcard = item.wildcard.clone();
        Some(Hit { message, side, stale: left <= 0, prefetch, wildcard, lasts })
    }

    /// Whether an item is to be asked for again now: nobody does already, and no failure forbids it.
    pub fn begin_refresh(&mut self, side: Side, key: &Key, now: Duration) -> bool {
        let Some(item) = self.item(side, key) else { return false };
        let free = !item.refreshing && now >= item.retry_after;
        item.refreshing |= free;
        free
    }

    /// Whether somebody asks for it again.
    pub fn refreshing(&mut self, side: Side, key: &Key) -> bool {
        self.item(side, key).is_some_and(|item| item.refreshing)
    }

    /// That is over; `refreshed`: with a new answer.
    pub fn end_refresh(&mut self, side: Side, key: &Key, refreshed: bool, now: Duration) {
        let recheck = self.config.serve_stale.map_or(Duration::ZERO, |stale| stale.recheck);
        let Some(item) = self.item(side, key) else { return };
        item.refreshing = false;
        item.retry_after = if refreshed || recheck.is_zero() { Duration::ZERO } else { now + recheck };
    }

    /// The lines that it goes by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cluster has changed: what was kept of it is over.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Whether an answer may take the place of a stale one (RFC 8767 section 4).
    pub fn renews(&self, key: &Key, message: &Message, now: Now) -> bool {
        if message.flags.truncated || !about(key, message) {
            return false;
        }
        let class = sort(key, message, now.unix);
        if self.config.serve_stale.is_some_and(|stale| stale.prefer_positive) {
            return class == Class::NoError && answers(key, message);
        }
        !matches!(class, Class::OtherError | Class::Meta | Class::Update)
            && matches!(message.rcode, rcode::NOERROR | rcode::NXDOMAIN)
    }

    /// Sets an answer's TTLs to how long it would be kept.
    pub fn limit(&self, key: &Key, message: &mut Message, now: Now) {
        let (_, ttl) = self.lifetime(key, message, now.unix);
        set_ttl(message, seconds(ttl));
    }

    /// Keeps an answer, where it may be kept, and sets its TTLs to how long (CoreDNS does so whether it keeps it or
    /// not).
    pub fn store(&mut self, key: &Key, message: &mut Message, more: About, now: Now) -> Stored {
        let (class, ttl) = self.lifetime(key, message, now.unix);
        set_ttl(message, seconds(ttl));
        // OPT is for each hop alone.
        message.edns = None;
        let Some(side) = Shelves::side(key, message, class).filter(|_| !ttl.is_zero()) else {
            return Stored::No;
        };
        if !about(key, message) {
            return Stored::Dropped;
        }
        let config = if side == Side::Success { &self.config.success } else { &self.config.denial };
        if config.disabled.iter().any(|zone| key.name.is_within(zone)) {
            return Stored::No;
        }
        let (capacity, positive) =
            (config.capacity, self.config.serve_stale.is_some_and(|s| s.prefer_positive));
        let now = now.monotonic;
        let mut kept = message.clone();
        kept.questions.clear();
        let answering = answers(key, message);
        let before = self.item(side, key);
        // What was popular is so still.
        let (hits, last_hit) = before.as_ref().map_or((0, now), |item| (item.hits, item.last_hit));
        let (hits, last_hit) = if more.refreshes { (hits, last_hit) } else { (0, now) };
        let good = before.filter(|_| side == Side::Success && positive && !answering);
        let good = good.and_then(|item| item.answering().cloned().map(Box::new));
        let item = Item {
            message: Arc::new(kept),
            stored: now,
            ttl: ttl.as_secs(),
            hits,
            last_hit,
            refreshing: false,
            retry_after: Duration::ZERO,
            epoch: more.from_cluster.then_some(self.epoch),
            answering,
            good,
            wildcard: more.wildcard,
        };
        if side == Side::Success && if positive { answering } else { more.refreshes } {
            self.denial.items.remove(key);
        }
        let shelf = if side == Side::Success { &mut self.success } else { &mut self.denial };
        Stored::Kept(side, shelf.put(key.clone(), item, capacity))
    }

    /// Where an answer is kept; `None`: nowhere (`key` in cache.go).
    fn side(key: &Key, message: &Message, class: Class) -> Option<Side> {
        let soa = has_soa(message);
        match class {
            _ if message.flags.truncated => None,
            Class::NameError if !soa => None,
            // Aliases that lead nowhere, and nothing that says for how long (RFC 2308 section 5).
            Class::NoError if !soa && leads_nowhere(key, message) => None,
            Class::NameError | Class::NoData | Class::ServerError => Some(Side::Denial),
            Class::NoError | Class::Delegation => Some(Side::Success),
            Class::Meta | Class::Update | Class::OtherError => None,
        }
    }

    /// How long an answer may be kept (`MinimalTTL`, and RFC 2308 section 5 for denials: no longer than their SOA's
    /// minimum).
    fn lifetime(&self, key: &Key, message: &Message, unix: u64) -> (Class, Duration) {
        let class = sort(key, message, unix);
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

impl Shelf {
    /// Puts an item in; whether another one had to go.
    fn put(&mut self, key: Key, item: Item, capacity: usize) -> bool {
        self.order.push_back((key.clone(), item.stored));
        self.items.insert(key, item);
        let mut evicted = false;
        while self.items.len() > capacity || self.order.len() > capacity * 2 + 16 {
            let Some((oldest, stored)) = self.order.pop_front() else { break };
            if self.items.get(&oldest).is_some_and(|item| item.stored == stored) {
                self.items.remove(&oldest);
                evicted = true;
            }
        }
        evicted
    }
}

/// Whether an answer is about the question (`Match` in request/request.go). This server's own have no question yet.
fn about(key: &Key, message: &Message) -> bool {
    match message.questions.as_slice() {
        [] => true,
        [one] => one.name == key.name && one.rtype == key.rtype && one.class == key.class,
        _ => false,
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
