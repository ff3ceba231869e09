//! The kernel's list of sockets (sock_diag(7)): who is connected to whom, and their end.

use crate::{BpfError, raw};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use sealane_catalog::Protocol;
use sealane_proxy::Backend;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Length of `struct nlmsghdr`, of `struct inet_diag_sockid`, and of what stands before it in an answer.
const HEADER: usize = 16;
const ID: usize = 48;
const BEFORE_ID: usize = 4;
/// States in which a socket has a peer: of UDP ESTABLISHED; of TCP also SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2,
/// CLOSE_WAIT, LAST_ACK and CLOSING (`enum tcp_state`).
const WITH_PEER: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// Room for one datagram of a dump, of which the kernel makes at most 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// A socket that has a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub protocol: Protocol,
    pub cookie: u64,
    pub peer: Backend,
    family: u8,
    /// `struct inet_diag_sockid`, as it came.
    id: [u8; ID],
}

/// A socket to the kernel's list, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    pub fn open() -> Result<Self, BpfError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))
            .map_err(failed("open a socket to their list"))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM] })
    }

    /// All sockets of TCP or UDP that have a peer.
    pub fn connected(&mut self, protocol: Protocol) -> Result<Vec<Socket>, BpfError> {
        let mut sockets = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let family = family.as_raw() as u8;
            self.send(&request(SOCK_DIAG_BY_FAMILY, DUMP, family, protocol, &[0; ID]))?;
            self.answers(|body| sockets.extend(socket(protocol, body))).map_err(failed("list them"))?;
        }
        Ok(sockets)
    }

    /// Ends a socket: whoever uses it sees `ECONNABORTED`. Says whether it was still there.
    pub fn destroy(&mut self, socket: &Socket) -> Result<bool, BpfError> {
        self.send(&request(SOCK_DESTROY, ACK, socket.family, socket.protocol, &socket.id))?;
        match self.answers(|_| {}) {
            Ok(()) => Ok(true),
            // Closed, or connected to somebody else, since it was listed.
            Err(Errno::NOENT | Errno::STALE) => Ok(false),
            Err(errno) => Err(failed("end them (needs CONFIG_INET_DIAG_DESTROY)")(errno)),
        }
    }

    fn send(&self, message: &[u8]) -> Result<(), BpfError> {
        send(&self.socket, message, SendFlags::empty()).map(drop).map_err(failed("ask for them"))
    }

    /// Takes answers until the last.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        loop {
            let (length, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
            let mut rest = &self.buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return error(body),
                    _ => each(body),
                }
                rest = next;
            }
        }
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> BpfError {
    move |errno| BpfError::Sockets { what, errno }
}

/// `struct inet_diag_req_v2` behind its header.
fn request(kind: u16, flags: u16, family: u8, protocol: Protocol, id: &[u8; ID]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 8 + ID);
    message.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, raw::protocol(protocol), 0, 0]);
    message.extend(WITH_PEER.to_ne_bytes());
    message.extend(id);
    message
}

/// The first of some messages: its type, body, and what is behind it. `None` where no whole one is left.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// An error's number; 0 is none.
fn error(body: &[u8]) -> Result<(), Errno> {
    let number = body.get(..4).and_then(|n| n.try_into().ok()).map_or(-libc::EBADMSG, i32::from_ne_bytes);
    if number == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-number)) }
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions; source and destination port; source and destination
/// address, 16 octets each; link; cookie.
fn socket(protocol: Protocol, body: &[u8]) -> Option<Socket> {
    let family = *body.first()?;
    let id: [u8; ID] = body.get(BEFORE_ID..BEFORE_ID + ID)?.try_into().ok()?;
    let word = |at: usize| Some(u64::from(u32::from_ne_bytes(id.get(at..at + 4)?.try_into().ok()?)));
    let address = match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(id.get(20..24)?).ok()?.into(),
        // Of IPv6 sockets some speak IPv4.
        _ => raw::ip(id.get(20..36)?.try_into().ok()?),
    };
    let peer = Backend { address, port: u16::from_be_bytes([id[2], id[3]]) };
    Some(Socket { protocol, cookie: word(40)? | word(44)? << 32, peer, family, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};

    #[test]
    fn a_connected_socket_is_found() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let peer = UdpSocket::bind(local).unwrap();
            let to = peer.local_addr().unwrap();
            let client = UdpSocket::bind(local).unwrap();
            client.connect(to).unwrap();
            let mut diag = Diag::open().unwrap();
            let found = diag.connected(Protocol::Udp).unwrap();
            let port = client.local_addr().unwrap().port().to_be_bytes();
            let mine: Vec<&Socket> = found.iter().filter(|s| s.id[..2] == port).collect();
            assert_eq!(mine.len(), 1, "{found:?}");
            assert_eq!(SocketAddr::new(mine[0].peer.address, mine[0].peer.port), to);
            assert_ne!(mine[0].cookie, 0);
        }
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        let whole = request(SOCK_DESTROY, ACK, 2, Protocol::Udp, &[7; ID]);
        assert_eq!(message(&whole).map(|(k, b, r)| (k, b.len(), r.len())), Some((SOCK_DESTROY, 56, 0)));
        for length in 0..whole.len() {
            assert_eq!(message(&whole[..length]), None, "{length}");
        }
        assert_eq!(socket(Protocol::Udp, &[2; BEFORE_ID + ID - 1]), None);
        assert_eq!(error(&[]), Err(Errno::BADMSG));
        assert_eq!(error(&(-2i32).to_ne_bytes()), Err(Errno::NOENT));
    }
}
