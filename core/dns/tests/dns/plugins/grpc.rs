//! `grpc`: whom it asks, and what it makes of what comes back.

use sealane_dns::message::grpc::{NOT_FOUND, Status, UNAVAILABLE};
use sealane_dns::message::rcode;
use sealane_dns::plugins::grpc::Grpc;
use sealane_dns::{Config, Effect, Event, Server, Transport, Via};

use super::upstream::refused;
use crate::cluster::{ask, at, query, server};
use crate::upstreams::{Asked, answer, asked, logs, reply};

fn grpc(line: &str) -> Server {
    server(&format!(".:53 {{\n errors\n {line}\n}}"))
}

fn first(server: &mut Server, text: &str) -> Asked {
    asked(ask(server, &query(text), Transport::Udp, at(0)))
}

fn fails(server: &mut Server, asked: Asked, code: u8, millis: u64) -> Vec<Effect> {
    let why = Status::new(code, "gone").to_string();
    server.step(Event::Failed { pending: asked.pending, why }, at(millis))
}

#[test]
fn documented_examples() {
    for (line, upstreams, name) in [
        ("grpc . 127.0.0.1:9005", &["127.0.0.1:9005"][..], None),
        (
            "grpc . 10.0.0.10:53 10.0.0.11:1053 [2003::1]:53 {\n policy sequential\n }",
            &["10.0.0.10:53", "10.0.0.11:1053", "[2003::1]:53"],
            None,
        ),
        ("grpc . /etc/resolv.conf {\n except example.org\n }", &["192.0.2.53:53"], None),
        (
            "grpc . 9.9.9.9 {\n tls_servername dns.quad9.net\n }\n cache 30",
            &["9.9.9.9:53"],
            Some(Some("dns.quad9.net")),
        ),
        ("grpc . grpc://10.0.0.1 {\n tls\n }", &["10.0.0.1:443"], Some(None)),
        ("grpc . unix:///path/to/grpc.sock", &["/path/to/grpc.sock"], None),
    ] {
        let mut server = grpc(line);
        let mut effects = ask(&mut server, &query("www.example.net A"), Transport::Udp, at(0));
        for upstream in upstreams {
            let asked = asked(effects);
            let Via::Grpc(client) = &asked.via else { panic!("{line}") };
            assert_eq!(client.socket.as_ref().unwrap_or(&asked.upstream), *upstream, "{line}");
            assert_eq!(client.tls.as_ref().map(|tls| tls.server_name.as_deref()), name, "{line}");
            effects = fails(&mut server, asked, UNAVAILABLE, 1);
        }
        assert_eq!(reply(&effects).rcode, rcode::SERVFAIL);
        let why = "www.example.net. A: rpc error: code = Unavailable desc = gone";
        assert!(logs(&effects)[0].ends_with(why), "{effects:?}");
    }
    // `forward` comes before it, whatever the order of the lines.
    let mut server = grpc("grpc . 127.0.0.1:9005 {\n fallthrough\n }\n forward . 8.8.8.8");
    assert_eq!(first(&mut server, "www.example.net A").upstream, "8.8.8.8:53");
}

#[test]
fn policies() {
    for (policy, expected) in [
        ("sequential", ["10.0.0.1:53", "10.0.0.1:53", "10.0.0.1:53"]),
        ("round_robin", ["10.0.0.2:53", "10.0.0.3:53", "10.0.0.1:53"]),
    ] {
        let mut server = grpc(&format!("grpc . 10.0.0.1 10.0.0.2 10.0.0.3 {{\n policy {policy}\n }}"));
        for upstream in expected {
            assert_eq!(first(&mut server, "a.example A").upstream, upstream, "{policy}");
        }
    }
}

#[test]
fn names_that_are_not_its_own() {
    let mut server = grpc("grpc example.org 10.0.0.1 {\n except a.example.org\n }\n whoami");
    assert_eq!(first(&mut server, "b.example.org A").upstream, "10.0.0.1:53");
    for text in ["x.a.example.org A", "example.net A"] {
        let effects = ask(&mut server, &query(text), Transport::Udp, at(0));
        assert_eq!(reply(&effects).additional.len(), 2, "{text}");
    }
    let mut last = grpc("grpc example.org 10.0.0.1");
    let effects = ask(&mut last, &query("example.net A"), Transport::Udp, at(0));
    assert_eq!((reply(&effects).rcode, logs(&effects).len()), (rcode::SERVFAIL, 0));
}

#[test]
fn nxdomain_falls_through_where_it_may() {
    for (option, name, falls) in [
        ("", "a.example", false),
        ("fallthrough", "a.example", true),
        ("fallthrough example", "a.example", true),
        ("fallthrough example", "a.test", false),
    ] {
        for found in [true, false] {
            let mut server = grpc(&format!("grpc . 10.0.0.1 {{\n {option}\n }}\n whoami"));
            let asked = first(&mut server, &format!("{name} A"));
            let effects = match found {
                true => {
                    let bytes = sealane_dns::encode(&asked.message.reply(rcode::NXDOMAIN), 512);
                    server.step(Event::Answer { pending: asked.pending, bytes: &bytes }, at(1))
                }
                // Backends that know no such name.
                false => fails(&mut server, asked, NOT_FOUND, 1),
            };
            let code = if falls { rcode::NOERROR } else { rcode::NXDOMAIN };
            assert_eq!(reply(&effects).rcode, code, "{option} {name} {found}");
        }
    }
}

