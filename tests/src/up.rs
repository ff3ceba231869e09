//! `sealane up` on a machine of its own, as a user starts, uses and stops it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Done, eventually, kubectl, run, sealane};
use crate::http::{Page, request};
use crate::image::{Image, archive};
use crate::machine::Machine;
use crate::stream::Stream;

/// From exec to the ready line, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// From TERM to its end: 5 s for the Pods, and some for the machine.
const END: Duration = Duration::from_secs(20);

/// Where and how to start: a machine and a data directory, which outlive the `up` on them.
#[derive(Clone)]
pub struct Start {
    /// Where it runs.
    pub machine: Arc<Machine>,
    dir: Arc<TempDir>,
    args: Vec<String>,
}

/// A process and when it began: numbers are given again.
type Processes = BTreeMap<i32, String>;

/// Processes of one `up`, to be looked for after its end.
pub struct Family(Processes);

/// A running `sealane up`. Dropped, it is told to stop; [`Up::stop`] also looks at what it leaves.
pub struct Up {
    /// Where it runs.
    pub machine: Arc<Machine>,
    dir: Arc<TempDir>,
    child: Child,
    /// What it printed up to the ready line.
    pub lines: Vec<String>,
}

impl Start {
    /// A fresh machine and an empty data directory.
    #[allow(clippy::new_without_default)]
    #[track_caller]
    pub fn new() -> Start {
        let dir = tempfile::Builder::new().prefix("sealane-test-").tempdir().unwrap();
        Start { machine: Arc::new(Machine::new()), dir: Arc::new(dir), args: Vec::new() }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Start {
        self.args.push(arg.to_owned());
        self
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A file of the test's, beside the data directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `sealane WORD… --data-dir …`, ready to run.
    pub fn sealane(&self, words: &[&str]) -> Command {
        let mut command = self.machine.command(sealane());
        command.args(words).arg("--data-dir").arg(self.data_dir()).env("HOME", self.dir.path());
        command
    }

    /// `sealane up …`, ready to run; the node's name is this machine's, for cgroups are the real machine's.
    pub fn command(&self) -> Command {
        let mut command = self.sealane(&["up"]);
        for (flag, value) in [("--node-name", self.machine.name()), ("--api-address", "127.0.0.1:0")] {
            if !self.args.iter().any(|a| a == flag) {
                command.args([flag, value]);
            }
        }
        command.args(&self.args);
        command
    }

    /// Loads images before or while `up` runs.
    #[track_caller]
    pub fn load(&self, images: &[Image]) {
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        archive(file.path(), images);
        let said = run(self.sealane(&["image", "load"]).arg(file.path()), b"").ok();
        for image in images {
            assert!(said.contains(&image.reference), "{} was not loaded: {said}", image.reference);
        }
    }

    /// Starts it and waits for the ready line.
    #[track_caller]
    pub fn up(&self) -> Up {
        let errors = File::options().create(true).append(true).open(self.file("stderr")).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        let inbox = lines(child.stdout.take().unwrap());
        let mut up =
            Up { machine: Arc::clone(&self.machine), dir: Arc::clone(&self.dir), child, lines: Vec::new() };
        let deadline = Instant::now() + START;
        loop {
            match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => up.lines.push(line),
                Err(why) => {
                    let what = match why {
                        RecvTimeoutError::Timeout => "is not ready",
                        RecvTimeoutError::Disconnected => "ended before it was ready",
                    };
                    panic!("{command:?} {what}; it said: {:#?}\n{}", up.lines, up.log());
                }
            }
            if up.lines.last().is_some_and(|l| l.starts_with("ready in ")) {
                return up;
            }
        }
    }
}

fn lines(out: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, inbox) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // Later lines are nobody's; they are read all the same, so that the pipe stays open.
            let _ = sender.send(line);
        }
    });
    inbox
}

impl Up {
    /// [`Start::new`] and [`Start::up`].
    #[track_caller]
    pub fn start() -> Up {
        Start::new().up()
    }

