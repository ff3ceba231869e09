//! Settings of the kernel beside rules: conntrack's sysctls, and how soon this process is killed for memory.

use sealane_proxy::config::Conntrack;
use std::fs;
use std::path::Path;

const SYSCTLS: &str = "/proc/sys/net/netfilter";
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn set(path: &Path, value: u64) -> Result<(), String> {
    if number(path) == Some(value) {
        return Ok(());
    }
    fs::write(path, value.to_string())
        .map_err(|e| format!("{} cannot be set to {value}: {e}", path.display()))
}

/// Sets conntrack's sysctls as configured; what could not be set is given back, a sentence each.
pub fn set_conntrack(conntrack: &Conntrack) -> Vec<String> {
    let folder = Path::new(SYSCTLS);
    let mut failed = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(max) = conntrack.max(cores) {
        // A table of flows with more than four to a bucket is slow (pkg/proxy/conntrack/sysctls.go, SetMax).
        let sized = set(&folder.join("nf_conntrack_max"), max).and_then(|()| {
            let hash = Path::new(HASH_SIZE);
            if number(hash).is_some_and(|size| size >= max / 4) { Ok(()) } else { set(hash, max / 4) }
        });
        failed.extend(sized.err());
    }
    for (name, value) in &conntrack.sysctls {
        failed.extend(set(&folder.join(name), *value).err());
    }
    failed
}

/// Sets `oom_score_adj` of this process, -1000 to 1000.
pub fn set_oom_score(score: i32) -> Result<(), String> {
    let path = "/proc/self/oom_score_adj";
    let now = fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<i32>().ok());
    if now == Some(score) {
        return Ok(());
    }
    fs::write(path, score.to_string()).map_err(|e| format!("{path} cannot be set to {score}: {e}"))
}
