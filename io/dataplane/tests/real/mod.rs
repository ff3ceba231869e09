//! Rows of the table as real connections: who answers, and whom it saw.

mod sctp;

use crate::lab::{Lab, NODE_ADDRESS, Namespace, pod_ip, pod_ip6, serve};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use sealane_catalog::Protocol;
use sealane_proxy::cases::{Cluster, Row, address};
use sealane_proxy::{Backend, Fate};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The answerer's number: a Pod's, or `OUTSIDE`; and `ALTERNATE` on the second port.
const OUTSIDE: usize = 50;
const ALTERNATE: usize = 100;
/// How long an answer that must come is waited for, and one that must not.
const PATIENT: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(80);
/// Connections until all endpoints must have been met: one of three is missed once in 10^12 rows.
const MOST: usize = 70;

/// What came of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This one answered, and had seen this source.
    At(usize, IpAddr),
    Refused,
    Silent,
}

/// A node with five Pods and a machine outside that has two addresses.
pub struct Site {
    pub lab: Lab,
    watch: sctp::Watch,
    port: Arc<AtomicU16>,
}

fn word(text: &str) -> IpAddr {
    address(text).unwrap()
}

impl Site {
    pub fn new() -> Self {
        let lab = Lab::new(5);
        lab.node.ip(&format!("addr add {}/64 dev out nodad", word("node6")));
        lab.node.ip(&format!("-6 route add default via {}", word("out6")));
        lab.outside.ip(&format!("addr add {}/64 dev eth0 nodad", word("out6")));
        lab.outside.ip(&format!("-6 route add default via {}", word("node6")));
        lab.outside.ip(&format!("addr add {}/32 dev eth0", word("far")));
        lab.outside.ip(&format!("addr add {}/128 dev eth0 nodad", word("far6")));
        // A machine says "port unreachable" to one sender so many times a second, and these are more.
        for machine in [&lab.node, &lab.outside] {
            machine.sysctl("ipv4/icmp_ratelimit", "0");
            machine.sysctl("ipv6/icmp/ratelimit", "0");
        }
        let watch = sctp::Watch::new();
        for (number, pod) in lab.pods.iter().enumerate() {
            for address in [pod_ip(number), pod_ip6(number)] {
                pod.run(move || serve(number, SocketAddr::new(address, 8080)));
                pod.run(move || serve(number + ALTERNATE, SocketAddr::new(address, 8081)));
            }
            watch.listen(pod, number);
        }
        for address in [word("out"), word("out6")] {
            lab.outside.run(move || serve(OUTSIDE, SocketAddr::new(address, 8080)));
        }
        Self { lab, watch, port: Arc::new(AtomicU16::new(20_000)) }
    }

    fn namespace(&self, source: &str) -> &Namespace {
        match source {
            "a" => &self.lab.pods[0],
            "b" => &self.lab.pods[1],
            "c" => &self.lab.pods[2],
            "d" => &self.lab.pods[3],
            "pod" => &self.lab.pods[4],
            "out" | "far" => &self.lab.outside,
            _ => &self.lab.node,
        }
    }

    /// Gives the node the address that a cluster wants it to have.
    pub fn own(&self, cluster: &Cluster, present: bool) {
        if let Some(address) = cluster.own {
            self.lab.node.ip(&format!("addr {} {address}/32 dev lo", if present { "add" } else { "del" }));
        }
    }

    /// Connects once. Every connection has a source port of its own, so that none meets what another left.
    fn attempt(&self, row: &Row, patience: Duration) -> Seen {
        let port = self.port.fetch_add(1, Ordering::Relaxed);
        let source = SocketAddr::new(row.packet.source, port);
        let source = if row.packet.destination.is_loopback() {
            SocketAddr::new(row.packet.destination, port)
        } else {
            source
        };
        let to = SocketAddr::new(row.packet.destination, row.packet.port);
        let namespace = self.namespace(&row.source);
        match row.packet.protocol {
            Protocol::Tcp => namespace.run(move || outcome(tcp(source, to, patience))),
            Protocol::Udp => namespace.run(move || outcome(udp(source, to, patience))),
            Protocol::Sctp => self.watch.attempt(namespace, source, to, patience),
        }
    }

