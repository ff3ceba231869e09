//! An API that is played: lists and watches of objects that never change, of kinds that no API here serves. HTTP
//! without TLS, one thread a connection.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use sealane_tests::Start;
use serde_json::{Value, json};

/// What is served: path, `apiVersion`, `kind`.
const KINDS: [(&str, &str, &str); 7] = [
    ("/api/v1/services", "v1", "Service"),
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/pods", "v1", "Pod"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    (
        "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
        "multicluster.x-k8s.io/v1alpha1",
        "ServiceImport",
    ),
    ("/apis/networking.istio.io/v1/destinationrules", "networking.istio.io/v1", "DestinationRule"),
];
/// Of everything.
const REVISION: &str = "7";

/// Serves these objects (YAML documents) on the test's machine: the kubeconfig.
#[track_caller]
pub fn serve(start: &Start, objects: &str) -> PathBuf {
    let read = |text: &str| sealane_api::yaml::parse(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let mut objects: Vec<Value> = objects.split("---\n").map(read).collect();
    for object in &mut objects {
        object["metadata"]["resourceVersion"] = REVISION.into();
    }
    let objects = Arc::new(objects);
    let listener = start.machine.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let server = format!("http://{}", listener.local_addr().unwrap());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "played",
        "clusters": [{ "name": "played", "cluster": { "server": server } }],
        "users": [{ "name": "played", "user": {} }],
        "contexts": [{ "name": "played", "context": { "cluster": "played", "user": "played" } }],
    });
    let path = start.file("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = Arc::clone(&objects);
            // A client that goes away is none of the others' business.
            std::thread::spawn(move || answer(stream, &objects).is_ok());
        }
    });
    path
}

/// Answers requests one after the other; a watch takes the connection, and stays open until its client goes.
fn answer(mut stream: TcpStream, objects: &[Value]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some((_, version, kind)) = KINDS.iter().find(|(at, ..)| *at == path) else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?;
            continue;
        };
        let parameter = |name: &str| {
            let mut words = query.split('&').filter_map(|word| word.split_once('='));
            words.find(|(key, _)| *key == name).map(|(_, value)| value.replace("%2F", "/"))
        };
        let label = parameter("labelSelector");
        let wanted = |object: &&Value| {
            object["apiVersion"] == *version
                && object["kind"] == *kind
                && label.as_deref().is_none_or(|label| object["metadata"]["labels"].get(label).is_some())
        };
        let found: Vec<&Value> = objects.iter().filter(wanted).collect();
        if parameter("watch").is_none() {
            let body = json!({ "metadata": { "resourceVersion": REVISION }, "items": found }).to_string();
            let mut text = String::from("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
            // Writing to a String does not fail.
            let _ = write!(text, "content-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes())?;
            continue;
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        if parameter("sendInitialEvents").is_some() {
            for object in found {
                chunk(&mut stream, &json!({ "type": "ADDED", "object": object }))?;
            }
            let end = json!({ "k8s.io/initial-events-end": "true" });
            let metadata = json!({ "resourceVersion": REVISION, "annotations": end });
            let object = json!({ "apiVersion": version, "kind": kind, "metadata": metadata });
            chunk(&mut stream, &json!({ "type": "BOOKMARK", "object": object }))?;
        }
        // Nothing changes: all that comes is the end.
        reader.read_line(&mut head)?;
        return Ok(());
    }
}

/// One watch event is one chunk (RFC 9112 section 7.1).
fn chunk(stream: &mut TcpStream, event: &Value) -> Result<()> {
    let line = event.to_string() + "\n";
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}
