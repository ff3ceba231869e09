//! One Node answers for a load balancer's address, and all know which.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use sealane_api::Object;
use sealane_catalog::{Builder, Event, Snapshot, Source};
use sealane_proxy::announced;
use serde_json::{Value, json};

#[derive(Default)]
struct Cluster(Vec<(Source, Value)>);

impl Cluster {
    fn nodes(names: &[&str]) -> Self {
        let mut cluster = Cluster::default();
        names.iter().for_each(|name| cluster.node(name, true, json!({}), json!({})));
        cluster
    }

    fn node(&mut self, name: &str, ready: bool, labels: Value, spec: Value) {
        let ready = if ready { "True" } else { "Unknown" };
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        self.0.push((Source::Nodes, object));
    }

    fn service(&mut self, name: &str, ips: &[&str], spec: Value, endpoints: &[(&str, bool)]) {
        let mut all = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP"}]});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": all,
            "status": {"loadBalancer": {"ingress": ingress}}});
        self.0.push((Source::Services, object));
        let ends: Vec<Value> = endpoints
            .iter()
            .enumerate()
            .map(|(n, (node, ready))| {
                json!({"addresses": [format!("10.244.0.{n}")], "nodeName": node,
                    "conditions": {"ready": ready, "serving": ready, "terminating": false}})
            })
            .collect();
        let slice = json!({"metadata": {"namespace": "shop", "name": format!("{name}-1"),
            "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4", "endpoints": ends,
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}]});
        self.0.push((Source::EndpointSlices, slice));
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        let mut builder = Builder::new(&[]);
        for (source, object) in &self.0 {
            builder.apply(Event::Applied(*source, Object::new(object.clone())));
        }
        builder.publish().0
    }

    /// Who has which addresses.
    fn homes(&self, names: &[&str]) -> BTreeMap<IpAddr, Vec<String>> {
        let snapshot = self.snapshot();
        let mut homes: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for name in names {
            for address in announced(&snapshot, Some(name)) {
                homes.entry(address).or_default().push((*name).to_owned());
            }
        }
        homes
    }
}

#[test]
fn every_address_has_one_home_and_few_move() {
    let names = ["n1", "n2", "n3"];
    let mut c = Cluster::nodes(&names);
    let ips: Vec<String> =
        (1..=90).map(|n| format!("192.0.2.{n}")).chain(["2001:db8::1".to_owned()]).collect();
    for (n, ip) in ips.iter().enumerate() {
        c.service(&format!("s{n}"), &[ip], json!({}), &[]);
    }
    let before = c.homes(&names);
    assert_eq!(before.len(), ips.len());
    assert!(before.values().all(|homes| homes.len() == 1), "{before:?}");
    for name in names {
        let share = before.values().filter(|h| h[0] == name).count();
        assert!((15..=45).contains(&share), "{name} has {share}");
    }
    // A Node that falls silent gives up its own; the others keep theirs.
    c.node("n2", false, json!({}), json!({}));
    let after = c.homes(&names);
    assert!(after.values().all(|homes| homes.len() == 1 && homes[0] != "n2"));
    for (address, homes) in &before {
        assert!(homes[0] == "n2" || after[address] == *homes, "{address} moved");
    }
    // In front of all Nodes it is one machine.
    assert_eq!(announced(&c.snapshot(), None).len(), ips.len());
}

#[test]
fn who_may_answer() {
    let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    let going = json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
    let local = json!({"externalTrafficPolicy": "Local"});
    let names = ["n1", "n2", "n3", "n4"];
    type Row<'a> = (Value, &'a [(&'a str, bool)], Option<&'a str>);
    let table: &[Row<'_>] = &[
        (json!({}), &[], Some("n1")),
        (json!({}), &[("n3", true)], Some("n1")),
        (local.clone(), &[("n1", true)], Some("n1")),
        // Where endpoints are nobody may answer, or nobody's are ready.
        (local.clone(), &[("n3", true)], None),
        (local.clone(), &[("n1", false)], None),
        (local, &[], None),
        (json!({"type": "NodePort"}), &[], None),
        (json!({"loadBalancerClass": "other"}), &[], Some("n1")),
    ];
    for (spec, endpoints, home) in table {
        let mut c = Cluster::nodes(&["n1"]);
        c.node("n2", false, json!({}), json!({}));
        c.node("n3", true, excluded.clone(), json!({}));
        c.node("n4", true, json!({}), going.clone());
        c.service("web", &["192.0.2.9"], spec.clone(), endpoints);
        let homes = c.homes(&names);
        let found: BTreeSet<&str> = homes.values().flatten().map(String::as_str).collect();
        assert_eq!(found, home.iter().copied().collect(), "{spec} {endpoints:?}");
    }
    // Names, and addresses that packets do not arrive with, are nobody's.
    let mut c = Cluster::nodes(&["n1"]);
    c.0.push((
        Source::Services,
        json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}],
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}, "status": {"loadBalancer": {"ingress": [
            {"hostname": "lb.example"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}]}}}),
    ));
    assert!(announced(&c.snapshot(), None).is_empty());
}
