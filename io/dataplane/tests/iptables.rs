//! iptables as it stands in the kernel, in namespaces of the test's own. Needs root, and iptables.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod lab;

use lab::{Lab, Namespace, Rules, answers, endpoints, entry, flows, pod_ip6, service};
use sealane_catalog::{Endpoint, EndpointPort, Entry, Protocol, Service, ServicePort, ServiceType, Slice};
use sealane_dataplane::Variant;
use sealane_proxy::{RuleSink, Table, contract};
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn iptables_keeps_the_contract() {
    for variant in [Variant::Nft, Variant::Legacy] {
        let namespace = Namespace::new();
        for seed in 0..6 {
            let mut sink = namespace.iptables(variant);
            contract::check(&mut sink, &contract::node(), &contract::history(seed, 12))
                .unwrap_or_else(|e| panic!("{variant:?}, seed {seed}: {e}"));
        }
    }
}

/// The Service and Pods of the article about gRPC (seed 003), whose rules it prints. Of comments it prints one alone.
#[test]
fn rules_are_those_that_people_know() {
    let key = lab::name("backend");
    let port = ServicePort {
        name: "grpc".into(),
        protocol: Protocol::Tcp,
        port: 8000,
        node_port: 0,
        app_protocol: "".into(),
    };
    let service = Service { ports: vec![port], ..service("backend", &["10.97.211.12"]) };
    let pods = ["10.80.167.226", "10.80.128.247", "10.80.153.167"];
    let slice = Slice {
        key: key.clone(),
        service: key.clone(),
        revision: 1,
        ipv6: false,
        ports: [EndpointPort {
            name: "grpc".into(),
            protocol: Protocol::Tcp,
            port: Some(8000),
            app_protocol: "".into(),
        }]
        .into(),
        endpoints: pods.iter().map(|p| Endpoint::new(p.parse().unwrap()).on("n1", "")).collect(),
        triggered: 0,
    };
    let backend = Entry { service: Some(Arc::new(service)), slices: vec![Arc::new(slice)] };
    let printed = "\
-A KUBE-SEP-EX64MF3TTLO7J5EC -p tcp -m tcp -j DNAT --to-destination 10.80.167.226:8000
-A KUBE-SEP-EX64MF3TTLO7J5EC -s 10.80.167.226/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-LMG22MVGXQA364F6 -p tcp -m tcp -j DNAT --to-destination 10.80.153.167:8000
-A KUBE-SEP-LMG22MVGXQA364F6 -s 10.80.153.167/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-MPFDKKCFY2PBGU4S -p tcp -m tcp -j DNAT --to-destination 10.80.128.247:8000
-A KUBE-SEP-MPFDKKCFY2PBGU4S -s 10.80.128.247/32 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.97.211.12/32 -p tcp -m comment --comment \"default/backend:grpc cluster IP\" -m tcp --dport 8000 \
                   -j KUBE-SVC-EHPSUHUW2JIVMPQD
-A KUBE-SVC-EHPSUHUW2JIVMPQD -j KUBE-SEP-EX64MF3TTLO7J5EC
-A KUBE-SVC-EHPSUHUW2JIVMPQD -m statistic --mode random --probability 0.33332999982 -j KUBE-SEP-MPFDKKCFY2PBGU4S
-A KUBE-SVC-EHPSUHUW2JIVMPQD -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-LMG22MVGXQA364F6";
    for variant in [Variant::Nft, Variant::Legacy] {
        let namespace = Namespace::new();
        let context = sealane_proxy::NodeContext {
            node_port_addresses: vec![],
            ..sealane_proxy::NodeContext::new("n1")
        };
        let mut table = Table::new(context.clone());
        table.update([(&key, Some(&backend))]);
        let mut sink = namespace.iptables(variant);
        sink.replace(&context, table.frontends()).unwrap();
        let saved = namespace.command(&format!(
            "iptables{}-save -t nat",
            if variant == Variant::Nft { "-nft" } else { "-legacy" }
        ));
        let named = |line: &&str| {
            ["-A KUBE-SERVICES", "-A KUBE-SVC-", "-A KUBE-SEP-"].iter().any(|n| line.starts_with(n))
        };
        let bare = |line: &str| match line.split_once("-m comment --comment ") {
            Some((before, after)) if !line.starts_with("-A KUBE-SERVICES") => {
                let rest = after.strip_prefix('"').map_or(after, |a| a.split_once('"').unwrap().1);
                format!("{before}{}", rest.split_once("-").map_or(String::new(), |(_, r)| format!("-{r}")))
            }
            _ => line.to_owned(),
        };
        let mut found: Vec<String> = saved.lines().filter(named).map(bare).collect();
        // The order within a Service's chain counts: whoever is first, the last takes the rest.
        let order: Vec<&String> = found.iter().filter(|l| l.starts_with("-A KUBE-SVC-")).collect();
        assert!(
            order[0].ends_with("MPFDKKCFY2PBGU4S") && order[2].ends_with("-j KUBE-SEP-EX64MF3TTLO7J5EC"),
            "{order:?}"
        );
        found.sort();
        assert_eq!(found.join("\n"), printed, "{variant:?}\n{saved}");
    }
}

#[test]
fn connections_spread_and_are_seen_as_they_should() {
    let lab = Lab::new(4);
    lab.serve();
    let mut rules = Rules::of(lab.node.iptables(Variant::Default));
    rules.set(entry(
        service("web", &["10.96.0.20", "fd00:96::20"]),
        &[endpoints(&[0, 1, 2]), vec![(pod_ip6(0), "n1"), (pod_ip6(1), "n1")]].concat(),
    ));
    flows::spread_evenly(&lab);
    for (number, source) in answers(&lab.node, "10.96.0.20:80", 10) {
        assert_eq!(source.to_string(), format!("10.244.{number}.1"));
    }
    let pods: BTreeSet<usize> =
        answers(&lab.pods[3], "[fd00:96::20]:80", 40).into_iter().map(|a| a.0).collect();
    assert_eq!(pods, BTreeSet::from([0, 1]));
}

