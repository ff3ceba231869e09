//! Everything around the cluster's names: upstreams, cache, hosts, log, rotation, loops, sizes, odd messages.

use proptest::prelude::*;
use sealane_dns::message::{Data, Flags, Record, Soa, rcode};
use sealane_dns::{Effect, Event, Message, Pending, Server, Transport, Via, decode, encode};

use crate::cluster::{ask, at, check, dig, query, server, show, synced};

pub struct Asked {
    pub upstream: String,
    pub via: Via,
    pub message: Message,
    pub pending: Box<Pending>,
}

pub fn asked(effects: Vec<Effect>) -> Asked {
    let mut asks = effects.into_iter().filter_map(|effect| match effect {
        Effect::Ask { upstream, via, message, pending, .. } => {
            let message = decode(&message).unwrap();
            assert_eq!(message.id, pending.id());
            Some(Asked { upstream: upstream.to_string(), via, message, pending })
        }
        _ => None,
    });
    let first = asks.next().expect("asks nobody");
    assert!(asks.next().is_none(), "asks twice");
    first
}

pub fn reply(effects: &[Effect]) -> Message {
    let bytes = effects.iter().find_map(|e| if let Effect::Reply(bytes) = e { Some(bytes) } else { None });
    decode(bytes.expect("no reply")).unwrap()
}

pub fn logs(effects: &[Effect]) -> Vec<&str> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Log(line) = e { Some(line.as_str()) } else { None })
        .collect()
}

/// An upstream's answer with one address.
pub fn answer(to: &Message, ttl: u32) -> Vec<u8> {
    let mut message = to.reply(rcode::NOERROR);
    message.flags.recursion_available = true;
    let name = to.questions[0].name.clone();
    message.answers.push(Record::new(name, ttl, Data::A([192, 0, 2, 80].into())));
    encode(&message, 512)
}

fn nothing(to: &Message) -> Vec<u8> {
    let mut message = to.reply(rcode::NXDOMAIN);
    let zone: sealane_dns::Name = "example".parse().unwrap();
    let soa = Soa {
        mname: zone.clone(),
        rname: zone.clone(),
        serial: 1,
        refresh: 1,
        retry: 1,
        expire: 1,
        minimum: 20,
    };
    message.authority.push(Record::new(zone, 60, Data::Soa(Box::new(soa))));
    encode(&message, 512)
}

pub fn round(server: &mut Server, text: &str, millis: u64, respond: impl Fn(&Message) -> Vec<u8>) -> Message {
    let asked = asked(ask(server, &query(text), Transport::Udp, at(millis)));
    let bytes = respond(&asked.message);
    reply(&server.step(Event::Answer { pending: asked.pending, bytes: &bytes }, at(millis)))
}

