//! ClusterIP and NodePort allocation: pure state, told where to begin to look.
//!
//! Both ranges are split in two bands (KEP-3070 for addresses, KEP-3668 for ports): dynamic allocation takes
//! from the upper band first, so that addresses which people write down in manifests stay free in the lower one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The ranges of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// First address of the Service network, e.g. 10.96.0.0.
    pub service_network: Ipv4Addr,
    /// Its prefix length in bits, 8 to 30.
    pub service_prefix: u8,
    /// So many addresses at its end are no Service's: load balancers have them.
    pub reserved: u32,
    /// The IPv6 range of a dual-stack cluster: its first address, and its prefix length in bits, 65 to 126.
    pub second: Option<(Ipv6Addr, u8)>,
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
            second: None,
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

    /// Addresses of the IPv6 range that may be allocated: it has no broadcast address.
    fn usable_ipv6(&self) -> u64 {
        self.second.map_or(0, |(_, prefix)| u64::MAX >> (u32::from(prefix.clamp(65, 126)) - 64))
    }

    /// How far an address is into its family's range; `None` where nobody may have it.
    fn offset(&self, address: IpAddr) -> Option<u64> {
        let (offset, usable) = match address {
            IpAddr::V4(v4) if self.contains(v4) => {
                (u64::from(u32::from(v4).wrapping_sub(u32::from(self.service_network))), self.usable())
            }
            IpAddr::V4(_) => return None,
            IpAddr::V6(v6) => {
                let (network, _) = self.second?;
                let offset = u128::from(v6).checked_sub(network.into())?;
                (u64::try_from(offset).ok()?, self.usable_ipv6())
            }
        };
        (1..=usable).contains(&offset).then_some(offset)
    }

    /// Families of Services, the default first.
    pub fn families(&self) -> &'static [&'static str] {
        if self.second.is_some() { &["IPv4", "IPv6"] } else { &["IPv4"] }
    }

    /// The ranges as ServiceCIDRs have them.
    pub fn texts(&self) -> Vec<String> {
        let first = format!("{}/{}", self.service_network, self.service_prefix);
        let second = self.second.map(|(network, prefix)| format!("{network}/{prefix}"));
        [first].into_iter().chain(second).collect()
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
    Address(IpAddr),
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
    /// By how far they are into the range of their family, IPv4 first.
    addresses: [BTreeSet<u64>; 2],
    ports: BTreeSet<u16>,
}

impl Allocations {
    /// Nothing is taken.
    pub fn new(ranges: Ranges) -> Self {
        Allocations { ranges, addresses: [BTreeSet::new(), BTreeSet::new()], ports: BTreeSet::new() }
    }

    /// The ranges.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Takes an address that was asked for.
    ///
    /// # Errors
    /// Taken, or outside the range.
    pub fn take_address(&mut self, address: IpAddr) -> Result<Claim, Refusal> {
        let offset = self.ranges.offset(address).ok_or(Refusal::Outside)?;
        let fresh = self.addresses[usize::from(address.is_ipv6())].insert(offset);
        if fresh { Ok(Claim::Address(address)) } else { Err(Refusal::Taken) }
    }

    /// Takes a free address of a family, beginning at a random place in the upper band.
    ///
    /// # Errors
    /// None is free.
    pub fn next_address(&mut self, ipv6: bool, random: u64) -> Result<Claim, Refusal> {
        let usable = if ipv6 { self.ranges.usable_ipv6() } else { self.ranges.usable() };
        // KEP-3070: min(max(16, size / 16), 256) addresses at the bottom are for people.
        let band = if usable <= 16 { 0 } else { (usable / 16).clamp(16, 256) };
        let taken = |offset: u64| self.addresses[usize::from(ipv6)].contains(&offset);
        let offset = pick(band + 1, usable, random, taken)
            .or_else(|| pick(1, band, random, taken))
            .ok_or(Refusal::Full)?;
        let address = match self.ranges.second.filter(|_| ipv6) {
            Some((network, _)) => Ipv6Addr::from(u128::from(network) + u128::from(offset)).into(),
            None => self.ranges.address(offset as u32).into(),
        };
        self.addresses[usize::from(ipv6)].insert(offset);
        Ok(Claim::Address(address))
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
                    if let Some(offset) = self.ranges.offset(*address) {
                        self.addresses[usize::from(address.is_ipv6())].remove(&offset);
                    }
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

    fn last(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        }
    }

