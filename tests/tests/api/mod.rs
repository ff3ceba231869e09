//! An API that says whatever a test wants, also what the true one would refuse: lists and watches of JSON, one request to
//! a connection; and lists that never come.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use sealane_tests::Machine;
use serde_json::{Value, json};

/// Objects of a kind by name, and what was ever done to them.
#[derive(Default)]
struct Collection {
    objects: BTreeMap<String, Value>,
    /// Revision and line, in order.
    events: Vec<(u64, String)>,
}

#[derive(Default)]
struct State {
    revision: u64,
    collections: BTreeMap<String, Collection>,
    /// Kinds whose lists do not come.
    held: BTreeSet<&'static str>,
    /// Kinds that are watched: whose list was taken in.
    watched: BTreeSet<String>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The API, on a port of its machine's loopback.
pub struct Api {
    shared: Arc<Shared>,
    pub address: SocketAddr,
}

impl Api {
    pub fn new(machine: &Machine) -> Api {
        let listener = machine.within(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = Arc::clone(&served);
                // The client's going is the answer's end.
                std::thread::spawn(move || drop(answer(&shared, stream)));
            }
        });
        Api { shared, address }
    }

    /// Writes what `sealane proxy --config` needs to follow it as node n1, with more lines: the file.
    pub fn proxy_config(&self, folder: &Path, more: &str) -> PathBuf {
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let server = format!("http://{}", self.address);
        let kubeconfig = file(
            "kubeconfig",
            json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "c", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]})
            .to_string(),
        );
        file(
            "config",
            format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
                 hostnameOverride: n1\nclusterCIDR: 10.244.0.0/16\nclientConnection:\n  kubeconfig: {}\n\
                 conntrack:\n  maxPerCore: 0\n{more}",
                kubeconfig.display()
            ),
        )
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.changed.notify_all();
    }

    /// Adds or replaces objects of one kind, in one go.
    pub fn set_all(&self, plural: &'static str, objects: impl IntoIterator<Item = (String, Value)>) {
        self.change(|state| {
            for (name, mut object) in objects {
                state.revision += 1;
                let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
                metadata["name"] = json!(name);
                metadata["namespace"] = json!("default");
                metadata["uid"] = json!(name);
                metadata["resourceVersion"] = json!(state.revision.to_string());
                let collection = state.collections.entry(plural.to_owned()).or_default();
                let known = collection.objects.insert(name, object.clone()).is_some();
                let event = json!({"type": if known { "MODIFIED" } else { "ADDED" }, "object": object});
                collection.events.push((state.revision, format!("{event}\n")));
            }
        });
    }

    pub fn set(&self, plural: &'static str, name: &str, object: Value) {
        self.set_all(plural, [(name.to_owned(), object)]);
    }

    /// Removes objects of one kind, in one go.
    pub fn remove_all<'a>(&self, plural: &'static str, names: impl IntoIterator<Item = &'a str>) {
        self.change(|state| {
            for name in names {
                state.revision += 1;
                let Some(collection) = state.collections.get_mut(plural) else { return };
                let Some(mut object) = collection.objects.remove(name) else { continue };
                object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
                let event = json!({"type": "DELETED", "object": object});
                collection.events.push((state.revision, format!("{event}\n")));
            }
        });
    }

    /// Has the list of a kind not come, from now on.
    pub fn hold(&self, plural: &'static str) {
        self.change(|state| {
            state.held.insert(plural);
        });
    }

    /// Has all lists come.
    pub fn release(&self) {
        self.change(|state| state.held.clear());
    }

    /// Forgets who watches what.
    pub fn forget_watchers(&self) {
        self.change(|state| state.watched.clear());
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.shared.state.lock().unwrap().revision
    }

    /// Whether a kind was listed and is watched.
    pub fn is_watched(&self, plural: &str) -> bool {
        self.shared.state.lock().unwrap().watched.contains(plural)
    }
}

fn answer(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let uri = first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let plural = path.rsplit('/').next().unwrap_or_default();
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|word| word.split_once('=')).collect();
    if query.get("watch") == Some(&"true") {
        return watch(shared, stream, plural, query["resourceVersion"].parse().unwrap());
    }
    let body = {
        let state = shared.state.lock().unwrap();
        let state = shared.changed.wait_while(state, |s| s.held.contains(plural)).unwrap();
        let items: Vec<&Value> =
            state.collections.get(plural).into_iter().flat_map(|c| c.objects.values()).collect();
        let metadata = json!({"resourceVersion": state.revision.to_string()});
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()
    };
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n")?;
    write!(stream, "content-length: {}\r\n\r\n{body}", body.len())
}

fn watch(shared: &Shared, mut stream: TcpStream, plural: &str, mut from: u64) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n")?;
    let mut state = shared.state.lock().unwrap();
    state.watched.insert(plural.to_owned());
    loop {
        let mut text = String::new();
        if let Some(collection) = state.collections.get(plural) {
            let at = collection.events.partition_point(|(revision, _)| *revision <= from);
            for (revision, line) in &collection.events[at..] {
                text += line;
                from = *revision;
            }
        }
        if text.is_empty() {
            state = shared.changed.wait(state).unwrap();
            continue;
        }
        drop(state);
        stream.write_all(text.as_bytes())?;
        state = shared.state.lock().unwrap();
    }
}
