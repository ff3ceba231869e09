//! Plugins of a few lines: `any`, `bufsize`, `cancel`, `chaos`, `erratic`, `local`, `nsid`, `whoami`, and the settings
//! `debug`, `multisocket`, `root`, `timeouts`, `bind`, `ready`.

use std::time::Duration;

use sealane_dns::chain::{Settings, Sockets, Timeouts};
use sealane_dns::corefile::Sources;
use sealane_dns::message::{Data, Edns, Record};
use sealane_dns::{Config, Effect, Event, Message, Server, Transport, decode, encode};

use crate::cluster::{ask, at, check, dig, query, server, show};

fn reply(effects: &[Effect]) -> Message {
    let bytes = effects.iter().find_map(|e| if let Effect::Reply(bytes) = e { Some(bytes) } else { None });
    decode(bytes.expect("no reply")).unwrap()
}

fn settings(lines: &str) -> Settings {
    let mut sources = Sources::default();
    let ips = ["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
    sources.interfaces.insert("lo".into(), ips.to_vec());
    let text = format!(". {{\n{lines}\n}}");
    let config = Config::parse("Corefile", &text, &sources, 53).unwrap();
    config.blocks[0].settings.clone()
}

#[test]
fn any_answers_a_line_about_itself() {
    let mut server = server(". {\n any\n whoami\n}");
    let answer = "Example.org. 8482 IN HINFO \"ANY obsoleted\" \"See RFC 8482\"";
    assert_eq!(dig(&mut server, "Example.org ANY"), format!("NOERROR rd\n{answer}"));
    assert!(dig(&mut server, "example.org A").contains("_udp.example.org."));
}

#[test]
fn bufsize_caps_what_clients_say() {
    for (line, asked, shown) in
        [("bufsize", 4096, 1232), ("bufsize 512", 1232, 512), ("bufsize 4096", 1232, 1232)]
    {
        let mut server = server(&format!(". {{\n {line}\n erratic {{\n drop 0\n large\n }}\n}}"));
        let mut question = query(&format!("{} A", "a".repeat(60)));
        question.edns = Some(Edns { udp_size: asked, ..Edns::default() });
        let effects = ask(&mut server, &question, Transport::Udp, at(0));
        let [Effect::Reply(bytes)] = effects.as_slice() else { panic!("{effects:?}") };
        let reply = decode(bytes).unwrap();
        assert_eq!(reply.edns.unwrap().udp_size, shown, "{line}");
        assert!(bytes.len() <= usize::from(shown));
        assert_eq!(reply.flags.truncated, shown == 512);
    }
    // Without EDNS there is nothing to cap.
    let mut server = server(". {\n bufsize 1024\n whoami\n}");
    assert!(reply(&ask(&mut server, &query("a A"), Transport::Udp, at(0))).edns.is_none());
}

#[test]
fn cancel_gives_up() {
    let mut server = server(". {\n errors\n cancel 1s\n forward . 192.0.2.1 192.0.2.2\n}");
    let mut effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(0));
    let Some(Effect::Ask { timeout, pending, .. }) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!(timeout, Duration::from_secs(1));
    // Upstreams that are left are not asked any more.
    let effects = server.step(Event::Failed { pending, why: "i/o timeout".into() }, at(1000));
    assert_eq!(reply(&effects).rcode, 2);
    let log = effects.iter().find_map(|e| if let Effect::Log(line) = e { Some(line.as_str()) } else { None });
    assert_eq!(log, Some("[ERROR] plugin/errors: 2 a.example. A: context deadline exceeded"));
    // Before the time is over they are, for what is left of it.
    let mut effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(2000));
    let Some(Effect::Ask { pending, .. }) = effects.pop() else { panic!("{effects:?}") };
    let mut effects = server.step(Event::Failed { pending, why: "refused".into() }, at(2400));
    let Some(Effect::Ask { timeout, .. }) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!(timeout, Duration::from_millis(600));
    // Waits end with it, too.
    let mut server = self::server(". {\n cancel 50ms\n erratic {\n delay 1 100ms\n }\n}");
    let mut effects = ask(&mut server, &query("a.example A"), Transport::Udp, at(0));
    let Some(Effect::Wait { time, pending }) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!(time, Duration::from_millis(50));
    assert_eq!(reply(&server.step(Event::Waited(pending), at(50))).rcode, 2);
}

