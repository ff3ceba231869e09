//! Real resolvers as clients of `sealane dns`, each with the `/etc/resolv.conf` of a Pod: the same questions, the same
//! answers. The client programs are in `resolvers/`; they read `KIND NAME` lines and say what they found.
//!
//! What each needs, by Debian's names: bind9-dnsutils, default-jdk-headless, golang-go, knot-dnsutils, libc-ares-dev,
//! musl-tools, nodejs; and the program of systemd-resolved, which [`resolved`] says where to put.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sealane_tests::{Start, Stream, Up, eventually, run, sealane};
use tempfile::TempDir;

/// The server, as Pods know it.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The root's server, for who begins there.
const ROOT: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// The name in the server's certificate.
const HOST: &str = "dns.test";
/// Endpoints of `big`: more than a datagram of any usual size holds (1,232 bytes), and than musl keeps.
const MANY: u8 = 120;

/// Services of the namespace `shop`: `web` with an address, `db`, `both` and `big` without, `out` and `inner` elsewhere.
const SERVICES: &[(&str, &str)] = &[
    ("web", "{clusterIP: 10.96.0.80, ports: [{name: http, port: 80}]}"),
    ("db", "{clusterIP: None, ports: [{name: pg, port: 5432}]}"),
    ("both", "{clusterIP: None, ports: [{name: http, port: 80}]}"),
    ("big", "{clusterIP: None, ports: [{name: http, port: 80}]}"),
    ("out", "{type: ExternalName, externalName: alias.example.com}"),
    ("inner", "{type: ExternalName, externalName: web.shop.svc.cluster.local}"),
];

/// Their slices but `big`'s: Service, family, port, and endpoints.
const SLICES: &[(&str, &str, &str, &str)] = &[
    (
        "db",
        "IPv4",
        "{name: pg, port: 5432, protocol: TCP}",
        "[{addresses: [10.244.0.10], hostname: db-0}, {addresses: [10.244.0.11], hostname: db-1}, \
          {addresses: [10.244.0.12], hostname: db-2}]",
    ),
    ("both", "IPv4", HTTP, "[{addresses: [10.244.0.20], hostname: both-0}]"),
    ("both", "IPv6", HTTP, "[{addresses: ['fd00:10::20'], hostname: both-0}]"),
];

const HTTP: &str = "{name: http, port: 80, protocol: TCP}";

/// All of them, as YAML.
fn objects() -> String {
    let mut text = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n".to_owned();
    for (name, spec) in SERVICES {
        let metadata = format!("{{name: {name}, namespace: shop}}");
        writeln!(text, "---\n{{apiVersion: v1, kind: Service, metadata: {metadata}, spec: {spec}}}").unwrap();
    }
    let endpoints: Vec<String> = addresses_of_big().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
    let big = format!("[{}]", endpoints.join(", "));
    for (of, family, port, endpoints) in SLICES.iter().chain(&[("big", "IPv4", HTTP, big.as_str())]) {
        let labels = format!("{{kubernetes.io/service-name: {of}}}");
        let name = format!("{of}-{}", family.to_lowercase());
        writeln!(
            text,
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, \
             metadata: {{name: {name}, namespace: shop, labels: {labels}}}, addressType: {family}, \
             ports: [{port}], endpoints: {endpoints}}}"
        )
        .unwrap();
    }
    text
}

/// The cluster's server over its transports.
const COREFILE: &str = "\
(cluster) {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . 10.255.0.1
    cache 30
    loadbalance
}
.:53 {
    bind 10.96.0.10 127.0.0.1
    ready 127.0.0.1:8181
    import cluster
}
tls://.:853 {
    tls dns.test.pem dns.test.key
    import cluster
}
https://.:443 {
    tls dns.test.pem dns.test.key
    import cluster
}
";

/// The world outside: a root's server, which knows example.com, too, and who has the cluster's names.
const ROOT_COREFILE: &str = "\
.:53 {
    bind 10.255.0.1
    file root.zone .
}
";

