//! Flows of UDP that go where their frontend no longer leads. A UDP client that keeps its port keeps its flow alive,
//! and with it an endpoint that is gone; TCP's end by themselves (kube-proxy: pkg/proxy/conntrack/cleanup.go).

use crate::message::{AttributeIter, Messages, Received, flags};
use crate::netlink::{Netlink, NetlinkError};
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, Change, Frontend, FrontendKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const GET: u16 = 1 << 8 | 1;
pub(crate) const DELETE: u16 = 1 << 8 | 2;
pub(crate) const TUPLE_ORIGINAL: u16 = 1;
pub(crate) const TUPLE_REPLY: u16 = 2;
pub(crate) const ID: u16 = 12;
const ZONE: u16 = 18;
/// Within a tuple: the zone of this direction alone.
const TUPLE_ZONE: u16 = 3;
const UDP: u8 = 17;
const TCP: u8 = 6;
/// CTA_PROTOINFO, CTA_PROTOINFO_TCP and CTA_PROTOINFO_TCP_STATE.
const STATE_OF_TCP: (u16, u16, u16) = (4, 1, 1);
/// `TCP_CONNTRACK_SYN_SENT`.
const SYN_SENT: u8 = 1;

/// When it is looked a second time for connections that went past their frontends: one that was on its way while rules were
/// written is in the table of flows by then.
const LATER: Duration = Duration::from_millis(100);

/// For IPv4 and IPv6: how long looking took and how many flows were deleted.
pub(crate) type Forgotten = [Option<(Duration, u64)>; 2];

/// Frontends of UDP and where their flows may go.
type Served = BTreeMap<FrontendKey, BTreeSet<Backend>>;

fn backends(frontend: &Frontend) -> BTreeSet<Backend> {
    frontend.flows_to().copied().collect()
}

/// All frontends of UDP.
fn served<'a>(frontends: impl Iterator<Item = &'a Arc<Frontend>>) -> Served {
    frontends.filter(|f| f.key.protocol == Protocol::Udp).map(|f| (f.key, backends(f))).collect()
}

/// Frontends of UDP that lost a backend, or had none: flows from before then went past them.
fn changed(changes: &[Change]) -> Served {
    let udp = changes.iter().filter(|c| c.key().protocol == Protocol::Udp);
    udp.filter_map(|change| {
        let before = change.before().map(|f| backends(f)).unwrap_or_default();
        let after = change.after().map(|f| backends(f)).unwrap_or_default();
        let stale = if before.is_empty() { !after.is_empty() } else { !before.is_subset(&after) };
        stale.then_some((change.key(), after))
    })
    .collect()
}

/// One end of a flow as a tuple says it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
}

pub(crate) fn tuple(attributes: &AttributeIter<'_>) -> Option<Tuple> {
    let ip = attributes.nest(1)?;
    let address = |v4, v6| -> Option<IpAddr> {
        match (ip.get(v4), ip.get(v6)) {
            (Some(octets), _) => <[u8; 4]>::try_from(octets).ok().map(|o| Ipv4Addr::from(o).into()),
            (_, Some(octets)) => <[u8; 16]>::try_from(octets).ok().map(|o| Ipv6Addr::from(o).into()),
            _ => None,
        }
    };
    let transport = attributes.nest(2)?;
    let port = |kind| transport.get(kind).and_then(|v| v.try_into().ok()).map(u16::from_be_bytes);
    Some(Tuple {
        protocol: *transport.get(1)?.first()?,
        source: (address(1, 3)?, port(2)?),
        destination: (address(2, 4)?, port(3)?),
    })
}

/// The state of a connection of TCP (`enum tcp_conntrack`, linux/netfilter/nf_conntrack_tcp.h).
pub(crate) fn state_of_tcp(attributes: &AttributeIter<'_>) -> Option<u8> {
    let (protocol, tcp, state) = STATE_OF_TCP;
    attributes.nest(protocol)?.nest(tcp)?.get(state)?.first().copied()
}

/// Whether a connection began while there were no rules to translate it, and waits for an answer: a flow is translated
/// when it begins or never, so that its SYNs would go past the frontend for as long as they come.
fn went_past(attributes: &AttributeIter<'_>, frontends: &BTreeSet<FrontendKey>) -> Option<bool> {
    let original = tuple(&attributes.nest(TUPLE_ORIGINAL)?)?;
    if original.protocol != TCP || state_of_tcp(attributes) != Some(SYN_SENT) || is_elsewhere(attributes) {
        return Some(false);
    }
    let (address, port) = original.destination;
    let serves = frontends.contains(&FrontendKey { address, protocol: Protocol::Tcp, port });
    let answers = tuple(&attributes.nest(TUPLE_REPLY)?)?.source;
    Some(serves && answers == original.destination)
}