fn chaos(server: &mut Server, name: &str, class: u16) -> String {
    let mut question = query(&format!("{name} TXT"));
    question.questions[0].class = class;
    show(&reply(&ask(server, &question, Transport::Udp, at(0))))
}

#[test]
fn chaos_tells_version_name_and_authors() {
    let mut server = server(". {\n chaos Sealane-dev b.author \"An Author\"\n whoami\n}\nnet {\n whoami\n}");
    server.set_hostname("node-1");
    for (name, text) in [
        ("version.bind", "Sealane-dev"),
        ("Version.Server", "Sealane-dev"),
        ("hostname.bind", "node-1"),
        ("id.server", "node-1"),
    ] {
        assert_eq!(chaos(&mut server, name, 3), format!("NOERROR rd\n{name}. 0 CLASS3 TXT \"{text}\""));
    }
    let found = chaos(&mut server, "authors.bind", 3);
    let mut authors: Vec<&str> = found.lines().skip(1).collect();
    authors.sort_unstable();
    assert_eq!(
        authors,
        ["authors.bind. 0 CLASS3 TXT \"An Author\"", "authors.bind. 0 CLASS3 TXT \"b.author\""]
    );
    // Other names of the class, and names of other blocks on the port, are for the plugins behind it.
    assert!(chaos(&mut server, "x.bind", 3).contains("_udp.x.bind. 0 CLASS3 SRV"));
    assert!(chaos(&mut server, "version.net", 3).contains("_udp.version.net. 0 CLASS3 SRV"));
    assert!(chaos(&mut server, "version.bind", 1).contains("_udp.version.bind. 0 IN SRV"));
    let mut plain = self::server(". {\n whoami\n}");
    assert_eq!(chaos(&mut plain, "version.bind", 3), "REFUSED rd");
    let mut own = self::server(". {\n chaos\n}");
    let version = format!("\"Sealane-{}\"", env!("CARGO_PKG_VERSION"));
    assert!(chaos(&mut own, "version.bind", 3).ends_with(&version));
    assert!(chaos(&mut own, "hostname.bind", 3).ends_with("\"localhost\""));
    let mut long = self::server(&format!(". {{\n chaos {}\n}}", "x".repeat(300)));
    assert!(chaos(&mut long, "version.bind", 3).ends_with(&format!("\"{}\"", "x".repeat(255))));
}

#[test]
fn nsid_answers_who_asks_for_it() {
    for (line, name) in [("nsid", "node-1"), ("nsid Use The Force", "Use The Force")] {
        let mut server = server(&format!(". {{\n {line}\n whoami\n}}"));
        server.set_hostname("node-1");
        let mut question = query("a A");
        let options = vec![(10, Box::from(*b"cookie!!")), (3, Box::from(*b""))];
        question.edns = Some(Edns { udp_size: 1232, dnssec_ok: true, options, ..Edns::default() });
        let edns = reply(&ask(&mut server, &question, Transport::Udp, at(0))).edns.unwrap();
        assert_eq!(edns.options, [(3, Box::from(name.as_bytes()))]);
        assert!(edns.dnssec_ok);
        let edns = reply(&ask(&mut server, &query("a A +edns"), Transport::Udp, at(0))).edns.unwrap();
        assert_eq!(edns.options, [(10, Box::from(*b"cookie!!"))]);
    }
}

