//! A client, a node and the endpoints' machine, each in a network namespace of its own: every connection goes through the
//! node, which has the rules.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_linger, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with};

use super::cluster::{self, CLIENTS, ENDPOINTS, PODS, PORTS};
use super::kernel::Kernel;
use super::process::{Process, Program};
use super::space::Space;
use crate::Result;
use crate::cores::{CORES, first_on};
use crate::played::Played;

/// The node, as its client sees it, and as the endpoints' machine does.
const NODE: [&str; 2] = ["10.1.0.1", "10.2.0.1"];
/// Rules that are not there by then are an error.
const PATIENCE: Duration = Duration::from_secs(600);

/// Who has written the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Nobody: the endpoint itself is spoken to. Connections are tracked as they are with the others.
    Direct,
    Sealane,
    /// kube-proxy's layout, by hand.
    Layout,
}

/// The three machines.
pub(crate) struct World {
    client: Space,
    server: Space,
    rules: Rules,
    services: usize,
    // Namespaces live as long as somebody holds them.
    _node: Space,
}

impl World {
    /// Lays the links, and has the rules written for so many Services.
    pub(crate) fn new(rules: Rules, services: usize, binary: &Path) -> Result<World> {
        let [client, node, server] = [Space::new()?, Space::new()?, Space::new()?];
        node.wire("client", &client, "eth0")?;
        node.wire("server", &server, "eth0")?;
        node.ip(&format!("addr add {}/24 dev client", NODE[0]))?;
        node.ip(&format!("addr add {}/24 dev server", NODE[1]))?;
        node.ip(&format!("route add {PODS} via 10.2.0.2"))?;
        node.sysctl("ipv4/ip_forward", "1")?;
        client.ip("addr add 10.1.0.2/24 dev eth0")?;
        client.ip(&format!("route add default via {}", NODE[0]))?;
        client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        server.ip("addr add 10.2.0.2/24 dev eth0")?;
        server.ip(&format!("route add default via {}", NODE[1]))?;
        server.ip(&format!("route add local {PODS} dev lo"))?;
        match rules {
            Rules::Direct => write_rules(
                &node,
                "table ip direct {\n chain tracked {\n  type filter hook \
                forward priority 0; policy accept;\n  ct state established accept\n }\n}\n"
                    .to_owned(),
            )?,
            Rules::Sealane => sealane(&node, services, binary)?,
            Rules::Layout => write_rules(&node, super::layout::text(services))?,
        }
        // A connection that was reset leaves its entry so long; the table would fill.
        node.sysctl("netfilter/nf_conntrack_tcp_timeout_close", "1")?;
        Ok(World { client, server, rules, services, _node: node })
    }

    /// What a client connects to, for the n-th connection: all Services in turn, or the endpoint of one.
    fn target(rules: Rules, services: usize, turn: usize) -> SocketAddr {
        let at = turn % services;
        match rules {
            Rules::Direct => SocketAddr::from((cluster::endpoint(at, turn % ENDPOINTS), PORTS[0].2)),
            Rules::Sealane | Rules::Layout => SocketAddr::from((cluster::cluster_ip(at), PORTS[0].1)),
        }
    }

    /// Opens so many connections one after the other and resets each: us until it is open, and until the next one may
    /// begin. Over `spread` Services.
    pub(crate) fn connects(&self, count: usize, spread: usize) -> Result<[Vec<f64>; 2]> {
        let (rules, services) = (self.rules, spread.min(self.services));
        let acceptor = self.server.run(|| Acceptor::start(vec![Ipv4Addr::UNSPECIFIED]))?;
        let took = self.client.run(move || {
            first_on(CORES[0])?;
            let mut took = [const { Vec::new() }; 2];
            let micros = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
            for turn in 0..count {
                let target = World::target(rules, services, turn);
                let begun = Instant::now();
                let socket =
                    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                connect(&socket, &target).map_err(|e| format!("{target}: {e}"))?;
                took[0].push(micros(begun));
                set_socket_linger(&socket, Some(Duration::ZERO))?;
                drop(socket);
                took[1].push(micros(begun));
            }
            Ok(took)
        })?;
        acceptor.stop()?;
        Ok(took)
    }

    /// How many connections each endpoint of the first Service got.
    pub(crate) fn shares(&self, count: usize) -> Result<Vec<usize>> {
        let acceptor = self.server.run(|| {
            let own = (0..ENDPOINTS).map(|number| cluster::endpoint(0, number)).collect();
            Acceptor::start(own)
        })?;
        let rules = self.rules;
        self.client.run(move || {
            first_on(CORES[0])?;
            for _ in 0..count {
                let socket =
                    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                connect(&socket, &World::target(rules, 1, 0))?;
                set_socket_linger(&socket, Some(Duration::ZERO))?;
            }
            Ok(())
        })?;
        acceptor.stop()
    }