    /// What it said on standard error.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("stderr")).unwrap_or_default();
        let all = String::from_utf8_lossy(&bytes);
        let tail: Vec<&str> = all.lines().rev().take(40).collect();
        tail.into_iter().rev().map(|l| format!("  {l}\n")).collect()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("data/kubeconfig")
    }

    /// A file of the test's, with this content.
    #[track_caller]
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The process id of `up` itself.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// `kubectl ARG…`, ready to run on its machine.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.machine.command(kubectl());
        command.args(args).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        command
    }

    /// Runs kubectl.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Done {
        run(&mut self.kubectl_command(args), b"")
    }

    /// Runs kubectl, which must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.kubectl(args);
        assert!(done.status.success(), "{done}\n--- up\n{}", self.log());
        done.stdout
    }

    /// `kubectl apply -f -`
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> Done {
        run(&mut self.kubectl_command(&["apply", "-f", "-"]), yaml.as_bytes())
    }

    /// `kubectl … -o json`
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// kubectl that goes on, with pipes.
    #[track_caller]
    pub fn follow(&self, args: &[&str]) -> Stream {
        Stream::piped(&mut self.kubectl_command(args))
    }

    /// kubectl on a terminal.
    #[track_caller]
    pub fn terminal(&self, args: &[&str]) -> Stream {
        Stream::on_terminal(&mut self.kubectl_command(args))
    }

    /// An HTTP request from its machine; retried nowhere.
    pub fn http(&self, method: &str, to: &str, path: &str, body: &str) -> Result<Page, String> {
        let to: SocketAddr = to.parse().map_err(|e| format!("{to}: {e}"))?;
        request(&self.machine, method, to, path, body)
    }

    /// The page at `http://ADDRESS/` from its machine, as soon as there is one.
    #[track_caller]
    pub fn curl(&self, address: &str) -> String {
        let to = if address.contains(':') { address.to_owned() } else { format!("{address}:80") };
        eventually(&format!("curl {to}"), || self.http("GET", &to, "/", "")).body
    }

    /// The demo server's page that a Pod gets at an address at once, or the failure.
    #[track_caller]
    pub fn ask(&self, from: &str, at: &str) -> Result<String, String> {
        let done = self.kubectl(&["exec", from, "--", "curl", "-s", "-m", "2", at]);
        if done.status.success() && done.stdout.contains("ServerName") {
            Ok(done.stdout)
        } else {
            Err(done.to_string())
        }
    }

    /// The same page, as soon as there is one.
    #[track_caller]
    pub fn answer(&self, from: &str, at: &str) -> String {
        eventually(&format!("{at} answers {from}"), || self.ask(from, at))
    }

    /// Waits until that many Pods of a selector are there, all Running and Ready, none going; their names in order.
    #[track_caller]
    pub fn ready_pods(&self, namespace: &str, selector: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} ready Pods of {selector}"), || {
            let list = self.json(&["-n", namespace, "get", "pods", "-l", selector]);
            let pods = list["items"].as_array().unwrap();
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                pod["metadata"]["deletionTimestamp"].is_null()
                    && pod["status"]["phase"] == "Running"
                    && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            let mut names: Vec<String> = pods.iter().filter(ready).map(name).collect();
            names.sort();
            if pods.len() == count && names.len() == count {
                return Ok(names);
            }
            let wide = self.kubectl(&["-n", namespace, "get", "pods", "-l", selector, "-o", "wide"]).stdout;
            let events = self.kubectl(&["-n", namespace, "get", "events"]).stdout;
            Err(format!("{wide}\n{events}\n--- up\n{}", self.log()))
        })
    }

    /// One value by JSONPath.
    #[track_caller]
    pub fn value(&self, args: &[&str], path: &str) -> String {
        let output = format!("jsonpath={path}");
        self.ok(&[args, &["-o", &output]].concat())
    }

    /// Processes that `up` has started, and itself.
    pub fn processes(&self) -> Vec<i32> {
        descendants(self.pid()).into_keys().collect()
    }

    /// Its launcher: the process from which the node's others come.
    #[track_caller]
    pub fn launcher(&self) -> i32 {
        let is = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).any(|word| word == b"__launcher")
        };
        self.processes().into_iter().find(is).expect("a launcher")
    }

    /// Everything that it has started by now, and itself.
    pub fn family(&self) -> Family {
        Family(descendants(self.pid()))
    }

    /// Waits for the end of an `up` that was killed, and of its family with it.
    #[track_caller]
    pub fn killed(mut self, family: &Family) {
        self.child.wait().unwrap();
        eventually("processes die with `up`", || gone(&family.0));
    }

    /// TERM; how it ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let deadline = Instant::now() + END;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "TERM has not ended `up` in {END:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// TERM, and a look at everything that it could have left behind.
    #[track_caller]
    pub fn stop(mut self) {
        let all = descendants(self.pid());
        let status = self.terminate();
        assert!(status.success(), "TERM: {status}\n{}", self.log());
        if let Err(left) = gone(&all) {
            panic!("processes stay behind: {left}");
        }
        let left = stale(&self.machine, self.dir.path());
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// Mounts, cgroups, links, routes and rules of an `up` that has ended.
#[track_caller]
pub(crate) fn stale(machine: &Machine, dir: &Path) -> Vec<String> {
    let mut left = machine.leftovers();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_string_lossy().into_owned();
    left.extend(mounts.lines().filter(|l| l.contains(&dir)).map(|l| format!("mount {l}")));
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    let own = format!("sealane-{}-", machine.name());
    let inside = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).flat_map(std::fs::read_dir).flatten();
    let cgroups = inside
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)));
    left.extend(cgroups.map(|p| format!("cgroup {}", p.display())));
    let namespaces = Machine::foreign_namespaces().into_iter().filter(|n| n.contains("sealane"));
    left.extend(namespaces.map(|n| format!("network namespace {n}")));
    left
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// `(parent, state, start time)` of a process.
fn status(pid: i32) -> Option<(i32, char, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.first()?.chars().next()?, (*fields.get(19)?).to_owned()))
}

fn descendants(root: i32) -> Processes {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<i32> = pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let all: BTreeMap<i32, _> = pids.into_iter().filter_map(|p| Some((p, status(p)?))).collect();
    let mut found = Processes::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if let Some((_, _, begun)) = all.get(&pid) {
            found.insert(pid, begun.clone());
        }
        next.extend(all.iter().filter(|(_, (parent, ..))| *parent == pid).map(|(child, _)| *child));
    }
    found
}

/// An error names one that is still there; what only waits to be reaped is gone.
fn gone(all: &Processes) -> Result<(), String> {
    for (pid, begun) in all {
        if let Some((_, state, now)) = status(*pid)
            && now == *begun
            && state != 'Z'
        {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            return Err(format!("{pid} {}", line.replace('\0', " ")));
        }
    }
    Ok(())
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of what `up` said\n{}", self.log());
        }
        if let Ok(None) = self.child.try_wait() {
            // It may be ending by itself.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let deadline = Instant::now() + END;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
