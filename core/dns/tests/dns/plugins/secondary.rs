//! `secondary`: zones of another server, which is one of these, too.

use sealane_dns::message::{rcode, rtype};
use sealane_dns::server::Pending;
use sealane_dns::{Config, Effect, Event, Now, Server, Transport, decode, encode};

use crate::cluster::{at, dig, query, show};
use crate::plugins::zones::{logs, server};

/// The zone on its primary.
fn zone(serial: u32) -> String {
    format!("@ 9 SOA ns noc {serial} 100 10 1000 5\n@ 9 NS ns\nns 9 A 192.0.2.{serial}\n")
}

fn primary(serial: u32) -> Server {
    server(
        "example.org {\n file db {\n reload_by_mtime\n }\n transfer {\n to 192.0.2.20\n }\n}",
        &[("db", &zone(serial))],
    )
}

const SECONDARY: &str =
    "example.org {\n secondary {\n transfer from 192.0.2.1 192.0.2.2:5300\n }\n transfer {\n to *\n }\n}";

/// The other server of a test: what it says, or that it is away.
enum Peer<'a> {
    Is(&'a mut Server),
    Away,
}

fn messages(server: &mut Server, bytes: &[u8], now: Now) -> Vec<Vec<u8>> {
    let client = "192.0.2.20:4242".parse().unwrap();
    let event = Event::Query { server: 53.into(), transport: Transport::Tcp, client, bytes };
    let effects = server.step(event, now).into_iter();
    let reply = |effect| match effect {
        Effect::Reply(bytes) => Some(bytes),
        _ => None,
    };
    effects.filter_map(reply).collect()
}

/// Carries out what a server asks of its primaries, and all that comes of it: what was asked and logged.
fn carry_out(server: &mut Server, peer: &mut Peer<'_>, effects: Vec<Effect>, now: Now) -> Vec<String> {
    let mut told = Vec::new();
    for effect in effects {
        match effect {
            Effect::Log(line) => {
                told.push(line.split_once("plugin/secondary: ").map_or(line.clone(), |l| l.1.to_owned()))
            }
            Effect::Ask { upstream, message, pending, .. } => {
                let asked = decode(&message).unwrap().questions[0].rtype;
                assert_eq!(pending.is_transfer(), asked == rtype::AXFR);
                told.push(format!("{} of {upstream}", rtype::name(asked)));
                let next = answered(server, peer, pending, &message, now);
                told.extend(carry_out(server, peer, next, now));
            }
            other => panic!("{other:?}"),
        }
    }
    told
}

fn answered(
    server: &mut Server,
    peer: &mut Peer<'_>,
    pending: Box<Pending>,
    message: &[u8],
    now: Now,
) -> Vec<Effect> {
    match peer {
        Peer::Away => server.step(Event::Failed { pending, why: "refused".to_owned() }, now),
        Peer::Is(primary) => {
            let messages = messages(primary, message, now);
            match pending.is_transfer() {
                true => server.step(Event::Transferred { pending, messages: &messages }, now),
                false => server.step(Event::Answer { pending, bytes: &messages[0] }, now),
            }
        }
    }
}

fn tick(server: &mut Server, peer: Peer<'_>, millis: u64) -> Vec<String> {
    let effects = server.step(Event::Tick, at(millis));
    carry_out(server, &mut { peer }, effects, at(millis))
}

/// A NOTIFY from an address; its answer, and the other effects.
fn notify(server: &mut Server, from: &str, name: &str, millis: u64) -> (Option<String>, Vec<Effect>) {
    let mut message = query(&format!("{name} SOA"));
    message.flags.opcode = 4;
    let client = format!("{from}:4242").parse().unwrap();
    let bytes = encode(&message, 512);
    let mut effects = server.step(
        Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes },
        at(millis),
    );
    let at = effects.iter().position(|effect| matches!(effect, Effect::Reply(_)));
    let reply = at.map(|at| match effects.remove(at) {
        Effect::Reply(bytes) => show(&decode(&bytes).unwrap()),
        _ => unreachable!(),
    });
    (reply, effects)
}

fn address(server: &mut Server) -> String {
    dig(server, "ns.example.org A").lines().nth(1).unwrap_or("none").to_owned()
}

