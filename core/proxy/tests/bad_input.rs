//! What other people's objects can hold: whatever it is, nothing else suffers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use sealane_api::Object;
use sealane_catalog::{Builder, Event, NamespacedName, Protocol, Source};
use sealane_proxy::{Fate, NodeContext, Packet, Table};
use serde_json::{Value, json};

const NODE: &str = "192.0.2.10";

fn node() -> NodeContext {
    NodeContext {
        addresses: vec![NODE.parse().unwrap()],
        node_port_addresses: vec![NODE.parse().unwrap()],
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        ..NodeContext::new("n1")
    }
}

fn service(name: &str, cluster_ip: &str, spec: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1"},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [{"port": 80}]},
    });
    let target = object["spec"].as_object_mut().unwrap();
    target.extend(spec.as_object().unwrap().clone());
    object
}

fn slice(name: &str, service: &str, family: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}

/// A healthy Service `good` beside what is given.
fn table(services: &[Value], slices: &[Value]) -> Table {
    table_on(node(), services, slices)
}

fn table_on(node: NodeContext, services: &[Value], slices: &[Value]) -> Table {
    let sources = [Source::Services, Source::EndpointSlices];
    let mut builder = Builder::new(&sources);
    let good = service(
        "good",
        "10.96.0.10",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30010}]}),
    );
    let pods =
        slice("good-1", "good", "IPv4", json!([{"port": 8080}]), json!([{"addresses": ["10.244.0.9"]}]));
    let lists = [[&[good], services].concat(), [&[pods], slices].concat()];
    for (source, objects) in sources.into_iter().zip(lists) {
        builder.apply(Event::RelistBegin(source));
        for object in objects {
            builder.apply(Event::Applied(source, Object::new(object)));
        }
        builder.apply(Event::RelistEnd(source));
    }
    let (snapshot, _) = builder.publish();
    let mut table = Table::new(node);
    table.update(snapshot.services().map(|(key, entry)| (key, Some(&**entry))));
    table
}

