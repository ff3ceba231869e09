//! Questions to upstreams: datagrams from a port of their own each, streams that are kept for the next question.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::ClientConfig;
use sealane_dns::Via;
use sealane_dns::chain::{Keeping, TlsClient};
use sealane_dns::zone::transfer::Extent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio_rustls::TlsConnector;

use crate::outgoing::{Outgoing, Stream, answers, any};
use crate::{grpc_client, tls};

/// The longest datagram, octets.
const LONGEST: usize = 65_535;

thread_local! {
    /// Where a datagram comes to: thousands that wait for one need no room each.
    static RECEIVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What connections that may take each other's place have in common.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    to: SocketAddr,
    source: Option<IpAddr>,
    /// Where its TLS configuration is; those that are kept hold it there.
    tls: Option<usize>,
}

/// A connection that waits for the next question.
struct Kept {
    stream: Box<dyn Stream>,
    local: Option<SocketAddr>,
    /// Closed then where nothing is asked.
    until: Instant,
    born: Instant,
    _tls: Option<Arc<TlsClient>>,
}

/// The connections to all upstreams.
#[derive(Default)]
pub(crate) struct Upstreams {
    kept: Mutex<HashMap<Place, VecDeque<Kept>>>,
    clients: Mutex<Vec<(Arc<TlsClient>, Arc<ClientConfig>)>>,
    grpc: grpc_client::Clients,
}

/// How a question went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// Over a connection that was there already.
    pub(crate) kept: bool,
    /// From where; `None`: nobody wants to know.
    pub(crate) local: Option<SocketAddr>,
}

impl Upstreams {
    /// Sends a question and waits for its answer; and the way that it went.
    pub(crate) async fn exchange(&self, outgoing: &Outgoing<'_>) -> (Result<Vec<u8>>, Way) {
        let mut way = Way::default();
        let exchange = async {
            match outgoing.via {
                Via::Udp => udp(outgoing, &mut way).await,
                Via::Tcp => self.stream(outgoing, None, &mut way).await,
                Via::Tls(client) => self.stream(outgoing, Some(client), &mut way).await,
                Via::Grpc(client) => self.grpc.call(outgoing, client, &mut way.kept).await,
            }
        };
        let timed_out = || match outgoing.via {
            Via::Grpc(_) => grpc_client::timed_out(),
            via => Error::new(ErrorKind::TimedOut, format!("{} i/o timeout", via.as_str())),
        };
        let result = tokio::time::timeout(outgoing.timeout, exchange).await;
        (result.unwrap_or_else(|_| Err(timed_out())), way)
    }

    /// Asks for a zone, over a connection of its own: all messages of the answer. The timeout is for the connection and
    /// for each message.
    pub(crate) async fn transfer(&self, outgoing: &Outgoing<'_>) -> Result<Vec<Vec<u8>>> {
        let &Outgoing { to, via, message, timeout, keeping } = outgoing;
        let late = |what: &str| Error::new(ErrorKind::TimedOut, format!("{what}: i/o timeout"));
        let client = match via {
            Via::Tls(client) => Some(client),
            Via::Udp | Via::Tcp | Via::Grpc(_) => None,
        };
        let connect = tokio::time::timeout(timeout, self.connect(to, keeping, client));
        let (mut stream, _) = connect.await.map_err(|_| late("dial tcp"))??;
        let framed = framed(message)?;
        let write = async {
            stream.write_all(&framed).await?;
            stream.flush().await
        };
        tokio::time::timeout(timeout, write).await.map_err(|_| late("write tcp"))??;
        let (mut messages, mut extent) = (Vec::new(), Extent::default());
        loop {
            let next = async {
                let len = stream.read_u16().await?;
                let mut buffer = vec![0; usize::from(len)];
                stream.read_exact(&mut buffer).await?;
                Ok::<_, Error>(buffer)
            };
            let next = tokio::time::timeout(timeout, next).await.map_err(|_| late("read tcp"))??;
            let last = extent.is_last(&next);
            messages.push(next);
            if last {
                return Ok(messages);
            }
        }
    }

