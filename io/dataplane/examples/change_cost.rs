//! What one endpoint's change costs, at 1,000 and at 10,000 Services of two ports and ten endpoints. Writes into the
//! network namespace that it is started in: `unshare -n cargo run --release -p sealane-dataplane --example change_cost`.
//! With `keep` as its argument it leaves a small ruleset to look at.

use sealane_catalog::{Endpoint, Entry, NamespacedName, Service, Slice};
use sealane_dataplane::{NftSink, netlink_socket};
use sealane_proxy::{NodeContext, RuleSink, Table, contract};
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A Service like the contract's first one, with an address and endpoints of its own.
fn entry(model: &Entry, number: u32, endpoints: u32) -> Option<(NamespacedName, Entry)> {
    let service = model.service.as_ref()?;
    let slice = model.slices.first()?;
    let key = NamespacedName { namespace: "default".into(), name: format!("s{number}").into() };
    let service = Service {
        key: key.clone(),
        kind: sealane_catalog::ServiceType::ClusterIp,
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + number + 1).into()],
        external_ips: vec![],
        ingress: vec![],
        affinity_seconds: None,
        ..Service::clone(service)
    };
    let address = |n: u32| Ipv4Addr::from(0x0af4_0000 + (number * 13 + n) % 50_000 + 1);
    let endpoint = |n: u32| Endpoint::new(address(n).into()).on("n1", "");
    let endpoints = (0..endpoints).map(endpoint).collect();
    let slice = Slice { service: key.clone(), endpoints, ..Slice::clone(slice) };
    Some((key, Entry { service: Some(Arc::new(service)), slices: vec![Arc::new(slice)] }))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut sink = NftSink::open(netlink_socket()?)?;
    if std::env::args().nth(1).as_deref() == Some("keep") {
        let mut table = Table::new(contract::node());
        for round in contract::history(1, 20) {
            table.update(round.iter().map(|(k, e)| (k, e.as_ref())));
        }
        return Ok(sink.replace(table.node(), table.frontends())?);
    }
    // The first Service of a history that has two ports.
    let two_ports = |e: &Entry| e.service.as_ref().is_some_and(|s| s.ports.len() == 2);
    let history = contract::history(1, 100);
    let model = history.iter().flatten().filter_map(|(_, e)| e.as_ref()).find(|e| two_ports(e));
    let model = model.ok_or("the history has no Service of two ports")?;
    for services in [1_000, 10_000] {
        let mut table = Table::new(NodeContext::new("n1"));
        for (key, entry) in (0..services).filter_map(|n| entry(model, n, 10)) {
            table.update([(&key, Some(&entry))]);
        }
        let begun = Instant::now();
        sink.replace(table.node(), table.frontends())?;
        println!("{services} services: all written in {:?}", begun.elapsed());
        let mut times: Vec<Duration> = Vec::new();
        for round in 0..2_000u32 {
            let number = round * 7 % services;
            let Some((key, entry)) = entry(model, number, 9 + round % 2) else { continue };
            let begun = Instant::now();
            let changes = table.update([(&key, Some(&entry))]);
            sink.apply(&changes)?;
            times.push(begun.elapsed());
            sink.settle()?;
            sink.forget_flows()?;
        }
        times.sort();
        let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{services} services: one change in {median:?} (median), {p99:?} (p99)");
    }
    Ok(sink.clear()?)
}
