//! What the API server asks of a node: logs, exec, attach and port-forward. The program's wiring hands in an
//! implementation, in process or over the network; the rooms do not know each other.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sealane_host::session::{Duplex, ExecSession};
use sealane_pod::request::{ExecRequest, LogOptions, NodeError};

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
