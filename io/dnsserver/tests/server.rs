//! The server on loopback: sockets, an upstream of the test's own, a Corefile that changes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod spawned;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_api::Object;
use sealane_catalog::{Builder, Event, Snapshot, Source};
use sealane_dns::message::{Data, Record, rcode, rtype};
use sealane_dns::{Message, decode, encode};
use sealane_dnsserver::{DnsError, Settings, check, run};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use spawned::{Spawned, spawn};

/// Long enough to mean that it never happens.
const NEVER: Duration = Duration::from_secs(20);

/// Loopback ports that nobody has: below those that the kernel gives to clients, and each given out once.
async fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 90) as u16 * 100;
    let mut free = [0; N];
    for slot in &mut free {
        loop {
            let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
            let tcp = TcpListener::bind(("127.0.0.1", port)).await;
            if tcp.is_ok() && UdpSocket::bind(("127.0.0.1", port)).await.is_ok() {
                *slot = port;
                break;
            }
        }
    }
    free
}

/// Answers every A question with 192.0.2.80 and counts them, over UDP and TCP.
async fn upstream() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let [port] = free_ports().await;
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let (udp, tcp) = (UdpSocket::bind(address).await.unwrap(), TcpListener::bind(address).await.unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let answer = |bytes: &[u8], seen: &Mutex<Vec<String>>| {
        let query = decode(bytes).unwrap();
        let question = query.questions[0].clone();
        seen.lock().unwrap().push(question.name.to_string());
        let mut reply = query.reply(rcode::NOERROR);
        reply.flags.recursion_available = true;
        if question.rtype == rtype::A {
            reply.answers.push(Record::new(question.name, 60, Data::A([192, 0, 2, 80].into())));
        }
        encode(&reply, 65_535)
    };
    let log = seen.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
            let reply = answer(&buffer[..len], &log);
            // A stranger's message first: it must not be taken for the answer.
            let mut wrong = reply.clone();
            wrong[0] ^= 0xff;
            udp.send_to(&wrong, from).await.unwrap();
            udp.send_to(&reply, from).await.unwrap();
        }
    });
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let len = stream.read_u16().await.unwrap();
            let mut buffer = vec![0; usize::from(len)];
            stream.read_exact(&mut buffer).await.unwrap();
            let reply = answer(&buffer, &log);
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    (address, seen)
}

fn snapshot(builder: &mut Builder, address: &str) -> Arc<Snapshot> {
    for source in [Source::Services, Source::EndpointSlices, Source::Namespaces] {
        builder.apply(Event::RelistBegin(source));
    }
    let service = json!({"metadata": {"namespace": "default", "name": "web", "resourceVersion": "41"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}});
    let slice = json!({"metadata": {"namespace": "default", "name": "web-x", "resourceVersion": "42",
        "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": [address]}]});
    builder.apply(Event::Applied(Source::Services, Object::new(service)));
    builder.apply(Event::Applied(Source::EndpointSlices, Object::new(slice)));
    builder.apply(Event::Applied(Source::Namespaces, Object::new(json!({"metadata": {"name": "default"}}))));
    for source in [Source::Services, Source::EndpointSlices, Source::Namespaces] {
        builder.apply(Event::RelistEnd(source));
    }
    builder.publish().0
}

struct Running {
    port: u16,
    folder: tempfile::TempDir,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), DnsError>>,
    logs: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Starts a server whose Corefile is `.:PORT {\n bind 127.0.0.1\n` and `body`.
    async fn start(port: u16, body: &str) -> Running {
        Running::start_until(port, body, "Running configuration").await
    }

    /// The same, as far as this line of the log.
    async fn start_until(port: u16, body: &str, line: &str) -> Running {
        let Spawned { folder, snapshots, stop, task, logs } = spawn(&corefile(port, body));
        let running = Running { port, folder, snapshots, stop: Some(stop), task, logs };
        running.wait_for_log(line).await;
        running
    }

    fn corefile(&self) -> PathBuf {
        self.folder.path().join("Corefile")
    }

    async fn wait_for_log(&self, text: &str) {
        until(async || self.logs.lock().unwrap().iter().any(|line| line.contains(text))).await;
    }

    async fn udp(&self, name: &str, kind: u16) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(("127.0.0.1", self.port)).await.unwrap();
        let query = encode(&Message::query(9, name.parse().unwrap(), kind), 512);
        socket.send(&query).await.unwrap();
        let mut buffer = [0; 4096];
        let len = tokio::time::timeout(NEVER, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        decode(&buffer[..len]).unwrap()
    }

    async fn end(mut self) -> Result<(), DnsError> {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(NEVER, self.task).await.expect("an end").unwrap()
    }
}