/// Whether a flow is in a zone other than the first, wholly or in one direction: whoever made the zone looks after it.
pub(crate) fn is_elsewhere(attributes: &AttributeIter<'_>) -> bool {
    let zoned = |a: Option<AttributeIter<'_>>, kind| a.and_then(|a| a.get(kind)).is_some_and(|z| z != [0, 0]);
    zoned(Some(attributes.clone()), ZONE)
        || [TUPLE_ORIGINAL, TUPLE_REPLY].iter().any(|t| zoned(attributes.nest(*t), TUPLE_ZONE))
}

/// A flow is stale if it came to a frontend and is answered by somebody who doesn't serve that. Where nobody serves
/// it, flows that were never translated are whoever's that listens there.
fn is_stale(attributes: &AttributeIter<'_>, served: &Served) -> Option<bool> {
    let original = tuple(&attributes.nest(TUPLE_ORIGINAL)?)?;
    if original.protocol != UDP || is_elsewhere(attributes) {
        return Some(false);
    }
    let (address, port) = original.destination;
    let Some(backends) = served.get(&FrontendKey { address, protocol: Protocol::Udp, port }) else {
        return Some(false);
    };
    let answers = tuple(&attributes.nest(TUPLE_REPLY)?)?.source;
    if backends.is_empty() && answers == original.destination {
        return Some(false);
    }
    let (address, port) = answers;
    Some(!backends.contains(&Backend { address, port }))
}

/// Asks for the deletion of a flow as it was dumped: this very one, not its successor of the same addresses and ports.
pub(crate) fn deletion(flow: &Received<'_>) -> Messages {
    let family = flow.body.first().copied().unwrap_or_default();
    let mut deletion = Messages::default();
    deletion.push(DELETE, 0, family, |a| {
        for (kind, value) in flow.attributes() {
            match kind {
                TUPLE_ORIGINAL => {
                    a.nest(kind, |tuple| {
                        AttributeIter::new(value).for_each(|(k, v)| match k {
                            TUPLE_ZONE => tuple.bytes(k, v),
                            _ => copy_nest(tuple, k, v),
                        });
                    });
                }
                ID | ZONE => a.bytes(kind, value),
                _ => {}
            }
        }
    });
    deletion
}

/// Deletes the stale flows of some frontends of UDP, and connections that wait for an answer past frontends of TCP. Costs a
/// walk over the flows, so it is not done for nothing.
fn forget_stale(
    netlink: &mut Netlink,
    served: &Served,
    passed: &BTreeSet<FrontendKey>,
    forgotten: &mut Forgotten,
) -> Result<(), NetlinkError> {
    for family in [rustix::net::AddressFamily::INET, rustix::net::AddressFamily::INET6] {
        let ipv4 = family == rustix::net::AddressFamily::INET;
        if !served.keys().chain(passed).any(|k| k.address.is_ipv4() == ipv4) {
            continue;
        }
        let begun = Instant::now();
        let family = family.as_raw() as u8;
        let mut request = Messages::default();
        request.push(GET, flags::DUMP, family, |_| {});
        let mut deletions = Vec::new();
        netlink.dump(&request, |message| {
            let attributes = message.attributes();
            if went_past(&attributes, passed) == Some(true) || is_stale(&attributes, served) == Some(true) {
                deletions.push(deletion(message));
            }
        })?;
        let count = netlink.delete_each(&deletions)?;
        let (took, counted) = forgotten[usize::from(!ipv4)].unwrap_or_default();
        forgotten[usize::from(!ipv4)] = Some((took + begun.elapsed(), counted + count));
    }
    Ok(())
}

/// Frontends whose flows are yet to be looked through, as a sink gathers them from one write to the next.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    served: Served,
    /// Frontends of TCP that serve, and that connections may have passed while they were not written.
    passed: BTreeSet<FrontendKey>,
    /// When it was looked for those the first time.
    looked: Option<Instant>,
    forgotten: Forgotten,
}

