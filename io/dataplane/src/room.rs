//! Room in the kernel's table of flows, without which no new connection gets through. Where it is full the kernel
//! itself makes room among flows that were never answered (nf_conntrack_core.c, early_drop); connections that were
//! and are over stay for two minutes (nf_conntrack_tcp_timeout_time_wait), and they are what fills it.

use crate::conntrack::{GET, deletion};
use crate::message::{AttributeIter, Messages, flags};
use crate::netlink::{Netlink, NetlinkError};
use sealane_proxy::FlowTable;

const GET_STATS_OF_CPUS: u16 = 1 << 8 | 4;
const GET_STATS: u16 = 1 << 8 | 5;
/// CTA_PROTOINFO, CTA_PROTOINFO_TCP and CTA_PROTOINFO_TCP_STATE.
const STATE_OF_TCP: (u16, u16, u16) = (4, 1, 1);
/// LAST_ACK, TIME_WAIT and CLOSE: both sides have said that they are done. Where one alone has, the other may still
/// send (`enum tcp_conntrack`, linux/netfilter/nf_conntrack_tcp.h).
const OVER: [u8; 3] = [6, 7, 8];
/// What part of the table is emptied: room for some seconds of a busy machine's connections.
const PART: u64 = 8;

/// How full the table of the socket's network namespace is.
pub(crate) fn flow_table(netlink: &mut Netlink) -> Result<FlowTable, NetlinkError> {
    let number = |attributes: &AttributeIter<'_>, kind| -> u64 {
        attributes.get(kind).and_then(|v| v.try_into().ok()).map_or(0, |v| u32::from_be_bytes(v).into())
    };
    let mut table = FlowTable::default();
    let mut request = Messages::default();
    request.push(GET_STATS, 0, 0, |_| {});
    netlink.ask(request, |message| {
        let attributes = message.attributes();
        // CTA_STATS_GLOBAL_ENTRIES, CTA_STATS_GLOBAL_MAX_ENTRIES
        (table.entries, table.limit) = (number(&attributes, 1), number(&attributes, 2));
    })?;
    let mut request = Messages::default();
    request.push(GET_STATS_OF_CPUS, flags::DUMP, 0, |_| {});
    // CTA_STATS_DROP: there was no room, and nothing that could make room.
    netlink.dump(&request, |message| table.dropped += number(&message.attributes(), 10))?;
    Ok(table)
}

/// Whether a flow is a TCP connection that has ended.
fn is_over(attributes: &AttributeIter<'_>) -> bool {
    let (protocol, tcp, state) = STATE_OF_TCP;
    let state = attributes.nest(protocol).and_then(|p| p.nest(tcp)).and_then(|t| t.get(state));
    state.and_then(|s| s.first()).is_some_and(|s| OVER.contains(s))
}

/// Forgets connections that are over, up to a part of the table; gives back how many. What lives is left alone, also
/// where that is everything.
pub(crate) fn make_room(netlink: &mut Netlink) -> Result<u64, NetlinkError> {
    let wanted = (flow_table(netlink)?.limit / PART).max(1) as usize;
    let mut request = Messages::default();
    request.push(GET, flags::DUMP, 0, |_| {});
    let mut deletions = Vec::new();
    netlink.dump(&request, |message| {
        if deletions.len() < wanted && is_over(&message.attributes()) {
            deletions.push(deletion(message));
        }
    })?;
    netlink.delete_each(&deletions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::received;

    #[test]
    fn who_may_still_send_is_not_over() {
        // From SYN_SENT to CLOSE; UDP has no state.
        let (protocol, tcp, kind) = STATE_OF_TCP;
        for state in 0..=9u8 {
            let mut out = Messages::default();
            out.push(GET, 0, 2, |a| a.nest(protocol, |p| p.nest(tcp, |t| t.bytes(kind, &[state]))));
            let message = received(out.bytes()).next().unwrap();
            assert_eq!(is_over(&message.attributes()), (6..=8).contains(&state), "{state}");
        }
        let mut out = Messages::default();
        out.push(GET, 0, 2, |_| {});
        assert!(!is_over(&received(out.bytes()).next().unwrap().attributes()));
    }
}
