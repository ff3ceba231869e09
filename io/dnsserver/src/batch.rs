//! Datagrams by the batch: one system call takes what has come in, another sends the answers.

use std::io::{IoSlice, IoSliceMut, Result};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmmsg, sendmmsg,
};

/// Datagrams in a batch, at most.
const BATCH: usize = 64;
/// The longest query that is taken, octets: what EDNS servers offer to take (RFC 6891, 6.2.5).
const LONGEST: usize = 4096;

/// Room for a batch in, and for one out. Nothing is allocated once each has had its longest.
pub(crate) struct Batch {
    came: MultiHeaders<SockaddrStorage>,
    queries: Vec<[u8; LONGEST]>,
    from: Vec<(usize, Option<SockaddrStorage>)>,
    goes: MultiHeaders<SockaddrStorage>,
    answers: Vec<Vec<u8>>,
    to: Vec<Option<SockaddrStorage>>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Batch {
            came: MultiHeaders::preallocate(BATCH, None),
            queries: vec![[0; LONGEST]; BATCH],
            from: Vec::with_capacity(BATCH),
            goes: MultiHeaders::preallocate(BATCH, None),
            answers: vec![Vec::new(); BATCH],
            to: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what has come in, without waiting: how many. `WouldBlock`: none.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize> {
        self.from.clear();
        self.to.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.queries.iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let came = recvmmsg(socket.as_raw_fd(), &mut self.came, &mut slices, flags, None)?;
        self.from.extend(came.map(|message| (message.bytes, message.address)));
        Ok(self.from.len())
    }

    /// Whether more may be waiting than was taken.
    pub(crate) fn is_full(&self) -> bool {
        self.from.len() == BATCH
    }

    /// Lets `answer` look at each query and write what goes back at once; `false`: nothing does.
    pub(crate) fn answer(&mut self, mut answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>) -> bool) {
        for (query, (len, from)) in self.queries.iter().zip(&self.from) {
            let Some(client) = from.as_ref().and_then(address) else { continue };
            let Some(room) = self.answers.get_mut(self.to.len()) else { return };
            if answer(query.get(..*len).unwrap_or_default(), client, room) {
                self.to.push(*from);
            }
        }
    }

    /// Sends the answers. One that cannot be sent is one that got lost: its client asks again.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) {
        let mut sent = 0;
        while sent < self.to.len() {
            let slices: Vec<[IoSlice<'_>; 1]> =
                self.answers[sent..self.to.len()].iter().map(|answer| [IoSlice::new(answer)]).collect();
            let to = &self.to[sent..];
            let flags = MsgFlags::MSG_DONTWAIT;
            let result = sendmmsg(socket.as_raw_fd(), &mut self.goes, &slices, to, [], flags);
            // The first of them failed; what is behind it may not.
            sent += result.map_or(1, |results| results.count().max(1));
        }
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

/// As the socket wants it: an IPv6 one takes IPv4 addresses mapped.
pub(crate) fn for_socket(client: SocketAddr, socket: SocketAddr) -> SocketAddr {
    match (client, socket) {
        (SocketAddr::V4(client), SocketAddr::V6(_)) => {
            SocketAddr::new(client.ip().to_ipv6_mapped().into(), client.port())
        }
        _ => client,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_batch_comes_and_goes() {
        for (own, of_clients) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::]:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")]
        {
            let server = UdpSocket::bind(own).unwrap();
            let mut to = server.local_addr().unwrap();
            if to.ip().is_unspecified() {
                to.set_ip([127, 0, 0, 1].into());
            }
            let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind(of_clients).unwrap()).collect();
            let mut batch = Batch::new();
            assert!(batch.receive(server.as_fd()).is_err());
            for (number, client) in clients.iter().enumerate() {
                client.send_to(&vec![number as u8; 10 + number], to).unwrap();
            }
            let mut came = 0;
            while came < 3 {
                came += batch.receive(server.as_fd()).unwrap_or(0);
                // The second is left without an answer.
                batch.answer(|query, client, out| {
                    assert_eq!(client.port(), clients[usize::from(query[0])].local_addr().unwrap().port());
                    assert_eq!(client.is_ipv4(), of_clients.starts_with('1'));
                    out.clear();
                    out.extend(query.iter().rev().chain([&7]));
                    query[0] != 1
                });
                batch.send(server.as_fd());
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
