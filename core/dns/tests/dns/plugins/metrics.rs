//! What is counted has CoreDNS's names, kinds, labels and bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use sealane_dns::{Effect, Event, Transport, decode, encode};

use crate::cluster::{ask, at, query, server};

const TIMES: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
const SLIM: &[f64] = &[0.00025, 0.0025, 0.025, 0.25, 2.5];
const SIZES: &[f64] =
    &[0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];

/// Families: name without `coredns_`, kind, labels.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("build_info", "gauge", "goversion revision version"),
    ("panics_total", "counter", ""),
    ("plugin_enabled", "gauge", "name server view zone"),
    ("dns_requests_total", "counter", "family proto server type view zone"),
    ("dns_request_duration_seconds", "histogram", "server view zone"),
    ("dns_request_size_bytes", "histogram", "proto server view zone"),
    ("dns_do_requests_total", "counter", "server view zone"),
    ("dns_response_size_bytes", "histogram", "proto server view zone"),
    ("dns_responses_total", "counter", "plugin rcode server view zone"),
    ("health_request_duration_seconds", "histogram", ""),
    ("health_request_failures_total", "counter", ""),
    ("reload_failed_total", "counter", ""),
    ("reload_version_info", "gauge", "hash value"),
    ("cache_entries", "gauge", "server type view zones"),
    ("cache_requests_total", "counter", "server view zones"),
    ("cache_hits_total", "counter", "server type view zones"),
    ("cache_misses_total", "counter", "server view zones"),
    ("cache_prefetch_total", "counter", "server view zones"),
    ("cache_served_stale_total", "counter", "server view zones"),
    ("hosts_entries", "gauge", "hostsfile"),
    ("hosts_reload_timestamp_seconds", "gauge", ""),
    ("acl_blocked_requests_total", "counter", "server view zone"),
    ("acl_filtered_requests_total", "counter", "server view zone"),
    ("acl_dropped_requests_total", "counter", "server view zone"),
    ("acl_allowed_requests_total", "counter", "server view"),
    ("local_localhost_requests_total", "counter", ""),
];

/// Names of a series' labels, but for a bucket's bound, sorted.
fn labels(series: &str) -> String {
    let braces = series.split_once('{').map_or("", |(_, labels)| labels.rsplit_once('}').unwrap().0);
    let names = braces.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(name, _)| name);
    let mut names: Vec<&str> = names.filter(|name| *name != "le").collect();
    names.sort_unstable();
    names.join(" ")
}

#[test]
fn names_kinds_labels_and_bounds() {
    let mut server = server(
        ". {\n prometheus\n local\n acl {\n block type MX\n filter type SRV\n drop type TXT\n }\n \
         hosts /resolv.conf {\n 192.0.2.1 a.example\n fallthrough\n }\n cache {\n serve_stale\n }\n \
         forward . 192.0.2.53\n}",
    );
    let content = Some("192.0.2.2 b.example");
    server.step(Event::File { path: "/resolv.conf", content }, at(0));
    server.step(Event::Tick, at(0));
    for question in ["a.example A +do", "a.example MX", "a.example SRV", "a.example TXT", "x.localhost NAPTR"]
    {
        ask(&mut server, &query(question), Transport::Udp, at(0));
    }
    for millis in [0, 4_000_000] {
        for effect in ask(&mut server, &query("c.example A"), Transport::Udp, at(millis)) {
            if let Effect::Ask { pending, message, .. } = effect {
                let mut reply = decode(&message).unwrap().reply(3);
                let owner = "example".parse().unwrap();
                let soa = sealane_dns::message::Soa {
                    mname: "example".parse().unwrap(),
                    rname: "example".parse().unwrap(),
                    serial: 1,
                    refresh: 1,
                    retry: 1,
                    expire: 1,
                    minimum: 2000,
                };
                let data = sealane_dns::message::Data::Soa(Box::new(soa));
                reply.authority.push(sealane_dns::message::Record::new(owner, 2000, data));
                server.step(Event::Answer { pending, bytes: &encode(&reply, 512) }, at(millis));
            }
        }
    }
    server.health_checked(Duration::from_millis(1), false);
    server.running("cafe");
    let mut text = String::new();
    server.render_metrics(&mut text);
    let lines: BTreeMap<&str, Vec<&str>> = FAMILIES
        .iter()
        .map(|(name, ..)| {
            let begins = |line: &&str| {
                let rest = line.strip_prefix("coredns_").and_then(|line| line.strip_prefix(name));
                rest.is_some_and(|rest| {
                    ["{", " ", "_bucket{", "_sum", "_count"].iter().any(|next| rest.starts_with(next))
                })
            };
            (*name, text.lines().filter(begins).collect())
        })
        .collect();
    for (name, kind, expected) in FAMILIES {
        assert!(text.contains(&format!("# TYPE coredns_{name} {kind}\n")), "{name} is no {kind}\n{text}");
        assert!(!lines[name].is_empty(), "{name}: none\n{text}");
        for line in &lines[name] {
            assert_eq!(labels(line), *expected, "{line}");
        }
        if *kind == "histogram" {
            let first = labels_of(lines[name][0]);
            let buckets =
                lines[name].iter().filter(|line| line.contains("_bucket{") && labels_of(line) == first);
            let bounds: Vec<f64> = buckets
                .map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
                .collect();
            let expected = match *name {
                name if name.ends_with("bytes") => SIZES,
                "health_request_duration_seconds" => SLIM,
                _ => TIMES,
            };
            assert_eq!(bounds, [expected, &[f64::INFINITY]].concat(), "{name}");
        }
    }
    // What has no series of its own is `other`, and settings are no plugins.
    assert!(text.contains("type=\"other\"} 1\n"), "{text}");
    for (name, there) in [("cache", true), ("prometheus", true), ("forward", true), ("root", false)] {
        assert_eq!(text.contains(&format!("name=\"{name}\"}} 1\n")), there, "{name}");
    }
}

/// A bucket's labels but for its bound.
fn labels_of(line: &str) -> &str {
    line.split("le=").next().unwrap()
}

#[test]
fn readiness_is_remembered() {
    // `erratic` is ready from its third query to its fourth.
    for (option, then) in [("", true), (" {\n monitor continuously\n }", false)] {
        let corefile = format!(
            ". {{\n ready{option}\n erratic {{\n drop 0\n }}\n}}\nother {{\n erratic {{\n drop 0\n }}\n}}"
        );
        let mut server = server(&corefile);
        let mut found = Vec::new();
        for _ in 0..5 {
            found.push(server.ready());
            ask(&mut server, &query("a A"), Transport::Udp, at(0));
        }
        // The block without `ready` has no say.
        assert_eq!(found, [false, false, false, true, true], "{option}");
        assert_eq!(server.ready(), then, "{option}");
        assert_eq!(server.unready().is_empty(), then);
    }
}
