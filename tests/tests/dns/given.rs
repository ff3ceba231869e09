//! A cluster and a server that are somebody else's, named by environment variables:
//!
//! - `SEALANE_TABLES_KUBECONFIG=FILE`: a Kubernetes API server takes the place of `sealane up`. Sealane and CoreDNS are
//!   both pointed to it. The table's objects are made in it, and are gone afterwards. Where one of them is there
//!   before, nothing is touched. Its range of Service addresses has to contain 10.96.0.0/16, and its controllers have
//!   to run. `cargo xtask real-api` does it with a kube-apiserver of its own.
//! - `SEALANE_TABLES_ADDRESS=IP:PORT`: a server that runs already is asked, in the place of those that the test would
//!   start. Its cluster has the objects: give its kubeconfig as above, or apply them beforehand. Asked are the
//!   scenarios that it can hold: those with the Corefile of the table's first, or with `SEALANE_DNS_ONLY=TEXT` those
//!   with TEXT in their title; it has to run with their Corefile. Rows about the server's own name are left out: that
//!   depends on the addresses of its machine. `SEALANE_TABLES_PROGRAM=coredns` says that it is
//!   CoreDNS, where the tables have answers of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sealane_tests::{Done, Machine, eventually, kubectl, run};
use serde_json::Value;

use super::server::Program;

/// The server of `SEALANE_TABLES_ADDRESS`, and what it is.
pub fn server() -> Option<(SocketAddr, Program)> {
    let address = std::env::var("SEALANE_TABLES_ADDRESS").ok()?;
    let address = address.parse().unwrap_or_else(|e| panic!("SEALANE_TABLES_ADDRESS={address}: {e}"));
    let name = std::env::var("SEALANE_TABLES_PROGRAM").unwrap_or_else(|_| Program::Sealane.name().to_owned());
    let program = Program::ALL.into_iter().find(|p| p.name() == name);
    Some((address, program.unwrap_or_else(|| panic!("SEALANE_TABLES_PROGRAM={name}: sealane or coredns"))))
}

/// Tables take turns: one's objects are in another's answers.
static TURN: Mutex<()> = Mutex::new(());

/// The cluster of `SEALANE_TABLES_KUBECONFIG`, with a table's objects.
pub struct Cluster {
    kubeconfig: PathBuf,
    objects: String,
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Makes the objects.
    #[track_caller]
    pub fn named(objects: &str) -> Option<Cluster> {
        let kubeconfig = PathBuf::from(std::env::var_os("SEALANE_TABLES_KUBECONFIG")?);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { kubeconfig, objects: String::new(), dir, _turn: turn };
        let there = cluster.kubectl(&["get", "--ignore-not-found", "-o", "name", "-f", "-"], objects);
        // Of namespaces that are not there it says so on the other output.
        let there = there.stdout;
        assert!(there.is_empty(), "these are in the cluster already, and would be overwritten:\n{there}");
        let version = cluster.kubectl(&["get", "--raw", "/version"], "").ok();
        let version: Value = serde_json::from_str(&version).unwrap();
        println!("the cluster is {} of {}", version["gitVersion"], cluster.kubeconfig.display());
        cluster.objects = unscheduled(&cluster, objects);
        eventually("the table's objects", || {
            let done = cluster.kubectl(&["apply", "-f", "-"], &cluster.objects);
            if done.status.success() { Ok(()) } else { Err(done.to_string()) }
        });
        Some(cluster)
    }

    /// Runs kubectl.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str], input: &str) -> Done {
        run(Command::new(kubectl()).args(args).env("KUBECONFIG", &self.kubeconfig), input.as_bytes())
    }

    /// A kubeconfig with which it is reached from the test's machine, whose network is its own.
    #[track_caller]
    pub fn reached_from(&self, machine: &Machine) -> PathBuf {
        let own = self.dir.path().join("kubeconfig");
        let flat = self.kubectl(&["config", "view", "--minify", "--flatten", "--raw", "-o", "json"], "").ok();
        let mut flat: Value = serde_json::from_str(&flat).unwrap();
        let cluster = &mut flat["clusters"][0]["cluster"];
        let server = cluster["server"].as_str().expect("a server in the kubeconfig").to_owned();
        let authority = server.strip_prefix("https://").expect("https").trim_end_matches('/');
        let (host, _) = authority.rsplit_once(':').unwrap_or((authority, ""));
        let target = if host == authority { format!("{authority}:443") } else { authority.to_owned() };
        let listener = machine.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        cluster["server"] = format!("https://{}", listener.local_addr().unwrap()).into();
        if cluster["tls-server-name"].is_null() && cluster["insecure-skip-tls-verify"] != true {
            cluster["tls-server-name"] = host.trim_matches(['[', ']']).into();
        }
        relay(listener, target);
        std::fs::write(&own, flat.to_string()).unwrap();
        own
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = Command::new(kubectl());
        command.args(["delete", "--ignore-not-found", "--timeout=120s", "-f", "-"]);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::piped()).stdout(Stdio::null());
        // A test may be failing already: what cannot be removed is said, by kubectl.
        if let Ok(mut child) = command.spawn() {
            drop(child.stdin.take().map(|mut input| input.write_all(self.objects.as_bytes())));
            let _ = child.wait();
        }
    }
}

/// The same objects, whose Pods no scheduler takes: their status is the test's to write.
fn unscheduled(cluster: &Cluster, objects: &str) -> String {
    let all = cluster.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", "-"], objects).ok();
    // One document after another.
    let mut all: Vec<Value> =
        serde_json::Deserializer::from_str(&all).into_iter().collect::<Result<_, _>>().unwrap();
    for object in &mut all {
        if object["kind"] == "Pod" {
            object["spec"]["schedulerName"] = "nobody".into();
        }
    }
    all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")
}

/// Carries connections to the test's machine over to the real one's network, until the program ends.
fn relay(listener: TcpListener, target: String) {
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&target) else { continue };
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    // Either end's error is the end.
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                    let _ = from.shutdown(Shutdown::Both);
                });
            }
        }
    });
}
