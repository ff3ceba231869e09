//! SCTP's first packet, sent and received raw: a kernel without SCTP sockets still translates it.

use super::Seen;
use crate::lab::Namespace;
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind, recvfrom,
    sendto, socket_with,
};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const SCTP: u32 = 132;
const ICMP: u32 = 1;
const ICMP6: u32 = 58;
/// Bytes of an IPv4 header without options.
const HEADER: usize = 20;

/// A packet that came to a Pod: the tag that it carries, the Pod, the source that it saw.
type Arrival = (u32, usize, IpAddr);

/// Sees what comes to Pods.
pub struct Watch {
    report: Sender<Arrival>,
    arrivals: Mutex<Receiver<Arrival>>,
}

fn raw(ipv4: bool, protocol: u32) -> OwnedFd {
    let family = if ipv4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = NonZeroU32::new(protocol).map(Protocol::from_raw);
    socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap()
}

/// The body of a raw packet: IPv4's come with their header.
fn body(packet: &[u8], ipv4: bool) -> &[u8] {
    packet.get(if ipv4 { HEADER } else { 0 }..).unwrap_or_default()
}

/// The tag in an INIT chunk that begins here, behind SCTP's common header.
fn tag(packet: &[u8]) -> Option<u32> {
    packet.get(16..20)?.try_into().ok().map(u32::from_be_bytes)
}

fn source(from: Option<SocketAddrAny>) -> Option<IpAddr> {
    SocketAddr::try_from(from?).ok().map(|a| a.ip())
}

impl Watch {
    pub fn new() -> Self {
        let (report, arrivals) = channel();
        Self { report, arrivals: Mutex::new(arrivals) }
    }

    /// Reports what comes to a Pod's port 8080.
    pub fn listen(&self, pod: &Namespace, number: usize) {
        for ipv4 in [true, false] {
            let report = self.report.clone();
            let socket = pod.run(move || raw(ipv4, SCTP));
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, _, from)) = recvfrom(&socket, &mut buffer, RecvFlags::empty()) {
                    let packet = body(&buffer[..length], ipv4);
                    let to_us = packet.get(2..4) == Some(&8080u16.to_be_bytes());
                    if let (true, Some(tag), Some(source)) = (to_us, tag(packet), source(from)) {
                        let _ = report.send((tag, number, source));
                    }
                }
            });
        }
    }

    /// Sends an INIT and sees where it comes out, or who refuses it.
    pub fn attempt(&self, from: &Namespace, source: SocketAddr, to: SocketAddr, patience: Duration) -> Seen {
        // One after the other: whoever waits takes what arrives.
        let arrivals = self.arrivals.lock().unwrap();
        // A source port is used once, so it tells packets apart.
        let tag = 0x5ea1_0000 | u32::from(source.port());
        let refusals = from.run(move || {
            let refusals = raw(to.is_ipv4(), if to.is_ipv4() { ICMP } else { ICMP6 });
            set_socket_timeout(&refusals, Timeout::Recv, Some(Duration::from_millis(2))).unwrap();
            let socket = raw(to.is_ipv4(), SCTP);
            bind(&socket, &SocketAddr::new(source.ip(), 0)).unwrap();
            let packet = init(source.port(), to.port(), tag);
            // A raw socket's port is its protocol.
            let _ = sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(to.ip(), 0));
            refusals
        });
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Ok((_, number, source)) = arrivals.try_iter().find(|a| a.0 == tag).ok_or(()) {
                return Seen::At(number, source);
            }
            let mut buffer = [0; 2048];
            if let Ok((length, _, _)) = recvfrom(&refusals, &mut buffer, RecvFlags::empty())
                && is_refusal(body(&buffer[..length], to.is_ipv4()), source.port(), to.is_ipv4())
            {
                return Seen::Refused;
            }
        }
        Seen::Silent
    }
}

/// Port unreachable, about a packet from this port.
fn is_refusal(message: &[u8], port: u16, ipv4: bool) -> bool {
    let (kind, inner) = if ipv4 { ([3, 3], 8 + HEADER) } else { ([1, 4], 8 + 40) };
    message.get(..2) == Some(&kind) && message.get(inner..inner + 2) == Some(&port.to_be_bytes())
}

/// A common header and an INIT chunk (RFC 9260, sections 3.1 and 3.3.2).
fn init(source: u16, to: u16, tag: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(source.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(tag.to_be_bytes());
    packet.extend(65_536u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(tag.to_be_bytes());
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// The checksum of RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let shifted = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shifted(crc)))
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
