//! Listeners: what the configuration wants is bound, what it no longer wants is closed, the rest stays as it is.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sealane_dns::chain::Block;
use sealane_dns::{Event, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::DnsError;
use crate::admin::{self, Page};
use crate::shared::Shared;
use crate::upstream::framed;

/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 1024;
/// Queries that wait for upstreams at once; more are dropped, their clients ask again.
const WAITING: usize = 16_384;

/// What is listened for, and where; `None`: on all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listener {
    Udp(Option<IpAddr>, u16),
    Tcp(Option<IpAddr>, u16),
    Http(Page, Option<IpAddr>, u16),
}

/// The listeners that run; dropping it closes them and what came through them.
#[derive(Default)]
pub(crate) struct Listeners(BTreeMap<Listener, JoinSet<()>>);

impl Listeners {
    /// Binds what is new, closes what is not wanted any more. Where something cannot be bound nothing changes.
    pub(crate) fn reconcile(
        &mut self,
        shared: &Arc<Shared>,
        blocks: &[Arc<Block>],
    ) -> std::result::Result<(), DnsError> {
        let wanted = wanted(blocks);
        let mut fresh = BTreeMap::new();
        for listener in wanted.iter().filter(|listener| !self.0.contains_key(listener)) {
            let tasks = start(shared, *listener).map_err(|source| {
                let (what, ip, port) = match *listener {
                    Listener::Udp(ip, port) => ("DNS over UDP", ip, port),
                    Listener::Tcp(ip, port) => ("DNS over TCP", ip, port),
                    Listener::Http(page, ip, port) => (page.name(), ip, port),
                };
                let address =
                    ip.map_or_else(|| format!(":{port}"), |ip| SocketAddr::new(ip, port).to_string());
                DnsError::Listen { address, what, source }
            })?;
            fresh.insert(*listener, tasks);
        }
        self.0.retain(|listener, _| wanted.contains(listener));
        self.0.append(&mut fresh);
        Ok(())
    }
}

fn wanted(blocks: &[Arc<Block>]) -> Vec<Listener> {
    let mut out = Vec::new();
    for block in blocks {
        let settings = &block.settings;
        let all = [None];
        let bound: Vec<Option<IpAddr>> = settings.bind.iter().map(|ip| Some(*ip)).collect();
        for key in &block.keys {
            for ip in if bound.is_empty() { &all[..] } else { &bound } {
                out.extend([Listener::Udp(*ip, key.port), Listener::Tcp(*ip, key.port)]);
            }
        }
        let pages = [
            (Page::Health, settings.health.as_ref().map(|health| &health.address)),
            (Page::Ready, settings.ready.as_ref()),
            (Page::Metrics, settings.prometheus.as_ref()),
        ];
        for (page, address) in pages {
            if let Some((ip, port)) = address.and_then(|address| split(address)) {
                out.push(Listener::Http(page, ip, port));
            }
        }
    }
    out.sort();
    out.dedup();
    out
}

/// `:8080`, `localhost:9153`, `10.0.0.1:80`, `[::1]:80`.
fn split(address: &str) -> Option<(Option<IpAddr>, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host.trim_start_matches('[').trim_end_matches(']') {
        "" => Some((None, port)),
        "localhost" => Some((Some(Ipv4Addr::LOCALHOST.into()), port)),
        host => Some((Some(host.parse().ok()?), port)),
    }
}

/// Where to bind, in the order of trying: both families at once, then IPv4 alone.
fn candidates(ip: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    match ip {
        Some(ip) => vec![(ip, port).into()],
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

fn tcp_listener(ip: Option<IpAddr>, port: u16) -> Result<TcpListener> {
    bind(ip, port, |address| {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()
        } else {
            tokio::net::TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    })
}

fn start(shared: &Arc<Shared>, listener: Listener) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let shared = shared.clone();
    match listener {
        Listener::Udp(ip, port) => {
            let socket = bind(ip, port, std::net::UdpSocket::bind)?;
            socket.set_nonblocking(true)?;
            let socket = Arc::new(UdpSocket::from_std(socket)?);
            tasks.spawn(serve_udp(shared, socket, port));
        }
        Listener::Tcp(ip, port) => {
            let listener = tcp_listener(ip, port)?;
            tasks.spawn(serve_tcp(shared, listener, port));
        }
        Listener::Http(page, ip, port) => {
            let listener = tcp_listener(ip, port)?;
            tasks.spawn(admin::serve(shared, listener, page));
        }
    }
    Ok(tasks)
}

/// A client by its own family, not as an IPv6 socket sees it.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>, port: u16) {
    let mut buffer = vec![0; 65_535];
    let waiting = Arc::new(Semaphore::new(WAITING));
    let mut tasks = JoinSet::new();
    loop {
        // Finished tasks are let go as we pass.
        while tasks.try_join_next().is_some() {}
        // An error here is an ICMP message about an earlier reply: nothing to do with the next query.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let event =
            Event::Query { port, transport: Transport::Udp, client: canonical(from), bytes: &buffer[..len] };
        let effects = shared.step(event);
        match shared.at_once(effects) {
            Ok(reply) => {
                for message in reply {
                    // A reply that cannot be sent is one that got lost: the client asks again.
                    let _ = socket.send_to(&message, from).await;
                }
            }
            Err(effects) => {
                let permit = waiting.clone().try_acquire_owned();
                let (shared, socket) = (shared.clone(), socket.clone());
                tasks.spawn(async move {
                    let overloaded = permit.is_err();
                    let _permit = permit.ok();
                    if overloaded {
                        return shared.abandon(effects);
                    }
                    for message in shared.carry_out(effects).await {
                        let _ = socket.send_to(&message, from).await;
                    }
                });
            }
        }
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener, port: u16) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= CONNECTIONS {
            tasks.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, from)) => {
                let shared = shared.clone();
                tasks.spawn(async move {
                    // How a client ends its connection is its own affair.
                    let _ = connection(&shared, stream, canonical(from), port).await;
                });
            }
            // Out of descriptors: they come back as connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(shared: &Arc<Shared>, mut stream: TcpStream, from: SocketAddr, port: u16) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let read = async {
            let len = stream.read_u16().await?;
            buffer.resize(usize::from(len), 0);
            stream.read_exact(&mut buffer).await
        };
        tokio::time::timeout(IDLE, read).await.map_err(std::io::Error::other)??;
        let event = Event::Query { port, transport: Transport::Tcp, client: from, bytes: &buffer };
        let effects = shared.step(event);
        let reply = shared.carry_out(effects).await;
        if reply.is_empty() {
            return Ok(());
        }
        for message in reply {
            let framed = framed(&message)?;
            tokio::time::timeout(IDLE, stream.write_all(&framed)).await.map_err(std::io::Error::other)??;
        }
    }
}
