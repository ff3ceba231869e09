//! The rooms' handles for each other: they do not know one another, so what one asks for and another gives is
//! joined here, field by field.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use sealane_apiserver::nodes as api;
use sealane_host::runtime::Mount;
use sealane_images::{ImageStore, Program, PullOptions};
use sealane_node as node;
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
    fn handle(&self) -> Result<Arc<node::NodeHandle>, api::NodeError> {
        self.0.borrow().clone().ok_or_else(|| api::NodeError::Failed("the node has not started yet".into()))
    }
}

fn error(e: node::NodeError) -> api::NodeError {
    let text = e.to_string();
    match e {
        node::NodeError::NotFound(_) => api::NodeError::NotFound(text),
        node::NodeError::BadRequest(_) => api::NodeError::BadRequest(text),
        node::NodeError::Failed(_) => api::NodeError::Failed(text),
    }
}

impl api::NodeBackend for Node {
    fn logs(
        &self,
        namespace: String,
        pod: String,
        options: api::LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, api::NodeError>>, api::NodeError>> {
        Box::pin(async move {
            let options = node::LogOptions {
                container: options.container,
                follow: options.follow,
                previous: options.previous,
                timestamps: options.timestamps,
                tail_lines: options.tail_lines,
                limit_bytes: options.limit_bytes,
                since_seconds: options.since_seconds,
                since_time: options.since_time,
            };
            let stream = self.handle()?.logs(&namespace, &pod, options).await.map_err(error)?;
            Ok(stream.map(|r| r.map_err(error)).boxed())
        })
    }

    fn exec(
        &self,
        namespace: String,
        pod: String,
        request: api::ExecRequest,
    ) -> BoxFuture<'_, Result<api::ExecSession, api::NodeError>> {
        Box::pin(async move {
            let handle = self.handle()?;
            let attach = request.command.is_empty();
            let request = node::ExecRequest {
                container: request.container,
                command: request.command,
                tty: request.tty,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            };
            let session = if attach {
                handle.attach(&namespace, &pod, request).await
            } else {
                handle.exec(&namespace, &pod, request).await
            };
            let node::ExecSession { stdin, stdout, stderr, resize, exit } = session.map_err(error)?;
            Ok(api::ExecSession { stdin, stdout, stderr, resize, exit })
        })
    }

    fn connect(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn api::Duplex>, api::NodeError>> {
        Box::pin(async move {
            let stream = self.handle()?.connect(&namespace, &pod, port).await.map_err(error)?;
            Ok(Box::new(stream) as Box<dyn api::Duplex>)
        })
    }
}
