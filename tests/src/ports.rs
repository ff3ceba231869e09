//! Ports for servers of tests that have no network of their own.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of this machine that nobody has, over UDP or TCP, and that no call of this process gives again. It lies below
/// those that clients' sockets get: connections of other tests, which are over, keep theirs for a minute.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let at = (Ipv4Addr::UNSPECIFIED, base + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
        if UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok() {
            return at.1;
        }
    }
}
