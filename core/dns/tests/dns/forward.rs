//! `forward`: its options, and upstreams that fail in all the ways that there are.

use std::time::Duration;

use sealane_dns::chain::Keeping;
use sealane_dns::corefile::Sources;
use sealane_dns::message::{Flags, rcode};
use sealane_dns::plugins::forward::{Forward, Policy, Upstream};
use sealane_dns::{Config, Effect, Event, Message, Server, Transport, Via, encode};

use crate::cluster::{ask, at, query, server};
use crate::upstreams::{Asked, answer, asked, logs, reply, round};

fn parse(lines: &str) -> Result<Config, String> {
    let text = format!(".:53 {{\n{lines}\n}}");
    Config::parse("Corefile", &text, &Sources::default(), 53).map_err(|error| error.to_string())
}

/// With its TLS files, if it wants some.
fn with_files(lines: &str) -> Config {
    let mut config = parse(lines).unwrap();
    for want in config.files() {
        config.load(&want.path, Some(&format!("content of {}", want.path))).unwrap();
    }
    config
}

fn question(server: &mut Server, millis: u64) -> Asked {
    asked(ask(server, &query("a.example A"), Transport::Udp, at(millis)))
}

fn fail(server: &mut Server, asked: Asked, millis: u64) -> Vec<Effect> {
    server.step(Event::Failed { pending: asked.pending, why: "no".to_owned() }, at(millis))
}

fn say(server: &mut Server, asked: Asked, message: &Message, millis: u64) -> Vec<Effect> {
    let bytes = encode(message, 65_535);
    server.step(Event::Answer { pending: asked.pending, bytes: &bytes }, at(millis))
}

#[test]
fn options() {
    let config = parse(
        " forward . tls://9.9.9.9 dns://10.0.0.1:54 [fd00::1] tls://[fd00::2]:8853 {\n force_tcp\n prefer_udp\n \
         expire 20s\n max_age 1m\n max_idle_conns 3\n read_timeout 4s\n max_fails 5\n max_connect_attempts 0\n \
         tls cert.pem key.pem ca.pem\n tls_servername dns.quad9.net\n policy sequential\n \
         health_check 5s no_rec domain example.org\n max_concurrent 9\n next nxdomain REFUSED\n next_on_nodata\n \
         failfast_all_unhealthy_upstreams\n failover ServFail\n source_address 10.0.0.9\n except a.example 10.0.0.0/8\n}",
    )
    .unwrap();
    let c = config.plugins_of::<Forward>().next().unwrap().config();
    let address = |text: &str| text.parse().unwrap();
    let to = [
        Upstream::Tls(address("9.9.9.9:853"), None),
        Upstream::Address(address("10.0.0.1:54")),
        Upstream::Address(address("[fd00::1]:53")),
        Upstream::Tls(address("[fd00::2]:8853"), None),
    ];
    assert_eq!(c.to, to);
    let keeping = Keeping {
        tells: false,
        expire: Duration::from_secs(20),
        age: Duration::from_secs(60),
        idle: 3,
        source: Some("10.0.0.9".parse().unwrap()),
    };
    assert_eq!(c.keeping, keeping);
    assert!(c.force_tcp && c.prefer_udp && c.next_on_nodata && c.failfast && !c.health_recursion);
    assert_eq!((c.read_timeout.as_secs(), c.max_fails, c.max_connect_attempts), (4, 5, Some(0)));
    assert_eq!((c.policy, c.max_concurrent, c.except.len()), (Policy::Sequential, 9, 2));
    assert_eq!((c.next.as_slice(), c.failover.as_slice()), (&[3, 5][..], &[2][..]));
    assert_eq!(c.health_domain.to_string(), "example.org.");
    assert_eq!(c.tls.paths().collect::<Vec<_>>(), ["cert.pem", "key.pem", "ca.pem"]);
}

