//! [`Prepared`]: where answers are kept.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;

use super::wire::ttls;
use super::{Aging, Changed, Mark, Preparation, Share, Tally};
use crate::message::rtype;

/// The longest message that is looked up: header, the longest name, type and class, an OPT record without options.
const LONGEST: usize = 12 + 255 + 4 + 11;
/// Where a message's question begins.
const QUESTION: usize = 12;
/// In the header's third octet: TC.
const TRUNCATED: u8 = 2;
/// What an entry takes beside its octets, as far as it matters.
const OVERHEAD: usize = 256;

/// How often an answer was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// What it counts as.
    pub tally: Arc<Tally>,
    /// To clients of IPv4, and of IPv6.
    pub times: [u32; 2],
    /// Octets of each question.
    pub asked: usize,
    /// Octets of each answer.
    pub answered: usize,
}

/// Address records of one length in a row, which may be handed out beginning with any.
#[derive(Clone, Copy, Debug)]
struct Ring {
    start: u16,
    length: u16,
    count: u16,
}

impl Ring {
    /// Writes the answer, beginning with any of them.
    fn turn(self, turn: usize, reply: &[u8], out: &mut Vec<u8>) {
        let [start, length, count] = [self.start, self.length, self.count].map(usize::from);
        let (first, last) = (start + turn % count * length, start + count * length);
        out.extend_from_slice(&reply[..start]);
        out.extend_from_slice(&reply[first..last]);
        out.extend_from_slice(&reply[start..first]);
        out.extend_from_slice(&reply[last..]);
    }
}

#[derive(Debug)]
struct Entry {
    /// The key, and behind it the answer: they are read together.
    octets: Box<[u8]>,
    key: u16,
    serial_at: Option<u16>,
    ring: Option<Ring>,
    sampled: Option<Share>,
    aging: Option<Aging>,
    /// Where its TTLs stand, as far as they count down.
    ttls_at: Box<[u16]>,
    /// The name stands in the answer once, as the question: any case will do.
    any_case: bool,
    basis: Box<[Mark]>,
    tally: Arc<Tally>,
    times: [u32; 2],
    /// Handed out since the hand passed.
    recent: bool,
}

impl Entry {
    fn size(&self) -> usize {
        let lists = 24 * self.basis.len() + 2 * self.ttls_at.len();
        self.octets.len() + lists + OVERHEAD
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.octets.split_at(usize::from(self.key))
    }

    fn served(&self) -> Served {
        let (key, reply) = self.parts();
        let (asked, answered) = (key.len() + 2, reply.len());
        Served { tally: self.tally.clone(), times: self.times, asked, answered }
    }
}

/// Hashes what is a hash already.
#[derive(Debug, Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for octet in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*octet);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Prepared answers of one listener's thread.
#[derive(Debug)]
pub struct Prepared {
    /// By the key's hash: nobody outside knows how it is made, so that two keys with one are chance, and the first has the
    /// place.
    at: HashMap<u64, u32, BuildHasherDefault<Itself>>,
    hashes: FixedState,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    marked: HashMap<Mark, Vec<u32>>,
    serial: [u8; 4],
    now: Duration,
    size: usize,
    limit: usize,
    /// Goes round when room is wanted, and lets be what was handed out since it came by.
    hand: usize,
    touched: Vec<u32>,
    gone: Vec<Served>,
}

/// A message's key: all but the id, the question's name in lower case. `None` where it has no plain question.
fn key<'a>(request: &[u8], buffer: &'a mut [u8; LONGEST]) -> Option<(&'a [u8], usize, bool)> {
    if request.len() > LONGEST || request.len() < QUESTION + 5 {
        return None;
    }
    let mut end = QUESTION;
    loop {
        match usize::from(*request.get(end)?) {
            0 => break,
            len if len > 63 => return None,
            len => end += 1 + len,
        }
    }
    let whole = &mut buffer[..request.len()];
    whole.copy_from_slice(request);
    // The octets of lengths are no letters.
    whole[QUESTION..end].make_ascii_lowercase();
    let lower = whole[QUESTION..end] == request[QUESTION..end];
    Some((&buffer[2..request.len()], end + 1, lower))
}

