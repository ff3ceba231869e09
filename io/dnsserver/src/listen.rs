//! Listeners: what the configuration wants is bound, what it no longer wants is closed, the rest stays as it is. What
//! has come in by a listener that is closed is answered first.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use rustls::ServerConfig;
use sealane_dns::chain::{Block, Scheme};
use sealane_dns::{Event, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::DnsError;
use crate::admin::{self, Page};
use crate::shared::{Shared, told};
use crate::upstream::framed;
use crate::{grpc, https, tls, udp};

/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 1024;
/// The same for DNS over HTTPS and gRPC (CoreDNS's `DefaultHTTPSMaxConnections`, `DefaultGRPCMaxConnections`).
const HTTP_CONNECTIONS: usize = 200;
/// A connection that is told to end has so long for a query that is on its way.
const LAST: Duration = Duration::from_millis(50);
/// A new configuration waits so long for answers that the old one still owes at listeners that go.
const HANDOVER: Duration = Duration::from_millis(500);
/// Listeners that went have so long to give the rest of their answers (CoreDNS's `graceTimeout`).
const GRACE: Duration = Duration::from_secs(5);

/// What is listened for, and where; `None`: on all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listener {
    Udp(Option<IpAddr>, u16),
    Tcp(Option<IpAddr>, u16),
    Tls(Option<IpAddr>, u16),
    Https(Option<IpAddr>, u16),
    Grpc(Option<IpAddr>, u16),
    Http(Page, Option<IpAddr>, u16),
}

/// A socket that is bound.
#[derive(Clone)]
enum Bound {
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

/// Listeners that are bound and not served yet: what comes in waits in the kernel.
pub(crate) struct Fresh {
    bound: BTreeMap<Listener, Bound>,
    /// The certificates of all listeners, those that run already, too.
    tls: BTreeMap<Listener, Arc<ServerConfig>>,
}

/// How a listener speaks TLS from now on; `None`: not at all.
type Tls = Option<Arc<ServerConfig>>;

/// A listener that runs.
struct Running {
    bound: Bound,
    tasks: JoinSet<()>,
    /// Told to answer what is there and end.
    closing: watch::Sender<bool>,
    tls: watch::Sender<Tls>,
}

/// The listeners that run; dropping it closes them and what came through them.
#[derive(Default)]
pub(crate) struct Listeners {
    running: BTreeMap<Listener, Running>,
    /// Those that went, as long as they owe answers.
    going: JoinSet<()>,
    /// Their sockets, which are taken again where a configuration wants them back.
    sockets: BTreeMap<Listener, Weak<UdpSocket>>,
}

impl Listeners {
    /// Binds what is new in a configuration. Where something cannot be bound nothing has changed.
    pub(crate) fn bind(&self, blocks: &[Arc<Block>]) -> std::result::Result<Fresh, DnsError> {
        let wanted = wanted(blocks);
        let tls = certificates(blocks)?;
        let mut fresh = BTreeMap::new();
        for listener in wanted.iter().filter(|listener| !self.running.contains_key(listener)) {
            if let Some(socket) = self.sockets.get(listener).and_then(Weak::upgrade) {
                // It may have been connected to itself.
                let _ = rustix::net::connect_unspec(&socket);
                fresh.insert(*listener, Bound::Udp(socket));
                continue;
            }
            // `:53` and `10.0.0.1:53` stand side by side for a moment where one takes the other's place.
            let (tcp, port) = listener.place();
            let before =
                self.running.iter().filter(|(old, _)| old.place() == (tcp, port) && !wanted.contains(old));
            let before: Vec<_> = before.map(|(_, running)| &running.bound).collect();
            for old in &before {
                // Where that fails, so does the bind, and says why.
                let _ = sockopt::set_socket_reuseport(old, true);
            }
            let bound = start(*listener, !before.is_empty()).map_err(|source| {
                let (what, ip, port) = match *listener {
                    Listener::Udp(ip, port) => ("DNS over UDP", ip, port),
                    Listener::Tcp(ip, port) => ("DNS over TCP", ip, port),
                    Listener::Tls(ip, port) => ("DNS over TLS", ip, port),
                    Listener::Https(ip, port) => ("DNS over HTTPS", ip, port),
                    Listener::Grpc(ip, port) => ("DNS over gRPC", ip, port),
                    Listener::Http(page, ip, port) => (page.name(), ip, port),
                };
                let address =
                    ip.map_or_else(|| format!(":{port}"), |ip| SocketAddr::new(ip, port).to_string());
                DnsError::Listen { address, what, source }
            })?;
            fresh.insert(*listener, bound);
        }
        Ok(Fresh { bound: fresh, tls })
    }

