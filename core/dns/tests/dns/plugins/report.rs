//! `errors` and `log`: what is written, and when.

use sealane_dns::chain::ServerAddress;
use sealane_dns::{Config, Effect, Event, Server, Transport, decode, encode};

use crate::cluster::{ask, ask_at, at, query, server};

fn logs(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter_map(|e| if let Effect::Log(line) = e { Some(line.clone()) } else { None }).collect()
}

/// A query that fails for that reason.
fn fail(server: &mut Server, why: &str, millis: u64) -> Vec<String> {
    let mut effects = ask(server, &query("Example.org A"), Transport::Udp, at(millis));
    let mut lines = logs(&effects);
    while let Some(Effect::Ask { pending, .. }) = effects.pop() {
        effects = server.step(Event::Failed { pending, why: why.into() }, at(millis + 1));
        lines.extend(logs(&effects));
    }
    lines
}

fn erring(options: &str) -> Server {
    server(&format!(". {{\n cancel 1ns\n errors {{\n{options}\n}}\n forward . 192.0.2.1\n}}"))
}

const LATE: &str = "2 example.org. A: context deadline exceeded";

#[test]
fn errors_are_consolidated() {
    let mut server = erring("consolidate 30s \"^context .*\"");
    for millis in [0, 10, 20_000] {
        assert!(fail(&mut server, "", millis).is_empty());
    }
    assert!(logs(&server.step(Event::Tick, at(30_000))).is_empty());
    let line = "[ERROR] plugin/errors: 3 errors like '^context .*' occurred in last 30s";
    assert_eq!(logs(&server.step(Event::Tick, at(30_001))), [line]);
    assert!(logs(&server.step(Event::Tick, at(60_001))).is_empty());
    // The time begins anew with the next one.
    assert!(fail(&mut server, "", 70_000).is_empty());
    assert!(logs(&server.step(Event::Tick, at(99_000))).is_empty());
    assert_eq!(logs(&server.step(Event::Tick, at(100_001))).len(), 1);
    // What is held back comes out at the end, and after that nothing is.
    assert!(fail(&mut server, "", 110_000).is_empty());
    let line = "[ERROR] plugin/errors: 1 errors like '^context .*' occurred in last 30s";
    assert_eq!(logs(&server.stop(at(110_001))), [line]);
    assert_eq!(fail(&mut server, "", 110_002), [format!("[ERROR] plugin/errors: {LATE}")]);
}

#[test]
fn levels_and_the_first_one() {
    for (options, shown, summary) in [
        ("consolidate 5m late", vec![format!("[ERROR] plugin/errors: {LATE}"); 2], None),
        // The first expression that matches is the one.
        (
            "consolidate 1m30s deadline warning\nconsolidate 1s context",
            vec![],
            Some("[WARNING] plugin/errors: 2 errors like 'deadline' occurred in last 1m30s"),
        ),
        (
            "consolidate 5m deadline info show_first",
            vec![format!("[INFO] plugin/errors: {LATE}")],
            Some("[INFO] plugin/errors: 2 errors like 'deadline' occurred in last 5m0s"),
        ),
        (
            "consolidate 1h deadline show_first",
            vec![format!("[ERROR] plugin/errors: {LATE}")],
            Some("[ERROR] plugin/errors: 2 errors like 'deadline' occurred in last 1h0m0s"),
        ),
        // Without `debug` nobody sees it.
        ("consolidate 5m deadline debug", vec![], None),
        ("stacktrace", vec![format!("[ERROR] plugin/errors: {LATE}"); 2], None),
    ] {
        let mut server = erring(options);
        let mut lines = fail(&mut server, "", 0);
        lines.extend(fail(&mut server, "", 1));
        assert_eq!(lines, shown, "{options}");
        let lines = logs(&server.step(Event::Tick, at(4_000_000)));
        assert_eq!(lines, Vec::from_iter(summary), "{options}");
    }
    // One that was shown needs no summary.
    let mut server = erring("consolidate 5m deadline show_first");
    assert_eq!(fail(&mut server, "", 0).len(), 1);
    assert!(logs(&server.step(Event::Tick, at(4_000_000))).is_empty());
    let text =
        ". {\n debug\n errors {\n consolidate 1s deadline debug\n }\n cancel 1ns\n forward . 192.0.2.1\n}";
    let mut server = self::server(text);
    fail(&mut server, "", 0);
    let line = "[DEBUG] plugin/errors: 1 errors like 'deadline' occurred in last 1s";
    assert_eq!(logs(&server.step(Event::Tick, at(2000))), [line]);
    let config = Config::parse("c", ". {\n errors {\n stacktrace\n }\n}", &Default::default(), 53).unwrap();
    assert!(config.blocks[0].settings.stacktrace);
}

#[test]
fn a_panic_is_answered_and_counted() {
    let query = query("a.example A");
    for (lines, says) in [
        ("errors", "[ERROR] Recovered from panic in server: \"dns://:53\" index 7"),
        ("errors {\nstacktrace\n}", "[ERROR] Recovered from panic in server: \"dns://:53\" index 7\nx.rs:1"),
    ] {
        let mut server = server(&format!(". {{\n{lines}\n}}"));
        let bytes = encode(&query, 512);
        let effects = server.panicked(Some((53.into(), &bytes)), "index 7", "x.rs:1");
        assert_eq!(logs(&effects), [says]);
        let Some(Effect::Reply(bytes)) = effects.last() else { panic!("{effects:?}") };
        let reply = decode(bytes).unwrap();
        assert_eq!((reply.id, reply.rcode, reply.questions), (query.id, 2, query.questions.clone()));
        // What was no query, and what cannot be read, have no answer.
        assert_eq!(server.panicked(None, "x", "y").len(), 1);
        assert_eq!(server.panicked(Some((53.into(), &[0; 3])), "x", "y").len(), 1);
        let mut page = String::new();
        server.render_metrics(&mut page);
        assert!(page.contains("\ncoredns_panics_total 3\n"), "{page}");
    }
    let mut server = server(". {\n debug\n}");
    let effects = server.panicked(None, "index 7", "x.rs:1");
    assert!(matches!(&effects[..], [Effect::Fatal(why)] if why == "panic in server: index 7 at x.rs:1"));
}

