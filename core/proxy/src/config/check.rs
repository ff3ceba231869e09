//! From a document to what it means: kube-proxy's validation (pkg/proxy/apis/config/validation), its conversion to one
//! mode's settings, and what to say about the rest.

use super::document::{Document, part};
use super::{Config, Conntrack, LocalMode, Mode, NodePorts, Problem, Span};
use crate::{Cidr, PodInterface};
use std::net::{IpAddr, SocketAddr};

/// A name of a link has at most so many bytes (IFNAMSIZ without its end).
const LONGEST_LINK: usize = 15;

/// A problem with a field, as the API machinery words it.
pub(super) fn invalid(path: &str, value: impl std::fmt::Debug, why: &str) -> Problem {
    Problem { line: 0, column: 0, message: format!("{path}: Invalid value: {value:?}: {why}") }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or("")
}

fn on(field: Option<bool>) -> bool {
    field.unwrap_or(false)
}

/// The sections of a mode's settings: kube-proxy reads those of iptables where nothing is said.
fn section(document: &Document) -> &'static str {
    match text(&document.mode) {
        // What kube-proxy does not have goes by what it would be compared with.
        "nftables" | "ebpf" => "nftables",
        "ipvs" => "ipvs",
        _ => "iptables",
    }
}

fn min_sync(document: &Document) -> Option<Span> {
    match section(document) {
        "nftables" => document.nftables.as_ref()?.min_sync_period,
        "ipvs" => document.ipvs.as_ref()?.min_sync_period,
        _ => document.iptables.as_ref()?.min_sync_period,
    }
}

/// The mode's `minSyncPeriod` before defaults: zero where nobody asks for one.
pub(super) fn written_min_sync(document: &Document) -> Span {
    min_sync(document).unwrap_or_default()
}

struct Checker {
    document: Document,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

pub(super) fn config(document: Document, min_sync_period: Span) -> Result<Config, Vec<Problem>> {
    let mut checker = Checker { document, problems: Vec::new(), warnings: Vec::new() };
    let mode = checker.mode();
    let sync_period = checker.periods();
    let masquerade_bit = checker.masquerade_bits();
    let conntrack = checker.conntrack();
    let [healthz, metrics] = checker.addresses();
    let bind_address = checker.bind_address();
    let local = checker.local();
    let node_ports = checker.node_ports(mode);
    checker.client();
    checker.rest();
    let Checker { document, problems, warnings } = checker;
    if !problems.is_empty() {
        return Err(problems);
    }
    let masquerade_all = match mode {
        Mode::Nftables | Mode::Ebpf => document.nftables.as_ref().and_then(|n| n.masquerade_all),
        Mode::Iptables | Mode::Ipvs => document.iptables.as_ref().and_then(|n| n.masquerade_all),
    };
    let logging = document.logging.clone().unwrap_or_default();
    let filled = |field: &Option<String>| Some(text(field).to_owned()).filter(|t| !t.is_empty());
    Ok(Config {
        mode,
        sink: mode.sink(text(&document.mode)),
        node_name: filled(&document.hostname_override).map(|name| name.trim().to_lowercase()),
        bind_address,
        healthz,
        metrics,
        bind_hard_fail: on(document.bind_address_hard_fail),
        kubeconfig: document.client_connection.as_ref().and_then(|c| filled(&c.kubeconfig)),
        masquerade_bit,
        masquerade_all: on(masquerade_all),
        local,
        node_ports,
        sync_period,
        min_sync_period,
        oom_score_adj: document.oom_score_adj.unwrap_or_default(),
        conntrack,
        json_logs: text(&logging.format) == "json",
        verbosity: logging.verbosity.unwrap_or(0),
        warnings,
        document,
    })
}

impl Checker {
    fn refuse(&mut self, path: &str, value: impl std::fmt::Debug, why: &str) {
        self.problems.push(invalid(path, value, why));
    }

    fn warn(&mut self, sentence: impl Into<String>) {
        self.warnings.push(sentence.into());
    }

    fn mode(&mut self) -> Mode {
        match text(&self.document.mode).to_owned().as_str() {
            "nftables" => Mode::Nftables,
            // Blank is the fastest; its settings are those of kube-proxy's default.
            "" | "iptables" => Mode::Iptables,
            "ebpf" => Mode::Ebpf,
            "ipvs" => {
                self.warn(
                    "mode: rules are written to nftables, not to IPVS; endpoints are chosen at random, and ipvs.* \
                     takes no effect but for the periods",
                );
                Mode::Ipvs
            }
            other => {
                let why = "must be nftables, iptables, ebpf, ipvs or blank";
                self.refuse("mode", other, why);
                Mode::Iptables
            }
        }
    }

