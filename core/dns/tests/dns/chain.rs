//! The frame: what a plugin may say, and what comes of it. The plugins are the tests' own.

use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dns::chain::{
    Answer, Ask, Context, Failure, Flow, Note, Peers, Plugin, Query, Reply, Row, Setup, Up, Via, World,
};
use sealane_dns::corefile::{CorefileError, Directive};
use sealane_dns::message::{Data, Message, Question, Record, rcode};
use sealane_dns::order::ROWS;
use sealane_dns::{Config, Effect, Event, Pending, Server, Transport, decode, encode};

use crate::cluster::{ask, at, query, show, snapshot};

/// Does what its line says: `act WORDS...`, for names below `on`'s zone.
#[derive(Debug)]
struct Actor {
    words: Vec<String>,
    told: u32,
    /// Of a look-up on the way up.
    kept: Option<Message>,
}

fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    let words: Vec<String> = line.args.iter().map(|token| token.text.clone()).collect();
    if words[0] == "view" {
        setup.settings.view = Some(words[1].clone());
    }
    // Labels are asked for in these tests.
    setup.settings.metadata = vec![sealane_dns::Name::root()];
    setup.add(Actor { words, told: 0, kept: None });
    Ok(())
}

fn text(query: &Query, text: &str) -> Message {
    let record =
        Record::new(query.question().name.clone(), 60, Data::Txt(vec![text.as_bytes().to_vec().into()]));
    Reply { answers: vec![record], ..Reply::default() }.into()
}

impl Actor {
    fn is(&self, word: &str) -> bool {
        self.words[0] == word
    }

    fn asks(&self, query: &Query) -> Flow {
        let message = Message { questions: vec![query.question().clone()], ..query.request.clone() };
        let to = "192.0.2.9:53".parse().unwrap();
        Flow::Ask(Ask { to, via: Via::Udp, message, timeout: Duration::from_secs(1), tag: 7 })
    }
}

impl Plugin for Actor {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question().clone();
        match self.words[0].as_str() {
            "answer" => Flow::Reply(text(query, &self.words[1])),
            "name" => Flow::Reply(text(query, &question.name.to_string())),
            "label" => {
                let label = cx.peers.metadata("actor/words", query, cx.world);
                Flow::Reply(text(query, &label.unwrap_or_default()))
            }
            "stream" => Flow::Stream(vec![text(query, "1"), text(query, "2"), text(query, "3")]),
            "fail" => Flow::fail(rcode::SERVFAIL, "no luck"),
            "drop" => Flow::Drop,
            "wait" => Flow::Wait(Duration::from_millis(30)),
            "ask" => self.asks(query),
            "instead" => {
                note.set(question.name.clone());
                query.ask_instead(Question { name: self.words[1].parse().unwrap(), ..question });
                Flow::Next
            }
            "lookup" => Flow::Lookup(Question { name: self.words[1].parse().unwrap(), ..question }),
            "refresh" => {
                cx.refresh(Note::new("refreshed"));
                Flow::Reply(text(query, "old"))
            }
            _ => Flow::Next,
        }
    }

    fn answered(&mut self, query: &mut Query, _: &mut Note, answer: Answer, _: &mut Context<'_>) -> Flow {
        assert_eq!((answer.tag, answer.from.port()), (7, 53));
        match answer.result {
            Ok(message) => Flow::Reply(message),
            // Once more, of another.
            Err(why) if why == "again" => self.asks(query),
            Err(why) => Flow::fail(rcode::REFUSED, why),
        }
    }

    fn looked_up(&mut self, _: &mut Query, _: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        match self.kept.take() {
            Some(mut kept) => {
                kept.answers.extend(found.answers);
                Flow::Reply(kept)
            }
            None => Flow::Reply(found),
        }
    }

    fn waited(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
        Flow::Reply(text(query, "waited"))
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let question = query.question().clone();
        match self.words[0].as_str() {
            "instead" => {
                // Each sees on the way up what it saw on the way down.
                assert_eq!(note.take::<sealane_dns::Name>(), Some(question.name.clone()));
                reply.answers.iter_mut().for_each(|record| record.name = question.name.clone());
                Up::Pass
            }
            "mark" => {
                let name = query.question().name.clone();
                let data = Data::Txt(vec![self.words[1].as_bytes().to_vec().into()]);
                reply.additional.push(Record::new(name, 1, data));
                Up::Pass
            }
            "more" => {
                self.kept = Some(std::mem::take(reply));
                let name = self.words[1].parse().unwrap();
                Up::Instead(Flow::Lookup(Question { name, ..question }))
            }
            "refresh" => {
                assert!(query.background);
                assert_eq!(note.take::<&str>(), Some("refreshed"));
                cx.log(format!("refreshed: {}", reply.answers[0]));
                Up::Pass
            }
            _ => Up::Pass,
        }
    }

    fn failed(&mut self, query: &mut Query, _: &mut Note, failure: &Failure, _: &mut Context<'_>) -> Up {
        if !self.is("rescue") {
            return Up::Pass;
        }
        let why = failure.why.clone().unwrap_or_default();
        Up::Instead(Flow::Reply(text(query, &format!("{}: {why}", failure.rcode))))
    }

    fn accepts(&self, query: &Query, _: Peers<'_>, _: &World) -> bool {
        !self.is("view") || query.client.ip().to_string() == self.words[2]
    }

    fn metadata(&self, label: &str, _: &Query, _: &World) -> Option<String> {
        (label == "actor/words").then(|| self.words.join(" "))
    }

    fn tick(&mut self, _: &mut Context<'_>) -> Vec<Ask> {
        if !self.is("tick") || self.told > 1 {
            return Vec::new();
        }
        let message = Message::query(0, "health.example".parse().unwrap(), 1);
        let to = "192.0.2.9:53".parse().unwrap();
        vec![Ask { to, via: Via::Tcp, message, timeout: Duration::from_secs(1), tag: 3 }]
    }

    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {
        self.told += 1;
        cx.log(format!("told {} {:?} {:?}", answer.tag, answer.took, answer.result.err()));
    }

    fn snapshot_changed(&mut self, old: &Snapshot, cx: &mut Context<'_>) {
        if self.is("changes") {
            cx.log(format!("{} -> {}", old.synced(), cx.world.snapshot.synced()));
        }
    }
}

