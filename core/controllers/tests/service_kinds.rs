//! Load balancers' addresses, hand-made Endpoints and hints, on an API in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod memory;

use std::collections::{BTreeMap, BTreeSet};

use memory::{Cluster, text};
use proptest::prelude::*;
use sealane_api::kinds::Subresource;
use sealane_controllers::Controller;
use serde_json::{Value, json};

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const AZURE: &str = "service.beta.kubernetes.io/azure-load-balancer-internal";

fn balanced(external: &str, internal: &str) -> Cluster {
    Cluster::with_pools(&[Controller::ServiceLb], external, internal).with_namespace("shop")
}

fn create(c: &mut Cluster, name: &str, annotations: Value, more: Value) {
    let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}], "ipFamilies": ["IPv4"]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    c.create(
        "services",
        "shop",
        json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec}),
    );
    c.settle();
}

/// The addresses or names in its status.
fn given(c: &Cluster, name: &str) -> Vec<String> {
    let service = c.api.get("services", "shop", name).unwrap();
    let list = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let of = |i: &Value| {
        assert!(i["ip"].is_null() || i["ipMode"] == "VIP", "{i}");
        i["ip"].as_str().or(i["hostname"].as_str()).unwrap().to_owned()
    };
    list.iter().map(of).collect()
}

fn has_finalizer(c: &Cluster, name: &str) -> bool {
    let service = c.api.get("services", "shop", name).unwrap();
    service["metadata"]["finalizers"].as_array().is_some_and(|f| f.contains(&json!(FINALIZER)))
}

/// Reasons and messages since the last call.
fn said(c: &mut Cluster) -> Vec<String> {
    std::mem::take(&mut c.notes).into_iter().map(|n| format!("{}: {}", n.reason, n.message)).collect()
}

#[test]
fn what_a_service_asks_for_it_gets_or_hears_why_not() {
    let both = "10.1.0.0/29,fd00::/125";
    let v4 = json!({});
    let dual = json!({"ipFamilies": ["IPv6", "IPv4"]});
    let asked = |ips: &str| json!({"sealane.dev/load-balancer-ips": ips});
    let none = json!({});
    let class = |class: &str| json!({"loadBalancerClass": class});
    let internal = "--internal-load-balancer-pool 10.2.0.4-10.2.0.5";
    let table: Vec<(Value, Value, &[&str], String)> = vec![
        (none.clone(), v4.clone(), &["10.1.0.1"], String::new()),
        (none.clone(), dual.clone(), &["fd00::1", "10.1.0.1"], String::new()),
        (none.clone(), json!({"ipFamilies": ["IPv6"]}), &["fd00::1"], String::new()),
        (none.clone(), json!({"loadBalancerIP": "10.1.0.3"}), &["10.1.0.3"], String::new()),
        (asked("10.1.0.6"), v4.clone(), &["10.1.0.6"], String::new()),
        (asked("10.1.0.6,fd00::7"), dual.clone(), &["fd00::7", "10.1.0.6"], String::new()),
        (asked("fd00::7"), dual, &["fd00::7", "10.1.0.1"], String::new()),
        (json!({"metallb.io/loadBalancerIPs": "10.1.0.2"}), v4.clone(), &["10.1.0.2"], String::new()),
        (json!({AZURE: "true"}), v4.clone(), &["10.2.0.4"], String::new()),
        (
            json!({"service.beta.kubernetes.io/aws-load-balancer-internal": "true"}),
            json!({"loadBalancerIP": "10.2.0.5"}),
            &["10.2.0.5"],
            String::new(),
        ),
        (none.clone(), class("sealane.dev/pool"), &["10.1.0.1"], String::new()),
        (none.clone(), class("sealane.dev/internal-pool"), &["10.2.0.4"], String::new()),
        (
            asked("10.9.0.1"),
            v4.clone(),
            &[],
            format!("10.9.0.1 is asked for and not in --load-balancer-pool {both}"),
        ),
        // The network's own address is nobody's.
        (
            asked("10.1.0.0"),
            v4.clone(),
            &[],
            format!("10.1.0.0 is asked for and not in --load-balancer-pool {both}"),
        ),
        (
            json!({AZURE: "true", "sealane.dev/load-balancer-ips": "10.1.0.1"}),
            v4.clone(),
            &[],
            format!("10.1.0.1 is asked for and not in {internal}"),
        ),
        (
            asked("fd00::1"),
            v4.clone(),
            &[],
            "fd00::1 is asked for, of a family that is not in ipFamilies".into(),
        ),
        (asked("ten"), v4, &[], "\"ten\" is asked for, which is no address".into()),
        (
            json!({AZURE: "true"}),
            json!({"ipFamilies": ["IPv6"]}),
            &[],
            format!("no address of its families is in {internal}"),
        ),
    ];
    for (annotations, spec, expected, why) in table {
        let mut c = balanced(both, "10.2.0.4-10.2.0.5");
        create(&mut c, "web", annotations.clone(), spec.clone());
        assert_eq!(given(&c, "web"), expected, "{annotations} {spec}");
        let heard = said(&mut c);
        let ends = if why.is_empty() {
            "EnsuredLoadBalancer: Ensured load balancer".to_owned()
        } else {
            format!("SyncLoadBalancerFailed: Error syncing load balancer: {why}")
        };
        assert_eq!(heard[0], "EnsuringLoadBalancer: Ensuring load balancer");
        assert_eq!(heard.last(), Some(&ends), "{annotations} {spec}");
    }
}

