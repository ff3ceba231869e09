//! A frontend: an address, protocol and port that Services are reached at, and what becomes of who speaks to it.

use crate::Cidr;
use sealane_catalog::{NamespacedName, Protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a packet is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Destination address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{protocol} {}", SocketAddr::new(self.address, self.port))
    }
}

/// Where a connection may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The endpoint's address, of the frontend's family.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Which of a Service's addresses a frontend stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A cluster address: its other ports are refused.
    ClusterIp,
    /// A NodePort, external address or load balancer's address: its other ports are somebody else's.
    External,
}

/// Whose source address is replaced by the node's own, hairpins apart (those always are).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// Nobody's.
    Never,
    /// That of everybody outside of the Pods' ranges.
    OffCluster,
    /// Everybody's.
    Always,
}

/// What a frontend does with a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Spreads over slots, each equally likely; never empty. A slot leads to a backend: one to each where they have
    /// equal shares, else to each as many as its share ([`Shares`](crate::Shares)). A slot's place is its index in
    /// the kernel's map, and it keeps it from one change to the next where it can.
    Balance(Arc<[Backend]>),
    /// Refuses: no endpoint anywhere.
    Reject,
    /// Swallows: endpoints, but none on this node, where the policy is Local.
    Drop,
}

impl Target {
    /// The backends, each as often as it has slots; none where it refuses or swallows.
    pub fn backends(&self) -> &[Backend] {
        match self {
            Target::Balance(backends) => backends,
            Target::Reject | Target::Drop => &[],
        }
    }

    /// The same meaning, whatever the order of the slots.
    pub fn means(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::Balance(a), Target::Balance(b)) => {
                let sorted = |list: &Arc<[Backend]>| {
                    let mut list = list.to_vec();
                    list.sort_unstable();
                    list
                };
                a.len() == b.len() && sorted(a) == sorted(b)
            }
            (a, b) => a == b,
        }
    }
}

/// One address, protocol and port of a Service, with its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What packets are looked up by.
    pub key: FrontendKey,
    /// The Service.
    pub service: NamespacedName,
    /// The Service port's name.
    pub port_name: Arc<str>,
    /// Which kind of address.
    pub class: Class,
    /// Session affinity's timeout in seconds; `None`: none.
    pub affinity: Option<u32>,
    /// Whose source is replaced, for traffic that `target` serves.
    pub masquerade: Masquerade,
    /// What serves it.
    pub target: Target,
    /// Whom a load balancer's address admits (`loadBalancerSourceRanges`), none within another; others are
    /// swallowed, Pods and the node as well. `None`: everybody.
    pub sources: Option<Arc<[Cidr]>>,
    /// Serving endpoints that get no new connections here: flows of UDP to them go on.
    pub lingering: Arc<[Backend]>,
    /// `externalTrafficPolicy: Local`: what serves those outside of the cluster, with their source kept. Pods
    /// and the node itself get `target`, the node with its source replaced.
    pub outside: Option<Target>,
}

impl Frontend {
    /// Every backend that a flow may be at; some more than once.
    pub fn flows_to(&self) -> impl Iterator<Item = &Backend> {
        let targets = [Some(&self.target), self.outside.as_ref()];
        targets.into_iter().flatten().flat_map(|t| t.backends()).chain(&*self.lingering)
    }

    /// The same meaning for new packets, whoever owns it and whatever the order of its backends. Where nobody is
    /// served, masquerade, affinity and whether others are told the same apart mean nothing.
    pub fn means(&self, other: &Frontend) -> bool {
        let unserved = |f: &Frontend| f.target.backends().is_empty();
        let outside = match (&self.outside, &other.outside) {
            (Some(a), Some(b)) => a.means(b),
            (None, None) => true,
            (Some(apart), None) => unserved(self) && apart.means(&self.target),
            (None, Some(apart)) => unserved(other) && apart.means(&other.target),
        };
        let serves = !self.target.backends().is_empty();
        let anybody = serves || self.outside.as_ref().is_some_and(|t| !t.backends().is_empty());
        (self.key, self.class) == (other.key, other.class)
            && (!serves || self.masquerade == other.masquerade)
            && (!anybody || self.affinity == other.affinity)
            && self.target.means(&other.target)
            && self.sources == other.sources
            && outside
    }
}
