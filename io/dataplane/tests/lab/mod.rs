//! Network namespaces that are gone with the test: each belongs to a thread that made it, and to nobody else.
#![allow(dead_code)]

pub mod flows;

use sealane_catalog::{Endpoint, EndpointPort, Entry, NamespacedName, Protocol, Service, ServicePort, Slice};
use sealane_dataplane::{IptablesSink, NftSink, Variant, netlink_socket};
use sealane_proxy::{NodeContext, RuleSink, Table, cases};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace.
pub struct Namespace {
    jobs: Sender<Job>,
    thread: i32,
}

impl Namespace {
    /// A new one; fails the test where that is not allowed.
    pub fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (made, ready) = channel();
        std::thread::spawn(move || {
            // SAFETY: unsharing descriptors is what is unsafe; a network namespace leaves memory and files alone.
            let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
            made.send(unshared.map(|()| rustix::thread::gettid().as_raw_nonzero().get())).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        let thread = ready.recv().unwrap().expect("this test makes network namespaces: run it as root");
        let namespace = Self { jobs, thread };
        // An address that waits for duplicates to be found would cost the first connection its SYN.
        namespace.sysctl("ipv6/conf/default/accept_dad", "0");
        namespace.sysctl("ipv6/conf/default/dad_transmits", "0");
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs something inside.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || drop(done.send(job())))).unwrap();
        result.recv().expect("a job in a namespace panicked")
    }

    /// Runs a program inside and gives back what it printed.
    pub fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new(&words[0]).args(&words[1..]).output().unwrap());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn ip(&self, arguments: &str) {
        self.command(&format!("ip {arguments}"));
    }

    pub fn sysctl(&self, path: &'static str, value: &'static str) {
        self.run(move || std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }

    pub fn sink(&self) -> NftSink {
        NftSink::open(self.run(netlink_socket).unwrap()).unwrap()
    }

    pub fn iptables(&self, variant: Variant) -> IptablesSink {
        self.run(move || IptablesSink::open(variant)).unwrap()
    }
}

/// A node, Pods behind it, each on its own link, and a machine outside.
pub struct Lab {
    pub node: Namespace,
    pub pods: Vec<Namespace>,
    pub outside: Namespace,
}

pub const NODE_ADDRESS: &str = "192.0.2.10";
pub const OUTSIDE_ADDRESS: &str = "192.0.2.1";

/// A Pod's address, from 0.
pub fn pod_ip(number: usize) -> IpAddr {
    format!("10.244.{number}.2").parse().unwrap()
}

/// A Pod's other address.
pub fn pod_ip6(number: usize) -> IpAddr {
    format!("fd00:244:{number}::2").parse().unwrap()
}

impl Lab {
    pub fn new(pods: usize) -> Self {
        let node = Namespace::new();
        node.sysctl("ipv4/ip_forward", "1");
        node.sysctl("ipv6/conf/all/forwarding", "1");
        let outside = Namespace::new();
        wire(&node, "out", &outside);
        node.ip(&format!("addr add {NODE_ADDRESS}/24 dev out"));
        outside.ip(&format!("addr add {OUTSIDE_ADDRESS}/24 dev eth0"));
        // Service addresses are somebody's to route before their destination is replaced.
        node.ip(&format!("route add default via {OUTSIDE_ADDRESS}"));
        outside.ip(&format!("route add default via {NODE_ADDRESS}"));
        let pods: Vec<Namespace> = (0..pods)
            .map(|number| {
                let pod = Namespace::new();
                let link = format!("pod{number}");
                wire(&node, &link, &pod);
                node.ip(&format!("addr add 10.244.{number}.1/24 dev {link}"));
                node.ip(&format!("addr add fd00:244:{number}::1/64 dev {link} nodad"));
                pod.ip(&format!("addr add 10.244.{number}.2/24 dev eth0"));
                pod.ip(&format!("addr add fd00:244:{number}::2/64 dev eth0 nodad"));
                pod.ip(&format!("route add default via 10.244.{number}.1"));
                pod.ip(&format!("-6 route add default via fd00:244:{number}::1"));
                pod
            })
            .collect();
        Self { node, pods, outside }
    }

    /// Every Pod answers on TCP and UDP port 8080, of both families.
    pub fn serve(&self) {
        for number in 0..self.pods.len() {
            for address in [pod_ip(number), pod_ip6(number)] {
                self.pods[number].run(move || serve(number, SocketAddr::new(address, 8080)));
            }
        }
    }
}

