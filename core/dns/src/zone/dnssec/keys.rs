//! Key pairs as BIND's `dnssec-keygen` writes them: `K<zone>+<algorithm>+<tag>.key` and `.private`.

use std::collections::HashMap;

use base64::Engine;
use ring::rand::SecureRandom;
use ring::rsa;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};

use super::sign::{Rrsig, counted_labels, key_tag, signed_data};
use crate::message::{Data, Record, rtype};
use crate::name::Name;
use crate::zone::error::MasterError;
use crate::zone::master::{no_include, parse};

/// Why files are no key pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The `.key` file does not read.
    #[error(transparent)]
    Public(#[from] MasterError),
    /// The `.key` file holds something else.
    #[error("{0}: there is no DNSKEY record")]
    NoDnskey(String),
    /// The `.private` file's format.
    #[error("{0}: Private-key-format is not v1.2 or v1.3")]
    Format(String),
    /// A line of it.
    #[error("{0}: {1} is missing or no base64")]
    Field(String, &'static str),
    /// An algorithm that nothing here signs with.
    #[error(
        "{0}: algorithm {1} is not supported (8 RSASHA256, 10 RSASHA512, 13 ECDSAP256SHA256, 14 ECDSAP384SHA384, 15 ED25519 are)"
    )]
    Algorithm(String, u8),
    /// The two files are of different keys, or the key is damaged or too short (RSA: 2048 bits).
    #[error("{0}: the private key is not the one of the DNSKEY record, or is not usable: {1}")]
    Rejected(String, String),
}

enum Pair {
    Rsa(Box<RsaKeyPair>, &'static dyn signature::RsaEncoding),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key that signs.
pub struct Key {
    /// Its DNSKEY record.
    pub dnskey: Record,
    /// Its tag.
    pub tag: u16,
    /// Its algorithm.
    pub algorithm: u8,
    flags: u16,
    pair: Pair,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} {})", self.dnskey.name, self.tag)
    }
}

/// `Name: value` lines.
struct Fields<'a> {
    file: &'a str,
    lines: HashMap<String, &'a str>,
}

impl Fields<'_> {
    fn base64(&self, name: &'static str) -> Result<Vec<u8>, KeyError> {
        let missing = || KeyError::Field(self.file.to_owned(), name);
        let text = self.lines.get(&name.to_ascii_lowercase()).ok_or_else(missing)?;
        base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| missing())
    }
}

/// A number without zeroes in front.
fn trimmed(octets: &[u8]) -> &[u8] {
    let zeroes = octets.iter().take_while(|b| **b == 0).count();
    &octets[zeroes..]
}

fn padded(octets: &[u8], len: usize) -> Vec<u8> {
    let number = trimmed(octets);
    let mut out = vec![0; len.saturating_sub(number.len())];
    out.extend_from_slice(number);
    out
}