#[test]
fn a_zone_is_transferred_and_followed() {
    let mut server = server(SECONDARY, &[]);
    assert_eq!(dig(&mut server, "ns.example.org A"), "SERVFAIL rd");
    // One primary after the other, then again later.
    let failed = "Failed to transfer `example.org.' from";
    assert_eq!(
        tick(&mut server, Peer::Away, 0),
        [
            "AXFR of 192.0.2.1:53".to_owned(),
            format!("{failed} \"192.0.2.1:53\": refused"),
            "AXFR of 192.0.2.2:5300".to_owned(),
            format!("{failed} \"192.0.2.2:5300\": refused"),
            "All 'example.org.' masters failed to transfer, retrying in 250ms: refused".to_owned(),
        ]
    );
    assert!(tick(&mut server, Peer::Away, 200).is_empty());
    let mut first = primary(1);
    assert_eq!(
        tick(&mut server, Peer::Is(&mut first), 250),
        ["AXFR of 192.0.2.1:53", "Transferred: example.org. from 192.0.2.1:53"]
    );
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.1");
    // What it has may be had from it.
    let axfr = encode(&query("example.org AXFR"), 512);
    let copies = messages(&mut server, &axfr, at(1000));
    assert_eq!(decode(&copies[0]).unwrap().answers.len(), 4);
    // Who may say that there is news, and of which zone.
    let (reply, effects) = notify(&mut server, "192.0.2.9", "example.org", 2000);
    assert_eq!((reply, logs(effects).len()), (None, 1));
    let (reply, effects) = notify(&mut server, "192.0.2.2", "example.org", 2000);
    assert_eq!(reply.unwrap(), "NOERROR aa,rd");
    let told = carry_out(&mut server, &mut Peer::Is(&mut first), effects, at(2000));
    assert_eq!(
        told,
        [
            "Notify from 192.0.2.2 for example.org.: checking transfer",
            "SOA of 192.0.2.1:53",
            "Notify from 192.0.2.2 for example.org.: no SOA serial increase seen",
        ]
    );
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.1");
    let mut second = primary(2);
    let (_, effects) = notify(&mut server, "192.0.2.1", "example.org", 3000);
    let told = carry_out(&mut server, &mut Peer::Is(&mut second), effects, at(3000));
    assert_eq!(
        told[1..],
        ["SOA of 192.0.2.1:53", "AXFR of 192.0.2.1:53", "Transferred: example.org. from 192.0.2.1:53"]
    );
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.2");
    // An older one is none.
    let (_, effects) = notify(&mut server, "192.0.2.1", "example.org", 4000);
    carry_out(&mut server, &mut Peer::Is(&mut first), effects, at(4000));
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.2");
}

#[test]
fn timers_are_those_of_the_soa() {
    let mut server = server(SECONDARY, &[]);
    let mut first = primary(1);
    tick(&mut server, Peer::Is(&mut first), 0);
    // Refresh: 100 s and up to 5.
    assert!(tick(&mut server, Peer::Away, 99_000).is_empty());
    let told = tick(&mut server, Peer::Away, 106_000);
    assert_eq!(told[..2], ["SOA of 192.0.2.1:53", "SOA of 192.0.2.2:5300"]);
    assert!(
        told[2].starts_with("All 'example.org.' masters failed to give their serial, retrying in 1"),
        "{told:?}"
    );
    // Retry: 10 s and up to 2.
    assert!(tick(&mut server, Peer::Away, 115_000).is_empty());
    assert_eq!(tick(&mut server, Peer::Away, 119_000).len(), 3);
    let expired = |server: &mut Server, millis| {
        let bytes = encode(&query("ns.example.org A"), 512);
        let client = "192.0.2.5:4242".parse().unwrap();
        let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
        let effects = server.step(event, at(millis));
        let lines: Vec<String> = effects
            .iter()
            .filter_map(|e| if let Effect::Log(l) = e { Some(l.clone()) } else { None })
            .collect();
        let Some(Effect::Reply(reply)) = effects.last() else { panic!() };
        (rcode::name(decode(reply).unwrap().rcode), lines)
    };
    assert_eq!(expired(&mut server, 999_000).0, "NOERROR");
    let (code, lines) = expired(&mut server, 1_000_000);
    assert_eq!(
        (code.as_str(), lines.as_slice()),
        ("SERVFAIL", &["[ERROR] plugin/secondary: Zone example.org. is expired".to_owned()][..])
    );
    // The primary is back with the same version: that is enough.
    assert_eq!(tick(&mut server, Peer::Is(&mut first), 1_100_000), ["SOA of 192.0.2.1:53"]);
    assert_eq!(expired(&mut server, 1_100_000).0, "NOERROR");
}

