//! kube-proxy's command line (cmd/kube-proxy/app/options.go): `--name=value` or `--name value`, `--switch`.

use super::document::{Document, part};
use super::{Config, Problem};
use std::str::FromStr;

/// What `--help` prints.
pub const USAGE: &str = "\
Usage: sealane proxy [--config FILE | FLAGS]

The service proxy alone, in kube-proxy's place: same flags, same KubeProxyConfiguration. Beside --config only
--hostname-override, --cleanup, --write-config-to, --init-only, --master and the flags of logging count.

  --config FILE                     KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1
  --kubeconfig FILE                 how to reach the API; without it, as a Pod's ServiceAccount does
  --master URL                      the API server, whatever the kubeconfig says
  --hostname-override NAME          the Node's name [default: the host's]
  --proxy-mode MODE                 nftables, iptables or ebpf [default: nftables]; ipvs is nftables
  --cluster-cidr CIDR[,CIDR]        the Pods' ranges: others who speak to cluster addresses are masqueraded
  --detect-local-mode MODE          ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix
  --pod-bridge-interface NAME       for BridgeInterface
  --pod-interface-name-prefix NAME  for InterfaceNamePrefix
  --masquerade-all                  masquerade whoever speaks to cluster addresses
  --nodeport-addresses LIST         ranges of addresses on which NodePorts answer, or primary
  --bind-address IP                 the node's own address
  --healthz-bind-address IP:PORT    [default: 0.0.0.0:10256]
  --metrics-bind-address IP:PORT    [default: 127.0.0.1:10249]; empty: none
  --bind-address-hard-fail          end where one of the two is taken
  --conntrack-max-per-core N, --conntrack-min N, --conntrack-tcp-timeout-established DURATION,
  --conntrack-tcp-timeout-close-wait DURATION, --conntrack-tcp-be-liberal, --conntrack-udp-timeout DURATION,
  --conntrack-udp-timeout-stream DURATION, --config-sync-period DURATION, --oom-score-adj N,
  --iptables-masquerade-bit N, --feature-gates LIST, --logging-format text|json, -v N
  --announce LINK                   answer on it for load balancers' addresses (ARP, neighbour discovery); on one
                                    Node each, so all Nodes that are not excluded from load balancers should
  --write-config-to FILE            write the configuration with its defaults, and exit
  --init-only                       do what needs full rights, and exit
  --cleanup                         remove Sealane's rules, and exit
  --version, --help

Examples:
  sealane proxy --config /var/lib/kube-proxy/config.conf --hostname-override node-1
  sealane proxy --kubeconfig ~/.kube/config --cluster-cidr 10.244.0.0/16
  sealane proxy --cleanup";

type Set = fn(&mut Flags, &str) -> Result<(), String>;

/// A flag: whether it stands without a value, whether it counts beside `--config`, and what it sets.
struct Flag(&'static str, Kind, Set);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Has a value.
    Value,
    /// May stand without one.
    Switch,
    /// Has a value and counts beside `--config`.
    Always,
    /// A switch that counts beside `--config`.
    AlwaysSwitch,
}

/// A command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `--config`.
    pub config: Option<String>,
    /// `--master`.
    pub master: Option<String>,
    /// `--announce`, which kube-proxy has not: a link's name.
    pub announce: Option<String>,
    /// `--write-config-to`.
    pub write_config_to: Option<String>,
    /// `--cleanup`.
    pub cleanup: bool,
    /// `--init-only`.
    pub init_only: bool,
    /// `--help`.
    pub help: bool,
    /// `--version`.
    pub version: bool,
    hostname_override: Option<String>,
    verbosity: Option<u32>,
    format: Option<String>,
    /// Servers that an empty address or port 0 turns off: health, metrics.
    off: [bool; 2],
    document: Document,
    /// What was given and counts without `--config` alone.
    given: Vec<&'static str>,
}

