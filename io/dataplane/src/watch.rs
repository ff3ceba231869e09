//! Notices that somebody else wrote to our table: the kernel tells who listens whatever any transaction did.

use crate::message::received;
use crate::netlink::{NetlinkError, SUBSYSTEM_NFTABLES};
use crate::nft::TABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{RecvFlags, bind, getsockname, recv};
use std::time::Duration;

/// `NFNLGRP_NFTABLES`, the seventh, as a bit.
const GROUP: u32 = 1 << 6;
/// Room for what others' large transactions say.
const RECEIVE_BUFFER: usize = 8 << 20;
/// One notification is at most a page or two.
const DATAGRAM: usize = 64 << 10;

/// What was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Somebody else changed our table.
    Disturbed,
    /// What happened is not known, because too much did (ENOBUFS).
    Lost,
    /// Listening failed.
    Failed(Errno),
    /// We wrote, or others wrote to their tables.
    Harmless,
    /// Nothing.
    Quiet,
    /// What was waited for besides has come.
    Ended,
}

/// Listens to what is done to a sink's table.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
    /// Our own address.
    port: u32,
    /// The sink's address, whose doings are no news.
    sink: u32,
}

/// The address that a netlink socket has, which it gets if it has none.
fn port(socket: &OwnedFd) -> Result<u32, NetlinkError> {
    let failed = |errno| NetlinkError::Socket { what: "bind", errno };
    let named = || {
        let address = getsockname(socket).and_then(SocketAddrNetlink::try_from);
        address.map(|a| a.pid()).map_err(failed)
    };
    match named()? {
        0 => {
            bind(socket, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
            named()
        }
        port => Ok(port),
    }
}

impl Watch {
    /// Listens over `socket` to what anybody but the owner of `sink` does.
    pub(crate) fn new(socket: OwnedFd, sink: &OwnedFd) -> Result<Self, NetlinkError> {
        let watch = Self { port: port(&socket)?, sink: port(sink)?, socket };
        // Without the right to force it, it is smaller, and losses count as disturbance.
        let _ = set_socket_recv_buffer_size_force(&watch.socket, RECEIVE_BUFFER);
        watch.listen(true)?;
        Ok(watch)
    }

    /// Listens, or does not: the kernel spends time on each element for whoever listens.
    pub(crate) fn listen(&self, on: bool) -> Result<(), NetlinkError> {
        let address = SocketAddrNetlink::new(self.port, if on { GROUP } else { 0 });
        bind(&self.socket, &address).map_err(|errno| NetlinkError::Socket { what: "listen", errno })
    }

    /// Waits for a notice, for so long, or until `end` can be read or is closed.
    pub(crate) fn wait(&self, end: impl AsFd, patience: Duration) -> Notice {
        let end = end.as_fd();
        let mut both =
            [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(end, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        match poll(&mut both, patience.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Notice::Quiet,
            Err(errno) => Notice::Failed(errno),
            Ok(_) if !both[1].revents().is_empty() => Notice::Ended,
            Ok(_) => self.drain(),
        }
    }

    /// Takes in all there is.
    fn drain(&self) -> Notice {
        let mut notice = Notice::Harmless;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let disturbed = received(&buffer[..length]).any(|m| is_disturbance(&m, self.sink));
                    if disturbed && notice == Notice::Harmless {
                        notice = Notice::Disturbed;
                    }
                }
                Err(Errno::AGAIN) => return notice,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => notice = Notice::Lost,
                Err(errno) => return Notice::Failed(errno),
            }
        }
    }
}

/// Whether a notification is about our table, and of somebody else's doing.
fn is_disturbance(message: &crate::message::Received<'_>, sink: u32) -> bool {
    message.port != sink
        && message.kind >> 8 == SUBSYSTEM_NFTABLES
        // Of tables, chains, rules, sets and elements alike the first attribute is the table's name.
        && message.attributes().get(1).is_some_and(|name| name.strip_suffix(&[0]) == Some(TABLE.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Messages;

    #[test]
    fn our_own_doings_and_others_tables_are_no_news() {
        let of = |kind: u16, table: &str, port: u32| {
            let mut messages = Messages::default();
            messages.push(kind, 0, 2, |a| a.text(1, table));
            let mut bytes = messages.bytes().to_vec();
            bytes[12..16].copy_from_slice(&port.to_ne_bytes());
            bytes
        };
        let nftables = SUBSYSTEM_NFTABLES << 8;
        for (bytes, expected) in [
            (of(nftables | 2, "sealane", 7), true),
            (of(nftables | 2, "sealane", 42), false),
            (of(nftables | 2, "firewalld", 7), false),
            (of(nftables | 8, "sealane2", 7), false),
            (of(1 << 8, "sealane", 7), false),
        ] {
            let message = received(&bytes).next().unwrap();
            assert_eq!(is_disturbance(&message, 42), expected);
        }
    }
}
