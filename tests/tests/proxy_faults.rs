//! `sealane proxy` where things go wrong: killed while it writes, its rules flushed, an API that is slow, and one that says
//! anything at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod api;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::Api;
use sealane_tests::{Machine, eventually, request, run, sealane};
use serde_json::{Value, json};

/// For a connection that may meet a rule that swallows it.
const PATIENCE: Duration = Duration::from_secs(5);
const WEB: &str = "10.96.0.20:80";

/// A node, Pods on links of their own (10.244.N.2), somebody outside, and an API that says what it is told to.
struct Place {
    node: Machine,
    pods: Vec<Machine>,
    outside: Machine,
    api: Api,
    folder: tempfile::TempDir,
}

fn ip(machine: &Machine, words: &str) {
    run(machine.command("ip").args(words.split_whitespace()), b"").ok();
}

impl Place {
    /// Pod 0 serves `web`, Pod 1 talks on as `talk`, Pod 2 is their client.
    fn new() -> Place {
        let node = Machine::new();
        let api = Api::new(&node);
        let pods = vec![Machine::new(), Machine::new(), Machine::new()];
        let folder = tempfile::tempdir().unwrap();
        let place = Place { node, pods, outside: Machine::new(), api, folder };
        run(place.node.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]), b"").ok();
        let pods = place.pods.iter().enumerate();
        let links =
            pods.map(|(n, pod)| (format!("pod{n}"), pod, format!("10.244.{n}.1"), format!("10.244.{n}.2")));
        let out = ("out".to_owned(), &place.outside, "192.0.2.10".to_owned(), "192.0.2.1".to_owned());
        for (link, other, own, theirs) in links.chain([out]) {
            ip(&place.node, &format!("link add {link} type veth peer name eth0 netns {}", other.name()));
            ip(&place.node, &format!("addr add {own}/24 dev {link}"));
            ip(&place.node, &format!("link set {link} up"));
            ip(other, &format!("addr add {theirs}/24 dev eth0"));
            ip(other, "link set eth0 up");
            ip(other, &format!("route add default via {own}"));
        }
        // Service addresses are somebody's to route before their destination is replaced.
        ip(&place.node, "route add default via 192.0.2.1");
        serve(&place.pods[0], "10.244.0.2:8080", |mut stream| drop(stream.write_all(b"web")));
        serve(&place.pods[1], "10.244.1.2:8080", |mut stream| {
            let mut heard = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut heard) {
                if stream.write_all(&heard[..length]).is_err() {
                    return;
                }
            }
        });
        place.api.set("nodes", "n1", json!({}));
        place.service("web", "10.96.0.20", &["10.244.0.2"]);
        place.service("talk", "10.96.0.30", &["10.244.1.2"]);
        place
    }

    fn service(&self, name: &str, address: &str, endpoints: &[&str]) {
        self.api.set("services", name, service(address, json!({})));
        self.api.set("endpointslices", name, slice(name, json!([{"port": 8080}]), endpoints));
    }

    fn start_with(&self, more: &str) -> Proxy<'_> {
        let config = self.api.proxy_config(self.folder.path(), more);
        let errors = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("stderr"))
            .unwrap();
        let mut command = self.node.command(sealane());
        command.arg("proxy").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Proxy { place: self, child: command.spawn().unwrap() }
    }

    /// With its rules in force.
    fn proxy(&self) -> Proxy<'_> {
        let proxy = self.start_with("");
        eventually("the first rules", || match proxy.figure("sealane_proxy_applied_revision") {
            Some(1..) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.log())),
        });
        proxy
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    fn nft(&self, words: &str) -> String {
        run(self.node.command("nft").args(words.split_whitespace()), b"").ok()
    }

    fn said(&self, to: &str) -> std::io::Result<String> {
        self.pods[2].hear(to, PATIENCE)
    }

    #[track_caller]
    fn web_answers(&self, what: &str) {
        assert_eq!(self.said(WEB).unwrap_or_else(|e| panic!("{what}: {e}\n{}", self.log())), "web", "{what}");
    }
}

