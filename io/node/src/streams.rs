//! A container's standard streams: read into its log and to whoever is attached, written from one sender.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc};

use crate::logs::{Log, Stream};

/// Chunks that somebody attached may be behind.
const BEHIND: usize = 256;

/// An end of a stream that does not block: pipe, socket or terminal.
#[derive(Debug)]
pub(crate) struct End(AsyncFd<OwnedFd>);

impl End {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<End> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        AsyncFd::new(fd).map(End)
    }

    /// Reads; 0 at the end. A terminal whose last process has gone gives EIO: that is its end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|fd| rustix::io::read(fd.get_ref(), &mut *buffer).map_err(io::Error::from)) {
                Ok(Err(e)) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return Ok(0),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|fd| rustix::io::write(fd.get_ref(), data).map_err(io::Error::from)) {
                Ok(Ok(n)) => data = &data[n..],
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
        Ok(())
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
        let end = match End::new(fd) {
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
        let Ok(end) = End::new(fd) else { return };
        while let Some(data) = rx.recv().await {
            if end.write_all(&data).await.is_err() {
                return;
            }
        }
    });
    tx
}

/// Reads `fd` into a channel.
pub(crate) fn drain(fd: OwnedFd) -> mpsc::Receiver<Bytes> {
    let (tx, rx) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let Ok(end) = End::new(fd) else { return };
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n) = end.read(&mut buffer).await {
            if n == 0 || tx.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                return;
            }
        }
    });
    rx
}
