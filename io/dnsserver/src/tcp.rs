//! Connections: DNS over TCP (RFC 7766), over TLS (RFC 7858), and those that go on to HTTPS.

use std::io::Result;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::RecvFlags;
use rustls::ServerConfig;
use sealane_dns::chain::{HttpServer, Scheme, ServerAddress};
use sealane_dns::{Event, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::fair::Connections;
use crate::limits::Limits;
use crate::patient::Patient;
use crate::shared::{Shared, told};
use crate::upstream::framed;
use crate::{grpc, https};

/// Connections at once.
const CONNECTIONS: usize = 1024;
/// The same over HTTP (CoreDNS's `DefaultHTTPSMaxConnections`, `DefaultGRPCMaxConnections`).
const HTTP_CONNECTIONS: u32 = 200;
/// A connection that is told to end has so long for a query that is on its way.
const LAST: Duration = Duration::from_millis(50);

/// On what terms connections are served; those that are open keep theirs.
#[derive(Clone, Default)]
pub(crate) struct Terms {
    /// `None`: without encryption, whatever the port, as CoreDNS does.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) limits: Limits,
}

/// What says that it is over: for a socket, and for all connections that came to its place.
#[derive(Clone)]
pub(crate) struct Ends {
    /// No more connections are taken.
    pub(crate) socket: watch::Receiver<bool>,
    /// Those that are there answer what has come, and end.
    pub(crate) place: watch::Receiver<bool>,
}

/// A client by its own family, not as an IPv6 socket sees it.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

/// Connections at once.
fn most(scheme: Scheme, said: HttpServer) -> usize {
    match (over_http(scheme), said.connections.unwrap_or(HTTP_CONNECTIONS)) {
        (false, _) => CONNECTIONS,
        (true, 0) => usize::MAX,
        (true, number) => number as usize,
    }
}

fn over_http(scheme: Scheme) -> bool {
    matches!(scheme, Scheme::Https | Scheme::Grpc)
}

/// Takes connections until told to end, and with those that wait by then; `taking` goes when there are no more. Returns
/// when the last of them has ended.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    server: ServerAddress,
    terms: watch::Receiver<Terms>,
    mut ends: Ends,
    taking: oneshot::Sender<()>,
) {
    let mut tasks = JoinSet::new();
    let closed = ends.place.clone();
    let connections = Connections::new(most(server.scheme, terms.borrow().limits.http));
    let serve = |tasks: &mut JoinSet<()>, stream: TcpStream, from: SocketAddr| {
        let client = Client { shared: shared.clone(), from: canonical(from), server, closed: closed.clone() };
        let Some(place) = connections.place(&shared, server, client.from.ip()) else { return };
        let terms = terms.borrow().clone();
        tasks.spawn(async move {
            drop(client.connected(stream, terms).await);
            drop(place);
        });
    };
    loop {
        while tasks.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = told(&mut ends.socket) => break,
            accepted = async {
                if tasks.len() >= most(server.scheme, terms.borrow().limits.http) {
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
    drop(taking);
    while tasks.join_next().await.is_some() {}
}

/// Who has connected.
struct Client {
    shared: Arc<Shared>,
    from: SocketAddr,
    server: ServerAddress,
    closed: watch::Receiver<bool>,
}

impl Client {
    /// Serves the connection. How a client ends it is its own affair.
    async fn connected(self, stream: TcpStream, terms: Terms) -> Result<()> {
        stream.set_nodelay(true)?;
        let limits = terms.limits;
        let scheme = self.server.scheme;
        let Some(certificate) = terms.tls.filter(|_| scheme != Scheme::Dns) else {
            return match over_http(scheme) {
                true => self.http(stream, limits).await,
                false => self.plain(stream, limits).await,
            };
        };
        let stream = timeout(limits.read, TlsAcceptor::from(certificate).accept(stream)).await??;
        match over_http(scheme) {
            true => self.http(stream, limits).await,
            false => self.within_tls(stream, limits).await,
        }
    }

    async fn http<S>(self, stream: S, limits: Limits) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Client { shared, from, server, closed } = self;
        let stream = Patient::new(stream, limits.write);
        match server.scheme {
            Scheme::Grpc => grpc::connection(shared, stream, (from, server), limits, closed).await,
            _ => https::connection(shared, stream, (from, server), limits, closed).await,
        }
    }

    async fn plain(mut self, mut stream: TcpStream, limits: Limits) -> Result<()> {
        let (mut buffer, mut patience, mut served) = (Vec::new(), limits.read, 0);
        while served < limits.queries {
            let until = Instant::now() + patience;
            tokio::select! {
                ready = timeout_at(until, stream.readable()) => ready??,
                () = told(&mut self.closed) => {
                    // What has come is still answered.
                    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                    let next = rustix::net::recv(&stream, &mut [0u8; 1][..], flags);
                    if !next.is_ok_and(|(_, len)| len > 0) {
                        return stream.shutdown().await;
                    }
                }
            }
            timeout_at(until, message(&mut stream, &mut buffer)).await??;
            if !self.answer(&mut stream, &buffer, limits).await? {
                return Ok(());
            }
            (served, patience) = (counted(served), limits.idle);
        }
        stream.shutdown().await
    }

    /// DNS over TLS, behind the handshake.
    async fn within_tls(
        mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        limits: Limits,
    ) -> Result<()> {
        let (mut buffer, mut patience, mut served) = (Vec::new(), limits.read, 0);
        while served < limits.queries {
            let read = {
                let read = message(&mut stream, &mut buffer);
                tokio::pin!(read);
                tokio::select! {
                    biased;
                    read = timeout(patience, &mut read) => read,
                    // What has come is still answered.
                    () = told(&mut self.closed) => timeout(LAST, &mut read).await,
                }
            };
            if !matches!(read, Ok(Ok(()))) || !self.answer(&mut stream, &buffer, limits).await? {
                break;
            }
            (served, patience) = (counted(served), limits.idle);
        }
        stream.shutdown().await
    }

    /// Answers one query; whether there is an answer at all.
    async fn answer(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
        limits: Limits,
    ) -> Result<bool> {
        let event = Event::Query { server: self.server, transport: Transport::Tcp, client: self.from, bytes };
        let effects = self.shared.step(event);
        let reply = self.shared.carry_out(effects).await;
        for message in &reply {
            let framed = framed(message)?;
            let write = async {
                stream.write_all(&framed).await?;
                stream.flush().await
            };
            timeout(limits.write, write).await??;
        }
        Ok(!reply.is_empty())
    }
}

/// As many as `u32::MAX` are any number.
fn counted(served: u32) -> u32 {
    served.saturating_add(1).min(u32::MAX - 1)
}

/// Reads one message behind its length.
async fn message(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<()> {
    let len = stream.read_u16().await?;
    buffer.resize(usize::from(len), 0);
    stream.read_exact(buffer).await.map(drop)
}
