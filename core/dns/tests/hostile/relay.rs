//! Questions that go on as they came, beside a server that decodes and encodes each of them: both ask the same upstreams
//! in the same octets, answer with the same message, in the same octets where the upstream compresses as Sealane does,
//! and count the same, whatever comes of whom.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use sealane_dns::message::{Data, Edns, Record, Soa};
use sealane_dns::{
    Config, Effect, Event, Message, Name, Now, Pending, Relay, Server, Transport, decode, encode,
};

use crate::random::Random;
use crate::reference::read;
use crate::server::upstream;
use crate::{messages, run};

const COREFILES: [&str; 3] = [
    ".:53 {
  errors
  prometheus
  forward . 192.0.2.1
}",
    ".:53 example.com:53 {
  errors
  forward example.com 192.0.2.1 192.0.2.2 {
    policy round_robin
    failover SERVFAIL REFUSED
    max_fails 1
    next NXDOMAIN
    next_on_nodata
  }
  forward . 192.0.2.3 192.0.2.4 192.0.2.5 {
    except host.example
    max_concurrent 3
    prefer_udp
    source_address 192.0.2.9
    read_timeout 700ms
  }
}
www.example.com:53 {
  whoami
}",
    // None goes on as it came, but in the last block.
    ".:53 {
  errors
  cache 5
  forward . 192.0.2.1
}
host.example:53 {
  log
  forward . 192.0.2.2
}
cluster.local:53 {
  forward . tls://192.0.2.3 192.0.2.4
}
in-addr.arpa:53 {
  forward . 192.0.2.5 {
    force_tcp
  }
}
example.com:53 {
  errors
  forward . 192.0.2.6 192.0.2.7 {
    policy sequential
    failfast_all_unhealthy_upstreams
  }
}",
];

const NAMES: [&str; 9] = [
    "www.example.com",
    "a.www.example.com",
    "ftp.example.com",
    "host.example",
    "api.default.svc.cluster.local",
    "5.0.244.10.in-addr.arpa",
    "example",
    "com",
    "",
];

fn server(corefile: &str) -> Server {
    let config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
    Server::new(config, vec!["10.96.0.10".parse().unwrap()], Now::default())
}

/// What waits for an upstream: as the one that relays has it, and the other.
enum Waits {
    Relayed(Box<Relay>, Box<Pending>),
    Both(Box<Pending>, Box<Pending>),
}

struct Pair {
    relays: Server,
    walks: Server,
    now: Now,
    /// Questions with the client's message.
    waiting: Vec<(Waits, Vec<u8>, Vec<u8>)>,
    /// An answer's octets were not those of the general path.
    other_octets: bool,
}

/// What is the same of two effects; `None`: it is a question.
fn shown(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Ask { .. } => None,
        Effect::Reply(bytes) => Some(format!("{bytes:02x?}")),
        other => Some(format!("{other:?}")),
    }
}

impl Pair {
    fn new(corefile: &str) -> Self {
        let (relays, walks) = (server(corefile), server(corefile));
        let now = Now { monotonic: Duration::from_secs(1), unix: 1_700_000_000, nanos: 0, random: 7 };
        Pair { relays, walks, now, waiting: Vec::new(), other_octets: false }
    }

    fn pass(&mut self, random: &mut Random) {
        self.now.monotonic += Duration::from_millis(*random.pick(&[0, 0, 0, 1, 40, 700]));
        self.now.random = random.next();
    }

    /// Effects of both, which took the same step: questions wait, all else is the same.
    fn step(&mut self, asked: &[u8], (one, other): (Vec<Effect>, Vec<Effect>)) -> Option<Vec<u8>> {
        assert_eq!(one.len(), other.len(), "{asked:02x?}: {one:?} and {other:?}");
        let mut reply = None;
        for (one, other) in one.into_iter().zip(other) {
            assert_eq!(shown(&one), shown(&other), "{asked:02x?}");
            match (one, other) {
                (
                    Effect::Ask { upstream, via, message, timeout, keeping, pending },
                    Effect::Ask { upstream: u, via: v, message: m, timeout: t, keeping: k, pending: p },
                ) => {
                    assert_eq!((upstream, via, &message, timeout, keeping), (u, v, &m, t, k), "{asked:02x?}");
                    self.waiting.push((Waits::Both(pending, p), message, asked.to_vec()));
                }
                (Effect::Reply(bytes), _) => reply = Some(bytes),
                _ => {}
            }
        }
        reply
    }

