//! What goes beyond CoreDNS and needs sockets to be seen: a shadow that is asked, a flood that is held back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod spawned;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sealane_dns::message::{Data, Record, rtype};
use sealane_dns::{Message, decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use spawned::{Spawned, spawn};

/// Long enough to mean that it never happens.
const NEVER: Duration = Duration::from_secs(20);

/// A loopback port that nobody has, UDP and TCP.
fn free_port() -> u16 {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

struct Running {
    port: u16,
    metrics: u16,
    server: Spawned,
}

impl Running {
    /// Starts a server whose only block has these lines, and a page of metrics.
    async fn start(body: &str) -> Running {
        let (port, metrics) = (free_port(), free_port());
        let text = format!(".:{port} {{\n bind 127.0.0.1\n prometheus 127.0.0.1:{metrics}\n{body}\n}}\n");
        let server = spawn(&text);
        let running = Running { port, metrics, server };
        until(|| running.logged("Running configuration")).await;
        running
    }

    fn logged(&self, text: &str) -> bool {
        self.server.logs.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// A series' value; 0 where it is not there.
    async fn metric(&self, series: &str) -> u64 {
        let page = tokio::task::spawn_blocking({
            let port = self.metrics;
            move || {
                use std::io::{Read as _, Write as _};
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            }
        });
        let page = page.await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
    }

    async fn end(self) {
        self.server.stop.send(()).unwrap();
        tokio::time::timeout(NEVER, self.server.task).await.expect("an end").unwrap().unwrap();
    }
}

/// Waits for something that comes about by itself.
async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, wait).await.expect("it never came about");
}

fn question(id: u16, name: &str) -> Vec<u8> {
    encode(&Message::query(id, name.parse().unwrap(), rtype::A), 512)
}

#[tokio::test]
async fn a_shadow_is_asked_and_its_differences_are_said() {
    let shadow = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = shadow.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = shadow.recv_from(&mut buffer).await {
            let query = decode(&buffer[..len]).unwrap();
            let name = query.questions[0].name.clone();
            // To this one it has no answer at all.
            if name.to_string().starts_with("slow") {
                continue;
            }
            let mut reply = query.reply(0);
            reply.flags.authoritative = true;
            reply.answers.push(Record::new(name, 3600, Data::A([192, 0, 2, 1].into())));
            shadow.send_to(&encode(&reply, 512), from).await.unwrap();
        }
    });
    let hosts = " hosts {\n 192.0.2.1 same.example slow.example\n 192.0.2.2 other.example\n }";
    let server = Running::start(&format!("{hosts}\n shadow {to} {{\n timeout 1s\n }}")).await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", server.port)).unwrap();
    client.set_read_timeout(Some(NEVER)).unwrap();
    for (id, name) in [(1, "same.example"), (2, "other.example"), (3, "slow.example")] {
        client.send(&question(id, name)).unwrap();
        let mut buffer = [0; 512];
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(decode(&buffer[..len]).unwrap().answers.len(), 1);
    }
    until(|| server.logged("slow.example. IN A: no answer: udp i/o timeout")).await;
    assert!(server.logged("other.example. IN A: answer: only here 'other.example. 3600 IN A 192.0.2.2'"));
    let kind = |kind: &str| format!("sealane_dns_shadow_differences_total{{to=\"{to}\",kind=\"{kind}\"}}");
    assert_eq!(server.metric(&format!("sealane_dns_shadow_queries_total{{to=\"{to}\"}}")).await, 3);
    assert_eq!(server.metric(&format!("sealane_dns_shadow_unanswered_total{{to=\"{to}\"}}")).await, 1);
    assert_eq!(server.metric(&kind("answer")).await, 1);
    assert_eq!(server.metric(&kind("rcode")).await, 0);
    server.end().await;
}

/// Asks from 127.0.0.2 as fast as it can what nobody asked before, so that nothing is prepared.
fn flood(port: u16, over: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let mut number = 0u32;
    while !over.load(Ordering::Relaxed) {
        // The kernel may say that it is too much.
        let _ = socket.send(&question(number as u16, &format!("n{number}.flood.example")));
        number += 1;
    }
}

/// Asks from 127.0.0.3 a hundred times a second until `enough` answers came since `counts` is true.
fn quiet(port: u16, enough: usize, counts: impl Fn() -> bool) {
    let client = UdpSocket::bind("127.0.0.3:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let (begun, mut answered, mut number, mut buffer) = (Instant::now(), 0, 0, [0; 512]);
    while answered < enough {
        assert!(begun.elapsed() < NEVER, "{answered} of {enough} answered; {number} asked");
        client.send(&question(number, "www.example")).unwrap();
        number += 1;
        // The flood is not counted, and nothing is lost to it, before it is seen.
        let counted = counts();
        while client.recv(&mut buffer).is_ok() {
            answered += usize::from(counted);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_held_back_and_named_and_others_are_answered() {
    let lines = " hosts {\n 192.0.2.1 www.example\n }\n template IN A flood.example {\n rcode NXDOMAIN\n }";
    let server = Running::start(&format!(" fairness\n{lines}")).await;
    let (port, logs) = (server.port, server.server.logs.clone());
    // How many are answered depends on what else the machine does: tests in simulated time count them.
    let asked = tokio::task::spawn_blocking(move || {
        let over = AtomicBool::new(false);
        let line = "plugin/fairness: 127.0.0.2 asks for more than its share";
        let named = || logs.lock().unwrap().iter().any(|logged| logged.contains(line));
        std::thread::scope(|scope| {
            scope.spawn(|| flood(port, &over));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| quiet(port, 50, named)));
            over.store(true, Ordering::Relaxed);
            ended
        })
    });
    asked.await.unwrap().unwrap();
    let client = |ip: &str| format!("sealane_dns_throttled_queries_total{{client=\"{ip}\"}}");
    assert!(server.metric(&client("127.0.0.2")).await > 0);
    assert_eq!(server.metric(&client("127.0.0.3")).await, 0);
    server.end().await;
}

#[tokio::test]
async fn one_client_does_not_have_all_connections() {
    let port = free_port();
    let bound = "grpc_server {\n  max_connections 4\n }";
    let block = format!("}}\ngrpc://.:{port} {{\n bind 127.0.0.1\n fairness\n {bound}\n whoami");
    let server = Running::start(&format!(" errors\n{block}")).await;
    // Both sides of HTTP/2 begin with their settings (RFC 9113 section 3.4).
    let begins = async |from: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        let mut settings = [0; 9];
        let exchange = async {
            stream.write_all(&begin).await?;
            stream.read_exact(&mut settings).await
        };
        let begun = tokio::time::timeout(NEVER, exchange).await.expect("settings, or an end");
        begun.ok().map(|_| stream)
    };
    // Alone it has half of them.
    let mut greedy = Vec::new();
    for _ in 0..5 {
        greedy.extend(begins("127.0.0.2").await);
    }
    assert_eq!(greedy.len(), 2);
    let other = begins("127.0.0.3").await;
    assert!(other.is_some());
    let client = |ip: &str| format!("sealane_dns_throttled_queries_total{{client=\"{ip}\"}}");
    assert_eq!(server.metric(&client("127.0.0.2")).await, 3);
    assert_eq!(server.metric(&client("127.0.0.3")).await, 0);
    assert!(server.logged("plugin/fairness: 127.0.0.2 asks for more than its share"));
    drop((greedy, other));
    server.end().await;
}
