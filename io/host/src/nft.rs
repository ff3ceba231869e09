//! nftables, as far as the node itself uses it, and masquerade: Pods reach the outside by the host's address. Tables of
//! ours the kernel removes when the socket that made them closes (`NFT_TABLE_F_OWNER`), however the process ends.

use std::io;

use crate::netlink::{Batch, Socket, flag};
use crate::ranges::Cidr;

pub(crate) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
pub(crate) const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
pub(crate) const FAMILY_IPV4: u8 = 2;
const TABLE_OWNER: u32 = 2;
const POSTROUTING: u32 = 4;
/// `srcnat`.
const PRIORITY: i32 = 100;
pub(crate) const REGISTER: u32 = 1;

/// Which packets of a range are masqueraded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outward<'a> {
    /// Those that leave by any other link than this.
    NotBy(&'a str),
    /// Those that leave by this link.
    By(&'a str),
}

/// Makes the table; it lives as long as the returned socket.
pub(crate) fn masquerade(name: &str, range: Cidr, outward: Outward<'_>) -> io::Result<Socket> {
    let socket = Socket::netfilter()?;
    let mut batch = begin();
    table(&mut batch, name, "make the nftables table for masquerade (is another `sealane up` running?)");
    let hook = (POSTROUTING, PRIORITY, "nat");
    chain(&mut batch, name, "outward", hook, "make the nftables chain for masquerade");
    generic(&mut batch, NEW_RULE, "make the nftables rule for masquerade");
    batch.string(1, name).string(2, "outward").nest(4, |list| rule(list, range, outward));
    end(&mut batch);
    socket.execute(batch)?;
    Ok(socket)
}

/// A transaction.
pub(crate) fn begin() -> Batch {
    let mut batch = Batch::default();
    batch.begin(BATCH_BEGIN, 0, "begin").raw(&[0, 0, 0, SUBSYSTEM as u8]);
    batch
}

/// The end of a transaction.
pub(crate) fn end(batch: &mut Batch) {
    batch.begin(BATCH_END, 0, "end").raw(&[0, 0, 0, SUBSYSTEM as u8]);
}

/// A table that goes with the socket that makes it.
pub(crate) fn table(batch: &mut Batch, name: &str, step: &str) {
    generic(batch, NEW_TABLE, step);
    batch.string(1, name).network_number(2, TABLE_OWNER);
}

/// A base chain: its hook's number, its priority there, its type.
pub(crate) fn chain(
    batch: &mut Batch,
    table: &str,
    name: &str,
    (hook, priority, kind): (u32, i32, &str),
    step: &str,
) {
    generic(batch, NEW_CHAIN, step);
    batch
        .string(1, table)
        .string(3, name)
        .nest(4, |at| {
            at.network_number(1, hook).attribute(2, &priority.to_be_bytes());
        })
        .string(7, kind);
}

pub(crate) fn generic(batch: &mut Batch, kind: u16, step: &str) {
    batch.begin(kind, flag::ACK | flag::CREATE | flag::APPEND, step).raw(&[FAMILY_IPV4, 0, 0, 0]);
}

/// `ip saddr RANGE oifname [!=] LINK masquerade`.
fn rule(list: &mut Batch, range: Cidr, outward: Outward<'_>) {
    const SOURCE_OFFSET: u32 = 12;
    const META_OIFNAME: u32 = 7;
    const EQUAL: u32 = 0;
    const DIFFERENT: u32 = 1;
    let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix)).unwrap_or(0);
    expression(list, "payload", |data| {
        data.network_number(1, REGISTER).network_number(2, 1).network_number(3, SOURCE_OFFSET);
        data.network_number(4, 4);
    });
    expression(list, "bitwise", |data| {
        data.network_number(1, REGISTER).network_number(2, REGISTER).network_number(3, 4);
        value(data, 4, &mask.to_be_bytes());
        value(data, 5, &[0; 4]);
    });
    compare(list, EQUAL, &range.network.octets());
    expression(list, "meta", |data| {
        data.network_number(2, META_OIFNAME).network_number(1, REGISTER);
    });
    let (operator, name) = match outward {
        Outward::NotBy(name) => (DIFFERENT, name),
        Outward::By(name) => (EQUAL, name),
    };
    // IFNAMSIZ: names are compared with their padding.
    let mut padded = [0; 16];
    padded.iter_mut().zip(name.bytes().take(15)).for_each(|(to, from)| *to = from);
    compare(list, operator, &padded);
    expression(list, "masq", |_| {});
}

pub(crate) fn expression(list: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    list.nest(1, |element| {
        element.string(1, name).nest(2, fill);
    });
}

pub(crate) fn compare(list: &mut Batch, operator: u32, with: &[u8]) {
    expression(list, "cmp", |data| {
        data.network_number(1, REGISTER).network_number(2, operator);
        value(data, 3, with);
    });
}

pub(crate) fn value(data: &mut Batch, kind: u16, bytes: &[u8]) {
    data.nest(kind, |nest| {
        nest.attribute(1, bytes);
    });
}
