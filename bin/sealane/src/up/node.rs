//! One node of `up`: its namespaces, its service proxy, its agent.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api as Objects;
use kube::runtime::wait::await_condition;
use sealane_catalog::Snapshot;
use sealane_dataplane::{Observer, Proxy};
use sealane_host::{Host, HostConfig, Network, Rootless};
use sealane_node::{Agent, AgentConfig, NodeHandle};
use sealane_proxy::{NodeContext, Table};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::api::Api;
use super::exposure::Rules;
use super::feed::Feed;
use super::report::Report;
use super::{adapters, files};
use crate::config::UpConfig;
use crate::config::nodes::NodeConfig;
use crate::sinks::Sinks;

/// What all nodes have in common.
pub(crate) struct Common {
    pub(crate) config: UpConfig,
    pub(crate) rootless: Option<Rootless>,
    /// What several are linked to.
    pub(crate) network: Option<Network>,
    pub(crate) api: Api,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) fail: mpsc::UnboundedSender<String>,
    pub(crate) report: Report,
    pub(crate) handles: adapters::Nodes,
    pub(crate) images: Arc<adapters::Images>,
    pub(crate) rules: Rules,
}

/// A node whose network is there.
pub(crate) struct Node {
    common: Arc<Common>,
    own: NodeConfig,
    host: Host,
}

/// A node that the API knows.
pub(crate) struct Registered {
    node: Node,
    joined: Joined,
    agent: Arc<NodeHandle>,
}

/// A node that runs.
pub(crate) struct Running {
    host: Host,
    agent: Arc<NodeHandle>,
    keeper: JoinHandle<()>,
}

/// What stands in the node's network; dropped, it leaves that network, which would otherwise live as long as a socket.
pub(crate) struct Joined {
    proxy: Proxy,
    /// The only node's own address for the API; that of several is in the network between them.
    api: Option<AbortHandle>,
    feed: AbortHandle,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.api.iter().for_each(AbortHandle::abort);
        self.feed.abort();
    }
}

impl Node {
    /// Makes its namespaces and network, and writes the rules of all Services.
    pub(crate) async fn open(common: Arc<Common>, own: NodeConfig) -> Result<(Self, Joined), String> {
        let config = &common.config;
        let host = Host::start(HostConfig {
            data_dir: own.dir.clone(),
            name: own.name.clone(),
            pod_cidr: config.pod_cidr,
            node_cidr: own.cidr,
            service_cidr: config.service_cidr,
            rootless: common.rootless.clone(),
            network: common.network.clone(),
        })
        .await
        .map_err(|e| e.to_string())?;
        files::node_resolver(&own.dir, config.dns_address(), &config.cluster_domain)?;
        let node = Node { common, own, host };
        let joined = node.join().await?;
        Ok((node, joined))
    }

    /// Opens what stands in the node's network; returns when the rules are in force.
    async fn join(&self) -> Result<Joined, String> {
        let api = match self.common.network {
            Some(_) => None,
            None => {
                let at = self.common.config.api_for_pods();
                let bound = self.host.node_network(move || TcpListener::bind(at)).await;
                let bound = bound.map_err(|e| e.to_string())?;
                let listener = bound.map_err(|e| format!("{at} in the node's network: {e}"))?;
                Some(self.common.api.serve(listener)?)
            }
        };
        let mode = self.common.config.proxy_mode;
        // The network is new: nobody left any rules in it.
        let open = move || (Sinks::open(mode, false), Observer::open());
        let (rules, flows) = self.host.node_network(open).await.map_err(|e| e.to_string())?;
        let ((sink, rules), flows) = (rules.map_err(|e| e.to_string())?, flows.map_err(|e| e.to_string())?);
        let networks = self.common.config.load_balancers.networks.clone();
        self.host.route_like_services(networks).await.map_err(|e| e.to_string())?;
        let context = self.context();
        let (updates, inbox) = std::sync::mpsc::channel();
        let table = Table::new(context.clone());
        let proxy =
            sealane_dataplane::spawn_observed(table, sink, inbox, rules, flows).map_err(|e| e.to_string())?;
        // The proxy's thread ends with its feed.
        let feed = Feed::new(self.host.clone(), context, Arc::clone(proxy.metrics()));
        let feed = tokio::spawn(feed.run(self.common.snapshots.clone(), updates)).abort_handle();
        let mut applied = proxy.applied().clone();
        self.common.rules.insert(&self.own.name, applied.clone());
        let joined = Joined { proxy, api, feed };
        let first = applied.wait_for(|r| *r > 0);
        match tokio::time::timeout(Duration::from_secs(10), first).await {
            Ok(Ok(_)) => {}
            _ => return Err("the service rules could not be written; see the log above".to_owned()),
        }
        Ok(joined)
    }

    /// The node as its proxy sees it.
    fn context(&self) -> NodeContext {
        let address = self.host.config().gateway();
        let mut context = NodeContext::new(self.own.name.as_str());
        context.zone = self.own.zone.as_deref().unwrap_or_default().into();
        context.addresses = vec![address.into()];
        context.node_port_addresses = vec![address.into()];
        // What comes from elsewhere to one node of several and goes on to another would be answered past the first: as
        // detectLocalMode NodeCIDR has it, the node's own Pods alone are known as Pods.
        let pods = if self.common.network.is_some() { self.own.cidr } else { self.common.config.pod_cidr };
        context.pod_cidrs = pods.to_string().parse().into_iter().collect();
        let config = &self.common.config;
        let first = config.service_cidr.to_string().parse().ok();
        let second = config.service_cidr6.and_then(|(a, bits)| sealane_proxy::Cidr::new(a.into(), bits));
        context.service_cidrs = first.into_iter().chain(second).collect();
        context
    }

