//! Answers signed as they go out, with denials made up for the name that was asked ("black lies": every name
//! exists and has no such type), as CoreDNS's dnssec plugin does.

use std::collections::HashMap;

use ring::rand::SecureRandom;

use super::keys::Key;
use super::sign::Rrsig;
use crate::message::presentation::type_bits;
use crate::message::{Data, Message, Record, rcode, rtype};
use crate::name::Name;

/// The TTL that is signed: the sets' own were counted down by then (CoreDNS's README).
const ORIGINAL_TTL: u32 = 3600;
/// Signatures begin three hours ago, so that clocks may differ and daylight saving be misread, …
const INCEPTION: u64 = 3 * 3600;
/// … and last eight days. One that has less than two of them left is made anew.
const EXPIRATION: u64 = 8 * 86_400;
const RENEWED: u64 = 2 * 86_400;

/// Types that a made-up name is said to have: nearly all, so that nobody concludes from what is missing.
const PLAIN: &[u16] = &[1, 13, 16, 28, 29, 33, 37, 44, 46, 47, 52, 55, 61, 99];
/// Those of a cut, with NS.
const CUT: &[u16] = &[1, 2, 13, 16, 28, 29, 33, 37, 44, 46, 47, 52, 55, 61, 99];
/// Those of the apex, with NS, SOA, MX and DNSKEY.
const APEX: &[u16] = &[1, 2, 6, 13, 15, 16, 28, 29, 33, 37, 44, 46, 47, 48, 52, 55, 61, 99];

/// Why keys can't sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// A key's owner holds none of the zones.
    #[error("key {0} (tag {1}) can't sign any of the zones")]
    Stranger(Name, u16),
}

/// The cache's figures, for CoreDNS's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Signatures that were at hand.
    pub hits: u64,
    /// Signatures that were made.
    pub misses: u64,
    /// Sets whose signatures are kept.
    pub entries: usize,
}

/// Signs answers of zones.
#[derive(Debug)]
pub struct Signer {
    zones: Vec<Name>,
    keys: Vec<Key>,
    /// Some keys sign keys alone.
    split: bool,
    capacity: usize,
    cache: HashMap<Vec<u8>, Vec<Record>>,
    stats: Stats,
}

/// What an answer is, as CoreDNS's `pkg/response` sorts it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Positive,
    NoData,
    NameError,
    Delegation,
    Other,
}

fn kind(message: &Message) -> Kind {
    let has = |rtype| message.authority.iter().any(|r| r.data.rtype() == rtype);
    match message.rcode {
        _ if message.flags.opcode != 0 => Kind::Other,
        rcode::NOERROR if !message.answers.is_empty() => Kind::Positive,
        rcode::NXDOMAIN if !message.answers.is_empty() => Kind::Other,
        rcode::NOERROR if has(rtype::SOA) => Kind::NoData,
        rcode::NXDOMAIN => Kind::NameError,
        rcode::NOERROR if has(rtype::NS) => Kind::Delegation,
        _ => Kind::Other,
    }
}

/// Records by owner and type, in the order of their first ones; what is signed already and OPT apart.
fn sets(records: &[Record]) -> Vec<Vec<Record>> {
    let mut out: Vec<Vec<Record>> = Vec::new();
    for record in records.iter().filter(|r| !matches!(r.data.rtype(), rtype::RRSIG | rtype::OPT)) {
        let same = |set: &&mut Vec<Record>| {
            set.first().is_some_and(|r| r.name == record.name && r.data.rtype() == record.data.rtype())
        };
        match out.iter_mut().find(same) {
            Some(set) => set.push(record.clone()),
            None => out.push(vec![record.clone()]),
        }
    }
    out
}

/// What the signatures of a set hang on.
fn cache_key(set: &[Record], signer: &Name) -> Vec<u8> {
    let mut out = signer.to_lowercase().wire().to_vec();
    for record in set {
        out.extend_from_slice(record.name.to_lowercase().wire());
        out.extend_from_slice(&record.data.rtype().to_be_bytes());
        out.extend_from_slice(&record.data.wire());
    }
    out
}

