//! `acl`: who is let through, and what the others get.

use std::net::SocketAddr;

use sealane_dns::{Config, Effect, Event, Message, Server, Transport, decode, encode};

use crate::cluster::{at, query, server};

/// What a client at an address gets: the code, `passed` where the next plugin answers, `nothing`.
fn ask(server: &mut Server, client: &str, question: &str) -> String {
    let client = SocketAddr::new(client.parse().unwrap(), 4242);
    let bytes = encode(&query(&format!("{question} +edns")), 512);
    let effects = server
        .step(Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes }, at(0));
    let [Effect::Reply(bytes)] = effects.as_slice() else { return "nothing".into() };
    let reply: Message = decode(bytes).unwrap();
    let edns = reply.edns.as_ref().unwrap();
    assert_eq!(edns.udp_size, 1232);
    let reason = edns.options.iter().find(|(code, _)| *code == 15).map(|(_, data)| data[1]);
    match (reason, reply.additional.is_empty()) {
        (None, false) => "passed".into(),
        (Some(reason), true) => format!("{} {reason}", reply.rcode),
        other => panic!("{other:?} {reply:?}"),
    }
}

#[test]
fn policies() {
    for (lines, cases) in [
        // Of the README: types, networks, both, and the order of policies and of rules.
        (
            "acl {\n block type A net 192.168.0.0/16\n}",
            &[
                ("192.168.0.2 a.example A", "5 15"),
                ("192.168.0.2 a.example AAAA", "passed"),
                ("10.0.0.1 a.example A", "passed"),
            ] as &[(&str, &str)],
        ),
        (
            "acl {\n filter type A net 192.168.0.0/16\n}",
            &[("192.168.7.2 a.example A", "0 17"), ("192.168.7.2 a.example MX", "passed")],
        ),
        (
            "acl {\n block type * net 192.168.1.0/24 192.168.2.0/24\n}",
            &[
                ("192.168.1.9 a.example TXT", "5 15"),
                ("192.168.2.9 a.example A", "5 15"),
                ("192.168.3.9 a.example A", "passed"),
            ],
        ),
        (
            "acl {\n allow net 192.168.0.7\n DROP net 192.168.0.0/16\n}",
            &[
                ("192.168.0.7 a.example A", "passed"),
                ("192.168.0.8 a.example A", "nothing"),
                ("::1 a.example A", "passed"),
            ],
        ),
        (
            "acl example.org {\n allow net 10.0.0.0/8\n block\n}\nacl {\n filter net 10.0.0.0/8\n}",
            &[
                // What is allowed once is not asked again.
                ("10.1.1.1 x.example.org A", "passed"),
                ("10.1.1.1 example.net A", "0 17"),
                ("2001:db8::1 X.Example.ORG A", "5 15"),
                ("2001:db8::1 example.net A", "passed"),
            ],
        ),
        (
            "acl {\n block NET 2001:db8::/32 192.0.2.1 type AAAA mx\n}",
            &[
                ("2001:db8:1::1 a A", "passed"),
                ("2001:db8:1::1 a AAAA", "5 15"),
                ("192.0.2.1 a MX", "5 15"),
                ("192.0.2.2 a MX", "passed"),
                ("2001:db9::1 a MX", "passed"),
            ],
        ),
        ("acl {\n block net 0.0.0.0/0\n}", &[("1.2.3.4 a A", "5 15"), ("::1 a A", "passed")]),
        ("acl {\n block net *\n}", &[("1.2.3.4 a A", "5 15"), ("::1 a A", "5 15")]),
        ("acl {\n}", &[("1.2.3.4 a A", "passed")]),
    ] {
        let mut server = server(&format!(". {{\n whoami\n {lines}\n}}"));
        for (case, expected) in cases {
            let (client, question) = case.split_once(' ').unwrap();
            assert_eq!(ask(&mut server, client, question), *expected, "{lines}: {case}");
        }
    }
}

#[test]
fn counts() {
    let mut server =
        server(". {\n whoami\n acl a.example {\n block type A\n filter type MX\n drop type TXT\n }\n}");
    for question in ["x.a.example A", "a.example MX", "a.example TXT", "a.example AAAA", "b.example A"] {
        ask(&mut server, "192.0.2.1", question);
    }
    let mut text = String::new();
    server.render_metrics(&mut text);
    for (what, zone, count) in
        [("blocked", true, 1), ("filtered", true, 1), ("dropped", true, 1), ("allowed", false, 2)]
    {
        let zone = if zone { ",zone=\"a.example.\"" } else { "" };
        let line =
            format!("coredns_acl_{what}_requests_total{{server=\"dns://:53\"{zone},view=\"\"}} {count}");
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("deny net 10.0.0.0/8", "3:1: 'deny' is no action of acl (allow, block, filter, drop)"),
        ("block A", "3:7: 'A' is neither 'type' nor 'net'"),
        ("block type", "3:7: 'type' names none"),
        ("block type net 10.0.0.0/8", "3:7: 'type' names none"),
        ("block type ABC", "3:12: 'ABC' is no record type"),
        ("block net 10.0.0.0/33", "3:11: '10.0.0.0/33' is no network"),
        ("block net 10.0.0", "3:11: '10.0.0' is no network"),
    ] {
        let text = format!(". {{\nacl {{\n{line}\n}}\n}}");
        let error = Config::parse("Corefile", &text, &Default::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
}
