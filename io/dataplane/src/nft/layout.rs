//! Table, sets, chains and rules: what stands there whatever the Services are.

use super::action::{Action, Verdict as Serves};
use super::expr::{Base, Expr, Register, Verdict};
use crate::message::{Attributes, Messages, flags};
use crate::netlink::SUBSYSTEM_NFTABLES;
use sealane_proxy::{Cidr, Masquerade, NodeContext, PodInterface};
use std::net::IpAddr;

/// The table's name in both families.
pub(crate) const TABLE: &str = "sealane";

/// Message types of nftables.
pub(crate) mod kind {
    use super::SUBSYSTEM_NFTABLES;
    const fn nftables(message: u16) -> u16 {
        SUBSYSTEM_NFTABLES << 8 | message
    }
    pub(crate) const NEW_TABLE: u16 = nftables(0);
    pub(crate) const GET_TABLE: u16 = nftables(1);
    pub(crate) const DELETE_TABLE: u16 = nftables(2);
    pub(crate) const NEW_CHAIN: u16 = nftables(3);
    pub(crate) const GET_CHAIN: u16 = nftables(4);
    pub(crate) const DELETE_CHAIN: u16 = nftables(5);
    pub(crate) const NEW_RULE: u16 = nftables(6);
    pub(crate) const GET_RULE: u16 = nftables(7);
    pub(crate) const NEW_SET: u16 = nftables(9);
    pub(crate) const NEW_ELEMENTS: u16 = nftables(12);
    pub(crate) const GET_ELEMENTS: u16 = nftables(13);
    pub(crate) const DELETE_ELEMENTS: u16 = nftables(14);
    pub(crate) const DESTROY_TABLE: u16 = nftables(26);
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// NFPROTO_IPV4, NFPROTO_IPV6.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    /// Registers that an address takes.
    fn words(self) -> u32 {
        self.octets() as u32 / 4
    }

    /// Bytes of an address.
    pub(crate) fn octets(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    fn source_offset(self) -> u32 {
        match self {
            Family::V4 => 12,
            Family::V6 => 8,
        }
    }

    fn port_unreachable(self) -> u8 {
        match self {
            Family::V4 => 3,
            Family::V6 => 4,
        }
    }

    /// Registers follow one another so that each set's key lies in one piece:
    /// source, destination, protocol, port, then index or the chosen address and port. IPv6 fills 15 of 16.
    fn source(self) -> Register {
        Register(0)
    }

    fn destination(self) -> Register {
        Register(self.words())
    }

    fn protocol(self) -> Register {
        Register(2 * self.words())
    }

    fn port(self) -> Register {
        Register(2 * self.words() + 1)
    }

    /// Action, index, or chosen address.
    fn chosen(self) -> Register {
        Register(2 * self.words() + 2)
    }

    fn chosen_port(self) -> Register {
        Register(3 * self.words() + 2)
    }
}

/// An address as packets carry it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Sets and maps of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    Services,
    Outside,
    Actions,
    Leaves,
    Endpoints,
    Members,
    Cluster,
    Hairpin,
    Sources,
    Affinity,
}

/// nft's numbers of its data types, which `nft list` prints by (nftables, include/datatype.h).
#[derive(Clone, Copy)]
enum Type {
    Address,
    Protocol,
    Port,
    Mark,
}

impl Type {
    fn number(self, family: Family) -> u32 {
        match (self, family) {
            (Type::Address, Family::V4) => 7,
            (Type::Address, Family::V6) => 8,
            (Type::Protocol, _) => 12,
            (Type::Port, _) => 13,
            (Type::Mark, _) => 19,
        }
    }

    /// Bytes of a value, without what fills its registers up.
    fn octets(self, family: Family) -> u32 {
        match self {
            Type::Address => family.octets() as u32,
            Type::Protocol => 1,
            Type::Port => 2,
            Type::Mark => 4,
        }
    }

    fn length(self, family: Family) -> u32 {
        if matches!(self, Type::Address) { family.octets() as u32 } else { 4 }
    }
}

/// A concatenation: six bits for each type, each value padded to a register.
fn concatenated(types: &[Type], family: Family) -> (u32, u32) {
    // A lone type's length is its own; those that stand alone here have four octets or are addresses.
    types
        .iter()
        .fold((0, 0), |(number, length), t| (number << 6 | t.number(family), length + t.length(family)))
}

