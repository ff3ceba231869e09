//! A server behind the server: what it is asked and what it answers, in lines.

use std::net::SocketAddr;

use sealane_dns::message::presentation::{self, Token};
use sealane_dns::message::{Data, Message, Record, rtype};
use sealane_dns::{Config, Effect, Event, Server, Transport, decode, encode};

use crate::cluster::{at, show};

/// What came of a query: the answer, what the upstream was asked, the log.
#[derive(Debug)]
pub struct Outcome {
    pub reply: Option<Message>,
    pub asked: Vec<Message>,
    pub logs: Vec<String>,
}

impl Outcome {
    pub fn reply(&self) -> &Message {
        self.reply.as_ref().expect("no reply")
    }
}

/// `a.example. 60 IN A 192.0.2.1`
pub fn record(line: &str) -> Record {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [owner, ttl, "IN", kind, data @ ..] = words.as_slice() else { panic!("{line}") };
    let word = |text: &&'static str| Token { text: text.as_bytes(), quoted: false, glued: false };
    let data: Vec<&'static str> = data.iter().map(|word| &*String::from(*word).leak()).collect();
    let tokens: Vec<Token<'_>> = data.iter().map(word).collect();
    let root = sealane_dns::Name::root();
    let data = presentation::parse(rtype::from_name(kind).unwrap(), &tokens, &root).unwrap();
    Record::new(owner.parse().unwrap(), ttl.parse().unwrap(), data)
}

/// A zone of lines. Answers are the records of the name and type asked for and, for an alias, those of its target;
/// NXDOMAIN where there are none of that name.
pub fn zone(lines: &str) -> impl Fn(&Message) -> Message {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let records: Vec<Record> = lines.map(record).collect();
    move |query| {
        let question = &query.questions[0];
        let mut reply = query.reply(0);
        reply.flags.recursion_available = true;
        let mut name = question.name.clone();
        loop {
            let of = |record: &&Record| {
                let kind = record.data.rtype();
                record.name == name && (kind == question.rtype || kind == rtype::CNAME)
            };
            let found: Vec<Record> = records.iter().filter(of).cloned().collect();
            reply.answers.extend(found.iter().cloned());
            match found.first().map(|record| &record.data) {
                Some(Data::Cname(target)) if question.rtype != rtype::CNAME => name = target.clone(),
                _ => break,
            }
        }
        if !records.iter().any(|record| record.name == question.name) {
            reply.rcode = 3;
        }
        reply
    }
}

/// Asks, answers what the upstream is asked, and so on to the end.
pub fn exchange(
    server: &mut Server,
    client: &str,
    query: &Message,
    upstream: impl Fn(&Message) -> Message,
) -> Outcome {
    let client: SocketAddr = client.parse().unwrap();
    let bytes = encode(query, 65_535);
    let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
    let mut effects = server.step(event, at(1000));
    let mut outcome = Outcome { reply: None, asked: vec![], logs: vec![] };
    while !effects.is_empty() {
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Reply(bytes) => outcome.reply = Some(decode(&bytes).unwrap()),
                Effect::Log(line) => outcome.logs.push(line),
                Effect::Ask { message, pending, .. } => {
                    let message = decode(&message).unwrap();
                    let bytes = encode(&upstream(&message), 65_535);
                    outcome.asked.push(message);
                    effects.extend(server.step(Event::Answer { pending, bytes: &bytes }, at(1001)));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    outcome
}

/// What dig shows after all that.
pub fn dig_with(server: &mut Server, text: &str, upstream: impl Fn(&Message) -> Message) -> String {
    let query = crate::cluster::query(text);
    let outcome = exchange(server, "10.244.0.9:4242", &query, upstream);
    assert_eq!(outcome.reply().questions, query.questions);
    show(outcome.reply())
}

/// Why lines in a server block are refused; line and column as in a block that begins in line 1.
pub fn refused(lines: &str) -> String {
    let corefile = format!(".:53 {{\n{lines}\n}}");
    match Config::parse("Corefile", &corefile, &Default::default(), 53) {
        Ok(_) => panic!("accepted: {lines}"),
        Err(error) => error.to_string(),
    }
}