const ROOT_ZONE: &str = "\
$TTL 300
. SOA a.root.example. nobody.example. 1 7200 3600 86400 60
. NS a.root.example.
a.root.example. A 10.255.0.1
cluster.local. NS ns.cluster.example.
in-addr.arpa. NS ns.cluster.example.
ip6.arpa. NS ns.cluster.example.
ns.cluster.example. A 10.96.0.10
alias.example.com. CNAME www.example.com.
www.example.com. A 192.0.2.80
www.example.com. AAAA 2001:db8::80
";

/// Kind, name as a program in namespace `shop` gives it, the whole name, and what comes: `-` is nothing, `big` its
/// addresses. `BOTH` is getaddrinfo's: IPv4 and IPv6 in one call.
const QUESTIONS: &[(&str, &str, &str, &str)] = &[
    ("A", "web", "web.shop.svc.cluster.local", "10.96.0.80"),
    ("A", "web.shop", "web.shop.svc.cluster.local", "10.96.0.80"),
    ("A", "web.shop.svc", "web.shop.svc.cluster.local", "10.96.0.80"),
    ("A", "web.shop.svc.cluster.local.", "web.shop.svc.cluster.local", "10.96.0.80"),
    ("A", "WeB.sHoP.sVc.ClUsTeR.lOcAl", "WeB.sHoP.sVc.ClUsTeR.lOcAl", "10.96.0.80"),
    ("AAAA", "web", "web.shop.svc.cluster.local", "-"),
    ("A", "both", "both.shop.svc.cluster.local", "10.244.0.20"),
    ("AAAA", "both", "both.shop.svc.cluster.local", "fd00:10::20"),
    ("BOTH", "both", "both.shop.svc.cluster.local", "10.244.0.20 fd00:10::20"),
    ("BOTH", "web", "web.shop.svc.cluster.local", "10.96.0.80"),
    ("A", "db", "db.shop.svc.cluster.local", "10.244.0.10 10.244.0.11 10.244.0.12"),
    ("A", "db-1.db", "db-1.db.shop.svc.cluster.local", "10.244.0.11"),
    ("A", "10-244-9-9.shop.pod", "10-244-9-9.shop.pod.cluster.local", "10.244.9.9"),
    ("A", "out", "out.shop.svc.cluster.local", "192.0.2.80"),
    ("AAAA", "out", "out.shop.svc.cluster.local", "2001:db8::80"),
    ("A", "inner", "inner.shop.svc.cluster.local", "10.96.0.80"),
    ("A", "nothing", "nothing.shop.svc.cluster.local", "-"),
    ("BOTH", "nothing.shop", "nothing.shop.svc.cluster.local", "-"),
    ("A", "www.example.com", "www.example.com", "192.0.2.80"),
    ("BOTH", "www.example.com", "www.example.com", "192.0.2.80 2001:db8::80"),
    ("A", "absent.example.com", "absent.example.com", "-"),
    ("A", "big", "big.shop.svc.cluster.local", "big"),
    ("PTR", "10.96.0.80", "10.96.0.80", "web.shop.svc.cluster.local"),
    ("PTR", "10.244.0.11", "10.244.0.11", "db-1.db.shop.svc.cluster.local"),
    ("PTR", "fd00:10::20", "fd00:10::20", "both-0.both.shop.svc.cluster.local"),
    ("SRV", "_http._tcp.web", "_http._tcp.web.shop.svc.cluster.local", "0:100:80:web.shop.svc.cluster.local"),
    (
        "SRV",
        "_pg._tcp.db",
        "_pg._tcp.db.shop.svc.cluster.local",
        "0:33:5432:db-0.db.shop.svc.cluster.local 0:33:5432:db-1.db.shop.svc.cluster.local \
         0:33:5432:db-2.db.shop.svc.cluster.local",
    ),
    ("SRV", "_no._tcp.db", "_no._tcp.db.shop.svc.cluster.local", "-"),
    ("TXT", "dns-version", "dns-version.cluster.local", "1.1.0"),
];

