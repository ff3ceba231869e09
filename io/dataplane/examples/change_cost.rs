//! What one endpoint's change costs, at 1,000 and at 10,000 Services of two ports and ten endpoints. Writes into the
//! network namespace that it is started in: `unshare -n cargo run --release -p sealane-dataplane --example change_cost`.
//! With `keep` as its argument it leaves a small ruleset to look at. Last, the threads that do it: the first rules of
//! 10,000 Services, and a thousand changes a second.

use sealane_catalog::{Endpoint, Entry, NamespacedName, Service, Slice};
use sealane_dataplane::{NftSink, Update, netlink_socket, spawn_watched};
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
    sink.clear()?;
    threads(model)
}

/// Changes in the stream.
const STREAM: u64 = 5_000;

/// From an update that is handed over to its being in force.
fn threads(model: &Entry) -> Result<(), Box<dyn Error>> {
    const SERVICES: u32 = 10_000;
    let sink = NftSink::open(netlink_socket()?)?;
    let watch = sink.watch(netlink_socket()?)?;
    let (updates, inbox) = std::sync::mpsc::channel();
    let proxy = spawn_watched(Table::new(NodeContext::new("n1")), sink, inbox, watch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut applied = proxy.applied().clone();
    let one = |number, endpoints| entry(model, number, endpoints).map(|(key, e)| (key, Some(Arc::new(e))));
    let begun = Instant::now();
    updates.send(Update {
        revision: 1,
        services: (0..SERVICES).filter_map(|n| one(n, 10)).collect(),
        node: None,
    })?;
    runtime.block_on(applied.wait_for(|r| *r == 1))?;
    println!("{SERVICES} services: the threads' first rules in {:?}", begun.elapsed());
    let changes: Vec<_> = (0..STREAM as u32).filter_map(|n| one(n * 7 % SERVICES, 9)).collect();
    let begun = Instant::now() + Duration::from_millis(100);
    let due = move |revision: u64| begun + Duration::from_millis(revision);
    let sender = std::thread::spawn(move || {
        let mut sent = vec![begun, begun];
        for (revision, service) in (2..).zip(changes) {
            std::thread::sleep(due(revision).saturating_duration_since(Instant::now()));
            sent.push(Instant::now());
            if updates.send(Update { revision, services: vec![service], node: None }).is_err() {
                break;
            }
        }
        (sent, updates)
    });
    let mut heard = vec![Instant::now(); 2];
    while (heard.len() as u64) < STREAM + 2 {
        runtime.block_on(applied.changed())?;
        let revision = *applied.borrow_and_update();
        heard.resize(revision as usize + 1, Instant::now());
    }
    let (sent, updates) = sender.join().map_err(|_| "the sender failed")?;
    let mut times: Vec<Duration> =
        heard.iter().zip(&sent).skip(2).map(|(heard, sent)| heard.saturating_duration_since(*sent)).collect();
    times.sort();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{SERVICES} services: of a thousand changes a second one in {median:?} (median), {p99:?} (p99)");
    drop(updates);
    proxy.join();
    Ok(NftSink::open(netlink_socket()?)?.clear()?)
}
