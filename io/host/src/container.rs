//! What a cloned process does between its clone and its exec: it becomes a container's process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::runtime::ContainerSpec;
use crate::wire::{Boot, Failure, Step};
use crate::{identity, rootfs, wire};

/// Where programs are looked up when neither image nor Pod says (containerd's default).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files of a process at first (systemd's and containerd's soft limit).
const FILES: u64 = 1024;
/// Size of /dev/shm, bytes.
const SHARED_MEMORY: u64 = 64 << 20;

/// From a process before its exec. Its socket closes on exec: an end without `Failed` means that the program runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// With the terminal's controlling end as file descriptor.
    Terminal,
    Notice(String),
    Failed(Failure),
}

/// The process's ends of its standard streams; `None` with a terminal.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The namespaces of a sandbox that a container joins.
pub(crate) struct Namespaces {
    pub(crate) network: OwnedFd,
    pub(crate) ipc: OwnedFd,
    pub(crate) host_name: OwnedFd,
}

impl Namespaces {
    /// Those of the calling thread.
    pub(crate) fn current() -> io::Result<Namespaces> {
        let open = |name: &str| -> io::Result<OwnedFd> {
            Ok(std::fs::File::open(Path::new("/proc/thread-self/ns").join(name))?.into())
        };
        Ok(Namespaces { network: open("net")?, ipc: open("ipc")?, host_name: open("uts")? })
    }

    /// Moves the calling thread in.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let enter = rustix::thread::move_into_link_name_space;
        enter(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        enter(self.ipc.as_fd(), Some(LinkNameSpaceType::InterProcessCommunication))?;
        Ok(enter(self.host_name.as_fd(), Some(LinkNameSpaceType::HostNameAndNISDomainName))?)
    }
}

/// A container's first process, from its clone on.
pub(crate) struct First<'a> {
    pub(crate) boot: &'a Boot,
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) streams: Option<Streams>,
    pub(crate) report: OwnedFd,
}

impl First<'_> {
    /// Becomes the program; comes back when something stood in the way, which it has reported.
    pub(crate) fn run(mut self) {
        let streams = self.streams.take();
        let spec = self.spec;
        let result =
            self.prepare().and_then(|()| become_program(spec, &spec.args, spec.tty, streams, &self.report));
        report_failure(result, &self.report);
    }

    fn prepare(&self) -> Result<(), Failure> {
        let spec = self.spec;
        stay_private()?;
        self.namespaces.enter().step(|| "join the Pod's namespaces".to_owned())?;
        self.cgroup.join().step(|| "join the container's cgroup".to_owned())?;
        // A cgroup namespace hides the host's hierarchy; older kernels show it.
        let _ = crate::sys::unshare(rustix::thread::UnshareFlags::NEWCGROUP);
        rustix::process::umask(Mode::empty());
        let directory = self.boot.containers.join(&spec.id);
        let mut notice = |text: String| {
            // The container starts all the same; its launcher would be gone if this failed.
            let _ = wire::send(&self.report, &Report::Notice(text), &[]);
        };
        let root = rootfs::Root::mount(spec, &directory, self.boot.in_user_namespace, &mut notice)?;
        root.system(spec, self.cgroup, self.boot.ids, SHARED_MEMORY)?;
        let mut mounts: Vec<_> = spec.mounts.iter().collect();
        // One inside another comes after it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        for mount in mounts {
            root.volume(mount)?;
        }
        if !spec.privileged {
            root.protect()?;
        }
        root.directory(working_directory(spec))?;
        root.enter(spec.read_only_root)
    }
}

/// Until its exec a process is still the launcher's program: containers may not look into it.
fn stay_private() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step(|| "become undumpable".to_owned())
}

fn report_failure(result: Result<Infallible, Failure>, report: &OwnedFd) {
    let Err(failure) = result;
    // The launcher sees this process end in any case.
    let _ = wire::send(report, &Report::Failed(failure), &[]);
}

/// A further process of a container, from its fork on.
pub(crate) struct Further<'a> {
    pub(crate) spec: &'a ContainerSpec,
    /// The container's first process.
    pub(crate) first: BorrowedFd<'a>,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) args: &'a [String],
    pub(crate) tty: bool,
    pub(crate) streams: Option<Streams>,
    pub(crate) report: OwnedFd,
}

impl Further<'_> {
    /// Becomes the program; comes back when something stood in the way, which it has reported.
    pub(crate) fn run(mut self) {
        let streams = self.streams.take();
        let result =
            self.join().and_then(|()| become_program(self.spec, self.args, self.tty, streams, &self.report));
        report_failure(result, &self.report);
    }

    fn join(&self) -> Result<(), Failure> {
        use rustix::thread::ThreadNameSpaceType as Type;
        let step = || "join the container's namespaces".to_owned();
        stay_private()?;
        self.cgroup.join().step(|| "join the container's cgroup".to_owned())?;
        let all = Type::MOUNT
            | Type::NETWORK
            | Type::INTER_PROCESS_COMMUNICATION
            | Type::HOST_NAME_AND_NIS_DOMAIN_NAME
            | Type::CONTROL_GROUP;
        rustix::thread::move_into_thread_name_spaces(self.first, all).step(step)?;
        rustix::process::umask(Mode::empty());
        Ok(())
    }
}

