//! Real connections, from processes in a cgroup, in namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod group;
#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;
#[path = "../../dataplane/tests/real/mod.rs"]
mod real;

use group::Group;
use lab::{Lab, answers, ask, connect, connected, entry, flows, name, pod_ip, pod_ip6, service};
use sealane_bpf::{BpfSink, Levels, SocketFate};
use sealane_catalog::{Service, ServiceType, TrafficPolicy};
use sealane_proxy::cases::{Cluster, PACKETS, clusters};
use sealane_proxy::{Fate, RuleSink, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// Every row: processes of the node and its Pods, and who comes from outside, by the programs, with nftables beside them
/// for what those leave. What `tests/maps.rs` lists as differences is expected here.
#[test]
fn real_connections_agree() {
    let group = Group::new();
    let site = real::Site::new();
    group.take(&site.lab.node);
    site.lab.pods.iter().for_each(|pod| group.take(pod));
    let mut sockets = group.sink_in(&site.lab.node).outside(["out".to_owned()]);
    let mut packets = site.lab.node.sink();
    let (mut wrong, mut rows, mut led) = (Vec::new(), 0, 0);
    for mut cluster in clusters(PACKETS).unwrap() {
        site.own(&cluster, true);
        let mut levels = Levels { sockets: &mut sockets, packets: &mut packets };
        cluster.write_into(&mut levels).unwrap();
        levels.settle().unwrap();
        assert!(levels.intact().unwrap());
        led += expect(&mut cluster, &sockets);
        rows += cluster.rows.len();
        for (row, why) in site.check_all(&cluster.rows) {
            wrong.push(format!("line {}: {}, {}\n  {why}", row.line, cluster.title, row.text));
        }
        site.own(&cluster, false);
    }
    println!("{rows} rows, {led} of them led by their sockets");
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(led >= 90, "{led}");
}

/// Puts in what the programs do where they do something, and says how often that is.
fn expect(cluster: &mut Cluster, sink: &BpfSink) -> usize {
    let state = sink.state().unwrap();
    let mut led = 0;
    for row in cluster.rows.iter_mut().filter(|r| !["out", "far"].contains(&&*r.source)) {
        if let SocketFate::Led { backends, affinity } = state.connects(&row.packet) {
            row.fate = Fate::Dnat { backends, masqueraded: BTreeSet::new(), affinity };
            led += 1;
        }
    }
    led
}

/// A node whose Pod number 3 and whose own processes are in a cgroup; no rules for packets.
struct Scene {
    lab: Lab,
    sink: BpfSink,
    table: Table,
    // Last: threads leave it before it is removed.
    _group: Group,
}

impl Scene {
    fn new() -> Self {
        let group = Group::new();
        let lab = Lab::new(4);
        lab.serve();
        group.take(&lab.node);
        group.take(&lab.pods[3]);
        let mut sink = group.sink();
        sink.replace(&lab::context(), &BTreeMap::new()).unwrap();
        Self { lab, sink, table: Table::new(lab::context()), _group: group }
    }

    fn set(&mut self, service: Service, numbers: &[usize]) {
        let endpoints: Vec<(IpAddr, &str)> =
            numbers.iter().flat_map(|n| [(pod_ip(*n), "n1"), (pod_ip6(*n), "n1")]).collect();
        let key = service.key.clone();
        let changes = self.table.update([(&key, Some(&entry(service, &endpoints)))]);
        self.sink.apply(&changes).unwrap();
        self.sink.settle().unwrap();
        self.sink.forget_flows().unwrap();
    }

    fn web(&mut self, numbers: &[usize]) {
        self.set(service("web", &["10.96.0.20", "fd00:96::20"]), numbers);
    }
}

#[test]
fn connections_spread_evenly_and_keep_their_source() {
    let mut scene = Scene::new();
    scene.web(&[0, 1, 2]);
    flows::spread_evenly(&scene.lab);
    for (number, source) in answers(&scene.lab.node, "[fd00:96::20]:80", 20) {
        let on_link: IpAddr = format!("fd00:244:{number}::1").parse().unwrap();
        assert_eq!(source, on_link, "the node's address on that link");
    }
    // Who is not in the cgroup is not led.
    let outsider = connect(&scene.lab.pods[0], "10.96.0.20:80", 1);
    assert!(outsider[0].is_err(), "{outsider:?}");
}

#[test]
fn programs_see_the_address_that_they_asked_for() {
    let mut scene = Scene::new();
    scene.web(&[0, 1]);
    for address in ["10.96.0.20:80", "[fd00:96::20]:80", "[::ffff:10.96.0.20]:80"] {
        let to: SocketAddr = address.parse().unwrap();
        let (tcp, udp, seen) = scene.lab.pods[3].run(move || {
            let tcp = TcpStream::connect(to).unwrap().peer_addr().unwrap();
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            // Each datagram says whom it is for, and all go to one.
            let mut seen = BTreeSet::new();
            let mut buffer = [0; 64];
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            for _ in 0..20 {
                socket.send_to(b"?", to).unwrap();
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, to);
                seen.insert(buffer[..length].to_vec());
            }
            let connected = UdpSocket::bind(any).unwrap();
            connected.connect(to).unwrap();
            ask(&connected).unwrap();
            (tcp, connected.peer_addr().unwrap(), seen)
        });
        assert_eq!((tcp, udp), (to, to), "getpeername");
        assert_eq!(seen.len(), 1, "a socket's datagrams stay together");
    }
    let first = |_: u8| {
        scene.lab.pods[3].run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"?", "10.96.0.20:80").unwrap();
            let mut buffer = [0; 64];
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        })
    };
    let spread: BTreeSet<_> = (0..60).map(first).collect();
    assert_eq!(spread.len(), 2, "sockets spread");
}