#[test]
fn addresses_are_given_back_and_given_again() {
    let mut c = balanced("10.1.0.1-10.1.0.2", "");
    for name in ["a", "b", "c", "d"] {
        create(&mut c, name, json!({}), json!({}));
    }
    assert_eq!((given(&c, "a"), given(&c, "b")), (vec!["10.1.0.1".to_owned()], vec!["10.1.0.2".to_owned()]));
    assert!(given(&c, "c").is_empty() && given(&c, "d").is_empty());
    let full = "SyncLoadBalancerFailed: Error syncing load balancer: no address is free in --load-balancer-pool \
                10.1.0.1-10.1.0.2";
    assert_eq!(said(&mut c).iter().filter(|s| *s == full).count(), 2);
    // Deleted: gone once its finalizer is, and the next in line has its address.
    c.delete("services", "shop", "a", json!({}));
    c.settle();
    assert!(c.api.get("services", "shop", "a").is_none());
    assert!(said(&mut c).contains(&"DeletedLoadBalancer: Deleted load balancer".to_owned()));
    let waits = |c: &Cluster| if given(c, "c").is_empty() { "c" } else { "d" };
    let last = waits(&c);
    let first = if last == "c" { "d" } else { "c" };
    assert_eq!(given(&c, first), ["10.1.0.1"]);
    assert!(given(&c, last).is_empty());
    // Of another type: its status is empty, its finalizer gone.
    c.merge("services", "shop", "b", json!({"spec": {"type": "NodePort"}}), None);
    c.settle();
    assert!(given(&c, "b").is_empty() && !has_finalizer(&c, "b"));
    assert_eq!(given(&c, last), ["10.1.0.2"]);
    // Back again, it waits; what is asked for and taken is said to be.
    said(&mut c);
    c.merge(
        "services",
        "shop",
        "b",
        json!({"spec": {"type": "LoadBalancer", "loadBalancerIP": "10.1.0.1"}}),
        None,
    );
    c.settle();
    let taken = format!("10.1.0.1 is asked for and taken by Service shop/{first}");
    assert!(said(&mut c).last().unwrap().ends_with(&taken));
    c.delete("services", "shop", first, json!({}));
    c.settle();
    assert_eq!(given(&c, "b"), ["10.1.0.1"]);
}

