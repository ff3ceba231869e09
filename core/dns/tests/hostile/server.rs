//! A server with most of the plugins among strangers: clients send anything, upstreams answer anything. Whatever comes,
//! it does not panic, answers no response, answers once, in what the client can take and in what `domain` can read;
//! and what it prepared for the hot path is what the general path says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealane_api::Object;
use sealane_catalog::{Builder, Event as Change, Snapshot, Source};
use sealane_dns::message::{Data, Record};
use sealane_dns::prepared::Prepared;
use sealane_dns::{Config, Effect, Event, Now, Server, Transport, decode, encode};
use serde_json::{Value, json};

use crate::random::Random;
use crate::reference::read;
use crate::{messages, run};

/// No `view`, and nothing before the cluster's zone that lets each query by in its own way: answers are prepared.
const PLAIN: &str = ".:53 {
  errors
  loadbalance
  cache 30 {
    prefetch 2 1m 20%
    serve_stale 1h
  }
  hosts {
    192.0.2.7 host.example other.example
    2001:db8::7 host.example
    ttl 60
    fallthrough
  }
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    pods verified
    endpoint_pod_names
    fallthrough in-addr.arpa ip6.arpa
  }
  forward . 192.0.2.1 192.0.2.2 {
    max_concurrent 50
    policy sequential
    prefer_udp
    failover SERVFAIL
  }
  prometheus
}";

/// Everything that changes questions and answers.
const RICH: &str = ".:53 {
  metadata
  log . {
    class all
  }
  errors
  nsid hostile
  bufsize 1232
  minimal
  header {
    response set ra
  }
  acl {
    block type ANY net 192.0.2.66
    filter type MX
  }
  any
  chaos Sealane nobody
  loadbalance round_robin
  cache 10 {
    serve_stale 1h verify 20ms
    keepttl
    servfail 3s
  }
  rewrite name regex (.*)\\.short\\.example {1}.default.svc.cluster.local answer auto
  rewrite edns0 local set 0xffee abcdef
  dns64 {
    prefix 64:ff9b::/96
    translate_all
  }
  autopath @kubernetes
  template IN A template.example {
    match ^(?P<n>[0-9]+)[.]template[.]example[.]$
    answer \"{{ .Name }} 60 IN A 192.0.2.{{ .Group.n }}\"
    fallthrough
  }
  k8s_external external.example {
    headless
  }
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    pods verified
    fallthrough in-addr.arpa
  }
  forward . 192.0.2.1 192.0.2.2 {
    next NXDOMAIN
    max_fails 1
  }
  forward . 192.0.2.3 {
    force_tcp
  }
}
whoami.example:53 {
  whoami
}
odd.example:53 {
  erratic {
    drop 3
    delay 5 10ms
    truncate 4
  }
}
";

const NAMES: [&str; 19] = [
    "web.default.svc.cluster.local",
    "h-1.web.default.svc.cluster.local",
    "api.default.svc.cluster.local",
    "out.default.svc.cluster.local",
    "no.default.svc.cluster.local",
    "10-244-0-5.default.pod.cluster.local",
    "cluster.local",
    "ns.dns.cluster.local",
    "1.0.96.10.in-addr.arpa",
    "5.0.244.10.in-addr.arpa",
    "host.example",
    "web.short.example",
    "7.template.example",
    "web.default.external.example",
    "whoami.example",
    "odd.example",
    "www.example.com",
    "bind",
    "",
];

