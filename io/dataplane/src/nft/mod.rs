//! The nftables sink. One table `sealane` for each family, whose size in rules depends on neither the number
//! of Services nor that of endpoints:
//!
//! ```text
//! services   (address, protocol, port)                    -> action     data map
//! outside    (address, protocol, port)                    -> action     data map: what those outside of the cluster get
//! actions    action                                       -> goto chain verdict map, small: a big one makes each change cost its size
//! leaves     action                                       -> goto chain the same for `outside`, without the chains that look there
//! endpoints  (address, protocol, port, index)             -> (address, port)
//! affinity   (source, address, protocol, port)            -> (address, port)   learnt by the kernel, with a timeout
//! members    (address, protocol, port, address, port)     set: backends that affinity may still lead to
//! cluster    address                                      set: other ports of cluster addresses are refused
//! sources    (address, protocol, port, address range)     set: whom a load balancer's address admits
//! hairpin    (address, address)                           set: endpoints that reach themselves
//! ```
//!
//! and a chain for each distinct action, say `balance-3-off-cluster`.

mod action;
mod elements;
mod expr;
mod layout;
mod plan;
mod read;
mod sink;
mod trace;

pub(crate) use layout::TABLE;
pub use sink::NftSink;
pub use trace::Ruleset;
