//! Answers out of zones.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sealane_dns::message::{rcode, rtype};
use sealane_dns::zone::{Answer, Chased, Found, Outcome, Zone, ZoneError};

use crate::{lines, name, records, zone};

fn ask(zone: &Zone, question: &str) -> Answer {
    match found(zone, question) {
        Found::Answer(answer) => answer,
        Found::Chase(chase) => panic!("{question}: {chase:?}"),
    }
}

/// `name type [do]`
fn found(zone: &Zone, question: &str) -> Found {
    let words: Vec<&str> = question.split(' ').collect();
    zone.lookup(&name(words[0]), rtype::from_name(words[1]).unwrap(), words.len() == 3)
}

/// RFC 4592 section 2.2.1.
const WILDCARDS: &str = "
@ 3600 SOA ns.example.com. host 1 2 3 4 5
@ NS ns.example.com.
@ NS ns.example.net.
* TXT \"this is a wildcard\"
* MX 10 host1
sub.* TXT \"this is not a wildcard\"
host1 A 192.0.2.1
_ssh._tcp.host1 SRV 0 0 22 host1
_ssh._tcp.host2 SRV 0 0 22 host2
subdel NS ns.example.com.
subdel NS ns.example.net.
";

#[test]
fn the_wildcards_of_rfc_4592() {
    let zone = zone("example.", WILDCARDS);
    let table: &[(&str, Outcome, &[&str])] = &[
        ("host3.example. MX", Outcome::Success, &["host3.example. 3600 IN MX 10 host1.example."]),
        ("host3.example. A", Outcome::NoData, &[]),
        ("foo.bar.example. TXT", Outcome::Success, &["foo.bar.example. 3600 IN TXT \"this is a wildcard\""]),
        ("host1.example. MX", Outcome::NoData, &[]),
        ("sub.*.example. MX", Outcome::NoData, &[]),
        ("_telnet._tcp.host1.example. SRV", Outcome::NameError, &[]),
        ("host.subdel.example. A", Outcome::Delegation, &[]),
        ("ghost.*.example. MX", Outcome::NameError, &[]),
        // An empty non-terminal exists, so no wildcard stands for it (section 2.2.2).
        ("host2.example. MX", Outcome::EmptyNonTerminal, &[]),
        ("x.host2.example. MX", Outcome::NameError, &[]),
        ("*.example. MX", Outcome::Success, &["*.example. 3600 IN MX 10 host1.example."]),
    ];
    for (question, outcome, answer) in table {
        let got = ask(&zone, question);
        assert_eq!(
            (got.outcome, lines(&got.answer)),
            (*outcome, answer.iter().map(|s| (*s).to_owned()).collect()),
            "{question}"
        );
    }
    let got = ask(&zone, "HOST3.example. MX");
    assert_eq!(got.wildcard, Some(name("*.example.")));
    assert_eq!(lines(&got.additional), ["host1.example. 3600 IN A 192.0.2.1"]);
    assert_eq!(got.authority.len(), 2);
}

/// A zone like that of RFC 1034 section 6.2, one file of CoreDNS's order of sections.
const PLAIN: &str = "
$TTL 1h
@ 1800 SOA NS Hostmaster 7 4h 1h 1w 300
@ NS ns
@ NS ns.other.
@ MX 10 mail
@ MX 20 mail
@ A 192.0.2.1
ns A 192.0.2.2
ns AAAA 2001:db8::2
mail A 192.0.2.3
www CNAME web
web CNAME web2
web2 A 192.0.2.4
web2 A 192.0.2.4
out CNAME www.other.
miss CNAME nothere
loop1 CNAME loop2
loop2 CNAME loop1
into CNAME x.sub
a.b.ent TXT x
sub NS ns.sub
sub NS ns.other.
sub DS 1 8 2 00
ns.sub A 192.0.2.5
_x._tcp SRV 0 0 1 MAIL
_x._tcp SRV 0 0 2 gone
svc HTTPS 1 web2
";

