//! `shadow`: a second server is asked what clients ask, and what it says otherwise is said.

use sealane_dns::message::{Data, Record, rcode};
use sealane_dns::prepared::Share;
use sealane_dns::{Effect, Event, Message, Pending, Server, Transport, Via, decode, encode};

use crate::cluster::{ask, at, query, server, synced};
use crate::upstreams::{answer, logs, reply};

/// A question to the shadow.
struct Mirrored {
    message: Message,
    via: Via,
    pending: Box<Pending>,
}

/// Questions to the shadow among the effects, of which no client waits.
fn mirrored(effects: Vec<Effect>) -> Vec<Mirrored> {
    let mut out = Vec::new();
    for effect in effects {
        if let Effect::Ask { upstream, via, message, pending, .. } = effect {
            if upstream.ip().to_string() != "192.0.2.9" {
                continue;
            }
            assert!(!pending.has_client());
            out.push(Mirrored { message: decode(&message).unwrap(), via, pending });
        }
    }
    out
}

/// Asks, and lets the shadow answer what `say` makes of this server's answer: the log's lines.
fn shadowed(server: &mut Server, text: &str, millis: u64, say: impl FnOnce(&mut Message)) -> Vec<String> {
    let effects = ask(server, &query(text), Transport::Udp, at(millis));
    let mut said = reply(&effects);
    let [one] = <[Mirrored; 1]>::try_from(mirrored(effects)).unwrap_or_else(|all| panic!("{}", all.len()));
    assert_eq!(one.message.questions, query(text).questions);
    said.id = one.pending.id();
    say(&mut said);
    let event = Event::Answer { pending: one.pending, bytes: &encode(&said, 65_535) };
    logs(&server.step(event, at(millis))).into_iter().map(str::to_owned).collect()
}

fn metrics(server: &Server) -> Vec<String> {
    let mut text = String::new();
    server.render_metrics(&mut text);
    let lines = text.lines().filter(|line| line.starts_with("sealane_dns_shadow_") && !line.ends_with(" 0"));
    lines.map(|line| line.replace("to=\"192.0.2.9:53\"", "to")).collect()
}

const HOSTS: &str = "hosts {\n 192.0.2.1 a.example\n 192.0.2.2 a.example\n}";

#[test]
fn what_differs_is_said() {
    let mut server = server(&format!(".:53 {{\n {HOSTS}\n shadow 192.0.2.9 {{\n log 100\n }}\n}}"));
    let q = "a.example A";
    assert_eq!(shadowed(&mut server, q, 0, |_| ()), Vec::<String>::new());
    assert_eq!(shadowed(&mut server, q, 0, |said| said.answers.reverse()), Vec::<String>::new());
    let line = |what: &str| vec![format!("[WARNING] plugin/shadow: 192.0.2.9:53: a.example. IN A: {what}")];
    let other = |said: &mut Message| said.answers[0].data = Data::A([192, 0, 2, 7].into());
    assert_eq!(
        shadowed(&mut server, q, 0, other),
        line(
            "answer: only here 'a.example. 3600 IN A 192.0.2.1', only there 'a.example. 3600 IN A 192.0.2.7'"
        )
    );
    let short = |said: &mut Message| said.answers[1].ttl = 3569;
    assert_eq!(
        shadowed(&mut server, q, 0, short),
        line("TTL of 'a.example. 3600 IN A 192.0.2.2' is 3569 there")
    );
    let refuses = |said: &mut Message| *said = said.reply(rcode::REFUSED);
    assert_eq!(shadowed(&mut server, q, 0, refuses), line("rcode NOERROR here, REFUSED there"));
    let recursive = |said: &mut Message| said.flags.recursion_available = true;
    assert_eq!(shadowed(&mut server, q, 0, recursive), line("flags 'aa' here, 'aa ra' there"));
    // What nobody here has an answer to is asked, too.
    let text = "b.example A";
    let found = shadowed(&mut server, text, 0, |said| said.rcode = rcode::NXDOMAIN);
    let expected =
        "[WARNING] plugin/shadow: 192.0.2.9:53: b.example. IN A: rcode SERVFAIL here, NXDOMAIN there";
    assert_eq!(found, [expected]);
    assert_eq!(
        metrics(&server),
        [
            "sealane_dns_shadow_differences_total{to,kind=\"answer\"} 2",
            "sealane_dns_shadow_differences_total{to,kind=\"flags\"} 2",
            "sealane_dns_shadow_differences_total{to,kind=\"rcode\"} 2",
            "sealane_dns_shadow_differences_total{to,kind=\"ttl\"} 1",
            "sealane_dns_shadow_queries_total{to} 7",
        ]
    );
}

