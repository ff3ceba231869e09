//! The data directory: made, locked, and what Pods get of the host's resolver.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::shown;

/// Held while `up` runs: one at a time in a data directory.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code)] File);

/// Makes the folder and takes it.
pub(crate) fn take(dir: &Path) -> Result<Lock, String> {
    let fail = |e: std::io::Error| format!("--data-dir {}: {e}; give one that can be written", shown(dir));
    fs::create_dir_all(dir.join("run")).map_err(fail)?;
    let path = dir.join("run/up.pid");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = fs::read_to_string(&path).unwrap_or_default();
        return Err(format!(
            "{}: another `sealane up` runs on it (process {}); stop that one, or give another --data-dir",
            shown(dir),
            pid.trim()
        ));
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fail)?;
    Ok(Lock(file))
}

/// The process that holds a data directory, if one does.
pub(crate) fn holder(dir: &Path) -> Option<i32> {
    let path = dir.join("run/up.pid");
    let file = File::open(&path).ok()?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    fs::read_to_string(&path).ok()?.trim().parse().ok()
}

/// Where [`host_resolver`] writes.
pub(crate) fn host_resolver_path(dir: &Path) -> PathBuf {
    dir.join("run/host-resolv.conf")
}

/// Writes the resolver file that Pods with the node's own DNS get: the host's servers that can be reached from
/// a Pod. Says where there are none.
pub(crate) fn host_resolver(dir: &Path, gateway: Ipv4Addr) -> Result<Option<String>, String> {
    let stub = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    // systemd-resolved's stub is on the host's loopback; its own servers are in the second file.
    let real = fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or_default();
    let (text, missing) = resolver(&stub, &real, gateway);
    let path = host_resolver_path(dir);
    fs::write(&path, text).map_err(|e| format!("{}: {e}", shown(&path)))?;
    Ok(missing)
}

fn resolver(stub: &str, real: &str, gateway: Ipv4Addr) -> (String, Option<String>) {
    let reachable = |line: &&str| {
        let server = line.trim().strip_prefix("nameserver").map(str::trim);
        server.and_then(|s| s.parse::<IpAddr>().ok()).is_some_and(|a| !a.is_loopback() && !a.is_unspecified())
    };
    for text in [stub, real] {
        let servers: Vec<&str> = text.lines().filter(reachable).collect();
        if !servers.is_empty() {
            return (format!("{}\n", servers.join("\n")), None);
        }
    }
    // Refused at once, rather than left to time out.
    let missing =
        "the host's resolver has no server that Pods could reach; names outside the cluster won't resolve";
    (format!("nameserver {gateway}\n"), Some(missing.to_owned()))
}

/// The resolver file of `sealane shell`, in a node's folder.
pub(crate) fn node_resolver(dir: &Path, dns: Ipv4Addr, domain: &str) -> Result<(), String> {
    let path = dir.join("run/resolv.conf");
    let text =
        format!("search default.svc.{domain} svc.{domain} {domain}\nnameserver {dns}\noptions ndots:5\n");
    fs::write(&path, text).map_err(|e| format!("{}: {e}", shown(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_servers_that_they_can_reach() {
        let gateway = Ipv4Addr::new(10, 244, 0, 1);
        let plain = resolver("search x\nnameserver 1.2.3.4\nnameserver 127.0.0.1\n", "", gateway);
        assert_eq!(plain, ("nameserver 1.2.3.4\n".into(), None));
        let stub = resolver("nameserver 127.0.0.53\n", "nameserver 9.9.9.9\n", gateway);
        assert_eq!(stub, ("nameserver 9.9.9.9\n".into(), None));
        let (text, missing) = resolver("nameserver 127.0.0.53\n", "", gateway);
        assert_eq!(text, "nameserver 10.244.0.1\n");
        assert!(missing.is_some());
    }

    #[test]
    fn a_data_directory_is_for_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()), None);
        let first = take(dir.path()).unwrap();
        assert!(take(dir.path()).unwrap_err().contains("another `sealane up`"));
        assert_eq!(holder(dir.path()), i32::try_from(std::process::id()).ok());
        drop(first);
        assert_eq!(holder(dir.path()), None);
        assert!(take(Path::new("/proc/nowhere")).unwrap_err().contains("--data-dir"));
    }
}