#[test]
fn forwards_and_caches() {
    let mut server = server(".:53 {\n forward . 192.0.2.53\n cache 30\n}");
    let first = round(&mut server, "Www.Example A", 0, |m| answer(m, 300));
    assert_eq!(show(&first), "NOERROR rd,ra\nWww.Example. 30 IN A 192.0.2.80");
    assert_eq!(first.id, 77);
    // Ten seconds later, from the cache, in the new question's case.
    let effects = ask(&mut server, &query("www.example A"), Transport::Udp, at(10_000));
    assert_eq!(show(&reply(&effects)), "NOERROR aa,rd,ra\nwww.example. 20 IN A 192.0.2.80");
    // Then it is over.
    round(&mut server, "www.example A", 30_000, |m| answer(m, 300));
    // Denials last as long as their SOA says.
    let none = round(&mut server, "no.example A", 0, nothing);
    assert_eq!(none.rcode, rcode::NXDOMAIN);
    let effects = ask(&mut server, &query("no.example A"), Transport::Udp, at(19_000));
    assert_eq!(reply(&effects).authority[0].ttl, 1);
    round(&mut server, "no.example A", 21_000, nothing);
    let mut text = String::new();
    server.render_metrics(&mut text);
    for line in [
        "coredns_cache_hits_total{server=\"dns://:53\",zones=\".\",view=\"\",type=\"success\"} 1",
        "coredns_cache_hits_total{server=\"dns://:53\",zones=\".\",view=\"\",type=\"denial\"} 1",
        "coredns_cache_misses_total{server=\"dns://:53\",zones=\".\",view=\"\"} 4",
        "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",to=\"192.0.2.53:53\",rcode=\"NOERROR\"} 2",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NXDOMAIN\",plugin=\"cache\"} 1",
        "coredns_cache_entries{server=\"dns://:53\",zones=\".\",view=\"\",type=\"success\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn failing_upstreams_are_left_out_until_they_answer() {
    let corefile =
        ".:53 {\n errors\n forward . 192.0.2.1 192.0.2.2 {\n policy sequential\n max_fails 1\n }\n}";
    let mut server = server(corefile);
    let first = asked(ask(&mut server, &query("a.example A"), Transport::Udp, at(0)));
    assert_eq!(first.upstream, "192.0.2.1:53");
    let why = "udp i/o timeout".to_owned();
    let second = asked(server.step(Event::Failed { pending: first.pending, why }, at(2000)));
    assert_eq!(second.upstream, "192.0.2.2:53");
    let bytes = answer(&second.message, 1);
    assert_eq!(
        reply(&server.step(Event::Answer { pending: second.pending, bytes: &bytes }, at(2001))).rcode,
        0
    );
    // It is checked, and fails; more than max_fails times means down.
    for millis in [2100, 2700] {
        let probe = asked(server.step(Event::Tick, at(millis)));
        assert_eq!((probe.upstream.as_str(), probe.message.questions[0].rtype), ("192.0.2.1:53", 2));
        assert!(!probe.pending.has_client());
        assert!(server.step(Event::Tick, at(millis)).is_empty(), "one check at a time");
        server.step(Event::Failed { pending: probe.pending, why: String::new() }, at(millis + 50));
    }
    let now = asked(ask(&mut server, &query("b.example A"), Transport::Udp, at(3000)));
    assert_eq!(now.upstream, "192.0.2.2:53");
    // It answers: it is asked again.
    let probe = asked(server.step(Event::Tick, at(3500)));
    let bytes = encode(&probe.message.reply(rcode::REFUSED), 512);
    server.step(Event::Answer { pending: probe.pending, bytes: &bytes }, at(3501));
    assert!(server.step(Event::Tick, at(4500)).is_empty());
    let now = asked(ask(&mut server, &query("c.example A"), Transport::Udp, at(5000)));
    assert_eq!(now.upstream, "192.0.2.1:53");
    // Nobody answers: SERVFAIL, and the reason in the log.
    let mut pending = now.pending;
    let mut millis = 5000;
    let effects = loop {
        millis += 2000;
        let why = "udp i/o timeout".to_owned();
        let effects = server.step(Event::Failed { pending, why }, at(millis));
        match effects.into_iter().next().unwrap() {
            Effect::Ask { pending: next, .. } => pending = next,
            log => break vec![log],
        }
    };
    assert!(millis <= 11_000);
    let lines = logs(&effects);
    assert!(lines[0].starts_with("[ERROR] plugin/errors: 2 c.example. A: 192.0.2."), "{lines:?}");
}

#[test]
fn policies_and_limits() {
    let mut robin = server(".:53 {\n forward . 192.0.2.1 192.0.2.2 {\n policy round_robin\n }\n}");
    let order: Vec<String> = (0..4)
        .map(|_| asked(ask(&mut robin, &query("a.example A"), Transport::Udp, at(0))).upstream)
        .collect();
    assert_eq!(order, ["192.0.2.2:53", "192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:53"]);

    let mut limited =
        server(".:53 {\n forward . /resolv.conf {\n max_concurrent 1\n except local.example\n }\n}");
    check(&mut limited, "? x.local.example A\n SERVFAIL rd");
    let first = asked(ask(&mut limited, &query("a.example A"), Transport::Udp, at(0)));
    check(&mut limited, "? b.example A\n REFUSED rd");
    let bytes = answer(&first.message, 1);
    limited.step(Event::Answer { pending: first.pending, bytes: &bytes }, at(1));
    asked(ask(&mut limited, &query("b.example A"), Transport::Udp, at(2)));
}

#[test]
fn transports() {
    for (option, client, upstream) in [
        ("", Transport::Udp, Via::Udp),
        ("", Transport::Tcp, Via::Tcp),
        ("force_tcp", Transport::Udp, Via::Tcp),
        ("prefer_udp", Transport::Tcp, Via::Udp),
    ] {
        let mut server = server(&format!(".:53 {{\n forward . 192.0.2.1 {{\n {option}\n }}\n}}"));
        let asked = asked(ask(&mut server, &query("a.example A"), client, at(0)));
        assert_eq!(asked.via, upstream, "{option}");
    }
    // A truncated answer is passed on, or asked for again by TCP with prefer_udp.
    let truncated = |m: &Message| {
        let mut reply = m.reply(0);
        reply.flags.truncated = true;
        encode(&reply, 512)
    };
    let mut plain = server(".:53 {\n forward . 192.0.2.1\n cache\n}");
    assert!(round(&mut plain, "a.example A", 0, truncated).flags.truncated);
    asked(ask(&mut plain, &query("a.example A"), Transport::Udp, at(1)));
    let mut prefers = server(".:53 {\n forward . 192.0.2.1 {\n prefer_udp\n }\n}");
    let first = asked(ask(&mut prefers, &query("a.example A"), Transport::Udp, at(0)));
    let bytes = truncated(&first.message);
    let again = asked(prefers.step(Event::Answer { pending: first.pending, bytes: &bytes }, at(1)));
    assert_eq!(again.via, Via::Tcp);
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let mut server = server(".:53 {\n forward . 192.0.2.1\n cache\n}");
    let found = round(&mut server, "a.example A", 0, |m| {
        let other = Message::query(m.id, "b.example".parse().unwrap(), 1);
        answer(&other, 60)
    });
    assert_eq!(found.rcode, rcode::FORMERR);
    asked(ask(&mut server, &query("b.example A"), Transport::Udp, at(1)));
}

#[test]
fn external_names_are_followed_upstream() {
    let mut server = synced(
        ".:53 {\n kubernetes cluster.local {\n ttl 30\n }\n forward . 192.0.2.1\n cache 30\n loadbalance\n}",
    );
    let found = round(&mut server, "outside.default.svc.cluster.local A", 0, |m| {
        assert_eq!(m.questions[0].name.to_string(), "www.example.com.");
        answer(m, 60)
    });
    let expected = |ttl: u32| {
        format!(
            "NOERROR aa,rd\noutside.default.svc.cluster.local. {ttl} IN CNAME www.example.com.\n\
             www.example.com. {ttl} IN A 192.0.2.80"
        )
    };
    assert_eq!(show(&found), expected(30));
    // The whole is in the cache now, and the target is.
    assert_eq!(dig(&mut server, "outside.default.svc.cluster.local A"), expected(29));
    assert_eq!(
        dig(&mut server, "www.example.com A"),
        "NOERROR aa,rd,ra\nwww.example.com. 29 IN A 192.0.2.80"
    );
}

#[test]
fn stale_answers() {
    let corefile =
        |mode: &str| format!(".:53 {{\n forward . 192.0.2.1\n cache 30 {{\n serve_stale 1h {mode}\n }}\n}}");
    // Immediate: the old answer now, the question in the background, once.
    let mut now = server(&corefile("immediate"));
    round(&mut now, "a.example A", 0, |m| answer(m, 10));
    let effects = ask(&mut now, &query("a.example A"), Transport::Udp, at(20_000));
    assert_eq!(reply(&effects).answers[0].ttl, 0);
    let refresh = asked(effects);
    assert!(!refresh.pending.has_client());
    assert_eq!(ask(&mut now, &query("a.example A"), Transport::Udp, at(20_001)).len(), 1);
    let bytes = answer(&refresh.message, 10);
    assert!(now.step(Event::Answer { pending: refresh.pending, bytes: &bytes }, at(20_002)).is_empty());
    assert!(dig_at(&mut now, "a.example A", 20_003).contains(" 10 IN A"));
    // Verify: asked first, the old answer where that fails.
    let mut verify = server(&corefile("verify"));
    round(&mut verify, "a.example A", 0, |m| answer(m, 10));
    let mut pending = asked(ask(&mut verify, &query("a.example A"), Transport::Udp, at(20_000))).pending;
    let effects = loop {
        let effects = verify.step(Event::Failed { pending, why: "refused".into() }, at(20_001));
        if matches!(effects[0], Effect::Reply(_)) {
            break effects;
        }
        pending = asked(effects).pending;
    };
    assert_eq!(reply(&effects).answers[0].ttl, 0);
}

fn dig_at(server: &mut Server, text: &str, millis: u64) -> String {
    show(&reply(&ask(server, &query(text), Transport::Udp, at(millis))))
}

#[test]
fn prefetches_what_is_asked_often() {
    let mut server = server(".:53 {\n forward . 192.0.2.1\n cache 100 {\n prefetch 2 1m 50%\n }\n}");
    round(&mut server, "a.example A", 0, |m| answer(m, 100));
    assert_eq!(ask(&mut server, &query("a.example A"), Transport::Udp, at(10_000)).len(), 1);
    let effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(60_000));
    assert_eq!(reply(&effects).answers[0].ttl, 40);
    assert!(!asked(effects).pending.has_client());
}

