//! What goes wrong beside the proxy and below it, while connections live: in namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod lab;
mod talk;

use lab::{Lab, Rules, answers, ask, connect, connected, entry, name, pod_ip, pod_ip6, service};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use sealane_dataplane::{
    Metrics, NetlinkError, NftSink, Proxy, Update, netlink_socket, spawn, spawn_watched,
};
use sealane_proxy::{RuleSink, Table};
use std::cell::RefCell;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use talk::Talk;

const PATIENCE: Duration = Duration::from_secs(20);
const WEB: &str = "10.96.0.20:80";
const WEB6: &str = "[fd00:96::20]:80";

/// Pod 0 serves `web`, Pod 1 talks on as `talk`, Pod 2 is their client.
struct Site {
    lab: Lab,
    /// Of the proxy that was started last.
    metrics: RefCell<Option<Arc<Metrics>>>,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new(3);
        for address in [pod_ip(0), pod_ip6(0)] {
            lab.pods[0].run(move || lab::serve(0, SocketAddr::new(address, 8080)));
        }
        for address in [pod_ip(1), pod_ip6(1)] {
            lab.pods[1].run(move || talk::serve(SocketAddr::new(address, 8080)));
        }
        Self { lab, metrics: RefCell::default() }
    }

    /// The proxy's threads with both Services in force, in tables that are open to others; `hear` gets the socket on which it
    /// hears of others' doings.
    fn start(&self, hear: impl FnOnce(&OwnedFd)) -> Running {
        self.start_with(self.lab.node.sink().left_open(), hear)
    }

    fn start_with(&self, sink: NftSink, hear: impl FnOnce(&OwnedFd)) -> Running {
        let (updates, inbox) = std::sync::mpsc::channel();
        let socket = self.lab.node.run(netlink_socket).unwrap();
        let heard = socket.try_clone().unwrap();
        let watch = sink.watch(socket).unwrap();
        hear(&heard);
        let proxy = spawn_watched(Table::new(lab::context()), sink, inbox, watch).unwrap();
        self.metrics.replace(Some(proxy.metrics().clone()));
        let running = Running { proxy, updates };
        running.update(1, vec![both("web", "20", 0), both("talk", "30", 1)]);
        running
    }

    /// Lasting connections to `talk` of both families.
    fn talks(&self) -> [Talk; 2] {
        ["10.96.0.30:80", "[fd00:96::30]:80"].map(|to| Talk::begin(&self.lab.pods[2], to))
    }

    fn web_answers(&self, what: &str) {
        for (to, pod) in [(WEB, pod_ip(2)), (WEB6, pod_ip6(2))] {
            self.gets_through(what, to);
            assert_eq!(answers(&self.lab.pods[2], to, 1), [(0, pod)], "{what}");
        }
    }

    /// How long it takes until a new connection gets through.
    fn gets_through(&self, what: &str, to: &str) -> Duration {
        let to: SocketAddr = to.parse().unwrap();
        let tried = self.lab.pods[2].run(move || {
            let begun = Instant::now();
            while TcpStream::connect_timeout(&to, Duration::from_millis(5)).is_err() {
                if begun.elapsed() > PATIENCE {
                    return Err(());
                }
            }
            Ok(begun.elapsed())
        });
        tried.unwrap_or_else(|()| {
            let rules = self.lab.node.command("nft list tables");
            let figures = self.metrics.borrow().as_ref().map_or_else(String::new, |m| m.render());
            let own: Vec<&str> = figures.lines().filter(|l| l.starts_with("sealane_")).collect();
            panic!("{what}: nobody gets through to {to}; there are\n{rules}{}", own.join("\n"))
        })
    }
}

/// A Service of both families with one Pod.
fn both(
    text: &str,
    last: &str,
    pod: usize,
) -> (sealane_catalog::NamespacedName, Option<Arc<sealane_catalog::Entry>>) {
    let addresses = [format!("10.96.0.{last}"), format!("fd00:96::{last}")];
    let service = service(text, &[&addresses[0], &addresses[1]]);
    (name(text), Some(Arc::new(entry(service, &[(pod_ip(pod), "n1"), (pod_ip6(pod), "n1")]))))
}

struct Running {
    proxy: Proxy,
    updates: Sender<Update>,
}

