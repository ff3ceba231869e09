//! Signed messages (TSIG, RFC 8945): requests are checked, answers are signed with the key of their request.

use ring::hmac;
use sha2::{Digest, Sha224};

use crate::message::{Data, Record, rtype};
use crate::name::Name;

/// Seconds that clocks may differ (RFC 8945 section 10).
const FUDGE: u16 = 300;
/// Class ANY.
const ANY: u16 = 255;
/// SHA-224's block in octets.
const BLOCK: usize = 64;

/// What is wrong with a request's signature (RFC 8945 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TsigError {
    /// It is another one, or of an algorithm that is not known.
    #[error("bad signature")]
    BadSig,
    /// Nobody here has the key.
    #[error("bad key")]
    BadKey,
    /// It was made too long ago, or is of the future.
    #[error("bad time")]
    BadTime,
}

impl TsigError {
    /// The number in the record.
    pub fn code(self) -> u16 {
        match self {
            TsigError::BadSig => 16,
            TsigError::BadKey => 17,
            TsigError::BadTime => 18,
        }
    }
}

/// How a signature is made (RFC 8945 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `hmac-sha1`
    Sha1,
    /// `hmac-sha224`
    Sha224,
    /// `hmac-sha256`
    Sha256,
    /// `hmac-sha384`
    Sha384,
    /// `hmac-sha512`
    Sha512,
}

impl Algorithm {
    /// That of a name, letters' case aside.
    pub fn of(name: &Name) -> Option<Self> {
        let labels: Vec<&[u8]> = name.labels().collect();
        let [label] = labels.as_slice() else { return None };
        match label.to_ascii_lowercase().as_slice() {
            b"hmac-sha1" => Some(Algorithm::Sha1),
            b"hmac-sha224" => Some(Algorithm::Sha224),
            b"hmac-sha256" => Some(Algorithm::Sha256),
            b"hmac-sha384" => Some(Algorithm::Sha384),
            b"hmac-sha512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }

    /// Octets of a signature.
    pub fn len(self) -> usize {
        match self {
            Algorithm::Sha1 => 20,
            Algorithm::Sha224 => 28,
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }

    /// Never.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The signature over octets.
    pub fn mac(self, secret: &[u8], octets: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha224 => return sha224(secret, octets),
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha384 => hmac::HMAC_SHA384,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, secret), octets).as_ref().to_vec()
    }
}

/// HMAC (RFC 2104) with SHA-224, which `ring` does not have.
fn sha224(secret: &[u8], octets: &[u8]) -> Vec<u8> {
    let mut key = [0; BLOCK];
    if secret.len() > BLOCK {
        key[..28].copy_from_slice(&Sha224::digest(secret));
    } else {
        key[..secret.len()].copy_from_slice(secret);
    }
    let padded = |octet: u8| key.map(|byte| byte ^ octet);
    let inner = Sha224::new().chain_update(padded(0x36)).chain_update(octets).finalize();
    Sha224::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Whether they are the same, in a time that does not say where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// A TSIG record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tsig {
    key: Name,
    ttl: u32,
    algorithm: Name,
    /// Seconds since 1970, 48 bits.
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    id: u16,
    error: u16,
    other: Vec<u8>,
}

fn put_time(out: &mut Vec<u8>, time: u64, fudge: u16) {
    out.extend_from_slice(&time.to_be_bytes()[2..]);
    out.extend_from_slice(&fudge.to_be_bytes());
}

fn put_counted(out: &mut Vec<u8>, octets: &[u8]) {
    // None of them is longer: signatures and times.
    out.extend_from_slice(&u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(octets);
}

/// Octets that are read from the front.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).and_then(|octets| octets.try_into().ok()).map(u16::from_be_bytes)
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

impl Tsig {
    fn read(record: &Record) -> Option<Self> {
        let Data::Other(rtype::TSIG, data) = &record.data else { return None };
        let mut end = 0;
        while let Some(&len) = data.get(end).filter(|len| **len != 0) {
            end += 1 + usize::from(len);
        }
        let (algorithm, rest) = data.split_at_checked(end + 1)?;
        let mut rest = Octets(rest);
        let time = rest.take(6)?.iter().fold(0, |time, octet| time << 8 | u64::from(*octet));
        let fudge = rest.u16()?;
        let mac = rest.counted()?.to_vec();
        let (id, error) = (rest.u16()?, rest.u16()?);
        let other = rest.counted()?.to_vec();
        let (key, ttl) = (record.name.clone(), record.ttl);
        let algorithm = Name::from_wire(algorithm)?;
        rest.0.is_empty().then_some(Tsig { key, ttl, algorithm, time, fudge, mac, id, error, other })
    }

    /// What is signed beside the message (RFC 8945 section 4.3.3).
    fn variables(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key.to_lowercase().wire());
        out.extend_from_slice(&ANY.to_be_bytes());
        out.extend_from_slice(&self.ttl.to_be_bytes());
        out.extend_from_slice(self.algorithm.to_lowercase().wire());
        put_time(out, self.time, self.fudge);
        out.extend_from_slice(&self.error.to_be_bytes());
        put_counted(out, &self.other);
    }

    /// The record's octets.
    fn wire(&self) -> Vec<u8> {
        let mut data = self.algorithm.wire().to_vec();
        put_time(&mut data, self.time, self.fudge);
        put_counted(&mut data, &self.mac);
        data.extend_from_slice(&self.id.to_be_bytes());
        data.extend_from_slice(&self.error.to_be_bytes());
        put_counted(&mut data, &self.other);
        let mut out = self.key.wire().to_vec();
        out.extend_from_slice(&rtype::TSIG.to_be_bytes());
        out.extend_from_slice(&ANY.to_be_bytes());
        out.extend_from_slice(&self.ttl.to_be_bytes());
        put_counted(&mut out, &data);
        out
    }
}

/// The last record of a message: where it begins, and its type.
fn last_record(message: &[u8]) -> Option<(usize, u16)> {
    let count = |at: usize| message.get(at..at + 2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]));
    let skip_name = |mut at: usize| loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    };
    let mut at = 12;
    for _ in 0..count(4)? {
        at = skip_name(at)? + 4;
    }
    let mut last = None;
    for _ in 0..u32::from(count(6)?) + u32::from(count(8)?) + u32::from(count(10)?) {
        let fixed = skip_name(at)?;
        last = Some((at, count(fixed)?));
        at = fixed + 10 + usize::from(count(fixed + 8)?);
    }
    last
}

