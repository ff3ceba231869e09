//! Sealane and CoreDNS beside each other: they ask each other over gRPC, and who looks on by dnstap or collects spans
//! sees the same of both.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "much of it is for tables alone")]
mod dns;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use sealane_tests::{Machine, Start, eventually};
use serde_json::Value;

use dns::codec::{Query, decode, type_number};
use dns::server::{Program, SERVER, Server, ask_tcp, ask_udp};

fn query(name: &str, kind: &str) -> Query {
    Query { name: name.to_owned(), rtype: type_number(kind).unwrap(), class: 1, flags: 0x0100, edns: None }
}

fn start(machine: &Machine, folder: &Path, program: Program, file: &str, corefile: &str) -> Server {
    let path = folder.join(file);
    std::fs::write(&path, corefile).unwrap();
    Server::start(program.command(machine, &path), folder.join(format!("{file}.log")))
}

/// Asks until there is an answer with records.
#[track_caller]
fn answered(servers: &mut [&mut Server], query: &Query) {
    eventually("an answer", || match ask_udp(SERVER, query) {
        Ok(reply) if reply.rcode == "NOERROR" && reply.sections[0].len() == 1 => Ok(()),
        other => Err(format!("{other:?}\n{}", servers.iter_mut().map(|s| s.log()).collect::<String>())),
    });
}

#[test]
fn each_asks_the_other_over_grpc() {
    for (asks, answers) in [(Program::Sealane, Program::CoreDns), (Program::CoreDns, Program::Sealane)] {
        let (machine, folder) = (Start::new().machine, tempfile::tempdir().unwrap());
        // An answer that is larger than a frame of HTTP/2, too.
        let hosts: Vec<String> =
            (0..2000).map(|n| format!("10.1.{}.{} big.example.org", n / 250, n % 250)).collect();
        let upstream = format!(
            "grpc://.:5301 {{\n hosts {{\n 192.0.2.1 www.example.org\n {}\n }}\n}}\n",
            hosts.join("\n ")
        );
        let asking = ".:5300 {\n grpc . 127.0.0.1:5301\n}\n";
        let mut one = start(&machine, folder.path(), answers, "answers", &upstream);
        let mut other = start(&machine, folder.path(), asks, "asks", asking);
        machine.within(|| {
            answered(&mut [&mut one, &mut other], &query("www.example.org.", "A"));
            let big =
                ask_tcp(SERVER, &[&query("big.example.org.", "A"), &query("www.example.org.", "A")]).unwrap();
            assert_eq!((big[0].sections[0].len(), big[1].sections[0].len()), (2000, 1), "{}", asks.name());
        });
    }
}

/// Frames of dnstap up to the writer's goodbye, by Frame Streams (its own reading, not the server's).
fn frames(mut stream: impl Read + Write) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut next = || {
            let mut len = [0; 4];
            stream.read_exact(&mut len).unwrap();
            u32::from_be_bytes(len)
        };
        let (len, control) = match next() {
            0 => (next(), true),
            len => (len, false),
        };
        let mut frame = vec![0; len as usize];
        stream.read_exact(&mut frame).unwrap();
        let say = |kind: u8, rest: &[u8]| {
            let len = u32::try_from(4 + rest.len()).unwrap().to_be_bytes();
            [&[0; 4][..], &len, &[0, 0, 0, kind], rest].concat()
        };
        match (control, frame.get(3)) {
            (false, _) => all.push(frame),
            // READY is answered by ACCEPT with its own content type, STOP by FINISH.
            (true, Some(4)) => stream.write_all(&say(1, &frame[4..])).unwrap(),
            (true, Some(3)) => {
                // Who writes may be gone already.
                let _ = stream.write_all(&say(5, &[]));
                return all;
            }
            (true, _) => {}
        }
    }
}

