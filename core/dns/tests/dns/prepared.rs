//! Answers that are kept are those that the general path gives, whatever changed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use sealane_api::Object;
use sealane_catalog::{Builder, Event as Change, Source};
use sealane_dns::message::{Message, rtype};
use sealane_dns::prepared::Prepared;
use sealane_dns::{Effect, Event, Server, Transport, decode, encode};
use serde_json::{Value, json};

use crate::cluster::{at, query, server};

const ROOM: usize = 1 << 20;

fn step(server: &mut Server, request: &[u8]) -> Option<Vec<u8>> {
    let client = "10.244.0.9:4242".parse().unwrap();
    let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: request };
    let effects = server.step(event, at(1000));
    effects.into_iter().find_map(|effect| match effect {
        Effect::Reply(bytes) => Some(bytes),
        _ => None,
    })
}

/// Equal octets, or the same but for the order of the answers.
#[track_caller]
fn same(kept: &[u8], general: &[u8], shuffled: bool) {
    if !shuffled {
        assert_eq!(kept, general);
        return;
    }
    let sorted = |bytes: &[u8]| {
        let mut message = decode(bytes).unwrap();
        message.answers.sort_by_key(ToString::to_string);
        message
    };
    assert_eq!(sorted(kept), sorted(general));
    assert_eq!(kept.len(), general.len());
}

/// Asks the same again with another id, and in another case, and holds what is kept against the general path: called
/// for every query of every table.
#[track_caller]
pub fn holds(server: &mut Server, message: &Message) -> bool {
    let request = encode(message, 65_535);
    let Some(reply) = step(server, &request) else { return false };
    // What is answered here goes on to nobody.
    let client = "10.244.0.9:4242".parse().unwrap();
    assert!(server.relay((53.into(), client), &request, at(1000)).is_none(), "{message:?}");
    let Some(preparation) = server.preparation() else { return false };
    let shuffled = preparation.rotates;
    let mut prepared = Prepared::new(ROOM, 7);
    if let Some((changed, serial)) = server.changed() {
        prepared.changed(&changed, serial);
    }
    prepared.changed(&sealane_dns::prepared::Changed::All, serial_of(server));
    prepared.keep(&request, &reply, preparation);
    let mut asked = 0;
    for (id, case) in [(3, None), (4, Some(true)), (5, Some(false))] {
        let mut again = Message { id, ..message.clone() };
        let name = again.questions[0].name.to_string();
        let name = case.map_or(name.clone(), |up| if up { name.to_uppercase() } else { name.to_lowercase() });
        again.questions[0].name = name.parse().unwrap();
        let request = encode(&again, 65_535);
        let mut out = Vec::new();
        for turn in 0..4 {
            if prepared.answer(&request, true, turn, &mut out) {
                same(&out, &step(server, &request).unwrap(), shuffled);
                asked += 1;
            }
        }
    }
    assert!(asked > 0 || prepared.is_empty(), "{message:?} is kept, and not found");
    asked > 0
}

/// The serial number that the server's SOA has now.
fn serial_of(server: &mut Server) -> u32 {
    let bytes = step(server, &encode(&query("cluster.local SOA"), 512)).unwrap();
    let message = decode(&bytes).unwrap();
    message.answers.first().map_or(0, |record| match &record.data {
        sealane_dns::message::Data::Soa(soa) => soa.serial,
        other => panic!("{other:?}"),
    })
}

#[test]
fn what_may_be_kept() {
    let block = |plugins: &str| {
        format!(
            ".:53 {{\n {plugins}\n kubernetes cluster.local in-addr.arpa {{\n fallthrough in-addr.arpa\n }}\n}}"
        )
    };
    let snapshot = crate::cluster::snapshot();
    for (plugins, question, kept) in [
        ("", "service-test.default.svc.cluster.local A", true),
        ("", "service-test.default.svc.cluster.local AAAA", true),
        ("", "service-test.default.svc.cluster.local A +do", true),
        // Options may be anything, and another each time.
        ("", "service-test.default.svc.cluster.local A +edns", false),
        ("", "_http._tcp.service-test.default.svc.cluster.local SRV", true),
        ("", "web.default.svc.cluster.local A", true),
        ("loadbalance", "web.default.svc.cluster.local A", true),
        ("", "web-0.web.default.svc.cluster.local A", true),
        ("", "no.default.svc.cluster.local A", true),
        ("", "no.no.svc.cluster.local A", true),
        ("", "x.cluster.local A", true),
        ("", "5.0.244.10.in-addr.arpa PTR", true),
        ("errors\n cache 30\n prometheus :0\n health\n ready", "dual.default.svc.cluster.local A", true),
        // What depends on more than one thing, or on who asks.
        ("", "inside.default.svc.cluster.local A", false),
        ("", "dangling.default.svc.cluster.local A", false),
        ("", "cluster.local NS", false),
        ("", "ns.dns.cluster.local A", false),
        ("log", "service-test.default.svc.cluster.local A", false),
    ] {
        let mut server = server(&block(plugins));
        server.step(Event::Snapshot(Arc::clone(&snapshot)), at(0));
        assert_eq!(holds(&mut server, &query(question)), kept, "{plugins:?} {question}");
    }
}

