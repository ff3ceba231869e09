//! Upstreams that are dead, slow, lying or looping, and what their forwarder's clients get: a table that is held against
//! Sealane and CoreDNS, and what Sealane promises beside it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

// The tables of `dns_tables` use the rest of it.
#[allow(dead_code)]
#[path = "dns/codec.rs"]
mod codec;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codec::{Edns, Query, Reply, decode};
use sealane_tests::{eventually, free_port, sealane};

/// No forwarder keeps a client waiting for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What comes of a question: datagrams, and octets on a connection.
type Datagrams = fn(&[u8]) -> Vec<Vec<u8>>;
type Octets = fn(&[u8]) -> Vec<u8>;

/// What an upstream does with a question.
#[derive(Clone, Copy)]
struct Conduct {
    /// The datagrams that it sends, one after the other; `None`: nobody listens there.
    udp: Option<Datagrams>,
    /// What it writes into a connection before it closes that; `None`: nobody listens there.
    tcp: Option<Octets>,
}

const SILENT: Conduct = Conduct { udp: Some(|_| Vec::new()), tcp: None };

/// An upstream on loopback. Its sockets are closed when it is dropped.
struct Upstream {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Upstream {
    fn start(conduct: Conduct) -> Self {
        Upstream::at(SocketAddr::from(([127, 0, 0, 1], free_port())), conduct)
    }

    fn at(address: SocketAddr, conduct: Conduct) -> Self {
        let udp = UdpSocket::bind(address).unwrap();
        let address = udp.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if let Some(answers) = conduct.udp {
            udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let over = over.clone();
            threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 65_535];
                while !over.load(Ordering::Relaxed) {
                    let Ok((len, from)) = udp.recv_from(&mut buffer) else { continue };
                    for answer in answers(&buffer[..len]) {
                        let _ = udp.send_to(&answer, from);
                    }
                }
            }));
        }
        if let Some(answer) = conduct.tcp {
            let tcp = TcpListener::bind(address).unwrap();
            let over = over.clone();
            threads.push(std::thread::spawn(move || {
                while let Ok((mut stream, _)) = tcp.accept() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut length = [0; 2];
                    if stream.read_exact(&mut length).is_err() {
                        continue;
                    }
                    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                    if stream.read_exact(&mut question).is_ok() {
                        let _ = stream.write_all(&answer(&question));
                    }
                }
            }));
        }
        Upstream { address, over, threads }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes who accepts.
        let _ = std::net::TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Where a question ends.
fn end(question: &[u8]) -> usize {
    let mut at = 12;
    while question[at] != 0 {
        at += 1 + usize::from(question[at]);
    }
    at + 5
}

/// An honest answer with so many addresses, without EDNS.
fn addresses(question: &[u8], count: u16) -> Vec<u8> {
    let mut out = question[..end(question)].to_vec();
    out[2] |= 0x80;
    out[3] = 0x80;
    out[6..8].copy_from_slice(&count.to_be_bytes());
    out[8..12].fill(0);
    for n in 1..=count {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, (n >> 8) as u8 + 2, n as u8]);
    }
    out
}

fn answer(question: &[u8]) -> Vec<u8> {
    addresses(question, 1)
}

/// It, with the octet at `at` changed.
fn bent(question: &[u8], at: usize, by: u8) -> Vec<u8> {
    let mut out = answer(question);
    out[at] ^= by;
    out
}

fn refusal(question: &[u8], rcode: u8) -> Vec<u8> {
    let mut out = addresses(question, 0);
    out[3] |= rcode;
    out
}

fn truncated(question: &[u8]) -> Vec<u8> {
    let mut out = addresses(question, 0);
    out[2] |= 2;
    out
}

fn framed(message: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    length.into_iter().chain(message).collect()
}

/// One upstream's fault, and what a client gets.
struct Fault {
    what: &'static str,
    conduct: Conduct,
    /// Of `forward`.
    options: &'static str,
    /// Whether the client has EDNS.
    edns: bool,
    sealane: &'static str,
    /// Where that is something else.
    coredns: Option<&'static str>,
}

const fn udp(answers: Datagrams) -> Conduct {
    Conduct { udp: Some(answers), tcp: None }
}

const fn row(what: &'static str, conduct: Conduct, options: &'static str, sealane: &'static str) -> Fault {
    Fault { what, conduct, options, edns: false, sealane, coredns: None }
}

