//! Puts the service table into the kernel: nftables over netlink, with an encoder of its own, or iptables by its own
//! programs; and conntrack. It serves health checks and metrics, and follows the machine's addresses.
//!
//! It decides nothing: which frontend leads where is [`sealane_proxy`]'s, and it hands over changes. It knows
//! nothing of the API, DNS or Pods, and runs no other program than iptables', and that where [`IptablesSink`] is used.
//!
//! ```no_run
//! use sealane_dataplane::{NftSink, Update, netlink_socket, spawn_watched};
//! use sealane_proxy::{NodeContext, Table};
//!
//! // A socket belongs to the network namespace of the thread that opens it.
//! let sink = NftSink::open(netlink_socket()?)?;
//! let watch = sink.watch(netlink_socket()?)?;
//! let (updates, inbox) = std::sync::mpsc::channel();
//! let proxy = spawn_watched(Table::new(NodeContext::new("node-1")), sink, inbox, watch)?;
//! updates.send(Update { revision: 7, services: vec![], node: None })?;
//! let applied: u64 = *proxy.applied().borrow();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod addresses;
mod announce;
mod burst;
mod conntrack;
mod feature;
mod http;
mod iptables;
mod message;
mod metrics;
mod netlink;
mod nft;
mod observe;
mod outcomes;
mod passing;
mod room;
mod sync;
mod system;
mod trouble;
mod watch;
mod weighing;

pub use addresses::{AddressSockets, address_sockets, follow_addresses};
pub use announce::{AnnounceError, Announcer};
pub use http::{Answerer, Servers, Serving, http_listener, serve_http};
pub use iptables::{IptablesError, IptablesRules, IptablesSink, Variant};
pub use metrics::Metrics;
pub use netlink::{Netlink, NetlinkError, netlink_socket};
pub use nft::{NftSink, Ruleset};
pub use observe::Observer;
pub use outcomes::TraceError;
pub use passing::packets_pass;
pub use sync::{Proxy, Update, spawn, spawn_observed, spawn_watched};
pub use system::{set_conntrack, set_oom_score};
pub use watch::Watch;
