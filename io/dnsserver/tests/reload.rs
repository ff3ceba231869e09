//! Reloads: no query is lost by one, and a wrong configuration changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dns::message::{Data, Record, rcode, rtype};
use sealane_dns::{Message, decode, encode};
use sealane_dnsserver::{Settings, problems, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Long enough to mean that it never happens; upstreams are given the same, so that a machine that is short of time
/// makes no SERVFAIL.
const NEVER: Duration = Duration::from_secs(20);
const RELOADS: u32 = 100;

/// Loopback ports that nobody has: below those that the kernel gives to clients.
async fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = 10_000 + (std::process::id() % 90) as u16 * 100;
    let mut free = [0; N];
    for slot in &mut free {
        loop {
            let port = base + (NEXT.fetch_add(1, Ordering::Relaxed) % 100) as u16;
            if TcpListener::bind(("0.0.0.0", port)).await.is_ok()
                && UdpSocket::bind(("0.0.0.0", port)).await.is_ok()
            {
                *slot = port;
                break;
            }
        }
    }
    free
}

struct Running {
    folder: tempfile::TempDir,
    reload: Arc<Notify>,
    logs: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(corefile: &str) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Corefile");
        std::fs::write(&path, corefile).unwrap();
        let mut settings = Settings::new(&path);
        let (logs, reload) = (Arc::new(Mutex::new(Vec::new())), settings.reload.clone());
        let sink = logs.clone();
        settings.log = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
        let (_, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let task = tokio::spawn(async move {
            run(settings, receiver, std::future::pending()).await.unwrap();
        });
        let running = Running { folder, reload, logs, task };
        running.logged("Running configuration", 1).await;
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts another Corefile in its place as a ConfigMap's volume does.
    fn write(&self, corefile: &str) {
        std::fs::write(self.path("new"), corefile).unwrap();
        std::fs::rename(self.path("new"), self.path("Corefile")).unwrap();
    }

    fn count(&self, text: &str) -> usize {
        self.logs.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    async fn logged(&self, text: &str, times: usize) {
        let wait = async {
            while self.count(text) < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(NEVER, wait).await;
        assert!(came.is_ok(), "{text} {times} times, never: {:?}", self.logs.lock().unwrap());
    }
}

/// An upstream that thinks for a moment: questions are under way to it when a reload comes.
async fn upstream() -> u16 {
    let [port] = free_ports().await;
    let socket = Arc::new(UdpSocket::bind(("127.0.0.1", port)).await.unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            // An error is an ICMP message about an answer that nobody waits for any more.
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
            let query = decode(&buffer[..len]).unwrap();
            let mut reply = query.reply(rcode::NOERROR);
            let name = query.questions[0].name.clone();
            reply.answers.push(Record::new(name, 60, Data::A([192, 0, 2, 80].into())));
            let (socket, reply) = (socket.clone(), encode(&reply, 4096));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                let _ = socket.send_to(&reply, from).await;
            });
        }
    });
    port
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    asked: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
}

fn query(n: u64, name: &str) -> (u16, Vec<u8>) {
    let id = n as u16;
    (id, encode(&Message::query(id, name.parse().unwrap(), rtype::A), 512))
}

/// What was asked, with an address.
fn checked(id: u16, bytes: &[u8]) {
    let reply = decode(bytes).unwrap();
    assert_eq!((reply.id, reply.rcode, reply.answers.len()), (id, rcode::NOERROR, 1), "{reply:?}");
}