fn serve(on: &Machine, address: &'static str, work: impl Fn(TcpStream) + Send + Copy + 'static) {
    let listener = on.within(|| TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || work(stream));
        }
    });
}

fn service(address: &str, more: Value) -> Value {
    let mut spec = json!({"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
        "ports": [{"port": 80, "protocol": "TCP"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"spec": spec})
}

fn slice(service: &str, ports: Value, endpoints: &[&str]) -> Value {
    let endpoints: Value = endpoints.iter().map(|e| json!({"addresses": [e], "nodeName": "n1"})).collect();
    json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "ports": ports,
        "endpoints": endpoints})
}

struct Proxy<'a> {
    place: &'a Place,
    child: Child,
}

impl Proxy<'_> {
    /// A figure, where it answers.
    fn figure(&self, name: &str) -> Option<u64> {
        let at = "127.0.0.1:10249".parse().unwrap();
        request(&self.place.node, "GET", at, "/metrics", "").ok()?.figure(name)
    }

    #[track_caller]
    fn becomes(&self, name: &str, value: u64) {
        eventually(&format!("{name} {value}"), || match self.figure(name) {
            Some(found) if found == value => Ok(()),
            other => Err(format!("{other:?}\n{}", self.place.log())),
        });
    }

    /// KILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to `talk` over which data goes to and fro.
struct Talk {
    answered: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<std::io::Error>,
}

