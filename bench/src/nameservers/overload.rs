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

/// The quota: a Pod's limit of 100m, by Kubernetes's period.
const QUOTA: u32 = 10_000;
const PERIOD: u32 = 100_000;
/// So much more than it can.
const TIMES: f64 = 5.0;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn measure(binary: &Path, rounds: Rounds) -> Result<Vec<Figure>> {
    let scene = Scene::new(binary, CLUSTER)?;
    let server = scene.server("0")?;
    let quota = Quota::new()?;
    quota.take(&server)?;
    // While it stands still it is asked on: as much as fills its next turn, and no more than may wait for it.
    let load = Load { cores: "1", seconds: rounds.seconds, at_once: "2000", ..Load::default() };
    let (mut offered, mut lacking, mut grown) = (Vec::new(), Vec::new(), Vec::new());
    let mut capacities = Vec::new();
    for _ in 0..rounds.rounds {
        let capacity = scene.ask(&server, load)?.rate;
        let before = server.resident()?;
        // A client gives up after half a second: an answer that waited for longer is none.
        let flood = Load { rate: Some(capacity * TIMES), at_once: "60000", patience: "0.5", ..load };
        let (answered, most) = watched(&server, || scene.ask(&server, flood))?;
        capacities.push(capacity);
        offered.push(answered.offered / capacity);
        lacking.push(capacity / answered.rate);
        grown.push(most / before);
    }
    drop(server);
    scene.end()?;
    Ok(vec![
        Figure::new("a tenth of a core: answers a second (1/s)", "1/s", capacities),
        Figure::new("overload: questions / what it can answer", "x", offered),
        Figure::new("overload: what it can answer / what it answers", "x", lacking)
            .bar(1.0 / 0.9, Judged::Median),
        Figure::new("overload: RSS at its most / before", "x", grown).bar(1.05, Judged::Median),
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
struct Quota(PathBuf);

impl Quota {
    fn new() -> Result<Quota> {
        let name = format!("sealane-bench-{}", std::process::id());
        let (old, new) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let quota = if old.join("cpu.cfs_quota_us").exists() || old.join("cpu.shares").exists() {
            Quota(old.join(name))
        } else {
            // The root's children may have it from then on.
            fs::write(new.join("cgroup.subtree_control"), "+cpu").map_err(|e| format!("cgroup cpu: {e}"))?;
            Quota(new.join(name))
        };
        fs::create_dir(&quota.0).map_err(|e| format!("{}: {e}", quota.0.display()))?;
        let file = quota.0.join("cpu.max");
        if file.exists() {
            fs::write(file, format!("{QUOTA} {PERIOD}"))?;
        } else {
            fs::write(quota.0.join("cpu.cfs_period_us"), PERIOD.to_string())?;
            fs::write(quota.0.join("cpu.cfs_quota_us"), QUOTA.to_string())?;
        }
        Ok(quota)
    }

    fn take(&self, server: &Server) -> Result<()> {
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
