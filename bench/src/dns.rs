//! Questions to the cluster's DNS server by hand-made messages (RFC 1035 section 4): one socket, no cache, no library
//! between the packet and the clock.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::Result;

const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 53);
/// A lost datagram is asked again after this long.
const LOST: Duration = Duration::from_millis(200);
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;

/// Asks for A records.
pub(crate) struct Resolver {
    socket: UdpSocket,
    id: u16,
}

impl Resolver {
    pub(crate) fn new() -> Result<Resolver> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SERVER)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(Resolver { socket, id: 0 })
    }

    /// The addresses that the name has now: none for names that do not exist. `None` where no answer came.
    pub(crate) fn ask(&mut self, name: &str) -> Result<Option<Vec<Ipv4Addr>>> {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&question(self.id, name))?;
        let mut buffer = [0; 4096];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(e) if lost(e.kind()) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            let answer = &buffer[..length];
            // Late answers to questions that were given up carry another id.
            if number(answer, 0) == Some(self.id) {
                return Ok(Some(addresses(answer).ok_or("an answer that is no DNS message")?));
            }
        }
    }
}

/// Nothing came, or the Service had no endpoint in that moment (ICMP).
fn lost(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock};
    matches!(kind, WouldBlock | TimedOut | ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// A question for A records.
pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut message = Vec::with_capacity(64);
    for field in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The A records of the answer section.
pub(crate) fn addresses(message: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let mut at = 12;
    for _ in 0..number(message, 4)? {
        at = after_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..number(message, 6)? {
        at = after_name(message, at)?;
        let (kind, length) = (number(message, at)?, usize::from(number(message, at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if kind == TYPE_A {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    Some(found)
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// Where the name that begins at `at` ends; a pointer ends it (RFC 1035 section 4.1.4).
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_name_as_labels() {
        let message = question(7, "a.bc");
        assert_eq!(message[..2], [0, 7]);
        assert_eq!(message[12..], *b"\x01a\x02bc\x00\x00\x01\x00\x01");
    }

    #[test]
    fn addresses_stand_behind_compressed_names() {
        let mut message = question(7, "a.bc");
        message[7] = 2;
        for last in [1, 2] {
            message.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00");
            message.push(last);
        }
        assert_eq!(addresses(&message), Some(vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]));
        message.truncate(message.len() - 1);
        assert_eq!(addresses(&message), None);
    }
}
