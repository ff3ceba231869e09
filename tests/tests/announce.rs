//! Load balancers' addresses on a network with two nodes, each with `sealane proxy --announce`: one of them answers, and
//! the other one when it is gone. Nodes, a Pod and a client are network namespaces on one bridge.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use sealane_tests::{Machine, Start, Up, eventually, run, sealane};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(2);

fn ip(machine: &Machine, words: &str) {
    run(machine.command("ip").args(words.split_whitespace()), b"").ok();
}

fn set(machine: &Machine, name: &str, value: u8) {
    run(machine.command("sh").args(["-c", &format!("echo {value} > /proc/sys/net/{name}")]), b"").ok();
}

struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// 192.0.2.1 and 2001:db8::1: the API's machine, which has the bridge.
struct Place {
    up: Up,
    nodes: [Machine; 2],
    client: Machine,
    _pod: Machine,
}

const NAMES: [&str; 2] = ["n1", "n2"];

fn attach(bridge: &Machine, n: u8) -> Machine {
    let machine = Machine::new();
    ip(bridge, &format!("link add p{n} type veth peer name eth0 netns {}", machine.name()));
    ip(bridge, &format!("link set p{n} master lan0 up"));
    ip(&machine, &format!("addr add 192.0.2.{n}/24 dev eth0"));
    ip(&machine, &format!("addr add 2001:db8::{n}/64 dev eth0 nodad"));
    ip(&machine, "link set eth0 up");
    machine
}

impl Place {
    fn new() -> Place {
        let start = Start::new();
        let bridge = start.machine.clone();
        ip(&bridge, "link add lan0 type bridge mcast_snooping 0");
        ip(&bridge, "addr add 192.0.2.1/24 dev lan0");
        ip(&bridge, "addr add 2001:db8::1/64 dev lan0 nodad");
        ip(&bridge, "link set lan0 up");
        let nodes = [attach(&bridge, 11), attach(&bridge, 12)];
        let (client, pod) = (attach(&bridge, 20), attach(&bridge, 30));
        for node in &nodes {
            set(node, "ipv4/ip_forward", 1);
            set(node, "ipv6/conf/all/forwarding", 1);
            // Service addresses have a way before their destination is replaced.
            ip(node, "route add default via 192.0.2.1");
            ip(node, "-6 route add default via 2001:db8::1");
        }
        for at in ["192.0.2.30:8080", "[2001:db8::30]:8080"] {
            let at: SocketAddr = at.parse().unwrap();
            let listener = pod.within(move || TcpListener::bind(at).unwrap());
            std::thread::spawn(move || {
                while let Ok((mut stream, peer)) = listener.accept() {
                    let _ = stream.write_all(peer.ip().to_string().as_bytes());
                }
            });
        }
        let up =
            ["--no-node", "--api-address", "192.0.2.1:0", "--service-cidr", "10.96.0.0/12,fd00:10:96::/108"]
                .iter()
                .chain(["--load-balancer-pool", "192.0.2.100-192.0.2.119,2001:db8::100-2001:db8::119"].iter())
                .fold(start, |start, word| start.arg(word))
                .up();
        Place { up, nodes, client, _pod: pod }
    }

