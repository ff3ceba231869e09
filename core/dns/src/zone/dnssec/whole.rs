//! A zone signed as a whole (RFC 4035 section 2): what `sign` writes to disk.

use ring::digest;
use ring::rand::SecureRandom;

use super::keys::Key;
use super::sign::Rrsig;
use crate::message::presentation::type_bits;
use crate::message::{Data, Record, rtype};
use crate::name::Name;
use crate::zone::master::{no_include, parse};
use crate::zone::tree::{Zone, ZoneError};

const CDS: u16 = 59;
const CDNSKEY: u16 = 60;
/// What is made anew.
const MADE: [u16; 5] = [rtype::RRSIG, rtype::NSEC, rtype::DNSKEY, CDS, CDNSKEY];

/// Signed again when this long ago (`plugin/sign/sign.go`), …
const RESIGNED: u64 = 6 * 86_400;
/// … or when less than this is left.
const LEFT: u64 = 7 * 86_400;
/// The SOA is looked for among so many records.
const FIRST: usize = 100;

/// A zone that is being signed.
#[derive(Debug)]
pub struct Whole {
    zone: Zone,
    /// Sets that have no signatures yet.
    todo: Vec<Vec<Record>>,
    made: Vec<Record>,
    period: (u32, u32),
}

/// A key's digest, for the parent to take (RFC 7344).
fn cds(origin: &Name, key: &Key, number: u8, algorithm: &'static digest::Algorithm) -> Data {
    let octets = [origin.to_lowercase().wire(), &key.dnskey.data.wire()].concat();
    let mut data = key.tag.to_be_bytes().to_vec();
    data.extend([key.algorithm, number]);
    data.extend(digest::digest(algorithm, &octets).as_ref());
    Data::Other(CDS, data.into())
}

impl Whole {
    /// Begins: the zone with the keys in it, `serial` as its serial, and the NSEC records of its names.
    ///
    /// # Errors
    /// Where the records are no zone.
    pub fn new(zone: &Zone, keys: &[Key], serial: u32, period: (u32, u32)) -> Result<Self, ZoneError> {
        let origin = zone.origin().clone();
        let (mut soa, ttl) = (zone.soa_record().clone(), zone.soa_record().ttl);
        let minimum = zone.soa().minimum.min(ttl);
        if let Data::Soa(data) = &mut soa.data {
            data.serial = serial;
        }
        let kept =
            |record: &&Record| record.data.rtype() != rtype::SOA && !MADE.contains(&record.data.rtype());
        let mut records: Vec<Record> = zone.records().filter(kept).cloned().chain([soa]).collect();
        for key in keys {
            let own = [
                key.dnskey.data.clone(),
                cds(&origin, key, 1, &digest::SHA1_FOR_LEGACY_USE_ONLY),
                cds(&origin, key, 2, &digest::SHA256),
                Data::Other(CDNSKEY, key.dnskey.data.wire().into()),
            ];
            records.extend(own.map(|data| Record::new(origin.clone(), ttl, data)));
        }
        let zone = Zone::new(&origin, records)?;
        let (mut names, mut todo) = (Vec::new(), Vec::new());
        let mut cut: Option<&Name> = None;
        for node in zone.nodes() {
            // What is below a cut is another zone's.
            if cut.is_some_and(|cut| node.name.is_within(cut)) {
                continue;
            }
            let is_cut = node.name != origin && !node.set(rtype::NS).is_empty();
            cut = is_cut.then_some(&node.name);
            let mut types = vec![rtype::RRSIG, rtype::NSEC];
            for set in node.sets() {
                let kind = set.first().map_or(0, |record| record.data.rtype());
                // At a cut the addresses are glue, and the name servers the child's to sign.
                if !is_cut || matches!(kind, rtype::NS | rtype::DS) {
                    types.push(kind);
                }
                if !is_cut || kind == rtype::DS {
                    todo.push(set.to_vec());
                }
            }
            names.push((node.name.clone(), types));
        }
        let next = names.iter().map(|(name, _)| name).cycle().skip(1);
        let mut made = Vec::new();
        for ((name, types), next) in names.iter().zip(next) {
            let data = [next.to_lowercase().wire(), &type_bits(types)].concat();
            let nsec = Record::new(name.clone(), minimum, Data::Other(rtype::NSEC, data.into()));
            todo.push(vec![nsec.clone()]);
            made.push(nsec);
        }
        Ok(Whole { zone, todo, made, period })
    }

    /// Signs so many sets more. `Some(true)`: all are; `None`: a key can't sign.
    pub fn go_on(&mut self, keys: &[Key], sets: usize, random: &dyn SecureRandom) -> Option<bool> {
        for set in self.todo.split_off(self.todo.len().saturating_sub(sets)) {
            let ttl = set.first().map_or(0, |record| record.ttl);
            for key in keys {
                self.made.push(key.sign(&set, self.zone.origin(), ttl, self.period, random)?);
            }
        }
        Some(self.todo.is_empty())
    }

    /// The zone as it is then: its master file's text.
    ///
    /// # Errors
    /// Where the records are no zone.
    pub fn text(self) -> Result<String, ZoneError> {
        let all = self.zone.records().cloned().chain(self.made);
        let zone = Zone::new(self.zone.origin(), all.collect::<Vec<_>>())?;
        Ok(zone.records().map(|record| format!("{record}\n")).collect())
    }
}

/// Why a zone has to be signed again, by the signatures of its SOA; `None`: they last. `now` in seconds since 1970.
pub fn outdated(file: &str, text: &str, now: u64) -> Option<String> {
    let records = match parse(file, text.as_bytes(), &Name::root(), &mut no_include) {
        Ok(records) => records,
        Err(why) => return Some(why.to_string()),
    };
    let heads = records.iter().take(FIRST).filter_map(|record| Rrsig::from_data(&record.data));
    let mut signed = false;
    for (head, _) in heads.filter(|(head, _)| head.covered == rtype::SOA) {
        signed = true;
        let (begins, ends) = (u64::from(head.inception), u64::from(head.expiration));
        if begins > now {
            return Some(format!("its signature begins in {} s", begins - now));
        }
        if now - begins > RESIGNED {
            return Some(format!("its signature began {} s ago, more than {RESIGNED}", now - begins));
        }
        if ends < now + LEFT {
            return Some(format!("its signature ends in less than {LEFT} s"));
        }
    }
    (!signed).then(|| format!("no SOA RRSIG found in first {FIRST} records"))
}