impl Stale {
    /// All is written anew. Of frontends that are gone no flow may be left either, whether or not their going was told.
    pub(crate) fn replaced<'a>(
        &mut self,
        before: impl Iterator<Item = &'a FrontendKey>,
        after: impl Iterator<Item = &'a Arc<Frontend>>,
    ) {
        let gone = before.filter(|k| k.protocol == Protocol::Udp);
        self.served.extend(gone.map(|key| (*key, BTreeSet::new())));
        let after: Vec<&Arc<Frontend>> = after.collect();
        self.served.extend(served(after.iter().copied()));
        let serve = after.into_iter().filter(|f| f.flows_to().next().is_some());
        self.passed.extend(serve.map(|f| f.key).filter(|k| k.protocol == Protocol::Tcp));
        self.looked = None;
    }

    /// Some frontends change.
    pub(crate) fn changed(&mut self, changes: &[Change]) {
        self.served.extend(changed(changes));
    }

    /// Deletes the stale flows. A walk over all flows takes milliseconds, so that new connections do not wait for it.
    pub(crate) fn forget(&mut self, netlink: &mut Netlink) -> Result<(), NetlinkError> {
        let again = self.looked.is_some_and(|at| at.elapsed() >= LATER);
        let none = BTreeSet::new();
        let passed = if again || self.looked.is_none() { &self.passed } else { &none };
        if !self.served.is_empty() || !passed.is_empty() {
            forget_stale(netlink, &self.served, passed, &mut self.forgotten)?;
            self.served.clear();
        }
        if again {
            self.passed.clear();
        }
        self.looked.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// What was forgotten since this was last asked.
    pub(crate) fn take(&mut self) -> Forgotten {
        std::mem::take(&mut self.forgotten)
    }
}