#[test]
fn the_cache_stays_within_its_capacity() {
    let mut server = server(".:53 {\n forward . 192.0.2.1\n cache 30 {\n success 1024\n }\n}");
    for i in 0..1100 {
        round(&mut server, &format!("n{i}.example A"), i, |m| answer(m, 60));
    }
    let mut text = String::new();
    server.render_metrics(&mut text);
    assert!(text.contains("type=\"success\"} 1024\n"), "{text}");
    assert!(dig_at(&mut server, "n1099.example A", 1100).starts_with("NOERROR"));
}

#[test]
fn hosts_lines() {
    let corefile = ".:53 {\n hosts /hosts example. {\n 192.168.10.33 harbor.example Alias.example\n \
        fallthrough a.example\n ttl 60\n }\n forward . 192.0.2.1\n}";
    let mut server = server(corefile);
    let table = "? harbor.example A
            NOERROR aa,rd
            harbor.example. 60 IN A 192.168.10.33
        ? ALIAS.example A
            NOERROR aa,rd
            ALIAS.example. 60 IN A 192.168.10.33
        ? harbor.example AAAA
            NOERROR aa,rd
        ? 33.10.168.192.in-addr.arpa PTR
            NOERROR aa,rd
            33.10.168.192.in-addr.arpa. 60 IN PTR harbor.example.
            33.10.168.192.in-addr.arpa. 60 IN PTR alias.example.
        ? no.example A
            SERVFAIL rd";
    check(&mut server, table);
    asked(ask(&mut server, &query("x.a.example A"), Transport::Udp, at(0)));
    asked(ask(&mut server, &query("elsewhere.org A"), Transport::Udp, at(0)));
    let content = "# c\n192.168.10.34 new.example\nbad line\n";
    server.step(Event::File { path: "/hosts", content: Some(content) }, at(0));
    check(&mut server, "? new.example A\n NOERROR aa,rd\n new.example. 60 IN A 192.168.10.34");
    check(&mut server, table);
}