/// Asks one question after the other. Only a port that `comes_and_goes` may refuse.
async fn udp_client(tally: Arc<Tally>, port: u16, names: [&'static str; 2], comes_and_goes: bool) {
    udp_client_at(tally, ([127, 0, 0, 1], port).into(), names, comes_and_goes).await;
}

async fn udp_client_at(tally: Arc<Tally>, to: SocketAddr, names: [&'static str; 2], comes_and_goes: bool) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    let (mut buffer, mut n) = ([0; 4096], 0);
    while !tally.stop.load(Ordering::Relaxed) {
        n += 1;
        let (id, query) = query(n, names[n as usize % 2]);
        tally.asked.fetch_add(1, Ordering::Relaxed);
        let exchange = async {
            socket.send(&query).await?;
            socket.recv(&mut buffer).await
        };
        match tokio::time::timeout(NEVER, exchange).await.expect("an answer or a refusal") {
            Ok(len) => {
                checked(id, &buffer[..len]);
                tally.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(comes_and_goes && error.kind() == ErrorKind::ConnectionRefused, "{to}: {error}");
                tally.refused.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn exchange(stream: &mut TcpStream, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

/// Asks on one connection for as long as it is there; only a port that `comes_and_goes` may end it.
async fn tcp_client(tally: Arc<Tally>, port: u16, names: [&'static str; 2], comes_and_goes: bool) {
    let (mut n, mut connections) = (0, 0);
    'connect: while !tally.stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            assert!(comes_and_goes, "port {port} takes no connections");
            tally.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        connections += 1;
        assert!(comes_and_goes || connections == 1);
        while !tally.stop.load(Ordering::Relaxed) {
            n += 1;
            let (id, query) = query(n, names[n as usize % 2]);
            tally.asked.fetch_add(1, Ordering::Relaxed);
            let answer = tokio::time::timeout(NEVER, exchange(&mut stream, &query)).await.expect("an answer");
            match answer {
                Ok(reply) => {
                    checked(id, &reply);
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                }
                // RFC 7766 section 6.2.4: a client whose connection ends asks again on another.
                Err(error) => {
                    assert!(comes_and_goes, "port {port}: {error}");
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    continue 'connect;
                }
            }
        }
    }
}

/// Ends the clients and holds what they counted to it that every query has its answer.
async fn settled(tally: &Tally, clients: Vec<JoinHandle<()>>, stable: bool) {
    tally.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (asked, answered, refused) = (count(&tally.asked), count(&tally.answered), count(&tally.refused));
    assert!(answered > u64::from(RELOADS), "{answered} answers are no load");
    if stable {
        assert_eq!((answered, refused), (asked, 0));
    } else {
        assert!(answered + refused >= asked, "{asked} asked, {answered} answered, {refused} refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_lose_no_query() {
    let [port, second, third, metrics] = free_ports().await;
    let upstream = upstream().await;
    let corefile = |n: u32| {
        let plugins = [" errors\n", " cache 30\n", " loadbalance\n", " log nobody.example\n", ""];
        // Of the sockets of a port some come and go.
        let sockets = ["", " multisocket 1\n", " multisocket 4\n", " multisocket 2\n"][n as usize % 4];
        let block = |keys: String| {
            format!(
                "{keys} {{\n bind 127.0.0.1\n reload\n{sockets}{} hosts /nowhere {{\n  10.0.{}.1 here.example\n  fallthrough\n \
                 }}\n forward . 127.0.0.1:{upstream} {{\n  prefer_udp\n  read_timeout 20s\n }}\n prometheus 127.0.0.1:{metrics}\n}}\n",
                plugins[n as usize % plugins.len()],
                n % 250
            )
        };
        let mut text = block(format!(".:{port}"));
        if n.is_multiple_of(2) {
            text += &block(format!(".:{second}, zone{n}.example:{port}"));
        }
        if !n.is_multiple_of(3) {
            text += &block(format!("example:{third} other.example:{third}"));
        }
        text
    };
    let server = Running::start(&corefile(0)).await;
    let names = ["here.example", "there.example"];
    let (stable, moving) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let (mut clients, mut moving_clients) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        clients.push(tokio::spawn(udp_client(stable.clone(), port, names, false)));
        clients.push(tokio::spawn(tcp_client(stable.clone(), port, names, false)));
    }
    for port in [second, third] {
        moving_clients.push(tokio::spawn(udp_client(moving.clone(), port, names, true)));
        moving_clients.push(tokio::spawn(tcp_client(moving.clone(), port, names, true)));
    }
    let mut failed = 0;
    for n in 1..=RELOADS {
        if n.is_multiple_of(10) {
            failed += 1;
            server.write(&format!("{} {{\n nonsense\n}}\n{}", n, corefile(n)));
            server.logged("plugin/reload: Corefile changed but reload failed: ", failed).await;
        }
        server.write(&corefile(n));
        server.logged("[INFO] Reloading complete", n as usize).await;
    }
    settled(&stable, clients, true).await;
    settled(&moving, moving_clients, false).await;
    let page = get(metrics).await;
    assert!(page.contains(&format!("\ncoredns_reload_failed_total {failed}\n")), "{page}");
    let running = server.logs.lock().unwrap();
    let hash =
        running.iter().rev().find_map(|line| line.split_once("Running configuration SHA512 = ")).unwrap();
    let line = format!("\ncoredns_reload_version_info{{hash=\"sha512\",value=\"{}\"}} 1\n", hash.1);
    assert!(hash.1.len() == 128 && page.contains(&line), "{line}{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_change_without_a_lost_query() {
    let [port] = free_ports().await;
    let upstream = upstream().await;
    let corefile = |n: u32| {
        let bind = ["", " bind 127.0.0.1\n"][n as usize % 2];
        let sockets = n / 2 % 3 + 1;
        format!(
            ".:{port} {{\n{bind} multisocket {sockets}\n reload\n hosts /nowhere {{\n  10.0.{n}.1 here.example\n  fallthrough\n }}\n \
             forward . 127.0.0.1:{upstream} {{\n  read_timeout 20s\n }}\n}}\n"
        )
    };
    let server = Running::start(&corefile(0)).await;
    let tally = Arc::new(Tally::default());
    let names = ["here.example", "there.example"];
    let clients = (0..4).map(|_| tokio::spawn(udp_client(tally.clone(), port, names, false))).collect();
    for n in 1..=RELOADS {
        server.write(&corefile(n));
        server.logged("[INFO] Reloading complete", n as usize).await;
    }
    settled(&tally, clients, true).await;
}

/// Blocks of one zone, each with addresses of its own, some of which come and go, or go over to another block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_other_blocks_come_and_go_without_a_lost_query() {
    let [port] = free_ports().await;
    let corefile = |n: u32| {
        let block = |bind: &str, answer: u8| {
            format!(
                ".:{port} {{\n bind {bind}\n reload\n hosts /nowhere {{\n  10.0.0.{answer} here.example there.example\n }}\n}}\n"
            )
        };
        match n % 3 {
            0 => block("127.0.0.1", 1) + &block("127.0.0.2 127.0.0.3", 2),
            1 => block("127.0.0.1 127.0.0.3", 1),
            _ => block("127.0.0.3", 3) + &block("127.0.0.2", 2) + &block("127.0.0.1", 1),
        }
    };
    let server = Running::start(&corefile(0)).await;
    let (stable, moving) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let names = ["here.example", "there.example"];
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
    let mut clients = vec![tokio::spawn(tcp_client(stable.clone(), port, names, false))];
    clients.extend([1, 3].map(|last| tokio::spawn(udp_client_at(stable.clone(), at(last), names, false))));
    let other = tokio::spawn(udp_client_at(moving.clone(), at(2), names, true));
    for n in 1..=RELOADS {
        server.write(&corefile(n));
        server.logged("[INFO] Reloading complete", n as usize).await;
        let expected: &[(u8, u8)] = match n % 3 {
            0 => &[(1, 1), (2, 2), (3, 2)],
            1 => &[(1, 1), (3, 1)],
            _ => &[(1, 1), (2, 2), (3, 3)],
        };
        for (last, answer) in expected {
            let found = address_at(at(*last), "here.example").await;
            assert!(found.ends_with(&format!("A 10.0.0.{answer}")), "{n}: 127.0.0.{last}: {found}");
        }
    }
    settled(&stable, clients, true).await;
    settled(&moving, vec![other], false).await;
}

/// Waits until so many sockets of a port listen over UDP, and over TCP. One that is connected to itself, and answers
/// the last of its queries, does not.
async fn listen(port: u16, expected: [usize; 2]) {
    let count = |kind: &str| {
        let table = std::fs::read_to_string(format!("/proc/self/net/{kind}")).unwrap();
        let mut inodes: Vec<&str> = Vec::new();
        for line in table.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[1].ends_with(&format!(":{port:04X}")) && ["07", "0A"].contains(&fields[3]) {
                inodes.push(fields[9]);
            }
        }
        inodes.sort_unstable();
        inodes.dedup();
        inodes.len()
    };
    let wait = async {
        while ["udp", "tcp"].map(count) != expected {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let came = tokio::time::timeout(NEVER, wait).await;
    assert!(came.is_ok(), "never {expected:?}, but {:?}", ["udp", "tcp"].map(count));
}

/// Each of its queries comes from another port: it meets all sockets.
async fn many_clients(tally: Arc<Tally>, port: u16) {
    let mut n = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        n += 1;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(("127.0.0.1", port)).await.unwrap();
        let ((id, query), mut buffer) = (query(n, "here.example"), [0; 4096]);
        tally.asked.fetch_add(1, Ordering::Relaxed);
        socket.send(&query).await.unwrap();
        let answer = tokio::time::timeout(NEVER, socket.recv(&mut buffer)).await.expect("an answer");
        checked(id, &buffer[..answer.unwrap()]);
        tally.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Each of its queries comes on a connection of its own.
async fn many_connections(tally: Arc<Tally>, port: u16) {
    let mut n = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        n += 1;
        let (id, query) = query(n, "here.example");
        tally.asked.fetch_add(1, Ordering::Relaxed);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        checked(id, &exchange(&mut stream, &query).await.unwrap());
        tally.answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_come_and_go_without_a_lost_query() {
    let [all, one] = free_ports().await;
    let corefile = |n: u32| {
        let block = |port: u16, bind: &str| {
            format!(
                ".:{port} {{\n{bind} multisocket {}\n reload\n hosts /nowhere {{\n  10.0.0.1 here.example\n }}\n}}\n",
                [1, 4, 2, 7, 3][n as usize % 5]
            )
        };
        block(all, "") + &block(one, " bind 127.0.0.1\n")
    };
    let server = Running::start(&corefile(0)).await;
    let tally = Arc::new(Tally::default());
    let mut clients = Vec::new();
    for port in [all, one] {
        clients.push(tokio::spawn(many_clients(tally.clone(), port)));
        clients.push(tokio::spawn(many_clients(tally.clone(), port)));
        clients.push(tokio::spawn(tcp_client(tally.clone(), port, ["here.example"; 2], false)));
        clients.push(tokio::spawn(many_connections(tally.clone(), port)));
    }
    for n in 1..=RELOADS {
        server.write(&corefile(n));
        server.logged("[INFO] Reloading complete", n as usize).await;
        // The table of sockets is long by and by.
        if n <= 10 {
            // Those of TCP stay: a connection could be on its way to each.
            let sockets = |n: u32| [1, 4, 2, 7, 3][n as usize % 5];
            listen(one, [sockets(n), (0..=n).map(sockets).max().unwrap()]).await;
        }
    }
    settled(&tally, clients, true).await;
}

/// A port that goes while an answer is still owed there, and comes back before it is given.
#[tokio::test]
async fn an_answer_that_takes_long_outlives_its_port() {
    let [port, other, slow] = free_ports().await;
    let upstream = UdpSocket::bind(("127.0.0.1", slow)).await.unwrap();
    for bind in ["", " bind 127.0.0.1\n"] {
        let corefile = |port: u16| {
            format!(
                ".:{port} {{\n{bind} hosts /nowhere {{\n  10.0.0.1 here.example\n  fallthrough\n }}\n \
                 forward . 127.0.0.1:{slow} {{\n  read_timeout 20s\n }}\n}}\n"
            )
        };
        let server = Running::start(&corefile(port)).await;
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", port)).await.unwrap();
        client.send(&query(5, "there.example").1).await.unwrap();
        let mut buffer = [0; 4096];
        let (len, from) = upstream.recv_from(&mut buffer).await.unwrap();
        let asked = decode(&buffer[..len]).unwrap();
        for (times, port) in [(1, other), (2, port)] {
            server.write(&corefile(port));
            server.reload.notify_one();
            server.logged("[INFO] Reloading complete", times).await;
            assert!(address(port, "here.example").await.ends_with("A 10.0.0.1"));
        }
        let mut reply = asked.reply(rcode::NOERROR);
        let name = asked.questions[0].name.clone();
        reply.answers.push(Record::new(name, 60, Data::A([192, 0, 2, 80].into())));
        upstream.send_to(&encode(&reply, 4096), from).await.unwrap();
        let len = tokio::time::timeout(NEVER, client.recv(&mut buffer)).await.expect("an answer").unwrap();
        checked(5, &buffer[..len]);
        server.task.abort();
        assert!(server.task.await.unwrap_err().is_cancelled());
    }
}

async fn get(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn address(port: u16, name: &str) -> String {
    address_at(([127, 0, 0, 1], port).into(), name).await
}

async fn address_at(to: SocketAddr, name: &str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    socket.send(&query(7, name).1).await.unwrap();
    let mut buffer = [0; 4096];
    let len = tokio::time::timeout(NEVER, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let reply = decode(&buffer[..len]).unwrap();
    reply.answers.first().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn it_is_reloaded_when_asked_to() {
    let [port] = free_ports().await;
    let corefile =
        |ip: &str| format!(".:{port} {{\n bind 127.0.0.1\n hosts /nowhere {{\n  {ip} a.example\n }}\n}}\n");
    let server = Running::start(&corefile("10.0.0.1")).await;
    assert_eq!(server.count("plugin/reload"), 0, "it is off");
    server.write(&corefile("10.0.0.2"));
    server.reload.notify_one();
    server.logged("[INFO] SIGUSR1: Reloading", 1).await;
    server.logged("[INFO] Reloading complete", 1).await;
    assert!(address(port, "a.example").await.ends_with("A 10.0.0.2"));
    // The same once more: asked is asked.
    server.reload.notify_one();
    server.logged("[INFO] Reloading complete", 2).await;
    for times in 1..=2 {
        server.write(". {\n oops\n}");
        server.reload.notify_one();
        server.logged("[ERROR] SIGUSR1: ", times).await;
    }
    assert!(address(port, "a.example").await.ends_with("A 10.0.0.2"));
}

#[tokio::test]
async fn imported_files_are_part_of_it() {
    let [port] = free_ports().await;
    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("parts");
    std::fs::create_dir_all(parts.join("..data")).unwrap();
    let corefile = format!(
        "import {0}/*.none\n(common) {{\n errors\n}}\n.:{port} {{\n bind 127.0.0.1\n reload\n import {0}/?.*\n}}\n",
        parts.display()
    );
    std::fs::write(parts.join("a.override"), "import common\nhosts /nowhere {\n import inner/hosts\n}\n")
        .unwrap();
    std::fs::create_dir(parts.join("inner")).unwrap();
    let hosts = parts.join("inner/hosts");
    std::fs::write(&hosts, "10.0.0.1 a.example").unwrap();
    let server = Running::start(&corefile).await;
    server.logged("[WARNING] No files matching import glob pattern: ", 1).await;
    assert!(address(port, "a.example").await.ends_with("A 10.0.0.1"));
    std::fs::write(&hosts, "10.0.0.2 a.example").unwrap();
    server.logged("[INFO] Reloading complete", 1).await;
    assert!(address(port, "a.example").await.ends_with("A 10.0.0.2"));
    // Wrong once is said once, however often it is looked at.
    std::fs::write(&hosts, "10.0.0.2 a.example\n}\n}\nx").unwrap();
    server.logged("reload failed: ", 1).await;
    std::fs::write(parts.join("nothing-of-ours"), "").unwrap();
    std::fs::write(&hosts, "10.0.0.3 a.example").unwrap();
    server.logged("[INFO] Reloading complete", 2).await;
    assert_eq!(server.count("reload failed: "), 1);
    assert!(address(port, "a.example").await.ends_with("A 10.0.0.3"));
}

#[test]
fn all_problems_are_found() {
    let found = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("part"), "cache {\n sucess 1\n prefetch\n}\n").unwrap();
        let settings = Settings::new(folder.path().join("Corefile"));
        let found = problems(&settings, Some(text.to_owned())).unwrap();
        let place = format!("{}/", folder.path().display());
        found.iter().map(|problem| problem.to_string().replace(&place, "")).collect::<Vec<_>>()
    };
    assert_eq!(found(". {\n errors\n}\n"), Vec::<String>::new());
    let text = "(s) {\n oops\n}\n. {\n import s\n health {\n  lameduck x\n }\n nonsense {\n  x\n }\n import part\n \
                forward . /no/such\n errors\n}\nb.example {\n import s\n log {\n  class odd\n }\n}\n";
    let problems = found(text);
    let places: Vec<_> = problems.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "Corefile:2:2",
            "Corefile:7:12",
            "Corefile:9:2",
            "Corefile:13:2",
            "Corefile:19:9",
            "part:2:2",
            "part:3:2"
        ],
        "{problems:#?}"
    );
    assert_eq!(found("a {\n x \"\n}").len(), 1);
    assert_eq!(found("x:y {\n nonsense\n}"), ["Corefile:1:1: 'y' is no port"]);
}
