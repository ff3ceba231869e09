//! What the rules need to know of the node that they stand on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// An address range, its host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

/// Why a text is not an address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.244.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    /// The range of a prefix around an address; `None` where the prefix is longer than the address.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (bits <= longest).then(|| Self { network: masked(address, bits), bits })
    }

    /// Of some ranges, those that no other holds; in order, each once.
    pub fn outermost(ranges: impl IntoIterator<Item = Cidr>) -> Vec<Cidr> {
        // A range stands before those that it holds: same network, shorter prefix first.
        let sorted: BTreeSet<Cidr> = ranges.into_iter().collect();
        let mut kept: Vec<Cidr> = Vec::new();
        for range in sorted {
            if !kept.last().is_some_and(|k| k.bits <= range.bits && k.contains(range.network)) {
                kept.push(range);
            }
        }
        kept
    }

    /// Last address of the range.
    pub fn last(&self) -> IpAddr {
        let ones = |octets: &mut [u8]| {
            octets.iter_mut().enumerate().for_each(|(i, o)| *o |= !mask_octet(self.bits, i));
        };
        match self.network {
            IpAddr::V4(v4) => {
                let mut octets = v4.octets();
                ones(&mut octets);
                octets.into()
            }
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                ones(&mut octets);
                octets.into()
            }
        }
    }

    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        Self { network: address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// First address of the range.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Length of the prefix in bits: at most 32 for IPv4, 128 for IPv6.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The mask with `bits` leading ones, as the octets of an address of this family.
    pub fn mask(&self) -> Vec<u8> {
        let length = if self.network.is_ipv4() { 4 } else { 16 };
        (0..length).map(|i| mask_octet(self.bits, i)).collect()
    }

    /// Whether the range holds an address; never one of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.bits) == self.network && address.is_ipv4() == self.network.is_ipv4()
    }
}

fn mask_octet(bits: u8, octet: usize) -> u8 {
    match usize::from(bits).saturating_sub(octet * 8) {
        0 => 0,
        ones @ 1..8 => 0xff << (8 - ones),
        _ => 0xff,
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mut octets = v4.octets();
            octets.iter_mut().enumerate().for_each(|(i, o)| *o &= mask_octet(bits, i));
            octets.into()
        }
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets.iter_mut().enumerate().for_each(|(i, o)| *o &= mask_octet(bits, i));
            octets.into()
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = || CidrError(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        Self::new(address, bits).ok_or_else(bad)
    }
}

/// Links that Pods' packets come in by (`detectLocalMode` BridgeInterface and InterfaceNamePrefix).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodInterface {
    /// This one.
    Named(Arc<str>),
    /// All whose names begin so.
    Prefix(Arc<str>),
}

impl PodInterface {
    /// Whether a link is one of them. A packet from the node itself came in by none: "".
    pub fn matches(&self, interface: &str) -> bool {
        match self {
            PodInterface::Named(name) => !interface.is_empty() && **name == *interface,
            PodInterface::Prefix(prefix) => !interface.is_empty() && interface.starts_with(&**prefix),
        }
    }
}

/// The node as the proxy sees it, and how the proxy is set up there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeContext {
    /// Name, which endpoints' `nodeName` is compared with.
    pub name: Arc<str>,
    /// Zone, "" where unknown.
    pub zone: Arc<str>,
    /// The node's own addresses, at most one of each family (kube-proxy's node IP): where a Service's source ranges
    /// hold one, the load balancer's address may speak to itself.
    pub addresses: Vec<IpAddr>,
    /// Addresses on which NodePorts answer. Loopback ones count for nothing: nobody could be answered.
    pub node_port_addresses: Vec<IpAddr>,
    /// The Pods' ranges (`--cluster-cidr`, or the node's own with `detectLocalMode: NodeCIDR`): others who speak to
    /// cluster addresses are masqueraded. A family without a range: nobody is.
    pub pod_cidrs: Vec<Cidr>,
    /// The Pods' links, instead of their ranges.
    pub pod_interface: Option<PodInterface>,
    /// Ranges of cluster addresses: what no Service has is swallowed rather than sent out. May be empty.
    pub service_cidrs: Vec<Cidr>,
    /// `--masquerade-all`: whoever speaks to cluster addresses is masqueraded.
    pub masquerade_all: bool,
    /// `--iptables-masquerade-bit`: the bit of the packet mark that asks for masquerade, 0-31.
    pub masquerade_bit: u8,
}

