//! `sealane proxy` in kube-proxy's place: an API without a node, a machine whose rules it writes, a Pod, and somebody
//! outside, each a network namespace.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::sync::atomic::{AtomicBool, Ordering};

use place::{Place, ip, keeps_connecting, keeps_talking, slice, source, web};
use sealane_tests::{Machine, eventually, request, run, sealane};

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";

#[test]
fn it_takes_kube_proxys_place() {
    let place = Place::new();
    let config = place.config("nodePortAddresses: [192.0.2.0/24]\n");
    let mut proxy = place.proxy(&["--config", &config]);
    place.up.apply(&web("")).ok();
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    place.reaches(&place.outside, "192.0.2.10:30080", "10.244.0.1");
    place.reaches(&place.outside, "10.96.0.50:80", "10.244.0.1");
    // The list leaves the other link's address out.
    assert!(source(&place.pod, "10.244.0.1:30080").is_err());
    // An address that the machine is given later.
    ip(place.node(), "addr add 192.0.2.11/24 dev out");
    place.reaches(&place.outside, "192.0.2.11:30080", "10.244.0.1");
    ip(place.node(), "addr del 192.0.2.11/24 dev out");
    servers_answer(&place);
    health_follows_the_node(&place);
    health_checks_of_services(&place);
    a_label_leaves_it_to_others(&place);

    // The rules outlive it, as kube-proxy's do.
    assert_eq!(proxy.stop(), 0);
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    let nft = |words: &str| run(place.node().command("nft").args(words.split_whitespace()), b"").ok();
    nft("add table ip somebodys");
    run(place.node().command(sealane()).args(["proxy", "--cleanup"]), b"").ok();
    assert_eq!(nft("list ruleset").trim(), "table ip somebodys {\n}");
    // A second time there is nothing to do.
    run(place.node().command(sealane()).args(["proxy", "--cleanup"]), b"").ok();
}

