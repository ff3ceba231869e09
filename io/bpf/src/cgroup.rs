//! Cgroups of version 2.

use crate::BpfError;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: u64 = 0x6367_7270;

/// Where cgroups of version 2 are mounted: the one that holds all processes, where no namespace hides some.
///
/// # Errors
///
/// They are nowhere.
pub fn cgroup2_root() -> Result<PathBuf, BpfError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = std::fs::read_to_string(path).map_err(|why| BpfError::File { path: path.into(), why })?;
    mount_point(&mounts).ok_or(BpfError::NoCgroup(None))
}

/// The first mount of type cgroup2 (proc_pid_mountinfo(5): the fifth field is the mount point, the type follows " - ").
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        after.starts_with("cgroup2 ").then(|| point.replace("\\040", " ").into())
    })
}

/// Opens a cgroup's folder.
pub(crate) fn open(path: &Path) -> Result<File, BpfError> {
    let fail = |why: rustix::io::Errno| BpfError::File { path: path.to_owned(), why: why.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let kind = rustix::fs::fstatfs(&folder).map_err(fail)?.f_type;
    if kind as u64 != CGROUP2 {
        return Err(BpfError::NoCgroup(Some(path.to_owned())));
    }
    Ok(File::from(folder))
}

/// The network namespaces of the threads in a cgroup and those below it, each once. What ends meanwhile is left out.
pub(crate) fn namespaces(cgroup: &Path) -> Vec<File> {
    let mut found: BTreeMap<(u64, u64), File> = BTreeMap::new();
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        let threads = std::fs::read_to_string(folder.join("cgroup.threads")).unwrap_or_default();
        for thread in threads.lines() {
            let link = PathBuf::from(format!("/proc/{thread}/ns/net"));
            // Its number comes with a look, a descriptor only where it is a new one.
            let Ok(facts) = std::fs::metadata(&link) else { continue };
            if let std::collections::btree_map::Entry::Vacant(place) = found.entry((facts.dev(), facts.ino()))
                && let Ok(file) = File::open(&link)
            {
                place.insert(file);
            }
        }
        let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let table = [
            ("35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n", Some("/sys/fs/cgroup")),
            (
                "24 1 0:2 / /proc rw - proc proc rw\n36 24 0:31 / /a\\040b rw shared:9 - cgroup2 none rw",
                Some("/a b"),
            ),
            ("35 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", None),
            ("garbage\n\n - cgroup2", None),
        ];
        for (mounts, point) in table {
            assert_eq!(mount_point(mounts), point.map(PathBuf::from), "{mounts}");
        }
    }

    #[test]
    fn what_is_no_cgroup_is_said() {
        let error = open(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.starts_with("/proc is no cgroup v2, which eBPF service rules need"), "{error}");
        assert!(open(Path::new("/nowhere")).unwrap_err().to_string().starts_with("/nowhere: No such file"));
        assert!(!BpfError::NoCgroup(None).to_string().contains("None"));
    }
}
