//! `multicluster`: zones whose names are those of Services from other clusters.

use std::sync::Arc;

use sealane_api::Object;
use sealane_catalog::{Event as Change, Imports, Snapshot, Source};
use sealane_dns::{Config, Effect, Event, Now, Server, Transport, decode};
use serde_json::{Value, json};

use crate::cluster::{ask, at, check, dig, knowing, query, server, service, slice, snapshot_of};

const LATER: u64 = 1_700_000_005;
const SOA: &str = "clusterset.local. 30 IN SOA ns.dns.clusterset.local. hostmaster.clusterset.local. 1700000005 7200 1800 86400 30";

fn import(name: &str, spec: Value) -> (Source, Value) {
    service("shop", name, spec)
}

fn exported(cluster: &str, name: &str, of: &str, ports: Value, endpoints: Value) -> (Source, Value) {
    let (source, mut value) = slice("shop", name, of, ports, endpoints);
    let mut labels = json!({"multicluster.kubernetes.io/service-name": of});
    if !cluster.is_empty() {
        labels["multicluster.kubernetes.io/source-cluster"] = cluster.into();
    }
    value["metadata"]["labels"] = labels;
    (source, value)
}

fn imports(objects: &[(Source, Value)]) -> Arc<Snapshot> {
    let mut imports = Imports::default();
    for source in [Source::Services, Source::EndpointSlices] {
        imports.apply(Change::RelistBegin(source));
        for (_, object) in objects.iter().filter(|(of, _)| *of == source) {
            imports.apply(Change::Applied(source, Object::new(object.clone())));
        }
        imports.apply(Change::RelistEnd(source));
    }
    imports.publish().0
}

fn all_imports() -> Arc<Snapshot> {
    let ports = json!([{"name": "pg", "port": 5432, "protocol": "TCP"}]);
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    imports(&[
        import("web", json!({"type": "ClusterSetIP", "ips": ["10.42.0.1", "fd42::1"], "ports": http})),
        exported(
            "a",
            "web-x",
            "web",
            http.clone(),
            json!([{"addresses": ["10.1.0.1"], "hostname": "web-0"}]),
        ),
        import("bare", json!({"type": "ClusterSetIP", "ips": ["10.42.0.2"]})),
        import("gone", json!({"type": "ClusterSetIP", "ips": ["10.42.0.3"], "ports": http})),
        import("db", json!({"type": "Headless", "ports": ports})),
        exported(
            "a",
            "db-x",
            "db",
            ports.clone(),
            json!([{"addresses": ["10.1.0.10"], "hostname": "db-0"},
                {"addresses": ["10.1.0.11"], "conditions": {"ready": false}}]),
        ),
        exported("b", "db-w", "db", ports.clone(), json!([{"addresses": ["10.2.0.10"], "hostname": "db-0"}])),
        exported("", "db-y", "db", ports.clone(), json!([{"addresses": ["10.3.0.10"]}])),
        exported("b", "db-6", "db", ports, json!([{"addresses": ["fd00:2::10"]}])),
    ])
}

fn own() -> Vec<(Source, Value)> {
    let ports = json!([{"name": "pg", "port": 5432, "protocol": "TCP"}]);
    vec![
        (Source::Namespaces, json!({"metadata": {"name": "shop"}})),
        service("shop", "db", json!({"clusterIP": "None", "ports": ports})),
        slice("shop", "db-z", "db", ports, json!([{"addresses": ["10.244.0.5"], "hostname": "db-0"}])),
        service("shop", "here", json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]})),
        (
            Source::Pods,
            json!({"metadata": {"namespace": "shop", "name": "p"}, "status": {"podIP": "10.244.0.9"}}),
        ),
    ]
}

fn bare(options: &str) -> Server {
    server(&format!(
        ". {{\n template IN ANY corp.example {{\n rcode NXDOMAIN\n }}\n kubernetes cluster.local clusterset.local in-addr.arpa {{\n ttl 30\n multicluster clusterset.local\n \
         {options}\n }}\n}}"
    ))
}

fn with(options: &str) -> Server {
    let mut server = bare(options);
    server.step(Event::Snapshot(snapshot_of(&own())), at(0));
    server.step(Event::Imports(all_imports()), Now { unix: LATER, ..at(0) });
    server
}

#[track_caller]
fn holds(options: &str, table: &str) {
    check(&mut with(options), &table.replace("$SOA", SOA));
}