fn servers_answer(place: &Place) {
    let metrics = "127.0.0.1:10249";
    for (path, status, body) in [
        ("/proxyMode", 200, "nftables"),
        ("/healthz", 200, "ok"),
        ("/configz", 200, "\"Mode\":\"nftables\""),
        ("/configz", 200, "\"NodePortAddresses\":[\"192.0.2.0/24\"]"),
        ("/debug/pprof/", 404, "404 page not found"),
        ("/nothing", 404, "404 page not found"),
        ("/metrics", 200, "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram"),
    ] {
        let page = place.get(metrics, path).unwrap();
        assert!(page.status == status && page.body.contains(body), "{path}: {page:?}");
    }
    assert!(place.figure("kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}") >= 1.0);
    assert!(place.figure("kubeproxy_sync_proxy_rules_service_changes_total") >= 1.0);
    assert!(place.figure("kubeproxy_sync_proxy_rules_endpoint_changes_total") >= 1.0);
    assert_eq!(place.figure("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), 0.0);
    assert!(place.figure("kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}") > 1e9);
    assert_eq!(
        place.figure("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}"),
        0.0
    );
    // Whole once, changes after that: a NodePort's address that came and went among them.
    assert_eq!(
        place.figure("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}"),
        1.0
    );
    assert!(
        place.figure("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}") >= 3.0
    );
}

fn health_follows_the_node(place: &Place) {
    assert_eq!((place.status("/healthz"), place.status("/livez"), place.status("/x")), (503, 200, 404));
    place.up.apply(NODE).ok();
    let becomes = |status: u16| {
        eventually(&format!("/healthz {status}"), || {
            let page = place.get("127.0.0.1:10256", "/healthz")?;
            if page.status == status { Ok(page.body) } else { Err(page.body) }
        })
    };
    let body = becomes(200);
    assert!(body.contains("\"nodeEligible\":true") && body.contains("\"status\":{\"IPv4\":{"), "{body}");
    let taint = "ToBeDeletedByClusterAutoscaler=now:NoSchedule";
    place.up.ok(&["taint", "node", "n1", taint]);
    assert!(becomes(503).contains("\"nodeEligible\":false"));
    assert_eq!(place.status("/livez"), 200);
    place.up.ok(&["taint", "node", "n1", &format!("{taint}-")]);
    becomes(200);
    assert!(place.figure("kubeproxy_proxy_healthz_total{code=\"503\"}") >= 2.0);
}

fn health_checks_of_services(place: &Place) {
    let at = "192.0.2.10:32100";
    assert!(place.get(at, "/").is_err());
    let local = "  externalTrafficPolicy: Local\n  healthCheckNodePort: 32100\n";
    place.up.apply(&web(local)).ok();
    let becomes = |status: u16| {
        eventually(&format!("{at} {status}"), || match place.get(at, "/healthz") {
            Ok(page) if page.status == status => Ok(page),
            other => Err(format!("{other:?}")),
        })
    };
    let page = becomes(200);
    assert!(page.head.to_lowercase().contains("x-load-balancing-endpoint-weight: 1"), "{page:?}");
    let body: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    let wanted = serde_json::json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 1,
        "serviceProxyHealthy": true});
    assert_eq!(body, wanted);
    // NodePorts are limited to some addresses, and so are these.
    assert!(place.get("10.244.0.1:32100", "/").is_err());
    // Its source is kept.
    place.reaches(&place.outside, "192.0.2.10:30080", "192.0.2.1");
    place.up.apply(&slice("web-1", "web", "n2")).ok();
    let page = becomes(503);
    assert!(page.body.contains("\"localEndpoints\":0"), "{page:?}");
    // Rules follow health checks at once, not before them.
    eventually("a Service without local endpoints is counted", || {
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        match place.figure(&format!("{name}{{ip_family=\"IPv4\",traffic_policy=\"external\"}}")) {
            1.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    becomes(200);
    place.up.ok(&["patch", "service", "web", "-p", "{\"spec\": {\"externalTrafficPolicy\": \"Cluster\"}}"]);
    eventually("nobody listens", || match place.get(at, "/") {
        Err(_) => Ok(()),
        Ok(page) => Err(format!("{page:?}")),
    });
}

fn a_label_leaves_it_to_others(place: &Place) {
    let frontends = || place.figure("sealane_proxy_frontends");
    let before = frontends();
    let label = "service.kubernetes.io/service-proxy-name";
    place.up.ok(&["label", "service", "web", &format!("{label}=other")]);
    eventually(
        "nothing of it is left",
        || if frontends() < before { Ok(()) } else { Err(before.to_string()) },
    );
    place.up.ok(&["label", "service", "web", &format!("{label}-")]);
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    assert_eq!(frontends(), before);
}

#[test]
fn flags_alone_are_enough_and_the_nodes_own_address_takes_node_ports() {
    let place = Place::new();
    place.up.apply(NODE).ok();
    let status = "{\"status\": {\"addresses\": [{\"type\": \"InternalIP\", \"address\": \"192.0.2.10\"}]}}";
    place.up.ok(&["patch", "node", "n1", "--subresource=status", "-p", status]);
    place.up.apply(&web("")).ok();
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    let kubeconfig = place.up.kubeconfig().display().to_string();
    let words = [
        "--kubeconfig",
        &kubeconfig,
        "--proxy-mode=nftables",
        "--cluster-cidr=10.244.0.0/16",
        "--hostname-override=N1",
        "--conntrack-max-per-core=0",
        "--metrics-bind-address=0.0.0.0:10249",
        "--healthz-port=0",
        "-v=2",
    ];
    let mut proxy = place.proxy(&words);
    place.reaches(&place.outside, "192.0.2.10:30080", "10.244.0.1");
    assert!(source(&place.pod, "10.244.0.1:30080").is_err(), "primary is one address");
    let page = request(&place.outside, "GET", "192.0.2.10:10249".parse().unwrap(), "/proxyMode", "").unwrap();
    assert_eq!((page.status, page.body.as_str()), (200, "nftables"));
    assert!(place.get("127.0.0.1:10256", "/healthz").is_err());
    assert_eq!(proxy.stop(), 0);
}

#[test]
fn rules_wait_for_the_nodes_range_and_follow_it() {
    let place = Place::new();
    place.up.apply(&web("")).ok();
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    let config = place.config("detectLocalMode: NodeCIDR\nnftables:\n  minSyncPeriod: 10ms\n");
    let mut proxy = place.start(&["--config", &config]);
    eventually("its servers answer", || place.get("127.0.0.1:10249", "/metrics"));
    place.up.apply(&NODE.replace("n1", "n0")).ok();
    assert_eq!(
        place.figure("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}"),
        0.0
    );
    place.up.apply(&format!("{NODE}spec: {{podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24]}}\n")).ok();
    // Whoever is not in the range is masqueraded.
    place.reaches(&place.outside, "10.96.0.50:80", "10.244.0.1");
    assert_eq!(proxy.stop(), 0);
}

#[test]
fn a_changed_file_is_its_end() {
    let place = Place::new();
    let config = place.config("");
    let mut proxy = place.proxy(&["--config", &config]);
    std::fs::write(&config, "kind: Other\n").unwrap();
    assert_eq!(proxy.0.wait().unwrap().code(), Some(1));
}

/// Whether a mode's rules stand.
fn stands(node: &Machine, mode: &str) -> bool {
    let (program, words, sign) = match mode {
        "nftables" => ("nft", vec!["list", "tables"], "sealane"),
        _ => ("iptables-save", vec![], "KUBE-"),
    };
    run(node.command(program).args(words), b"").ok().contains(sign)
}

fn alone(place: &Place, mode: &str) {
    eventually(&format!("{mode} alone"), || {
        let said = place.get("127.0.0.1:10249", "/proxyMode")?.body;
        let stands = ["nftables", "iptables"].map(|m| (m, stands(place.node(), m)));
        let right = said == mode && stands.iter().all(|(m, stands)| *stands == (*m == mode));
        if right { Ok(()) } else { Err(format!("{said}: {stands:?}")) }
    });
}

#[test]
fn iptables_carry_it_too() {
    let place = Place::new();
    place.up.apply(&web("")).ok();
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    let config = place.config("nodePortAddresses: [192.0.2.0/24]\n").clone();
    let text = std::fs::read_to_string(&config).unwrap();
    // What another mode left goes once the new one stands.
    assert_eq!(place.proxy(&["--config", &config]).stop(), 0);
    assert!(stands(place.node(), "nftables"));
    std::fs::write(&config, text.replace("mode: nftables", "mode: iptables")).unwrap();
    let mut proxy = place.proxy(&["--config", &config]);
    alone(&place, "iptables");
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    place.reaches(&place.outside, "192.0.2.10:30080", "10.244.0.1");
    // kube-proxy's figures of this mode, true ones, and none of the other's.
    let saved = run(&mut place.node().command("iptables-save"), b"").ok();
    let (_, nat) = saved.split_once("*nat").unwrap();
    let nat = nat.split("COMMIT").next().unwrap();
    let own = nat.lines().filter(|l| l.starts_with("-A ") && l.contains("KUBE-")).count();
    let total = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"}";
    assert_eq!(place.figure(total), own as f64, "{nat}");
    assert!(place.figure(&total.replace("iptables_total", "iptables_last")) > 0.0);
    let failures = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv4\"}";
    assert_eq!(place.figure(failures), 0.0);
    let page = place.get("127.0.0.1:10249", "/metrics").unwrap();
    assert!(!page.body.contains("_nftables_"), "{page:?}");
    assert!(source(&place.pod, "10.244.0.1:30080").is_err());
    place.up.ok(&["delete", "endpointslice", "web-1"]);
    eventually("nobody serves", || match source(place.node(), "10.96.0.50:80") {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    });
    place.up.apply(&slice("web-1", "web", "n1")).ok();
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    // Somebody flushes everything.
    run(place.node().command("iptables").args(["-t", "nat", "-F"]), b"").ok();
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    // The rules outlive it, and the next start in the other mode removes them.
    assert_eq!(proxy.stop(), 0);
    place.reaches(place.node(), "10.96.0.50:80", "10.244.0.1");
    std::fs::write(&config, &text).unwrap();
    let mut proxy = place.proxy(&["--config", &config]);
    alone(&place, "nftables");
    assert_eq!(proxy.stop(), 0);
    // All modes' rules go.
    std::fs::write(&config, text.replace("mode: nftables", "mode: iptables")).unwrap();
    assert_eq!(place.proxy(&["--config", &config]).stop(), 0);
    run(place.node().command(sealane()).args(["proxy", "--cleanup"]), b"").ok();
    assert!(!stands(place.node(), "nftables") && !stands(place.node(), "iptables"));
}

#[test]
fn the_mode_changes_while_connections_go_on() {
    let place = Place::new();
    place.serve_echo();
    let config = place.config("nodePortAddresses: [192.0.2.0/24]\n");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut proxy = place.proxy(&["--config", &config]);
    place.reaches(&place.outside, "192.0.2.10:30080", "10.244.0.1");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let place = &place;
        let talking = [place.node(), &place.outside]
            .map(|from| scope.spawn(|| keeps_talking(from, "10.96.0.51:80", &done)));
        let connecting = [(place.node(), "10.96.0.50:80"), (&place.outside, "192.0.2.10:30080")]
            .map(|(from, to)| scope.spawn(|| keeps_connecting(from, to, &done)));
        for mode in ["iptables", "nftables", "iptables"] {
            std::fs::write(&config, text.replace("mode: nftables", &format!("mode: {mode}"))).unwrap();
            alone(place, mode);
        }
        done.store(true, Ordering::Relaxed);
        for clients in connecting {
            let (reached, failed) = clients.join().unwrap();
            assert!(reached > 20 && failed.is_empty(), "{reached} and {failed:?}");
        }
        for answered in talking.map(|t| t.join().unwrap().unwrap()) {
            assert!(answered > 20, "{answered}");
        }
    });
    let page = place.get("127.0.0.1:10249", "/configz").unwrap();
    assert!(page.body.contains("\"Mode\":\"iptables\""), "{page:?}");
    assert_eq!(place.figure("sealane_proxy_failures_total{task=\"rules\"}"), 0.0);
    assert_eq!(proxy.stop(), 0);
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name).display().to_string();
        std::fs::write(&path, text).unwrap();
        path
    };
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let unknown = file("unknown", &format!("{head}iptables:\n  masquradeAll: true\n"));
    let invalid = file("invalid", &format!("{head}oomScoreAdj: 5000\nmode: userspace\n"));
    let other = file("other", "apiVersion: v1\nkind: Pod\n");
    let lost = file("lost", &format!("{head}clientConnection:\n  kubeconfig: /no/such/file\n"));
    for (words, code, why) in [
        (vec!["--clusterCIDR=x"], 2, "proxy: unknown flag \"--clusterCIDR=x\"".to_owned()),
        (vec!["--config"], 2, "proxy: --config needs a value".to_owned()),
        (vec!["--config=/no/such"], 1, "proxy: cannot read /no/such".to_owned()),
        (
            vec!["--config", &unknown],
            1,
            format!("proxy: {unknown}:4:3: iptables: unknown field `masquradeAll`"),
        ),
        (vec!["--config", &invalid], 1, "(and 1 more)".to_owned()),
        (vec!["--config", &other], 1, "kind: Invalid value: \"Pod\"".to_owned()),
        (vec!["--config", &lost], 1, "no way to the API: /no/such/file".to_owned()),
        (vec!["--cluster-cidr=10.0.0.0"], 1, "proxy: clusterCIDR: Invalid value: \"10.0.0.0\"".to_owned()),
        (vec!["--conntrack-max-per-core=0"], 1, "give --kubeconfig".to_owned()),
        (
            vec!["--conntrack-max-per-core=0", "--proxy-mode=ebpf"],
            1,
            "proxy: proxy mode ebpf is not in this build: build Sealane with the feature ebpf".to_owned(),
        ),
    ] {
        let machine = Machine::new();
        let done = run(machine.command(sealane()).arg("proxy").args(&words), b"");
        assert_eq!(done.status.code(), Some(code), "{done}");
        let last = done.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("sealane: ") && last.contains(&why), "{why}: {done}");
    }
    let check = |path: &str| run(std::process::Command::new(sealane()).args(["check", path]), b"");
    let done = check(&invalid);
    assert_eq!(done.status.code(), Some(1), "{done}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines[0].starts_with(&format!("{invalid}:4:7: mode: ")), "{done}");
    assert!(lines[1].starts_with(&format!("{invalid}:3:14: oomScoreAdj: ")), "{done}");
    check(&file("good", &format!("{head}mode: nftables\n"))).ok();
    let written = folder.path().join("written").display().to_string();
    run(std::process::Command::new(sealane()).args(["proxy", "--write-config-to", &written]), b"").ok();
    check(&written).ok();
    let text = std::fs::read_to_string(&written).unwrap();
    assert!(text.contains("healthzBindAddress: 0.0.0.0:10256\n"), "{text}");
}
