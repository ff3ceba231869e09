//! kube-proxy's rules, as tables: a Service and its endpoints, a packet, and its fate.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use proptest::prelude::*;
use sealane_catalog::{
    Endpoint, EndpointPort, Entry, Ingress, NamespacedName, Protocol, Service, ServicePort, ServiceType,
    Slice, TrafficPolicy,
};
use sealane_proxy::{
    Backend, Change, Class, Fate, Frontend, InMemorySink, NodeContext, Packet, RuleSink, Table, Target,
    cases, contract,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> NamespacedName {
    NamespacedName { namespace: "default".into(), name: text.into() }
}

fn service(text: &str, cluster_ip: &str) -> Service {
    Service {
        created: 100,
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
            app_protocol: "".into(),
        }],
        ..cases::service(text)
    }
}

/// `address@node`, with `-` behind it not ready, `~` terminating and serving, `!` terminating and not serving.
fn endpoint(text: &str) -> Endpoint {
    let state = text.chars().last().filter(|c| "-~!".contains(*c));
    let (address, node) = text.trim_end_matches(['-', '~', '!']).split_once('@').unwrap();
    let mut endpoint = Endpoint::new(ip(address)).on(node, "");
    endpoint.ready = state.is_none();
    endpoint.serving = matches!(state, None | Some('~'));
    endpoint.terminating = matches!(state, Some('~' | '!'));
    endpoint
}

fn slice(service: &str, endpoints: Vec<Endpoint>) -> Arc<Slice> {
    Arc::new(Slice {
        key: name(&format!("{service}-1")),
        service: name(service),
        revision: 1,
        ipv6: endpoints.first().is_some_and(|e| e.address.is_ipv6()),
        ports: [EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
            app_protocol: "".into(),
        }]
        .into(),
        endpoints: endpoints.into(),
        triggered: 0,
    })
}

fn entry(service: Service, endpoints: &[&str]) -> Entry {
    let slices = vec![slice(&service.key.name, endpoints.iter().map(|e| endpoint(e)).collect())];
    Entry { service: Some(Arc::new(service)), slices }
}

fn node() -> NodeContext {
    NodeContext {
        zone: "a".into(),
        node_port_addresses: vec![ip("192.0.2.10")],
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        ..NodeContext::new("n1")
    }
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(node());
    let keyed: Vec<(NamespacedName, &Entry)> =
        entries.iter().map(|e| (e.service.as_ref().unwrap().key.clone(), e)).collect();
    table.update(keyed.iter().map(|(k, e)| (k, Some(*e))));
    table
}

const POD: &str = "10.244.9.9";
const OWN: &str = "192.0.2.10";
const STRANGER: &str = "198.18.0.1";

fn packet(source: &str, destination: &str, port: u16) -> Packet<'static> {
    Packet {
        source: ip(source),
        destination: ip(destination),
        protocol: Protocol::Tcp,
        port,
        from_node: source == OWN,
        to_node: destination == OWN,
        interface: if source == OWN { "" } else { "eth0" },
    }
}

/// Short for a fate: backends' last octets, `m` behind those that see the node.
fn short(fate: &Fate) -> String {
    match fate {
        Fate::Reject => "reject".into(),
        Fate::Drop => "drop".into(),
        Fate::Pass => "pass".into(),
        Fate::Dnat { backends, masqueraded, .. } => backends
            .iter()
            .map(|b| {
                assert_eq!(b.port, 8080);
                let text = b.address.to_string();
                let mark = if masqueraded.contains(b) { "m" } else { "" };
                format!("{}{mark}", text.rsplit('.').next().unwrap())
            })
            .collect::<Vec<_>>()
            .join(" "),
    }
}

const BOTH: &[&str] = &["10.244.0.1@n1", "10.244.0.2@n2"];
const AWAY: &[&str] = &["10.244.0.2@n2"];
const LEAVING: &[&str] = &["10.244.0.1@n1~", "10.244.0.2@n2~", "10.244.0.3@n2!", "10.244.0.4@n1-"];

#[test]
fn cluster_addresses() {
    use TrafficPolicy::{Cluster, Local};
    let cases: &[(TrafficPolicy, &[&str], &str, &str)] = &[
        (Cluster, BOTH, POD, "1 2"),
        (Cluster, BOTH, OWN, "1m 2m"),
        (Cluster, BOTH, STRANGER, "1m 2m"),
        (Cluster, BOTH, "10.244.0.2", "1 2m"), // hairpin
        (Cluster, &[], POD, "reject"),
        (Cluster, &["10.244.0.1@n1-"], POD, "reject"),
        (Cluster, LEAVING, POD, "1 2"),
        (Cluster, &["10.244.0.1@n1", "10.244.0.2@n2~"], POD, "1"),
        (Local, BOTH, POD, "1"),
        (Local, AWAY, POD, "drop"),
        (Local, LEAVING, POD, "1"),
        (Local, &[], POD, "reject"),
    ];
    for (policy, endpoints, source, expected) in cases {
        let service = Service { internal_policy: *policy, ..service("web", "10.96.0.20") };
        let fate = table(&[entry(service, endpoints)]).trace(&packet(source, "10.96.0.20", 80));
        assert_eq!(&short(&fate), expected, "{policy:?} {endpoints:?} from {source}");
    }
}

