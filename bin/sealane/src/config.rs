//! What `sealane up` runs with: flags, over the configuration file, over the defaults; typed once, here.

pub(crate) mod nodes;
pub(crate) mod pools;
pub(crate) mod sentence;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use sealane_host::Cidr;
use sealane_proxy::config::place::find;
use sealane_proxy::config::{Problem, SinkKind};
use serde::Deserialize;
use serde::de::IgnoredAny;

use self::nodes::{Nodes, kept_name};
use self::pools::LoadBalancers;
use crate::cli::{LogFormat, UpArgs};

/// `up`'s settings.
#[derive(Clone, Debug)]
pub(crate) struct UpConfig {
    pub(crate) data_dir: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    /// `None`: the default, or the next free port.
    pub(crate) api_address: Option<SocketAddr>,
    pub(crate) service_cidr: Cidr,
    /// The IPv6 range of Services: its first address, and its prefix length in bits.
    pub(crate) service_cidr6: Option<(Ipv6Addr, u8)>,
    pub(crate) pod_cidr: Cidr,
    pub(crate) cluster_domain: String,
    pub(crate) node_ports: (u16, u16),
    pub(crate) proxy_mode: SinkKind,
    pub(crate) load_balancers: LoadBalancers,
    /// The link on which load balancers' addresses are answered for.
    pub(crate) announce: Option<String>,
    pub(crate) nodes: Nodes,
    pub(crate) no_node: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) verbose: u8,
}

/// The file's head; the rest are flags.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
}

const API_VERSION: &str = "sealane.dev/v1";
const KIND: &str = "Up";

/// The folder where everything is kept unless it is named: root's, or the user's state folder (XDG).
pub(crate) fn data_dir(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(dir) = given {
        return std::path::absolute(dir).map_err(|e| format!("--data-dir {}: {e}", dir.display()));
    }
    if rustix::process::getuid().is_root() {
        return Ok("/var/lib/sealane".into());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
    let state = state.or_else(home).ok_or("no home folder is known; give --data-dir")?;
    Ok(state.join("sealane"))
}

/// A file's text, and its flags.
fn from_file(path: &Path) -> Result<(String, UpArgs), String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        format!("--config {}: {e}; name a file that is there, or leave --config out", path.display())
    })?;
    let unread = |error: serde_yaml_ng::Error| {
        let Problem { mut line, column, message } = Problem::from(&error);
        if let Some((key, _)) =
            message.strip_prefix("duplicate field `").and_then(|rest| rest.split_once('`'))
            && let Some(last) =
                text.lines().collect::<Vec<_>>().iter().rposition(|line| line.starts_with(key))
        {
            // It is the file's place that is told, not the line's.
            line = last + 1;
        }
        let place = if line > 0 { format!(":{line}:{column}") } else { String::new() };
        format!("{}{place}: {}", path.display(), sentence::plain(&message))
    };
    // Whether it is YAML at all is asked before what it says.
    serde_yaml_ng::from_str::<IgnoredAny>(&text).map_err(unread)?;
    let head: Option<Head> = serde_yaml_ng::from_str(&text).map_err(unread)?;
    let (version, kind) = head.map_or((None, None), |head| (head.api_version, head.kind));
    let wrong = match (version.as_deref(), kind.as_deref()) {
        (Some(API_VERSION), None | Some(KIND)) => None,
        (Some(API_VERSION), Some(kind)) => {
            Some(("kind", format!("is {kind:?}, expected {KIND}; write `kind: {KIND}`, or leave it out")))
        }
        (Some(other), _) => {
            let why = format!("is {other:?}, expected {API_VERSION}; write `apiVersion: {API_VERSION}`");
            Some(("apiVersion", why))
        }
        (None, _) => {
            let why = format!("is missing; write `apiVersion: {API_VERSION}` in the first line");
            Some(("apiVersion", why))
        }
    };
    if let Some((key, why)) = wrong {
        let place = find(&text, key).map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
        return Err(format!("{}{place}: {key} {why}", path.display()));
    }
    let flags = serde_yaml_ng::from_str(&text).map_err(unread)?;
    Ok((text, flags))
}

/// What was said of flags that stand in a file, in the file's words and with their place.
fn of_file(path: &Path, text: &str, why: &str) -> String {
    let (mut said, mut place) = (why.to_owned(), String::new());
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    for flag in why.split(end).filter(|word| word.starts_with("--")) {
        let key = in_camel_case(flag.trim_start_matches('-'));
        let Some((line, column)) = find(text, &key) else { continue };
        if place.is_empty() {
            place = format!(":{line}:{column}");
        }
        said = said.replacen(flag, &key, 1);
    }
    format!("{}{place}: {said}", path.display())
}

/// `podCidr` of `pod-cidr`.
fn in_camel_case(flag: &str) -> String {
    let mut words = flag.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |all, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        all + &initial.to_ascii_uppercase() + rest
    })
}

