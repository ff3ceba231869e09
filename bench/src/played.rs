//! An API that is played: what is asked for is the time from a watch event, which a real one would send when it likes.
//! Lists and watches go over HTTP without TLS, one thread a connection.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;

/// Where clients are before anything changes: no object has a greater resourceVersion.
pub(crate) const LISTED: u64 = 1_000_000;
/// Who has not begun to watch by then does not watch.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is listed: plural, apiVersion, kind.
const KINDS: [(&str, &str, &str); 7] = [
    ("namespaces", "v1", "Namespace"),
    ("services", "v1", "Service"),
    ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("nodes", "v1", "Node"),
    ("pods", "v1", "Pod"),
    ("servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"),
    ("events", "events.k8s.io/v1", "Event"),
];

/// Objects as JSON, by plural.
pub(crate) type Lists = HashMap<&'static str, Vec<String>>;

/// The list that nobody gets before it is let go.
#[derive(Default)]
struct Gate {
    held: Mutex<Option<&'static str>>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self, plural: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.is_some_and(|held| held == plural) {
            held = self.opened.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.opened.notify_all();
    }
}

/// What every connection's thread has.
struct Desk {
    lists: Lists,
    gate: Gate,
    watches: Sender<(String, TcpStream)>,
}

/// The API.
pub(crate) struct Played {
    desk: Arc<Desk>,
    address: SocketAddr,
    watches: Receiver<(String, TcpStream)>,
    /// Watches that nobody has asked for; they stay open.
    open: Vec<(String, TcpStream)>,
}

impl Played {
    /// Serves these objects in the network namespace of the listener. The list of `held` is kept back until
    /// [`Played::let_go`].
    pub(crate) fn serve(listener: TcpListener, lists: Lists, held: Option<&'static str>) -> Result<Played> {
        let address = listener.local_addr()?;
        let (sender, watches) = channel();
        let gate = Gate { held: Mutex::new(held), opened: Condvar::new() };
        let desk = Arc::new(Desk { lists, gate, watches: sender });
        let desks = desk.clone();
        thread::spawn(move || {
            // Whoever is still connected when the bench ends goes with it.
            for stream in listener.incoming().flatten() {
                let desk = desks.clone();
                // A client that goes away is none of the others' business.
                thread::spawn(move || answer(stream, &desk).is_ok());
            }
        });
        Ok(Played { desk, address, watches, open: Vec::new() })
    }

    /// What it lists.
    pub(crate) fn objects(&self, plural: &str) -> &[String] {
        self.desk.lists.get(plural).map_or(&[], Vec::as_slice)
    }

    /// Writes the kubeconfig that leads to it.
    pub(crate) fn kubeconfig(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{ "name": "bench", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "bench", "user": {} }],
            "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
        });
        Ok(fs::write(path, config.to_string())?)
    }

    /// Lets the list that was held go.
    pub(crate) fn let_go(&self) {
        self.desk.gate.open();
    }

    /// The connection on which objects are watched, once somebody does: by then it has taken in their list.
    pub(crate) fn watch(&mut self, plural: &str) -> Result<TcpStream> {
        loop {
            if let Some(at) = self.open.iter().position(|(watched, _)| watched == plural) {
                return Ok(self.open.remove(at).1);
            }
            let next = self.watches.recv_timeout(PATIENCE);
            self.open.push(next.map_err(|_| format!("nobody watches {plural}"))?);
        }
    }
}

/// Answers requests one after the other; a watch takes the connection, and stays open for as long as it is held.
fn answer(stream: TcpStream, desk: &Desk) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
        });
        std::io::copy(&mut (&mut reader).take(length.unwrap_or(0)), &mut std::io::sink())?;
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let plural = path.rsplit('/').next().unwrap_or_default();
        let kind = KINDS.iter().find(|(known, ..)| *known == plural);
        let Some((_, version, kind)) = kind.filter(|_| head.starts_with("GET ")) else {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "it is played" });
            whole(&mut stream, "404 Not Found", &status.to_string())?;
            continue;
        };
        desk.gate.pass(plural);
        let objects = desk.lists.get(plural).map_or(&[][..], Vec::as_slice);
        if !query.contains("watch=") {
            let head = format!(
                "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\
                 \"metadata\":{{\"resourceVersion\":\"{LISTED}\"}},\"items\":["
            );
            whole(&mut stream, "200 OK", &format!("{head}{}]}}", objects.join(",")))?;
            continue;
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        if query.contains("sendInitialEvents=true") {
            for object in objects {
                event(&mut stream, "ADDED", object)?;
            }
            let end = json!({ "k8s.io/initial-events-end": "true" });
            let metadata = json!({ "resourceVersion": LISTED.to_string(), "annotations": end });
            let object: Value = json!({ "apiVersion": version, "kind": kind, "metadata": metadata });
            event(&mut stream, "BOOKMARK", &object.to_string())?;
        }
        return Ok(desk.watches.send((plural.to_owned(), stream))?);
    }
}

fn whole(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
    // Writing to a String does not fail.
    let _ = write!(text, "content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes())
}

/// One watch event is one chunk (RFC 9112, 7.1).
pub(crate) fn event(stream: &mut TcpStream, kind: &str, object: &str) -> std::io::Result<()> {
    let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}