/// What the map of cluster addresses says of each.
pub(crate) const IN_CLUSTER: u32 = 1;
/// RTN_LOCAL: what `fib ... type` says of the node's own addresses.
const LOCAL: u32 = 2;
/// IFNAMSIZ.
const INTERFACE_NAME: usize = 16;
/// The most clients that affinity remembers; those beyond are balanced afresh.
const AFFINITY_SIZE: u32 = 1 << 18;
/// The most chains.
const ACTIONS_SIZE: u32 = 1 << 16;

impl Set {
    /// All, in the order of their making.
    pub(crate) const ALL: [Set; 10] = [
        Set::Services,
        Set::Outside,
        Set::Actions,
        Set::Leaves,
        Set::Endpoints,
        Set::Members,
        Set::Cluster,
        Set::Hairpin,
        Set::Sources,
        Set::Affinity,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Services => "services",
            Set::Outside => "outside",
            Set::Actions => "actions",
            Set::Leaves => "leaves",
            Set::Endpoints => "endpoints",
            Set::Members => "members",
            Set::Cluster => "cluster",
            Set::Hairpin => "hairpin",
            Set::Sources => "sources",
            Set::Affinity => "affinity",
        }
    }

    fn key(self) -> &'static [Type] {
        use Type::{Address, Mark, Port, Protocol};
        match self {
            Set::Services | Set::Outside => &[Address, Protocol, Port],
            Set::Actions | Set::Leaves => &[Mark],
            Set::Endpoints => &[Address, Protocol, Port, Mark],
            Set::Members => &[Address, Protocol, Port, Address, Port],
            Set::Cluster => &[Address],
            Set::Hairpin => &[Address, Address],
            Set::Sources => &[Address, Protocol, Port, Address],
            Set::Affinity => &[Address, Address, Protocol, Port],
        }
    }

    /// What a map leads to; empty for a set.
    fn value(self) -> &'static [Type] {
        match self {
            Set::Services | Set::Outside => &[Type::Mark],
            Set::Cluster => &[Type::Mark],
            Set::Endpoints | Set::Affinity => &[Type::Address, Type::Port],
            Set::Actions | Set::Leaves | Set::Members | Set::Hairpin | Set::Sources => &[],
        }
    }

    /// Writes its creation, with room for `size` elements.
    pub(crate) fn create(self, family: Family, id: u32, size: u32, out: &mut Messages) {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const EVALUATED: u32 = 0x20;
        const CONCATENATED: u32 = 0x80;
        const VERDICT_TYPE: u32 = 0xffff_ff00;
        let (key_type, key_length) = concatenated(self.key(), family);
        let (value_type, value_length) = concatenated(self.value(), family);
        let (set_flags, size) = match self {
            Set::Services | Set::Outside | Set::Endpoints | Set::Cluster => (MAP, size),
            Set::Actions | Set::Leaves => (MAP, ACTIONS_SIZE),
            Set::Members | Set::Hairpin => (0, size),
            Set::Sources => (INTERVAL | CONCATENATED, size),
            Set::Affinity => (MAP | TIMEOUT | EVALUATED, AFFINITY_SIZE),
        };
        out.push(kind::NEW_SET, flags::CREATE | flags::EXCLUSIVE, family.number(), |a| {
            a.text(1, TABLE);
            a.text(2, self.name());
            a.u32(3, set_flags);
            a.u32(4, key_type);
            a.u32(5, key_length);
            match self {
                // NFT_DATA_VERDICT; the kernel knows its length.
                Set::Actions | Set::Leaves => a.u32(6, VERDICT_TYPE),
                _ if value_length > 0 => {
                    a.u32(6, value_type);
                    a.u32(7, value_length);
                }
                _ => {}
            }
            a.nest(9, |description| {
                description.u32(1, size);
                if self == Set::Sources {
                    description.nest(2, |fields| {
                        self.key().iter().for_each(|t| fields.nest(1, |f| f.u32(1, t.octets(family))));
                    });
                }
            });
            a.u32(10, id);
        });
    }
}

/// How the table is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// By nobody: whoever may write rules may write here. All that kernels before 6.9 have.
    Open,
    /// By nobody, where others may have left it held.
    Released,
    /// By the socket that makes it, beside which nobody writes here; when that goes it stays, open to all, to be replaced by the
    /// next (NFT_TABLE_F_OWNER, Linux 5.12, with NFT_TABLE_F_PERSIST, 6.9).
    Socket,
}