#[test]
fn formats_names_and_classes() {
    let hosts = "hosts /dev/null {\n 192.0.2.1 a.example\n fallthrough\n}\nlocal";
    for (line, question, expected) in [
        (
            "log",
            "a.Example A",
            Some("10.244.0.9:4242 - 77 \"A IN a.example. udp 27 false 512\" NOERROR qr,aa,rd 52 0s"),
        ),
        (
            "log . {combined}",
            "a.example A",
            Some("10.244.0.9:4242 - 77 \"A IN a.example. udp 27 false 512\" NOERROR qr,aa,rd 52 0s \"0\""),
        ),
        (
            "log . \"{common}!\"",
            "a.example A +do",
            Some("10.244.0.9:4242 - 77 \"A IN a.example. udp 38 true 4096\" NOERROR qr,aa,rd 52 0s!"),
        ),
        (
            "log . \"{proto} Request: {name} {type} {>id}\"",
            "a.example A",
            Some("udp Request: a.example. A 77"),
        ),
        ("log \"{local} {rcode}\"", "b.example A", Some("[::] SERVFAIL")),
        ("bind 192.0.2.7\nlog . {local}", "a.example A", Some("192.0.2.7")),
        (
            "log example",
            "a.example A",
            Some("10.244.0.9:4242 - 77 \"A IN a.example. udp 27 false 512\" NOERROR qr,aa,rd 52 0s"),
        ),
        ("log example.org", "a.example A", None),
        ("log example.org x {name}", "b.x A", Some("b.x.")),
        ("log . {name} {\n class denial\n}", "a.example A", None),
        ("log . {name} {\n class denial\n}", "a.example MX", None),
        ("log . {name} {\n class denial\n}", "1.0.0.127.in-addr.arpa A", Some("1.0.0.127.in-addr.arpa.")),
        ("log . {name} {\n class denial\n}", "2.0.0.127.in-addr.arpa A", Some("2.0.0.127.in-addr.arpa.")),
        ("log . {name} {\n class error\n}", "b.example A", Some("b.example.")),
        ("log . {name} {\n class success\n}", "b.example A", None),
        ("log . {name} {\n class success\n class error\n}", "b.example A", Some("b.example.")),
        ("log . {name} {\n class denial all\n}", "b.example A", Some("b.example.")),
        // Without `metadata` there are no labels.
        ("log . {/log/class}", "a.example A", Some("-")),
    ] {
        let mut server = server(&format!(". {{\n{line}\n{hosts}\n}}"));
        let ip = line.starts_with("bind").then(|| [192, 0, 2, 7].into());
        let here = ServerAddress { ip, ..53.into() };
        let effects = ask_at(&mut server, here, &query(question), Transport::Udp, at(0));
        let expected: Vec<String> = expected.iter().map(|line| format!("[INFO] {line}")).collect();
        assert_eq!(logs(&effects), expected, "{line}: {question}");
    }
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("errors file", "2:8: 'errors' takes no 'file'"),
        ("errors stdout x", "2:15: 'errors' takes no 'x'"),
        ("errors {\nstacktrace on\n}", "3:12: 'stacktrace' takes no 'on'"),
        ("errors {\nconsolidate 1s\n}", "3:1: 'consolidate' needs a duration and an expression"),
        ("errors {\nconsolidate 1 x\n}", "3:13: '1' is no duration (5s, 1m30s, 500ms)"),
        ("errors {\nconsolidate 1s (\n}", "3:16: '(' is no regular expression: unclosed group"),
        (
            "errors {\nconsolidate 1s x fatal\n}",
            "3:18: 'fatal' is neither a level (warning, error, info, debug) nor show_first",
        ),
        ("errors {\nconsolidate 1s x info error\n}", "3:23: one level stands before show_first"),
        ("errors {\nconsolidate 1s x show_first info\n}", "3:29: one level stands before show_first"),
        ("log {\nclass\n}", "3:1: 'class' names none (all, success, denial, error)"),
        ("log {\nclass abracadabra\n}", "3:7: 'abracadabra' is no class (all, success, denial, error)"),
        ("log a..b", "2:5: 'a..b' is no zone: empty label"),
    ] {
        let text = format!(". {{\n{line}\n}}");
        let error = Config::parse("Corefile", &text, &Default::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
}

#[test]
fn what_is_dropped_is_logged() {
    let mut server = server(
        ". {\n log\n acl {\n drop\n }\n whoami\n}\na {\n log . \"{name} {/log/class}\" {\n class success\n }\n acl {\n drop\n }\n}",
    );
    let effects = ask(&mut server, &query("b.example A"), Transport::Udp, at(0));
    let line = "[INFO] 10.244.0.9:4242 - 77 \"A IN b.example. udp 27 false 512\" - - 0 0s";
    assert_eq!((effects.len(), logs(&effects)), (1, vec![line.to_owned()]));
    // It is no success.
    assert!(ask(&mut server, &query("b.a A"), Transport::Udp, at(0)).is_empty());
}
