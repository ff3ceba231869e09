//! Rollouts under load: a client that connects anew for each request, and never fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sealane_tests::{Up, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);
const CLIENTS: usize = 2;

/// What became of requests.
#[derive(Debug, Default)]
struct Count {
    answered: u64,
    /// Nobody took the connection.
    refused: Vec<String>,
    /// It broke before the answer was whole.
    broken: Vec<String>,
}

/// Clients on `up`'s machine, each as fast as it can.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Count>>,
}

impl Clients {
    fn begin(up: &Up, to: SocketAddr) -> Clients {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begin = |_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let machine = Arc::clone(&up.machine);
            std::thread::spawn(move || {
                machine.within(|| {
                    let mut count = Count::default();
                    while !stop.load(Ordering::Relaxed) {
                        ask(to, &mut count);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    count
                })
            })
        };
        Clients { threads: (0..CLIENTS).map(begin).collect(), stop, answered }
    }

    /// Waits for some more answers, so that whatever was just done has been seen.
    #[track_caller]
    fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("requests go on", || match self.answered.load(Ordering::Relaxed) - before {
            100.. => Ok(()),
            few => Err(few.to_string()),
        });
    }

    fn end(self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Count::default();
        for thread in self.threads {
            let one = thread.join().unwrap();
            all.answered += one.answered;
            all.refused.extend(one.refused);
            all.broken.extend(one.broken);
        }
        all
    }
}

/// One request over a connection of its own.
fn ask(to: SocketAddr, count: &mut Count) {
    let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return count.refused.push(error.to_string()),
    };
    let mut answer = String::new();
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"))
        .and_then(|()| stream.read_to_string(&mut answer));
    match asked {
        Ok(_) if answer.starts_with("HTTP/1.1 200") && answer.ends_with("!\n") => count.answered += 1,
        other => count.broken.push(format!("{other:?} {answer:?}")),
    }
}

/// Three replicas and their Service.
fn web(lifecycle: &Value) -> String {
    let container = json!({"name": "web", "image": "sealane/demo", "command": ["web", "--port", "8080"],
        "lifecycle": lifecycle, "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec":
        {"clusterIP": "10.96.0.80", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    format!("{deployment}\n---\n{service}\n")
}

/// Two restarts, one Pod after the other, and two Pods fewer.
#[track_caller]
fn roll(lifecycle: &Value) -> Count {
    let up = Up::start();
    up.apply(&web(lifecycle)).ok();
    let mut pods = up.ready_pods("default", "app=web", 3);
    up.curl("10.96.0.80");
    let clients = Clients::begin(&up, "10.96.0.80:80".parse().unwrap());
    clients.go_on();
    for _ in 0..2 {
        up.ok(&["rollout", "restart", "deployment", "web"]);
        up.ok(&["rollout", "status", "deployment", "web", "--timeout=55s"]);
        let after = up.ready_pods("default", "app=web", 3);
        assert!(after.iter().all(|name| !pods.contains(name)), "{pods:?} {after:?}");
        pods = after;
    }
    up.ok(&["scale", "deployment", "web", "--replicas=1"]);
    up.ready_pods("default", "app=web", 1);
    clients.go_on();
    let count = clients.end();
    println!("{} requests, {} refused, {} broken", count.answered, count.refused.len(), count.broken.len());
    up.stop();
    count
}

/// As servers should: whoever is told to end serves for a moment what has come.
#[test]
fn no_request_fails_where_servers_drain() {
    let count = roll(&json!({"preStop": {"sleep": {"seconds": 1}}}));
    assert!(count.answered > 0 && count.refused.is_empty() && count.broken.is_empty(), "{count:#?}");
}

/// As many do: TERM ends them at once. What is new goes elsewhere by then.
#[test]
fn no_connection_fails_where_servers_end_at_once() {
    let count = roll(&Value::Null);
    assert!(count.answered > 0 && count.refused.is_empty(), "{count:#?}");
    // What came before has been answered, unless the machine is so busy that it took 50 ms.
    assert!(count.broken.len() <= CLIENTS, "{count:#?}");
}