#[test]
fn whoami_tells_the_client() {
    let mut server = server(". {\n whoami\n}");
    check(
        &mut server,
        "? Example.org MX
         NOERROR aa,rd
         + Example.org. 0 IN A 10.244.0.9
         + _udp.Example.org. 0 IN SRV 0 0 4242 .
         ? . A
         NOERROR aa,rd
         + . 0 IN A 10.244.0.9
         + _udp. 0 IN SRV 0 0 4242 .",
    );
    let bytes = encode(&query("a A"), 512);
    let client = "[2001:db8::1]:99".parse().unwrap();
    let event = Event::Query { server: 53.into(), transport: Transport::Tcp, client, bytes: &bytes };
    let additional = reply(&server.step(event, at(0))).additional;
    let lines: Vec<String> = additional.iter().map(Record::to_string).collect();
    assert_eq!(lines, ["a. 0 IN AAAA 2001:db8::1", "_tcp.a. 0 IN SRV 0 0 99 ."]);
}

#[test]
fn local_names_stay_local() {
    let soa = |zone: &str| format!("N {zone} 604800 IN SOA localhost. root.localhost. 1 0 0 0 604800");
    let mut server = server(". {\n local\n whoami\n}");
    check(
        &mut server,
        &format!(
            "? Localhost A
             NOERROR rd
             Localhost. 604800 IN A 127.0.0.1
             ? localhost AAAA
             NOERROR rd
             localhost. 604800 IN AAAA ::1
             ? localhost MX
             NOERROR rd
             {}
             ? localhost NS
             NOERROR rd
             localhost. 604800 IN NS localhost.
             ? localhost SOA
             NOERROR rd
             {}
             ? a.Localhost A
             NOERROR rd
             a.Localhost. 604800 IN A 127.0.0.1
             ? localhost.example.org AAAA
             NOERROR rd
             localhost.example.org. 604800 IN AAAA ::1
             ? localhost.example.org TXT
             NOERROR rd
             {}
             ? 1.0.0.127.in-addr.arpa PTR
             NOERROR rd
             1.0.0.127.in-addr.arpa. 604800 IN PTR localhost.
             ? 1.0.0.127.in-addr.arpa A
             NOERROR rd
             {}
             ? 2.0.0.127.IN-addr.arpa PTR
             NXDOMAIN rd
             {}
             ? 0.in-addr.arpa A
             NOERROR rd
             {}
             ? 255.in-addr.arpa NS
             NOERROR rd
             255.in-addr.arpa. 604800 IN NS localhost.
             ? 255.255.255.255.in-addr.arpa PTR
             NXDOMAIN rd
             {}",
            soa("localhost."),
            soa("localhost.").trim_start_matches("N "),
            soa("localhost.example.org."),
            soa("127.in-addr.arpa."),
            soa("127.IN-addr.arpa."),
            soa("0.in-addr.arpa."),
            soa("255.in-addr.arpa."),
        ),
    );
    assert!(dig(&mut server, "xlocalhost A").contains("_udp"));
    let mut off = self::server(". {\n local {\n localhost_prefix off\n }\n whoami\n debug\n}");
    assert!(dig(&mut off, "localhost.example.org A").contains("_udp"));
    // `debug` shows what it does.
    let effects = ask(&mut off, &query("a.localhost A"), Transport::Udp, at(0));
    let line = "[DEBUG] plugin/local: Intercepting localhost query for \"a.localhost.\" A, from 10.244.0.9";
    assert!(effects.iter().any(|e| matches!(e, Effect::Log(log) if log == line)), "{effects:?}");
    ask(&mut off, &query("localhost A"), Transport::Udp, at(0));
    let mut text = String::new();
    off.render_metrics(&mut text);
    assert!(text.contains("\ncoredns_local_localhost_requests_total 1\n"), "{text}");
}

/// What becomes of some queries, a letter each: answered, truncated, dropped, late.
fn fates(options: &str) -> String {
    let mut server = server(&format!(". {{\n erratic {{\n{options}\n }}\n}}"));
    let mut fate = || match ask(&mut server, &query("a A"), Transport::Udp, at(0)).as_slice() {
        [] => 'd',
        [Effect::Wait { .. }] => 'l',
        [Effect::Reply(bytes)] if decode(bytes).unwrap().flags.truncated => 't',
        [Effect::Reply(_)] => 'a',
        other => panic!("{other:?}"),
    };
    (0..6).map(|_| fate()).collect()
}

