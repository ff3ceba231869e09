//! Looks at the kernel's flows, for as long as some Service asks for it: how many each endpoint has, and what became of
//! those that came. Nothing is read where nobody asks.

use crate::conntrack::{DELETE, GET, ID, TUPLE_ORIGINAL, TUPLE_REPLY, is_elsewhere, tuple};
use crate::message::{AttributeIter, Messages, flags, received};
use crate::netlink::{Netlink, NetlinkError, netlink_socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{RecvFlags, bind, recv};
use sealane_catalog::Protocol;
use sealane_proxy::weigh::{Flow, Look, Stage, Wanted};
use sealane_proxy::{Backend, FrontendKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two looks, at least; and after each as many times as long as it took: a twentieth of a processor at most.
const PERIOD: Duration = Duration::from_millis(100);
const REST: u32 = 19;
/// How long it takes until the first look once somebody asks.
const IDLE: Duration = Duration::from_millis(500);
/// How often all flows are asked for: those that began before anybody listened tell nothing of themselves.
/// At least, and as many times as long as that takes: a fiftieth of a processor at most.
const AFRESH: Duration = Duration::from_secs(10);
const SELDOM: u32 = 50;
/// `NFNLGRP_CONNTRACK_NEW`, `_UPDATE` and `_DESTROY`, the first three, as bits.
const GROUPS: u32 = 0b111;
/// Room for some ten thousand events.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 64 << 10;
/// What begins, and what changes.
const NEW: u16 = 1 << 8;
/// Whether the kernel tells of flows: 0 where it never does.
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
/// Attributes of a flow, and of TCP within (`enum ctattr_type`, `ctattr_protoinfo`, `ctattr_protoinfo_tcp`).
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 1 << 1;

/// Looks at flows of one network namespace. It follows what the kernel tells of them, so that a look costs what
/// happened, not how many there are; those that ended, which the kernel keeps for minutes, cost nothing more.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
    events: OwnedFd,
    /// Flows that live, or ended since the last look.
    flows: BTreeMap<u32, Flow>,
    /// When all were last asked for; `None`: what happened since is not known.
    asked: Option<Instant>,
    /// How long that took.
    asking: Duration,
    /// The kernel tells of flows.
    told: bool,
    listens: bool,
    took: Duration,
    buffer: Vec<u8>,
}

impl Observer {
    /// Looks at the network namespace of the calling thread, whichever thread uses it then; and not before somebody
    /// asks.
    ///
    /// # Errors
    ///
    /// A socket could not be opened.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Netlink::new(netlink_socket()?)?,
            events: netlink_socket()?,
            flows: BTreeMap::new(),
            asked: None,
            asking: Duration::ZERO,
            told: std::fs::read_to_string(EVENTS).is_ok_and(|text| text.trim() != "0"),
            listens: false,
            took: Duration::ZERO,
            buffer: Vec::new(),
        })
    }

    /// Looks at what is wanted; `None` where flows do not matter.
    pub(crate) fn look(&mut self, wanted: &Wanted) -> Result<Option<Look>, NetlinkError> {
        let begun = Instant::now();
        let Wanted::Flows(watched) = wanted else {
            self.took = Duration::ZERO;
            self.listen(false)?;
            return Ok(None);
        };
        self.listen(true)?;
        let mut look = Look::new(watched.clone());
        self.follow(&mut look)?;
        let known = self.asked.filter(|_| self.told);
        let mut spared = Duration::ZERO;
        match known.map(|asked| begun.saturating_duration_since(asked)) {
            None => self.asking = self.ask()?,
            Some(since) if since >= AFRESH.max(self.asking * SELDOM) => {
                self.asking = self.ask()?;
                spared = self.asking;
            }
            Some(_) => {}
        }
        self.flows.values().for_each(|flow| look.flow(*flow));
        self.flows.retain(|_, flow| lives(flow));
        self.took = begun.elapsed().saturating_sub(spared);
        Ok(Some(look))
    }

    /// Asks for all flows that live, and where ends are not told for those that ended as well; how long it took. What
    /// happens meanwhile is told behind it.
    fn ask(&mut self) -> Result<Duration, NetlinkError> {
        let begun = Instant::now();
        self.asked = None;
        // Those that ended since the last look stay for it.
        self.flows.retain(|_, flow| !lives(flow));
        let mut request = Messages::default();
        request.push(GET, flags::DUMP, 0, |_| {});
        let (flows, told) = (&mut self.flows, self.told);
        self.netlink.dump(&request, |message| {
            if let Some(flow) = flow(&message.attributes()).filter(|f| !told || lives(f)) {
                flows.insert(flow.id, flow);
            }
        })?;
        self.asked = Some(begun);
        Ok(begun.elapsed())
    }

    /// Has flows forgotten; those that ended by themselves are no failure.
    pub(crate) fn forget(&mut self, flows: &[Flow]) -> Result<u64, NetlinkError> {
        // Of those that began before anybody listened no end is told.
        for flow in flows {
            self.flows.remove(&flow.id);
        }
        let deletions: Vec<Messages> = flows.iter().map(deletion).collect();
        self.netlink.delete_each(&deletions)
    }

    /// Waits until the next look is due; whether `end` was closed instead.
    pub(crate) fn pause(&self, wanted: &Wanted, end: impl AsFd) -> bool {
        let pause = if *wanted == Wanted::Nothing { IDLE } else { PERIOD.max(self.took * REST) };
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut end = [PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN)];
            match poll(&mut end, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return false,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return true,
            }
        }
    }

    fn listen(&mut self, on: bool) -> Result<(), NetlinkError> {
        if on == self.listens {
            return Ok(());
        }
        // Without the right to force it, it is smaller, and all flows are asked for more often.
        let _ = set_socket_recv_buffer_size_force(&self.events, RECEIVE_BUFFER);
        let address = SocketAddrNetlink::new(0, if on { GROUPS } else { 0 });
        bind(&self.events, &address).map_err(|errno| NetlinkError::Socket { what: "listen", errno })?;
        self.listens = on;
        self.asked = None;
        self.buffer = vec![0; if on { DATAGRAM } else { 0 }];
        if !on {
            self.flows = BTreeMap::new();
            // What was told of before would come when somebody asks again.
            while recv(&self.events, &mut [0u8; 1][..], RecvFlags::DONTWAIT).is_ok() {}
        }
        Ok(())
    }

    /// Takes in what was told.
    fn follow(&mut self, look: &mut Look) -> Result<(), NetlinkError> {
        loop {
            match recv(&self.events, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    for message in received(&self.buffer[..length]) {
                        if let Some(flow) = flow(&message.attributes()) {
                            take(&mut self.flows, message.kind, flow, look);
                        }
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // More happened than could be told; failures are counted too low for once.
                Err(Errno::NOBUFS) => self.asked = None,
                Err(errno) => return Err(NetlinkError::Socket { what: "receive", errno }),
            }
        }
    }
}