fn corefile(port: u16, body: &str) -> String {
    format!(".:{port} {{\n bind 127.0.0.1\n{body}\n}}\n")
}

/// Waits for something that comes about by itself.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, wait).await.expect("it never came about");
}

fn addresses(message: &Message) -> Vec<String> {
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        Data::A(ip) => Some(ip.to_string()),
        _ => None,
    });
    addresses.collect()
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn answers_from_snapshots_as_they_come() {
    let [port, ready, health] = free_ports().await;
    let body = format!(
        " kubernetes cluster.local {{\n startup_timeout 0s\n }}\n ready 127.0.0.1:{ready}\n health 127.0.0.1:{health} {{\n lameduck 1ms\n }}"
    );
    let server = Running::start(port, &body).await;
    assert!(get(ready, "/ready").await.starts_with("HTTP/1.1 503 "));
    assert_eq!(server.udp("web.default.svc.cluster.local", rtype::A).await.rcode, rcode::SERVFAIL);
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    for address in ["10.244.0.5", "10.244.0.6"] {
        server.snapshots.send(snapshot(&mut builder, address)).unwrap();
        until(async || addresses(&server.udp("web.default.svc.cluster.local", rtype::A).await) == [address])
            .await;
    }
    assert!(get(ready, "/ready").await.starts_with("HTTP/1.1 200 "));
    // The writer goes: the last snapshot stays.
    let Running { snapshots, .. } = &server;
    snapshots.send_modify(|_| {});
    assert_eq!(server.udp("web.default.svc.cluster.local", rtype::A).await.answers.len(), 1);
    server.end().await.unwrap();
}

#[tokio::test]
async fn nobody_is_answered_before_the_cluster_is_known() {
    let [port, other] = free_ports().await;
    let body = " kubernetes cluster.local {\n startup_timeout 1h\n }";
    let waiting = "waiting for Kubernetes API";
    let server = Running::start_until(port, body, waiting).await;
    // The port is still anybody's.
    drop(UdpSocket::bind(("127.0.0.1", port)).await.unwrap());
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    server.snapshots.send(snapshot(&mut builder, "10.244.0.5")).unwrap();
    server.wait_for_log("Running configuration").await;
    assert_eq!(addresses(&server.udp("web.default.svc.cluster.local", rtype::A).await), ["10.244.0.5"]);
    server.end().await.unwrap();
    // A server that is to stop need not wait.
    Running::start_until(other, body, waiting).await.end().await.unwrap();
    // And nobody waits for ever.
    let body = " kubernetes cluster.local {\n startup_timeout 1ms\n }";
    let server = Running::start(other, body).await;
    server.wait_for_log("starting server with unsynced Kubernetes API").await;
    assert_eq!(server.udp("web.default.svc.cluster.local", rtype::A).await.rcode, rcode::SERVFAIL);
    server.end().await.unwrap();
}

