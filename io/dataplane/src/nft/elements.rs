//! Elements of sets and maps: their octets.

use super::expr::Verdict;
use super::layout::{Family, Set, TABLE, kind};
use crate::message::{Attributes, Messages, flags};
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, FrontendKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A list this long gets no more elements: below 64 KiB, which is all that an attribute's length can say.
const LIST: usize = 60 << 10;

pub(crate) fn family(key: &FrontendKey) -> Family {
    if key.address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// IANA's number.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Appends an address as packets carry it.
pub(crate) fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

/// Address, protocol, port; each fills its registers.
pub(crate) fn frontend_octets(key: &FrontendKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    put_address(&mut out, key.address);
    out.extend([protocol_number(key.protocol), 0, 0, 0]);
    out.extend(key.port.to_be_bytes());
    out.extend([0, 0]);
    out
}

/// Address and port, each in its registers.
pub(crate) fn backend_octets(backend: &Backend) -> Vec<u8> {
    let mut out = Vec::with_capacity(20);
    put_address(&mut out, backend.address);
    out.extend(backend.port.to_be_bytes());
    out.extend([0, 0]);
    out
}

fn address_at(bytes: &[u8], family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => bytes.get(..4)?.try_into().ok().map(|o: [u8; 4]| Ipv4Addr::from(o).into()),
        Family::V6 => bytes.get(..16)?.try_into().ok().map(|o: [u8; 16]| Ipv6Addr::from(o).into()),
    }
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

pub(crate) fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Reads what [`frontend_octets`] wrote; with how many bytes that were.
pub(crate) fn read_frontend(bytes: &[u8], family: Family) -> Option<(FrontendKey, usize)> {
    let at = family.octets();
    let protocol = match bytes.get(at)? {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    let key = FrontendKey { address: address_at(bytes, family)?, protocol, port: port_at(bytes, at + 4)? };
    Some((key, at + 8))
}

/// Reads a backend.
pub(crate) fn read_backend(bytes: &[u8], family: Family) -> Option<Backend> {
    Some(Backend { address: address_at(bytes, family)?, port: port_at(bytes, family.octets())? })
}

/// Reads an address.
pub(crate) fn read_address(bytes: &[u8], family: Family) -> Option<IpAddr> {
    address_at(bytes, family)
}

/// Collects elements for one set, as the kernel takes them, and writes them in lists that fit.
#[derive(Debug, Default)]
pub(crate) struct ElementList {
    /// One behind the other.
    written: Vec<u8>,
    /// Where a list ends and the next begins.
    cuts: Vec<usize>,
    length: usize,
}

impl ElementList {
    /// Adds an element; the key of a range is its beginning and its end. No value where it is none of a map, or goes.
    pub(crate) fn push(&mut self, set: Set, key: &[u8], value: &[u8]) {
        let begun = self.cuts.last().copied().unwrap_or(0);
        if self.written.len() - begun > LIST {
            self.cuts.push(self.written.len());
        }
        let half = if set == Set::Sources { key.len() / 2 } else { key.len() };
        let (key, end) = key.split_at(half);
        Attributes::over(&mut self.written).nest(1, |e| {
            e.nest(1, |k| k.bytes(1, key));
            if !end.is_empty() {
                e.nest(10, |k| k.bytes(1, end));
            }
            if !value.is_empty() {
                e.nest(2, |v| v.bytes(1, value));
            }
        });
        self.length += 1;
    }

    /// Elements in it.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Writes messages that add these elements.
    pub(crate) fn add(&self, family: Family, set: Set, out: &mut Messages) {
        self.write(kind::NEW_ELEMENTS, flags::CREATE | flags::EXCLUSIVE, family, set, out);
    }

    /// Writes messages that delete these elements.
    pub(crate) fn delete(&self, family: Family, set: Set, out: &mut Messages) {
        self.write(kind::DELETE_ELEMENTS, 0, family, set, out);
    }

    fn write(&self, kind: u16, flags: u16, family: Family, set: Set, out: &mut Messages) {
        let ends = self.cuts.iter().copied().chain([self.written.len()]);
        let begins = [0].into_iter().chain(self.cuts.iter().copied());
        for (begin, end) in begins.zip(ends).filter(|(begin, end)| begin < end) {
            out.push(kind, flags, family.number(), |a| {
                a.text(1, TABLE);
                a.text(2, set.name());
                a.nest_of(3, &self.written[begin..end]);
            });
        }
    }
}

/// Writes the element that leads from an action's number to its chain.
pub(crate) fn add_action(family: Family, map: Set, number: u32, chain: &str, out: &mut Messages) {
    out.push(kind::NEW_ELEMENTS, flags::CREATE | flags::EXCLUSIVE, family.number(), |a| {
        a.text(1, TABLE);
        a.text(2, map.name());
        a.nest(3, |list| {
            list.nest(1, |e| {
                e.nest(1, |k| k.bytes(1, &number.to_ne_bytes()));
                e.nest(2, |v| Verdict::Goto(chain).write(v));
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::received;

    #[test]
    fn keys_read_back() {
        for address in ["10.96.0.10", "fd00::a"] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let key = FrontendKey { address: address.parse().unwrap(), protocol, port: 53 };
                let bytes = frontend_octets(&key);
                assert_eq!(read_frontend(&bytes, family(&key)), Some((key, bytes.len())));
                assert_eq!(read_frontend(&bytes[..bytes.len() - 4], family(&key)), None);
                let backend = Backend { address: key.address, port: 9153 };
                assert_eq!(read_backend(&backend_octets(&backend), family(&key)), Some(backend));
            }
        }
    }

    #[test]
    fn long_lists_are_cut_below_64_kib() {
        let mut list = ElementList::default();
        for n in 0..5000u32 {
            list.push(Set::Endpoints, &[&[1; 12][..], &n.to_ne_bytes()].concat(), &[2; 8]);
        }
        let mut out = Messages::default();
        list.add(Family::V4, Set::Endpoints, &mut out);
        let mut seen = 0;
        for message in received(out.bytes()) {
            assert!(message.body.len() < 65_000);
            let attributes = message.attributes();
            seen += attributes.nest(3).map_or(0, Iterator::count);
        }
        assert_eq!(seen, 5000);
    }
}