#[test]
fn sections_are_coredns_s() {
    let zone = zone("example.", PLAIN);
    let soa = "example. 1800 IN SOA ns.example. hostmaster.example. 7 14400 3600 604800 300";
    let ns = ["example. 3600 IN NS ns.example.", "example. 3600 IN NS ns.other."];
    let glue = ["ns.example. 3600 IN A 192.0.2.2", "ns.example. 3600 IN AAAA 2001:db8::2"];
    type Row<'a> = (&'a str, Outcome, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let web2 = "web2.example. 3600 IN A 192.0.2.4";
    let cut = ["sub.example. 3600 IN NS ns.sub.example.", "sub.example. 3600 IN NS ns.other."];
    let below = ["ns.sub.example. 3600 IN A 192.0.2.5"];
    let table: &[Row<'_>] = &[
        ("example. SOA", Outcome::Success, &[soa], &ns, &[]),
        ("EXAMPLE. NS", Outcome::Success, &ns, &[], &glue),
        ("example. TXT", Outcome::NoData, &[], &[soa], &[]),
        ("example. ANY", Outcome::NoData, &[], &[soa], &[]),
        ("example. DS", Outcome::NoData, &[], &[soa], &[]),
        ("nope.example. A", Outcome::NameError, &[], &[soa], &[]),
        ("b.ent.example. A", Outcome::EmptyNonTerminal, &[], &[soa], &[]),
        ("web2.example. A", Outcome::Success, &[web2], &ns, &[]),
        (
            "www.example. A",
            Outcome::Success,
            &["www.example. 3600 IN CNAME web.example.", "web.example. 3600 IN CNAME web2.example.", web2],
            &ns,
            &[],
        ),
        // CoreDNS: no SOA where the end of an alias is there without the type.
        ("web.example. TXT", Outcome::Success, &["web.example. 3600 IN CNAME web2.example."], &ns, &[]),
        ("www.example. CNAME", Outcome::Success, &["www.example. 3600 IN CNAME web.example."], &ns, &[]),
        ("x.sub.example. A", Outcome::Delegation, &[], &cut, &below),
        ("sub.example. NS", Outcome::Delegation, &[], &cut, &below),
        ("sub.example. DS", Outcome::Success, &["sub.example. 3600 IN DS 1 8 2 00"], &ns, &[]),
        (
            "into.example. A",
            Outcome::Delegation,
            &["into.example. 3600 IN CNAME x.sub.example."],
            &cut,
            &below,
        ),
        (
            "_x._tcp.example. SRV",
            Outcome::Success,
            &[
                "_x._tcp.example. 3600 IN SRV 0 0 1 MAIL.example.",
                "_x._tcp.example. 3600 IN SRV 0 0 2 gone.example.",
            ],
            &ns,
            &["mail.example. 3600 IN A 192.0.2.3"],
        ),
        (
            "svc.example. HTTPS",
            Outcome::Success,
            &["svc.example. 3600 IN HTTPS 1 web2.example."],
            &ns,
            &[web2],
        ),
    ];
    for (question, outcome, answer, authority, additional) in table {
        let got = ask(&zone, question);
        assert_eq!(got.outcome, *outcome, "{question}");
        assert_eq!(lines(&got.answer), *answer, "{question}");
        assert_eq!(lines(&got.authority), *authority, "{question}");
        assert_eq!(lines(&got.additional), *additional, "{question}");
    }
    let flags =
        |q: &str| (ask(&zone, q).rcode(), ask(&zone, q).is_authoritative(), ask(&zone, q).falls_through());
    assert_eq!(flags("x.sub.example. A"), (rcode::NOERROR, false, false));
    assert_eq!(flags("into.example. A"), (rcode::NOERROR, true, false));
    assert_eq!(flags("nope.example. A"), (rcode::NXDOMAIN, true, true));
    assert_eq!(flags("ent.example. A"), (rcode::NOERROR, true, true));
    assert_eq!(flags("mail.example. TXT"), (rcode::NOERROR, true, false));
    // Of two aliases at a name the first is followed.
    let two = crate::zone("e.", "@ 1 SOA a b 1 1 1 1 1\na 1 CNAME b\na 1 CNAME x.\nb 1 A 192.0.2.1");
    assert_eq!(ask(&two, "a.e. A").answer.len(), 3);
    // A loop ends, with what was found on the way.
    assert_eq!(ask(&zone, "loop1.example. A").answer.len(), 10);
    assert_eq!(ask(&zone, "other. A").outcome, Outcome::ServerFailure);
}

