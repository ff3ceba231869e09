//! `tsig`: who signs, and what is signed (RFC 8945).

use sealane_dns::message::{Data, Record, rcode, rtype};
use sealane_dns::tsig::Algorithm;
use sealane_dns::{Effect, Event, Name, Server, Transport, decode, encode};

use crate::cluster::{at, query};
use crate::plugins::zones::{server, started};

const SECRET: &[u8] = b"0123456789abcdef";
/// Its base64.
const TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
/// The clock of [`at`].
const NOW: u64 = 1_700_000_000;

/// How a client signs.
#[derive(Clone)]
struct Client {
    key: &'static str,
    secret: &'static [u8],
    algorithm: &'static str,
    time: u64,
}

const GOOD: Client = Client { key: "key.example.", secret: SECRET, algorithm: "hmac-sha256.", time: NOW };

/// A TSIG record's parts.
struct Parts {
    algorithm: Name,
    time: u64,
    mac: Vec<u8>,
    error: u16,
    other: Vec<u8>,
}

fn parts(record: &Record) -> Parts {
    let Data::Other(rtype::TSIG, data) = &record.data else { panic!("{record}") };
    let end = data.iter().position(|octet| *octet == 0).unwrap() + 1;
    let algorithm = Name::from_wire(&data[..end]).unwrap();
    let rest = &data[end..];
    let number = |at: usize| usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
    let len = number(8);
    let tail = 10 + len;
    Parts {
        algorithm,
        time: rest[..6].iter().fold(0, |n, octet| n << 8 | u64::from(*octet)),
        mac: rest[10..tail].to_vec(),
        error: u16::try_from(number(tail + 2)).unwrap(),
        other: rest[tail + 6..].to_vec(),
    }
}

fn variables(key: &str, algorithm: &Name, parts: (u64, u16, &[u8])) -> Vec<u8> {
    let (time, error, other) = parts;
    let mut out = key.parse::<Name>().unwrap().to_lowercase().wire().to_vec();
    out.extend([0, 255, 0, 0, 0, 0]);
    out.extend(algorithm.to_lowercase().wire());
    out.extend(&time.to_be_bytes()[2..]);
    out.extend(300u16.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(u16::try_from(other.len()).unwrap().to_be_bytes());
    out.extend(other);
    out
}

/// A signed query, and its signature.
fn signed(text: &str, client: &Client) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = encode(&query(text), 65_535);
    let algorithm: Name = client.algorithm.parse().unwrap();
    let mut octets = bytes.clone();
    octets.extend(variables(client.key, &algorithm, (client.time, 0, &[])));
    let mac = Algorithm::of(&algorithm).map(|known| known.mac(client.secret, &octets)).unwrap_or_default();
    let mut data = algorithm.wire().to_vec();
    data.extend(&client.time.to_be_bytes()[2..]);
    data.extend(300u16.to_be_bytes());
    data.extend(u16::try_from(mac.len()).unwrap().to_be_bytes());
    data.extend(&mac);
    data.extend([0, 77, 0, 0, 0, 0]);
    bytes.extend(client.key.parse::<Name>().unwrap().wire());
    bytes.extend([0, 250, 0, 255, 0, 0, 0, 0]);
    bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes[11] += 1;
    (bytes, mac)
}

fn replies(server: &mut Server, bytes: &[u8], transport: Transport) -> Vec<Vec<u8>> {
    let client = "192.0.2.9:4242".parse().unwrap();
    let effects =
        server.step(Event::Query { server: 53.into(), transport, client, bytes }, at(0)).into_iter();
    let reply = |effect| match effect {
        Effect::Reply(bytes) => Some(bytes),
        _ => None,
    };
    effects.filter_map(reply).collect()
}

/// The answer's code, its error, and whether its signature is right; `before` is the signature before it.
fn verified(reply: &[u8], client: &Client, before: &mut Vec<u8>, first: bool) -> (String, u16, bool) {
    let message = decode(reply).unwrap();
    let record = message.additional.last().unwrap();
    let parts = parts(record);
    // The record is the last thing in the message.
    let mut stripped =
        reply[..reply.len() - record.name.wire().len() - 10 - record.data.wire().len()].to_vec();
    stripped[11] -= 1;
    let mut octets = u16::try_from(before.len()).unwrap().to_be_bytes().to_vec();
    octets.extend(&*before);
    octets.extend(stripped);
    if first {
        octets.extend(variables(client.key, &parts.algorithm, (parts.time, parts.error, &parts.other)));
    } else {
        octets.extend(&parts.time.to_be_bytes()[2..]);
        octets.extend(300u16.to_be_bytes());
    }
    let algorithm = Algorithm::of(&parts.algorithm);
    let right = algorithm.is_some_and(|known| known.mac(client.secret, &octets) == parts.mac);
    *before = parts.mac;
    (rcode::name(message.rcode), parts.error, right)
}

