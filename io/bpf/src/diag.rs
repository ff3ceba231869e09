//! The kernel's list of sockets (sock_diag(7)): who is connected to whom, and their end.

use crate::netlink::{ACK, DUMP, Netlink};
use crate::{BpfError, raw};
use rustix::io::Errno;
use rustix::net::{AddressFamily, netlink};
use sealane_catalog::Protocol;
use sealane_proxy::Backend;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Length of `struct inet_diag_sockid`, and of what stands before it in an answer.
const ID: usize = 48;
const BEFORE_ID: usize = 4;
/// States in which a socket has a peer: of UDP ESTABLISHED; of TCP also SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2,
/// CLOSE_WAIT, LAST_ACK and CLOSING (`enum tcp_state`).
const WITH_PEER: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

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
pub(crate) struct Diag(Netlink);

impl Diag {
    pub fn open() -> Result<Self, BpfError> {
        Netlink::open(Some(netlink::SOCK_DIAG)).map(Self).map_err(failed("open a socket to their list"))
    }

    /// All sockets of TCP or UDP that have a peer.
    pub fn connected(&mut self, protocol: Protocol) -> Result<Vec<Socket>, BpfError> {
        let mut sockets = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let which = request(family.as_raw() as u8, protocol, &[0; ID]);
            let asked =
                self.0.ask(SOCK_DIAG_BY_FAMILY, DUMP, &which, |body| sockets.extend(socket(protocol, body)));
            asked.map_err(failed("list them"))?;
        }
        Ok(sockets)
    }

    /// Ends a socket: whoever uses it sees `ECONNABORTED`. Says whether it was still there.
    pub fn destroy(&mut self, socket: &Socket) -> Result<bool, BpfError> {
        let which = request(socket.family, socket.protocol, &socket.id);
        match self.0.ask(SOCK_DESTROY, ACK, &which, |_| {}) {
            Ok(()) => Ok(true),
            // Closed, or connected to somebody else, since it was listed.
            Err(Errno::NOENT | Errno::STALE) => Ok(false),
            Err(errno) => Err(failed("end them (needs CONFIG_INET_DIAG_DESTROY)")(errno)),
        }
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> BpfError {
    move |errno| BpfError::Sockets { what, errno }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: Protocol, id: &[u8; ID]) -> Vec<u8> {
    let mut request = Vec::with_capacity(8 + ID);
    request.extend([family, raw::protocol(protocol), 0, 0]);
    request.extend(WITH_PEER.to_ne_bytes());
    request.extend(id);
    request
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
    fn what_is_cut_short_is_no_socket() {
        assert_eq!(socket(Protocol::Udp, &[2; BEFORE_ID + ID - 1]), None);
    }
}