#[test]
fn targets_outside_are_the_caller_s_to_find() {
    let zone = zone("example.", PLAIN);
    let Found::Chase(chase) = found(&zone, "out.example. A") else { panic!() };
    assert_eq!((&chase.target, chase.rtype), (&name("www.other."), rtype::A));
    let got =
        zone.chased(chase.clone(), Chased::Answered(rcode::NOERROR, records("other.", "www 5 A 192.0.2.9")));
    assert_eq!(got.outcome, Outcome::Success);
    assert_eq!(lines(&got.answer), ["out.example. 3600 IN CNAME www.other.", "www.other. 5 IN A 192.0.2.9"]);
    for (given, outcome, authority) in [
        (Chased::Answered(rcode::NXDOMAIN, vec![]), Outcome::NameError, 1),
        (Chased::Answered(rcode::NOERROR, vec![]), Outcome::NoData, 1),
        (Chased::Failed, Outcome::ServerFailure, 2),
        (Chased::Unasked, Outcome::Success, 2),
    ] {
        let got = zone.chased(chase.clone(), given);
        assert_eq!((got.outcome, got.answer.len(), got.authority.len()), (outcome, 1, authority));
    }
    // One inside that is not there may be a wildcard's, or another plugin's.
    assert!(
        matches!(found(&zone, "miss.example. A"), Found::Chase(c) if c.target == name("nothere.example."))
    );
}

/// RFC 6672 section 2.2, table 1: asked, owner, target, result.
#[test]
fn the_substitutions_of_rfc_6672() {
    let table = [
        ("a.example.com.", "example.com.", "example.net.", Some("a.example.net.")),
        ("a.b.example.com.", "example.com.", "example.net.", Some("a.b.example.net.")),
        ("ab.example.com.", "b.example.com.", "example.net.", None),
        ("example.com.", "example.com.", "example.net.", None),
        ("a.x.example.com.", "x.example.com.", "example.net.", Some("a.example.net.")),
        ("a.example.com.", "example.com.", "y.example.net.", Some("a.y.example.net.")),
        ("cyc.example.com.", "example.com.", "c.example.com.", Some("cyc.c.example.com.")),
        ("shortloop.x.x.", "x.", ".", Some("shortloop.x.")),
        ("shortloop.x.", "x.", ".", Some("shortloop.")),
    ];
    for (asked, owner, target, result) in table {
        let zone = zone(".", &format!(". 1 SOA a. b. 1 1 1 1 1\n{owner} 1 DNAME {target}"));
        match (zone.lookup(&name(asked), rtype::CNAME, false), result) {
            (Found::Answer(got), Some(result)) => assert_eq!(
                lines(&got.answer),
                [format!("{owner} 1 IN DNAME {target}"), format!("{asked} 1 IN CNAME {result}")]
            ),
            (Found::Answer(got), None) => assert!(got.answer.is_empty(), "{asked}"),
            (Found::Chase(chase), _) => panic!("{chase:?}"),
        }
    }
    let loops = zone(".", ". 1 SOA a. b. 1 1 1 1 1\nexample.com. 1 DNAME example.com.");
    assert_eq!(ask(&loops, "cyc.example.com. A").outcome, Outcome::ServerFailure);
    let long = vec!["x".repeat(60); 3].join(".");
    let zone = zone("e.", &format!("@ 1 SOA a b 1 1 1 1 1\nd 1 DNAME {long}.e."));
    let got = ask(&zone, &format!("{long}.d.e. A"));
    assert_eq!((got.rcode(), got.answer.len()), (rcode::YXDOMAIN, 1));
    let Found::Chase(chase) = found(&zone, "y.d.e. A") else { panic!() };
    assert_eq!((chase.target, chase.answer.len()), (name(&format!("y.{long}.e.")), 2));
}

/// Signatures of a made-up kind: what counts here is which are given.
const SIGNED: &str = "
$TTL 9
@ SOA ns h 1 1 1 1 1
@ RRSIG SOA 13 1 9 0 0 1 e. AAAA
@ NS ns
@ RRSIG NS 13 1 9 0 0 1 e. AAAA
@ NSEC *.w SOA NS
@ RRSIG NSEC 13 1 9 0 0 1 e. AAAA
*.w A 192.0.2.1
*.w RRSIG A 13 2 9 0 0 1 e. AAAA
*.w NSEC c A
*.w RRSIG NSEC 13 2 9 0 0 1 e. AAAA
*.c CNAME x.w
*.c RRSIG CNAME 13 2 9 0 0 1 e. AAAA
d NS ns.d
ns.d A 192.0.2.3
c NSEC ns
d DS 1 8 2 00
d RRSIG DS 13 2 9 0 0 1 e. AAAA
ns A 192.0.2.2
ns NSEC @ A
";

