//! Answers for load balancers' addresses on a network, as the machine that owns an address does: ARP (RFC 826, RFC 5227) and
//! neighbour discovery (RFC 4861). The kernel would answer for addresses of its own alone, and these it does not have.

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrLike, sockopt::BindToDevice};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_ipv6_add_membership, set_ipv6_drop_membership, set_ipv6_multicast_hops, set_ipv6_multicast_if,
    set_ipv6_unicast_hops,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, eth, ipproto, recvfrom,
    send, sendto, socket_with,
};
use socket2::{SockFilter, SockRef};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A hardware address.
type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// An address that comes is told of so often, so far apart: what is lost once is heard the next time.
const TOLD: u32 = 3;
const APART: Duration = Duration::from_secs(1);
/// Before an interface that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Neighbour discovery takes no packet that a router has passed on (RFC 4861, section 7.1).
const HOPS: u8 = 255;

/// Why nobody answers.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// No such link, or one without hardware addresses.
    #[error("there is no link {0} with hardware addresses; see `ip link`")]
    Link(String),
    /// A socket could not be opened or used.
    #[error("{what} on {link}: {errno} (it takes CAP_NET_RAW)")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// On which link.
        link: String,
        /// Why not.
        errno: Errno,
    },
}

/// Answers for addresses until it is dropped.
#[derive(Debug)]
pub struct Announcer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wanted: Mutex<BTreeSet<IpAddr>>,
    ended: AtomicBool,
    wake: OwnedFd,
}

