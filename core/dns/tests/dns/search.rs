//! `search collapse`: five queries become one.

use sealane_catalog::Source;
use sealane_dns::message::rcode;
use sealane_dns::{Effect, Event, Server, Transport, decode, encode};
use serde_json::{Value, json};

use crate::cluster::{ask, at, check, dig, dig_from, knowing, query, service, show, slice};

fn objects() -> Vec<(Source, Value)> {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    vec![
        (Source::Namespaces, json!({"metadata": {"name": "default"}})),
        (Source::Namespaces, json!({"metadata": {"name": "other"}})),
        service("default", "web", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})),
        service("default", "db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        slice("default", "db-a", "db", ports, json!([{"addresses": ["10.244.0.5"], "hostname": "db-0"}])),
        service("other", "api", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]})),
        service("other", "away", json!({"type": "ExternalName", "externalName": "x.com"})),
    ]
}

/// Outside are x.com, wiki.team.corp.example and db-9.db; nothing else of the zone `example` is there.
fn corefile(options: &str) -> String {
    format!(
        ".:53 {{
            hosts /none {{
                192.0.2.80 x.com wiki.team.corp.example db-9.db www
                fallthrough
            }}
            kubernetes cluster.local {{
                ttl 30
                {options}
            }}
            cache 30
            forward . /resolv.conf
        }}
        corp.example {{
            hosts /none {{
                192.0.2.81 wiki.team.corp.example
                fallthrough
            }}
            kubernetes corp.example
        }}"
    )
}

fn with(options: &str) -> Server {
    knowing(&corefile(options), &objects())
}

#[test]
fn the_end_of_a_search_is_its_first_answer() {
    let mut server = with("search collapse");
    check(
        &mut server,
        "? x.com.default.svc.cluster.local A
            NOERROR aa,rd
            x.com.default.svc.cluster.local. 30 IN CNAME x.com.
            x.com. 30 IN A 192.0.2.80
        ? wiki.team.default.svc.cluster.local A
            NOERROR aa,rd
            wiki.team.default.svc.cluster.local. 30 IN CNAME wiki.team.corp.example.
            wiki.team.corp.example. 30 IN A 192.0.2.81
        ? api.other.default.svc.cluster.local A
            NOERROR aa,rd
            api.other.default.svc.cluster.local. 30 IN CNAME api.other.svc.cluster.local.
            api.other.svc.cluster.local. 30 IN A 10.96.0.2
        ? api.other.default.svc.cluster.local AAAA
            NOERROR aa,rd
            api.other.default.svc.cluster.local. 30 IN CNAME api.other.svc.cluster.local.
            N SOA
        ? api.other.svc.default.svc.cluster.local A
            NOERROR aa,rd
            api.other.svc.default.svc.cluster.local. 30 IN CNAME api.other.svc.cluster.local.
            api.other.svc.cluster.local. 30 IN A 10.96.0.2
        ? web.default.svc.cluster.local.default.svc.cluster.local A
            NOERROR aa,rd
            web.default.svc.cluster.local.default.svc.cluster.local. 30 IN CNAME web.default.svc.cluster.local.
            web.default.svc.cluster.local. 30 IN A 10.96.0.1
        ? away.other.default.svc.cluster.local A
            NOERROR aa,rd
            away.other.default.svc.cluster.local. 30 IN CNAME away.other.svc.cluster.local.
            away.other.svc.cluster.local. 30 IN CNAME x.com.
            x.com. 30 IN A 192.0.2.80",
    );
    check(
        &mut with("search collapse"),
        "? X.Com.Default.svc.cluster.local A
            NOERROR aa,rd
            X.Com.Default.svc.cluster.local. 30 IN CNAME X.Com.
            X.Com. 30 IN A 192.0.2.80",
    );
    let mut page = String::new();
    server.render_metrics(&mut page);
    assert!(page.contains("sealane_dns_search_collapsed_total{"), "{page}");
}

