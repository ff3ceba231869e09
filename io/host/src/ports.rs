//! Ports of the node that lead into Pods (`hostPort`), as CNI's portmap plugin makes them: a table of our own in the
//! node's network, written anew as a whole, in one transaction, whenever a Pod with such ports comes or goes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

use crate::links::BRIDGE;
use crate::netlink::{Batch, Socket};
use crate::nft::{self, FAMILY_IPV4, REGISTER, compare, expression, generic, value};
use crate::ranges::Cidr;
use crate::runtime::HostPort;

const TABLE: &str = "sealane-ports";
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Before connections are tracked (`raw`).
const BEFORE: i32 = -300;
/// A little after `dstnat`, where Services are: the first that rewrites a connection wins.
const DESTINATION: i32 = -90;
/// `srcnat`.
const SOURCE: i32 = 100;
/// The bit of packet marks that portmap uses for this as well (13).
const MASQUERADE: u32 = 0x2000;
const LOOPBACK: Cidr = Cidr { network: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };

const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// The open ports of a node.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// Made with the first port; the table lives as long as it.
    socket: Option<Socket>,
    /// Pods' addresses and ports by sandbox.
    open: BTreeMap<String, (Ipv4Addr, Vec<HostPort>)>,
}

/// The node that has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) address: Ipv4Addr,
    pub(crate) pods: Cidr,
}

impl Ports {
    /// Whether a sandbox has any.
    pub(crate) fn has(&self, sandbox: &str) -> bool {
        self.open.contains_key(sandbox)
    }

    /// Opens a Pod's ports. To be called in the node's network.
    pub(crate) fn open(&mut self, node: Node, id: &str, pod: Ipv4Addr, ports: &[HostPort]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                // From the node's own loopback into a Pod, and back.
                let name = format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet");
                fs::write(name, "1")?;
                make()?
            }
        };
        self.open.insert(id.to_owned(), (pod, ports.to_vec()));
        let result = write(&socket, node, &self.open);
        if result.is_err() {
            self.open.remove(id);
        }
        self.socket = Some(socket);
        result
    }

    /// Closes a Pod's ports. Connections that are open end with the Pod.
    pub(crate) fn close(&mut self, node: Node, id: &str) -> io::Result<()> {
        match (self.open.remove(id), &self.socket) {
            (Some(_), Some(socket)) => write(socket, node, &self.open),
            _ => Ok(()),
        }
    }
}

/// The table with its chains, and nothing in them but what must always hold.
fn make() -> io::Result<Socket> {
    let socket = Socket::netfilter()?;
    let mut batch = nft::begin();
    nft::table(&mut batch, TABLE, "make the nftables table for host ports");
    for (name, hook, priority, kind) in [
        ("before", PREROUTING, BEFORE, "filter"),
        ("inward", PREROUTING, DESTINATION, "nat"),
        ("own", OUTPUT, DESTINATION, "nat"),
        ("outward", POSTROUTING, SOURCE, "nat"),
    ] {
        nft::chain(&mut batch, TABLE, name, (hook, priority, kind), "make an nftables chain for host ports");
    }
    nft::end(&mut batch);
    socket.execute(batch)?;
    Ok(socket)
}

