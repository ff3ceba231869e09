//! What becomes of a packet.

use crate::{Backend, Cidr, Class, Frontend, FrontendKey, Masquerade, NodeContext, Table, Target};
use sealane_catalog::Protocol;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// The source address is the node's own (`fib saddr type local`).
    pub from_node: bool,
    /// The destination address is the node's own (`fib daddr type local`).
    pub to_node: bool,
    /// The link that it came in by; "" for what the node itself sends.
    pub interface: &'a str,
}

/// Where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// At one of `backends`.
    Dnat {
        /// Equally likely, or in proportion to their slots.
        backends: BTreeSet<Backend>,
        /// Those that see the node's address as the source.
        masqueraded: BTreeSet<Backend>,
        /// For how many seconds the client stays with the one that it got; `None`: for this connection alone.
        affinity: Option<u32>,
    },
    /// Refused with ICMP port unreachable.
    Reject,
    /// Swallowed.
    Drop,
    /// Not the proxy's business.
    Pass,
}

impl Table {
    /// What becomes of a packet.
    pub fn trace(&self, packet: &Packet<'_>) -> Fate {
        let key = FrontendKey { address: packet.destination, protocol: packet.protocol, port: packet.port };
        if let Some(frontend) = self.frontends().get(&key) {
            return trace_frontend(frontend, self.node(), packet);
        }
        let first = FrontendKey { address: packet.destination, protocol: Protocol::Tcp, port: 0 };
        let mut of_address = self.frontends().range(first..).take_while(|(k, _)| k.address == first.address);
        // The node's own addresses and Pods' are, Service range or not, where they should be.
        if !packet.to_node && of_address.any(|(_, f)| f.class == Class::ClusterIp) {
            return Fate::Reject;
        }
        let held = |ranges: &[Cidr]| ranges.iter().any(|c| c.contains(packet.destination));
        let unused = held(&self.node().service_cidrs) && !held(&self.node().pod_cidrs);
        if !packet.to_node && unused { Fate::Drop } else { Fate::Pass }
    }
}

/// What a frontend does with a packet that is sent to it.
pub fn trace_frontend(frontend: &Frontend, node: &NodeContext, packet: &Packet<'_>) -> Fate {
    let admitted = |ranges: &[Cidr]| ranges.iter().any(|r| r.contains(packet.source));
    if frontend.sources.as_deref().is_some_and(|ranges| !admitted(ranges)) {
        return Fate::Drop;
    }
    let from_pod = node.is_pod(packet.source, packet.interface);
    let (target, masquerade) = match &frontend.outside {
        None => (
            &frontend.target,
            match frontend.masquerade {
                Masquerade::Never => false,
                Masquerade::OffCluster => !from_pod,
                Masquerade::Always => true,
            },
        ),
        Some(_) if from_pod => (&frontend.target, false),
        Some(_) if packet.from_node => (&frontend.target, true),
        Some(outside) => (outside, false),
    };
    match target {
        Target::Balance(backends) => Fate::Dnat {
            backends: backends.iter().copied().collect(),
            // Hairpin: who reaches itself would answer itself past the node.
            masqueraded: backends
                .iter()
                .copied()
                .filter(|b| masquerade || b.address == packet.source)
                .collect(),
            affinity: frontend.affinity,
        },
        Target::Reject => Fate::Reject,
        Target::Drop => Fate::Drop,
    }
}
