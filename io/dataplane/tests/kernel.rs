//! The kernel's own state and real connections, in namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod lab;

use lab::{
    Lab, Namespace, Rules, answers, ask, connect, connected, endpoints, entry, flows, name, pod_ip, pod_ip6,
    service,
};
use sealane_catalog::{ServiceType, TrafficPolicy};
use sealane_dataplane::{Update, address_sockets, follow_addresses, netlink_socket, spawn, spawn_watched};
use sealane_proxy::{NodeContext, PodInterface, RuleSink, Table, contract};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn the_kernel_keeps_the_contract() {
    for seed in 0..30 {
        // One for each: a program that another test starts just then has this one's sockets until it is executed, and
        // the table would still be the last sink's.
        let mut sink = Namespace::new().sink();
        contract::check(&mut sink, &contract::node(), &contract::history(seed, 15))
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn nft_lists_what_stands_there() {
    let namespace = Namespace::new();
    let mut rules = Rules::new(&namespace);
    let rule_lines = |listing: &str| listing.lines().filter(|l| l.contains("dnat")).count();
    rules.set(entry(service("a", &["10.96.0.20", "fd00:96::20"]), &endpoints(&[0, 1, 2])));
    let one = namespace.command("nft list ruleset");
    for text in [
        "table ip sealane",
        "table ip6 sealane",
        "10.96.0.20 . tcp . 80",
        "10.244.1.2 . 8080",
        "chain balance-3-offcluster",
        "numgen random mod 3",
        "type nat hook prerouting priority dstnat",
        "reject",
    ] {
        assert!(one.contains(text), "{text} is missing in\n{one}");
    }
    for n in 0..100 {
        rules.set(entry(service(&format!("s{n}"), &[&format!("10.96.1.{n}")]), &endpoints(&[0, 1, 2])));
    }
    let many = namespace.command("nft list ruleset");
    assert_eq!(rule_lines(&one), rule_lines(&many), "rules do not grow with Services");
    // Session affinity's rules look up by what they looked up: nft must not abort over them either.
    let sticky = sealane_catalog::Service { affinity_seconds: Some(60), ..service("b", &["10.96.0.30"]) };
    rules.set(entry(sticky, &endpoints(&[0, 1])));
    assert!(namespace.command("nft list ruleset").contains("update @affinity"));
    let mut balanced =
        sealane_catalog::Service { kind: ServiceType::LoadBalancer, ..service("c", &["10.96.0.40"]) };
    balanced.cluster_ips.push("fd00:96::40".parse().unwrap());
    balanced.source_ranges = vec!["198.18.0.0/16".into(), "2001:db8::/32".into()];
    balanced.ingress = ["198.51.100.1", "2001:db8:198::1"]
        .map(|ip| sealane_catalog::Ingress { ip: ip.parse().ok(), hostname: "".into(), proxy_mode: false })
        .into();
    rules.set(entry(balanced, &endpoints(&[0, 1])));
    let guarded = namespace.command("nft list ruleset");
    for text in ["198.51.100.1 . tcp . 80 . 198.18.0.0/16", "@sources drop", "goto balance-2-masquerade"] {
        assert!(guarded.contains(text), "{text} is missing in\n{guarded}");
    }
    rules.sink.clear().unwrap();
    assert_eq!(namespace.command("nft list ruleset"), "");
}

#[test]
fn connections_spread_evenly() {
    let lab = Lab::new(4);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    rules.set(entry(service("web", &["10.96.0.20"]), &endpoints(&[0, 1, 2])));
    flows::spread_evenly(&lab);
    // From the node itself, by its output hook, and masqueraded: its address towards each Pod.
    for (number, source) in answers(&lab.node, "10.96.0.20:80", 10) {
        assert_eq!(source.to_string(), format!("10.244.{number}.1"));
    }
    // Off the cluster: masqueraded.
    for (number, source) in answers(&lab.outside, "10.96.0.20:80", 10) {
        assert_eq!(source.to_string(), format!("10.244.{number}.1"));
    }
    // UDP as well.
    let seen: BTreeSet<usize> = lab.pods[3].run(|| {
        let fresh = |_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.96.0.20:80").unwrap();
            ask(&socket).unwrap().0
        };
        (0..60).map(fresh).collect()
    });
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
}

#[test]
fn ipv6_is_served_too() {
    let lab = Lab::new(3);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    let mut sticky = service("web", &["10.96.0.20", "fd00:96::20"]);
    let both: Vec<(IpAddr, &str)> =
        [pod_ip(0), pod_ip(1), pod_ip6(0), pod_ip6(1)].into_iter().map(|a| (a, "n1")).collect();
    rules.set(entry(sticky.clone(), &both));
    let pods = |list: Vec<lab::Answer>| list.into_iter().map(|(n, _)| n).collect::<BTreeSet<usize>>();
    assert_eq!(pods(answers(&lab.pods[2], "[fd00:96::20]:80", 40)), BTreeSet::from([0, 1]));
    let own = answers(&lab.pods[0], "[fd00:96::20]:80", 40);
    assert!(own.iter().any(|(n, s)| *n == 0 && *s != pod_ip6(0)), "hairpin is masqueraded: {own:?}");
    sticky.affinity_seconds = Some(60);
    rules.set(entry(sticky.clone(), &both));
    assert_eq!(pods(answers(&lab.pods[2], "[fd00:96::20]:80", 20)).len(), 1);
    rules.set(entry(sticky, &[]));
    let refused = connect(&lab.pods[2], "[fd00:96::20]:80", 1).remove(0).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn affinity_sticks_until_the_endpoint_goes() {
    // Whom the table remembers goes with the table.
    flows::affinity_sticks_until_the_endpoint_goes(Namespace::sink, false);
}

#[test]
fn nobody_there_is_refused_at_once() {
    let lab = Lab::new(2);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    let mut exposed = service("web", &["10.96.0.20"]);
    exposed.kind = ServiceType::NodePort;
    exposed.ports[0].node_port = 30_080;
    rules.set(entry(exposed.clone(), &[]));
    let refused = |from: &Namespace, to: &str| {
        let begun = Instant::now();
        let error = connect(from, to, 1).remove(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
        // A second SYN would come after one second: the first one was answered.
        assert!(begun.elapsed() < Duration::from_secs(1), "{to}");
    };
    for from in [&lab.pods[0], &lab.node, &lab.outside] {
        refused(from, "10.96.0.20:80");
        refused(from, "192.0.2.10:30080");
        refused(from, "10.96.0.20:8443"); // no such port
    }
    let udp = lab.pods[0].run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("10.96.0.20:80").unwrap();
        ask(&socket).unwrap_err().kind()
    });
    assert_eq!(udp, ErrorKind::ConnectionRefused);
    // As soon as somebody is there, they get through.
    rules.set(entry(exposed, &endpoints(&[1])));
    assert_eq!(answers(&lab.pods[0], "10.96.0.20:80", 1), [(1, pod_ip(0))]);
    refused(&lab.pods[0], "10.96.0.20:8443");
}

#[test]
fn hairpin_sees_the_node() {
    let lab = Lab::new(1);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    rules.set(entry(service("web", &["10.96.0.20"]), &endpoints(&[0])));
    for (number, source) in answers(&lab.pods[0], "10.96.0.20:80", 5) {
        assert_eq!((number, source.to_string().as_str()), (0, "10.244.0.1"));
    }
}

#[test]
fn node_ports_and_external_policies() {
    let lab = Lab::new(3);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    let mut exposed = service("web", &["10.96.0.20"]);
    exposed.kind = ServiceType::NodePort;
    exposed.ports[0].node_port = 30_080;
    exposed.external_ips = vec!["203.0.113.1".parse().unwrap()];
    // Pod 1 stands in for an endpoint on another node.
    let spread = [(pod_ip(0), "n1"), (pod_ip(1), "n2")];
    let away = [(pod_ip(1), "n2")];
    let seen = |from: &Namespace, to: &str| answers(from, to, 40).into_iter().collect::<BTreeSet<_>>();
    let expected = |list: &[(usize, &str)]| {
        list.iter().map(|(n, a)| (*n, a.parse().unwrap())).collect::<BTreeSet<lab::Answer>>()
    };
    rules.set(entry(exposed.clone(), &spread));
    for to in ["192.0.2.10:30080", "203.0.113.1:80"] {
        let masqueraded = expected(&[(0, "10.244.0.1"), (1, "10.244.1.1")]);
        assert_eq!(seen(&lab.outside, to), masqueraded);
        assert_eq!(seen(&lab.pods[2], to), masqueraded);
        assert_eq!(seen(&lab.node, to), masqueraded);
    }
    exposed.external_policy = TrafficPolicy::Local;
    rules.set(entry(exposed.clone(), &spread));
    for to in ["192.0.2.10:30080", "203.0.113.1:80"] {
        assert_eq!(
            seen(&lab.outside, to),
            expected(&[(0, lab::OUTSIDE_ADDRESS)]),
            "its own source, here alone"
        );
        assert_eq!(seen(&lab.pods[2], to), expected(&[(0, "10.244.2.2"), (1, "10.244.2.2")]));
        assert_eq!(seen(&lab.node, to), expected(&[(0, "10.244.0.1"), (1, "10.244.1.1")]));
    }
    rules.set(entry(exposed.clone(), &away));
    let dropped = connect(&lab.outside, "192.0.2.10:30080", 1).remove(0).unwrap_err();
    assert_eq!(dropped.kind(), ErrorKind::TimedOut);
    assert_eq!(seen(&lab.pods[2], "192.0.2.10:30080"), expected(&[(1, "10.244.2.2")]));
    exposed.internal_policy = TrafficPolicy::Local;
    rules.set(entry(exposed, &away));
    let dropped = connect(&lab.pods[2], "10.96.0.20:80", 1).remove(0).unwrap_err();
    assert_eq!(dropped.kind(), ErrorKind::TimedOut);
}

#[test]
fn udp_flows_leave_with_their_endpoint() {
    flows::udp_flows_leave_with_their_endpoint(Namespace::sink);
}

#[test]
fn changes_lose_no_connection() {
    flows::changes_lose_no_connection(Namespace::sink, 60);
}

#[test]
fn pods_are_told_by_their_links() {
    let lab = Lab::new(2);
    lab.serve();
    lab.outside.ip(&format!("route add 10.244.0.0/16 via {}", lab::NODE_ADDRESS));
    let reached = |interface: PodInterface| {
        let context = NodeContext { pod_cidrs: vec![], pod_interface: Some(interface), ..lab::context() };
        let mut table = Table::new(context.clone());
        let web = entry(service("web", &["10.96.0.20"]), &endpoints(&[0]));
        table.update([(&name("web"), Some(&web))]);
        let mut sink = lab.node.sink();
        sink.replace(&context, table.frontends()).unwrap();
        [&lab.pods[1], &lab.outside].map(|from| answers(from, "10.96.0.20:80", 1)[0].1)
    };
    let (node, outside): (IpAddr, IpAddr) =
        ("10.244.0.1".parse().unwrap(), lab::OUTSIDE_ADDRESS.parse().unwrap());
    assert_eq!(reached(PodInterface::Prefix("pod".into())), [pod_ip(1), node]);
    assert_eq!(reached(PodInterface::Named("pod1".into())), [pod_ip(1), node]);
    assert_eq!(reached(PodInterface::Named("pod".into())), [node, node], "a name is no prefix");
    assert_eq!(reached(PodInterface::Named("out".into())), [node, outside]);
}

#[test]
fn the_machines_addresses_are_followed() {
    let namespace = Namespace::new();
    let (publish, mut addresses) = tokio::sync::watch::channel(None);
    follow_addresses(namespace.run(address_sockets).unwrap(), publish).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut seen = |wanted: &[&str]| {
        let wanted: BTreeSet<IpAddr> = wanted.iter().map(|a| a.parse().unwrap()).collect();
        runtime.block_on(addresses.wait_for(|found| found.as_ref() == Some(&wanted))).unwrap();
    };
    seen(&["127.0.0.1", "::1"]);
    namespace.ip("addr add 192.0.2.77/32 dev lo");
    seen(&["127.0.0.1", "192.0.2.77", "::1"]);
    namespace.ip("addr add 2001:db8::77/128 dev lo nodad");
    seen(&["127.0.0.1", "192.0.2.77", "::1", "2001:db8::77"]);
    namespace.ip("addr del 192.0.2.77/32 dev lo");
    seen(&["127.0.0.1", "::1", "2001:db8::77"]);
}

#[test]
fn the_thread_follows_and_repairs() {
    let lab = Lab::new(2);
    lab.serve();
    let (updates, inbox) = std::sync::mpsc::channel();
    let proxy = spawn(Table::new(lab::context()), lab.node.sink().left_open(), inbox).unwrap();
    let wait = |revision: u64| {
        let mut applied = proxy.applied().clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { applied.wait_for(|r| *r >= revision).await.map(|_| ()) }).unwrap();
    };
    let web = |list: &[usize]| Some(Arc::new(entry(service("web", &["10.96.0.20"]), &endpoints(list))));
    updates.send(Update { revision: 10, services: vec![(name("web"), web(&[0]))], node: None }).unwrap();
    wait(10);
    assert_eq!(answers(&lab.pods[1], "10.96.0.20:80", 1), [(0, pod_ip(1))]);
    updates.send(Update { revision: 11, services: vec![(name("web"), web(&[1]))], node: None }).unwrap();
    wait(11);
    assert_eq!(answers(&lab.pods[0], "10.96.0.20:80", 1), [(1, pod_ip(0))]);
    // An update that changes no rule is applied as well.
    updates.send(Update { revision: 12, services: vec![], node: None }).unwrap();
    wait(12);
    let (full, partial, failures) = proxy.metrics().syncs();
    assert_eq!((full, partial, failures), (1, 1, 0));
    // Somebody flushes; any update, or a second without one, finds out.
    lab.node.command("nft flush ruleset");
    updates.send(Update { revision: 13, services: vec![], node: None }).unwrap();
    wait(13);
    assert_eq!(answers(&lab.pods[0], "10.96.0.20:80", 1), [(1, pod_ip(0))]);
    // Somebody writes behind our back what we are about to write: the batch fails, all is written anew.
    lab.node.command("nft delete element ip sealane services { 10.96.0.20 . tcp . 80 }");
    updates.send(Update { revision: 14, services: vec![(name("web"), web(&[]))], node: None }).unwrap();
    wait(14);
    let refused = connect(&lab.pods[0], "10.96.0.20:80", 1).remove(0).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(proxy.metrics().syncs().2 >= 1);
    drop(updates);
    proxy.join();
}

