//! recvmmsg(2) and sendmmsg(2): one system call takes a batch of datagrams in, one sends a batch of answers, each with
//! what goes with it. The safe wrappers that there are send the same control messages with all datagrams of a batch,
//! so that answers from several addresses, or in segments of several lengths, would take a call each.
//!
//! The contract of the unsafe lines: every pointer in a header leads into a vector of the same struct (or a slice
//! that the caller lends for the call), which is neither moved nor made longer between the writing of the pointer and the
//! system call, and every length is that of what is pointed to. Headers of all zeroes are valid ones.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::mem;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::libc::{self, c_int, iovec, mmsghdr};

/// The longest query that is taken, octets: what EDNS servers offer to take (RFC 6891, 6.2.5).
const LONGEST: usize = 4096;
/// What nearly all queries fit in, octets: so many stand close together, the room for long ones is touched by those alone.
const SHORT: usize = 512;
/// An address of either family, octets.
const NAME: usize = mem::size_of::<libc::sockaddr_in6>();
/// Where data begins in a control message.
const HEADER: usize = mem::size_of::<libc::cmsghdr>();
/// Room for an address of ours and a length of segments, or a number of what was lost.
const CONTROL: usize = 64;

/// An address as the kernel writes it (`sockaddr_in`, `sockaddr_in6`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(4))]
struct Name([u8; NAME]);

/// Control messages.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// The address of ours that was asked, and that the answer comes from (`IP_PKTINFO` in ip(7)).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Local {
    /// The socket's.
    Own,
    V4([u8; 4]),
    V6([u8; 16]),
}

/// Whom an answer goes to, and the address of ours that it comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    name: Name,
    length: u8,
    local: Local,
}

impl Peer {
    /// The one that a connected socket is connected to.
    pub(crate) const CONNECTED: Peer = Peer { name: Name([0; NAME]), length: 0, local: Local::Own };

    /// The client by its own family, not as an IPv6 socket sees it.
    pub(crate) fn client(&self) -> Option<SocketAddr> {
        let octets = &self.name.0;
        let family = c_int::from(u16::from_ne_bytes([octets[0], octets[1]]));
        let port = u16::from_be_bytes([octets[2], octets[3]]);
        if family == libc::AF_INET {
            let ip: [u8; 4] = octets[4..8].try_into().ok()?;
            return Some(SocketAddr::V4(SocketAddrV4::new(ip.into(), port)));
        }
        if family != libc::AF_INET6 {
            return None;
        }
        let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&octets[8..24]).ok()?);
        if let Some(ip) = ip.to_ipv4_mapped() {
            return Some(SocketAddr::V4(SocketAddrV4::new(ip, port)));
        }
        let word = |at: usize| Some(u32::from_ne_bytes(octets[at..at + 4].try_into().ok()?));
        Some(SocketAddr::V6(SocketAddrV6::new(ip, port, u32::from_be(word(4)?), word(24)?)))
    }

    /// The same for the same peer; others may share it.
    pub(crate) fn mark(&self) -> u32 {
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| self.name.0[at + n]));
        // Family and port, and either family's most different octets.
        word(0) ^ word(4).rotate_left(8) ^ word(20).rotate_left(8)
    }
}