impl Announcer {
    /// Opens sockets on a link, in the network namespace of the calling thread, and starts to listen.
    ///
    /// # Errors
    ///
    /// Where there is no such link, or the right to listen to it is missing.
    pub fn start(link: &str) -> Result<Self, AnnounceError> {
        let failed = |what| move |errno| AnnounceError::Socket { what, link: link.to_owned(), errno };
        let wire = Wire::open(link)?;
        let wake =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed("make an eventfd"))?;
        let shared = Arc::new(Shared { wanted: Mutex::default(), ended: AtomicBool::new(false), wake });
        let (own, name) = (Arc::clone(&shared), link.to_owned());
        std::thread::Builder::new()
            .name("announce".to_owned())
            .spawn(move || run(&own, &name, wire))
            .map_err(|e| failed("start a thread")(Errno::from_io_error(&e).unwrap_or(Errno::AGAIN)))?;
        Ok(Announcer { shared })
    }

    /// Answers for these addresses and no others. Those that are new are told to the network at once.
    pub fn set(&self, addresses: BTreeSet<IpAddr>) {
        *self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        self.shared.wake();
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        // Full is as good: the thread wakes anyhow.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn wanted(&self) -> BTreeSet<IpAddr> {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until the end; a link that fails is tried again and again, and said once.
fn run(shared: &Shared, link: &str, wire: Wire) {
    let mut wire = Some(wire);
    let mut said = false;
    while !shared.ended() {
        let served = match wire.take().map_or_else(|| Wire::open(link), Ok) {
            Ok(opened) => {
                let (known, groups) = (BTreeSet::new(), BTreeSet::new());
                let mut desk = Desk { wire: opened, known, groups, due: Vec::new() };
                desk.serve(shared, &mut said)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            if !std::mem::replace(&mut said, true) {
                tracing::warn!("load balancers' addresses are not announced: {error}; trying again");
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// The addresses that are answered for, and what is still to be told.
struct Desk {
    wire: Wire,
    known: BTreeSet<IpAddr>,
    /// In which they are asked for; several of them may have one.
    groups: BTreeSet<Ipv6Addr>,
    /// When to tell of an address, and how often from then on.
    due: Vec<(Instant, IpAddr, u32)>,
}

impl Desk {
    fn serve(&mut self, shared: &Shared, said: &mut bool) -> Result<(), AnnounceError> {
        while !shared.ended() {
            self.take_up(shared.wanted())?;
            self.tell()?;
            let pause = self.due.iter().map(|(at, ..)| at.saturating_duration_since(Instant::now())).min();
            let pause = pause.and_then(|p| Timespec::try_from(p).ok());
            let mut fds = [
                PollFd::new(&shared.wake, PollFlags::IN),
                PollFd::new(&self.wire.arp, PollFlags::IN),
                PollFd::new(&self.wire.neighbours, PollFlags::IN),
                PollFd::new(&self.wire.probes, PollFlags::IN),
            ];
            match poll(&mut fds, pause.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.wire.failed("wait for questions")(errno)),
            }
            let [_, arp, neighbours, probes] = fds.map(|fd| !fd.revents().is_empty());
            if arp {
                self.wire.answer_arp(&self.known)?;
            }
            if neighbours {
                self.wire.answer_solicitations(&self.known)?;
            }
            if probes {
                self.wire.answer_probes(&self.known)?;
            }
            *said = false;
        }
        Ok(())
    }

    fn take_up(&mut self, wanted: BTreeSet<IpAddr>) -> Result<(), AnnounceError> {
        let groups = solicited_nodes(&wanted);
        self.groups.difference(&groups).for_each(|gone| self.wire.leave(*gone));
        groups.difference(&self.groups).try_for_each(|new| self.wire.join(*new))?;
        self.groups = groups;
        let new = wanted.difference(&self.known).map(|address| (Instant::now(), *address, TOLD));
        self.due.extend(new);
        self.due.retain(|(_, address, _)| wanted.contains(address));
        self.known = wanted;
        Ok(())
    }

    fn tell(&mut self) -> Result<(), AnnounceError> {
        let now = Instant::now();
        for (at, address, left) in &mut self.due {
            if *at <= now {
                self.wire.tell(*address)?;
                (*at, *left) = (now + APART, *left - 1);
            }
        }
        self.due.retain(|(_, _, left)| *left > 0);
        Ok(())
    }
}

/// Sockets on one link.
struct Wire {
    link: String,
    index: u32,
    mac: Mac,
    arp: OwnedFd,
    /// Questions to groups, and answers to all.
    neighbours: OwnedFd,
    /// Questions to this machine alone. No socket of ICMPv6's hears them, as they go to an address that the kernel
    /// does not have.
    probes: OwnedFd,
}

impl Wire {
    fn open(link: &str) -> Result<Self, AnnounceError> {
        let missing = || AnnounceError::Link(link.to_owned());
        let mut all = getifaddrs().map_err(|_| missing())?.filter(|found| found.interface_name == link);
        let found = all.find_map(|found| found.address?.as_link_addr().copied()).ok_or_else(missing)?;
        let mac = found.addr().filter(|_| found.halen() == 6).ok_or_else(missing)?;
        let index = u32::try_from(found.ifindex()).map_err(|_| missing())?;
        let failed = |what| move |errno| AnnounceError::Socket { what, link: link.to_owned(), errno };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let arp = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ARP))
            .map_err(failed("open a packet socket"))?;
        bind_to(&arp, &found).map_err(failed("listen to ARP"))?;
        let probes = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::IPV6))
            .map_err(failed("open a packet socket"))?;
        SockRef::from(&probes)
            .attach_filter(
                &PROBES.map(|(code, then, otherwise, k)| SockFilter::new(code, then, otherwise, k)),
            )
            .map_err(|e| failed("filter packets")(Errno::from_io_error(&e).unwrap_or(Errno::INVAL)))?;
        bind_to(&probes, &found).map_err(failed("listen to neighbour discovery"))?;
        let neighbours = socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))
            .map_err(failed("open a socket for ICMPv6"))?;
        nix::sys::socket::setsockopt(&neighbours, BindToDevice, &OsString::from(link)).map_err(|errno| {
            failed("listen to neighbour discovery")(Errno::from_raw_os_error(errno as i32))
        })?;
        set_ipv6_unicast_hops(&neighbours, Some(HOPS))
            .and_then(|()| set_ipv6_multicast_hops(&neighbours, HOPS.into()))
            .and_then(|()| set_ipv6_multicast_if(&neighbours, index))
            .map_err(failed("set the hop limit"))?;
        Ok(Wire { link: link.to_owned(), index, mac, arp, neighbours, probes })
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> AnnounceError {
        let link = self.link.clone();
        move |errno| AnnounceError::Socket { what, link, errno }
    }

    /// Hears what is asked in a group: the network card passes on no other.
    fn join(&self, group: Ipv6Addr) -> Result<(), AnnounceError> {
        match set_ipv6_add_membership(&self.neighbours, &group, self.index) {
            // It was joined by an attempt that failed later.
            Ok(()) | Err(Errno::ADDRINUSE) => Ok(()),
            Err(errno) => Err(self.failed("join a group")(errno)),
        }
    }

    fn leave(&self, group: Ipv6Addr) {
        // Left already is as good.
        let _ = set_ipv6_drop_membership(&self.neighbours, &group, self.index);
    }

    /// Tells everybody who has an address.
    fn tell(&self, address: IpAddr) -> Result<(), AnnounceError> {
        match address {
            IpAddr::V4(v4) => {
                // Some take in requests alone, some replies (RFC 5227, section 3).
                for operation in [REQUEST, REPLY] {
                    let said = arp(operation, (self.mac, v4), (BROADCAST, v4));
                    self.sent(send(&self.arp, &said, SendFlags::empty()))?;
                }
                Ok(())
            }
            IpAddr::V6(v6) => {
                let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                self.advertise(v6, false, self.neighbour(everybody))
            }
        }
    }

    fn advertise(&self, address: Ipv6Addr, solicited: bool, to: SocketAddrV6) -> Result<(), AnnounceError> {
        let said = advertisement(address, self.mac, solicited);
        self.sent(sendto(&self.neighbours, &said, SendFlags::empty(), &to))
    }

    /// What is not sent now is asked for again, unless the link is gone.
    fn sent(&self, done: Result<usize, Errno>) -> Result<(), AnnounceError> {
        match done {
            Err(errno @ (Errno::NODEV | Errno::NXIO | Errno::NETDOWN)) => Err(self.failed("answer")(errno)),
            _ => Ok(()),
        }
    }

    /// Takes all that waits at a socket.
    fn heard(
        &self,
        (socket, what): (&OwnedFd, &'static str),
        mut take: impl FnMut(&[u8], Option<SocketAddrAny>) -> Result<(), AnnounceError>,
    ) -> Result<(), AnnounceError> {
        let mut buffer = [0u8; 256];
        loop {
            match recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _, from)) => take(&buffer[..length], from)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(what)(errno)),
            }
        }
    }

    fn answer_arp(&self, known: &BTreeSet<IpAddr>) -> Result<(), AnnounceError> {
        self.heard((&self.arp, "listen to ARP"), |frame, _| match asked(frame) {
            Some((asker, asked)) if asker.0 != self.mac && known.contains(&asked.into()) => {
                let said = arp(REPLY, (self.mac, asked), asker);
                self.sent(send(&self.arp, &said, SendFlags::empty()))
            }
            _ => Ok(()),
        })
    }

    fn answer_solicitations(&self, known: &BTreeSet<IpAddr>) -> Result<(), AnnounceError> {
        self.heard((&self.neighbours, "listen to neighbour discovery"), |packet, from| {
            let from = from.and_then(|from| SocketAddrV6::try_from(from).ok());
            let target = solicited(packet).filter(|target| known.contains(&(*target).into()));
            match (target, from) {
                // Somebody is about to take the address: all are to hear whose it is (section 7.2.4).
                (Some(target), Some(from)) if from.ip().is_unspecified() => self.tell(target.into()),
                (Some(target), Some(from)) => self.advertise(target, true, self.neighbour(*from.ip())),
                _ => Ok(()),
            }
        })
    }

    /// Whoever has used an address for a while asks its owner, and nobody else, whether it is still there (section
    /// 7.3.3).
    fn answer_probes(&self, known: &BTreeSet<IpAddr>) -> Result<(), AnnounceError> {
        self.heard((&self.probes, "listen to neighbour discovery"), |frame, _| match probed(frame) {
            Some((asker, target)) if known.contains(&target.into()) => {
                self.advertise(target, true, self.neighbour(asker))
            }
            _ => Ok(()),
        })
    }

    fn neighbour(&self, address: Ipv6Addr) -> SocketAddrV6 {
        SocketAddrV6::new(address, 0, 0, self.index)
    }
}

