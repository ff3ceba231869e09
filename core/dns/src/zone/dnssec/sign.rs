//! What a signature is over (RFC 4034 sections 3.1.8.1 and 6).

use crate::message::{Data, Record, presentation, rtype};
use crate::name::Name;

/// RRSIG's data before its signature (RFC 4034 section 3.1); times in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rrsig {
    /// The type of the records.
    pub covered: u16,
    /// The key's algorithm.
    pub algorithm: u8,
    /// Labels of the owner, without root and `*`.
    pub labels: u8,
    /// The TTL that is signed.
    pub original_ttl: u32,
    /// Valid until.
    pub expiration: u32,
    /// Valid from.
    pub inception: u32,
    /// Which key, about.
    pub key_tag: u16,
    /// The zone.
    pub signer: Name,
}

impl Rrsig {
    /// Reads RRSIG's data: what is signed, and the signature.
    pub fn from_data(data: &Data) -> Option<(Self, &[u8])> {
        let Data::Other(rtype::RRSIG, octets) = data else { return None };
        let (fixed, rest) = octets.split_at_checked(18)?;
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let mut len = 0;
        while let Some(&label) = rest.get(len).filter(|l| **l != 0) {
            len += 1 + usize::from(label);
        }
        let (signer, signature) = rest.split_at_checked(len + 1)?;
        let head = Rrsig {
            covered: u16::from_be_bytes([fixed[0], fixed[1]]),
            algorithm: fixed[2],
            labels: fixed[3],
            original_ttl: word(4),
            expiration: word(8),
            inception: word(12),
            key_tag: u16::from_be_bytes([fixed[16], fixed[17]]),
            signer: Name::from_wire(signer)?,
        };
        Some((head, signature))
    }

    /// The octets, the signer in lower case.
    pub fn wire(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&self.covered.to_be_bytes());
        out.extend_from_slice(&[self.algorithm, self.labels]);
        for n in [self.original_ttl, self.expiration, self.inception] {
            out.extend_from_slice(&n.to_be_bytes());
        }
        out.extend_from_slice(&self.key_tag.to_be_bytes());
        out.extend_from_slice(self.signer.to_lowercase().wire());
        out
    }
}

/// The octets that a signature over a set of records is made of: all have one owner, class and type.
pub fn signed_data(head: &Rrsig, set: &[Record]) -> Vec<u8> {
    let mut out = head.wire();
    let Some(first) = set.first() else { return out };
    // In the order of their data, nothing twice (RFC 4034 section 6.3).
    let mut datas: Vec<Vec<u8>> = set.iter().map(|record| presentation::canonical(&record.data)).collect();
    datas.sort();
    datas.dedup();
    let owner = owner(&first.name, head.labels).to_lowercase();
    for data in datas {
        out.extend_from_slice(owner.wire());
        out.extend_from_slice(&first.data.rtype().to_be_bytes());
        out.extend_from_slice(&first.class.to_be_bytes());
        out.extend_from_slice(&head.original_ttl.to_be_bytes());
        out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&data);
    }
    out
}

/// The labels that a signature counts: without the root, and without `*` in front.
pub(super) fn counted_labels(name: &Name) -> u8 {
    let labels = name.labels().count() - usize::from(name.labels().next() == Some(b"*"));
    u8::try_from(labels).unwrap_or(u8::MAX)
}

/// The owner as it is signed: a name that a wildcard stands for is signed as the wildcard (RFC 4035 section 5.3.2).
fn owner(name: &Name, labels: u8) -> Name {
    let all: Vec<&[u8]> = name.labels().collect();
    match all.len().checked_sub(usize::from(labels)) {
        Some(extra) if extra > 0 => {
            let kept = all[extra..].iter().copied();
            Name::from_labels([b"*".as_slice()].into_iter().chain(kept)).unwrap_or_else(|_| name.clone())
        }
        _ => name.clone(),
    }
}

/// The tag of a key (RFC 4034 appendix B) by DNSKEY's octets. Algorithm 1 has another one and is not known here.
pub fn key_tag(dnskey: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in dnskey.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    sum += sum >> 16;
    u16::try_from(sum & 0xffff).unwrap_or(0)
}
