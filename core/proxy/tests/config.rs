//! kube-proxy's flags and configuration: what is read, what it means, what is refused and where.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use sealane_catalog::Node;
use sealane_proxy::PodInterface;
use sealane_proxy::config::{Config, Flags, LocalMode, Mode, NodePorts, Problem, SinkKind, Span, parse};
use std::collections::BTreeSet;
use std::net::IpAddr;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// What kubeadm writes, in block style, nulls and zeros as they stand there.
const KUBEADM: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: \"\"
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
metricsBindAddress: \"\"
mode: \"\"
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: \"\"
  rootHnsEndpointName: \"\"
  sourceVip: \"\"
";

#[test]
fn kubeadms_document_is_kube_proxys_defaults() {
    let config = parse(KUBEADM).unwrap();
    assert_eq!(config.mode, Mode::Iptables);
    assert_eq!(config.kubeconfig.as_deref(), Some("/var/lib/kube-proxy/kubeconfig.conf"));
    assert_eq!(config.local, LocalMode::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]));
    assert_eq!(config.node_ports, NodePorts::Ranges(vec![]));
    assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!((config.sync_period, config.min_sync_period), (Span::seconds(30), Span::default()));
    assert_eq!((config.masquerade_bit, config.masquerade_all, config.oom_score_adj), (14, false, -999));
    assert_eq!((config.conntrack.max(1), config.conntrack.max(8)), (Some(131_072), Some(262_144)));
    assert_eq!(config.conntrack.max(64), Some(1_048_576));
    assert_eq!(
        config.conntrack.sysctls,
        [("nf_conntrack_tcp_timeout_established", 86_400), ("nf_conntrack_tcp_timeout_close_wait", 3_600)]
    );
    assert_eq!(config.warnings, [""; 0]);
    // What is written out reads back as the same.
    assert_eq!(parse(&config.to_yaml()).unwrap().document, config.document);
    assert!(config.to_yaml().contains("configSyncPeriod: 15m0s\n"), "{}", config.to_yaml());
}

/// A line or more, what is said to it, and where.
const REFUSED: &[(&str, &str, (usize, usize))] = &[
    (
        "mode: userspace",
        "mode: Invalid value: \"userspace\": must be nftables, iptables, ebpf, ipvs or blank",
        (3, 7),
    ),
    ("moode: nftables", "unknown field `moode`", (3, 1)),
    ("iptables:\n  masqueradeBits: 1", "iptables: unknown field `masqueradeBits`", (4, 3)),
    ("iptables:\n  masqueradeBit: 32", "iptables.masqueradeBit: Invalid value: 32: must be within", (4, 18)),
    ("nftables:\n  masqueradeBit: -1", "nftables.masqueradeBit: Invalid value: -1: must be within", (4, 18)),
    ("iptables:\n  masqueradeBit: x", "iptables.masqueradeBit: invalid type", (4, 18)),
    ("iptables:\n  syncPeriod: 5", "iptables.syncPeriod: \"5\" is not a duration", (4, 15)),
    ("iptables:\n  syncPeriod: 5x", "iptables.syncPeriod: \"5x\" is not a duration", (4, 15)),
    ("iptables:\n  syncPeriod: -5s", "iptables.syncPeriod: Invalid value: \"-5s\": must be greater", (4, 15)),
    (
        "mode: nftables\nnftables:\n  minSyncPeriod: 40s",
        "nftables.syncPeriod: Invalid value: \"30s\": must be greater than or equal to nftables.minSyncPeriod",
        (0, 0),
    ),
    ("configSyncPeriod: -1s", "configSyncPeriod: Invalid value", (3, 19)),
    ("bindAddress: nowhere", "bindAddress: Invalid value: \"nowhere\": not a valid textual", (3, 14)),
    (
        "healthzBindAddress: 1.2.3:80",
        "healthzBindAddress: Invalid value: \"1.2.3\": must be a valid IP",
        (3, 21),
    ),
    (
        "metricsBindAddress: nothing",
        "metricsBindAddress: Invalid value: \"nothing\": must be IP:port",
        (3, 21),
    ),
    (
        "metricsBindAddress: 127.0.0.1:0",
        "metricsBindAddress: Invalid value: \"127.0.0.1:0\": must be a",
        (3, 21),
    ),
    ("clusterCIDR: 10.244.0.0", "clusterCIDR: Invalid value: \"10.244.0.0\": must be a valid CIDR", (3, 14)),
    ("clusterCIDR: 10.0.0.0/8,11.0.0.0/8", "clusterCIDR: Invalid value: \"10.0.0.0/8,11.0.0.0/8\"", (3, 14)),
    ("detectLocalMode: Guess", "detectLocalMode: Unsupported value: \"Guess\"", (3, 18)),
    (
        "detectLocalMode: BridgeInterface",
        "detectLocal.bridgeInterface: Invalid value: \"\": must not",
        (0, 0),
    ),
    (
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal:\n  interfaceNamePrefix: a-very-long-prefix",
        "detectLocal.interfaceNamePrefix: Invalid value",
        (5, 24),
    ),
    (
        "nodePortAddresses: [10.0.0.1]",
        "nodePortAddresses[0]: Invalid value: \"10.0.0.1\": must be a",
        (3, 20),
    ),
    (
        "nodePortAddresses: [10.0.0.0/8, primary]",
        "nodePortAddresses[1]: Invalid value: \"primary\": can't",
        (3, 20),
    ),
    (
        "oomScoreAdj: 1001",
        "oomScoreAdj: Invalid value: 1001: must be within the range [-1000, 1000]",
        (3, 14),
    ),
    ("conntrack:\n  maxPerCore: -1", "conntrack.maxPerCore: Invalid value: -1: must be greater", (4, 15)),
    (
        "conntrack:\n  udpTimeout: -1s",
        "conntrack.udpTimeout: Invalid value: \"-1s\": must be greater",
        (4, 15),
    ),
    ("clientConnection:\n  burst: -1", "clientConnection.burst: Invalid value: -1: must be greater", (4, 10)),
    ("logging:\n  format: xml", "logging.format: Invalid value: \"xml\": Unsupported log format", (4, 11)),
];