impl Running {
    fn update(
        &self,
        revision: u64,
        services: Vec<(sealane_catalog::NamespacedName, Option<Arc<sealane_catalog::Entry>>)>,
    ) {
        self.updates.send(Update { revision, services, node: None }).unwrap();
        until("an update", || *self.proxy.applied().borrow() >= revision);
    }

    fn figure(&self, name: &str) -> u64 {
        let text = self.proxy.metrics().render();
        let found = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
        found.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// How often others' doings were repaired, and all rules were written.
    fn repairs(&self) -> (u64, u64) {
        let (at_once, later) = self.proxy.metrics().repairs();
        (at_once + later, self.proxy.metrics().syncs().0)
    }

    fn stop(self) {
        drop(self.updates);
        self.proxy.join();
    }
}

fn until(what: &str, reached: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
    begun.elapsed()
}

/// Data goes to and fro over connections of both families before, while and after others take the rules away, and
/// while the proxy is away; what is new gets through as soon as rules are back.
#[test]
fn established_connections_survive_whatever_becomes_of_the_rules() {
    let site = Site::new();
    let mut running = site.start(|_| {});
    let talks = site.talks();
    talks.iter().for_each(|t| t.goes_on("before"));
    for deed in [
        "nft flush ruleset",
        "nft delete table ip sealane ; delete table ip6 sealane",
        "nft delete element ip sealane services { 10.96.0.30 . tcp . 80 }",
        "nft flush map ip6 sealane endpoints",
        "nft flush chain ip sealane postrouting",
        "nft flush chain ip6 sealane services",
        "nft insert rule ip sealane services drop",
    ] {
        let before = running.repairs();
        site.lab.node.command(deed);
        let took = until(deed, || running.repairs().0 > before.0 && running.repairs().1 > before.1);
        println!("{deed}: in force again {took:?} after nft ended");
        talks.iter().for_each(|t| t.goes_on(deed));
        site.web_answers(deed);
    }
    // The proxy ends and begins: its rules stay, and are replaced in one piece.
    for _ in 0..3 {
        running.stop();
        talks.iter().for_each(|t| t.goes_on("without the proxy"));
        site.web_answers("without the proxy");
        running = site.start(|_| {});
        talks.iter().for_each(|t| t.goes_on("restarted"));
        site.web_answers("restarted");
    }
    assert_eq!(running.figure("sealane_proxy_failures_total{task=\"rules\"}"), 0);
    // Their Pod leaves all Services: connections of TCP end when they like.
    running.update(2, vec![(name("talk"), None)]);
    talks.iter().for_each(|t| t.goes_on("their Service is deleted"));
    talks.into_iter().for_each(Talk::end);
    running.stop();
}

/// While nobody has written them anew: the kernel goes on to translate what it has translated.
#[test]
fn established_connections_need_no_rules() {
    let site = Site::new();
    let mut rules = Rules::of(site.lab.node.sink().left_open());
    for (text, last, pod) in [("web", "20", 0), ("talk", "30", 1)] {
        rules.set(sealane_catalog::Entry::clone(&both(text, last, pod).1.unwrap()));
    }
    let talks = site.talks();
    talks.iter().for_each(|t| t.goes_on("before"));
    site.lab.node.command("nft flush ruleset");
    for _ in 0..10 {
        talks.iter().for_each(|t| t.goes_on("without rules"));
    }
    rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
    talks.iter().for_each(|t| t.goes_on("after"));
    talks.into_iter().for_each(Talk::end);
    // What has them go on goes with the rules, and with who wrote them.
    rules.sink.clear().unwrap();
    assert_eq!(site.lab.node.command("nft list ruleset"), "");
}

/// Where the kernel has it (6.9), the tables are ours alone: a flush passes them by, and what names them is refused. They outlive
/// who wrote them, and whoever comes next takes them over.
#[test]
fn nobody_else_touches_rules_that_are_held() {
    let site = Site::new();
    let mut running = site.start_with(site.lab.node.sink(), |_| {});
    let talks = site.talks();
    site.lab.node.command("nft flush ruleset");
    for deed in [
        "delete table ip sealane",
        "flush chain ip6 sealane services",
        "delete element ip sealane services { 10.96.0.30 . tcp . 80 }",
        "insert rule ip sealane services drop",
    ] {
        let done = site
            .lab
            .node
            .run(move || std::process::Command::new("nft").args(deed.split_whitespace()).output().unwrap());
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains("not permitted"), "{deed}: {said}");
        site.web_answers(deed);
    }
    // A second proxy, and --cleanup beside the first, are told whose they are.
    let mut second = site.lab.node.sink();
    for refused in [second.replace(&lab::context(), &Default::default()), second.clear()] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("holds the table sealane") && !text.contains('\n'), "{text}");
    }
    site.web_answers("beside a second one");
    // One after the other takes them over, in either way.
    for open in [false, true, false, true] {
        running.stop();
        talks.iter().for_each(|t| t.goes_on("without the proxy"));
        site.web_answers("without the proxy");
        let sink = site.lab.node.sink();
        running = site.start_with(if open { sink.left_open() } else { sink }, |_| {});
        talks.iter().for_each(|t| t.goes_on("restarted"));
        site.web_answers("restarted");
    }
    assert_eq!(running.proxy.metrics().repairs(), (0, 0));
    running.stop();
    running = site.start_with(site.lab.node.sink(), |_| {});
    running.stop();
    talks.into_iter().for_each(Talk::end);
    second.clear().unwrap();
    assert_eq!(site.lab.node.command("nft list ruleset"), "");
}