impl Talk {
    fn begin(place: &Place) -> Talk {
        let mut stream = place.pods[2].within(|| TcpStream::connect("10.96.0.30:80").unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let answered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&answered);
        let thread = std::thread::spawn(move || {
            let mut heard = [0; 4];
            loop {
                match stream.write_all(b"talk").and_then(|()| stream.read_exact(&mut heard)) {
                    Ok(()) => count.fetch_add(1, Ordering::Relaxed),
                    Err(error) => return error,
                };
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        Talk { answered, thread }
    }

    #[track_caller]
    fn goes_on(&self, when: &str) {
        let before = self.answered.load(Ordering::Relaxed);
        let begun = Instant::now();
        while self.answered.load(Ordering::Relaxed) < before + 20 {
            assert!(!self.thread.is_finished(), "{when}: the connection broke");
            assert!(begun.elapsed() < Duration::from_secs(20), "{when}: nothing is heard");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Killed at any moment of a first sync of many Services, it leaves the rules of before or those of after, and whoever
/// comes next brings the right ones.
#[test]
fn killed_while_it_writes_it_leaves_whole_rules() {
    const MANY: usize = 2000;
    let place = Place::new();
    place.proxy().kill();
    place.web_answers("without the proxy");
    let talk = Talk::begin(&place);
    let names: Vec<String> = (0..MANY).map(|n| format!("many-{n}")).collect();
    let come = |there: bool| {
        if !there {
            place.api.remove_all("services", names.iter().map(String::as_str));
            return place.api.remove_all("endpointslices", names.iter().map(String::as_str));
        }
        let address = |n: usize| format!("10.97.{}.{}", n / 250, n % 250 + 1);
        let services =
            names.iter().enumerate().map(|(n, name)| (name.clone(), service(&address(n), json!({}))));
        place.api.set_all("services", services);
        let ten: Vec<String> = (1..=10).map(|n| format!("10.244.9.{n}")).collect();
        let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
        let slices = names.iter().map(|name| (name.clone(), slice(name, json!([{"port": 8080}]), &ten)));
        place.api.set_all("endpointslices", slices);
    };
    let in_force = || place.nft("list map ip sealane services").matches(" . tcp . 80 ").count();
    assert_eq!(in_force(), 2);
    come(true);
    let begun = Instant::now();
    let proxy = place.proxy();
    let whole = begun.elapsed();
    assert_eq!(in_force(), 2 + MANY);
    proxy.kill();
    let (mut before, mut cut) = (2 + MANY, 0);
    for round in 1..=16u32 {
        come(round % 2 == 0);
        let wanted = if round % 2 == 0 { 2 + MANY } else { 2 };
        let proxy = place.start_with("");
        // Most of them towards the end, where it writes.
        std::thread::sleep(whole * (4 + round) / 20);
        proxy.kill();
        let found = in_force();
        assert!(found == before || found == wanted, "round {round}: {found} of {before} or {wanted}");
        cut += u32::from(found != wanted);
        before = found;
        place.web_answers("killed");
        talk.goes_on("killed");
    }
    println!("a first sync takes {whole:?} from the start; {cut} of 16 did not get to write");
    let proxy = place.proxy();
    assert_eq!(in_force(), 2 + MANY);
    place.web_answers("in the end");
    talk.goes_on("in the end");
    proxy.kill();
}

/// Who flushes everything does not reach the rules, and who names them is refused; nor does a second proxy.
#[test]
fn rules_are_nobody_elses_while_it_runs() {
    let place = Place::new();
    let proxy = place.proxy();
    let talk = Talk::begin(&place);
    place.nft("add table ip somebodys");
    place.nft("flush ruleset");
    assert!(!place.nft("list tables").contains("somebodys"));
    place.web_answers("flushed");
    for deed in ["delete table ip sealane", "flush chain ip sealane services"] {
        let done = run(place.node.command("nft").args(deed.split_whitespace()), b"");
        assert!(!done.status.success() && done.stderr.contains("not permitted"), "{deed}: {done}");
        place.web_answers(deed);
        talk.goes_on(deed);
    }
    let done = run(place.node.command(sealane()).args(["proxy", "--cleanup"]), b"");
    let holder = format!("process {} (", proxy.child.id());
    let said = [holder.as_str(), ") holds the table sealane"].iter().all(|part| done.stderr.contains(part));
    assert!(!done.status.success() && said, "{holder}: {done}");
    place.web_answers("beside --cleanup");
    talk.goes_on("beside --cleanup");
    for (name, value) in [
        ("sealane_proxy_failures_total{task=\"rules\"}", 0),
        ("sealane_proxy_repairs_total{noticed=\"at once\"}", 0),
        ("sealane_proxy_repairs_total{noticed=\"later\"}", 0),
    ] {
        assert_eq!(proxy.figure(name), Some(value), "{}", place.log());
    }
    proxy.kill();
    place.web_answers("it is gone");
    // From then on they are whoever's who takes them.
    let next = place.proxy();
    talk.goes_on("the next one");
    next.kill();
    run(place.node.command(sealane()).args(["proxy", "--cleanup"]), b"").ok();
    assert_eq!(place.nft("list ruleset"), "");
}

/// One list does not come: whatever stands there stays, down to the last byte.
#[test]
fn nothing_is_touched_before_all_lists_are_in() {
    let place = Place::new();
    place.proxy().kill();
    let talk = Talk::begin(&place);
    let lists = ["services", "endpointslices", "nodes"];
    for held in lists {
        let before = place.nft("list ruleset");
        assert!(before.contains("10.96.0.20 . tcp . 80"), "{before}");
        place.api.hold(held);
        place.api.forget_watchers();
        // Were it to write what it knows, `web` would be gone or lead nowhere.
        place.api.remove_all("services", ["web"]);
        let proxy = place.start_with("");
        eventually("the other lists are in", || {
            let there = lists.iter().all(|l| l == &held || place.api.is_watched(l));
            if there { Ok(()) } else { Err(place.log()) }
        });
        // And changes come, while others come to look.
        for round in 0..20 {
            place.api.set(
                "services",
                "other",
                service("10.96.0.40", json!({"sessionAffinity": round.to_string()})),
            );
            assert!(matches!(proxy.figure("sealane_proxy_applied_revision"), None | Some(0)), "{held}");
            assert_eq!(place.nft("list ruleset"), before, "{held}");
        }
        place.web_answers(held);
        talk.goes_on(held);
        place.api.release();
        eventually("the rules follow", || {
            let now = place.nft("list map ip sealane services");
            if now.contains("10.96.0.20 .") || !now.contains("10.96.0.40 .") { Err(now) } else { Ok(()) }
        });
        talk.goes_on("all lists are in");
        place.api.remove_all("services", ["other"]);
        place.service("web", "10.96.0.20", &["10.244.0.2"]);
        eventually("web is back", || place.said(WEB).map_err(|e| e.to_string()));
        proxy.kill();
    }
}

/// Thousands of changes come at once: they go in together, and the last one counts.
#[test]
fn bursts_cost_a_few_rounds() {
    let place = Place::new();
    let proxy = place.start_with("nftables:\n  minSyncPeriod: 500ms\n");
    proxy.becomes("sealane_proxy_frontends", 2);
    let rounds = || {
        let name = |kind: &str| {
            format!("kubeproxy_sync_{kind}_proxy_rules_duration_seconds_count{{ip_family=\"IPv4\"}}")
        };
        proxy.figure(&name("partial")).unwrap() + proxy.figure(&name("full")).unwrap()
    };
    let (before, begun) = (rounds(), Instant::now());
    for change in 0..3000 {
        let endpoints = [format!("10.244.9.{}", change % 250 + 1), "10.244.0.2".to_owned()];
        let last = change == 2999;
        let endpoints: Vec<&str> = endpoints.iter().skip(usize::from(last)).map(String::as_str).collect();
        place.api.set("endpointslices", "web", slice("web", json!([{"port": 8080}]), &endpoints));
    }
    place.service("last", "10.96.0.50", &["10.244.0.2"]);
    proxy.becomes("sealane_proxy_frontends", 3);
    let took = begun.elapsed();
    eventually("the last one counts", || {
        let map = place.nft("list map ip sealane endpoints");
        if map.contains("10.244.9.") { Err(map) } else { Ok(()) }
    });
    place.web_answers("after the burst");
    let rounds = rounds() - before;
    println!("3001 changes in {took:?}: {rounds} rounds");
    assert!(rounds <= 2 * (took.as_secs() + 2), "{rounds} rounds in {took:?}");
}

/// What objects may hold that an API would refuse, or not: the rest is served as if it were not there, by changes alone.
#[test]
fn whatever_objects_hold_nothing_else_suffers() {
    let place = Place::new();
    serve(&place.node, "192.0.2.10:9999", |mut stream| drop(stream.write_all(b"node")));
    let proxy = place.proxy();
    let talk = Talk::begin(&place);
    let good = json!([{"port": 8080}]);
    let raw = |service: &str, family: &str, ports: Value, endpoints: Value| {
        json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": family, "ports": ports,
            "endpoints": endpoints})
    };
    let address = |n: usize| format!("10.96.1.{}", n + 1);
    // Each on a Service of its own; whether `web`'s Pod, which is in most of them, is reached.
    let slices: Vec<(&str, Vec<Value>, bool)> = vec![
        (
            "garbage",
            vec![slice("s", good.clone(), &["garbage", "", "1.2.3", "10.244.0.300", "10.244.0.2"])],
            true,
        ),
        (
            "nothing but garbage",
            vec![slice("s", good.clone(), &["garbage", "host.example", "::ffff:1.2.3.4"])],
            false,
        ),
        (
            "duplicates in several slices",
            (0..4).map(|_| slice("s", good.clone(), &["10.244.0.2", "10.244.0.2"])).collect(),
            true,
        ),
        ("port nil", vec![slice("s", json!([{"port": null}]), &["10.244.0.2"])], false),
        ("port 0", vec![slice("s", json!([{"port": 0}]), &["10.244.0.2"])], false),
        (
            "ports of other shapes",
            vec![slice("s", json!([{"port": "x"}, 7, {"port": 70000}]), &["10.244.0.2"])],
            false,
        ),
        ("no ports", vec![slice("s", json!(null), &["10.244.0.2"])], false),
        ("families mixed", vec![slice("s", good.clone(), &["fd00::1", "10.244.0.2", "::1"])], true),
        (
            "the other family",
            vec![raw("s", "IPv6", good.clone(), json!([{"addresses": ["10.244.0.2"]}]))],
            false,
        ),
        ("fields of other shapes", vec![raw("s", "IPv4", good.clone(), json!({"addresses": 5}))], false),
        (
            "endpoints of other shapes",
            vec![raw("s", "IPv4", good.clone(), json!([7, null, {"addresses": "x"}]))],
            false,
        ),
    ];
    for (n, (about, slices, reached)) in slices.iter().enumerate() {
        let name = format!("bad-{n}");
        place.api.set("services", &name, service(&address(n), json!({})));
        for (part, slice) in slices.iter().enumerate() {
            let mut slice = slice.clone();
            slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(name);
            place.api.set("endpointslices", &format!("{name}-{part}"), slice);
        }
        proxy.becomes("sealane_proxy_frontends", 3 + n as u64);
        eventually(about, || match place.said(&format!("{}:80", address(n))) {
            Ok(said) if *reached && said == "web" => Ok(()),
            Err(error) if !reached && error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        });
        place.web_answers(about);
    }
    // Cluster addresses that are the node's, a Pod's, another's; ports and addresses that are none.
    for (n, bad) in [
        service("192.0.2.10", json!({})),
        service("10.244.0.1", json!({})),
        service("10.96.0.20", json!({"ports": [{"port": 80}, {"port": 81}]})),
        service("garbage", json!({"clusterIPs": ["x", "", 5], "externalIPs": ["x", null]})),
        service("10.96.2.1", json!({"ports": [{"port": 0}, {"port": 99999}, {"port": "x"}, null]})),
        service("10.96.2.2", json!({"ports": "x", "type": 5, "sessionAffinityConfig": []})),
    ]
    .into_iter()
    .enumerate()
    {
        // Of the same age as `web`, and behind it by name: what both claim is not theirs.
        let name = format!("x-{n}");
        place.api.set("services", &name, bad);
        place.api.set("endpointslices", &name, slice(&name, good.clone(), &["10.244.9.9"]));
    }
    place.service("then", "10.96.0.60", &["10.244.0.2"]);
    eventually("what comes then", || place.said("10.96.0.60:80").map_err(|e| e.to_string()));
    assert_eq!(
        place.outside.hear("192.0.2.10:9999", PATIENCE).unwrap(),
        "node",
        "the node's own ports are its own"
    );
    assert_eq!(place.said("10.244.0.2:8080").unwrap(), "web", "Pods are reached");
    talk.goes_on("odd Services");
    many_endpoints(&place, &proxy, &talk);
    place.web_answers("in the end");
    assert_eq!(proxy.figure("sealane_proxy_failures_total{task=\"rules\"}"), Some(0), "{}", place.log());
    assert_eq!(proxy.figure("sealane_proxy_repairs_total{noticed=\"at once\"}"), Some(0));
}

/// A Service of 100,000 endpoints comes, changes and goes.
fn many_endpoints(place: &Place, proxy: &Proxy<'_>, talk: &Talk) {
    let frontends = proxy.figure("sealane_proxy_frontends").unwrap();
    let revision = || proxy.figure("sealane_proxy_applied_revision").unwrap();
    place.api.set("services", "big", service("10.96.3.1", json!({})));
    let of = |n: u32| {
        let addresses: Vec<String> =
            (0..1000).map(|i| std::net::Ipv4Addr::from(0x0a80_0000 + 1000 * n + i).to_string()).collect();
        slice("big", json!([{"port": 8080}]), &addresses.iter().map(String::as_str).collect::<Vec<_>>())
    };
    place.api.set_all("endpointslices", (0..100).map(|n| (format!("big-{n}"), of(n))));
    proxy.becomes("sealane_proxy_frontends", frontends + 1);
    eventually("all of its endpoints", || {
        let chains = place.nft("list chains ip");
        if chains.contains("chain balance-100000-offcluster") { Ok(()) } else { Err(chains) }
    });
    talk.goes_on("100,000 endpoints");
    // Another one changes beside it, and so does itself.
    place.service("then", "10.96.0.61", &["10.244.0.2"]);
    eventually("another changes", || place.said("10.96.0.61:80").map_err(|e| e.to_string()));
    let before = revision();
    place.api.remove_all("endpointslices", ["big-50"]);
    eventually("1,000 fewer", || {
        let chains = place.nft("list chains ip");
        if chains.contains("chain balance-99000-offcluster") { Ok(()) } else { Err(chains) }
    });
    assert!(revision() > before);
    place.api.remove_all("services", ["big"]);
    proxy.becomes("sealane_proxy_frontends", frontends);
    talk.goes_on("it is gone");
}