#[test]
fn a_reload_goes_on_with_what_is_there() {
    let mut server = server(SECONDARY, &[]);
    let mut first = primary(1);
    tick(&mut server, Peer::Is(&mut first), 0);
    let config = |text: &str| Config::parse("Corefile", text, &Default::default(), 53).unwrap();
    server.configure(config(&SECONDARY.replace("to *", "to * 192.0.2.7")), at(1000));
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.1");
    let effects = server.step(Event::Tick, at(1000));
    let notified = |effect: &Effect| matches!(effect, Effect::Ask { upstream, .. } if upstream.ip().to_string() == "192.0.2.7");
    let (news, others): (Vec<Effect>, Vec<Effect>) = effects.into_iter().partition(notified);
    assert_eq!(news.len(), 1, "who is new is told");
    assert_eq!(carry_out(&mut server, &mut Peer::Is(&mut first), others, at(1000)), ["SOA of 192.0.2.1:53"]);
    // Another primary, another zone.
    server.configure(config(&SECONDARY.replace("192.0.2.1 ", "192.0.2.3 ")), at(2000));
    assert_eq!(dig(&mut server, "ns.example.org A"), "SERVFAIL rd");
}

#[test]
fn names_that_are_not_there_fall_through() {
    let corefile =
        ". {\n secondary example.org {\n transfer from 192.0.2.1\n fallthrough a.example.org\n }\n whoami\n}";
    let mut server = server(corefile, &[]);
    tick(&mut server, Peer::Is(&mut primary(1)), 0);
    assert!(dig(&mut server, "x.a.example.org A").contains("_udp"));
    assert!(dig(&mut server, "elsewhere.test A").contains("_udp"));
    assert!(dig(&mut server, "x.b.example.org A").starts_with("NXDOMAIN"));
    assert_eq!(dig(&mut server, "example.org AXFR"), "REFUSED rd");
}

#[test]
fn a_notify_for_others_zones() {
    // `file` has no primaries; who has no zones takes it for a question.
    let mut files = primary(1);
    let (reply, effects) = notify(&mut files, "192.0.2.20", "example.org", 0);
    assert_eq!(reply, None);
    assert_eq!(logs(effects), ["[INFO] plugin/file: Dropping notify from 192.0.2.20 for example.org."]);
    let mut whoami = server(". {\n whoami\n}", &[]);
    assert!(notify(&mut whoami, "192.0.2.20", "example.org", 0).0.unwrap().starts_with("NOERROR aa,rd"));
    // Other operations there are not.
    let mut update = query("example.org SOA");
    update.flags.opcode = 5;
    let replies = messages(&mut whoami, &encode(&update, 512), at(0));
    assert_eq!(decode(&replies[0]).unwrap().rcode, rcode::NOTIMP);
}