#[test]
fn what_an_address_survives() {
    let mut c = balanced("10.1.0.1-10.1.0.4", "10.2.0.1-10.2.0.1");
    create(&mut c, "a", json!({}), json!({}));
    create(&mut c, "b", json!({}), json!({}));
    assert_eq!(given(&c, "b"), ["10.1.0.2"]);
    // A request that cannot be met leaves a working address alone.
    c.merge("services", "shop", "b", json!({"spec": {"loadBalancerIP": "10.1.0.1"}}), None);
    c.settle();
    assert_eq!(given(&c, "b"), ["10.1.0.2"]);
    c.merge("services", "shop", "b", json!({"spec": {"loadBalancerIP": "10.1.0.4"}}), None);
    c.settle();
    assert_eq!(given(&c, "b"), ["10.1.0.4"]);
    c.merge("services", "shop", "b", json!({"spec": {"loadBalancerIP": null}}), None);
    c.settle();
    assert_eq!(given(&c, "b"), ["10.1.0.4"], "it keeps what it has");
    // Whoever is to be internal is not left outside, not even where there is no room inside.
    create(&mut c, "inside", json!({AZURE: "true"}), json!({}));
    c.merge("services", "shop", "b", json!({"metadata": {"annotations": {AZURE: "true"}}}), None);
    c.settle();
    assert!(given(&c, "b").is_empty());
    c.delete("services", "shop", "inside", json!({}));
    c.settle();
    assert_eq!(given(&c, "b"), ["10.2.0.1"]);
    // Of two with one address it is the older's.
    c.merge(
        "services",
        "shop",
        "b",
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.1.0.1"}]}}}),
        Some(Subresource::Status),
    );
    c.settle();
    assert_eq!((given(&c, "a"), given(&c, "b")), (vec!["10.1.0.1".to_owned()], vec!["10.2.0.1".to_owned()]));
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let mut c = balanced("10.1.0.1-10.1.0.4", "10.2.0.1-10.2.0.1");
    create(&mut c, "other", json!({}), json!({"loadBalancerClass": "metallb.io/metallb"}));
    create(&mut c, "plain", json!({}), json!({"type": "ClusterIP"}));
    for name in ["other", "plain"] {
        assert!(given(&c, name).is_empty() && !has_finalizer(&c, name));
    }
    assert_eq!(c.writes, 0);
    // A name in the status is a cloud's doing, as AWS writes it; so are addresses of nobody's pool.
    let status = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
    for (name, ingress, shown) in [
        ("named", json!({"hostname": "x.elb.amazonaws.com"}), "x.elb.amazonaws.com"),
        ("cloud", json!({"ip": "203.0.113.7", "ipMode": "VIP"}), "203.0.113.7"),
    ] {
        c.create(
            "services",
            "shop",
            json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
        );
        c.merge("services", "shop", name, status(ingress), Some(Subresource::Status));
        // The index hears of both at once, or of one after the other.
        while c.deliver_one() {}
        c.settle();
        assert_eq!(given(&c, name), [shown]);
        assert!(!has_finalizer(&c, name));
    }
    // A name that comes later takes the address's place, and the address is free.
    create(&mut c, "late", json!({}), json!({}));
    assert_eq!(given(&c, "late"), ["10.1.0.1"]);
    c.merge("services", "shop", "late", status(json!({"hostname": "lb.example"})), Some(Subresource::Status));
    c.settle();
    assert_eq!(given(&c, "late"), ["lb.example"]);
    create(&mut c, "next", json!({}), json!({}));
    assert_eq!(given(&c, "next"), ["10.1.0.1"]);
    c.delete("services", "shop", "late", json!({}));
    c.settle();
    assert!(c.api.get("services", "shop", "late").is_none());
    // Without pools nobody is answered at all.
    let mut c = balanced("", "");
    create(&mut c, "web", json!({}), json!({}));
    assert_eq!((c.writes, c.notes.len()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, in whatever order it is heard of: at rest nobody shares an address, everybody has one of the
    /// right pool as long as there are some, and nobody else has one.
    #[test]
    fn never_twice_and_never_for_nothing(seed in any::<u64>(), steps in proptest::collection::vec((0usize..8, 0u8..6, any::<bool>()), 1..40)) {
        let mut c = balanced("10.1.0.1-10.1.0.3", "10.2.0.1-10.2.0.2").with_seed(seed);
        for (who, what, settle) in steps {
            let name = format!("s{who}");
            let there = c.api.get("services", "shop", &name).is_some();
            let going = there && !c.api.get("services", "shop", &name).unwrap()["metadata"]["deletionTimestamp"].is_null();
            match what {
                _ if going => {}
                0 | 1 if !there => {
                    let annotations = if what == 1 { json!({AZURE: "true"}) } else { json!({}) };
                    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}], "ipFamilies": ["IPv4"]});
                    c.create("services", "shop", json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec}));
                }
                _ if !there => {}
                2 => c.delete("services", "shop", &name, json!({})),
                3 => c.merge("services", "shop", &name, json!({"spec": {"type": "ClusterIP"}}), None),
                4 => c.merge("services", "shop", &name, json!({"spec": {"type": "LoadBalancer"}}), None),
                _ => c.merge("services", "shop", &name, json!({"metadata": {"annotations": {AZURE: "true"}}}), None),
            }
            if settle { c.settle() } else { c.step(); c.deliver_one(); }
        }
        c.settle();
        let mut holders: BTreeMap<String, String> = BTreeMap::new();
        let mut waiting = BTreeSet::new();
        for service in c.api.list("services", "shop") {
            let name = text(&service, "/metadata/name").to_owned();
            let wants = text(&service, "/spec/type") == "LoadBalancer";
            let internal = !service["metadata"]["annotations"][AZURE].is_null();
            let held = given(&c, &name);
            prop_assert_eq!(has_finalizer(&c, &name), wants, "{}", name);
            for address in &held {
                prop_assert!(wants && address.starts_with(if internal { "10.2." } else { "10.1." }), "{} {}", name, address);
                prop_assert_eq!(holders.insert(address.clone(), name.clone()), None);
            }
            if wants && held.is_empty() {
                waiting.insert(internal);
            }
        }
        for internal in waiting {
            let prefix = if internal { "10.2." } else { "10.1." };
            let taken = holders.keys().filter(|a| a.starts_with(prefix)).count();
            prop_assert_eq!(taken, if internal { 2 } else { 3 });
        }
    }
}

