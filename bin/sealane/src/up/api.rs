//! The API server, as the other parts use it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;

use sealane_api::kinds::by_kind;
use sealane_apiserver::{ApiServer, Config};
use sealane_pki::Pki;
use sealane_registry::Ranges;
use sealane_registry::rbac::User;
use sealane_store::DiskStore;
use serde_json::Value;
use tokio::task::AbortHandle;

use super::adapters;
use crate::config::UpConfig;

/// The server and what its listeners need.
#[derive(Clone)]
pub(crate) struct Api {
    server: ApiServer,
    tls: Arc<rustls::ServerConfig>,
}

impl Api {
    /// Makes the server, on a store that may be new.
    pub(crate) async fn start(
        config: &UpConfig,
        pki: &Arc<Pki>,
        store: DiskStore,
        nodes: adapters::Nodes,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let first = config.service_cidr.nth(1);
        let for_pods = config.api_for_pods();
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &format!("kubernetes.default.svc.{}", config.cluster_domain),
            &config.nodes.first().name,
        ];
        let addresses: [IpAddr; 4] =
            [Ipv4Addr::LOCALHOST.into(), address.ip(), first.into(), (*for_pods.ip()).into()];
        let pair = pki.server(&names, &addresses).map_err(|e| e.to_string())?;
        let tls = pki.server_config(&pair).map_err(|e| e.to_string())?;
        let own = match address {
            SocketAddr::V4(a) if config.no_node => a,
            _ => for_pods,
        };
        let settings = Config {
            ranges: Ranges {
                service_network: config.service_cidr.network,
                service_prefix: config.service_cidr.prefix,
                reserved: config.load_balancers.reserved,
                second: config.service_cidr6,
                first_port: config.node_ports.0,
                last_port: config.node_ports.1,
            },
            advertise: SocketAddrV4::new(*own.ip(), own.port()),
            issuer: format!("https://kubernetes.default.svc.{}", config.cluster_domain),
            ..Config::default()
        };
        let tokens: Arc<Pki> = Arc::clone(pki);
        let server =
            ApiServer::new(settings, Arc::new(store), Arc::new(nodes), tokens).map_err(|e| e.to_string())?;
        server.bootstrap().await.map_err(|e| e.to_string())?;
        Ok(Api { server, tls: Arc::new(tls) })
    }

    /// Answers on a listener, until [`Api::close`] or until the task is aborted.
    pub(crate) fn serve(&self, listener: TcpListener) -> Result<AbortHandle, String> {
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| e.to_string())?;
        let (server, tls) = (self.server.clone(), Arc::clone(&self.tls));
        Ok(tokio::spawn(async move { server.serve(listener, tls).await }).abort_handle())
    }

    /// A client in this process.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".into());
        let user = User { name: user.to_owned(), groups, ..User::default() };
        kube::Client::new(self.server.router_as(user), "default")
    }

    /// Creates objects that are not there yet.
    pub(crate) async fn create_all(&self, objects: &[Value]) -> Result<(), String> {
        let client = self.client("system:admin", &["system:masters"]);
        for object in objects {
            let (version, kind) =
                (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
            let row = by_kind(version, kind).ok_or_else(|| format!("{version} {kind} is not served"))?;
            let root = if row.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{version}") };
            let path = match object["metadata"]["namespace"].as_str() {
                Some(namespace) => format!("{root}/namespaces/{namespace}/{}", row.plural),
                None => format!("{root}/{}", row.plural),
            };
            let name = object["metadata"]["name"].as_str().unwrap_or("");
            let fail = |e: kube::Error| match e {
                kube::Error::Api(status) => format!("{kind} {name}: {}", status.message),
                other => format!("{kind} {name}: {other}"),
            };
            // Asked first: a Service's address is refused as taken before its name is.
            let get =
                http::Request::get(format!("{path}/{name}")).body(Vec::new()).map_err(|e| e.to_string())?;
            match client.request::<Value>(get).await {
                Ok(_) => continue,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(e) => return Err(fail(e)),
            }
            let post = http::Request::post(path).header("content-type", "application/json");
            let post = post.body(object.to_string().into_bytes()).map_err(|e| e.to_string())?;
            client.request::<Value>(post).await.map_err(fail)?;
        }
        Ok(())
    }

    /// Ends watches and connections.
    pub(crate) fn close(&self) {
        self.server.shut_down();
    }
}