impl NodeContext {
    /// A node of this name, of which nothing else is known; bit 14, as kube-proxy's default is.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            zone: "".into(),
            addresses: Vec::new(),
            node_port_addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            pod_interface: None,
            service_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_bit: 14,
        }
    }

    /// Whether a packet of this source that came in by this link ("": none) is a Pod's.
    pub fn is_pod(&self, source: IpAddr, interface: &str) -> bool {
        self.pod_cidrs.iter().any(|c| c.contains(source))
            || self.pod_interface.as_ref().is_some_and(|i| i.matches(interface))
    }

    /// Whether rules are written alike for both: they differ at most in who and where they are, which frontends
    /// alone follow.
    pub fn same_rules(&self, other: &NodeContext) -> bool {
        let rules = |n: &NodeContext| (n.masquerade_all, n.masquerade_bit);
        rules(self) == rules(other)
            && self.pod_cidrs == other.pod_cidrs
            && self.pod_interface == other.pod_interface
            && self.service_cidrs == other.service_cidrs
    }

    /// Whether Pods of a family can be told from others at all: where not, nobody is masqueraded for being none
    /// (pkg/proxy/util/localdetector.go, IsImplemented).
    pub fn detects_pods(&self, ipv6: bool) -> bool {
        self.pod_interface.is_some() || self.pod_cidrs.iter().any(|c| c.network().is_ipv6() == ipv6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_of_ranges() {
        let ranges = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Cidr>>();
        let table: &[(&[&str], &[&str])] = &[
            (&["10.1.0.0/16", "10.0.0.0/8", "10.1.2.0/24"], &["10.0.0.0/8"]),
            (&["10.0.0.0/16", "10.0.0.0/8", "11.0.0.0/8"], &["10.0.0.0/8", "11.0.0.0/8"]),
            (&["0.0.0.0/0", "::/0", "fd00::/8"], &["0.0.0.0/0", "::/0"]),
            (&["192.0.2.1/32", "192.0.2.1/32", "192.0.2.2/32"], &["192.0.2.1/32", "192.0.2.2/32"]),
            (&[], &[]),
        ];
        for (given, expected) in table {
            assert_eq!(Cidr::outermost(ranges(given)), ranges(expected), "{given:?}");
        }
        assert_eq!(ranges(&["10.96.0.0/12"])[0].last().to_string(), "10.111.255.255");
        assert_eq!(ranges(&["fd00::/120"])[0].last().to_string(), "fd00::ff");
    }

    #[test]
    fn links_of_pods() {
        let table = [
            (PodInterface::Named("cni0".into()), "cni0", true),
            (PodInterface::Named("cni0".into()), "cni01", false),
            (PodInterface::Prefix("veth".into()), "veth1", true),
            (PodInterface::Prefix("veth".into()), "eth0", false),
            (PodInterface::Prefix("".into()), "", false),
        ];
        for (interfaces, link, held) in table {
            assert_eq!(interfaces.matches(link), held, "{interfaces:?} {link}");
        }
    }

    #[test]
    fn ranges_hold_what_their_prefix_says() {
        let table = [
            ("10.244.0.0/16", "10.244.255.255", true),
            ("10.244.0.0/16", "10.245.0.0", false),
            ("10.244.3.7/22", "10.244.2.1", true),
            ("10.244.3.7/22", "10.244.4.1", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "203.0.113.1", false),
            ("fd00::/8", "fdff::1", true),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.2", false),
        ];
        for (range, address, held) in table {
            let range: Cidr = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), held, "{range:?} {address}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!("10.0.0.0/12".parse::<Cidr>().unwrap().mask(), [255, 240, 0, 0]);
    }
}