#[test]
fn before_the_cluster_is_known_nothing_is_kept() {
    let mut server = server(".:53 {\n kubernetes cluster.local\n}");
    assert!(!holds(&mut server, &query("a.default.svc.cluster.local A")));
}

#[test]
fn addresses_take_turns_and_room_is_bounded() {
    let mut server = server(".:53 {\n loadbalance\n kubernetes cluster.local\n}");
    server.step(Event::Snapshot(crate::cluster::snapshot()), at(0));
    let request = encode(&query("web.default.svc.cluster.local A"), 512);
    let reply = step(&mut server, &request).unwrap();
    let mut prepared = Prepared::new(20_000, 7);
    prepared.keep(&request, &reply, server.preparation().unwrap());
    let mut out = Vec::new();
    let mut first = BTreeMap::new();
    for turn in 0..9 {
        assert!(prepared.answer(&request, false, turn, &mut out));
        *first.entry(decode(&out).unwrap().answers[0].to_string()).or_insert(0) += 1;
    }
    assert_eq!(first.values().collect::<Vec<_>>(), [&3, &3, &3]);
    let served = prepared.served();
    assert_eq!((served.len(), served[0].times, served[0].answered), (1, [0, 9], out.len()));
    assert!(prepared.served().is_empty());
    // A thousand names that nobody has: the one that is asked for all the time stays.
    for number in 0..1000 {
        let request = encode(&query(&format!("no-{number}.default.svc.cluster.local A")), 512);
        let reply = step(&mut server, &request).unwrap();
        prepared.keep(&request, &reply, server.preparation().unwrap());
        assert!(prepared.answer(&encode(&query("web.default.svc.cluster.local A"), 512), true, 0, &mut out));
    }
    assert!((10..100).contains(&prepared.len()), "{}", prepared.len());
}

/// An object of a small cluster in one of its states; `None`: it is gone.
fn object(kind: u8, which: u8, state: u8) -> (Source, Value, bool) {
    let (namespace, name) = (["a", "b"][usize::from(which & 1)], ["x", "y"][usize::from(which >> 1 & 1)]);
    let gone = state == 0;
    match kind {
        0 => (
            Source::Namespaces,
            json!({"metadata": {"name": namespace, "labels": {"s": state.to_string()}}}),
            gone,
        ),
        1 => {
            let spec = match state {
                1 => json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}),
                2 => {
                    json!({"type": "ExternalName", "externalName": format!("y.{namespace}.svc.cluster.local")})
                }
                _ => {
                    json!({"clusterIP": format!("10.96.0.{which}"), "clusterIPs": [format!("10.96.0.{which}")],
                    "ports": [{"name": "http", "port": 80 + u16::from(state)}]})
                }
            };
            (
                Source::Services,
                json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}),
                gone,
            )
        }
        _ => {
            let endpoint = |n: u8| {
                json!({"addresses": [format!("10.244.0.{n}")], "hostname": format!("h-{n}"),
                "conditions": {"ready": (state & 4) == 0 || n & 1 == 0}})
            };
            let endpoints: Vec<Value> = (0..state & 3).map(|n| endpoint(n + which)).collect();
            let meta = json!({"namespace": namespace, "name": format!("{name}-0"),
                "labels": {"kubernetes.io/service-name": name}});
            let slice = json!({"metadata": meta, "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
            (Source::EndpointSlices, slice, gone)
        }
    }
}

