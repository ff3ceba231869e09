//! The service proxy's rules: which address and port leads to which endpoints, under which policy.
//!
//! A catalog [`Entry`](sealane_catalog::Entry) compiles into [`Frontend`]s ([`service_table`]); a [`Table`] keeps them for all
//! Services, settles who owns an address that two Services claim, and says what a change of some Services
//! changes in the frontends ([`Change`]); a [`RuleSink`] carries that out, be it in the kernel or in memory.
//! [`Table::trace`] tells what becomes of a packet, as kube-proxy 1.36 would have it. Where a Service's annotations ask
//! for it, a [`Weigher`](weigh::Weigher) gives its backends uneven [`Shares`].
//!
//! This room knows nothing of kernels, sockets, clocks, or the API; it does not know DNS.
//!
//! ```
//! use sealane_catalog::{Endpoint, EndpointPort, Entry, NamespacedName, Protocol, Service, ServicePort, ServiceType};
//! use sealane_catalog::{Labels, Slice, TrafficPolicy};
//! use sealane_proxy::{Fate, NodeContext, Packet, Table};
//! use std::sync::Arc;
//!
//! let key = NamespacedName { namespace: "default".into(), name: "web".into() };
//! let service = Service {
//!     key: key.clone(), revision: 1, created: 0, kind: ServiceType::ClusterIp, headless: false,
//!     cluster_ips: vec!["10.96.0.20".parse().unwrap()], external_name: "".into(),
//!     ports: vec![ServicePort {
//!         name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0, app_protocol: "".into(),
//!     }],
//!     affinity_seconds: None, internal_policy: TrafficPolicy::Cluster, external_policy: TrafficPolicy::Cluster,
//!     external_ips: vec![], ingress: vec![], source_ranges: vec![], health_check_node_port: 0,
//!     publish_not_ready: false, traffic_distribution: "".into(), grpc_policy: None,
//!     labels: Labels::default(), annotations: Labels::default(),
//! };
//! let entry = Entry { service: Some(Arc::new(service)), slices: vec![] };
//!
//! let mut table = Table::new(NodeContext::new("node-1"));
//! let changes = table.update([(&key, Some(&entry))]);
//! assert_eq!(changes.len(), 1);
//!
//! // Nobody serves it: the connection is refused at once.
//! let packet = Packet {
//!     source: "10.244.0.9".parse().unwrap(), destination: "10.96.0.20".parse().unwrap(),
//!     protocol: Protocol::Tcp, port: 80, from_node: false, to_node: false, interface: "pod7",
//! };
//! assert_eq!(table.trace(&packet), Fate::Reject);
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod announce;
pub mod cases;
mod compile;
pub mod config;
mod context;
pub mod contract;
mod departed;
mod endpoints;
mod frontend;
pub mod health;
mod local;
mod shares;
mod sink;
mod table;
mod tally;
mod trace;
pub mod weigh;

pub use announce::announced;
pub use compile::service_table;
pub use context::{Cidr, CidrError, NodeContext, PodInterface};
pub use departed::Departed;
pub use frontend::{Backend, Class, Frontend, FrontendKey, Masquerade, Target};
pub use local::Unserved;
pub use shares::Shares;
pub use sink::{FlowTable, InMemorySink, Installed, RuleCounts, RuleSink};
pub use table::{Change, Table};
pub use tally::{Tally, tally};
pub use trace::{Fate, Packet, trace_frontend};
