//! However events come, the result is what building from scratch gives, and the deltas lead from one to the next.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use sealane_api::Object;
use sealane_catalog::{Builder, Delta, Entry, Event, NamespacedName, Snapshot, Source};
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Op {
    Service(u8, u8, u8),
    NoService(u8),
    Slice(u8, u8, Vec<u8>),
    NoSlice(u8),
    Node(u8, u8),
    NoNode(u8),
    Pod(u8, u8),
    NoPod(u8),
    Garbage(u8, u8),
    Relist(Source),
    Publish,
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0u8..4;
    prop_oneof![
        3 => (n.clone(), 0u8..4, 0u8..3).prop_map(|(a, b, c)| Op::Service(a, b, c)),
        1 => n.clone().prop_map(Op::NoService),
        4 => (n.clone(), n.clone(), prop::collection::vec(0u8..6, 0..4)).prop_map(|(a, b, c)| Op::Slice(a, b, c)),
        1 => n.clone().prop_map(Op::NoSlice),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Node(a, b)),
        1 => n.clone().prop_map(Op::NoNode),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Pod(a, b)),
        1 => n.clone().prop_map(Op::NoPod),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Garbage(a, b)),
        1 => prop::sample::select(&Source::ALL[..]).prop_map(Op::Relist),
        2 => Just(Op::Publish),
    ]
}

/// The world: objects by source and key.
type World = BTreeMap<(Source, String), Value>;

fn meta(name: &str) -> Value {
    json!({"namespace": "default", "name": name})
}

fn change(world: &mut World, op: &Op) -> Option<(Source, String)> {
    let (source, name, value) = match op {
        Op::Service(n, ip, port) => (
            Source::Services,
            format!("s{n}"),
            Some(
                json!({"spec": {"clusterIP": if *ip == 0 { "None".into() } else { format!("10.96.0.{ip}") },
                "ports": [{"port": port}]}}),
            ),
        ),
        Op::NoService(n) => (Source::Services, format!("s{n}"), None),
        Op::Slice(n, service, addresses) => (
            Source::EndpointSlices,
            format!("e{n}"),
            Some(json!({"addressType": "IPv4", "ports": [{"port": 80}, {"port": null}],
                "endpoints": addresses.iter().map(|a| json!({"addresses": [format!("10.244.0.{a}")]}))
                    .collect::<Vec<_>>(),
                "metadata": {"labels": {"kubernetes.io/service-name": format!("s{service}")}}})),
        ),
        Op::NoSlice(n) => (Source::EndpointSlices, format!("e{n}"), None),
        Op::Node(n, zone) => (
            Source::Nodes,
            format!("n{n}"),
            Some(json!({"metadata": {"labels": {"topology.kubernetes.io/zone": format!("z{zone}")}}})),
        ),
        Op::NoNode(n) => (Source::Nodes, format!("n{n}"), None),
        Op::Pod(n, ip) => {
            (Source::Pods, format!("p{n}"), Some(json!({"status": {"podIP": format!("10.244.0.{ip}")}})))
        }
        Op::NoPod(n) => (Source::Pods, format!("p{n}"), None),
        Op::Garbage(n, which) => {
            let odd = [
                json!({"addressType": "FQDN", "endpoints": 7}),
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1", 3]}, null, {"addresses": []}],
                    "ports": [{"port": 70000}, {"protocol": "QUIC"}, []],
                    "metadata": {"labels": {"kubernetes.io/service-name": "s1"}}}),
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {"addresses": ["x"]}],
                    "metadata": {"labels": []}}),
                json!({"spec": [], "status": 3}),
            ];
            (Source::EndpointSlices, format!("e{n}"), Some(odd[usize::from(*which)].clone()))
        }
        Op::Relist(_) | Op::Publish => return None,
    };
    let key = (source, name.clone());
    match value {
        Some(mut value) => {
            let labels = value["metadata"]["labels"].take();
            value["metadata"] = meta(&name);
            value["metadata"]["labels"] = labels;
            if source == Source::Nodes {
                value["metadata"]["namespace"] = json!("");
            }
            world.insert(key.clone(), value);
        }
        None => {
            world.remove(&key);
        }
    }
    Some(key)
}

fn relist(builder: &mut Builder, world: &World, source: Source) {
    builder.apply(Event::RelistBegin(source));
    for ((of, _), value) in world {
        if *of == source {
            builder.apply(Event::Applied(source, Object::new(value.clone())));
        }
    }
    builder.apply(Event::RelistEnd(source));
}