#[test]
fn nobody_serves_is_said_at_once() {
    let mut scene = Scene::new();
    scene.web(&[]);
    for (from, to) in [
        (&scene.lab.pods[3], "10.96.0.20:80"),
        (&scene.lab.node, "[fd00:96::20]:80"),
        // Another port of a cluster address.
        (&scene.lab.pods[3], "10.96.0.20:81"),
    ] {
        let outcome = connect(from, to, 1).remove(0);
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
        let to: SocketAddr = to.parse().unwrap();
        let (connected, sent) = from.run(move || {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            let sent = socket.send_to(b"?", to).map_err(|e| e.kind());
            (socket.connect(to).map_err(|e| e.kind()), sent)
        });
        assert_eq!(sent, Err(ErrorKind::ConnectionRefused), "{to}");
        assert_ne!(connected, Err(ErrorKind::ConnectionRefused), "by connect() of UDP routes are looked for");
    }
    scene.web(&[1]);
    assert_eq!(answers(&scene.lab.pods[3], "10.96.0.20:80", 5), [(1, pod_ip(3)); 5]);
}

#[test]
fn clients_stay_under_affinity() {
    let mut scene = Scene::new();
    let sticky = Service { affinity_seconds: Some(10_800), ..service("web", &["10.96.0.20"]) };
    scene.set(sticky.clone(), &[0, 1, 2]);
    let at = |scene: &Scene| {
        let seen: BTreeSet<usize> =
            answers(&scene.lab.pods[3], "10.96.0.20:80", 30).into_iter().map(|(n, _)| n).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
        *seen.first().unwrap()
    };
    let first = at(&scene);
    // Written anew, in maps that are others.
    let node = lab::context();
    scene.sink.replace(&node, scene.table.frontends()).unwrap();
    assert_eq!(at(&scene), first);
    // Its endpoint goes: another one, and stays there.
    let rest: Vec<usize> = (0..3).filter(|n| *n != first).collect();
    scene.set(sticky, &rest);
    let second = at(&scene);
    assert_ne!(second, first);
}

