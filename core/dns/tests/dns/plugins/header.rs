//! `header` and `minimal`.

use super::upstream::{exchange, record, refused};
use crate::cluster::{query, server, show};

#[test]
fn flags() {
    for (lines, asks_rd, flags) in [
        ("response set ra", true, "aa,rd,ra"),
        ("response set ra aa\n response clear rd", true, "aa,ra"),
        ("response clear aa", true, "rd"),
        ("query set rd", true, "aa,rd"),
        ("query clear rd", false, "aa"),
        // The last one counts.
        ("response set ra\n Response CLEAR RA", true, "aa,rd"),
    ] {
        let mut server = server(&format!(".:53 {{\n header {{\n {lines}\n }}\n forward . 192.0.2.53\n}}"));
        let outcome = exchange(&mut server, "10.0.0.1:9", &query("a A"), |query| {
            let mut reply = query.reply(0);
            reply.flags.authoritative = true;
            reply
        });
        assert_eq!(outcome.asked[0].flags.recursion_desired, asks_rd, "{lines}");
        assert_eq!(show(outcome.reply()), format!("NOERROR {flags}"), "{lines}");
    }
}

#[test]
fn several_lines() {
    let mut server = server(
        ".:53 {\n header {\n response set ra\n }\n header {\n response clear aa\n }\n hosts /none {\n 192.0.2.1 a\n }\n}",
    );
    assert_eq!(crate::cluster::dig(&mut server, "a A"), "NOERROR rd,ra\na. 3600 IN A 192.0.2.1");
}

/// What an upstream says (answer, authority, additional, code), and whether all of it comes back.
#[test]
fn minimal() {
    let a = "a. 60 IN A 192.0.2.1";
    let ns = "a. 60 IN NS ns.a.";
    let glue = "ns.a. 60 IN A 192.0.2.2";
    let soa = "a. 60 IN SOA ns.a. mail.a. 1 2 3 4 5";
    for (answer, authority, rcode, whole) in [
        (Some(a), Some(ns), 0, false),
        (Some(a), None, 0, false),
        // A delegation, two denials, and what went wrong.
        (None, Some(ns), 0, true),
        (None, Some(soa), 0, true),
        (None, Some(soa), 3, true),
        (None, Some(ns), 2, true),
    ] {
        let mut server = server(".:53 {\n minimal\n forward . 192.0.2.53\n}");
        let outcome = exchange(&mut server, "10.0.0.1:9", &query("a A"), |query| {
            let mut reply = query.reply(rcode);
            reply.answers.extend(answer.map(record));
            reply.authority.extend(authority.map(record));
            reply.additional.push(record(glue));
            reply
        });
        let reply = outcome.reply();
        assert_eq!(reply.answers.len(), usize::from(answer.is_some()));
        let rest = reply.authority.len() + reply.additional.len();
        assert_eq!(
            rest,
            if whole { usize::from(authority.is_some()) + 1 } else { 0 },
            "{answer:?} {authority:?} {rcode}"
        );
    }
}

#[test]
fn refused_lines() {
    for (lines, why) in [
        ("header", "2:1: 'header' needs a line 'query' or 'response' in braces"),
        ("header x", "2:8: 'header' takes no 'x'"),
        ("header {\n answer set ra\n}", "3:2: option 'answer' of 'header' is unknown, or not Sealane's yet"),
        ("header {\n query\n}", "3:2: 'query' needs 'set' or 'clear'"),
        ("header {\n query put ra\n}", "3:8: 'put' is no action (set, clear)"),
        ("header {\n query set\n}", "3:8: 'set' needs flags (aa, ra, rd)"),
        ("header {\n query set ad\n}", "3:12: 'ad' is no flag that can be changed (aa, ra, rd)"),
        ("minimal x", "2:9: 'minimal' takes no 'x'"),
        ("minimal {\n x\n}", "3:2: option 'x' of 'minimal' is unknown, or not Sealane's yet"),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{why}"), "{lines}");
    }
}
