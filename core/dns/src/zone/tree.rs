//! A zone's names in canonical order (RFC 4034 section 6.1).

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::message::{Data, Record, Soa, rtype};
use crate::name::Name;

/// Why records are no zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No SOA at the top.
    #[error("there is no SOA record for {0}")]
    NoSoa(Name),
    /// NSEC3 or NSEC3PARAM: answers can't prove what isn't there.
    #[error("{0} has a record of type {1}: zones signed with NSEC3 are not supported")]
    Nsec3(Name, String),
}

/// A name's place: its labels from the root down in lower case, each closed by 0, so that octets' order is the
/// canonical order and what is below a name begins with that name's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Box<[u8]>);

impl Key {
    pub fn of(name: &Name) -> Self {
        let labels: Vec<&[u8]> = name.labels().collect();
        let mut out = Vec::with_capacity(name.wire().len() + 2);
        for label in labels.iter().rev() {
            for byte in *label {
                match byte.to_ascii_lowercase() {
                    // 0 and 1 stay apart from the end, and in order.
                    low @ 0..=1 => out.extend([1, low + 1]),
                    byte => out.push(byte),
                }
            }
            out.push(0);
        }
        Key(out.into())
    }
}

/// What a name holds.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub name: Name,
    sets: Vec<(u16, Vec<Record>)>,
}

impl Node {
    /// The records of a type, in the order in which the zone has them.
    pub fn set(&self, rtype: u16) -> &[Record] {
        self.sets.iter().find(|set| set.0 == rtype).map_or(&[], |set| &set.1)
    }

    /// All records, those of a type together.
    pub fn sets(&self) -> impl Iterator<Item = &[Record]> {
        self.sets.iter().map(|set| set.1.as_slice())
    }

    /// The signatures over a type's records.
    pub fn signatures(&self, rtype: u16) -> impl Iterator<Item = &Record> {
        self.set(rtype::RRSIG).iter().filter(move |r| covered(&r.data) == Some(rtype))
    }

    /// A set, and its signatures where they are asked for.
    pub fn signed(&self, rtype: u16, dnssec_ok: bool) -> Vec<Record> {
        let mut out = self.set(rtype).to_vec();
        if dnssec_ok {
            out.extend(self.signatures(rtype).cloned());
        }
        out
    }

    fn insert(&mut self, record: Record) {
        let rtype = record.data.rtype();
        match self.sets.iter_mut().find(|set| set.0 == rtype) {
            // A set holds nothing twice (RFC 2181 section 5).
            Some((_, set)) => {
                if !set.iter().any(|r| r.data == record.data) {
                    set.push(record);
                }
            }
            None => self.sets.push((rtype, vec![record])),
        }
    }
}

/// The type that a signature is over.
fn covered(data: &Data) -> Option<u16> {
    match data {
        Data::Other(rtype::RRSIG, octets) => octets.first_chunk().map(|b| u16::from_be_bytes(*b)),
        _ => None,
    }
}

/// A zone: immutable, in canonical order.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    soa: Record,
    nodes: BTreeMap<Key, Node>,
    /// Records, the SOA counted once.
    len: usize,
}

/// The names that CoreDNS's file plugin writes in lower case when it takes a record in; SRV stays as it is.
fn lowered(mut record: Record) -> Record {
    if record.data.rtype() != rtype::SRV {
        record.name = record.name.to_lowercase();
    }
    match &mut record.data {
        Data::Ns(name) | Data::Cname(name) | Data::Mx(_, name) => *name = name.to_lowercase(),
        Data::Soa(soa) => {
            soa.mname = soa.mname.to_lowercase();
            soa.rname = soa.rname.to_lowercase();
        }
        _ => {}
    }
    record
}

impl Zone {
    /// A zone of records, in any order. Those outside of `origin` are left out; of several SOAs the last counts.
    ///
    /// # Errors
    /// Where there is no SOA at `origin`, or NSEC3 records.
    pub fn new(origin: &Name, records: impl IntoIterator<Item = Record>) -> Result<Self, ZoneError> {
        let origin = origin.to_lowercase();
        let (mut nodes, mut soa) = (BTreeMap::new(), None);
        for record in records {
            let kind = record.data.rtype();
            if matches!(kind, rtype::NSEC3 | rtype::NSEC3PARAM) {
                return Err(ZoneError::Nsec3(record.name, rtype::name(kind)));
            }
            let record = lowered(record);
            if !record.name.is_within(&origin) {
                continue;
            }
            if kind == rtype::SOA {
                if record.name == origin {
                    soa = Some(record);
                }
                continue;
            }
            let node = nodes
                .entry(Key::of(&record.name))
                .or_insert_with(|| Node { name: record.name.clone(), sets: Vec::new() });
            node.insert(record);
        }
        let soa = soa.ok_or_else(|| ZoneError::NoSoa(origin.clone()))?;
        nodes
            .entry(Key::of(&origin))
            .or_insert_with(|| Node { name: origin.clone(), sets: Vec::new() })
            .insert(soa.clone());
        let len = nodes.values().flat_map(|n| &n.sets).map(|set| set.1.len()).sum();
        Ok(Zone { origin, soa, nodes, len })
    }

    /// Its name, in lower case.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is an SOA.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its SOA record.
    pub fn soa_record(&self) -> &Record {
        &self.soa
    }

    /// Its SOA's data.
    pub fn soa(&self) -> &Soa {
        match &self.soa.data {
            Data::Soa(soa) => soa,
            _ => unreachable!("Zone::new takes the record by its type"),
        }
    }

    /// Its serial.
    pub fn serial(&self) -> u32 {
        self.soa().serial
    }

    /// All records, the apex first with SOA, NS and their signatures at its head, then by name in canonical order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let is_head = |r: &&Record| {
            let kind = covered(&r.data).unwrap_or(r.data.rtype());
            matches!(kind, rtype::SOA | rtype::NS)
        };
        let apex = self.apex();
        let head =
            [rtype::SOA, rtype::NS].into_iter().flat_map(|t| apex.set(t).iter().chain(apex.signatures(t)));
        let rest = apex.sets.iter().flat_map(|set| &set.1).filter(move |r| !is_head(r));
        let below = self.nodes.values().filter(|n| n.name != self.origin);
        head.chain(rest).chain(below.flat_map(|n| n.sets.iter().flat_map(|set| &set.1)))
    }

    /// Its names in canonical order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub(super) fn apex(&self) -> &Node {
        match self.nodes.first_key_value() {
            Some((_, node)) => node,
            None => unreachable!("Zone::new puts the SOA there, and all else is below"),
        }
    }

    pub(super) fn node(&self, name: &Name) -> Option<&Node> {
        self.nodes.get(&Key::of(name))
    }

    /// The name at or before this one whose NSEC says what follows: glue has none (RFC 4035 section 2.3).
    pub(super) fn denying(&self, name: &Name) -> Option<&Node> {
        // Without one at the apex the zone is not signed, and there is nothing to look for.
        if self.apex().set(rtype::NSEC).is_empty() {
            return None;
        }
        let before = self.nodes.range(..=Key::of(name)).rev().map(|(_, node)| node);
        before.into_iter().find(|node| !node.set(rtype::NSEC).is_empty())
    }

    /// Whether names exist below this one: it exists, too, and be it empty (RFC 4592 section 2.2.2).
    pub(super) fn has_below(&self, name: &Name) -> bool {
        let key = Key::of(name);
        let next = self.nodes.range((Bound::Excluded(&key), Bound::Unbounded)).next();
        next.is_some_and(|(below, _)| below.0.starts_with(&key.0))
    }
}
