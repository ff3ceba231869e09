//! Sockets: where they are bound, and how several share one place.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpSocket};

use crate::{backlog, machine};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A socket that is bound.
#[derive(Clone)]
pub(crate) enum Bound {
    Udp(Arc<UdpSocket>),
    Tcp(Arc<TcpListener>),
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Bound::Udp(socket) => socket.as_fd(),
            Bound::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// One that is about to be closed, or has been.
pub(crate) enum Parting {
    Udp(Weak<UdpSocket>),
    Tcp(Weak<TcpListener>),
}

impl Bound {
    pub(crate) fn parting(&self) -> Parting {
        match self {
            Bound::Udp(socket) => Parting::Udp(Arc::downgrade(socket)),
            Bound::Tcp(listener) => Parting::Tcp(Arc::downgrade(listener)),
        }
    }
}

impl Parting {
    /// It, where somebody still has it.
    pub(crate) fn back(&self) -> Option<Bound> {
        match self {
            Parting::Udp(socket) => socket.upgrade().map(Bound::Udp),
            Parting::Tcp(listener) => listener.upgrade().map(Bound::Tcp),
        }
    }
}

/// `:8080`, `localhost:9153`, `10.0.0.1:80`, `[::1]:80`, a name that leads to an address; `None`: on all addresses.
pub(crate) fn split(address: &str) -> Result<(Option<IpAddr>, u16)> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let port = port.parse().map_err(|_| std::io::Error::new(ErrorKind::InvalidInput, "no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = match host {
        "" => return Ok((None, port)),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => match host.parse() {
            Ok(ip) => ip,
            Err(_) => resolved(host, port)?,
        },
    };
    Ok((Some(ip), port))
}

/// IPv4 first, as Go's `net.Listen` has it.
fn resolved(host: &str, port: u16) -> Result<IpAddr> {
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let found = found.iter().find(|address| address.is_ipv4()).or(found.first());
    found.map(SocketAddr::ip).ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

/// Where to bind, in the order of trying: both families at once, then IPv4 alone.
fn candidates(ip: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    match ip {
        Some(ip) => vec![machine::place(ip, port)],
        None => vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()],
    }
}

fn bind<T>(ip: Option<IpAddr>, port: u16, bind: impl Fn(SocketAddr) -> Result<T>) -> Result<T> {
    let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
    for address in candidates(ip, port) {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// With `share`, beside others of ours that have the port (SO_REUSEPORT). The first of a place is bound without: a
/// second server is told that the port is taken, where CoreDNS's would take half of the queries.
pub(crate) fn tcp(ip: Option<IpAddr>, port: u16, share: bool) -> Result<Bound> {
    bind(ip, port, |address| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(share)?;
        socket.bind(address)?;
        Ok(Bound::Tcp(Arc::new(socket.listen(BACKLOG)?)))
    })
}

/// The same for UDP.
pub(crate) fn udp(ip: Option<IpAddr>, port: u16, share: bool) -> Result<Bound> {
    bind(ip, port, |address| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_reuseport(&socket, share)?;
        // What waits until it is served; the kernel gives less where `net.core.rmem_max` says so.
        sockopt::set_socket_recv_buffer_size(&socket, backlog::MOST)?;
        rustix::net::bind(&socket, &address)?;
        Ok(Bound::Udp(Arc::new(UdpSocket::from(socket))))
    })
}

/// Lets others of ours be bound beside it.
pub(crate) fn share(bound: impl AsFd) {
    // Where that fails, so does the bind, and says why.
    let _ = sockopt::set_socket_reuseport(bound, true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_pages() {
        let ip = |text: &str| Some(text.parse().unwrap());
        for (text, expected) in [
            (":8080", (None, 8080)),
            ("localhost:9153", (ip("127.0.0.1"), 9153)),
            ("10.0.0.1:80", (ip("10.0.0.1"), 80)),
            ("[::1]:80", (ip("::1"), 80)),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
        for none in ["8080", "10.0.0.1:http", "no such host:80"] {
            assert!(split(none).is_err(), "{none}");
        }
    }
}
