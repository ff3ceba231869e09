//! What health checks are told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use sealane_catalog::{Endpoint, Entry, NamespacedName, Service, ServiceType, Slice, TrafficPolicy};
use sealane_proxy::config::Span;
use sealane_proxy::health::{HealthChecks, Progress};
use sealane_proxy::{NodeContext, cases, tally};
use std::net::SocketAddr;
use std::sync::Arc;

const PERIOD: Span = Span::seconds(30);

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000 + second).unwrap()
}

#[test]
fn the_proxy_is_healthy_until_a_change_waits_for_two_periods() {
    let table = [
        // updated, waiting since, node eligible, now; healthz, livez
        (None, None, true, 0, 200, 200),
        (None, None, false, 0, 503, 200),
        // It starts up: nothing was ever written.
        (None, Some(0), true, 500, 200, 200),
        (Some(0), None, true, 5000, 200, 200),
        (Some(0), Some(10), true, 69, 200, 200),
        (Some(0), Some(10), true, 70, 503, 503),
        (Some(0), None, false, 1, 503, 200),
    ];
    for (updated, waiting, eligible, now, healthz, livez) in table {
        let progress = Progress { updated: updated.map(at), waiting: waiting.map(at) };
        assert_eq!(
            progress.healthz(PERIOD, eligible, at(now)).status,
            healthz,
            "{progress:?} {eligible} {now}"
        );
        assert_eq!(progress.livez(PERIOD, at(now)).status, livez, "{progress:?} {now}");
    }
    let progress = Progress { updated: Some(at(0)), waiting: Some(at(0)) };
    let answer = progress.healthz(PERIOD, true, at(90));
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["lastUpdated"], at(0).to_string());
    assert_eq!(body["currentTime"], at(90).to_string());
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&false.into(), &true.into()));
    assert_eq!(body["status"]["IPv4"]["healthy"], false);
    let body: serde_json::Value = serde_json::from_str(&progress.livez(PERIOD, at(5)).body).unwrap();
    assert_eq!(body["lastUpdated"], body["currentTime"], "a healthy one says now");
    assert!(body.get("nodeEligible").is_none());
}

fn name() -> NamespacedName {
    NamespacedName::new("default", "web")
}

fn entry(change: impl FnOnce(&mut Service), endpoints: &[(&str, &str, bool)]) -> Entry {
    let mut service = Service {
        kind: ServiceType::LoadBalancer,
        cluster_ips: vec!["10.96.0.20".parse().unwrap()],
        external_policy: TrafficPolicy::Local,
        health_check_node_port: 32000,
        ..cases::service("web")
    };
    change(&mut service);
    let endpoint = |(address, node, ready): &(&str, &str, bool)| {
        let mut endpoint = Endpoint::new(address.parse().unwrap()).on(node, "");
        (endpoint.ready, endpoint.serving) = (*ready, *ready);
        endpoint
    };
    let slice = Slice {
        key: NamespacedName::new("default", "web-1"),
        service: name(),
        revision: 1,
        ipv6: false,
        ports: [].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered: 5,
    };
    Entry { service: Some(Arc::new(service)), slices: vec![Arc::new(slice)] }
}

#[test]
fn a_load_balancer_is_told_how_many_endpoints_are_here() {
    let node =
        NodeContext { node_port_addresses: vec!["192.0.2.10".parse().unwrap()], ..NodeContext::new("n1") };
    let listener: SocketAddr = "0.0.0.0:32000".parse().unwrap();
    let mut checks = HealthChecks::default();
    // The same address twice, another node's, and one that is not ready.
    let mixed = [
        ("10.244.0.1", "n1", true),
        ("10.244.0.1", "n1", true),
        ("10.244.1.1", "n2", true),
        ("10.244.0.2", "n1", false),
    ];
    assert!(checks.update(&name(), Some(&entry(|_| {}, &mixed)), "n1"));
    assert_eq!(checks.listeners(&node, [true, true]).into_iter().collect::<Vec<_>>(), [listener]);
    let own: SocketAddr = "192.0.2.10:32000".parse().unwrap();
    assert_eq!(checks.listeners(&node, [false, true]).into_iter().collect::<Vec<_>>(), [own]);
    let answer = checks.answer(listener, true);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        r#"{"localEndpoints":1,"service":{"name":"web","namespace":"default"},"serviceProxyHealthy":true}"#
    );
    assert!(answer.headers.contains(&("X-Load-Balancing-Endpoint-Weight", "1".to_owned())));
    assert_eq!(checks.answer(listener, false).status, 503);
    assert_eq!(checks.answer("0.0.0.0:32001".parse().unwrap(), true).status, 404);
    // Nobody here: listening goes on, the answer changes.
    assert!(!checks.update(&name(), Some(&entry(|_| {}, &mixed[2..])), "n1"));
    assert_eq!(checks.answer(listener, true).status, 503);
    let dual = entry(|s| s.cluster_ips.push("fd00::20".parse().unwrap()), &mixed);
    assert!(checks.update(&name(), Some(&dual), "n1"));
    assert_eq!(checks.listeners(&node, [true, true]).len(), 2);
    assert_eq!(checks.answer("[::]:32000".parse().unwrap(), true).status, 503, "none of that family");
    let none: [fn(&mut Service); 4] = [
        |s| s.external_policy = TrafficPolicy::Cluster,
        |s| s.kind = ServiceType::NodePort,
        |s| s.health_check_node_port = 0,
        |s| {
            s.labels =
                [("service.kubernetes.io/service-proxy-name".into(), "other".into())].into_iter().collect()
        },
    ];
    for change in none {
        checks.update(&name(), Some(&entry(|_| {}, &mixed)), "n1");
        assert!(checks.update(&name(), Some(&entry(change, &mixed)), "n1"));
        assert!(checks.listeners(&node, [true, true]).is_empty());
    }
}

#[test]
fn changes_are_counted_by_kind() {
    let (a, b) = (entry(|_| {}, &[]), entry(|s| s.headless = true, &[("10.0.0.1", "n1", true)]));
    let counted = |before, after| {
        let found = tally(before, after);
        (found.services, found.slices, found.triggered)
    };
    assert_eq!(counted(None, Some(&a)), (1, 1, vec![(false, 5)]));
    assert_eq!(counted(Some(&a), Some(&a)), (0, 0, vec![]));
    assert_eq!(counted(Some(&a), Some(&b)), (1, 1, vec![(false, 5)]));
    assert_eq!(counted(Some(&b), None), (1, 1, vec![]));
    let slice_alone = Entry { service: a.service.clone(), slices: b.slices.clone() };
    assert_eq!(counted(Some(&a), Some(&slice_alone)), (0, 1, vec![(false, 5)]));
}
