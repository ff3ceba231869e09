//! The agent: one watch on the node's Pods, one worker for each Pod.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use sealane_host::runtime::Runtime;
use sealane_pod::downward::NodeFacts;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::addresses::Addresses;
use crate::events::Recorder;
use crate::handle::NodeHandle;
use crate::images::Images;
use crate::machine::Machine;
use crate::node_object;
use crate::objects::Objects;
use crate::shared::Shared;
use crate::worker::{Message, Worker};

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// InternalIP of the node, `hostIP` of its Pods.
    pub node_address: Ipv4Addr,
    /// The node's Pod addresses: base and prefix length.
    pub pod_range: (Ipv4Addr, u8),
    /// Addresses of the range that no Pod may have (the bridge).
    pub reserved: Vec<Ipv4Addr>,
    /// Where Pods' logs and volumes are, below `pods/`.
    pub data_dir: PathBuf,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<Ipv4Addr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The node's own resolver file (its true upstreams).
    pub host_resolv_conf: PathBuf,
    /// Labels besides the well-known ones (zones).
    pub labels: BTreeMap<String, String>,
    /// `pods` of the node's capacity.
    pub max_pods: u32,
    /// `nodeInfo.kubeletVersion`.
    pub kubelet_version: String,
    /// `nodeInfo.containerRuntimeVersion`.
    pub runtime_version: String,
}

impl AgentConfig {
    /// A configuration with the defaults of `sealane up`.
    pub fn new(node_name: &str, node_address: Ipv4Addr, data_dir: impl Into<PathBuf>) -> Self {
        AgentConfig {
            node_name: node_name.to_owned(),
            node_address,
            pod_range: (Ipv4Addr::new(10, 244, 0, 0), 24),
            reserved: vec![Ipv4Addr::new(10, 244, 0, 1)],
            data_dir: data_dir.into(),
            cluster_dns: vec![Ipv4Addr::new(10, 96, 0, 10)],
            cluster_domain: "cluster.local".to_owned(),
            host_resolv_conf: PathBuf::from("/etc/resolv.conf"),
            labels: BTreeMap::new(),
            max_pods: 110,
            kubelet_version: "v1.36.0+sealane".to_owned(),
            runtime_version: "sealane://0.1.0".to_owned(),
        }
    }
}

/// What all workers use.
pub(crate) struct Context<R, I> {
    pub(crate) config: AgentConfig,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Arc<R>,
    pub(crate) images: Arc<I>,
    pub(crate) events: Recorder,
    pub(crate) objects: Objects,
    pub(crate) services: Store<Service>,
    pub(crate) addresses: Mutex<Addresses>,
    pub(crate) machine: Machine,
    workers: Mutex<HashMap<String, Entry>>,
}

/// A worker from outside.
pub(crate) struct Entry {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) inbox: mpsc::UnboundedSender<Message>,
    pub(crate) shared: Shared,
    /// The API has the Pod no more. Until then an ended worker stays known: late news must not start another.
    gone: bool,
    task: JoinHandle<()>,
}

