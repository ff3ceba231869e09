//! `hosts`: lines of a file and of the Corefile.

use sealane_dns::{Config, Event, Now, Server, Transport};

use crate::cluster::{ask, at, check, dig, query};

const FILE: &str = "# hosts\n192.0.2.1 www.example.org Alias.example.org # both\n2001:db8::1%eth0\twww.example.org\n\
    192.0.2.9 *.wild.example.org exact.wild.example.org\n192.0.2.2 www.example.net\nnonsense www.example.org\n192.0.2.3\n\
    192.0.2.1 www.example.org\n";

fn server(lines: &str) -> Server {
    let text = format!("example.org in-addr.arpa ip6.arpa {{\n{lines}\nwhoami\n}}");
    let mut config = Config::parse("Corefile", &text, &Default::default(), 53).unwrap();
    config.load("/hosts", Some(FILE)).unwrap();
    Server::new(config, vec![], at(0))
}

#[test]
fn names_and_addresses() {
    let mut server = server("hosts /hosts {\n 192.0.2.7 www.example.org inline.example.org\n}");
    check(
        &mut server,
        "? Www.example.org A
         NOERROR aa,rd
         Www.example.org. 3600 IN A 192.0.2.1
         Www.example.org. 3600 IN A 192.0.2.7
         ? www.example.org AAAA
         NOERROR aa,rd
         www.example.org. 3600 IN AAAA 2001:db8::1
         ? www.example.org TXT
         NOERROR aa,rd
         ? a.wild.example.org A
         NOERROR aa,rd
         a.wild.example.org. 3600 IN A 192.0.2.9
         ? a.b.wild.example.org A
         SERVFAIL rd
         ? exact.wild.example.org A
         NOERROR aa,rd
         exact.wild.example.org. 3600 IN A 192.0.2.9
         ? a.wild.example.org AAAA
         NOERROR aa,rd
         ? no.example.org A
         SERVFAIL rd
         ? 1.2.0.192.in-addr.arpa PTR
         NOERROR aa,rd
         1.2.0.192.in-addr.arpa. 3600 IN PTR www.example.org.
         1.2.0.192.in-addr.arpa. 3600 IN PTR alias.example.org.
         ? 9.2.0.192.in-addr.arpa PTR
         NOERROR aa,rd
         9.2.0.192.in-addr.arpa. 3600 IN PTR exact.wild.example.org.
         ? 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR
         NOERROR aa,rd
         1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 3600 IN PTR www.example.org.",
    );
    // The name of another zone is none.
    assert!(dig(&mut server, "2.2.0.192.in-addr.arpa PTR").contains("_udp"));
}

#[test]
fn options() {
    let passes = |lines: &str, question: &str| dig(&mut server(lines), question).contains("_udp");
    assert!(dig(&mut server("hosts /hosts {\n ttl 60\n}"), "www.example.org A").contains(" 60 IN A"));
    assert!(passes("hosts /hosts {\n no_reverse\n}", "1.2.0.192.in-addr.arpa PTR"));
    assert!(passes("hosts /hosts {\n fallthrough\n}", "no.example.org A"));
    assert!(passes("hosts /hosts {\n fallthrough example.org\n}", "no.example.org MX"));
    assert!(!passes("hosts /hosts {\n fallthrough in-addr.arpa\n}", "no.example.org A"));
    assert!(!passes("hosts /hosts {\n fallthrough\n}", "www.example.org TXT"));
    assert!(passes("hosts /hosts {\n fallthrough\n fallthrough_unsupported\n}", "www.example.org TXT"));
    assert!(!passes("hosts /hosts {\n fallthrough\n fallthrough_unsupported\n}", "alias.example.org AAAA"));
    assert!(passes("hosts /hosts other.org", "www.example.org A"));
    let config = |lines: &str| {
        Config::parse("c", &format!(". {{\n{lines}\n}}"), &Default::default(), 53).unwrap().files()[0].clone()
    };
    assert_eq!((config("hosts").path.as_str(), config("hosts").every.as_secs()), ("/etc/hosts", 5));
    assert_eq!(config("hosts x {\n reload 1m\n}").every.as_secs(), 60);
    assert!(config("hosts x {\n reload 0s\n}").every.is_zero());
}

#[test]
fn changes() {
    let mut server = server("hosts /hosts {\n 192.0.2.7 inline.example.org\n}");
    // What is gone stays as it was, what is there is read.
    server.step(Event::File { path: "/hosts", content: None }, at(0));
    assert!(dig(&mut server, "www.example.org A").starts_with("NOERROR"));
    let content = Some("192.0.2.8 new.example.org");
    server.step(Event::File { path: "/hosts", content }, at(0));
    assert!(dig(&mut server, "new.example.org A").starts_with("NOERROR"));
    assert!(dig(&mut server, "inline.example.org A").starts_with("NOERROR"));
    assert!(dig(&mut server, "www.example.org A").starts_with("SERVFAIL"));
    server.step(Event::Tick, Now { unix: 1_800_000_000, ..at(0) });
    let mut text = String::new();
    server.render_metrics(&mut text);
    for line in
        ["coredns_hosts_entries{hostsfile=\"/hosts\"} 4", "coredns_hosts_reload_timestamp_seconds 1800000000"]
    {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    ask(&mut server, &query("new.example.org A"), Transport::Udp, at(0));
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("hosts {\nttl 0\n}", "3:5: a TTL of hosts lies between 1 and 65535"),
        ("hosts {\nttl 65536\n}", "3:5: a TTL of hosts lies between 1 and 65535"),
        ("hosts {\nreload 5\n}", "3:8: '5' is no duration (5s, 1m30s, 500ms)"),
        ("hosts {\nno_reverse x\n}", "3:12: 'no_reverse' takes no 'x'"),
        ("hosts {\nfallthrough_unsupported\n}", "3:1: 'fallthrough_unsupported' needs 'fallthrough'"),
        ("hosts {\n192.0.2.1\n}", "3:1: no name stands behind 192.0.2.1"),
        ("hosts {\n192.0.2.1 a..b\n}", "3:11: 'a..b' is no name: empty label"),
    ] {
        let text = format!(". {{\n{line}\n}}");
        let error = Config::parse("Corefile", &text, &Default::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
}
