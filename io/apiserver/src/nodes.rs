//! What the API server asks of a node: logs, exec, attach and port-forward. The program's wiring hands in an
//! implementation, in process or over the network; the rooms do not know each other.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// `GET …/log`'s parameters.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Container name.
    pub container: String,
    /// Stay and send what comes.
    pub follow: bool,
    /// The container's last incarnation.
    pub previous: bool,
    /// Every line begins with its time.
    pub timestamps: bool,
    /// Last lines alone.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Lines since, seconds before now.
    pub since_seconds: Option<i64>,
    /// Lines since, RFC 3339.
    pub since_time: Option<String>,
}

/// What is to be run, or attached to where `command` is empty.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Container name.
    pub container: String,
    /// Program and arguments; empty: attach to the container's own process.
    pub command: Vec<String>,
    /// A terminal is wanted.
    pub tty: bool,
    /// Input is wanted.
    pub stdin: bool,
    /// Output is wanted.
    pub stdout: bool,
    /// Errors are wanted (never with a terminal).
    pub stderr: bool,
}

/// A running exec: its ends. Dropping `stdin` closes it; dropping the whole closes all of them and leaves the process to
/// itself, as container runtimes do: a terminal hangs up.
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

/// Why a node did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No such Pod or container here; the message is kubelet's.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense (400).
    #[error("{0}")]
    BadRequest(String),
    /// The node failed (500).
    #[error("{0}")]
    Failed(String),
}

/// A node as the API server sees it.
pub trait NodeBackend: Send + Sync + 'static {
    /// A container's log.
    fn logs(
        &self,
        namespace: String,
        pod: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, NodeError>>, NodeError>>;

    /// Runs a command in a container, or attaches to it.
    fn exec(
        &self,
        namespace: String,
        pod: String,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, NodeError>>;

    /// Connects to a port on the Pod's own loopback.
    fn connect(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, NodeError>>;
}

/// A server without a node: nothing runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

fn none<T>() -> BoxFuture<'static, Result<T, NodeError>>
where
    T: Send + 'static,
{
    Box::pin(async { Err(NodeError::Failed("no node is connected to this API server".to_owned())) })
}

impl NodeBackend for NoNodes {
    fn logs(
        &self,
        _: String,
        _: String,
        _: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, NodeError>>, NodeError>> {
        none()
    }

    fn exec(&self, _: String, _: String, _: ExecRequest) -> BoxFuture<'_, Result<ExecSession, NodeError>> {
        none()
    }

    fn connect(&self, _: String, _: String, _: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, NodeError>> {
        none()
    }
}