/// What a client can be asked.
#[derive(Clone, Copy)]
struct Client {
    kinds: &'static [&'static str],
    /// Names as programs give them, for the search list to complete; else whole ones.
    search: bool,
    /// Asks over TCP where a datagram does not hold the answer.
    tcp: bool,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    /// A program that reads the questions.
    Program(fn(&Pod) -> Command),
    /// dig or kdig, one run for each question.
    Dig(&'static [&'static str]),
}

const LIBC: &[&str] = &["A", "AAAA", "BOTH", "PTR"];
const RECORDS: &[&str] = &["A", "AAAA", "PTR", "SRV", "TXT"];
const ALL: &[&str] = &["A", "AAAA", "BOTH", "PTR", "SRV", "TXT"];

/// One test for each client.
macro_rules! clients {
    ($($test:ident $kinds:ident $($word:ident)* => $how:expr;)*) => {
        $(#[test]
        fn $test() {
            let words = [$(stringify!($word)),*];
            let has = |word: &str| words.contains(&word);
            answers(Client { kinds: $kinds, search: has("search"), tcp: !has("udp_alone"), how: $how });
        })*
    };
}

clients! {
    glibc ALL search => How::Program(|pod| pod.built("cc", "libc.c", &["-lresolv"]));
    // 1.2.3 has no TCP, and res_search of all versions no search: what the answers below do without.
    musl LIBC search udp_alone => How::Program(|pod| pod.built("musl-gcc", "libc.c", &["-static"]));
    musl_records RECORDS udp_alone => How::Program(|pod| pod.built("musl-gcc", "libc.c", &["-static"]));
    c_ares ALL search => How::Program(|pod| pod.built("cc", "cares.c", &["-lcares"]));
    go ALL search => How::Program(Pod::go);
    java_inet_address LIBC search => How::Program(|pod| pod.java("inet"));
    java_jndi RECORDS => How::Program(|pod| pod.java("10.96.0.10"));
    node_lookup LIBC search => How::Program(|pod| pod.node("lookup"));
    node_resolve RECORDS => How::Program(|pod| pod.node("resolve"));
    dig RECORDS search => How::Dig(&["dig", "+search"]);
    dig_tcp RECORDS search => How::Dig(&["dig", "+search", "+tcp"]);
    dig_tls RECORDS => How::Dig(&["dig", "@10.96.0.10", "+tls", "+tls-ca=ca.pem", "+tls-hostname=dns.test"]);
    dig_https RECORDS => How::Dig(&["dig", "@10.96.0.10", "+https", "+tls-ca=ca.pem", "+tls-hostname=dns.test"]);
    dig_https_get RECORDS => How::Dig(&["dig", "@10.96.0.10", "+https-get"]);
    dig_trace RECORDS => How::Dig(&["dig", "+trace", "+nodnssec"]);
    dig_trace_tcp RECORDS => How::Dig(&["dig", "+trace", "+tcp", "+nodnssec"]);
    kdig RECORDS => How::Dig(&["kdig", "@10.96.0.10"]);
    kdig_tls RECORDS => How::Dig(&["kdig", "@10.96.0.10", "+tls-ca=ca.pem", "+tls-hostname=dns.test"]);
    kdig_https RECORDS => How::Dig(&["kdig", "@10.96.0.10", "+https", "+tls-ca=ca.pem", "+tls-hostname=dns.test"]);
}

/// glibc and Go once more, whose server is systemd-resolved, whose server is ours.
#[test]
fn systemd_resolved() {
    let pod = Pod::start();
    // It asks nobody while there is loopback alone.
    let ip = |words: &[&str]| run(pod.start.machine.command("ip").args(words), b"").ok();
    ip(&["link", "add", "pod0", "type", "veth", "peer", "name", "pod1"]);
    ip(&["address", "add", "10.244.7.7/24", "dev", "pod0"]);
    ip(&["link", "set", "pod0", "up"]);
    ip(&["link", "set", "pod1", "up"]);
    let resolved = pod.resolved();
    let client = Client { kinds: ALL, search: true, tcp: true, how: How::Program(Pod::go) };
    // Its stub listener is the Pod's server now.
    pod.write("resolv.conf", &resolv_conf("127.0.0.53"));
    eventually("the stub listener", || {
        let done = run(pod.command("dig").args(["+time=1", "+tries=1", "@127.0.0.53", "localhost"]), b"");
        if done.status.success() { Ok(()) } else { Err(done.to_string()) }
    });
    let glibc = Client { how: How::Program(|pod| pod.built("cc", "libc.c", &["-lresolv"])), ..client };
    let mut wrong = pod.wrong(glibc);
    wrong.extend(pod.wrong(client));
    drop(resolved);
    ip(&["link", "delete", "pod0"]);
    assert!(wrong.is_empty(), "{}\n--- systemd-resolved\n{}", wrong.join("\n"), pod.read("resolved.log"));
    pod.up.stop();
}

