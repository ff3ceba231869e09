//! The shapes that DNS and proxy read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Namespace and name of a Service (or Pod).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// A virtual address, or none where headless.
    ClusterIp,
    /// And a port on every node.
    NodePort,
    /// And an address from outside.
    LoadBalancer,
    /// A CNAME, nothing else.
    ExternalName,
}

/// `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// All endpoints.
    Cluster,
    /// This node's endpoints alone.
    Local,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// "" where unnamed.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// The Service's port, 1-65535.
    pub port: u16,
    /// Port on every node, 0 where none.
    pub node_port: u16,
    /// `appProtocol`, "" where unset.
    pub app_protocol: Arc<str>,
}

/// `status.loadBalancer.ingress[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Address; `None` where a host name stands.
    pub ip: Option<IpAddr>,
    /// Host name, "" where an address stands.
    pub hostname: Arc<str>,
    /// `ipMode: Proxy`: traffic to the address must leave the node.
    pub proxy_mode: bool,
}

/// A Service, compiled from its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: NamespacedName,
    /// The resourceVersion of the first version with this content.
    pub revision: u64,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
    /// Type.
    pub kind: ServiceType,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Virtual addresses, primary first; empty where headless, ExternalName or not yet given.
    pub cluster_ips: Vec<IpAddr>,
    /// ExternalName's target, "" otherwise.
    pub external_name: Arc<str>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// ClientIP affinity and its timeout in seconds; `None`: no affinity.
    pub affinity_seconds: Option<u32>,
    /// For traffic from inside.
    pub internal_policy: TrafficPolicy,
    /// For traffic from outside.
    pub external_policy: TrafficPolicy,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses given by a load balancer.
    pub ingress: Vec<Ingress>,
    /// `loadBalancerSourceRanges`, as written.
    pub source_ranges: Vec<Arc<str>>,
    /// `healthCheckNodePort`, 0 where none.
    pub health_check_node_port: u16,
    /// Endpoints count before they are ready.
    pub publish_not_ready: bool,
    /// `trafficDistribution`, "" where unset.
    pub traffic_distribution: Arc<str>,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

/// One port of an EndpointSlice: all endpoints of the slice have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The Service port's name, "" where unnamed.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Target port; `None`: all ports (a slice without a number).
    pub port: Option<u16>,
    /// `appProtocol`.
    pub app_protocol: Arc<str>,
}

/// One endpoint of a slice; one address (upstream uses the first only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// May get new connections (nil counts as true).
    pub ready: bool,
    /// Serves, be it terminating (nil counts as `ready`).
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Host name for DNS, "" where unset.
    pub hostname: Arc<str>,
    /// Node, "" where unset.
    pub node: Arc<str>,
    /// Zone, "" where unset.
    pub zone: Arc<str>,
    /// `hints.forZones`.
    pub hint_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub hint_nodes: Vec<Arc<str>>,
    /// `targetRef` where it names a Pod.
    pub pod: Option<NamespacedName>,
}

/// An EndpointSlice, compiled from its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its own name.
    pub key: NamespacedName,
    /// The Service that it belongs to (label `kubernetes.io/service-name`).
    pub service: NamespacedName,
    /// The resourceVersion of the first version with this content.
    pub revision: u64,
    /// IPv6 slice (else IPv4; FQDN slices are left out).
    pub ipv6: bool,
    /// Ports.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When what led to this content happened (annotation `endpoints.kubernetes.io/last-change-trigger-time`),
    /// milliseconds since 1970; 0 where unknown.
    pub triggered: i64,
}

/// A Service with its slices, ordered by the slices' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The Service; `None` where slices came first.
    pub service: Option<Arc<Service>>,
    /// Its slices.
    pub slices: Vec<Arc<Slice>>,
}

/// A Node, as far as discovery cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: Arc<str>,
    /// `topology.kubernetes.io/zone`, "" where unset.
    pub zone: Arc<str>,
    /// `status.addresses` of type InternalIP, then those of type ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, as written.
    pub pod_cidrs: Vec<Arc<str>>,
    /// On its way out: being deleted, or tainted so by the cluster autoscaler. It should get no traffic from outside.
    pub leaving: bool,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// A Namespace, as far as discovery cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// A Pod, as far as discovery cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub key: NamespacedName,
    /// `status.podIPs`, primary first; empty once it has ended.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`, "" before it is scheduled.
    pub node: Arc<str>,
}

impl NamespacedName {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        NamespacedName { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Protocol {
    /// `TCP`, `UDP`, `SCTP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}