#[test]
fn server_blocks_are_chosen_by_zone_and_port() {
    let mut server = server(
        "example.org {\n hosts /h {\n 10.0.0.1 a.example.org\n }\n}\nsub.example.org {\n hosts /h {\n \
         10.0.0.2 a.sub.example.org\n }\n}\nexample.com:1053 {\n hosts /h {\n 10.0.0.3 a.example.com\n }\n}",
    );
    check(
        &mut server,
        "? a.example.org A
            NOERROR aa,rd
            a.example.org. 3600 IN A 10.0.0.1
        ? a.sub.example.org A
            NOERROR aa,rd
            a.sub.example.org. 3600 IN A 10.0.0.2
        ? a.example.com A
            REFUSED rd
        ? . NS
            REFUSED rd",
    );
}

#[test]
fn logs_as_coredns_does() {
    let mut server = synced(
        ".:53 {\n log cluster.local {\n class denial\n }\n kubernetes cluster.local\n log . \"{type} {name} {nonsense}\"\n}",
    );
    let effects = ask(&mut server, &query("no.default.svc.cluster.local A +edns"), Transport::Tcp, at(0));
    let common = "[INFO] 10.244.0.9:4242 - 77 \"A IN no.default.svc.cluster.local. tcp 74 false 65535\" NXDOMAIN qr,aa,rd 139 0s";
    // The first line for a name decides.
    assert_eq!(logs(&effects), [common]);
    let effects = ask(&mut server, &query("web.default.svc.cluster.local A"), Transport::Tcp, at(0));
    assert!(logs(&effects).is_empty());
    let effects = ask(&mut server, &query("Other.example A"), Transport::Tcp, at(0));
    assert_eq!(logs(&effects), ["[INFO] A other.example. {nonsense}"]);
}