    fn periods(&mut self) -> Span {
        let section = section(&self.document);
        let sync = match section {
            "nftables" => part(&mut self.document.nftables).sync_period,
            "ipvs" => part(&mut self.document.ipvs).sync_period,
            _ => part(&mut self.document.iptables).sync_period,
        };
        let (sync, min) = (sync.unwrap_or_default(), min_sync(&self.document).unwrap_or_default());
        let config = self.document.config_sync_period.unwrap_or_default();
        let shown = |span: Span| span.to_string();
        let path = format!("{section}.syncPeriod");
        if sync.is_negative() {
            self.refuse(&path, shown(sync), "must be greater than 0");
        }
        let least = format!("{section}.minSyncPeriod");
        if min.is_negative() {
            self.refuse(&least, shown(min), "must be greater than or equal to 0");
        } else if min > sync {
            self.refuse(&path, shown(sync), &format!("must be greater than or equal to {least}"));
        }
        if config.is_negative() {
            self.refuse("configSyncPeriod", shown(config), "must be greater than 0");
        }
        sync
    }

    /// Both sections are held to the range; the mode's counts.
    fn masquerade_bits(&mut self) -> u8 {
        let bits = [
            ("iptables.masqueradeBit", part(&mut self.document.iptables).masquerade_bit),
            ("nftables.masqueradeBit", part(&mut self.document.nftables).masquerade_bit),
        ];
        let wanted = usize::from(section(&self.document) == "nftables");
        let mut found = 0;
        for (at, (path, bit)) in bits.into_iter().enumerate() {
            match bit.map(u8::try_from) {
                Some(Ok(bit @ 0..=31)) if at == wanted => found = bit,
                Some(Ok(0..=31)) | None => {}
                _ => self.refuse(path, bit.unwrap_or_default(), "must be within the range [0, 31]"),
            }
        }
        found
    }

    fn conntrack(&mut self) -> Conntrack {
        const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
        let written = self.document.conntrack.clone().unwrap_or_default();
        let [max_per_core, min] =
            [("conntrack.maxPerCore", written.max_per_core), ("conntrack.min", written.min)].map(
                |(path, value)| {
                    let value = value.unwrap_or_default();
                    u32::try_from(value).unwrap_or_else(|_| {
                        self.refuse(path, value, NOT_NEGATIVE);
                        0
                    })
                },
            );
        let mut sysctls = Vec::new();
        for (path, name, span) in [
            (
                "conntrack.tcpEstablishedTimeout",
                "nf_conntrack_tcp_timeout_established",
                written.tcp_established_timeout,
            ),
            (
                "conntrack.tcpCloseWaitTimeout",
                "nf_conntrack_tcp_timeout_close_wait",
                written.tcp_close_wait_timeout,
            ),
            ("conntrack.udpTimeout", "nf_conntrack_udp_timeout", written.udp_timeout),
            ("conntrack.udpStreamTimeout", "nf_conntrack_udp_timeout_stream", written.udp_stream_timeout),
        ] {
            let span = span.unwrap_or_default();
            if span.is_negative() {
                self.refuse(path, span.to_string(), NOT_NEGATIVE);
            } else if !span.is_zero() {
                sysctls.push((name, span.get().as_secs()));
            }
        }
        if on(written.tcp_be_liberal) {
            sysctls.push(("nf_conntrack_tcp_be_liberal", 1));
        }
        Conntrack { max_per_core, min, sysctls }
    }

    fn addresses(&mut self) -> [Option<SocketAddr>; 2] {
        let fields = [
            ("healthzBindAddress", text(&self.document.healthz_bind_address).to_owned()),
            ("metricsBindAddress", text(&self.document.metrics_bind_address).to_owned()),
        ];
        fields.map(|(path, value)| {
            let Some((host, port)) = value.rsplit_once(':') else {
                self.refuse(path, &value, "must be IP:port");
                return None;
            };
            let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
            let (address, port) = (host.parse::<IpAddr>(), port.parse::<u16>());
            if address.is_err() {
                self.refuse(path, host, "must be a valid IP");
            }
            if !port.as_ref().is_ok_and(|p| *p > 0) {
                self.refuse(path, &value, "must be a valid port");
            }
            Some(SocketAddr::new(address.ok()?, port.ok()?))
        })
    }

    fn bind_address(&mut self) -> Option<IpAddr> {
        let written = text(&self.document.bind_address).to_owned();
        match written.parse::<IpAddr>() {
            Ok(address) => Some(address).filter(|a| !a.is_unspecified()),
            Err(_) => {
                self.refuse("bindAddress", written, "not a valid textual representation of an IP address");
                None
            }
        }
    }

