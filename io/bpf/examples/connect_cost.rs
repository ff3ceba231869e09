//! What connect() to a Service costs over connecting to its endpoint, and how long maps take to fill. As root:
//!
//!     cargo run --release -p sealane-bpf --example connect_cost -- [ENDPOINTS] [CONNECTIONS]
//!
//! Sockets of three kinds connect in turn: outside of the cgroup to the endpoint (no program runs), inside to the
//! endpoint (a program looks and finds nothing), inside to the Service. They are opened beforehand, a handful at a time, and
//! closed when the handful is done. Medians are printed, and the median of the differences between neighbours.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example")]

use rustix::net::{AddressFamily, SocketType, connect, socket};
use sealane_bpf::{BpfSink, cgroup2_root};
use sealane_catalog::{NamespacedName, Protocol};
use sealane_proxy::{
    Backend, Change, Class, Frontend, FrontendKey, Masquerade, NodeContext, RuleSink, Target,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);
/// Backends of each Service.
const EACH: u32 = 10;

fn frontend(address: IpAddr, port: u16, protocol: Protocol, backends: Vec<Backend>) -> Arc<Frontend> {
    Arc::new(Frontend {
        key: FrontendKey { address, protocol, port },
        service: NamespacedName::new("default", "web"),
        port_name: "".into(),
        class: Class::ClusterIp,
        affinity: None,
        masquerade: Masquerade::OffCluster,
        target: Target::Balance(backends.into()),
        sources: None,
        lingering: Arc::default(),
        outside: None,
    })
}

/// So many Services of ten endpoints each, and the one that is spoken to.
fn frontends(endpoints: u32, server: SocketAddr) -> BTreeMap<FrontendKey, Arc<Frontend>> {
    let backend = Backend { address: server.ip(), port: server.port() };
    let mut all: Vec<Arc<Frontend>> = [Protocol::Tcp, Protocol::Udp]
        .map(|p| frontend(SERVICE.ip(), SERVICE.port(), p, vec![backend]))
        .into();
    for number in 0..endpoints / EACH {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 0)) + number).into();
        let at = |n| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + number * EACH + n).into();
        let backends = (0..EACH).map(|n| Backend { address: at(n), port: 8080 }).collect();
        all.push(frontend(address, 80, Protocol::Tcp, backends));
    }
    all.into_iter().map(|f| (f.key, f)).collect()
}

fn join(group: &Path) {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    std::fs::write(group.join("cgroup.threads"), thread).unwrap();
}

/// Nanoseconds that one connect() takes.
fn time(socket: &OwnedFd, to: &SocketAddr) -> f64 {
    let begun = Instant::now();
    connect(socket, to).unwrap();
    begun.elapsed().as_secs_f64() * 1e9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sockets of each kind that are open at once: as many connections as a listener keeps (128).
const HANDFUL: usize = 40;

fn measure(label: &str, kind: SocketType, times: usize, listener: &TcpListener, group: &Path) {
    let server = listener.local_addr().unwrap();
    let open = move || -> Vec<OwnedFd> {
        (0..HANDFUL).map(|_| socket(AddressFamily::INET, kind, None).unwrap()).collect()
    };
    // A socket is in the cgroup of the thread that opens it.
    let (give, take) = std::sync::mpsc::sync_channel(1);
    let folder = group.to_owned();
    let insider = std::thread::spawn(move || {
        join(&folder);
        while give.send((open(), open())).is_ok() {}
        join(&cgroup2_root().unwrap());
    });
    let mut taken: [Vec<f64>; 3] = Default::default();
    for _ in 0..times.div_ceil(HANDFUL) {
        let (inside, led) = take.recv().unwrap();
        let outside = open();
        for (number, ((outside, inside), led)) in outside.iter().zip(&inside).zip(&led).enumerate() {
            // Each kind is as often first as second and third.
            for place in 0..3 {
                let which = (number + place) % 3;
                let (socket, to) = [(outside, &server), (inside, &server), (led, &SERVICE)][which];
                taken[which].push(time(socket, to));
            }
        }
        if kind == SocketType::STREAM {
            listener.incoming().take(3 * HANDFUL).for_each(drop);
        }
    }
    drop(take);
    insider.join().unwrap();
    let over = |a: &[f64], b: &[f64]| median(&mut a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>());
    let (missed, found) = (over(&taken[1], &taken[0]), over(&taken[2], &taken[0]));
    let [plain, inside, led] = taken.map(|mut t| median(&mut t));
    println!("{label}: direct {plain:.0} ns, direct under the programs {inside:.0} ns, Service {led:.0} ns");
    println!(
        "  Service over direct: {:.3} us by medians, {:.3} us by neighbours",
        (led - plain) / 1e3,
        found / 1e3
    );
    println!("  a look that finds nothing: {:.3} us", missed / 1e3);
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse::<u32>().ok());
    let endpoints = arguments.next().unwrap_or(200_000);
    let times = arguments.next().unwrap_or(20_000) as usize;
    let group = cgroup2_root().unwrap().join(format!("sealane-connect-cost-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    std::fs::write(group.join("cgroup.type"), "threaded").unwrap();
    run(endpoints, times, &group);
    while std::fs::remove_dir(&group).is_err() {
        std::thread::yield_now();
    }
}

fn run(endpoints: u32, times: usize, group: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let _datagrams = UdpSocket::bind(server).unwrap();
    let table = frontends(endpoints, server);
    let mut sink = BpfSink::open(group).unwrap();
    let node = NodeContext::new("node-1");
    let begun = Instant::now();
    sink.replace(&node, &BTreeMap::new()).unwrap();
    println!("programs loaded and attached in {:.3} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    sink.replace(&node, &table).unwrap();
    println!(
        "{endpoints} endpoints of {} Services in {:.3} s",
        endpoints / EACH,
        begun.elapsed().as_secs_f64()
    );
    // One endpoint of a Service is another.
    let mut one: Vec<f64> = Vec::new();
    for (number, old) in table.values().filter(|f| f.target.backends().len() > 1).take(2000).enumerate() {
        let mut backends = old.target.backends().to_vec();
        backends[number % EACH as usize].port = 8081;
        let new = Arc::new(Frontend { target: Target::Balance(backends.into()), ..Frontend::clone(old) });
        let begun = Instant::now();
        sink.apply(&[Change::SetFrontend { old: old.clone(), new }]).unwrap();
        sink.settle().unwrap();
        one.push(begun.elapsed().as_secs_f64() * 1e9);
    }
    if !one.is_empty() {
        println!("a change of one endpoint: {:.1} us (median)", median(&mut one) / 1e3);
    }
    measure("TCP", SocketType::STREAM, times, &listener, group);
    measure("UDP", SocketType::DGRAM, times, &listener, group);
}