/// From flush to the first new connection, with more and more beside it. The figure is for an idle machine.
#[test]
fn new_connections_work_soon_after_a_flush() {
    let site = Site::new();
    let running = site.start(|_| {});
    for (revision, services) in (2..).zip([0usize, 100, 900]) {
        let more = (0..services).map(|n| {
            let address = format!("10.97.{}.{}", n / 250, n % 250 + 1);
            let ten: Vec<(IpAddr, &str)> = (0..10).map(|i| (pod_ip(n % 200 + i), "n2")).collect();
            let key = name(&format!("s{services}-{n}"));
            (key, Some(Arc::new(entry(service(&format!("s{services}-{n}"), &[&address]), &ten))))
        });
        running.update(revision, more.collect());
        let mut times: Vec<Duration> = (0..20)
            .map(|_| {
                let before = running.repairs().0;
                site.lab.node.command("nft flush ruleset");
                let took = site.gets_through("a flush", WEB);
                until("it is noticed", || running.repairs().0 > before);
                took
            })
            .collect();
        times.sort();
        let frontends = running.figure("sealane_proxy_frontends");
        println!(
            "{frontends} addresses and ports: a new connection got through {:?} (median of 20), {:?} at most, after nft ended",
            times[10], times[19]
        );
    }
    running.stop();
}

/// A connection that begins while there are no rules is translated to nothing, and would send its SYNs past the Service
/// for minutes; with rules back its next one gets through.
#[test]
fn connections_that_began_without_rules_get_through() {
    let site = Site::new();
    let mut rules = Rules::of(site.lab.node.sink().left_open());
    let web = both("web", "20", 0).1.unwrap();
    rules.set(sealane_catalog::Entry::clone(&web));
    // Who routes them on swallows them, as networks do.
    site.lab.outside.command(
        "nft table ip seen { chain c { type filter hook prerouting priority 0 ; \
         ip daddr 10.96.0.0/16 counter drop ; } ; }",
    );
    site.lab.node.command("nft flush ruleset");
    assert!(!passed(&site));
    let begun = site.lab.pods[2].run(|| {
        std::thread::spawn(|| TcpStream::connect_timeout(&WEB.parse().unwrap(), PATIENCE).map(|_| ()))
    });
    until("the first SYN goes past", || passed(&site));
    rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
    rules.sink.forget_flows().unwrap();
    begun.join().unwrap().expect("the connection gets through");
}