fn copy_nest(out: &mut crate::message::Attributes<'_>, kind: u16, value: &[u8]) {
    out.nest(kind, |n| AttributeIter::new(value).for_each(|(k, v)| n.bytes(k, v)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::received;
    use sealane_catalog::NamespacedName;
    use sealane_proxy::{Class, Masquerade, Target};

    fn frontend(backends: &[&str]) -> Arc<Frontend> {
        let list: Vec<Backend> =
            backends.iter().map(|b| Backend { address: b.parse().unwrap(), port: 53 }).collect();
        Arc::new(Frontend {
            key: FrontendKey { address: "10.96.0.10".parse().unwrap(), protocol: Protocol::Udp, port: 53 },
            service: NamespacedName { namespace: "kube-system".into(), name: "kube-dns".into() },
            port_name: "dns".into(),
            class: Class::ClusterIp,
            affinity: None,
            masquerade: Masquerade::Never,
            target: if list.is_empty() { Target::Reject } else { Target::Balance(list.into()) },
            sources: None,
            lingering: Arc::default(),
            outside: None,
        })
    }

    #[test]
    fn flows_are_looked_through_only_where_one_may_be_stale() {
        let set = |old: &[&str], new: &[&str]| Change::SetFrontend { old: frontend(old), new: frontend(new) };
        let (a, b) = ("10.244.0.1", "10.244.0.2");
        let table = [
            (set(&[a], &[a, b]), false),
            (set(&[a, b], &[a]), true),
            (set(&[a], &[]), true),
            (set(&[], &[a]), true),
            (set(&[], &[]), false),
            (set(&[a], &[b]), true),
            (Change::AddFrontend(frontend(&[a])), true),
            (Change::AddFrontend(frontend(&[])), false),
            (Change::RemoveFrontend(frontend(&[a])), true),
            (Change::RemoveFrontend(frontend(&[])), false),
        ];
        for (change, expected) in table {
            assert_eq!(!changed(std::slice::from_ref(&change)).is_empty(), expected, "{change:?}");
        }
    }

    fn served_by_nobody() -> Served {
        changed(&[Change::RemoveFrontend(frontend(&["10.244.0.1"]))])
    }

    /// Endpoints that still serve keep their flows: not ready any more, or of another zone since.
    #[test]
    fn flows_to_who_lingers_go_on() {
        let (a, b) = ("10.244.0.1", "10.244.0.2");
        let lingering = |new: &[&str], still: &str| {
            let still = Backend { address: still.parse().unwrap(), port: 53 };
            Arc::new(Frontend { lingering: [still].into(), ..Frontend::clone(&frontend(new)) })
        };
        let change = Change::SetFrontend { old: frontend(&[a, b]), new: lingering(&[a], b) };
        assert!(changed(&[change]).is_empty());
        let change = Change::SetFrontend { old: lingering(&[a], b), new: frontend(&[a]) };
        assert_eq!(changed(&[change]).len(), 1);
    }

    #[test]
    fn connections_that_went_past_their_frontend_begin_again() {
        let key = FrontendKey { address: "10.96.0.10".parse().unwrap(), protocol: Protocol::Tcp, port: 53 };
        let all = |backends: &[&str]| {
            let mut stale = Stale::default();
            let frontend = Arc::new(Frontend { key, ..Frontend::clone(&frontend(backends)) });
            stale.replaced(std::iter::empty(), [frontend].iter());
            stale.passed
        };
        let (protocol, tcp, kind) = STATE_OF_TCP;
        let (vip, pod) = ([10, 96, 0, 10], [10, 244, 0, 1]);
        for (state, destination, answers, backends, expected) in [
            (SYN_SENT, vip, vip, &["10.244.0.1"][..], true),
            // Translated; answered; nobody's; nobody there.
            (SYN_SENT, vip, pod, &["10.244.0.1"], false),
            (3, vip, vip, &["10.244.0.1"], false),
            (SYN_SENT, pod, pod, &["10.244.0.1"], false),
            (SYN_SENT, vip, vip, &[], false),
        ] {
            let mut out = flow(TCP, destination, answers);
            let attributes: Vec<(u16, Vec<u8>)> =
                received(out.bytes()).next().unwrap().attributes().map(|(k, v)| (k, v.to_vec())).collect();
            out = Messages::default();
            out.push(0, 0, 2, |a| {
                for (k, value) in &attributes {
                    a.nest(*k, |t| AttributeIter::new(value).for_each(|(k, v)| copy_nest(t, k, v)));
                }
                a.nest(protocol, |p| p.nest(tcp, |t| t.bytes(kind, &[state])));
            });
            let message = received(out.bytes()).next().unwrap();
            let found = went_past(&message.attributes(), &all(backends));
            assert_eq!(found, Some(expected), "{state} {destination:?} {answers:?} {backends:?}");
        }
    }

    /// A flow between 10.244.0.9 and a destination, of which somebody answers; both ports are 53.
    fn flow(protocol: u8, destination: [u8; 4], answers: [u8; 4]) -> Messages {
        let mut out = Messages::default();
        let ends = [(TUPLE_ORIGINAL, [10, 244, 0, 9], destination), (TUPLE_REPLY, answers, [10, 244, 0, 9])];
        out.push(0, 0, 2, |a| {
            for (kind, source, destination) in ends {
                a.nest(kind, |t| {
                    t.nest(1, |ip| {
                        ip.bytes(1, &source);
                        ip.bytes(2, &destination);
                    });
                    t.nest(2, |p| {
                        p.bytes(1, &[protocol]);
                        p.bytes(2, &53u16.to_be_bytes());
                        p.bytes(3, &53u16.to_be_bytes());
                    });
                });
            }
        });
        out
    }

    #[test]
    fn a_flow_is_stale_when_somebody_else_answers() {
        let served = served([frontend(&["10.244.0.1"])].iter());
        let dns = [10, 96, 0, 10];
        let table = [
            (flow(UDP, dns, [10, 244, 0, 1]), Some(false)),
            (flow(UDP, dns, [10, 244, 0, 2]), Some(true)),
            (flow(UDP, dns, dns), Some(true)),
            (flow(6, dns, [10, 244, 0, 2]), Some(false)),
            (flow(UDP, [10, 96, 0, 11], [10, 244, 0, 2]), Some(false)),
        ];
        for (flow, expected) in table {
            let message = received(flow.bytes()).next().unwrap();
            assert_eq!(is_stale(&message.attributes(), &served), expected);
        }
        // Another zone's, wholly or in one direction, is another's; the first has number 0 or none.
        for (zone, of_tuple, expected) in
            [([0, 0], [0, 0], true), ([0, 7], [0, 0], false), ([0, 0], [0, 7], false)]
        {
            let mut out = Messages::default();
            let stale = flow(UDP, dns, [10, 244, 0, 2]);
            out.push(0, 0, 2, |a| {
                for (kind, value) in received(stale.bytes()).next().unwrap().attributes() {
                    a.nest(kind, |t| {
                        AttributeIter::new(value).for_each(|(k, v)| copy_nest(t, k, v));
                        t.bytes(TUPLE_ZONE, &of_tuple);
                    });
                }
                a.bytes(ZONE, &zone);
            });
            let message = received(out.bytes()).next().unwrap();
            assert_eq!(is_stale(&message.attributes(), &served), Some(expected), "{zone:?} {of_tuple:?}");
        }
        // Scaled to zero, or deleted: what was translated goes, what goes to the address itself is not ours.
        let nobody = served_by_nobody();
        for (flow, expected) in [
            (flow(UDP, dns, [10, 244, 0, 1]), Some(true)),
            (flow(UDP, dns, dns), Some(false)),
            (flow(UDP, [10, 96, 0, 11], [10, 244, 0, 1]), Some(false)),
        ] {
            let message = received(flow.bytes()).next().unwrap();
            assert_eq!(is_stale(&message.attributes(), &nobody), expected);
        }
    }
}
