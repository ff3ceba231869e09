//! Datagrams by the batch: one system call takes what has come in, another sends the answers.

use std::io::{IoSlice, IoSliceMut, Result};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    self, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6,
    SockaddrStorage, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Datagrams in a batch, at most.
const BATCH: usize = 64;
/// The longest query that is taken, octets: what EDNS servers offer to take (RFC 6891, 6.2.5).
const LONGEST: usize = 4096;
/// What one segmented datagram may hold at most, octets.
const SEGMENTS: usize = 65_000;
/// What the kernel may keep for us while we are busy, octets; it gives less where `net.core.rmem_max` says so.
const QUEUE: usize = 1 << 20;

/// Whom an answer goes to, and the address of ours that it comes from: the one that was asked, where the socket is bound
/// to all of them.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    client: SocketAddr,
    address: SockaddrStorage,
    local: Option<IpAddr>,
}

/// Makes a bound socket fit for batches: reading waits so long at most.
pub(crate) fn prepare(socket: &UdpSocket, wait: Duration) -> Result<()> {
    socket.set_nonblocking(false)?;
    let wait = TimeVal::microseconds(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
    setsockopt(socket, sockopt::ReceiveTimeout, &wait)?;
    setsockopt(socket, sockopt::RcvBuf, &QUEUE)?;
    let own = socket.local_addr()?;
    if own.ip().is_unspecified() {
        match own {
            SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    Ok(())
}

/// Wakes who reads a socket, for good: there is nothing more to read.
pub(crate) fn wake(socket: &UdpSocket) {
    // Linux says that the socket is not connected, and wakes the reader all the same.
    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Read);
}

/// Sends one answer, without waiting: one that cannot be sent is one that got lost, its client asks again.
pub(crate) fn send(socket: &UdpSocket, answer: &[u8], to: &Peer) {
    let source = Source::of(to);
    let (slices, flags) = ([IoSlice::new(answer)], MsgFlags::MSG_DONTWAIT);
    let _ =
        socket::sendmsg(socket.as_raw_fd(), &slices, source.messages().as_slice(), flags, Some(&to.address));
}

/// The address that answers come from, as the kernel is told it (`IP_PKTINFO` in ip(7)).
enum Source {
    Any,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Source {
    fn of(peer: &Peer) -> Self {
        match peer.local {
            None => Source::Any,
            Some(IpAddr::V4(ip)) if peer.address.as_sockaddr_in6().is_none() => {
                Source::V4(libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                })
            }
            Some(ip) => {
                let octets = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                Source::V6(libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: octets },
                    ipi6_ifindex: 0,
                })
            }
        }
    }

    fn messages(&self) -> Vec<ControlMessage<'_>> {
        match self {
            Source::Any => Vec::new(),
            Source::V4(info) => vec![ControlMessage::Ipv4PacketInfo(info)],
            Source::V6(info) => vec![ControlMessage::Ipv6PacketInfo(info)],
        }
    }
}