#[test]
fn erratic_answers() {
    for (options, expected) in [
        ("", "dadada"),
        ("drop 3", "daadaa"),
        ("drop 0", "aaaaaa"),
        ("drop", "dadada"),
        ("truncate", "tatata"),
        ("truncate 3", "taataa"),
        ("delay", "lalala"),
        ("delay 3 50ms", "laalaa"),
        ("truncate 2\ndelay 3\ndrop 5", "datltd"),
        ("delay 0", "aaaaaa"),
    ] {
        let expected = if options == "delay 0" { "dadada" } else { expected };
        assert_eq!(fates(options), expected, "{options}");
    }
    let mut server = server(". {\n erratic {\n delay 1 70ms\n drop 0\n }\n}");
    let mut effects = ask(&mut server, &query("Late AAAA"), Transport::Udp, at(0));
    let Some(Effect::Wait { time, pending }) = effects.pop() else { panic!("{effects:?}") };
    assert_eq!(time, Duration::from_millis(70));
    let late = reply(&server.step(Event::Waited(pending), at(70)));
    assert_eq!(show(&late), "NOERROR aa,rd\nLate. 0 IN AAAA 2001:db8::53");
    let mut server = self::server(". {\n erratic {\n drop 0\n large\n }\n}");
    let large = reply(&ask(&mut server, &query("a A"), Transport::Tcp, at(0)));
    assert_eq!(
        large.answers,
        vec![Record::new("a".parse().unwrap(), 0, Data::A([192, 0, 2, 53].into())); 30]
    );
    assert_eq!(dig(&mut server, "a MX"), "SERVFAIL rd");
}

#[test]
fn erratic_transfers_and_readiness() {
    let mut server = server(". {\n erratic {\n drop 0\n }\n ready\n}");
    let whole = reply(&ask(&mut server, &query("xx AXFR"), Transport::Tcp, at(0))).answers;
    assert_eq!((whole.len(), &whole[0]), (6, &whole[5]));
    assert_eq!(whole[1].to_string(), "xx. 0 IN NS b.xx.");
    assert!(!server.ready());
    for _ in 0..2 {
        ask(&mut server, &query("a A"), Transport::Udp, at(0));
    }
    assert!(server.ready());
    let mut server = self::server(". {\n erratic {\n truncate 1\n }\n}");
    assert_eq!(reply(&ask(&mut server, &query("xx AXFR"), Transport::Tcp, at(0))).answers.len(), 5);
}