/// A link between two.
pub fn wire(node: &Namespace, link: &str, other: &Namespace) {
    node.ip(&format!("link add {link} type veth peer name eth0 netns {}", other.thread));
    node.ip(&format!("link set {link} up"));
    other.ip("link set eth0 up");
}

/// Answers `NUMBER SOURCE` to every connection and datagram.
pub fn serve(number: usize, address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(format!("{number} {}", peer.ip()).as_bytes());
        }
    });
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{number} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Which Pod answered, and whom it saw.
pub type Answer = (usize, IpAddr);

fn answer(text: &str) -> Answer {
    let (number, source) = text.split_once(' ').unwrap();
    (number.parse().unwrap(), source.parse().unwrap())
}

/// Connects from a namespace, some times over.
pub fn connect(from: &Namespace, to: &str, times: usize) -> Vec<std::io::Result<Answer>> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        (0..times)
            .map(|_| {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(answer(&text))
            })
            .collect()
    })
}

/// Connections that all succeed.
pub fn answers(from: &Namespace, to: &str, times: usize) -> Vec<Answer> {
    connect(from, to, times).into_iter().map(|a| a.unwrap_or_else(|e| panic!("{to}: {e}"))).collect()
}

/// A socket for datagrams to one address.
pub fn connected(from: &Namespace, to: &str) -> UdpSocket {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        socket
    })
}

/// Sends a datagram over a socket and takes the answer.
pub fn ask(socket: &UdpSocket) -> std::io::Result<Answer> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(answer(std::str::from_utf8(&buffer[..length]).unwrap()))
}

pub fn name(text: &str) -> NamespacedName {
    NamespacedName { namespace: "default".into(), name: text.into() }
}

/// A Service with port 80 on TCP and UDP.
pub fn service(text: &str, cluster_ips: &[&str]) -> Service {
    let port = |protocol, name: &str| ServicePort {
        name: name.into(),
        protocol,
        port: 80,
        node_port: 0,
        app_protocol: "".into(),
    };
    Service {
        cluster_ips: cluster_ips.iter().map(|a| a.parse().unwrap()).collect(),
        ports: [port(Protocol::Tcp, "t"), port(Protocol::Udp, "u")].into(),
        ..cases::service(text)
    }
}

/// Pods of this node as endpoints.
pub fn endpoints(numbers: &[usize]) -> Vec<(IpAddr, &'static str)> {
    numbers.iter().map(|n| (pod_ip(*n), "n1")).collect()
}

/// Its entry, with endpoints on port 8080; those of node `n2` are elsewhere.
pub fn entry(service: Service, endpoints: &[(IpAddr, &str)]) -> Entry {
    let slice = |ipv6: bool| {
        let endpoints = endpoints.iter().filter(|(a, _)| a.is_ipv6() == ipv6);
        let endpoints = endpoints.map(|(address, node)| Endpoint::new(*address).on(node, ""));
        let port = |protocol, name: &str| EndpointPort {
            name: name.into(),
            protocol,
            port: Some(8080),
            app_protocol: "".into(),
        };
        Arc::new(Slice {
            key: name(&format!("{}-{ipv6}", service.key.name)),
            service: service.key.clone(),
            revision: 1,
            ipv6,
            ports: [port(Protocol::Tcp, "t"), port(Protocol::Udp, "u")].into(),
            endpoints: endpoints.collect(),
            triggered: 0,
        })
    };
    Entry { slices: vec![slice(false), slice(true)], service: Some(Arc::new(service)) }
}

pub fn context() -> NodeContext {
    NodeContext {
        node_port_addresses: vec![NODE_ADDRESS.parse().unwrap()],
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/32".parse().unwrap()],
        ..NodeContext::new("n1")
    }
}

/// A table and the sink that follows it.
pub struct Rules<S = NftSink> {
    pub table: Table,
    pub sink: S,
}

impl Rules {
    pub fn new(node: &Namespace) -> Self {
        Rules::of(node.sink())
    }
}

impl<S: RuleSink> Rules<S> {
    pub fn of(mut sink: S) -> Self {
        sink.replace(&context(), &BTreeMap::new()).unwrap();
        Self { table: Table::new(context()), sink }
    }

    pub fn set(&mut self, entry: Entry) {
        let key = entry.service.as_ref().unwrap().key.clone();
        let changes = self.table.update([(&key, Some(&entry))]);
        self.sink.apply(&changes).unwrap();
        self.sink.settle().unwrap();
        self.sink.forget_flows().unwrap();
    }
}
