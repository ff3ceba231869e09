//! `zone_order`: what is near the client comes first.

use sealane_catalog::{Builder, Source};
use sealane_dns::{Event, Server};
use serde_json::{Value, json};

use crate::cluster::{at, dig_from, knowing, relisted, server, service, slice};

fn node(name: &str, zone: &str, cidr: &str, address: &str) -> (Source, Value) {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    (
        Source::Nodes,
        json!({"metadata": {"name": name, "labels": labels}, "spec": {"podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
    )
}

/// Twelve endpoints: on n1 (zone a), n2 (a), n3 (b), four each.
fn cluster(spec: Value, hints: impl Fn(usize) -> Value) -> Vec<(Source, Value)> {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let endpoints: Vec<Value> = (0..12)
        .map(|at| {
            let (node, zone) = [("n1", "a"), ("n2", "a"), ("n3", "b")][at % 3];
            json!({"addresses": [format!("10.9.{}.{at}", at % 3 + 1)], "nodeName": node, "zone": zone,
                "hints": hints(at)})
        })
        .collect();
    let mut all = json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    vec![
        (Source::Namespaces, json!({"metadata": {"name": "d"}})),
        service("d", "db", all),
        service("d", "alias", json!({"type": "ExternalName", "externalName": "db.d.svc.cluster.local"})),
        slice("d", "db-a", "db", ports, json!(endpoints)),
        node("n1", "a", "10.244.1.0/24", "192.168.0.1"),
        node("n2", "a", "10.244.2.0/24", "192.168.0.2"),
        node("n3", "b", "10.244.3.0/24", "192.168.0.3"),
    ]
}

fn with(options: &str, objects: &[(Source, Value)]) -> Server {
    let corefile =
        format!(".:53 {{\n loadbalance\n cache 30\n kubernetes cluster.local {{\n {options}\n }}\n}}");
    knowing(&corefile, objects)
}

/// The nodes of the answers, in order, runs of the same as one: "1,2 3" is n1 and n2 mixed, then n3.
fn nodes(server: &mut Server, client: &str, name: &str) -> Vec<char> {
    let reply = dig_from(server, client, &format!("{name} A"));
    let text = reply.answers.iter().map(ToString::to_string);
    text.filter_map(|line| line.split_once(" A 10.9.").and_then(|(_, rest)| rest.chars().next())).collect()
}

#[track_caller]
fn groups(found: &[char], expected: &[&str]) {
    let mut rest = found;
    for group in expected {
        let (head, tail) = rest.split_at(group.len() * 4);
        assert!(head.iter().all(|node| group.contains(*node)), "{found:?} {expected:?}");
        rest = tail;
    }
    assert!(rest.is_empty(), "{found:?}");
}

#[test]
fn near_endpoints_come_first() {
    let none = |_| json!(null);
    let plain = cluster(json!({}), none);
    let same_node = cluster(json!({"trafficDistribution": "PreferSameNode"}), none);
    // Zone a's clients are told to use b's endpoints, and the other way round.
    let zones = cluster(json!({}), |at| json!({"forZones": [{"name": if at % 3 == 2 { "a" } else { "b" }}]}));
    let some =
        cluster(json!({}), |at| if at == 0 { json!(null) } else { json!({"forZones": [{"name": "b"}]}) });
    let to_nodes = cluster(json!({}), |at| json!({"forNodes": [{"name": format!("n{}", at % 3 + 1)}]}));
    let name = "db.d.svc.cluster.local";
    for (objects, client, expected) in [
        (&plain, "10.244.1.7", &["12", "3"][..]),
        (&plain, "10.244.3.7", &["3", "12"]),
        (&plain, "192.168.0.3", &["3", "12"]),
        (&plain, "::ffff:10.244.3.7", &["3", "12"]),
        (&plain, "203.0.113.9", &["123"]),
        (&same_node, "10.244.2.7", &["2", "1", "3"]),
        (&zones, "10.244.1.7", &["3", "12"]),
        (&some, "10.244.1.7", &["12", "3"]),
        (&to_nodes, "10.244.2.7", &["2", "1", "3"]),
    ] {
        let mut server = with("zone_order", objects);
        groups(&nodes(&mut server, client, name), expected);
        groups(&nodes(&mut server, client, "alias.d.svc.cluster.local"), expected);
    }
}

#[test]
fn one_clients_order_is_no_other_clients() {
    let objects = cluster(json!({}), |_| json!(null));
    let mut server = with("zone_order", &objects);
    for (client, expected) in
        [("10.244.1.7", ["12", "3"]), ("10.244.3.7", ["3", "12"]), ("10.244.2.7", ["12", "3"])]
    {
        for name in ["db.d.svc.cluster.local", "alias.d.svc.cluster.local"] {
            groups(&nodes(&mut server, client, name), &expected);
            assert!(server.preparation().is_none(), "it would be handed to others");
        }
    }
}

#[test]
fn a_pods_node_counts_more_than_its_range() {
    let mut objects = cluster(json!({}), |_| json!(null));
    objects.push((
        Source::Pods,
        json!({"metadata": {"namespace": "d", "name": "p"}, "spec": {"nodeName": "n3"},
            "status": {"podIP": "10.244.1.200"}}),
    ));
    let mut server = with("zone_order\n pods verified", &objects);
    groups(&nodes(&mut server, "10.244.1.200", "db.d.svc.cluster.local"), &["3", "12"]);
    groups(&nodes(&mut server, "10.244.1.201", "db.d.svc.cluster.local"), &["12", "3"]);
}

#[test]
fn nodes_come_and_go() {
    let mut objects = cluster(json!({}), |_| json!(null));
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    let mut server = server(". {\n loadbalance\n kubernetes cluster.local {\n zone_order\n }\n}");
    server.step(Event::Snapshot(relisted(&mut builder, &objects[..4])), at(0));
    groups(&nodes(&mut server, "10.244.3.7", "db.d.svc.cluster.local"), &["123"]);
    objects.push(node("n4", "b", "10.244.4.0/24", "192.168.0.4"));
    server.step(Event::Snapshot(relisted(&mut builder, &objects)), at(1));
    groups(&nodes(&mut server, "10.244.4.7", "db.d.svc.cluster.local"), &["3", "12"]);
    server.step(Event::Snapshot(relisted(&mut builder, &objects[..4])), at(2));
    groups(&nodes(&mut server, "10.244.4.7", "db.d.svc.cluster.local"), &["123"]);
}