fn cluster() -> Arc<Snapshot> {
    let endpoint = |n: u8| json!({"addresses": [format!("10.244.0.{n}")], "hostname": format!("h-{n}")});
    let endpoints: Vec<Value> = (1..40).map(endpoint).collect();
    let slice = |of: &str, endpoints: &[Value]| {
        let labels = json!({"kubernetes.io/service-name": of});
        let meta = json!({"namespace": "default", "name": format!("{of}-0"), "labels": labels});
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
        json!({"metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": endpoints})
    };
    let service =
        |name: &str, spec: Value| json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let objects = [
        (Source::Namespaces, json!({"metadata": {"name": "default"}})),
        (Source::Services, service("web", json!({"clusterIP": "None", "ports": ports}))),
        (
            Source::Services,
            service(
                "api",
                json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": ports}),
            ),
        ),
        (
            Source::Services,
            service("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        ),
        (Source::EndpointSlices, slice("web", &endpoints)),
        (Source::EndpointSlices, slice("api", &endpoints[..3])),
    ];
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    for source in Source::ALL {
        builder.apply(Change::RelistBegin(source));
        for (_, object) in objects.iter().filter(|(of, _)| *of == source) {
            builder.apply(Change::Applied(source, Object::new(object.clone())));
        }
        builder.apply(Change::RelistEnd(source));
    }
    builder.publish().0
}

/// A server, its listener's prepared answers, and the time.
struct Stage {
    server: Server,
    prepared: Prepared,
    now: Now,
    /// Some of what was asked before.
    asked: Vec<Vec<u8>>,
    /// What was prepared last.
    kept: Vec<Vec<u8>>,
}

impl Stage {
    fn new(corefile: &str) -> Self {
        let mut config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
        for want in config.files() {
            let content =
                (want.path == "/etc/resolv.conf").then_some("search corp.example\nnameserver 192.0.2.9\n");
            config.load(&want.path, content).unwrap();
        }
        let now = Now { monotonic: Duration::from_secs(1), unix: 1_700_000_000, nanos: 0, random: 7 };
        let mut server = Server::new(config, vec!["10.96.0.10".parse().unwrap()], now);
        server.step(Event::Snapshot(cluster()), now);
        Stage { server, prepared: Prepared::new(1 << 20, 7), now, asked: Vec::new(), kept: Vec::new() }
    }

    fn learn(&mut self) {
        if let Some((changed, serial)) = self.server.changed() {
            self.prepared.changed(&changed, serial);
        }
    }

    fn pass(&mut self, random: &mut Random) {
        let millis = *random.pick(&[0, 0, 1, 40, 400, 3000, 20_000]);
        self.now.monotonic += Duration::from_millis(millis);
        self.now.unix += millis / 1000;
        self.now.random = random.next();
        self.prepared.clock(self.now.monotonic);
    }

    fn step(&mut self, event: Event<'_>) -> Vec<Effect> {
        let effects = self.server.step(event, self.now);
        self.learn();
        effects
    }

    /// A message of a client, and everything that comes of it: the replies.
    fn ask(&mut self, random: &mut Random, transport: Transport, bytes: &[u8]) -> Vec<Vec<u8>> {
        let client: SocketAddr =
            (*random.pick(&["10.244.0.5:4242", "192.0.2.66:53", "[2001:db8::9]:9"])).parse().unwrap();
        let event = Event::Query { server: 53.into(), transport, client, bytes };
        let mut effects: VecDeque<Effect> = self.step(event).into();
        let preparation = self.server.preparation();
        let (mut replies, mut steps) = (Vec::new(), 0);
        while let Some(effect) = effects.pop_front() {
            steps += 1;
            assert!(steps < 2000, "it does not end");
            match effect {
                Effect::Reply(bytes) => replies.push(bytes),
                Effect::Log(_) | Effect::Write(_) | Effect::Show(..) | Effect::Trace(..) => {}
                Effect::Fatal(why) => panic!("{why}"),
                Effect::Wait { pending, time } => {
                    self.now.monotonic += time;
                    effects.extend(self.step(Event::Waited(pending)));
                }
                Effect::Ask { message, pending, .. } => {
                    self.pass(random);
                    effects.extend(match upstream(random, &message) {
                        Some(answer) => self.step(Event::Answer { pending, bytes: &answer }),
                        None => self.step(Event::Failed { pending, why: "connection refused".to_owned() }),
                    });
                }
            }
        }
        if let (Transport::Udp, [reply], Some(preparation)) = (transport, replies.as_slice(), preparation) {
            self.kept.truncate(64);
            self.kept.insert(0, bytes.to_vec());
            self.prepared.keep(bytes, reply, preparation);
        }
        replies
    }
}

/// An upstream's answer, an honest one or not; the id is the right one, or it would not get here.
pub fn upstream(random: &mut Random, asked: &[u8]) -> Option<Vec<u8>> {
    let mut query = decode(asked).expect("what goes to upstreams is a message");
    assert!(read(asked).is_ok(), "{asked:02x?}");
    let mut answer = match random.below(12) {
        0 => return None,
        1 => messages::any(random),
        2 => asked.to_vec(),
        what => {
            let mut reply = query.reply(if what == 3 { random.u16() & 0xfff } else { 0 });
            if what == 4 {
                query.questions[0].name = "else.example".parse().unwrap();
            }
            let name = query.questions.remove(0).name;
            for n in 0..random.below(if what == 5 { 400 } else { 5 }) {
                let data = Data::A([192, 0, 2, n as u8].into());
                reply.answers.push(Record::new(name.clone(), *random.pick(&[0, 1, 5, 300]), data));
            }
            if what == 6 {
                reply.answers.push(Record::new(name.clone(), 60, Data::Cname(name.clone())));
            }
            reply.flags.truncated = what == 7;
            let mut bytes = encode(&reply, usize::from(u16::MAX));
            if what == 8 {
                messages::damage(random, &mut bytes);
            }
            bytes
        }
    };
    if answer.len() >= 2 {
        answer[..2].copy_from_slice(&asked[..2]);
    }
    Some(answer)
}

/// The rules that hold for any reply to any message.
fn check(asked: &[u8], transport: Transport, replies: &[Vec<u8>], rewrites: bool) -> &'static str {
    let query = asked.len() >= 12 && asked[2] & 0x80 == 0;
    if !query {
        assert!(replies.is_empty(), "{asked:02x?} is no query, and is answered with {replies:02x?}");
        return "no query";
    }
    let [reply] = replies else {
        assert!(replies.is_empty(), "{asked:02x?} is answered {} times", replies.len());
        return "not answered";
    };
    let read = read(reply).unwrap_or_else(|why| panic!("{asked:02x?}: {why}: {reply:02x?}"));
    assert_eq!(reply[..2], asked[..2]);
    assert_eq!(reply[2] & 0xf8, asked[2] & 0x78 | 0x80, "{asked:02x?}: {reply:02x?}");
    let room = match (transport, decode(asked)) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, Ok(message)) => message.edns.map_or(512, |edns| usize::from(edns.udp_size).max(512)),
        (Transport::Udp, Err(_)) => 512,
    };
    assert!(reply.len() <= room, "{asked:02x?}: {} octets for {room}", reply.len());
    let asked_edns = decode(asked).is_ok_and(|asked| asked.edns.is_some());
    match read.edns.len() {
        // What is refused before it is read in full gets a header and a question back, as from CoreDNS.
        0 => assert!(!asked_edns || matches!(read.rcode, 1 | 4), "{asked:02x?}: {reply:02x?}"),
        // `rewrite edns0` makes EDNS of a question without, and it has an answer with EDNS then, as from CoreDNS.
        edns => assert!(edns == 1 && (asked_edns || rewrites), "{asked:02x?}: {reply:02x?}"),
    }
    match read.rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        _ => "another code",
    }
}