fn from_scratch(world: &World) -> Arc<Snapshot> {
    let mut builder = Builder::new(&Source::ALL);
    for source in Source::ALL {
        relist(&mut builder, world, source);
    }
    builder.publish().0
}

fn check_delta(old: &Snapshot, new: &Snapshot, delta: &Delta) {
    let mut entries: BTreeMap<NamespacedName, Arc<Entry>> =
        old.services().map(|(k, v)| (k.clone(), v.clone())).collect();
    for change in &delta.services {
        assert_ne!(change.before, change.after, "a no-op in the delta");
        assert_eq!(entries.get(&change.key), change.before.as_ref());
        match &change.after {
            Some(after) => entries.insert(change.key.clone(), after.clone()),
            None => entries.remove(&change.key),
        };
    }
    let now: BTreeMap<_, _> = new.services().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(entries, now);
}

proptest! {
    #[test]
    fn incremental_equals_from_scratch(ops in prop::collection::vec(op(), 1..80)) {
        let (mut world, mut missed) = (World::new(), World::new());
        let mut builder = Builder::new(&[]);
        let mut snapshots = vec![Arc::new(Snapshot::default())];
        for op in &ops {
            match op {
                Op::Publish => {
                    let (snapshot, delta) = builder.publish();
                    let last = snapshots.last().unwrap();
                    check_delta(last, &snapshot, &delta);
                    prop_assert_eq!(snapshot.since(last), delta);
                    snapshots.push(snapshot);
                }
                Op::Relist(source) => relist(&mut builder, &world, *source),
                op => {
                    let Some((source, name)) = change(&mut world, op) else { continue };
                    // A lost event now and then, repaired by the relist at the end.
                    if name.ends_with('3') {
                        missed.insert((source, name), Value::Null);
                        continue;
                    }
                    match world.get(&(source, name.clone())) {
                        Some(value) => builder.apply(Event::Applied(source, Object::new(value.clone()))),
                        None => {
                            let mut gone = json!({"metadata": meta(&name)});
                            if source == Source::Nodes {
                                gone["metadata"]["namespace"] = json!("");
                            }
                            builder.apply(Event::Deleted(source, Object::new(gone)));
                        }
                    }
                }
            }
        }
        for source in Source::ALL {
            relist(&mut builder, &world, source);
        }
        let (last, _) = builder.publish();
        prop_assert_eq!(&*last, &*from_scratch(&world));
        for old in &snapshots {
            check_delta(old, &last, &last.since(old));
        }
        let (again, delta) = builder.publish();
        prop_assert!(Arc::ptr_eq(&again, &last) && delta.is_empty());
    }
}

#[test]
fn a_relist_shows_whole_and_absence_only_after_it() {
    let mut builder = Builder::new(&[Source::Services]);
    let service = |name: &str| Object::new(json!({"metadata": meta(name), "spec": {"clusterIP": "None"}}));
    builder.apply(Event::Applied(Source::Services, service("old")));
    builder.publish();
    builder.apply(Event::RelistBegin(Source::Services));
    builder.apply(Event::Applied(Source::Services, service("new")));
    let (half, _) = builder.publish();
    assert!(!half.synced());
    assert!(half.service(&NamespacedName::new("default", "new")).is_none());
    assert!(half.service(&NamespacedName::new("default", "old")).is_some());
    builder.apply(Event::RelistEnd(Source::Services));
    let (whole, delta) = builder.publish();
    assert!(whole.synced());
    assert_eq!(delta.services.len(), 2);
    assert!(whole.service(&NamespacedName::new("default", "old")).is_none());
    assert!(whole.service(&NamespacedName::new("default", "new")).is_some());
}

