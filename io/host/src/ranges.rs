//! Address ranges: parsing, overlap, and what to propose instead of one that is taken.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::HostError;

/// An IPv4 range, `10.244.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cidr {
    /// First address, bits below the prefix zero.
    pub network: Ipv4Addr,
    /// Length of the prefix, 0 to 32.
    pub prefix: u8,
}

impl Cidr {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The address `offset` after the first.
    pub fn nth(self, offset: u32) -> Ipv4Addr {
        u32::from(self.network).wrapping_add(offset).into()
    }

    /// The last address that is not the broadcast address.
    pub fn last_usable(self) -> Ipv4Addr {
        (u32::from(self.network) | !self.mask()).wrapping_sub(u32::from(self.prefix < 31)).into()
    }

    /// Whether an address lies inside.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.network)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let wrong = || format!("{text} is not an IPv4 range like 10.244.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > 32 {
            return Err(wrong());
        }
        let range = Cidr { network: address, prefix };
        Ok(Cidr { network: (u32::from(address) & range.mask()).into(), prefix })
    }
}

/// A range that a cluster wants, by the option that sets it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// `--pod-cidr`.
    pub option: &'a str,
    /// Its value.
    pub range: Cidr,
}

/// Refuses ranges that overlap each other or one of `taken`, with ranges of the same size that don't.
///
/// # Errors
///
/// One line: which range overlaps what, and what to give instead.
pub fn check(wanted: &[Wanted<'_>], taken: &[Cidr]) -> Result<(), HostError> {
    for (at, one) in wanted.iter().enumerate() {
        let before = wanted[..at].iter().map(|other| other.range);
        let Some(other) = before.chain(taken.iter().copied()).find(|other| other.overlaps(one.range)) else {
            continue;
        };
        let mut avoid: Vec<Cidr> = taken.to_vec();
        avoid.extend(wanted.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, other)| other.range));
        let instead = propose(one.range.prefix, &avoid)
            .map_or_else(String::new, |range| format!("; try {} {range}", one.option));
        return Err(HostError::Step {
            context: format!("{} {} can't be used", one.option, one.range),
            source: std::io::Error::other(format!("it overlaps {other}, which is in use here{instead}")),
        });
    }
    Ok(())
}

/// A private range with this prefix that overlaps none of `avoid`.
fn propose(prefix: u8, avoid: &[Cidr]) -> Option<Cidr> {
    // RFC 1918, and RFC 6598's shared space; the middle of 10/8 first, where fewest networks are.
    const SPACES: [(Ipv4Addr, u8); 4] = [
        (Ipv4Addr::new(10, 128, 0, 0), 9),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(10, 0, 0, 0), 9),
    ];
    SPACES.iter().filter(|(_, length)| prefix >= *length && prefix <= 30).find_map(|(network, length)| {
        let count = 1u32 << (prefix - length).min(16);
        let size = 1u32 << (32 - prefix);
        (0..count)
            .map(|n| Cidr { network: (u32::from(*network) + n * size).into(), prefix })
            .find(|range| !avoid.iter().any(|other| other.overlaps(*range)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_written() {
        for (text, written) in [
            ("10.244.0.0/16", "10.244.0.0/16"),
            ("10.244.3.9/24", "10.244.3.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("1.2.3.4/32", "1.2.3.4/32"),
        ] {
            assert_eq!(range(text).to_string(), written);
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "a/8", "", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!(range("10.244.0.0/16").last_usable(), Ipv4Addr::new(10, 244, 255, 254));
        assert_eq!(range("10.244.0.0/16").nth(1), Ipv4Addr::new(10, 244, 0, 1));
    }

    #[test]
    fn overlaps_are_refused_with_a_free_range() {
        let wanted = [
            Wanted { option: "--pod-cidr", range: range("10.244.0.0/16") },
            Wanted { option: "--service-cidr", range: range("10.96.0.0/12") },
        ];
        check(&wanted, &[range("192.168.0.0/16"), range("10.0.0.0/24")]).unwrap();
        let error = check(&wanted, &[range("10.244.7.0/24"), range("10.128.0.0/16")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--pod-cidr 10.244.0.0/16 can't be used: it overlaps 10.244.7.0/24, which is in use here; \
             try --pod-cidr 10.129.0.0/16"
        );
        let error = check(&wanted, &[range("10.0.0.0/8")]).unwrap_err();
        assert!(error.to_string().ends_with("try --pod-cidr 172.16.0.0/16"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn a_proposal_overlaps_nothing(
            taken in proptest::collection::vec((0u32.., 4u8..=32), 0..40),
            prefix in 9u8..=28,
        ) {
            let taken: Vec<Cidr> =
                taken.iter().map(|(a, p)| range(&format!("{}/{p}", Ipv4Addr::from(*a)))).collect();
            if let Some(found) = propose(prefix, &taken) {
                proptest::prop_assert!(taken.iter().all(|other| !other.overlaps(found)));
                proptest::prop_assert_eq!(found.prefix, prefix);
            }
        }
    }
}