fn write(socket: &Socket, node: Node, open: &BTreeMap<String, (Ipv4Addr, Vec<HostPort>)>) -> io::Result<()> {
    const DELETE_RULE: u16 = nft::SUBSYSTEM << 8 | 8;
    let mut batch = nft::begin();
    // Without a chain: all rules of the table.
    batch.begin(DELETE_RULE, crate::netlink::flag::ACK, "replace the host ports' rules");
    batch.raw(&[FAMILY_IPV4, 0, 0, 0]).string(1, TABLE);
    // The bridge takes packets for 127.0.0.0/8 now, which are the node's own alone.
    rule(&mut batch, "before", |list| {
        let mut name = [0; 16];
        name[..2].copy_from_slice(b"lo");
        meta(list, META_IIFNAME);
        compare(list, DIFFERENT, &name);
        to(list, LOOPBACK);
        expression(list, "immediate", |data| {
            // NF_DROP into the verdict's register.
            data.network_number(1, 0).nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.network_number(1, 0);
                });
            });
        });
    });
    for (pod, ports) in open.values() {
        for port in ports {
            for chain in ["inward", "own"] {
                lead(&mut batch, chain, node, *pod, port);
            }
        }
    }
    rule(&mut batch, "outward", |list| {
        meta(list, META_MARK);
        masked(list, &MASQUERADE.to_ne_bytes(), &[0; 4]);
        compare(list, EQUAL, &MASQUERADE.to_ne_bytes());
        expression(list, "masq", |_| {});
    });
    nft::end(&mut batch);
    socket.execute(batch)
}

/// One port's rules: what comes from the node's Pods or loopback gets the node's address, so that answers come back
/// this way; all is led to the Pod.
fn lead(batch: &mut Batch, chain: &str, node: Node, pod: Ipv4Addr, port: &HostPort) {
    let one = |network| Cidr { network, prefix: 32 };
    let addresses = match port.address {
        Some(address) => vec![one(address)],
        None => vec![one(node.address), LOOPBACK],
    };
    for address in addresses {
        let here = |list: &mut Batch| {
            to(list, address);
            meta(list, META_L4PROTO);
            compare(list, EQUAL, &[port.protocol]);
            payload(list, TRANSPORT_HEADER, 2, 2);
            compare(list, EQUAL, &port.port.to_be_bytes());
        };
        for source in [node.pods, LOOPBACK] {
            rule(batch, chain, |list| {
                here(list);
                address_in(list, 12, source);
                meta(list, META_MARK);
                masked(list, &(!MASQUERADE).to_ne_bytes(), &MASQUERADE.to_ne_bytes());
                expression(list, "meta", |data| {
                    data.network_number(2, META_MARK).network_number(3, REGISTER);
                });
            });
        }
        rule(batch, chain, |list| {
            here(list);
            for (register, bytes) in [(1, &pod.octets()[..]), (2, &port.target.to_be_bytes()[..])] {
                expression(list, "immediate", |data| {
                    data.network_number(1, register);
                    value(data, 2, bytes);
                });
            }
            expression(list, "nat", |data| {
                // NFT_NAT_DNAT, IPv4, from register 1, to the port in register 2.
                data.network_number(1, 1).network_number(2, u32::from(FAMILY_IPV4));
                data.network_number(3, 1).network_number(5, 2);
            });
        });
    }
}

fn rule(batch: &mut Batch, chain: &str, fill: impl FnOnce(&mut Batch)) {
    generic(batch, nft::NEW_RULE, "make an nftables rule for a host port");
    batch.string(1, TABLE).string(2, chain).nest(4, fill);
}

fn to(list: &mut Batch, range: Cidr) {
    address_in(list, 16, range);
}

fn address_in(list: &mut Batch, offset: u32, range: Cidr) {
    let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix)).unwrap_or(0);
    payload(list, NETWORK_HEADER, offset, 4);
    masked(list, &mask.to_be_bytes(), &[0; 4]);
    compare(list, EQUAL, &range.network.octets());
}

fn payload(list: &mut Batch, header: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        data.network_number(1, REGISTER).network_number(2, header).network_number(3, offset);
        data.network_number(4, length);
    });
}

fn meta(list: &mut Batch, key: u32) {
    expression(list, "meta", |data| {
        data.network_number(2, key).network_number(1, REGISTER);
    });
}

/// The register's four bytes, AND `mask`, XOR `flip`.
fn masked(list: &mut Batch, mask: &[u8; 4], flip: &[u8; 4]) {
    expression(list, "bitwise", |data| {
        data.network_number(1, REGISTER).network_number(2, REGISTER).network_number(3, 4);
        value(data, 4, mask);
        value(data, 5, flip);
    });
}
