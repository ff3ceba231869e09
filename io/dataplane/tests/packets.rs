//! The table of packets against what stands in the kernel, and as real connections, by nftables and by iptables. Needs
//! root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod lab;
mod real;

use lab::Namespace;
use sealane_dataplane::{IptablesRules, IptablesSink, NftSink, Ruleset, TraceError, Variant};
use sealane_proxy::cases::{Cluster, PACKETS, Row, clusters};
use sealane_proxy::{Fate, FrontendKey, Packet, RuleSink, Table};
use std::collections::BTreeSet;

/// A sink whose state in the kernel can be read and walked.
trait Walked: RuleSink {
    type Rules;
    /// What differs from the table on purpose: in which rows, what becomes of the packet, and why.
    const DIFFERENCES: &[Difference];
    fn rules(&mut self) -> Self::Rules;
    fn walk(rules: &Self::Rules, packet: &Packet<'_>) -> Result<Fate, TraceError>;
}

type Difference = (fn(&Table, &Row) -> bool, Fate, &'static str);

impl Walked for NftSink {
    type Rules = Ruleset;
    const DIFFERENCES: &[Difference] = &[];
    fn rules(&mut self) -> Ruleset {
        self.ruleset().unwrap()
    }
    fn walk(rules: &Ruleset, packet: &Packet<'_>) -> Result<Fate, TraceError> {
        rules.trace(packet)
    }
}

/// Nobody's port of a cluster address, or nobody's address of a Service range.
fn is_nobodys(table: &Table, row: &Row) -> bool {
    let key =
        FrontendKey { address: row.packet.destination, protocol: row.packet.protocol, port: row.packet.port };
    !table.frontends().contains_key(&key) && row.fate != Fate::Pass
}

impl Walked for IptablesSink {
    type Rules = IptablesRules;
    const DIFFERENCES: &[Difference] = &[(
        is_nobodys,
        Fate::Pass,
        "kube-proxy's iptables mode has no rule for what no Service has: it goes where routes lead",
    )];
    fn rules(&mut self) -> IptablesRules {
        self.ruleset().unwrap()
    }
    fn walk(rules: &IptablesRules, packet: &Packet<'_>) -> Result<Fate, TraceError> {
        rules.trace(packet)
    }
}

/// All clusters, with what a sink is known to do otherwise.
fn expected<S: Walked>() -> Vec<Cluster> {
    let mut used = BTreeSet::new();
    let mut all = Vec::new();
    for mut cluster in clusters(PACKETS).unwrap() {
        let table = cluster.table();
        for row in &mut cluster.rows {
            if let Some((_, fate, why)) = S::DIFFERENCES.iter().find(|(applies, ..)| applies(&table, row)) {
                used.insert(*why);
                row.fate = fate.clone();
            }
        }
        all.push(cluster);
    }
    assert_eq!(used.len(), S::DIFFERENCES.len(), "a difference that is none: {used:?}");
    all
}

/// Rows that the rules in the kernel do something else with.
fn walked<S: Walked>(sink: &mut S, cluster: &Cluster, wrong: &mut Vec<String>) {
    let rules = sink.rules();
    for row in &cluster.rows {
        let fate = S::walk(&rules, &row.packet);
        if fate.as_ref() != Ok(&row.fate) {
            wrong.push(format!("line {}: {}, {}\n  meets {fate:?}", row.line, cluster.title, row.text));
        }
    }
}

/// All clusters, one after the other, put into force by `put`.
fn state_agrees<S: Walked>(mut sink: S, put: impl Fn(&Cluster, &mut S) -> Result<(), S::Error>) {
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for cluster in expected::<S>() {
        put(&cluster, &mut sink).unwrap();
        sink.forget_flows().unwrap();
        walked(&mut sink, &cluster, &mut wrong);
        rows += cluster.rows.len();
    }
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_stands_in_the_kernel_agrees() {
    state_agrees(Namespace::new().sink(), Cluster::write_into);
}

#[test]
fn what_stands_in_iptables_agrees() {
    for variant in [Variant::Default, Variant::Legacy] {
        state_agrees(Namespace::new().iptables(variant), Cluster::write_into);
    }
}

/// Changes lead where writing anew leads.
#[test]
fn what_changes_lead_to_agrees() {
    state_agrees(Namespace::new().sink(), Cluster::change_into);
}

#[test]
fn what_changes_of_iptables_lead_to_agrees() {
    state_agrees(Namespace::new().iptables(Variant::Default), Cluster::change_into);
}

/// The answerer says whom it saw.
fn connections_agree<S: Walked>(site: &real::Site, mut sink: S) {
    let begun = std::time::Instant::now();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for cluster in expected::<S>() {
        site.own(&cluster, true);
        cluster.write_into(&mut sink).unwrap();
        sink.settle().unwrap();
        sink.forget_flows().unwrap();
        rows += cluster.rows.len();
        for (row, why) in site.check_all(&cluster.rows) {
            wrong.push(format!("line {}: {}, {}\n  {why}", row.line, cluster.title, row.text));
        }
        site.own(&cluster, false);
    }
    println!("{rows} rows in {:?}", begun.elapsed());
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn real_connections_agree() {
    let site = real::Site::new();
    connections_agree(&site, site.lab.node.sink());
}

#[test]
fn real_connections_by_iptables_agree() {
    let site = real::Site::new();
    connections_agree(&site, site.lab.node.iptables(Variant::Default));
}