/// A signed request.
#[derive(Clone, Debug)]
pub struct Checked {
    tsig: Tsig,
    /// The key, where it is known, and so is the algorithm.
    secret: Option<(Algorithm, Box<[u8]>)>,
    /// What is wrong with it.
    pub error: Option<TsigError>,
}

/// Checks a request: `record` is the last of its additional records. `None`: it is not signed, for the last record of
/// the message is no TSIG. `now` in seconds since 1970.
pub fn check<'a>(
    message: &[u8],
    record: &Record,
    secret: impl FnOnce(&Name) -> Option<&'a [u8]>,
    now: u64,
) -> Option<Checked> {
    let (at, rtype::TSIG) = last_record(message)? else { return None };
    let tsig = Tsig::read(record)?;
    let mut checked = Checked { secret: None, error: None, tsig };
    let tsig = &checked.tsig;
    checked.error = match (secret(&tsig.key), Algorithm::of(&tsig.algorithm)) {
        (None, _) => Some(TsigError::BadKey),
        (Some(_), None) => Some(TsigError::BadSig),
        (Some(secret), Some(algorithm)) => {
            // The message as it was before it was signed.
            let mut octets = message.get(..at)?.to_vec();
            octets[..2].copy_from_slice(&tsig.id.to_be_bytes());
            let additional = u16::from_be_bytes([octets[10], octets[11]]).saturating_sub(1);
            octets[10..12].copy_from_slice(&additional.to_be_bytes());
            tsig.variables(&mut octets);
            checked.secret = Some((algorithm, secret.into()));
            if !same(&algorithm.mac(secret, &octets), &tsig.mac) {
                Some(TsigError::BadSig)
            } else if now.abs_diff(tsig.time) > u64::from(tsig.fudge) {
                Some(TsigError::BadTime)
            } else {
                None
            }
        }
    };
    Some(checked)
}

