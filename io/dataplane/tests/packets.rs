//! The table of packets against what stands in the kernel, and as real connections. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod lab;
mod real;

use sealane_proxy::cases::{Cluster, PACKETS, clusters};
use sealane_proxy::{RuleSink, Table};

/// The table of a cluster.
fn table(cluster: &Cluster) -> Table {
    let mut table = Table::new(cluster.node.clone());
    table.update(cluster.services.iter().map(|(key, entry)| (key, Some(entry))));
    table
}

#[test]
fn what_stands_in_the_kernel_agrees() {
    let mut sink = lab::Namespace::new().sink();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for cluster in clusters(PACKETS).unwrap() {
        sink.replace(&cluster.node, table(&cluster).frontends()).unwrap();
        let ruleset = sink.ruleset().unwrap();
        for row in &cluster.rows {
            rows += 1;
            let fate = ruleset.trace(&row.packet);
            if fate.as_ref() != Ok(&row.fate) {
                wrong.push(format!("line {}: {}, {}\n  meets {fate:?}", row.line, cluster.title, row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// The answerer says whom it saw.
#[test]
fn real_connections_agree() {
    let begun = std::time::Instant::now();
    let site = real::Site::new();
    let mut sink = site.lab.node.sink();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for cluster in clusters(PACKETS).unwrap() {
        site.own(&cluster, true);
        sink.replace(&cluster.node, table(&cluster).frontends()).unwrap();
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

/// Changes lead where writing anew leads: the clusters one after the other, Service by Service.
#[test]
fn what_changes_lead_to_agrees() {
    let mut sink = lab::Namespace::new().sink();
    let (mut wrong, mut rows) = (Vec::new(), 0);
    for cluster in clusters(PACKETS).unwrap() {
        let mut table = Table::new(cluster.node.clone());
        sink.replace(&cluster.node, table.frontends()).unwrap();
        // Come with all, lose their endpoints, get them again.
        for bare in [false, true, false] {
            for (key, entry) in &cluster.services {
                let mut entry = entry.clone();
                if bare {
                    entry.slices.clear();
                }
                let changes = table.update([(key, Some(&entry))]);
                sink.apply(&changes).unwrap();
            }
        }
        sink.settle().unwrap();
        sink.forget_flows().unwrap();
        let ruleset = sink.ruleset().unwrap();
        for row in &cluster.rows {
            rows += 1;
            let fate = ruleset.trace(&row.packet);
            if fate.as_ref() != Ok(&row.fate) {
                wrong.push(format!("line {}: {}, {}\n  meets {fate:?}", row.line, cluster.title, row.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}