const COREFILE: &str = "example.org {\n tsig {\n secret Key.example. MDEyMzQ1Njc4OWFiY2RlZg==\n require AXFR IXFR TXT\n \
    require_opcode NOTIFY\n }\n file db\n transfer {\n to *\n }\n}";
const ZONE: &str = "@ 9 SOA ns noc 1 1 1 1 1\n@ 9 NS ns\nns 9 A 192.0.2.1\n";

#[test]
fn requests_are_checked_and_answers_signed() {
    let mut server = server(COREFILE, &[("db", ZONE)]);
    for algorithm in ["hmac-sha1.", "HMAC-sha224.", "hmac-sha256.", "hmac-sha384.", "hmac-sha512."] {
        let client = Client { algorithm, ..GOOD };
        for question in ["ns.example.org A", "example.org TXT", "no.example.org A +do"] {
            // Twice: nothing is remembered of the first.
            for _ in 0..2 {
                let (bytes, mut mac) = signed(question, &client);
                let reply = replies(&mut server, &bytes, Transport::Udp);
                let code = if question.starts_with("no") { "NXDOMAIN" } else { "NOERROR" };
                assert_eq!(
                    verified(&reply[0], &client, &mut mac, true),
                    (code.to_owned(), 0, true),
                    "{algorithm} {question}"
                );
            }
        }
    }
    for (client, error, right) in [
        (Client { secret: b"another", ..GOOD }, 16, false),
        (Client { algorithm: "hmac-md5.sig-alg.reg.int.", ..GOOD }, 16, false),
        (Client { key: "other.", ..GOOD }, 17, false),
        (Client { time: NOW - 301, ..GOOD }, 18, true),
        (Client { time: NOW + 301, ..GOOD }, 18, true),
    ] {
        let (bytes, mut mac) = signed("ns.example.org A", &client);
        let reply = replies(&mut server, &bytes, Transport::Udp);
        assert_eq!(verified(&reply[0], &client, &mut mac, true), ("NOTAUTH".to_owned(), error, right));
        let other = parts(decode(&reply[0]).unwrap().additional.last().unwrap()).other;
        assert_eq!(other, if error == 18 { NOW.to_be_bytes()[2..].to_vec() } else { Vec::new() });
    }
    let near = Client { time: NOW - 300, ..GOOD };
    let (bytes, mut mac) = signed("ns.example.org A", &near);
    let reply = replies(&mut server, &bytes, Transport::Udp);
    assert_eq!(verified(&reply[0], &near, &mut mac, true), ("NOERROR".to_owned(), 0, true));
}

#[test]
fn who_has_to_sign_is_refused_without() {
    let mut server = server(COREFILE, &[("db", ZONE)]);
    let mut code = |text: &str, opcode, transport| {
        let mut message = query(text);
        message.flags.opcode = opcode;
        let reply = replies(&mut server, &encode(&message, 512), transport);
        reply.first().map(|bytes| rcode::name(decode(bytes).unwrap().rcode))
    };
    assert_eq!(code("ns.example.org A", 0, Transport::Udp).unwrap(), "NOERROR");
    assert_eq!(code("ns.example.org TXT", 0, Transport::Udp).unwrap(), "REFUSED");
    assert_eq!(code("example.org AXFR", 0, Transport::Tcp).unwrap(), "REFUSED");
    assert_eq!(code("example.org SOA", 4, Transport::Udp).unwrap(), "REFUSED");
    for (line, answered) in
        [("require all", "REFUSED"), ("require none", "NOERROR"), ("require_opcode QUERY", "REFUSED")]
    {
        let mut server =
            crate::plugins::zones::server(&format!(". {{\n tsig {{\n {line}\n }}\n whoami\n}}"), &[]);
        let reply = replies(&mut server, &encode(&query("x A"), 512), Transport::Udp);
        assert_eq!(rcode::name(decode(&reply[0]).unwrap().rcode), answered, "{line}");
    }
}

#[test]
fn each_message_of_a_transfer_is_signed() {
    let many: String = (0..3000).map(|n| format!("h{n} 9 TXT {}\n", "x".repeat(40))).collect();
    let zone = format!("{ZONE}{many}");
    let mut server = server(COREFILE, &[("db", &zone)]);
    let (bytes, mut mac) = signed("example.org AXFR", &GOOD);
    let messages = replies(&mut server, &bytes, Transport::Tcp);
    assert!(messages.len() > 2);
    for (at, message) in messages.iter().enumerate() {
        assert_eq!(verified(message, &GOOD, &mut mac, at == 0), ("NOERROR".to_owned(), 0, true), "{at}");
    }
}

