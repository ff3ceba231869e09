//! `sealane shell`: into the network of a running node, from another terminal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::HostError;
use crate::sys::{self, PRIVATE_MOUNTS};
use crate::tree::step;

/// Where a running node says which process its launcher is.
pub(crate) fn state_file(data: &Path) -> PathBuf {
    data.join("run/launcher")
}

/// Says that `pid` is the launcher. The process's start time goes with it: numbers are used again.
pub(crate) fn write_state(data: &Path, pid: u32) -> Result<(), HostError> {
    let file = state_file(data);
    let write = || -> io::Result<()> {
        let started = start_time(pid)?;
        fs::create_dir_all(data.join("run"))?;
        fs::write(&file, format!("{pid} {started}\n"))
    };
    write().map_err(|error| step(format!("write {}", file.display()), error))
}

/// Field 22 of /proc/PID/stat: clock ticks since boot.
fn start_time(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let field = after_name.split_whitespace().nth(19);
    field.and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The launcher of the node that runs with this data directory, if one does.
fn running(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(state_file(data)).ok()?;
    let mut fields = text.split_whitespace();
    let pid: u32 = fields.next()?.parse().ok()?;
    let started: u64 = fields.next()?.parse().ok()?;
    (start_time(pid).ok()? == started).then_some(pid)
}

/// Refuses a second node on the same data directory. One whose main process has been killed has two seconds to go.
pub(crate) fn refuse_second(data: &Path) -> Result<(), HostError> {
    let Some(number) = running(data) else { return Ok(()) };
    let gone = || -> io::Result<bool> {
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let launcher = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let mut polled = [rustix::event::PollFd::new(&launcher, rustix::event::PollFlags::IN)];
        let patience = rustix::time::Timespec { tv_sec: 2, tv_nsec: 0 };
        Ok(rustix::event::poll(&mut polled, Some(&patience))? == 1)
    };
    // An error of the look is that it has gone.
    if gone().unwrap_or(true) {
        return Ok(());
    }
    let source = io::Error::other(format!(
        "a node runs there already (process {number}); stop it, or give another --data-dir"
    ));
    Err(step(format!("use the data directory {}", data.display()), source))
}

/// Moves the calling process into the network (and, of an ordinary user, the user namespace) of the node that runs
/// with this data directory. What is run afterwards reaches Pods and Services, and keeps the host's files; where
/// `DATA/run/resolv.conf` exists, it resolves names by that. To be called before any thread exists.
///
/// # Errors
///
/// No node runs with this data directory, or it belongs to another user.
pub fn enter_node(data: &Path) -> Result<(), HostError> {
    let pid = running(data).ok_or_else(|| {
        let source = io::Error::other(format!("no node runs with the data directory {}", data.display()));
        step("enter the node", source)
    })?;
    let enter = || -> io::Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let launcher = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let own = fs::read_link("/proc/self/ns/user")?;
        let theirs = fs::read_link(format!("/proc/{}/ns/user", pid.as_raw_nonzero()))?;
        let mut namespaces = ThreadNameSpaceType::NETWORK;
        if own != theirs {
            namespaces |= ThreadNameSpaceType::USER;
        }
        let launcher = std::os::fd::AsFd::as_fd(&launcher);
        Ok(rustix::thread::move_into_thread_name_spaces(launcher, namespaces)?)
    };
    enter().map_err(|error| step("enter the node (was it started by the same user?)", error))?;
    sys::unshare(UnshareFlags::NEWNS).map_err(|error| step("make a mount namespace", error))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|error| step(PRIVATE_MOUNTS, error))?;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // The links in /sys are the host's otherwise; most tools ask the kernel by netlink and do not care.
    let _ = rustix::mount::mount("sysfs", "/sys", "sysfs", strict, None);
    let resolver = data.join("run/resolv.conf");
    if resolver.exists() {
        let target = fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| "/etc/resolv.conf".into());
        rustix::mount::mount_bind(&resolver, &target)
            .map_err(|error| step(format!("show {} as /etc/resolv.conf", resolver.display()), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_is_known_by_its_start_time_too() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(running(data.path()), None);
        let own = std::process::id();
        write_state(data.path(), own).unwrap();
        assert_eq!(running(data.path()), Some(own));
        fs::write(state_file(data.path()), format!("{own} 1\n")).unwrap();
        assert_eq!(running(data.path()), None);
        refuse_second(data.path()).unwrap();
        assert!(enter_node(data.path()).unwrap_err().to_string().contains("no node runs"));
    }
}
