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

/// `affinity` of one kind, which must be or should be, by a topology key, for Pods of this app.
fn affinity(kind: &str, must: bool, key: &str, app: &str) -> Value {
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    let when = "DuringSchedulingIgnoredDuringExecution";
    let terms = match must {
        true => json!({format!("required{when}"): [term]}),
        false => json!({format!("preferred{when}"): [{"weight": 100, "podAffinityTerm": term}]}),
    };
    json!({"affinity": {kind: terms}})
}

/// Where Pods of an app are, one after the other ("": it waits).
fn nodes(c: &Cluster, app: &str) -> Vec<&'static str> {
    let pods = c.pods("shop");
    let of = pods.iter().filter(|p| text(p, "/metadata/labels/app") == app);
    of.map(|p| by_node(text(p, "/spec/nodeName"))).collect()
}

/// What a Pod of `db` asks for, how many of `web` there are then and what they ask for; what is to be of the node of
/// `db` and those of `web`.
type Neighbours = (&'static str, Value, u32, Value, fn(&str, &[&str]) -> bool);

#[test]
fn pods_are_beside_others_or_away_from_them() {
    let (near, far) = ("podAffinity", "podAntiAffinity");
    let rows: &[Neighbours] = &[
        ("on its host", json!({}), 3, affinity(near, true, HOSTNAME, "db"), |db, web| {
            web.iter().all(|n| *n == db)
        }),
        ("in its zone", json!({}), 4, affinity(near, true, ZONE, "db"), |db, web| {
            web.iter().all(|n| by_zone(n) == by_zone(db))
        }),
        ("in no zone of its", json!({}), 4, affinity(far, true, ZONE, "db"), |db, web| {
            web.iter().all(|n| !n.is_empty() && by_zone(n) != by_zone(db))
        }),
        ("it won't have them", affinity(far, true, ZONE, "web"), 4, json!({}), |db, web| {
            web.iter().all(|n| !n.is_empty() && by_zone(n) != by_zone(db))
        }),
        ("rather on its host", json!({}), 1, affinity(near, false, HOSTNAME, "db"), |db, web| web == [db]),
        ("rather elsewhere", json!({}), 2, affinity(far, false, HOSTNAME, "db"), |db, web| {
            web.iter().all(|n| !n.is_empty() && *n != db)
        }),
        ("it would rather have them", affinity(near, false, HOSTNAME, "web"), 1, json!({}), |db, web| {
            web == [db]
        }),
        ("together wherever", json!({}), 4, affinity(near, true, HOSTNAME, "web"), |_, web| {
            !web[0].is_empty() && web.iter().all(|n| *n == web[0])
        }),
        ("one on each", json!({}), 3, affinity(far, true, HOSTNAME, "web"), |_, web| {
            let mut web = web.to_vec();
            web.sort_unstable();
            web == ["n1", "n2", "n3"]
        }),
    ];
    for (name, theirs, replicas, own, holds) in rows {
        for seed in 1..10 {
            let mut c = cluster(seed);
            deploy(&mut c, "db", 1, theirs.clone());
            deploy(&mut c, "web", *replicas, own.clone());
            let (db, web) = (nodes(&c, "db"), nodes(&c, "web"));
            assert!(
                web.len() == *replicas as usize && holds(db[0], &web),
                "{name}, seed {seed}: {db:?} {web:?}"
            );
        }
    }
}

#[test]
fn who_waits_for_a_neighbour_is_placed_beside_it() {
    let mut c = cluster(1);
    deploy(&mut c, "web", 2, affinity("podAffinity", true, HOSTNAME, "db"));
    assert_eq!(nodes(&c, "web"), ["", ""]);
    let said = |c: &Cluster, why: &str| c.notes.iter().any(|n| n.message == why);
    assert!(said(&c, "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."));
    deploy(&mut c, "db", 1, json!({}));
    let db = nodes(&c, "db")[0];
    assert_eq!(nodes(&c, "web"), [db, db]);
    // Whoever comes too many says why.
    deploy(&mut c, "alone", 4, affinity("podAntiAffinity", true, HOSTNAME, "alone"));
    assert_eq!(nodes(&c, "alone").iter().filter(|n| n.is_empty()).count(), 1);
    assert!(said(&c, "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."));
    deploy(&mut c, "shy", 3, affinity("podAntiAffinity", true, HOSTNAME, "loud"));
    deploy(&mut c, "loud", 1, json!({}));
    assert_eq!(nodes(&c, "loud"), [""]);
    assert!(said(&c, "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules."));
}

#[test]
fn nodes_that_are_liked_come_first_and_those_that_would_rather_not_last() {
    let zone = |zone: &str, weight: i32| {
        json!({"weight": weight, "preference": {"matchExpressions":
            [{"key": ZONE, "operator": "In", "values": [zone]}]}})
    };
    let like = |terms: Value| json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}});
    let taint = json!([{"key": "old", "effect": "PreferNoSchedule"}]);
    let tolerate = json!({"tolerations": [{"key": "old", "operator": "Exists"}]});
    for seed in 1..20 {
        for (name, tainted, spec, expected) in [
            ("zone b is liked", None, like(json!([zone("b", 1)])), "b"),
            ("zone a is liked more", None, like(json!([zone("b", 10), zone("a", 20)])), "a"),
            ("who likes nothing in particular", Some("n2"), json!({}), "a"),
            ("a taint counts more than a liking", Some("n2"), like(json!([zone("b", 1)])), "a"),
            (
                "unless it is tolerated",
                Some("n2"),
                {
                    let mut spec = like(json!([zone("b", 1)]));
                    spec.as_object_mut().unwrap().extend(tolerate.as_object().unwrap().clone());
                    spec
                },
                "b",
            ),
        ] {
            let mut c = cluster(seed);
            if let Some(node) = tainted {
                c.merge("nodes", "", node, json!({"spec": {"taints": taint}}), None);
                c.settle();
            }
            deploy(&mut c, "web", 1, spec);
            assert_eq!(counts(&c, "web", by_zone), [(expected, 1)].into(), "{name}, seed {seed}");
        }
    }
    // Where there is nothing else, they have to do.
    let mut c = cluster(1);
    for node in ["n1", "n2", "n3"] {
        c.merge("nodes", "", node, json!({"spec": {"taints": taint}}), None);
    }
    c.settle();
    deploy(&mut c, "web", 3, json!({}));
    assert_eq!(counts(&c, "web", by_node), [("n1", 1), ("n2", 1), ("n3", 1)].into());
}
