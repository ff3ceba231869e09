//! Fairness among clients where more is asked than can be answered: the `fairness` line of a Corefile. Off without it.
//!
//! A socket's queue is a row: who sends most has most of it, and where it overflows the kernel drops whatever comes
//! next, a quiet client's one query as well as a flood's thousandth. What can be done about it is to be quick: to read
//! a query and let it go costs a part of what an answer does, so that the row is kept short if the right ones go.
//!
//! [`Fairness`] says which, one for each listener. Until the kernel says that the row overflowed, it does nothing at
//! all. From then on a client has its queries at a steady rate, the same for all of them, and may be ahead of it by a
//! page's worth of look-ups; what it asks beyond is let go. That rate is found by trying: it falls while the row never
//! comes to an end, and rises slowly while it does, so that who asks for less than its share loses nothing, and those
//! who ask for more have the rest in equal parts. When nobody was held back for a second, all is as before.
//!
//! Where even to let go costs more than there is, the kernel can do that: [`Fairness::shares`] says which part of a
//! flood's queries is worth reading at all. That is twice what is its due, so that who floods has that as before.
//!
//! [`Places`] is the same for queries that wait for upstreams, of which there may only be so many.
//!
//! ```
//! use std::time::Duration;
//! use sealane_dns::fairness::Fairness;
//! let (flood, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
//! let mut fairness = Fairness::new(100, 7);
//! let mut answered = 0;
//! for millis in 0..1000 {
//!     // Always more in the row than is taken out of it, and the kernel lost some.
//!     fairness.batch(64, true, millis, Duration::from_millis(millis.into()));
//!     answered += (0..63).filter(|_| fairness.admits(flood)).count();
//!     assert!(fairness.admits(other) || millis % 10 != 0);
//! }
//! assert!(answered < 10_000);
//! ```

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::time::Duration;

use crate::metrics::{Family, Metrics};

/// How much more an answer of the general path costs than one that was prepared.
const DEAR: u64 = 16;
/// How far a client may be ahead of its rate: 32 answers of the general path.
const AHEAD: u64 = 32 * DEAR;
/// Between two looks at whether the rate will do.
const STEP: Duration = Duration::from_millis(5);
/// Who stands still between two looks makes up for so many of them.
const MOST_STEPS: u64 = 8;
/// So long nobody was held back: there is no need to.
const CALM: Duration = Duration::from_secs(1);
/// The highest rate that is tried, as nanoseconds for one prepared answer.
const FASTEST: u64 = 100;
/// Clients are told apart by the cells that they fall into, one in each row: two share all four by chance once in
/// 2^40 times, and share a rate then.
const ROWS: usize = 4;
const CELLS: usize = 1024;
/// Clients that are counted by name between two reports; the others together.
const COUNTED: usize = 64;
/// Between two looks at what floods send.
const WINDOW: Duration = Duration::from_millis(100);
/// Clients of which only a share is read, at most.
const SHARED: usize = 32;
/// All of a client's queries.
const ALL: u32 = u32::MAX;
/// How much more is read of a flood than is its due: one that is not, must not look like one that is over.
const READ_OF_IT: u64 = 2;
/// Between two reports.
const REPORT: Duration = Duration::from_secs(1);

static THROTTLED: Family = Family::counter(
    "sealane_dns_throttled_queries_total",
    "Queries that were not answered, since their client asked for more than its share of an overloaded server.",
);

/// Who is answered at one listener.
#[derive(Debug)]
pub struct Fairness {
    seed: u64,
    /// Nanoseconds for one prepared answer at the rate that no client is denied.
    slowest: u64,
    /// The same at the rate that each client has now; 0: nobody is held back.
    interval: u64,
    /// Until when, in nanoseconds, a client has had what is its due.
    cells: Vec<[u64; CELLS]>,
    /// Where the last client is.
    last: [usize; ROWS],
    now: u64,
    /// Queries since the row came to its end last, and when that was.
    row: (u64, Duration),
    /// When the rate was looked at last, and whether the row came to its end since.
    step: (Duration, bool),
    held_back: Duration,
    /// The kernel's count of what it lost.
    lost: Option<u32>,
    turned_away: HashMap<IpAddr, u64>,
    others: u64,
    reported: Duration,
    floods: HashMap<IpAddr, Flood>,
    looked: Duration,
}

