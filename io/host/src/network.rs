//! [`Network`]: what several nodes of one machine are linked to.
//!
//! A network namespace of its own routes between the nodes, the machine and the outside, as a rack's router would. No
//! node depends on another: one that dies takes its own link with it, and nothing else. It rewrites no packet (but for
//! an ordinary user's way outside): Services are the nodes' affair, and what the machine sends to a Service address goes
//! to the first node that lives.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::thread::UnshareFlags;

use crate::netlink::Socket;
use crate::outside::{self, Forwarding};
use crate::ranges::Cidr;
use crate::runtime::HostError;
use crate::threads::{blocking, lock, within};
use crate::tree::step;
use crate::uplink::{self, Ends, Uplink};
use crate::{links, sys};

/// What the network is made of.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// All Pods' range, `--pod-cidr`.
    pub pod_cidr: Cidr,
    /// All Services' range, `--service-cidr`.
    pub service_cidr: Cidr,
    /// What else is led to wherever Services are, such as load balancers' addresses outside of their range.
    pub other_ranges: Vec<Cidr>,
    /// The network's own part of the Pods' range, in which no node is.
    pub own_cidr: Cidr,
    /// It is made in an ordinary user's namespace.
    pub rootless: bool,
}

impl NetworkConfig {
    /// The network's own address: the first one of its range.
    pub fn address(&self) -> Ipv4Addr {
        self.own_cidr.nth(1)
    }

    fn ends(&self) -> Ends {
        Ends {
            rootless: self.rootless,
            host: self.own_cidr.last_usable(),
            inner: self.address(),
            pods: self.pod_cidr,
            others: self.led(),
            // The nodes do that.
            services: false,
        }
    }

    /// What is led to one node, the first that lives.
    fn led(&self) -> Vec<Cidr> {
        [&[self.service_cidr][..], &self.other_ranges].concat()
    }
}

/// The network. Clones are the same one; it ends with [`Network::shutdown`], or the process.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworkConfig,
    namespace: Arc<OwnedFd>,
    forwarding: Option<Forwarding>,
    links: Mutex<Links>,
    uplink: Mutex<Option<Uplink>>,
}

