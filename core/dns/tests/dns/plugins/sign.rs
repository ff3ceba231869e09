//! `sign`: signed zone files.

use sealane_dns::chain::FileWrite;
use sealane_dns::{Effect, Event, Now, Server};

use crate::cluster::{at, dig};
use crate::plugins::zones::{KEY, SECRET, started};

const ZONE: &str = "@ 60 SOA ns noc 1 2 3 4 30\n@ 60 NS ns\nns 60 A 192.0.2.1\n";
const HOUR: u64 = 3600;

/// What is logged and written.
fn tick(server: &mut Server, unix: u64) -> (Vec<String>, Vec<FileWrite>) {
    let (mut lines, mut files) = (Vec::new(), Vec::new());
    for effect in server.step(Event::Tick, Now { unix, ..at(0) }) {
        match effect {
            Effect::Log(line) => lines.push(line),
            Effect::Write(file) => files.push(file),
            other => panic!("{other:?}"),
        }
    }
    lines.retain(|line| line.contains("plugin/sign"));
    (lines, files)
}

fn server(corefile: &str, files: &[(&str, &str)]) -> Server {
    let mut all = vec![("/z/K.key", KEY), ("/z/K.private", SECRET), ("/z/db", ZONE)];
    all.extend(files);
    started(corefile, &all).unwrap()
}

#[test]
fn a_file_is_signed_served_and_signed_again() {
    const COREFILE: &str = "example.net {\n root /z\n file out/db.example.net.signed {\n reload_by_mtime\n }\n sign db {\n key file K.private\n directory out/\n }\n}";
    let path = "/z/out/db.example.net.signed";
    let mut server = server(COREFILE, &[]);
    let now = at(0).unix;
    let (lines, files) = tick(&mut server, now);
    assert_eq!(
        lines,
        [format!(
            "[INFO] plugin/sign: Signing \"example.net.\" because open {path}: no such file or directory"
        )]
    );
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(file.path, path);
    assert_eq!(
        file.written,
        format!(
            "[INFO] plugin/sign: Successfully signed zone \"example.net.\" in \"{path}\" with key tags \"55648\" and {now} SOA serial"
        )
    );
    assert!(file.failed.starts_with("[WARNING] plugin/sign: Error signing \"example.net.\": failed to move"));
    assert_eq!(dig(&mut server, "ns.example.net A"), "SERVFAIL rd");
    server.step(Event::File { path, content: Some(&file.content) }, at(0));
    let answer = dig(&mut server, "ns.example.net A +do");
    assert!(answer.starts_with("NOERROR aa,rd") && answer.contains(" RRSIG A 13 "), "{answer}");
    assert!(dig(&mut server, "no.example.net A +do").contains(" NSEC "));
    // Every five hours it is looked at; after six days and what they began early it is time.
    assert_eq!(tick(&mut server, now + 5 * HOUR - 1).0.len(), 0);
    let (lines, files) = tick(&mut server, now + 5 * HOUR);
    assert!(lines[0].ends_with("signatures are valid") && files.is_empty(), "{lines:?}");
    let (lines, files) = tick(&mut server, now + 6 * 24 * HOUR);
    assert!(lines[0].contains("because its signature began") && files.len() == 1, "{lines:?}");
    // A file that is gone is signed anew.
    server.step(Event::File { path, content: None }, at(0));
    assert_eq!(tick(&mut server, now + 7 * 24 * HOUR).1.len(), 1);
    // What is there and lasts is left alone.
    let mut second = self::server(COREFILE, &[(path, &file.content)]);
    assert!(tick(&mut second, now).1.is_empty());
}

#[test]
fn several_zones_and_keys_of_a_folder() {
    let corefile = ". {\n whoami\n sign /z/db example.net example.org {\n key directory /keys\n }\n}";
    let keys = [
        ("/keys/Kexample.net.+013+55648.key", KEY),
        ("/keys/Kexample.net.+013+55648.private", SECRET),
        ("/keys/other", ""),
    ];
    let mut server = server(corefile, &keys);
    let (lines, files) = tick(&mut server, at(0).unix);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].path, "/var/lib/coredns/db.example.net.signed");
    assert!(
        lines
            .contains(&"[WARNING] plugin/sign: Error signing \"example.org.\": there are no keys".to_owned()),
        "{lines:?}"
    );
    assert!(dig(&mut server, "x.test A").contains("_udp"), "it answers nothing");
}

#[test]
fn a_large_zone_is_signed_bit_by_bit() {
    let many: String = (0..450).map(|n| format!("h{n} 60 A 192.0.2.1\n")).collect();
    let zone = format!("{ZONE}{many}");
    let corefile = "example.net {\n sign /z/large {\n key file /z/K\n directory /out\n }\n}";
    let mut server = server(corefile, &[("/z/large", &zone)]);
    let mut steps = 0;
    let file = loop {
        steps += 1;
        if let Some(file) = tick(&mut server, at(0).unix).1.pop() {
            break file;
        }
    };
    assert!(steps > 1 && file.content.lines().filter(|line| line.contains(" IN NSEC ")).count() == 452);
}

#[test]
fn refused_lines() {
    for (lines, error) in [
        ("sign", "Corefile:2:1: 'sign' needs the path of a master file"),
        ("sign db", "Corefile:2:1: 'sign' needs a line 'key file KEY...'"),
        ("sign db {\n key\n}", "Corefile:3:2: 'key' needs 'file' or 'directory', and names"),
        ("sign db {\n key file\n}", "Corefile:3:2: 'key' needs 'file' or 'directory', and names"),
        ("sign db {\n key vault K\n}", "Corefile:3:6: there are no keys of 'vault' (file, directory)"),
        (
            "sign db {\n key file K\n directory a b\n}",
            "Corefile:4:14: 'directory' takes one path of a folder",
        ),
        ("sign db {\n key file none\n}", "Corefile:2:1: plugin/sign: none.key cannot be read"),
        (
            "sign bad {\n key file K\n}",
            "Corefile:2:1: plugin/sign: zone \"example.net.\" in \"bad\": bad:1: ",
        ),
        ("sign db {\n jitter 1\n}", "Corefile:3:2: option 'jitter' of 'sign' is unknown"),
    ] {
        let files = [("K.key", KEY), ("K.private", SECRET), ("db", ZONE), ("bad", "@ A\n")];
        let got = started(&format!("example.net {{\n{lines}\n}}"), &files);
        let got = got.map_or_else(|error| error, |_| "no error".to_owned());
        assert!(got.starts_with(error), "{lines}: {got}");
    }
}
