//! Zones of files, and their transfers: `file`, `auto`, `transfer`.

use sealane_dns::chain::Randomness;
use sealane_dns::corefile::Sources;
use sealane_dns::message::{Data, rcode, rtype};
use sealane_dns::{Config, Effect, Event, Server, Transport, decode, encode};

use crate::cluster::{ask, at, check, dig, query};

/// A server with files, handed over as the binary does it.
pub fn started(corefile: &str, files: &[(&str, &str)]) -> Result<Server, String> {
    let random = Randomness::new(std::sync::Arc::new(ring::rand::SystemRandom::new()));
    let sources = Sources { random, ..Sources::default() };
    let config = Config::parse("Corefile", corefile, &sources, 53);
    let mut config = config.map_err(|why| why.to_string())?;
    let mut handed: Vec<String> = Vec::new();
    loop {
        let mut paths = Vec::new();
        for want in config.files() {
            if want.folder {
                let below = files.iter().filter(|(path, _)| path.starts_with(&format!("{}/", want.path)));
                paths.extend(below.map(|(path, _)| (*path).to_owned()));
            } else {
                paths.push(want.path);
            }
        }
        let Some(path) = paths.into_iter().find(|path| !handed.contains(path)) else { break };
        let content = files.iter().find(|(known, _)| *known == path).map(|(_, content)| *content);
        config.load(&path, content).map_err(|why| why.to_string())?;
        handed.push(path);
    }
    Ok(Server::new(config, vec![], at(0)))
}

pub fn server(corefile: &str, files: &[(&str, &str)]) -> Server {
    started(corefile, files).unwrap()
}

pub fn logs(effects: Vec<Effect>) -> Vec<String> {
    let log = |effect| match effect {
        Effect::Log(line) => Some(line),
        _ => None,
    };
    effects.into_iter().filter_map(log).collect()
}

/// A file's new content, and what is logged of it.
fn write(server: &mut Server, path: &str, content: Option<&str>) -> Vec<String> {
    let mut lines = logs(server.step(Event::File { path, content }, at(0)));
    lines.extend(logs(server.step(Event::Tick, at(1))));
    lines
}

const ORG: &str = "$TTL 3600\n@ SOA sns noc 7 2h 1h 2w 300\n@ NS sns\nsns A 192.0.2.1\n\
    *.wild TXT w\nalias CNAME www.example.net.\nlost CNAME www.nowhere.test.\ngone CNAME no.example.net.\n\
    a.deep TXT d\nsub NS ns.sub\nns.sub A 192.0.2.3\n";
const NET: &str = "@ 60 SOA ns noc 1 2h 1h 2w 60\n@ 60 NS ns.example.org.\nwww 60 A 192.0.2.2\n";

#[test]
fn files_answer() {
    let corefile = ". {\n  file db.org example.org {\n    fallthrough deep.example.org fall.example.org\n  }\n  \
                    file db.net example.net low.example.org\n  whoami\n}";
    let mut server = server(corefile, &[("db.org", ORG), ("db.net", NET)]);
    check(
        &mut server,
        "? sns.example.org A
         NOERROR aa,rd
         sns.example.org. 3600 IN A 192.0.2.1
         N example.org. 3600 IN NS sns.example.org.
         ? no.example.org A
         NXDOMAIN aa,rd
         N example.org. 3600 IN SOA sns.example.org. noc.example.org. 7 7200 3600 1209600 300
         ? x.wild.example.org TXT
         NOERROR aa,rd
         x.wild.example.org. 3600 IN TXT \"w\"
         N example.org. 3600 IN NS sns.example.org.
         ? alias.example.org A
         NOERROR aa,rd
         alias.example.org. 3600 IN CNAME www.example.net.
         www.example.net. 60 IN A 192.0.2.2
         N example.org. 3600 IN NS sns.example.org.
         ? gone.example.org A
         NXDOMAIN aa,rd
         gone.example.org. 3600 IN CNAME no.example.net.
         N example.org. 3600 IN SOA sns.example.org. noc.example.org. 7 7200 3600 1209600 300
         ? x.sub.example.org A
         NOERROR rd
         N sub.example.org. 3600 IN NS ns.sub.example.org.
         + ns.sub.example.org. 3600 IN A 192.0.2.3
         ? www.low.example.org A
         NOERROR aa,rd
         www.low.example.org. 60 IN A 192.0.2.2
         N low.example.org. 60 IN NS ns.example.org.
         ? example.org AXFR
         REFUSED rd
         ? example.org IXFR
         REFUSED rd
         ",
    );
    // What falls through is the next plugin's.
    for name in ["no.fall.example.org", "deep.example.org", "elsewhere.test"] {
        assert!(dig(&mut server, &format!("{name} A")).contains("_udp"), "{name}");
    }
    assert!(!dig(&mut server, "no.example.org A").contains("_udp"));
}

