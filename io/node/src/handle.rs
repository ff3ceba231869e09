//! [`NodeHandle`]: logs, exec, attach, port-forward and the end of it all.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use sealane_host::runtime::{ExecSpec, HostError, Runtime};
use sealane_host::session::{Duplex, ExecSession};
use sealane_pod::logline::Filter;
use sealane_pod::request::{ExecRequest, LogOptions, NodeError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::logs::{self, Want};
use crate::shared::Shared;
use crate::streams::{drain, feed};
use crate::workers::Workers;

type LogStream = BoxStream<'static, Result<Bytes, NodeError>>;

trait Backend: Send + Sync {
    fn find(&self, namespace: &str, pod: &str) -> Option<Shared>;
    fn exec(&self, spec: ExecSpec) -> BoxFuture<'_, Result<ExecSession, NodeError>>;
    fn resizer(&self, terminal: Arc<OwnedFd>) -> mpsc::Sender<(u16, u16)>;
    fn dial(&self, shared: Shared, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, NodeError>>;
    fn stop(&self, limit: Duration) -> BoxFuture<'_, ()>;
    fn halt(&self);
}

/// The agent from outside. Cloning shares it.
#[derive(Clone)]
pub struct NodeHandle {
    backend: Arc<dyn Backend>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl NodeHandle {
    pub(crate) fn new<R: Runtime>(
        runtime: Arc<R>,
        workers: Arc<Workers>,
        tasks: Vec<JoinHandle<()>>,
    ) -> Self {
        NodeHandle { backend: Arc::new(Pods { runtime, workers }), tasks: Arc::new(Mutex::new(tasks)) }
    }

    fn find(&self, namespace: &str, pod: &str) -> Result<Shared, NodeError> {
        let found = self.backend.find(namespace, pod);
        found.ok_or_else(|| NodeError::NotFound(format!("pods {pod:?} not found")))
    }

    /// A container's log.
    ///
    /// # Errors
    /// NotFound and BadRequest with kubelet's messages.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> Result<LogStream, NodeError> {
        let shared = self.find(namespace, pod)?;
        let name = container(&shared, &options.container)?;
        let (path, live) = {
            let inner = shared.lock();
            let slot = inner.slots.get(&name);
            let path = match options.previous {
                true => slot.and_then(|s| s.previous.clone()).ok_or_else(|| {
                    NodeError::BadRequest(format!(
                        "previous terminated container {name:?} in pod {pod:?} not found"
                    ))
                })?,
                false => slot.and_then(|s| s.log.clone()).ok_or_else(|| {
                    let why = slot.map_or("ContainerCreating", |s| s.waiting.as_str());
                    NodeError::BadRequest(format!(
                        "container {name:?} in pod {pod:?} is waiting to start: {why}"
                    ))
                })?,
            };
            let follow = options.follow && !options.previous;
            (path, slot.and_then(|s| s.output.as_ref()).filter(|_| follow).map(|o| o.log.clone()))
        };
        let want = Want { filter: filter(&options)?, tail: options.tail_lines };
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(logs::read(path, live, want, tx));
        Ok(received(rx).map(|r| r.map_err(|e: io::Error| NodeError::Failed(e.to_string()))).boxed())
    }

    /// Runs a command in a container, or attaches to it where there is none.
    ///
    /// # Errors
    /// NotFound and BadRequest with kubelet's messages; Failed where the program cannot run.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        request: ExecRequest,
    ) -> Result<ExecSession, NodeError> {
        if request.command.is_empty() {
            return self.attach(namespace, pod, request).await;
        }
        let shared = self.find(namespace, pod)?;
        let name = container(&shared, &request.container)?;
        let id =
            shared.lock().slots.get(&name).and_then(|s| s.id.clone()).ok_or_else(|| not_running(&name))?;
        let spec = ExecSpec { container: id, args: request.command, tty: request.tty, stdin: request.stdin };
        let mut session = self.backend.exec(spec).await?;
        session.stdin = session.stdin.filter(|_| request.stdin);
        Ok(session)
    }

    /// Attaches to a container's own process.
    ///
    /// # Errors
    /// NotFound and BadRequest with kubelet's messages.
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        request: ExecRequest,
    ) -> Result<ExecSession, NodeError> {
        let shared = self.find(namespace, pod)?;
        let name = container(&shared, &request.container)?;
        let mut inner = shared.lock();
        let once = spec_of(&inner.pod, &name).is_some_and(|c| c.stdin_once == Some(true));
        let slot = inner.slots.get_mut(&name).filter(|s| s.id.is_some()).ok_or_else(|| not_running(&name))?;
        let (Some(output), Some(mut done)) = (slot.output.clone(), slot.done.clone()) else {
            return Err(not_running(&name));
        };
        // stdinOnce: the first who attaches has the only end, and closes it by leaving.
        let stdin = match (request.stdin, once) {
            (false, _) => None,
            (true, true) => slot.stdin.take(),
            (true, false) => slot.stdin.clone(),
        };
        let resize = slot.terminal.clone().map(|t| self.backend.resizer(t));
        let listener = output.attach();
        drop(inner);
        let (out_tx, out_rx) = mpsc::channel(64);
        let (err_tx, err_rx) = mpsc::channel(64);
        let (exit_tx, exit) = oneshot::channel();
        drop(output);
        tokio::spawn(async move {
            let wanted = (request.stdout.then_some(out_tx), request.stderr.then_some(err_tx));
            let copy = copy(listener, wanted.0, wanted.1);
            tokio::pin!(copy);
            let code = tokio::select! {
                code = async { done.wait_for(Option::is_some).await.ok().and_then(|c| *c) } => {
                    // What was written before the end is still on its way.
                    let _ = tokio::time::timeout(Duration::from_millis(100), &mut copy).await;
                    code
                }
                () = &mut copy => done.wait_for(Option::is_some).await.ok().and_then(|c| *c),
            };
            let _ = exit_tx.send(Ok(code.unwrap_or(0)));
        });
        let stdout = request.stdout.then_some(out_rx);
        Ok(ExecSession { stdin, stdout, stderr: request.stderr.then_some(err_rx), resize, exit })
    }

    /// Connects to a port on the Pod's own loopback.
    ///
    /// # Errors
    /// NotFound, or Failed where nothing listens.
    pub async fn connect(&self, namespace: &str, pod: &str, port: u16) -> Result<Box<dyn Duplex>, NodeError> {
        let shared = self.find(namespace, pod)?;
        self.backend.dial(shared, port).await
    }

    /// Whether a Pod is this node's.
    pub fn has(&self, namespace: &str, pod: &str) -> bool {
        self.backend.find(namespace, pod).is_some()
    }

    /// Ends the agent where it stands, as the loss of power would: nobody is told of anything.
    pub fn halt(&self) {
        self.tasks().drain(..).for_each(|task| task.abort());
        self.backend.halt();
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all Pods in order within `limit`, whatever their grace periods, and the agent. Objects stay in the API.
    pub async fn shutdown(&self, limit: Duration) {
        let tasks = std::mem::take(&mut *self.tasks());
        for task in tasks {
            task.abort();
            // An event that it is at work on must not start another Pod.
            let _ = task.await;
        }
        self.backend.stop(limit).await;
    }
}

fn received<T: Send + 'static>(rx: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|item| (item, rx)) }).boxed()
}