impl Control {
    /// Writes a control message behind others: where it ends.
    fn put(&mut self, at: usize, level: c_int, kind: c_int, data: &[u8]) -> usize {
        let length = HEADER + data.len();
        self.0[at..at + mem::size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
        self.0[at + HEADER - 8..at + HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        self.0[at + HEADER - 4..at + HEADER].copy_from_slice(&kind.to_ne_bytes());
        self.0[at + HEADER..at + length].copy_from_slice(data);
        at + length.next_multiple_of(mem::align_of::<libc::cmsghdr>())
    }

    /// What goes with an answer: how much it is.
    fn answer(&mut self, local: Local, segment: Option<u16>) -> usize {
        // The interface is left open: it is the way back that counts.
        let mut end = match local {
            Local::Own => 0,
            Local::V4(ip) => {
                let mut info = [0; mem::size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&ip);
                self.put(0, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
            }
            Local::V6(ip) => {
                let mut info = [0; mem::size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&ip);
                self.put(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
            }
        };
        if let Some(octets) = segment {
            end = self.put(end, libc::SOL_UDP, libc::UDP_SEGMENT, &octets.to_ne_bytes());
        }
        end
    }

    /// The control messages in the first `length` octets: level, kind, data.
    fn messages(&self, length: usize) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
        let mut rest = self.0.get(..length).unwrap_or_default();
        std::iter::from_fn(move || {
            let size = rest.get(..mem::size_of::<usize>())?;
            let message = rest.get(..usize::from_ne_bytes(size.try_into().ok()?))?;
            let data = message.get(HEADER..)?;
            let number = |at: usize| c_int::from_ne_bytes([0, 1, 2, 3].map(|n| message[at + n]));
            rest = rest
                .get(message.len().next_multiple_of(mem::align_of::<libc::cmsghdr>())..)
                .unwrap_or_default();
            Some((number(HEADER - 8), number(HEADER - 4), data))
        })
    }

    /// Which of our addresses a datagram came to.
    fn asked(&self, length: usize) -> Local {
        let local = |(level, kind, data): (c_int, c_int, &[u8])| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => data.get(4..8)?.try_into().ok().map(Local::V4),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => data.get(..16)?.try_into().ok().map(Local::V6),
            _ => None,
        };
        self.messages(length).find_map(local).unwrap_or(Local::Own)
    }

    /// How many datagrams were lost before one came.
    fn lost(&self, length: usize) -> Option<u32> {
        let told = (libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
        let (.., data) = self.messages(length).find(|(level, kind, _)| (*level, *kind) == told)?;
        Some(u32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
    }
}

fn empty() -> mmsghdr {
    // SAFETY: integers and pointers, of which zeroes are values: no name, no data, no control messages.
    unsafe { mem::zeroed() }
}

const NO_DATA: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Room for a batch that comes in.
pub(crate) struct Inbox {
    /// What is not longer; nothing where the socket is connected.
    short: Vec<[u8; SHORT]>,
    /// The others, whole, each so long at most. In one piece: what is not used is not there.
    long: Vec<u8>,
    longest: usize,
    names: Vec<Name>,
    controls: Vec<Control>,
    data: Vec<[iovec; 2]>,
    headers: Vec<mmsghdr>,
    /// So many headers hold what came, not what may come.
    came: usize,
}

// SAFETY: its pointers lead into its own vectors, which go with it, and nobody follows them but the system call.
unsafe impl Send for Inbox {}

impl Inbox {
    /// Room for so many.
    pub(crate) fn new(room: usize) -> Self {
        Inbox {
            short: vec![[0; SHORT]; room],
            names: vec![Name([0; NAME]); room],
            controls: vec![Control([0; CONTROL]); room],
            ..Inbox::connected(room, LONGEST)
        }
    }

    /// Room for so many from who a socket is connected to, so long at most. It is not asked from whom they come, nor to
    /// which address of ours: that is known.
    pub(crate) fn connected(room: usize, longest: usize) -> Self {
        Inbox {
            short: Vec::new(),
            long: vec![0; room * longest],
            longest,
            names: Vec::new(),
            controls: Vec::new(),
            data: vec![[NO_DATA; 2]; room],
            headers: (0..room).map(|_| empty()).collect(),
            came: room,
        }
    }

    /// Takes what has come in: how many. With `wait`, until there is one, or the socket's time is over; otherwise, and
    /// then, `WouldBlock` says that there is none.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, wait: bool) -> Result<usize> {
        for at in 0..self.came {
            let header = &mut self.headers[at].msg_hdr;
            header.msg_iov = self.data[at].as_mut_ptr();
            let long = &mut self.long[at * self.longest..][..self.longest];
            let Some(short) = self.short.get_mut(at) else {
                self.data[at][0] = iovec { iov_base: long.as_mut_ptr().cast(), iov_len: long.len() };
                header.msg_iovlen = 1;
                continue;
            };
            let long = &mut long[SHORT..];
            self.data[at] = [
                iovec { iov_base: short.as_mut_ptr().cast(), iov_len: short.len() },
                iovec { iov_base: long.as_mut_ptr().cast(), iov_len: long.len() },
            ];
            header.msg_iovlen = 2;
            header.msg_name = self.names[at].0.as_mut_ptr().cast();
            header.msg_namelen = NAME as libc::socklen_t;
            header.msg_control = self.controls[at].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        self.came = 0;
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: the headers lead into this struct's vectors, which keep their places.
        let came = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        self.came = usize::try_from(came).map_err(|_| Error::last_os_error())?;
        for (at, short) in self.short.iter().enumerate().take(self.came) {
            if self.headers[at].msg_len as usize > SHORT {
                self.long[at * self.longest..][..SHORT].copy_from_slice(short);
            }
        }
        Ok(self.came)
    }

    /// How many datagrams were lost before the last one came, where the kernel was asked to tell, and some were.
    pub(crate) fn lost(&self) -> Option<u32> {
        let last = self.came.checked_sub(1)?;
        self.controls[last].lost(self.headers[last].msg_hdr.msg_controllen)
    }

    /// What came.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.came).map(|at| {
            let length = usize::try_from(self.headers[at].msg_len).unwrap_or_default();
            let short = self.short.get(at).and_then(|short| short.get(..length));
            let long = || self.long[at * self.longest..][..self.longest].get(..length);
            short.or_else(long).unwrap_or_default()
        })
    }

    /// What came, and from whom.
    pub(crate) fn queries(&self) -> impl Iterator<Item = (&[u8], Peer)> {
        let peers =
            self.names.iter().zip(&self.controls).zip(&self.headers).map(|((name, control), header)| {
                let (name, length) = (*name, u8::try_from(header.msg_hdr.msg_namelen).unwrap_or_default());
                Peer { name, length, local: control.asked(header.msg_hdr.msg_controllen) }
            });
        self.datagrams().zip(peers)
    }
}

/// Room for a batch that goes out.
#[derive(Default)]
pub(crate) struct Outbox {
    names: Vec<Name>,
    controls: Vec<Control>,
    data: Vec<iovec>,
    headers: Vec<mmsghdr>,
}

// SAFETY: its pointers are written anew before each system call, and nobody follows them but that.
unsafe impl Send for Outbox {}

impl Outbox {
    /// Sends without waiting: answers `order[run]` go to the peer of the first of them, in one datagram that the
    /// kernel cuts where there are several (UDP_SEGMENT in udp(7)): all are as long as the first, but the last,
    /// which may be shorter. The runs that did not go are handed to `lost`, with the reason.
    pub(crate) fn send(
        &mut self,
        socket: &UdpSocket,
        (answers, to): (&[impl AsRef<[u8]>], &[Peer]),
        (order, runs): (&[u16], &[Range<usize>]),
        mut lost: impl FnMut(&Range<usize>, Error),
    ) {
        self.names.clear();
        self.controls.clear();
        self.data.clear();
        self.headers.clear();
        let in_order = order.iter().map(|at| answers[usize::from(*at)].as_ref());
        self.data.extend(in_order.map(|answer| iovec {
            // Only read.
            iov_base: answer.as_ptr().cast_mut().cast(),
            iov_len: answer.len(),
        }));
        for run in runs {
            let first = usize::from(order[run.start]);
            let mut control = Control([0; CONTROL]);
            let segment =
                (run.len() > 1).then(|| u16::try_from(answers[first].as_ref().len()).ok()).flatten();
            let used = control.answer(to[first].local, segment);
            self.names.push(to[first].name);
            self.controls.push(control);
            let mut header = empty();
            header.msg_hdr.msg_namelen = to[first].length.into();
            header.msg_hdr.msg_iovlen = run.len();
            header.msg_hdr.msg_controllen = used;
            self.headers.push(header);
        }
        // All have their places now.
        for (at, (header, run)) in self.headers.iter_mut().zip(runs).enumerate() {
            header.msg_hdr.msg_name = self.names[at].0.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = &raw mut self.data[run.start];
            if header.msg_hdr.msg_controllen > 0 {
                header.msg_hdr.msg_control = self.controls[at].0.as_mut_ptr().cast();
            }
        }
        let mut sent = 0;
        while let Some(rest) = self.headers.get_mut(sent..).filter(|rest| !rest.is_empty()) {
            // SAFETY: the headers lead into this struct's vectors and to `answers`, which keep their places.
            let went = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(went) {
                Ok(went) if went > 0 => sent += went,
                // The first of them failed; what is behind it may not.
                _ => {
                    lost(&runs[sent], Error::last_os_error());
                    sent += 1;
                }
            }
        }
    }
}
