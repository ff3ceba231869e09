//! `k8s_external`: names of the outside.

use sealane_catalog::{Builder, Source};
use sealane_dns::{Config, Event, Server};
use serde_json::{Value, json};

use crate::cluster::{at, check, dig, knowing, relisted, server, slice};

pub fn objects() -> Vec<(Source, Value)> {
    let object = |name: &str, spec: Value, ingress: Value| {
        let status = json!({"loadBalancer": {"ingress": ingress}});
        (
            Source::Services,
            json!({"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status}),
        )
    };
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    vec![
        (Source::Namespaces, json!({"metadata": {"name": "default"}})),
        object(
            "svc1",
            json!({"clusterIP": "10.96.0.1", "externalIPs": ["192.168.200.123"], "ports": http}),
            json!([{"ip": "192.168.200.124"}, {"ip": "fd00:2::1"}]),
        ),
        object("plain", json!({"clusterIP": "10.96.0.2", "ports": http}), json!([])),
        object(
            "lb",
            json!({"clusterIP": "10.96.0.3", "ports": http}),
            json!([{"hostname": "lb.example.com"}]),
        ),
        object("db", json!({"clusterIP": "None", "ports": http}), json!([])),
        slice(
            "default",
            "db-a",
            "db",
            http.clone(),
            json!([{"addresses": ["10.244.0.5"], "hostname": "db-0"},
            {"addresses": ["10.244.0.6"]}]),
        ),
        object(
            "dns",
            json!({"clusterIP": "10.96.0.10", "externalIPs": ["192.0.2.53", "fd00:2::53"], "ports": http}),
            json!([]),
        ),
        // This server's Pod.
        slice("default", "dns-a", "dns", http, json!([{"addresses": ["10.244.0.2"]}])),
    ]
}

fn with(options: &str) -> Server {
    let corefile = format!(
        ". {{
            kubernetes cluster.local
            k8s_external example.org 168.192.in-addr.arpa {{
                {options}
            }}
            hosts /none {{
                192.0.2.80 lb.example.com
                fallthrough
            }}
        }}"
    );
    knowing(&corefile, &objects())
}

const SOA: &str =
    "N example.org. 5 IN SOA ns1.dns.example.org. hostmaster.dns.example.org. 1700000000 7200 1800 86400 5";

#[test]
fn services() {
    let table = "? svc1.default.example.org A
            NOERROR aa,rd
            svc1.default.example.org. 5 IN A 192.168.200.123
            svc1.default.example.org. 5 IN A 192.168.200.124
        ? svc1.default.example.org AAAA
            NOERROR aa,rd
            svc1.default.example.org. 5 IN AAAA fd00:2::1
        ? svc1.default.example.org SRV
            NOERROR aa,rd
            svc1.default.example.org. 5 IN SRV 0 33 80 svc1.default.example.org.
            + svc1.default.example.org. 5 IN A 192.168.200.123
            + svc1.default.example.org. 5 IN A 192.168.200.124
            + svc1.default.example.org. 5 IN AAAA fd00:2::1
        ? _http._tcp.svc1.default.example.org SRV
            NOERROR aa,rd
            _http._tcp.svc1.default.example.org. 5 IN SRV 0 33 80 svc1.default.example.org.
            + svc1.default.example.org. 5 IN A 192.168.200.123
            + svc1.default.example.org. 5 IN A 192.168.200.124
            + svc1.default.example.org. 5 IN AAAA fd00:2::1
        ? _http._udp.svc1.default.example.org SRV
            NXDOMAIN aa,rd
            SOA
        ? svc1.default.example.org MX
            NOERROR aa,rd
            SOA
        ? lb.default.example.org A
            NOERROR aa,rd
            lb.default.example.org. 5 IN CNAME lb.example.com.
            lb.example.com. 3600 IN A 192.0.2.80
        ? lb.default.example.org SRV
            NOERROR aa,rd
            lb.default.example.org. 5 IN SRV 0 100 80 lb.example.com.
            + lb.example.com. 3600 IN A 192.0.2.80
        ? plain.default.example.org A
            NXDOMAIN aa,rd
            SOA
        ? no.default.example.org A
            NXDOMAIN aa,rd
            SOA
        ? svc1.nowhere.example.org A
            NXDOMAIN aa,rd
            SOA
        ? default.example.org A
            NOERROR aa,rd
            SOA
        ? a.b.c.svc1.default.example.org A
            NXDOMAIN aa,rd
            SOA
        ? db.default.example.org A
            NXDOMAIN aa,rd
            SOA
        ? 123.200.168.192.in-addr.arpa PTR
            NOERROR aa,rd
            123.200.168.192.in-addr.arpa. 5 IN PTR svc1.default.example.org.";
    check(&mut with(""), &table.replace("SOA\n", &format!("{SOA}\n")));
    let found = dig(&mut with(""), "9.200.168.192.in-addr.arpa PTR");
    assert!(found.starts_with("NXDOMAIN aa,rd\nN 168.192.in-addr.arpa."), "{found}");
}