fn questions() -> Vec<Message> {
    let mut out = Vec::new();
    for namespace in ["a", "b", "c"] {
        for name in ["x", "y"] {
            let service = format!("{name}.{namespace}.svc.cluster.local");
            for question in [
                format!("{service} A"),
                format!("{service} SRV"),
                format!("h-1.{service} A"),
                format!("_http._tcp.{service} SRV"),
                format!("{service} TXT"),
            ] {
                out.push(query(&question));
            }
        }
        out.push(query(&format!("{namespace}.svc.cluster.local A")));
    }
    for address in ["0.0.96.10", "1.0.96.10", "0.0.244.10", "1.0.244.10", "2.0.244.10"] {
        out.push(query(&format!("{address}.in-addr.arpa PTR")));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_changes_what_is_kept_is_true(
        changes in prop::collection::vec((0u8..3, 0u8..4, 0u8..8), 1..40),
        loadbalance in any::<bool>(),
    ) {
        let plugin = if loadbalance { "loadbalance" } else { "errors" };
        let corefile =
            format!(".:53 {{\n {plugin}\n cache 30\n kubernetes cluster.local in-addr.arpa {{\n ttl 30\n }}\n}}");
        let mut server = server(&corefile);
        let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
        for source in Source::ALL {
            builder.apply(Change::RelistBegin(source));
            builder.apply(Change::RelistEnd(source));
        }
        let mut prepared = Prepared::new(ROOM, 7);
        let (mut kept, mut unix) = (0, 1_700_000_000);
        for (kind, which, state) in changes {
            let (source, value, gone) = object(kind, which, state);
            let object = Object::new(value);
            builder.apply(if gone { Change::Deleted(source, object) } else { Change::Applied(source, object) });
            unix += 1;
            server.step(Event::Snapshot(builder.publish().0), sealane_dns::Now { unix, ..at(0) });
            if let Some((changed, serial)) = server.changed() {
                prepared.changed(&changed, serial);
            }
            for question in questions() {
                let request = encode(&question, 512);
                let mut out = Vec::new();
                let found = prepared.answer(&request, true, 1, &mut out);
                let general = step(&mut server, &request).unwrap();
                match (found, server.preparation()) {
                    (true, _) => {
                        kept += 1;
                        same(&out, &general, loadbalance);
                    }
                    (false, Some(preparation)) => prepared.keep(&request, &general, preparation),
                    (false, None) => prop_assert!(question.questions[0].rtype != rtype::PTR),
                }
            }
        }
        prop_assert!(kept > 0 || builder.publish().0.sequence() < 3);
    }
}

/// A server with `cache` in front of an upstream that answers at once.
struct Cached {
    server: Server,
    prepared: Prepared,
    now: sealane_dns::Now,
    asked: usize,
}

impl Cached {
    fn new(options: &str) -> Self {
        let corefile = format!(
            ".:53 {{\n errors\n loadbalance\n cache 100 {{\n{options}\n }}\n forward . 192.0.2.53\n}}"
        );
        Cached { server: server(&corefile), prepared: Prepared::new(ROOM, 7), now: at(0), asked: 0 }
    }

    /// What a listener does with a question at this time (ms): the answer, and whether it was prepared.
    fn ask(&mut self, millis: u64, text: &str) -> (Message, bool) {
        self.now = at(millis);
        self.prepared.clock(self.now.monotonic);
        let request = encode(&query(text), 512);
        let mut out = Vec::new();
        if self.prepared.answer(&request, true, 0, &mut out) {
            return (decode(&out).unwrap(), true);
        }
        let client = "10.244.0.9:4242".parse().unwrap();
        let event = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &request };
        let mut effects: std::collections::VecDeque<_> = self.server.step(event, self.now).into();
        let preparation = self.server.preparation();
        let mut reply = None;
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Reply(bytes) => reply = Some(bytes),
                Effect::Ask { message, pending, .. } => {
                    self.asked += 1;
                    let asked = decode(&message).unwrap();
                    let mut answer = asked.reply(0);
                    for last in 1..=3 {
                        let data = sealane_dns::message::Data::A([192, 0, 2, last].into());
                        let name = asked.questions[0].name.clone();
                        answer.answers.push(sealane_dns::message::Record::new(
                            name,
                            60 + u32::from(last),
                            data,
                        ));
                    }
                    let bytes = encode(&answer, 512);
                    effects.extend(self.server.step(Event::Answer { pending, bytes: &bytes }, self.now));
                }
                other => panic!("{other:?}"),
            }
        }
        let reply = reply.unwrap();
        if let Some(preparation) = preparation {
            self.prepared.keep(&request, &reply, preparation);
        }
        (decode(&reply).unwrap(), false)
    }

    fn metric(&mut self, name: &str) -> f64 {
        let served = self.prepared.served();
        self.server.served(&served, std::time::Duration::ZERO);
        let mut page = String::new();
        self.server.render_metrics(&mut page);
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

#[test]
fn cached_answers_are_prepared_and_count_down() {
    let mut cached = Cached::new("");
    let ttl = |(message, prepared): (Message, bool)| {
        let ttls: std::collections::BTreeSet<u32> = message.answers.iter().map(|record| record.ttl).collect();
        assert_eq!((ttls.len(), message.answers.len()), (1, 3));
        (*ttls.first().unwrap(), prepared)
    };
    for (millis, text, expected) in [
        (0, "a.example A", (61, false)),
        (100, "a.example A", (61, false)),
        (200, "a.example A", (61, true)),
        (999, "A.Example A", (61, true)),
        (1000, "a.example A", (60, true)),
        (60_999, "a.example A", (1, true)),
        // It has ended: asked for again, cached, prepared.
        (61_000, "a.example A", (61, false)),
        (61_000, "a.example A", (61, false)),
        (62_000, "a.example A", (60, true)),
        // Other questions to the cache.
        (62_000, "a.example A +cd", (61, false)),
        (62_000, "a.example A +do", (61, false)),
    ] {
        assert_eq!(ttl(cached.ask(millis, text)), expected, "{millis} {text}");
    }
    assert_eq!(cached.asked, 4);
    // What the hot path handed out is counted as the cache counts, and as the server does.
    assert_eq!(cached.metric("coredns_cache_requests_total"), 11.0);
    assert_eq!(cached.metric("coredns_cache_misses_total"), 4.0);
    assert_eq!(cached.metric("coredns_cache_hits_total"), 7.0);
    assert_eq!(cached.metric("coredns_dns_requests_total"), 11.0);
    // Another configuration: what was prepared is forgotten.
    cached.prepared.changed(&sealane_dns::prepared::Changed::All, 0);
    assert_eq!(ttl(cached.ask(63_000, "a.example A")), (59, false));
}

#[test]
fn cached_answers_with_keepttl_stay() {
    let mut cached = Cached::new("  keepttl");
    for (millis, prepared) in [(0, false), (10, false), (30_000, true), (60_999, true), (61_000, false)] {
        let (message, found) = cached.ask(millis, "a.example A");
        assert_eq!((message.answers[0].ttl, found), (61, prepared), "{millis}");
    }
}

#[test]
fn popular_answers_are_asked_for_again_although_they_are_prepared() {
    let mut cached = Cached::new("  prefetch 3 16s 20%");
    let mut prepared = 0;
    for second in 0..=47 {
        prepared += u32::from(cached.ask(second * 1000, "a.example A").1);
    }
    // A TTL of 61 s: the last 13 s are when it is asked for again, not before.
    assert_eq!(cached.asked, 1);
    assert!(prepared > 15, "{prepared}");
    let (message, _) = cached.ask(48_000, "a.example A");
    assert_eq!((cached.asked, message.answers[0].ttl), (2, 13));
    assert_eq!(cached.ask(49_000, "a.example A").0.answers[0].ttl, 60);
    assert_eq!(cached.metric("coredns_cache_prefetch_total"), 1.0);
    // Nobody asks for more than the 16 s: it is not popular any more, and ends.
    cached.ask(100_000, "a.example A");
    assert_eq!(cached.asked, 2);
}

#[test]
fn ended_answers_are_not_prepared() {
    let mut cached = Cached::new("  serve_stale 1h immediate");
    cached.ask(0, "a.example A");
    cached.ask(0, "a.example A");
    assert!(cached.ask(60_000, "a.example A").1);
    let (message, prepared) = cached.ask(61_000, "a.example A");
    assert_eq!((message.answers[0].ttl, prepared, cached.asked), (0, false, 2));
    assert_eq!(cached.metric("coredns_cache_served_stale_total"), 1.0);
}