#[test]
fn names_of_certificates() {
    for (to, address, name) in [
        ("tls://9.9.9.9%dns.quad9.net", "9.9.9.9:853", Some("dns.quad9.net")),
        ("tls://9.9.9.9%dns.quad9.net:10853", "9.9.9.9:10853", Some("dns.quad9.net")),
        ("tls://[2620:fe::fe%dns.quad9.net]:53", "[2620:fe::fe]:53", Some("dns.quad9.net")),
        ("tls://2620:fe::fe%dns.quad9.net", "[2620:fe::fe]:853", Some("dns.quad9.net")),
        ("tls://9.9.9.9:54", "9.9.9.9:54", None),
    ] {
        let config = parse(&format!(" forward . {to}")).unwrap();
        let expected = [Upstream::Tls(address.parse().unwrap(), name.map(str::to_owned))];
        assert_eq!(config.plugins_of::<Forward>().next().unwrap().config().to, expected, "{to}");
    }
}

#[test]
fn refused_lines() {
    let many = " 10.0.0.1".repeat(16);
    for (lines, error) in [
        ("forward", "2:1: 'forward' needs a zone and where to forward to"),
        (&format!("forward .{many}"), "2:146: 'forward' takes 15 upstreams at most"),
        ("forward . https://9.9.9.9", "2:11: forwarding to https:// is unknown, or not Sealane's yet"),
        ("forward . quic://9.9.9.9", "2:11: forwarding to quic:// is unknown, or not Sealane's yet"),
        ("forward . tls://10.0.0.256", "2:11: '10.0.0.256' is no address, and no host's name"),
        ("forward . dns://a/b", "2:11: 'a/b' is no address, and no host's name"),
        ("forward . dns.example {\n resolver\n}", "3:2: 'resolver' needs the address of a server"),
        (
            "forward . dns.example {\n resolver 10.0.0.1 ns.example\n}",
            "3:20: 'ns.example' is no address of a server (IP, or IP:PORT)",
        ),
        ("forward . fe80::1%eth0", "2:11: 'fe80::1%eth0' has a scope, which is not Sealane's"),
        ("forward . 10.0.0.1 {\n except\n}", "3:2: 'except' needs a name"),
        ("forward . 10.0.0.1 {\n force_tcp yes\n}", "3:12: 'force_tcp' takes no 'yes'"),
        ("forward . 10.0.0.1 {\n max_fails -1\n}", "3:12: '-1' is no number"),
        ("forward . 10.0.0.1 {\n read_timeout 0\n}", "3:15: read_timeout must be more than nothing"),
        ("forward . 10.0.0.1 {\n max_age 5s\n}", "2:1: max_age of 'forward' must not be less than expire"),
        ("forward . 10.0.0.1 {\n tls a b c d\n}", "3:12: 'tls' takes no 'd'"),
        ("forward . 10.0.0.1 {\n next\n}", "3:2: 'next' needs a response code"),
        ("forward . 10.0.0.1 {\n next BAD\n}", "3:7: 'BAD' is no response code"),
        (
            "forward . 10.0.0.1 {\n failover NOERROR\n}",
            "3:11: an answer without error is no reason for failover",
        ),
        ("forward . 10.0.0.1 {\n health_check\n}", "3:2: 'health_check' needs a duration"),
        ("forward . 10.0.0.1 {\n health_check 1s domain\n}", "3:18: 'domain' of health_check needs a name"),
        ("forward . 10.0.0.1 {\n health_check 1s rec\n}", "3:18: 'rec' is no option of health_check"),
        ("forward . 10.0.0.1 {\n source_address eth0\n}", "3:17: 'eth0' is no address"),
        (
            "forward . 10.0.0.1 {\n doh_method GET\n}",
            "3:2: option 'doh_method' of 'forward' is unknown, or not Sealane's yet",
        ),
        (
            "forward . tls://9.9.9.9%a {\n tls_servername b\n}",
            "2:11: 'tls://9.9.9.9%a' names its certificate, and tls_servername does, too",
        ),
    ] {
        assert_eq!(parse(lines).unwrap_err(), format!("Corefile:{error}"), "{lines}");
    }
}