    /// `n1` or `n2`, Ready or not, with a Lease that lasts.
    fn node(&self, name: &str, ready: bool) {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "renewTime": "2099-01-01T00:00:00.000000Z"}});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        for object in [lease, node] {
            self.up.apply(&object.to_string()).ok();
        }
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Test",
            "lastHeartbeatTime": "2099-01-01T00:00:00Z"}]}});
        self.up.ok(&["patch", "node", name, "--subresource=status", "-p", &status.to_string()]);
    }

    fn proxy(&self, at: usize) -> Proxy {
        let mut command = self.nodes[at].command(sealane());
        command.args([
            "proxy",
            "--hostname-override",
            NAMES[at],
            "--announce",
            "eth0",
            "--conntrack-max-per-core=0",
        ]);
        command.arg("--kubeconfig").arg(self.up.kubeconfig());
        Proxy(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn mac(&self, at: usize) -> String {
        let link = run(self.nodes[at].command("ip").args(["-br", "link", "show", "eth0"]), b"").ok();
        link.split_whitespace().nth(2).unwrap().to_owned()
    }

    /// Connects, and says which node the client's network took for the address.
    fn home(&self, address: &str) -> Result<usize, String> {
        let to: SocketAddr = (address.parse::<std::net::IpAddr>().unwrap(), 80).into();
        let said = self.client.within(move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        });
        let said = said.map_err(|e: std::io::Error| format!("{address}: {e}"))?;
        let known = run(self.client.command("ip").args(["neigh", "show", address]), b"").ok();
        let home = (0..2).find(|at| known.contains(&self.mac(*at)));
        let home = home.ok_or_else(|| format!("{address} is at neither node: {known}"))?;
        // Masqueraded by the node that it came by.
        let by = [["192.0.2.11", "2001:db8::11"], ["192.0.2.12", "2001:db8::12"]];
        if by[home].contains(&said.as_str()) { Ok(home) } else { Err(format!("{address} came by {said}")) }
    }
}

#[test]
fn one_node_answers_and_another_takes_over() {
    let place = Place::new();
    NAMES.iter().for_each(|name| place.node(name, true));
    let _proxies = [place.proxy(0), place.proxy(1)];
    let mut addresses = Vec::new();
    for n in 0..6 {
        let name = format!("web-{n}");
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80, "targetPort": 8080}]}});
        place.up.apply(&service.to_string()).ok();
        let yaml = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name}, "subsets": [
            {"addresses": [{"ip": "192.0.2.30"}, {"ip": "2001:db8::30"}], "ports": [{"port": 8080}]}]});
        place.up.apply(&yaml.to_string()).ok();
        let given = eventually("two addresses", || {
            let all = place.up.value(&["get", "service", &name], "{.status.loadBalancer.ingress[*].ip}");
            let all: Vec<String> = all.split(' ').map(str::to_owned).collect();
            if all.len() == 2 { Ok(all) } else { Err(format!("{all:?}")) }
        });
        assert!(given[0].starts_with("192.0.2.1") && given[1].starts_with("2001:db8::1"), "{given:?}");
        addresses.extend(given);
    }
    let homes: Vec<usize> =
        addresses.iter().map(|a| eventually(&format!("{a} answers"), || place.home(a))).collect();
    assert!(homes.contains(&0) && homes.contains(&1), "both nodes have some: {homes:?}");
    // A node that is not Ready gives its addresses up; the network is told, whatever it remembers.
    place.node("n1", false);
    for address in &addresses {
        eventually(&format!("{address} is at n2"), || match place.home(address) {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    // Back again, it has what it had, and the other one never gave up its own.
    place.node("n1", true);
    for (address, home) in addresses.iter().zip(&homes) {
        eventually(&format!("{address} is where it was"), || match place.home(address) {
            Ok(found) if found == *home => Ok(()),
            other => Err(format!("{other:?}, not {home}")),
        });
    }
    // An address that nobody has is answered for by nobody.
    let known = run(place.client.command("ip").args(["neigh", "flush", "all"]), b"");
    assert!(known.status.success(), "{known}");
    assert!(place.home("192.0.2.119").is_err());
    let what = place.client.command("ip").args(["neigh", "show", "192.0.2.119"]).output().unwrap();
    let what = String::from_utf8_lossy(&what.stdout).into_owned();
    assert!(!what.contains("lladdr"), "{what}");
}

#[test]
fn a_link_that_is_not_there_is_said() {
    let machine = Machine::new();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let text = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://192.0.2.1:1'}}]\n\
                users: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n";
    std::fs::write(&kubeconfig, text).unwrap();
    let mut command = machine.command(sealane());
    command
        .args(["proxy", "--announce", "lan7", "--conntrack-max-per-core=0", "--kubeconfig"])
        .arg(&kubeconfig);
    let done = run(&mut command, b"");
    assert_eq!(done.status.code(), Some(1), "{done}");
    assert!(
        done.stderr.contains("--announce: there is no link lan7 with hardware addresses; see `ip link`"),
        "{done}"
    );
}