/// A message of protobuf in words: fields and values, those within in braces; without what differs from run to run.
fn words(message: &[u8], within: bool) -> String {
    let (mut at, mut out) = (0, Vec::new());
    let number = |at: &mut usize| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let octet = message[*at];
            *at += 1;
            value |= u64::from(octet & 0x7f) << shift;
            shift += 7;
            if octet < 0x80 {
                return value;
            }
        }
    };
    while at < message.len() {
        let tag = number(&mut at);
        let (field, kind) = (tag >> 3, tag & 7);
        let text = match kind {
            0 => number(&mut at).to_string(),
            5 => {
                at += 4;
                "…".to_owned()
            }
            _ => {
                let len = usize::try_from(number(&mut at)).unwrap();
                let bytes = &message[at..at + len];
                at += len;
                match (within, field) {
                    (false, 14) => format!("{{{}}}", words(bytes, true)),
                    // Queries and answers, with the id that the client gave.
                    (true, 10 | 14) => {
                        let reply = decode(bytes).unwrap();
                        format!("{:04x} {} {:?}", reply.id, reply.rcode, reply.sections)
                    }
                    (true, _) => format!("{bytes:?}"),
                    (false, _) => String::from_utf8_lossy(bytes).into_owned(),
                }
            }
        };
        // Ports that the kernel picks, and times.
        let varies = within && matches!(field, 6 | 8 | 9 | 12 | 13);
        out.push(format!("{field}: {}", if varies { "…" } else { &text }));
    }
    out.join(", ")
}