/// A client that was turned away a moment ago.
#[derive(Debug)]
struct Flood {
    /// What is read of its queries, of [`ALL`].
    share: u32,
    /// Queries that were read since the last look.
    came: u64,
}

impl Fairness {
    /// No client is denied `rate` queries a second. `seed` decides who shares a cell with whom: nobody else may know it.
    pub fn new(rate: u32, seed: u64) -> Self {
        Fairness {
            seed,
            slowest: (1_000_000_000 / (u64::from(rate.max(1)) * DEAR)).max(FASTEST),
            interval: 0,
            cells: vec![[0; CELLS]; ROWS],
            last: [0; ROWS],
            now: 0,
            row: (0, Duration::ZERO),
            step: (Duration::ZERO, true),
            held_back: Duration::ZERO,
            lost: None,
            turned_away: HashMap::new(),
            others: 0,
            reported: Duration::ZERO,
            floods: HashMap::new(),
            looked: Duration::ZERO,
        }
    }

    /// So many queries were taken out of the row; `full`: there was room for no more, so that there are more in it.
    /// `lost` is how many the kernel has lost so far.
    pub fn batch(&mut self, came: usize, full: bool, lost: u32, now: Duration) {
        self.now = nanos(now);
        let overflown = self.lost.replace(lost).is_some_and(|before| before != lost);
        if full {
            self.row.0 += came as u64;
        } else {
            self.row = (0, now);
        }
        self.step.1 |= !full;
        if self.interval == 0 {
            if overflown {
                // What one client could have at most: all that was answered lately.
                let each = now.saturating_sub(self.row.1).as_nanos() as u64 / self.row.0.max(1);
                self.interval = each.clamp(FASTEST, self.slowest);
                (self.step, self.held_back) = ((now, false), now);
            }
            return;
        }
        let steps = now.saturating_sub(self.step.0).as_nanos() / STEP.as_nanos();
        if steps == 0 {
            return;
        }
        let (_, ended) = std::mem::replace(&mut self.step, (now, false));
        self.interval = if overflown || !ended {
            (self.interval + self.interval.div_ceil(4)).min(self.slowest)
        } else {
            (self.interval - self.interval * MOST_STEPS.min(steps as u64) / 64).max(FASTEST)
        };
        if now.saturating_sub(self.held_back) > CALM {
            self.interval = 0;
        }
    }

    /// Whether a query of this client is to be answered; by those of the last batch.
    pub fn admits(&mut self, client: IpAddr) -> bool {
        if self.interval == 0 {
            return true;
        }
        self.last = self.places(client);
        let due = self.cells.iter().zip(self.last).map(|(row, at)| row[at]).min().unwrap_or(0);
        if due > self.now + AHEAD * self.interval {
            self.held_back = Duration::from_nanos(self.now);
            self.turn_away(client);
            if self.floods.len() < SHARED || self.floods.contains_key(&client) {
                self.floods.entry(client).or_insert(Flood { share: ALL, came: 0 }).came += 1;
            }
            return false;
        }
        if let Some(flood) = self.floods.get_mut(&client) {
            flood.came += 1;
        }
        self.charge(1);
        true
    }

    /// Of which clients only a part of the queries is to be read from now on, and which, of `u32::MAX`. `None`: what was
    /// said last holds. The kernel's count of lost queries may not go up by those that are not read.
    pub fn shares(&mut self, now: Duration) -> Option<Vec<(IpAddr, u32)>> {
        if self.floods.is_empty() || now.saturating_sub(self.looked) < WINDOW {
            return None;
        }
        // What each may have of what is at hand.
        let due = nanos(now.saturating_sub(std::mem::replace(&mut self.looked, now))) / self.interval.max(1);
        let mut unread = Vec::new();
        for (client, flood) in &mut self.floods {
            let sent = u64::try_from(u128::from(flood.came) * u128::from(ALL) / u128::from(flood.share));
            let sent = sent.unwrap_or(u64::MAX);
            unread.push((*client, sent.saturating_sub(flood.came)));
            let share = u128::from(ALL) * u128::from(READ_OF_IT * due) / u128::from(sent.max(1));
            *flood = Flood { share: share.clamp(1, ALL.into()) as u32, came: 0 };
        }
        unread.retain(|(_, count)| *count > 0);
        unread.into_iter().for_each(|(client, count)| self.turn_away_often(client, count));
        if self.interval == 0 {
            self.floods.clear();
        }
        self.floods.retain(|_, flood| flood.share < ALL);
        let shares = self.floods.iter().map(|(client, flood)| (*client, flood.share));
        Some(shares.collect())
    }