/// Whoever forges an answer has to wait for the true one or for the end: what is about another question is no answer to
/// Sealane. CoreDNS takes the first that has the id.
const FAULTS: &[Fault] = &[
    row("honest", udp(|q| vec![answer(q)]), "", "NOERROR 192.0.2.1"),
    row("silent", SILENT, "", "SERVFAIL"),
    row("nobody there", Conduct { udp: None, tcp: None }, "", "SERVFAIL"),
    row(
        "slow",
        udp(|q| {
            std::thread::sleep(Duration::from_millis(300));
            vec![answer(q)]
        }),
        "",
        "NOERROR 192.0.2.1",
    ),
    row("wrong id, then the right one", udp(|q| vec![bent(q, 0, 1), answer(q)]), "", "NOERROR 192.0.2.1"),
    row("wrong id", udp(|q| vec![bent(q, 0, 1)]), "", "SERVFAIL"),
    Fault {
        coredns: Some("FORMERR"),
        ..row(
            "wrong name, then the right one",
            udp(|q| vec![bent(q, 13, 1), answer(q)]),
            "",
            "NOERROR 192.0.2.1",
        )
    },
    Fault { coredns: Some("FORMERR"), ..row("wrong name", udp(|q| vec![bent(q, 13, 1)]), "", "SERVFAIL") },
    Fault {
        coredns: Some("FORMERR"),
        ..row("wrong type", udp(|q| vec![bent(q, end(q) - 3, 4)]), "", "SERVFAIL")
    },
    Fault {
        coredns: Some("FORMERR"),
        ..row("the question itself", udp(|q| vec![q.to_vec(), answer(q)]), "", "NOERROR 192.0.2.1")
    },
    row("garbage with the id", udp(|q| vec![[&q[..2], &[0xff; 40]].concat()]), "", "SERVFAIL"),
    Fault {
        coredns: Some("NOERROR tc"),
        ..row("cut in the middle", udp(|q| vec![answer(q)[..end(q) + 7].to_vec()]), "", "SERVFAIL")
    },
    Fault {
        coredns: Some("FORMERR"),
        ..row("nothing but a header", udp(|q| vec![answer(q)[..12].to_vec()]), "", "SERVFAIL")
    },
    row("oversized", udp(|q| vec![addresses(q, 200)]), "", "NOERROR tc"),
    row("truncated", udp(|q| vec![truncated(q)]), "", "NOERROR tc"),
    row("truncated, nobody on TCP", udp(|q| vec![truncated(q)]), "prefer_udp", "SERVFAIL"),
    row(
        "truncated, and whole on TCP",
        Conduct { udp: Some(|q| vec![truncated(q)]), tcp: Some(|q| framed(answer(q))) },
        "prefer_udp",
        "NOERROR 192.0.2.1",
    ),
    row(
        "a connection cut in the middle",
        Conduct { udp: None, tcp: Some(|q| framed(answer(q))[..20].to_vec()) },
        "force_tcp",
        "SERVFAIL",
    ),
    row(
        "a connection cut at once",
        Conduct { udp: None, tcp: Some(|_| Vec::new()) },
        "force_tcp",
        "SERVFAIL",
    ),
    Fault { edns: true, ..row("EDNS dropped", udp(|q| vec![answer(q)]), "", "NOERROR 192.0.2.1 opt") },
    Fault { edns: true, ..row("FORMERR to EDNS", udp(|q| vec![refusal(q, 1)]), "", "FORMERR opt") },
    row("REFUSED", udp(|q| vec![refusal(q, 5)]), "", "REFUSED"),
];

/// A reply in short: code, `tc`, the first address, `opt`.
fn short(reply: &Reply) -> String {
    let mut out = reply.rcode.clone();
    let truncated = reply.flags & 0x0200 != 0;
    match reply.sections[0].first().and_then(|record| record.rsplit(' ').next()) {
        _ if truncated => out.push_str(" tc"),
        Some(data) => write!(out, " {data}").unwrap(),
        None => {}
    }
    if reply.opt.is_some() {
        out.push_str(" opt");
    }
    out
}

