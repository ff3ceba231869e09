//! `loadbalance`: what comes first in an answer.

use std::collections::BTreeMap;

use sealane_dns::message::Data;
use sealane_dns::{Config, Effect, Event, Now, Server, Transport, decode};

use crate::cluster::{ask, at, query};

const HOSTS: &str = "hosts /dev/null {\n 100.64.1.1 www.example.com\n 100.64.1.2 www.example.com\n 100.64.1.3 www.example.com\n fallthrough\n}";

fn server(line: &str, weights: Option<&str>) -> Result<Server, String> {
    let text = format!(". {{\n{line}\n{HOSTS}\n}}");
    let mut config = Config::parse("Corefile", &text, &Default::default(), 53).map_err(|e| e.to_string())?;
    for want in config.files() {
        config.load(&want.path, weights.filter(|_| want.path == "/w")).map_err(|e| e.to_string())?;
    }
    Ok(Server::new(config, vec![], at(0)))
}

/// How often each address comes first; its last octet.
fn firsts(server: &mut Server, kind: &str) -> BTreeMap<u8, u32> {
    let mut firsts = BTreeMap::new();
    for random in 1..=3000u64 {
        let now = Now { random: random.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..at(0) };
        let effects = ask(server, &query(&format!("www.example.com {kind}")), Transport::Udp, now);
        let [Effect::Reply(bytes)] = effects.as_slice() else { panic!("{effects:?}") };
        let answers = decode(bytes).unwrap().answers;
        assert_eq!(answers.len(), 3);
        let Data::A(ip) = answers[0].data else { panic!("{answers:?}") };
        *firsts.entry(ip.octets()[3]).or_default() += 1;
    }
    firsts
}

fn about(found: &BTreeMap<u8, u32>, expected: &[(u8, u32)]) {
    for (octet, times) in expected {
        let found = found.get(octet).copied().unwrap_or(0);
        assert!(found.abs_diff(*times) <= 200, "{octet}: {found}, not {times}");
    }
}

#[test]
fn round_robin_is_even() {
    for line in ["loadbalance", "loadbalance round_robin"] {
        about(&firsts(&mut server(line, None).unwrap(), "A"), &[(1, 1000), (2, 1000), (3, 1000)]);
    }
}

#[test]
fn weights_decide_the_first() {
    let line = "loadbalance weighted /w {\n reload 10s\n}";
    let weights = "# three to one to two\n\nWWW.example.com\n100.64.1.1 3\n100.64.1.2 1\n 100.64.1.3\t2\n\nother\n100.64.1.2 255\n";
    let mut server = self::server(line, Some(weights)).unwrap();
    about(&firsts(&mut server, "A"), &[(1, 1500), (2, 500), (3, 1000)]);
    // What the file does not name has 1.
    let content = Some("www.example.com.\n100.64.1.3 8");
    server.step(Event::File { path: "/w", content }, at(0));
    about(&firsts(&mut server, "A"), &[(1, 300), (2, 300), (3, 2400)]);
    // A file that is wrong changes nothing, and neither does one that is gone.
    let effects = server.step(Event::File { path: "/w", content: Some("100.64.1.3 8") }, at(0));
    let [Effect::Log(log)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(log, "[ERROR] plugin/loadbalance: /w: line 1: no name stands before it");
    server.step(Event::File { path: "/w", content: None }, at(0));
    about(&firsts(&mut server, "A"), &[(3, 2400)]);
    // It may come later, where somebody looks again.
    about(&firsts(&mut self::server(line, None).unwrap(), "A"), &[(1, 1000), (2, 1000), (3, 1000)]);
    let never = self::server("loadbalance weighted /w {\n reload 0s\n}", None).unwrap_err();
    assert_eq!(never, "Corefile:2:1: plugin/loadbalance: there is no weight file /w");
}

#[test]
fn preferred_networks_come_first() {
    let line = "loadbalance round_robin {\n prefer 2001:db8::/32 100.64.1.2/31\n prefer 100.64.1.0/24\n}";
    let found = firsts(&mut server(line, None).unwrap(), "A");
    about(&found, &[(1, 0), (2, 1500), (3, 1500)]);
    assert_eq!(found.get(&1), None);
    let line = "loadbalance weighted /w {\n prefer 100.64.1.1/32\n}";
    let found = firsts(&mut server(line, Some("www.example.com\n100.64.1.3 255")).unwrap(), "A");
    assert_eq!(found.get(&1), Some(&3000));
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("loadbalance fleeb", "2:13: 'fleeb' is no policy (round_robin, weighted)"),
        ("loadbalance round_robin a", "2:25: 'loadbalance' takes no 'a'"),
        ("loadbalance weighted", "2:13: 'weighted' needs a file"),
        ("loadbalance weighted a b", "2:24: 'loadbalance' takes no 'b'"),
        ("loadbalance weighted w {\nreload a\n}", "3:8: 'a' is no duration (5s, 1m30s, 500ms)"),
        ("loadbalance weighted w {\nreload 1s 2s\n}", "3:11: 'reload' takes one duration"),
        ("loadbalance {\nreload 1s\n}", "3:1: 'reload' is for the file of 'weighted'"),
        ("loadbalance {\nprefer\n}", "3:1: 'prefer' needs a network"),
        ("loadbalance {\nprefer 10.0.0.0/8 x\n}", "3:19: 'x' is no network"),
    ] {
        let error = server(line, None).unwrap_err();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
    for (weights, message) in [
        ("10.0.0.1", "line 1: '10.0.0.1' has no weight"),
        ("a\n10.0.0.1 0", "line 2: a weight lies between 1 and 255"),
        ("a\n10.0.0.1 256", "line 2: a weight lies between 1 and 255"),
        ("a\nb 1", "line 2: 'b' is no address"),
        ("a b c", "line 1: 'a b c' is neither a name nor ADDRESS WEIGHT"),
        ("a..b", "line 1: 'a..b' is no name: empty label"),
    ] {
        let error = server("loadbalance weighted /w", Some(weights)).unwrap_err();
        assert_eq!(error, format!("Corefile:2:1: plugin/loadbalance: /w: {message}"));
    }
}
