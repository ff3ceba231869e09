//! The system calls that no safe wrapper covers; nothing else in this crate makes one by hand. [`fork`] and [`idle`] are
//! unsafe to call: their callers (the launcher, and the mapper before any thread) promise that there is one thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::thread::UnshareFlags;

/// The step that fails first where the root directory is no mount point.
pub(crate) const PRIVATE_MOUNTS: &str =
    "make mounts private (in a chroot? its root must be a mount point: `mount --bind DIR DIR` before it)";

/// Which of the two processes that come out of a clone this is.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The calling process, with the new one's id and a file descriptor that names it.
    Parent {
        /// In the caller's process namespace.
        pid: u32,
        /// Readable when the process has ended.
        pidfd: OwnedFd,
    },
}

/// New namespaces of a cloned process.
pub(crate) const NEW_MOUNTS: u64 = libc::CLONE_NEWNS as u64;
/// As [`NEW_MOUNTS`].
pub(crate) const NEW_PROCESSES: u64 = libc::CLONE_NEWPID as u64;

/// `clone3` with a process of its own memory (a fork), in the new namespaces that `flags` names.
///
/// # Safety
///
/// The calling process has one thread. (In a process with more, the child could find locks, such as the allocator's,
/// held for ever by threads that it does not have.)
pub(crate) unsafe fn fork(flags: u64) -> io::Result<Fork> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid value of this plain structure of integers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `arguments` lives through the call, its size is passed, and `pidfd` is writable. No stack is given and
    // CLONE_VM is not set, so the child runs on a copy of this memory, as after fork; the caller has one thread.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of::<libc::clone_args>())
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        // SAFETY: the kernel has just made this descriptor (close-on-exec) and nobody else owns it.
        pid => Ok(Fork::Parent { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Gives the calling thread namespaces of its own. File descriptor tables stay shared: `flags` must not hold
/// [`UnshareFlags::FILES`], and it is taken out where it does.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: without FILES no thread sees file descriptors of an unshared table, the one thing to be promised.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags - UnshareFlags::FILES) }?)
}

/// Makes a (detached or attached) mount read-only, where `recursive` with every mount below it.
pub(crate) fn make_mount_read_only(mount: impl AsFd, recursive: bool) -> io::Result<()> {
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: all-zero is a valid value of this plain structure of integers.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_RDONLY;
    // SAFETY: the path is a NUL-terminated literal, `attributes` lives through the call and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends any signal number, real-time ones too.
pub(crate) fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed; the kernel checks the signal number.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Installs a seccomp filter for the calling thread. Needs `no_new_privs` or CAP_SYS_ADMIN.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: `filter` points to `len` instructions that live through the call; the kernel copies and checks them and
    // does not write to them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_ulong, &raw const filter)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel kill the command's process when the thread that spawns it ends, or the whole process. It holds
/// across the exec of a program without privileges of its own.
pub(crate) fn die_with_this_thread(command: &mut Command) -> &mut Command {
    let parent = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // A parent that ended before that sends nothing any more.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(tie) }
}

/// Ends the calling process at once, without running destructors or exit handlers: for a cloned process that failed
/// before its exec.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// The life of a process namespace's first process where a Pod's containers share one: it holds no file descriptors,
/// has its orphans reaped by the kernel, and waits to be killed.
///
/// # Safety
///
/// The calling process has one thread and nothing in it uses a file descriptor again.
pub(crate) unsafe fn idle() -> ! {
    // SAFETY: nobody uses the closed descriptors (the caller's promise); SIG_IGN is a valid disposition, and with it
    // the kernel reaps children by itself; pause takes no memory.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        // Containers see this process: they may not look into the launcher's program.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        loop {
            libc::pause();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reaches_a_process_by_its_descriptor() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        send_signal(&pidfd, 9).unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(send_signal(&pidfd, 9).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_tied_process_ends_with_its_thread() {
        use std::os::unix::process::ExitStatusExt;
        let (child, thread) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let spawner = std::thread::spawn(move || {
            let mut command = Command::new("sleep");
            child.send(die_with_this_thread(command.arg("600")).spawn().unwrap()).unwrap();
            wait.recv().unwrap();
        });
        let mut child = thread.recv().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        go.send(()).unwrap();
        spawner.join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_file_is_no_mount() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(make_mount_read_only(&file, true).is_err());
    }
}
