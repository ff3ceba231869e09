//! Cgroups: limits, out-of-memory kills, and the processes that a container leaves behind. Version 2, or version 1's
//! memory and cpu hierarchies; without any of them containers run unlimited.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::runtime::ContainerSpec;

const ROOT: &str = "/sys/fs/cgroup";
/// cpu.max and cpu.cfs_period_us, microseconds.
const PERIOD: u64 = 100_000;

/// Where a run's cgroups are.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// One directory for version 2, one a controller for version 1; empty: none can be used.
    bases: Vec<PathBuf>,
    unified: bool,
}

/// A container's cgroup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
    unified: bool,
}

impl Cgroups {
    /// Finds what can be used and makes the run's directories, removing those that an earlier run of this name left.
    /// The second result says what is missing, for people.
    pub(crate) fn open(name: &str, rootless: bool) -> (Cgroups, Option<String>) {
        let bases = bases(name, rootless);
        match if is_unified() { unified(bases) } else { legacy(bases) } {
            Ok(cgroups) => (cgroups, None),
            Err(error) => {
                let why = format!("containers run without memory and CPU limits: cgroups: {error}");
                (Cgroups::default(), Some(why))
            }
        }
    }

    /// Makes a container's cgroup with its limits.
    pub(crate) fn create(&self, id: &str, spec: &ContainerSpec) -> io::Result<Cgroup> {
        let mut cgroup = Cgroup { directories: Vec::new(), unified: self.unified };
        for base in &self.bases {
            let directory = base.join(id);
            remove_tree(&directory);
            fs::create_dir(&directory)?;
            cgroup.directories.push(directory);
        }
        for directory in &cgroup.directories {
            for (file, value) in limits(spec, self.unified) {
                let file = directory.join(file);
                if file.exists() {
                    fs::write(file, value)?;
                }
            }
        }
        Ok(cgroup)
    }

    /// Removes the run's directories with all that is left in them.
    pub(crate) fn close(&self) {
        for base in &self.bases {
            remove_tree(base);
        }
    }
}

