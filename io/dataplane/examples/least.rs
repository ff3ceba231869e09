//! Least connections against random, with real connections in network namespaces: ten endpoints, one of which takes
//! three times as long, and requests of heavy-tailed duration. Prints how many connections the worst endpoint has, in
//! the mean and at the 99th percentile over arrivals. Needs root.
//!
//!     cargo run --release -p sealane-dataplane --example least -- [SECONDS]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, dead_code, reason = "a tool")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use lab::{Lab, entry, name, pod_ip, service};
use sealane_dataplane::{Observer, Update, netlink_socket, spawn_observed};
use sealane_proxy::Table;
use sealane_proxy::contract::Dice;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PODS: usize = 10;
/// Requests each second.
const RATE: f64 = 200.0;
/// Bounded Pareto: exponent, and bounds in seconds; 0.2 s in the mean.
const TAIL: f64 = 1.2;
const SHORTEST: f64 = 0.05;
const LONGEST: f64 = 30.0;

/// How long a request takes.
fn duration(dice: &mut Dice) -> Duration {
    let (low, high) = (SHORTEST.powf(TAIL), LONGEST.powf(TAIL));
    let u = dice.fraction();
    Duration::from_secs_f64((-(u * high - u * low - high) / (high * low)).powf(-1.0 / TAIL))
}

/// Tells its number, and waits for the client to go.
fn serve(number: usize) {
    let listener = TcpListener::bind(SocketAddr::new(pod_ip(number), 8080)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let _ = stream.write_all(&[number as u8]);
                let _ = stream.read(&mut [0]);
            });
        }
    });
}

/// The worst endpoint's connections at each arrival.
fn run(lab: &Lab, annotations: &[(&str, &str)], length: Duration) -> Vec<usize> {
    let (updates, inbox) = std::sync::mpsc::channel();
    let sink = lab.node.sink();
    let watch = sink.watch(lab.node.run(netlink_socket).unwrap()).unwrap();
    let observer = lab.node.run(Observer::open).unwrap();
    let proxy = spawn_observed(Table::new(lab::context()), sink, inbox, watch, observer).unwrap();
    let mut web = service("web", &["10.96.0.20"]);
    web.annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let endpoints: Vec<(IpAddr, &str)> = (0..PODS).map(|n| (pod_ip(n), "n1")).collect();
    let services = vec![(name("web"), Some(Arc::new(entry(web, &endpoints))))];
    updates.send(Update { revision: 1, services, node: None }).unwrap();
    while *proxy.applied().borrow() != 1 {
        std::thread::yield_now();
    }
    let seen = lab.outside.run(move || {
        let have: Arc<[AtomicUsize; PODS]> = Arc::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut dice, begun) = (Dice::new(1), Instant::now());
        let mut due = begun;
        while begun.elapsed() < length {
            due += Duration::from_secs_f64(-(1.0 - dice.fraction()).ln() / RATE);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (have, seen, takes) = (Arc::clone(&have), Arc::clone(&seen), duration(&mut dice));
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect("10.96.0.20:80").unwrap();
                let mut number = [0];
                stream.read_exact(&mut number).unwrap();
                let at = usize::from(number[0]);
                have[at].fetch_add(1, Ordering::Relaxed);
                if begun.elapsed() > length / 4 {
                    let worst = have.iter().map(|n| n.load(Ordering::Relaxed)).max();
                    seen.lock().unwrap().extend(worst);
                }
                std::thread::sleep(if at == PODS - 1 { 3 * takes } else { takes });
                have[at].fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort_unstable();
        seen
    });
    drop(updates);
    proxy.join();
    seen
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(30, |s| s.parse().expect("a number of seconds"));
    let lengths = Duration::from_secs(seconds);
    let mut worst = Vec::new();
    for balance in ["random", "least-connections"] {
        // Nothing of the first is left for the second.
        let lab = Lab::new(PODS);
        (0..PODS).for_each(|number| lab.pods[number].run(move || serve(number)));
        let seen = run(&lab, &[("sealane.dev/balance", balance)], lengths);
        let mean = seen.iter().sum::<usize>() as f64 / seen.len() as f64;
        let high = seen[seen.len() * 99 / 100];
        println!("{balance}: {} arrivals, worst endpoint {mean:.1} connections (p99 {high})", seen.len());
        worst.push((mean, high as f64));
    }
    println!(
        "random / least-connections: {:.2} (p99 {:.2})",
        worst[0].0 / worst[1].0,
        worst[0].1 / worst[1].1
    );
}