/// One that was on its way while rules were written comes to the table of flows after it was looked at: it is looked
/// at again. Nothing else is touched.
#[test]
fn connections_that_begin_beside_the_rules_are_found_late() {
    let site = Site::new();
    let mut rules = Rules::new(&site.lab.node);
    rules.set(sealane_catalog::Entry::clone(&both("web", "20", 0).1.unwrap()));
    rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
    rules.sink.forget_flows().unwrap();
    let mut flows = talk::Flows::new(&site.lab.node);
    let elsewhere = "10.96.0.99:80";
    for (port, to, state) in [
        (1, WEB, talk::SYN_SENT),
        (2, WEB, talk::ESTABLISHED),
        (3, elsewhere, talk::SYN_SENT),
        (4, elsewhere, talk::ESTABLISHED),
    ] {
        flows.make(port, to.parse().unwrap(), state);
    }
    let mut forgotten = 0;
    let sink = RefCell::new(&mut rules.sink);
    until("the connection beside the rules is forgotten", || {
        sink.borrow_mut().forget_flows().unwrap();
        forgotten_by(&mut sink.borrow_mut()) > 0
    });
    for _ in 0..10 {
        sink.borrow_mut().forget_flows().unwrap();
        forgotten += forgotten_by(&mut sink.borrow_mut());
    }
    assert_eq!(forgotten, 0, "it is looked at twice, and finds one");
    let left = site.lab.node.command("cat /proc/net/nf_conntrack");
    let there = |port: u16| left.contains(&format!(" sport={port} "));
    assert_eq!([1, 2, 3, 4].map(there), [false, true, true, true], "{left}");
}

fn forgotten_by(sink: &mut NftSink) -> u64 {
    sink.flows()[0].map_or(0, |(_, count)| count)
}

/// Our table comes and goes while another mode's rules lead the same Service: packets that are in it when it goes get
/// through, and are not taken for some of an address without that port.
#[test]
fn nothing_is_refused_while_rules_give_way_to_another_modes() {
    const CYCLES: usize = 100;
    let site = Site::new();
    // Nothing of connections that ended is left to be taken for new ones: all come from one address.
    site.lab.pods[0].sysctl("ipv4/tcp_max_tw_buckets", "0");
    site.lab.node.command(
        "nft table ip other { chain p { type nat hook prerouting priority -100 ; \
         ip daddr 10.96.0.20 tcp dport 80 dnat to 10.244.0.2:8080 ; } ; \
         chain o { type nat hook output priority -100 ; ip daddr 10.96.0.20 tcp dport 80 dnat to 10.244.0.2:8080 ; } ; \
         chain s { type nat hook postrouting priority 100 ; ct status dnat masquerade ; } ; }",
    );
    let mut rules = Rules::new(&site.lab.node);
    rules.set(sealane_catalog::Entry::clone(&both("web", "20", 0).1.unwrap()));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = [&site.lab.node, &site.lab.pods[2], &site.lab.pods[1]]
        .map(|from| {
            let done = done.clone();
            from.run(move || {
                std::thread::spawn(move || {
                    let (mut count, mut failed) = (0, Vec::new());
                    let to: SocketAddr = WEB.parse().unwrap();
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        count += 1;
                        failed.extend(TcpStream::connect_timeout(&to, PATIENCE).err());
                    }
                    (count, failed)
                })
            })
        })
        .into();
    for _ in 0..CYCLES {
        rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
        rules.sink.clear().unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        let (count, failed) = client.join().unwrap();
        println!("{count} connections");
        assert!(count > 0 && failed.is_empty(), "of {count}: {failed:?}");
    }
}

/// Whether something for the Service came to the machine outside, which has a hole for it.
fn passed(site: &Site) -> bool {
    let text = site.lab.outside.command("nft list chain ip seen c");
    !text.contains("packets 0 ")
}

/// The table that firewalld writes, in short: it lets in what others translated and what is established.
const FIREWALLD: &str = "table inet firewalld { \
    chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10 ; policy accept ; } ; \
    chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10 ; policy accept ; } ; \
    chain filter_INPUT { type filter hook input priority filter + 10 ; policy accept ; \
        ct state { established, related } accept ; ct status dnat accept ; iifname lo accept ; \
        meta l4proto { icmp, ipv6-icmp } accept ; ct state invalid drop ; reject with icmpx type admin-prohibited ; } ; \
    chain filter_FORWARD { type filter hook forward priority filter + 10 ; policy accept ; \
        ct state { established, related } accept ; ct status dnat accept ; iifname lo accept ; \
        meta l4proto { icmp, ipv6-icmp } accept ; ct state invalid drop ; reject with icmpx type admin-prohibited ; } ; \
    }";

