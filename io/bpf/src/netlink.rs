//! Questions to the kernel over netlink(7).

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
/// Flags of a question: the kernel is to say whether it did it, or to say all that there is.
pub(crate) const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Room for one datagram of a dump, of which the kernel makes at most 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// A socket to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Of a protocol; `None`: links, addresses and routes.
    pub fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM] })
    }

    /// Asks, and takes answers until the last.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        send(&self.socket, &request(kind, flags, body), SendFlags::empty())?;
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

/// A question with its header.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The first of some messages: its type, body, and what is behind it. `None` where no whole one is left.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes behind a message's fixed part, as type and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An error's number; 0 is none.
fn error(body: &[u8]) -> Result<(), Errno> {
    let number = body.get(..4).and_then(|n| n.try_into().ok()).map_or(-libc::EBADMSG, i32::from_ne_bytes);
    if number == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_no_message() {
        let whole = request(21, ACK, &[7; 56]);
        assert_eq!(message(&whole).map(|(k, b, r)| (k, b.len(), r.len())), Some((21, 56, 0)));
        for length in 0..whole.len() {
            assert_eq!(message(&whole[..length]), None, "{length}");
        }
        assert_eq!(error(&[]), Err(Errno::BADMSG));
        assert_eq!(error(&(-2i32).to_ne_bytes()), Err(Errno::NOENT));
        let two = [6, 0, 1, 0, 9, 9, 0, 0, 5, 0, 2, 0, 8];
        assert_eq!(attributes(&two).collect::<Vec<_>>(), [(1, &[9, 9][..]), (2, &[8][..])]);
        assert_eq!(attributes(&two[..11]).count(), 1);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