impl<R: Runtime, I: Images> Context<R, I> {
    /// The facts of the downward API for a Pod of this address; `None`: the node's.
    pub(crate) fn facts(&self, address: Option<Ipv4Addr>) -> NodeFacts {
        NodeFacts {
            pod_ip: address.unwrap_or(self.config.node_address).to_string(),
            host_ip: self.config.node_address.to_string(),
            cpu_milli: self.machine.cpus as u64 * 1000,
            memory: self.machine.memory,
        }
    }

    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn workers(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Pod of this name; the one that is not ending where there are two.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Shared> {
        let workers = self.workers();
        let mut of =
            workers.values().filter(|e| e.namespace == namespace && e.name == name && !e.inbox.is_closed());
        let first = of.next()?;
        let newest = of.fold(first, |best, e| {
            let ending = best.shared.lock().pod.metadata.deletion_timestamp.is_some();
            if ending { e } else { best }
        });
        Some(newest.shared.clone())
    }
}

/// The agent.
pub struct Agent;

impl Agent {
    /// Registers the node and runs its Pods from now on. Returns when the node is registered and has taken over the
    /// Pods that it had. To be called within a tokio runtime.
    pub async fn start<R: Runtime, I: Images>(
        config: AgentConfig,
        client: kube::Client,
        runtime: Arc<R>,
        images: Arc<I>,
    ) -> NodeHandle {
        let machine = Machine::read();
        let events = Recorder::start(client.clone(), config.node_name.clone());
        let (services, writer) = reflector::store();
        let all: Api<Service> = Api::all(client.clone());
        let feed = reflector::reflector(writer, watcher(all, watcher::Config::default()).default_backoff());
        let mut tasks = vec![tokio::spawn(feed.for_each(|_| std::future::ready(())))];
        let (base, prefix) = config.pod_range;
        let ctx = Arc::new(Context {
            addresses: Mutex::new(Addresses::new(base, prefix, &config.reserved)),
            objects: Objects::new(client.clone()),
            workers: Mutex::default(),
            config,
            client,
            runtime,
            images,
            events,
            services,
            machine,
        });
        node_object::register(&ctx.client, &ctx.config, &ctx.machine).await;
        // Only the writer's end makes this fail, and the task above holds it.
        let _ = ctx.services.wait_until_ready().await;
        adopt(&ctx).await;
        let keep = (ctx.client.clone(), ctx.config.clone(), ctx.machine.clone(), ctx.events.clone());
        tasks.push(tokio::spawn(async move { node_object::keep(keep.0, keep.1, keep.2, keep.3).await }));
        tasks.push(tokio::spawn(watch_pods(ctx.clone())));
        NodeHandle::new(ctx, tasks)
    }
}

/// Takes over the Pods that the API has of a former run, their addresses first, so that no new Pod gets one.
async fn adopt<R: Runtime, I: Images>(ctx: &Arc<Context<R, I>>) {
    let api: Api<Pod> = Api::all(ctx.client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={}", ctx.config.node_name));
    let pods = match api.list(&params).await {
        Ok(list) => list.items,
        Err(error) => return tracing::warn!(%error, "the node's Pods are not known yet"),
    };
    for pod in &pods {
        let status = pod.status.as_ref();
        let over = status.and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
        let own_network = pod.spec.as_ref().and_then(|s| s.host_network) != Some(true);
        let had = status.and_then(|s| s.pod_ip.as_deref()).and_then(|a| a.parse().ok());
        if let (Some(uid), Some(had), true) = (&pod.metadata.uid, had, own_network && !over) {
            ctx.addresses().take(uid, Some(had));
        }
    }
    for pod in pods {
        applied(ctx, pod);
    }
}

async fn watch_pods<R: Runtime, I: Images>(ctx: Arc<Context<R, I>>) {
    let api: Api<Pod> = Api::all(ctx.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", ctx.config.node_name));
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(pod)) => applied(&ctx, pod),
            Ok(watcher::Event::Delete(pod)) => gone(&ctx, pod.metadata.uid.as_deref().unwrap_or_default()),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                applied(&ctx, pod);
            }
            Ok(watcher::Event::InitDone) => {
                let known: Vec<String> = ctx.workers().keys().cloned().collect();
                known.iter().filter(|uid| !listed.contains(uid)).for_each(|uid| gone(&ctx, uid));
            }
            Err(error) => tracing::warn!(%error, "the watch on the node's Pods was interrupted"),
        }
    }
}

fn applied<R: Runtime, I: Images>(ctx: &Arc<Context<R, I>>, pod: Pod) {
    let Some(uid) = pod.metadata.uid.clone() else { return };
    let pod = Arc::new(pod);
    let mut workers = ctx.workers();
    workers.retain(|_, e| !(e.gone && e.inbox.is_closed()));
    if let Some(entry) = workers.get(&uid) {
        // A worker that has just ended needs no news.
        let _ = entry.inbox.send(Message::Update(pod));
        return;
    }
    let (inbox, rx) = mpsc::unbounded_channel();
    let shared = Shared::new(pod.clone());
    let worker = Worker::new(ctx.clone(), pod.clone(), shared.clone(), inbox.clone());
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let task = tokio::spawn(worker.run(rx));
    workers.insert(uid, Entry { namespace, name, inbox, shared, gone: false, task });
}

fn gone<R: Runtime, I: Images>(ctx: &Arc<Context<R, I>>, uid: &str) {
    if let Some(entry) = ctx.workers().get_mut(uid) {
        entry.gone = true;
        let _ = entry.inbox.send(Message::Gone);
    }
}

/// Stops all Pods within `limit`; their objects stay as they are.
pub(crate) async fn stop_all<R: Runtime, I: Images>(ctx: &Context<R, I>, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let entries: Vec<Entry> = ctx.workers().drain().map(|(_, e)| e).collect();
    for entry in &entries {
        let _ = entry.inbox.send(Message::Shutdown(deadline));
    }
    // A little over, for those whose KILL is on its way; what is left then ends with the launcher.
    let grace = deadline + Duration::from_millis(500);
    for mut entry in entries {
        if tokio::time::timeout_at(grace, &mut entry.task).await.is_err() {
            entry.task.abort();
        }
    }
}
