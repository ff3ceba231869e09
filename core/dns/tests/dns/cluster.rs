//! A small cluster, and dig.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealane_api::Object;
use sealane_catalog::{Builder, Event as Change, Snapshot, Source};
use sealane_dns::chain::ServerAddress;
use sealane_dns::message::{Edns, rcode, rtype};
use sealane_dns::{Config, Effect, Event, Message, Now, Server, Transport, decode, encode};
use serde_json::{Value, json};

/// Monotonic milliseconds on the test's clock.
pub fn at(millis: u64) -> Now {
    let random = 0x1234_5678_9abc_def0;
    Now { monotonic: Duration::from_millis(millis), unix: 1_700_000_000, random, ..Now::default() }
}

pub fn service(namespace: &str, name: &str, spec: Value) -> (Source, Value) {
    (
        Source::Services,
        json!({"metadata": {"namespace": namespace, "name": name, "labels": {"app": name}}, "spec": spec}),
    )
}

pub fn slice(namespace: &str, name: &str, of: &str, ports: Value, endpoints: Value) -> (Source, Value) {
    let v6 = endpoints[0]["addresses"][0].as_str().is_some_and(|a| a.contains(':'));
    let kind = if v6 { "IPv6" } else { "IPv4" };
    let meta = json!({"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": of}});
    (
        Source::EndpointSlices,
        json!({"metadata": meta, "addressType": kind, "ports": ports, "endpoints": endpoints}),
    )
}

