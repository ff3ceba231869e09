//! The command line. Flags that scripts rely on are named in the interface; `--help` shows them with examples.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sealane_proxy::config::SinkKind;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Kubernetes service discovery and load balancing in one binary.
#[derive(Debug, Parser)]
#[command(name = "sealane", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all of it on this machine: API, controllers, DNS, service proxy and a node for Pods
    #[command(
        after_help = "Examples:\n  sealane up\n  sealane up --data-dir /tmp/try --api-address 127.0.0.1:0\n  \
        sealane up --nodes 3 --zones a,b\n  \
        sealane up --detach; kubectl --kubeconfig /var/lib/sealane/kubeconfig get nodes"
    )]
    Up(Box<UpArgs>),
    /// Stop what `sealane up --detach` started
    Down(DataDir),
    /// Play a story with real Pods and show what happens
    #[command(
        after_help = "Examples:\n  sealane demo          the stories there are\n  sealane demo grpc     why gRPC \
        calls all land on one Pod, and how a headless Service spreads them\n  sealane demo grpc --keep"
    )]
    Demo(DemoArgs),
    /// The node's images
    #[command(subcommand)]
    Image(ImageCommand),
    /// A shell in the node's network: Pod and Service addresses are reachable from there
    #[command(after_help = "Examples:\n  sealane shell\n  sealane shell -- curl http://10.96.0.1:443")]
    Shell(ShellArgs),
    /// The DNS server alone, with CoreDNS's flags and Corefile
    #[command(
        disable_help_flag = true,
        after_help = "Flags (as CoreDNS's): -conf FILE, -dns.port PORT, -pidfile FILE, -plugins, -quiet, -version"
    )]
    Dns {
        /// CoreDNS's flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// The service proxy alone, with kube-proxy's flags and KubeProxyConfiguration
    #[command(
        disable_help_flag = true,
        after_help = "Flags (as kube-proxy's): --config, --kubeconfig, --hostname-override, --cleanup...; \
        sealane proxy --help lists them"
    )]
    Proxy {
        /// kube-proxy's flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Say what is wrong with a Corefile or KubeProxyConfiguration, with line and column, without starting anything
    #[command(
        after_help = "Prints FILE:LINE:COLUMN: WHAT for each problem. Exit status: 0 without problems, 1 with some or \
        where a file can't be read.\n\nExamples:\n  sealane check /etc/coredns/Corefile\n  kubectl get configmap -n \
        kube-system coredns -o jsonpath={.data.Corefile} | sealane check -\n  sealane check --output json Corefile"
    )]
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DataDir {
    /// Where everything is kept [default: /var/lib/sealane as root, else ~/.local/state/sealane]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `sealane up`'s flags; each can stand in the configuration file under the same name in camelCase.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct UpArgs {
    /// The file's head, which is looked at first.
    #[arg(skip)]
    pub(crate) api_version: IgnoredAny,
    #[arg(skip)]
    pub(crate) kind: IgnoredAny,
    /// Where everything is kept [default: /var/lib/sealane as root, else ~/.local/state/sealane]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where to write the administrator's kubeconfig [default: DATA-DIR/kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The API's address; the next free port where this one is taken and none was asked for; port 0 picks one
    /// [default: 127.0.0.1:6443]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) api_address: Option<SocketAddr>,
    /// Range of Service addresses; a second one, of IPv6, for Services of two families [default: 10.96.0.0/12]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub(crate) service_cidr: Option<String>,
    /// Range of Pod addresses [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<String>,
    /// The cluster's DNS domain [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Ports of NodePort Services [default: 30000-32767]
    #[arg(long, value_name = "FIRST-LAST")]
    pub(crate) node_port_range: Option<String>,
    /// What carries Services out: nftables, iptables or ebpf [default: nftables]
    #[arg(long, value_name = "MODE")]
    pub(crate) proxy_mode: Option<SinkKind>,
    /// Addresses of Services of type LoadBalancer, as ranges like 10.9.0.0/24 or 10.9.0.5-10.9.0.20; `none`: they are
    /// somebody else's to give [default: the last but one part of the Service range]
    #[arg(long, value_name = "RANGE,…")]
    pub(crate) load_balancer_pool: Option<String>,
    /// Addresses of those that say by an annotation that they are internal [default: the last part of the Service range]
    #[arg(long, value_name = "RANGE,…")]
    pub(crate) internal_load_balancer_pool: Option<String>,
    /// Answer on this link for load balancers' addresses (ARP, neighbour discovery), so that its network reaches them
    #[arg(long, value_name = "LINK")]
    pub(crate) announce: Option<String>,
    /// The node's name; further nodes get it with -2, -3... [default: the last time's, or the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Nodes to make, each in a network of its own with its part of the Pods' range [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<u16>,
    /// Zones that the nodes are in, in turn
    #[arg(long, value_name = "ZONE,…", value_delimiter = ',')]
    pub(crate) zones: Vec<String>,
    /// API and controllers alone
    #[arg(long)]
    pub(crate) no_node: bool,
    /// Log lines as text or JSON, on standard error
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Say more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Go to the background once ready; `sealane down` stops it
    #[arg(long)]
    #[serde(skip)]
    pub(crate) detach: bool,
    /// Take flags from a YAML file (`apiVersion: sealane.dev/v1`); flags given here win
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Which story; none: a list
    pub(crate) name: Option<String>,
    /// Leave everything running afterwards, and say how to look at it
    #[arg(long)]
    pub(crate) keep: bool,
    /// Calls to make
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub(crate) calls: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Add the images of OCI or docker archives
    #[command(
        after_help = "Examples:\n  sealane image load web.tar\n  docker save web | sealane image load -"
    )]
    Load {
        /// Archives; `-`: standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Fetch an image from a registry
    Pull {
        /// e.g. nginx:1.27 or 127.0.0.1:5000/web
        reference: String,
        /// Speak HTTP without TLS
        #[arg(long)]
        plain_http: bool,
        /// Take whatever certificate the registry shows
        #[arg(long)]
        insecure: bool,
        #[command(flatten)]
        data: DataDir,
    },
    /// Show the images that are here
    List {
        /// For scripts
        #[arg(long, value_enum)]
        output: Option<Output>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Remove a reference, and the image with its last one
    Remove {
        /// A reference or an id
        reference: String,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Corefiles or KubeProxyConfigurations; `-`: standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// For scripts
    #[arg(long, value_enum)]
    pub(crate) output: Option<Output>,
    /// Port of server blocks that name none
    #[arg(long, default_value_t = 53, value_name = "PORT")]
    pub(crate) dns_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Which of several nodes [default: the first]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// What to run instead of a shell
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}