fn config(corefile: &str) -> Config {
    let rows = [
        Row { name: "act", setup: Some(setup), many: true },
        ROWS.iter().find(|row| row.name == "errors").map(|r| Row { ..*r }).unwrap(),
        ROWS.iter().find(|row| row.name == "cache").map(|r| Row { ..*r }).unwrap(),
        Row { name: "later", setup: Some(setup), many: true },
    ];
    Config::parse_with(&rows, "Corefile", corefile, &Default::default(), 53).unwrap()
}

fn server(corefile: &str) -> Server {
    Server::new(config(corefile), vec![], at(0))
}

fn send(server: &mut Server, name: &str) -> Vec<Effect> {
    ask(server, &query(&format!("{name} TXT")), Transport::Udp, at(0))
}

/// The answers' texts, in the order in which they come.
fn texts(effects: &[Effect]) -> String {
    let mut out = Vec::new();
    for effect in effects {
        match effect {
            Effect::Reply(bytes) => {
                let reply = decode(bytes).unwrap();
                assert_eq!((reply.id, reply.questions.len(), reply.flags.response), (77, 1, true));
                if reply.rcode != rcode::NOERROR {
                    out.push(rcode::name(reply.rcode));
                }
                for record in reply.answers.iter().chain(&reply.additional) {
                    let Data::Txt(strings) = &record.data else { panic!("{record}") };
                    out.push(String::from_utf8_lossy(&strings[0]).into_owned());
                }
            }
            Effect::Log(line) => out.push(line.clone()),
            other => out.push(format!("{other:?}").split(' ').next().unwrap().to_owned()),
        }
    }
    out.join(" | ")
}

fn pending(effects: Vec<Effect>) -> (Message, Box<Pending>) {
    let mut pending = effects.into_iter().filter_map(|effect| match effect {
        Effect::Ask { message, pending, .. } => Some((decode(&message).unwrap(), pending)),
        Effect::Wait { pending, .. } => Some((Message::default(), pending)),
        _ => None,
    });
    let first = pending.next().expect("waits for nothing");
    assert!(pending.next().is_none());
    first
}

