//! CPU time of the whole server a query, sockets included: forwarded to an upstream, and from the cache. The server has
//! the first core, who asks and who answers it the second.
//! `cargo bench -p sealane-dnsserver --bench upstreams`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sealane_dns::{Message, encode};
use sealane_dnsserver::{Settings, run};

const QUERIES: u32 = 200_000;
/// On their way at once.
const WINDOW: u32 = 100;

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn pin(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).unwrap();
}

/// What the upstream has spent, ns.
static SPENT: AtomicU64 = AtomicU64::new(0);

/// Answers what it is asked with an address.
fn upstream(socket: &UdpSocket) {
    pin(1);
    let mut buffer = [0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let mut end = 12;
        while buffer[end] != 0 {
            end += 1 + usize::from(buffer[end]);
        }
        buffer[2] |= 0x80;
        buffer[7] = 1;
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 1];
        assert_eq!(len, end + 5, "a question, and nothing more");
        buffer[end + 5..end + 5 + record.len()].copy_from_slice(&record);
        let _ = socket.send_to(&buffer[..len + record.len()], from);
        SPENT.store(cpu(ClockId::ThreadCPUTime).as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Asks for so many names, and so often in all: how many answers came.
fn ask(port: u16, names: u32, queries: u32) -> u32 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let questions: Vec<Vec<u8>> = (0..names)
        .map(|n| encode(&Message::query(0, format!("n{n}.www.example.com").parse().unwrap(), 1), 512))
        .collect();
    let (mut sent, mut came, mut buffer) = (0u32, 0u32, [0; 4096]);
    while came < queries {
        while sent < queries && sent - came < WINDOW {
            let mut question = questions[(sent % names) as usize].clone();
            question[..2].copy_from_slice(&(sent as u16).to_be_bytes());
            socket.send(&question).unwrap();
            sent += 1;
        }
        if socket.recv(&mut buffer).is_err() {
            break;
        }
        came += 1;
    }
    came
}

fn measure(what: &str, port: u16, names: u32) {
    let client = std::thread::spawn(move || {
        pin(1);
        ask(port, names, names.min(1000));
        let upstream = SPENT.load(Ordering::Relaxed);
        let begun = (cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime), Instant::now());
        let came = ask(port, names, QUERIES);
        let all = cpu(ClockId::ProcessCPUTime) - begun.0;
        let others = Duration::from_nanos(SPENT.load(Ordering::Relaxed) - upstream);
        (came, all - (cpu(ClockId::ThreadCPUTime) - begun.1) - others, begun.2.elapsed())
    });
    let (came, spent, took) = client.join().unwrap();
    println!("{what}: {:?} a query, {came} answers of {QUERIES} in {took:.1?}", spent / came.max(1));
}

fn main() {
    let up = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = up.local_addr().unwrap();
    let free = || UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = [free(), free()];
    let path = std::env::temp_dir().join(format!("sealane-bench-{}", std::process::id()));
    let block = |port: u16, more: &str| {
        format!(".:{port} {{\n bind 127.0.0.1\n errors\n prometheus 127.0.0.1:0\n{more} forward . {to}\n}}\n")
    };
    std::fs::write(&path, block(ports[0], "") + &block(ports[1], " cache 3600\n")).unwrap();
    pin(0);
    let upstream = std::thread::spawn(move || upstream(&up));
    let mut settings = Settings::new(&path);
    settings.log = std::sync::Arc::new(|_| {});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_writer, snapshots) = tokio::sync::watch::channel(Default::default());
    std::thread::spawn(move || runtime.block_on(run(settings, snapshots, std::future::pending())).unwrap());
    while ask(ports[1], 1, 1) == 0 {}
    measure("forwarded", ports[0], 5000);
    measure("cached", ports[1], 1000);
    let _ = std::fs::remove_file(path);
    drop(upstream);
}
