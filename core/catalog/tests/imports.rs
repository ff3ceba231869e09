//! What other clusters export, and what DestinationRules say.
#![allow(clippy::unwrap_used)]

use sealane_api::Object;
use sealane_catalog::imports::source_cluster;
use sealane_catalog::{Builder, Event, GrpcPolicy, Imports, NamespacedName, Saved, Snapshot, Source, save};
use serde_json::{Value, json};

fn import(name: &str, spec: Value) -> Event {
    let object = json!({"metadata": {"namespace": "shop", "name": name, "resourceVersion": "3"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    Event::Applied(Source::Services, Object::new(object))
}

fn slice(labels: Value, address: &str) -> Object {
    Object::new(json!({"metadata": {"namespace": "shop", "name": "db-x", "labels": labels},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}]}))
}

/// Slices of a Service: cluster, name and addresses.
fn slices(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let Some(entry) = snapshot.service(&NamespacedName::new("shop", service)) else { return Vec::new() };
    let show = |slice: &sealane_catalog::Slice| {
        let addresses: Vec<_> = slice.endpoints.iter().map(|e| e.address.to_string()).collect();
        format!("{}: {} {}", source_cluster(slice), slice.key.name, addresses.join(" "))
    };
    entry.slices.iter().map(|slice| show(slice)).collect()
}

#[test]
fn imports_are_services() {
    let mut imports = Imports::default();
    assert!(!imports.publish().0.synced());
    for source in [Source::Services, Source::EndpointSlices] {
        imports.apply(Event::RelistBegin(source));
        imports.apply(Event::RelistEnd(source));
    }
    let ports = json!([{"name": "pg", "protocol": "TCP", "port": 5432}]);
    imports.apply(import(
        "web",
        json!({"type": "ClusterSetIP", "ips": ["10.42.0.1", "fd42::1"], "ports": ports}),
    ));
    imports.apply(import("db", json!({"type": "Headless", "ports": ports})));
    let (snapshot, _) = imports.publish();
    assert!(snapshot.synced());
    let service =
        |name: &str| snapshot.service(&NamespacedName::new("shop", name)).unwrap().service.clone().unwrap();
    let (web, db) = (service("web"), service("db"));
    assert_eq!(web.cluster_ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.0.1", "fd42::1"]);
    assert!(!web.headless && web.ingress.is_empty());
    assert_eq!((web.ports.len(), &*web.ports[0].name, web.ports[0].port), (1, "pg", 5432));
    assert!(db.headless && db.cluster_ips.is_empty());
}

#[test]
fn slices_are_their_clusters() {
    let mut imports = Imports::default();
    let one = json!({"multicluster.kubernetes.io/service-name": "db", "multicluster.kubernetes.io/source-cluster": "a"});
    let two = json!({"multicluster.kubernetes.io/service-name": "db", "multicluster.kubernetes.io/source-cluster": "b"});
    let bare = json!({"multicluster.kubernetes.io/service-name": "db"});
    let own = json!({"kubernetes.io/service-name": "db"});
    let source = Source::EndpointSlices;
    for (labels, found) in [
        (&own, None),
        (&one, Some("a: a/db-x 10.0.0.1")),
        (&two, Some("b: b/db-x 10.0.0.1")),
        (&bare, Some(": db-x 10.0.0.1")),
        (&own, None),
        (&two, Some("b: b/db-x 10.0.0.1")),
    ] {
        imports.apply(Event::Applied(source, slice(labels.clone(), "10.0.0.1")));
        assert_eq!(slices(&imports.publish().0, "db"), found.into_iter().collect::<Vec<_>>(), "{labels}");
    }
    // By its name alone.
    imports.apply(Event::Deleted(source, slice(json!({}), "10.0.0.1")));
    assert!(slices(&imports.publish().0, "db").is_empty());
    // A list says what there is.
    imports.apply(Event::Applied(source, slice(two.clone(), "10.0.0.2")));
    imports.apply(Event::RelistBegin(source));
    imports.apply(Event::Applied(source, slice(one.clone(), "10.0.0.3")));
    imports.apply(Event::RelistEnd(source));
    assert_eq!(slices(&imports.publish().0, "db"), ["a: a/db-x 10.0.0.3"]);
    imports.apply(Event::RelistBegin(source));
    imports.apply(Event::RelistEnd(source));
    assert!(slices(&imports.publish().0, "db").is_empty());
}

fn rule(name: &str, created: &str, spec: Value) -> Object {
    let metadata = json!({"namespace": "shop", "name": name, "creationTimestamp": created});
    Object::new(json!({"metadata": metadata, "spec": spec}))
}

fn simple(host: &str, simple: &str) -> Value {
    json!({"host": host, "trafficPolicy": {"loadBalancer": {"simple": simple}}})
}

#[test]
fn a_rule_says_how_endpoints_are_chosen() {
    let (round, first) = (Some(GrpcPolicy::RoundRobin), Some(GrpcPolicy::PickFirst));
    let hash = json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}});
    for (spec, policy) in [
        (simple("db", "ROUND_ROBIN"), round),
        (simple("db.shop", "LEAST_REQUEST"), round),
        (simple("db.shop.svc", "RANDOM"), round),
        (simple("db.shop.svc.cluster.local", "PASSTHROUGH"), first),
        (simple("db", "UNSPECIFIED"), None),
        (simple("db.other", "PASSTHROUGH"), None),
        (simple("db.shop.svc.clusterset.local", "PASSTHROUGH"), None),
        (json!({"host": "db", "trafficPolicy": hash}), round),
        (json!({"host": "db", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}), None),
        (json!({"host": "db"}), None),
        (json!({"host": 7, "trafficPolicy": hash}), None),
        (json!({"host": "db", "workloadSelector": {"matchLabels": {"a": "b"}}, "trafficPolicy": hash}), None),
    ] {
        let mut builder = Builder::new(&[]);
        let db = json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}});
        builder.apply(Event::Applied(Source::Services, Object::new(db)));
        builder
            .apply(Event::Applied(Source::DestinationRules, rule("r", "2026-01-01T00:00:00Z", spec.clone())));
        let snapshot = builder.publish().0;
        let service = snapshot.service(&NamespacedName::new("shop", "db")).unwrap().service.clone().unwrap();
        assert_eq!(service.grpc_policy, policy, "{spec}");
    }
}