#[test]
fn names_of_the_cluster_stay_its_own() {
    let mut server = with("search collapse");
    for (text, why) in [
        ("www.default.svc.cluster.local A", "a bare word is a Service's name"),
        ("db-9.db.default.svc.cluster.local A", "endpoints come and go below a Service"),
        ("x.com.nowhere.svc.cluster.local A", "no such namespace"),
        ("x.com.default.pod.cluster.local A", "not of a search list"),
        ("x.com.svc.cluster.local A", "nobody searches that first"),
        ("x.com.cluster.local A", "nobody searches that first"),
        ("_http._tcp.x.com.default.svc.cluster.local A", "no host"),
        ("x.com.default.svc.cluster.local SRV", "hosts have addresses"),
    ] {
        let found = dig(&mut server, text);
        assert!(found.starts_with("NXDOMAIN aa,rd\nN cluster.local."), "{text} ({why}): {found}");
    }
    // What is there is answered as ever.
    assert!(dig(&mut server, "db-0.db.default.svc.cluster.local A").contains("A 10.244.0.5"));
    let off = dig(&mut with(""), "x.com.default.svc.cluster.local A");
    assert!(off.starts_with("NXDOMAIN"), "{off}");
    let elsewhere = dig(&mut server_with_fallthrough(), "x.com.default.svc.cluster.local A");
    assert!(elsewhere.contains("192.0.2.99") && !elsewhere.contains("CNAME"), "{elsewhere}");
    let unknown =
        dig(&mut crate::cluster::server(&corefile("search collapse")), "x.com.default.svc.cluster.local A");
    assert!(unknown.starts_with("SERVFAIL"), "{unknown}");
}

/// The name falls through to somebody who has it.
fn server_with_fallthrough() -> Server {
    let text = ". {\n hosts /none {\n 192.0.2.80 x.com\n 192.0.2.99 x.com.default.svc.cluster.local\n fallthrough\n }\n \
                kubernetes cluster.local {\n search collapse\n fallthrough\n }\n}";
    knowing(text, &objects())
}

/// What the upstream says to the bare name, and what the client gets.
#[test]
fn failures_are_left_to_the_client() {
    for (code, expected) in [
        (rcode::NXDOMAIN, "NXDOMAIN aa,rd\nN cluster.local."),
        (rcode::SERVFAIL, "NXDOMAIN aa,rd\nN cluster.local."),
    ] {
        let mut server = with("search collapse");
        let effects = ask(&mut server, &query("y.com.default.svc.cluster.local A"), Transport::Udp, at(0));
        let asked = effects.into_iter().find_map(|effect| match effect {
            Effect::Ask { message, pending, .. } => Some((decode(&message).unwrap(), pending)),
            _ => None,
        });
        let (message, pending) = asked.unwrap();
        assert_eq!(message.questions[0].name.to_string(), "y.com.");
        let bytes = encode(&message.reply(code), 512);
        let effects = server.step(Event::Answer { pending, bytes: &bytes }, at(1));
        let reply = effects
            .iter()
            .find_map(|e| if let Effect::Reply(b) = e { Some(decode(b).unwrap()) } else { None });
        let reply = reply.unwrap();
        assert!(show(&reply).starts_with(expected), "{}", show(&reply));
        assert_eq!(reply.questions[0].name.to_string(), "y.com.default.svc.cluster.local.");
    }
}

/// The addresses that a name has.
fn addresses(server: &mut Server, name: &str) -> Vec<String> {
    let reply = dig_from(server, "10.244.0.9", &format!("{name} A"));
    let records = reply.answers.iter().map(ToString::to_string);
    records.filter_map(|line| line.split_once(" IN A ").map(|(_, ip)| ip.to_owned())).collect()
}

/// Whatever a Pod asks for: it comes to the same end as by five questions.
#[test]
fn a_search_ends_where_it_would_have() {
    let words = [
        "x",
        "com",
        "wiki",
        "team",
        "web",
        "db",
        "db-9",
        "api",
        "away",
        "other",
        "default",
        "svc",
        "svc.cluster.local",
        "_tcp",
    ];
    let text = |options: &str| corefile(options).replace("forward . /resolv.conf", "");
    let [mut plain, mut collapsing] =
        ["", "search collapse"].map(|options| knowing(&text(options), &objects()));
    let longer = |names: &[String]| -> Vec<String> {
        names.iter().flat_map(|name| words.map(|word| format!("{word}.{name}"))).collect()
    };
    let one = words.map(str::to_owned);
    let two = longer(&one);
    let three = longer(&two);
    let mut collapsed = 0;
    for name in one.iter().chain(&two).chain(&three) {
        for namespace in ["default", "other"] {
            let services = format!("{namespace}.svc.cluster.local");
            let first = addresses(&mut collapsing, &format!("{name}.{services}"));
            if first.is_empty() {
                continue;
            }
            let search = [services.as_str(), "svc.cluster.local", "cluster.local", "corp.example"];
            let asked = search.iter().map(|domain| format!("{name}.{domain}")).chain([name.clone()]);
            let found: Vec<Vec<String>> = asked.map(|name| addresses(&mut plain, &name)).collect();
            collapsed += usize::from(found[0].is_empty());
            assert_eq!(found.iter().find(|found| !found.is_empty()), Some(&first), "{name} in {namespace}");
        }
    }
    assert!(collapsed >= 10, "{collapsed}");
}
