//! What a kernel lacks that refuses a message: its answers are numbers, and people need the name of a module.

use crate::message::{AttributeIter, Received};
use rustix::io::Errno;

/// NFNL_SUBSYS_CTNETLINK and NFNL_SUBSYS_NFTABLES.
const CONNTRACK: u16 = 1;
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 0x10;
/// NFPROTO_IPV6.
const IPV6: u8 = 10;

/// Expressions that modules of their own bring, and the options that build them (net/netfilter/Kconfig).
const EXPRESSIONS: [(&str, &str); 6] = [
    ("ct", "CONFIG_NFT_CT"),
    ("fib", "CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6"),
    ("masq", "CONFIG_NFT_MASQ"),
    ("nat", "CONFIG_NFT_NAT"),
    ("numgen", "CONFIG_NFT_NUMGEN"),
    ("reject", "CONFIG_NFT_REJECT"),
];

/// Says what a kernel lacks that refuses a request whatever the request holds; `kind` is its type.
pub(crate) fn of_subsystem(kind: u16, errno: Errno) -> Option<String> {
    // nfnetlink_rcv_batch and nfnetlink_rcv_msg, where nobody has registered for the subsystem.
    match (kind, errno) {
        (BATCH_BEGIN, Errno::OPNOTSUPP) => Some("nftables (CONFIG_NF_TABLES)".to_owned()),
        // But for deletions, which name what they delete.
        _ if kind >> 8 == CONNTRACK
            && kind & 0xff != 2
            && matches!(errno, Errno::INVAL | Errno::OPNOTSUPP) =>
        {
            Some("connection tracking over netlink (CONFIG_NF_CT_NETLINK)".to_owned())
        }
        _ => None,
    }
}

/// Says what a kernel lacks that refuses an nftables message; `None`: it may have another reason.
pub(crate) fn of_message(message: &Received<'_>, errno: Errno) -> Option<String> {
    let unsupported = matches!(errno, Errno::OPNOTSUPP | Errno::AFNOSUPPORT);
    if message.kind >> 8 != NFTABLES || !unsupported && errno != Errno::NOENT && errno != Errno::INVAL {
        return None;
    }
    let attributes = message.attributes();
    let family = if message.body.first() == Some(&IPV6) { "IPv6" } else { "IPv4" };
    let option = format!("CONFIG_NF_TABLES_{}", family.to_uppercase());
    match message.kind & 0xff {
        // A table.
        0 if unsupported => Some(format!("nftables for {family} ({option})")),
        // A chain with a type.
        3 if errno != Errno::INVAL => {
            let kind = text(attributes.get(7)?);
            Some(format!("nftables chains of type {kind} for {family} (CONFIG_NFT_NAT, {option})"))
        }
        // A set. Ranges over several fields are the youngest feature.
        9 if errno != Errno::NOENT => {
            Some(format!("nftables sets like {} (Linux 5.6 or newer)", text(attributes.get(2)?)))
        }
        // A rule, by its expressions.
        6 if errno != Errno::INVAL => expressions(&attributes, family),
        _ => None,
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A rule's expressions, one of which nobody knows: those that are not in every kernel.
fn expressions(rule: &AttributeIter<'_>, family: &str) -> Option<String> {
    let names: Vec<String> =
        rule.nest(4)?.filter_map(|(_, e)| AttributeIter::new(e).get(1).map(text)).collect();
    let optional = EXPRESSIONS.iter().filter(|(name, _)| names.iter().any(|n| n == name));
    let (found, options): (Vec<&str>, Vec<&str>) = optional.copied().unzip();
    (!found.is_empty()).then(|| {
        format!("the nftables expression {} for {family} ({})", found.join(" or "), options.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Messages, received};

    #[test]
    fn what_is_missing_has_a_name() {
        let message = |kind: u16, family: u8, fill: fn(&mut crate::message::Attributes<'_>)| {
            let mut out = Messages::default();
            out.push(NFTABLES << 8 | kind, 0, family, fill);
            out
        };
        let rule = |a: &mut crate::message::Attributes<'_>| {
            a.nest(4, |list| {
                ["payload", "fib", "reject"].iter().for_each(|n| list.nest(1, |e| e.text(1, n)))
            });
        };
        let plain = |a: &mut crate::message::Attributes<'_>| a.nest(4, |l| l.nest(1, |e| e.text(1, "meta")));
        let table = [
            (message(0, 10, |_| {}), Errno::AFNOSUPPORT, Some("nftables for IPv6 (CONFIG_NF_TABLES_IPV6)")),
            (message(0, 2, |_| {}), Errno::NOENT, None),
            (
                message(3, 2, |a| a.text(7, "nat")),
                Errno::NOENT,
                Some("nftables chains of type nat for IPv4 (CONFIG_NFT_NAT, CONFIG_NF_TABLES_IPV4)"),
            ),
            // The table is gone.
            (message(3, 2, |a| a.text(3, "balance-3")), Errno::NOENT, None),
            (
                message(6, 2, rule),
                Errno::NOENT,
                Some(
                    "the nftables expression fib or reject for IPv4 (CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6, CONFIG_NFT_REJECT)",
                ),
            ),
            (message(6, 2, rule), Errno::NOMEM, None),
            (message(6, 2, plain), Errno::NOENT, None),
            (
                message(9, 2, |a| a.text(2, "sources")),
                Errno::OPNOTSUPP,
                Some("nftables sets like sources (Linux 5.6 or newer)"),
            ),
            (message(12, 2, |_| {}), Errno::NOENT, None),
        ];
        for (message, errno, expected) in table {
            let message = received(message.bytes()).next().unwrap();
            assert_eq!(of_message(&message, errno).as_deref(), expected, "{message:?}");
        }
        for (kind, errno, missing) in [
            (BATCH_BEGIN, Errno::OPNOTSUPP, true),
            (CONNTRACK << 8 | 1, Errno::INVAL, true),
            (CONNTRACK << 8 | 2, Errno::INVAL, false),
            (NFTABLES << 8 | 1, Errno::INVAL, false),
        ] {
            assert_eq!(of_subsystem(kind, errno).is_some(), missing, "{kind:#x} {errno}");
        }
    }
}