#[test]
fn long_answers_come_over_tcp() {
    let mut server = server(&format!(".:53 {{\n {HOSTS}\n shadow 192.0.2.9\n}}"));
    let effects = ask(&mut server, &query("a.example A +edns"), Transport::Udp, at(0));
    let said = reply(&effects);
    let one = mirrored(effects).remove(0);
    assert_eq!(one.via, Via::Udp);
    // What is between the client and this server stays there.
    let options = &one.message.edns.as_ref().unwrap().options;
    assert_eq!(options.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [65_001]);
    let mut cut = one.message.reply(0);
    cut.flags.truncated = true;
    let effects = server.step(Event::Answer { pending: one.pending, bytes: &encode(&cut, 512) }, at(1));
    let one = mirrored(effects).remove(0);
    assert_eq!(one.via, Via::Tcp);
    let whole = Message { id: one.pending.id(), ..said };
    let effects = server.step(Event::Answer { pending: one.pending, bytes: &encode(&whole, 65_535) }, at(2));
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(metrics(&server), ["sealane_dns_shadow_queries_total{to} 1"]);
}

#[test]
fn clients_do_not_wait_for_it_and_it_is_asked_for_so_many_at_most() {
    let text =
        format!(".:53 {{\n {HOSTS}\n shadow 192.0.2.9 {{\n max_concurrent 2\n log 1\n timeout 5s\n }}\n}}");
    let mut server = server(&text);
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let effects = ask(&mut server, &query("a.example A"), Transport::Tcp, at(0));
        assert_eq!(reply(&effects).answers.len(), 2);
        waiting.extend(mirrored(effects));
    }
    assert_eq!(waiting.len(), 2);
    let mut said = Vec::new();
    for one in waiting {
        let event = Event::Failed { pending: one.pending, why: "udp i/o timeout".to_owned() };
        said.extend(logs(&server.step(event, at(500))).into_iter().map(str::to_owned));
    }
    assert_eq!(said, ["[WARNING] plugin/shadow: 192.0.2.9:53: a.example. IN A: no answer: udp i/o timeout"]);
    // What there was no line for is said with the next.
    let said = shadowed(&mut server, "a.example A", 1000, |said| said.rcode = rcode::NXDOMAIN);
    assert!(said[0].ends_with(" (1 lines like this were left out before)"), "{said:?}");
    assert_eq!(
        metrics(&server),
        [
            "sealane_dns_shadow_differences_total{to,kind=\"rcode\"} 1",
            "sealane_dns_shadow_queries_total{to} 3",
            "sealane_dns_shadow_skipped_total{to} 3",
            "sealane_dns_shadow_unanswered_total{to} 2",
        ]
    );
}

#[test]
fn what_is_forwarded_is_compared_when_it_is_there() {
    let mut server = server(".:53 {\n shadow 192.0.2.9 example\n forward . 192.0.2.53\n cache\n}");
    for (name, asks) in [("x.example A", 1), ("x.example.org A", 0)] {
        let effects = ask(&mut server, &query(name), Transport::Udp, at(0));
        let [Effect::Ask { .. }] = effects.as_slice() else { panic!("{effects:?}") };
        let Some(Effect::Ask { pending, message, .. }) = effects.into_iter().next() else { panic!() };
        assert!(pending.has_client());
        let bytes = answer(&decode(&message).unwrap(), 300);
        let effects = server.step(Event::Answer { pending, bytes: &bytes }, at(1));
        assert_eq!(reply(&effects).answers.len(), 1);
        assert_eq!(mirrored(effects).len(), asks, "{name}");
    }
}

#[test]
fn transfers_and_look_ups_are_left_out() {
    let mut server = synced(
        ".:53 {\n shadow 192.0.2.9\n kubernetes cluster.local\n transfer cluster.local {\n to *\n }\n\
         template IN A t.example {\n answer \"t.example 5 IN CNAME u.example\"\n }\n hosts {\n 192.0.2.1 u.example\n }\n}",
    );
    let effects = ask(&mut server, &query("cluster.local AXFR"), Transport::Tcp, at(0));
    assert_eq!(mirrored(effects).len(), 0);
    let effects = ask(&mut server, &query("t.example A"), Transport::Udp, at(0));
    assert_eq!(mirrored(effects).len(), 1);
}