    /// Bytes a second over one connection that is there already.
    pub(crate) fn throughput(&self, time: Duration) -> Result<f64> {
        let rules = self.rules;
        let (send, received) = std::sync::mpsc::channel();
        let ready = self.server.run(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORTS[0].2))?;
            thread::spawn(move || send.send(receive(&listener, time)));
            Ok(())
        });
        ready?;
        self.client.run(move || {
            first_on(CORES[0])?;
            let mut stream = TcpStream::connect(World::target(rules, 1, 0))?;
            let buffer = vec![0u8; 128 << 10];
            // Until the other end has seen enough.
            while std::io::Write::write_all(&mut stream, &buffer).is_ok() {}
            Ok(())
        })?;
        received.recv()?
    }
}

/// Takes in what comes, from when it flows.
fn receive(listener: &TcpListener, time: Duration) -> Result<f64> {
    first_on(CORES[1])?;
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0u8; 256 << 10];
    // The first tenth opens the window.
    for share in [0.1, 1.0] {
        let (begun, mut bytes) = (Instant::now(), 0usize);
        while begun.elapsed() < time.mul_f64(share) {
            bytes += stream.read(&mut buffer)?;
        }
        if share >= 1.0 {
            return Ok(bytes as f64 / begun.elapsed().as_secs_f64());
        }
    }
    Err("no time to measure".into())
}

/// Has the binary write its rules, and ends it: they stay.
fn sealane(node: &Space, services: usize, binary: &Path) -> Result<()> {
    let program = Program::Sealane(binary.to_owned());
    node.run(move || {
        let folder = tempfile::tempdir()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let own: Ipv4Addr = NODE[0].parse()?;
        let api = Played::serve(listener, cluster::lists(services, own), None)?;
        let kubeconfig = folder.path().join("kubeconfig");
        api.kubeconfig(&kubeconfig)?;
        let mut kernel = Kernel::open()?;
        let before = kernel.generation()?;
        let process = Process::start(&program, folder.path(), &kubeconfig, CLIENTS)?;
        let begun = Instant::now();
        while kernel.generation()? == before {
            if begun.elapsed() > PATIENCE {
                return Err(format!("no rules were written: {}", process.said()).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        process.stop()
    })
}

fn write_rules(node: &Space, text: String) -> Result<()> {
    node.run(move || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("nft (of nftables): {e}"))?;
        let input = child.stdin.take().ok_or("no standard input")?;
        std::io::Write::write_all(&mut &input, text.as_bytes())?;
        drop(input);
        let done = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr).chars().take(500).collect::<String>();
        if done.status.success() { Ok(()) } else { Err(format!("nft: {said}").into()) }
    })
}

/// Accepts connections on the second core, in batches, and closes them: nobody is woken for each.
struct Acceptor {
    thread: thread::JoinHandle<Result<Vec<usize>>>,
    end: rustix::fd::OwnedFd,
}

impl Acceptor {
    /// Listens on these addresses in the network namespace of the calling thread.
    fn start(addresses: Vec<Ipv4Addr>) -> Result<Acceptor> {
        let mut listeners = Vec::new();
        for address in addresses {
            let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, kind, None)?;
            set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &SocketAddr::from((address, PORTS[0].2)))?;
            listen(&socket, 4096)?;
            listeners.push(socket);
        }
        let (inside, end) = rustix::pipe::pipe()?;
        let thread = thread::spawn(move || {
            first_on(CORES[1])?;
            let mut counts = vec![0; listeners.len()];
            loop {
                let mut wait = [PollFd::new(&inside, PollFlags::IN)];
                // The queue holds what a client can do in many times as long.
                let ended = poll(&mut wait, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 }))? > 0;
                for (listener, count) in listeners.iter().zip(&mut counts) {
                    while accept_with(listener, SocketFlags::CLOEXEC).is_ok() {
                        *count += 1;
                    }
                }
                if ended {
                    return Ok(counts);
                }
            }
        });
        Ok(Acceptor { thread, end })
    }

    /// Ends it: how many each listener got.
    fn stop(self) -> Result<Vec<usize>> {
        drop(self.end);
        self.thread.join().map_err(|_| "the acceptor failed")?
    }
}