/// `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST`.
const OWNER: u32 = 2;
const PERSIST: u32 = 4;

/// Removes a table, there or not, and makes it again.
pub(crate) fn recreate_table(family: Family, hold: Hold, out: &mut Messages) {
    remove_table(family, hold, out);
    new_table(family, TABLE, if hold == Hold::Socket { OWNER | PERSIST } else { 0 }, out);
}

/// Removes a table, there or not.
pub(crate) fn remove_table(family: Family, hold: Hold, out: &mut Messages) {
    if hold == Hold::Open {
        new_table(family, TABLE, 0, out);
        return delete_table(family, TABLE, out);
    }
    // One that was held takes no other flags than it had.
    out.push(kind::DESTROY_TABLE, 0, family.number(), |a| a.text(1, TABLE));
}

/// Asks whether a table can be held, and stay: it is made and removed at once.
pub(crate) fn try_hold(name: &str, out: &mut Messages) {
    new_table(Family::V4, name, OWNER | PERSIST, out);
    delete_table(Family::V4, name, out);
}

/// Removes what leads packets that arrive, or that the node sends, into a table that is there. What the table says of those
/// that are in it already stays.
pub(crate) fn unhook(family: Family, out: &mut Messages) {
    for chain in ["prerouting", "output"] {
        out.push(kind::DELETE_CHAIN, 0, family.number(), |a| {
            a.text(1, TABLE);
            a.text(3, chain);
        });
    }
}

/// Removes a table that is there.
pub(crate) fn delete_table(family: Family, name: &str, out: &mut Messages) {
    out.push(kind::DELETE_TABLE, 0, family.number(), |a| a.text(1, name));
}

fn new_table(family: Family, name: &str, held: u32, out: &mut Messages) {
    out.push(kind::NEW_TABLE, flags::CREATE, family.number(), |a| {
        a.text(1, name);
        a.u32(2, held);
    });
}

pub(crate) fn new_chain(family: Family, name: &str, out: &mut Messages) {
    chain(family, name, out, |_| {});
}