fn mirroring() -> Cluster {
    let run = [Controller::EndpointSliceMirroring, Controller::Garbage];
    Cluster::new(&run).with_namespace("shop")
}

/// `family ports addresses(ready)` of each slice, in order.
fn slices(c: &Cluster) -> Vec<String> {
    let mut all: Vec<String> = c
        .api
        .list("endpointslices", "shop")
        .iter()
        .map(|slice| {
            let labels = &slice["metadata"]["labels"];
            assert_eq!(
                labels["endpointslice.kubernetes.io/managed-by"],
                "endpointslicemirroring-controller.k8s.io"
            );
            assert_eq!(labels["kubernetes.io/service-name"], "db");
            assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
            let list = |key: &str| slice[key].as_array().cloned().unwrap_or_default();
            let ports: Vec<String> =
                list("ports").iter().map(|p| format!("{}:{}", text(p, "/name"), p["port"])).collect();
            let ends: Vec<String> = list("endpoints")
                .iter()
                .map(|e| format!("{}={}", text(e, "/addresses/0"), e["conditions"]["ready"]))
                .collect();
            format!("{} {} {}", text(slice, "/addressType"), ports.join(","), ends.join(","))
        })
        .collect();
    all.sort();
    all
}

fn hand_made(c: &mut Cluster, more: Value) {
    let mut body = json!({"metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "192.0.2.42"}], "ports": [{"port": 5432}]}]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body["metadata"]["name"] = json!("db");
    c.create("endpoints", "shop", body);
}

fn selectorless(c: &mut Cluster) {
    c.create("services", "shop", json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}}));
}