#[test]
fn addresses_from_outside() {
    use TrafficPolicy::{Cluster, Local};
    let cases: &[(TrafficPolicy, &[&str], &str, &str)] = &[
        (Cluster, BOTH, STRANGER, "1m 2m"),
        (Cluster, BOTH, POD, "1m 2m"),
        (Cluster, &[], STRANGER, "reject"),
        (Local, BOTH, STRANGER, "1"),
        (Local, BOTH, POD, "1 2"), // the short circuit
        (Local, BOTH, OWN, "1m 2m"),
        (Local, AWAY, STRANGER, "drop"),
        (Local, AWAY, POD, "2"),
        (Local, LEAVING, STRANGER, "1"),
        (Local, &[], STRANGER, "reject"),
    ];
    for (policy, endpoints, source, expected) in cases {
        let mut balanced = service("web", "10.96.0.20");
        balanced.kind = ServiceType::LoadBalancer;
        balanced.ports[0].node_port = 30_080;
        balanced.external_policy = *policy;
        balanced.external_ips = vec![ip("203.0.113.1")];
        let ingress =
            |address: &str, proxy_mode| Ingress { ip: Some(ip(address)), hostname: "".into(), proxy_mode };
        balanced.ingress = vec![ingress("198.51.100.1", false), ingress("198.51.100.2", true)];
        let table = table(&[entry(balanced, endpoints)]);
        for (destination, port) in [("192.0.2.10", 30_080), ("203.0.113.1", 80), ("198.51.100.1", 80)] {
            let fate = table.trace(&packet(source, destination, port));
            assert_eq!(&short(&fate), expected, "{policy:?} {endpoints:?} {source} to {destination}");
        }
        // ipMode Proxy, and a port that nobody has.
        assert_eq!(table.trace(&packet(source, "198.51.100.2", 80)), Fate::Pass);
        assert_eq!(table.trace(&packet(source, "203.0.113.1", 81)), Fate::Pass);
        assert_eq!(table.trace(&packet(source, "10.96.0.20", 81)), Fate::Reject);
    }
}

#[test]
fn who_has_no_rules() {
    let headless = Service { headless: true, ..service("a", "10.96.0.1") };
    let named = Service { kind: ServiceType::ExternalName, ..service("b", "10.96.0.2") };
    let pending = Service { cluster_ips: vec![], ..service("c", "10.96.0.3") };
    let table = table(&[entry(headless, BOTH), entry(named, BOTH), entry(pending, BOTH)]);
    assert!(table.frontends().is_empty());
    let mut orphans = Table::new(node());
    let entry = Entry { service: None, slices: vec![slice("d", vec![endpoint(BOTH[0])])] };
    assert!(orphans.update([(&name("d"), Some(&entry))]).is_empty());
}

#[test]
fn hints_narrow_where_all_have_them() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let hinted =
        |text: &str, zones: &[&str], nodes: &[&str]| endpoint(text).with("", names(zones), names(nodes));
    let cases = [
        (vec![hinted(BOTH[0], &["a"], &[]), hinted(BOTH[1], &["b"], &[])], "1"),
        (vec![hinted(BOTH[0], &["a"], &[]), hinted(BOTH[1], &[], &[])], "1 2"),
        (vec![hinted(BOTH[0], &["c"], &[]), hinted(BOTH[1], &["b"], &[])], "1 2"),
        (vec![hinted(BOTH[0], &["a"], &["n9"]), hinted(BOTH[1], &["b"], &["n1"])], "2"),
        (vec![hinted(BOTH[0], &["a"], &["n9"]), hinted(BOTH[1], &["b"], &["n9"])], "1"),
    ];
    for (endpoints, expected) in cases {
        let service = Arc::new(service("web", "10.96.0.20"));
        let entry = Entry { service: Some(service), slices: vec![slice("web", endpoints.clone())] };
        assert_eq!(short(&table(&[entry]).trace(&packet(POD, "10.96.0.20", 80))), expected, "{endpoints:?}");
    }
}

#[test]
fn families_and_ports_are_kept_apart() {
    let mut dual = service("web", "10.96.0.20");
    dual.cluster_ips.push(ip("fd00:96::20"));
    let slices =
        vec![slice("web", vec![endpoint("10.244.0.1@n1")]), slice("web", vec![endpoint("fd00:244::1@n1")])];
    let table = table(&[Entry { service: Some(Arc::new(dual)), slices }]);
    let backends: Vec<(IpAddr, Vec<IpAddr>)> = table
        .frontends()
        .values()
        .map(|f| (f.key.address, f.target.backends().iter().map(|b| b.address).collect()))
        .collect();
    let expected =
        vec![(ip("10.96.0.20"), vec![ip("10.244.0.1")]), (ip("fd00:96::20"), vec![ip("fd00:244::1")])];
    assert_eq!(backends, expected);
    assert_eq!(
        table.trace(&Packet { protocol: Protocol::Udp, ..packet(POD, "10.96.0.20", 80) }),
        Fate::Reject
    );
}

