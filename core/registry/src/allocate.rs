//! ClusterIP and NodePort allocation: pure state, told where to begin to look.
//!
//! Both ranges are split in two bands (KEP-3070 for addresses, KEP-3668 for ports): dynamic allocation takes
//! from the upper band first, so that addresses which people write down in manifests stay free in the lower one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The ranges of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// First address of the Service network, e.g. 10.96.0.0.
    pub service_network: Ipv4Addr,
    /// Its prefix length in bits, 8 to 30.
    pub service_prefix: u8,
    /// So many addresses at its end are no Service's: load balancers have them.
    pub reserved: u32,
    /// First node port.
    pub first_port: u16,
    /// Last node port.
    pub last_port: u16,
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges {
            service_network: Ipv4Addr::new(10, 96, 0, 0),
            service_prefix: 12,
            reserved: 0,
            first_port: 30000,
            last_port: 32767,
        }
    }
}

impl Ranges {
    /// Addresses that may be allocated: without network and broadcast address, and what is reserved.
    fn usable(&self) -> u64 {
        let size = 1u64 << (32 - u32::from(self.service_prefix.min(30)));
        (size - 2).min(size.saturating_sub(u64::from(self.reserved) + 1))
    }

    /// The `n`th address of the range (1: the `kubernetes` Service, 10: DNS).
    pub fn address(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_network).wrapping_add(n))
    }

    /// Whether an address lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.service_prefix)).unwrap_or(0);
        u32::from(address) & mask == u32::from(self.service_network) & mask
    }
}

/// Something taken from a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// A cluster IP.
    Address(Ipv4Addr),
    /// A node port.
    Port(u16),
}

/// Why a claim failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody has it.
    Taken,
    /// It lies outside the range.
    Outside,
    /// The range is used up.
    Full,
}

/// What is taken.
#[derive(Clone, Debug)]
pub struct Allocations {
    ranges: Ranges,
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u16>,
}

impl Allocations {
    /// Nothing is taken.
    pub fn new(ranges: Ranges) -> Self {
        Allocations { ranges, addresses: BTreeSet::new(), ports: BTreeSet::new() }
    }

    /// The ranges.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Takes an address that was asked for.
    ///
    /// # Errors
    /// Taken, or outside the range.
    pub fn take_address(&mut self, address: Ipv4Addr) -> Result<Claim, Refusal> {
        let offset = u32::from(address).wrapping_sub(u32::from(self.ranges.service_network));
        if !self.ranges.contains(address) || offset == 0 || u64::from(offset) > self.ranges.usable() {
            return Err(Refusal::Outside);
        }
        if self.addresses.insert(offset) { Ok(Claim::Address(address)) } else { Err(Refusal::Taken) }
    }

    /// Takes a free address, beginning at a random place in the upper band.
    ///
    /// # Errors
    /// None is free.
    pub fn next_address(&mut self, random: u64) -> Result<Claim, Refusal> {
        let usable = self.ranges.usable();
        // KEP-3070: min(max(16, size / 16), 256) addresses at the bottom are for people.
        let band = if usable <= 16 { 0 } else { (usable / 16).clamp(16, 256) };
        let taken = |offset: u64| self.addresses.contains(&(offset as u32));
        let offset = pick(band + 1, usable, random, taken)
            .or_else(|| pick(1, band, random, taken))
            .ok_or(Refusal::Full)?;
        self.addresses.insert(offset as u32);
        Ok(Claim::Address(self.ranges.address(offset as u32)))
    }

    /// Takes a node port that was asked for.
    ///
    /// # Errors
    /// Taken, or outside the range.
    pub fn take_port(&mut self, port: u16) -> Result<Claim, Refusal> {
        if port < self.ranges.first_port || port > self.ranges.last_port {
            return Err(Refusal::Outside);
        }
        if self.ports.insert(port) { Ok(Claim::Port(port)) } else { Err(Refusal::Taken) }
    }

    /// Takes a free node port, beginning at a random place in the upper band.
    ///
    /// # Errors
    /// None is free.
    pub fn next_port(&mut self, random: u64) -> Result<Claim, Refusal> {
        let (first, last) = (u64::from(self.ranges.first_port), u64::from(self.ranges.last_port));
        let size = last + 1 - first;
        // KEP-3668: min(max(16, size / 32), 128) ports at the bottom are for people.
        let band = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        let taken = |port: u64| self.ports.contains(&(port as u16));
        let port = pick(first + band, last, random, taken)
            .or_else(|| (band > 0).then(|| pick(first, first + band - 1, random, taken)).flatten())
            .ok_or(Refusal::Full)?;
        self.ports.insert(port as u16);
        Ok(Claim::Port(port as u16))
    }

