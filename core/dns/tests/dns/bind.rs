//! Server blocks that differ in `bind` alone: which may stand beside each other, which answers, and what is counted.

use std::net::IpAddr;

use sealane_dns::chain::{Scheme, ServerAddress};
use sealane_dns::corefile::Sources;
use sealane_dns::message::{Data, rcode, rtype};
use sealane_dns::{Config, Event, Server, Transport};

use crate::cluster::{ask_at, at, query, server};
use crate::upstreams::{logs, reply};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `127.0.0.1:53`, `:53`, with a scheme where it is another than DNS.
fn address(text: &str) -> ServerAddress {
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    let (host, port) = rest.rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']);
    ServerAddress {
        scheme: Scheme::ALL.into_iter().find(|known| known.as_str() == scheme).unwrap(),
        ip: (!host.is_empty()).then(|| ip(host)),
        port: port.parse().unwrap(),
    }
}

/// A block that answers for `x.example` with this address.
fn block(keys: &str, bind: &str, answer: u8) -> String {
    let bind = if bind.is_empty() { String::new() } else { format!(" bind {bind}\n") };
    format!("{keys} {{\n{bind} hosts /nowhere {{\n  192.0.2.{answer} x.example\n }}\n prometheus\n}}\n")
}

/// The last octet of the answer, or its code.
fn answered(server: &mut Server, at_server: &str, millis: u64) -> String {
    let found = ask_at(server, address(at_server), &query("x.example A"), Transport::Udp, at(millis));
    let found = reply(&found);
    let a = found.answers.iter().find(|record| record.data.rtype() == rtype::A);
    a.map_or_else(
        || rcode::name(found.rcode),
        |a| match &a.data {
            Data::A(ip) => ip.to_string(),
            other => panic!("{other:?}"),
        },
    )
}

/// What CoreDNS 1.14 says of each.
#[test]
fn blocks_that_may_stand_beside_each_other() {
    let v = "\n view a {\n expr true\n }";
    let interfaces = [("lo".to_owned(), vec![ip("127.0.0.1"), ip("::1")])];
    let sources = Sources { interfaces: interfaces.into(), ..Sources::default() };
    let defined = |what: &str, line: u32| {
        format!(
            "cannot serve {what} - it is already defined at Corefile:{line}:1; remove one of the two, or let each \
             'bind' addresses of its own"
        )
    };
    let overlaps = |what: &str, with: &str| {
        format!(
            "cannot serve {what} - zone overlap listener capacity with {with} at Corefile:1:1; let both 'bind' \
             addresses of their own"
        )
    };
    for (blocks, refused) in [
        (&[(".", ""), (".", "")][..], Some(defined("dns://.:53", 1))),
        (&[(".", "127.0.0.1"), (".", "127.0.0.2")], None),
        (&[(".", "127.0.0.1"), (".", "127.0.0.1 127.0.0.2")], Some(defined("dns://.:53 on 127.0.0.1", 1))),
        (&[(".", "127.0.0.1"), (".", "")], Some(overlaps("dns://.:53", "dns://.:53 on 127.0.0.1"))),
        (&[("a b", ""), ("b", "127.0.0.1")], Some(overlaps("dns://b.:53 on 127.0.0.1", "dns://b.:53"))),
        (&[("a", "127.0.0.1"), ("b", "")], None),
        (&[(".", "127.0.0.1 lo")], Some(defined("dns://.:53 on 127.0.0.1", 1))),
        (&[(".", "lo"), (".", "127.0.0.2")], None),
        (&[(".", "lo"), (".", "::1")], Some(defined("dns://.:53 on ::1", 1))),
        (&[(".", "lo {\n except ::1\n}"), (".", "::1")], None),
        // Where there is an address for all addresses of a family, it is one like others.
        (&[(".", "0.0.0.0"), (".", "127.0.0.1")], None),
        (&[("tls://.", "127.0.0.1"), ("https://.", "127.0.0.1"), ("grpc://.:5", "127.0.0.1")], None),
        (&[("tls://.", "127.0.0.1"), ("tls://.", "127.0.0.2")], None),
        (&[("tls://.", "::1"), ("tls://.", "::1")], Some(defined("tls://.:853 on ::1", 1))),
        (&[("https://.", "::1"), ("https://.", "")], Some(overlaps("https://.:443", "https://.:443 on ::1"))),
        (&[(".", &format!("127.0.0.1{v}")), (".", "127.0.0.1")], None),
        (&[(".", &format!("127.0.0.1{v}")), (".", &format!("127.0.0.1{v}"))], None),
        (&[(".", &format!("127.0.0.1{v}")), (".", "")], None),
        (
            &[(".", ""), (".", &format!("127.0.0.1{v}"))],
            Some(overlaps("dns://.:53 on 127.0.0.1", "dns://.:53")),
        ),
    ] {
        let text: String = blocks.iter().map(|(keys, bind)| block(keys, bind, 1)).collect();
        let found = Config::parse("Corefile", &text, &sources, 53).map_err(|error| error.to_string());
        match refused {
            None => assert!(found.is_ok(), "{text}{found:?}"),
            Some(why) => {
                let found = found.expect_err(&text);
                assert!(found.ends_with(&format!(": {why}")), "{text}{found}\n{why}");
            }
        }
    }
}