#[test]
fn over_tls() {
    let config = with_files(
        " forward . tls://9.9.9.9%one tls://9.9.9.10%one 10.0.0.1 {\n policy sequential\n tls c k ca\n }",
    );
    assert_eq!(config.plugins_of::<Forward>().next().unwrap().tls_clients().len(), 1);
    let mut server = Server::new(config, vec![], at(0));
    let first = question(&mut server, 0);
    let Via::Tls(client) = &first.via else { panic!() };
    assert_eq!(client.server_name.as_deref(), Some("one"));
    assert!(client.authorities.as_deref().unwrap().ends_with("ca"));
    assert!(client.identity.as_ref().unwrap().1.ends_with('k'));
    let second = asked(fail(&mut server, first, 1));
    assert_eq!((second.upstream.as_str(), second.via.as_str()), ("9.9.9.10:853", "tcp-tls"));
    let third = asked(fail(&mut server, second, 2));
    assert_eq!(third.via, Via::Udp);
    // Checks go the same way.
    let effects = server.step(Event::Tick, at(10));
    let vias: Vec<&str> = effects
        .iter()
        .filter_map(|e| if let Effect::Ask { via, .. } = e { Some(via.as_str()) } else { None })
        .collect();
    assert_eq!(vias, ["tcp-tls", "tcp-tls"]);
    let mut config = parse(" forward . tls://9.9.9.9 {\n tls nowhere\n }").unwrap();
    let error = config.load("nowhere", None).unwrap_err().to_string();
    assert_eq!(error, "Corefile:2:2: forward: cannot read nowhere");
}

#[test]
fn how_often_a_dead_upstream_is_asked() {
    for (option, attempts) in
        [("", 4), ("max_connect_attempts 1", 1), ("max_connect_attempts 3", 3), ("max_connect_attempts 0", 7)]
    {
        let mut server =
            server(&format!(".:53 {{\n errors\n forward . 10.0.0.1 10.0.0.2 {{\n {option}\n }}\n}}"));
        let mut count = 1;
        let mut waiting = question(&mut server, 0);
        let effects = loop {
            let effects = fail(&mut server, waiting, count * 800);
            if effects.iter().any(|effect| matches!(effect, Effect::Reply(_))) {
                break effects;
            }
            waiting = asked(effects);
            count += 1;
        };
        assert_eq!((count, reply(&effects).rcode), (attempts, rcode::SERVFAIL), "{option}");
        assert!(logs(&effects)[0].ends_with(": no"));
    }
}

/// Lets the checks of all upstreams fail until they are down.
fn kill(server: &mut Server, count: usize) {
    let mut waiting = question(server, 0);
    loop {
        let effects = fail(server, waiting, 1);
        if effects.iter().any(|effect| matches!(effect, Effect::Reply(_))) {
            break;
        }
        waiting = asked(effects);
    }
    for round in 0..3 {
        let effects = server.step(Event::Tick, at(1000 * (round + 1)));
        assert_eq!(effects.len(), count);
        for effect in effects {
            let Effect::Ask { pending, .. } = effect else { panic!() };
            server.step(Event::Failed { pending, why: String::new() }, at(1000 * (round + 1)));
        }
    }
}