impl Cgroup {
    /// Moves the calling process in.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| fs::write(directory.join("cgroup.procs"), "0"))
    }

    /// Its directories, by the name of the controller (empty for version 2).
    pub(crate) fn directories(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.directories.iter().map(|directory| {
            let controller = directory.strip_prefix(ROOT).ok().and_then(|path| path.iter().next());
            let controller = controller.and_then(|name| name.to_str()).filter(|_| !self.unified);
            (controller.unwrap_or_default(), directory.as_path())
        })
    }

    /// How many of its processes the out-of-memory killer has ended.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let texts =
            self.directories.iter().filter_map(|directory| fs::read_to_string(directory.join(file)).ok());
        texts.filter_map(|text| oom_kills(&text)).sum()
    }

    /// Kills every process that is left in it.
    pub(crate) fn kill(&self) {
        for directory in &self.directories {
            if self.unified && fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            for pid in processes.lines().filter_map(|line| line.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // Gone already is as good.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }

    /// Removes it; `false` while processes are still in it.
    pub(crate) fn remove(&self) -> bool {
        self.directories.iter().filter(|directory| !remove_tree(directory)).count() == 0
    }
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Where a run's directories are, made or not.
fn bases(name: &str, rootless: bool) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let name = format!("sealane-{name}");
    if !is_unified() {
        let hierarchies = ["memory", "cpu"].map(|controller| root.join(controller));
        let there = hierarchies.into_iter().filter(|hierarchy| hierarchy.join("cgroup.procs").exists());
        return there.map(|hierarchy| hierarchy.join(&name)).collect();
    }
    // Root owns the whole tree; another user at most the part that was delegated to it, where it runs.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|_| rootless);
    vec![root.join(path.unwrap_or_default()).join(name)]
}

/// Removes what a run whose launcher did not come to it has left.
pub(crate) fn remove_left(name: &str, rootless: bool) {
    bases(name, rootless).iter().for_each(|base| {
        remove_tree(base);
    });
}

/// Removes what an earlier run left and makes the directory anew; it stays where processes are still leaving it.
fn make(base: &Path) -> io::Result<()> {
    remove_tree(base);
    match fs::create_dir(base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn unified(bases: Vec<PathBuf>) -> io::Result<Cgroups> {
    for base in &bases {
        make(base)?;
        if let Some(parent) = base.parent()
            && let Err(error) = enable(parent)
        {
            remove_tree(base);
            return Err(error);
        }
        enable(base)?;
    }
    Ok(Cgroups { bases, unified: true })
}

/// Hands down what there is of memory and cpu: a user's delegated part often has memory alone.
fn enable(directory: &Path) -> io::Result<()> {
    let there = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let wanted = controllers(&there);
    if !wanted.contains("+memory") {
        return Err(io::Error::other(format!("{} has no memory controller", directory.display())));
    }
    fs::write(directory.join("cgroup.subtree_control"), wanted)
}

fn controllers(there: &str) -> String {
    let used = there.split_whitespace().filter(|name| ["memory", "cpu"].contains(name));
    used.map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
}

/// Inside another container the processes are where the root of the hierarchy seems to be, and no controller can be
/// enabled below ("no internal processes"): moves them into a leaf. On a machine itself there is nothing to do. For the
/// main process, which sees them all.
pub(crate) fn make_room() -> io::Result<()> {
    let root = Path::new(ROOT);
    if !root.join("cgroup.controllers").exists() {
        return Ok(());
    }
    match enable(root) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let leaf = root.join("sealane-main");
            fs::create_dir_all(&leaf)?;
            for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
                // A process that has ended meanwhile cannot be moved.
                let _ = fs::write(leaf.join("cgroup.procs"), pid);
            }
            Ok(())
        }
        // What else stands in the way stands in the launcher's, which says so.
        _ => Ok(()),
    }
}

fn legacy(bases: Vec<PathBuf>) -> io::Result<Cgroups> {
    bases.iter().try_for_each(|base| make(base))?;
    if bases.is_empty() {
        return Err(io::Error::other("there is no memory or cpu hierarchy under /sys/fs/cgroup"));
    }
    Ok(Cgroups { bases, unified: false })
}

/// Removes a cgroup with those below it; whether it is gone.
fn remove_tree(directory: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Files and what is written into them (Kubernetes `pkg/kubelet/cm/helpers_linux.go`, KEP-2254 for the weight).
fn limits(spec: &ContainerSpec, unified: bool) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let shares = spec.cpu_request_milli.map(|milli| (milli * 1024 / 1000).clamp(2, 262_144));
    let quota = spec.cpu_limit_milli.map(|milli| (milli * PERIOD / 1000).max(1000));
    if unified {
        if let Some(bytes) = spec.memory_limit {
            files.push(("memory.max", bytes.to_string()));
            files.push(("memory.oom.group", "1".to_owned()));
        }
        if let Some(quota) = quota {
            files.push(("cpu.max", format!("{quota} {PERIOD}")));
        }
        if let Some(shares) = shares {
            files.push(("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()));
        }
    } else {
        if let Some(bytes) = spec.memory_limit {
            files.push(("memory.limit_in_bytes", bytes.to_string()));
        }
        if let Some(quota) = quota {
            files.push(("cpu.cfs_period_us", PERIOD.to_string()));
            files.push(("cpu.cfs_quota_us", quota.to_string()));
        }
        if let Some(shares) = shares {
            files.push(("cpu.shares", shares.to_string()));
        }
    }
    files
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::tests::container;

    #[test]
    fn limits_are_written_as_each_version_wants_them() {
        let mut spec = container("c");
        assert!(limits(&spec, true).is_empty());
        spec.memory_limit = Some(64 << 20);
        spec.cpu_limit_milli = Some(500);
        spec.cpu_request_milli = Some(100);
        let written = |unified| -> Vec<String> {
            limits(&spec, unified).into_iter().map(|(file, value)| format!("{file}={value}")).collect()
        };
        assert_eq!(
            written(true),
            ["memory.max=67108864", "memory.oom.group=1", "cpu.max=50000 100000", "cpu.weight=4"]
        );
        assert_eq!(
            written(false),
            [
                "memory.limit_in_bytes=67108864",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpu.shares=102"
            ]
        );
    }

    #[test]
    fn controllers_that_are_not_there_are_not_asked_for() {
        for (there, wanted) in
            [("cpuset cpu io memory pids\n", "+cpu +memory"), ("memory pids\n", "+memory"), ("", "")]
        {
            assert_eq!(controllers(there), wanted);
        }
    }

    #[test]
    fn kills_are_counted_in_either_version() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"), Some(2));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