    /// Rows that something else happens to, with what. Those of different senders run at the same time.
    pub fn check_all<'r>(&self, rows: &'r [Row]) -> Vec<(&'r Row, String)> {
        let mut by_sender: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            by_sender.entry(&row.source).or_default().push(row);
        }
        std::thread::scope(|scope| {
            let of = |rows: Vec<&'r Row>| {
                scope.spawn(move || {
                    let wrong = rows.into_iter().filter_map(|r| Some((r, self.check(r).err()?)));
                    wrong.collect::<Vec<_>>()
                })
            };
            let running: Vec<_> = by_sender.into_values().map(of).collect();
            running.into_iter().flat_map(|r| r.join().unwrap()).collect()
        })
    }

    /// Whether what happens is what a row says.
    fn check(&self, row: &Row) -> Result<(), String> {
        match &row.fate {
            Fate::Reject => expect(self.attempt(row, PATIENT), &Seen::Refused),
            Fate::Drop => expect(self.attempt(row, BRIEF), &Seen::Silent),
            // Who is spoken to directly answers where he listens.
            Fate::Pass => match (
                endpoint(row.packet.destination, 8080).filter(|_| row.packet.port == 8080),
                self.attempt(row, BRIEF),
            ) {
                (Some(number), seen) => expect(seen, &Seen::At(number, row.packet.source)),
                (None, Seen::At(number, _)) => Err(format!("{number} answers")),
                (None, _) => Ok(()),
            },
            Fate::Dnat { backends, masqueraded, affinity } => {
                let expected: BTreeSet<Answer> =
                    backends.iter().map(|b| (number(b), seen_from(row, b, masqueraded))).collect();
                let mut met = BTreeSet::new();
                let most = if affinity.is_some() { 4 } else { MOST };
                for _ in 0..most {
                    match self.attempt(row, PATIENT) {
                        Seen::At(number, source) if expected.contains(&(number, source)) => {
                            met.insert((number, source));
                        }
                        other => return Err(format!("{other:?}, not one of {expected:?}")),
                    }
                    if affinity.is_none() && met.len() == expected.len() {
                        return Ok(());
                    }
                }
                match affinity {
                    Some(_) if met.len() == 1 => Ok(()),
                    Some(_) => Err(format!("does not stay: {met:?}")),
                    None => Err(format!("{met:?} alone of {expected:?}")),
                }
            }
        }
    }
}

/// Who answers, and whom it saw.
type Answer = (usize, IpAddr);

fn expect(seen: Seen, expected: &Seen) -> Result<(), String> {
    if seen == *expected { Ok(()) } else { Err(format!("{seen:?}, not {expected:?}")) }
}

fn endpoint(address: IpAddr, port: u16) -> Option<usize> {
    let pod = (0..5).find(|n| pod_ip(*n) == address || pod_ip6(*n) == address);
    let outside = || [word("out"), word("out6")].contains(&address).then_some(OUTSIDE);
    pod.or_else(outside).map(|n| if port == 8081 { n + ALTERNATE } else { n })
}

fn number(backend: &Backend) -> usize {
    endpoint(backend.address, backend.port).expect("an endpoint that is there")
}

/// The source that a backend sees: the sender's, or the node's on the way there.
fn seen_from(row: &Row, backend: &Backend, masqueraded: &BTreeSet<Backend>) -> IpAddr {
    if !masqueraded.contains(backend) {
        return row.packet.source;
    }
    match (number(backend) % ALTERNATE, backend.address.is_ipv4()) {
        (OUTSIDE, true) => NODE_ADDRESS.parse().unwrap(),
        (OUTSIDE, false) => word("node6"),
        (pod, true) => format!("10.244.{pod}.1").parse().unwrap(),
        (pod, false) => format!("fd00:244:{pod}::1").parse().unwrap(),
    }
}

fn outcome(answer: std::io::Result<String>) -> Seen {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset};
    match answer {
        Ok(text) => {
            let (number, source) = text.split_once(' ').unwrap();
            Seen::At(number.parse().unwrap(), source.parse().unwrap())
        }
        Err(e) if [ConnectionRefused, ConnectionReset].contains(&e.kind()) => Seen::Refused,
        Err(_) => Seen::Silent,
    }
}

fn tcp(source: SocketAddr, to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &source)?;
    // What a blocking connect waits for at most.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    connect(&socket, &to)?;
    let mut stream = TcpStream::from(socket);
    stream.flush()?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn udp(source: SocketAddr, to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let socket = UdpSocket::bind(source)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    match socket.send(b"?") {
        // What the node's own rules stop is said at once; whether it was refused, the socket hears behind it.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
        sent => drop(sent?),
    }
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