    /// The query that was admitted last was answered by the general path.
    pub fn was_dear(&mut self) {
        if self.interval > 0 {
            self.charge(DEAR - 1);
        }
    }

    fn charge(&mut self, answers: u64) {
        let due = self.cells.iter().zip(self.last).map(|(row, at)| row[at]).min().unwrap_or(0);
        let due = due.max(self.now) + answers * self.interval;
        for (row, at) in self.cells.iter_mut().zip(self.last) {
            row[at] = row[at].max(due);
        }
    }

    fn places(&self, client: IpAddr) -> [usize; ROWS] {
        let mut hasher = DefaultHasher::new();
        (self.seed, client).hash(&mut hasher);
        let hash = hasher.finish() as usize;
        std::array::from_fn(|row| hash >> (16 * row) & (CELLS - 1))
    }

    /// A query of this client is not answered.
    pub fn turn_away(&mut self, client: IpAddr) {
        self.turn_away_often(client, 1);
    }

    fn turn_away_often(&mut self, client: IpAddr, queries: u64) {
        if self.turned_away.len() < COUNTED || self.turned_away.contains_key(&client) {
            *self.turned_away.entry(client).or_default() += queries;
        } else {
            self.others += queries;
        }
    }

    /// Who was turned away since this was asked last, and how often; those without a name at the unspecified address.
    /// Empty most of the time: it is said once a second, and when `all` is wanted.
    pub fn turned_away(&mut self, all: bool, now: Duration) -> Vec<(IpAddr, u64)> {
        if self.turned_away.is_empty() || !all && now.saturating_sub(self.reported) < REPORT {
            return Vec::new();
        }
        self.reported = now;
        let mut out: Vec<(IpAddr, u64)> = self.turned_away.drain().collect();
        match std::mem::take(&mut self.others) {
            0 => {}
            others => out.push((OTHERS, others)),
        }
        out
    }
}

/// Stands for all clients that have no series of their own.
const OTHERS: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Places where queries wait for upstreams.
#[derive(Debug)]
pub struct Places {
    all: usize,
    taken: usize,
    of: HashMap<IpAddr, usize>,
}

impl Places {
    /// So many.
    pub fn new(all: usize) -> Self {
        Places { all, taken: 0, of: HashMap::new() }
    }

    /// Takes a place, if there is one for this client: while more than half of them are taken, nobody has more than its
    /// part of those that are.
    pub fn enter(&mut self, client: IpAddr) -> bool {
        let (own, clients) = (self.of.get(&client).copied().unwrap_or(0), self.of.len().max(1));
        let greedy = self.taken >= self.all / 2 && own * clients > self.taken.max(clients);
        let alone = clients == 1 && own > 0 && self.taken >= self.all / 2;
        if self.taken >= self.all || greedy || alone {
            return false;
        }
        self.taken += 1;
        *self.of.entry(client).or_default() += 1;
        true
    }

    /// Gives the place back.
    pub fn leave(&mut self, client: IpAddr) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(own) = self.of.get_mut(&client) {
            *own -= 1;
            if *own == 0 {
                self.of.remove(&client);
            }
        }
    }
}

/// Clients that have a series of their own.
const NAMED: usize = 32;
/// A client that was not turned away for so long makes room for another one.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Between two lines in the log.
const LINE: Duration = Duration::from_secs(60);