/// What is prepared for a message is what the general path says now: all octets, but for the order of addresses.
fn same(stage: &mut Stage, random: &mut Random, asked: &[u8], kept: &[u8]) {
    let general = stage.ask(random, Transport::Udp, asked);
    let [general] = general.as_slice() else { panic!("{asked:02x?} is prepared, and not answered") };
    let sorted = |bytes: &[u8]| {
        let mut content = read(bytes).unwrap();
        content.sections.iter_mut().for_each(|section| section.sort());
        content
    };
    assert_eq!((sorted(kept), kept.len()), (sorted(general), general.len()), "{asked:02x?}");
}

fn case(stage: &mut Stage, rewrites: bool, random: &mut Random) -> &'static str {
    stage.pass(random);
    if random.one_in(50) {
        for effect in stage.step(Event::Tick) {
            if let Effect::Ask { pending, message, .. } = effect {
                match upstream(random, &message) {
                    Some(bytes) => stage.step(Event::Answer { pending, bytes: &bytes }),
                    None => stage.step(Event::Failed { pending, why: String::new() }),
                };
            }
        }
    }
    let asked = match random.below(8) {
        0 => messages::any(random),
        1 if !stage.asked.is_empty() => messages::again(random, &stage.asked),
        2 | 3 if !stage.kept.is_empty() => messages::again(random, &stage.kept),
        _ => messages::query(random, &NAMES),
    };
    if stage.asked.len() < 64 {
        stage.asked.push(asked.clone());
    } else {
        stage.asked[random.below(64)] = asked.clone();
    }
    let transport = if random.one_in(4) { Transport::Tcp } else { Transport::Udp };
    let mut out = Vec::new();
    if transport == Transport::Udp && stage.prepared.answer(&asked, true, random.below(100), &mut out) {
        check(&asked, transport, &[out.clone()], rewrites);
        same(stage, random, &asked, &out);
        return "prepared";
    }
    let replies = stage.ask(random, transport, &asked);
    check(&asked, transport, &replies, rewrites)
}

#[test]
fn a_server_among_strangers() {
    let mut stages = [Stage::new(PLAIN), Stage::new(RICH)];
    let mut cases = 0;
    let counts = run("server", |random| {
        let which = random.below(2);
        // What went before a failure matters for it; not for ever.
        cases += 1;
        if cases % 5000 == 0 {
            stages[which] = Stage::new([PLAIN, RICH][which]);
        }
        case(&mut stages[which], which == 1, random)
    });
    for what in ["no query", "prepared", "NOERROR", "FORMERR", "NXDOMAIN", "SERVFAIL"] {
        assert!(counts.get(what).is_some_and(|count| *count > 100), "{what}: {counts:?}");
    }
}
