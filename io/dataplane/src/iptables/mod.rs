//! The iptables sink, laid out as kube-proxy 1.36's iptables mode is (pkg/proxy/iptables/proxier.go), names of chains and
//! all: what people look for with `iptables -t nat -L` is where they know it.
//!
//! ```text
//! nat     KUBE-SERVICES      address, protocol, port     -> KUBE-SVC-, KUBE-SVL-, KUBE-EXT- or KUBE-FW- of a Service port
//!         KUBE-NODEPORTS     protocol, port              -> KUBE-EXT-
//!         KUBE-FW-           source range                -> KUBE-EXT-
//!         KUBE-EXT-          Pods, the node, the others  -> KUBE-SVC- or KUBE-SVL-
//!         KUBE-SVC-          all endpoints, by chance    -> KUBE-SEP-
//!         KUBE-SVL-          those of this node          -> KUBE-SEP-
//!         KUBE-SEP-          one endpoint                -> DNAT
//!         KUBE-POSTROUTING   masquerades what KUBE-MARK-MASQ marked
//! filter  KUBE-SERVICES, KUBE-EXTERNAL-SERVICES          refuse or swallow what nobody serves
//!         KUBE-PROXY-FIREWALL                            swallows what KUBE-FW- did not admit
//!         KUBE-FORWARD                                   lets pass what was marked
//! ```
//!
//! Text is made ([`layout`], [`batch`]), read ([`rules`]) and understood ([`read`], [`trace`]) without running anything;
//! [`sink`] keeps what was written, and [`programs`] runs iptables-restore and iptables-save.

mod batch;
mod layout;
mod names;
mod programs;
mod read;
mod rules;
mod sink;
mod trace;

pub use programs::{IptablesError, Variant};
pub use sink::IptablesSink;
pub use trace::IptablesRules;