#[test]
fn the_oldest_rule_counts_whatever_comes_first() {
    let mut builder = Builder::new(&[]);
    let of = |builder: &mut Builder| {
        let (snapshot, delta) = builder.publish();
        let entry = snapshot.service(&NamespacedName::new("shop", "db")).unwrap();
        (entry.service.as_ref().unwrap().grpc_policy, delta.services.len())
    };
    let put = |name: &str, created: &str, simple_: &str| {
        Event::Applied(Source::DestinationRules, rule(name, created, simple("db", simple_)))
    };
    let (round, first) = (Some(GrpcPolicy::RoundRobin), Some(GrpcPolicy::PickFirst));
    builder.apply(put("young", "2026-02-01T00:00:00Z", "PASSTHROUGH"));
    let db = json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}});
    builder.apply(Event::Applied(Source::Services, Object::new(db.clone())));
    assert_eq!(of(&mut builder), (first, 1));
    builder.apply(put("old", "2026-01-01T00:00:00Z", "RANDOM"));
    assert_eq!(of(&mut builder), (round, 1));
    builder.apply(put("older", "2025-01-01T00:00:00Z", "ROUND_ROBIN"));
    assert_eq!(of(&mut builder), (round, 0));
    // A new version of the Service keeps it.
    builder.apply(Event::Applied(Source::Services, Object::new(db)));
    assert_eq!(of(&mut builder), (round, 0));
    // A list with the young one alone.
    builder.apply(Event::RelistBegin(Source::DestinationRules));
    builder.apply(put("young", "2026-02-01T00:00:00Z", "PASSTHROUGH"));
    builder.apply(Event::RelistEnd(Source::DestinationRules));
    assert_eq!(of(&mut builder), (first, 1));
    builder.apply(Event::Deleted(Source::DestinationRules, rule("young", "", json!({}))));
    assert_eq!(of(&mut builder), (None, 1));
}

/// What is saved has what the rules said, and a watch of rules that breaks makes nothing old.
#[test]
fn what_rules_say_is_saved() {
    let services = [Source::Services];
    let db = || json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}});
    let mut builder = Builder::new(&services);
    for (source, object) in [
        (Source::Services, Object::new(db())),
        (Source::DestinationRules, rule("r", "2026-01-01T00:00:00Z", simple("db", "PASSTHROUGH"))),
    ] {
        builder.apply(Event::RelistBegin(source));
        builder.apply(Event::Applied(source, object));
        builder.apply(Event::RelistEnd(source));
    }
    builder.apply(Event::Lost(Source::DestinationRules, 7));
    let snapshot = builder.publish().0;
    assert!(snapshot.synced() && snapshot.as_of().is_none());
    let mut file = Vec::new();
    save(&snapshot, &services, 9, &mut file).unwrap();
    let policy = |builder: &mut Builder| {
        let snapshot = builder.publish().0;
        let entry = snapshot.service(&NamespacedName::new("shop", "db")).unwrap();
        entry.service.as_ref().unwrap().grpc_policy
    };
    let mut restored = Builder::new(&services);
    restored.restore(&Saved::read(&file).unwrap()).unwrap();
    assert_eq!(policy(&mut restored), Some(GrpcPolicy::PickFirst));
    // The API has no rules any more.
    for source in [Source::Services, Source::DestinationRules] {
        restored.apply(Event::RelistBegin(source));
        if source == Source::Services {
            restored.apply(Event::Applied(source, Object::new(db())));
        }
        restored.apply(Event::RelistEnd(source));
    }
    assert_eq!(policy(&mut restored), None);
}
