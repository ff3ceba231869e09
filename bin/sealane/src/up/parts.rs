//! The parts of `up`: started in the order in which they need each other.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api as Objects;
use kube::runtime::wait::await_condition;
use sealane_catalog::{Snapshot, Source};
use sealane_client::{CatalogOptions, ControllersConfig, run_controllers, watch_catalog};
use sealane_dataplane::{Observer, Proxy, Update};
use sealane_host::{Host, HostConfig, Rootless};
use sealane_node::{Agent, AgentConfig, NodeHandle};
use sealane_pki::Pki;
use sealane_proxy::{NodeContext, Table};
use sealane_store::DiskStore;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::api::Api;
use super::report::Report;
use super::{adapters, files, shown, system};
use crate::config::UpConfig;
use crate::sinks::Sinks;

/// How long `up` waits for DNS before it goes on without: its Corefile may be wrong.
const DNS_PATIENCE: Duration = Duration::from_secs(15);
/// Ports tried after the default one.
const PORTS: u16 = 50;

/// Everything that runs.
pub(crate) struct Running {
    config: UpConfig,
    api: Api,
    node: Option<Node>,
    failures: mpsc::UnboundedReceiver<String>,
    shutdown: watch::Sender<bool>,
    /// Held to the end.
    _lock: files::Lock,
}

struct Node {
    host: Host,
    agent: Arc<NodeHandle>,
    keeper: tokio::task::JoinHandle<()>,
}

/// Starts all parts. What an earlier run left is cleaned up, and its objects are there again.
pub(crate) async fn start(
    config: UpConfig,
    rootless: Option<Rootless>,
    begun: Instant,
    report: Report,
) -> Result<Running, String> {
    let lock = files::take(&config.data_dir)?;
    let pki = Pki::open(&config.data_dir.join("pki"), super::now()).map_err(|e| e.to_string())?;
    let pki = Arc::new(pki);
    let store = DiskStore::open(config.data_dir.join("store.redb")).map_err(|e| e.to_string())?;
    let listener = bind(config.api_address)?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let (shutdown, stopping) = watch::channel(false);
    let (fail, failures) = mpsc::unbounded_channel();
    let (give_node, node) = watch::channel(None);
    let api = Api::start(&config, &pki, store, adapters::Node(node), address).await?;
    api.serve(listener)?;
    write_kubeconfig(&config, &pki, address)?;
    report.part("api", &format!("https://{address} ({} ms)", begun.elapsed().as_millis()));

    let controllers = ControllersConfig {
        root_ca_pem: pki.ca_pem().to_owned(),
        load_balancers: config.load_balancers.pools.clone(),
        ..ControllersConfig::default()
    };
    let client = api.client("system:kube-controller-manager", &["system:masters"]);
    tokio::spawn(run_controllers(client, controllers, ended(stopping.clone())));
    report.part("controllers", "running");
    let node = if config.no_node {
        None
    } else {
        Some(start_node(&config, rootless, &api, &stopping, &fail, &report, give_node).await?)
    };
    report.ready(&shown(&config.kubeconfig));
    Ok(Running { config, api, node, failures, shutdown, _lock: lock })
}

/// Comes when the flag is set, or nobody is left to set it.
async fn ended(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|s| *s).await;
}

/// The address that was asked for, or the default or the next free port after it.
fn bind(asked: Option<SocketAddr>) -> Result<TcpListener, String> {
    if let Some(address) = asked {
        return TcpListener::bind(address).map_err(|e| {
            format!("--api-address {address}: {e}; give another, or port 0 to have one picked")
        });
    }
    let first = 6443;
    let mut last = String::new();
    for port in first..first + PORTS {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e.to_string(),
        }
    }
    Err(format!("no free port from 127.0.0.1:{first} on: {last}; give --api-address"))
}

fn write_kubeconfig(config: &UpConfig, pki: &Pki, address: SocketAddr) -> Result<(), String> {
    let admin = pki.client("kubernetes-admin", "system:masters").map_err(|e| e.to_string())?;
    // A listener on all addresses is reached on loopback from here.
    let reached = match address {
        a if a.ip().is_unspecified() => SocketAddr::new([127, 0, 0, 1].into(), a.port()),
        a => a,
    };
    let text = pki.kubeconfig(&format!("https://{reached}"), "kubernetes-admin", &admin);
    sealane_pki::write_private(&config.kubeconfig, text.as_bytes()).map_err(|e| e.to_string())
}

