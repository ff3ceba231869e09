//! `metadata`, and the labels of the plugins that have some.

use sealane_dns::Event;

use super::upstream::{exchange, refused};
use crate::cluster::{at, query, server, snapshot};

#[test]
fn labels() {
    for (label, question, value) in [
        ("kubernetes/service", "service-test.default.svc.cluster.local A", "service-test"),
        ("kubernetes/namespace", "_http._tcp.service-test.default.svc.cluster.local SRV", "default"),
        ("kubernetes/port-name", "_http._tcp.service-test.default.svc.cluster.local SRV", "http"),
        ("kubernetes/protocol", "_http._tcp.service-test.default.svc.cluster.local SRV", "tcp"),
        ("kubernetes/endpoint", "web-0.web.default.svc.cluster.local A", "web-0"),
        ("kubernetes/kind", "web-0.web.default.svc.cluster.local A", "svc"),
        ("kubernetes/kind", "svc.cluster.local A", "-"),
        ("kubernetes/kind", "www.example A", "-"),
        ("kubernetes/parse-error", "web.default.cluster.local A", "invalid query name"),
        ("kubernetes/client-namespace", "www.example A", "default"),
        ("kubernetes/client-pod-name", "www.example A", "p"),
        ("forward/upstream", "www.example A", "192.0.2.53:53"),
        ("forward/upstream", "web.default.svc.cluster.local A", "-"),
        ("view/name", "www.example A", "inside"),
        ("log/type", "no.default.svc.cluster.local A", "NXDOMAIN"),
        ("log/class", "no.default.svc.cluster.local A", "denial"),
        ("some/other", "www.example A", "-"),
    ] {
        let line = |metadata: &str| {
            let mut server = server(&format!(
                ".:53 {{\n {metadata}\n log . \"{{/{label}}}\"\n kubernetes cluster.local {{\n pods verified\n }}\n \
                 forward . 192.0.2.53\n view inside {{\n expr true\n }}\n}}"
            ));
            server.step(Event::Snapshot(snapshot()), at(0));
            exchange(&mut server, "10.244.0.5:4242", &query(question), |query| query.reply(0)).logs.remove(0)
        };
        assert_eq!(line("metadata"), format!("[INFO] {value}"), "{label} {question}");
        // Off, or for other names alone.
        assert_eq!(line(""), "[INFO] -", "{label}");
        assert_eq!(line("metadata example.org"), "[INFO] -", "{label}");
        assert_eq!(line("metadata example.org example cluster.local"), format!("[INFO] {value}"), "{label}");
    }
}

#[test]
fn labels_in_options() {
    let mut server = server(
        ".:53 {\n metadata\n view here {\n expr true\n }\n rewrite edns0 local set 0xffee {view/name}\n forward . 192.0.2.53\n}",
    );
    let outcome = exchange(&mut server, "10.0.0.1:9", &query("a A"), |query| query.reply(0));
    assert_eq!(outcome.asked[0].edns.as_ref().unwrap().options, [(0xffee, Box::from(*b"here"))]);
}

#[test]
fn refused_lines() {
    assert!(refused("metadata {\n x\n}").starts_with("Corefile:3:2: option 'x' of 'metadata' is unknown"));
    assert!(refused("metadata a..b").starts_with("Corefile:2:10: 'a..b' is no zone"));
}