#[test]
fn every_refusal_has_a_sentence_and_a_place() {
    for (text, message, place) in REFUSED {
        let problems = parse(&format!("{HEAD}{text}\n")).expect_err(text);
        let Problem { line, column, message: said } = &problems[0];
        assert!(said.starts_with(message), "{text}: {said}");
        assert_eq!((*line, *column), *place, "{text}: {said}");
    }
    let all = parse(&format!("{HEAD}oomScoreAdj: 2000\nmode: x\nbindAddress: y\n")).unwrap_err();
    assert_eq!(all.len(), 3, "{all:?}");
    for (text, message) in [
        ("kind: Pod\n", "kind: Invalid value: \"Pod\": must be KubeProxyConfiguration"),
        ("apiVersion: v1\nkind: KubeProxyConfiguration\n", "apiVersion: Invalid value: \"v1\""),
        ("", "kind: Invalid value: \"\""),
        ("- a\n", "invalid type: sequence"),
    ] {
        let problems = parse(text).expect_err(text);
        assert!(problems[0].message.starts_with(message), "{text}: {problems:?}");
    }
}

#[test]
fn what_takes_no_effect_is_said() {
    let table = [
        ("mode: ipvs", "mode: "),
        ("featureGates: {Magic: true}", "featureGates: Magic "),
        ("enableProfiling: true", "enableProfiling: "),
        ("portRange: 1-2", "portRange: "),
        ("showHiddenMetricsForVersion: '1.35'", "showHiddenMetricsForVersion: "),
        ("windowsRunAsService: true", "windowsRunAsService: "),
        ("winkernel: {networkName: x}", "winkernel: "),
        ("nodePortAddresses: [127.0.0.0/8]", "nodePortAddresses[0]: "),
    ];
    for (text, begins) in table {
        let config = parse(&format!("{HEAD}{text}\n")).unwrap();
        assert!(
            config.warnings.len() == 1 && config.warnings[0].starts_with(begins),
            "{:?}",
            config.warnings
        );
    }
}

