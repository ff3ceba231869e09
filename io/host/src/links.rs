//! Links, addresses, routes and neighbours: the node's network, its link to the host, and each Pod's.
//!
//! A Pod has its address as a /32 and everything else by way of the gateway, so that every packet of a Pod passes the
//! node's IP layer, where Service addresses are rewritten both ways; nothing is ever switched between two Pods. Hardware
//! addresses follow from IP addresses, and neighbours are entered for good: no ARP before a first packet.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::netlink::{Batch, Received, Socket, flag};

/// The bridge that Pods are attached to, in the node's network namespace.
pub const BRIDGE: &str = "sealane0";
/// The host's end of the link to the node.
pub const HOST_LINK: &str = "sealane";
/// The node's end of the link to the host, or to the network of several nodes, whose link to the host has one too.
pub(crate) const UPLINK: &str = "uplink";

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const NDA_DST: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const TABLE_MAIN: u8 = 254;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const CREATE: u16 = flag::ACK | flag::CREATE | flag::EXCL;
const LOOPBACK_INDEX: u32 = 1;

/// Index that a Pod's `eth0` gets: the number after the loopback's, in a namespace that has nothing else.
const POD_INDEX: u32 = 2;
/// Index of the node's bridge, given so that routes can name it in the message that follows.
const BRIDGE_INDEX: u32 = 2;

/// The hardware address that goes with an IP address: locally administered, unicast.
pub(crate) fn hardware_address(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x5e, a, b, c, d]
}

/// Name of the node's end of a Pod's link.
pub(crate) fn pod_link(ip: Ipv4Addr) -> String {
    format!("pod{:08x}", u32::from(ip))
}

/// Makes the node's own links: the loopback, and the bridge with the gateway's address. Addresses of `pods` have no way
/// until there is such a Pod, or they would go to the host and come back; those of `services` must have one, for
/// programs of the node itself find their way before the address is rewritten.
pub(crate) fn make_node(
    gateway: Ipv4Addr,
    prefix: u8,
    pods: Cidr,
    services: Cidr,
    mtu: u32,
) -> io::Result<()> {
    let mut batch = Batch::default();
    up(&mut batch, LOOPBACK_INDEX);
    link(&mut batch, CREATE, BRIDGE_INDEX, "make the bridge sealane0 (is the kernel module `bridge` there?)");
    batch
        .string(IFLA_IFNAME, BRIDGE)
        .attribute(IFLA_ADDRESS, &hardware_address(gateway))
        .number(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "bridge");
        });
    address(&mut batch, BRIDGE_INDEX, gateway, prefix);
    route(&mut batch, pods, &Way::Nowhere, None);
    route(&mut batch, services, &Way::Link(BRIDGE_INDEX), Some(gateway));
    Socket::route()?.execute(batch)
}

/// Keeps packets of the bridge out of the IP hooks until they are routed, in the calling thread's network namespace.
/// Where the kernel module `br_netfilter` is loaded (Docker and kubeadm load it), a packet to a Service address is
/// rewritten on the bridge and then switched to the other Pod, which isolated ports refuse.
pub(crate) fn no_bridge_hooks() -> io::Result<()> {
    for protocol in ["iptables", "ip6tables", "arptables"] {
        match std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{protocol}"), "0") {
            // The module is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// Makes a Pod's link from inside its network namespace: `eth0` there, the other end on the node's bridge.
/// `node` is a socket of the node's namespace, `node_namespace` that namespace.
pub(crate) fn make_pod(
    node: &Socket,
    node_namespace: BorrowedFd<'_>,
    ip: Ipv4Addr,
    gateway: Ipv4Addr,
    mtu: u32,
) -> io::Result<()> {
    let ends = || {
        let mut batch = Batch::default();
        up(&mut batch, LOOPBACK_INDEX);
        link(&mut batch, CREATE, POD_INDEX, "make the Pod's link (is the kernel module `veth` there?)");
        batch
            .string(IFLA_IFNAME, "eth0")
            .attribute(IFLA_ADDRESS, &hardware_address(ip))
            .number(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, |info| {
                info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&interface(0, 0))
                            .string(IFLA_IFNAME, &pod_link(ip))
                            .number(IFLA_MTU, mtu)
                            .number(IFLA_NET_NS_FD, node_namespace.as_raw_fd() as u32);
                    });
                });
            });
        address(&mut batch, POD_INDEX, ip, 32);
        neighbour(&mut batch, POD_INDEX, gateway, hardware_address(gateway));
        route(&mut batch, EVERYWHERE, &Way::Gateway(gateway, POD_INDEX), None);
        batch
    };
    let pod = Socket::route()?;
    match pod.execute(ends()) {
        // The link of the address's last Pod, which the kernel removes in its own time: it may do so just now, so
        // whether the link is still there says nothing.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_link(node, &pod_link(ip), "remove the last Pod's link")?;
            pod.execute(ends())?;
        }
        made => made?,
    }
    attach_pod(node, ip, gateway)
}