#[test]
fn without_another_plugin_other_names_are_refused() {
    let mut server = server(".:53 {\n  file db example.org\n}", &[("db", ORG)]);
    assert_eq!(dig(&mut server, "elsewhere.test A"), "REFUSED rd");
    // An alias out of what this server has stays alone.
    assert!(dig(&mut server, "lost.example.org A").starts_with(
        "NOERROR aa,rd\nlost.example.org. 3600 IN CNAME www.nowhere.test.\nN example.org. 3600 IN NS"
    ));
}

#[test]
fn files_are_read_again() {
    let serial = |server: &mut Server| {
        let shown = dig(server, "example.org SOA");
        shown.split_whitespace().nth(8).map_or(shown.clone(), str::to_owned)
    };
    let text = |serial: &str, more: &str| format!("@ 9 SOA ns noc {serial} 1 1 1 1\n{more}");
    let corefile = "example.org {\n  file db\n}";
    let mut server = self::server(corefile, &[("db", &text("5", ""))]);
    // The same serial: nobody looks further.
    assert!(write(&mut server, "db", Some(&text("5", "a 9 A 192.0.2.1\n"))).is_empty());
    assert!(dig(&mut server, "a.example.org A").starts_with("NXDOMAIN"));
    let line = "[INFO] plugin/file: Successfully reloaded zone \"example.org.\" in \"db\" with 6 SOA serial";
    assert_eq!(write(&mut server, "db", Some(&text("6", ""))), [line]);
    assert_eq!(serial(&mut server), "6");
    for (content, line) in [
        (Some("@ A\n"), "[ERROR] plugin/file: zone \"example.org.\" in \"db\": db:1: "),
        (Some("@ 9 A 192.0.2.1\n"), "[ERROR] plugin/file: zone \"example.org.\" in \"db\": there is no SOA"),
        (None, "[ERROR] plugin/file: Failed to open zone \"example.org.\" in \"db\""),
    ] {
        let lines = write(&mut server, "db", content);
        assert!(lines.len() == 1 && lines[0].starts_with(line), "{lines:?}");
        assert_eq!(serial(&mut server), "6");
    }
    // By the time of its last change: any other content.
    let mut server =
        self::server("example.org {\n  file db {\n reload_by_mtime\n }\n}", &[("db", &text("5", ""))]);
    write(&mut server, "db", Some(&text("5", "a 9 A 192.0.2.1\n")));
    assert!(dig(&mut server, "a.example.org A").starts_with("NOERROR"));
    // One that comes later.
    let mut server = self::server(corefile, &[]);
    let first = logs(server.step(Event::Tick, at(0)));
    assert_eq!(first, ["[WARNING] plugin/file: Failed to open \"db\": trying again in 1m0s"]);
    assert_eq!(dig(&mut server, "example.org SOA"), "SERVFAIL rd");
    write(&mut server, "db", Some(&text("5", "")));
    assert_eq!(serial(&mut server), "5");
}

