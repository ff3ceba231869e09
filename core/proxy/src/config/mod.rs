//! How the proxy is set up: kube-proxy 1.36's flags and its KubeProxyConfiguration, with its defaults and its refusals.
//!
//! A [`Document`] is what was written, a [`Config`] what it means. What Sealane has no use for is said in
//! [`Config::warnings`] wherever leaving it out changes what somebody asked for.
//!
//! ```
//! use sealane_proxy::config::{Config, Mode, Span, parse};
//!
//! let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
//! let config = parse(text).unwrap();
//! assert_eq!((config.mode, config.sync_period), (Mode::Nftables, Span::seconds(30)));
//! let problems = parse("kind: KubeProxyConfiguration\nmood: nftables\n").unwrap_err();
//! assert_eq!((problems[0].line, problems[0].column), (2, 1));
//! ```

mod check;
mod document;
mod duration;
mod flags;
pub mod place;
mod shown;

pub use document::{API_VERSION, ClientConnection, Document, KIND};
pub use duration::Span;
pub use flags::{Flags, USAGE};

use crate::{Cidr, NodeContext, PodInterface};
use sealane_catalog::Node;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Port of `/healthz` and `/livez` (pkg/cluster/ports, ProxyHealthzPort).
pub const HEALTHZ_PORT: u16 = 10256;
/// Port of `/metrics` and its company (ProxyStatusPort).
pub const METRICS_PORT: u16 = 10249;

/// Something wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Line, from 1; 0 where it has no place.
    pub line: usize,
    /// Column, from 1; 0 where it has no place.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub message: String,
}

impl From<&serde_yaml_ng::Error> for Problem {
    fn from(error: &serde_yaml_ng::Error) -> Self {
        let (line, column) = error.location().map_or((0, 0), |l| (l.line(), l.column()));
        // The place is said once.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        Problem { line, column, message }
    }
}

/// Which kernel interface was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `iptables`, and where nothing is said.
    Iptables,
    /// `ipvs`.
    Ipvs,
    /// `nftables`.
    Nftables,
    /// `ebpf`, which kube-proxy does not have.
    Ebpf,
}

impl Mode {
    /// What rules are written to. What is left blank is ours to choose; and for IPVS there is no sink.
    pub fn sink(self, written: &str) -> SinkKind {
        match self {
            Mode::Iptables if !written.is_empty() => SinkKind::Iptables,
            Mode::Ebpf => SinkKind::Ebpf,
            Mode::Iptables | Mode::Ipvs | Mode::Nftables => SinkKind::Nftables,
        }
    }
}

/// What rules are written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// nftables.
    #[default]
    Nftables,
    /// iptables.
    Iptables,
    /// eBPF.
    Ebpf,
}

impl SinkKind {
    /// All of them.
    pub const ALL: [SinkKind; 3] = [SinkKind::Nftables, SinkKind::Iptables, SinkKind::Ebpf];

    fn name(self) -> &'static str {
        match self {
            SinkKind::Nftables => "nftables",
            SinkKind::Iptables => "iptables",
            SinkKind::Ebpf => "ebpf",
        }
    }
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SinkKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| "must be nftables, iptables or ebpf".to_owned())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Nftables => "nftables",
            Mode::Ebpf => "ebpf",
        })
    }
}

/// `detectLocalMode`, with what it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalMode {
    /// Pods' addresses lie in these ranges; none: Pods are not told from others.
    ClusterCidr(Vec<Cidr>),
    /// The node's Pods' addresses lie in its `spec.podCIDRs`.
    NodeCidr,
    /// The node's Pods are behind these links.
    Interface(PodInterface),
}

/// `nodePortAddresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// On the Node object's first address of each family.
    Primary,
    /// On those of the machine's addresses that lie in one of the ranges of their family; all where it has none.
    Ranges(Vec<Cidr>),
}

/// `conntrack`: sysctls below `net.netfilter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// `maxPerCore`; 0: `nf_conntrack_max` is left alone.
    pub max_per_core: u32,
    /// `min`.
    pub min: u32,
    /// The others, by name: `nf_conntrack_tcp_timeout_established` and so on, in seconds.
    pub sysctls: Vec<(&'static str, u64)>,
}

