//! What becomes of a socket, and of a packet from outside, by what stands in the maps.

use sealane_catalog::Protocol;
use sealane_proxy::{
    Backend, Cidr, Fate, FrontendKey, Installed, NodeContext, Packet, Target, trace_frontend,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What the programs do when a process of this node connects, or sends a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketFate {
    /// It reaches one of these, which sees the process's own address: nothing is rewritten on the way, so answers need
    /// not come back through the node either.
    Led {
        /// Equally likely.
        backends: BTreeSet<Backend>,
        /// For how many seconds the Pod stays with the one that it got; `None`: for this connection alone.
        affinity: Option<u32>,
    },
    /// `ECONNREFUSED` (before Linux 5.18 `EPERM`). The connect() of UDP, which sends nothing, is left to packets' rules.
    Refused,
    /// Its packets meet the packets' rules.
    Left,
}

/// What the programs at links from outside do with the first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PacketFate {
    /// It is led to one of these.
    Led {
        /// Equally likely.
        backends: BTreeSet<Backend>,
        /// Those that other rules give the node's address as its source: it is marked for them.
        marked: BTreeSet<Backend>,
        /// For how many seconds the client stays with the one that it got; `None`: for this flow alone.
        affinity: Option<u32>,
    },
    /// It is swallowed.
    Dropped,
    /// It meets the other rules.
    Left,
}

/// The maps as they were read back.
#[derive(Clone, Debug)]
pub struct State {
    /// The Pods' ranges.
    pub pods: Vec<Cidr>,
    /// Frontends.
    pub frontends: Installed,
    /// Cluster addresses, but the node's own: their other ports are refused.
    pub cluster: BTreeSet<IpAddr>,
}

impl State {
    /// What becomes of a process of this node that connects, or sends what would be this packet. Whoever runs on the
    /// node is within the cluster, whatever its address.
    pub fn connects(&self, packet: &Packet<'_>) -> SocketFate {
        // The kernel runs no such programs for sockets of SCTP.
        if packet.protocol == Protocol::Sctp {
            return SocketFate::Left;
        }
        let key = FrontendKey { address: packet.destination, protocol: packet.protocol, port: packet.port };
        let Some(frontend) = self.frontends.get(&key) else {
            let refused = self.cluster.contains(&packet.destination);
            return if refused { SocketFate::Refused } else { SocketFate::Left };
        };
        match &frontend.target {
            // A socket that is not bound has no source yet.
            _ if frontend.sources.is_some() => SocketFate::Left,
            // Its SYNs are to reach an endpoint that comes meanwhile.
            Target::Drop => SocketFate::Left,
            Target::Reject => SocketFate::Refused,
            Target::Balance(backends) => {
                SocketFate::Led { backends: backends.iter().copied().collect(), affinity: frontend.affinity }
            }
        }
    }

    /// What becomes of a packet that comes in by a link from outside.
    pub fn comes(&self, packet: &Packet<'_>) -> PacketFate {
        let key = FrontendKey { address: packet.destination, protocol: packet.protocol, port: packet.port };
        // SCTP's checksum covers all of a packet.
        let Some(frontend) = self.frontends.get(&key).filter(|_| packet.protocol != Protocol::Sctp) else {
            return PacketFate::Left;
        };
        let node = NodeContext { pod_cidrs: self.pods.clone(), ..NodeContext::new("") };
        match trace_frontend(frontend, &node, &Packet { from_node: false, interface: "", ..*packet }) {
            Fate::Dnat { backends, masqueraded, affinity } => {
                PacketFate::Led { backends, marked: masqueraded, affinity }
            }
            Fate::Drop => PacketFate::Dropped,
            // Who refuses has something to send.
            Fate::Reject | Fate::Pass => PacketFate::Left,
        }
    }
}
