//! What the rules need to know of the node that they stand on.

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
        if bits > if address.is_ipv4() { 32 } else { 128 } {
            return Err(bad());
        }
        Ok(Self { network: masked(address, bits), bits })
    }
}

/// Which links Pods are behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodInterface {
    /// The one of this name (`detectLocalMode: BridgeInterface`).
    Named(Arc<str>),
    /// Those whose names begin so (`detectLocalMode: InterfaceNamePrefix`).
    Prefix(Arc<str>),
}

impl PodInterface {
    /// Whether a link of this name is one.
    pub fn matches(&self, link: &str) -> bool {
        match self {
            PodInterface::Named(name) => **name == *link,
            PodInterface::Prefix(prefix) => link.starts_with(&**prefix),
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
    /// Addresses on which NodePorts answer.
    pub node_port_addresses: Vec<IpAddr>,
    /// The Pods' ranges (`--cluster-cidr`): others who speak to cluster addresses are masqueraded. Empty: nobody is.
    pub pod_cidrs: Vec<Cidr>,
    /// The links that Pods are behind: what comes in by others is masqueraded. `None`: links do not count.
    pub pod_interface: Option<PodInterface>,
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
            node_port_addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            pod_interface: None,
            masquerade_all: false,
            masquerade_bit: 14,
        }
    }

    /// Whether Pods of a family can be told from others: where not, nobody is masqueraded for being none
    /// (pkg/proxy/util/localdetector.go, IsImplemented).
    pub fn detects_pods(&self, ipv6: bool) -> bool {
        self.pod_interface.is_some() || self.pod_cidrs.iter().any(|c| c.network().is_ipv6() == ipv6)
    }

    /// Whether rules are written alike for both: they differ at most in who and where they are, which frontends
    /// alone follow.
    pub fn same_rules(&self, other: &NodeContext) -> bool {
        let rules = |n: &NodeContext| (n.masquerade_all, n.masquerade_bit);
        rules(self) == rules(other)
            && self.pod_cidrs == other.pod_cidrs
            && self.pod_interface == other.pod_interface
    }

    /// Whether an address lies in a Pod range.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|c| c.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