#[test]
fn names_of_other_clusters() {
    holds(
        "zonal",
        "? web.shop.svc.clusterset.local A
            NOERROR aa,rd
            web.shop.svc.clusterset.local. 30 IN A 10.42.0.1
        ? web.shop.svc.clusterset.local AAAA
            NOERROR aa,rd
            web.shop.svc.clusterset.local. 30 IN AAAA fd42::1
        ? _http._tcp.web.shop.svc.clusterset.local SRV
            NOERROR aa,rd
            _http._tcp.web.shop.svc.clusterset.local. 30 IN SRV 0 50 80 web.shop.svc.clusterset.local.
            + web.shop.svc.clusterset.local. 30 IN A 10.42.0.1
            + web.shop.svc.clusterset.local. 30 IN AAAA fd42::1
        ? web-0.a.web.shop.svc.clusterset.local A
            NOERROR aa,rd
            web-0.a.web.shop.svc.clusterset.local. 30 IN A 10.1.0.1
        ? bare.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? db.shop.svc.clusterset.local A
            NOERROR aa,rd
            db.shop.svc.clusterset.local. 30 IN A 10.1.0.10
            db.shop.svc.clusterset.local. 30 IN A 10.2.0.10
            db.shop.svc.clusterset.local. 30 IN A 10.3.0.10
        ? db-0.a.db.shop.svc.clusterset.local A
            NOERROR aa,rd
            db-0.a.db.shop.svc.clusterset.local. 30 IN A 10.1.0.10
        ? DB-0.B.db.shop.svc.clusterset.local A
            NOERROR aa,rd
            DB-0.B.db.shop.svc.clusterset.local. 30 IN A 10.2.0.10
        ? db-0.c.db.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? db-0.db.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? 10-3-0-10.db.shop.svc.clusterset.local A
            NOERROR aa,rd
            10-3-0-10.db.shop.svc.clusterset.local. 30 IN A 10.3.0.10
        ? _pg._tcp.db.shop.svc.clusterset.local SRV
            NOERROR aa,rd
            _pg._tcp.db.shop.svc.clusterset.local. 30 IN SRV 0 25 5432 db-0.a.db.shop.svc.clusterset.local.
            _pg._tcp.db.shop.svc.clusterset.local. 30 IN SRV 0 25 5432 fd00-2--10.b.db.shop.svc.clusterset.local.
            _pg._tcp.db.shop.svc.clusterset.local. 30 IN SRV 0 25 5432 db-0.b.db.shop.svc.clusterset.local.
            _pg._tcp.db.shop.svc.clusterset.local. 30 IN SRV 0 25 5432 10-3-0-10.db.shop.svc.clusterset.local.
            + db-0.a.db.shop.svc.clusterset.local. 30 IN A 10.1.0.10
            + fd00-2--10.b.db.shop.svc.clusterset.local. 30 IN AAAA fd00:2::10
            + db-0.b.db.shop.svc.clusterset.local. 30 IN A 10.2.0.10
            + 10-3-0-10.db.shop.svc.clusterset.local. 30 IN A 10.3.0.10
        ? here.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? x.pin._zone.db.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? shop.svc.clusterset.local A
            NOERROR aa,rd
            N $SOA
        ? other.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? clusterset.local SOA
            NOERROR aa,rd
            $SOA
        ? dns-version.clusterset.local TXT
            NOERROR aa,rd
            dns-version.clusterset.local. 28800 IN TXT \"1.1.0\"",
    );
}

/// The cluster's own names are what they were, and are not changed by what comes from others.
#[test]
fn names_of_the_cluster() {
    holds(
        "",
        "? db.shop.svc.cluster.local A
            NOERROR aa,rd
            db.shop.svc.cluster.local. 30 IN A 10.244.0.5
        ? db-0.db.shop.svc.cluster.local A
            NOERROR aa,rd
            db-0.db.shop.svc.cluster.local. 30 IN A 10.244.0.5
        ? db-0.a.db.shop.svc.cluster.local A
            NXDOMAIN
        ? web.shop.svc.cluster.local A
            NXDOMAIN
        ? 5.0.244.10.in-addr.arpa PTR
            NOERROR aa,rd
            5.0.244.10.in-addr.arpa. 30 IN PTR db-0.db.shop.svc.cluster.local.
        ? 10.0.1.10.in-addr.arpa PTR
            NXDOMAIN aa,rd
            N in-addr.arpa. 30 IN SOA ns.dns.in-addr.arpa. hostmaster.in-addr.arpa. 1700000000 7200 1800 86400 30",
    );
}

#[test]
fn options_hold_there_too() {
    holds(
        "pods verified\n ignore empty_service\n grpc_config",
        "? 10-244-0-9.shop.pod.clusterset.local A
            NOERROR aa,rd
            10-244-0-9.shop.pod.clusterset.local. 30 IN A 10.244.0.9
        ? gone.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? web.shop.svc.clusterset.local A
            NOERROR aa,rd
            web.shop.svc.clusterset.local. 30 IN A 10.42.0.1
        ? _grpc_config.db.shop.svc.clusterset.local TXT
            NOERROR aa,rd
            _grpc_config.db.shop.svc.clusterset.local. 30 IN TXT \"grpc_config=[{\\\"serviceConfig\\\":{\\\"loadBalancingConfig\\\":[{\\\"round_robin\\\":{}}]}}]\"",
    );
    holds(
        "labels app=db",
        "? web.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA
        ? db-0.a.db.shop.svc.clusterset.local A
            NOERROR aa,rd
            db-0.a.db.shop.svc.clusterset.local. 30 IN A 10.1.0.10",
    );
}