/// RFC 3110 section 2: the exponent's length, the exponent, the modulus.
fn rsa_public(public: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = match public {
        [0, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [len, rest @ ..] => (usize::from(*len), rest),
        [] => return None,
    };
    rest.split_at_checked(len).map(|(exponent, modulus)| (trimmed(exponent), trimmed(modulus)))
}

impl Key {
    /// Reads a key pair; the names are for errors. `random` blinds.
    ///
    /// # Errors
    /// Where the two are no key pair that can sign.
    pub fn parse(
        public_file: &str,
        public: &str,
        private_file: &str,
        private: &str,
        random: &dyn SecureRandom,
    ) -> Result<Self, KeyError> {
        let records = parse(public_file, public.as_bytes(), &Name::root(), &mut no_include)?;
        let dnskey = records.into_iter().find(|r| r.data.rtype() == rtype::DNSKEY);
        let dnskey = dnskey.ok_or_else(|| KeyError::NoDnskey(public_file.to_owned()))?;
        let octets = dnskey.data.wire();
        let Some((&[high, low, _, algorithm], key)) = octets.split_first_chunk::<4>() else {
            return Err(KeyError::NoDnskey(public_file.to_owned()));
        };
        let file = private_file;
        let lines = private.lines().filter_map(|line| line.split_once(':'));
        let fields =
            Fields { file, lines: lines.map(|(k, v)| (k.trim().to_ascii_lowercase(), v.trim())).collect() };
        if !matches!(fields.lines.get("private-key-format"), Some(&("v1.2" | "v1.3"))) {
            return Err(KeyError::Format(file.to_owned()));
        }
        let rejected = |why: String| KeyError::Rejected(file.to_owned(), why);
        let pair = match algorithm {
            8 | 10 => {
                let (e, n) = rsa_public(key).ok_or_else(|| rejected("the public key is cut short".into()))?;
                let part = |name| fields.base64(name).map(|octets| trimmed(&octets).to_vec());
                let components = rsa::KeyPairComponents {
                    public_key: rsa::PublicKeyComponents { n: n.to_vec(), e: e.to_vec() },
                    d: part("PrivateExponent")?,
                    p: part("Prime1")?,
                    q: part("Prime2")?,
                    dP: part("Exponent1")?,
                    dQ: part("Exponent2")?,
                    qInv: part("Coefficient")?,
                };
                let pair =
                    RsaKeyPair::from_components(&components).map_err(|why| rejected(why.to_string()))?;
                let encoding: &'static dyn signature::RsaEncoding =
                    if algorithm == 8 { &signature::RSA_PKCS1_SHA256 } else { &signature::RSA_PKCS1_SHA512 };
                Pair::Rsa(Box::new(pair), encoding)
            }
            13 | 14 => {
                let (scheme, len) = if algorithm == 13 {
                    (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, 32)
                } else {
                    (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, 48)
                };
                // RFC 6605 section 4: the point without the octet that says that it is uncompressed.
                let point = [&[4], key].concat();
                let secret = padded(&fields.base64("PrivateKey")?, len);
                let pair = EcdsaKeyPair::from_private_key_and_public_key(scheme, &secret, &point, random);
                Pair::Ecdsa(Box::new(pair.map_err(|why| rejected(why.to_string()))?))
            }
            15 => {
                let seed = fields.base64("PrivateKey")?;
                let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, key);
                Pair::Ed25519(Box::new(pair.map_err(|why| rejected(why.to_string()))?))
            }
            other => return Err(KeyError::Algorithm(public_file.to_owned(), other)),
        };
        let (tag, flags) = (key_tag(&octets), u16::from_be_bytes([high, low]));
        Ok(Key { dnskey, tag, algorithm, flags, pair })
    }

    /// It signs keys: a zone key with the SEP bit (RFC 4034 section 2.1.1).
    pub fn is_ksk(&self) -> bool {
        self.flags & 0x101 == 0x101
    }

    /// It signs the rest: a zone key without the SEP bit.
    pub fn is_zsk(&self) -> bool {
        self.flags & 0x101 == 0x100
    }

    /// The public key's octets as `ring` verifies with them (RSA: exponent and modulus are in the DNSKEY record).
    pub fn public(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair, _) => pair.public_key().as_ref(),
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    fn signature(&self, message: &[u8], random: &dyn SecureRandom) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, random, message, &mut out).ok()?;
                Some(out)
            }
            Pair::Ecdsa(pair) => Some(pair.sign(random, message).ok()?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// The RRSIG over a set of records, which have one owner, class and type; times in seconds since 1970. `None`
    /// where there are no records or no randomness.
    pub fn sign(
        &self,
        set: &[Record],
        signer: &Name,
        original_ttl: u32,
        (inception, expiration): (u32, u32),
        random: &dyn SecureRandom,
    ) -> Option<Record> {
        let first = set.first()?;
        let head = Rrsig {
            covered: first.data.rtype(),
            algorithm: self.algorithm,
            labels: counted_labels(&first.name),
            original_ttl,
            expiration,
            inception,
            key_tag: self.tag,
            signer: signer.clone(),
        };
        let mut octets = head.wire();
        octets.extend(self.signature(&signed_data(&head, set), random)?);
        let data = Data::Other(rtype::RRSIG, octets.into());
        Some(Record { name: first.name.clone(), class: first.class, ttl: first.ttl, data })
    }
}
