//! [`Pool`]: the addresses that load balancers may have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses of one family from a first to a last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// Ranges of addresses, as they were written: `10.112.0.0/24,10.9.0.5-10.9.0.20,fd00::/120`. Of a range with a prefix
/// the network's own address and IPv4's broadcast address are nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    text: String,
    ranges: Vec<Range>,
}

/// Why a text is no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a range like 10.112.0.0/24 nor one like 10.112.0.10-10.112.0.20")]
pub struct PoolError(String);

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Of the family of `like`; numbers beyond it do not come up.
fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Range {
    fn read(text: &str) -> Option<Self> {
        if let Some((network, bits)) = text.split_once('/') {
            let (network, bits) = (network.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            let free = width(network).checked_sub(bits)?;
            let host_bits = 1u128.checked_shl(free.into()).map_or(u128::MAX, |size| size - 1);
            let (first, last) = (number(network) & !host_bits, number(network) | host_bits);
            let (first, last) = match (free, network) {
                (0 | 1, _) => (first, last),
                (_, IpAddr::V4(_)) => (first + 1, last - 1),
                // RFC 4291, section 2.6.1: the first address is any router's.
                (_, IpAddr::V6(_)) => (first + 1, last),
            };
            return Some(Range { first: address(network, first), last: address(network, last) });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse::<IpAddr>().ok()?, last.trim().parse::<IpAddr>().ok()?);
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Range { first, last })
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let ranges = parts.map(|part| Range::read(part).ok_or_else(|| PoolError(part.to_owned())));
        Ok(Pool { text: text.to_owned(), ranges: ranges.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pool {
    /// Whether it has no addresses at all.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether it has addresses of a family.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.ranges.iter().any(|range| range.first.is_ipv6() == ipv6)
    }

    /// The first address of a family that is not taken; `taken` gives those of a range in ascending order.
    pub fn first_free<I: Iterator<Item = IpAddr>>(
        &self,
        ipv6: bool,
        taken: impl Fn(IpAddr, IpAddr) -> I,
    ) -> Option<IpAddr> {
        self.ranges.iter().filter(|range| range.first.is_ipv6() == ipv6).find_map(|range| {
            let mut free = number(range.first);
            for held in taken(range.first, range.last) {
                if number(held) > free {
                    break;
                }
                free = number(held) + 1;
            }
            (free <= number(range.last)).then(|| address(range.first, free))
        })
    }

    /// The fewest networks that hold exactly its addresses: first address and prefix length in bits.
    pub fn networks(&self) -> Vec<(IpAddr, u8)> {
        let mut networks = Vec::new();
        for range in &self.ranges {
            let (mut first, last) = (number(range.first), number(range.last));
            loop {
                // The largest network that begins here and does not reach beyond the end.
                let aligned = first.trailing_zeros().min(width(range.first).into());
                let size = (last - first).checked_add(1).map_or(127, u128::ilog2);
                let free = aligned.min(size);
                networks.push((address(range.first, first), width(range.first) - free as u8));
                match first.checked_add(1 << free) {
                    Some(next) if next <= last => first = next,
                    _ => break,
                }
            }
        }
        networks
    }
}

/// What Services of type LoadBalancer get their addresses from. With both pools empty they are somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// For everybody.
    pub external: Pool,
    /// For Services that say that they are internal.
    pub internal: Pool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pool(text: &str) -> Pool {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read() {
        for (text, inside, outside) in [
            ("10.1.0.0/24", &["10.1.0.1", "10.1.0.254"][..], &["10.1.0.0", "10.1.0.255", "10.1.1.1"][..]),
            ("10.1.0.5-10.1.0.7", &["10.1.0.5", "10.1.0.7"], &["10.1.0.4", "10.1.0.8", "::1"]),
            ("10.1.0.5 - 10.1.0.7, 10.2.0.1", &["10.1.0.6", "10.2.0.1"], &["10.2.0.2"]),
            ("10.1.0.4/31", &["10.1.0.4", "10.1.0.5"], &["10.1.0.6"]),
            ("10.1.0.4/32", &["10.1.0.4"], &["10.1.0.5"]),
            ("fd00::/120", &["fd00::1", "fd00::ff"], &["fd00::", "fd00::100", "10.0.0.1"]),
            ("::/0", &["ffff::", "::1"], &["0.0.0.1"]),
            ("0.0.0.0/0", &["9.9.9.9"], &["0.0.0.0", "255.255.255.255"]),
            ("", &[], &["10.1.0.1"]),
        ] {
            let pool = pool(text);
            inside.iter().for_each(|a| assert!(pool.contains(a.parse().unwrap()), "{text} {a}"));
            outside.iter().for_each(|a| assert!(!pool.contains(a.parse().unwrap()), "{text} {a}"));
            assert_eq!(pool.to_string(), text);
        }
        for text in ["x", "10.1.0.0/33", "10.1.0.9-10.1.0.8", "10.1.0.1-fd00::1", "fd00::/129", "10.1.0.1/-1"]
        {
            assert_eq!(text.parse::<Pool>(), Err(PoolError(text.to_owned())));
        }
    }

    #[test]
    fn networks_of_ranges() {
        for (text, networks) in [
            ("10.1.0.5-10.1.0.7", &["10.1.0.5/32", "10.1.0.6/31"][..]),
            ("10.1.0.0-10.1.0.255", &["10.1.0.0/24"]),
            ("0.0.0.0-255.255.255.255", &["0.0.0.0/0"]),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["::/1", "8000::/1"]),
            ("fd00::2-fd00::3,10.0.0.1", &["fd00::2/127", "10.0.0.1/32"]),
        ] {
            let found: Vec<String> = pool(text).networks().iter().map(|(a, n)| format!("{a}/{n}")).collect();
            assert_eq!(found, networks, "{text}");
        }
    }

    proptest! {
        /// The first free address is the least that a plain walk finds.
        #[test]
        fn the_first_gap(first in 0u32..40, size in 0u32..12, taken in proptest::collection::btree_set(0u32..60, 0..40)) {
            let at = |n: u32| -> IpAddr { Ipv4Addr::from(0x0a00_0000 + n).into() };
            let pool = pool(&format!("{}-{}", at(first), at(first + size)));
            let taken: BTreeSet<IpAddr> = taken.into_iter().map(at).collect();
            let found = pool.first_free(false, |a, b| taken.range(a..=b).copied());
            let plain = (first..=first + size).map(at).find(|a| !taken.contains(a));
            prop_assert_eq!(found, plain);
            prop_assert_eq!(pool.first_free(true, |a, b| taken.range(a..=b).copied()), None);
        }
    }
}