/// A name of a search list ends in another cluster's Service; those Services' own names are no search.
#[test]
fn searches() {
    holds(
        "search collapse\n zone_order",
        "? web.shop.svc.clusterset.local.shop.svc.cluster.local A
            NOERROR aa,rd
            web.shop.svc.clusterset.local.shop.svc.cluster.local. 30 IN CNAME web.shop.svc.clusterset.local.
            web.shop.svc.clusterset.local. 30 IN A 10.42.0.1
        ? here.shop.svc.cluster.local.shop.svc.clusterset.local A
            NXDOMAIN aa,rd
            N $SOA",
    );
}

/// A zone as a whole has what is answered, and no other names.
#[test]
fn zones_are_transferred() {
    let corefile = ". {\n transfer {\n to *\n }\n kubernetes cluster.local clusterset.local {\n ttl 30\n multicluster clusterset.local\n }\n}";
    let mut server = knowing(corefile, &own());
    let records = |server: &mut Server| {
        let effects = ask(server, &query("clusterset.local AXFR"), Transport::Tcp, at(0));
        let replies = effects.iter().filter_map(|effect| match effect {
            Effect::Reply(bytes) => Some(decode(bytes).unwrap()),
            _ => None,
        });
        let mut all: Vec<String> = replies.flat_map(|reply| reply.answers).map(|r| r.to_string()).collect();
        all.sort();
        all
    };
    assert!(records(&mut server).is_empty());
    server.step(Event::Imports(all_imports()), Now { unix: LATER, ..at(0) });
    let all = records(&mut server);
    assert_eq!(all.iter().filter(|record| *record == SOA).count(), 2);
    for record in [
        "web.shop.svc.clusterset.local. 30 IN A 10.42.0.1",
        "db.shop.svc.clusterset.local. 30 IN A 10.2.0.10",
        "db-0.b.db.shop.svc.clusterset.local. 30 IN A 10.2.0.10",
        "10-3-0-10.db.shop.svc.clusterset.local. 30 IN A 10.3.0.10",
        "_pg._tcp.db.shop.svc.clusterset.local. 30 IN SRV 0 100 5432 db-0.a.db.shop.svc.clusterset.local.",
    ] {
        assert!(all.iter().any(|have| have == record), "{record}: {all:#?}");
    }
    for absent in ["here", "bare", "10.244.0.5"] {
        assert!(!all.iter().any(|record| record.contains(absent)), "{absent}: {all:#?}");
    }
}

#[test]
fn what_is_not_known_yet_fails() {
    let rcode = |server: &mut Server, name: &str| {
        let text = dig(server, &format!("{name}.shop.svc.clusterset.local A"));
        text.split(' ').next().unwrap().to_owned()
    };
    let mut server = bare("");
    assert!(!server.ready());
    assert_eq!(rcode(&mut server, "web"), "SERVFAIL");
    server.step(Event::Imports(all_imports()), at(0));
    assert_eq!(rcode(&mut server, "web"), "SERVFAIL");
    server.step(Event::Snapshot(snapshot_of(&own())), at(0));
    assert_eq!(rcode(&mut server, "web"), "NOERROR");
    assert_eq!(rcode(&mut server, "ghost"), "NXDOMAIN");
    assert!(server.ready());
    let mut server = bare("");
    server.step(Event::Snapshot(snapshot_of(&own())), at(0));
    assert_eq!(rcode(&mut server, "web"), "SERVFAIL");
    assert!(!server.ready());
    // What changes is answered at once.
    server.step(Event::Imports(imports(&[])), at(0));
    assert_eq!(rcode(&mut server, "web"), "NXDOMAIN");
    server.step(Event::Imports(all_imports()), at(0));
    assert_eq!(rcode(&mut server, "web"), "NOERROR");
}

#[test]
fn needs() {
    let needs = |lines: &str| {
        let corefile = format!(". {{\n kubernetes cluster.local clusterset.local {{\n {lines}\n }}\n}}");
        Config::parse("Corefile", &corefile, &Default::default(), 53).unwrap().needs()
    };
    assert!(!needs("").imports && !needs("").destination_rules);
    assert!(needs("multicluster clusterset.local").imports);
    assert!(needs("multicluster ClusterSet.Local.\n grpc_config").destination_rules);
}
