//! Pods of one kind over several Nodes and zones.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod memory;

use std::collections::BTreeMap;

use memory::{Cluster, text};
use sealane_controllers::Controller;
use serde_json::{Value, json};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Three Nodes: n1 and n3 in zone a, n2 in zone b.
fn cluster(seed: u64) -> Cluster {
    let mut c = Cluster::new(&Controller::ALL).with_seed(seed);
    c.create("namespaces", "", json!({"metadata": {"name": "shop"}}));
    for (name, zone) in [("n1", "a"), ("n2", "b"), ("n3", "a")] {
        c.create(
            "nodes",
            "",
            json!({"metadata": {"name": name, "labels": {ZONE: zone, HOSTNAME: name}}, "spec": {},
                "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }
    c.settle();
    c
}

fn deploy(c: &mut Cluster, name: &str, replicas: u32, extra: Value) {
    let mut spec = json!({"containers": [{"name": "c", "image": "a"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let body = json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}});
    c.create("deployments", "shop", body);
    c.settle();
}

/// Pods by what a function says of their Node ("": they wait).
fn counts(c: &Cluster, name: &str, of: impl Fn(&str) -> &'static str) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for pod in c.pods("shop").iter().filter(|p| text(p, "/metadata/labels/app") == name) {
        *found.entry(of(text(pod, "/spec/nodeName"))).or_default() += 1;
    }
    found
}

fn by_node(node: &str) -> &'static str {
    ["n1", "n2", "n3"].into_iter().find(|n| *n == node).unwrap_or("")
}

fn by_zone(node: &str) -> &'static str {
    match node {
        "n2" => "b",
        "n1" | "n3" => "a",
        _ => "",
    }
}

#[test]
fn replicas_are_on_as_many_nodes_as_there_are() {
    for seed in 1..20 {
        let mut c = cluster(seed);
        deploy(&mut c, "web", 3, json!({}));
        assert_eq!(counts(&c, "web", by_node), [("n1", 1), ("n2", 1), ("n3", 1)].into(), "seed {seed}");
        // Another Deployment's Pods are none of its business.
        deploy(&mut c, "db", 6, json!({}));
        assert_eq!(counts(&c, "db", by_node), [("n1", 2), ("n2", 2), ("n3", 2)].into(), "seed {seed}");
    }
}

#[test]
fn two_replicas_are_in_two_zones() {
    for seed in 1..20 {
        let mut c = cluster(seed);
        deploy(&mut c, "web", 2, json!({}));
        assert_eq!(counts(&c, "web", by_zone), [("a", 1), ("b", 1)].into(), "seed {seed}");
    }
}

#[test]
fn a_cordoned_node_gets_none() {
    let mut c = cluster(1);
    c.merge("nodes", "", "n2", json!({"spec": {"unschedulable": true}}), None);
    c.settle();
    deploy(&mut c, "web", 4, json!({}));
    assert_eq!(counts(&c, "web", by_node), [("n1", 2), ("n3", 2)].into());
}

fn constraint(key: &str, when: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "web"}}}]})
}

#[test]
fn a_zone_that_must_not_get_ahead_does_not() {
    for seed in 1..20 {
        let mut c = cluster(seed);
        deploy(&mut c, "web", 6, constraint(ZONE, "DoNotSchedule"));
        assert_eq!(counts(&c, "web", by_zone), [("a", 3), ("b", 3)].into(), "seed {seed}");
    }
}

#[test]
fn who_may_not_be_placed_waits_until_he_may() {
    let mut c = cluster(1);
    c.merge("nodes", "", "n2", json!({"spec": {"unschedulable": true}}), None);
    c.settle();
    deploy(&mut c, "web", 6, constraint(HOSTNAME, "DoNotSchedule"));
    // A Node that takes none counts all the same: nodeTaintsPolicy is Ignore unless it is said.
    assert_eq!(counts(&c, "web", by_node), [("", 4), ("n1", 1), ("n3", 1)].into());
    let why = "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread \
               constraints.";
    assert!(c.notes.iter().any(|n| n.message == why), "{:?}", c.notes.last());
    // Each Pod that is placed lets the next one be.
    c.merge("nodes", "", "n2", json!({"spec": {"unschedulable": false}}), None);
    c.settle();
    assert_eq!(counts(&c, "web", by_node), [("n1", 2), ("n2", 2), ("n3", 2)].into());
}

#[test]
fn a_node_without_the_label_is_out_of_the_question_where_it_must_have_it() {
    let mut c = cluster(1);
    deploy(&mut c, "web", 1, constraint("rack", "DoNotSchedule"));
    assert_eq!(counts(&c, "web", by_node), [("", 1)].into());
    let why = "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required \
               label).";
    assert!(c.notes.iter().any(|n| n.message == why), "{:?}", c.notes.last());
}
