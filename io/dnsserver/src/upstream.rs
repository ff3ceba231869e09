//! One question to one upstream.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sealane_dns::Via;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Sends `message` and waits for a message with the same id. Each question has a socket, thus a port, of its own.
pub(crate) async fn exchange(
    to: SocketAddr,
    via: &Via,
    message: &[u8],
    id: u16,
    timeout: Duration,
) -> Result<Vec<u8>> {
    let exchange = async {
        match via {
            Via::Udp => udp(to, message, id).await,
            Via::Tcp => tcp(to, message, id).await,
            Via::Tls(_) => {
                Err(Error::new(ErrorKind::Unsupported, "upstreams over TLS are not Sealane's yet"))
            }
        }
    };
    let timed_out = || Error::new(ErrorKind::TimedOut, format!("{} i/o timeout", via.as_str()));
    tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(timed_out()))
}

fn any(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

async fn udp(to: SocketAddr, message: &[u8], id: u16) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind(any(to)).await?;
    socket.connect(to).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if buffer[..len].starts_with(&id.to_be_bytes()) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn tcp(to: SocketAddr, message: &[u8], id: u16) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&framed(message)?).await?;
    loop {
        let len = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(len)];
        stream.read_exact(&mut buffer).await?;
        if buffer.starts_with(&id.to_be_bytes()) {
            return Ok(buffer);
        }
    }
}

/// A message behind its length (RFC 1035 section 4.2.2).
pub(crate) fn framed(message: &[u8]) -> Result<Vec<u8>> {
    let len = u16::try_from(message.len()).map_err(Error::other)?;
    let mut out = Vec::with_capacity(message.len() + 2);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(message);
    Ok(out)
}

/// The addresses that this machine would be reached at: where its packets to the world come from. Nothing is sent.
pub(crate) fn local_addresses() -> Vec<IpAddr> {
    let source = |to: SocketAddr| {
        let socket = std::net::UdpSocket::bind(any(to)).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let worlds: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    worlds.into_iter().filter_map(|ip| source((ip, 53).into())).filter(|ip| !ip.is_loopback()).collect()
}