#[test]
fn the_listener_chooses() {
    let corefile = [
        block("example", "127.0.0.1 ::1", 1),
        block("example", "127.0.0.2", 2),
        block(".", "127.0.0.2 127.0.0.3", 3),
        block("tls://example", "127.0.0.1", 4),
        block("tls://example", "127.0.0.2", 5),
        block("https://example grpc://example:444", "127.0.0.2", 6),
        block("example:54", "", 7),
        block("x.example:54", "127.0.0.9", 8),
    ];
    let mut server = server(&corefile.concat());
    for (at, expected) in [
        ("127.0.0.1:53", "192.0.2.1"),
        ("[::1]:53", "192.0.2.1"),
        ("127.0.0.2:53", "192.0.2.2"),
        // No other block's zone is longer here.
        ("127.0.0.3:53", "192.0.2.3"),
        ("tls://127.0.0.1:853", "192.0.2.4"),
        ("tls://127.0.0.2:853", "192.0.2.5"),
        ("https://127.0.0.2:443", "192.0.2.6"),
        ("grpc://127.0.0.2:444", "192.0.2.6"),
        (":54", "192.0.2.7"),
        ("127.0.0.9:54", "192.0.2.8"),
        // Nobody listens there.
        ("127.0.0.4:53", "REFUSED"),
        (":53", "REFUSED"),
        ("tls://127.0.0.3:853", "REFUSED"),
    ] {
        assert_eq!(answered(&mut server, at, 0), expected, "{at}");
    }
    let mut page = String::new();
    server.render_metrics(&mut page);
    // As CoreDNS names its servers.
    for line in [
        "coredns_dns_responses_total{server=\"dns://127.0.0.1:53\",zone=\"example.\",view=\"\",rcode=\"NOERROR\",plugin=\"hosts\"} 1",
        "coredns_dns_responses_total{server=\"dns://[::1]:53\",zone=\"example.\",view=\"\",rcode=\"NOERROR\",plugin=\"hosts\"} 1",
        "coredns_plugin_enabled{server=\"tls://127.0.0.2:853\",zone=\"example.\",view=\"\",name=\"hosts\"} 1",
        "coredns_plugin_enabled{server=\"dns://:54\",zone=\"example.\",view=\"\",name=\"hosts\"} 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    assert!(page.contains("{server=\"dns://127.0.0.4:53\",zone=\"dropped\""), "{page}");
}

/// What had come in by an address before a configuration without it took over may come after.
#[test]
fn an_address_that_went_is_answered_for_as_it_was() {
    let config = |text: &str| Config::parse("Corefile", text, &Sources::default(), 53).unwrap();
    let mut server = server(&block("example", "127.0.0.1 127.0.0.2", 1));
    server.configure(config(&block("example", "127.0.0.1 127.0.0.3", 2)), at(0));
    let found = |server: &mut Server, millis| {
        ["127.0.0.1:53", "127.0.0.2:53", "127.0.0.3:53"].map(|at| answered(server, at, millis))
    };
    assert_eq!(found(&mut server, 10), ["192.0.2.2", "192.0.2.1", "192.0.2.2"]);
    server.configure(config(&block("example", "", 3)), at(20));
    assert_eq!(found(&mut server, 30), ["192.0.2.2", "192.0.2.1", "192.0.2.2"]);
    assert_eq!(answered(&mut server, ":53", 30), "192.0.2.3");
    server.step(Event::Tick, at(20_000));
    assert_eq!(found(&mut server, 20_000), ["REFUSED"; 3]);
}

#[test]
fn each_listener_has_its_own_fairness() {
    let fair = |rate: u32, bind: &str| format!(". {{\n bind {bind}\n fairness {rate}\n}}\n");
    let server = server(&(fair(70, "127.0.0.1 ::1") + &fair(90, "127.0.0.2")));
    for (at, expected) in
        [("127.0.0.1:53", Some(70)), ("[::1]:53", Some(70)), ("127.0.0.2:53", Some(90)), (":53", None)]
    {
        assert_eq!(server.fairness(address(at)), expected, "{at}");
    }
}

#[test]
fn lines_name_the_listener() {
    let corefile = ". {\n bind 127.0.0.1 127.0.0.2\n log . \"{local}\"\n whoami\n}\n";
    let mut server = server(corefile);
    for at_server in ["127.0.0.1:53", "127.0.0.2:53"] {
        let effects = ask_at(&mut server, address(at_server), &query("a A"), Transport::Udp, at(0));
        assert_eq!(logs(&effects), [format!("[INFO] {}", at_server.trim_end_matches(":53"))]);
    }
}