impl Conntrack {
    /// `nf_conntrack_max` on a machine of so many cores, at most 1,048,576; `None`: left alone
    /// (pkg/proxy/conntrack/sysctls.go, getConntrackMax).
    pub fn max(&self, cores: usize) -> Option<u64> {
        const LIMIT: u64 = 1 << 20;
        let scaled = u64::from(self.max_per_core) * cores as u64;
        match scaled {
            0 => None,
            LIMIT.. => Some(LIMIT),
            _ => Some(scaled.max(self.min.into())),
        }
    }
}

/// A configuration that is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `mode`.
    pub mode: Mode,
    /// What rules are written to.
    pub sink: SinkKind,
    /// `hostnameOverride`: the Node's name; `None`: the host's.
    pub node_name: Option<String>,
    /// `bindAddress`, where it says the node's address of its family.
    pub bind_address: Option<IpAddr>,
    /// `healthzBindAddress`; `None`: nobody is answered.
    pub healthz: Option<SocketAddr>,
    /// `metricsBindAddress`; `None`: nobody is answered.
    pub metrics: Option<SocketAddr>,
    /// `bindAddressHardFail`: the end where one of the two is taken.
    pub bind_hard_fail: bool,
    /// `clientConnection.kubeconfig`; `None`: as a Pod's.
    pub kubeconfig: Option<String>,
    /// The mode's `masqueradeBit`, 0-31.
    pub masquerade_bit: u8,
    /// The mode's `masqueradeAll`.
    pub masquerade_all: bool,
    /// `detectLocalMode`.
    pub local: LocalMode,
    /// `nodePortAddresses`.
    pub node_ports: NodePorts,
    /// The mode's `syncPeriod`: rules that are twice as late make the proxy unhealthy.
    pub sync_period: Span,
    /// The mode's `minSyncPeriod`, where one is written: the least time between two writes of rules. Where none is,
    /// changes do not wait.
    pub min_sync_period: Span,
    /// `oomScoreAdj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// `conntrack`.
    pub conntrack: Conntrack,
    /// `logging.format: json`.
    pub json_logs: bool,
    /// `logging.verbosity`.
    pub verbosity: u32,
    /// Sentences about what takes no effect.
    pub warnings: Vec<String>,
    /// What it was made of, defaults filled in.
    pub document: Document,
}

/// Reads a document strictly: an unknown field is a problem, too.
///
/// # Errors
///
/// All problems; where it cannot be read at all, the first.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::new(read(text)?).map_err(|problems| place::placed(problems, text))
}

/// Reads a document without asking what it means.
///
/// # Errors
///
/// Why it is none.
pub fn read(text: &str) -> Result<Document, Vec<Problem>> {
    let document: Document = serde_yaml_ng::from_str(text).map_err(|error| vec![Problem::from(&error)])?;
    let version = document.api_version.as_deref();
    let wrong = match document.kind.as_deref() {
        Some(KIND) if version.is_none_or(|v| v == API_VERSION) => return Ok(document),
        Some(KIND) => check::invalid("apiVersion", version.unwrap_or(""), &format!("must be {API_VERSION}")),
        kind => check::invalid("kind", kind.unwrap_or(""), &format!("must be {KIND}")),
    };
    Err(place::placed(vec![wrong], text))
}

/// An address with its port, where it lacks one (pkg/proxy/util/utils.go, AppendPortIfNeeded).
fn with_port(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => address.to_owned(),
    }
}

impl Config {
    /// What a document means.
    ///
    /// # Errors
    ///
    /// Everything that kube-proxy's validation refuses, field by field, without a place.
    pub fn new(mut document: Document) -> Result<Config, Vec<Problem>> {
        let min_sync = check::written_min_sync(&document);
        document.fill();
        check::config(document, min_sync)
    }

    /// Whether another configuration differs at most in the mode and what comes with it: a running proxy can change to
    /// it, as nothing but the rules depends on that.
    pub fn differs_in_mode_alone(&self, other: &Config) -> bool {
        let rest = |config: &Config| Document {
            mode: None,
            iptables: None,
            nftables: None,
            ipvs: None,
            ..config.document.clone()
        };
        rest(self) == rest(other)
            && (&self.node_name, self.healthz, self.metrics)
                == (&other.node_name, other.healthz, other.metrics)
    }