/// Signs the messages of the answer to a signed request.
#[derive(Clone, Debug)]
pub struct Signer {
    checked: Checked,
    /// The signature before: the request's, or the last message's.
    before: Vec<u8>,
    /// Of the answer.
    messages: usize,
}

impl Signer {
    /// With the request's key; where the request is not right, the answer says why.
    pub fn new(checked: Checked) -> Self {
        let before = checked.tsig.mac.clone();
        Signer { checked, before, messages: 0 }
    }

    /// Octets that a signature adds to a message, at most.
    pub fn room(&self) -> usize {
        let Tsig { key, algorithm, .. } = &self.checked.tsig;
        let mac = self.checked.secret.as_ref().map_or(0, |(algorithm, _)| algorithm.len());
        key.wire().len() + 10 + algorithm.wire().len() + 16 + mac + 6
    }

    /// Puts the record behind a message. `now` in seconds since 1970.
    pub fn sign(&mut self, message: &mut Vec<u8>, now: u64) {
        let (Checked { tsig: asked, secret, error }, id) = (&self.checked, message.get(..2));
        let Some(id) = id.map(|id| u16::from_be_bytes([id[0], id[1]])) else { return };
        let mut tsig = Tsig {
            key: asked.key.clone(),
            ttl: 0,
            algorithm: asked.algorithm.clone(),
            time: now,
            fudge: FUDGE,
            mac: Vec::new(),
            id,
            error: error.map_or(0, TsigError::code),
            other: Vec::new(),
        };
        if *error == Some(TsigError::BadTime) {
            // RFC 8945 section 5.2.3: the client's time, and this server's beside it.
            tsig.time = asked.time;
            tsig.other = now.to_be_bytes()[2..].to_vec();
        }
        match (secret, error) {
            (Some((algorithm, secret)), None | Some(TsigError::BadTime)) => {
                let mut octets = Vec::with_capacity(message.len() + 256);
                put_counted(&mut octets, &self.before);
                octets.extend_from_slice(message);
                if self.messages == 0 {
                    tsig.variables(&mut octets);
                } else {
                    // Those that follow are signed with the time alone (section 5.3.1).
                    put_time(&mut octets, tsig.time, tsig.fudge);
                }
                tsig.mac = algorithm.mac(secret, &octets);
            }
            // Who has not the key is not given a signature with it (section 5.3.2).
            _ => tsig.time = 0,
        }
        self.before.clone_from(&tsig.mac);
        self.messages += 1;
        message.extend(tsig.wire());
        if let Some(count) = message.get_mut(10..12) {
            let more = u16::from_be_bytes([count[0], count[1]]).saturating_add(1);
            count.copy_from_slice(&more.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2202 and RFC 4231, test cases 2 and 6.
    #[test]
    fn macs() {
        let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        for (algorithm, begins) in [
            (Algorithm::Sha1, "effcdf6ae5eb2fa2"),
            (Algorithm::Sha224, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
            (Algorithm::Sha256, "5bdcc146bf60754e"),
            (Algorithm::Sha384, "af45d2e376484031"),
            (Algorithm::Sha512, "164b7a7bfcf819e2"),
        ] {
            let mac = algorithm.mac(b"Jefe", b"what do ya want for nothing?");
            assert!(hex(&mac).starts_with(begins), "{algorithm:?}");
            assert_eq!(mac.len(), algorithm.len());
            let name = format!("HMAC-{algorithm:?}.").parse().unwrap();
            assert_eq!(Algorithm::of(&name), Some(algorithm));
        }
        let long =
            Algorithm::Sha224.mac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(&long), "95e9a0db962095adaebe9b2d6f0dbce2d499f112f2d2b7273fa6870e");
        assert_eq!(Algorithm::of(&"hmac-md5.sig-alg.reg.int.".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_message_has_no_last_record() {
        let header = |counts: [u8; 4]| {
            let mut out = vec![0; 12];
            (0..4).for_each(|at| out[5 + 2 * at] = counts[at]);
            out
        };
        for octets in [vec![], header([1, 0, 0, 0]), header([0, 0, 0, 1]), header([0, 0, 0, 0])] {
            assert_eq!(last_record(&octets), None);
        }
        let mut one = header([0, 0, 0, 1]);
        one.extend([0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0]);
        assert_eq!(last_record(&one), Some((12, 250)));
    }
}
