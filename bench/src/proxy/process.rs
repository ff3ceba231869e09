//! A service proxy as a child, on the first core, and what the kernel and itself say about it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cluster::NODE;
use crate::Result;
use crate::cores::{BEFORE_OTHERS, CORES, spent};

/// A proxy that has not ended by then is killed.
const END: Duration = Duration::from_secs(10);

/// Which one, and where it is.
#[derive(Clone)]
pub(crate) enum Program {
    Sealane(PathBuf),
    /// Of Kubernetes 1.36, in nftables mode.
    KubeProxy(PathBuf),
}

/// A running proxy. Its rules stay when it ends.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it in the network namespace of the calling thread.
    pub(crate) fn start(
        program: &Program,
        folder: &Path,
        kubeconfig: &Path,
        clients: &str,
    ) -> Result<Process> {
        let (name, binary) = match program {
            Program::Sealane(path) => ("sealane", path),
            Program::KubeProxy(path) => ("kube-proxy", path),
        };
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("taskset");
        // Before whatever else this machine does.
        command.args(["-c", CORES[0], "nice", "-n", &BEFORE_OTHERS.to_string()]).arg(binary);
        match program {
            Program::Sealane(_) => command.arg("proxy"),
            // Their sysctls are not a namespace's to set.
            Program::KubeProxy(_) => command.args([
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
            ]),
        };
        command.args(["--proxy-mode", "nftables", "--hostname-override", NODE, "--cluster-cidr", clients]);
        command.arg("--kubeconfig").arg(kubeconfig);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        Ok(Process { child, log })
    }

    /// CPU time of it and of its children that have ended, ms, to a tick.
    pub(crate) fn cpu_with_children(&self) -> Result<f64> {
        Ok(spent(&format!("/proc/{}/stat", self.child.id()))?.iter().sum::<f64>() / 1e3)
    }

    /// CPU time of its threads, ms.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // Threads that end meanwhile do nothing that counts.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            sum += text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default();
        }
        Ok(sum / 1e6)
    }

    /// Resident memory, MB (10^6 bytes).
    pub(crate) fn resident(&self) -> Result<f64> {
        crate::memory::status(self.child.id(), "VmRSS:")
    }

    /// The most that was resident, MB.
    pub(crate) fn peak(&self) -> Result<f64> {
        crate::memory::status(self.child.id(), "VmHWM:")
    }

    /// Of what is resident what no file stands behind, MB.
    pub(crate) fn anonymous(&self) -> Result<f64> {
        crate::memory::status(self.child.id(), "RssAnon:")
    }

    /// The sum of its own metric, over the rows that have this label; `None` before it is served.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 10_249)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let rows = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label)
        });
        let values: Vec<f64> = rows.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(20).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// TERM, and waits for the end.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("no process")?;
        kill_process(pid, Signal::TERM)?;
        let begun = Instant::now();
        while begun.elapsed() < END {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            sleep(Duration::from_millis(5));
        }
        Err(format!("it has not ended 10 s after TERM: {}", self.said()).into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