/// A question comes back as it was written, and so do the records' owners, over each transport: clients mix cases to
/// tell their answers from forged ones (draft-vixie-dnsext-dns0x20).
#[test]
fn mixed_case_comes_back() {
    let pod = Pod::start();
    let name = "dB.ShoP.svC.cLusTer.LOCAL.";
    for transport in ["+notcp", "+tcp", "+tls", "+https"] {
        let done = run(pod.command("dig").args(["@10.96.0.10", transport, name, "A"]), b"").ok();
        assert!(done.contains(&format!(";{name}")), "{transport}: {done}");
        let owners = done.lines().filter(|l| l.starts_with(name)).count();
        assert_eq!(owners, 3, "{transport}: {done}");
    }
    pod.up.stop();
}

/// Who does not trust the CA, or expects another host, gets no answer.
#[test]
fn certificates_are_checked() {
    let pod = Pod::start();
    for (options, good) in [
        (&["+tls-ca=ca.pem", "+tls-hostname=dns.test"][..], true),
        (&["+tls-ca=ca.pem", "+tls-hostname=other.test"], false),
        (&["+tls-ca", "+tls-hostname=dns.test"], false),
    ] {
        for transport in ["+tls", "+https"] {
            let question = ["@10.96.0.10", "+retry=0", "+timeout=3", "+short", "web.shop.svc.cluster.local"];
            let done = run(pod.command("kdig").arg(transport).args(options).args(question), b"");
            assert_eq!(done.stdout.trim() == "10.96.0.80", good, "{done}");
        }
    }
    pod.up.stop();
}

#[track_caller]
fn answers(client: Client) {
    let pod = Pod::start();
    let wrong = pod.wrong(client);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    pod.up.stop();
}

/// What a Pod of namespace `shop` has.
fn resolv_conf(server: &str) -> String {
    format!(
        "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver {server}\noptions ndots:5\n"
    )
}

/// Where a client runs: the server's network, and files of its own.
struct Pod {
    up: Up,
    start: Start,
    dir: TempDir,
    /// They end with the Pod.
    _servers: [Stream; 2],
}

impl Pod {
    /// The API with the objects, and the server that answers.
    #[track_caller]
    fn start() -> Pod {
        let start = Start::new().arg("--no-node");
        start.machine.add_address(SERVER);
        start.machine.add_address(ROOT);
        let up = start.up();
        eventually("the objects", || {
            let done = up.apply(&objects());
            if done.status.success() { Ok(()) } else { Err(done.to_string()) }
        });
        let dir = tempfile::Builder::new().prefix("sealane-test-").tempdir().unwrap();
        certificates(dir.path());
        for (name, text) in [
            ("Corefile", COREFILE),
            ("root.Corefile", ROOT_COREFILE),
            ("root.zone", ROOT_ZONE),
            ("resolv.conf", &resolv_conf(&SERVER.to_string())),
            ("nsswitch.conf", "hosts: files dns\n"),
            ("hosts", "127.0.0.1 localhost\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let servers = ["root.Corefile", "Corefile"].map(|corefile| {
            let mut command = start.machine.command(sealane());
            command.args(["dns", "-conf", corefile]).current_dir(dir.path());
            Stream::piped(command.env("KUBECONFIG", up.kubeconfig()))
        });
        eventually("the server", || match up.http("GET", "127.0.0.1:8181", "/ready", "") {
            Ok(page) if page.status == 200 => Ok(()),
            Ok(page) => Err(page.body),
            Err(why) => Err(why),
        });
        Pod { up, start, dir, _servers: servers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A program with the Pod's files over the machine's, in a mount namespace that ends with it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        const MOUNTS: &str = "for file in resolv.conf nsswitch.conf hosts; do \
            mount --bind \"$file\" /etc/$file || exit 125; done; exec \"$@\"";
        let mut command = self.start.machine.command("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", MOUNTS, "sh"]);
        command.arg(program).current_dir(self.dir.path());
        command
    }