#[test]
fn addresses_are_rotated() {
    let mut server = synced(".:53 {\n kubernetes cluster.local\n loadbalance\n}");
    let mut firsts = std::collections::BTreeSet::new();
    for random in 0..64u64 {
        let now = sealane_dns::Now { random: random.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..at(0) };
        let effects = ask(&mut server, &query("web.default.svc.cluster.local A"), Transport::Udp, now);
        let found = reply(&effects);
        assert_eq!(found.answers.len(), 3);
        firsts.insert(found.answers[0].to_string());
    }
    assert_eq!(firsts.len(), 3);
}

#[test]
fn loops_are_found() {
    let mut server = server(".:53 {\n loop\n forward . 192.0.2.1\n}");
    let sent = asked(server.step(Event::Tick, at(0)));
    assert_eq!(sent.upstream, "127.0.0.1:53");
    assert!(server.step(Event::Tick, at(1)).is_empty(), "one probe");
    let probe = sent.message;
    asked(ask(&mut server, &probe, Transport::Udp, at(0)));
    asked(ask(&mut server, &probe, Transport::Udp, at(1)));
    let effects = ask(&mut server, &probe, Transport::Udp, at(2));
    assert!(matches!(&effects[..], [Effect::Fatal(why)] if why.contains("Loop detected for zone \".\"")));
    // The look-out ends half a minute after the start.
    server.step(Event::Tick, at(30_000));
    asked(ask(&mut server, &probe, Transport::Udp, at(30_001)));
}

