//! Memory of everything that runs in the bench's own process namespace, but for the bench: the kernel's proportional
//! set size, in which a page that n processes share counts a n-th for each.

use std::fs;

use crate::Result;

/// One process.
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The beginning of its command line.
    pub(crate) command: String,
    /// Bytes.
    pub(crate) pss: u64,
    /// Of these, bytes that no file stands behind.
    pub(crate) anonymous: u64,
}

/// Everything but this process. The process namespace began with this process: what else is in it, at whatever
/// depth, `up` has started.
pub(crate) fn processes() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // A process that ends meanwhile, or is a zombie, has no memory.
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let Some(pss) = kilobytes(&rollup, "Pss:") else { continue };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let anonymous = kilobytes(&rollup, "Pss_Anon:").unwrap_or_default() * 1024;
        let command = command.trim().chars().take(60).collect();
        found.push(Process { pid, command, pss: pss * 1024, anonymous });
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

fn kilobytes(rollup: &str, field: &str) -> Option<u64> {
    let line = rollup.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A field of /proc's status, such as `VmRSS:`, MB (10^6 bytes).
pub(crate) fn status(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with(field)).ok_or("a process without memory")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rollup_is_read() {
        let rollup = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 512 kB\nPss_Anon: 100 kB\n";
        assert_eq!(super::kilobytes(rollup, "Pss:"), Some(512));
        assert_eq!(super::kilobytes(rollup, "Pss_Anon:"), Some(100));
        assert_eq!(super::kilobytes(rollup, "Swap:"), None);
    }
}