/// Whatever others do to the table is noticed when they do it: the look once a second would not see half of it.
#[test]
fn what_others_do_is_repaired_at_once() {
    let lab = Lab::new(2);
    lab.serve();
    let (updates, inbox) = std::sync::mpsc::channel();
    let sink = lab.node.sink().left_open();
    let watch = sink.watch(lab.node.run(netlink_socket).unwrap()).unwrap();
    let proxy = spawn_watched(Table::new(lab::context()), sink, inbox, watch).unwrap();
    let web = Some(Arc::new(entry(service("web", &["10.96.0.20", "fd00:96::20"]), &endpoints(&[0]))));
    updates.send(Update { revision: 1, services: vec![(name("web"), web)], node: None }).unwrap();
    let until = |what: &str, reached: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::yield_now();
        }
        begun.elapsed()
    };
    until("the first sync", &|| *proxy.applied().borrow() == 1);
    assert_eq!(answers(&lab.pods[1], "10.96.0.20:80", 1), [(0, pod_ip(1))]);
    for (number, deed) in (1..).zip([
        "nft flush ruleset",
        "nft flush table ip sealane",
        "nft delete table ip sealane",
        "nft delete table ip6 sealane",
        "nft flush map ip sealane services",
        "nft delete element ip sealane services { 10.96.0.20 . tcp . 80 }",
        "nft insert rule ip sealane services drop",
        "nft flush chain ip sealane prerouting",
    ]) {
        lab.node.command(deed);
        let took =
            until(deed, &|| proxy.metrics().repairs().0 >= number && proxy.metrics().syncs().0 > number);
        println!("{deed}: in force again after {took:?}");
        assert_eq!(answers(&lab.pods[1], "10.96.0.20:80", 1), [(0, pod_ip(1))], "{deed}");
    }
    // What others do to their own tables is theirs.
    let before = proxy.metrics().repairs();
    lab.node.command("nft add table ip other");
    lab.node.command("nft delete table ip other");
    let none = Some(Arc::new(entry(service("web", &["10.96.0.20"]), &[])));
    updates.send(Update { revision: 2, services: vec![(name("web"), none)], node: None }).unwrap();
    until("a change", &|| *proxy.applied().borrow() == 2);
    assert_eq!(proxy.metrics().repairs(), before);
    assert_eq!(proxy.metrics().syncs().2, 0, "nothing failed");
    drop(updates);
    proxy.join();
}