#[test]
fn changes_lose_no_connection() {
    for variant in [Variant::Nft, Variant::Legacy] {
        println!("{variant:?}");
        flows::changes_lose_no_connection(|node| node.iptables(variant), 24);
    }
}

#[test]
fn affinity_sticks_until_the_endpoint_goes() {
    // The kernel's lists of clients stay.
    flows::affinity_sticks_until_the_endpoint_goes(|node| node.iptables(Variant::Default), true);
}

#[test]
fn udp_flows_leave_with_their_endpoint() {
    flows::udp_flows_leave_with_their_endpoint(|node| node.iptables(Variant::Default));
}

/// A change writes the chains that it touches: counters of the others go on.
#[test]
fn a_change_writes_what_it_touches() {
    for variant in [Variant::Nft, Variant::Legacy] {
        let lab = Lab::new(3);
        lab.serve();
        let mut rules = Rules::of(lab.node.iptables(variant));
        rules.set(entry(service("web", &["10.96.0.20"]), &endpoints(&[0])));
        rules.set(entry(service("other", &["10.96.0.21"]), &endpoints(&[0])));
        answers(&lab.pods[2], "10.96.0.20:80", 7);
        let counted = || {
            let program = if variant == Variant::Nft { "iptables-nft-save" } else { "iptables-legacy-save" };
            let saved = lab.node.command(&format!("{program} -c -t nat"));
            saved.lines().filter(|l| l.starts_with("[7:") && l.contains("web")).count()
        };
        // KUBE-SERVICES, KUBE-SVC- and KUBE-SEP-.
        assert_eq!(counted(), 3, "{variant:?}");
        rules.set(entry(service("other", &["10.96.0.21"]), &endpoints(&[0, 1])));
        assert_eq!(counted(), 3, "{variant:?}");
        // An address that comes writes the chain that all share anew.
        rules.set(entry(service("third", &["10.96.0.22"]), &endpoints(&[0])));
        assert_eq!(counted(), 2, "{variant:?}");
    }
}

#[test]
fn what_others_do_is_seen() {
    for (variant, program) in [(Variant::Nft, "iptables-nft"), (Variant::Legacy, "iptables-legacy")] {
        let namespace = Namespace::new();
        let mut rules = Rules::of(namespace.iptables(variant));
        rules.set(entry(service("web", &["10.96.0.20"]), &endpoints(&[0])));
        namespace.command(&format!("{program} -t nat -A PREROUTING -d 192.0.2.77 -j ACCEPT"));
        assert!(rules.sink.intact().unwrap(), "{variant:?}: what others add to their own chains is theirs");
        for deed in ["-t nat -F", "-t filter -F", "-t nat -F PREROUTING", "-t filter -F KUBE-PROXY-CANARY"] {
            namespace.command(&format!("{program} {deed}"));
            assert!(!rules.sink.intact().unwrap(), "{variant:?}: {deed}");
            rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
            assert!(rules.sink.intact().unwrap(), "{variant:?}: {deed}");
        }
        namespace.command(&format!("{program} -t nat -F"));
        namespace.command(&format!("{program} -t nat -X"));
        assert!(!rules.sink.intact().unwrap(), "{variant:?}");
    }
}

/// Everything goes that is ours, or kube-proxy's, and nothing else.
#[test]
fn clearing_leaves_what_is_others() {
    for (variant, program) in [(Variant::Nft, "iptables-nft"), (Variant::Legacy, "iptables-legacy")] {
        let namespace = Namespace::new();
        for rule in [
            "-t nat -N CNI",
            "-t nat -A PREROUTING -j CNI",
            "-A FORWARD -i br0 -j ACCEPT",
            "-t nat -N KUBE-SEP-AAAAAAAAAAAAAAAA",
        ] {
            namespace.command(&format!("{program} {rule}"));
        }
        let before = "-A FORWARD -i br0 -j ACCEPT\n-A PREROUTING -j CNI";
        let left = || {
            let saved = namespace.command(&format!("{program}-save"));
            let mut lines: Vec<String> = saved
                .lines()
                .filter(|l| l.starts_with("-A") || l.contains("KUBE"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines.join("\n")
        };
        let mut exposed = service("web", &["10.96.0.20", "fd00:96::20"]);
        exposed.kind = ServiceType::NodePort;
        exposed.ports[0].node_port = 30_080;
        let mut rules = Rules::of(namespace.iptables(variant));
        rules.set(entry(exposed, &endpoints(&[0, 1])));
        assert!(!left().contains("AAAAAAAAAAAAAAAA"), "what a kube-proxy left goes at once");
        assert!(left().contains("KUBE-NODEPORTS"));
        rules.sink.clear().unwrap();
        assert_eq!(left(), before, "{variant:?}");
        assert!(!namespace.command(&format!("{}-save", program.replace("ip", "ip6"))).contains("KUBE"));
        rules.sink.clear().unwrap();
        // Somebody else's rule leads to ours: the chain stays with him.
        rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
        namespace.command(&format!("{program} -t nat -A CNI -j KUBE-MARK-MASQ"));
        rules.sink.clear().unwrap();
        assert!(left().contains("-A KUBE-MARK-MASQ -j MARK") && !left().contains("KUBE-SVC"), "{}", left());
    }
}
