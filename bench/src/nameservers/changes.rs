//! How soon a change is answered, while a thousand come every second and the server is asked as much as it can bear.
//!
//! The API is played: what is asked for is the time from a watch event, which a real one would send when it likes. Lists
//! and watches go over HTTP without TLS, one thread a connection.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{self, Object, Size};
use super::server::{CORES, Client, Program, Server};
use crate::Result;
use crate::report::{Figure, Judged};

/// Between two changes.
const EVERY: Duration = Duration::from_millis(1);
/// A change that is not answered by then is an error.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where clients are before anything changes: no object has a greater resourceVersion.
const LISTED: u64 = 1_000_000;

/// Changes one endpoint after the other for so long, and asks for as many as can be followed.
pub(super) fn measure(binary: &Path, size: Size, time: Duration) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let (kubeconfig, streams) = serve(folder, size)?;
    fs::write(folder.join("questions"), cluster::questions(size))?;
    let name = cluster::service(0);
    let server = Server::start(Program::Sealane, binary, folder, &kubeconfig, &name)?;
    let slices = streams.recv_timeout(PATIENCE).map_err(|_| "nobody watches EndpointSlices")?;
    let _load = Load(dnsperf(&folder.join("questions"), time)?);
    let newest = Arc::new(Mutex::new(None));
    let writer = {
        let newest = newest.clone();
        thread::spawn(move || write(slices, size, time, &newest))
    };
    let asked = thread::spawn(move || ask(time, &newest));
    let written = writer.join().map_err(|_| "the changes failed")??;
    let took = asked.join().map_err(|_| "the questions failed")??;
    drop(server);
    let rate = written as f64 / time.as_secs_f64();
    Ok(vec![
        Figure::new("changes a second, under full load (1/s)", "1/s", vec![rate]),
        Figure::new("watch event -> answered, under full load (ms)", "ms", took).bar(1.0, Judged::P99),
    ])
}

/// A change on its way: the name that is asked for, what it has now, and since when.
type Newest = Mutex<Option<(String, Ipv4Addr, Instant)>>;

/// Sends a change every millisecond: how many there were.
fn write(mut stream: TcpStream, size: Size, time: Duration, newest: &Newest) -> Result<u32> {
    first_in_line()?;
    let begun = Instant::now();
    let mut count = 0u32;
    while begun.elapsed() < time {
        count += 1;
        // Headless ones, one after the other.
        let at = (count as usize * size.headless_one_in) % size.services;
        let address = Ipv4Addr::from(u32::from_be_bytes([198, 18, 0, 0]) + count);
        let mut slice = cluster::slice(size, at);
        slice["endpoints"][0]["addresses"][0] = json!(address.to_string());
        slice["metadata"]["resourceVersion"] = json!((LISTED + u64::from(count)).to_string());
        chunk(&mut stream, &json!({ "type": "MODIFIED", "object": slice }))?;
        *newest.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((cluster::service(at), address, Instant::now()));
        thread::sleep((begun + EVERY * count).saturating_duration_since(Instant::now()));
    }
    Ok(count)
}

/// Asks for the newest change until it is answered, then for the next one: ms of each. A question that comes a moment
/// before the change waits behind dnsperf's like any other; the next one does not wait for its answer.
fn ask(time: Duration, newest: &Newest) -> Result<Vec<f64>> {
    first_in_line()?;
    let mut client = Client::new(Program::Sealane)?;
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        let change = newest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((name, address, since)) = change else {
            thread::sleep(Duration::from_micros(20));
            continue;
        };
        let answered = client.until(&name, address, PATIENCE)?;
        let answered = answered.ok_or_else(|| format!("{name} did not get {address}"))?;
        took.push(answered.duration_since(since).as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// This thread is on the second core, before those that make the load there.
fn first_in_line() -> Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(CORES[1].parse().unwrap_or_default());
    rustix::thread::sched_setaffinity(None, &cores)?;
    rustix::process::setpriority_process(None, -15)?;
    // Sleeps are as short as they say.
    rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN))?;
    Ok(())
}

/// dnsperf at work.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dnsperf(questions: &Path, time: Duration) -> Result<Child> {
    let mut command = Command::new("taskset");
    command.args(["-c", CORES[1], "dnsperf", "-s", "127.0.0.1", "-c", "4", "-T", "1", "-q", "200"]);
    command.args(["-p", &Program::Sealane.port().to_string(), "-d"]).arg(questions);
    command.args(["-l", &(time.as_secs() + 1).to_string()]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Plays the API: the kubeconfig that leads to it, and the connection on which EndpointSlices are watched.
fn serve(folder: &Path, size: Size) -> Result<(std::path::PathBuf, Receiver<TcpStream>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let path = folder.join("kubeconfig");
    fs::write(&path, kubeconfig(listener.local_addr()?).to_string())?;
    let (sender, streams) = channel();
    let mut lists: HashMap<&'static str, Vec<Value>> = HashMap::new();
    for Object { plural, value, .. } in cluster::objects(size) {
        lists.entry(plural).or_default().push(value);
    }
    let lists = Arc::new(lists);
    thread::spawn(move || {
        // Whoever is still connected when the bench ends goes with it.
        for stream in listener.incoming().flatten() {
            let (lists, sender) = (lists.clone(), sender.clone());
            // A client that goes away is none of the others' business.
            thread::spawn(move || answer(stream, &lists, &sender).is_ok());
        }
    });
    Ok((path, streams))
}

fn kubeconfig(api: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{ "name": "bench", "cluster": { "server": format!("http://{api}") } }],
        "users": [{ "name": "bench", "user": {} }],
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
    })
}

/// Answers requests one after the other; a watch takes the connection, and stays open for as long as it is held.
fn answer(
    stream: TcpStream,
    lists: &HashMap<&'static str, Vec<Value>>,
    slices: &Sender<TcpStream>,
) -> Result<()> {
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
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let plural = path.rsplit('/').next().unwrap_or_default();
        let objects = lists.get(plural).map_or(&[][..], Vec::as_slice);
        if !query.contains("watch=") {
            let list = json!({
                "kind": "List", "metadata": { "resourceVersion": LISTED.to_string() }, "items": objects,
            });
            let body = list.to_string();
            let mut text = String::from("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
            // Writing to a String does not fail.
            let _ = write!(text, "content-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes())?;
            continue;
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        if query.contains("sendInitialEvents=true") {
            for object in objects {
                chunk(&mut stream, &json!({ "type": "ADDED", "object": object }))?;
            }
            let end = json!({ "k8s.io/initial-events-end": "true" });
            let metadata = json!({ "resourceVersion": LISTED.to_string(), "annotations": end });
            let kind = objects.first().cloned().unwrap_or_default();
            let (version, kind) = (&kind["apiVersion"], &kind["kind"]);
            let object = json!({ "apiVersion": version, "kind": kind, "metadata": metadata });
            chunk(&mut stream, &json!({ "type": "BOOKMARK", "object": object }))?;
        }
        if plural == "endpointslices" {
            return Ok(slices.send(stream)?);
        }
        // Nothing of the others changes.
        loop {
            thread::park();
        }
    }
}

/// One watch event is one chunk (RFC 9112, 7.1).
fn chunk(stream: &mut TcpStream, event: &Value) -> std::io::Result<()> {
    let line = event.to_string() + "\n";
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}