/// Room for a batch in, and for one out.
pub(crate) struct Batch {
    came: MultiHeaders<SockaddrStorage>,
    queries: Vec<[u8; LONGEST]>,
    from: Vec<(usize, Option<Peer>)>,
    /// By what goes with an answer: nothing, an address of IPv4, of IPv6. The room must be what is sent to the octet.
    goes: [MultiHeaders<SockaddrStorage>; 3],
    answers: Vec<Vec<u8>>,
    to: Vec<Peer>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let v4 = || nix::cmsg_space!(libc::in_pktinfo);
        let v6 = || nix::cmsg_space!(libc::in6_pktinfo);
        Batch {
            came: MultiHeaders::preallocate(BATCH, Some(v6())),
            queries: vec![[0; LONGEST]; BATCH],
            from: Vec::with_capacity(BATCH),
            goes: [None, Some(v4()), Some(v6())].map(|room| MultiHeaders::preallocate(BATCH, room)),
            answers: vec![Vec::new(); BATCH],
            to: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what has come in: how many. With `wait`, until there is one, or the socket's time is over; otherwise, and
    /// then, `WouldBlock` says that there is none.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, wait: bool) -> Result<usize> {
        self.from.clear();
        self.to.clear();
        let mut queries = self.queries.iter_mut();
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            [IoSliceMut::new(queries.next().map_or(&mut [], |query| &mut query[..]))]
        });
        let flags = if wait { MsgFlags::MSG_WAITFORONE } else { MsgFlags::MSG_DONTWAIT };
        let came = socket::recvmmsg(socket.as_raw_fd(), &mut self.came, &mut slices, flags, None)?;
        for message in came {
            let peer = message.address.as_ref().and_then(|storage| {
                let local = message.cmsgs().ok().and_then(|mut all| all.find_map(|control| asked(&control)));
                Some(Peer { client: address(storage)?, address: *storage, local })
            });
            self.from.push((message.bytes, peer));
        }
        Ok(self.from.len())
    }

    /// Lets `answer` look at each query and write what goes back at once; `false`: nothing does.
    pub(crate) fn answer(&mut self, mut answer: impl FnMut(&[u8], SocketAddr, &Peer, &mut Vec<u8>) -> bool) {
        for (query, (len, peer)) in self.queries.iter().zip(&self.from) {
            let Some(peer) = peer else { continue };
            let Some(room) = self.answers.get_mut(self.to.len()) else { return };
            if answer(query.get(..*len).unwrap_or_default(), peer.client, peer, room) {
                self.to.push(*peer);
            }
        }
    }

    /// Puts an answer that came later to those that are sent next. It comes back where there is no room.
    pub(crate) fn put(&mut self, answer: Vec<u8>, to: Peer) -> Option<Vec<u8>> {
        let Some(room) = self.answers.get_mut(self.to.len()) else { return Some(answer) };
        *room = answer;
        self.to.push(to);
        None
    }

    /// Sends the answers. One that cannot be sent is one that got lost: its client asks again.
    pub(crate) fn send(&mut self, socket: &UdpSocket) {
        let mut order: [u8; BATCH] = std::array::from_fn(|at| at as u8);
        let order = &mut order[..self.to.len()];
        let key = |at: &u8| {
            let peer = &self.to[usize::from(*at)];
            (peer.local, peer.client, self.answers[usize::from(*at)].len())
        };
        order.sort_unstable_by_key(key);
        let (mut singles, mut count) = ([0; BATCH], 0);
        for run in order.chunk_by(|a, b| key(a) == key(b)) {
            if run.len() == 1 || !self.send_run(socket, run) {
                singles[count..count + run.len()].copy_from_slice(run);
                count += run.len();
            }
        }
        let local = |at: &u8| self.to[usize::from(*at)].local;
        let ends: Vec<usize> =
            singles[..count].chunk_by(|a, b| local(a) == local(b)).map(<[u8]>::len).collect();
        let mut begin = 0;
        for len in ends {
            self.send_each(socket, &singles[begin..begin + len]);
            begin += len;
        }
        self.to.clear();
    }

    /// Answers of one length to one client are one datagram for all of the way but its ends: the kernel cuts it
    /// (UDP_SEGMENT, udp(7)). Whether it went.
    fn send_run(&self, socket: &UdpSocket, run: &[u8]) -> bool {
        let length = self.answers[usize::from(run[0])].len();
        let Ok(segment) = u16::try_from(length) else { return false };
        let peer = &self.to[usize::from(run[0])];
        let source = Source::of(peer);
        for part in run.chunks((SEGMENTS / length.max(1)).max(1)) {
            let slices: Vec<IoSlice<'_>> =
                part.iter().map(|at| IoSlice::new(&self.answers[usize::from(*at)])).collect();
            let mut messages = source.messages();
            messages.push(ControlMessage::UdpGsoSegments(&segment));
            let flags = MsgFlags::MSG_DONTWAIT;
            if socket::sendmsg(socket.as_raw_fd(), &slices, &messages, flags, Some(&peer.address)).is_err() {
                return false;
            }
        }
        true
    }

    /// Answers from one address of ours.
    fn send_each(&mut self, socket: &UdpSocket, places: &[u8]) {
        let Some(first) = places.first() else { return };
        let source = Source::of(&self.to[usize::from(*first)]);
        let headers = &mut self.goes[match source {
            Source::Any => 0,
            Source::V4(_) => 1,
            Source::V6(_) => 2,
        }];
        let messages = source.messages();
        let mut sent = 0;
        while sent < places.len() {
            let rest = places[sent..].iter().map(|at| usize::from(*at));
            let slices: Vec<[IoSlice<'_>; 1]> =
                rest.clone().map(|at| [IoSlice::new(&self.answers[at])]).collect();
            let to: Vec<Option<SockaddrStorage>> = rest.map(|at| Some(self.to[at].address)).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let result = socket::sendmmsg(socket.as_raw_fd(), headers, &slices, &to, &messages, flags);
            // The first of them failed; what is behind it may not.
            sent += result.map_or(1, |results| results.count().max(1));
        }
    }
}

