//! [`Name`]: a domain name as it stands on the wire, letters' case kept (0x20), compared without it (RFC 4343).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Longest name in octets, the root's included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label in octets.
pub const MAX_LABEL: usize = 63;

/// A domain name, always absolute. A copy shares its octets.
#[derive(Clone)]
pub struct Name(Arc<[u8]>);

/// Why a text is no domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// `a..b`
    #[error("empty label")]
    EmptyLabel,
    /// Over 63 octets.
    #[error("label longer than 63 octets")]
    LabelTooLong,
    /// Over 255 octets.
    #[error("name longer than 255 octets")]
    TooLong,
    /// A backslash without three digits up to 255 or a character behind it.
    #[error("bad escape")]
    BadEscape,
}

impl Name {
    /// `.`
    pub fn root() -> Self {
        Name(Arc::new([0]))
    }

    /// From an uncompressed encoding that ends with the root label; `None` where it is not one.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let mut at = 0;
        while let Some(&len) = wire.get(at) {
            if len == 0 {
                return (at + 1 == wire.len() && wire.len() <= MAX_NAME).then(|| Name(wire.into()));
            }
            if usize::from(len) > MAX_LABEL {
                return None;
            }
            at += 1 + usize::from(len);
        }
        None
    }

    /// From labels, the leftmost first.
    ///
    /// # Errors
    /// Where a label or the whole is too long, or a label is empty.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            match label.len() {
                0 => return Err(NameError::EmptyLabel),
                len if len > MAX_LABEL => return Err(NameError::LabelTooLong),
                len => wire.push(u8::try_from(len).map_err(|_| NameError::LabelTooLong)?),
            }
            wire.extend_from_slice(label);
        }
        wire.push(0);
        if wire.len() > MAX_NAME { Err(NameError::TooLong) } else { Ok(Name(wire.into())) }
    }

    /// The wire form, uncompressed, with the root label.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, leftmost first, without the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// In lower case.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        Name(self.0.iter().map(u8::to_ascii_lowercase).collect())
    }

    /// Whether it is `zone` or below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        zone.is_around(&self.0)
    }

    /// Whether a name in wire form is this one or below it.
    pub(crate) fn is_around(&self, wire: &[u8]) -> bool {
        self.tail(wire).is_some()
    }

    /// The offset at which this name begins in another one's wire form; `None` where that is not within it.
    fn tail(&self, wire: &[u8]) -> Option<usize> {
        let mut at = 0;
        let want = self.0.len();
        while wire.len() - at > want {
            at += 1 + usize::from(wire[at]);
        }
        (wire.len() - at == want && wire[at..].eq_ignore_ascii_case(&self.0)).then_some(at)
    }

    /// The zone as it is spelled in this name (its case), `None` where the name is not within it.
    pub fn zone_as_asked(&self, zone: &Name) -> Option<Name> {
        zone.tail(&self.0).map(|at| Name(self.0[at..].into()))
    }

    /// The labels left of `zone`, `None` where the name is not within it.
    pub fn within(&self, zone: &Name) -> Option<Vec<&[u8]>> {
        let at = zone.tail(&self.0)?;
        Some(Labels(&self.0[..at]).collect())
    }

    /// `prefix` (labels) in front of this name; the name alone where that would be too long.
    #[must_use]
    pub fn under(&self, prefix: &[&str]) -> Name {
        let labels = prefix.iter().map(|l| l.as_bytes()).chain(self.labels());
        Name::from_labels(labels).unwrap_or_else(|_| self.clone())
    }

    /// The name under `in-addr.arpa` or `ip6.arpa` that stands for an address.
    pub fn of_address(ip: std::net::IpAddr) -> Name {
        let (labels, suffix): (Vec<String>, _) = match ip {
            std::net::IpAddr::V4(ip) => (ip.octets().iter().rev().map(u8::to_string).collect(), "in-addr"),
            std::net::IpAddr::V6(ip) => {
                let digits = ip.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
                (digits.map(|digit| format!("{digit:x}")).collect(), "ip6")
            }
        };
        let labels = labels.iter().map(String::as_str).chain([suffix, "arpa"]);
        // 73 octets at most.
        Name::from_labels(labels.map(str::as_bytes)).unwrap_or_else(|_| Name::root())
    }

    /// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for, where it is a whole one.
    pub fn reverse_address(&self) -> Option<std::net::IpAddr> {
        let labels: Vec<&[u8]> = self.labels().collect();
        let [rest @ .., kind, arpa] = labels.as_slice() else { return None };
        if !arpa.eq_ignore_ascii_case(b"arpa") {
            return None;
        }
        if kind.eq_ignore_ascii_case(b"in-addr") && rest.len() == 4 {
            let mut octets = [0u8; 4];
            for (octet, label) in octets.iter_mut().rev().zip(rest) {
                *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
            }
            return Some(octets.into());
        }
        if kind.eq_ignore_ascii_case(b"ip6") && rest.len() == 32 {
            let mut address = 0u128;
            for label in rest.iter().rev() {
                let [digit] = label else { return None };
                address = address << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            return Some(std::net::Ipv6Addr::from(address).into());
        }
        None
    }
}

/// Iterates over labels.
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        let (&len, rest) = self.0.split_first()?;
        if len == 0 || usize::from(len) > rest.len() {
            return None;
        }
        let (label, rest) = rest.split_at(usize::from(len));
        self.0 = rest;
        Some(label)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        // Length octets are below 'A', so folding case leaves them alone.
        self.0.eq_ignore_ascii_case(&other.0)
    }
}
impl Eq for Name {}
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.0.iter() {
            state.write_u8(byte.to_ascii_lowercase());
        }
    }
}

/// Presentation format (RFC 1035 section 5.1): `a.b.`, odd octets escaped.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' | b' ' | b'\'' => {
                        write!(f, "\\{}", char::from(byte))?;
                    }
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Presentation format; the last dot may be missing.
impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "." || text.is_empty() {
            return Ok(Name::root());
        }
        let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'.' => {
                    labels.push(Vec::new());
                    continue;
                }
                b'\\' => unescape(&mut bytes)?,
                byte => byte,
            };
            if let Some(label) = labels.last_mut() {
                label.push(byte);
            }
        }
        if labels.last().is_some_and(Vec::is_empty) {
            labels.pop();
        }
        Name::from_labels(labels.iter().map(Vec::as_slice))
    }
}

fn unescape(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::BadEscape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::BadEscape)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::BadEscape)
}