#[test]
fn what_does_not_fit_is_cut_before_it_is_signed() {
    let many: String = (0..40).map(|n| format!("many 9 A 192.0.2.{n}\n")).collect();
    let mut server = server(COREFILE, &[("db", &format!("{ZONE}{many}"))]);
    let (bytes, mut mac) = signed("many.example.org A", &GOOD);
    let reply = &replies(&mut server, &bytes, Transport::Udp)[0];
    assert!(reply.len() <= 512 && decode(reply).unwrap().flags.truncated, "{}", reply.len());
    assert_eq!(verified(reply, &GOOD, &mut mac, true), ("NOERROR".to_owned(), 0, true));
}

#[test]
fn keys_are_all_blocks_of_a_port() {
    let file = "\nkey \"key.example.\" {\n\talgorithm hmac-sha512;\n\tsecret \"MDEyMzQ1Njc4OWFiY2RlZg==\";\n};\n\nkey \"b\" {\nsecret \"YQ==\";\n}\n";
    let corefile = "example.net {\n root /k\n tsig {\n secrets keys\n }\n whoami\n}\nexample.org {\n tsig\n hosts\n}\n.:54 {\n tsig\n whoami\n}";
    let mut server = server(corefile, &[("/k/keys", file)]);
    // A failure is an answer, and signed.
    for (question, code) in [("x.example.net A", "NOERROR"), ("x.example.org SOA", "SERVFAIL")] {
        let (bytes, mut mac) = signed(question, &GOOD);
        let Some(reply) = replies(&mut server, &bytes, Transport::Tcp).pop() else { panic!("{question}") };
        assert_eq!(verified(&reply, &GOOD, &mut mac, true), (code.to_owned(), 0, true));
    }
    // Another port, other keys.
    let (bytes, _) = signed("x A", &GOOD);
    let client = "192.0.2.9:4242".parse().unwrap();
    let effects = server
        .step(Event::Query { server: 54.into(), transport: Transport::Udp, client, bytes: &bytes }, at(0));
    let [Effect::Reply(reply)] = effects.as_slice() else { panic!("{effects:?}") };
    let reply = decode(reply).unwrap();
    assert_eq!((reply.rcode, parts(reply.additional.last().unwrap()).error), (rcode::NOTAUTH, 17));
    // Where there is no `tsig` nobody is asked to sign, and nothing is signed.
    let mut none = crate::plugins::zones::server(". {\n whoami\n}", &[]);
    let reply = decode(&replies(&mut none, &bytes, Transport::Udp)[0]).unwrap();
    assert!(reply.additional.iter().all(|record| record.data.rtype() != rtype::TSIG));
}

#[test]
fn refused_lines() {
    for (lines, error) in [
        ("tsig {\n secret\n}", "Corefile:3:2: 'secret' needs the name of a key and its secret"),
        ("tsig {\n secret a b c\n}", "Corefile:3:13: 'secret' takes no 'c'"),
        ("tsig {\n secret a %%\n}", "Corefile:3:11: the secret is no base64: "),
        ("tsig {\n secret a YQ==\n secret A YQ==\n}", "Corefile:4:9: key 'A.' is there already"),
        ("tsig {\n secrets\n}", "Corefile:3:2: 'secrets' needs a path of a file"),
        ("tsig {\n secrets none\n}", "Corefile:2:1: plugin/tsig: none cannot be read"),
        ("tsig {\n secrets odd\n}", "Corefile:2:1: plugin/tsig: odd: unexpected token \"zone\""),
        ("tsig {\n secrets empty\n}", "Corefile:2:1: plugin/tsig: empty: expected secret for key \"a.\""),
        ("tsig {\n secret a YQ==\n secrets good\n}", "Corefile:2:1: plugin/tsig: good: key \"a.\" redefined"),
        ("tsig {\n require\n}", "Corefile:3:2: 'require' names no record type (or 'all', 'none')"),
        ("tsig {\n require A ZZ\n}", "Corefile:3:12: 'ZZ' is no record type"),
        ("tsig {\n require all A\n}", "Corefile:3:14: 'all' takes no 'A'"),
        ("tsig {\n require_opcode query\n}", "Corefile:3:17: 'query' is no opcode"),
        ("tsig {\n algorithm x\n}", "Corefile:3:2: option 'algorithm' of 'tsig' is unknown"),
    ] {
        let files =
            [("odd", "zone x\n"), ("empty", "key a {\n};\n"), ("good", "key \"a\" {\n secret YQ==;\n};\n")];
        let got = started(&format!("example.org {{\n{lines}\n}}"), &files);
        let got = got.map_or_else(|error| error, |_| "no error".to_owned());
        assert!(got.starts_with(error), "{lines}: {got}");
    }
    assert_eq!(TEXT.len(), 24);
}