/// Puts the node's end of a Pod's link on the bridge, and its address into the node's network.
fn attach_pod(node: &Socket, ip: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
    let index = index_of(node, &pod_link(ip))?
        .ok_or_else(|| io::Error::other("the node's end of the Pod's link is not there"))?;
    let mut batch = Batch::default();
    link(&mut batch, flag::ACK, index, "attach the Pod's link to the bridge");
    batch.number(IFLA_MASTER, BRIDGE_INDEX);
    link(&mut batch, flag::ACK, index, "isolate the Pod's link on the bridge");
    batch.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.attribute(IFLA_BRPORT_ISOLATED, &[1]);
        });
    });
    neighbour(&mut batch, BRIDGE_INDEX, ip, hardware_address(ip));
    route(&mut batch, one(ip), &Way::Link(BRIDGE_INDEX), Some(gateway));
    node.execute(batch)
}

/// Takes a Pod's address out of the node's network: who connects to it from now on is told so at once. The link itself
/// goes with the Pod's namespace, which the kernel takes its time for.
pub(crate) fn detach_pod(node: &Socket, ip: Ipv4Addr) -> io::Result<()> {
    let mut batch = Batch::default();
    no_route(&mut batch, ip, "remove the Pod's route");
    batch.begin(RTM_DELNEIGH, flag::ACK, "forget the Pod's hardware address");
    batch.raw(&[AF_INET, 0, 0, 0]).raw(&BRIDGE_INDEX.to_ne_bytes()).raw(&[0; 4]).address(NDA_DST, ip);
    node.execute_tolerant(batch, &[libc::ENOENT, libc::ESRCH])
}

fn remove_link(socket: &Socket, name: &str, step: &str) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.begin(RTM_DELLINK, flag::ACK, step).raw(&interface(0, 0)).string(IFLA_IFNAME, name);
    socket.execute_tolerant(batch, &[libc::ENODEV])
}

/// The link between host and node, from the host's side: `host_ip` here, everything of `ranges` by way of the
/// gateway. `host` is a socket of the host's namespace. Everything goes when the node's namespace does.
pub(crate) fn make_host_link(
    host: &Socket,
    node_namespace: BorrowedFd<'_>,
    host_ip: Ipv4Addr,
    gateway: Ipv4Addr,
    ranges: &[Cidr],
) -> io::Result<()> {
    let index = make_outer_end(host, node_namespace, HOST_LINK, host_ip, gateway)?;
    let mut batch = Batch::default();
    address(&mut batch, index, host_ip, 32);
    lead(&mut batch, index, host_ip, gateway, ranges);
    host.execute(batch)
}

/// The same between the network of several nodes and one of them. `network` is a socket of that network, which has
/// `network_ip` already; `range` is the node's.
pub(crate) fn make_node_link(
    network: &Socket,
    node_namespace: BorrowedFd<'_>,
    network_ip: Ipv4Addr,
    gateway: Ipv4Addr,
    range: Cidr,
) -> io::Result<()> {
    let index = make_outer_end(network, node_namespace, &node_link(gateway), network_ip, gateway)?;
    let mut batch = Batch::default();
    lead(&mut batch, index, network_ip, gateway, &[range]);
    network.execute(batch)
}

/// Makes a link whose inner end, [`UPLINK`], is in another namespace; the outer end's index.
fn make_outer_end(
    outer: &Socket,
    inner_namespace: BorrowedFd<'_>,
    name: &str,
    outer_ip: Ipv4Addr,
    inner_ip: Ipv4Addr,
) -> io::Result<u32> {
    let mut batch = Batch::default();
    let step = format!("make the link `{name}` to the node (does one of another run exist?)");
    link(&mut batch, CREATE, 0, &step);
    batch.string(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &hardware_address(outer_ip)).nest(
        IFLA_LINKINFO,
        |info| {
            info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    // Up comes later: the kernel refuses it before both ends are there.
                    peer.raw(&interface(0, 0))
                        .string(IFLA_IFNAME, UPLINK)
                        .attribute(IFLA_ADDRESS, &uplink_hardware_address(inner_ip))
                        .number(IFLA_NET_NS_FD, inner_namespace.as_raw_fd() as u32);
                });
            });
        },
    );
    outer.execute(batch)?;
    index_of(outer, name)?.ok_or_else(|| io::Error::other(format!("the link `{name}` is not there")))
}

