//! What is somebody else's, whom masquerade spares, and what finds nobody on this node.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use sealane_catalog::{
    Endpoint, EndpointPort, Entry, NamespacedName, Protocol, Service, ServicePort, ServiceType, Slice,
    TrafficPolicy,
};
use sealane_proxy::{Class, Masquerade, NodeContext, PodInterface, Table, Unserved, cases, service_table};
use std::sync::Arc;

fn name() -> NamespacedName {
    NamespacedName::new("default", "web")
}

/// A dual-stack Service with an endpoint of each family on node `n2`.
fn entry(change: impl FnOnce(&mut Service)) -> Entry {
    let mut service = Service {
        kind: ServiceType::NodePort,
        cluster_ips: vec!["10.96.0.20".parse().unwrap(), "fd00:96::20".parse().unwrap()],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 30080,
            app_protocol: "".into(),
        }],
        ..cases::service("web")
    };
    change(&mut service);
    let slice = |ipv6: bool, address: &str| {
        Arc::new(Slice {
            key: NamespacedName::new("default", if ipv6 { "web-6" } else { "web-4" }),
            service: name(),
            revision: 1,
            ipv6,
            ports: [EndpointPort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: Some(8080),
                app_protocol: "".into(),
            }]
            .into(),
            endpoints: [Endpoint::new(address.parse().unwrap()).on("n2", "")].into(),
            triggered: 0,
        })
    };
    let slices = vec![slice(false, "10.244.2.2"), slice(true, "fd00:244:2::2")];
    Entry { service: Some(Arc::new(service)), slices }
}

fn node() -> NodeContext {
    NodeContext {
        node_port_addresses: vec!["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()],
        ..NodeContext::new("n1")
    }
}

#[test]
fn a_service_of_another_proxy_has_no_frontends() {
    let other = entry(|s| {
        s.labels =
            [("service.kubernetes.io/service-proxy-name".into(), "cilium".into())].into_iter().collect();
    });
    assert!(service_table(&other, &node()).is_empty());
    assert_eq!(service_table(&entry(|_| {}), &node()).len(), 4);
}

#[test]
fn each_familys_pods_are_told_by_themselves() {
    let link = Some(PodInterface::Prefix("veth".into()));
    let table: [(&[&str], Option<PodInterface>, [Masquerade; 2]); 5] = [
        (&[], None, [Masquerade::Never, Masquerade::Never]),
        (&["10.244.0.0/16"], None, [Masquerade::OffCluster, Masquerade::Never]),
        (&["fd00:244::/32"], None, [Masquerade::Never, Masquerade::OffCluster]),
        (&["10.244.0.0/16", "fd00:244::/32"], None, [Masquerade::OffCluster, Masquerade::OffCluster]),
        (&[], link, [Masquerade::OffCluster, Masquerade::OffCluster]),
    ];
    for (ranges, pod_interface, expected) in table {
        let pod_cidrs = ranges.iter().map(|r| r.parse().unwrap()).collect();
        let context = NodeContext { pod_cidrs, pod_interface, ..node() };
        let frontends = service_table(&entry(|_| {}), &context);
        let inside = frontends.iter().filter(|f| f.class == Class::ClusterIp);
        assert_eq!(inside.map(|f| f.masquerade).collect::<Vec<_>>(), expected, "{ranges:?}");
    }
}

#[test]
fn ports_that_find_nobody_here_are_counted() {
    let mut table = Table::new(node());
    let mut unserved = Unserved::default();
    let mut counts = |entry: Option<&Entry>| {
        unserved.note(&table.update([(&name(), entry)]));
        unserved.counts()
    };
    let local = |inside: bool, outside: bool| {
        entry(|s| {
            let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            (s.internal_policy, s.external_policy) = (policy(inside), policy(outside));
        })
    };
    assert_eq!(counts(Some(&local(false, false))), [[0, 0], [0, 0]]);
    // Two addresses of the node are one port of the Service.
    assert_eq!(counts(Some(&local(false, true))), [[0, 0], [1, 0]]);
    assert_eq!(counts(Some(&local(true, true))), [[1, 1], [1, 0]]);
    assert_eq!(counts(Some(&local(true, false))), [[1, 1], [0, 0]]);
    let nobody = Entry { slices: vec![], ..local(true, true) };
    assert_eq!(counts(Some(&nobody)), [[0, 0], [0, 0]], "none anywhere is refused, not dropped");
    assert_eq!(counts(Some(&local(true, true))), [[1, 1], [1, 0]]);
    assert_eq!(counts(None), [[0, 0], [0, 0]]);
}