async fn copy(
    mut from: broadcast::Receiver<(bool, Bytes)>,
    stdout: Option<mpsc::Sender<Bytes>>,
    stderr: Option<mpsc::Sender<Bytes>>,
) {
    loop {
        match from.recv().await {
            Ok((error, data)) => {
                if let Some(to) = if error { &stderr } else { &stdout }
                    && to.send(data).await.is_err()
                {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn not_running(name: &str) -> NodeError {
    NodeError::BadRequest(format!("container {name} is not running"))
}

fn spec_of(
    pod: &k8s_openapi::api::core::v1::Pod,
    name: &str,
) -> Option<k8s_openapi::api::core::v1::Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name).cloned()
}

fn container(shared: &Shared, name: &str) -> Result<String, NodeError> {
    let inner = shared.lock();
    let spec = inner.pod.spec.as_ref();
    if name.is_empty() {
        let first = spec.and_then(|s| s.containers.first()).map(|c| c.name.clone());
        return first.ok_or_else(|| NodeError::BadRequest("a container name must be specified".to_owned()));
    }
    match spec_of(&inner.pod, name) {
        Some(c) => Ok(c.name),
        None => {
            let pod = inner.pod.metadata.name.clone().unwrap_or_default();
            Err(NodeError::BadRequest(format!("container {name} is not valid for pod {pod}")))
        }
    }
}

fn filter(options: &LogOptions) -> Result<Filter, NodeError> {
    let since = match (options.since_seconds, &options.since_time) {
        (Some(s), _) => Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok(),
        (None, Some(t)) => Some(
            t.parse()
                .map_err(|_| NodeError::BadRequest(format!("sinceTime {t:?} is no time of RFC 3339")))?,
        ),
        (None, None) => None,
    };
    Ok(Filter::new(options.timestamps, since, options.limit_bytes))
}

/// The node's Pods, and what their containers run in.
struct Pods<R> {
    runtime: Arc<R>,
    workers: Arc<Workers>,
}

impl<R: Runtime> Backend for Pods<R> {
    fn find(&self, namespace: &str, pod: &str) -> Option<Shared> {
        self.workers.find(namespace, pod)
    }

    fn exec(&self, spec: ExecSpec) -> BoxFuture<'_, Result<ExecSession, NodeError>> {
        Box::pin(async move {
            let tty = spec.tty;
            let started = self.runtime.exec(spec).await.map_err(|e| NodeError::Failed(e.to_string()))?;
            let any = started.stdout.as_ref().or(started.stdin.as_ref()).filter(|_| tty);
            let terminal = any.and_then(|fd| fd.try_clone().ok()).map(Arc::new);
            let (tx, exit) = oneshot::channel();
            tokio::spawn(async move {
                let end =
                    started.exit.await.map(|e| e.code).map_err(|_| "the node's launcher is gone".to_owned());
                let _ = tx.send(end);
            });
            Ok(ExecSession {
                stdin: started.stdin.map(feed),
                stdout: started.stdout.map(drain),
                stderr: started.stderr.map(drain),
                resize: terminal.map(|t| self.resizer(t)),
                exit,
            })
        })
    }

    fn resizer(&self, terminal: Arc<OwnedFd>) -> mpsc::Sender<(u16, u16)> {
        let (tx, mut rx) = mpsc::channel(4);
        let runtime = self.runtime.clone();
        tokio::spawn(async move {
            while let Some((columns, rows)) = rx.recv().await {
                if let Err(error) = runtime.resize(&terminal, columns, rows) {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
        });
        tx
    }

    fn dial(&self, shared: Shared, port: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, NodeError>> {
        Box::pin(async move {
            let (uid, host_network) = {
                let inner = shared.lock();
                let host = inner.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
                (inner.pod.metadata.uid.clone().unwrap_or_default(), host)
            };
            let failed = |e: HostError| {
                NodeError::Failed(format!("failed to connect to localhost:{port} inside the Pod: {e}"))
            };
            let stream = match host_network {
                true => self.runtime.connect_from_node(([127, 0, 0, 1], port).into()).await,
                false => self.runtime.dial(&uid, port).await,
            };
            stream.map(|s| Box::new(s) as Box<dyn Duplex>).map_err(failed)
        })
    }

    fn stop(&self, limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.workers.stop_all(limit))
    }

    fn halt(&self) {
        self.workers.halt();
    }
}