#[test]
fn all_upstreams_down() {
    let lines =
        |option: &str| format!(".:53 {{\n errors\n forward . 10.0.0.1 10.0.0.2 {{\n {option}\n }}\n}}");
    // Somebody is asked, once.
    let mut sprays = server(&lines(""));
    kill(&mut sprays, 2);
    let waiting = question(&mut sprays, 5000);
    assert_eq!(reply(&fail(&mut sprays, waiting, 5001)).rcode, rcode::SERVFAIL);
    let waiting = question(&mut sprays, 5002);
    let bytes = answer(&waiting.message, 1);
    let effects = sprays.step(Event::Answer { pending: waiting.pending, bytes: &bytes }, at(5003));
    assert_eq!(reply(&effects).answers.len(), 1);
    // Or nobody.
    let mut fails = server(&lines("failfast_all_unhealthy_upstreams"));
    kill(&mut fails, 2);
    let effects = ask(&mut fails, &query("a.example A"), Transport::Udp, at(5000));
    assert_eq!(reply(&effects).rcode, rcode::SERVFAIL);
    assert!(logs(&effects)[0].ends_with("no healthy proxies"), "{effects:?}");
    for (server, broken) in [(sprays, 2), (fails, 1)] {
        let mut page = String::new();
        server.render_metrics(&mut page);
        for line in [
            &format!("coredns_forward_healthcheck_broken_total {broken}"),
            "coredns_proxy_healthcheck_failures_total{proxy_name=\"forward\",to=\"10.0.0.1:53\"} 3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }
    // Never down.
    let mut never = server(&lines("max_fails 0"));
    let waiting = question(&mut never, 0);
    fail(&mut never, waiting, 1);
    assert!(never.step(Event::Tick, at(1000)).is_empty());
}

#[test]
fn other_upstreams_for_some_answers() {
    let lines = "forward . 10.0.0.1 10.0.0.2 {\n policy sequential\n failover SERVFAIL REFUSED\n}";
    let mut server = server(&format!(".:53 {{\n {lines}\n}}"));
    let first = question(&mut server, 0);
    let message = first.message.reply(rcode::SERVFAIL);
    let second = asked(say(&mut server, first, &message, 1));
    assert_eq!(second.upstream, "10.0.0.2:53");
    // The last one's answer is what there is.
    let message = second.message.reply(rcode::REFUSED);
    assert_eq!(reply(&say(&mut server, second, &message, 2)).rcode, rcode::REFUSED);
    let first = question(&mut server, 3);
    let message = first.message.reply(rcode::NXDOMAIN);
    assert_eq!(reply(&say(&mut server, first, &message, 4)).rcode, rcode::NXDOMAIN);
}

#[test]
fn the_next_forward_for_some_answers() {
    let two = |option: &str| {
        format!(".:53 {{\n forward . 10.0.0.1 {{\n {option}\n }}\n forward . 10.0.0.2 {{\n {option}\n }}\n}}")
    };
    for (option, code, goes_on) in [
        ("next NXDOMAIN", rcode::NXDOMAIN, true),
        ("next NXDOMAIN", rcode::NOERROR, false),
        ("next SERVFAIL NXDOMAIN", rcode::SERVFAIL, true),
        ("next_on_nodata", rcode::NOERROR, true),
        ("next_on_nodata", rcode::NXDOMAIN, false),
        ("", rcode::NXDOMAIN, false),
    ] {
        let mut server = server(&two(option));
        let first = question(&mut server, 0);
        assert_eq!(first.upstream, "10.0.0.1:53");
        let message = first.message.reply(code);
        let effects = say(&mut server, first, &message, 1);
        if goes_on {
            // Behind the second there is none: its answer is the answer.
            let second = asked(effects);
            assert_eq!(second.upstream, "10.0.0.2:53");
            let effects = say(&mut server, second, &message, 2);
            assert_eq!(reply(&effects).rcode, code, "{option}");
        } else {
            assert_eq!(reply(&effects).rcode, code, "{option}");
        }
    }
}

#[test]
fn except_leaves_its_own_zone() {
    let mut server = server(".:53 {\n forward example 10.0.0.1 {\n except example b.example\n }\n}");
    for (name, forwarded) in
        [("example NS", true), ("b.example A", false), ("x.b.example A", false), ("x.example A", false)]
    {
        let effects = ask(&mut server, &query(name), Transport::Udp, at(0));
        assert_eq!(matches!(effects[0], Effect::Ask { .. }), forwarded, "{name}");
    }
}

#[test]
fn what_goes_out_and_comes_back() {
    // The client's EDNS goes out, the upstream's does not come back.
    let mut server = server(".:53 {\n forward . 10.0.0.1\n}");
    let asked_with = asked(ask(&mut server, &query("a.example A +do"), Transport::Udp, at(0)));
    assert_eq!(asked_with.message.edns, query("a.example A +do").edns);
    let mut message = asked_with.message.reply(rcode::NOERROR);
    message.edns = query("a.example A +edns").edns;
    let found = reply(&say(&mut server, asked_with, &message, 1));
    let edns = found.edns.unwrap();
    assert!(edns.dnssec_ok);
    assert_eq!(edns.udp_size, 4096);
    let plain = asked(ask(&mut server, &query("a.example A"), Transport::Udp, at(0)));
    assert_eq!(plain.message.edns, None);
}

#[test]
fn liars() {
    let text = "a.example A";
    for (lie, rcode) in [
        // Another question, no answer at all, an answer without question.
        (
            Box::new(|m: &Message| Message::query(m.id, "b.example".parse().unwrap(), 1).reply(0))
                as Box<dyn Fn(&Message) -> Message>,
            rcode::FORMERR,
        ),
        (Box::new(|m: &Message| Message { flags: Flags::default(), ..m.clone() }), rcode::FORMERR),
        (Box::new(|m: &Message| Message { questions: vec![], ..m.reply(rcode::REFUSED) }), rcode::REFUSED),
    ] {
        let mut server = server(".:53 {\n forward . 10.0.0.1\n cache\n}");
        let found = round(&mut server, text, 0, |m| encode(&lie(m), 512));
        assert_eq!((found.rcode, found.id, found.questions), (rcode, 77, query(text).questions));
    }
    // What is no message counts as no answer.
    let mut server = server(".:53 {\n forward . 10.0.0.1\n}");
    let waiting = question(&mut server, 0);
    asked(server.step(Event::Answer { pending: waiting.pending, bytes: &[0; 7] }, at(1)));
}

#[test]
fn connections_are_counted() {
    let mut server = server(".:53 {\n forward . 10.0.0.1 {\n force_tcp\n }\n}");
    for kept in [false, true, true] {
        let effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(0));
        let Some(Effect::Ask { mut pending, message, keeping, .. }) = effects.into_iter().next() else {
            panic!()
        };
        assert_eq!(keeping.expire, Duration::from_secs(10));
        pending.went_over(kept);
        let bytes = answer(&sealane_dns::decode(&message).unwrap(), 1);
        server.step(Event::Answer { pending, bytes: &bytes }, at(1));
    }
    let mut page = String::new();
    server.render_metrics(&mut page);
    for line in [
        "coredns_proxy_conn_cache_hits_total{proxy_name=\"forward\",to=\"10.0.0.1:53\",proto=\"tcp\"} 2",
        "coredns_proxy_conn_cache_misses_total{proxy_name=\"forward\",to=\"10.0.0.1:53\",proto=\"tcp\"} 1",
        "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",to=\"10.0.0.1:53\",rcode=\"NOERROR\"} 3",
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
}

/// Upstreams by name: whom they are asked of, and what is asked of them when they are known.
mod named {
    use sealane_dns::message::{Data, Record, rtype};
    use sealane_dns::{Pending, decode};

    use super::*;

    struct Sought {
        of: String,
        name: String,
        kind: u16,
        pending: Box<Pending>,
    }

    fn server(to: &str, files: &[(&str, &str)]) -> Result<Server, String> {
        let mut config = parse(&format!(" errors\n forward . {to}")).unwrap();
        for want in config.files() {
            let content = files.iter().find(|(path, _)| *path == want.path).map(|(_, text)| *text);
            config.load(&want.path, content).map_err(|error| error.to_string())?;
        }
        Ok(Server::new(config, Vec::new(), at(0)))
    }

    fn sought(effects: Vec<Effect>) -> Vec<Sought> {
        let asks = effects.into_iter().filter_map(|effect| match effect {
            Effect::Ask { upstream, message, pending, .. } => {
                assert!(!pending.has_client());
                let question = decode(&message).unwrap().questions.remove(0);
                let (of, name, kind) = (upstream.to_string(), question.name.to_string(), question.rtype);
                Some(Sought { of, name, kind, pending })
            }
            _ => None,
        });
        asks.collect()
    }

    fn tick(server: &mut Server, millis: u64) -> Vec<Sought> {
        sought(server.step(Event::Tick, at(millis)))
    }

    fn tell(server: &mut Server, sought: Sought, addresses: &[&str]) -> Vec<Effect> {
        let mut message =
            Message::query(sought.pending.id(), sought.name.parse().unwrap(), sought.kind).reply(0);
        for address in addresses {
            let data = Data::address(address.parse().unwrap());
            message.answers.push(Record::new(sought.name.parse().unwrap(), 5, data));
        }
        server.step(Event::Answer { pending: sought.pending, bytes: &encode(&message, 512) }, at(0))
    }

    fn whom(server: &mut Server) -> (String, Via) {
        let asked = asked(ask(server, &query("a.example A"), Transport::Udp, at(0)));
        (asked.upstream, asked.via)
    }

    #[test]
    fn are_asked_for_until_they_are_known() {
        let resolver = "dns.example:5353 {\n resolver 192.0.2.1 192.0.2.2:54\n policy sequential\n}";
        let mut server = server(resolver, &[]).unwrap();
        assert!(!server.ready());
        let effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(0));
        assert_eq!(reply(&effects).rcode, rcode::SERVFAIL);
        // Both families, of the first server, then of the second.
        let first = sought(effects);
        let seen: Vec<(&str, &str, u16)> = first.iter().map(|one| (&*one.of, &*one.name, one.kind)).collect();
        let name = "dns.example.";
        assert_eq!(seen, [("192.0.2.1:53", name, rtype::A), ("192.0.2.1:53", name, rtype::AAAA)]);
        assert!(tick(&mut server, 100).is_empty());
        let mut said = Vec::new();
        for one in first {
            let event = Event::Failed { pending: one.pending, why: "udp i/o timeout".to_owned() };
            said.extend(logs(&server.step(event, at(200))).into_iter().map(str::to_owned));
        }
        let line = "[ERROR] plugin/forward: cannot resolve dns.example.: 192.0.2.1:53: udp i/o timeout";
        assert_eq!(said, [line]);
        let second = tick(&mut server, 300);
        assert_eq!(second[0].of, "192.0.2.2:54");
        for one in second {
            assert!(logs(&tell(&mut server, one, &[])).is_empty());
        }
        // All were asked: it waits.
        assert!(tick(&mut server, 400).is_empty());
        let third = tick(&mut server, 1400);
        for (one, addresses) in
            third.into_iter().rev().zip([&["2001:db8::1"][..], &["192.0.2.8", "192.0.2.9"]])
        {
            tell(&mut server, one, addresses);
        }
        assert!(server.ready());
        assert_eq!(whom(&mut server), ("192.0.2.8:5353".to_owned(), Via::Udp));
        assert!(tick(&mut server, 9000).is_empty());
    }

    #[test]
    fn are_the_systems_where_no_resolver_is_said() {
        let files = [
            ("/etc/resolv.conf", "nameserver 192.0.2.3\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n192.0.2.7 Other.example dns.example # it\n"),
        ];
        let mut known = server("dns.example", &files).unwrap();
        assert!(known.ready());
        assert_eq!(whom(&mut known).0, "192.0.2.7:53");
        let mut other = server("tls://dns.example.org%name.example", &files).unwrap();
        let asks = tick(&mut other, 0);
        assert_eq!((asks.len(), &*asks[0].of), (2, "192.0.2.3:53"));
        for one in asks {
            let addresses: &[&str] = if one.kind == rtype::A { &["192.0.2.8"] } else { &[] };
            tell(&mut other, one, addresses);
        }
        let (to, via) = whom(&mut other);
        assert_eq!(to, "192.0.2.8:853");
        let Via::Tls(client) = via else { panic!("{via:?}") };
        assert_eq!(client.server_name.as_deref(), Some("name.example"));
    }

    #[test]
    fn may_be_files() {
        let mut file = server("servers", &[("servers", "nameserver 192.0.2.4\n")]).unwrap();
        assert!(file.ready());
        assert_eq!(whom(&mut file).0, "192.0.2.4:53");
        let error = server("servers", &[("servers", "search example\n")]).unwrap_err();
        assert_eq!(error, "Corefile:3:2: forward: servers is a file without a name server");
    }
}