#[test]
fn headless_services() {
    check(
        &mut with("headless\n ttl 60"),
        "? db.default.example.org A
            NOERROR aa,rd
            db.default.example.org. 60 IN A 10.244.0.5
            db.default.example.org. 60 IN A 10.244.0.6
        ? db-0.db.default.example.org A
            NOERROR aa,rd
            db-0.db.default.example.org. 60 IN A 10.244.0.5
        ? _http._tcp.db.default.example.org SRV
            NOERROR aa,rd
            _http._tcp.db.default.example.org. 5 IN SRV 0 50 80 db-0.db.default.example.org.
            _http._tcp.db.default.example.org. 5 IN SRV 0 50 80 10-244-0-6.db.default.example.org.
            + db-0.db.default.example.org. 60 IN A 10.244.0.5
            + 10-244-0-6.db.default.example.org. 60 IN A 10.244.0.6",
    );
}

#[test]
fn apex() {
    let table = "? example.org SOA
            NOERROR aa,rd
            ANSWER
        ? example.org NS
            NOERROR aa,rd
            example.org. 5 IN NS ns1.dns.example.org.
            + ns1.dns.example.org. 5 IN A 192.0.2.53
            + ns1.dns.example.org. 5 IN AAAA fd00:2::53
        ? example.org A
            NOERROR aa,rd
            SOA
        ? ns1.dns.example.org A
            NOERROR aa,rd
            ns1.dns.example.org. 5 IN A 192.0.2.53
        ? ns1.dns.example.org SRV
            NOERROR aa,rd
            SOA
        ? dns.example.org A
            NOERROR aa,rd
            SOA
        ? ns2.dns.example.org A
            NXDOMAIN aa,rd
            SOA
        ? a.ns1.dns.example.org A
            NXDOMAIN aa,rd
            SOA\n";
    let table = table.replace("ANSWER\n", &format!("{}\n", &SOA[2..])).replace(" SOA\n", " SOA_\n");
    let table = table.replace("org SOA_", "org SOA").replace("SOA_", SOA);
    check(&mut with(""), &table);
    let renamed = dig(&mut with("apex names"), "example.org NS");
    assert!(renamed.contains("NS ns1.names.example.org."), "{renamed}");
}

#[test]
fn what_is_not_there_falls_through() {
    let found = dig(&mut with("fallthrough"), "no.default.example.org A");
    assert!(found.starts_with("SERVFAIL"), "nobody is behind: {found}");
    let other = dig(&mut with("fallthrough example.com"), "no.default.example.org A");
    assert!(other.starts_with("NXDOMAIN"), "{other}");
}

#[test]
fn addresses_come_and_go() {
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    let mut server = server(". {\n kubernetes cluster.local\n k8s_external example.org in-addr.arpa\n}");
    let name = "123.200.168.192.in-addr.arpa PTR";
    for (at_millis, count, rcode) in
        [(0, 1, "NXDOMAIN"), (1, 2, "NOERROR"), (2, 1, "NXDOMAIN"), (3, 9, "NOERROR")]
    {
        let objects = &objects()[..count.min(objects().len())];
        server.step(Event::Snapshot(relisted(&mut builder, objects)), at(at_millis));
        let found = dig(&mut server, name);
        assert!(found.starts_with(rcode), "{count}: {found}");
    }
}

#[test]
fn refused() {
    for (lines, error) in [
        (
            "k8s_external example.org",
            "2:2: 'k8s_external' answers from 'kubernetes', which this server block lacks",
        ),
        ("kubernetes\n k8s_external {\n  ttl 3601\n }", "4:7: a TTL of k8s_external lies between 0 and 3600"),
        ("kubernetes\n k8s_external {\n  apex a.b\n }", "4:8: 'a.b' is no label"),
        ("kubernetes\n k8s_external {\n  headless yes\n }", "4:12: 'headless' takes no 'yes'"),
        ("kubernetes\n k8s_external {\n  magic\n }", "4:3: option 'magic' of 'k8s_external' is unknown"),
    ] {
        let corefile = format!(". {{\n {lines}\n}}");
        let found = Config::parse("Corefile", &corefile, &Default::default(), 53).unwrap_err().to_string();
        assert!(found.starts_with(&format!("Corefile:{error}")), "{lines}: {found}");
    }
}