    /// Serves what was bound.
    pub(crate) fn serve(&mut self, shared: &Arc<Shared>, fresh: Fresh) {
        for (listener, running) in &self.running {
            running.tls.send_replace(fresh.tls.get(listener).cloned());
        }
        for (listener, bound) in fresh.bound {
            let (mut tasks, shared) = (JoinSet::new(), shared.clone());
            let (closing, closed) = watch::channel(false);
            let (tls, certificate) = watch::channel(fresh.tls.get(&listener).cloned());
            match (listener, bound.clone()) {
                (Listener::Udp(_, port), Bound::Udp(socket)) => {
                    tasks.spawn(udp::serve(shared, socket, port, closed));
                }
                (Listener::Tcp(_, port), Bound::Tcp(listener)) => {
                    tasks.spawn(serve_tcp(shared, listener, port, Kind::Plain, closed));
                }
                (Listener::Tls(_, port), Bound::Tcp(listener)) => {
                    tasks.spawn(serve_tcp(shared, listener, port, Kind::Tls(certificate), closed));
                }
                (Listener::Https(_, port), Bound::Tcp(listener)) => {
                    tasks.spawn(serve_tcp(shared, listener, port, Kind::Https(certificate), closed));
                }
                (Listener::Grpc(_, port), Bound::Tcp(listener)) => {
                    tasks.spawn(serve_tcp(shared, listener, port, Kind::Grpc(certificate), closed));
                }
                (Listener::Http(page, ..), Bound::Tcp(listener)) => {
                    tasks.spawn(admin::serve(shared, listener, page));
                }
                // `start` binds no others.
                _ => {}
            }
            self.running.insert(listener, Running { bound, tasks, closing, tls });
        }
    }

    /// Closes what a configuration does not want any more, once it has answered what had come in, or after a while.
    pub(crate) async fn retire(&mut self, blocks: &[Arc<Block>]) {
        self.close(&wanted(blocks)).await;
    }

    /// Closes all of them.
    pub(crate) async fn retire_all(&mut self) {
        self.close(&[]).await;
    }