async fn start_node(
    config: &UpConfig,
    rootless: Option<Rootless>,
    api: &Api,
    stopping: &watch::Receiver<bool>,
    fail: &mpsc::UnboundedSender<String>,
    report: &Report,
    give_node: watch::Sender<Option<Arc<NodeHandle>>>,
) -> Result<Node, String> {
    if let Some(why) = rootless.as_ref().and_then(|r| r.without_subordinates.as_ref()) {
        report.part("note", &format!("images that change user will not run: {why}"));
    }
    let host = Host::start(HostConfig {
        data_dir: config.data_dir.clone(),
        name: config.node_name.clone(),
        pod_cidr: config.pod_cidr,
        node_cidr: config.node_cidr(),
        service_cidr: config.service_cidr,
        rootless,
    })
    .await
    .map_err(|e| e.to_string())?;
    let gateway = host.config().gateway();
    if let Some(note) = files::host_resolver(&config.data_dir, gateway)? {
        report.part("note", &note);
    }
    files::node_resolver(&config.data_dir, config.dns_address(), &config.cluster_domain)?;

    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let catalog = api.client("system:kube-proxy", &["system:masters"]);
    let end = ended(stopping.clone());
    tokio::spawn(async move {
        let sources = [Source::Services, Source::EndpointSlices, Source::Nodes];
        watch_catalog(catalog, &sources, CatalogOptions::default(), publish, end).await;
    });
    if let Some(link) = &config.announce {
        let announcer = crate::announce::open(link)?;
        tokio::spawn(crate::announce::follow(announcer, snapshots.clone(), None));
        report.part("announce", &format!("load balancers' addresses on {link}"));
    }
    let network = Network {
        host: host.clone(),
        api: api.clone(),
        config: config.clone(),
        snapshots,
        stopping: stopping.clone(),
    };
    let joined = network.join().await?;
    report.part("proxy", &config.proxy_mode.to_string());

    api.create_all(&system::kube_dns(config)).await?;
    let images = crate::image::open(&config.data_dir)?;
    let mut agent = AgentConfig::new(&config.node_name, gateway, &config.data_dir);
    agent.pod_range = (config.node_cidr().network, config.node_cidr().prefix);
    agent.reserved = vec![gateway, host.config().host_address()];
    agent.cluster_dns = vec![config.dns_address()];
    agent.cluster_domain.clone_from(&config.cluster_domain);
    agent.host_resolv_conf = config.data_dir.join("run/host-resolv.conf");
    let user = format!("system:node:{}", config.node_name);
    let client = api.client(&user, &["system:nodes"]);
    let agent = Agent::start(agent, client, Arc::new(host.clone()), Arc::new(adapters::Images(images))).await;
    let agent = Arc::new(agent);
    give_node.send_replace(Some(Arc::clone(&agent)));

    let nodes: Objects<NodeObject> =
        Objects::all(api.client("system:kube-controller-manager", &["system:masters"]));
    await_condition(nodes, &config.node_name, node_is_ready).await.map_err(|e| format!("the node: {e}"))?;
    report.part("node", &format!("{} at {gateway}", config.node_name));
    match tokio::time::timeout(DNS_PATIENCE, network.dns_answers()).await {
        Ok(()) => report.part("dns", &format!("{}:53", config.dns_address())),
        Err(_) => report.part(
            "dns",
            "does not answer yet; see `kubectl -n kube-system describe pod -l k8s-app=kube-dns`",
        ),
    }
    let keeper = tokio::spawn(network.keep(joined, fail.clone()));
    Ok(Node { host, agent, keeper })
}