fn bind_to(socket: &OwnedFd, link: &dyn SockaddrLike) -> Result<(), Errno> {
    nix::sys::socket::bind(socket.as_fd().as_raw_fd(), link)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet's header, and ARP's fixed part for Ethernet and IPv4.
const ETHERNET: usize = 14;
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// IPv6's header, and what it says of ICMPv6 behind it.
const IPV6: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;

/// What is let through to a packet socket (classic BPF: code, jump if so, jump if not, operand): neighbour
/// solicitations within IPv6 that came to this machine's hardware address (`SKF_AD_PKTTYPE` is `PACKET_HOST`). The rest of
/// the link's traffic costs three comparisons, and never wakes anybody.
const PROBES: [(u16, u8, u8, u32); 8] = {
    const LOAD_BYTE: u16 = 0x30;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PACKET_TYPE: u32 = 0xffff_f004;
    [
        (LOAD_BYTE, 0, 0, ETHERNET as u32 + 6),
        (IF_EQUAL, 0, 5, ICMPV6 as u32),
        (LOAD_BYTE, 0, 0, (ETHERNET + IPV6) as u32),
        (IF_EQUAL, 0, 3, SOLICITATION as u32),
        (LOAD_BYTE, 0, 0, PACKET_TYPE),
        (IF_EQUAL, 0, 1, 0),
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ]
};

/// An ARP packet with its Ethernet header.
fn arp(operation: u16, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> [u8; 42] {
    let mut frame = [0; 42];
    let parts: [&[u8]; 9] = [
        &to.0,
        &from.0,
        &[0x08, 0x06],
        &ARP_HEAD,
        &operation.to_be_bytes(),
        &from.0,
        &from.1.octets(),
        &to.0,
        &to.1.octets(),
    ];
    let mut at = 0;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

/// Who asks in a frame for which address; `None` where it is no request.
fn asked(frame: &[u8]) -> Option<((Mac, Ipv4Addr), Ipv4Addr)> {
    let body = frame.get(ETHERNET..ETHERNET + 28)?;
    if body[..6] != ARP_HEAD || body[6..8] != REQUEST.to_be_bytes() {
        return None;
    }
    let mac: Mac = body[8..14].try_into().ok()?;
    let address = |at: usize| <[u8; 4]>::try_from(&body[at..at + 4]).ok().map(Ipv4Addr::from);
    let (sender, target) = (address(14)?, address(24)?);
    // An announcement asks nothing.
    (sender != target).then_some(((mac, sender), target))
}

/// The group in which an address is asked for (RFC 4291, section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

fn solicited_nodes(addresses: &BTreeSet<IpAddr>) -> BTreeSet<Ipv6Addr> {
    let v6 = addresses.iter().filter_map(|address| match address {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    });
    v6.map(solicited_node).collect()
}

/// A neighbour advertisement (section 4.4) with the target's hardware address; the kernel fills its checksum in.
fn advertisement(address: Ipv6Addr, mac: Mac, solicited: bool) -> [u8; 32] {
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    let mut packet = [0; 32];
    packet[0] = 136;
    packet[4] = OVERRIDE | if solicited { SOLICITED } else { 0 };
    packet[8..24].copy_from_slice(&address.octets());
    packet[24..26].copy_from_slice(&[2, 1]);
    packet[26..].copy_from_slice(&mac);
    packet
}

/// The address that a neighbour solicitation (section 4.3) asks for.
fn solicited(packet: &[u8]) -> Option<Ipv6Addr> {
    let target: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    (packet[0] == SOLICITATION && packet[1] == 0).then(|| target.into())
}

/// Who asks in a frame whether which address is still there; `None` where it is no question of a neighbour's.
fn probed(frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let (header, packet) = frame.get(ETHERNET..)?.split_at_checked(IPV6)?;
    let target = solicited(packet)?;
    let asker = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    // One that a router has passed on has fewer hops left.
    (header[6] == ICMPV6 && header[7] == HOPS && !asker.is_unspecified()).then_some((asker, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn requests_are_understood_and_nothing_else() {
        let (ours, theirs) = (Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 9));
        let request = arp(REQUEST, (THEIRS, theirs), ([0; 6], ours));
        assert_eq!(asked(&request), Some(((THEIRS, theirs), ours)));
        assert_eq!(asked(&arp(REPLY, (THEIRS, theirs), (OURS, ours))), None);
        assert_eq!(asked(&arp(REQUEST, (THEIRS, ours), (BROADCAST, ours))), None, "an announcement");
        assert_eq!(asked(&request[..40]), None);
        // RFC 5227: a probe has no sender's address.
        let probe = arp(REQUEST, (THEIRS, Ipv4Addr::UNSPECIFIED), ([0; 6], ours));
        assert_eq!(asked(&probe).map(|(_, target)| target), Some(ours));
        let reply = arp(REPLY, (OURS, ours), (THEIRS, theirs));
        assert_eq!(reply[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(reply[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!(reply[28..32], [192, 0, 2, 10]);
    }

    #[test]
    fn neighbours_are_answered() {
        let address: Ipv6Addr = "2001:db8::1:2a3b".parse().unwrap();
        assert_eq!(solicited_node(address), "ff02::1:ff01:2a3b".parse::<Ipv6Addr>().unwrap());
        let mut question = [0; 24];
        question[0] = SOLICITATION;
        question[8..].copy_from_slice(&address.octets());
        assert_eq!(solicited(&question), Some(address));
        assert_eq!(solicited(&question[..23]), None);
        let answer = advertisement(address, OURS, true);
        assert_eq!((answer[0], answer[4]), (136, 0x60));
        assert_eq!(answer[24..], [2, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(solicited(&answer), None);
        assert_eq!(advertisement(address, OURS, false)[4], 0x20);
    }

    #[test]
    fn probes_are_understood_and_nothing_else() {
        let (asker, address) =
            ("2001:db8::9".parse::<Ipv6Addr>().unwrap(), "2001:db8::1".parse::<Ipv6Addr>().unwrap());
        let mut frame = [0; ETHERNET + IPV6 + 24];
        (frame[20], frame[21], frame[54]) = (58, 255, 135);
        frame[22..38].copy_from_slice(&asker.octets());
        frame[62..].copy_from_slice(&address.octets());
        assert_eq!(probed(&frame), Some((asker, address)));
        assert_eq!(probed(&frame[..77]), None);
        assert_eq!(probed(&frame[..50]), None);
        for (at, what) in [(20, 6), (21, 254), (54, 136)] {
            let mut other = frame;
            other[at] = what;
            assert_eq!(probed(&other), None, "{at}");
        }
        frame[22..38].fill(0);
        assert_eq!(probed(&frame), None);
    }

    #[test]
    fn addresses_share_groups() {
        let set = |all: &[&str]| all.iter().map(|a| a.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        let groups = |all: &[&str]| solicited_nodes(&set(all)).len();
        assert_eq!(groups(&["192.0.2.1"]), 0);
        assert_eq!(groups(&["2001:db8::1:2:3", "2001:db8::1:2:4"]), 2);
        assert_eq!(groups(&["2001:db8::2:3", "2001:db8::1:0:2:3", "192.0.2.1"]), 1);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(frame in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (asked(&frame), solicited(&frame), probed(&frame));
        }
    }
}