#[test]
fn endpoints_that_somebody_wrote_become_slices() {
    let port = |name: &str, port: u16| json!({"name": name, "port": port});
    let ip = |ip: &str| json!({"ip": ip});
    let table: Vec<(Value, &[&str])> = vec![
        (json!([{"addresses": [ip("192.0.2.1")], "ports": [port("", 1)]}]), &["IPv4 :1 192.0.2.1=true"]),
        (
            json!([{"addresses": [ip("192.0.2.1"), ip("2001:db8::1")], "notReadyAddresses": [ip("192.0.2.2")],
                "ports": [port("a", 1), port("b", 2)]}]),
            &["IPv4 a:1,b:2 192.0.2.1=true,192.0.2.2=false", "IPv6 a:1,b:2 2001:db8::1=true"],
        ),
        // The same ports twice are one slice; not ready anywhere is not ready.
        (
            json!([{"addresses": [ip("192.0.2.1")], "ports": [port("", 1)]},
                {"addresses": [ip("192.0.2.2")], "notReadyAddresses": [ip("192.0.2.1")], "ports": [port("", 1)]}]),
            &["IPv4 :1 192.0.2.2=true,192.0.2.1=false"],
        ),
        (
            json!([{"addresses": [ip("192.0.2.1")], "ports": [port("a", 1)]},
                {"addresses": [ip("192.0.2.2")], "ports": [port("a", 2)]}]),
            &["IPv4 a:1 192.0.2.1=true", "IPv4 a:2 192.0.2.2=true"],
        ),
        (json!([{"addresses": [ip("192.0.2.1")]}]), &["IPv4  192.0.2.1=true"]),
        (json!([]), &[]),
    ];
    for (subsets, expected) in table {
        let mut c = mirroring();
        selectorless(&mut c);
        hand_made(&mut c, json!({"subsets": subsets}));
        c.settle();
        assert_eq!(slices(&c), expected, "{subsets}");
        let writes = c.writes;
        c.relist("endpointslices");
        c.settle();
        assert_eq!(c.writes, writes, "nothing is written twice");
    }
}

#[test]
fn slices_follow_their_endpoints() {
    let mut c = mirroring();
    hand_made(
        &mut c,
        json!({"metadata": {"labels": {"team": "db"}, "annotations": {"a": "1",
        "kubectl.kubernetes.io/last-applied-configuration": "{}"}}}),
    );
    c.settle();
    assert!(slices(&c).is_empty(), "without a Service nobody asks");
    selectorless(&mut c);
    c.settle();
    assert_eq!(slices(&c), ["IPv4 :5432 192.0.2.42=true"]);
    let slice = c.api.list("endpointslices", "shop").remove(0);
    assert_eq!(slice["metadata"]["labels"]["team"], "db");
    assert_eq!(slice["metadata"]["annotations"], json!({"a": "1"}));
    // A change is written into the slice that is there, ports and all; its name stays.
    let moved = json!({"subsets": [{"addresses": [{"ip": "192.0.2.43"}], "ports": [{"port": 5433}]}]});
    c.merge("endpoints", "shop", "db", moved, None);
    c.settle();
    assert_eq!(slices(&c), ["IPv4 :5433 192.0.2.43=true"]);
    assert_eq!(c.api.list("endpointslices", "shop")[0]["metadata"]["name"], slice["metadata"]["name"]);
    // What makes them nobody's to mirror, and mirrored again.
    for (plural, on, off) in [
        (
            "endpoints",
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}),
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": null}}}),
        ),
        (
            "endpoints",
            json!({"metadata": {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}}),
            json!({"metadata": {"annotations": {"control-plane.alpha.kubernetes.io/leader": null}}}),
        ),
        ("services", json!({"spec": {"selector": {"app": "db"}}}), json!({"spec": {"selector": null}})),
    ] {
        c.merge(plural, "shop", "db", on.clone(), None);
        c.settle();
        assert!(slices(&c).is_empty(), "{on}");
        c.merge(plural, "shop", "db", off, None);
        c.settle();
        assert_eq!(slices(&c).len(), 1, "{on}");
    }
    // Somebody else's change of a slice does not last.
    let name = text(&c.api.list("endpointslices", "shop")[0], "/metadata/name").to_owned();
    c.merge("endpointslices", "shop", &name, json!({"endpoints": []}), None);
    c.settle();
    assert_eq!(slices(&c), ["IPv4 :5433 192.0.2.43=true"]);
    c.delete("endpoints", "shop", "db", json!({}));
    c.settle();
    assert!(slices(&c).is_empty());
}