    fn local(&mut self) -> LocalMode {
        let detect = self.document.detect_local.clone().unwrap_or_default();
        let (bridge, prefix) = (text(&detect.bridge_interface), text(&detect.interface_name_prefix));
        let mode = text(&self.document.detect_local_mode).to_owned();
        let mut name = |path: &str, value: &str| {
            if value.is_empty() {
                self.refuse(path, value, "must not be empty");
            } else if value.len() > LONGEST_LINK {
                self.refuse(path, value, "must be a link's name, which has at most 15 characters");
            }
        };
        match mode.as_str() {
            "BridgeInterface" => {
                name("detectLocal.bridgeInterface", bridge);
                LocalMode::Interface(PodInterface::Named(bridge.into()))
            }
            "InterfaceNamePrefix" => {
                name("detectLocal.interfaceNamePrefix", prefix);
                LocalMode::Interface(PodInterface::Prefix(prefix.into()))
            }
            "NodeCIDR" => LocalMode::NodeCidr,
            "" | "ClusterCIDR" => LocalMode::ClusterCidr(self.cluster_cidr()),
            other => {
                self.problems.push(Problem {
                    line: 0,
                    column: 0,
                    message: format!(
                        "detectLocalMode: Unsupported value: {other:?}: supported values: \"ClusterCIDR\", \
                         \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\""
                    ),
                });
                LocalMode::NodeCidr
            }
        }
    }

    fn cluster_cidr(&mut self) -> Vec<Cidr> {
        const PAIR: &str = "must be either a single CIDR or a dual-stack pair of CIDRs (e.g. \
                            10.100.0.0/16,fde4:8dba:82e1::/48)";
        let written = text(&self.document.cluster_cidr).to_owned();
        let mut ranges: Vec<Cidr> = Vec::new();
        for part in written.split(',').filter(|_| !written.is_empty()) {
            match part.parse() {
                Ok(range) => ranges.push(range),
                Err(_) => {
                    let why = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
                    self.refuse("clusterCIDR", part, why);
                    return Vec::new();
                }
            }
        }
        let both = |r: &[Cidr]| r[0].network().is_ipv4() != r[1].network().is_ipv4();
        if ranges.len() > 2 || ranges.len() == 2 && !both(&ranges) {
            self.refuse("clusterCIDR", written, PAIR);
        }
        ranges
    }

    fn node_ports(&mut self, mode: Mode) -> NodePorts {
        const PRIMARY: &str = "primary";
        let written = self.document.node_port_addresses.clone().unwrap_or_default();
        if written.is_empty() && matches!(mode, Mode::Nftables | Mode::Ebpf) {
            return NodePorts::Primary;
        }
        if written == [PRIMARY] {
            return NodePorts::Primary;
        }
        let mut ranges = Vec::new();
        for (at, one) in written.iter().enumerate() {
            let path = format!("nodePortAddresses[{at}]");
            match one.parse::<Cidr>() {
                Ok(range) if range.network().is_loopback() => {
                    self.warn(format!("{path}: NodePorts do not answer on loopback addresses"));
                    ranges.push(range);
                }
                Ok(range) => ranges.push(range),
                Err(_) if one == PRIMARY => {
                    self.refuse(&path, one, "can't use both 'primary' and CIDRs");
                    break;
                }
                Err(_) => self.refuse(&path, one, "must be a valid CIDR"),
            }
        }
        NodePorts::Ranges(ranges)
    }

    fn client(&mut self) {
        let client = self.document.client_connection.clone().unwrap_or_default();
        let burst = client.burst.unwrap_or_default();
        if burst < 0 {
            self.refuse("clientConnection.burst", burst, "must be greater than or equal to 0");
        }
        // JSON is what every API server speaks; few watches need no limits.
        if text(&client.content_type) == "application/cbor" {
            self.warn("clientConnection.contentType: the API is spoken to in JSON");
        }
    }

    fn rest(&mut self) {
        let oom = self.document.oom_score_adj.unwrap_or_default();
        if !(-1000..=1000).contains(&oom) {
            self.refuse("oomScoreAdj", oom, "must be within the range [-1000, 1000]");
        }
        let format = self.document.logging.as_ref().map_or("", |l| text(&l.format)).to_owned();
        if !["", "text", "json"].contains(&format.as_str()) {
            self.refuse("logging.format", format, "Unsupported log format");
        }
        for gate in self.document.feature_gates.clone().unwrap_or_default().keys() {
            self.warn(format!("featureGates: {gate} is none of Sealane's and takes no effect"));
        }
        if on(self.document.enable_profiling) {
            self.warn("enableProfiling: there are no profiles to serve");
        }
        if on(self.document.windows_run_as_service) {
            self.warn("windowsRunAsService: this is not Windows");
        }
        if !text(&self.document.show_hidden_metrics_for_version).is_empty() {
            self.warn("showHiddenMetricsForVersion: no metric is hidden");
        }
        if !text(&self.document.port_range).is_empty() {
            self.warn("portRange: it has no use since the userspace proxy is gone");
        }
        let winkernel = self.document.winkernel.clone().unwrap_or_default();
        let names = [&winkernel.network_name, &winkernel.source_vip, &winkernel.root_hns_endpoint_name];
        if names.iter().any(|n| !text(n).is_empty()) {
            self.warn("winkernel: this is not Windows");
        }
    }
}