struct Links {
    /// A socket of the network's namespace.
    socket: Socket,
    /// The nodes' addresses, in the order in which they came.
    nodes: Vec<Ipv4Addr>,
    /// Addresses that are led to the first of certain nodes that lives.
    chosen: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    /// Which node that is at present.
    led: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Links {
    /// Brings the routes of chosen addresses to where they should be.
    fn settle(&mut self, own: Ipv4Addr) -> io::Result<()> {
        let first = |of: &Vec<Ipv4Addr>| of.iter().find(|n| self.nodes.contains(n)).copied();
        let wanted: BTreeMap<Ipv4Addr, Ipv4Addr> =
            self.chosen.iter().filter_map(|(address, of)| Some((*address, first(of)?))).collect();
        for address in self.led.keys().filter(|a| !wanted.contains_key(a)) {
            links::lead_no_more(&self.socket, *address)?;
        }
        for (address, node) in wanted.iter().filter(|(a, n)| self.led.get(a) != Some(n)) {
            let one = Cidr { network: *address, prefix: 32 };
            links::lead_to_node(&self.socket, own, one, Some(*node))?;
        }
        self.led = wanted;
        Ok(())
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Network {
    /// Makes it, without nodes.
    ///
    /// # Errors
    ///
    /// One line: ranges that overlap the host's routes (with a proposal), or what stands in the way.
    pub async fn start(config: NetworkConfig) -> Result<Network, HostError> {
        blocking(move || {
            uplink::prepare(config.rootless, config.pod_cidr, config.service_cidr)?;
            let forwarding = Forwarding::of(config.rootless)?;
            let (namespace, socket) = make(&config)?;
            let uplink = Uplink::open(config.ends(), &namespace, forwarding.as_ref())?;
            let links = Mutex::new(Links {
                socket,
                nodes: Vec::new(),
                chosen: BTreeMap::new(),
                led: BTreeMap::new(),
            });
            let inner = Inner {
                config,
                namespace: Arc::new(namespace),
                forwarding,
                links,
                uplink: Mutex::new(Some(uplink)),
            };
            Ok(Network { inner: Arc::new(inner) })
        })
        .await
    }

    /// What it was made of.
    pub fn config(&self) -> &NetworkConfig {
        &self.inner.config
    }

    /// As [`Host::node_network`](crate::Host::node_network), in the network's own namespace.
    ///
    /// # Errors
    ///
    /// That the namespace can't be entered.
    pub async fn within<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HostError> {
        within(Arc::clone(&self.inner.namespace), run).await
    }

    pub(crate) fn forwarding(&self) -> Option<&Forwarding> {
        self.inner.forwarding.as_ref()
    }

    /// Links a node's namespace to it.
    pub(crate) fn attach(&self, node: &OwnedFd, gateway: Ipv4Addr, range: Cidr) -> Result<(), HostError> {
        let failed = |error| step("link the node to the network of all nodes", error);
        let own = self.inner.config.address();
        let mut links = lock(&self.inner.links);
        links::make_node_link(&links.socket, node.as_fd(), own, gateway, range).map_err(failed)?;
        outside::within(node, move || links::make_uplink(own, gateway)).map_err(failed)?;
        links.nodes.push(gateway);
        self.lead_services(&links)?;
        self.settle(&mut links)
    }

    /// Leads single addresses each to the first of some nodes, by the nodes' own addresses, that lives; where none does,
    /// and all others, to where Services are led. Replaces what was asked for before. May block for a moment.
    ///
    /// # Errors
    ///
    /// What the kernel refuses.
    pub fn lead(&self, addresses: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>) -> Result<(), HostError> {
        let mut links = lock(&self.inner.links);
        links.chosen = addresses;
        self.settle(&mut links)
    }

    fn settle(&self, links: &mut Links) -> Result<(), HostError> {
        links
            .settle(self.inner.config.address())
            .map_err(|error| step("lead load balancers' addresses to nodes", error))
    }

    /// Takes a node out: what is sent to its Pods is refused from now on, and Services are another node's.
    pub(crate) fn detach(&self, gateway: Ipv4Addr, range: Cidr) -> Result<(), HostError> {
        let failed = |error| step("take the node out of the network of all nodes", error);
        let mut links = lock(&self.inner.links);
        links.nodes.retain(|node| *node != gateway);
        self.lead_services(&links)?;
        self.settle(&mut links)?;
        let own = self.inner.config.address();
        links::lead_to_node(&links.socket, own, range, None).map_err(failed)?;
        links::remove_node_link(&links.socket, gateway).map_err(failed)
    }

    fn lead_services(&self, links: &Links) -> Result<(), HostError> {
        let config = &self.inner.config;
        let first = links.nodes.first().copied();
        config
            .led()
            .into_iter()
            .try_for_each(|range| links::lead_to_node(&links.socket, config.address(), range, first))
            .map_err(|error| step("lead Service addresses to a node", error))
    }

    /// Removes every trace of it; its nodes should have ended before.
    ///
    /// # Errors
    ///
    /// What could not be removed.
    pub async fn shutdown(&self) -> Result<(), HostError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            drop(lock(&inner.uplink).take());
            uplink::close(inner.config.rootless)?;
            inner.forwarding.as_ref().map_or(Ok(()), Forwarding::restore)
        })
        .await
    }
}

/// On a thread of its own, which ends up in the new namespace: that namespace, and a socket of it.
fn make(config: &NetworkConfig) -> Result<(OwnedFd, Socket), HostError> {
    let (address, ranges) = (config.address(), [&[config.pod_cidr][..], &config.led()].concat());
    let make = move || {
        sys::unshare(UnshareFlags::NEWNET)
            .map_err(|error| step("make the network namespace of all nodes", error))?;
        links::make_network(address, &ranges)
            .map_err(|error| step("make the network of all nodes", error))?;
        uplink::route_packets()?;
        let opened = links::current_namespace().and_then(|namespace| Ok((namespace, Socket::route()?)));
        opened.map_err(|error| step("open the network namespace of all nodes", error))
    };
    let thread = std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(make)
        .map_err(|error| step("start a thread", error))?;
    let panicked = || step("make the network of all nodes", io::Error::other("its thread panicked"));
    thread.join().map_err(|_| panicked())?
}