    #[test]
    fn two_families_have_a_range_each() {
        let second = Some(("fd00:10:96::".parse().unwrap(), 108));
        let mut all = Allocations::new(Ranges { second, ..Ranges::default() });
        let inside = "fd00:10:96::/108";
        for random in [0, 1, u64::MAX] {
            let Claim::Address(a) = all.next_address(true, random).unwrap() else { panic!("not an address") };
            assert!(a.to_string().starts_with("fd00:10:96::"), "{a} is not in {inside}");
            assert!(
                all.ranges.offset(a).is_some_and(|o| o > 256),
                "{a}: the band of asked addresses is 256 wide"
            );
            assert_eq!(all.take_address(a), Err(Refusal::Taken));
            all.release([&Claim::Address(a)]);
            assert_eq!(all.take_address(a), Ok(Claim::Address(a)));
        }
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, refusal) in [
            ("fd00:10:96::", Some(Refusal::Outside)),
            ("fd00:10:96::1", None),
            ("fd00:10:96::f:ffff", None),
            ("fd00:10:96::10:0", Some(Refusal::Outside)),
            ("fd00:10:95::1", Some(Refusal::Outside)),
            ("::1", Some(Refusal::Outside)),
        ] {
            assert_eq!(all.take_address(ip(address)).err(), refusal, "{address}");
        }
        let mut single = Allocations::new(Ranges::default());
        assert_eq!(single.take_address(ip("fd00:10:96::1")), Err(Refusal::Outside));
        assert_eq!(single.next_address(true, 1), Err(Refusal::Full));
    }

    #[test]
    fn the_lower_band_is_used_last() {
        // A /24 keeps 16 addresses back: 254 / 16 = 15, at least 16.
        let ranges = Ranges { service_prefix: 24, ..Ranges::default() };
        let mut all = Allocations::new(ranges);
        for i in 0..254 - 16 {
            let Claim::Address(a) = all.next_address(false, i * 7919).unwrap() else {
                panic!("not an address")
            };
            assert!(last(a) > 16, "{a}");
        }
        let Claim::Address(a) = all.next_address(false, 0).unwrap() else { panic!("not an address") };
        assert_eq!(a, Ipv4Addr::new(10, 96, 0, 1));
        for i in 0..15 {
            all.next_address(false, i).unwrap();
        }
        assert_eq!(all.next_address(false, 5), Err(Refusal::Full));
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
            assert_eq!(all.take_address(Ipv4Addr::from(a).into()), Err(Refusal::Outside), "{a:?}");
        }
        assert!(all.take_address(Ipv4Addr::new(10, 96, 0, 10).into()).is_ok());
        assert_eq!(all.take_address(Ipv4Addr::new(10, 96, 0, 10).into()), Err(Refusal::Taken));
    }

    #[test]
    fn what_is_reserved_is_nobodys() {
        let mut all = Allocations::new(Ranges { service_prefix: 24, reserved: 32, ..Ranges::default() });
        for random in 0..223 {
            let Claim::Address(a) = all.next_address(false, random).unwrap() else {
                panic!("not an address")
            };
            assert!((1..224).contains(&last(a)), "{a}");
        }
        assert_eq!(all.next_address(false, 0), Err(Refusal::Full));
        assert_eq!(all.take_address(Ipv4Addr::new(10, 96, 0, 224).into()), Err(Refusal::Outside));
    }

    proptest! {
        /// Against a plain set: nothing is handed out twice, and what is given back can be had again.
        #[test]
        fn never_twice(steps in proptest::collection::vec((0u8..3, any::<u64>()), 1..400)) {
            let mut all = Allocations::new(Ranges { service_prefix: 26, ..Ranges::default() });
            let mut held: Vec<Claim> = Vec::new();
            for (step, random) in steps {
                match step {
                    0 => if let Ok(claim) = all.next_address(false, random) {
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