#[test]
fn udp_flows_end_with_their_service_and_stay_with_who_still_serves() {
    let lab = Lab::new(3);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    let dns = service("dns", &["10.96.0.10"]);
    rules.set(entry(dns.clone(), &endpoints(&[0])));
    let socket = connected(&lab.pods[2], "10.96.0.10:80");
    assert_eq!(ask(&socket).unwrap().0, 0);
    // It terminates and serves on: who was with it stays, who is new is not.
    let mut leaving = entry(dns.clone(), &endpoints(&[0, 1]));
    let slice = Arc::make_mut(&mut leaving.slices[0]);
    (slice.endpoints[0].ready, slice.endpoints[0].terminating) = (false, true);
    rules.set(leaving);
    assert_eq!(ask(&socket).unwrap().0, 0);
    assert_eq!(ask(&connected(&lab.pods[2], "10.96.0.10:80")).unwrap().0, 1);
    // It stops serving.
    rules.set(entry(dns.clone(), &endpoints(&[1])));
    assert_eq!(ask(&socket).unwrap().0, 1);
    // The Service is deleted: its address is nobody's, and the flow is not led anywhere any more.
    let other = connected(&lab.pods[2], "10.244.1.2:8080");
    assert_eq!(ask(&other).unwrap().0, 1);
    let changes = rules.table.update([(&dns.key, None)]);
    rules.sink.apply(&changes).unwrap();
    rules.sink.settle().unwrap();
    rules.sink.forget_flows().unwrap();
    assert!(ask(&socket).is_err());
    assert_eq!(ask(&other).unwrap().0, 1);
    let flows = rules.sink.flow_table().unwrap().unwrap();
    assert!(flows.entries > 0 && flows.limit > flows.entries && flows.dropped == 0, "{flows:?}");
}