#[test]
fn other_firewalls_beside_it_are_left_alone_and_outlived() {
    let site = Site::new();
    let running = site.start(|_| {});
    let talks = site.talks();
    let direct = format!("{}:8080", pod_ip(0));
    let theirs_holds = |what: &str| {
        let refused = connect(&site.lab.pods[2], &direct, 1).remove(0).unwrap_err();
        assert_ne!(refused.kind(), std::io::ErrorKind::TimedOut, "{what}: it is rejected");
    };
    assert_eq!(answers(&site.lab.pods[2], &direct, 1), [(0, pod_ip(2))]);
    site.lab.node.command(&format!("nft {FIREWALLD}"));
    for reload in 0..5 {
        talks.iter().for_each(|t| t.goes_on("firewalld"));
        site.web_answers("firewalld");
        theirs_holds("firewalld");
        let again = format!("nft delete table inet firewalld ; {FIREWALLD}");
        site.lab.node.command(&again);
        println!("reload {reload}");
    }
    assert_eq!(running.proxy.metrics().repairs(), (0, 0), "their reloads are no business of ours");
    assert_eq!(running.proxy.metrics().syncs().0, 1);
    // A rude one takes everything away whenever it is reloaded.
    for round in 1..=5 {
        site.lab.node.command(&format!("nft flush ruleset ; {FIREWALLD}"));
        until("repair", || running.repairs().0 >= round && running.repairs().1 > round);
        talks.iter().for_each(|t| t.goes_on("the rude one"));
        site.web_answers("the rude one");
        theirs_holds("the rude one");
    }
    assert!(site.lab.node.command("nft list ruleset").contains("table inet firewalld"));
    talks.into_iter().for_each(Talk::end);
    running.stop();
}

/// More is done to nftables than the kernel can tell (ENOBUFS), and our rules are among what was changed.
#[test]
fn lost_notifications_count_as_changes() {
    let site = Site::new();
    let running = site.start(|heard| set_socket_recv_buffer_size(heard, 1).unwrap());
    let talks = site.talks();
    let mut script = "flush map ip sealane services\nadd table ip large\ndelete table ip large\n".to_owned();
    script += "add table ip large\nadd set ip large s { type ipv4_addr ; }\n";
    for part in 0..40 {
        let addresses: Vec<String> = (1..250).map(|n| format!("198.18.{part}.{n}")).collect();
        writeln!(script, "add element ip large s {{ {} }}", addresses.join(", ")).unwrap();
    }
    let path = std::env::temp_dir().join(format!("sealane-faults-{}.nft", std::process::id()));
    std::fs::write(&path, script).unwrap();
    let lost = || running.figure("sealane_proxy_failures_total{task=\"notifications\"}");
    // The kernel waits a little for listeners that keep up: it takes one that is just busy with the change before.
    let begun = Instant::now();
    while lost() == 0 {
        assert!(begun.elapsed() < PATIENCE, "nothing is lost");
        site.lab.node.command("nft add table ip small ; delete table ip small");
        site.lab.node.command(&format!("nft -f {}", path.display()));
    }
    std::fs::remove_file(&path).unwrap();
    until("all is in force", || {
        let services = site.lab.node.command("nft list map ip sealane services");
        services.contains("10.96.0.20 . tcp . 80")
    });
    site.web_answers("afterwards");
    talks.iter().for_each(|t| t.goes_on("afterwards"));
    talks.into_iter().for_each(Talk::end);
    running.stop();
}