    /// Closes what nothing was asked over for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.kept().retain(|_, kept| {
            kept.retain(|kept| kept.until > now);
            !kept.is_empty()
        });
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|(client, _)| Arc::strong_count(client) > 1);
        self.grpc.sweep();
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Place, VecDeque<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that waits longest, as CoreDNS: source ports differ then.
    fn take(&self, place: &Place, keeping: Keeping) -> Option<Kept> {
        let (mut all, now) = (self.kept(), Instant::now());
        let waiting = all.get_mut(place)?;
        let old = |kept: &Kept| !keeping.age.is_zero() && now.duration_since(kept.born) > keeping.age;
        while let Some(kept) = waiting.pop_front() {
            if kept.until > now && !old(&kept) {
                return Some(kept);
            }
        }
        None
    }

    fn put(&self, place: Place, stream: Kept, keeping: Keeping) {
        let mut all = self.kept();
        let waiting = all.entry(place).or_default();
        if keeping.idle == 0 || waiting.len() < keeping.idle {
            waiting.push_back(stream);
        }
    }

    async fn stream(
        &self,
        outgoing: &Outgoing<'_>,
        client: Option<&Arc<TlsClient>>,
        way: &mut Way,
    ) -> Result<Vec<u8>> {
        let Outgoing { to, message, keeping, .. } = *outgoing;
        let tls = client.map(|client| Arc::as_ptr(client).addr());
        let place = Place { to, source: keeping.source, tls };
        let framed = framed(message)?;
        loop {
            let kept = self.take(&place, keeping);
            way.kept = kept.is_some();
            let (mut stream, local, born) = match kept {
                Some(kept) => (kept.stream, kept.local, kept.born),
                None => {
                    let (stream, local) = self.connect(to, keeping, client).await?;
                    (stream, local, Instant::now())
                }
            };
            way.local = local;
            match over(&mut stream, &framed, message).await {
                Ok(answer) => {
                    if !keeping.expire.is_zero() {
                        let until = Instant::now() + keeping.expire;
                        let kept = Kept { stream, local, until, born, _tls: client.cloned() };
                        self.put(place, kept, keeping);
                    }
                    return Ok(answer);
                }
                // The upstream closed it while nobody looked; another one is taken (`ErrCachedClosed`).
                Err(_) if way.kept => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(
        &self,
        to: SocketAddr,
        keeping: Keeping,
        client: Option<&Arc<TlsClient>>,
    ) -> Result<(Box<dyn Stream>, Option<SocketAddr>)> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = keeping.source {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let local = if keeping.tells { stream.local_addr().ok() } else { None };
        let Some(client) = client else { return Ok((Box::new(stream), local)) };
        let config = self.client(client)?;
        let name = tls::server_name(client, to)?;
        Ok((Box::new(TlsConnector::from(config).connect(name, stream).await?), local))
    }

    /// Made once: sessions are resumed by it.
    fn client(&self, client: &Arc<TlsClient>) -> Result<Arc<ClientConfig>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = clients.iter().find(|(known, _)| Arc::ptr_eq(known, client)) {
            return Ok(config.clone());
        }
        let config = tls::client(client).map_err(Error::other)?;
        clients.push((client.clone(), config.clone()));
        Ok(config)
    }
}

async fn udp(outgoing: &Outgoing<'_>, way: &mut Way) -> Result<Vec<u8>> {
    let to = outgoing.to;
    // The kernel picks a port that nobody can foresee.
    let socket = UdpSocket::bind((outgoing.keeping.source.unwrap_or(any(to)), 0)).await?;
    socket.connect(to).await?;
    if outgoing.keeping.tells {
        way.local = socket.local_addr().ok();
    }
    socket.send(outgoing.message).await?;
    loop {
        socket.readable().await?;
        let came = RECEIVED.with_borrow_mut(|room| {
            room.resize(LONGEST, 0);
            let len = socket.try_recv(room)?;
            // What is not the answer is a stranger's, who guesses (RFC 5452 section 9.1).
            Ok::<_, Error>(answers(&room[..len], outgoing.message).then(|| room[..len].to_vec()))
        });
        match came {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn over(stream: &mut Box<dyn Stream>, framed: &[u8], message: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(framed).await?;
    stream.flush().await?;
    loop {
        let len = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(len)];
        stream.read_exact(&mut buffer).await?;
        // One to an earlier question, whose asker did not wait.
        if buffer.get(..2) == message.get(..2) {
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
