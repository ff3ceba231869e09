//! Netlink: one message after the other in one buffer, sent at once, each acknowledged. Enough of the encoding for
//! links, addresses, routes, neighbours and a small nftables table.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_*`.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

/// Messages to be sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// What each message does, for the error that it may cause; by sequence number from 1.
    steps: Vec<String>,
    start: usize,
}

impl Batch {
    /// Begins a message; `step` says what it does, in words that an error begins with.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, step: impl Into<String>) -> &mut Batch {
        self.finish();
        self.steps.push(step.into());
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&(self.steps.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self
    }

    /// The fixed part of a message, or the payload of an attribute, as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Batch {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute.
    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) -> &mut Batch {
        self.bytes.extend_from_slice(&((payload.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(payload)
    }

    /// An attribute that holds a NUL-terminated string.
    pub(crate) fn string(&mut self, kind: u16, value: &str) -> &mut Batch {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds a number in the machine's byte order (rtnetlink).
    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Batch {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds a number in network byte order (nftables).
    pub(crate) fn network_number(&mut self, kind: u16, value: u32) -> &mut Batch {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// An attribute that holds an address.
    pub(crate) fn address(&mut self, kind: u16, value: Ipv4Addr) -> &mut Batch {
        self.attribute(kind, &value.octets())
    }

    /// An attribute that holds what `fill` writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Batch)) -> &mut Batch {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    fn finish(&mut self) {
        if self.start < self.bytes.len() {
            let length = (self.bytes.len() - self.start) as u32;
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// A received message: its kind and what follows the header.
pub(crate) struct Received {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    /// The attributes that follow a fixed part of `skip` bytes.
    pub(crate) fn attributes(&self, skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = self.payload.get(skip..).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(rest.get(0..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
            let payload = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind & 0x3fff, payload))
        })
    }
}

/// A socket of the network namespace that its thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> io::Result<Socket> {
        Socket::open(None)
    }

    /// For nftables.
    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Socket> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Socket(socket))
    }

    /// Sends all messages and reads their acknowledgements; the first that failed is the error.
    pub(crate) fn execute(&self, batch: Batch) -> io::Result<()> {
        self.run(batch, &[])
    }

    /// As [`Socket::execute`], but messages that fail with one of `tolerated` (errno) count as done.
    pub(crate) fn execute_tolerant(&self, batch: Batch, tolerated: &[i32]) -> io::Result<()> {
        self.run(batch, tolerated)
    }

    fn run(&self, mut batch: Batch, tolerated: &[i32]) -> io::Result<()> {
        batch.finish();
        rustix::net::sendto(&self.0, &batch.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let expected = acknowledged(&batch.bytes);
        let mut failed = None;
        let mut seen = 0;
        while seen < expected {
            for (sequence, message) in self.receive()? {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                seen += 1;
                let code = message.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                if code != 0 && failed.is_none() && !tolerated.contains(&-code) {
                    let step = batch.steps.get((sequence as usize).wrapping_sub(1));
                    let source = io::Error::from_raw_os_error(-code);
                    let text = format!("{}: {source}", step.map_or("netlink", String::as_str));
                    failed = Some(io::Error::new(source.kind(), text));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends one request for a dump and reads it.
    pub(crate) fn dump(&self, mut batch: Batch) -> io::Result<Vec<Received>> {
        batch.finish();
        rustix::net::sendto(&self.0, &batch.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut all = Vec::new();
        loop {
            for (_, message) in self.receive()? {
                match message.kind {
                    NLMSG_DONE => return Ok(all),
                    NLMSG_ERROR => {
                        let code = message.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    _ => all.push(message),
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<(u32, Received)>> {
        let mut buffer = vec![0u8; 64 * 1024];
        let (length, _) = rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
        let mut messages = Vec::new();
        let mut rest = &buffer[..length.min(64 * 1024)];
        while rest.len() >= HEADER {
            let size = u32::from_ne_bytes(rest[0..4].try_into().unwrap_or_default()) as usize;
            if size < HEADER || size > rest.len() {
                break;
            }
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let sequence = u32::from_ne_bytes(rest[8..12].try_into().unwrap_or_default());
            messages.push((sequence, Received { kind, payload: rest[HEADER..size].to_vec() }));
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// How many of the messages ask for an acknowledgement.
fn acknowledged(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while bytes.len() >= HEADER {
        let size = u32::from_ne_bytes(bytes[0..4].try_into().unwrap_or_default()) as usize;
        if u16::from_ne_bytes([bytes[6], bytes[7]]) & flag::ACK != 0 {
            count += 1;
        }
        bytes = bytes.get(size.max(HEADER)..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_nested_attributes_carry_their_lengths() {
        let mut batch = Batch::default();
        batch.begin(16, flag::ACK, "one").raw(&[1, 2, 3, 4]).string(3, "eth0").nest(18, |nest| {
            nest.number(1, 7);
        });
        batch.begin(17, 0, "two");
        batch.finish();
        // 16 header + 4 fixed + (4 + 5, padded to 12) + (4 + 8)
        assert_eq!(&batch.bytes[0..4], &44u32.to_ne_bytes());
        assert_eq!(&batch.bytes[20..22], &9u16.to_ne_bytes());
        assert_eq!(&batch.bytes[32..34], &12u16.to_ne_bytes());
        assert_eq!(batch.bytes.len(), 44 + 16);
        assert_eq!(acknowledged(&batch.bytes), 1);
        let received = Received { kind: 16, payload: batch.bytes[16..44].to_vec() };
        let kinds: Vec<u16> = received.attributes(4).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [3, 18]);
    }

    #[test]
    fn a_damaged_attribute_ends_the_list() {
        for payload in [vec![200, 0, 1, 0], vec![4, 0], vec![0, 0, 1, 0], vec![3, 0, 1, 0]] {
            let received = Received { kind: 0, payload };
            assert_eq!(received.attributes(0).count(), 0);
        }
    }
}