/// What a Pod meets: backends as text.
fn met(table: &Table, destination: &str, port: u16) -> String {
    let destination: std::net::IpAddr = destination.parse().unwrap();
    let ipv6 = destination.is_ipv6();
    let fate = table.trace(&Packet {
        source: if ipv6 { "fd00::9" } else { "10.244.9.9" }.parse().unwrap(),
        destination,
        protocol: Protocol::Tcp,
        port,
        from_node: false,
        to_node: destination.to_string() == NODE,
        interface: "eth0",
    });
    match fate {
        Fate::Dnat { backends, .. } => backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

fn good_is_well(table: &Table) {
    assert_eq!(met(table, "10.96.0.10", 80), "10.244.0.9:8080");
    assert_eq!(met(table, NODE, 30_010), "10.244.0.9:8080");
}

#[test]
fn slices_that_hold_anything() {
    let ports = json!([{"port": 8080}]);
    let ready = |addresses: &[&str]| -> Value {
        addresses.iter().map(|a| json!({"addresses": [a], "nodeName": "n1"})).collect()
    };
    let table_of = |slices: &[Value]| table(&[service("bad", "10.96.0.66", json!({}))], slices);
    let cases: &[(&str, Vec<Value>, &str)] = &[
        (
            "addresses that are none",
            vec![slice(
                "a",
                "bad",
                "IPv4",
                ports.clone(),
                ready(&["garbage", "", "10.244.0.300", "1.2.3", "10.244.0.1/8"]),
            )],
            "Reject",
        ),
        (
            "one good among them",
            vec![slice("a", "bad", "IPv4", ports.clone(), ready(&["garbage", "10.244.0.1", "host.example"]))],
            "10.244.0.1:8080",
        ),
        (
            "families mixed in a slice",
            vec![slice(
                "a",
                "bad",
                "IPv4",
                ports.clone(),
                ready(&["fd00::1", "10.244.0.1", "::ffff:10.244.0.2"]),
            )],
            "10.244.0.1:8080",
        ),
        (
            "IPv4 in a slice of IPv6, names, and a type of its own",
            vec![
                slice("a", "bad", "IPv6", ports.clone(), ready(&["10.244.0.1"])),
                slice("b", "bad", "FQDN", ports.clone(), ready(&["example.com"])),
                slice("c", "bad", "IPv9", ports.clone(), ready(&["10.244.0.2"])),
            ],
            "Reject",
        ),
        (
            "an address in several slices, and twice in one",
            vec![
                slice("a", "bad", "IPv4", ports.clone(), ready(&["10.244.0.1", "10.244.0.1", "10.244.0.2"])),
                slice("b", "bad", "IPv4", ports.clone(), ready(&["10.244.0.2", "10.244.0.1"])),
            ],
            "10.244.0.1:8080 10.244.0.2:8080",
        ),
        (
            "ports that are none",
            vec![
                slice("a", "bad", "IPv4", json!([{"port": null}]), ready(&["10.244.0.1"])),
                slice("b", "bad", "IPv4", json!([{"port": 0}]), ready(&["10.244.0.2"])),
                slice("c", "bad", "IPv4", json!([{"port": 70000}]), ready(&["10.244.0.3"])),
                slice("d", "bad", "IPv4", json!([{"port": -1}]), ready(&["10.244.0.4"])),
                slice("e", "bad", "IPv4", json!([{"port": "http"}]), ready(&["10.244.0.5"])),
                slice("f", "bad", "IPv4", json!([]), ready(&["10.244.0.6"])),
                slice("g", "bad", "IPv4", json!(null), ready(&["10.244.0.7"])),
                slice(
                    "h",
                    "bad",
                    "IPv4",
                    json!([{"port": 8080, "protocol": "DCCP"}]),
                    ready(&["10.244.0.8"]),
                ),
            ],
            "Reject",
        ),
        (
            "fields of other shapes",
            vec![
                slice("a", "bad", "IPv4", ports.clone(), json!({"addresses": ["10.244.0.1"]})),
                slice(
                    "b",
                    "bad",
                    "IPv4",
                    ports.clone(),
                    json!([{"addresses": "10.244.0.2"}, 7, null, {"addresses": []}]),
                ),
                slice("c", "bad", "IPv4", json!("8080"), ready(&["10.244.0.3"])),
                slice(
                    "d",
                    "bad",
                    "IPv4",
                    ports.clone(),
                    json!([
                        {"addresses": ["10.244.0.4"], "conditions": "ready", "hints": 5, "nodeName": []}
                    ]),
                ),
            ],
            "10.244.0.4:8080",
        ),
    ];
    for (about, slices, expected) in cases {
        let table = table_of(slices);
        assert_eq!(&met(&table, "10.96.0.66", 80), expected, "{about}");
        good_is_well(&table);
    }
}

#[test]
fn services_that_hold_anything() {
    let endpoints =
        slice("bad-1", "bad", "IPv4", json!([{"port": 8080}]), json!([{"addresses": ["10.244.0.1"]}]));
    let cases: &[(&str, Value, &str, u16, &str)] = &[
        ("an address that is none", service("bad", "garbage", json!({})), "10.96.0.66", 80, "Drop"),
        (
            "addresses outside that are none",
            service("bad", "10.96.0.66", json!({"externalIPs": ["x", "", "203.0.113.1"]})),
            "203.0.113.1",
            80,
            "10.244.0.1:8080",
        ),
        (
            "one port twice",
            service(
                "bad",
                "10.96.0.66",
                json!({"ports": [{"port": 80, "name": ""}, {"port": 80, "name": "again"}]}),
            ),
            "10.96.0.66",
            80,
            "10.244.0.1:8080",
        ),
        (
            "ports that are none, beside one that is",
            service(
                "bad",
                "10.96.0.66",
                json!({"ports": [{"port": 0}, {"port": 99999}, {"port": 81, "protocol": "X"}, {"port": 80}]}),
            ),
            "10.96.0.66",
            80,
            "10.244.0.1:8080",
        ),
        (
            "a cluster address that another has",
            service("bad", "10.96.0.10", json!({"ports": [{"port": 80}, {"port": 81}]})),
            "10.96.0.10",
            80,
            "10.244.0.9:8080",
        ),
        (
            "another's cluster address as an external one",
            service("bad", "10.96.0.66", json!({"externalIPs": ["10.96.0.10"]})),
            "10.96.0.10",
            80,
            "10.244.0.9:8080",
        ),
        (
            "another's node port",
            service(
                "bad",
                "10.96.0.66",
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30010}]}),
            ),
            NODE,
            30_010,
            "10.244.0.9:8080",
        ),
        ("the node's address as the cluster's", service("bad", NODE, json!({})), NODE, 80, "10.244.0.1:8080"),
        (
            "an affinity for no time, ranges that are none",
            service(
                "bad",
                "10.96.0.66",
                json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": -5}},
                "loadBalancerSourceRanges": ["x", 5, null]}),
            ),
            "10.96.0.66",
            80,
            "10.244.0.1:8080",
        ),
    ];
    for (about, bad, destination, port, expected) in cases {
        // The healthy one is older: made before, or first by name.
        let mut bad = bad.clone();
        bad["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let table = table(&[bad], std::slice::from_ref(&endpoints));
        assert_eq!(&met(&table, destination, *port), expected, "{about}");
        assert_eq!(met(&table, NODE, 22), "Pass", "{about}: the node's own ports");
        good_is_well(&table);
    }
}