/// The kernel's complaints do not fit the socket (ENOBUFS): what is in force is not known, and is written anew.
#[test]
fn lost_answers_have_everything_written_anew() {
    let site = Site::new();
    let (sink, answers_come) = {
        let socket = site.lab.node.run(netlink_socket).unwrap();
        let twin = socket.try_clone().unwrap();
        let sink = NftSink::open(socket).unwrap().left_open();
        set_socket_recv_buffer_size(&twin, 1).unwrap();
        (sink, twin)
    };
    let many: Vec<(IpAddr, &str)> = (0..1200u32)
        .flat_map(|n| {
            let v4: IpAddr = std::net::Ipv4Addr::from(0x0af4_0a00 + n).into();
            let v6: IpAddr = format!("fd00:244:9::{n:x}").parse().unwrap();
            [(v4, "n1"), (v6, "n1")]
        })
        // Who stays keeps its place.
        .chain([(pod_ip(0), "n1"), (pod_ip6(0), "n1")])
        .collect();
    let web = service("web", &["10.96.0.20", "fd00:96::20"]);
    let spoil = || {
        for family in ["ip", "ip6"] {
            site.lab.node.command(&format!("nft flush map {family} sealane endpoints"));
        }
    };
    // The sink says so.
    let mut rules = Rules { table: Table::new(lab::context()), sink };
    rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
    let few = [(pod_ip(0), "n1"), (pod_ip6(0), "n1")];
    let set = |rules: &mut Rules, endpoints: &[(IpAddr, &str)]| {
        let entry = entry(web.clone(), endpoints);
        let changes = rules.table.update([(&name("web"), Some(&entry))]);
        rules.sink.apply(&changes).and_then(|()| rules.sink.settle())
    };
    set(&mut rules, &many).unwrap();
    spoil();
    let lost = set(&mut rules, &few).unwrap_err();
    assert!(matches!(lost, NetlinkError::Lost), "{lost}");
    rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
    site.web_answers("written anew by hand");
    // And the thread does so by itself.
    let (updates, inbox) = std::sync::mpsc::channel();
    let proxy = spawn(Table::new(lab::context()), rules.sink, inbox).unwrap();
    let running = Running { proxy, updates };
    let update = |list: &[(IpAddr, &str)]| vec![(name("web"), Some(Arc::new(entry(web.clone(), list))))];
    running.update(1, update(&many));
    spoil();
    running.update(2, update(&few));
    until("it is in force", || running.proxy.metrics().syncs().0 == 2);
    assert_eq!(running.figure("sealane_proxy_failures_total{task=\"rules\"}"), 1);
    assert_eq!(
        running.figure("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}"),
        1
    );
    site.web_answers("written anew");
    running.stop();
    drop(answers_come);
}

/// A table of flows as full as the kernel lets it be. Its limit is the whole machine's, and read-only in other network
/// namespaces (so are nf_conntrack_buckets and nf_conntrack_expect_max; the rest of net.netfilter is each
/// namespace's own), so that it is truly filled: with connections that have ended.
#[test]
fn a_full_table_of_flows_is_counted_and_recovered_from() {
    let site = Site::new();
    let running = site.start(|_| {});
    let talks = site.talks();
    let flows = || (running.figure("sealane_conntrack_entries"), running.figure("sealane_conntrack_limit"));
    until("a first look", || flows().1 > 0);
    let dropped = || running.figure("sealane_conntrack_dropped_packets_total");
    let mut ended = talk::Flows::new(&site.lab.node);
    let begun = Instant::now();
    // Those who make room are quick: it may take a few times until somebody meets a full table.
    while dropped() == 0 {
        assert!(begun.elapsed() < 6 * PATIENCE, "nobody met a full table: {:?}", flows());
        ended.fill();
        let full = Instant::now();
        let tries = (1..).find(|_| {
            let to: SocketAddr = WEB.parse().unwrap();
            site.lab.pods[2].run(move || TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_ok())
        });
        println!("full: the {}. new connection got through after {:?}", tries.unwrap(), full.elapsed());
        assert!(full.elapsed() < PATIENCE);
        until("a look", || running.figure("sealane_conntrack_made_room_total") > 0);
    }
    talks.iter().for_each(|t| t.goes_on("room was made"));
    site.web_answers("room was made");
    talks.into_iter().for_each(Talk::end);
    running.stop();
}

