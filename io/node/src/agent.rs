//! The agent: one watch on the node's Pods, one worker for each Pod.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use kube::runtime::reflector;
use kube::runtime::{WatchStreamExt, watcher};
use sealane_host::runtime::Runtime;

use crate::addresses::Addresses;
use crate::context::{AgentConfig, Context};
use crate::endpoints::Endpoints;
use crate::events::Recorder;
use crate::handle::NodeHandle;
use crate::images::Images;
use crate::machine::Machine;
use crate::node_object;
use crate::objects::Objects;
use crate::workers::Workers;

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
        endpoints: Arc<dyn Endpoints>,
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
            config,
            client,
            runtime,
            images,
            endpoints,
            events,
            services,
            machine,
        });
        node_object::register(&ctx.client, &ctx.config, &ctx.machine).await;
        // Only the writer's end makes this fail, and the task above holds it.
        let _ = ctx.services.wait_until_ready().await;
        let workers = Arc::new(Workers::default());
        adopt(&ctx, &workers).await;
        let keep = (ctx.client.clone(), ctx.config.clone(), ctx.machine.clone(), ctx.events.clone());
        tasks.push(tokio::spawn(async move { node_object::keep(keep.0, keep.1, keep.2, keep.3).await }));
        tasks.push(tokio::spawn(watch_pods(ctx.clone(), workers.clone())));
        NodeHandle::new(ctx.runtime.clone(), workers, tasks)
    }
}

/// Takes over the Pods that the API has of a former run, their addresses first, so that no new Pod gets one.
async fn adopt<R: Runtime, I: Images>(ctx: &Arc<Context<R, I>>, workers: &Workers) {
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
        workers.applied(ctx, pod);
    }
}

async fn watch_pods<R: Runtime, I: Images>(ctx: Arc<Context<R, I>>, workers: Arc<Workers>) {
    let api: Api<Pod> = Api::all(ctx.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", ctx.config.node_name));
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(pod)) => workers.applied(&ctx, pod),
            Ok(watcher::Event::Delete(pod)) => workers.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                workers.applied(&ctx, pod);
            }
            Ok(watcher::Event::InitDone) => workers.keep(&listed),
            Err(error) => tracing::warn!(%error, "the watch on the node's Pods was interrupted"),
        }
    }
}
