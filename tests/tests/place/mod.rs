//! An API without a node, a machine whose rules `sealane proxy` writes, a Pod, and somebody outside, each a network
//! namespace.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sealane_tests::{Machine, Page, Start, Up, eventually, request, run, sealane};

/// For a connection that may meet a rule that swallows it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The node that the proxy runs on is the API's machine.
pub struct Place {
    pub up: Up,
    pub pod: Machine,
    pub outside: Machine,
    program: Program,
}

/// The binary as it is started on the node.
type Program = Box<dyn Fn(&Machine) -> Command + Send + Sync>;

pub fn ip(machine: &Machine, words: &str) {
    run(machine.command("ip").args(words.split_whitespace()), b"").ok();
}

impl Place {
    pub fn new() -> Place {
        Place::with(|node| node.command(sealane()))
    }

    /// With the proxy started in a way of its own.
    pub fn with(program: impl Fn(&Machine) -> Command + Send + Sync + 'static) -> Place {
        let up = Start::new().arg("--no-node").up();
        let place = Place { up, pod: Machine::new(), outside: Machine::new(), program: Box::new(program) };
        let node = place.node();
        let forward = ["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        run(node.command("sh").args(forward), b"").ok();
        for (link, other, own, theirs) in [
            ("pod0", &place.pod, "10.244.0.1", "10.244.0.2"),
            ("out", &place.outside, "192.0.2.10", "192.0.2.1"),
        ] {
            ip(node, &format!("link add {link} type veth peer name eth0 netns {}", other.name()));
            ip(node, &format!("addr add {own}/24 dev {link}"));
            ip(node, &format!("link set {link} up"));
            ip(other, &format!("addr add {theirs}/24 dev eth0"));
            ip(other, "link set eth0 up");
            ip(other, &format!("route add default via {own}"));
        }
        // Service addresses are somebody's to route before their destination is replaced.
        ip(node, "route add default via 192.0.2.1");
        // Clients of different clocks come masqueraded, by one address: the Pod is not to take the first segment of one for an
        // old one of another's that has ended.
        let nothing_waits = ["-c", "echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets"];
        run(place.pod.command("sh").args(nothing_waits), b"").ok();
        let listener = place.pod.within(|| TcpListener::bind("10.244.0.2:8080").unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        });
        place
    }

    /// The Service `web` and, at 10.96.0.51:80, one whose endpoint says again what it is told.
    pub fn serve_echo(&self) {
        let listener = self.pod.within(|| TcpListener::bind("10.244.0.2:8082").unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
                });
            }
        });
        self.up.apply(&web("")).ok();
        self.up.apply(&slice("web-1", "web", "n1")).ok();
        let echo = "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec:\n  clusterIP: 10.96.0.51\n  \
                    ports: [{port: 80, targetPort: 8082}]\n";
        self.up.apply(echo).ok();
        self.up.apply(&slice("echo-1", "echo", "n1").replace("port: 8080", "port: 8082")).ok();
    }

    pub fn node(&self) -> &Machine {
        &self.up.machine
    }

    /// A configuration with more lines.
    pub fn config(&self, more: &str) -> String {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
             hostnameOverride: n1\nclusterCIDR: 10.244.0.0/16\nclientConnection:\n  kubeconfig: {}\n\
             conntrack:\n  maxPerCore: 0\n{more}",
            self.up.kubeconfig().display()
        );
        self.up.file("proxy.yaml", &text).display().to_string()
    }

    pub fn start(&self, words: &[&str]) -> Proxy {
        let mut command = self.sealane();
        command.arg("proxy").args(words).stdin(Stdio::null()).stdout(Stdio::null());
        Proxy(command.spawn().unwrap())
    }

    pub fn sealane(&self) -> Command {
        (self.program)(self.node())
    }

    /// Started, its first rules in force.
    pub fn proxy(&self, words: &[&str]) -> Proxy {
        let proxy = self.start(words);
        eventually("the first rules", || {
            let page = self.get("127.0.0.1:10249", "/metrics")?;
            let first = "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1";
            if page.body.contains(first) { Ok(()) } else { Err(page.body) }
        });
        proxy
    }

    pub fn get(&self, at: &str, path: &str) -> Result<Page, String> {
        request(self.node(), "GET", at.parse().unwrap(), path, "")
    }

    /// A figure of the metrics.
    pub fn figure(&self, name: &str) -> f64 {
        let page = self.get("127.0.0.1:10249", "/metrics").unwrap();
        page.figure(name).unwrap_or_else(|| panic!("{name} is not in {}", page.body))
    }

    pub fn status(&self, path: &str) -> u16 {
        self.get("127.0.0.1:10256", path).unwrap().status
    }

    pub fn reaches(&self, from: &Machine, to: &str, seen_as: &str) {
        eventually(&format!("{to} from {}", from.name()), || match source(from, to) {
            Ok(source) if source == seen_as => Ok(()),
            other => Err(format!("{other:?}, not {seen_as}")),
        });
    }
}

/// Whom the server takes a client of an address for.
pub fn source(from: &Machine, to: &str) -> std::io::Result<String> {
    from.hear(to, PATIENCE)
}

pub struct Proxy(pub Child);

impl Proxy {
    /// TERM; how it ends.
    pub fn stop(&mut self) -> i32 {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn web(more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: LoadBalancer\n  clusterIP: 10.96.0.50\n  \
         ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]\n{more}"
    )
}

pub fn slice(name: &str, service: &str, node: &str) -> String {
    // Later than whenever the proxy was started.
    let when = "2099-01-01T00:00:00Z";
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: \
         {{kubernetes.io/service-name: {service}}}\n  annotations: \
         {{endpoints.kubernetes.io/last-change-trigger-time: '{when}'}}\naddressType: IPv4\n\
         ports: [{{port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [10.244.0.2], nodeName: {node}}}]\n"
    )
}

/// Speaks to an echo over one connection until told to stop; how often it was answered.
pub fn keeps_talking(from: &Machine, to: &str, done: &AtomicBool) -> std::io::Result<usize> {
    let to: SocketAddr = to.parse().unwrap();
    from.within(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answered = 0;
        while !done.load(Ordering::Relaxed) {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])?;
            answered += 1;
        }
        Ok(answered)
    })
}

/// Connects again and again until told to stop; how often it could, and why not.
pub fn keeps_connecting(from: &Machine, to: &str, done: &AtomicBool) -> (usize, Vec<String>) {
    let (mut reached, mut failed) = (0, Vec::new());
    while !done.load(Ordering::Relaxed) {
        match source(from, to) {
            Ok(source) if source == "10.244.0.1" => reached += 1,
            other => failed.push(format!("{to} after {reached}: {other:?}")),
        }
    }
    (reached, failed)
}