#[test]
fn what_plugins_may_say() {
    for (lines, expected) in [
        ("act answer a", "a"),
        ("act nothing", "SERVFAIL"),
        ("errors\n act nothing", "[ERROR] plugin/errors: 2 x.example. TXT: no next plugin found | SERVFAIL"),
        // The order is the table's, not the lines'.
        ("later answer late\n act answer early", "early"),
        ("act mark 1\n act mark 2\n later answer a", "a | 2 | 1"),
        ("act answer a\n act mark never", "a"),
        ("act stream", "1 | 2 | 3"),
        ("act mark m\n later stream", "1 | m | 2 | 3"),
        ("act label\n later mark m", "mark m"),
        ("act drop", ""),
        ("act fail", "SERVFAIL"),
        ("act rescue\n later fail", "2: no luck"),
        ("act mark m\n act rescue\n later fail", "2: no luck | m"),
        ("act instead y.example\n later name", "y.example."),
        ("act instead y.example\n act instead z.example\n later name", "z.example."),
        ("act more other.org\n later answer a", "a | other"),
        ("act lookup other.org", "other"),
        ("act mark m\n act lookup other.org", "other | m"),
        // Into itself, until it is too deep.
        ("act lookup x.example", "SERVFAIL"),
        ("act mark m\n later lookup nowhere.test", "REFUSED | m"),
        ("act refresh\n later answer new", "refreshed: x.example. 60 IN TXT \"new\" | old"),
    ] {
        let other = "other.org {\n act answer other\n}";
        let mut server = server(&format!("example {{\n {lines}\n}}\n{other}"));
        let effects = send(&mut server, "x.example");
        assert_eq!(texts(&effects), expected, "{lines}");
        let replies = effects.iter().filter(|effect| matches!(effect, Effect::Reply(_))).count();
        assert!(replies <= 1 || lines.contains("stream"));
    }
}

#[test]
fn each_plugin_sees_its_own_question() {
    let mut server = server("example {\n act instead y.example\n act instead z.example\n later answer a\n}");
    let effects = send(&mut server, "X.example");
    let Effect::Reply(bytes) = &effects[0] else { panic!() };
    assert_eq!(show(&decode(bytes).unwrap()), "NOERROR aa,rd\nX.example. 60 IN TXT \"a\"");
}

#[test]
fn asks_and_waits_come_back() {
    let mut server = server("example {\n errors\n act mark m\n later ask\n}");
    let (message, first) = pending(send(&mut server, "x.example"));
    assert!(first.has_client());
    assert_eq!((message.id, message.questions.len()), (first.id(), 1));
    let (message, second) =
        pending(server.step(Event::Failed { pending: first, why: "again".into() }, at(5)));
    let mut reply = message.reply(0);
    reply.answers =
        text(&Query::new(message, ([192, 0, 2, 1], 1).into(), Transport::Udp, 53.into(), 0), "up").answers;
    let bytes = encode(&reply, 512);
    assert_eq!(texts(&server.step(Event::Answer { pending: second, bytes: &bytes }, at(6))), "up | m");
    let (_, third) = pending(send(&mut server, "x.example"));
    let effects = server.step(Event::Answer { pending: third, bytes: b"?" }, at(6));
    let log = "[ERROR] plugin/errors: 5 x.example. TXT: not a DNS message: message ends early";
    assert_eq!(texts(&effects), format!("{log} | REFUSED"));

    let mut server = self::server("example {\n act mark m\n later wait\n}");
    let (_, waiting) = pending(send(&mut server, "x.example"));
    assert!(waiting.has_client());
    assert_eq!(texts(&server.step(Event::Waited(waiting), at(30))), "waited | m");
}

#[test]
fn plugins_ask_of_their_own() {
    let mut server = server("example {\n act tick\n}");
    let (message, first) = pending(server.step(Event::Tick, at(0)));
    assert_eq!(
        (message.questions[0].name.to_string().as_str(), first.has_client()),
        ("health.example.", false)
    );
    let log = texts(&server.step(Event::Failed { pending: first, why: "gone".into() }, at(20)));
    assert_eq!(log, "told 3 20ms Some(\"gone\")");
}

