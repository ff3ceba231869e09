//! The table of packets against the pure table, and the table against itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use sealane_catalog::Protocol;
use sealane_proxy::Fate;
use sealane_proxy::cases::{Cluster, PACKETS, Row, clusters};
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn the_table_agrees() {
    let mut wrong = Vec::new();
    for cluster in clusters(PACKETS).unwrap() {
        let table = cluster.table();
        for row in &cluster.rows {
            let fate = table.trace(&row.packet);
            if fate != row.fate {
                wrong.push(format!("line {}: {}, {}\n  meets {fate:?}", row.line, cluster.title, row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a row is about, in each dimension.
fn dimensions(cluster: &Cluster, row: &Row) -> Vec<(&'static str, String)> {
    let destination = row.text.split([' ', ':']).nth(1).unwrap().trim_end_matches('6').to_owned();
    let has = |word: &str| cluster.given.contains(word);
    let fate = match &row.fate {
        Fate::Reject => "reject",
        Fate::Drop => "drop",
        Fate::Pass => "pass",
        Fate::Dnat { masqueraded, .. } if masqueraded.is_empty() => "reached, source kept",
        Fate::Dnat { backends, masqueraded, .. } if backends == masqueraded => "reached, masqueraded",
        Fate::Dnat { .. } => "reached, hairpin alone masqueraded",
    };
    let protocol = match row.packet.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let mut found = vec![
        ("protocol", protocol.to_owned()),
        ("family", if row.packet.destination.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned()),
        ("destination", destination),
        ("source", if "abcd".contains(&row.source) { "an endpoint".to_owned() } else { row.source.clone() }),
        ("fate", fate.to_owned()),
    ];
    let policies = match (has("inside=Local"), has("outside=Local")) {
        (false, false) => "Cluster, Cluster",
        (true, false) => "Local inside",
        (false, true) => "Local outside",
        (true, true) => "Local, Local",
    };
    found.push(("policies", policies.to_owned()));
    let features = [
        ("ranges=", "source ranges"),
        ("sticky=", "affinity"),
        ("~", "terminating"),
        ("/east", "zone hints"),
        ("/here", "node hints"),
        ("masquerade-all", "masqueradeAll"),
        ("link", "Pods by links"),
        ("label=", "labels"),
        ("proxied=", "ipMode Proxy"),
        ("services", "service ranges"),
    ];
    found.extend(features.iter().filter(|(w, _)| has(w)).map(|(_, f)| ("feature", (*f).to_owned())));
    found
}

#[test]
fn the_rows_cross_all_dimensions() {
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut rows = 0;
    for cluster in clusters(PACKETS).unwrap() {
        for row in &cluster.rows {
            rows += 1;
            dimensions(&cluster, row).into_iter().for_each(|d| *counts.entry(d).or_default() += 1);
            // No row differs from another in a number alone.
            let plain = format!("{}{}", cluster.given, row.text).replace(|c: char| c.is_ascii_digit(), "#");
            let plain = plain.replace("###", "#").replace("##", "#");
            // Which family is a word's last digit, and no number.
            let family = row.packet.destination.is_ipv6();
            assert!(
                seen.insert(format!("{plain} {family}")),
                "line {}: {} is there twice",
                row.line,
                row.text
            );
        }
    }
    println!("{rows} rows");
    counts.iter().for_each(|((dimension, value), count)| println!("{dimension}: {value}: {count}"));
    assert!(rows >= 250, "{rows}");
    let values = |dimension: &str| counts.keys().filter(|(d, _)| *d == dimension).count();
    for (dimension, least) in [
        ("protocol", 3),
        ("family", 2),
        ("destination", 10),
        ("source", 6),
        ("fate", 6),
        ("policies", 4),
        ("feature", 10),
    ] {
        assert!(values(dimension) >= least, "{dimension}: {}", values(dimension));
    }
}

#[test]
fn what_is_not_understood_is_said() {
    for (text, complaint) in [
        ("tcp cluster:http | pod: a", "line 1: no cluster yet"),
        ("cluster x\nservice web Odd", "line 2: no type is called \"Odd\""),
        ("cluster x\nnode sea", "line 2: a node has no \"sea\""),
        ("cluster x\ntcp moon:http | pod: a", "line 2: no address is called \"moon\""),
        ("cluster x\ntcp cluster:ftp | pod: a", "line 2: no port is called \"ftp\""),
        ("cluster x\ntcp cluster:http | pod: q", "line 2: no address is called \"q\""),
        ("cluster x\nendpoints web a@here", "line 2: no such service"),
    ] {
        assert_eq!(clusters(text).unwrap_err(), complaint);
    }
}
