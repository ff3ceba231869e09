//! What this machine is and has: `/proc`, `/sys`, `/etc`.

use std::fs;

/// Facts for the Node object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// Cores.
    pub(crate) cpus: usize,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) boot_id: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) architecture: &'static str,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

impl Machine {
    pub(crate) fn read() -> Self {
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: total_memory(&line("/proc/meminfo")),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: pretty_name(&line("/etc/os-release")),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            // Go's names (`runtime.GOARCH`), which node selectors use.
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
        }
    }
}

fn total_memory(meminfo: &str) -> u64 {
    let row = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: Option<u64> = row.and_then(|r| r.split_whitespace().next()).and_then(|n| n.parse().ok());
    kib.unwrap_or(0) * 1024
}

fn pretty_name(os_release: &str) -> String {
    let row = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    row.map_or_else(|| "Linux".to_owned(), |v| v.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files() {
        assert_eq!(total_memory("MemTotal:        4000 kB\nMemFree: 1 kB"), 4_096_000);
        assert_eq!(total_memory(""), 0);
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\""), "Debian GNU/Linux 13");
        assert_eq!(pretty_name(""), "Linux");
        assert!(Machine::read().memory > 0);
    }
}