/// Ranges of Services that hold the node, its Pods, one another, or everything: what is there goes on to be reached.
#[test]
fn ranges_that_overlap() {
    let endpoints = |name: &str| {
        slice(name, name, "IPv4", json!([{"port": 8080}]), json!([{"addresses": ["10.244.0.1"]}]))
    };
    // Services at a Pod's address, at the node's, and at an endpoint's of its own.
    let services = [
        service("on-pod", "10.244.0.77", json!({})),
        service("on-node", NODE, json!({"ports": [{"port": 443}]})),
        service("on-itself", "10.244.0.1", json!({})),
    ];
    let slices = ["on-pod", "on-node", "on-itself"].map(endpoints);
    for ranges in [
        &["10.96.0.0/16", "192.0.2.0/24"][..],
        &["10.244.0.0/16"],
        &["10.244.0.0/24", "10.96.0.0/12", "10.96.0.0/16"],
        &["10.0.0.0/8", "192.0.2.10/32"],
        &["0.0.0.0/0", "::/0"],
    ] {
        let context =
            NodeContext { service_cidrs: ranges.iter().map(|r| r.parse().unwrap()).collect(), ..node() };
        let table = table_on(context, &services, &slices);
        good_is_well(&table);
        for (destination, port, expected) in [
            ("10.244.5.5", 8080, "Pass"),
            (NODE, 22, "Pass"),
            (NODE, 443, "10.244.0.1:8080"),
            ("10.244.0.77", 80, "10.244.0.1:8080"),
            ("10.244.0.1", 80, "10.244.0.1:8080"),
        ] {
            assert_eq!(met(&table, destination, port), expected, "{ranges:?}: {destination}:{port}");
        }
    }
}

/// What one Service has costs others nothing: not in meaning, not in changes.
#[test]
fn a_hundred_thousand_endpoints() {
    let many: Vec<Value> = (0..1000u32)
        .map(|n| {
            let address = |i: u32| format!("10.{}.{}.{}", 128 + n / 256, n % 256, i + 1);
            let endpoints: Value = (0..100).map(|i| json!({"addresses": [address(i)]})).collect();
            slice(&format!("big-{n}"), "big", "IPv4", json!([{"port": 8080}]), endpoints)
        })
        .collect();
    let mut table = table(&[service("big", "10.96.0.66", json!({}))], &many);
    good_is_well(&table);
    let key = table.frontends().keys().find(|k| k.address.to_string() == "10.96.0.66").copied().unwrap();
    assert_eq!(table.frontends()[&key].target.backends().len(), 100_000);
    // One slice goes: its hundred places are filled, and nobody else moves.
    let name = NamespacedName::new("default", "big");
    let mut entry = table.entry(&name).unwrap().clone();
    entry.slices.remove(500);
    let changes = table.update([(&name, Some(&entry))]);
    let [sealane_proxy::Change::SetFrontend { old, new }] = &changes[..] else { panic!("{}", changes.len()) };
    let (old, new) = (old.target.backends(), new.target.backends());
    assert_eq!(new.len(), 99_900);
    assert!((0..99_900).filter(|i| old[*i] != new[*i]).count() <= 100);
    good_is_well(&table);
}