#[test]
fn files_include_files() {
    let corefile = "example.org {\n  root /zones\n  file db\n}";
    let main = "@ 9 SOA ns noc 5 1 1 1 1\n$INCLUDE more/a\n";
    let files =
        [("/zones/db", main), ("/zones/more/a", "$INCLUDE b\n"), ("/zones/more/b", "b 9 A 192.0.2.1\n")];
    let mut server = self::server(corefile, &files);
    assert!(dig(&mut server, "b.example.org A").starts_with("NOERROR"));
    let error = started(corefile, &files[..2]).unwrap_err();
    assert!(error.contains("can't include \"/zones/more/b\""), "{error}");
    // Another include is asked for when it is seen.
    let main = "@ 9 SOA ns noc 6 1 1 1 1\n$INCLUDE c\n";
    assert!(write(&mut server, "/zones/db", Some(main)).is_empty());
    assert!(server.files().iter().any(|want| want.path == "/zones/c"));
    write(&mut server, "/zones/c", Some("c 9 A 192.0.2.1\n"));
    assert!(dig(&mut server, "c.example.org A").starts_with("NOERROR"));
    assert!(dig(&mut server, "b.example.org A").starts_with("NXDOMAIN"));
}

#[test]
fn refused_lines() {
    for (lines, error) in [
        ("file", "Corefile:2:1: 'file' needs the path of a master file"),
        ("file db {\n reload\n}", "Corefile:3:2: 'reload' needs a duration"),
        ("file db {\n reload soon\n}", "Corefile:3:9: "),
        ("file db {\n reload_by_mtime 3\n}", "Corefile:3:18: 'reload_by_mtime' takes no '3'"),
        (
            "file db {\n upstream\n}",
            "Corefile:3:2: option 'upstream' of 'file' is unknown, or not Sealane's yet",
        ),
        ("file bad", "Corefile:2:1: plugin/file: zone \"example.org.\" in \"bad\": bad:1: "),
        (
            "file none {\n reload 0\n}",
            "Corefile:2:1: plugin/file: Failed to open zone \"example.org.\" in \"none\"",
        ),
        ("auto", "Corefile:2:1: 'auto' needs a line 'directory DIR'"),
        (
            "auto {\n directory /z (.*)\n}",
            "Corefile:3:15: a regular expression needs a template for the zone",
        ),
        (
            "auto {\n directory /z .* {1}\n}",
            "Corefile:3:15: the regular expression has no group that names the zone",
        ),
        ("auto {\n directory /z (.* {1}\n}", "Corefile:3:15: '(.*' is no regular expression"),
        ("auto {\n directory /z (.*) {1} x\n}", "Corefile:3:24: 'directory' takes no 'x'"),
        ("auto {\n directory\n}", "Corefile:3:2: 'directory' needs the path of a folder"),
        ("dnssec {\n key file\n}", "Corefile:3:6: 'key file' needs the name of a key"),
        ("dnssec {\n key vault K\n}", "Corefile:3:6: keys of 'vault' are not Sealane's yet (file)"),
        ("dnssec {\n cache_capacity x\n}", "Corefile:3:17: 'x' is no number of signatures"),
        ("dnssec {\n key file none\n}", "Corefile:2:1: plugin/dnssec: none.key cannot be read"),
        ("dnssec {\n key file odd\n}", "Corefile:2:1: plugin/dnssec: odd.key: there is no DNSKEY record"),
        ("dnssec example.com {\n key file K.key\n}", "Corefile:2:1: plugin/dnssec: key example.net."),
        ("transfer", "Corefile:2:1: 'transfer' needs a line 'to ADDRESS...'"),
        ("transfer {\n to\n}", "Corefile:3:2: 'to' needs an address, or '*'"),
        ("transfer {\n to somewhere\n}", "Corefile:3:5: 'somewhere' is no address"),
        ("transfer {\n to *\n source here\n}", "Corefile:4:9: 'here' is no address"),
        (
            "transfer {\n to *\n source ::1\n source ::1\n}",
            "Corefile:5:2: 'source' stands twice in this 'transfer'",
        ),
        ("transfer {\n to *\n from ::1\n}", "Corefile:4:2: option 'from' of 'transfer' is unknown, or not"),
    ] {
        let got = started(
            &format!("example.org {{\n{lines}\n}}"),
            &[
                ("db", ORG),
                ("bad", "@ A\n"),
                ("odd.key", "a. 1 A 192.0.2.1\n"),
                ("odd.private", ""),
                ("K.key", KEY),
                ("K.private", SECRET),
            ],
        );
        let got = got.map_or_else(|error| error, |_| "no error".to_owned());
        assert!(got.starts_with(error), "{lines}: {got}");
    }
}

