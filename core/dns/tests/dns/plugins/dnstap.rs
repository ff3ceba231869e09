//! `dnstap`: what is shown to whom.

use std::net::SocketAddr;

use sealane_dns::chain::tap::{Socket, Way};
use sealane_dns::message::protobuf::{Value, fields};
use sealane_dns::plugins::dnstap::Dnstap;
use sealane_dns::{Config, Effect, Event, Message, Now, Server, Transport, decode, encode};

use super::upstream::refused;
use crate::cluster::{at, query, server};
use crate::upstreams::{answer, asked};

/// A message in words: `CLIENT_QUERY INET UDP client:port>server:port query=… response=… [QNAME] [RNAME+answers]`.
fn show(frame: &[u8]) -> String {
    let all = |bytes| fields(bytes).map(Result::unwrap).collect::<Vec<_>>();
    let bytes = |field, of: &[(u32, Value<'_>)]| {
        of.iter().find_map(|(f, value)| match value {
            Value::Bytes(bytes) if *f == field => Some(bytes.to_vec()),
            _ => None,
        })
    };
    let text =
        |field, of: &[(u32, Value<'_>)]| bytes(field, of).map(|bytes| String::from_utf8(bytes).unwrap());
    let outer = all(frame);
    assert_eq!(outer.last(), Some(&(15, Value::Varint(1))));
    let inner = bytes(14, &outer).unwrap();
    let inner = all(&inner);
    assert!(inner.is_sorted_by_key(|(field, _)| *field), "{inner:?}");
    let number = |field| {
        inner.iter().find_map(|(f, value)| match value {
            Value::Varint(n) if *f == field => Some(*n),
            Value::Fixed32(n) if *f == field => Some(u64::from(*n)),
            _ => None,
        })
    };
    let kinds = ["CLIENT_QUERY", "CLIENT_RESPONSE", "FORWARDER_QUERY", "FORWARDER_RESPONSE"];
    let mut out = vec![kinds[number(1).unwrap() as usize - 5].to_owned()];
    out.push(["INET", "INET6"][number(2).unwrap() as usize - 1].to_owned());
    out.push(["UDP", "TCP"][number(3).unwrap() as usize - 1].to_owned());
    for (name, ip, port) in [("from", 4, 6), ("to", 5, 7)] {
        if let Some(ip) = bytes(ip, &inner) {
            let ip: std::net::IpAddr = match ip.len() {
                4 => <[u8; 4]>::try_from(ip).unwrap().into(),
                _ => <[u8; 16]>::try_from(ip).unwrap().into(),
            };
            out.push(format!("{name}={}", SocketAddr::new(ip, number(port).unwrap() as u16)));
        }
    }
    for (name, seconds) in [("asked", 8), ("answered", 12)] {
        if let Some(time) = number(seconds) {
            out.push(format!("{name}={}.{:09}", time - 1_700_000_000, number(seconds + 1).unwrap()));
        }
    }
    for (name, field) in [("query", 10), ("response", 14)] {
        if let Some(message) = bytes(field, &inner) {
            let message = decode(&message).unwrap();
            out.push(format!(
                "{name}={} {}+{}",
                message.id,
                message.questions[0].name,
                message.answers.len()
            ));
        }
    }
    for (name, field) in [("id", 1), ("version", 2), ("extra", 3)] {
        out.extend(text(field, &outer).map(|text| format!("{name}={text}")));
    }
    out.join(" ")
}

/// What is shown: where, and what.
fn shown(effects: &[Effect]) -> Vec<String> {
    let shown = effects.iter().filter_map(|effect| match effect {
        Effect::Show(tap, frame) if frame.is_empty() => Some(format!("{} opens", tap.socket)),
        Effect::Show(_, frame) => Some(show(frame)),
        _ => None,
    });
    shown.collect()
}

fn clock(millis: u64) -> Now {
    Now { nanos: millis as u32 * 1_000_000, ..at(millis) }
}

fn from(
    server: &mut Server,
    client: &str,
    transport: Transport,
    message: &Message,
    millis: u64,
) -> Vec<Effect> {
    let bytes = encode(message, 65_535);
    let event = Event::Query { server: 53.into(), transport, client: client.parse().unwrap(), bytes: &bytes };
    server.step(event, clock(millis))
}

#[test]
fn clients() {
    let hosts = "hosts /none {\n 192.0.2.1 a.example\n fallthrough\n }";
    let mut server = server(&format!(
        ".:53 {{\n dnstap /tap full {{\n identity me\n version mine\n }}\n dnstap tcp://h:6000\n {hosts}\n}}"
    ));
    server.set_hostname("node-1");
    let version = env!("CARGO_PKG_VERSION");
    let effects = from(&mut server, "192.0.2.9:99", Transport::Udp, &query("a.example A"), 5);
    let brief = format!("id=node-1 version=Sealane-{version}");
    assert_eq!(
        shown(&effects),
        [
            "unix:///tap opens".to_owned(),
            "tcp://h:6000 opens".to_owned(),
            "CLIENT_QUERY INET UDP from=192.0.2.9:99 asked=0.005000000 query=77 a.example.+0 id=me version=mine".to_owned(),
            format!("CLIENT_QUERY INET UDP from=192.0.2.9:99 asked=0.005000000 {brief}"),
            format!("CLIENT_RESPONSE INET UDP from=192.0.2.9:99 asked=0.005000000 answered=0.005000000 {brief}"),
            "CLIENT_RESPONSE INET UDP from=192.0.2.9:99 asked=0.005000000 answered=0.005000000 \
             response=77 a.example.+1 id=me version=mine"
                .to_owned(),
        ]
    );
    // It looks on at each query, the same one, too.
    let effects = from(&mut server, "[2001:db8::9]:99", Transport::Tcp, &query("a.example A"), 6);
    assert!(server.preparation().is_none());
    assert!(shown(&effects)[0].starts_with("CLIENT_QUERY INET6 TCP from=[2001:db8::9]:99 asked"));
    assert_eq!(shown(&effects).len(), 4);
    // Where nobody has an answer the server's own passes it by, as in CoreDNS.
    let effects = from(&mut server, "192.0.2.9:99", Transport::Udp, &query("b.example A"), 7);
    assert_eq!(shown(&effects).len(), 2);
}

#[test]
fn upstreams() {
    let options = "{\n extra \"up {/forward/upstream} {type} {rcode}\"\n identity i\n version v\n }";
    let corefile = format!(
        ".:53 {{\n metadata\n dnstap /tap full {options}\n forward . 192.0.2.53 192.0.2.54 {{\n policy sequential\n force_tcp\n }}\n}}"
    );
    let mut server = server(&corefile);
    let first = asked(from(&mut server, "192.0.2.9:99", Transport::Udp, &query("a.example A"), 1));
    let effects = server.step(Event::Failed { pending: first.pending, why: "gone".into() }, clock(21));
    let tail = "id=i version=v extra=up 192.0.2.53:53 A -";
    assert_eq!(
        shown(&effects),
        [format!("FORWARDER_QUERY INET TCP to=192.0.2.53:53 asked=0.001000000 query=77 a.example.+0 {tail}")]
    );
    let mut second = asked(effects);
    second.pending.came_from(Some("192.0.2.2:4444".parse().unwrap()));
    let bytes = answer(&second.message, 60);
    let effects = server.step(Event::Answer { pending: second.pending, bytes: &bytes }, clock(51));
    let (times, tail) = ("asked=0.021000000", "id=i version=v extra=up 192.0.2.54:53 A -");
    assert_eq!(
        shown(&effects),
        [
            format!(
                "FORWARDER_QUERY INET TCP from=192.0.2.2:4444 to=192.0.2.54:53 {times} query=77 a.example.+0 {tail}"
            ),
            format!(
                "FORWARDER_RESPONSE INET TCP from=192.0.2.2:4444 to=192.0.2.54:53 {times} answered=0.051000000 response=77 a.example.+1 {tail}"
            ),
            format!(
                "CLIENT_RESPONSE INET UDP from=192.0.2.9:99 asked=0.001000000 answered=0.051000000 response=77 a.example.+1 {tail}"
            ),
        ]
    );
}

#[test]
fn documented_examples() {
    let connect = |buffer: usize, queue: usize| Way::Connect { buffer: buffer << 20, queue: queue * 10_000 };
    let listen = |files: &[&str]| Way::Listen {
        identity: files.get(1).map(|key| (files[0].to_owned(), (*key).to_owned())),
        authorities: files.get(2).map(|ca| (*ca).to_owned()),
    };
    let (unix, tcp, tls) =
        (|s: &str| Socket::Unix(s.into()), |s: &str| Socket::Tcp(s.into()), |s: &str| Socket::Tls(s.into()));
    for (lines, taps) in [
        ("dnstap /tmp/dnstap.sock", vec![(unix("/tmp/dnstap.sock"), connect(1, 1), false)]),
        (
            "dnstap /tmp/dnstap.sock full 1024 2048",
            vec![(unix("/tmp/dnstap.sock"), connect(1024, 2048), false)],
        ),
        ("dnstap unix:///tmp/dnstap.sock full", vec![(unix("/tmp/dnstap.sock"), connect(1, 1), false)]),
        ("dnstap tcp://example.com:6000 full", vec![(tcp("example.com:6000"), connect(1, 1), false)]),
        (
            "dnstap tls://127.0.0.1:6000 full {\n skipverify\n }",
            vec![(tls("127.0.0.1:6000"), connect(1, 1), true)],
        ),
        ("dnstap listen /tmp/dnstap.sock full", vec![(unix("/tmp/dnstap.sock"), listen(&[]), false)]),
        ("dnstap listen tcp://127.0.0.1:6000", vec![(tcp("127.0.0.1:6000"), listen(&[]), false)]),
        (
            "dnstap listen tls://127.0.0.1:6000 full {\n tls c k ca\n }",
            vec![(tls("127.0.0.1:6000"), listen(&["c", "k", "ca"]), false)],
        ),
        (
            "dnstap listen tls://127.0.0.1:6000 full {\n tls c k\n skipverify\n }",
            vec![(tls("127.0.0.1:6000"), listen(&["c", "k"]), true)],
        ),
        (
            "dnstap tcp://a.example:6000 full\n dnstap listen tcp://127.0.0.1:6001 full",
            vec![(tcp("a.example:6000"), connect(1, 1), false), (tcp("127.0.0.1:6001"), listen(&[]), false)],
        ),
    ] {
        let config = Config::parse("C", &format!(". {{\n {lines}\n}}"), &Default::default(), 53).unwrap();
        let found: Vec<_> = config
            .plugins_of::<Dnstap>()
            .map(|dnstap| (dnstap.tap().socket.clone(), dnstap.tap().way.clone(), dnstap.tap().skip_verify))
            .collect();
        assert_eq!(found, taps, "{lines}");
    }
}

#[test]
fn refused_lines() {
    for (lines, error) in [
        ("dnstap", "2:1: 'dnstap' needs a socket (unix://PATH, tcp://HOST:PORT, tls://HOST:PORT)"),
        ("dnstap listen", "2:8: 'dnstap' needs a socket (unix://PATH, tcp://HOST:PORT, tls://HOST:PORT)"),
        ("dnstap tcp://127.0.0.1", "2:8: 'tcp://127.0.0.1' needs a host and a port"),
        ("dnstap tls://:6000", "2:8: 'tls://:6000' needs a host and a port"),
        ("dnstap udp://h:1", "2:8: 'udp://h:1' is no socket (unix://PATH, tcp://HOST:PORT, tls://HOST:PORT)"),
        ("dnstap /s 4", "2:11: '4' stands where 'full' may; messages are written whole then"),
        ("dnstap /s full 0", "2:16: '0' is not between 1 and 1024"),
        ("dnstap /s full 1025", "2:16: '1025' is not between 1 and 1024"),
        ("dnstap /s full 1 4097", "2:18: '4097' is not between 1 and 4096"),
        ("dnstap /s full x", "2:16: 'x' is no number"),
        ("dnstap /s full 1 1 1", "2:20: 'dnstap' takes no '1'"),
        ("dnstap listen /s full 2", "2:23: 'dnstap listen' takes no '2'"),
        ("dnstap /s {\n identity\n}", "3:2: 'identity' needs a name"),
        ("dnstap /s {\n extra a b\n}", "3:10: 'extra' takes one text"),
        ("dnstap /s {\n skipverify\n}", "3:2: 'skipverify' is for tls://"),
        ("dnstap listen /s {\n tls c k\n}", "3:2: 'tls' is for tls://"),
        ("dnstap tls://h:1 {\n tls c k\n}", "3:2: 'tls CERT KEY [CA]' is for 'dnstap listen'"),
        ("dnstap listen tls://h:1 {\n tls c\n}", "3:2: 'tls CERT KEY [CA]' is for 'dnstap listen'"),
        ("dnstap listen tls://h:1 {\n tls c k a b\n}", "3:12: 'tls' takes no 'b'"),
        ("dnstap listen tls://h:1", "2:15: listening by tls:// needs 'tls CERT KEY'"),
        ("dnstap /s {\n sample 5\n}", "3:2: option 'sample' of 'dnstap' is unknown, or not Sealane's yet"),
    ] {
        assert_eq!(refused(lines), format!("Corefile:{error}"), "{lines}");
    }
}
