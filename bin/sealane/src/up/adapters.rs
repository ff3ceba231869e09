//! The rooms' handles for each other: they do not know one another, so what one asks for and another gives is
//! joined here.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sealane_apiserver::nodes::NodeBackend;
use sealane_host::runtime::Mount;
use sealane_host::session::{Duplex, ExecSession};
use sealane_images::{ImageStore, Program, PullOptions};
use sealane_node as node;
use sealane_pod::request::{ExecRequest, LogOptions, NodeError};
use tokio::sync::watch;

/// The node's images, from the store in the data directory.
pub(crate) struct Images(pub(crate) ImageStore);

fn image(found: sealane_images::Image) -> node::Image {
    let program = found.program.map(|source| Mount {
        source,
        target: PathBuf::from(Program::PATH),
        read_only: true,
        tmpfs: None,
    });
    let by_digest = found.digests.first().cloned();
    node::Image {
        id: by_digest.unwrap_or_else(|| {
            let name =
                found.references.first().map_or("", |r| r.rsplit_once(':').map_or(r.as_str(), |(n, _)| n));
            if name.is_empty() { found.id.clone() } else { format!("{name}@{}", found.id) }
        }),
        layers: found.layers,
        entrypoint: found.config.entrypoint,
        cmd: found.config.cmd,
        env: found.config.env,
        working_dir: found.config.working_dir,
        user: found.config.user,
        size: found.size,
        extra_mounts: program.into_iter().collect(),
    }
}

impl node::Images for Images {
    fn present(&self, reference: &str) -> Option<node::Image> {
        match self.0.find(reference) {
            Ok(found) => found.map(image),
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        }
    }

    async fn pull(
        &self,
        reference: &str,
        auth: Option<node::Credentials>,
    ) -> Result<node::Image, node::ImageError> {
        let credentials = auth
            .map(|a| sealane_images::Credentials { user: a.username.clone(), password: a.password.clone() });
        let options = PullOptions { credentials, ..PullOptions::default() };
        let pulled = self.0.pull(reference, &options, &|_| {}).await;
        pulled.map(image).map_err(|e| node::ImageError(e.to_string()))
    }

    fn is_pinned(&self, reference: &str) -> bool {
        self.0.find(reference).ok().flatten().is_some_and(|i| i.pinned)
    }
}

/// The API server's way to the node: there once the agent runs.
pub(crate) struct Node(pub(crate) watch::Receiver<Option<Arc<node::NodeHandle>>>);

impl Node {
    fn handle(&self) -> Result<Arc<node::NodeHandle>, NodeError> {
        self.0.borrow().clone().ok_or_else(|| NodeError::Failed("the node has not started yet".into()))
    }
}

impl NodeBackend for Node {
    fn logs(
        &self,
        namespace: String,
        pod: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, NodeError>>, NodeError>> {
        Box::pin(async move { self.handle()?.logs(&namespace, &pod, options).await })
    }

    fn exec(
        &self,
        namespace: String,
        pod: String,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, NodeError>> {
        Box::pin(async move { self.handle()?.exec(&namespace, &pod, request).await })
    }

    fn connect(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, NodeError>> {
        Box::pin(async move { self.handle()?.connect(&namespace, &pod, port).await })
    }
}