    /// The document with defaults, as `--write-config-to` writes it.
    pub fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(&self.document).unwrap_or_default()
    }

    /// What `/configz` answers: kube-proxy's internal form, as JSON.
    pub fn configz(&self) -> String {
        shown::configz(self)
    }

    /// The node as rules see it, of a Node object, where there is one, and the machine's addresses. `None` where that
    /// cannot be said yet: with `detectLocalMode: NodeCIDR` the Node has to have its Pod range.
    pub fn node_context(
        &self,
        name: &str,
        node: Option<&Node>,
        addresses: &BTreeSet<IpAddr>,
    ) -> Option<NodeContext> {
        let pod_cidrs = match &self.local {
            LocalMode::ClusterCidr(ranges) => ranges.clone(),
            LocalMode::NodeCidr => {
                let written = node.map_or(&[][..], |n| &n.pod_cidrs);
                let ranges: Vec<Cidr> = written.iter().filter_map(|c| c.parse().ok()).collect();
                Some(first_of_family(ranges, |c| c.network())).filter(|ranges| !ranges.is_empty())?
            }
            LocalMode::Interface(_) => Vec::new(),
        };
        let pod_interface = match &self.local {
            LocalMode::Interface(interface) => Some(interface.clone()),
            _ => None,
        };
        Some(NodeContext {
            zone: node.map_or_else(|| Arc::from(""), |n| n.zone.clone()),
            addresses: self.primary_addresses(node),
            node_port_addresses: self.node_port_addresses(node, addresses),
            pod_cidrs,
            pod_interface,
            masquerade_all: self.masquerade_all,
            masquerade_bit: self.masquerade_bit,
            ..NodeContext::new(name)
        })
    }

    /// The node's own addresses: the first of each family, `bindAddress` before the Node's
    /// (cmd/kube-proxy/app/server.go, detectNodeIPs).
    fn primary_addresses(&self, node: Option<&Node>) -> Vec<IpAddr> {
        let of_node = node.map_or(&[][..], |n| &n.addresses).iter().copied();
        first_of_family(self.bind_address.into_iter().chain(of_node).collect(), |a| *a)
    }

    /// Where NodePorts answer. Loopback addresses are left out, as in kube-proxy's nftables mode; link-local ones of
    /// IPv6 too: every Pod's link has one.
    fn node_port_addresses(&self, node: Option<&Node>, addresses: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let ranges = match &self.node_ports {
            NodePorts::Primary => {
                let mut found = self.primary_addresses(node);
                found.retain(|a| !a.is_loopback());
                // A family without a primary address is not limited (nodeport_addresses.go, NewNodePortAddresses).
                found.into_iter().map(Cidr::host).collect()
            }
            NodePorts::Ranges(ranges) => ranges.clone(),
        };
        let limited = |ipv6: bool| ranges.iter().any(|r| r.network().is_ipv6() == ipv6);
        let listed = |a: &IpAddr| !limited(a.is_ipv6()) || ranges.iter().any(|r| r.contains(*a));
        let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
        addresses.iter().copied().filter(|a| listed(a) && !a.is_loopback() && !link_local(a)).collect()
    }

    /// Whether NodePorts of a family answer on every address, so that health checks need not name theirs.
    pub fn all_addresses(&self, node: Option<&Node>, ipv6: bool) -> bool {
        match &self.node_ports {
            NodePorts::Primary => {
                !self.primary_addresses(node).iter().any(|a| a.is_ipv6() == ipv6 && !a.is_loopback())
            }
            NodePorts::Ranges(ranges) => {
                let mut family = ranges.iter().filter(|r| r.network().is_ipv6() == ipv6).peekable();
                family.peek().is_none() || family.any(|r| r.bits() == 0)
            }
        }
    }
}

/// The first of each family, in their order.
fn first_of_family<T>(all: Vec<T>, address: impl Fn(&T) -> IpAddr) -> Vec<T> {
    let mut seen = [false; 2];
    all.into_iter()
        .filter(|item| !std::mem::replace(&mut seen[usize::from(address(item).is_ipv6())], true))
        .collect()
}