#[test]
fn the_older_service_has_the_address_that_two_claim() {
    let claim = |text: &str, cluster_ip: &str, created| Service {
        external_ips: vec![ip("203.0.113.1")],
        created,
        ..service(text, cluster_ip)
    };
    let young = entry(claim("a", "10.96.0.1", 200), &["10.244.0.1@n1"]);
    let old = entry(claim("b", "10.96.0.2", 100), &["10.244.0.2@n1"]);
    let mut table = table(&[young, old.clone()]);
    let contested = packet(STRANGER, "203.0.113.1", 80);
    assert_eq!(short(&table.trace(&contested)), "2m");
    let changes = table.update([(&name("b"), None)]);
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(short(&table.trace(&contested)), "1m");
    table.update([(&name("b"), Some(&old))]);
    assert_eq!(short(&table.trace(&contested)), "2m");
}

/// Places of a frontend's backends that differ.
fn moved(old: &Frontend, new: &Frontend) -> usize {
    let (old, new) = (old.target.backends(), new.target.backends());
    (0..old.len().max(new.len())).filter(|i| old.get(*i) != new.get(*i)).count()
}

#[test]
fn a_change_costs_what_changed() {
    let many: Vec<String> = (1..=100).map(|n| format!("10.244.0.{n}@n1")).collect();
    let all: Vec<&str> = many.iter().map(String::as_str).collect();
    let others: Vec<Entry> =
        (1..50).map(|n| entry(service(&format!("o{n}"), &format!("10.96.1.{n}")), BOTH)).collect();
    let web = service("web", "10.96.0.20");
    let mut table = table(&[&others[..], &[entry(web.clone(), &all)]].concat());
    let mut set = |endpoints: &[&str]| {
        let changes = table.update([(&web.key, Some(&entry(web.clone(), endpoints)))]);
        match &changes[..] {
            [Change::SetFrontend { old, new }] => moved(old, new),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(set(&all[1..]), 2, "the last takes the place of the first");
    assert_eq!(set(&all), 1, "one more at the end");
    assert_eq!(set(&all[..99]), 2);
    assert_eq!(table.update([(&web.key, Some(&entry(web.clone(), &all[..99])))]), []);
}

#[test]
fn a_node_that_changes_changes_its_own_frontends_alone() {
    let mut exposed = service("web", "10.96.0.20");
    exposed.kind = ServiceType::NodePort;
    exposed.ports[0].node_port = 30_080;
    let mut table = table(&[entry(exposed, BOTH), entry(service("b", "10.96.0.21"), BOTH)]);
    assert_eq!(table.set_node(node()), []);
    let moved = NodeContext { node_port_addresses: vec![ip("192.0.2.11")], ..node() };
    let changes = table.set_node(moved);
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(table.trace(&packet(STRANGER, "192.0.2.10", 30_080)), Fate::Pass);
    assert_eq!(short(&table.trace(&packet(STRANGER, "192.0.2.11", 30_080))), "1m 2m");
}

proptest! {
    #[test]
    fn the_memory_sink_keeps_the_contract(seed in any::<u64>()) {
        let mut sink = InMemorySink::default();
        contract::check(&mut sink, &contract::node(), &contract::history(seed, 12)).unwrap();
        prop_assert_eq!(sink.replaced, 2);
    }

    #[test]
    fn backends_are_unique_and_never_none(seed in any::<u64>()) {
        let mut table = Table::new(contract::node());
        for round in contract::history(seed, 12) {
            table.update(round.iter().map(|(k, e)| (k, e.as_ref())));
            for frontend in table.frontends().values() {
                for target in [Some(&frontend.target), frontend.outside.as_ref()].into_iter().flatten() {
                    if let Target::Balance(backends) = target {
                        let unique: BTreeSet<&Backend> = backends.iter().collect();
                        prop_assert!(!backends.is_empty() && unique.len() == backends.len());
                    }
                }
                prop_assert!(frontend.class == Class::External || frontend.outside.is_none());
            }
        }
    }
}

/// A sink that forgets every third change: the suite must notice.
#[test]
fn the_contract_finds_a_sink_that_forgets() {
    #[derive(Default)]
    struct Forgetful(InMemorySink, usize);
    impl RuleSink for Forgetful {
        type Error = std::convert::Infallible;
        fn replace(
            &mut self,
            node: &NodeContext,
            frontends: &BTreeMap<sealane_proxy::FrontendKey, Arc<Frontend>>,
        ) -> Result<(), Self::Error> {
            self.0.replace(node, frontends)
        }
        fn apply(&mut self, changes: &[Change]) -> Result<(), Self::Error> {
            for change in changes {
                self.1 += 1;
                if !self.1.is_multiple_of(3) {
                    self.0.apply(std::slice::from_ref(change))?;
                }
            }
            Ok(())
        }
        fn read_back(&mut self) -> Result<sealane_proxy::Installed, Self::Error> {
            self.0.read_back()
        }
    }
    let history = contract::history(7, 20);
    assert!(contract::check(&mut Forgetful::default(), &contract::node(), &history).is_err());
}