    fn ask(&mut self, random: &mut Random, asked: &[u8]) -> &'static str {
        let client: SocketAddr = (*random.pick(&["10.244.0.5:4242", "[2001:db8::9]:9"])).parse().unwrap();
        let event = || Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: asked };
        let walked = self.walks.step(event(), self.now);
        let Some(relay) = self.relays.relay((53.into(), client), asked, self.now) else {
            let stepped = self.relays.step(event(), self.now);
            self.step(asked, (stepped, walked));
            return "walks";
        };
        let mut walked: VecDeque<Effect> = walked.into();
        let (Some(Effect::Ask { upstream, via, message, timeout, keeping, pending }), None) =
            (walked.pop_front(), walked.pop_front())
        else {
            panic!("{asked:02x?} is relayed, and asks nobody otherwise")
        };
        let ours = (relay.to, relay.timeout, relay.source, &relay.message);
        assert_eq!(ours, (upstream, timeout, keeping.source, &message), "{asked:02x?}");
        assert_eq!(via, sealane_dns::Via::Udp);
        self.waiting.push((Waits::Relayed(relay, pending), message, asked.to_vec()));
        "relayed"
    }

    /// An upstream answers, or does not.
    fn end(&mut self, random: &mut Random) -> &'static str {
        let (waits, question, asked) = self.waiting.swap_remove(random.below(self.waiting.len()));
        let answer = match random.below(8) {
            0..2 => upstream(random, &question),
            2 => Some(written_out(random, &question)),
            _ => Some(honest(random, &question)),
        };
        // What is about something else would not get here.
        let answer = answer.filter(|answer| answer.len() >= 2 && answer[..2] == question[..2]);
        let outcome = |pending| match &answer {
            Some(bytes) => Event::Answer { pending, bytes },
            None => Event::Failed { pending, why: "no".to_owned() },
        };
        let kept = random.one_in(2);
        let (mut one, mut other, what) = match waits {
            Waits::Both(one, other) => (one, other, "walks on"),
            Waits::Relayed(mut relay, mut other) => {
                relay.went_over(kept);
                other.went_over(kept);
                let Some(bytes) = &answer else {
                    let one = self.relays.walk(relay);
                    let stepped = self.relays.step(outcome(one), self.now);
                    let walked = self.walks.step(outcome(other), self.now);
                    self.step(&asked, (stepped, walked));
                    return "failed";
                };
                let mut reply = bytes.clone();
                match self.relays.relayed(relay, &mut reply, self.now) {
                    Ok(()) => {
                        let walked = self.walks.step(outcome(other), self.now);
                        let [Effect::Reply(walked)] = walked.as_slice() else { panic!("{walked:?}") };
                        return self.same((&asked, bytes), &reply, walked);
                    }
                    Err(one) => {
                        assert_eq!(reply, *bytes, "it is as it was");
                        (one, other, "walks from here")
                    }
                }
            }
        };
        assert_eq!(one.id(), other.id());
        one.went_over(kept);
        other.went_over(kept);
        let stepped = self.relays.step(outcome(one), self.now);
        let walked = self.walks.step(outcome(other), self.now);
        self.step(&asked, (stepped, walked));
        what
    }

    /// Two replies to one message are the same, and fit for who asked.
    fn same(&mut self, (asked, answer): (&[u8], &[u8]), reply: &[u8], walked: &[u8]) -> &'static str {
        let (ours, theirs) = (decode(reply).unwrap(), decode(walked).unwrap());
        assert!(read(reply).is_ok(), "{reply:02x?}");
        let room = decode(asked).unwrap().edns.map_or(512, |edns| usize::from(edns.udp_size).max(512));
        assert!(reply.len() <= room, "{asked:02x?}: {reply:02x?}");
        let compressed = decode(answer).is_ok_and(|message| encode(&message, 65_535) == answer);
        if compressed {
            assert_eq!(reply, walked, "{asked:02x?}: {answer:02x?}");
            return "the same octets";
        }
        self.other_octets |= reply.len() != walked.len();
        // Where the general path's compression needs more octets than there is room for, it cuts.
        if !theirs.flags.truncated {
            assert_eq!(ours, theirs, "{asked:02x?}: {answer:02x?}");
        }
        "the same message"
    }

    fn counted(&self) {
        let page = |server: &Server| {
            let mut text = String::new();
            server.render_metrics(&mut text);
            let sizes = |line: &&str| !self.other_octets || !line.contains("coredns_dns_response_size_bytes");
            text.lines().filter(sizes).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(page(&self.relays), page(&self.walks));
    }
}

