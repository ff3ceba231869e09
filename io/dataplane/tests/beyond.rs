//! Beyond kube-proxy, through the kernel: shares that are not even, and the proxy's thread that looks at flows. Needs
//! root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod lab;

use lab::{Lab, Rules, answers, connect, endpoints, entry, name, pod_ip, service};
use sealane_catalog::Entry;
use sealane_dataplane::{Observer, Proxy, Update, netlink_socket, spawn_observed};
use sealane_proxy::{Backend, RuleSink, Shares, Table};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

const VIP: &str = "10.96.0.20:80";

/// The Service with annotations, served by these Pods.
fn web(annotations: &[(&str, &str)], pods: &[usize]) -> Entry {
    let mut web = service("web", &["10.96.0.20"]);
    web.annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    entry(web, &endpoints(pods))
}

/// A proxy on the lab's node, in which each revision is in force when it was sent.
struct Running {
    proxy: Proxy,
    updates: Sender<Update>,
    revision: u64,
}

impl Running {
    fn new(lab: &Lab) -> Self {
        let (updates, inbox) = std::sync::mpsc::channel();
        let sink = lab.node.sink();
        let watch = sink.watch(lab.node.run(netlink_socket).unwrap()).unwrap();
        let observer = lab.node.run(Observer::open).unwrap();
        let proxy = spawn_observed(Table::new(lab::context()), sink, inbox, watch, observer).unwrap();
        Self { proxy, updates, revision: 0 }
    }

    fn set(&mut self, entry: Entry) {
        self.revision += 1;
        let services = vec![(name("web"), Some(Arc::new(entry)))];
        self.updates.send(Update { revision: self.revision, services, node: None }).unwrap();
        self.until("an update", || *self.proxy.applied().borrow() == self.revision);
    }

    /// One of the proxy's figures.
    fn figure(&self, name: &str) -> u64 {
        let text = self.proxy.metrics().render();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).unwrap().to_owned();
        line.parse().unwrap()
    }

    fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < Duration::from_secs(120), "{what}:\n{}", self.proxy.metrics().render());
            std::thread::yield_now();
        }
    }

    fn end(self) {
        assert_eq!(self.proxy.metrics().syncs().2, 0, "nothing failed");
        assert_eq!(self.figure("sealane_proxy_failures_total{task=\"weights\"}"), 0);
        drop(self.updates);
        self.proxy.join();
    }
}

fn spread(answers: Vec<lab::Answer>) -> BTreeMap<usize, i32> {
    let mut counts = BTreeMap::new();
    answers.into_iter().for_each(|(number, _)| *counts.entry(number).or_insert(0) += 1);
    counts
}

#[test]
fn connections_follow_slots() {
    let lab = Lab::new(4);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    rules.set(web(&[], &[0, 1, 2]));
    let mut shares = Shares::default();
    for port in ["t", "u"] {
        let slots = [(0, 1), (1, 2), (2, 5)].map(|(n, k)| (Backend { address: pod_ip(n), port: 8080 }, k));
        shares.set(&port.into(), false, slots.into());
    }
    let changes = rules.table.weigh([(name("web"), Some(shares))]);
    rules.sink.apply(&changes).unwrap();
    rules.sink.settle().unwrap();
    let installed = rules.sink.read_back().unwrap();
    assert!(rules.table.frontends().values().all(|f| f.means(&installed[&f.key])));
    let counts = spread(answers(&lab.pods[3], VIP, 2000));
    println!("2000 connections over slots 1, 2 and 5: {counts:?}");
    // 250, 500 and 1250, standard deviations 15, 19 and 22: beyond 6 of them once in half a billion runs.
    for (number, expected, room) in [(0, 250, 90), (1, 500, 116), (2, 1250, 130)] {
        assert!((counts[&number] - expected).abs() <= room, "{counts:?}");
    }
    // Even again.
    let changes = rules.table.weigh([(name("web"), None)]);
    rules.sink.apply(&changes).unwrap();
    rules.sink.settle().unwrap();
    let counts = spread(answers(&lab.pods[3], VIP, 600));
    assert!(counts.len() == 3 && counts.values().all(|c| (130..=270).contains(c)), "{counts:?}");
}