#[test]
fn a_burst_coalesces_and_a_new_version_of_the_same_meaning_is_no_change() {
    let mut builder = Builder::new(&[]);
    let web = |version: &str, port: u16| {
        let mut meta = meta("web");
        meta["resourceVersion"] = json!(version);
        Event::Applied(
            Source::Services,
            Object::new(
                json!({"metadata": meta, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": port}]}}),
            ),
        )
    };
    builder.apply(web("1", 80));
    builder.publish();
    for (version, port) in [("2", 81), ("3", 82), ("4", 80)] {
        builder.apply(web(version, port));
    }
    let (snapshot, delta) = builder.publish();
    assert!(delta.is_empty());
    assert_eq!(snapshot.revision(), 4);
}

#[test]
fn what_a_proxy_reads_beside_names_and_addresses() {
    let mut builder = Builder::new(&[]);
    let mut node = |spec: Value, metadata: Value| {
        let mut object = json!({"metadata": {"name": "n"}, "spec": spec, "status": {"addresses": [
            {"type": "ExternalIP", "address": "203.0.113.1"}, {"type": "Hostname", "address": "n"},
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"}]}});
        if let Some(when) = metadata.as_str() {
            object["metadata"]["deletionTimestamp"] = when.into();
        }
        builder.apply(Event::Applied(Source::Nodes, Object::new(object)));
        builder.publish().0.node("n").unwrap().as_ref().clone()
    };
    let tainted = json!({"taints": [{"key": "a"}, {"key": "ToBeDeletedByClusterAutoscaler", "value": "1"}]});
    let other = json!({"taints": [{"key": "a"}]});
    for (spec, deleted, leaving) in [
        (json!({}), Value::Null, false),
        (other.clone(), Value::Null, false),
        (tainted, Value::Null, true),
        (other, json!("2026-01-01T00:00:00Z"), true),
    ] {
        assert_eq!(node(spec.clone(), deleted).leaving, leaving, "{spec}");
    }
    assert!(!node(json!({}), Value::Null).ready);
    for (status, ready) in [("True", true), ("False", false), ("Unknown", false)] {
        let mut builder = Builder::new(&[]);
        let status = json!({"conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": status}]});
        let object = json!({"metadata": {"name": "n"}, "status": status});
        let fields = sealane_catalog::read::Fields::of(Source::Nodes);
        let object = fields.read(object.to_string().as_bytes()).unwrap();
        builder.apply(Event::Applied(Source::Nodes, Object::new(object)));
        assert_eq!(builder.publish().0.node("n").unwrap().ready, ready, "{status}");
    }
    let addresses: Vec<String> =
        node(json!({}), Value::Null).addresses.iter().map(|a| a.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.1", "2001:db8::1", "203.0.113.1"]);
    for (written, read) in
        [(json!("2026-01-01T00:00:00.25Z"), 1_767_225_600_250_i64), (json!("yesterday"), 0), (Value::Null, 0)]
    {
        let slice = json!({"metadata": {"namespace": "a", "name": "s", "labels": {"kubernetes.io/service-name": "s"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": written}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [format!("10.0.0.{}", read % 7)]}]});
        let fields = sealane_catalog::read::Fields::of(Source::EndpointSlices);
        let slice = fields.read(slice.to_string().as_bytes()).unwrap();
        let mut builder = Builder::new(&[]);
        builder.apply(Event::Applied(Source::EndpointSlices, Object::new(slice)));
        let snapshot = builder.publish().0;
        let entry = snapshot.service(&NamespacedName::new("a", "s")).unwrap();
        assert_eq!(entry.slices[0].triggered, read, "{written}");
    }
}

/// A proxy goes by names: it has the same entries, and no use for addresses.
#[test]
fn without_addresses_entries_are_the_same() {
    let mut builders = [Builder::new(&[]), Builder::new(&[]).without_addresses()];
    let ops =
        [Op::Service(1, 2, 1), Op::Slice(1, 1, vec![1, 2]), Op::Slice(1, 1, vec![2, 3]), Op::NoSlice(1)];
    let mut world = World::new();
    for op in &ops {
        let (source, name) = change(&mut world, op).unwrap();
        let snapshots = builders.each_mut().map(|builder| {
            builder.apply(match world.get(&(source, name.clone())) {
                Some(value) => Event::Applied(source, Object::new(value.clone())),
                None => Event::Deleted(source, Object::new(json!({"metadata": meta(&name)}))),
            });
            builder.publish().0
        });
        let entries = snapshots
            .each_ref()
            .map(|s| s.services().map(|(k, e)| (k.clone(), e.clone())).collect::<Vec<_>>());
        assert_eq!(entries[0], entries[1], "{op:?}");
        assert!(snapshots[1].by_cluster_ip("10.96.0.2".parse().unwrap()).is_empty());
        assert!(snapshots[1].by_endpoint("10.244.0.2".parse().unwrap()).is_empty());
    }
}
