//! Overload: the server under a CPU quota, and five times as many questions as it can answer. It goes on answering as
//! many as before, in time, and its memory stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::scene::{Load, Scene};
use super::server::Server;
use super::{CLUSTER, Rounds};
use crate::Result;
use crate::report::{Figure, Judged};

/// The quotas: Pods' limits of 40m and 10m, by Kubernetes's period, µs. With the second one a queue of a thousand is half a
/// second long.
const QUOTAS: [(u32, &str); 2] = [(4000, "1/25 of a core"), (1000, "1/100 of a core")];
const PERIOD: u32 = 100_000;
/// So much more than it can.
const TIMES: f64 = 5.0;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn measure(binary: &Path, rounds: Rounds) -> Result<Vec<Figure>> {
    let scene = Scene::new(binary, CLUSTER)?;
    let mut figures = Vec::new();
    for (quota, name) in QUOTAS {
        figures.extend(overloaded(&scene, rounds, quota, name)?);
    }
    scene.end()?;
    Ok(figures)
}

fn overloaded(scene: &Scene, rounds: Rounds, quota: u32, name: &str) -> Result<Vec<Figure>> {
    // It goes after who is in it.
    let cgroup = Quota::new(quota, PERIOD)?;
    let server = scene.server("0")?;
    cgroup.take(&server)?;
    // While it stands still it is asked on: what fills its next turn.
    let load = Load { cores: "1", seconds: 2 * rounds.seconds, at_once: "500", ..Load::default() };
    let (mut lacking, mut offered, mut grown, mut capacities) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds.rounds {
        let capacity = scene.ask(&server, load)?.rate;
        let before = server.resident()?;
        // A client gives up after a second: an answer that waited for longer is none.
        let flood = Load { rate: Some(capacity * TIMES), at_once: "60000", patience: "1", ..load };
        let (answered, most) = watched(&server, || scene.ask(&server, flood))?;
        capacities.push(capacity);
        offered.push(TIMES * capacity / answered.offered);
        lacking.push(capacity / answered.rate);
        grown.push(most / before);
    }
    let figure = |what: &str, unit, samples| Figure::new(format!("{name}: {what}"), unit, samples);
    Ok(vec![
        figure("answers a second (1/s)", "1/s", capacities),
        // Else it was dnsperf that could do no more.
        figure("five times that / questions asked", "x", offered).bar(1.1, Judged::Median),
        figure("answers a second then, of how many less", "x", lacking).bar(1.11, Judged::Median),
        figure("RSS at its most then / before", "x", grown).bar(1.05, Judged::Median),
    ])
}

/// Does something, and says how much memory the server had at its most meanwhile, MB.
fn watched<T>(server: &Server, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| -> Result<f64> {
            let mut most = 0.0f64;
            while !done.load(Ordering::Relaxed) {
                most = most.max(server.resident()?);
                std::thread::sleep(LOOK);
            }
            Ok(most)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let most = watch.join().map_err(|_| "the watch failed")??;
        Ok((result?, most))
    })
}

/// A cgroup with a quota; it goes with the value, when who was in it has ended.
pub(super) struct Quota(PathBuf);

impl Quota {
    /// So much of each period, µs.
    pub(super) fn new(micros: u32, period: u32) -> Result<Quota> {
        let name = "sealane-bench";
        let (old, new) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let quota = if old.join("cpu.cfs_quota_us").exists() || old.join("cpu.shares").exists() {
            Quota(old.join(name))
        } else {
            // The root's children may have it from then on.
            fs::write(new.join("cgroup.subtree_control"), "+cpu").map_err(|e| format!("cgroup cpu: {e}"))?;
            Quota(new.join(name))
        };
        // What a bench left that was killed.
        let _ = fs::remove_dir(&quota.0);
        fs::create_dir(&quota.0).map_err(|e| format!("{}: {e}", quota.0.display()))?;
        let file = quota.0.join("cpu.max");
        if file.exists() {
            fs::write(file, format!("{micros} {period}"))?;
        } else {
            fs::write(quota.0.join("cpu.cfs_period_us"), period.to_string())?;
            fs::write(quota.0.join("cpu.cfs_quota_us"), micros.to_string())?;
        }
        Ok(quota)
    }

    pub(super) fn take(&self, server: &Server) -> Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), server.process().to_string())?)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A process that has just ended may still be counted.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