/// One Service of 100,000 endpoints, beside which another comes, changes and goes.
#[test]
fn a_hundred_thousand_endpoints() {
    let namespace = Namespace::new();
    let mut rules = Rules::new(&namespace);
    let many: Vec<(IpAddr, &str)> =
        (0..100_000u32).map(|n| (std::net::Ipv4Addr::from(0x0a80_0000 + n).into(), "n1")).collect();
    let mut big = service("big", &["10.96.0.20"]);
    big.ports.truncate(1);
    rules.set(entry(big.clone(), &many));
    rules.set(entry(service("small", &["10.96.0.21"]), &endpoints(&[0])));
    rules.set(entry(service("small", &["10.96.0.21"]), &endpoints(&[1, 2])));
    let agree = |rules: &mut Rules| {
        let installed = rules.sink.read_back().unwrap();
        assert_eq!(installed.len(), rules.table.frontends().len());
        assert!(rules.table.frontends().values().all(|f| f.means(&installed[&f.key])));
    };
    agree(&mut rules);
    rules.set(entry(big.clone(), &many[1..]));
    agree(&mut rules);
    rules.set(entry(big, &[]));
    agree(&mut rules);
}

#[test]
fn maps_grow() {
    let namespace = Namespace::new();
    let mut rules = Rules::new(&namespace);
    let entries: Vec<sealane_catalog::Entry> = (0..1500)
        .map(|n: usize| {
            let address = format!("10.97.{}.{}", n / 250, n % 250);
            entry(service(&format!("s{n}"), &[&address]), &endpoints(&[n % 7, n % 11]))
        })
        .collect();
    for part in entries.chunks(100) {
        let keyed: Vec<_> = part.iter().map(|e| (&e.service.as_ref().unwrap().key, Some(e))).collect();
        let changes = rules.table.update(keyed);
        rules.sink.apply(&changes).unwrap();
    }
    let installed = rules.sink.read_back().unwrap();
    assert_eq!(installed.len(), 3000);
    assert!(rules.table.frontends().values().all(|f| f.means(&installed[&f.key])));
    assert!(rules.sink.intact().unwrap());
}