fn chain(family: Family, name: &str, out: &mut Messages, hook: impl FnOnce(&mut Attributes<'_>)) {
    out.push(kind::NEW_CHAIN, flags::CREATE, family.number(), |a| {
        a.text(1, TABLE);
        a.text(3, name);
        hook(a);
    });
}

/// A base chain of type nat.
fn nat_chain(family: Family, name: &str, number: u32, priority: i32, out: &mut Messages) {
    chain(family, name, out, |a| {
        a.nest(4, |h| {
            h.u32(1, number);
            h.bytes(2, &priority.to_be_bytes());
        });
        a.text(7, "nat");
    });
}

fn rule(family: Family, chain: &str, expressions: &[Expr<'_>], out: &mut Messages) {
    out.push(kind::NEW_RULE, flags::CREATE | flags::APPEND, family.number(), |a| {
        a.text(1, TABLE);
        a.text(2, chain);
        a.nest(4, |list| expressions.iter().for_each(|e| e.write(list)));
    });
}

/// Chains that every ruleset has; the hooks stand in [`hooks`].
pub(crate) fn static_chains(family: Family, node: &NodeContext, out: &mut Messages) {
    new_chain(family, "services", out);
    let destination = family.destination();
    let mut lookup = load_key(family);
    lookup.push(Expr::Lookup { set: Set::Services.name(), key: destination, to: Some(family.chosen()) });
    lookup.extend(retype(family.chosen()));
    lookup.push(Expr::Dispatch { map: Set::Actions.name(), key: family.chosen() });
    rule(family, "services", &lookup, out);
    // A port of a cluster address that no Service has. Rejecting from a chain of type nat means that only the
    // first packet of a connection is looked up, once. Addresses are a map for its elements go at once where the table is
    // replaced, and with those of the map above; a set's would still be there for a packet that met none above.
    let kind = Register(0);
    let elsewhere = [
        Expr::DestinationType { to: kind },
        Expr::Differs { register: kind, value: LOCAL.to_ne_bytes().to_vec() },
    ];
    let [kind_of, not_local] = elsewhere.clone();
    let unused = [
        load_address(family, family.destination()),
        Expr::Lookup { set: Set::Cluster.name(), key: destination, to: Some(family.chosen()) },
        Expr::Equal { register: family.chosen(), value: IN_CLUSTER.to_ne_bytes().to_vec() },
        // Where a Service has an address of the node's, the node's other ports are its own.
        kind_of,
        not_local,
        Expr::Refuse { code: family.port_unreachable() },
    ];
    rule(family, "services", &unused, out);
    // What is no Service's is nobody's, lest it go round between nodes and gateways; but for the node's own and Pods'.
    let of_family = |ranges: &[Cidr]| -> Vec<Cidr> {
        ranges.iter().copied().filter(|c| c.network().is_ipv4() == (family == Family::V4)).collect()
    };
    let is_for = |range: &Cidr| {
        [
            load_address(family, destination),
            Expr::Bitwise { register: destination, mask: range.mask(), xor: vec![0; family.octets()] },
            Expr::Equal { register: destination, value: octets(range.network()) },
        ]
    };
    for service_range in of_family(&node.service_cidrs) {
        // Ranges that overlap by mistake: Pods go on to be reached.
        let overlaps =
            |pods: &Cidr| service_range.contains(pods.network()) || pods.contains(service_range.network());
        for pods in of_family(&node.pod_cidrs).iter().filter(|p| overlaps(p)) {
            let to_pods = [&is_for(pods)[..], &[Expr::Verdict(Verdict::Return)]].concat();
            rule(family, "services", &to_pods, out);
        }
        let unassigned = [&is_for(&service_range)[..], &elsewhere, &[Expr::Verdict(Verdict::Drop)]].concat();
        rule(family, "services", &unassigned, out);
    }

    new_chain(family, "offcluster", out);
    for range in from_pods(family, node) {
        rule(family, "offcluster", &[&range[..], &[Expr::Verdict(Verdict::Return)]].concat(), out);
    }
    rule(family, "offcluster", &mark(node), out);
}

/// A table beside ours that holds nothing but a chain of type nat and a use of conntrack. Others cannot flush it, for it
/// belongs to the socket that makes it, and goes with that (NFT_TABLE_F_OWNER, Linux 5.12). Where the last chain of
/// type nat goes, the kernel stops translating what it had translated (nf_nat_core.c, nf_nat_unregister_fn), and
/// both sides of a connection see strangers: with this one it goes on, whoever flushes ours.
pub(crate) fn keep_translating(family: Family, name: &str, out: &mut Messages) {
    const POSTROUTING: u32 = 4;
    const LAST: i32 = i32::MAX;
    new_table(family, name, OWNER, out);
    out.push(kind::NEW_CHAIN, flags::CREATE, family.number(), |a| {
        a.text(1, name);
        a.text(3, name);
        a.nest(4, |h| {
            h.u32(1, POSTROUTING);
            h.bytes(2, &LAST.to_be_bytes());
        });
        a.text(7, "nat");
    });
    out.push(kind::NEW_RULE, flags::CREATE | flags::APPEND, family.number(), |a| {
        a.text(1, name);
        a.text(2, name);
        a.nest(4, |list| Expr::CtStatus { to: Register(0) }.write(list));
    });
}

/// The base chains: what makes the rest come into force.
pub(crate) fn hooks(family: Family, node: &NodeContext, out: &mut Messages) {
    const PREROUTING: u32 = 0;
    const OUTPUT: u32 = 3;
    const POSTROUTING: u32 = 4;
    const DESTINATION: i32 = -100;
    const SOURCE: i32 = 100;
    nat_chain(family, "postrouting", POSTROUTING, SOURCE, out);
    let bit = 1u32 << (node.masquerade_bit & 31);
    let register = Register(0);
    let native = |n: u32| n.to_ne_bytes().to_vec();
    let marked = [
        Expr::MetaMark { to: register },
        Expr::Bitwise { register, mask: native(bit), xor: native(0) },
        Expr::Differs { register, value: native(0) },
        // Cleared, so that a tunnel's outer packet is not taken for one as well.
        Expr::MetaMark { to: register },
        Expr::Bitwise { register, mask: native(!bit), xor: native(0) },
        Expr::SetMetaMark { from: register },
        Expr::Masquerade,
    ];
    rule(family, "postrouting", &marked, out);
    const DESTINATION_CHANGED: u32 = 1 << 5;
    let hairpin = [
        Expr::CtStatus { to: register },
        Expr::Bitwise { register, mask: native(DESTINATION_CHANGED), xor: native(0) },
        Expr::Differs { register, value: native(0) },
        load_address(family, family.source()),
        load_address(family, family.destination()),
        Expr::Lookup { set: Set::Hairpin.name(), key: family.source(), to: None },
        Expr::Masquerade,
    ];
    rule(family, "postrouting", &hairpin, out);
    for (name, number) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        nat_chain(family, name, number, DESTINATION, out);
        rule(family, name, &[Expr::Verdict(Verdict::Jump("services"))], out);
    }
}

fn load_address(family: Family, to: Register) -> Expr<'static> {
    let length = family.octets() as u32;
    let offset = if to == family.source() { family.source_offset() } else { family.source_offset() + length };
    Expr::Payload { base: Base::Network, offset, length, to }
}