#[test]
fn who_looks_on_sees_the_same_of_both() {
    let mut seen = Vec::new();
    for program in Program::ALL {
        let (machine, folder) = (Start::new().machine, tempfile::tempdir().unwrap());
        let socket = folder.path().join("tap.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let reading = std::thread::spawn(move || frames(listener.accept().unwrap().0));
        let corefile = format!(
            ".:5300 {{\n metadata\n dnstap unix://{} full {{\n identity me\n version 1\n \
             extra \"{{/forward/upstream}} {{name}} {{rcode}}\"\n }}\n hosts {{\n 192.0.2.1 www.example.org\n \
             fallthrough\n }}\n forward . 127.0.0.1:5301\n}}\n\
             .:5301 {{\n template IN A example.net {{\n answer \"{{{{.Name}}}} 60 IN A 192.0.2.2\"\n }}\n}}\n",
            socket.display()
        );
        let mut server = start(&machine, folder.path(), program, "Corefile", &corefile);
        machine.within(|| {
            // Nobody counts how often this one was asked.
            answered(&mut [&mut server], &query("ready.example.net.", "A"));
            for (name, kind) in [
                ("www.example.org.", "A"),
                ("www.example.org.", "AAAA"),
                ("www.example.net.", "A"),
                ("x.example.com.", "A"),
            ] {
                ask_udp(SERVER, &query(name, kind)).unwrap();
            }
            ask_tcp(SERVER, &[&query("tcp.example.net.", "A")]).unwrap();
        });
        server.end();
        let all = reading.join().unwrap();
        // An answer may be shown after the next question.
        let mut all: Vec<String> = all.iter().map(|frame| words(frame, false)).collect();
        all.retain(|frame| !frame.contains("ready.example.net."));
        all.sort();
        seen.push(all.join("\n"));
    }
    assert!(seen[0].lines().count() >= 12, "{}", seen[0]);
    assert_eq!(seen[0], seen[1]);
}

/// Takes posts, and hands on the spans of each.
fn collector(machine: &Machine) -> mpsc::Receiver<Vec<Value>> {
    let listener = machine.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 9411)).unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut text, mut buffer) = (stream.unwrap(), Vec::new(), [0; 4096]);
            let body = loop {
                let read = stream.read(&mut buffer).unwrap();
                text.extend(&buffer[..read]);
                let whole = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
                let head = head.to_lowercase();
                let len = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                if body.len() >= len.parse().unwrap() {
                    break body.to_owned();
                }
            };
            let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).unwrap();
            // Nobody wants more where the test is over.
            if sender.send(serde_json::from_str(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn spans_are_the_same_of_both() {
    let mut seen = Vec::new();
    for program in Program::ALL {
        let (machine, folder) = (Start::new().machine, tempfile::tempdir().unwrap());
        let posted = collector(&machine);
        let corefile = ".:5300 {\n bind 127.0.0.1\n trace 127.0.0.1:9411 {\n service dns\n \
                        zipkin_max_batch_interval 10ms\n }\n errors\n hosts {\n 192.0.2.1 www.example.org\n \
                        fallthrough\n }\n forward . 127.0.0.1:5301\n}\n\
                        .:5301 {\n template IN A example.net {\n answer \"{{.Name}} 60 IN A 192.0.2.2\"\n }\n}\n";
        let mut server = start(&machine, folder.path(), program, "Corefile", corefile);
        machine.within(|| {
            answered(&mut [&mut server], &query("www.example.org.", "A"));
            ask_udp(SERVER, &query("www.example.net.", "A")).unwrap();
            ask_udp(SERVER, &query("a.example.com.", "MX")).unwrap();
            ask_tcp(SERVER, &[&query("tcp.example.net.", "A")]).unwrap();
        });
        // CoreDNS tells of the whole last, Sealane at once of all.
        let mut spans: Vec<Value> = Vec::new();
        let names = ["www.example.org.", "www.example.net.", "a.example.com.", "tcp.example.net."];
        while !names.iter().all(|name| spans.iter().any(|span| span["tags"]["coredns.io/name"] == *name)) {
            spans.extend(posted.recv_timeout(Duration::from_secs(30)).expect("spans of all queries"));
        }
        server.end();
        let parent = |span: &Value| {
            let of = spans
                .iter()
                .find(|other| other["id"] == span["parentId"] && other["traceId"] == span["traceId"]);
            of.map_or(Value::Null, |of| of["name"].clone())
        };
        let line = |span: &Value| {
            let root = |span: &&Value| span["parentId"].is_null();
            let of = |other: &&Value| other["traceId"] == span["traceId"];
            let name = spans.iter().filter(of).find(root).map(|root| root["tags"]["coredns.io/name"].clone());
            let mut tags = span["tags"].clone();
            if span["tags"]["error"].is_string() {
                tags["error"] = "…".into();
            }
            let (local, kind) = (&span["localEndpoint"], &span["kind"]);
            format!("{name:?}: {} < {} {kind} {local} {tags}", span["name"], parent(span))
        };
        let mut lines: Vec<String> = spans.iter().map(line).collect();
        lines.sort();
        // The first one was asked until it was answered.
        lines.dedup();
        seen.push(lines.join("\n"));
    }
    assert!(seen[0].lines().count() >= 14, "{}", seen[0]);
    assert_eq!(seen[0], seen[1]);
}

/// CoreDNS reads protobuf, as kube-proxy and whatever else client-go is in do, and Sealane JSON.
#[test]
fn each_follows_the_api() {
    for program in [Program::CoreDns, Program::Sealane] {
        let (up, folder) = (Start::new().arg("--no-node").up(), tempfile::tempdir().unwrap());
        let corefile = format!(
            ".:5300 {{\n errors\n kubernetes cluster.local {{\n kubeconfig {}\n }}\n}}\n",
            up.kubeconfig().display()
        );
        let mut server = start(&up.machine, folder.path(), program, "Corefile", &corefile);
        up.machine.within(|| {
            answered(&mut [&mut server], &query("kubernetes.default.svc.cluster.local.", "A"));
            up.ok(&["create", "service", "clusterip", "one", "--tcp=80"]);
            answered(&mut [&mut server], &query("one.default.svc.cluster.local.", "A"));
        });
        let log = server.log();
        assert!(!log.contains("watch ended"), "{}: {log}", program.name());
        up.stop();
    }
}
