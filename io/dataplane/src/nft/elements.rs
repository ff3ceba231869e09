//! Elements of sets and maps: how a frontend is laid out in them.

use super::action::OUTSIDE_OFFSET;
use super::expr::Verdict;
use super::layout::{Family, Set, TABLE, kind, octets};
use crate::message::{Messages, flags};
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, Frontend, FrontendKey};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Below 64 KiB, which is all that an attribute's length can say.
const LIST: usize = 48 << 10;
/// Bytes of attribute headers around a key and a value.
const FRAMING: usize = 24;

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

/// Address, protocol, port; each fills its registers.
pub(crate) fn frontend_octets(key: &FrontendKey) -> Vec<u8> {
    let mut out = octets(key.address);
    out.extend([protocol_number(key.protocol), 0, 0, 0]);
    out.extend(key.port.to_be_bytes());
    out.extend([0, 0]);
    out
}

fn backend_octets(backend: &Backend) -> Vec<u8> {
    let mut out = octets(backend.address);
    out.extend(backend.port.to_be_bytes());
    out.extend([0, 0]);
    out
}

fn endpoint_octets(frontend: &[u8], index: u32) -> Vec<u8> {
    [frontend, &index.to_ne_bytes()].concat()
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

/// A frontend's elements with their values, but for those that frontends share (cluster, hairpin).
pub(crate) type Elements = BTreeMap<(Set, Vec<u8>), Vec<u8>>;

/// Lays a frontend out; `actions` are the numbers of what serves it, and of what serves those outside.
pub(crate) fn elements(frontend: &Frontend, actions: (u32, Option<u32>)) -> Elements {
    let key = frontend_octets(&frontend.key);
    let mut out = Elements::new();
    if let Some(outside) = actions.1 {
        out.insert((Set::Outside, key.clone()), outside.to_ne_bytes().to_vec());
    }
    let inside = frontend.target.backends().iter().zip(0u32..);
    let outside = frontend.outside.iter().flat_map(|t| t.backends()).zip(OUTSIDE_OFFSET..);
    for (backend, index) in inside.chain(outside) {
        let value = backend_octets(backend);
        if frontend.affinity.is_some() {
            out.insert((Set::Members, [&key[..], &value[..]].concat()), Vec::new());
        }
        out.insert((Set::Endpoints, endpoint_octets(&key, index)), value);
    }
    for range in frontend.sources.iter().flat_map(|r| r.iter()) {
        let [first, last] = [range.network(), range.last()].map(|a| [&key[..], &octets(a)].concat());
        // Where a range begins and where it ends, in one.
        out.insert((Set::Sources, [first, last].concat()), Vec::new());
    }
    out.insert((Set::Services, key), actions.0.to_ne_bytes().to_vec());
    out
}

/// Collects elements for one set and writes them in lists that fit.
#[derive(Debug, Default)]
pub(crate) struct ElementList {
    pending: Vec<(Vec<u8>, Vec<u8>)>,
}

impl ElementList {
    pub(crate) fn push(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.pending.push((key, value));
    }

    /// Elements in it.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
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
        let Some((key, value)) = self.pending.first() else { return };
        let per_list = (LIST / (key.len() + value.len() + FRAMING)).max(1);
        for part in self.pending.chunks(per_list) {
            out.push(kind, flags, family.number(), |a| {
                a.text(1, TABLE);
                a.text(2, set.name());
                a.nest(3, |list| {
                    for (key, value) in part {
                        // A range's key is its beginning and its end.
                        let half = if set == Set::Sources { key.len() / 2 } else { key.len() };
                        let (key, end) = key.split_at(half);
                        list.nest(1, |e| {
                            e.nest(1, |k| k.bytes(1, key));
                            if !end.is_empty() {
                                e.nest(10, |k| k.bytes(1, end));
                            }
                            if !value.is_empty() {
                                e.nest(2, |v| v.bytes(1, value));
                            }
                        });
                    }
                });
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
            list.push(endpoint_octets(&[1; 12], n), vec![2; 8]);
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