/// Destination, protocol and port, in one piece.
fn load_key(family: Family) -> Vec<Expr<'static>> {
    vec![
        load_address(family, family.destination()),
        Expr::MetaProtocol { to: family.protocol() },
        Expr::Payload { base: Base::Transport, offset: 2, length: 2, to: family.port() },
    ]
}

/// What matches Pods: each of their ranges, and their links.
fn from_pods(family: Family, node: &NodeContext) -> Vec<Vec<Expr<'static>>> {
    let register = Register(0);
    let named = node.pod_interface.as_ref().map(|interfaces| match interfaces {
        PodInterface::Named(name) => {
            let mut whole = name.as_bytes().to_vec();
            whole.resize(INTERFACE_NAME, 0);
            whole
        }
        PodInterface::Prefix(prefix) => prefix.as_bytes().to_vec(),
    });
    // No link has a longer name, so none is meant; and every link has a name.
    let named = named.filter(|name| (1..=INTERFACE_NAME).contains(&name.len()));
    let links =
        named.map(|value| vec![Expr::InputInterface { to: register }, Expr::Equal { register, value }]);
    let ranges = node.pod_cidrs.iter().filter(|c| c.network().is_ipv4() == (family == Family::V4));
    let ranges = ranges.map(|range| {
        let register = family.source();
        vec![
            load_address(family, register),
            Expr::Bitwise { register, mask: range.mask(), xor: vec![0; family.octets()] },
            Expr::Equal { register, value: octets(range.network()) },
        ]
    });
    ranges.chain(links).collect()
}

/// Asks postrouting for masquerade.
fn mark(node: &NodeContext) -> [Expr<'static>; 3] {
    let bit = 1u32 << (node.masquerade_bit & 31);
    let register = Register(0);
    [
        Expr::MetaMark { to: register },
        Expr::Bitwise { register, mask: (!bit).to_ne_bytes().to_vec(), xor: bit.to_ne_bytes().to_vec() },
        Expr::SetMetaMark { from: register },
    ]
}

/// Makes the chain of an action; the chains that a split one goes to stand already.
pub(crate) fn action_chain(family: Family, action: Action, node: &NodeContext, out: &mut Messages) {
    let name = action.to_string();
    new_chain(family, &name, out);
    if action.guarded {
        return guard_rules(family, &name, action, out);
    }
    if action.split {
        return split_rules(family, &name, action, node, out);
    }
    match action.masquerade {
        Masquerade::Never => {}
        Masquerade::OffCluster => {
            rule(family, &name, &[Expr::Verdict(Verdict::Jump("offcluster"))], out);
        }
        Masquerade::Always => rule(family, &name, &mark(node), out),
    }
    match action.verdict {
        Serves::Reject => rule(family, &name, &[Expr::Refuse { code: family.port_unreachable() }], out),
        Serves::Drop => rule(family, &name, &[Expr::Verdict(Verdict::Drop)], out),
        Serves::Balance { count, offset } => {
            if let Some(seconds) = action.affinity {
                affinity_rules(family, &name, (count, offset), seconds, out);
            }
            let mut balance = pick(family, count, offset);
            balance.push(dnat(family));
            rule(family, &name, &balance, out);
        }
    }
}