fn node_is_ready(node: Option<&NodeObject>) -> bool {
    let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What lives in the node's network: the API's address for Pods, and the service rules.
struct Network {
    host: Host,
    api: Api,
    config: UpConfig,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stopping: watch::Receiver<bool>,
}

/// What stands in the node's network; dropped, it leaves that network, which would otherwise live as long as a socket.
struct Joined {
    proxy: Proxy,
    tasks: [AbortHandle; 2],
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Network {
    /// Opens the API's address and writes the rules of all Services; returns when they are in force.
    async fn join(&self) -> Result<Joined, String> {
        let at = system::api_for_pods(self.host.config().gateway());
        let bound = self.host.node_network(move || TcpListener::bind(at)).await.map_err(|e| e.to_string())?;
        let api = self.api.serve(bound.map_err(|e| format!("{at} in the node's network: {e}"))?)?;
        let mode = self.config.proxy_mode;
        // The network is new: nobody left any rules in it.
        let open = move || (Sinks::open(mode, false), Observer::open());
        let (rules, flows) = self.host.node_network(open).await.map_err(|e| e.to_string())?;
        let ((sink, rules), flows) = (rules.map_err(|e| e.to_string())?, flows.map_err(|e| e.to_string())?);
        let mut context = NodeContext::new(self.config.node_name.as_str());
        context.addresses = vec![self.host.config().gateway().into()];
        context.node_port_addresses = vec![self.host.config().gateway().into()];
        let cidr = self.config.pod_cidr;
        context.pod_cidrs = cidr.to_string().parse().into_iter().collect();
        let first = self.config.service_cidr.to_string().parse().ok();
        let second = self.config.service_cidr6.and_then(|(a, bits)| sealane_proxy::Cidr::new(a.into(), bits));
        context.service_cidrs = first.into_iter().chain(second).collect();
        let networks = self.config.load_balancers.networks.clone();
        self.host.route_like_services(networks).await.map_err(|e| e.to_string())?;
        let (updates, inbox) = std::sync::mpsc::channel();
        let proxy = sealane_dataplane::spawn_observed(Table::new(context), sink, inbox, rules, flows)
            .map_err(|e| e.to_string())?;
        // The proxy's thread ends with its feed.
        let feed = tokio::spawn(feed(self.snapshots.clone(), updates)).abort_handle();
        let mut applied = proxy.applied().clone();
        let joined = Joined { proxy, tasks: [api, feed] };
        let first = applied.wait_for(|r| *r > 0);
        match tokio::time::timeout(Duration::from_secs(10), first).await {
            Ok(Ok(_)) => {}
            _ => return Err("the service rules could not be written; see the log above".to_owned()),
        }
        Ok(joined)
    }

    /// Comes when kube-dns answers for a name of the cluster.
    async fn dns_answers(&self) {
        use sealane_dns::message::{Message, decode, encode, rcode, rtype};
        let name = format!("kubernetes.default.svc.{}.", self.config.cluster_domain);
        let Ok(name) = name.parse() else { return };
        let query = encode(&Message::query(1, name, rtype::A), 512);
        let to = SocketAddr::new(self.config.dns_address().into(), 53);
        loop {
            let opened = self.host.node_network(move || {
                let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
                socket.set_nonblocking(true)?;
                Ok::<_, std::io::Error>(socket)
            });
            if let Ok(Ok(socket)) = opened.await
                && let Ok(socket) = tokio::net::UdpSocket::from_std(socket)
                && socket.send_to(&query, to).await.is_ok()
            {
                let mut buffer = [0; 512];
                let answer = tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut buffer)).await;
                if let Ok(Ok(n)) = answer
                    && decode(&buffer[..n]).is_ok_and(|m| m.rcode == rcode::NOERROR && !m.answers.is_empty())
                {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes the node's network anew whenever its launcher is lost; Pods are started again by the agent.
    async fn keep(self, mut joined: Joined, fail: mpsc::UnboundedSender<String>) {
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                () = self.host.lost() => {}
                _ = stopping.wait_for(|s| *s) => return,
            }
            if *stopping.borrow() {
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
                    let _ = fail.send(format!("the node's launcher ended and could not be replaced: {why}"));
                    return;
                }
            }
            tracing::info!(revision = *joined.proxy.applied().borrow(), "the node is there again");
        }
    }
}

/// Carries what changed between snapshots to the proxy's thread.
async fn feed(mut snapshots: watch::Receiver<Arc<Snapshot>>, updates: std::sync::mpsc::Sender<Update>) {
    let mut last = Arc::new(Snapshot::default());
    loop {
        let now = snapshots.borrow_and_update().clone();
        if now.synced() {
            let delta = now.since(&last);
            let services = delta.services.into_iter().map(|c| (c.key, c.after)).collect();
            let update = Update { revision: now.revision().max(1), services, node: None };
            if updates.send(update).is_err() {
                return;
            }
            last = now;
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

impl Running {
    /// The API, for whoever runs on top.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// The settings that it runs with.
    pub(crate) fn config(&self) -> &UpConfig {
        &self.config
    }

    /// Comes with the reason when a part cannot go on.
    pub(crate) async fn failed(&mut self) -> String {
        match self.failures.recv().await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Ends the Pods in order, then everything else.
    pub(crate) async fn stop(mut self, limit: Duration) {
        if let Some(node) = self.node.take() {
            node.agent.shutdown(limit).await;
            let _ = self.shutdown.send(true);
            let _ = node.keeper.await;
            if let Err(e) = node.host.shutdown(Duration::from_secs(1)).await {
                tracing::warn!("{e}");
            }
        }
        let _ = self.shutdown.send(true);
        self.failures.close();
        self.api.close();
    }
}