/// Flows of UDP of both families follow their Service, and no others are touched.
#[test]
fn flows_of_udp_leave_and_others_stay() {
    let lab = Lab::new(3);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    let pods = |list: &[usize]| -> Vec<(IpAddr, &'static str)> {
        list.iter().flat_map(|n| [(pod_ip(*n), "n1"), (pod_ip6(*n), "n1")]).collect()
    };
    // Whatever comes from these ports is another zone's.
    lab.node.command(
        "nft table inet zones { chain c { type filter hook prerouting priority raw ; \
         udp sport 7777 ct zone set 7 ; udp dport 7777 ct zone set 7 ; } ; }",
    );
    for (web, other, direct) in [
        ("10.96.0.20:80", "10.96.0.21:80", SocketAddr::new(pod_ip(0), 8080)),
        ("[fd00:96::20]:80", "[fd00:96::21]:80", SocketAddr::new(pod_ip6(0), 8080)),
    ] {
        let ipv6 = direct.is_ipv6();
        let socket = |to: &str, port: u16| {
            let to: SocketAddr = to.parse().unwrap();
            lab.pods[2].run(move || {
                let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
                let socket = UdpSocket::bind((any, port)).unwrap();
                socket.connect(to).unwrap();
                socket
            })
        };
        rules.set(entry(service("web", &["10.96.0.20", "fd00:96::20"]), &pods(&[0])));
        rules.set(entry(service("other", &["10.96.0.21", "fd00:96::21"]), &pods(&[0])));
        let sockets = [socket(web, 0), socket(other, 0), socket(&direct.to_string(), 0), socket(web, 7777)];
        let heard = || sockets.each_ref().map(|s| ask(s).map(|(pod, _)| pod).map_err(|e| e.kind()));
        assert_eq!(heard(), [Ok(0); 4]);
        rules.sink.flows();
        let forgotten = |rules: &mut Rules| rules.sink.flows()[usize::from(ipv6)].map(|(_, count)| count);
        // Its endpoint is replaced: one flow goes, and those of others, of Pods and of other zones do not.
        rules.set(entry(service("web", &["10.96.0.20", "fd00:96::20"]), &pods(&[1])));
        assert_eq!(forgotten(&mut rules), Some(1));
        assert_eq!(heard(), [Ok(1), Ok(0), Ok(0), Ok(0)]);
        // To zero.
        rules.set(entry(service("web", &["10.96.0.20", "fd00:96::20"]), &[]));
        assert_eq!(forgotten(&mut rules), Some(1));
        assert!(ask(&sockets[0]).is_err());
        rules.set(entry(service("web", &["10.96.0.20", "fd00:96::20"]), &pods(&[1])));
        assert_eq!(ask(&sockets[0]).unwrap().0, 1);
        rules.sink.flows();
        // Deleted.
        let changes = rules.table.update([(&name("web"), None)]);
        rules.sink.apply(&changes).unwrap();
        rules.sink.forget_flows().unwrap();
        assert_eq!(forgotten(&mut rules), Some(1));
        assert_eq!(sockets[1..].iter().map(|s| ask(s).unwrap().0).collect::<Vec<_>>(), [0; 3]);
    }
}

/// A Service goes while nobody writes rules: whoever comes next forgets its flows all the same.
#[test]
fn flows_end_with_services_that_went_meanwhile() {
    let lab = Lab::new(2);
    lab.serve();
    let mut rules = Rules::new(&lab.node);
    rules.set(entry(service("gone", &["10.96.0.20"]), &[(pod_ip(0), "n1")]));
    rules.set(entry(service("stays", &["10.96.0.21"]), &[(pod_ip(0), "n1")]));
    let sockets = ["10.96.0.20:80", "10.96.0.21:80"].map(|to| connected(&lab.pods[1], to));
    assert!(sockets.iter().all(|s| ask(s).unwrap().0 == 0));
    drop(rules);
    let mut rules = Rules { table: Table::new(lab::context()), sink: lab.node.sink() };
    let stays = entry(service("stays", &["10.96.0.21"]), &[(pod_ip(0), "n1")]);
    rules.table.update([(&name("stays"), Some(&stays))]);
    rules.sink.replace(&lab::context(), rules.table.frontends()).unwrap();
    rules.sink.forget_flows().unwrap();
    assert_eq!(rules.sink.flows()[0].map(|(_, count)| count), Some(1));
    assert!(ask(&sockets[0]).is_err());
    assert_eq!(ask(&sockets[1]).unwrap().0, 0);
}

/// Chains of numbers of endpoints that nobody has any more do not pile up.
#[test]
fn a_service_of_many_sizes_leaves_few_chains() {
    let namespace = lab::Namespace::new();
    let mut rules = Rules::new(&namespace);
    let many: Vec<(IpAddr, &str)> =
        (0..1400u32).map(|n| (std::net::Ipv4Addr::from(0x0af4_0000 + n).into(), "n1")).collect();
    let mut web = service("web", &["10.96.0.20"]);
    web.ports.truncate(1);
    for size in 1..=many.len() {
        rules.set(entry(web.clone(), &many[..size]));
    }
    let chains = namespace.command("nft list chains ip").matches("chain balance-").count();
    assert!(chains < 1200, "{chains} chains for one Service");
    let installed = rules.sink.read_back().unwrap();
    assert!(rules.table.frontends().values().all(|f| f.means(&installed[&f.key])));
}