fn flags(line: &str) -> Flags {
    Flags::parse(&words(line)).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn flags_are_kube_proxys() {
    let config = |line: &str| flags(line).config(None).unwrap_or_else(|e| panic!("{line}: {e:?}"));
    let found = config(
        "--kubeconfig /k --proxy-mode=nftables --cluster-cidr 10.1.0.0/16,fd00::/64 --masquerade-all -v=4 \
         --hostname-override Node-1 --nodeport-addresses=10.0.0.0/8,192.0.2.1/32 --conntrack-max-per-core 0 \
         --conntrack-tcp-timeout-established 1h --iptables-min-sync-period=2s --feature-gates A=true,B=false",
    );
    assert_eq!((found.mode, found.verbosity, found.masquerade_all), (Mode::Nftables, 4, true));
    assert_eq!((found.kubeconfig.as_deref(), found.node_name.as_deref()), (Some("/k"), Some("node-1")));
    assert_eq!(found.conntrack.max(4), None);
    assert_eq!(found.conntrack.sysctls[0].1, 3600);
    assert_eq!(found.min_sync_period, Span::seconds(2));
    assert!(matches!(&found.node_ports, NodePorts::Ranges(r) if r.len() == 2));
    assert!(matches!(&found.local, LocalMode::ClusterCidr(r) if r.len() == 2));
    assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
    assert_eq!(config("--proxy-mode nftables").node_ports, NodePorts::Primary);
    assert_eq!(config("").node_ports, NodePorts::Ranges(vec![]));
    assert_eq!(config("--metrics-bind-address=").metrics, None);
    assert_eq!(config("--healthz-port 0").healthz, None);
    assert_eq!(config("--healthz-bind-address 127.0.0.1").healthz, Some("127.0.0.1:10256".parse().unwrap()));
    assert_eq!(config("--bind-address fd00::1").metrics, Some("[::1]:10249".parse().unwrap()));
    assert_eq!(
        config("--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix veth").local,
        LocalMode::Interface(PodInterface::Prefix("veth".into()))
    );
    assert!(flags("--cleanup").cleanup && !flags("--cleanup=false").cleanup);
    assert_eq!(flags("-v7").config(None).unwrap().verbosity, 7);
    for (line, why) in [
        ("--clean", "unknown flag \"--clean\""),
        ("start", "unexpected argument \"start\""),
        ("--config", "--config needs a value"),
        ("--cleanup=maybe", "--cleanup: \"maybe\" is neither true nor false"),
        ("--oom-score-adj many", "--oom-score-adj: \"many\""),
        ("-c x", "unexpected argument \"-c\""),
        ("--feature-gates A", "--feature-gates: \"A\""),
    ] {
        let said = Flags::parse(&words(line)).expect_err(line);
        assert!(said.starts_with(why), "{line}: {said}");
    }
}

#[test]
fn beside_a_file_few_flags_count() {
    let file = format!("{HEAD}mode: nftables\nhostnameOverride: from-file\nlogging: {{verbosity: 1}}\n");
    let found =
        flags("--config /x --proxy-mode ipvs --hostname-override me -v 3").config(Some(&file)).unwrap();
    assert_eq!((found.mode, found.node_name.as_deref(), found.verbosity), (Mode::Nftables, Some("me"), 3));
    assert_eq!(found.warnings, ["--proxy-mode takes no effect beside --config"]);
}

fn node(addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    Node {
        name: "n1".into(),
        zone: "a".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        pod_cidrs: pod_cidrs.iter().map(|c| (*c).into()).collect(),
        leaving: false,
        ready: true,
        labels: Default::default(),
    }
}

#[test]
fn node_ports_answer_where_they_should() {
    let machine: BTreeSet<IpAddr> =
        ["127.0.0.1", "192.0.2.10", "10.244.0.1", "198.51.100.7", "::1", "fe80::1", "2001:db8::10"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
    let table: [(&str, &[&str], &[&str]); 8] = [
        ("", &["192.0.2.10"], &["10.244.0.1", "192.0.2.10", "198.51.100.7", "2001:db8::10"]),
        ("nodePortAddresses: [primary]", &["192.0.2.10", "198.51.100.7"], &["192.0.2.10", "2001:db8::10"]),
        ("mode: nftables", &["192.0.2.10", "2001:db8::10"], &["192.0.2.10", "2001:db8::10"]),
        // Nobody knows the node's address: everywhere, as kube-proxy does.
        ("mode: nftables", &[], &["10.244.0.1", "192.0.2.10", "198.51.100.7", "2001:db8::10"]),
        // An address that the machine does not have (yet).
        ("mode: nftables", &["203.0.113.9", "2001:db8::10"], &["2001:db8::10"]),
        (
            "mode: nftables\nbindAddress: 198.51.100.7",
            &["192.0.2.10", "2001:db8::10"],
            &["198.51.100.7", "2001:db8::10"],
        ),
        ("nodePortAddresses: [192.0.2.0/24, '2001:db8::/32']", &[], &["192.0.2.10", "2001:db8::10"]),
        ("nodePortAddresses: [127.0.0.0/8]", &[], &["2001:db8::10"]),
    ];
    for (text, of_node, expected) in table {
        let config = parse(&format!("{HEAD}{text}\n")).unwrap();
        let context = config.node_context("n1", Some(&node(of_node, &[])), &machine).unwrap();
        let expected: Vec<IpAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(context.node_port_addresses, expected, "{text} {of_node:?}");
    }
    let config = |text: &str| parse(&format!("{HEAD}{text}\n")).unwrap();
    let all = |c: &Config, n: &Node| [c.all_addresses(Some(n), false), c.all_addresses(Some(n), true)];
    assert_eq!(all(&config(""), &node(&[], &[])), [true, true]);
    assert_eq!(all(&config("mode: nftables"), &node(&["192.0.2.10"], &[])), [false, true]);
    assert_eq!(all(&config("nodePortAddresses: ['::/0', 192.0.2.0/24]"), &node(&[], &[])), [false, true]);
}

#[test]
fn pods_are_told_by_the_nodes_range_or_by_link() {
    let config = |text: &str| parse(&format!("{HEAD}{text}\n")).unwrap();
    let none = BTreeSet::new();
    let by_node = config("detectLocalMode: NodeCIDR");
    assert_eq!(by_node.node_context("n1", None, &none), None);
    assert_eq!(by_node.node_context("n1", Some(&node(&[], &[])), &none), None);
    let context =
        by_node.node_context("n1", Some(&node(&[], &["10.244.1.0/24", "fd00:1::/64"])), &none).unwrap();
    assert!(context.detects_pods(false) && context.detects_pods(true));
    assert!(
        context.is_pod("10.244.1.9".parse().unwrap(), "")
            && !context.is_pod("10.244.2.9".parse().unwrap(), "")
    );
    let bridge = config("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}");
    let interface = bridge.node_context("n1", None, &none).unwrap().pod_interface.unwrap();
    assert!(interface.matches("cni0") && !interface.matches("cni01"));
    let prefix = config("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}");
    let interface = prefix.node_context("n1", None, &none).unwrap().pod_interface.unwrap();
    assert!(interface.matches("veth12") && !interface.matches("eth0"));
    let four = config("clusterCIDR: 10.244.0.0/16").node_context("n1", None, &none).unwrap();
    assert!(four.detects_pods(false) && !four.detects_pods(true));
}

#[test]
fn configz_is_kube_proxys_internal_form() {
    let shown = parse(KUBEADM).unwrap().configz();
    for part in [
        "{\"kubeproxy.config.k8s.io\":{",
        "\"Mode\":\"iptables\"",
        "\"ClusterCIDRs\":[\"10.244.0.0/16\"]",
        "\"HealthzBindAddress\":\"0.0.0.0:10256\"",
        "\"TCPEstablishedTimeout\":\"24h0m0s\"",
        "\"DetectLocalMode\":\"ClusterCIDR\"",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused(
        text in "(mode|iptables|ipvs|nodePortAddresses|conntrack|\\PC{0,6}|[:\\-\\[\\]{}\"' \n#é0-9a-z.]){0,30}",
        words in proptest::collection::vec("-{0,2}(v|config|cleanup|oom-score-adj|\\PC{0,4})(=\\PC{0,5})?", 0..4),
    ) {
        let _ = parse(&format!("{HEAD}{text}"));
        let _ = parse(&text);
        if let Ok(flags) = Flags::parse(&words) {
            let _ = flags.config(None);
        }
    }
}

#[test]
fn the_mode_says_what_rules_are_written_to() {
    for (written, mode, sink, warned) in [
        ("", Mode::Iptables, SinkKind::Nftables, false),
        ("iptables", Mode::Iptables, SinkKind::Iptables, false),
        ("nftables", Mode::Nftables, SinkKind::Nftables, false),
        ("ebpf", Mode::Ebpf, SinkKind::Ebpf, false),
        ("ipvs", Mode::Ipvs, SinkKind::Nftables, true),
    ] {
        let found = parse(&format!("{HEAD}mode: \"{written}\"\n")).unwrap();
        assert_eq!((found.mode, found.sink, !found.warnings.is_empty()), (mode, sink, warned), "{written}");
    }
    for kind in SinkKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert!("ipvs".parse::<SinkKind>().is_err());
}

/// What a running proxy can change to, and what it has to be started anew for.
#[test]
fn modes_change_without_a_new_start() {
    let of = |more: &str| parse(&format!("{HEAD}{more}")).unwrap();
    let before = of("mode: nftables\nclusterCIDR: 10.1.0.0/16\n");
    for (after, alone) in [
        ("mode: iptables\nclusterCIDR: 10.1.0.0/16\n", true),
        ("mode: iptables\nclusterCIDR: 10.1.0.0/16\niptables: {masqueradeBit: 5}\n", true),
        ("clusterCIDR: 10.1.0.0/16\n", true),
        ("mode: iptables\nclusterCIDR: 10.2.0.0/16\n", false),
        ("mode: iptables\nclusterCIDR: 10.1.0.0/16\nmetricsBindAddress: 127.0.0.1:1\n", false),
    ] {
        assert_eq!(before.differs_in_mode_alone(&of(after)), alone, "{after}");
    }
}
