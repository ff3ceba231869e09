//! Article 003: how a Service spreads connections, told by the rules that its reader finds on a node. The Service and its
//! endpoints are the article's own, addresses and all; what it says of gRPC itself is another test's.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Command;

use sealane_tests::{Start, Up, demo, eventually, run, sealane};

const BACKEND: &str = "\
apiVersion: v1
kind: Service
metadata: {name: backend}
spec:
  clusterIP: 10.97.211.12
  ports: [{name: grpc, port: 8000}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: backend-1
  labels: {kubernetes.io/service-name: backend}
addressType: IPv4
ports: [{name: grpc, port: 8000, protocol: TCP}]
endpoints:
- {addresses: [10.80.167.226]}
- {addresses: [10.80.128.247]}
- {addresses: [10.80.153.167]}
---
kind: Service
apiVersion: v1
metadata:
  name: backendh
spec:
  selector:
    app: backend #对应后端生产者或者消费者
  ports:
  - port: 8000
    protocol: TCP
    targetPort: 8000
  clusterIP: None
";

/// Rules that the article prints, of each chain in its order; without comments, but for that of KUBE-SERVICES.
const PRINTED: &[(&str, &[&str])] = &[
    (
        "KUBE-SERVICES",
        &[
            "-A KUBE-SERVICES -d 10.97.211.12/32 -p tcp -m comment --comment \"default/backend:grpc cluster IP\" -m tcp \
           --dport 8000 -j KUBE-SVC-EHPSUHUW2JIVMPQD",
        ],
    ),
    (
        "KUBE-SVC-EHPSUHUW2JIVMPQD",
        &[
            "-A KUBE-SVC-EHPSUHUW2JIVMPQD -m statistic --mode random --probability 0.33332999982 -j \
             KUBE-SEP-MPFDKKCFY2PBGU4S",
            "-A KUBE-SVC-EHPSUHUW2JIVMPQD -m statistic --mode random --probability 0.50000000000 -j \
             KUBE-SEP-LMG22MVGXQA364F6",
            "-A KUBE-SVC-EHPSUHUW2JIVMPQD -j KUBE-SEP-EX64MF3TTLO7J5EC",
        ],
    ),
    (
        "KUBE-SEP-EX64MF3TTLO7J5EC",
        &[
            "-A KUBE-SEP-EX64MF3TTLO7J5EC -s 10.80.167.226/32 -j KUBE-MARK-MASQ",
            "-A KUBE-SEP-EX64MF3TTLO7J5EC -p tcp -m tcp -j DNAT --to-destination 10.80.167.226:8000",
        ],
    ),
    (
        "KUBE-SEP-MPFDKKCFY2PBGU4S",
        &[
            "-A KUBE-SEP-MPFDKKCFY2PBGU4S -s 10.80.128.247/32 -j KUBE-MARK-MASQ",
            "-A KUBE-SEP-MPFDKKCFY2PBGU4S -p tcp -m tcp -j DNAT --to-destination 10.80.128.247:8000",
        ],
    ),
    (
        "KUBE-SEP-LMG22MVGXQA364F6",
        &[
            "-A KUBE-SEP-LMG22MVGXQA364F6 -s 10.80.153.167/32 -j KUBE-MARK-MASQ",
            "-A KUBE-SEP-LMG22MVGXQA364F6 -p tcp -m tcp -j DNAT --to-destination 10.80.153.167:8000",
        ],
    ),
];

/// A command in the node's network.
fn on_node(up: &Up, words: &[&str]) -> String {
    let data = up.kubeconfig();
    let mut command: Command = up.machine.command(sealane());
    command.args(["shell", "--data-dir"]).arg(data.parent().unwrap()).arg("--").args(words);
    run(&mut command, b"").ok()
}

/// A rule without its comment.
fn bare(line: &str) -> String {
    let (before, after) = line.split_once("-m comment --comment ").unwrap_or((line, ""));
    let rest = match after.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\" ").map_or("", |(_, rest)| rest),
        None => after.split_once(' ').map_or("", |(_, rest)| rest),
    };
    format!("{before}{rest}")
}

#[test]
fn the_rules_are_those_of_the_article() {
    let start = Start::new().arg("--proxy-mode=iptables");
    start.load(&[demo().named("backend:v1", &["web", "--port", "8000"], &[])]);
    let up = start.up();
    assert_eq!(
        up.apply(BACKEND).ok(),
        "service/backend created\nendpointslice.discovery.k8s.io/backend-1 created\nservice/backendh created\n"
    );
    let rules = |chain: &str| on_node(&up, &["iptables", "-t", "nat", "-S", chain]);
    eventually("the article's Service has its rules", || {
        let found = rules("KUBE-SERVICES");
        if found.contains("KUBE-SVC-EHPSUHUW2JIVMPQD") { Ok(()) } else { Err(found) }
    });
    for (chain, printed) in PRINTED {
        let saved = rules(chain);
        let lines = saved.lines().filter(|line| line.starts_with("-A "));
        if *chain == "KUBE-SERVICES" {
            let found: Vec<&str> = lines.filter(|line| line.contains("default/backend:")).collect();
            assert_eq!(found, *printed, "{saved}");
        } else {
            // kube-proxy marks those who are no Pods here since 1.22; the article's cluster was not told which are.
            let found: Vec<String> = lines.filter(|line| !line.contains("cluster IP\"")).map(bare).collect();
            assert_eq!(found, *printed, "{saved}");
        }
    }
    let listed = on_node(&up, &["iptables", "-t", "nat", "-n", "-L", "KUBE-SVC-EHPSUHUW2JIVMPQD"]);
    assert!(listed.contains("statistic mode random probability 0.33332999982"), "{listed}");
    assert!(listed.contains("default/backend:grpc -> 10.80.128.247:8000"), "{listed}");
    let saved = on_node(&up, &["iptables-save"]);
    assert!(!saved.contains("default/backendh"), "a headless Service has no rules: {saved}");

    connections_spread(&up);
    up.stop();
}

/// Real Pods behind a Service like it: each connection goes to one of three at random.
fn connections_spread(up: &Up) {
    up.ok(&["create", "deployment", "producer", "--image=backend:v1", "--port=8000", "--replicas=3"]);
    up.ok(&["expose", "deployment", "producer"]);
    up.ready_pods("default", "app=producer", 3);
    let address = up.value(&["get", "service", "producer"], "{.spec.clusterIP}");
    eventually("all three are endpoints", || {
        let found = on_node(up, &["iptables-save", "-t", "nat"]);
        let count = found.lines().filter(|l| l.contains("default/producer ->")).count();
        if count == 3 { Ok(()) } else { Err(found) }
    });
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..300 {
        let page = up.curl(&format!("{address}:8000"));
        let server = page.split("ServerIP").nth(1).unwrap_or(&page).trim().to_owned();
        *counts.entry(server).or_default() += 1;
    }
    // 100 each, standard deviation 8.2: beyond 6 of them once in half a billion runs.
    assert!(counts.len() == 3 && counts.values().all(|c| (51..=149).contains(c)), "{counts:?}");
    up.ok(&["delete", "deployment,service", "producer"]);
    eventually("its rules go", || {
        let found = on_node(up, &["iptables-save"]);
        if found.contains("default/producer") { Err(found) } else { Ok(()) }
    });
}