#[test]
fn sockets_of_dead_backends_end_and_no_others() {
    let mut scene = Scene::new();
    scene.web(&[0]);
    let pod = &scene.lab.pods[3];
    let udp = |to: &'static str| {
        pod.run(move || {
            let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(ask(&socket).unwrap().0, 0);
            socket
        })
    };
    let led = [udp("10.96.0.20:80"), udp("[fd00:96::20]:80"), udp("[::ffff:10.96.0.20]:80")];
    let direct = udp("10.244.0.2:8080");
    // A listener of our own that keeps its connections.
    let serve = |address: SocketAddr| {
        let listener = TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            let open: Vec<TcpStream> = listener.incoming().map_while(Result::ok).collect();
            drop(open);
        });
    };
    scene.lab.pods[1].run(move || serve(SocketAddr::new(pod_ip(1), 9090)));
    let mut long = service("long", &["10.96.0.30"]);
    long.ports.truncate(1);
    let entry = |there: bool| {
        let endpoints: &[_] = if there { &[(pod_ip(1), "n1")] } else { &[] };
        let mut entry = entry(long.clone(), endpoints);
        entry.slices.iter_mut().for_each(|slice| {
            let slice = std::sync::Arc::make_mut(slice);
            slice.ports = slice
                .ports
                .iter()
                .cloned()
                .map(|mut p| {
                    p.port = Some(9090);
                    p
                })
                .collect();
        });
        entry
    };
    let changes = scene.table.update([(&name("long"), Some(&entry(true)))]);
    scene.sink.apply(&changes).unwrap();
    let mut tcp = pod.run(|| TcpStream::connect("10.96.0.30:80").unwrap());
    tcp.write_all(b"x").unwrap();

    // The endpoints leave.
    let changes = scene.table.update([(&name("long"), Some(&entry(false)))]);
    scene.sink.apply(&changes).unwrap();
    scene.web(&[2]);
    for socket in &led {
        // Who waits for an answer hears of it.
        let error = socket.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{socket:?}");
    }
    assert_eq!(scene.sink.destroyed(), 3);
    assert_eq!(ask(&direct).unwrap().0, 0, "who asked for the Pod itself is let be");
    // Of TCP none ends because its endpoint takes no new connections.
    tcp.write_all(b"x").unwrap();
    tcp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(tcp.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    scene.sink.left(&[pod_ip(1)].into()).unwrap();
    scene.sink.forget_flows().unwrap();
    assert_eq!(tcp.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(scene.sink.destroyed(), 4);
    // Again, and nobody is left.
    scene.sink.forget_flows().unwrap();
    assert_eq!(scene.sink.destroyed(), 4);
}

/// Nothing but the programs at the link: a source that is kept needs no other rules.
#[test]
fn packets_from_outside_are_led() {
    let group = Group::new();
    let lab = Lab::new(3);
    lab.serve();
    let mut table = Table::new(lab::context());
    let mut web = Service {
        kind: ServiceType::NodePort,
        external_policy: TrafficPolicy::Local,
        ..service("web", &["10.96.0.20"])
    };
    web.ports.iter_mut().for_each(|p| p.node_port = 30_080);
    // The way out is by `out`.
    let mut sink = group.sink_in(&lab.node);
    sink.outward().unwrap();
    let mut set = |sink: &mut BpfSink, numbers: &[usize], afresh: bool| {
        let endpoints = lab::endpoints(numbers);
        let changes = table.update([(&name("web"), Some(&entry(web.clone(), &endpoints)))]);
        if afresh {
            sink.replace(&lab::context(), table.frontends()).unwrap();
        } else {
            sink.apply(&changes).unwrap();
        }
        sink.settle().unwrap();
        sink.forget_flows().unwrap();
        assert!(sink.intact().unwrap());
    };
    set(&mut sink, &[0, 1], true);
    let to = "192.0.2.10:30080";
    let mut seen = BTreeSet::new();
    for (number, source) in answers(&lab.outside, to, 60) {
        seen.insert(number);
        assert_eq!(source.to_string(), lab::OUTSIDE_ADDRESS, "its source is kept");
    }
    assert_eq!(seen, BTreeSet::from([0, 1]), "flows spread");
    let socket = connected(&lab.outside, to);
    let (first, _) = ask(&socket).unwrap();
    // A flow stays while its backend does, whoever comes beside it, and when all is written anew.
    set(&mut sink, &[0, 1, 2], false);
    assert_eq!(ask(&socket).unwrap().0, first);
    set(&mut sink, &[0, 1, 2], true);
    assert_eq!(ask(&socket).unwrap().0, first);
    let rest: Vec<usize> = (0..3).filter(|n| *n != first).collect();
    set(&mut sink, &rest, false);
    let (second, _) = ask(&socket).unwrap();
    assert!(rest.contains(&second), "{second}");
    // Which backend follows from the flow alone: forgotten and met again, it is the same.
    let mut sink = group.sink_in(&lab.node).outside(["out".to_owned()]);
    set(&mut sink, &rest, true);
    assert_eq!(ask(&socket).unwrap().0, second);
    // Others take the programs away, or the link with them.
    lab.node.ip("link del out");
    assert!(!sink.intact().unwrap());
}

#[test]
fn connections_live_on_when_maps_are_made_anew() {
    let mut scene = Scene::new();
    scene.web(&[0]);
    let socket = connected(&scene.lab.pods[3], "10.96.0.20:80");
    for _ in 0..3 {
        scene.sink.replace(&lab::context(), scene.table.frontends()).unwrap();
        scene.sink.settle().unwrap();
        assert_eq!(ask(&socket).unwrap().0, 0);
        assert_eq!(socket.peer_addr().unwrap(), "10.96.0.20:80".parse().unwrap());
    }
    // Without the sink nothing is led any more, and what was goes on.
    scene.sink.clear().unwrap();
    assert_eq!(ask(&socket).unwrap().0, 0);
    // Programs that other tests start hold copies of our descriptors for a moment.
    while connect(&scene.lab.pods[3], "10.96.0.20:80", 1)[0].is_ok() {}
}
