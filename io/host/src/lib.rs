//! Namespaces, links, routes, mounts, processes: made, adopted, and removed as one tree.
//!
//! The main process starts one small launcher ([`launcher::main`]), first process of a process namespace of its own, in
//! the node's network namespace; the launcher starts every container. However the main process ends, the launcher sees
//! its socket close and ends, and with it every Pod's process (process namespace), mount (mount namespace), link, route
//! and rule (network namespace).
//!
//! This room knows nothing of Kubernetes objects, images or Services: it is given numbers, names, paths and addresses.
//!
//! ```
//! use sealane_host::{Cidr, Wanted, check_ranges};
//! let pods: Cidr = "10.244.0.0/16".parse().unwrap();
//! let taken: Cidr = "10.0.0.0/8".parse().unwrap();
//! let error = check_ranges(&[Wanted { option: "--pod-cidr", range: pods }], &[taken]).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "--pod-cidr 10.244.0.0/16 can't be used: it overlaps 10.0.0.0/8, which is in use here; \
//!      try --pod-cidr 172.16.0.0/16"
//! );
//! ```
#![deny(missing_docs)]

mod balanced;
mod cgroup;
mod container;
mod copy;
mod filter;
mod host;
mod identity;
pub mod launcher;
mod links;
pub mod memory;
mod netlink;
mod network;
mod nft;
mod outside;
mod ports;
mod ranges;
mod rootfs;
pub mod runtime;
pub mod session;
mod shell;
mod sys;
mod threads;
mod tree;
mod uplink;
mod userns;
mod wire;

pub use host::{Host, HostConfig};
pub use launcher::main as launcher_main;
pub use links::{BRIDGE, HOST_LINK};
pub use network::{Network, NetworkConfig};
pub use ranges::{Cidr, Wanted, check as check_ranges};
pub use runtime::HostError;
pub use shell::enter_node;
pub use userns::{Rootless, enter_user_namespace, is_root};