#[test]
fn a_thousand_addresses_of_a_subset_are_mirrored() {
    let mut c = mirroring();
    selectorless(&mut c);
    let ip = |n: usize| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250 + 1)});
    let list = |range: std::ops::Range<usize>| range.map(ip).collect::<Vec<_>>();
    hand_made(
        &mut c,
        json!({"subsets": [{"addresses": list(0..990), "notReadyAddresses": list(990..1020), "ports": [{"port": 1}]}]}),
    );
    c.settle();
    let found = c.api.list("endpointslices", "shop");
    let ends = found[0]["endpoints"].as_array().unwrap();
    assert_eq!((found.len(), ends.len()), (1, 1000));
    assert_eq!(ends.iter().filter(|e| e["conditions"]["ready"] == true).count(), 990);
    let warning = "TooManyAddressesToMirror: A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints \
                   subset. 20 addresses were skipped";
    assert_eq!(said(&mut c), [warning]);
}

#[test]
fn hints_of_traffic_distribution() {
    for (wanted, zones, nodes) in [
        (json!(null), false, false),
        (json!("PreferClose"), true, false),
        (json!("PreferSameZone"), true, false),
        (json!("PreferSameNode"), true, true),
    ] {
        let mut c = Cluster::new(&[Controller::EndpointSlice]).with_namespace("shop");
        c.create("nodes", "", json!({"metadata": {"name": "n2"}, "spec": {}}));
        c.create(
            "services",
            "shop",
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}],
                "trafficDistribution": wanted}}),
        );
        for (name, node, ip, ready) in [
            ("a", "n1", "10.244.0.1", true),
            ("b", "n2", "10.244.0.2", true),
            ("c", "n1", "10.244.0.3", false),
        ] {
            let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
            c.create(
                "pods",
                "shop",
                json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec}),
            );
            c.pod_status("shop", name, ip, ready);
        }
        c.settle();
        let slice = c.api.list("endpointslices", "shop").remove(0);
        for endpoint in slice["endpoints"].as_array().unwrap() {
            let name = text(endpoint, "/targetRef/name");
            // n2 is in no zone; c is not ready.
            let zone = if zones && name == "a" { json!([{"name": "zone-a"}]) } else { Value::Null };
            let node =
                if nodes && name != "c" { json!([{"name": endpoint["nodeName"]}]) } else { Value::Null };
            let hints = &endpoint["hints"];
            assert_eq!((&hints["forZones"], &hints["forNodes"]), (&zone, &node), "{wanted} {endpoint}");
        }
        // Another wish is written into the slices that are there.
        c.merge("services", "shop", "web", json!({"spec": {"trafficDistribution": null}}), None);
        c.settle();
        let slice = c.api.list("endpointslices", "shop").remove(0);
        assert!(slice["endpoints"].as_array().unwrap().iter().all(|e| e["hints"].is_null()), "{slice}");
    }
}
