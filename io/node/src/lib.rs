//! The node's agent: runs the Pods that the API places on it.
//!
//! What it is for: [`Agent::start`] registers the node, watches its Pods, and keeps each one's containers, volumes,
//! probes and status as `sealane_pod` plans them. The [`NodeHandle`] gives logs, exec, attach and port-forward, and
//! stops everything.
//!
//! What it may not know: how a container is made (`sealane_host::runtime::Runtime` does it), where images come
//! from ([`Images`]), who leads connections to its Pods ([`Endpoints`]), and who serves the API behind the `kube::Client`.
//!
//! ```
//! let config = sealane_node::AgentConfig::new("node-1", [10, 0, 0, 1].into(), "/var/lib/sealane");
//! assert_eq!(config.kubelet_version, "v1.36.0+sealane");
//! ```
//!
//! ```no_run
//! # async fn example<R: sealane_host::runtime::Runtime, I: sealane_node::Images>(
//! #     client: kube::Client, runtime: std::sync::Arc<R>, images: std::sync::Arc<I>,
//! #     endpoints: std::sync::Arc<dyn sealane_node::Endpoints>) {
//! let mut config = sealane_node::AgentConfig::new("node-1", [10, 0, 0, 1].into(), "/var/lib/sealane");
//! config.pod_range = ([10, 244, 0, 0].into(), 24);
//! let node = sealane_node::Agent::start(config, client, runtime, images, endpoints).await;
//! node.shutdown(std::time::Duration::from_secs(5)).await;
//! # }
//! ```
#![forbid(unsafe_code)]

mod addresses;
mod agent;
mod context;
mod endpoints;
mod events;
mod handle;
mod images;
mod logs;
mod machine;
mod node_object;
mod objects;
mod prober;
mod shared;
mod start;
mod stop;
mod streams;
mod volumes;
mod worker;
mod workers;

pub use agent::Agent;
pub use context::AgentConfig;
pub use endpoints::{Endpoints, PodEndpoint};
pub use handle::NodeHandle;
pub use images::{Credentials, Image, ImageError, Images};