/// An answer as an upstream gives it that means well.
fn honest(random: &mut Random, question: &[u8]) -> Vec<u8> {
    let asked = decode(question).unwrap();
    let mut reply = asked.reply(*random.pick(&[0, 0, 0, 0, 3, 2, 5, 9]));
    reply.flags.recursion_available = !random.one_in(4);
    reply.flags.authoritative = random.one_in(3);
    reply.flags.authentic = random.one_in(3);
    reply.flags.recursion_desired ^= random.one_in(8);
    reply.flags.zero = random.one_in(8);
    let owner = asked.questions[0].name.clone();
    let other: Name = "mail.example.com".parse().unwrap();
    let record = |random: &mut Random| {
        let name = random.pick(&[owner.clone(), owner.clone(), other.clone()]).clone();
        let data = match random.below(10) {
            0..4 => Data::A([192, 0, 2, random.octet()].into()),
            4 => Data::Aaaa(std::net::Ipv6Addr::from([7; 16])),
            5 => Data::Cname(other.clone()),
            6 => Data::Mx(10, other.clone()),
            7 => Data::Srv(0, 1, 80, other.clone()),
            8 => Data::Txt(vec![random.octets(40).into(), Box::default()]),
            _ => Data::Other(65_280, random.octets(20).into()),
        };
        Record::new(name, random.u32() >> random.below(32), data)
    };
    let most = if random.one_in(10) { 60 } else { 4 };
    for _ in 0..random.below(most) {
        reply.answers.push(record(random));
    }
    if random.one_in(4) {
        let [serial, refresh, retry, expire, minimum] = [1, 2, 3, 4, 5];
        let soa = Soa { mname: other.clone(), rname: owner.clone(), serial, refresh, retry, expire, minimum };
        reply.authority.push(Record::new(other.clone(), 60, Data::Soa(Box::new(soa))));
    }
    if random.one_in(4) {
        reply.additional.push(record(random));
    }
    let extends = if asked.edns.is_some() { !random.one_in(4) } else { random.one_in(10) };
    if extends {
        let options = if random.one_in(3) { vec![(10, random.octets(24).into())] } else { Vec::new() };
        reply.edns = Some(Edns { udp_size: random.u16(), dnssec_ok: random.one_in(2), version: 0, options });
    }
    encode(&reply, usize::from(u16::MAX))
}

/// One whose last name is not compressed.
fn written_out(random: &mut Random, question: &[u8]) -> Vec<u8> {
    let asked = decode(question).unwrap();
    let mut reply = asked.reply(0);
    let owner = &asked.questions[0].name;
    for _ in 0..=random.below(3) {
        reply.answers.push(Record::new(owner.clone(), 60, Data::A([192, 0, 2, random.octet()].into())));
    }
    let mut bytes = encode(&reply, 512);
    // The rest of the last record are 14 octets.
    let pointer = bytes.len() - 16..bytes.len() - 14;
    if bytes[pointer.clone()] == [0xc0, 12] {
        bytes.splice(pointer, owner.wire().iter().copied());
    }
    bytes
}

/// A client's question as nearly all are.
fn plain(random: &mut Random) -> Vec<u8> {
    let mut message =
        Message::query(random.u16(), random.pick(&NAMES).parse().unwrap(), *random.pick(&[1, 28, 15, 65]));
    message.flags.recursion_desired = !random.one_in(5);
    message.flags.authentic = random.one_in(3);
    message.flags.checking_disabled = random.one_in(3);
    if random.one_in(2) {
        let options = if random.one_in(4) { vec![(10, random.octets(8).into())] } else { Vec::new() };
        let udp_size = *random.pick(&[0, 512, 1232, 4096]);
        message.edns = Some(Edns { udp_size, dnssec_ok: random.one_in(2), version: 0, options });
    }
    encode(&message, 512)
}

fn case(pair: &mut Pair, random: &mut Random) -> &'static str {
    pair.pass(random);
    if random.one_in(50) {
        let (one, other) = (pair.relays.step(Event::Tick, pair.now), pair.walks.step(Event::Tick, pair.now));
        pair.step(&[], (one, other));
        pair.counted();
        return "a tick";
    }
    if !pair.waiting.is_empty() && (pair.waiting.len() > 8 || random.one_in(2)) {
        return pair.end(random);
    }
    let asked = match random.below(8) {
        0 => messages::any(random),
        1 => messages::query(random, &NAMES),
        _ => plain(random),
    };
    pair.ask(random, &asked)
}

#[test]
fn what_goes_on_as_it_came_is_what_the_general_path_would_write() {
    let mut pairs = COREFILES.map(Pair::new);
    let mut cases = 0;
    let counts = run("relay", |random| {
        let which = random.below(COREFILES.len());
        // What went before a failure matters for it; not for ever.
        cases += 1;
        if cases % 5000 == 0 {
            pairs[which] = Pair::new(COREFILES[which]);
        }
        case(&mut pairs[which], random)
    });
    let (goes, walks) = (["relayed", "the same octets", "the same message"], ["walks", "walks on"]);
    for what in goes.into_iter().chain(walks).chain(["failed", "walks from here", "a tick"]) {
        assert!(counts.get(what).is_some_and(|count| *count > 30), "{what}: {counts:?}");
    }
    pairs.iter().for_each(Pair::counted);
}