fn node_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let legal: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let legal = legal.trim_matches(['-', '.']).to_owned();
    if legal.is_empty() { "sealane".to_owned() } else { legal }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("--node-port-range {text}: expected two ports like 30000-32767");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// kube-apiserver takes no larger IPv6 range either.
fn ipv6_range(text: &str) -> Result<(Ipv6Addr, u8), String> {
    let wrong =
        || format!("--service-cidr {text}: expected an IPv6 range like fd00:10:96::/108, /108 to /126");
    let (network, prefix) = text.trim().split_once('/').ok_or_else(wrong)?;
    let (network, prefix) = (network.parse::<Ipv6Addr>(), prefix.parse::<u8>());
    let (Ok(network), Ok(prefix @ 108..=126)) = (network, prefix) else { return Err(wrong()) };
    Ok((Ipv6Addr::from(u128::from(network) & (u128::MAX << (128 - u32::from(prefix)))), prefix))
}

impl UpConfig {
    /// From flags and the file that they name.
    pub(crate) fn new(flags: &UpArgs) -> Result<Self, String> {
        let Some(path) = &flags.config else { return UpConfig::of(flags, UpArgs::default()) };
        let (text, file) = from_file(path)?;
        UpConfig::of(flags, file).map_err(|why| match UpConfig::of(flags, UpArgs::default()) {
            // It is wrong without the file, too.
            Err(own) if own == why => why,
            _ => of_file(path, &text, &why),
        })
    }

    fn of(flags: &UpArgs, file: UpArgs) -> Result<Self, String> {
        let data_dir = data_dir(flags.data_dir.as_deref().or(file.data_dir.as_deref()))?;
        let text = |flag: &Option<String>, file: &Option<String>, default: &str| {
            flag.clone().or_else(|| file.clone()).unwrap_or_else(|| default.to_owned())
        };
        let range = |name: &str, value: String| value.parse::<Cidr>().map_err(|e| format!("{name}: {e}"));
        let services = text(&flags.service_cidr, &file.service_cidr, "10.96.0.0/12");
        let (first, second) = services.split_once(',').map_or((&*services, None), |(a, b)| (a, Some(b)));
        let service_cidr = range("--service-cidr", first.trim().to_owned())?;
        let service_cidr6 = second.map(ipv6_range).transpose()?;
        let pod_cidr = range("--pod-cidr", text(&flags.pod_cidr, &file.pod_cidr, "10.244.0.0/16"))?;
        if service_cidr.prefix > 28 {
            return Err(format!(
                "--service-cidr {service_cidr}: too small, /28 is the least (kube-dns has the tenth address)"
            ));
        }
        if pod_cidr.prefix > 28 {
            return Err(format!("--pod-cidr {pod_cidr}: too small, /28 is the least"));
        }
        if pod_cidr.overlaps(service_cidr) {
            return Err(format!(
                "--pod-cidr {pod_cidr} and --service-cidr {service_cidr} overlap; give two that don't"
            ));
        }
        let no_node = flags.no_node || file.no_node;
        let pool = |flag: &Option<String>, file: &Option<String>| flag.clone().or_else(|| file.clone());
        let external = pool(&flags.load_balancer_pool, &file.load_balancer_pool);
        let internal = pool(&flags.internal_load_balancer_pool, &file.internal_load_balancer_pool);
        let load_balancers =
            LoadBalancers::new([external.as_deref(), internal.as_deref()], service_cidr, pod_cidr, no_node)?;
        let name = flags.node_name.clone().or(file.node_name).or_else(|| kept_name(&data_dir));
        let name = name.unwrap_or_else(node_name);
        let zones = if flags.zones.is_empty() { &file.zones } else { &flags.zones };
        let count = flags.nodes.or(file.nodes).unwrap_or(1);
        let nodes = Nodes::new(&name, count, zones, pod_cidr, &data_dir)?;
        if no_node && count > 1 {
            return Err(format!("--no-node and --nodes {count} exclude each other; give one of them"));
        }
        let ports = text(&flags.node_port_range, &file.node_port_range, "30000-32767");
        Ok(UpConfig {
            kubeconfig: flags
                .kubeconfig
                .clone()
                .or(file.kubeconfig)
                .unwrap_or_else(|| data_dir.join("kubeconfig")),
            data_dir,
            api_address: flags.api_address.or(file.api_address),
            service_cidr,
            service_cidr6,
            pod_cidr,
            cluster_domain: text(&flags.cluster_domain, &file.cluster_domain, "cluster.local"),
            node_ports: port_range(&ports)?,
            proxy_mode: flags.proxy_mode.or(file.proxy_mode).unwrap_or_default(),
            load_balancers,
            announce: flags.announce.clone().or(file.announce),
            nodes,
            no_node,
            log_format: flags.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            verbose: flags.verbose.max(file.verbose),
        })
    }