/// A program with CoreDNS's flags.
struct Dns {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Dns {
    fn start(mut command: Command, corefile: impl FnOnce(u16) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let path = folder.path().join("Corefile");
        std::fs::write(&path, corefile(port)).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        command.arg("-conf").arg(&path).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{command:?}: {error}; CoreDNS is built by `cargo xtask coredns`, or named by SEALANE_COREDNS"
            )
        });
        Dns { child, folder, port }
    }

    fn sealane(corefile: impl FnOnce(u16) -> String) -> Self {
        let mut command = Command::new(sealane());
        command.arg("dns");
        Dns::start(command, corefile)
    }

    fn coredns(corefile: impl FnOnce(u16) -> String) -> Self {
        let built = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/coredns/coredns"));
        let program = match std::env::var_os("SEALANE_COREDNS") {
            Some(path) => PathBuf::from(path),
            None if built.is_file() => built.to_owned(),
            None => "coredns".into(),
        };
        Dns::start(Command::new(program), corefile)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Asks for an address, once.
    fn ask(&self, name: &str, edns: bool) -> Result<Reply, String> {
        let socket = self.socket();
        socket.send(&question(7, name, edns)).map_err(|e| e.to_string())?;
        let mut buffer = [0; 65_535];
        let len = socket.recv(&mut buffer).map_err(|e| format!("{name}: {e}"))?;
        decode(&buffer[..len])
    }

    /// Asks until somebody is there.
    fn answers(&mut self, name: &str) -> Reply {
        eventually("the first answer", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{status}: {}", self.log());
            }
            self.ask(name, false)
        })
    }

    /// Octets of memory.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn question(id: u16, name: &str, edns: bool) -> Vec<u8> {
    let edns = edns.then_some(Edns { size: 1232, dnssec: false, version: 0 });
    Query { name: name.to_owned(), rtype: 1, class: 1, flags: 0x0100, edns }.encode(id)
}

/// A block that answers by itself.
fn own(port: u16) -> String {
    format!(
        "own.test:{port} {{\n bind 127.0.0.1\n template IN A {{\n  answer \"{{{{ .Name }}}} 60 IN A 192.0.2.99\"\n }}\n}}\n"
    )
}