/// One in so many, chosen by the id: those alone come by where answers are prepared.
#[test]
fn a_share_of_all() {
    let mut server = synced(".:53 {\n shadow 192.0.2.9 {\n sample 5%\n }\n kubernetes cluster.local\n}");
    let mut picked = 0;
    for id in 0..1000 {
        let message = Message { id, ..query("service-test.default.svc.cluster.local A") };
        let effects = ask(&mut server, &message, Transport::Udp, at(0));
        let asked = mirrored(effects).len();
        assert_eq!(asked == 1, Share::of(0.05).picks(id));
        picked += asked;
    }
    assert!((40..=60).contains(&picked), "{picked}");
    for (part, of) in [(1.0, 65_536), (0.5, 32_768), (0.0001, 7), (0.0, 1)] {
        assert_eq!((0..=u16::MAX).filter(|id| Share::of(part).picks(*id)).count(), of, "{part}");
    }
}

/// What is prepared is left to the general path for those ids.
#[test]
fn prepared_answers_are_sampled_too() {
    use sealane_dns::prepared::Prepared;
    let mut server = synced(".:53 {\n shadow 192.0.2.9 {\n sample 10%\n }\n kubernetes cluster.local\n}");
    let share = Share::of(0.1);
    let message = |id| encode(&Message { id, ..query("service-test.default.svc.cluster.local A") }, 512);
    let first = (0..).find(|id| !share.picks(*id)).unwrap();
    let client = "10.244.0.9:4242".parse().unwrap();
    let bytes = message(first);
    let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
    let effects = server.step(event, at(0));
    let [Effect::Reply(said)] = effects.as_slice() else { panic!("{effects:?}") };
    let mut prepared = Prepared::new(1 << 20, 7);
    prepared.keep(&bytes, said, server.preparation().expect("not kept"));
    for id in 0..2000 {
        assert_eq!(prepared.answer(&message(id), true, 0, &mut Vec::new()), !share.picks(id), "{id}");
    }
    // All of them: nothing is prepared.
    let mut server = synced(".:53 {\n shadow 192.0.2.9\n kubernetes cluster.local\n}");
    server.step(Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes }, at(0));
    assert!(server.preparation().is_none());
}

#[test]
fn refused_lines() {
    for (line, why) in [
        ("shadow", "1:5: 'shadow' needs the address of a server"),
        ("shadow example.org", "1:12: 'example.org' is no address of a server (IP, or IP:PORT)"),
        ("shadow 192.0.2.9 {\nsample 0\n}", "2:8: '0' is no percentage above 0, and of 100 at most"),
        ("shadow 192.0.2.9 {\nsample 101%\n}", "2:8: '101%' is no percentage above 0, and of 100 at most"),
        ("shadow 192.0.2.9 {\ntimeout 0s\n}", "2:9: no server answers within no time"),
        ("shadow 192.0.2.9 {\nmax_concurrent 0\n}", "2:16: 0 would turn it off; leave 'shadow' out instead"),
        (
            "shadow 192.0.2.9 {\nfaster\n}",
            "2:1: option 'faster' of 'shadow' is unknown, or not Sealane's yet",
        ),
        ("fairness 0", "1:14: 'fairness' leaves each client 1 to 1000000 queries a second"),
        ("fairness x", "1:14: 'x' is no number of queries a second"),
    ] {
        let text = format!(". {{ {line}\n}}");
        let error = sealane_dns::Config::parse("C", &text, &Default::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("C:{why}"), "{line}");
    }
}

/// The record's line in messages is dig's.
#[test]
fn many_records_are_shown_in_part() {
    let mut server = server(&format!(".:53 {{\n {HOSTS}\n shadow 192.0.2.9\n}}"));
    let name: sealane_dns::Name = "a.example".parse().unwrap();
    let found = shadowed(&mut server, "a.example A", 0, |said| {
        for n in 10..15 {
            said.answers.push(Record::new(name.clone(), 1, Data::A([192, 0, 2, n].into())));
        }
    });
    assert!(found[0].ends_with("'a.example. 1 IN A 192.0.2.12' and 2 more"), "{found:?}");
}
