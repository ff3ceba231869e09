//! What an agent is told, and what all its workers use.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::Store;
use sealane_host::runtime::Runtime;
use sealane_pod::downward::NodeFacts;

use crate::addresses::Addresses;
use crate::endpoints::Endpoints;
use crate::events::Recorder;
use crate::images::Images;
use crate::machine::Machine;
use crate::objects::Objects;

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
    /// The node ends when its runtime does, as a machine that loses power: of what ran nobody is told, and nothing is
    /// started again. Otherwise the runtime comes back, and the Pods with it.
    pub ends_with_runtime: bool,
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
            ends_with_runtime: false,
        }
    }
}

/// What all workers use.
pub(crate) struct Context<R, I> {
    pub(crate) config: AgentConfig,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Arc<R>,
    pub(crate) images: Arc<I>,
    pub(crate) endpoints: Arc<dyn Endpoints>,
    pub(crate) events: Recorder,
    pub(crate) objects: Objects,
    pub(crate) services: Store<Service>,
    pub(crate) addresses: Mutex<Addresses>,
    pub(crate) machine: Machine,
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
}