#[test]
fn what_clients_get_of_upstreams_faults() {
    let upstreams: Vec<Upstream> = FAULTS.iter().map(|fault| Upstream::start(fault.conduct)).collect();
    let corefile = |port: u16| {
        let mut out = own(port);
        for (at, (fault, upstream)) in FAULTS.iter().zip(&upstreams).enumerate() {
            let (to, options) = (upstream.address, fault.options);
            let forward = format!("forward . {to} {{\n  max_fails 0\n  {options}\n }}");
            writeln!(out, "f{at}.test:{port} {{\n bind 127.0.0.1\n {forward}\n}}").unwrap();
        }
        out
    };
    let mut servers = [("sealane", Dns::sealane(corefile)), ("coredns", Dns::coredns(corefile))];
    let mut wrong = Vec::new();
    for (program, server) in &mut servers {
        server.answers("own.test.");
        let said: Vec<String> = std::thread::scope(|scope| {
            let server = &*server;
            let ask = |at: usize, edns: bool| {
                scope.spawn(move || {
                    server.ask(&format!("www.f{at}.test."), edns).map_or_else(|e| e, |r| short(&r))
                })
            };
            let asked: Vec<_> = FAULTS.iter().enumerate().map(|(at, fault)| ask(at, fault.edns)).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (fault, said) in FAULTS.iter().zip(said) {
            let meant =
                if *program == "coredns" { fault.coredns.unwrap_or(fault.sealane) } else { fault.sealane };
            if said != meant {
                wrong.push(format!("{program}, {}: {said} instead of {meant}", fault.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_upstream_that_comes_back_is_asked_again() {
    let gone = Upstream::start(Conduct { udp: None, tcp: None });
    let (address, spare) = (gone.address, Upstream::start(udp(|q| vec![addresses(q, 2)])));
    drop(gone);
    let mut dns = Dns::sealane(|port| {
        let to = format!("{address} {}", spare.address);
        let forward =
            format!("forward . {to} {{\n  policy sequential\n  health_check 100ms\n  max_fails 1\n }}");
        own(port) + &format!(".:{port} {{\n bind 127.0.0.1\n {forward}\n}}\n")
    });
    // The second one stands in while the first is gone.
    let reply = dns.answers("www.example.");
    assert_eq!((reply.rcode.as_str(), reply.sections[0].len()), ("NOERROR", 2));
    let _back = Upstream::at(address, udp(|q| vec![answer(q)]));
    eventually("the first upstream", || match dns.ask("www.example.", false)?.sections[0].len() {
        1 => Ok(()),
        count => Err(format!("{count} addresses")),
    });
}

#[test]
fn thousands_that_wait_for_a_dead_upstream_are_in_nobodys_way() {
    let silent = Upstream::start(SILENT);
    let mut dns = Dns::sealane(|port| {
        let forward = format!("forward . {} {{\n  max_fails 0\n }}", silent.address);
        own(port) + &format!(".:{port} {{\n bind 127.0.0.1\n cache 30\n {forward}\n}}\n")
    });
    dns.answers("own.test.");
    let before = dns.resident();
    let flood = dns.socket();
    flood.set_nonblocking(true).unwrap();
    let (mut asked, mut answered, mut buffer) = (0u16, 0, [0; 4096]);
    while asked < 40_000 {
        for _ in 0..50 {
            asked += 1;
            // The kernel may have no room: that is a query that got lost.
            let _ = flood.send(&question(asked, &format!("n{asked}.example."), false));
        }
        while flood.recv(&mut buffer).is_ok() {
            answered += 1;
        }
        let reply = dns.ask("own.test.", false).unwrap();
        assert_eq!(short(&reply), "NOERROR 192.0.2.99");
    }
    // Those were answered while these wait: nobody is told anything of a dead upstream so soon.
    assert!(answered < asked, "{answered}");
    let grown = dns.resident().saturating_sub(before);
    assert!(grown < 160 << 20, "{grown} octets for {asked} queries");
    // They end, and others can wait.
    eventually("an answer to who waited", || match dns.ask("again.example.", false)?.rcode.as_str() {
        "SERVFAIL" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert!(matches!(dns.child.try_wait(), Ok(None)), "{}", dns.log());
}

#[test]
fn a_server_that_forwards_to_itself_says_so_or_stays_bounded() {
    let looping = |more: &'static str| {
        move |port: u16| {
            let forward = format!("forward . 127.0.0.1:{port} {{\n  max_concurrent 100\n }}");
            own(port) + &format!(".:{port} {{\n bind 127.0.0.1\n {more}\n {forward}\n}}\n")
        }
    };
    let with_loop =
        |port: u16| format!(".:{port} {{\n bind 127.0.0.1\n loop\n forward . 127.0.0.1:{port}\n}}\n");
    for mut dns in [Dns::sealane(with_loop), Dns::coredns(with_loop)] {
        let status = eventually("the end", || dns.child.try_wait().unwrap().ok_or_else(|| dns.log()));
        assert!(!status.success(), "{}", dns.log());
        assert!(dns.log().contains("plugin/loop: Loop"), "{}", dns.log());
    }
    let mut dns = Dns::sealane(looping(""));
    dns.answers("own.test.");
    let before = dns.resident();
    for _ in 0..3 {
        let reply = dns.ask("www.example.", false).unwrap();
        assert!(matches!(reply.rcode.as_str(), "SERVFAIL" | "REFUSED"), "{}", reply.rcode);
        assert_eq!(short(&dns.ask("own.test.", false).unwrap()), "NOERROR 192.0.2.99");
    }
    let grown = dns.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} octets");
}

/// Two servers in one that ask each other, with nothing said about how many may wait.
#[test]
fn servers_that_forward_to_each_other_stay_bounded() {
    let mut dns = Dns::sealane(|port| {
        let block = |own: u8, other: u8| {
            format!(
                ".:{port} {{\n bind 127.0.0.{own}\n forward . 127.0.0.{other}:{port} {{\n  max_fails 0\n }}\n}}\n"
            )
        };
        own(port) + &block(1, 2) + &block(2, 1)
    });
    dns.answers("own.test.");
    let before = dns.resident();
    // Each goes round and round until there is no room for more, or no time.
    let started = std::time::Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(10) {
        number += 1;
        let reply = dns.ask(&format!("n{number}.example."), false).unwrap();
        assert!(matches!(reply.rcode.as_str(), "SERVFAIL" | "REFUSED"), "{}", reply.rcode);
        assert_eq!(short(&dns.ask("own.test.", false).unwrap()), "NOERROR 192.0.2.99");
        let grown = dns.resident().saturating_sub(before);
        assert!(grown < 160 << 20, "{grown} octets");
    }
}