/// `loadBalancerSourceRanges`: swallows whom it does not admit, before anything else can be said of the packet.
fn guard_rules(family: Family, name: &str, action: Action, out: &mut Messages) {
    let mut strangers = load_key(family);
    let length = family.octets() as u32;
    // Behind the port: the set's keys lie in one piece.
    let to = family.chosen();
    strangers.push(Expr::Payload { base: Base::Network, offset: family.source_offset(), length, to });
    strangers.push(Expr::Outside { set: Set::Sources.name(), key: family.destination() });
    strangers.push(Expr::Verdict(Verdict::Drop));
    rule(family, name, &strangers, out);
    let admitted = action.behind_guard().to_string();
    rule(family, name, &[Expr::Verdict(Verdict::Goto(&admitted))], out);
}

/// `externalTrafficPolicy: Local`, as kube-proxy's external chain has it: Pods short-circuit to all endpoints,
/// the node does so masqueraded, and the rest of the world gets the endpoints of this node.
fn split_rules(family: Family, name: &str, action: Action, node: &NodeContext, out: &mut Messages) {
    let (pods, own) = action.inside();
    let (pods, own) = (pods.to_string(), own.to_string());
    for range in from_pods(family, node) {
        rule(family, name, &[&range[..], &[Expr::Verdict(Verdict::Goto(&pods))]].concat(), out);
    }
    let from_node = [
        Expr::SourceType { to: Register(0) },
        Expr::Equal { register: Register(0), value: LOCAL.to_ne_bytes().to_vec() },
        Expr::Verdict(Verdict::Goto(&own)),
    ];
    rule(family, name, &from_node, out);
    let mut others = load_key(family);
    others.push(Expr::Lookup {
        set: Set::Outside.name(),
        key: family.destination(),
        to: Some(family.chosen()),
    });
    others.extend(retype(family.chosen()));
    // A map of its own, whose chains go nowhere else: the kernel refuses rulesets that might loop.
    others.push(Expr::Dispatch { map: Set::Leaves.name(), key: family.chosen() });
    rule(family, name, &others, out);
}

/// Leads a client back to where it was, if that is still a backend; else learns anew. Where the map is full the
/// second rule breaks off, and the plain one behind it serves.
fn affinity_rules(family: Family, name: &str, (count, offset): (u32, u32), seconds: u32, out: &mut Messages) {
    let map = Set::Affinity.name();
    let (key, value) = (family.source(), family.chosen());
    let mut sticky = vec![load_address(family, family.source())];
    sticky.extend(load_key(family));
    sticky.push(Expr::Lookup { set: map, key, to: Some(value) });
    sticky.extend((value.0..=family.chosen_port().0).flat_map(|word| retype(Register(word))));
    sticky.extend([
        Expr::Lookup { set: Set::Members.name(), key: family.destination(), to: None },
        Expr::Learn { map, key, value, seconds },
        dnat(family),
    ]);
    rule(family, name, &sticky, out);
    let mut learn = vec![load_address(family, family.source())];
    learn.extend(pick(family, count, offset));
    learn.extend((value.0..=family.chosen_port().0).flat_map(|word| retype(Register(word))));
    // An update would keep what the client was led to before.
    learn.extend([Expr::Forget { map, key, value }, Expr::Learn { map, key, value, seconds }, dnat(family)]);
    rule(family, name, &learn, out);
}

/// Passes a word through the packet mark, which it leaves as it was. `nft list` gives a looked-up value no length and
/// aborts where that is the next look-up's key (netlink_parse_concat_expr, as of 1.0.6); a mark has one.
fn retype(register: Register) -> [Expr<'static>; 4] {
    let spare = Register(15);
    [
        Expr::MetaMark { to: spare },
        Expr::SetMetaMark { from: register },
        Expr::MetaMark { to: register },
        Expr::SetMetaMark { from: spare },
    ]
}

/// Chooses one of the endpoints: address and port.
fn pick(family: Family, count: u32, offset: u32) -> Vec<Expr<'static>> {
    let mut steps = load_key(family);
    steps.push(Expr::Random { modulus: count, offset, to: family.chosen() });
    steps.push(Expr::Lookup {
        set: Set::Endpoints.name(),
        key: family.destination(),
        to: Some(family.chosen()),
    });
    steps
}

fn dnat(family: Family) -> Expr<'static> {
    Expr::Dnat { family: family.number(), address: family.chosen(), port: family.chosen_port() }
}