impl Prepared {
    /// Room for about so many octets. `seed` is a number that nobody outside knows.
    pub fn new(limit: usize, seed: u64) -> Self {
        Prepared {
            at: HashMap::default(),
            hashes: FixedState::with_seed(seed),
            entries: Vec::new(),
            free: Vec::new(),
            marked: HashMap::new(),
            serial: [0; 4],
            now: Duration::ZERO,
            size: 0,
            limit,
            hand: 0,
            touched: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// What time it is: [`crate::Now::monotonic`].
    pub fn clock(&mut self, now: Duration) {
        self.now = now;
    }

    /// Writes the answer to a client's message, where it is prepared. `turn` is any number, another one each time.
    pub fn answer(&mut self, request: &[u8], ipv4: bool, turn: usize, out: &mut Vec<u8>) -> bool {
        if self.at.is_empty() {
            return false;
        }
        let mut buffer = [0; LONGEST];
        let Some((key, end, lower)) = key(request, &mut buffer) else { return false };
        let Some(at) = self.at.get(&self.hashes.hash_one(key)).copied() else { return false };
        let Some(Some(entry)) = self.entries.get_mut(at as usize) else { return false };
        let (known, reply) = entry.parts();
        if *known != *key || !(lower || entry.any_case) {
            return false;
        }
        if entry.sampled.is_some_and(|share| share.picks(u16::from_be_bytes([request[0], request[1]]))) {
            return false;
        }
        if entry.aging.as_ref().is_some_and(|aging| self.now >= aging.until) {
            self.remove(at as usize);
            return false;
        }
        out.clear();
        match entry.ring {
            Some(ring) => ring.turn(turn, reply, out),
            None => out.extend_from_slice(reply),
        }
        out[..2].copy_from_slice(&request[..2]);
        out[QUESTION..end].copy_from_slice(&request[QUESTION..end]);
        if let Some(at) = entry.serial_at.map(usize::from) {
            out[at..at + 4].copy_from_slice(&self.serial);
        }
        if let Some(Aging { counts: Some((stored, ttl)), .. }) = entry.aging {
            let left = Aging::left(stored, ttl, self.now).to_be_bytes();
            for at in &entry.ttls_at {
                let at = usize::from(*at);
                out[at..at + 4].copy_from_slice(&left);
            }
        }
        if entry.times == [0, 0] {
            self.touched.push(at);
        }
        entry.times[usize::from(!ipv4)] += 1;
        entry.recent = true;
        true
    }

    /// Keeps an answer of the general path.
    pub fn keep(&mut self, request: &[u8], reply: &[u8], preparation: Preparation) {
        let mut buffer = [0; LONGEST];
        let Some((key, end, lower)) = key(request, &mut buffer) else { return };
        let Preparation { basis, serial_at, rotates, sampled, aging, tally } = preparation;
        // What was kept has its names as who asked first had them.
        let any_case = matches!(tally.rtype, rtype::A | rtype::AAAA | rtype::PTR) || aging.is_some();
        let ttls_at = match &aging {
            Some(Aging { counts: Some((stored, ttl)), .. }) => {
                // Somebody on the way up may have set another one.
                let Some(places) = ttls(reply, Aging::left(*stored, *ttl, self.now)) else { return };
                places
            }
            _ => Box::default(),
        };
        let fits = reply.len() > end && serial_at.is_none_or(|at| at + 4 <= reply.len());
        // A message over UDP is shorter than that.
        let short = u16::try_from(reply.len()).is_ok();
        let hash = self.hashes.hash_one(key);
        if !fits || !short || !(lower || any_case) || self.at.contains_key(&hash) {
            return;
        }
        let cut = reply[2] & TRUNCATED != 0;
        let ring = match ring(reply, end + 4) {
            Order::Fixed => None,
            // The general path would leave others out each time.
            Order::Ring(_) if rotates && cut => return,
            Order::Ring(ring) => rotates.then_some(ring),
            // The general path would shuffle what cannot be turned here.
            Order::Tangled if rotates => return,
            Order::Tangled => None,
        };
        let octets = [key, reply].concat().into_boxed_slice();
        let basis = basis.0.into_boxed_slice();
        let entry = Entry {
            octets,
            key: key.len() as u16,
            serial_at: serial_at.map(|at| at as u16),
            ring,
            sampled,
            aging,
            ttls_at,
            any_case,
            basis,
            tally,
            times: [0, 0],
            recent: false,
        };
        self.size += entry.size();
        self.make_room();
        let at = self.free.pop().unwrap_or(self.entries.len() as u32);
        self.at.insert(hash, at);
        for mark in &entry.basis {
            self.marked.entry(*mark).or_default().push(at);
        }
        match self.entries.get_mut(at as usize) {
            Some(place) => *place = Some(entry),
            None => self.entries.push(Some(entry)),
        }
    }

    fn make_room(&mut self) {
        // Two rounds at most: the first forgets what was recent.
        for _ in 0..2 * self.entries.len() {
            if self.size <= self.limit {
                return;
            }
            self.hand = (self.hand + 1) % self.entries.len();
            match &mut self.entries[self.hand] {
                Some(entry) if entry.recent => entry.recent = false,
                Some(_) => self.remove(self.hand),
                None => {}
            }
        }
    }

    fn remove(&mut self, at: usize) {
        let Some(entry) = self.entries.get_mut(at).and_then(Option::take) else { return };
        self.size -= entry.size();
        self.at.remove(&self.hashes.hash_one(entry.parts().0));
        for mark in &entry.basis {
            if let Some(list) = self.marked.get_mut(mark) {
                list.retain(|other| *other as usize != at);
                if list.is_empty() {
                    self.marked.remove(mark);
                }
            }
        }
        if entry.times != [0, 0] {
            self.gone.push(entry.served());
            self.touched.retain(|other| *other as usize != at);
        }
        self.free.push(at as u32);
    }

    /// Forgets what was made from what changed; `serial` is the SOA's from now on.
    pub fn changed(&mut self, changed: &Changed, serial: u32) {
        self.serial = serial.to_be_bytes();
        match changed {
            Changed::All => (0..self.entries.len()).for_each(|at| self.remove(at)),
            Changed::Of(marks) => {
                for mark in marks {
                    let stale = self.marked.get(mark).cloned().unwrap_or_default();
                    stale.into_iter().for_each(|at| self.remove(at as usize));
                }
            }
        }
    }

    /// What was handed out since this was asked last.
    pub fn served(&mut self) -> Vec<Served> {
        let mut out = std::mem::take(&mut self.gone);
        for at in self.touched.drain(..) {
            if let Some(Some(entry)) = self.entries.get_mut(at as usize) {
                out.push(entry.served());
                entry.times = [0, 0];
            }
        }
        out
    }

    /// How many answers it has.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// It has none.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}

/// How the answer section's addresses lie.
enum Order {
    /// One at most.
    Fixed,
    /// Side by side, each with the question's name.
    Ring(Ring),
    /// Otherwise.
    Tangled,
}

/// Looks at the answer section, which begins at `at`.
fn ring(reply: &[u8], at: usize) -> Order {
    let count = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
    if count < 2 {
        return Order::Fixed;
    }
    // A pointer to the question's name, type, class, TTL, length: twelve octets before the address.
    let kind = reply.get(at + 2..at + 4);
    let length = match kind {
        Some([0, 1]) => 12 + 4,
        Some([0, 28]) => 12 + 16,
        // Only addresses (and MX, which the cluster has none of) are shuffled.
        Some(_) | None => {
            return if holds_addresses(reply, at, count) { Order::Tangled } else { Order::Fixed };
        }
    };
    let same = |record: &[u8]| record[..2] == [0xc0, QUESTION as u8] && Some(&record[2..4]) == kind;
    let Some(all) = reply.get(at..at + count * length) else { return Order::Tangled };
    if all.chunks_exact(length).all(same) {
        let [start, length, count] = [at, length, count].map(|number| number as u16);
        Order::Ring(Ring { start, length, count })
    } else {
        Order::Tangled
    }
}

/// Whether two addresses or more are among records that begin otherwise.
fn holds_addresses(reply: &[u8], start: usize, count: usize) -> bool {
    let (mut at, mut addresses) = (start, 0);
    for _ in 0..count {
        // The owner's name: labels up to a pointer or the root.
        loop {
            match reply.get(at) {
                Some(0) => break at += 1,
                Some(len) if *len >= 0xc0 => break at += 2,
                Some(len) => at += 1 + usize::from(*len),
                None => return true,
            }
        }
        let Some(&[high, low]) = reply.get(at..at + 2) else { return true };
        addresses += usize::from(matches!(u16::from_be_bytes([high, low]), rtype::A | rtype::AAAA));
        let Some(&[high, low]) = reply.get(at + 8..at + 10) else { return true };
        at += 10 + usize::from(u16::from_be_bytes([high, low]));
    }
    addresses > 1
}