#[test]
fn lines_about_the_server() {
    let read = Some(Duration::from_secs(5));
    for (lines, expected) in [
        ("debug", Settings { debug: true, ..Settings::default() }),
        ("root /etc/dns", Settings { root: Some("/etc/dns".into()), ..Settings::default() }),
        ("multisocket", Settings { sockets: Some(Sockets::PerProcessor), ..Settings::default() }),
        ("multisocket 10", Settings { sockets: Some(Sockets::Number(10)), ..Settings::default() }),
        (
            "timeouts {\n read 5\n write 10s\n idle 1h\n maxtcpqueries -1\n}",
            Settings {
                timeouts: Some(Timeouts {
                    read,
                    write: Some(Duration::from_secs(10)),
                    idle: Some(Duration::from_secs(3600)),
                    tcp_queries: Some(u32::MAX),
                }),
                ..Settings::default()
            },
        ),
        (
            "timeouts {\n read 5s\n maxtcpqueries 100\n}",
            Settings {
                timeouts: Some(Timeouts { read, tcp_queries: Some(100), ..Timeouts::default() }),
                ..Settings::default()
            },
        ),
        ("bind 127.0.0.1\nbind ::1", settings("bind lo")),
        ("bind lo {\n except 127.0.0.1\n}", settings("bind ::1")),
        // What is excepted is so from its own line.
        ("bind 127.0.0.1\nbind lo {\n except lo 10.0.0.1\n}", settings("bind 127.0.0.1")),
        ("ready :1 {\n monitor continuously\n}", settings("ready :1 {\n monitor continuously\n}")),
        ("ready :1 {\n monitor until-ready\n}", settings("ready :1")),
    ] {
        if lines.contains("lo {\n except lo") {
            let text = format!(". {{\n{lines}\n}}");
            let mut sources = Sources::default();
            sources.interfaces.insert("lo".into(), vec!["127.0.0.1".parse().unwrap()]);
            let error = Config::parse("Corefile", &text, &sources, 53).unwrap_err().to_string();
            assert_eq!(error, "Corefile:3:1: 'bind' leaves no address to listen on");
            continue;
        }
        assert_eq!(settings(lines), expected, "{lines}");
    }
    assert!(settings("ready :1 {\n monitor continuously\n}").ready_continuously);
    assert_eq!(settings("bind lo").bind.len(), 2);
    // Relative paths of plugins start from `root`, wherever it stands.
    let config =
        Config::parse("Corefile", ". {\n hosts my\n root /etc/dns\n}", &Sources::default(), 53).unwrap();
    assert_eq!(config.files()[0].path, "/etc/dns/my");
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("any x", "2:5: 'any' takes no 'x'"),
        ("bufsize 511", "2:9: 'bufsize' lies between 512 and 4096"),
        ("bufsize 4097", "2:9: 'bufsize' lies between 512 and 4096"),
        ("bufsize x", "2:9: 'x' is no number of octets"),
        ("bufsize 512 512", "2:13: 'bufsize' takes no '512'"),
        ("cancel 5", "2:8: '5' is no duration (5s, 1m30s, 500ms)"),
        ("cancel 0s", "2:8: 'cancel' needs a time longer than 0"),
        ("cancel 1s 2s", "2:11: 'cancel' takes no '2s'"),
        ("whoami x", "2:8: 'whoami' takes no 'x'"),
        ("debug x", "2:7: 'debug' takes no 'x'"),
        ("root", "2:1: 'root' needs a path"),
        ("root a b", "2:8: 'root' takes one path"),
        ("multisocket 0", "2:13: 'multisocket' opens 1 to 1024 sockets"),
        ("multisocket 1025", "2:13: 'multisocket' opens 1 to 1024 sockets"),
        ("multisocket x", "2:13: 'x' is no number of sockets"),
        ("multisocket 1 2", "2:15: 'multisocket' takes no '2'"),
        ("timeouts", "2:1: 'timeouts' names none (read, write, idle, maxtcpqueries)"),
        ("timeouts {\nread 0s\n}", "3:6: a timeout lies between 1s and 24h"),
        ("timeouts {\nidle 25h\n}", "3:6: a timeout lies between 1s and 24h"),
        ("timeouts {\nmaxtcpqueries 0\n}", "3:15: 'maxtcpqueries' is -1 (no bound), or 1 and more"),
        ("local x", "2:7: 'local' takes no 'x'"),
        ("local {\nlocalhost_prefix maybe\n}", "3:18: 'maybe' is neither on nor off"),
        ("erratic {\ndrop x\n}", "3:6: 'x' is no number of queries"),
        ("erratic {\ndrop -1\n}", "3:6: '-1' is no number of queries"),
        ("erratic {\ndelay 2 3\n}", "3:9: '3' is no duration (5s, 1m30s, 500ms)"),
        ("erratic {\ntruncate 2 3\n}", "3:12: 'truncate' takes no '3'"),
        ("bind", "2:1: 'bind' needs an address or an interface"),
        ("bind eth9", "2:6: 'eth9' is no address, and no interface of this machine"),
        ("bind ::1 {\nexcept\n}", "3:1: 'except' needs an address or an interface"),
        ("ready {\nmonitor always\n}", "3:9: 'always' is no way to monitor (until-ready, continuously)"),
        (
            "prometheus {\nruntime_metrics\n}",
            "3:1: 'runtime_metrics' shows what Go does; Sealane is not written in Go",
        ),
        ("reload 30s 5ms", "2:12: a jitter of 'reload' is 0, or 1s and more"),
    ] {
        let text = format!(". {{\n{line}\n}}");
        let error = Config::parse("Corefile", &text, &Sources::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
}