#[test]
fn time_runs_out() {
    let mut server = grpc("grpc . 10.0.0.1 10.0.0.2");
    let asked = first(&mut server, "a.example A");
    let effects = fails(&mut server, asked, UNAVAILABLE, 5_000);
    assert_eq!(reply(&effects).rcode, rcode::SERVFAIL);
}

#[test]
fn answers_are_counted_and_have_to_be_answers() {
    let mut server = grpc("grpc . 10.0.0.1 unix:///s {\n policy sequential\n }");
    for other in [false, true] {
        let asked = first(&mut server, "a.example A");
        let mut message = asked.message.clone();
        if other {
            message.questions[0].name = "b.example".parse().unwrap();
        }
        let bytes = answer(&message, 60);
        let effects = server.step(Event::Answer { pending: asked.pending, bytes: &bytes }, at(3));
        assert_eq!(reply(&effects).rcode, if other { rcode::FORMERR } else { rcode::NOERROR });
    }
    let asked_first = first(&mut server, "a.example A");
    let second = asked(fails(&mut server, asked_first, UNAVAILABLE, 1));
    let bytes = answer(&second.message, 60);
    server.step(Event::Answer { pending: second.pending, bytes: &bytes }, at(2));
    let mut page = String::new();
    server.render_metrics(&mut page);
    for line in [
        "coredns_grpc_requests_total{to=\"10.0.0.1:53\"} 2",
        "coredns_grpc_responses_total{rcode=\"NOERROR\",to=\"10.0.0.1:53\"} 2",
        "coredns_grpc_responses_total{rcode=\"NOERROR\",to=\"unix:///s\"} 1",
        "coredns_grpc_request_duration_seconds_count{to=\"10.0.0.1:53\"} 2",
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
}

#[test]
fn files() {
    let mut config =
        Config::parse("C", ". {\n grpc . 10.0.0.1 /r {\n tls c k ca\n }\n}", &Default::default(), 53)
            .unwrap();
    let paths: Vec<String> = config.files().into_iter().map(|want| want.path).collect();
    assert_eq!(paths, ["/r", "c", "ca", "k"]);
    for (path, content, error) in [
        ("c", None, Some("C:2:2: grpc: cannot read c")),
        (
            "/r",
            Some("nonsense"),
            Some("C:2:2: grpc: /r is no address, and no resolv.conf with a name server"),
        ),
        ("ca", Some("CA"), None),
        ("c", Some("CHAIN"), None),
        ("k", Some("KEY"), None),
    ] {
        assert_eq!(config.load(path, content).err().map(|error| error.to_string()).as_deref(), error);
    }
    let client = config.plugins_of::<Grpc>().next().unwrap().tls_client().unwrap();
    assert_eq!(client.authorities.as_deref(), Some("CA"));
    assert_eq!(client.identity, Some(("CHAIN".to_owned(), "KEY".to_owned())));
}

#[test]
fn refused_lines() {
    for (lines, error) in [
        ("grpc", "2:1: 'grpc' needs a zone and whom to ask"),
        ("grpc .", "2:6: 'grpc' needs whom to ask behind its zone"),
        ("grpc . tls://1.1.1.1", "2:8: 'grpc' asks nobody by tls://"),
        ("grpc . grpc://example.org", "2:8: 'example.org' is no address"),
        ("grpc . unix://", "2:8: 'unix://' needs a path"),
        ("grpc . fe80::1%eth0", "2:8: 'fe80::1%eth0' has a scope, which is not Sealane's"),
        ("grpc 10.0.0.0/15 10.0.0.1", "2:6: '10.0.0.0/15' is 2 zones; 'grpc' takes one"),
        ("grpc . 10.0.0.1 {\n except\n}", "3:2: 'except' needs a name"),
        ("grpc . 10.0.0.1 {\n tls a b c d\n}", "3:12: 'tls' takes no 'd'"),
        ("grpc . 10.0.0.1 {\n tls_servername\n}", "3:2: 'tls_servername' needs a name"),
        ("grpc . 10.0.0.1 {\n policy best\n}", "3:9: 'best' is no policy (random, round_robin, sequential)"),
        (
            "grpc . 10.0.0.1 {\n max_fails 3\n}",
            "3:2: option 'max_fails' of 'grpc' is unknown, or not Sealane's yet",
        ),
        ("grpc . 10.0.0.1\ngrpc . 10.0.0.2", "3:1: plugin 'grpc' stands twice in this server block"),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{error}"), "{lines}");
    }
    let many = format!("grpc .{}", " 10.0.0.1".repeat(16));
    assert_eq!(refused(&many), "Corefile:2:143: 'grpc' takes 15 upstreams at most");
}