pub fn objects() -> Vec<(Source, Value)> {
    let http = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let mut objects = vec![
        service(
            "default",
            "service-test",
            json!({"clusterIP": "10.102.251.155", "clusterIPs": ["10.102.251.155"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
        ),
        slice(
            "default",
            "service-test-x",
            "service-test",
            http.clone(),
            json!([
            {"addresses": ["10.244.3.215"], "targetRef": {"kind": "Pod", "name": "my-nginx-1"}},
            {"addresses": ["10.244.3.216"], "targetRef": {"kind": "Pod", "name": "my-nginx-2"}},
            {"addresses": ["10.244.4.94"], "conditions": {"ready": false}}]),
        ),
        service(
            "default",
            "dual",
            json!({"clusterIP": "10.96.0.40", "clusterIPs": ["10.96.0.40", "fd00::40"],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]}),
        ),
        service("default", "web", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        slice(
            "default",
            "web-a",
            "web",
            http.clone(),
            json!([
            {"addresses": ["10.244.0.5"], "hostname": "web-0"}, {"addresses": ["10.244.0.6"], "hostname": "web-1"},
            {"addresses": ["10.244.0.7"]}]),
        ),
        slice("default", "web-b", "web", http, json!([{"addresses": ["fd00:1::5"], "hostname": "web-0"}])),
        service("default", "portless", json!({"clusterIP": "None"})),
        slice("default", "portless-a", "portless", json!(null), json!([{"addresses": ["10.244.9.1"]}])),
        service("default", "quiet", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        service(
            "default",
            "empty",
            json!({"clusterIP": "10.96.0.60", "ports": [{"name": "http", "port": 80}]}),
        ),
        service("default", "plain", json!({"clusterIP": "10.96.0.61"})),
        service("default", "outside", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service(
            "default",
            "inside",
            json!({"type": "ExternalName",
            "externalName": "service-test.default.svc.cluster.local"}),
        ),
        service(
            "default",
            "dangling",
            json!({"type": "ExternalName", "externalName": "no.default.svc.cluster.local"}),
        ),
        service(
            "default",
            "round",
            json!({"type": "ExternalName", "externalName": "round.default.svc.cluster.local"}),
        ),
        service(
            "kube-system",
            "kube-dns",
            json!({"clusterIP": "10.96.0.10", "ports":
            [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]}),
        ),
        slice(
            "kube-system",
            "kube-dns-x",
            "kube-dns",
            json!([{"name": "dns", "port": 53, "protocol": "UDP"}]),
            json!([{"addresses": ["10.244.0.2"]}]),
        ),
        service("lost", "svc", json!({"clusterIP": "10.96.0.99", "ports": [{"port": 1}]})),
        (
            Source::Pods,
            json!({"metadata": {"namespace": "default", "name": "p"}, "status": {"podIP": "10.244.0.5"}}),
        ),
    ];
    for name in ["default", "kube-system", "void"] {
        objects.push((Source::Namespaces, json!({"metadata": {"name": name, "labels": {"tier": name}}})));
    }
    objects
}

/// The cluster of the tables.
pub fn snapshot() -> Arc<Snapshot> {
    snapshot_of(&objects())
}

/// A cluster of these objects.
pub fn snapshot_of(objects: &[(Source, Value)]) -> Arc<Snapshot> {
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    relisted(&mut builder, objects)
}

/// The builder's next cluster: these objects and no others.
pub fn relisted(builder: &mut Builder, objects: &[(Source, Value)]) -> Arc<Snapshot> {
    for source in Source::ALL {
        builder.apply(Change::RelistBegin(source));
        for (_, object) in objects.iter().filter(|(of, _)| *of == source) {
            builder.apply(Change::Applied(source, Object::new(object.clone())));
        }
        builder.apply(Change::RelistEnd(source));
    }
    builder.publish().0
}

/// A server for a Corefile.
pub fn server(corefile: &str) -> Server {
    let mut config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
    for want in config.files() {
        let content = match want.path.as_str() {
            "/resolv.conf" => Some("nameserver 192.0.2.53\nnameserver 192.0.2.54\n"),
            "/etc/resolv.conf" => Some("search corp.example\nnameserver 192.0.2.53\n"),
            "/search.conf" => Some("search a.example b.example\n"),
            _ => None,
        };
        config.load(&want.path, content).unwrap();
    }
    Server::new(config, vec!["10.244.0.2".parse().unwrap()], at(0))
}

/// A server that knows these objects.
pub fn knowing(corefile: &str, objects: &[(Source, Value)]) -> Server {
    let mut server = server(corefile);
    server.step(Event::Snapshot(snapshot_of(objects)), at(0));
    server
}

/// A server that knows the cluster.
pub fn synced(corefile: &str) -> Server {
    let mut server = server(corefile);
    assert!(server.step(Event::Snapshot(snapshot()), at(0)).is_empty());
    server
}

pub fn rtype_of(text: &str) -> u16 {
    (1..=257).find(|n| rtype::name(*n) == text).unwrap()
}

/// A query as dig sends it; `+edns` adds OPT of 1232 octets with a cookie.
pub fn query(text: &str) -> Message {
    let mut words = text.split_whitespace();
    let (name, kind) = (words.next().unwrap(), words.next().unwrap());
    let mut message = Message::query(77, name.parse().unwrap(), rtype_of(kind));
    for word in words {
        match word {
            "+edns" => {
                let options = vec![(10, Box::from(*b"cookie!!")), (65_001, Box::from(*b"?"))];
                message.edns = Some(Edns { udp_size: 1232, options, ..Edns::default() });
            }
            "+do" => {
                message.edns = Some(Edns { udp_size: 4096, dnssec_ok: true, ..Edns::default() });
            }
            "+cd" => message.flags.checking_disabled = true,
            other => panic!("{other}"),
        }
    }
    message
}

pub fn ask(server: &mut Server, message: &Message, transport: Transport, now: Now) -> Vec<Effect> {
    ask_at(server, 53.into(), message, transport, now)
}

/// The same by another listener.
pub fn ask_at(
    server: &mut Server,
    at: ServerAddress,
    message: &Message,
    transport: Transport,
    now: Now,
) -> Vec<Effect> {
    let client: SocketAddr = "10.244.0.9:4242".parse().unwrap();
    let bytes = encode(message, 65_535);
    server.step(Event::Query { server: at, transport, client, bytes: &bytes }, now)
}

/// A query from an address, and the answer that must come at once.
pub fn dig_from(server: &mut Server, client: &str, text: &str) -> Message {
    let client = SocketAddr::new(client.parse().unwrap(), 4242);
    let bytes = encode(&query(text), 65_535);
    let query = Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes: &bytes };
    let effects = server.step(query, at(1000));
    let Some(Effect::Reply(bytes)) = effects.iter().find(|e| matches!(e, Effect::Reply(_))) else {
        panic!("{text}: {effects:?}")
    };
    decode(bytes).unwrap()
}

/// What dig prints, the sections' letters in front.
pub fn show(message: &Message) -> String {
    let f = message.flags;
    let flags = [
        (f.authoritative, "aa"),
        (f.truncated, "tc"),
        (f.recursion_desired, "rd"),
        (f.recursion_available, "ra"),
        (f.authentic, "ad"),
        (f.checking_disabled, "cd"),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let mut lines = vec![format!("{} {}", rcode::name(message.rcode), flags.join(","))];
    for (letter, section) in [("", &message.answers), ("N ", &message.authority), ("+ ", &message.additional)]
    {
        lines.extend(section.iter().map(|record| format!("{letter}{record}")));
    }
    if let Some(edns) = &message.edns {
        let options: Vec<u16> = edns.options.iter().map(|(code, _)| *code).collect();
        lines.push(format!("OPT {} {options:?}", edns.udp_size));
    }
    lines.join("\n")
}

/// Asks, and shows the answer that must come at once.
pub fn dig(server: &mut Server, text: &str) -> String {
    crate::prepared::holds(server, &query(text));
    let effects = ask(server, &query(text), Transport::Udp, at(1000));
    let Some(Effect::Reply(bytes)) = effects.iter().find(|e| matches!(e, Effect::Reply(_))) else {
        panic!("{text}: {effects:?}")
    };
    let reply = decode(bytes).unwrap();
    assert_eq!(reply.id, 77);
    assert!(reply.flags.response);
    assert_eq!(reply.questions, query(text).questions);
    show(&reply)
}

/// The lines of a table: a question after `? `, then its answer; `NODATA` and `NXDOMAIN` are those with nothing but the
/// zone's SOA (RFC 2308, sections 2.1 and 2.2).
pub fn check(server: &mut Server, table: &str) {
    let mut cases = 0;
    for case in table.split("? ").skip(1) {
        let (question, answer) = case.split_once('\n').unwrap();
        let lines = answer.lines().map(str::trim).filter(|line| !line.is_empty());
        let expected: Vec<&str> = match lines.collect::<Vec<_>>()[..] {
            ["NODATA"] => vec!["NOERROR aa,rd", "N SOA"],
            ["NXDOMAIN"] => vec!["NXDOMAIN aa,rd", "N SOA"],
            ref lines => lines.to_vec(),
        };
        let soa = "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1700000000 7200 1800 86400 30";
        let found = dig(server, question).replace(soa, "SOA");
        assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{question}");
        cases += 1;
    }
    assert!(cases > 0);
}