/// Everything of `ranges` by way of `inner_ip`, behind the link of this index.
fn lead(batch: &mut Batch, index: u32, outer_ip: Ipv4Addr, inner_ip: Ipv4Addr, ranges: &[Cidr]) {
    neighbour(batch, index, inner_ip, uplink_hardware_address(inner_ip));
    for range in ranges {
        route(batch, *range, &Way::Gateway(inner_ip, index), Some(outer_ip));
    }
}

/// Name of the network's end of its link to a node.
pub(crate) fn node_link(gateway: Ipv4Addr) -> String {
    format!("node{:08x}", u32::from(gateway))
}

/// Makes the network of several nodes, from inside: its address, and no way yet to any Pod or Service.
pub(crate) fn make_network(ip: Ipv4Addr, ranges: &[Cidr]) -> io::Result<()> {
    let mut batch = Batch::default();
    up(&mut batch, LOOPBACK_INDEX);
    address(&mut batch, LOOPBACK_INDEX, ip, 32);
    for range in ranges {
        route(&mut batch, *range, &Way::Nowhere, None);
    }
    Socket::route()?.execute(batch)
}

/// Leads a range to one of the network's nodes, or nowhere.
pub(crate) fn lead_to_node(
    network: &Socket,
    network_ip: Ipv4Addr,
    range: Cidr,
    gateway: Option<Ipv4Addr>,
) -> io::Result<()> {
    let mut batch = Batch::default();
    match gateway {
        Some(gateway) => {
            let index = index_of(network, &node_link(gateway))?
                .ok_or_else(|| io::Error::other("the link to the node is not there"))?;
            route(&mut batch, range, &Way::Gateway(gateway, index), Some(network_ip));
        }
        None => route(&mut batch, range, &Way::Nowhere, None),
    }
    network.execute(batch)
}

/// Takes back what [`lead_to_node`] did for one address: it goes where others of its range go.
pub(crate) fn lead_no_more(network: &Socket, ip: Ipv4Addr) -> io::Result<()> {
    let mut batch = Batch::default();
    no_route(&mut batch, ip, "remove the route to a load balancer's address");
    network.execute_tolerant(batch, &[libc::ESRCH])
}

/// Removes the network's link to a node.
pub(crate) fn remove_node_link(network: &Socket, gateway: Ipv4Addr) -> io::Result<()> {
    remove_link(network, &node_link(gateway), "remove the link to the node")
}

/// The inner side of such a link: the default route. Run inside the inner namespace.
pub(crate) fn make_uplink(outer_ip: Ipv4Addr, inner_ip: Ipv4Addr) -> io::Result<()> {
    let inner = Socket::route()?;
    let index = index_of(&inner, UPLINK)?.ok_or_else(|| io::Error::other("the link upwards is not there"))?;
    let mut batch = Batch::default();
    link(&mut batch, flag::ACK, index, "bring the link upwards up");
    neighbour(&mut batch, index, outer_ip, hardware_address(outer_ip));
    route(&mut batch, one(outer_ip), &Way::Link(index), Some(inner_ip));
    route(&mut batch, EVERYWHERE, &Way::Gateway(outer_ip, index), Some(inner_ip));
    inner.execute(batch)
}

/// Removes the host's end of the link to the node.
pub(crate) fn remove_host_link(host: &Socket) -> io::Result<()> {
    remove_link(host, HOST_LINK, "remove the link `sealane`")
}

fn uplink_hardware_address(gateway: Ipv4Addr) -> [u8; 6] {
    let mut address = hardware_address(gateway);
    address[1] = 0x5f;
    address
}

/// The index of a link of the socket's namespace.
pub(crate) fn index_of(socket: &Socket, name: &str) -> io::Result<Option<u32>> {
    let mut batch = Batch::default();
    batch.begin(RTM_GETLINK, flag::DUMP, "read the links").raw(&interface(0, 0));
    let links = socket.dump(batch)?;
    let found = links.iter().find(|link| {
        link.attributes(16).any(|(kind, value)| kind == IFLA_IFNAME && text(value) == name.as_bytes())
    });
    Ok(found.and_then(|link| Some(u32::from_ne_bytes(link.payload.get(4..8)?.try_into().ok()?))))
}

fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn link(batch: &mut Batch, flags: u16, index: u32, step: &str) {
    batch.begin(RTM_NEWLINK, flags, step).raw(&interface(index, IFF_UP));
}

fn up(batch: &mut Batch, index: u32) {
    link(batch, flag::ACK, index, "bring the loopback up");
}

fn address(batch: &mut Batch, index: u32, ip: Ipv4Addr, prefix: u8) {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const NO_PREFIX_ROUTE: u32 = 0x200;
    batch.begin(RTM_NEWADDR, CREATE, format!("give a link the address {ip}"));
    batch.raw(&[AF_INET, prefix, 0, 0]).raw(&index.to_ne_bytes());
    // Routes are ours to make.
    batch.address(IFA_LOCAL, ip).address(IFA_ADDRESS, ip).number(IFA_FLAGS, NO_PREFIX_ROUTE);
}