#[test]
fn a_query_ends_with_the_configuration_that_it_began_with() {
    let mut server = server("example {\n act mark old\n later ask\n}");
    let (message, waiting) = pending(send(&mut server, "x.example"));
    let (_, lost) = pending(send(&mut server, "x.example"));
    server.configure(config("example {\n act answer new\n}"), at(10));
    assert_eq!(texts(&send(&mut server, "x.example")), "new");
    let bytes = encode(&message.reply(rcode::NXDOMAIN), 512);
    assert_eq!(
        texts(&server.step(Event::Answer { pending: waiting, bytes: &bytes }, at(20))),
        "NXDOMAIN | old"
    );
    // One that comes back after a minute finds nobody; it is answered all the same.
    server.step(Event::Tick, at(70_000));
    assert_eq!(texts(&server.step(Event::Answer { pending: lost, bytes: &bytes }, at(70_001))), "SERVFAIL");
}

/// What had come in by a port before a configuration without it took over may come after.
#[test]
fn a_port_that_went_is_answered_for_as_it_was() {
    let mut server = server("example {\n act answer old\n}\nexample:54 {\n act answer gone\n}");
    let from = |server: &mut Server, port: u16, millis: u64| {
        let bytes = encode(&query("x.example TXT"), 512);
        let client = "10.244.0.9:4242".parse().unwrap();
        let event = Event::Query { server: port.into(), transport: Transport::Udp, client, bytes: &bytes };
        texts(&server.step(event, at(millis)))
    };
    assert_eq!(from(&mut server, 54, 0), "gone");
    server.configure(config("example {\n act answer new\n}"), at(10));
    assert_eq!([from(&mut server, 53, 20), from(&mut server, 54, 20)], ["new", "gone"]);
    // One more reload changes nothing about that; one that has the port again does.
    server.configure(config("example {\n act answer newer\n}"), at(30));
    assert_eq!([from(&mut server, 53, 40), from(&mut server, 54, 40)], ["newer", "gone"]);
    server.configure(config("example:54 {\n act answer back\n}"), at(50));
    assert_eq!([from(&mut server, 53, 60), from(&mut server, 54, 60)], ["newer", "back"]);
    // After a while nothing can be on its way any more.
    server.step(Event::Tick, at(11_000));
    assert_eq!([from(&mut server, 53, 11_000), from(&mut server, 54, 11_000)], ["REFUSED", "back"]);
}

#[test]
fn views_choose_between_blocks_of_one_zone() {
    let corefile = "example {\n act view in 10.244.0.9\n later answer inside\n}\n\
                    example {\n act view out 192.0.2.1\n later answer outside\n}\n\
                    . {\n act answer rest\n}";
    let mut server = server(corefile);
    let mut from = |client: &str, name: &str| {
        let bytes = encode(&query(&format!("{name} TXT")), 512);
        let client = client.parse().unwrap();
        let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
        texts(&server.step(event, at(0)))
    };
    assert_eq!(from("10.244.0.9:1", "x.example"), "inside");
    assert_eq!(from("192.0.2.1:1", "x.example"), "outside");
    assert_eq!(from("192.0.2.2:1", "x.example"), "rest");
    let mut page = String::new();
    server.render_metrics(&mut page);
    let line = "coredns_dns_responses_total{server=\"dns://:53\",zone=\"example.\",view=\"in\",rcode=\"NOERROR\",plugin=\"later\"} 1";
    assert!(page.lines().any(|l| l == line), "{page}");
}

#[test]
fn plugins_learn_of_the_cluster() {
    let mut server = server("example {\n act changes\n}");
    assert_eq!(texts(&server.step(Event::Snapshot(snapshot()), at(0))), "false -> true");
    assert_eq!(texts(&server.step(Event::Snapshot(snapshot()), at(0))), "");
    assert_eq!(texts(&server.step(Event::Snapshot(Arc::default()), at(0))), "true -> false");
}

#[test]
fn answers_of_any_plugin_are_kept() {
    let mut server = server("example {\n cache 30\n later name\n}");
    assert_eq!(texts(&send(&mut server, "x.example")), "x.example.");
    let effects = ask(&mut server, &query("x.example TXT"), Transport::Udp, at(10_000));
    let Effect::Reply(bytes) = &effects[0] else { panic!() };
    assert_eq!(decode(bytes).unwrap().answers[0].ttl, 20);
}
