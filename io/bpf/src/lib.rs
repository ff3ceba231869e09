//! Puts the service table into eBPF maps, and programs that read them into a cgroup: a local process that connects or
//! sends to a Service's address reaches an endpoint at once, and no packet is rewritten on the way.
//!
//! At links from outside packets are led by the same maps ([`BpfSink::outside`]). What neither decides (see
//! [`SocketFate::Left`], [`PacketFate::Left`]) is for other rules: [`Levels`] keeps both in step. It decides nothing: which frontend leads where is
//! [`sealane_proxy`]'s.
//!
//! The programs end with the process, and what they did the packets' rules do from then on; but for a sink that is to
//! [`last`](BpfSink::last), whose programs at links go on.
//!
//! ```no_run
//! use sealane_bpf::{BpfSink, cgroup2_root};
//! use sealane_proxy::{NodeContext, RuleSink};
//! use std::collections::BTreeMap;
//!
//! let mut sink = BpfSink::open(&cgroup2_root()?)?;
//! sink.replace(&NodeContext::new("node-1"), &BTreeMap::new())?;
//! # Ok::<(), sealane_bpf::BpfError>(())
//! ```
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod cgroup;
mod destroy;
mod diag;
mod error;
mod generation;
mod levels;
mod links;
mod maglev;
mod namespace;
mod netlink;
mod pins;
mod query;
mod ranges;
mod raw;
mod read;
mod sink;
mod trace;

pub use cgroup::cgroup2_root;
pub use error::BpfError;
pub use levels::{Levels, LevelsError};
pub use sink::BpfSink;
pub use trace::{PacketFate, SocketFate, State};
