//! [`ExecSession`] and [`Duplex`]: streams into a Pod, as the node gives them and the API server carries them.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// A running exec: its ends. Dropping `stdin` closes it; dropping the whole closes all of them and leaves the process to
/// itself, as container runtimes do: a terminal hangs up.
#[derive(Debug)]
pub struct ExecSession {
    /// To the process.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// From the process; ends when it closes.
    pub stdout: Option<mpsc::Receiver<Bytes>>,
    /// From the process; ends when it closes.
    pub stderr: Option<mpsc::Receiver<Bytes>>,
    /// Terminal sizes, columns and rows.
    pub resize: Option<mpsc::Sender<(u16, u16)>>,
    /// Exit status when it ends (128 + n for a signal), or why it could not run.
    pub exit: oneshot::Receiver<Result<i32, String>>,
}

/// A byte stream into a Pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