    /// Registers the node; its Pods run from now on.
    pub(crate) async fn register(self, joined: Joined) -> Registered {
        let (config, gateway) = (&self.common.config, self.host.config().gateway());
        let mut agent = AgentConfig::new(&self.own.name, gateway, &self.own.dir);
        agent.pod_range = (self.own.cidr.network, self.own.cidr.prefix);
        agent.reserved = vec![gateway, self.host.config().host_address()];
        agent.cluster_dns = vec![config.dns_address()];
        agent.cluster_domain.clone_from(&config.cluster_domain);
        agent.host_resolv_conf = files::host_resolver_path(&config.data_dir);
        agent.labels = self.own.labels();
        agent.ends_with_runtime = self.common.network.is_some();
        let user = format!("system:node:{}", self.own.name);
        let client = self.common.api.client(&user, &["system:nodes"]);
        let (runtime, images) = (Arc::new(self.host.clone()), Arc::clone(&self.common.images));
        let rules = Arc::new(self.common.rules.clone());
        let agent = Arc::new(Agent::start(agent, client, runtime, images, rules).await);
        self.common.handles.insert(&self.own.name, Arc::clone(&agent));
        Registered { node: self, joined, agent }
    }

    fn described(&self) -> String {
        let mut text = format!("{} at {}", self.own.name, self.host.config().gateway());
        if let Some(zone) = &self.own.zone {
            text.push_str(&format!(", zone {zone}"));
        }
        if let (Some(_), Some(pid)) = (&self.common.network, self.host.launcher_pid()) {
            // Whoever wants to see a node fail ends this process.
            text.push_str(&format!(" (process {pid})"));
        }
        text
    }

    /// Makes the only node's network anew whenever its launcher is lost; Pods are started again by the agent.
    async fn keep(self, mut joined: Joined) {
        loop {
            if !self.lost().await {
                return;
            }
            tracing::warn!("the node's launcher ended; the node is made anew");
            drop(joined);
            let remade = match self.host.restart().await {
                Ok(()) => self.join().await,
                Err(e) => Err(e.to_string()),
            };
            match remade {
                Ok(fresh) => joined = fresh,
                Err(why) => {
                    let text = format!("the node's launcher ended and could not be replaced: {why}");
                    let _ = self.common.fail.send(text);
                    return;
                }
            }
            tracing::info!(revision = *joined.proxy.applied().borrow(), "the node is there again");
        }
    }

    /// Of several, a node that is lost stays so, as a machine without power does: its agent says nothing more, and what
    /// is left of its network goes.
    async fn mourn(self, joined: Joined, agent: Arc<NodeHandle>) {
        if !self.lost().await {
            return;
        }
        agent.halt();
        self.common.handles.lose(&self.own.name);
        drop(joined);
        tracing::warn!(
            "node {} is lost: its launcher ended, and its Pods with it; the other nodes go on, and the next \
             `sealane up` starts it again",
            self.own.name
        );
        if let Err(e) = self.host.shutdown(Duration::ZERO).await {
            tracing::warn!("node {}: {e}", self.own.name);
        }
    }

    /// Comes when the launcher has ended; `false`: all of it ends.
    async fn lost(&self) -> bool {
        let mut stopping = self.common.stopping.clone();
        tokio::select! {
            () = self.host.lost() => !*self.common.stopping.borrow(),
            _ = stopping.wait_for(|s| *s) => false,
        }
    }

    /// The node, for what looks from inside its network.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

impl Registered {
    /// Returns when the API says that the node is ready; watches over it from then on.
    pub(crate) async fn ready(self) -> Result<Running, String> {
        let Registered { node, joined, agent } = self;
        let client = node.common.api.client("system:kube-controller-manager", &["system:masters"]);
        let nodes: Objects<NodeObject> = Objects::all(client);
        let ready = await_condition(nodes, &node.own.name, node_is_ready).await;
        ready.map_err(|e| format!("the node {}: {e}", node.own.name))?;
        node.common.report.part("node", &node.described());
        let host = node.host.clone();
        let keeper = match node.common.network {
            Some(_) => tokio::spawn(node.mourn(joined, Arc::clone(&agent))),
            None => tokio::spawn(node.keep(joined)),
        };
        Ok(Running { host, agent, keeper })
    }
}

impl Running {
    /// Ends the Pods within a limit.
    pub(crate) async fn stop_pods(&self, limit: Duration) {
        self.agent.shutdown(limit).await;
    }

    /// Ends everything else of it; `up` is stopping.
    pub(crate) async fn stop(self) {
        let _ = self.keeper.await;
        if let Err(e) = self.host.shutdown(Duration::from_secs(1)).await {
            tracing::warn!("{e}");
        }
    }
}

fn node_is_ready(node: Option<&NodeObject>) -> bool {
    let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
