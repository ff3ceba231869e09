//! The user namespace in which an ordinary user is root of its own node.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::HostError;
use crate::sys::{self, Fork};

/// What an ordinary user's node has to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootless {
    /// The user's id outside.
    pub uid: u32,
    /// The user's group outside.
    pub gid: u32,
    /// User and group ids below this number exist inside: 1 where there are no subordinate ids.
    pub ids: u32,
    /// Why there are no subordinate ids, in words for the user; images that change user will not run.
    pub without_subordinates: Option<String>,
}

/// Whether this process may make namespaces, links and mounts as it is.
///
/// # Errors
///
/// Root without CAP_SYS_ADMIN or CAP_NET_ADMIN, as inside most containers: one line that says which flag is missing.
pub fn is_root() -> Result<bool, HostError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let own = rustix::thread::capabilities(None).map_err(|error| HostError::Step {
        context: "read the capabilities".to_owned(),
        source: error.into(),
    })?;
    for (capability, name) in
        [(CapabilitySet::SYS_ADMIN, "SYS_ADMIN"), (CapabilitySet::NET_ADMIN, "NET_ADMIN")]
    {
        if !own.effective.contains(capability) {
            return Err(HostError::Step {
                context: "run Pods as root here".to_owned(),
                source: io::Error::other(format!(
                    "CAP_{name} is missing: inside a container, start it with --privileged (or --cap-add SYS_ADMIN \
                     --cap-add NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
                     --security-opt systempaths=unconfined)"
                )),
            });
        }
    }
    Ok(true)
}

/// Whether this is the machine's first user namespace, where every id is itself.
pub(crate) fn is_initial() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes the calling process root of a new user namespace. To be called first in `main`, before any thread exists;
/// the process stays in the host's network namespace.
///
/// # Errors
///
/// One line: which kernel setting or container flag stands in the way.
pub fn enter_user_namespace() -> Result<Rootless, HostError> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let failed = |context: &str, source: io::Error| HostError::Step { context: context.to_owned(), source };
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count);
    if threads.map_err(|error| failed("count the threads", error))? != 1 {
        let source = io::Error::other("this process has more than one thread already");
        return Err(failed("make a user namespace", source));
    }
    let name = user_name(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid);
    let users = subordinate(&fs::read_to_string("/etc/subuid").unwrap_or_default(), uid, name.as_deref());
    let groups = subordinate(&fs::read_to_string("/etc/subgid").unwrap_or_default(), uid, name.as_deref());
    let ranges = users.zip(groups);

    // newuidmap and newgidmap have their privilege outside alone: a child that stays there runs them.
    let mapper = match ranges {
        Some((users, groups)) => {
            Some(Mapper::start(uid, gid, users, groups).map_err(|error| failed("prepare newuidmap", error))?)
        }
        None => None,
    };
    sys::unshare(UnshareFlags::NEWUSER).map_err(|error| refused(&error))?;
    let mut without = None;
    if let Some(mapper) = mapper {
        match mapper.map() {
            Ok(ids) => {
                check_powers()?;
                return Ok(Rootless { uid, gid, ids, without_subordinates: None });
            }
            Err(error) => without = Some(error.to_string()),
        }
    }
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| failed(&format!("map the user in the user namespace ({file})"), error))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))?;
    check_powers()?;
    let without =
        without.unwrap_or_else(|| "this user has no range in /etc/subuid and /etc/subgid".to_owned());
    Ok(Rootless { uid, gid, ids: 1, without_subordinates: Some(without) })
}

/// Ubuntu lets a user namespace be made, and gives no power in it.
fn check_powers() -> Result<(), HostError> {
    sys::unshare(UnshareFlags::NEWUTS).map_err(|error| refused(&error))
}

/// What stands in the way of a user namespace.
fn refused(error: &io::Error) -> HostError {
    let setting = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).ok().and_then(|text| text.trim().parse::<i64>().ok())
    };
    let why = if setting("user/max_user_namespaces") == Some(0) {
        "the kernel setting user.max_user_namespaces is 0: sysctl -w user.max_user_namespaces=15000"
            .to_owned()
    } else if error.kind() == io::ErrorKind::StorageFull {
        "user.max_user_namespaces is used up, here or outside of this container: raise it with sysctl, or run as root"
            .to_owned()
    } else if setting("kernel/unprivileged_userns_clone") == Some(0) {
        "the kernel setting kernel.unprivileged_userns_clone is 0: sysctl -w kernel.unprivileged_userns_clone=1"
            .to_owned()
    } else if setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "the kernel setting kernel.apparmor_restrict_unprivileged_userns is 1: sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
            .to_owned()
    } else {
        format!(
            "{error}; inside a container, start it with --privileged (or --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined --security-opt systempaths=unconfined), or run as root"
        )
    };
    HostError::Step { context: "make a user namespace".to_owned(), source: io::Error::other(why) }
}

/// First id and count.
type Range = (u32, u32);

/// The child that stays outside.
struct Mapper {
    go: std::os::fd::OwnedFd,
    result: std::os::fd::OwnedFd,
    pid: u32,
    ids: u32,
}

impl Mapper {
    fn start(uid: u32, gid: u32, users: Range, groups: Range) -> io::Result<Mapper> {
        let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (result, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let target = std::process::id().to_string();
        // SAFETY: the caller has made sure that this process has one thread.
        match unsafe { sys::fork(0) }? {
            Fork::Parent { pid, .. } => {
                Ok(Mapper { go, result, pid, ids: users.1.min(groups.1).saturating_add(1) })
            }
            Fork::Child => {
                drop((go, result));
                // Ends with the parent's word, or its death.
                let _ = rustix::io::read(&wait, &mut [0; 1]);
                let outcome = run_map("newuidmap", &target, uid, users)
                    .and_then(|()| run_map("newgidmap", &target, gid, groups));
                let text = outcome.err().unwrap_or_default();
                let _ = rustix::io::write(&say, text.as_bytes());
                sys::exit_now(0)
            }
        }
    }

    /// Lets the child do its work: how many ids there are then.
    fn map(self) -> io::Result<u32> {
        rustix::io::write(&self.go, b"m")?;
        let mut text = vec![0; 1024];
        let length = rustix::io::read(&self.result, &mut text)?;
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            // Its word has come; what its end was does not matter.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
        if length == 0 {
            return Ok(self.ids);
        }
        Err(io::Error::other(String::from_utf8_lossy(&text[..length]).into_owned()))
    }
}

fn run_map(program: &str, target: &str, own: u32, (start, count): Range) -> Result<(), String> {
    let output = Command::new(program)
        .args([target, "0", &own.to_string(), "1", "1", &start.to_string(), &count.to_string()])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{program} is not installed (package uidmap)"))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The first range of a user in /etc/subuid or /etc/subgid (subuid(5)): by name or by number.
fn subordinate(text: &str, uid: u32, name: Option<&str>) -> Option<Range> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != uid && Some(owner) != name {
            return None;
        }
        let start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        (count > 0).then_some((start, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ranges_are_read_by_name_and_number() {
        let text = "# comment\nroot:1:5\nann:100000:65536\n1001:300000:65536\nempty:1:0\n";
        for (uid, name, expected) in [
            (1000, Some("ann"), Some((100_000, 65_536))),
            (1001, Some("bob"), Some((300_000, 65_536))),
            (1002, Some("empty"), None),
            (1003, None, None),
        ] {
            assert_eq!(subordinate(text, uid, name), expected);
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(user_name(passwd, 7), None);
    }
}