/// RFC 6605 section 6.1.
const KEY: &str = "example.net. 3600 IN DNSKEY 257 3 13 ( \
    GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA== )\n";
const SECRET: &str = "Private-key-format: v1.2\nAlgorithm: 13 (ECDSAP256SHA256)\n\
    PrivateKey: GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=\n";

#[test]
fn answers_are_signed() {
    let files = [("/k/K.key", KEY), ("/k/K.private", SECRET), ("/k/db", NET)];
    let corefile = "example.net {\n root /k\n dnssec {\n key file K.private\n }\n file db\n}";
    let mut server = server(corefile, &files);
    let mut types = |question: &str| {
        let shown = dig(&mut server, question);
        let mut lines = shown.lines();
        let mut out = vec![lines.next().unwrap().to_owned()];
        for line in lines.filter(|line| !line.starts_with("OPT")) {
            let words: Vec<&str> = line.split(' ').collect();
            let at = words.iter().position(|word| *word == "IN").unwrap() + 1;
            let section = if line.starts_with("N ") { "N " } else { "" };
            let over = if words[at] == "RRSIG" { format!(" {}", words[at + 1]) } else { String::new() };
            out.push(format!("{section}{}{over}", words[at]));
        }
        out
    };
    let authority = ["N NS", "N RRSIG NS"];
    assert_eq!(types("www.example.net A"), ["NOERROR aa,rd", "A", "N NS"]);
    assert_eq!(
        types("www.example.net A +do"),
        [["NOERROR aa,rd", "A", "RRSIG A"].as_slice(), &authority].concat()
    );
    assert_eq!(types("example.net DNSKEY"), ["NOERROR aa,rd", "DNSKEY"]);
    assert_eq!(types("Example.net DNSKEY +do"), ["NOERROR aa,rd", "DNSKEY", "RRSIG DNSKEY"]);
    // Below the apex there is none.
    assert_eq!(types("www.example.net DNSKEY"), ["NOERROR aa,rd", "N SOA"]);
    assert_eq!(types("no.example.net A"), ["NXDOMAIN aa,rd", "N SOA"]);
    // Every name exists, and has no such type.
    let denied = ["NOERROR aa,rd", "N SOA", "N RRSIG SOA", "N RRSIG NSEC", "N NSEC"];
    assert_eq!(types("no.example.net A +do"), denied);
    assert_eq!(types("no.example.net A +do"), denied);
    let mut page = String::new();
    server.render_metrics(&mut page);
    let entries = "coredns_dnssec_cache_entries{server=\"dns://:53\",type=\"signature\"} ";
    assert!(page.lines().any(|line| line.starts_with(entries)), "{page}");
    assert!(page.contains("coredns_dnssec_cache_hits_total{server=\"dns://:53\"} "), "{page}");
}