    async fn close(&mut self, wanted: &[Listener]) {
        while self.going.try_join_next().is_some() {}
        self.sockets.retain(|_, socket| socket.strong_count() > 0);
        let mut waiting = Vec::new();
        for (listener, running) in std::mem::take(&mut self.running) {
            if wanted.contains(&listener) {
                self.running.insert(listener, running);
                continue;
            }
            let Running { bound, mut tasks, closing, .. } = running;
            if let Listener::Http(..) = listener {
                continue;
            }
            if let Bound::Udp(socket) = &bound {
                self.sockets.insert(listener, Arc::downgrade(socket));
            }
            drop(bound);
            let (done, ended) = tokio::sync::oneshot::channel::<()>();
            self.going.spawn(async move {
                let _ = closing.send(true);
                let _ = tokio::time::timeout(GRACE, tasks.join_next()).await;
                drop(done);
            });
            waiting.push(ended);
        }
        let all = async {
            for ended in waiting {
                // Its sender says nothing, it goes.
                let _ = ended.await;
            }
        };
        let _ = tokio::time::timeout(HANDOVER, all).await;
    }
}

impl Listener {
    /// What two of them can't share: TCP or UDP, and the port.
    fn place(self) -> (bool, u16) {
        match self {
            Listener::Udp(_, port) => (false, port),
            Listener::Tcp(_, port)
            | Listener::Tls(_, port)
            | Listener::Https(_, port)
            | Listener::Grpc(_, port)
            | Listener::Http(_, _, port) => (true, port),
        }
    }
}

/// What a block's keys are listened for on.
fn of_keys(block: &Block) -> Vec<Listener> {
    let bound: Vec<Option<IpAddr>> = block.settings.bind.iter().map(|ip| Some(*ip)).collect();
    let (all, mut out) = ([None], Vec::new());
    for key in &block.keys {
        for ip in if bound.is_empty() { &all[..] } else { &bound } {
            match key.scheme {
                Scheme::Tls => out.push(Listener::Tls(*ip, key.port)),
                Scheme::Https => out.push(Listener::Https(*ip, key.port)),
                Scheme::Grpc => out.push(Listener::Grpc(*ip, key.port)),
                // There are no others: `Config` refuses them.
                _ => out.extend([Listener::Udp(*ip, key.port), Listener::Tcp(*ip, key.port)]),
            }
        }
    }
    out
}

/// The certificates of listeners; without `tls` they do without encryption, as CoreDNS's do.
fn certificates(
    blocks: &[Arc<Block>],
) -> std::result::Result<BTreeMap<Listener, Arc<ServerConfig>>, DnsError> {
    let mut out = BTreeMap::new();
    for block in blocks {
        let Some(settings) = &block.settings.tls else { continue };
        for listener in of_keys(block) {
            let scheme = match listener {
                Listener::Tls(..) => Scheme::Tls,
                Listener::Https(..) => Scheme::Https,
                Listener::Grpc(..) => Scheme::Grpc,
                _ => continue,
            };
            out.insert(listener, tls::server(settings, scheme).map_err(DnsError::Tls)?);
        }
    }
    Ok(out)
}

fn wanted(blocks: &[Arc<Block>]) -> Vec<Listener> {
    let mut out = Vec::new();
    for block in blocks {
        let settings = &block.settings;
        out.extend(of_keys(block));
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

/// With `share`, beside another of ours that has the port.
fn tcp_listener(ip: Option<IpAddr>, port: u16, share: bool) -> Result<TcpListener> {
    bind(ip, port, |address| {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()
        } else {
            tokio::net::TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(share)?;
        socket.bind(address)?;
        socket.listen(1024)
    })
}

fn udp_socket(ip: Option<IpAddr>, port: u16, share: bool) -> Result<UdpSocket> {
    bind(ip, port, |address| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_reuseport(&socket, share)?;
        rustix::net::bind(&socket, &address)?;
        Ok(UdpSocket::from(socket))
    })
}

fn start(listener: Listener, share: bool) -> Result<Bound> {
    Ok(match listener {
        Listener::Udp(ip, port) => Bound::Udp(Arc::new(udp_socket(ip, port, share)?)),
        Listener::Tcp(ip, port)
        | Listener::Tls(ip, port)
        | Listener::Https(ip, port)
        | Listener::Grpc(ip, port)
        | Listener::Http(_, ip, port) => Bound::Tcp(Arc::new(tcp_listener(ip, port, share)?)),
    })
}

/// A client by its own family, not as an IPv6 socket sees it.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

/// What is spoken over TCP.
#[derive(Clone)]
enum Kind {
    Plain,
    Tls(watch::Receiver<Tls>),
    Https(watch::Receiver<Tls>),
    Grpc(watch::Receiver<Tls>),
}

impl Kind {
    fn connections(&self) -> usize {
        if matches!(self, Kind::Https(_) | Kind::Grpc(_)) { HTTP_CONNECTIONS } else { CONNECTIONS }
    }

    /// Serves one connection. How a client ends it is its own affair.
    async fn serve(
        self,
        shared: Arc<Shared>,
        stream: TcpStream,
        from: SocketAddr,
        port: u16,
        closed: watch::Receiver<bool>,
    ) -> Result<()> {
        stream.set_nodelay(true)?;
        let certificate = match &self {
            Kind::Plain => None,
            Kind::Tls(tls) | Kind::Https(tls) | Kind::Grpc(tls) => tls.borrow().clone(),
        };
        let Some(certificate) = certificate else {
            return match self {
                Kind::Plain | Kind::Tls(_) => connection(&shared, stream, from, port, closed).await,
                Kind::Https(_) => https::connection(shared, stream, from, port, closed).await,
                Kind::Grpc(_) => grpc::connection(shared, stream, from, port, closed).await,
            };
        };
        let handshake = TlsAcceptor::from(certificate).accept(stream);
        let stream = tokio::time::timeout(IDLE, handshake).await.map_err(std::io::Error::other)??;
        match self {
            Kind::Plain | Kind::Tls(_) => within_tls(&shared, stream, from, port, closed).await,
            Kind::Https(_) => https::connection(shared, stream, from, port, closed).await,
            Kind::Grpc(_) => grpc::connection(shared, stream, from, port, closed).await,
        }
    }
}

async fn serve_tcp(
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    port: u16,
    kind: Kind,
    mut closed: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let own = closed.clone();
    let serve = |tasks: &mut JoinSet<()>, stream: TcpStream, from: SocketAddr| {
        let serve = kind.clone().serve(shared.clone(), stream, canonical(from), port, own.clone());
        tasks.spawn(async move { drop(serve.await) });
    };
    loop {
        while tasks.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = told(&mut closed) => break,
            accepted = async {
                if tasks.len() >= kind.connections() {
                    tasks.join_next().await;
                }
                listener.accept().await
            } => accepted,
        };
        match accepted {
            Ok((stream, from)) => serve(&mut tasks, stream, from),
            // Out of descriptors: they come back as connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    if let Ok(raw) = listener.as_fd().try_clone_to_owned().map(std::net::TcpListener::from) {
        while let Ok((stream, from)) = raw.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                serve(&mut tasks, stream, from);
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn connection(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    from: SocketAddr,
    port: u16,
    mut closed: watch::Receiver<bool>,
) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            ready = tokio::time::timeout(IDLE, stream.readable()) => ready.map_err(std::io::Error::other)??,
            () = told(&mut closed) => {
                // What has come is still answered.
                let next = rustix::net::recv(&stream, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
                if !next.is_ok_and(|(_, len)| len > 0) {
                    return stream.shutdown().await;
                }
            }
        }
        let read = async {
            let len = stream.read_u16().await?;
            buffer.resize(usize::from(len), 0);
            stream.read_exact(&mut buffer).await
        };
        tokio::time::timeout(IDLE, read).await.map_err(std::io::Error::other)??;
        if !answer(shared, &mut stream, from, port, &buffer).await? {
            return Ok(());
        }
    }
}

/// Answers one query; whether there is an answer at all.
async fn answer(
    shared: &Arc<Shared>,
    stream: &mut (impl AsyncWrite + Unpin),
    from: SocketAddr,
    port: u16,
    bytes: &[u8],
) -> Result<bool> {
    let event = Event::Query { port, transport: Transport::Tcp, client: from, bytes };
    let effects = shared.step(event);
    let reply = shared.carry_out(effects).await;
    for message in &reply {
        let framed = framed(message)?;
        let write = async {
            stream.write_all(&framed).await?;
            stream.flush().await
        };
        tokio::time::timeout(IDLE, write).await.map_err(std::io::Error::other)??;
    }
    Ok(!reply.is_empty())
}

/// DNS over TLS (RFC 7858), behind the handshake.
async fn within_tls(
    shared: &Arc<Shared>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    port: u16,
    mut closed: watch::Receiver<bool>,
) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        let read = async {
            let len = stream.read_u16().await?;
            buffer.resize(usize::from(len), 0);
            stream.read_exact(&mut buffer).await
        };
        tokio::pin!(read);
        let read = tokio::select! {
            biased;
            read = tokio::time::timeout(IDLE, &mut read) => read,
            // What has come is still answered.
            () = told(&mut closed) => tokio::time::timeout(LAST, &mut read).await,
        };
        if !matches!(read, Ok(Ok(_))) || !answer(shared, &mut stream, from, port, &buffer).await? {
            return stream.shutdown().await;
        }
    }
}
