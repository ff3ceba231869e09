//! How soon the kernel follows the API: the first rules, a change that comes alone, changes that come in a stream, and
//! what that costs. The built binary, an API that is played, and the kernel's own word for what is in force.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{self, FRESH, fresh};
use super::kernel::Kernel;
use super::process::{Process, Program};
use crate::Result;
use crate::cores::{CORES, first_on};
use crate::played::{LISTED, Played, event};

/// Between two looks whether the first rules are there.
const LOOK: Duration = Duration::from_micros(200);
/// Rules that are not there by then are an error.
const PATIENCE: Duration = Duration::from_secs(600);
/// Before a change that comes alone.
const PAUSE: Duration = Duration::from_millis(5);
/// Before memory is counted, and before anything is changed.
const SETTLED: Duration = Duration::from_secs(3);
/// Changes beyond which addresses come again.
const MOST: usize = FRESH;

/// A proxy with its first rules written.
pub(crate) struct Scene {
    // It ends before the API does.
    pub(crate) process: Process,
    slices: TcpStream,
    services: usize,
    /// Changes so far.
    changes: usize,
    api: Played,
    _folder: tempfile::TempDir,
    /// From the last list to the first rules, ms.
    pub(crate) first: f64,
}

/// What a stream of changes came to.
pub(crate) struct Streamed {
    /// ms, of each.
    pub(crate) lags: Vec<f64>,
    /// Cores in use.
    pub(crate) cores: f64,
    /// Of a second.
    pub(crate) rate: f64,
}

impl Scene {
    /// Starts a proxy on so many Services, in the bench's own network namespace. Sealane gets its Node when it has taken
    /// in everything else: what is left to do is to write the first rules. (kube-proxy takes in nothing before.)
    pub(crate) fn new(program: &Program, services: usize) -> Result<Scene> {
        first_on(CORES[1])?;
        clean()?;
        let folder = tempfile::tempdir()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let lists = cluster::lists(services, Ipv4Addr::new(192, 0, 2, 10));
        let ours = matches!(program, Program::Sealane(_));
        let mut api = Played::serve(listener, lists, Some("nodes").filter(|_| ours))?;
        let kubeconfig = folder.path().join("kubeconfig");
        api.kubeconfig(&kubeconfig)?;
        let mut kernel = Kernel::open()?;
        let process = Process::start(program, folder.path(), &kubeconfig, cluster::PODS)?;
        let said = |why: &dyn std::fmt::Display| format!("{why}: {}", process.said());
        let slices = api.watch("endpointslices").map_err(|e| said(&e))?;
        api.watch("services").map_err(|e| said(&e))?;
        thread::sleep(PAUSE);
        let before = kernel.generation()?;
        let begun = Instant::now();
        api.let_go();
        while ours && kernel.generation()? == before {
            if begun.elapsed() > PATIENCE {
                return Err(said(&"no rules were written").into());
            }
            thread::sleep(LOOK);
        }
        let first = milliseconds(begun.elapsed());
        Ok(Scene { process, slices, services, changes: 0, api, _folder: folder, first })
    }

    /// Lets it come to rest.
    pub(crate) fn settle(&self) {
        thread::sleep(SETTLED);
    }

    /// Sends the next change.
    fn change(&mut self) -> Result<()> {
        // Neighbours are not neighbours in the proxy's maps either, so any order is as good.
        let at = self.changes % self.services;
        let revision = LISTED + 1 + self.changes as u64;
        let listed = &self.api.objects("endpointslices")[at];
        let text = cluster::changed(listed, at, fresh(self.changes), revision);
        self.changes += 1;
        Ok(event(&mut self.slices, "MODIFIED", &text)?)
    }

    /// One change after the other: ms until each is in the kernel, and CPU time of each, us.
    pub(crate) fn alone(&mut self, count: usize, patience: Duration) -> Result<(Vec<f64>, f64)> {
        first_on(CORES[1])?;
        let mut kernel = Kernel::listen()?;
        let mut took = Vec::new();
        let before = self.process.cpu()?;
        for _ in 0..count {
            thread::sleep(PAUSE);
            kernel.forget();
            let expected = self.changes % MOST;
            let begun = Instant::now();
            self.change()?;
            loop {
                let (found, heard) = kernel.next(patience)?;
                if found.contains(&expected) {
                    took.push(milliseconds(heard - begun));
                    break;
                }
                if begun.elapsed() > patience {
                    return Err(format!("a change did not come: {}", self.process.said()).into());
                }
            }
        }
        let spent = self.process.cpu()? - before;
        Ok((took, spent * 1e3 / count as f64))
    }

    /// So many changes a second for so long.
    pub(crate) fn stream(&mut self, rate: u32, time: Duration) -> Result<Streamed> {
        let total = (f64::from(rate) * time.as_secs_f64()) as usize;
        let sent: Arc<Vec<AtomicU64>> = Arc::new((0..MOST).map(|_| AtomicU64::new(0)).collect());
        let epoch = Instant::now();
        let heard = {
            let (sent, mut kernel) = (sent.clone(), Kernel::listen()?);
            thread::spawn(move || hear(&mut kernel, &sent, epoch, total))
        };
        first_on(CORES[1])?;
        let cpu = self.process.cpu()?;
        let begun = Instant::now();
        for count in 0..total {
            let due = begun + Duration::from_secs_f64(count as f64 / f64::from(rate));
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait);
            }
            // 0 says that nothing is on its way.
            let now = epoch.elapsed().as_nanos() as u64 | 1;
            sent[self.changes % MOST].store(now, Ordering::Relaxed);
            self.change()?;
        }
        let took = begun.elapsed();
        let lags = heard.join().map_err(|_| "the listener failed")??;
        let cores = (self.process.cpu()? - cpu) / 1e3 / took.as_secs_f64();
        Ok(Streamed { lags, cores, rate: total as f64 / took.as_secs_f64() })
    }

    /// Ends it, and removes its rules.
    pub(crate) fn end(self) -> Result<()> {
        self.process.stop()?;
        clean()
    }
}

/// Hears of changes until all have come: ms of each.
fn hear(kernel: &mut Kernel, sent: &[AtomicU64], epoch: Instant, total: usize) -> Result<Vec<f64>> {
    first_on(CORES[1])?;
    let mut lags = Vec::with_capacity(total);
    let mut last = Instant::now();
    while lags.len() < total {
        let (found, heard) = kernel.next(Duration::from_millis(100))?;
        for number in found {
            // It is told of once for each port, and once more when it goes.
            let since = sent[number].swap(0, Ordering::Relaxed);
            if since != 0 {
                let lag = (heard - epoch).saturating_sub(Duration::from_nanos(since));
                lags.push(milliseconds(lag));
                last = heard;
            }
        }
        if last.elapsed() > Duration::from_secs(10) {
            return Err(format!("of {total} changes {} came", lags.len()).into());
        }
    }
    Ok(lags)
}

/// What a proxy left, whoever it was.
pub(crate) fn clean() -> Result<()> {
    let done = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
    let done = done.map_err(|e| format!("nft (of nftables): {e}"))?;
    if done.success() { Ok(()) } else { Err("nft flush ruleset failed".into()) }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