#[tokio::test]
async fn prepared_answers_are_counted_and_follow_the_cluster() {
    let [port, metrics] = free_ports().await;
    let body =
        format!(" kubernetes cluster.local {{\n startup_timeout 0s\n }}\n prometheus 127.0.0.1:{metrics}");
    let server = Running::start(port, &body).await;
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    server.snapshots.send(snapshot(&mut builder, "10.244.0.5")).unwrap();
    let name = "web.default.svc.cluster.local";
    until(async || addresses(&server.udp(name, rtype::A).await) == ["10.244.0.5"]).await;
    let answered = async || {
        let page = get(metrics, "/metrics").await;
        let line = page.lines().find(|line| {
            line.starts_with("coredns_dns_responses_total")
                && line.contains("NOERROR\",plugin=\"kubernetes\"")
        });
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let before = answered().await;
    for _ in 0..50 {
        assert_eq!(addresses(&server.udp(name, rtype::A).await), ["10.244.0.5"]);
    }
    assert_eq!(answered().await, before + 50);
    server.snapshots.send(snapshot(&mut builder, "10.244.0.6")).unwrap();
    until(async || addresses(&server.udp(name, rtype::A).await) == ["10.244.0.6"]).await;
    server.end().await.unwrap();
}

#[tokio::test]
async fn forwards_over_udp_and_tcp_and_caches() {
    let [port] = free_ports().await;
    let (upstream, seen) = upstream().await;
    let server = Running::start(port, &format!(" forward . {upstream}\n cache 30")).await;
    for _ in 0..2 {
        let reply = server.udp("www.example", rtype::A).await;
        assert_eq!((reply.id, addresses(&reply)), (9, vec!["192.0.2.80".to_owned()]));
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
    // Two queries on one connection.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for name in ["one.example", "two.example"] {
        let query = encode(&Message::query(3, name.parse().unwrap(), rtype::A), 512);
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(addresses(&decode(&reply).unwrap()), ["192.0.2.80"]);
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
    server.end().await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_servfail() {
    let [port, nobody] = free_ports().await;
    let server = Running::start(port, &format!(" errors\n forward . 127.0.0.1:{nobody}")).await;
    assert_eq!(server.udp("www.example", rtype::A).await.rcode, rcode::SERVFAIL);
    server.wait_for_log("[ERROR] plugin/errors: 2 www.example. A: 127.0.0.1:").await;
    server.end().await.unwrap();
    // What was held back is said at the end.
    let body = format!(" errors {{\n consolidate 1h .*\n }}\n forward . 127.0.0.1:{nobody}");
    let server = Running::start(port, &body).await;
    assert_eq!(server.udp("www.example", rtype::A).await.rcode, rcode::SERVFAIL);
    let logs = server.logs.clone();
    let held =
        || logs.lock().unwrap().iter().any(|line| line.contains("1 errors like '.*' occurred in last"));
    assert!(!held());
    server.end().await.unwrap();
    assert!(held(), "{:?}", logs.lock().unwrap());
}

#[tokio::test]
async fn a_changed_corefile_takes_effect_and_a_wrong_one_does_not() {
    let [port, other] = free_ports().await;
    let hosts = |ip: &str| format!(" reload\n hosts /nowhere {{\n {ip} a.example\n }}");
    let mut server = Running::start(port, &hosts("10.0.0.1")).await;
    assert_eq!(addresses(&server.udp("a.example", rtype::A).await), ["10.0.0.1"]);
    std::fs::write(server.corefile(), corefile(port, &hosts("10.0.0.2"))).unwrap();
    until(async || addresses(&server.udp("a.example", rtype::A).await) == ["10.0.0.2"]).await;
    // As a ConfigMap's volume does it: another file is moved into place.
    let new = server.folder.path().join("new");
    std::fs::write(&new, corefile(port, &hosts("10.0.0.3"))).unwrap();
    std::fs::rename(&new, server.corefile()).unwrap();
    until(async || addresses(&server.udp("a.example", rtype::A).await) == ["10.0.0.3"]).await;
    std::fs::write(server.corefile(), corefile(port, " nonsense")).unwrap();
    server.wait_for_log("Corefile:3:2: unknown plugin 'nonsense'").await;
    assert_eq!(addresses(&server.udp("a.example", rtype::A).await), ["10.0.0.3"]);
    // Another port: the old one is closed.
    std::fs::write(server.corefile(), corefile(other, &hosts("10.0.0.4"))).unwrap();
    let old = port;
    server.port = other;
    until(async || TcpStream::connect(("127.0.0.1", other)).await.is_ok()).await;
    assert_eq!(addresses(&server.udp("a.example", rtype::A).await), ["10.0.0.4"]);
    until(async || TcpStream::connect(("127.0.0.1", old)).await.is_err()).await;
    server.end().await.unwrap();
}

#[tokio::test]
async fn health_metrics_and_lameduck() {
    let [port, health, metrics, ready] = free_ports().await;
    let body = format!(
        " health 127.0.0.1:{health} {{\n lameduck 1h\n }}\n ready 127.0.0.1:{ready}\n prometheus 127.0.0.1:{metrics}\n log\n \
         kubernetes cluster.local {{\n startup_timeout 0s\n }}"
    );
    let server = Running::start(port, &body).await;
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    server.snapshots.send(snapshot(&mut builder, "10.244.0.5")).unwrap();
    until(async || server.udp("web.default.svc.cluster.local", rtype::A).await.answers.len() == 1).await;
    let page = get(health, "/health").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nOK"), "{page}");
    assert!(get(health, "/other").await.starts_with("HTTP/1.1 404 "));
    let page = get(metrics, "/metrics").await;
    for line in [
        "sealane_dns_applied_revision 42",
        "coredns_panics_total 0",
        &format!(
            "coredns_plugin_enabled{{server=\"dns://127.0.0.1:{port}\",zone=\".\",view=\"\",name=\"kubernetes\"}} 1"
        ),
        &format!(
            "coredns_dns_responses_total{{server=\"dns://127.0.0.1:{port}\",zone=\".\",view=\"\",rcode=\"NOERROR\",plugin=\"kubernetes\"}} 1"
        ),
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    assert!(
        page.contains("coredns_build_info{") && page.contains("coredns_dns_request_duration_seconds_bucket{")
    );
    server.wait_for_log("\"A IN web.default.svc.cluster.local. udp 47 false 512\" NOERROR qr,aa,rd").await;
    // It asks itself how it is.
    until(async || {
        let page = get(metrics, "/metrics").await;
        let count =
            page.lines().find_map(|l| l.strip_prefix("coredns_health_request_duration_seconds_count "));
        assert!(page.contains("\ncoredns_health_request_failures_total 0\n"), "{page}");
        count.is_some_and(|count| count != "0")
    })
    .await;
    assert!(get(ready, "/ready").await.starts_with("HTTP/1.1 200 OK\r\n"));
    // Told to stop, it goes on answering for a while, and wants no more clients.
    let mut server = server;
    server.stop.take().unwrap().send(()).unwrap();
    server.wait_for_log("lameduck mode for 1h0m0s").await;
    let page = get(ready, "/ready").await;
    assert!(page.starts_with("HTTP/1.1 503 ") && page.ends_with("\r\n\r\nShutting down"), "{page}");
    assert_eq!(server.udp("web.default.svc.cluster.local", rtype::A).await.answers.len(), 1);
    server.task.abort();
    assert!(server.task.await.unwrap_err().is_cancelled());
    until(async || UdpSocket::bind(("127.0.0.1", port)).await.is_ok()).await;
}

async fn exchange(stream: &mut TcpStream, name: &str) -> std::io::Result<Message> {
    let query = encode(&Message::query(3, name.parse().unwrap(), rtype::A), 512);
    stream.write_u16(query.len() as u16).await?;
    stream.write_all(&query).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(decode(&reply).unwrap())
}

#[tokio::test]
async fn connections_end_as_the_corefile_says() {
    let [port] = free_ports().await;
    let body = |timeouts: &str| {
        format!(
            " reload\n hosts /nowhere {{\n 10.0.0.1 a.example\n }}\n timeouts {{\n {}\n }}",
            timeouts.replace(", ", "\n ")
        )
    };
    let server = Running::start(port, &body("read 1s, idle 20s, maxtcpqueries 2")).await;
    let connect = || TcpStream::connect(("127.0.0.1", port));
    let mut stream = connect().await.unwrap();
    for _ in 0..2 {
        assert_eq!(exchange(&mut stream, "a.example").await.unwrap().answers.len(), 1);
    }
    assert!(exchange(&mut stream, "a.example").await.is_err(), "that is the third");
    // One that says nothing, and one that says half of something.
    let (mut mute, mut slow) = (connect().await.unwrap(), connect().await.unwrap());
    slow.write_u16(40).await.unwrap();
    for stream in [&mut mute, &mut slow] {
        let end = tokio::time::timeout(NEVER, stream.read(&mut [0; 8])).await.expect("an end");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
    // Connections that come after a reload are under what it says.
    std::fs::write(server.corefile(), corefile(port, &body("idle 1s"))).unwrap();
    server.wait_for_log("[INFO] Reloading complete").await;
    let mut stream = connect().await.unwrap();
    for _ in 0..3 {
        exchange(&mut stream, "a.example").await.unwrap();
    }
    assert_eq!(tokio::time::timeout(NEVER, stream.read(&mut [0; 8])).await.expect("an end").unwrap(), 0);
    server.end().await.unwrap();
}

#[tokio::test]
async fn what_the_machine_is() {
    let [port] = free_ports().await;
    let server =
        Running::start(port, " chaos Sealane\n bind lo {\n except 127.0.0.1\n }\n root /no/such").await;
    server.wait_for_log("[WARNING] plugin/root: Root path does not exist: /no/such").await;
    let mut query = Message::query(9, "hostname.bind".parse().unwrap(), rtype::TXT);
    query.questions[0].class = 3;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&encode(&query, 512), ("127.0.0.1", port)).await.unwrap();
    let mut buffer = [0; 4096];
    let len = tokio::time::timeout(NEVER, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let reply = decode(&buffer[..len]).unwrap();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(reply.answers[0].data, Data::Txt(vec![name.trim().as_bytes().into()]));
    server.end().await.unwrap();
}

/// While a port that goes still owes an answer, the cluster's changes are followed.
#[tokio::test]
async fn a_reload_holds_nothing_up() {
    let [port, first, second, slow] = free_ports().await;
    let _upstream = UdpSocket::bind(("127.0.0.1", slow)).await.unwrap();
    let body = |other: u16| {
        format!(
            " reload\n kubernetes cluster.local {{\n startup_timeout 0s\n }}\n}}\n\
             .:{other} {{\n bind 127.0.0.1\n forward . 127.0.0.1:{slow}"
        )
    };
    let server = Running::start(port, &body(first)).await;
    let mut builder = Builder::new(&[Source::Services, Source::EndpointSlices, Source::Namespaces]);
    let complete = || {
        let logs = server.logs.lock().unwrap();
        logs.iter().filter(|line| line.contains("Reloading complete")).count()
    };
    let mut followed = false;
    // A machine that stands still for half a second may be late once.
    for n in 0..10usize {
        let (old, new) = if n % 2 == 0 { (first, second) } else { (second, first) };
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let query = encode(&Message::query(9, "www.example".parse().unwrap(), rtype::A), 512);
        client.send_to(&query, ("127.0.0.1", old)).await.unwrap();
        std::fs::write(server.corefile(), corefile(port, &body(new))).unwrap();
        until(async || {
            server.logs.lock().unwrap().iter().filter(|line| *line == "[INFO] Reloading").count() == n + 1
        })
        .await;
        let address = format!("10.244.0.{}", n + 1);
        server.snapshots.send(snapshot(&mut builder, &address)).unwrap();
        until(async || {
            addresses(&server.udp("web.default.svc.cluster.local", rtype::A).await) == [&*address]
        })
        .await;
        followed = complete() == n;
        if followed {
            break;
        }
        until(async || complete() == n + 1).await;
    }
    assert!(followed, "the cluster is followed after each reload only");
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_loop_ends_the_server_with_a_reason() {
    let [port] = free_ports().await;
    let server = Running::start(port, &format!(" loop\n forward . 127.0.0.1:{port}")).await;
    let error = tokio::time::timeout(NEVER, server.task).await.expect("an end").unwrap().unwrap_err();
    assert!(error.to_string().contains("Loop detected"), "{error}");
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    let settings = Settings::new(&path);
    assert!(check(&settings).unwrap_err().to_string().starts_with("cannot read "));
    std::fs::write(&path, ". {\n forward . /no/such/file\n}").unwrap();
    let error = check(&settings).unwrap_err().to_string();
    let expected = ":2:2: forward: /no/such/file is no address, and no resolv.conf with a name server";
    assert!(error.ends_with(expected), "{error}");
    std::fs::write(&path, "import parts/*.conf\n").unwrap();
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    std::fs::write(folder.path().join("parts/a.conf"), "a.example {\n nonsense\n}").unwrap();
    let error = check(&settings).unwrap_err().to_string();
    assert!(error.ends_with("parts/a.conf:2:2: unknown plugin 'nonsense'"), "{error}");
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    std::fs::write(&path, corefile(port, " errors")).unwrap();
    let (_writer, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let error = run(settings, snapshots, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on 127.0.0.1:{port} (DNS over UDP): ")), "{error}");
}

#[tokio::test]
async fn questions_to_an_upstream_come_from_many_ports() {
    let [port, up] = free_ports().await;
    let socket = UdpSocket::bind(("127.0.0.1", up)).await.unwrap();
    let server = Running::start(port, &format!(" forward . 127.0.0.1:{up}")).await;
    let seen = Arc::new(Mutex::new((std::collections::BTreeSet::new(), std::collections::BTreeSet::new())));
    let log = seen.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            log.lock().unwrap().0.insert(from.port());
            log.lock().unwrap().1.insert([buffer[0], buffer[1]]);
            let reply = encode(&decode(&buffer[..len]).unwrap().reply(rcode::NOERROR), 512);
            // A stranger at another address than the one that was asked is not heard.
            let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
            let forged = encode(&decode(&buffer[..len]).unwrap().reply(rcode::NXDOMAIN), 512);
            stranger.send_to(&forged, from).await.unwrap();
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    for number in 0..256 {
        assert_eq!(server.udp(&format!("n{number}.example"), rtype::A).await.rcode, rcode::NOERROR);
    }
    let (ports, ids) = seen.lock().unwrap().clone();
    // 128 sockets, one of them at random each time, ids besides.
    assert!((64..=128).contains(&ports.len()), "{} ports", ports.len());
    assert!(ids.len() > 240, "{} ids", ids.len());
    server.end().await.unwrap();
}
