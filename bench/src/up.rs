//! `sealane up` as a child: started, timed, asked to end.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::https::Cluster;

/// In a network namespace of its own nobody else has the port.
const API: &str = "127.0.0.1:6443";
/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether the API answers by now.
const LOOK: Duration = Duration::from_micros(200);
/// INTERFACE: within 5 s after TERM; somewhat more before it is called stuck.
const END: Duration = Duration::from_secs(10);

/// A running `sealane up`.
pub(crate) struct Up {
    child: Child,
    begun: Instant,
    kubeconfig: PathBuf,
    log: PathBuf,
    ready_line: Receiver<(Instant, String)>,
}

impl Up {
    /// Executes it; nothing is waited for. Its standard error goes to `log`.
    pub(crate) fn start(binary: &Path, data_dir: &Path, log: &Path) -> Result<Up> {
        Up::start_with(binary, data_dir, log, &[])
    }

    /// [`Up::start`], API and controllers alone.
    pub(crate) fn without_node(binary: &Path, data_dir: &Path, log: &Path) -> Result<Up> {
        Up::start_with(binary, data_dir, log, &["--no-node"])
    }

    fn start_with(binary: &Path, data_dir: &Path, log: &Path, flags: &[&str]) -> Result<Up> {
        let errors = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(binary);
        command.arg("up").arg("--data-dir").arg(data_dir).args(["--api-address", API]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let begun = Instant::now();
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", binary.display()))?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let (send, ready_line) = channel();
        thread::spawn(move || {
            // To its end, or `up` would one day wait for somebody to read.
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if line.contains("ready in ") {
                    // The run may be over by then.
                    let _ = send.send((Instant::now(), line));
                }
            }
        });
        Ok(Up { child, begun, kubeconfig: data_dir.join("kubeconfig"), log: log.to_owned(), ready_line })
    }

    /// Until `GET /readyz` answers 200 over HTTPS, to a client with the administrator's kubeconfig: from exec, in ms.
    pub(crate) fn api_answers(&mut self) -> Result<(f64, Cluster)> {
        loop {
            // Cheap first: before the port is open there is nothing to read either.
            if TcpStream::connect(API).is_ok()
                && let Ok(cluster) = Cluster::from_kubeconfig(&self.kubeconfig)
                && let Ok(mut connection) = cluster.connect()
                && let Ok((200, _)) = connection.raw("GET", "/readyz", None)
            {
                return Ok((milliseconds(self.begun.elapsed()), cluster));
            }
            self.still_coming()?;
            thread::sleep(LOOK);
        }
    }

    /// Until the line that says that all of it is ready: from exec, in ms, and the line.
    pub(crate) fn all_ready(&mut self) -> Result<(f64, String)> {
        loop {
            match self.ready_line.recv_timeout(Duration::from_millis(50)) {
                Ok((when, line)) => return Ok((milliseconds(when - self.begun), line)),
                Err(RecvTimeoutError::Timeout) => self.still_coming()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed("it ended before it was ready"));
                }
            }
        }
    }

    fn still_coming(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.failed(&format!("it ended: {status}")));
        }
        if self.begun.elapsed() > PATIENCE {
            return Err(self.failed("it is not ready after 30 s"));
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("sealane up: {what}\n{}", tail.join("\n")).into()
    }

    /// TERM, and waits for the end: in ms.
    pub(crate) fn stop(mut self) -> Result<f64> {
        let begun = Instant::now();
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        while begun.elapsed() < END {
            if self.child.try_wait()?.is_some() {
                return Ok(milliseconds(begun.elapsed()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(self.failed("it has not ended 10 s after TERM"))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Ended already, mostly; after an error the namespaces' end removes what this leaves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
