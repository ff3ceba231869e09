//! Options of `kubernetes`: zones of endpoints, both families, what is refused, and how the API is reached.

use std::time::Duration;

use sealane_catalog::Source;
use sealane_dns::chain::{ApiAccess, ClientFiles};
use sealane_dns::{Config, Event, Server};
use serde_json::{Value, json};

use crate::cluster::{at, check, dig, dig_from, knowing, service, slice, snapshot_of};

fn objects() -> Vec<(Source, Value)> {
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    vec![
        (Source::Namespaces, json!({"metadata": {"name": "prod"}})),
        service("prod", "db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        slice(
            "prod",
            "db-a",
            "db",
            http.clone(),
            json!([{"addresses": ["172.0.0.1"], "zone": "us-west-2a"},
                {"addresses": ["172.0.0.2"], "zone": "us-west-2b"},
                {"addresses": ["172.0.0.3"], "zone": "us-west-2b"},
                {"addresses": ["172.0.0.4"], "zone": "corp.example.com"},
                {"addresses": ["172.0.0.5"]}]),
        ),
        service("prod", "twins", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        slice(
            "prod",
            "twins-a",
            "twins",
            http.clone(),
            json!([{"addresses": ["172.0.2.1"]}, {"addresses": ["172.0.2.4"], "hostname": "dup-name"},
                {"addresses": ["172.0.2.5"], "hostname": "dup-name"}]),
        ),
        service("prod", "vip", json!({"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]})),
        service(
            "prod",
            "peers",
            json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": [{"name": "http", "port": 80}]}),
        ),
        slice(
            "prod",
            "peers-a",
            "peers",
            http,
            // What the EndpointSlice controller writes for Pods that start, serve and end (KEP-1672).
            json!([{"addresses": ["172.0.1.1"], "hostname": "p-0",
                    "conditions": {"ready": true, "serving": false, "terminating": false}},
                {"addresses": ["172.0.1.2"], "hostname": "p-1", "conditions": {}},
                {"addresses": ["172.0.1.3"], "hostname": "p-2",
                    "conditions": {"ready": false, "serving": true, "terminating": true}}]),
        ),
        (
            Source::Pods,
            json!({"metadata": {"namespace": "prod", "name": "two"},
                "status": {"podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00:1::9"}]}}),
        ),
    ]
}

fn with(options: &str) -> Server {
    let corefile = format!(". {{\n kubernetes cluster.local {{\n ttl 30\n {options}\n }}\n}}");
    knowing(&corefile, &objects())
}

#[test]
fn zonal_names() {
    check(
        &mut with("zonal"),
        "? us-west-2a.pin._zone.db.prod.svc.cluster.local A
            NOERROR aa,rd
            us-west-2a.pin._zone.db.prod.svc.cluster.local. 30 IN A 172.0.0.1
        ? us-west-2b.prefer._zone.db.prod.svc.cluster.local A
            NOERROR aa,rd
            us-west-2b.prefer._zone.db.prod.svc.cluster.local. 30 IN A 172.0.0.2
            us-west-2b.prefer._zone.db.prod.svc.cluster.local. 30 IN A 172.0.0.3
        ? corp.example.com.pin._zone.db.prod.svc.cluster.local A
            NOERROR aa,rd
            corp.example.com.pin._zone.db.prod.svc.cluster.local. 30 IN A 172.0.0.4
        ? us-west-2b.pin._zone.db.prod.svc.cluster.local SRV
            NOERROR aa,rd
            us-west-2b.pin._zone.db.prod.svc.cluster.local. 30 IN SRV 0 50 80 172-0-0-2.db.prod.svc.cluster.local.
            us-west-2b.pin._zone.db.prod.svc.cluster.local. 30 IN SRV 0 50 80 172-0-0-3.db.prod.svc.cluster.local.
            + 172-0-0-2.db.prod.svc.cluster.local. 30 IN A 172.0.0.2
            + 172-0-0-3.db.prod.svc.cluster.local. 30 IN A 172.0.0.3
        ? nowhere.pin._zone.db.prod.svc.cluster.local A
            NODATA
        ? nowhere.pin._zone.db.prod.svc.cluster.local TXT
            NODATA
        ? us-west-2a.pin._zone.db.prod.svc.cluster.local MX
            NODATA
        ? us-west-2a.florp._zone.db.prod.svc.cluster.local A
            NXDOMAIN
        ? us-west-2a.pin._zone.vip.prod.svc.cluster.local A
            NXDOMAIN
        ? us-west-2a.pin._zone.ghost.prod.svc.cluster.local A
            NXDOMAIN",
    );
    let all = dig(&mut with("zonal"), "nowhere.prefer._zone.db.prod.svc.cluster.local A");
    assert_eq!(all.lines().count(), 6, "{all}");
    let off = dig(&mut with(""), "us-west-2a.pin._zone.db.prod.svc.cluster.local A");
    assert!(off.starts_with("NXDOMAIN"), "{off}");
}

#[test]
fn endpoints_are_those_that_are_ready() {
    check(
        &mut with(""),
        "? peers.prod.svc.cluster.local A
            NOERROR aa,rd
            peers.prod.svc.cluster.local. 30 IN A 172.0.1.1
            peers.prod.svc.cluster.local. 30 IN A 172.0.1.2
        ? p-0.peers.prod.svc.cluster.local A
            NOERROR aa,rd
            p-0.peers.prod.svc.cluster.local. 30 IN A 172.0.1.1
        ? p-2.peers.prod.svc.cluster.local A
            NXDOMAIN",
    );
}

/// Rows of CoreDNS's own table (`handler_test.go`) that are not in others of ours.
#[test]
fn names_that_share_and_names_between() {
    check(
        &mut with(""),
        "? dup-name.twins.prod.svc.cluster.local A
            NOERROR aa,rd
            dup-name.twins.prod.svc.cluster.local. 30 IN A 172.0.2.4
            dup-name.twins.prod.svc.cluster.local. 30 IN A 172.0.2.5
        ? _http._tcp.twins.prod.svc.cluster.local SRV
            NOERROR aa,rd
            _http._tcp.twins.prod.svc.cluster.local. 30 IN SRV 0 33 80 172-0-2-1.twins.prod.svc.cluster.local.
            _http._tcp.twins.prod.svc.cluster.local. 30 IN SRV 0 33 80 dup-name.twins.prod.svc.cluster.local.
            + 172-0-2-1.twins.prod.svc.cluster.local. 30 IN A 172.0.2.1
            + dup-name.twins.prod.svc.cluster.local. 30 IN A 172.0.2.4
            + dup-name.twins.prod.svc.cluster.local. 30 IN A 172.0.2.5
        ? svc.cluster.local NS
            NODATA
        ? prod.svc.cluster.local NS
            NODATA
        ? foo.cluster.local NS
            NXDOMAIN
        ? foo.svc.cluster.local NS
            NXDOMAIN
        ? pod.cluster.local A
            NODATA
        ? cluster.local HINFO
            NODATA
        ? vip.prod.svc.cluster.local TXT
            NODATA
        ? ghost.nowhere.svc.cluster.local TXT
            NXDOMAIN
        ? vip.prod.svc.cluster.local SOA
            NODATA",
    );
}

#[test]
fn pods_have_two_families() {
    check(
        &mut with("pods verified"),
        "? 10-244-0-9.prod.pod.cluster.local A
            NOERROR aa,rd
            10-244-0-9.prod.pod.cluster.local. 30 IN A 10.244.0.9
        ? fd00-1--9.prod.pod.cluster.local AAAA
            NOERROR aa,rd
            fd00-1--9.prod.pod.cluster.local. 30 IN AAAA fd00:1::9
        ? fd00-1--9.prod.pod.cluster.local A
            NODATA
        ? fd00-1-0-0-0-0-0-9.prod.pod.cluster.local AAAA
            NOERROR aa,rd
            fd00-1-0-0-0-0-0-9.prod.pod.cluster.local. 30 IN AAAA fd00:1::9
        ? fd00-1--8.prod.pod.cluster.local AAAA
            NXDOMAIN",
    );
}

#[test]
fn grpc_config() {
    check(
        &mut with("grpc_config"),
        r#"? _grpc_config.db.prod.svc.cluster.local TXT
            NOERROR aa,rd
            _grpc_config.db.prod.svc.cluster.local. 30 IN TXT "grpc_config=[{\"serviceConfig\":{\"loadBalancingConfig\":[{\"round_robin\":{}}]}}]"
        ? _grpc_config.db.prod.svc.cluster.local A
            NODATA
        ? _grpc_config.vip.prod.svc.cluster.local TXT
            NXDOMAIN
        ? _grpc_config.vip.prod.svc.cluster.local A
            NXDOMAIN
        ? db.prod.svc.cluster.local TXT
            NODATA"#,
    );
    // The text is JSON behind its attribute (gRFC A2).
    let reply = dig_from(&mut with("grpc_config"), "10.0.0.1", "_grpc_config.db.prod.svc.cluster.local TXT");
    let sealane_dns::message::Data::Txt(strings) = &reply.answers[0].data else { panic!("{reply:?}") };
    let text = String::from_utf8(strings.concat()).unwrap();
    let choices: Value = serde_json::from_str(text.strip_prefix("grpc_config=").unwrap()).unwrap();
    assert_eq!(choices[0]["serviceConfig"]["loadBalancingConfig"][0], json!({"round_robin": {}}));
    let off = dig(&mut with(""), "_grpc_config.db.prod.svc.cluster.local A");
    assert!(off.starts_with("NXDOMAIN"), "{off}");
}

#[test]
fn a_destination_rule_chooses_the_grpc_policy() {
    let mut objects = objects();
    let rule = |name: &str, host: &str, balancer: Value| {
        let metadata = json!({"namespace": "prod", "name": name});
        let spec = json!({"host": host, "trafficPolicy": {"loadBalancer": balancer}});
        (Source::DestinationRules, json!({"metadata": metadata, "spec": spec}))
    };
    objects.push(rule("db", "db.prod.svc.cluster.local", json!({"simple": "PASSTHROUGH"})));
    objects.push(rule("twins", "twins", json!({"consistentHash": {"httpHeaderName": "x"}})));
    let mut server = with("grpc_config");
    server.step(Event::Snapshot(snapshot_of(&objects)), at(0));
    let text = |config: &str| {
        format!(
            "\"grpc_config=[{{\\\"serviceConfig\\\":{{\\\"loadBalancingConfig\\\":[{{\\\"{config}\\\":{{}}}}]}}}}]\""
        )
    };
    for (service, config) in [("db", "pick_first"), ("twins", "round_robin"), ("peers", "round_robin")] {
        let found = dig(&mut server, &format!("_grpc_config.{service}.prod.svc.cluster.local TXT"));
        assert!(found.ends_with(&text(config)), "{found}");
    }
}

#[test]
fn how_the_api_is_reached() {
    let needs = |lines: &str| {
        let corefile = format!(". {{\n kubernetes cluster.local {{\n {lines}\n }}\n}}");
        Config::parse("Corefile", &corefile, &Default::default(), 53).unwrap().needs()
    };
    let default = needs("");
    assert_eq!(default.one_access(), Ok(ApiAccess::default()));
    assert_eq!(default.startup_timeout, Duration::from_secs(5));
    assert!(!default.pods && !default.nodes);
    assert_eq!(needs("startup_timeout 30s").startup_timeout, Duration::from_secs(30));
    assert!(needs("zone_order").nodes && needs("pods verified").pods);
    let kubeconfig = needs("kubeconfig /etc/k admin").one_access().unwrap();
    assert_eq!(
        kubeconfig,
        ApiAccess {
            kubeconfig: Some("/etc/k".into()),
            context: Some("admin".into()),
            ..ApiAccess::default()
        }
    );
    let endpoint = needs("endpoint https://k8s:8443\n tls c k ca").one_access().unwrap();
    let tls = ClientFiles { certificate: "c".into(), key: "k".into(), authorities: "ca".into() };
    let expected =
        ApiAccess { endpoint: Some("https://k8s:8443".into()), tls: Some(tls), ..ApiAccess::default() };
    assert_eq!(endpoint, expected);
    // One server, one cluster.
    let two = "a {\n kubernetes {\n kubeconfig x\n }\n}\nb {\n kubernetes\n}";
    let two = Config::parse("Corefile", two, &Default::default(), 53).unwrap().needs();
    assert!(two.one_access().unwrap_err().contains("different APIs"));
    assert_eq!(needs("").and(needs("")).access.len(), 1);
}

#[test]
fn refused() {
    for (lines, error) in [
        ("multicluster", "3:2: 'multicluster' without zones does nothing"),
        (
            "multicluster cluster.local clusterset.local",
            "3:29: 'kubernetes' is not authoritative for the multicluster zone clusterset.local. (its zones: cluster.local.)",
        ),
        ("apiserver_qps 5", "3:2: 'apiserver_qps' has nothing to limit"),
        ("zonal yes", "3:8: 'zonal' takes no 'yes'"),
        ("zonal\n noendpoints", "3:2: 'zonal' needs endpoints; remove it or 'noendpoints'"),
        ("noendpoints\n zone_order", "4:2: 'zone_order' needs endpoints"),
        ("namespaces a\n namespace_labels b", "4:2: 'namespaces' and 'namespace_labels' exclude each other"),
        ("kubeconfig", "3:2: 'kubeconfig' is followed by FILE [CONTEXT]"),
        ("tls a b", "3:2: 'tls' is followed by CERT KEY CACERT"),
        ("endpoint k8s:8443", "3:11: 'k8s:8443' is no URL (https://HOST:PORT)"),
        ("search", "3:2: 'search' needs a thing"),
        ("search expand", "3:9: 'expand' is nothing to do with searches (collapse)"),
        ("startup_timeout 5", "3:18: '5' is no duration"),
        ("warm_start", "3:2: 'warm_start' is followed by FILE [MAX_AGE]"),
        ("warm_start f 5", "3:15: '5' is no duration"),
        ("warm_start f 5h x", "3:18: 'warm_start' takes no 'x'"),
        ("grpc_config x", "3:14: 'grpc_config' takes no 'x'"),
    ] {
        let corefile = format!(". {{\n kubernetes cluster.local {{\n {lines}\n }}\n}}");
        let found = Config::parse("Corefile", &corefile, &Default::default(), 53).unwrap_err().to_string();
        assert!(found.starts_with(&format!("Corefile:{error}")), "{lines}: {found}");
    }
}

/// What the documentation shows can be started, and is what it says.
#[test]
fn the_documentations_corefile() {
    let text = include_str!("../../../../docs/dns.md");
    let corefile = text.split("```").find(|part| part.trim_start().starts_with(".:53 {")).unwrap();
    let mut server = knowing(corefile, &objects());
    let found = dig(&mut server, "_grpc_config.db.prod.svc.cluster.local TXT");
    let record = found.split(" TXT ").nth(1).unwrap();
    assert!(text.contains(record), "{record}");
}