#[test]
fn auto_takes_what_is_in_the_folder() {
    let text = |serial: u32, more: &str| format!("@ 9 SOA ns noc {serial} 1 1 1 1\n{more}");
    let (one, two) = (text(1, "a 9 A 192.0.2.1\n"), text(1, "a 9 A 192.0.2.2\n$INCLUDE /else/more\n"));
    let corefile = "org {\n auto {\n directory /z\n }\n}";
    let files = [
        ("/z/db.one.org", one.as_str()),
        ("/z/deep/db.two.org", &two),
        ("/z/db.bad.org", "@ A\n"),
        ("/z/zone.txt", &one),
        ("/else/more", "b 9 A 192.0.2.3\n"),
    ];
    let mut server = server(corefile, &files);
    let first = logs(server.step(Event::Tick, at(0)));
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first.contains(&"[INFO] plugin/auto: Inserting zone `one.org.' from: /z/db.one.org".to_owned()));
    assert!(first.iter().any(|line| line.starts_with("[WARNING] plugin/auto: Parse zone `bad.org.': ")));
    for (name, answer) in [
        ("a.one.org", "NOERROR aa,rd\na.one.org. 9 IN A 192.0.2.1"),
        ("a.two.org", "NOERROR aa,rd\na.two.org. 9 IN A 192.0.2.2"),
        ("b.two.org", "NOERROR aa,rd\nb.two.org. 9 IN A 192.0.2.3"),
        ("a.bad.org", "REFUSED rd"),
        ("a.txt.org", "REFUSED rd"),
    ] {
        assert_eq!(dig(&mut server, &format!("{name} A")), answer);
    }
    // Another of the same name waits until the first is gone.
    let lines = write(&mut server, "/z/x/db.one.org", Some(&text(9, "a 9 A 192.0.2.9\n")));
    assert!(
        lines[0].starts_with("[WARNING] plugin/auto: Multiple zone files match origin \"one.org.\""),
        "{lines:?}"
    );
    assert!(dig(&mut server, "a.one.org A").ends_with("192.0.2.1"));
    assert!(write(&mut server, "/z/db.one.org", None).is_empty());
    assert!(dig(&mut server, "a.one.org A").ends_with("192.0.2.9"));
    assert_eq!(write(&mut server, "/z/x/db.one.org", None), ["[INFO] plugin/auto: Deleting zone `one.org.'"]);
    assert_eq!(dig(&mut server, "a.one.org A"), "REFUSED rd");
    // A file that breaks leaves the zone as it was.
    assert_eq!(write(&mut server, "/z/deep/db.two.org", Some("?")).len(), 1);
    assert!(dig(&mut server, "a.two.org A").ends_with("192.0.2.2"));
}

#[test]
fn auto_names_zones_by_its_template() {
    let corefile =
        "org {\n auto {\n directory /z ^www\\.db\\.(.*)\\.(.*)$ {1}.{2}\n fallthrough\n }\n whoami\n}";
    let mut server = server(corefile, &[("/z/www.db.example.org", ORG), ("/z/db.other.org", ORG)]);
    assert!(dig(&mut server, "sns.example.org A").ends_with("N example.org. 3600 IN NS sns.example.org."));
    assert!(dig(&mut server, "sns.other.org A").contains("_udp"));
    assert!(dig(&mut server, "no.example.org A").contains("_udp"));
}

/// What a client gets over TCP: response codes and counts of records, or what is logged.
fn transferred(server: &mut Server, question: &str, serial: Option<u32>) -> Vec<String> {
    let mut message = query(question);
    if let Some(serial) = serial {
        let mut soa = sealane_dns::zone::parse(
            "",
            b"@ 9 SOA . . 0 1 1 1 1",
            &message.questions[0].name,
            &mut sealane_dns::zone::no_include,
        )
        .unwrap();
        let Data::Soa(data) = &mut soa[0].data else { panic!() };
        data.serial = serial;
        message.authority = soa;
    }
    let shown = ask(server, &message, Transport::Tcp, at(0)).into_iter().map(|effect| match effect {
        Effect::Reply(bytes) => {
            let reply = decode(&bytes).unwrap();
            assert_eq!((reply.id, &reply.questions), (77, &message.questions));
            let records = &reply.answers;
            let ends = records.first().zip(records.last());
            let ends = ends.map_or(String::new(), |(a, z)| {
                format!(" {}..{}", rtype::name(a.data.rtype()), rtype::name(z.data.rtype()))
            });
            format!("{} {}{ends}", rcode::name(reply.rcode), records.len())
        }
        Effect::Log(line) => line.split_once("plugin/transfer: ").unwrap().1.to_owned(),
        other => panic!("{other:?}"),
    });
    shown.collect()
}