/// Which of our addresses a datagram came to.
fn asked(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::from(info.ipi6_addr.s6_addr).to_canonical())
        }
        _ => None,
    }
}

/// A client by its own family, not as an IPv6 socket sees it.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::new(SockaddrIn::ip(v4), v4.port())));
    }
    let v6: &SockaddrIn6 = storage.as_sockaddr_in6()?;
    let ip: Ipv6Addr = v6.ip();
    Some(match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddr::V4(SocketAddrV4::new(ip, v6.port())),
        None => SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), v6.flowinfo(), v6.scope_id())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_one_length_to_one_client_come_one_by_one() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let clients: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for number in 0..40u8 {
            let client = &clients[usize::from(number & 1)];
            client.send_to(&[number], server.local_addr().unwrap()).unwrap();
        }
        let mut batch = Batch::new();
        let mut came = 0;
        while came < 40 {
            came += batch.receive(&server, true).unwrap();
            batch.answer(|query, _, _, out| {
                out.clear();
                out.resize(if query[0] < 30 { 2000 } else { 100 + usize::from(query[0]) }, query[0]);
                true
            });
            batch.send(&server);
        }
        for (at, client) in clients.iter().enumerate() {
            let mut numbers = Vec::new();
            for _ in 0..20 {
                let mut answer = [0; 4096];
                let len = client.recv(&mut answer).unwrap();
                assert_eq!(len, if answer[0] < 30 { 2000 } else { 100 + usize::from(answer[0]) });
                assert!(answer[..len].iter().all(|octet| *octet == answer[0]));
                numbers.push(usize::from(answer[0]));
            }
            numbers.sort_unstable();
            assert_eq!(numbers, (0..40).filter(|n| n & 1 == at).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_batch_comes_and_goes() {
        for (own, of_clients) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::]:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")]
        {
            let server = UdpSocket::bind(own).unwrap();
            prepare(&server, Duration::from_secs(5)).unwrap();
            let mut to = server.local_addr().unwrap();
            if to.ip().is_unspecified() {
                // Not the one that an answer would come from by itself.
                to.set_ip([127, 0, 0, 7].into());
            }
            let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind(of_clients).unwrap()).collect();
            let mut batch = Batch::new();
            assert!(batch.receive(&server, false).is_err());
            for (number, client) in clients.iter().enumerate() {
                client.send_to(&vec![number as u8; 10 + number], to).unwrap();
            }
            let mut came = 0;
            while came < 3 {
                came += batch.receive(&server, true).unwrap();
                // The second is left without an answer.
                batch.answer(|query, client, _, out| {
                    assert_eq!(client.port(), clients[usize::from(query[0])].local_addr().unwrap().port());
                    assert_eq!(client.is_ipv4(), of_clients.starts_with('1'));
                    out.clear();
                    out.extend(query.iter().rev().chain([&7]));
                    query[0] != 1
                });
                batch.send(&server);
            }
            for number in [0, 2] {
                let mut answer = [0; 64];
                let (len, from) = clients[number].recv_from(&mut answer).unwrap();
                assert_eq!((len, from, answer[len - 1]), (11 + number, to, 7));
            }
            clients[1].set_nonblocking(true).unwrap();
            assert!(clients[1].recv(&mut [0; 64]).is_err());
        }
    }
}