#[test]
fn what_is_no_zone_is_not_taken() {
    let mut server = server(SECONDARY, &[]);
    let effects = server.step(Event::Tick, at(0));
    let [Effect::Ask { message, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    let asked = decode(message).unwrap();
    let Some(Effect::Ask { pending, .. }) = effects.into_iter().next() else { panic!() };
    // The primary's last message is missing.
    let whole = messages(&mut primary(1), &encode(&asked, 512), at(0));
    let mut half = decode(&whole[0]).unwrap();
    half.answers.pop();
    let half = vec![encode(&half, 65_535)];
    let effects = server.step(Event::Transferred { pending, messages: &half }, at(0));
    let lines: Vec<&Effect> = effects.iter().filter(|effect| matches!(effect, Effect::Log(_))).collect();
    assert!(format!("{lines:?}").contains("truncated"), "{lines:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::Ask { upstream, .. } if upstream.port() == 5300)));
    assert_eq!(dig(&mut server, "ns.example.org A"), "SERVFAIL rd");
}

/// A catalog with members by their ids, and where they go.
fn catalog(serial: u32, members: &str) -> String {
    let mut text = format!("@ 9 SOA . . {serial} 100 10 1000 5\n@ 9 NS invalid.\nversion 9 TXT 2\n");
    for member in members.split_whitespace() {
        let (id, zone) = member.split_once('=').unwrap();
        text += &match zone.strip_prefix('>') {
            Some(to) => format!("coo.{id}.zones 9 PTR {to}.\n"),
            None => format!("{id}.zones 9 PTR {zone}.\n"),
        };
    }
    text
}

#[test]
fn catalogs_bring_their_zones() {
    let corefile = ". {\n secondary one.example two.example {\n transfer from 192.0.2.1\n catalog example.org example.net\n }\n}";
    let mut server = server(corefile, &[]);
    let primary = |one: &str, two: &str| {
        crate::plugins::zones::server(
            "example.org a.example.org example.net example.com one.example two.example {\n file db example.org a.example.org example.net example.com\n \
             file one one.example\n file two two.example\n transfer {\n to *\n }\n}",
            &[("db", &zone(1)), ("one", one), ("two", two)],
        )
    };
    let mut first = primary(&catalog(1, "x=example.org y=example.com"), &catalog(1, "z=example.net"));
    let told = tick(&mut server, Peer::Is(&mut first), 0);
    for line in [
        "Added catalog member zone example.org. from catalog one.example.",
        "Skipped 1 member zones from catalog one.example.: outside configured member zones",
        "Parsed catalog zone one.example. with 2 member zones",
        "Added catalog member zone example.net. from catalog two.example.",
    ] {
        assert!(told.iter().any(|said| said == line), "{line}: {told:#?}");
    }
    assert_eq!(tick(&mut server, Peer::Is(&mut first), 250).len(), 4, "two zones");
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.1");
    assert!(dig(&mut server, "ns.example.net A").starts_with("NOERROR"));
    assert_eq!(dig(&mut server, "ns.example.com A"), "REFUSED rd");
    let news = |server: &mut Server, one: &str, two: &str, millis| {
        let mut primary = primary(one, two);
        let mut told = Vec::new();
        for name in ["one.example", "two.example"] {
            let (_, effects) = notify(server, "192.0.2.1", name, millis);
            told.extend(carry_out(server, &mut Peer::Is(&mut primary), effects, at(millis)));
        }
        told
    };
    // It goes over to the other catalog, and is served meanwhile.
    let leaving = catalog(2, "x=example.org x=>two.example");
    let told = news(&mut server, &leaving, &catalog(2, "x=example.org z=example.net"), 1000);
    let line = "Migrated catalog member zone example.org. from catalog one.example. to two.example., preserving its state";
    assert!(told.iter().any(|said| said == line), "{told:#?}");
    assert_eq!(address(&mut server), "ns.example.org. 9 IN A 192.0.2.1");
    // Another id is another zone; what is listed no more is gone; what another has stays its own.
    let told = news(&mut server, &catalog(3, "w=example.org"), &catalog(3, "v=example.org"), 2000);
    for line in [
        "Skipping catalog member zone example.org. from one.example.: zone already exists",
        "Reset catalog member zone example.org. from two.example. after member ID changed from x to v",
        "Removed catalog member zone example.net. from catalog two.example.",
    ] {
        assert!(told.iter().any(|said| said == line), "{line}: {told:#?}");
    }
    assert_eq!(dig(&mut server, "ns.example.org A"), "SERVFAIL rd");
    assert_eq!(dig(&mut server, "ns.example.net A"), "REFUSED rd");
    // What is no catalog changes nothing.
    let told = news(&mut server, &catalog(4, "w=example.org u=example.org"), &zone(4), 3000);
    for part in ["listed by both u and w", "must have exactly one version TXT record"] {
        assert!(told.iter().any(|said| said.contains(part)), "{part}: {told:#?}");
    }
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("secondary", "2:1: 'secondary' needs a line 'transfer from ADDRESS...'"),
        ("secondary {\ntransfer\n}", "3:1: 'transfer' needs 'from' and addresses"),
        ("secondary {\ntransfer to 192.0.2.1\n}", "3:10: 'transfer' takes no 'to' here (from)"),
        ("secondary {\ntransfer from\n}", "3:10: 'transfer from' needs the address of a primary"),
        ("secondary {\ntransfer from *\n}", "3:15: '*' is no address of a primary"),
        ("secondary {\nfallthrough a..b\n}", "3:13: 'a..b' is no zone: empty label"),
        ("secondary {\ncatalog a..b\n}", "3:9: 'a..b' is no zone: empty label"),
        (
            "secondary {\nupstream\n}",
            "3:1: option 'upstream' of 'secondary' is unknown, or not Sealane's yet",
        ),
    ] {
        let text = format!(". {{\n{line}\n}}");
        let error = Config::parse("Corefile", &text, &Default::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
}

#[test]
fn the_parents_block_answers_ds() {
    let text = |block: &str, ip: &str| {
        format!("{block} {{\n hosts {{\n {ip} x.a.org\n }}\n header {{\n response set ra\n }}\n whoami\n}}\n")
    };
    let corefile = [text("a.org", "192.0.2.1"), text("org", "192.0.2.2"), text(".", "192.0.2.3")].concat();
    let mut server = server(&corefile, &[]);
    let mut block = |question: &str| {
        dig(&mut server, question);
        let mut page = String::new();
        server.render_metrics(&mut page);
        page
    };
    let counted = |page: &str, zone: &str| {
        page.lines().any(|line| {
            line.starts_with("coredns_dns_requests_total")
                && line.contains(&format!("zone=\"{zone}\""))
                && line.contains("type=\"DS\"")
        })
    };
    // The shortest zone but for the root: one of the parent's.
    let page = block("x.a.org DS");
    assert!(counted(&page, "org.") && !counted(&page, "a.org."), "{page}");
    let page = block("a.org DS");
    assert!(counted(&page, "org.") && !counted(&page, ".") && !counted(&page, "a.org."));
    assert!(counted(&block("example.net DS"), "."));
}