#[test]
fn zones_are_handed_out() {
    let many: String = (0..3000).map(|n| format!("h{n} TXT {}\n", "x".repeat(40))).collect();
    let large = format!("{ORG}{many}");
    let files = [("db", ORG), ("large", &large)];
    let corefile = "example.org example.net {\n file db example.org\n file large example.net\n transfer {\n to *\n }\n \
                    transfer example.net {\n to 10.244.0.9 192.0.2.1:5300\n }\n}";
    let mut server = server(corefile, &files);
    let whole = "Outgoing transfer of 11 records of zone \"example.org.\" to 10.244.0.9 for 7 SOA serial";
    let noop = "Outgoing noop, incremental transfer for up to date zone \"example.org.\" to 10.244.0.9 for 7 SOA serial";
    for (question, serial, expected) in [
        ("example.org AXFR", None, vec![whole, "NOERROR 11 SOA..SOA"]),
        ("example.org IXFR", Some(6), vec![whole, "NOERROR 11 SOA..SOA"]),
        ("example.org IXFR", Some(8), vec![whole, "NOERROR 11 SOA..SOA"]),
        ("example.org IXFR", Some(7), vec![noop, "NOERROR 1 SOA..SOA"]),
        ("example.org IXFR", None, vec!["SERVFAIL 0"]),
        // No zone of its own.
        ("wild.example.org AXFR", None, vec!["REFUSED 0"]),
    ] {
        assert_eq!(transferred(&mut server, question, serial), expected, "{question}");
    }
    let large = transferred(&mut server, "example.net AXFR", None);
    assert!(
        large.len() > 3 && large[1].starts_with("NOERROR ") && large.last().unwrap().ends_with("..SOA"),
        "{large:?}"
    );
    // Not over UDP.
    assert_eq!(dig(&mut server, "example.org AXFR"), "REFUSED rd");
    // Nor for others.
    let mut server = self::server("example.org {\n file db\n transfer {\n to 192.0.2.1\n }\n}", &files);
    assert_eq!(transferred(&mut server, "example.org AXFR", None), ["REFUSED 0"]);
}

#[test]
fn secondaries_are_told() {
    let corefile =
        "example.org {\n file db\n transfer {\n to * 192.0.2.1 192.0.2.2:5300\n source 192.0.2.9\n }\n}";
    let mut server = server(corefile, &[("db", ORG)]);
    let tick = |server: &mut Server| {
        let effects = server.step(Event::Tick, at(0)).into_iter().filter_map(|effect| match effect {
            Effect::Ask { upstream, message, pending, keeping, .. } => {
                assert_eq!(keeping.source, Some([192, 0, 2, 9].into()));
                Some((upstream.to_string(), decode(&message).unwrap(), pending))
            }
            _ => None,
        });
        effects.collect::<Vec<_>>()
    };
    // At the start.
    let mut asks = tick(&mut server);
    assert_eq!(asks.iter().map(|ask| ask.0.as_str()).collect::<Vec<_>>(), ["192.0.2.1:53", "192.0.2.2:5300"]);
    let (_, message, pending) = asks.remove(0);
    assert_eq!(
        (message.flags.opcode, message.questions[0].rtype, message.flags.authoritative),
        (4, rtype::SOA, true)
    );
    let accepted = encode(&message.reply(rcode::NOERROR), 512);
    assert!(server.step(Event::Answer { pending, bytes: &accepted }, at(1)).is_empty());
    // Three times at most.
    for left in [2, 1, 0] {
        let (_, message, pending) = asks.remove(0);
        let refused = encode(&message.reply(rcode::REFUSED), 512);
        let lines = logs(server.step(Event::Answer { pending, bytes: &refused }, at(1)));
        asks = tick(&mut server);
        assert_eq!((asks.len(), lines.len()), if left > 0 { (1, 0) } else { (0, 1) });
        let why = "[WARNING] plugin/transfer: notify for zone \"example.org.\" was not accepted by \"192.0.2.2:5300\": rcode was \"REFUSED\"";
        assert!(lines.iter().all(|line| line == why), "{lines:?}");
    }
    // And when it changes.
    server.step(Event::File { path: "db", content: Some(&ORG.replace(" 7 ", " 8 ")) }, at(2));
    assert_eq!(tick(&mut server).len(), 2);
}