fn lives(flow: &Flow) -> bool {
    matches!(flow.stage, Stage::Opening | Stage::Open)
}

/// Takes in what was told of one flow.
fn take(flows: &mut BTreeMap<u32, Flow>, kind: u16, flow: Flow, look: &mut Look) {
    match kind {
        // One that was picked up in its middle and refused was no connection to be.
        DELETE if flows.remove(&flow.id).is_none_or(|before| before.stage == Stage::Opening) => {
            look.ended(flow);
        }
        // The end of one that was seen is seen once: its further steps tell nothing.
        NEW if lives(&flow) || flows.contains_key(&flow.id) => {
            flows.insert(flow.id, flow);
        }
        _ => {}
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Reads a flow; `None` where it is none of ours.
fn flow(attributes: &AttributeIter<'_>) -> Option<Flow> {
    let original = tuple(&attributes.nest(TUPLE_ORIGINAL)?)?;
    let (address, port) = tuple(&attributes.nest(TUPLE_REPLY)?)?.source;
    if is_elsewhere(attributes) {
        return None;
    }
    let number = |kind| attributes.get(kind).and_then(|v| <[u8; 4]>::try_from(v).ok());
    let answered = u32::from_be_bytes(number(STATUS)?) & SEEN_REPLY != 0;
    let tcp = attributes.nest(PROTOINFO).and_then(|p| p.nest(PROTOINFO_TCP));
    let state = tcp.and_then(|t| t.get(TCP_STATE)).and_then(|s| s.first().copied());
    Some(Flow {
        id: u32::from_ne_bytes(number(ID)?),
        client: original.source.into(),
        frontend: FrontendKey {
            address: original.destination.0,
            protocol: protocol(original.protocol)?,
            port: original.destination.1,
        },
        backend: Backend { address, port },
        stage: stage(answered, state),
    })
}

/// `enum tcp_conntrack`; flows of other protocols are over when the kernel forgets them.
fn stage(answered: bool, state: Option<u8>) -> Stage {
    match (answered, state) {
        // SYN_SENT, or refused: CLOSE
        (false, None | Some(0 | 1 | 8)) => Stage::Opening,
        // LAST_ACK, TIME_WAIT
        (_, Some(6 | 7)) => Stage::Over,
        // CLOSE
        (_, Some(8)) => Stage::Reset,
        _ => Stage::Open,
    }
}

/// Asks for the deletion of this very flow, not its successor of the same addresses and ports.
fn deletion(flow: &Flow) -> Messages {
    let key = &flow.frontend;
    let number = match key.protocol {
        Protocol::Tcp => 6u8,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let family = if key.address.is_ipv4() {
        rustix::net::AddressFamily::INET
    } else {
        rustix::net::AddressFamily::INET6
    };
    let mut out = Messages::default();
    out.push(DELETE, 0, family.as_raw() as u8, |a| {
        a.nest(TUPLE_ORIGINAL, |tuple| {
            tuple.nest(1, |ip| {
                for (v4, v6, address) in [(1, 3, flow.client.ip()), (2, 4, key.address)] {
                    match address {
                        IpAddr::V4(address) => ip.bytes(v4, &address.octets()),
                        IpAddr::V6(address) => ip.bytes(v6, &address.octets()),
                    }
                }
            });
            tuple.nest(2, |transport| {
                transport.bytes(1, &[number]);
                transport.bytes(2, &flow.client.port().to_be_bytes());
                transport.bytes(3, &key.port.to_be_bytes());
            });
        });
        a.bytes(ID, &flow.id.to_ne_bytes());
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_read_and_named_again() {
        for (client, vip, backend) in
            [("10.244.0.9", "10.96.0.20", "10.244.0.1"), ("fd00:244::9", "fd00:96::20", "fd00:244::1")]
        {
            let [client, vip, backend]: [IpAddr; 3] = [client, vip, backend].map(|a| a.parse().unwrap());
            let expected = Flow {
                id: 0x0102_0304,
                client: (client, 40_000).into(),
                frontend: FrontendKey { address: vip, protocol: Protocol::Tcp, port: 80 },
                backend: Backend { address: backend, port: 8080 },
                stage: Stage::Open,
            };
            // As the kernel tells it: what a deletion names, and besides who answers, and how far it is.
            let answers = Flow {
                client: (backend, 8080).into(),
                frontend: FrontendKey { address: client, protocol: Protocol::Tcp, port: 40_000 },
                ..expected
            };
            let (deletion, reply) = (deletion(&expected), deletion(&answers));
            let mut told = Messages::default();
            let read = |messages: &Messages| -> Vec<(u16, Vec<u8>)> {
                let message = received(messages.bytes()).next().unwrap();
                message.attributes().map(|(k, v)| (k, v.to_vec())).collect()
            };
            told.push(DELETE, 0, 2, |a| {
                for (kind, value) in read(&deletion) {
                    a.bytes(kind, &value);
                }
                a.bytes(TUPLE_REPLY, &read(&reply)[0].1);
                a.u32(STATUS, SEEN_REPLY | 8);
                a.nest(PROTOINFO, |p| p.nest(PROTOINFO_TCP, |t| t.bytes(TCP_STATE, &[3])));
            });
            let message = received(told.bytes()).next().unwrap();
            assert_eq!(flow(&message.attributes()), Some(expected));
        }
    }

    #[test]
    fn flows_are_followed_from_their_beginning_to_their_end() {
        let frontend = FrontendKey { address: [10, 96, 0, 20].into(), protocol: Protocol::Tcp, port: 80 };
        let backend = Backend { address: [10, 244, 0, 1].into(), port: 8080 };
        let at = |stage| Flow { id: 7, client: ([10, 244, 0, 9], 40_000).into(), frontend, backend, stage };
        use Stage::{Open, Opening, Over, Reset};
        // What is told of one flow, and as what it is looked at then.
        type Row<'a> = (&'a [(u16, Stage)], Option<Stage>);
        let table: &[Row<'_>] = &[
            (&[(NEW, Opening)], Some(Opening)),
            (&[(NEW, Opening), (NEW, Open)], Some(Open)),
            (&[(NEW, Opening), (NEW, Open), (NEW, Over)], Some(Over)),
            (&[(NEW, Open), (NEW, Over), (NEW, Reset)], Some(Reset)),
            (&[(NEW, Open), (NEW, Over), (DELETE, Over)], None),
            // It ended before anybody listened, or was looked at when it did.
            (&[(NEW, Over)], None),
            (&[(DELETE, Open)], None),
            // Not ours: answers to what was asked, and the like.
            (&[(GET, Open)], None),
        ];
        for (told, expected) in table {
            let mut flows = BTreeMap::new();
            let mut look = Look::default();
            told.iter().for_each(|(kind, stage)| take(&mut flows, *kind, at(*stage), &mut look));
            assert_eq!(flows.get(&7).map(|f: &Flow| f.stage), *expected, "{told:?}");
        }
    }

    #[test]
    fn how_far_flows_are() {
        for (answered, state, expected) in [
            (false, Some(1), Stage::Opening),
            (true, Some(2), Stage::Open),
            (true, Some(3), Stage::Open),
            // Picked up in its middle.
            (false, Some(3), Stage::Open),
            (true, Some(5), Stage::Open),
            (true, Some(6), Stage::Over),
            (true, Some(7), Stage::Over),
            (true, Some(8), Stage::Reset),
            (false, Some(8), Stage::Opening),
            (false, None, Stage::Opening),
            (true, None, Stage::Open),
        ] {
            assert_eq!(stage(answered, state), expected, "{answered} {state:?}");
        }
    }
}