fn seconds(now: u64) -> u32 {
    // RFC 4034 section 3.1.5: they wrap.
    u32::try_from(now & u64::from(u32::MAX)).unwrap_or(0)
}

impl Signer {
    /// Signs for `zones` with `keys`, and keeps the signatures of `capacity` sets.
    ///
    /// # Errors
    /// Where a key is of another zone.
    pub fn new(zones: Vec<Name>, keys: Vec<Key>, capacity: usize) -> Result<Self, SignerError> {
        if let Some(key) = keys.iter().find(|k| !zones.iter().any(|z| z.is_within(&k.dnskey.name))) {
            return Err(SignerError::Stranger(key.dnskey.name.clone(), key.tag));
        }
        let split = keys.iter().any(Key::is_ksk) && keys.iter().any(Key::is_zsk);
        Ok(Signer { zones, keys, split, capacity, cache: HashMap::new(), stats: Stats::default() })
    }

    /// The cache's figures.
    pub fn stats(&self) -> Stats {
        Stats { entries: self.cache.len(), ..self.stats }
    }

    /// The zone that a name is signed in: the longest that holds it.
    pub fn zone_of(&self, name: &Name) -> Option<&Name> {
        self.zones.iter().filter(|z| name.is_within(z)).max_by_key(|z| z.wire().len())
    }

    /// The answer to a query for DNSKEY at a zone's apex; `None`: the query is another's. `now` in seconds since 1970.
    pub fn dnskey(&mut self, query: &Message, now: u64, random: &dyn SecureRandom) -> Option<Message> {
        let question = query.questions.first()?;
        if question.rtype != rtype::DNSKEY {
            return None;
        }
        let zone = self.zones.iter().find(|z| **z == question.name)?.clone();
        let mut message = query.reply(rcode::NOERROR);
        message.flags.authoritative = true;
        message.answers =
            self.keys.iter().map(|k| Record { name: zone.clone(), ..k.dnskey.clone() }).collect();
        if query.edns.as_ref().is_some_and(|e| e.dnssec_ok) {
            let signatures = self.sign(&message.answers, &zone, ORIGINAL_TTL, now, random);
            message.answers.extend(signatures);
        }
        Some(message)
    }

    /// Signs an answer that goes to a client that asked for signatures (DO); one of another's zone stays as it is.
    pub fn sign_message(&mut self, message: &mut Message, now: u64, random: &dyn SecureRandom) {
        let Some(question) = message.questions.first().cloned() else { return };
        let Some(zone) = self.zone_of(&question.name).cloned() else { return };
        if matches!(question.rtype, rtype::AXFR | rtype::IXFR) {
            return;
        }
        let ttl = message.authority.first().map_or(0, |r| r.ttl);
        match kind(message) {
            Kind::Delegation => {
                let ds: Vec<Record> =
                    message.authority.iter().filter(|r| r.data.rtype() == rtype::DS).cloned().collect();
                let added = if ds.is_empty() {
                    self.denial(&question.name, question.rtype, &zone, Kind::Delegation, ttl, now, random)
                } else {
                    self.sign(&ds, &zone, ttl, now, random)
                };
                message.authority.extend(added);
            }
            kind @ (Kind::NoData | Kind::NameError) => {
                // Somebody else's proof is in there already, or nothing that could be one.
                if message.authority.len() != 1 || message.authority[0].data.rtype() != rtype::SOA {
                    return;
                }
                let soa = message.authority.clone();
                message.authority.extend(self.sign(&soa, &zone, ttl, now, random));
                let denial = self.denial(&question.name, question.rtype, &zone, kind, ttl, now, random);
                let denied = !denial.is_empty();
                message.authority.extend(denial.iter().cloned());
                if message.authority.len() > 1 {
                    message.rcode = rcode::NOERROR;
                    if question.rtype == rtype::NSEC && denied {
                        message.answers = denial;
                        message.authority.clear();
                    }
                }
            }
            Kind::Positive | Kind::Other => {
                for section in [&mut message.answers, &mut message.authority, &mut message.additional] {
                    let mut added = Vec::new();
                    for set in sets(section) {
                        let Some(first) = set.first() else { continue };
                        let Some(signer) = self.zone_of(&first.name).cloned() else { continue };
                        added.extend(self.sign(&set, &signer, first.ttl, now, random));
                    }
                    section.extend(added);
                }
            }
        }
    }