fn value<T: FromStr>(text: &str) -> Result<Option<T>, String> {
    text.parse().map(Some).map_err(|_| format!("{text:?} is not what it takes"))
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Go's `strconv.ParseBool`.
fn switch(text: &str) -> Result<Option<bool>, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn list(text: &str) -> Option<Vec<String>> {
    Some(text.split(',').filter(|_| !text.is_empty()).map(|item| item.trim().to_owned()).collect())
}

fn ignored(_: &mut Flags, _: &str) -> Result<(), String> {
    Ok(())
}

macro_rules! set {
    ($flags:ident, $text:ident => $($step:expr);+) => {
        |$flags, $text| { $($step;)+ Ok(()) }
    };
}

use Kind::{Always, AlwaysSwitch, Switch, Value};

/// All of them. Those of IPVS and of klog's file output are read and change nothing.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    Flag("config", Always, set!(f, t => f.config = text(t))),
    Flag("master", Always, set!(f, t => f.master = text(t).filter(|m| !m.is_empty()))),
    Flag("announce", Always, set!(f, t => f.announce = text(t).filter(|link| !link.is_empty()))),
    Flag("write-config-to", Always, set!(f, t => f.write_config_to = text(t))),
    Flag("cleanup", AlwaysSwitch, set!(f, t => f.cleanup = switch(t)? == Some(true))),
    Flag("init-only", AlwaysSwitch, set!(f, t => f.init_only = switch(t)? == Some(true))),
    Flag("help", AlwaysSwitch, set!(f, t => f.help = switch(t)? == Some(true))),
    Flag("h", AlwaysSwitch, set!(f, t => f.help = switch(t)? == Some(true))),
    Flag("version", AlwaysSwitch, set!(f, t => f.version = t != "false")),
    Flag("hostname-override", Always, set!(f, t => f.hostname_override = text(t))),
    Flag("v", Always, set!(f, t => f.verbosity = value(t)?)),
    Flag("logging-format", Always, set!(f, t => f.format = text(t))),
    Flag("vmodule", Always, ignored),
    Flag("log-flush-frequency", Always, ignored),
    Flag("log-text-split-stream", AlwaysSwitch, ignored),
    Flag("log-text-info-buffer-size", Always, ignored),
    Flag("log-json-split-stream", AlwaysSwitch, ignored),
    Flag("log-json-info-buffer-size", Always, ignored),
    Flag("boot-id-file", Always, ignored),
    Flag("machine-id-file", Always, ignored),
    Flag("kubeconfig", Value, set!(f, t => part(&mut f.document.client_connection).kubeconfig = text(t))),
    Flag("kube-api-content-type", Value, set!(f, t => part(&mut f.document.client_connection).content_type = text(t))),
    Flag("kube-api-burst", Value, set!(f, t => part(&mut f.document.client_connection).burst = value(t)?)),
    Flag("kube-api-qps", Value, set!(f, t => part(&mut f.document.client_connection).qps = value(t)?)),
    Flag("proxy-mode", Value, set!(f, t => f.document.mode = text(t))),
    Flag("cluster-cidr", Value, set!(f, t => f.document.cluster_cidr = text(t))),
    Flag("detect-local-mode", Value, set!(f, t => f.document.detect_local_mode = text(t))),
    Flag("pod-bridge-interface", Value, set!(f, t => part(&mut f.document.detect_local).bridge_interface = text(t))),
    Flag("pod-interface-name-prefix", Value, set!(f, t =>
        part(&mut f.document.detect_local).interface_name_prefix = text(t))),
    Flag("masquerade-all", Switch, set!(f, t =>
        part(&mut f.document.iptables).masquerade_all = switch(t)?;
        part(&mut f.document.nftables).masquerade_all = switch(t)?)),
    Flag("nodeport-addresses", Value, set!(f, t => f.document.node_port_addresses = list(t))),
    Flag("bind-address", Value, set!(f, t => f.document.bind_address = text(t))),
    Flag("healthz-bind-address", Value, set!(f, t =>
        f.document.healthz_bind_address = text(t);
        f.off[0] = t.is_empty())),
    Flag("metrics-bind-address", Value, set!(f, t =>
        f.document.metrics_bind_address = text(t);
        f.off[1] = t.is_empty())),
    Flag("healthz-port", Value, set!(f, t => f.off[0] = value::<u16>(t)? == Some(0))),
    Flag("metrics-port", Value, set!(f, t => f.off[1] = value::<u16>(t)? == Some(0))),
    Flag("bind-address-hard-fail", Switch, set!(f, t => f.document.bind_address_hard_fail = switch(t)?)),
    Flag("profiling", Switch, set!(f, t => f.document.enable_profiling = switch(t)?)),
    Flag("show-hidden-metrics-for-version", Value, set!(f, t =>
        f.document.show_hidden_metrics_for_version = text(t))),
    Flag("iptables-masquerade-bit", Value, set!(f, t => part(&mut f.document.iptables).masquerade_bit = value(t)?)),
    Flag("iptables-localhost-nodeports", Switch, set!(f, t =>
        part(&mut f.document.iptables).localhost_node_ports = switch(t)?)),
    // Any mode's but IPVS's.
    Flag("iptables-sync-period", Value, set!(f, t =>
        part(&mut f.document.iptables).sync_period = value(t)?;
        part(&mut f.document.nftables).sync_period = value(t)?)),
    Flag("iptables-min-sync-period", Value, set!(f, t =>
        part(&mut f.document.iptables).min_sync_period = value(t)?;
        part(&mut f.document.nftables).min_sync_period = value(t)?)),
    Flag("ipvs-sync-period", Value, set!(f, t => part(&mut f.document.ipvs).sync_period = value(t)?)),
    Flag("ipvs-min-sync-period", Value, set!(f, t => part(&mut f.document.ipvs).min_sync_period = value(t)?)),
    Flag("ipvs-scheduler", Value, set!(f, t => part(&mut f.document.ipvs).scheduler = text(t))),
    Flag("ipvs-exclude-cidrs", Value, set!(f, t => part(&mut f.document.ipvs).exclude_cidrs = list(t))),
    Flag("ipvs-strict-arp", Switch, set!(f, t => part(&mut f.document.ipvs).strict_arp = switch(t)?)),
    Flag("ipvs-tcp-timeout", Value, set!(f, t => part(&mut f.document.ipvs).tcp_timeout = value(t)?)),
    Flag("ipvs-tcpfin-timeout", Value, set!(f, t => part(&mut f.document.ipvs).tcp_fin_timeout = value(t)?)),
    Flag("ipvs-udp-timeout", Value, set!(f, t => part(&mut f.document.ipvs).udp_timeout = value(t)?)),
    Flag("oom-score-adj", Value, set!(f, t => f.document.oom_score_adj = value(t)?)),
    Flag("config-sync-period", Value, set!(f, t => f.document.config_sync_period = value(t)?)),
    Flag("conntrack-max-per-core", Value, set!(f, t => part(&mut f.document.conntrack).max_per_core = value(t)?)),
    Flag("conntrack-min", Value, set!(f, t => part(&mut f.document.conntrack).min = value(t)?)),
    Flag("conntrack-tcp-timeout-established", Value, set!(f, t =>
        part(&mut f.document.conntrack).tcp_established_timeout = value(t)?)),
    Flag("conntrack-tcp-timeout-close-wait", Value, set!(f, t =>
        part(&mut f.document.conntrack).tcp_close_wait_timeout = value(t)?)),
    Flag("conntrack-tcp-be-liberal", Switch, set!(f, t =>
        part(&mut f.document.conntrack).tcp_be_liberal = switch(t)?)),
    Flag("conntrack-udp-timeout", Value, set!(f, t => part(&mut f.document.conntrack).udp_timeout = value(t)?)),
    Flag("conntrack-udp-timeout-stream", Value, set!(f, t =>
        part(&mut f.document.conntrack).udp_stream_timeout = value(t)?)),
    Flag("feature-gates", Value, set!(f, t => f.gates(t)?)),
];