/// Who was turned away by all listeners, for the metrics and the log.
#[derive(Debug, Default)]
pub(crate) struct Throttled {
    named: BTreeMap<IpAddr, (u64, Duration)>,
    others: u64,
    /// Since the last line.
    recent: BTreeMap<IpAddr, u64>,
    line: Option<Duration>,
}

impl Throttled {
    /// Counts; the line for the log that there is to be about it.
    pub(crate) fn add(&mut self, clients: &[(IpAddr, u64)], now: Duration) -> Option<String> {
        for (client, count) in clients {
            if self.named.len() >= NAMED && !self.named.contains_key(client) {
                let old = self.named.iter().min_by_key(|(_, (_, last))| *last);
                let old = old.filter(|(_, (_, last))| now.saturating_sub(*last) > FORGOTTEN);
                if let Some((&old, &(count, _))) = old {
                    self.named.remove(&old);
                    self.others += count;
                }
            }
            let room = self.named.len() < NAMED || self.named.contains_key(client);
            if *client == OTHERS || !room {
                self.others += count;
                continue;
            }
            let (all, last) = self.named.entry(*client).or_default();
            (*all, *last) = (*all + count, now);
            *self.recent.entry(*client).or_default() += count;
        }
        let due = self.line.is_none_or(|last| now.saturating_sub(last) >= LINE);
        let (client, count) = self.recent.iter().max_by_key(|(_, count)| **count).filter(|_| due)?;
        let more = match self.recent.len() {
            1 => String::new(),
            several => format!("; {} other clients, too", several - 1),
        };
        let line = format!(
            "[WARNING] plugin/fairness: {client} asks for more than its share: {count} of its queries were not \
             answered{more}"
        );
        self.line = Some(now);
        self.recent.clear();
        Some(line)
    }

    pub(crate) fn render(&self, page: &mut Metrics) {
        for (client, (count, _)) in &self.named {
            page.add(&THROTTLED, &format!("client=\"{client}\""), *count as f64);
        }
        page.add(&THROTTLED, "client=\"other\"", self.others as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn places_are_shared_when_they_are_few() {
        let mut places = Places::new(100);
        // One alone has half of them.
        assert_eq!((0..100).filter(|_| places.enter(ip(1))).count(), 50);
        // Another one comes to as many as the first has.
        assert_eq!((0..100).filter(|_| places.enter(ip(2))).count(), 50);
        assert!(!places.enter(ip(3)));
        for _ in 0..10 {
            places.leave(ip(1));
        }
        assert!(!places.enter(ip(2)));
        assert!(places.enter(ip(3)));
        for _ in 0..40 {
            places.leave(ip(1));
        }
        for _ in 0..50 {
            places.leave(ip(2));
        }
        places.leave(ip(3));
        assert_eq!((places.taken, places.of.len()), (0, 0));
    }

    #[test]
    fn names_are_few() {
        let mut throttled = Throttled::default();
        let minute = |n: u64| Duration::from_secs(60 * n);
        let line = throttled.add(&[(ip(1), 5), (ip(2), 7), (OTHERS, 9)], minute(1)).unwrap();
        assert_eq!(
            line,
            "[WARNING] plugin/fairness: 0.0.0.2 asks for more than its share: 7 of its queries were not answered; 1 \
             other clients, too"
        );
        assert_eq!(throttled.add(&[(ip(2), 1)], minute(1)), None);
        let many: Vec<(IpAddr, u64)> = (0..100).map(|n| (ip(n), 1)).collect();
        assert!(throttled.add(&many, minute(2)).is_some());
        assert_eq!((throttled.named.len(), throttled.others), (NAMED, 9 + 68));
        // All but one are forgotten.
        assert_eq!(throttled.add(&[(ip(2), 1)], minute(2)), None);
        assert!(throttled.add(&[(ip(2), 1), (ip(1000), 3)], minute(90)).is_some());
        assert_eq!(throttled.named.len(), NAMED);
        assert_eq!(throttled.named[&ip(1000)].0, 3);
        let all = throttled.named.values().map(|(count, _)| count).sum::<u64>() + throttled.others;
        assert_eq!(all, 5 + 7 + 9 + 1 + 100 + 1 + 4);
    }
}
