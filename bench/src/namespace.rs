//! The bench's own namespaces: network (the machine's links, routes and rules are never touched), processes (what `up`
//! starts can be counted, and ends with the bench however it ends) and mounts (for the matching /proc).

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Result;
use crate::endpoints::OURS;

const INSIDE: &str = "SEALANE_BENCH_INSIDE";

/// Goes on only inside: the first call replaces this process by itself in fresh namespaces.
pub(crate) fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        if !rustix::process::geteuid().is_root() {
            return Err("the bench needs root: it measures in namespaces of its own".into());
        }
        let error = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--"])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(format!("unshare (of util-linux): {error}").into());
    }
    ip(&["link", "set", "lo", "up"])?;
    // Every address of the range is this machine's: each can be an endpoint, and a fresh one costs nothing.
    ip(&["route", "add", "local", OURS, "dev", "lo"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().map_err(|e| format!("ip (of iproute2): {e}"))?;
    if !output.status.success() {
        return Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}
