//! The shapes that DNS and proxy read.

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

/// Labels, or annotations: by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// One's value.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.0.binary_search_by(|(have, _)| (**have).cmp(key)).ok().map(|at| &self.0[at].1)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

/// Of those with one key the first counts.
impl FromIterator<(Arc<str>, Arc<str>)> for Labels {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<str>)>>(all: I) -> Self {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup_by(|b, a| a.0 == b.0);
        Labels(all.into())
    }
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

/// How gRPC clients choose among a Service's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrpcPolicy {
    /// One after the other.
    RoundRobin,
    /// The first that answers, for all calls.
    PickFirst,
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
    /// What its DestinationRule says; `None`: nothing, or none is known.
    pub grpc_policy: Option<GrpcPolicy>,
    /// Labels.
    pub labels: Labels,
    /// Annotations, but for kubectl's copy of the whole object (`kubectl.kubernetes.io/last-applied-configuration`).
    pub annotations: Labels,
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

/// One endpoint of a slice; one address (upstream uses the first only). Large clusters have hundreds of thousands:
/// what they share is shared, and what few of them have takes room with these alone.
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
    place: Option<Arc<Place>>,
    pod: Option<Box<str>>,
    extra: Option<Box<Extra>>,
}

/// Where endpoints are: those of one node share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Node, "" where unset.
    pub node: Arc<str>,
    /// Zone, "" where unset.
    pub zone: Arc<str>,
}

/// What few endpoints have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extra {
    hostname: Box<str>,
    hint_zones: Box<[Arc<str>]>,
    hint_nodes: Box<[Arc<str>]>,
}

impl Endpoint {
    /// An endpoint that is ready and serves, without anything else.
    pub fn new(address: IpAddr) -> Self {
        Endpoint {
            address,
            ready: true,
            serving: true,
            terminating: false,
            place: None,
            pod: None,
            extra: None,
        }
    }

    /// With a place; `None`: nothing is known of it.
    #[must_use]
    pub fn at(self, place: Option<Arc<Place>>) -> Self {
        Endpoint { place, ..self }
    }

    /// With a place of its own.
    #[must_use]
    pub fn on(self, node: &str, zone: &str) -> Self {
        self.at(Some(Arc::new(Place { node: node.into(), zone: zone.into() })))
    }

    /// With the Pod that it is (`targetRef`), which lives in the slice's namespace; "": it is none.
    #[must_use]
    pub fn with_pod(self, name: &str) -> Self {
        Endpoint { pod: (!name.is_empty()).then(|| name.into()), ..self }
    }

    /// With a host name for DNS, and `hints.forZones` and `hints.forNodes`.
    #[must_use]
    pub fn with(self, hostname: &str, hint_zones: Vec<Arc<str>>, hint_nodes: Vec<Arc<str>>) -> Self {
        let plain = hostname.is_empty() && hint_zones.is_empty() && hint_nodes.is_empty();
        let extra =
            Extra { hostname: hostname.into(), hint_zones: hint_zones.into(), hint_nodes: hint_nodes.into() };
        Endpoint { extra: (!plain).then(|| Box::new(extra)), ..self }
    }

    /// Node, "" where unset.
    pub fn node(&self) -> &str {
        self.place.as_ref().map_or("", |place| &place.node)
    }

    /// Zone, "" where unset.
    pub fn zone(&self) -> &str {
        self.place.as_ref().map_or("", |place| &place.zone)
    }

    /// Name of its Pod, which lives in the slice's namespace; "" where it is none.
    pub fn pod(&self) -> &str {
        self.pod.as_deref().unwrap_or("")
    }

    /// Host name for DNS, "" where unset.
    pub fn hostname(&self) -> &str {
        self.extra.as_ref().map_or("", |extra| &extra.hostname)
    }

    /// `hints.forZones`.
    pub fn hint_zones(&self) -> &[Arc<str>] {
        self.extra.as_ref().map_or(&[], |extra| &extra.hint_zones)
    }

    /// `hints.forNodes`.
    pub fn hint_nodes(&self) -> &[Arc<str>] {
        self.extra.as_ref().map_or(&[], |extra| &extra.hint_nodes)
    }
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
    pub ports: Box<[EndpointPort]>,
    /// Endpoints.
    pub endpoints: Box<[Endpoint]>,
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
    /// Condition Ready is True.
    pub ready: bool,
    /// Labels.
    pub labels: Labels,
}

/// A Namespace, as far as discovery cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
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