    /// Marks a stored object's claim as taken, whoever has it; claims outside the range are not kept.
    pub fn restore(&mut self, claim: &Claim) {
        // A refusal says that it is there already, or that the ranges have changed since.
        let _ = match claim {
            Claim::Address(address) => self.take_address(*address),
            Claim::Port(port) => self.take_port(*port),
        };
    }

    /// Gives claims back.
    pub fn release<'a>(&mut self, claims: impl IntoIterator<Item = &'a Claim>) {
        for claim in claims {
            match claim {
                Claim::Address(address) => {
                    self.addresses
                        .remove(&u32::from(*address).wrapping_sub(u32::from(self.ranges.service_network)));
                }
                Claim::Port(port) => {
                    self.ports.remove(port);
                }
            }
        }
    }
}

/// The first free number of `first..=last` from a random place on, going around once.
fn pick(first: u64, last: u64, random: u64, taken: impl Fn(u64) -> bool) -> Option<u64> {
    if last < first {
        return None;
    }
    let size = last - first + 1;
    let start = random % size;
    (0..size).map(|i| first + (start + i) % size).find(|n| !taken(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lower_band_is_used_last() {
        // A /24 keeps 16 addresses back: 254 / 16 = 15, at least 16.
        let ranges = Ranges { service_prefix: 24, ..Ranges::default() };
        let mut all = Allocations::new(ranges);
        for i in 0..254 - 16 {
            let Claim::Address(a) = all.next_address(i * 7919).unwrap() else { panic!("not an address") };
            assert!(a.octets()[3] > 16, "{a}");
        }
        let Claim::Address(a) = all.next_address(0).unwrap() else { panic!("not an address") };
        assert_eq!(a, Ipv4Addr::new(10, 96, 0, 1));
        for i in 0..15 {
            all.next_address(i).unwrap();
        }
        assert_eq!(all.next_address(5), Err(Refusal::Full));
    }

    #[test]
    fn the_band_of_node_ports_is_86_wide() {
        let mut all = Allocations::new(Ranges::default());
        for random in [0, 1, 9999, u64::MAX] {
            let Claim::Port(p) = all.next_port(random).unwrap() else { panic!("not a port") };
            assert!(p >= 30086, "{p}");
        }
    }

    #[test]
    fn network_and_broadcast_are_outside() {
        let mut all = Allocations::new(Ranges::default());
        for a in [[10, 96, 0, 0], [10, 111, 255, 255], [10, 112, 0, 1], [10, 95, 255, 255]] {
            assert_eq!(all.take_address(Ipv4Addr::from(a)), Err(Refusal::Outside), "{a:?}");
        }
        assert!(all.take_address(Ipv4Addr::new(10, 96, 0, 10)).is_ok());
        assert_eq!(all.take_address(Ipv4Addr::new(10, 96, 0, 10)), Err(Refusal::Taken));
    }

    #[test]
    fn what_is_reserved_is_nobodys() {
        let mut all = Allocations::new(Ranges { service_prefix: 24, reserved: 32, ..Ranges::default() });
        for random in 0..223 {
            let Claim::Address(a) = all.next_address(random).unwrap() else { panic!("not an address") };
            assert!((1..224).contains(&a.octets()[3]), "{a}");
        }
        assert_eq!(all.next_address(0), Err(Refusal::Full));
        assert_eq!(all.take_address(Ipv4Addr::new(10, 96, 0, 224)), Err(Refusal::Outside));
    }

    proptest! {
        /// Against a plain set: nothing is handed out twice, and what is given back can be had again.
        #[test]
        fn never_twice(steps in proptest::collection::vec((0u8..3, any::<u64>()), 1..400)) {
            let mut all = Allocations::new(Ranges { service_prefix: 26, ..Ranges::default() });
            let mut held: Vec<Claim> = Vec::new();
            for (step, random) in steps {
                match step {
                    0 => if let Ok(claim) = all.next_address(random) {
                        prop_assert!(!held.contains(&claim));
                        held.push(claim);
                    } else {
                        prop_assert_eq!(held.iter().filter(|c| matches!(c, Claim::Address(_))).count(), 62);
                    },
                    1 => {
                        let claim = all.next_port(random).unwrap();
                        prop_assert!(!held.contains(&claim));
                        held.push(claim);
                    }
                    _ => if !held.is_empty() {
                        let claim = held.swap_remove((random % held.len() as u64) as usize);
                        all.release([&claim]);
                        match &claim {
                            Claim::Address(a) => prop_assert_eq!(all.take_address(*a), Ok(claim.clone())),
                            Claim::Port(p) => prop_assert_eq!(all.take_port(*p), Ok(claim.clone())),
                        }
                        all.release([&claim]);
                    }
                }
            }
        }
    }
}
