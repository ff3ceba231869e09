//! A container's standard streams: read into its log and to whoever is attached, written from one sender.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc};

use crate::logs::{Log, Stream};

/// Chunks that somebody attached may be behind.
const BEHIND: usize = 256;

fn unblock(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// An end to read from: pipe, socket or terminal, none of which blocks.
#[derive(Debug)]
struct Source(pipe::Receiver);

impl Source {
    fn new(fd: OwnedFd) -> io::Result<Source> {
        unblock(&fd)?;
        // Unchecked: a terminal will do as well.
        pipe::Receiver::from_owned_fd_unchecked(fd).map(Source)
    }

    /// Reads; 0 at the end. A terminal whose last process has gone gives EIO: that is its end.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer).await {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
            other => other,
        }
    }
}

/// The log of one incarnation and who listens to it.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) log: Arc<Log>,
    attached: broadcast::Sender<(bool, Bytes)>,
}

impl Output {
    pub(crate) fn new(log: Log) -> Self {
        Output { log: Arc::new(log), attached: broadcast::Sender::new(BEHIND) }
    }

    /// What comes from now on; `true` is standard error.
    pub(crate) fn attach(&self) -> broadcast::Receiver<(bool, Bytes)> {
        self.attached.subscribe()
    }

    async fn pump(&self, fd: OwnedFd, stream: Stream) {
        let number = fd.as_raw_fd();
        let mut end = match Source::new(fd) {
            Ok(end) => end,
            Err(error) => return tracing::warn!(fd = number, %error, "a container's output cannot be read"),
        };
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n) = end.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            self.log.write(stream, &buffer[..n]);
            if self.attached.receiver_count() > 0 {
                let _ = self.attached.send((stream == Stream::Stderr, Bytes::copy_from_slice(&buffer[..n])));
            }
        }
    }

    /// Reads both streams to their end.
    pub(crate) async fn pump_all(&self, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) {
        let one = |fd: Option<OwnedFd>, stream| async move {
            if let Some(fd) = fd {
                self.pump(fd, stream).await;
            }
        };
        tokio::join!(one(stdout, Stream::Stdout), one(stderr, Stream::Stderr));
        self.log.close();
    }
}

/// Writes what comes to `fd`; closes it when all senders are gone.
pub(crate) fn feed(fd: OwnedFd) -> mpsc::Sender<Bytes> {
    let (tx, mut rx) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let Ok(mut end) = unblock(&fd).and_then(|()| pipe::Sender::from_owned_fd_unchecked(fd)) else {
            return;
        };
        while let Some(data) = rx.recv().await {
            if end.write_all(&data).await.is_err() {
                return;
            }
        }
    });
    tx
}

/// Reads `fd` into a channel; closes it when nobody receives any more, be the process silent or not.
pub(crate) fn drain(fd: OwnedFd) -> mpsc::Receiver<Bytes> {
    let (tx, rx) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let Ok(mut end) = Source::new(fd) else { return };
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = tokio::select! {
                read = end.read(&mut buffer) => read,
                () = tx.closed() => return,
            };
            match read {
                Ok(n) if n > 0 && tx.send(Bytes::copy_from_slice(&buffer[..n])).await.is_ok() => {}
                _ => return,
            }
        }
    });
    rx
}