/// Terminal, working directory, identity, exec. Comes back with what stood in the way.
fn become_program(
    spec: &ContainerSpec,
    args: &[String],
    tty: bool,
    streams: Option<Streams>,
    report: &OwnedFd,
) -> Result<Infallible, Failure> {
    let who = &spec.identity;
    rustix::process::setsid().step(|| "start a session".to_owned())?;
    if tty {
        terminal(who.uid, report).step(|| "open a terminal".to_owned())?;
    }
    if let Some(streams) = streams {
        let step = || "connect the standard streams".to_owned();
        for stream in [&streams.stdout, &streams.stderr] {
            rootfs::give(stream, who.uid, who.gid);
        }
        rustix::stdio::dup2_stdin(&streams.stdin).step(step)?;
        rustix::stdio::dup2_stdout(&streams.stdout).step(step)?;
        rustix::stdio::dup2_stderr(&streams.stderr).step(step)?;
    }
    let cwd = working_directory(spec);
    rustix::process::chdir(cwd).step(|| format!("enter the working directory {}", cwd.display()))?;
    let wanted = identity::capabilities(spec).map_err(Failure::CannotRun)?;
    let environment = environment(spec, tty);
    // Before the change of user: a name that does not exist is one whoever looks.
    let name = args.first().ok_or_else(|| Failure::CannotRun("no command specified".to_owned()))?;
    identity::become_container(who, wanted, spec.no_new_privileges, !spec.privileged)
        .map_err(|(step, error)| Failure::step(step, &error))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    limit_files();
    let program = find(name, environment.get("PATH").map_or(PATH, String::as_str))?;
    let error = std::process::Command::new(&program)
        .arg0(name)
        .args(&args[1..])
        .env_clear()
        .envs(&environment)
        .exec();
    Err(Failure::CannotRun(format!("exec {}: {}", program.display(), reason(&error))))
}

/// The launcher's own limit is as high as it gets; programs expect the customary one, and may raise it.
fn limit_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(FILES, |maximum| maximum.min(FILES)));
    // Lowering is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}

fn working_directory(spec: &ContainerSpec) -> &Path {
    if spec.cwd.as_os_str().is_empty() { Path::new("/") } else { &spec.cwd }
}

/// A terminal of the container's own devpts becomes the process's controlling terminal and its standard streams; the
/// other end goes to the launcher.
fn terminal(uid: u32, report: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let controller = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&controller)?;
    let end = rustix::pty::ioctl_tiocgptpeer(
        &controller,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    let _ = rustix::fs::fchown(&end, Some(rustix::process::Uid::from_raw(uid)), None);
    rustix::process::ioctl_tiocsctty(&end)?;
    rustix::stdio::dup2_stdin(&end)?;
    rustix::stdio::dup2_stdout(&end)?;
    rustix::stdio::dup2_stderr(&end)?;
    wire::send(report, &Report::Terminal, &[controller.as_fd()])
}

/// The environment: what the Pod and image say, and what every container has.
fn environment(spec: &ContainerSpec, tty: bool) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = spec
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    environment.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    if !environment.contains_key("HOME") {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        environment.insert("HOME".to_owned(), home(&passwd, spec.identity.uid));
    }
    if !environment.contains_key("HOSTNAME") {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        environment.insert("HOSTNAME".to_owned(), name);
    }
    if tty {
        environment.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
    }
    environment
}

fn home(passwd: &str, uid: u32) -> String {
    let uid = uid.to_string();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entry
        .into_iter()
        .find(|fields| fields.get(2) == Some(&uid.as_str()))
        .and_then(|fields| fields.get(5).map(|home| (*home).to_owned()))
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

/// Looks a program up as a shell does; errors in the words of runc, which people know from `kubectl`.
fn find(name: &str, path: &str) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        return rootfs::executable(name.as_ref()).map(|()| PathBuf::from(name)).map_err(|error| {
            Failure::CannotRun(format!("exec: \"{name}\": stat {name}: {}", reason(&error)))
        });
    }
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(OsStr::from_bytes(name.as_bytes()));
        match rootfs::executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => refused = Some(error),
            Err(_) => {}
        }
    }
    Err(Failure::CannotRun(match refused {
        Some(error) => format!("exec: \"{name}\": {}", reason(&error)),
        None => format!("exec: \"{name}\": executable file not found in $PATH"),
    }))
}

/// An error's text without its number, in small letters.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("plain"), "").unwrap();
        std::fs::copy("/bin/true", at("program")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        let path = format!("/nowhere:{}", directory.path().display());
        assert_eq!(find("program", &path).unwrap(), at("program"));
        let message = |name: &str| match find(name, &path) {
            Err(Failure::CannotRun(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(message("missing"), "exec: \"missing\": executable file not found in $PATH");
        assert_eq!(message("directory"), "exec: \"directory\": executable file not found in $PATH");
        assert_eq!(message("/x/y"), "exec: \"/x/y\": stat /x/y: no such file or directory");
        assert_eq!(message("plain"), "exec: \"plain\": permission denied");
    }

    #[test]
    fn home_comes_from_the_images_users() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:\nnone:x:7:7:::\n";
        for (uid, expected) in [(0, "/root"), (1000, "/home/app"), (7, "/"), (5, "/")] {
            assert_eq!(home(passwd, uid), expected);
        }
    }
}
