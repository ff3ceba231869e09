//! How soon a change is answered, while a thousand come every second and the server is asked as much as it can bear.
//!
//! The API is played ([`crate::played`]). The server's core is the server's, as far as that can be had: what else runs on
//! this machine comes after it, but has its turns. A monitor that takes five milliseconds every second holds up half a
//! percent of all changes by itself, whatever the server does. So what others took of the core stands beside the figure.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::cluster::{self, Object, Size};
use super::server::{Asked, Client, Program, Server};
use crate::Result;
use crate::cores::{CORES, at_once_on, before_others, idle};
use crate::played::{LISTED, Lists, Played, event};
use crate::report::{Figure, Judged, quantile};

/// Between two changes.
const EVERY: Duration = Duration::from_millis(1);
/// A change that is not answered by then is an error.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one round said.
struct Round {
    /// Changes a second.
    rate: f64,
    /// ms of each change that was followed, sorted.
    took: Vec<f64>,
    /// %, of the time: what others, and interrupts, had of the server's core.
    others: f64,
}

/// So many rounds, so long each.
pub(super) fn measure(binary: &Path, size: Size, rounds: usize, time: Duration) -> Result<Vec<Figure>> {
    let rounds: Vec<Round> = (0..rounds).map(|_| round(binary, size, time)).collect::<Result<_>>()?;
    let of = |name: &str, unit, value: fn(&Round) -> f64| {
        Figure::new(name, unit, rounds.iter().map(value).collect())
    };
    let p99 = |round: &Round| quantile(&round.took, 0.99);
    let took = rounds.iter().flat_map(|round| round.took.clone()).collect();
    Ok(vec![
        of("changes a second, under full load (1/s)", "1/s", |round| round.rate),
        of("the server's core meanwhile: others and interrupts on it (%)", "%", |round| round.others),
        Figure::new("watch event -> answered, under full load, all rounds (ms)", "ms", took),
        of("watch event -> answered, p99 of each round (ms)", "ms", p99).bar(1.0, Judged::Median),
    ])
}

/// Changes one endpoint after the other for so long, and asks for as many as can be followed.
fn round(binary: &Path, size: Size, time: Duration) -> Result<Round> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut lists = Lists::new();
    for Object { plural, value, .. } in cluster::objects(size) {
        lists.entry(plural).or_default().push(value.to_string());
    }
    let mut api = Played::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, lists, None)?;
    let kubeconfig = folder.join("kubeconfig");
    api.kubeconfig(&kubeconfig)?;
    fs::write(folder.join("questions"), cluster::questions(size))?;
    let name = cluster::service(0);
    let server = Server::start(Program::Sealane, binary, folder, &kubeconfig, &name)?;
    before_others(server.process())?;
    let slices = api.watch("endpointslices")?;
    let _load = Load(dnsperf(&folder.join("questions"), time)?);
    let next = Arc::new(Mutex::new(None));
    // µs in which nobody else had the core.
    let own = || -> Result<f64> { Ok(idle(CORES[0])? + server.cpu()?) };
    let (begun, before) = (Instant::now(), own()?);
    let writer = {
        let next = next.clone();
        thread::spawn(move || write(slices, size, time, &next))
    };
    let asked = thread::spawn(move || ask(time, &next));
    let written = writer.join().map_err(|_| "the changes failed")??;
    let mut took = asked.join().map_err(|_| "the questions failed")??;
    took.sort_by(f64::total_cmp);
    let (own, whole) = (own()? - before, begun.elapsed().as_secs_f64() * 1e6);
    let others = (1.0 - own / whole) * 100.0;
    Ok(Round { rate: written as f64 / time.as_secs_f64(), took, others })
}

/// The next change: the name that is asked for, what it will have, and since when it has that.
type Next = Mutex<Option<(String, Ipv4Addr, Arc<OnceLock<SystemTime>>)>>;

/// Sends a change every millisecond: how many there were.
fn write(mut stream: TcpStream, size: Size, time: Duration, next: &Next) -> Result<u32> {
    // Before those that make the load there, or its own wait would count as the server's.
    at_once_on(CORES[1])?;
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
        let since = Arc::new(OnceLock::new());
        *next.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((cluster::service(at), address, since.clone()));
        thread::sleep((begun + EVERY * count).saturating_duration_since(Instant::now()));
        event(&mut stream, "MODIFIED", &slice.to_string())?;
        let _ = since.set(SystemTime::now());
    }
    Ok(count)
}

/// Asks for the next change, before it comes and until it is answered, then for the one after: ms of each. So it is how
/// long old answers are given, and not how long a question waits behind dnsperf's: no question waits for another's answer.
fn ask(time: Duration, next: &Next) -> Result<Vec<f64>> {
    at_once_on(CORES[1])?;
    let mut client = Client::new(Program::Sealane)?;
    let (begun, mut took) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        let change = next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((name, address, since)) = change else {
            thread::sleep(Duration::from_micros(20));
            continue;
        };
        let answered = client.until(&name, address, PATIENCE)?;
        let answered = answered.ok_or_else(|| format!("{name} did not get {address}"))?;
        // The event is away a moment before that is written down.
        took.push(answered.duration_since(*since.wait()).unwrap_or_default().as_secs_f64() * 1e3);
    }
    Ok(took)
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
