//! dnstap: frames for who looks on, by Frame Streams with a handshake (`plugin/dnstap/io.go`, `listener.go`).

use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use sealane_dns::chain::Tap;
use sealane_dns::chain::tap::frames::{self, Control};
use sealane_dns::chain::tap::{Socket, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::outgoing::Stream;
use crate::outlet::{Dropped, EVERY, Outlets};
use crate::{LogSink, tls};

/// For a connection, a handshake, a frame (io.go's `tcpTimeout`).
const PATIENCE: Duration = Duration::from_secs(4);
/// For the last word of a reader.
const LAST: Duration = Duration::from_secs(1);
/// Messages that wait for readers that connect to us.
const LISTENERS_QUEUE: usize = 10_000;

/// The ways that are open.
#[derive(Default)]
pub(crate) struct Taps(Outlets<Tap, Vec<u8>>);

impl Taps {
    /// Shows a message; an empty one opens the way.
    pub(crate) fn show(&self, tap: &Arc<Tap>, message: Vec<u8>, log: &LogSink) {
        let message = (!message.is_empty()).then_some(message);
        let size = if let Way::Connect { queue, .. } = tap.way { queue } else { LISTENERS_QUEUE };
        self.0.send(tap, message, size, |queue, dropped| {
            let (tap, log) = ((**tap).clone(), log.clone());
            async move {
                match tap.way {
                    Way::Connect { .. } => connected(tap, queue, dropped, log).await,
                    Way::Listen { .. } => listening(tap, queue, dropped, log).await,
                }
            }
        });
    }

    pub(crate) fn sweep(&self) {
        self.0.sweep();
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }

    pub(crate) fn render(&self, out: &mut String) {
        let help = "Counter of messages of dnstap that nobody took.";
        self.0.render("sealane_dns_dnstap_dropped_total", help, |tap| tap.socket.to_string(), out);
    }
}

type Writer = BufStream<Box<dyn Stream>>;

/// Greets the reader; frames may follow.
async fn greeted(stream: Box<dyn Stream>) -> Result<Writer> {
    let mut stream = BufStream::new(stream);
    stream.write_all(&frames::control(Control::Ready)).await?;
    stream.flush().await?;
    match control(&mut stream).await? {
        Some((Control::Accept, true)) => {}
        _ => return Err(Error::new(ErrorKind::InvalidData, "the reader does not take dnstap")),
    }
    stream.write_all(&frames::control(Control::Start)).await?;
    stream.flush().await?;
    Ok(stream)
}

/// Reads a control frame.
async fn control(stream: &mut Writer) -> Result<Option<(Control, bool)>> {
    let (escape, len) = (stream.read_u32().await?, stream.read_u32().await?);
    if escape != 0 || len > frames::LARGEST {
        return Err(Error::new(ErrorKind::InvalidData, "the reader does not speak Frame Streams"));
    }
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await?;
    Ok(frames::read(&body))
}

async fn frame(stream: &mut Writer, message: &[u8], flush: bool) -> Result<()> {
    let write = async {
        stream.write_u32(u32::try_from(message.len()).map_err(Error::other)?).await?;
        stream.write_all(message).await?;
        if flush { stream.flush().await } else { Ok(()) }
    };
    timeout(PATIENCE, write).await?
}

/// Says that no more frames follow, and waits for the reader to have seen them all.
async fn ended(mut stream: Writer) {
    let end = async {
        stream.write_all(&frames::control(Control::Stop)).await?;
        stream.flush().await?;
        control(&mut stream).await?;
        stream.shutdown().await
    };
    // A reader that is gone needs no goodbye.
    let _ = timeout(LAST, end).await;
}

async fn connect(tap: &Tap) -> Result<Writer> {
    let buffer = if let Way::Connect { buffer, .. } = tap.way { buffer } else { 0 };
    // The kernel bounds it by what it allows (`net.core.wmem_max`).
    let sized = |socket: &dyn AsFd| {
        let _ = set_socket_send_buffer_size(socket.as_fd(), buffer);
    };
    let open = async {
        let stream: Box<dyn Stream> = match &tap.socket {
            Socket::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                sized(&stream);
                Box::new(stream)
            }
            Socket::Tcp(host) => {
                let stream = TcpStream::connect(host).await?;
                sized(&stream);
                Box::new(stream)
            }
            Socket::Tls(host) => {
                let stream = TcpStream::connect(host).await?;
                sized(&stream);
                let (config, name) = tls::reader(host, tap.skip_verify).map_err(Error::other)?;
                Box::new(TlsConnector::from(config).connect(name, stream).await?)
            }
        };
        greeted(stream).await
    };
    timeout(PATIENCE, open).await?
}

