//! The rooms' handles for each other: they do not know one another, so what one asks for and another gives is
//! joined here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sealane_apiserver::nodes::NodeBackend;
use sealane_host::runtime::Mount;
use sealane_host::session::{Duplex, ExecSession};
use sealane_images::{ImageStore, Program, PullOptions};
use sealane_node as node;
use sealane_pod::request::{ExecRequest, LogOptions, NodeError};

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

/// The API server's way to the nodes: there once their agents run.
#[derive(Clone, Default)]
pub(crate) struct Nodes(Arc<Mutex<Handles>>);

#[derive(Default)]
struct Handles {
    running: BTreeMap<String, Arc<node::NodeHandle>>,
    lost: BTreeSet<String>,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, Handles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's agent runs.
    pub(crate) fn insert(&self, name: &str, handle: Arc<node::NodeHandle>) {
        self.lock().running.insert(name.to_owned(), handle);
    }

    /// A node is no more.
    pub(crate) fn lose(&self, name: &str) {
        let mut handles = self.lock();
        handles.running.remove(name);
        handles.lost.insert(name.to_owned());
    }

    /// The node of a Pod; any one for a Pod that nobody has, to say so.
    fn of(&self, namespace: &str, pod: &str) -> Result<Arc<node::NodeHandle>, NodeError> {
        let handles = self.lock();
        let found = handles.running.values().find(|h| h.has(namespace, pod));
        if found.is_none() && !handles.lost.is_empty() {
            let lost: Vec<&str> = handles.lost.iter().map(String::as_str).collect();
            let text = format!("no node that runs has the Pod {pod:?} (lost: {})", lost.join(", "));
            return Err(NodeError::Failed(text));
        }
        let any = found.or_else(|| handles.running.values().next()).cloned();
        any.ok_or_else(|| NodeError::Failed("the node has not started yet".into()))
    }
}

impl NodeBackend for Nodes {
    fn logs(
        &self,
        namespace: String,
        pod: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, NodeError>>, NodeError>> {
        Box::pin(async move { self.of(&namespace, &pod)?.logs(&namespace, &pod, options).await })
    }

    fn exec(
        &self,
        namespace: String,
        pod: String,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, NodeError>> {
        Box::pin(async move { self.of(&namespace, &pod)?.exec(&namespace, &pod, request).await })
    }

    fn connect(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, NodeError>> {
        Box::pin(async move { self.of(&namespace, &pod)?.connect(&namespace, &pod, port).await })
    }
}
