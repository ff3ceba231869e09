//! The parts of `up`: started in the order in which they need each other.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api as Objects;
use kube::api::{DeleteParams, ListParams};
use sealane_catalog::{Snapshot, Source};
use sealane_client::{CatalogOptions, ControllersConfig, run_controllers, watch_catalog};
use sealane_host::{Host, Network, NetworkConfig, Rootless};
use sealane_pki::Pki;
use sealane_store::DiskStore;
use tokio::sync::{mpsc, watch};

use super::api::Api;
use super::exposure::Rules;
use super::node::{self, Common, Node};
use super::report::Report;
use super::{adapters, balancer, files, shown, system};
use crate::config::UpConfig;
use crate::config::nodes::{OWN, keep_name, remove_folders};

/// How long `up` waits for DNS before it goes on without: its Corefile may be wrong.
const DNS_PATIENCE: Duration = Duration::from_secs(15);
/// Ports tried after the default one.
const PORTS: u16 = 50;

/// Everything that runs.
pub(crate) struct Running {
    config: UpConfig,
    api: Api,
    nodes: Vec<node::Running>,
    network: Option<Network>,
    failures: mpsc::UnboundedReceiver<String>,
    shutdown: watch::Sender<bool>,
    /// Held to the end.
    _lock: files::Lock,
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
    let handles = adapters::Nodes::default();
    let api = Api::start(&config, &pki, store, handles.clone(), address).await?;
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
    let (mut nodes, mut network) = (Vec::new(), None);
    if !config.no_node {
        network = start_network(&config, rootless.is_some()).await?;
        let snapshots = watch_services(&api, stopping.clone());
        if let Some(link) = &config.announce {
            let announcer = crate::announce::open(link)?;
            tokio::spawn(crate::announce::follow(announcer, snapshots.clone(), None));
            report.part("announce", &format!("load balancers' addresses on {link}"));
        }
        let images = Arc::new(adapters::Images(crate::image::open(&config.data_dir)?));
        let common = Common {
            config: config.clone(),
            rootless,
            network: network.clone(),
            api: api.clone(),
            rules: Rules::new(snapshots.clone()),
            snapshots,
            stopping,
            fail,
            report: report.clone(),
            handles,
            images,
        };
        nodes = start_nodes(common).await?;
    }
    report.ready(&shown(&config.kubeconfig));
    Ok(Running { config, api, nodes, network, failures, shutdown, _lock: lock })
}

/// What several nodes are linked to; an only one needs nothing.
async fn start_network(config: &UpConfig, rootless: bool) -> Result<Option<Network>, String> {
    let Some(own_cidr) = config.nodes.network() else { return Ok(None) };
    let (pod_cidr, service_cidr) = (config.pod_cidr, config.service_cidr);
    let other_ranges = config.load_balancers.networks.clone();
    let network = NetworkConfig { pod_cidr, service_cidr, other_ranges, own_cidr, rootless };
    Network::start(network).await.map(Some).map_err(|e| e.to_string())
}

/// The catalog that all nodes' proxies go by.
fn watch_services(api: &Api, stopping: watch::Receiver<bool>) -> watch::Receiver<Arc<Snapshot>> {
    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let catalog = api.client("system:kube-proxy", &["system:masters"]);
    tokio::spawn(async move {
        let sources = [Source::Services, Source::EndpointSlices, Source::Nodes];
        watch_catalog(catalog, &sources, CatalogOptions::default(), publish, ended(stopping)).await;
    });
    snapshots
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

/// All nodes, beside each other.
async fn start_nodes(common: Common) -> Result<Vec<node::Running>, String> {
    let common = Arc::new(common);
    let (config, api, report) = (&common.config, &common.api, &common.report);
    if let Some(why) = common.rootless.as_ref().and_then(|r| r.without_subordinates.as_ref()) {
        report.part("note", &format!("images that change user will not run: {why}"));
    }
    if let Some(note) = files::host_resolver(&config.data_dir, config.nodes.api_address())? {
        report.part("note", &note);
    }
    if let Some(network) = &common.network {
        let at = config.api_for_pods();
        let bound = network.within(move || TcpListener::bind(at)).await.map_err(|e| e.to_string())?;
        api.serve(bound.map_err(|e| format!("{at} in the network of the nodes: {e}"))?)?;
        let nodes = config.nodes.all().iter().map(|n| (n.name.clone(), n.cidr.nth(1))).collect();
        tokio::spawn(balancer::run(network.clone(), nodes, common.snapshots.clone()));
    }
    forget_others(config, api).await?;
    if let Err(e) = keep_name(&config.data_dir, &config.nodes) {
        tracing::warn!("the node's name is not kept: {e}");
    }
    let mut objects = system::kube_dns(config);
    // Its Pods are spread over nodes that are there.
    let deployment = objects.split_off(objects.len() - 1);
    let opened = config.nodes.all().into_iter().map(|own| Node::open(Arc::clone(&common), own.clone()));
    let (opened, ()) = tokio::try_join!(try_join_all(opened), api.create_all(&objects))?;
    report.part("proxy", &config.proxy_mode.to_string());
    let first = opened.first().map(|(node, _)| node.host().clone()).ok_or("there is no node")?;
    let registered = opened.into_iter().map(|(node, joined)| node.register(joined));
    let registered = join_all(registered).await;
    api.create_all(&deployment).await?;
    let running = try_join_all(registered.into_iter().map(node::Registered::ready)).await?;
    match tokio::time::timeout(DNS_PATIENCE, dns_answers(config, &first)).await {
        Ok(()) => report.part("dns", &format!("{}:53", config.dns_address())),
        Err(_) => report.part(
            "dns",
            "does not answer yet; see `kubectl -n kube-system describe pod -l k8s-app=kube-dns`",
        ),
    }
    Ok(running)
}

/// Nodes that an earlier run had and this one has not are no more, and their Pods are placed anew.
async fn forget_others(config: &UpConfig, api: &Api) -> Result<(), String> {
    let nodes: Objects<NodeObject> = Objects::all(api.client("system:admin", &["system:masters"]));
    let fail = |e: kube::Error| format!("the nodes of an earlier run: {e}");
    let list = nodes.list(&ListParams::default().labels(OWN)).await.map_err(fail)?;
    let now: Vec<&str> = config.nodes.all().iter().map(|n| n.name.as_str()).collect();
    for name in list.into_iter().filter_map(|n| n.metadata.name).filter(|n| !now.contains(&n.as_str())) {
        nodes.delete(&name, &DeleteParams::default()).await.map_err(fail)?;
    }
    if let Err(e) = remove_folders(&config.data_dir, &config.nodes) {
        tracing::warn!("what nodes of an earlier run left is not removed: {e}");
    }
    Ok(())
}

/// Comes when kube-dns answers a node for a name of the cluster.
async fn dns_answers(config: &UpConfig, host: &Host) {
    use sealane_dns::message::{Message, decode, encode, rcode, rtype};
    let name = format!("kubernetes.default.svc.{}.", config.cluster_domain);
    let Ok(name) = name.parse() else { return };
    let query = encode(&Message::query(1, name, rtype::A), 512);
    let to = SocketAddr::new(config.dns_address().into(), 53);
    loop {
        let opened = host.node_network(move || {
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
        join_all(self.nodes.iter().map(|node| node.stop_pods(limit))).await;
        let _ = self.shutdown.send(true);
        join_all(self.nodes.drain(..).map(node::Running::stop)).await;
        if let Some(network) = self.network.take()
            && let Err(e) = network.shutdown().await
        {
            tracing::warn!("{e}");
        }
        self.failures.close();
        self.api.close();
    }
}