#[test]
fn an_endpoint_that_refuses_or_does_not_answer_is_ejected() {
    let lab = Lab::new(5);
    // Of four, one has nobody who listens, and one answers nothing at all.
    for number in [0, 1] {
        lab.pods[number].run(move || lab::serve(number, SocketAddr::new(pod_ip(number), 8080)));
    }
    lab.pods[3].command("nft add table ip t");
    lab.pods[3].command("nft add chain ip t input { type filter hook input priority 0 ; policy drop ; }");
    let mut running = Running::new(&lab);
    // Without the annotation nobody looks, and who refuses is asked again and again.
    running.set(web(&[], &[0, 1, 2]));
    let refused = connect(&lab.pods[4], VIP, 60).into_iter().filter(Result::is_err).count();
    assert!(refused > 0);
    assert_eq!(running.figure("sealane_proxy_ejections_total"), 0);
    // A flow whose end is to be told must have begun when somebody listened.
    let eject = ("sealane.dev/eject", "failures=3,time=1m,window=1m,share=100%,panic=0%");
    running.set(web(&[eject], &[0, 1, 2]));
    running.until("a refusing endpoint is ejected", || {
        let failed = connect(&lab.pods[4], VIP, 20).into_iter().filter_map(Result::err);
        failed.for_each(|e| assert_eq!(e.kind(), ErrorKind::ConnectionRefused));
        running.figure("sealane_proxy_ejections_total") == 1
    });
    assert_eq!(spread(answers(&lab.pods[4], VIP, 60)).len(), 2);
    running.set(web(&[eject], &[0, 1, 2, 3]));
    assert_eq!(running.figure("sealane_proxy_ejected_endpoints"), 1, "UDP is not judged");
    running.until("a silent endpoint is ejected", || {
        let failed = connect(&lab.pods[4], VIP, 3).into_iter().filter_map(Result::err);
        failed.for_each(|e| assert_eq!(e.kind(), ErrorKind::TimedOut));
        running.figure("sealane_proxy_ejections_total") == 2
    });
    assert_eq!(spread(answers(&lab.pods[4], VIP, 60)).len(), 2);
    running.end();
}

#[test]
fn least_connections_counts_what_the_kernel_has() {
    let lab = Lab::new(4);
    lab.serve();
    let mut running = Running::new(&lab);
    running.set(web(&[("sealane.dev/balance", "least-connections")], &[0, 1, 2]));
    // Two of them have twenty connections, past the Service; they last for as long as the client keeps them.
    let held: Vec<TcpStream> = lab.pods[3].run(|| {
        let to = |n: usize| TcpStream::connect(SocketAddr::new(pod_ip(n % 2), 8080)).unwrap();
        (0..40).map(to).collect()
    });
    running.until("the others' turn", || {
        let counts = spread(answers(&lab.pods[3], VIP, 60));
        // 62 of 64 slots.
        counts.get(&2).is_some_and(|c| *c >= 50)
    });
    drop(held);
    running.until("everybody's turn", || {
        let counts = spread(answers(&lab.pods[3], VIP, 60));
        counts.len() == 3 && counts.values().all(|c| *c >= 8)
    });
    assert!(running.figure("sealane_proxy_flow_looks_total") > 0);
    running.end();
}

/// Answers each octet with the Pod's number, for as long as the client wants.
fn echo(number: usize, address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut octet = [0];
                while stream.read_exact(&mut octet).is_ok() && stream.write_all(&[number as u8]).is_ok() {}
            });
        }
    });
}

/// Who is at the other end.
fn ping(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut octet = [0];
    stream.write_all(&octet)?;
    stream.read_exact(&mut octet)?;
    Ok(octet[0].into())
}

#[test]
fn after_a_scale_out_connections_are_reset_and_come_back_elsewhere() {
    const CONNECTIONS: usize = 40;
    let lab = Lab::new(3);
    for number in [0, 1] {
        lab.pods[number].run(move || echo(number, SocketAddr::new(pod_ip(number), 8080)));
    }
    let mut running = Running::new(&lab);
    let moves = [("sealane.dev/rebalance", "20/s")];
    running.set(web(&moves, &[0]));
    let dial = || {
        lab.pods[2].run(|| {
            let stream = TcpStream::connect(VIP).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream
        })
    };
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| dial()).collect();
    assert!(streams.iter_mut().all(|s| ping(s).unwrap() == 0));
    running.set(web(&moves, &[0, 1]));
    let (mut resets, mut there) = (0, 0);
    running.until("a new endpoint has its part", || {
        there = 0;
        for stream in &mut streams {
            match ping(stream) {
                Ok(number) => there += number,
                // What its client sees: a reset when it next sends, and another endpoint, perhaps, when it dials.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    resets += 1;
                    *stream = dial();
                    there += ping(stream).unwrap();
                }
            }
        }
        there >= CONNECTIONS / 5
    });
    println!("{there} of {CONNECTIONS} moved after {resets} resets");
    assert!(running.figure("sealane_proxy_moved_connections_total") >= resets as u64 && resets >= there);
    running.end();
}

#[test]
fn wrong_annotations_disturb_nobody() {
    let lab = Lab::new(3);
    lab.serve();
    let mut running = Running::new(&lab);
    running.set(web(&[("sealane.dev/balance", "best"), ("sealane.dev/eject", "maybe")], &[0, 1]));
    assert_eq!(running.figure("sealane_proxy_annotation_problems"), 2);
    assert_eq!(running.figure("sealane_proxy_weighed_services"), 0);
    assert_eq!(spread(answers(&lab.pods[2], VIP, 60)).len(), 2);
    running.set(web(&[], &[0, 1]));
    assert_eq!(running.figure("sealane_proxy_annotation_problems"), 0);
    assert_eq!(running.figure("sealane_proxy_flow_looks_total"), 0, "nobody asks, nobody looks");
    running.end();
}