    /// What differs.
    #[track_caller]
    fn wrong(&self, client: Client) -> Vec<String> {
        let asked: Vec<_> = QUESTIONS.iter().filter(|q| client.kinds.contains(&q.0)).collect();
        let names = asked.iter().map(|(kind, name, full, _)| {
            let name = match *kind {
                _ if client.search && matches!(client.how, How::Program(_)) => (*name).to_owned(),
                "PTR" if matches!(client.how, How::Dig(_)) => reverse(full),
                _ if client.search => (*name).to_owned(),
                _ => (*full).to_owned(),
            };
            (*kind, name)
        });
        let names: Vec<_> = names.collect();
        let said: Vec<String> = match client.how {
            How::Program(program) => {
                let lines: String = names.iter().map(|(kind, name)| format!("{kind} {name}\n")).collect();
                let said = run(&mut program(self), lines.as_bytes()).ok();
                said.lines().map(alike).collect()
            }
            How::Dig(words) => names.iter().map(|(kind, name)| self.dig(words, kind, name)).collect(),
        };
        assert_eq!(said.len(), asked.len(), "lines: {said:#?}");
        let differences = asked.iter().zip(&names).zip(said).filter_map(|((question, name), said)| {
            let expected = if question.3 == "big" { big() } else { question.3.to_owned() };
            let same = said == expected
                // The part that the datagram holds.
                || question.3 == "big" && !client.tcp && part(&said, &expected);
            (!same).then(|| format!("{} {}: {said}\n    instead of {expected}", name.0, name.1))
        });
        differences.collect()
    }

    /// What dig or kdig shows of these records of a name, as the programs say it.
    #[track_caller]
    fn dig(&self, words: &[&str], kind: &str, name: &str) -> String {
        let mut command = self.command(words[0]);
        let done = run(command.args(&words[1..]).args(["-t", kind, "-q", name]), b"");
        let said = done.stdout.clone();
        let status = said.lines().filter_map(|l| l.split_once("status: ")).map(|(_, rest)| rest).next_back();
        let traced = words.contains(&"+trace");
        let good = status.is_some_and(|s| s.starts_with("NOERROR") || s.starts_with("NXDOMAIN"));
        if !done.status.success() || !(good || traced) {
            return format!("error: {done}");
        }
        let mut found: Vec<String> = said.lines().filter_map(|line| record(line, kind)).collect();
        found.sort();
        found.dedup();
        if found.is_empty() { "-".to_owned() } else { found.join(" ") }
    }

    /// A C program of `resolvers/`, built.
    #[track_caller]
    fn built(&self, compiler: &str, file: &str, options: &[&str]) -> Command {
        let program = self.path(&format!("{compiler}-{file}.out"));
        let mut build = Command::new(compiler);
        build
            .args(["-O1", "-Wall", "-Wno-deprecated-declarations", "-o"])
            .arg(&program)
            .arg(folder().join(file));
        run(build.args(options), b"").ok();
        self.command(program)
    }

    #[track_caller]
    fn go(&self) -> Command {
        let program = self.path("go-lookup");
        let mut build = Command::new("go");
        build.arg("build").arg("-C").arg(folder().join("go")).arg("-o").arg(&program).arg(".");
        run(build.env("CGO_ENABLED", "0"), b"").ok();
        let mut command = self.command(program);
        command.env("GODEBUG", "netdns=go");
        command
    }

    fn java(&self, resolver: &str) -> Command {
        let mut command = self.command("java");
        command.args(["-XX:TieredStopAtLevel=1", "-Dnetworkaddress.cache.ttl=0"]);
        command.arg(folder().join("Lookup.java")).arg(resolver);
        command
    }