fn neighbour(batch: &mut Batch, index: u32, ip: Ipv4Addr, hardware: [u8; 6]) {
    const NDA_LLADDR: u16 = 2;
    const NUD_PERMANENT: u16 = 0x80;
    batch.begin(RTM_NEWNEIGH, flag::ACK | flag::CREATE | flag::REPLACE, format!("enter the neighbour {ip}"));
    batch.raw(&[AF_INET, 0, 0, 0]).raw(&index.to_ne_bytes());
    let [low, high] = NUD_PERMANENT.to_ne_bytes();
    batch.raw(&[low, high, 0, 0]).address(NDA_DST, ip).attribute(NDA_LLADDR, &hardware);
}

/// Where packets for a range go. A default route is one for 0.0.0.0/0.
enum Way {
    /// To whoever has the address, by this link.
    Link(u32),
    /// By a neighbour on this link.
    Gateway(Ipv4Addr, u32),
    /// Back, with "host unreachable".
    Nowhere,
}

const EVERYWHERE: Cidr = Cidr { network: Ipv4Addr::UNSPECIFIED, prefix: 0 };

fn one(ip: Ipv4Addr) -> Cidr {
    Cidr { network: ip, prefix: 32 }
}

fn route(batch: &mut Batch, to: Cidr, way: &Way, source: Option<Ipv4Addr>) {
    const PROTOCOL_STATIC: u8 = 4;
    const SCOPE_UNIVERSE: u8 = 0;
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    const UNREACHABLE: u8 = 7;
    const ONLINK: u32 = 4;
    let (scope, kind, flags) = match way {
        Way::Link(_) => (SCOPE_LINK, UNICAST, 0),
        Way::Gateway(..) => (SCOPE_UNIVERSE, UNICAST, ONLINK),
        Way::Nowhere => (SCOPE_UNIVERSE, UNREACHABLE, 0),
    };
    batch
        .begin(RTM_NEWROUTE, flag::ACK | flag::CREATE | flag::REPLACE, format!("enter the route {to}"))
        .raw(&[AF_INET, to.prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, kind])
        .raw(&flags.to_ne_bytes())
        .address(RTA_DST, to.network);
    if let Way::Gateway(gateway, _) = way {
        batch.address(RTA_GATEWAY, *gateway);
    }
    if let Way::Gateway(_, index) | Way::Link(index) = way {
        batch.number(RTA_OIF, *index);
    }
    if let Some(source) = source {
        batch.address(RTA_PREFSRC, source);
    }
}

/// Removes the route to one address.
fn no_route(batch: &mut Batch, ip: Ipv4Addr, step: &str) {
    const SCOPE_NOWHERE: u8 = 255;
    batch.begin(RTM_DELROUTE, flag::ACK, step);
    batch.raw(&[AF_INET, 32, 0, 0, TABLE_MAIN, 0, SCOPE_NOWHERE, 0]).raw(&[0; 4]).address(RTA_DST, ip);
}

/// IPv4 routes of the socket's namespace, but for the default route and those by way of a link named `except`.
pub(crate) fn routes(socket: &Socket, except: &str) -> io::Result<Vec<Cidr>> {
    let except = index_of(socket, except)?;
    let mut batch = Batch::default();
    batch
        .begin(RTM_GETROUTE, flag::DUMP, "read the routes")
        .raw(&[AF_INET, 0, 0, 0, 0, 0, 0, 0])
        .raw(&[0; 4]);
    Ok(socket.dump(batch)?.iter().filter_map(|route| destination(route, except)).collect())
}

fn destination(route: &Received, except: Option<u32>) -> Option<Cidr> {
    const TABLE_LOCAL: u8 = 255;
    const MULTICAST: u8 = 5;
    let [family, prefix, _, _, table, _, _, kind, ..] = route.payload.get(..12)? else { return None };
    if *family != AF_INET || *table == TABLE_LOCAL || *kind == MULTICAST {
        return None;
    }
    let of = |wanted| route.attributes(12).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let link = of(RTA_OIF).and_then(|value| Some(u32::from_ne_bytes(value.try_into().ok()?)));
    if link.is_some() && link == except {
        return None;
    }
    let octets: [u8; 4] = of(RTA_DST)?.try_into().ok()?;
    Some(Cidr { network: octets.into(), prefix: *prefix })
}

pub use crate::ranges::Cidr;

/// The calling thread's network namespace.
pub(crate) fn current_namespace() -> io::Result<std::os::fd::OwnedFd> {
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )?)
}