    /// Where Pods reach the API.
    pub(crate) fn api_for_pods(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.nodes.api_address(), 6443)
    }

    /// The Service address of kube-dns: the tenth of the range.
    pub(crate) fn dns_address(&self) -> std::net::Ipv4Addr {
        self.service_cidr.nth(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> Result<UpConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        UpConfig::new(&UpArgs { config: Some(path), node_name: Some("flag".into()), ..UpArgs::default() })
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = with_file("apiVersion: sealane.dev/v1\npodCidr: 10.9.0.0/16\nnodeName: file\n").unwrap();
        assert_eq!(config.pod_cidr.to_string(), "10.9.0.0/16");
        assert_eq!(config.service_cidr.to_string(), "10.96.0.0/12");
        let node = config.nodes.first();
        assert_eq!((node.name.as_str(), node.cidr.to_string()), ("flag", "10.9.0.0/24".to_owned()));
        assert_eq!((config.service_cidr6, config.load_balancers.reserved), (None, 512));
        let config =
            with_file("apiVersion: sealane.dev/v1\nserviceCidr: 10.96.0.0/12, fd00:10:96::9/108\n").unwrap();
        assert_eq!(config.service_cidr6, Some(("fd00:10:96::".parse().unwrap(), 108)));
    }

    #[test]
    fn a_node_keeps_its_name() {
        let data = tempfile::tempdir().unwrap();
        let flags = UpArgs { data_dir: Some(data.path().to_owned()), ..UpArgs::default() };
        let name = |flags: &UpArgs| UpConfig::new(flags).unwrap().nodes.first().name.clone();
        assert_eq!(name(&flags), node_name());
        let flag = UpArgs { node_name: Some("told".into()), ..flags.clone() };
        nodes::keep_name(data.path(), &UpConfig::new(&flag).unwrap().nodes).unwrap();
        assert_eq!(name(&flags), "told");
        assert_eq!(name(&UpArgs { node_name: Some("other".into()), ..flags }), "other");
    }

    #[test]
    fn the_file_may_ask_for_nodes() {
        let config = with_file("apiVersion: sealane.dev/v1\nnodes: 3\nzones: [a, b]\n").unwrap();
        let zones: Vec<&str> = config.nodes.all().iter().filter_map(|n| n.zone.as_deref()).collect();
        assert_eq!(zones, ["a", "b", "a"]);
    }

    #[test]
    fn what_a_flag_has_wrong_is_not_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, "apiVersion: sealane.dev/v1\npodCidr: 10.9.0.0\n").unwrap();
        let flags = UpArgs { config: Some(path), pod_cidr: Some("10.8.0.0".into()), ..UpArgs::default() };
        let why = UpConfig::new(&flags).unwrap_err();
        assert!(why.starts_with("--pod-cidr: 10.8.0.0 is not"), "{why}");
    }

    #[test]
    fn wrong_settings_are_said_with_their_names() {
        for (text, why) in [
            (
                "apiVersion: sealane.dev/v1\npodCidrs: 10.9.0.0/16\n",
                "c.yaml:2:1: unknown field `podCidrs`; is `podCidr` meant?",
            ),
            ("apiVersion: v2\n", "c.yaml:1:13: apiVersion is \"v2\", expected sealane.dev/v1"),
            (
                "apiVersion: sealane.dev/v1\npodCidr: 10.9.0.0\n",
                "c.yaml:2:10: podCidr: 10.9.0.0 is not an IPv4 range",
            ),
            ("apiVersion: sealane.dev/v1\npodCidr: 10.96.0.0/16\n", "overlap"),
            ("apiVersion: sealane.dev/v1\nserviceCidr: 10.96.0.0/30\n", "too small"),
            ("apiVersion: sealane.dev/v1\nnodePortRange: 5-1\n", "c.yaml:2:16: nodePortRange 5-1: expected"),
            (
                "apiVersion: sealane.dev/v1\nserviceCidr: 10.96.0.0/12,10.112.0.0/16\n",
                "expected an IPv6 range",
            ),
            ("apiVersion: sealane.dev/v1\nserviceCidr: 10.96.0.0/12,fd00::/64\n", "expected an IPv6 range"),
            ("apiVersion: sealane.dev/v1\nloadBalancerPool: 10.244.0.0/24\n", "overlaps --pod-cidr"),
            ("apiVersion: sealane.dev/v1\nnodes: 0\n", "c.yaml:2:8: nodes 0: one is the least; --no-node"),
            (
                "apiVersion: sealane.dev/v1\nnodes: 2\nnoNode: true\n",
                "c.yaml:3:9: noNode and nodes 2 exclude each other",
            ),
            ("apiVersion: sealane.dev/v1\nzones: [a b]\n", "c.yaml:2:8: zones: \"a b\" is no zone's name"),
            ("apiVersion: [", "c.yaml"),
        ] {
            let error = with_file(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