    fn node(&self, resolver: &str) -> Command {
        let mut command = self.command("node");
        command.arg(folder().join("lookup.js")).arg(resolver);
        command
    }

    /// systemd-resolved with the cluster's server, without systemd: it needs a user of its name and a folder in /run.
    #[track_caller]
    fn resolved(&self) -> Stream {
        const USER: u32 = 65_533;
        let named = |file: &str, line: &str| std::fs::read_to_string(file).unwrap() + line;
        self.write(
            "passwd",
            &named("/etc/passwd", &format!("systemd-resolve:x:{USER}:{USER}::/:/bin/false\n")),
        );
        self.write("group", &named("/etc/group", &format!("systemd-resolve:x:{USER}:\n")));
        let domains = "shop.svc.cluster.local svc.cluster.local cluster.local ~.";
        self.write(
            "resolved.conf",
            &format!("[Resolve]\nDNS={SERVER}\nFallbackDNS=\nDomains={domains}\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\nResolveUnicastSingleLabel=yes\n"),
        );
        let script = format!(
            "set -e; mount --bind passwd /etc/passwd; mount --bind group /etc/group; \
             here=$PWD; mount -t tmpfs tmpfs /run; \
             mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d; \
             chown {USER}:{USER} /run/systemd/resolve; \
             cp \"$here/resolved.conf\" /run/systemd/resolved.conf.d/test.conf; \
             exec \"$0\" >\"$here/resolved.log\" 2>&1"
        );
        Stream::piped(self.command("sh").args(["-c", &script]).arg(resolved()))
    }
}

/// The program: `SEALANE_RESOLVED`, or where systemd's package puts it. Installing that package rewrites
/// `/etc/resolv.conf`; `dpkg -x` takes the program out without.
#[track_caller]
fn resolved() -> PathBuf {
    let named = std::env::var_os("SEALANE_RESOLVED").map(PathBuf::from);
    let unpacked = folder().join("../../target/systemd-resolved/lib/systemd/systemd-resolved");
    let places = ["/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved"].map(PathBuf::from);
    let found = named.into_iter().chain(places).chain([unpacked]).find(|p| p.is_file());
    found.expect("systemd-resolved: .ci/run unpacks it; or set SEALANE_RESOLVED").canonicalize().unwrap()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/resolvers"))
}

fn addresses_of_big() -> impl Iterator<Item = String> {
    (1..=MANY).map(|number| format!("10.244.1.{number}"))
}

fn big() -> String {
    let mut all: Vec<String> = addresses_of_big().collect();
    all.sort();
    all.join(" ")
}

/// A line with its addresses as all write them: Java does not shorten IPv6's.
fn alike(line: &str) -> String {
    let word = |word: &str| word.parse().map_or_else(|_| word.to_owned(), |ip: IpAddr| ip.to_string());
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Whether `said` is more than nothing, and nothing that is not in `all`.
fn part(said: &str, all: &str) -> bool {
    let all: Vec<&str> = all.split(' ').collect();
    said.split(' ').count() > 1 && said.split(' ').all(|word| all.contains(&word))
}

/// The name below which an address's names are.
fn reverse(address: &str) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(six) => {
            let digits: String = six.octets().iter().map(|o| format!("{o:02x}")).collect();
            digits.chars().rev().fold(String::new(), |text, digit| text + &format!("{digit}.")) + "ip6.arpa."
        }
    }
}

/// The data of a line `NAME TTL IN KIND DATA`.
fn record(line: &str, kind: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [owner, _, "IN", found, data @ ..] = words.as_slice() else { return None };
    if owner.starts_with(';') || *found != kind {
        return None;
    }
    let data = data.join(if kind == "SRV" { ":" } else { " " });
    Some(data.trim_matches('"').trim_end_matches('.').to_owned())
}

/// `ca.pem`, and `dns.test.pem` with its key, signed by it.
fn certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the tests' CA");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    std::fs::write(folder.join(format!("{HOST}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{HOST}.key")), key.serialize_pem()).unwrap();
}