#[test]
fn signed_zones_prove_what_they_say() {
    let zone = zone("e.", SIGNED);
    let brief = |records: &[sealane_dns::message::Record]| -> Vec<String> {
        let covered = |r: &sealane_dns::message::Record| match r.data.rtype() {
            rtype::RRSIG => format!("{} sig {}", r.name, r.to_string().split(' ').nth(4).unwrap()),
            other => format!("{} {}", r.name, rtype::name(other)),
        };
        records.iter().map(covered).collect()
    };
    let got = ask(&zone, "y.w.e. A do");
    assert_eq!(brief(&got.answer), ["y.w.e. A", "y.w.e. sig A"]);
    assert_eq!(brief(&got.authority), ["e. NS", "e. sig NS", "*.w.e. NSEC", "*.w.e. sig NSEC"]);
    let got = ask(&zone, "y.w.e. TXT do");
    assert_eq!(brief(&got.authority), ["e. SOA", "e. sig SOA", "*.w.e. NSEC", "*.w.e. sig NSEC"]);
    let got = ask(&zone, "p.e. A do");
    assert_eq!(brief(&got.authority), ["e. SOA", "e. sig SOA", "ns.e. NSEC", "e. NSEC", "e. sig NSEC"]);
    // Glue below a cut has no NSEC: the one before it speaks.
    let got = ask(&zone, "da.e. A do");
    assert_eq!(brief(&got.authority), ["e. SOA", "e. sig SOA", "c.e. NSEC", "e. NSEC", "e. sig NSEC"]);
    let got = ask(&zone, "a.d.e. A do");
    assert_eq!(brief(&got.authority), ["d.e. NS", "d.e. DS", "d.e. sig DS"]);
    let Found::Chase(chase) = found(&zone, "q.c.e. A do") else { panic!() };
    assert_eq!(brief(&chase.answer), ["q.c.e. CNAME", "q.c.e. sig CNAME"]);
    assert_eq!(brief(&ask(&zone, "e. SOA do").answer), ["e. SOA", "e. sig SOA"]);
}

#[test]
fn what_is_no_zone() {
    let new = |text| Zone::new(&name("e."), records("e.", text)).unwrap_err();
    assert_eq!(new("a 1 TXT x"), ZoneError::NoSoa(name("e.")));
    let nsec3 = new("@ 1 SOA a b 1 1 1 1 1\n@ 1 NSEC3PARAM 1 0 0 -");
    assert!(nsec3.to_string().contains("zones signed with NSEC3 are not supported"));
}

/// RFC 4592 by the letter, over sets of names.
fn model(names: &BTreeSet<Vec<String>>, asked: &[String]) -> Outcome {
    let exists = |n: &[String]| n.is_empty() || names.iter().any(|have| have.ends_with(n));
    if names.contains(asked) || asked.is_empty() {
        return if asked.is_empty() && !names.contains(asked) { Outcome::NoData } else { Outcome::Success };
    }
    if exists(asked) {
        return Outcome::EmptyNonTerminal;
    }
    let closest = (1..=asked.len()).map(|at| &asked[at..]).find(|n| exists(n)).unwrap();
    let wildcard: Vec<String> = std::iter::once("*".to_owned()).chain(closest.iter().cloned()).collect();
    match (names.contains(&wildcard), exists(&wildcard)) {
        (true, _) => Outcome::Success,
        (_, true) => Outcome::NoData,
        _ => Outcome::NameError,
    }
}

fn labels() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "\\000"]).prop_map(str::to_owned), 0..4)
}

proptest! {
    #[test]
    fn lookups_agree_with_the_rules(names in prop::collection::btree_set(labels(), 0..8), asked in labels()) {
        let full = |n: &[String]| n.iter().map(|l| format!("{l}.")).collect::<String>() + "e.";
        let mut text = "@ 1 SOA a b 1 1 1 1 1\n".to_owned();
        names.iter().for_each(|n| text += &format!("{} 1 A 192.0.2.1\n", full(n)));
        let zone = zone("e.", &text);
        let got = ask(&zone, &format!("{} A", full(&asked)));
        prop_assert_eq!(got.outcome, model(&names, &asked), "{} in {}", full(&asked), text);
        prop_assert!(got.answer.iter().all(|r| r.name == name(&full(&asked))));
    }
}