    /// A set's signatures, by each key that signs such sets.
    fn sign(
        &mut self,
        set: &[Record],
        signer: &Name,
        ttl: u32,
        now: u64,
        random: &dyn SecureRandom,
    ) -> Vec<Record> {
        let key = cache_key(set, signer);
        let lasting = |r: &Record| {
            Rrsig::from_data(&r.data).is_some_and(|(head, _)| {
                // RFC 4034 section 3.1.5 compares as RFC 1982.
                let left = head.expiration.wrapping_sub(seconds(now + RENEWED));
                left != 0 && left < 1 << 31
            })
        };
        let owner = set.first().map(|r| r.name.clone());
        if let Some(kept) = self.cache.get(&key).filter(|kept| kept.iter().all(lasting)) {
            self.stats.hits += 1;
            // The TTL and the case of the name are this answer's.
            let own = |r: &Record| Record {
                ttl,
                name: owner.clone().unwrap_or_else(|| r.name.clone()),
                ..r.clone()
            };
            return kept.iter().map(own).collect();
        }
        self.stats.misses += 1;
        let period = (seconds(now.saturating_sub(INCEPTION)), seconds(now + EXPIRATION));
        let of_keys = set.first().is_some_and(|r| r.data.rtype() == rtype::DNSKEY);
        let mut out = Vec::new();
        for key in &self.keys {
            if self.split && !(if of_keys { key.is_ksk() } else { key.is_zsk() }) {
                continue;
            }
            let Some(signature) = key.sign(set, signer, ORIGINAL_TTL, period, random) else {
                return Vec::new();
            };
            out.push(Record { ttl, ..signature });
        }
        if !out.is_empty() && self.capacity > 0 {
            if self.cache.len() >= self.capacity
                && let Some(any) = self.cache.keys().next().cloned()
            {
                self.cache.remove(&any);
            }
            self.cache.insert(key, out.clone());
        }
        out
    }

    /// An NSEC for a name that says that it has no such type, behind its signatures; nothing where the next name
    /// would be too long.
    #[allow(clippy::too_many_arguments)]
    fn denial(
        &mut self,
        name: &Name,
        asked: u16,
        zone: &Name,
        kind: Kind,
        ttl: u32,
        now: u64,
        random: &dyn SecureRandom,
    ) -> Vec<Record> {
        let cut = kind == Kind::Delegation && name != zone;
        let types = match () {
            () if name == zone => APEX,
            () if cut || asked == rtype::DS => CUT,
            () => PLAIN,
        };
        // A question for NSEC itself is answered with this one, so that it has that type.
        let listed =
            |t: &&u16| **t != asked || asked == rtype::NSEC || kind == Kind::Delegation || types == CUT;
        let types: Vec<u16> = types.iter().filter(listed).copied().collect();
        let Some(next) = next(name, cut) else { return Vec::new() };
        let mut octets = next.wire().to_vec();
        octets.extend(type_bits(&types));
        let nsec = Record::new(name.clone(), ttl, Data::Other(rtype::NSEC, octets.into()));
        let mut out = self.sign(std::slice::from_ref(&nsec), zone, ttl, now, random);
        if !out.is_empty() {
            out.push(nsec);
        }
        out
    }
}

/// The name that follows in canonical order: the first below it, or below a cut, whose own names are not to be
/// denied, the first beside it.
fn next(name: &Name, cut: bool) -> Option<Name> {
    let labels: Vec<&[u8]> = name.labels().collect();
    match labels.as_slice() {
        [first, rest @ ..] if cut => {
            let first = [first, [0].as_slice()].concat();
            Name::from_labels([first.as_slice()].into_iter().chain(rest.iter().copied())).ok()
        }
        labels => Name::from_labels([[0].as_slice()].into_iter().chain(labels.iter().copied())).ok(),
    }
}