#[test]
fn odd_messages() {
    let mut server = synced(".:53 {\n kubernetes cluster.local\n}");
    let client = "10.244.0.9:4242".parse().unwrap();
    let mut send = |bytes: &[u8]| {
        server.step(Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes }, at(0))
    };
    let good = query("web.default.svc.cluster.local A");
    // Not answered: too short, and responses.
    assert!(send(&[]).is_empty());
    assert!(send(&[0; 11]).is_empty());
    assert!(send(&encode(&good.reply(0), 512)).is_empty());
    // FORMERR, NOTIMP, BADVERS, REFUSED.
    let mut broken = encode(&good, 512);
    broken.truncate(20);
    let refused = reply(&send(&broken));
    assert_eq!((refused.id, refused.rcode), (77, rcode::FORMERR));
    let none = Message { questions: vec![], ..good.clone() };
    assert_eq!(reply(&send(&encode(&none, 512))).rcode, rcode::FORMERR);
    let mut crammed = good.clone();
    crammed.answers = vec![Record::new(good.questions[0].name.clone(), 1, Data::A([10, 0, 0, 1].into())); 2];
    assert_eq!(reply(&send(&encode(&crammed, 512))).rcode, rcode::FORMERR);
    let update = Message { flags: Flags { opcode: 5, ..good.flags }, ..good.clone() };
    assert_eq!(reply(&send(&encode(&update, 512))).rcode, rcode::NOTIMP);
    let mut future = query("web.default.svc.cluster.local A +edns");
    future.edns.as_mut().unwrap().version = 1;
    assert_eq!(reply(&send(&encode(&future, 512))).rcode, rcode::BADVERS);
    let mut chaos = good.clone();
    chaos.questions[0].class = 3;
    assert_eq!(reply(&send(&encode(&chaos, 512))).rcode, rcode::REFUSED);
}

#[test]
fn large_answers_are_cut_for_udp_and_whole_for_tcp() {
    let lines: String = (0..100).map(|i| format!(" 10.0.0.{i} big.example\n")).collect();
    let mut server = server(&format!(".:53 {{\n hosts /h {{\n{lines} }}\n}}"));
    for (text, transport, whole) in [
        ("big.example A", Transport::Udp, false),
        ("big.example A +edns", Transport::Udp, false),
        ("big.example A +do", Transport::Udp, true),
        ("big.example A", Transport::Tcp, true),
    ] {
        let effects = ask(&mut server, &query(text), transport, at(0));
        let found = reply(&effects);
        assert_eq!((found.answers.len() == 100, found.flags.truncated), (whole, !whole), "{text}");
    }
}

proptest! {
    #[test]
    fn any_question_has_one_answer_or_asks_once(
        labels in prop::collection::vec(prop::sample::select(&[
            "web", "default", "svc", "pod", "cluster", "local", "10-244-0-5", "_http", "_tcp", "service-test", "ns",
            "dns", "outside", "inside", "round", "x", "in-addr", "arpa", "ip6", "5", "0", "244", "10", "*", "dns-version",
        ][..]), 0..9),
        cluster in any::<bool>(), rtype in 0u16..260,
    ) {
        let mut server = synced(".:53 {\n kubernetes cluster.local in-addr.arpa {\n pods verified\n fallthrough \
            in-addr.arpa\n }\n forward example 192.0.2.1\n}");
        let tail: &[&str] = if cluster { &["cluster", "local"] } else { &[] };
        let name = sealane_dns::Name::from_labels(labels.iter().chain(tail).map(|l| l.as_bytes())).unwrap();
        let effects = ask(&mut server, &Message::query(5, name, rtype), Transport::Udp, at(0));
        prop_assert_eq!(effects.len(), 1);
    }

    #[test]
    fn any_bytes_are_answered_once_or_not_at_all(
        bytes in prop::collection::vec(any::<u8>(), 0..60), at_byte in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut server = synced(".:53 {\n kubernetes cluster.local\n forward . 192.0.2.1\n cache\n}");
        let client = "10.244.0.9:4242".parse().unwrap();
        let mut damaged = encode(&query("web.default.svc.cluster.local A +edns"), 512);
        let index = at_byte.index(damaged.len());
        damaged[index] = byte;
        for bytes in [&bytes, &damaged] {
            let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes };
            prop_assert!(server.step(event, at(0)).len() <= 1);
        }
    }
}
