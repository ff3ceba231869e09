//! Masquerade: Pods reach the outside by the host's address. One table of ours that the kernel removes when the socket
//! that made it closes (`NFT_TABLE_F_OWNER`), however the process ends.

use std::io;

use crate::netlink::{Batch, Socket, flag};
use crate::ranges::Cidr;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const FAMILY_IPV4: u8 = 2;
const TABLE_OWNER: u32 = 2;
const POSTROUTING: u32 = 4;
/// `srcnat`.
const PRIORITY: u32 = 100;
const REGISTER: u32 = 1;

/// Which packets of a range are masqueraded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outward<'a> {
    /// Those that leave by any other link than this.
    NotBy(&'a str),
    /// Those that leave by this link.
    By(&'a str),
}

/// Makes the table; it lives as long as the returned socket.
pub(crate) fn masquerade(table: &str, range: Cidr, outward: Outward<'_>) -> io::Result<Socket> {
    let socket = Socket::netfilter()?;
    let mut batch = Batch::default();
    batch.begin(BATCH_BEGIN, 0, "begin").raw(&[0, 0, 0, SUBSYSTEM as u8]);
    generic(
        &mut batch,
        NEW_TABLE,
        "make the nftables table for masquerade (is another `sealane up` running?)",
    );
    batch.string(1, table).network_number(2, TABLE_OWNER);
    generic(&mut batch, NEW_CHAIN, "make the nftables chain for masquerade");
    batch
        .string(1, table)
        .string(3, "outward")
        .nest(4, |hook| {
            hook.network_number(1, POSTROUTING).network_number(2, PRIORITY);
        })
        .string(7, "nat");
    generic(&mut batch, NEW_RULE, "make the nftables rule for masquerade");
    batch.string(1, table).string(2, "outward").nest(4, |list| rule(list, range, outward));
    batch.begin(BATCH_END, 0, "end").raw(&[0, 0, 0, SUBSYSTEM as u8]);
    socket.execute(batch)?;
    Ok(socket)
}

fn generic(batch: &mut Batch, kind: u16, step: &str) {
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

fn expression(list: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    list.nest(1, |element| {
        element.string(1, name).nest(2, fill);
    });
}

fn compare(list: &mut Batch, operator: u32, with: &[u8]) {
    expression(list, "cmp", |data| {
        data.network_number(1, REGISTER).network_number(2, operator);
        value(data, 3, with);
    });
}

fn value(data: &mut Batch, kind: u16, bytes: &[u8]) {
    data.nest(kind, |nest| {
        nest.attribute(1, bytes);
    });
}
