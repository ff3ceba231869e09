//! The maps' keys and values as the programs see them: `bpf/maps.h` in Rust. All of them are plain numbers without
//! padding.
#![allow(unsafe_code, reason = "the kernel copies keys and values as bytes")]

use sealane_catalog::Protocol;
use sealane_proxy::{Backend, FrontendKey};
use std::net::{IpAddr, Ipv6Addr};

/// An address in network order, IPv4's mapped.
pub(crate) type Address = [u8; 16];

pub(crate) fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(crate) fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

pub(crate) fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub address: Address,
    pub port: [u8; 2],
    pub protocol: u8,
    pub zero: u8,
}

impl From<FrontendKey> for Key {
    fn from(key: FrontendKey) -> Self {
        let protocol = protocol(key.protocol);
        Self { address: address(key.address), port: key.port.to_be_bytes(), protocol, zero: 0 }
    }
}

impl Key {
    /// What it stands for; `None`: nothing of ours.
    pub fn frontend(&self) -> Option<FrontendKey> {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = all.into_iter().find(|p| protocol(*p) == self.protocol)?;
        Some(FrontendKey { address: ip(self.address), protocol, port: u16::from_be_bytes(self.port) })
    }
}

/// A run of the map `backends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub base: u32,
    pub count: u32,
}

/// What a target is.
pub(crate) mod target {
    pub(crate) const BALANCE: u8 = 0;
    pub(crate) const REJECT: u8 = 1;
    pub(crate) const DROP: u8 = 2;
    pub(crate) const ABSENT: u8 = 3;
}

/// Flags of a frontend.
pub(crate) mod flag {
    pub(crate) const AFFINITY: u8 = 1;
    pub(crate) const SOURCES: u8 = 2;
    pub(crate) const CLUSTER: u8 = 4;
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub inside: Range,
    pub outside: Range,
    pub hashes: Range,
    pub id: u32,
    pub affinity: u32,
    pub target: u8,
    pub outside_target: u8,
    pub masquerade: u8,
    pub flags: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub address: Address,
    pub port: [u8; 2],
    pub zero: [u8; 2],
}

impl From<Backend> for Place {
    fn from(backend: Backend) -> Self {
        Self { address: address(backend.address), port: backend.port.to_be_bytes(), zero: [0; 2] }
    }
}

impl Place {
    pub fn backend(&self) -> Backend {
        Backend { address: ip(self.address), port: u16::from_be_bytes(self.port) }
    }
}

/// Where a socket was led that connected, and whom it believes to speak to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Belief {
    pub cookie: u64,
    pub backend: Address,
    pub service: Address,
    pub backend_port: [u8; 2],
    pub service_port: [u8; 2],
    pub zero: u32,
}

/// Directions of a flow from outside.
pub(crate) const COMES: u8 = 0;
pub(crate) const LEAVES: u8 = 1;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrackKey {
    pub source: Address,
    pub destination: Address,
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    pub protocol: u8,
    pub direction: u8,
    pub zero: [u8; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Track {
    pub address: Address,
    pub port: [u8; 2],
    pub masquerade: u16,
}

/// What follows the number of bits in a key of `sources`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub id: u32,
    pub address: Address,
}

macro_rules! plain {
    ($($kind:ty, $size:literal;)*) => {$(
        // Were there padding, the fields would be fewer bytes than the whole.
        const _: () = assert!(size_of::<$kind>() == $size);
        // SAFETY: `repr(C)`, made of integers and arrays of them alone, without padding: any bytes are a value of it,
        // and all of its bytes are initialised.
        unsafe impl aya::Pod for $kind {}
    )*};
}

plain! {
    Key, 20;
    Range, 8;
    Value, 36;
    Place, 20;
    Belief, 48;
    TrackKey, 40;
    Track, 20;
    Source, 20;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, protocol) in
            [("192.0.2.1", Protocol::Tcp), ("2001:db8::1", Protocol::Udp), ("::", Protocol::Sctp)]
        {
            let key = FrontendKey { address: text.parse().unwrap(), protocol, port: 0x1234 };
            let raw = Key::from(key);
            assert_eq!(raw.frontend(), Some(key));
            assert_eq!(raw.port, [0x12, 0x34]);
            let backend = Backend { address: key.address, port: 8080 };
            assert_eq!(Place::from(backend).backend(), backend);
        }
        assert_eq!(address("10.0.0.1".parse().unwrap())[10..], [0xff, 0xff, 10, 0, 0, 1]);
        let icmp = Key { address: [0; 16], port: [0; 2], protocol: 1, zero: 0 };
        assert_eq!(icmp.frontend(), None);
    }
}
