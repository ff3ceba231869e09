//! A reload after which more of the cluster is needed than before: `sealane dns` begins to watch it, and answers as the
//! old Corefile says until it is there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sealane_tests::{Start, Up, eventually, run, sealane};

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.80, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: shop}
spec: {containers: [{name: c, image: i}]}
";

/// `sealane dns` beside an API.
struct Dns<'a> {
    start: &'a Start,
    folder: tempfile::TempDir,
    child: Child,
}

/// A Corefile with the plugin's lines, or without it.
fn corefile(kubernetes: Option<&str>) -> String {
    let cluster =
        kubernetes.map(|lines| format!(" kubernetes cluster.local clusterset.local {{\n{lines}\n }}\n"));
    format!(
        ".:53 {{\n bind 127.0.0.1\n reload\n hosts /nowhere {{\n  192.0.2.1 own.test\n  fallthrough\n }}\n{}}}\n",
        cluster.unwrap_or_default()
    )
}

impl<'a> Dns<'a> {
    fn start(start: &'a Start, up: &Up) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Corefile"), corefile(None)).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = start.machine.command(sealane());
        command.args(["dns", "-conf", "Corefile"]).current_dir(folder.path());
        command.env("KUBECONFIG", up.kubeconfig()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        Dns { start, folder, child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// What comes of a name: the code, and the addresses.
    fn ask(&self, name: &str) -> Result<String, String> {
        let mut dig = self.start.machine.command("dig");
        dig.args(["+time=2", "+tries=1", "+noall", "+comments", "+answer", "@127.0.0.1", name, "A"]);
        let done = run(&mut dig, b"");
        let code = done.stdout.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
        let code = code.ok_or_else(|| format!("{done}\n{}", self.log()))?.to_owned();
        let found = done.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let address = |line: &Vec<&str>| match line[..] {
            [_, _, "IN", "A", ip] => Some(ip.to_owned()),
            _ => None,
        };
        Ok(found.filter_map(|line| address(&line)).fold(code, |all, ip| format!("{all} {ip}")))
    }

    #[track_caller]
    fn answers(&self, name: &str, expected: &str) {
        eventually(name, || match self.ask(name)? {
            found if found == expected => Ok(()),
            found => Err(format!("{found} instead of {expected}\n{}", self.log())),
        });
    }

    /// Puts another Corefile in its place, and waits until it is in force, or refused.
    #[track_caller]
    fn reload(&self, kubernetes: Option<&str>, said: &str) {
        let times = self.log().matches(said).count();
        let new = self.folder.path().join("new");
        std::fs::write(&new, corefile(kubernetes)).unwrap();
        std::fs::rename(new, self.folder.path().join("Corefile")).unwrap();
        eventually("the reload", || {
            // Whatever is under way, clients get their answers.
            assert_eq!(self.ask("own.test")?, "NOERROR 192.0.2.1");
            let log = self.log();
            if log.matches(said).count() > times { Ok(()) } else { Err(log) }
        });
    }

    fn end(mut self) -> (ExitStatus, tempfile::TempDir) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        let other = tempfile::tempdir().unwrap();
        (status, std::mem::replace(&mut self.folder, other))
    }
}

impl Drop for Dns<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const DONE: &str = "[INFO] Reloading complete";
const WEB: &str = "web.shop.svc.cluster.local";

#[test]
fn what_a_new_corefile_needs_is_watched() {
    let start = Start::new().arg("--no-node");
    let up = start.up();
    eventually("the objects", || {
        let done = up.apply(OBJECTS);
        if done.status.success() { Ok(()) } else { Err(done.to_string()) }
    });
    let address = "[{\"op\": \"add\", \"path\": \"/status/podIPs\", \"value\": [{\"ip\": \"10.244.0.9\"}]}, \
                   {\"op\": \"add\", \"path\": \"/status/podIP\", \"value\": \"10.244.0.9\"}]";
    let patch = ["-n", "shop", "patch", "pod", "one", "--subresource=status", "--type=json", "-p", address];
    up.ok(&patch);
    let dns = Dns::start(&start, &up);
    dns.answers("own.test", "NOERROR 192.0.2.1");
    assert_eq!(dns.ask(WEB).unwrap(), "SERVFAIL");

    // A cluster, where there was none. It is all there when the Corefile is in force.
    dns.reload(Some("  pods insecure"), DONE);
    assert_eq!(dns.ask(WEB).unwrap(), "NOERROR 10.96.0.80");
    assert_eq!(dns.ask("10-244-0-1.shop.pod.cluster.local").unwrap(), "NOERROR 10.244.0.1");

    // Its Pods, and what comes from other clusters.
    dns.reload(Some("  pods verified"), DONE);
    assert_eq!(dns.ask("10-244-0-9.shop.pod.cluster.local").unwrap(), "NOERROR 10.244.0.9");
    assert_eq!(dns.ask("10-244-0-1.shop.pod.cluster.local").unwrap(), "NXDOMAIN");
    assert_eq!(dns.ask("web.shop.svc.clusterset.local").unwrap(), "NOERROR 10.96.0.80");
    dns.reload(Some("  multicluster clusterset.local"), DONE);
    assert_eq!(dns.ask("web.shop.svc.clusterset.local").unwrap(), "NXDOMAIN");
    // Changes come by the new watches.
    up.ok(&["-n", "shop", "create", "service", "clusterip", "late", "--tcp=80", "--clusterip=10.96.0.81"]);
    dns.answers("late.shop.svc.cluster.local", "NOERROR 10.96.0.81");

    // An API that cannot be reached at all: the old one stays.
    dns.reload(Some("  kubeconfig nowhere"), "reload failed: no way to the API: nowhere: ");
    assert_eq!(dns.ask(WEB).unwrap(), "NOERROR 10.96.0.80");

    // And a snapshot is kept from now on.
    let saved = dns.folder.path().join("view");
    dns.reload(Some(&format!("  warm_start {}", saved.display())), DONE);
    assert_eq!(dns.ask(WEB).unwrap(), "NOERROR 10.96.0.80");
    // None, where it is needed no more.
    dns.reload(None, DONE);
    assert_eq!(dns.ask(WEB).unwrap(), "SERVFAIL");
    dns.reload(Some(&format!("  warm_start {}", saved.display())), DONE);
    let (status, _folder) = dns.end();
    assert_eq!(status.code(), Some(0));
    assert!(std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("web")));
    up.stop();
}

/// An API that does not answer holds nobody up for longer than `startup_timeout`, and comes in when it is there.
#[test]
fn a_cluster_that_is_away_is_waited_for_and_comes_later() {
    let start = Start::new().arg("--no-node");
    let up = start.up();
    let dns = Dns::start(&start, &up);
    dns.answers("own.test", "NOERROR 192.0.2.1");
    let text = std::fs::read_to_string(up.kubeconfig()).unwrap();
    let (before, rest) = text.split_once("https://").unwrap();
    let end = rest.find(['\n', '"']).unwrap();
    let away = format!("{before}https://127.0.0.1:1{}", &rest[end..]);
    let other: PathBuf = dns.folder.path().join("kubeconfig");
    std::fs::write(&other, away).unwrap();
    let lines = format!("  kubeconfig {}\n  startup_timeout 1s", other.display());
    dns.reload(Some(&lines), DONE);
    assert!(dns.log().contains("starting server with unsynced Kubernetes API"), "{}", dns.log());
    assert_eq!(dns.ask(WEB).unwrap(), "SERVFAIL");
    assert_eq!(dns.ask("own.test").unwrap(), "NOERROR 192.0.2.1");
    dns.reload(Some("  startup_timeout 1m"), DONE);
    assert_eq!(dns.ask("kubernetes.default.svc.cluster.local").unwrap(), "NOERROR 10.96.0.1");
    up.stop();
}