impl Flags {
    /// Reads a command line, without the program and `proxy`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one sentence.
    pub fn parse(words: &[String]) -> Result<Flags, String> {
        let mut flags = Flags::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let bare = match (word.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(long), _) if !long.is_empty() => long,
                // One dash, one letter; its value may follow at once.
                (_, Some(short)) if short.starts_with('v') || short == "h" => short,
                _ => return Err(format!("unexpected argument {word:?}; see sealane proxy --help")),
            };
            let short = !word.starts_with("--") && bare.len() > 1 && !bare.contains('=');
            let (name, given) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None if short => (&bare[..1], Some(&bare[1..])),
                None => (bare, None),
            };
            let Some(Flag(name, kind, set)) = FLAGS.iter().find(|flag| flag.0 == name) else {
                return Err(format!("unknown flag {word:?}; see sealane proxy --help"));
            };
            let given = match (given, kind) {
                (Some(given), _) => given,
                (None, Switch | AlwaysSwitch) => "true",
                (None, _) => rest.next().ok_or_else(|| format!("--{name} needs a value"))?,
            };
            set(&mut flags, given).map_err(|why| format!("--{name}: {why}"))?;
            if matches!(kind, Value | Switch) {
                flags.given.push(name);
            }
        }
        Ok(flags)
    }

    fn gates(&mut self, given: &str) -> Result<(), String> {
        for gate in list(given).unwrap_or_default() {
            let (name, value) =
                gate.split_once('=').ok_or_else(|| format!("{gate:?} is not NAME=true|false"))?;
            let value = switch(value)?.unwrap_or_default();
            part(&mut self.document.feature_gates).insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// What flags and, where there is one, the text of the `--config` file come to.
    ///
    /// # Errors
    ///
    /// All problems; of a file, with their places.
    pub fn config(&self, file: Option<&str>) -> Result<Config, Vec<Problem>> {
        let mut config = match file {
            Some(text) => super::parse(text)?,
            None => Config::new(self.document.clone())?,
        };
        if file.is_some() {
            for name in &self.given {
                config.warnings.push(format!("--{name} takes no effect beside --config"));
            }
        } else {
            // A document cannot turn them off.
            config.healthz = config.healthz.filter(|_| !self.off[0]);
            config.metrics = config.metrics.filter(|_| !self.off[1]);
        }
        if let Some(name) = self.hostname_override.as_deref().filter(|n| !n.is_empty()) {
            let name = name.trim().to_lowercase();
            if name.is_empty() {
                return Err(vec![super::check::invalid("--hostname-override", name, "must not be blank")]);
            }
            config.node_name = Some(name);
        }
        config.verbosity = self.verbosity.unwrap_or(config.verbosity);
        config.json_logs = self.format.as_deref().map_or(config.json_logs, |format| format == "json");
        Ok(config)
    }
}