/// The server connects to the reader, and again when it has gone.
async fn connected(tap: Tap, mut queue: mpsc::Receiver<Vec<u8>>, dropped: Arc<Dropped>, log: LogSink) {
    let mut stream = match connect(&tap).await {
        Ok(stream) => Some(stream),
        Err(why) => {
            log(&format!("[ERROR] plugin/dnstap: No connection to dnstap endpoint: {}: {why}", tap.socket));
            None
        }
    };
    let mut again = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    loop {
        tokio::select! {
            message = queue.recv() => {
                let Some(message) = message else { break };
                let Some(open) = &mut stream else {
                    dropped.add(1);
                    continue;
                };
                if frame(open, &message, queue.is_empty()).await.is_err() {
                    dropped.add(1);
                    stream = connect(&tap).await.ok();
                }
            }
            _ = again.tick() => {
                dropped.tell(&log, "plugin/dnstap: Dropped dnstap messages");
                if stream.is_none() {
                    stream = connect(&tap).await.ok();
                }
            }
        }
    }
    if let Some(stream) = stream {
        ended(stream).await;
    }
}

/// Where readers come in.
enum Door {
    Unix(UnixListener, String),
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Door::Unix(_, path) = self {
            // Somebody else may have taken it away.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Door {
    async fn open(tap: &Tap) -> Result<Self> {
        Ok(match &tap.socket {
            Socket::Unix(path) => match UnixListener::bind(path) {
                // One that nobody listens at was left by who ended in a hurry.
                Err(why)
                    if why.kind() == ErrorKind::AddrInUse && UnixStream::connect(path).await.is_err() =>
                {
                    std::fs::remove_file(path)?;
                    Door::Unix(UnixListener::bind(path)?, path.clone())
                }
                listener => Door::Unix(listener?, path.clone()),
            },
            Socket::Tcp(host) => Door::Tcp(TcpListener::bind(host).await?),
            Socket::Tls(host) => match tls::tap_identity(tap).map_err(Error::other)? {
                Some(acceptor) => Door::Tls(TcpListener::bind(host).await?, acceptor),
                None => return Err(Error::other("there is no certificate")),
            },
        })
    }

    /// The next reader, and how TLS is spoken with it.
    async fn next(&self) -> Result<(Box<dyn Stream>, Option<TlsAcceptor>)> {
        Ok(match self {
            Door::Unix(listener, _) => (Box::new(listener.accept().await?.0), None),
            Door::Tcp(listener) => (Box::new(listener.accept().await?.0), None),
            Door::Tls(listener, acceptor) => (Box::new(listener.accept().await?.0), Some(acceptor.clone())),
        })
    }
}

async fn welcomed(stream: Box<dyn Stream>, tls: Option<TlsAcceptor>) -> Result<Writer> {
    let welcome = async {
        match tls {
            Some(acceptor) => greeted(Box::new(acceptor.accept(stream).await?)).await,
            None => greeted(stream).await,
        }
    };
    timeout(PATIENCE, welcome).await?
}

/// Writes one reader all that comes, until it does not keep up.
async fn reader(mut stream: Writer, mut queue: mpsc::Receiver<Arc<[u8]>>) {
    while let Some(message) = queue.recv().await {
        if frame(&mut stream, &message, queue.is_empty()).await.is_err() {
            return;
        }
    }
    ended(stream).await;
}

/// Readers connect to the server; each gets what comes from then on.
async fn listening(tap: Tap, mut queue: mpsc::Receiver<Vec<u8>>, dropped: Arc<Dropped>, log: LogSink) {
    let failed = |why: &Error| {
        log(&format!("[ERROR] plugin/dnstap: Failed to start dnstap listener: {}: {why}", tap.socket))
    };
    let mut door = Door::open(&tap).await.inspect_err(failed).ok();
    let mut readers: Vec<mpsc::Sender<Arc<[u8]>>> = Vec::new();
    let (mut greetings, mut writing) = (JoinSet::new(), JoinSet::new());
    let mut again = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    loop {
        tokio::select! {
            message = queue.recv() => {
                let Some(message) = message else { break };
                let message: Arc<[u8]> = message.into();
                readers.retain(|reader| {
                    let taken = reader.try_send(message.clone()).is_ok();
                    dropped.add(usize::from(!taken));
                    taken
                });
            }
            next = next(door.as_ref()) => match next {
                Ok((stream, tls)) => drop(greetings.spawn(welcomed(stream, tls))),
                // Out of descriptors: they come back as connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(greeted) = greetings.join_next(), if !greetings.is_empty() => {
                if let Ok(Ok(stream)) = greeted {
                    let (sender, receiver) = mpsc::channel(LISTENERS_QUEUE);
                    readers.push(sender);
                    writing.spawn(reader(stream, receiver));
                }
            }
            Some(_) = writing.join_next(), if !writing.is_empty() => {}
            _ = again.tick() => {
                dropped.tell(&log, "plugin/dnstap: Dropped dnstap messages");
                if door.is_none() {
                    door = Door::open(&tap).await.ok();
                }
            }
        }
    }
    drop((door, readers));
    while writing.join_next().await.is_some() {}
}

async fn next(door: Option<&Door>) -> Result<(Box<dyn Stream>, Option<TlsAcceptor>)> {
    match door {
        Some(door) => door.next().await,
        None => std::future::pending().await,
    }
}
