//! Zones of files, and their transfers: `file`, `auto`, `transfer`.

use sealane_dns::{Config, Effect, Event, Server};

use crate::cluster::{at, check, dig};

/// A server with files, handed over as the binary does it.
fn started(corefile: &str, files: &[(&str, &str)]) -> Result<Server, String> {
    let config = Config::parse("Corefile", corefile, &Default::default(), 53);
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

fn server(corefile: &str, files: &[(&str, &str)]) -> Server {
    started(corefile, files).unwrap()
}

fn logs(effects: Vec<Effect>) -> Vec<String> {
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
    ] {
        let got = started(&format!("example.org {{\n{lines}\n}}"), &[("db", ORG), ("bad", "@ A\n")]);
        let got = got.map_or_else(|error| error, |_| "no error".to_owned());
        assert!(got.starts_with(error), "{lines}: {got}");
    }
}
