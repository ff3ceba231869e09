//! A container's file system: layers, system mounts, devices, volumes. Run in the cloned process, in its own mount
//! namespace; everything is mounted on file descriptors that were resolved inside the root, so that a symbolic link of
//! an image never leads a mount outside.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::cgroup::Cgroup;
use crate::runtime::{ContainerSpec, Mount};
use crate::sys;
use crate::wire::{Failure, Step};

/// What hides kernel facts from a container, as container runtimes do (runc `libcontainer/specconv/example.go`).
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Device nodes: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The options of mount(2) fill a page at most.
const OPTIONS_LENGTH: usize = 4095;

/// A container's root, mounted; `notice` is told what works in a lesser way than it could.
pub(crate) struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Mounts the layers with a writable one above them in `directory` (its own directory, made where missing).
    pub(crate) fn mount(
        spec: &ContainerSpec,
        directory: &Path,
        in_user_namespace: bool,
        notice: &mut dyn FnMut(String),
    ) -> Result<Root, Failure> {
        let target = directory.join("root");
        let upper = directory.join("upper");
        let work = directory.join("work");
        let empty = directory.join("empty");
        for made in [&target, &upper, &work, &empty] {
            std::fs::create_dir_all(made).step(|| format!("make {}", made.display()))?;
        }
        let mut layers = spec.layers.clone();
        if layers.is_empty() {
            layers.push(empty);
        }
        for layer in &layers {
            std::fs::metadata(layer).step(|| format!("read the image layer {}", layer.display()))?;
        }
        if let Err(first) = overlay(&layers, &upper, &work, &target, in_user_namespace) {
            // The data directory's file system cannot hold an overlay's writable layer (it is an overlay itself).
            let memory = directory.join("memory");
            let in_memory = std::fs::create_dir_all(&memory)
                .and_then(|()| tmpfs_at(&memory))
                .and_then(|()| std::fs::create_dir_all(memory.join("upper")))
                .and_then(|()| std::fs::create_dir_all(memory.join("work")))
                .and_then(|()| {
                    overlay(&layers, &memory.join("upper"), &memory.join("work"), &target, in_user_namespace)
                });
            let how = if in_memory.is_ok() {
                "files that containers write are kept in memory"
            } else {
                let copy = || "copy the image".to_owned();
                crate::copy::layers(&layers, &target).step(copy)?;
                // A root has to be a mount.
                rustix::mount::mount_bind(&target, &target).step(copy)?;
                "images are copied for each container, which is slow"
            };
            let place = directory.parent().unwrap_or(directory).display();
            notice(format!(
                "{how}: overlay is not possible in {place} ({first}); a --data-dir on ext4, xfs, btrfs or a volume, or \
                 a newer kernel, avoids that"
            ));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(&target, flags, Mode::empty()).step(|| format!("open {}", target.display()))?;
        Ok(Root { directory })
    }

    /// /proc, /dev and /sys.
    pub(crate) fn system(
        &self,
        spec: &ContainerSpec,
        cgroup: &Cgroup,
        ids: u32,
        shared_memory: u64,
    ) -> Result<(), Failure> {
        let strict = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = new("proc", &[], strict).step(|| {
            "mount /proc (in a container? it hides parts of its own /proc: run it with --privileged or \
             --security-opt systempaths=unconfined)"
                .to_owned()
        })?;
        self.attach(&proc, "/proc")?;
        if spec.privileged {
            self.attach(&tree("/dev".as_ref(), true).step(|| "read /dev".to_owned())?, "/dev")?;
        } else {
            self.devices()?;
        }
        let group = if ids > 5 { ["gid", "5"] } else { ["gid", "0"] };
        let terminals = [["newinstance", ""], ["ptmxmode", "0666"], ["mode", "0620"], group];
        let terminals =
            new("devpts", &terminals, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
                .step(|| "mount /dev/pts".to_owned())?;
        self.attach(&terminals, "/dev/pts")?;
        let size = shared_memory.to_string();
        let shared = new("tmpfs", &[["mode", "1777"], ["size", &size]], strict)
            .step(|| "mount /dev/shm".to_owned())?;
        self.attach(&shared, "/dev/shm")?;
        // Kernels without POSIX message queues.
        if let Ok(queues) = new("mqueue", &[], strict) {
            self.attach(&queues, "/dev/mqueue")?;
        }
        let sys = match new("sysfs", &[], strict | MountAttrFlags::MOUNT_ATTR_RDONLY) {
            Ok(sys) => sys,
            // Not this user namespace's network, or hidden parts: the host's, as it is.
            Err(_) => tree("/sys".as_ref(), true).step(|| "read /sys".to_owned())?,
        };
        if !spec.privileged {
            sys::make_mount_read_only(&sys, true).step(|| "make /sys read-only".to_owned())?;
        }
        self.attach(&sys, "/sys")?;
        self.cgroups(cgroup)
    }

    fn devices(&self) -> Result<(), Failure> {
        let devices =
            new("tmpfs", &[["mode", "0755"], ["size", "65536k"]], MountAttrFlags::MOUNT_ATTR_NOSUID)
                .step(|| "mount /dev".to_owned())?;
        self.attach(&devices, "/dev")?;
        for (name, major, minor) in DEVICES {
            let device = rustix::fs::makedev(major, minor);
            let mode = Mode::from_raw_mode(0o666);
            if rustix::fs::mknodat(&devices, name, FileType::CharacterDevice, mode, device).is_err() {
                // A user namespace makes no devices: the host's are shown instead.
                let source = Path::new("/dev").join(name);
                let of_host = tree(&source, false).step(|| format!("read {}", source.display()))?;
                let target = self.resolve(&source, Some(Kind::File))?;
                mount_on(&of_host, &target).step(|| format!("mount {}", source.display()))?;
            }
        }
        for (name, to) in [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            rustix::fs::symlinkat(to, &devices, name).step(|| format!("make /dev/{name}"))?;
        }
        Ok(())
    }

    /// The container's own cgroup where programs look for their limits.
    fn cgroups(&self, cgroup: &Cgroup) -> Result<(), Failure> {
        let mut directories = cgroup.directories().peekable();
        let Some((first, _)) = directories.peek() else { return Ok(()) };
        if !first.is_empty() {
            let Ok(hierarchies) = new("tmpfs", &[["mode", "0755"]], MountAttrFlags::MOUNT_ATTR_NOSUID) else {
                return Ok(());
            };
            self.attach(&hierarchies, "/sys/fs/cgroup")?;
        }
        for (controller, directory) in directories {
            let tree = tree(directory, false).step(|| format!("read {}", directory.display()))?;
            sys::make_mount_read_only(&tree, true).step(|| "make a cgroup read-only".to_owned())?;
            self.attach(&tree, Path::new("/sys/fs/cgroup").join(controller))?;
        }
        Ok(())
    }

    /// A volume.
    pub(crate) fn volume(&self, mount: &Mount) -> Result<(), Failure> {
        let at = || format!("mount {} at {}", mount.source.display(), mount.target.display());
        let (tree, kind) = if let Some(size) = mount.tmpfs {
            let size = size.to_string();
            let tree = new("tmpfs", &[["mode", "1777"], ["size", &size]], MountAttrFlags::empty());
            (tree.step(at)?, Kind::Directory)
        } else {
            let directory = std::fs::metadata(&mount.source).step(at)?.is_dir();
            let tree = tree(&mount.source, directory).step(at)?;
            (tree, if directory { Kind::Directory } else { Kind::File })
        };
        if mount.read_only {
            sys::make_mount_read_only(&tree, true).step(at)?;
        }
        let target = self.resolve(&mount.target, Some(kind))?;
        mount_on(&tree, &target).step(at)
    }

    /// Makes a directory with its parents where it is missing.
    pub(crate) fn directory(&self, path: &Path) -> Result<(), Failure> {
        self.resolve(path, Some(Kind::Directory)).map(drop)
    }

    /// Hides and protects parts of /proc and /sys; what is not there needs no hiding.
    pub(crate) fn protect(&self) -> Result<(), Failure> {
        for path in READ_ONLY {
            if let Ok(target) = self.resolve(path.as_ref(), None) {
                let step = || format!("make {path} read-only");
                let tree = tree_of(&target).step(step)?;
                sys::make_mount_read_only(&tree, true).step(step)?;
                mount_on(&tree, &target).step(step)?;
            }
        }
        for path in MASKED {
            let Ok(target) = self.resolve(path.as_ref(), None) else { continue };
            let step = || format!("hide {path}");
            let directory = FileType::from_raw_mode(rustix::fs::fstat(&target).step(step)?.st_mode)
                == FileType::Directory;
            let cover = if directory {
                new("tmpfs", &[["size", "0"]], MountAttrFlags::MOUNT_ATTR_RDONLY)
            } else {
                tree("/dev/null".as_ref(), false)
            };
            mount_on(&cover.step(step)?, &target).step(step)?;
        }
        Ok(())
    }

    /// Makes the calling process see this root alone.
    pub(crate) fn enter(self, read_only: bool) -> Result<(), Failure> {
        let step = || "enter the container's root".to_owned();
        rustix::process::fchdir(&self.directory).step(step)?;
        rustix::process::pivot_root(".", ".").step(step)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).step(step)?;
        rustix::process::chdir("/").step(step)?;
        if read_only {
            let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(step)?;
            sys::make_mount_read_only(&root, false).step(|| "make the root read-only".to_owned())?;
        }
        Ok(())
    }

    fn attach(&self, tree: &OwnedFd, target: impl AsRef<Path>) -> Result<(), Failure> {
        let target = target.as_ref();
        let point = self.resolve(target, Some(Kind::Directory))?;
        mount_on(tree, &point).step(|| format!("mount {}", target.display()))
    }

    /// Opens a path inside the root, made (with its parents) where it is missing and `make` says as what.
    fn resolve(&self, path: &Path, make: Option<Kind>) -> Result<OwnedFd, Failure> {
        resolve(&self.directory, path, make).step(|| format!("find {} in the image", path.display()))
    }
}

/// What to make of a mount point that is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
}

fn resolve(root: &OwnedFd, path: &Path, make: Option<Kind>) -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
    };
    match (open(path), make) {
        (Err(rustix::io::Errno::NOENT), Some(kind)) => {
            let mut names = path.components().filter_map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            });
            let last = names.next_back().ok_or(io::ErrorKind::InvalidInput)?;
            let mut at = PathBuf::new();
            let mut parent = open(&at)?;
            for name in names {
                at.push(name);
                parent = match open(&at) {
                    Err(rustix::io::Errno::NOENT) => {
                        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                        open(&at)?
                    }
                    found => found?,
                };
            }
            if kind == Kind::Directory {
                rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o755))?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, last, flags, Mode::from_raw_mode(0o644))?;
            }
            at.push(last);
            Ok(open(&at)?)
        }
        (found, _) => Ok(found?),
    }
}

fn overlay(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    in_user_namespace: bool,
) -> io::Result<()> {
    // Layers lie side by side: named from there, many more of them fit the options.
    let parent = layers.first().and_then(|layer| layer.parent()).unwrap_or(Path::new("/"));
    rustix::process::chdir(parent)?;
    let mut options = b"lowerdir=".to_vec();
    for (at, layer) in layers.iter().rev().enumerate() {
        if at > 0 {
            options.push(b':');
        }
        options.extend(escaped(layer.strip_prefix(parent).unwrap_or(layer)));
    }
    options.extend(b",upperdir=");
    options.extend(escaped(upper));
    options.extend(b",workdir=");
    options.extend(escaped(work));
    if in_user_namespace {
        options.extend(b",userxattr");
    }
    if options.len() > OPTIONS_LENGTH {
        return Err(io::Error::other("the image has too many layers"));
    }
    // What a container writes lives as long as the container: it need not survive a crash of the machine.
    for volatile in [&b",volatile"[..], b""] {
        let options = CString::new([&options, volatile].concat())?;
        match rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str()) {
            Err(rustix::io::Errno::INVAL) if !volatile.is_empty() => {}
            result => return Ok(result?),
        }
    }
    Ok(())
}

/// Overlay reads `:`, `,` and `\` in a path as its own.
fn escaped(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if b":,\\".contains(byte) {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    bytes
}

fn tmpfs_at(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), None)?)
}

/// A new file system, not attached anywhere yet. An option without a value is a flag.
fn new(kind: &str, options: &[[&str; 2]], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for [key, value] in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of what is mounted at a path, not attached anywhere yet.
fn tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(rustix::fs::CWD, path, flags)?)
}

fn tree_of(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(at, "", flags)?)
}

fn mount_on(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}

/// Hands the ends of a process's streams to the user that it runs as, so that it may open /dev/stdout.
pub(crate) fn give(stream: impl AsFd, uid: u32, gid: u32) {
    let uid = rustix::process::Uid::from_raw(uid);
    let gid = rustix::process::Gid::from_raw(gid);
    // A stream that cannot change hands still works by its number.
    let _ = rustix::fs::fchown(stream, Some(uid), Some(gid));
}

/// Whether a path is an ordinary file that somebody may run.
pub(crate) fn executable(path: &Path) -> Result<(), io::Error> {
    let found = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let flags = AtFlags::EACCESS;
    Ok(rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_an_image_never_lead_outside() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let inside = root.path();
        std::os::unix::fs::symlink(outside.path(), inside.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", inside.join("up")).unwrap();
        std::fs::create_dir(inside.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", inside.join("configuration")).unwrap();
        let fd = OwnedFd::from(std::fs::File::open(inside).unwrap());
        resolve(&fd, "/up/var/run/made".as_ref(), Some(Kind::Directory)).unwrap();
        assert!(inside.join("var/run/made").is_dir());
        resolve(&fd, "/configuration/hosts".as_ref(), Some(Kind::File)).unwrap();
        assert!(inside.join("etc/hosts").is_file());
        resolve(&fd, "/../../a/../b".as_ref(), Some(Kind::Directory)).unwrap();
        // A link to a place outside dangles inside: refused, and nothing is made outside.
        assert!(resolve(&fd, "/absolute/file".as_ref(), Some(Kind::File)).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(resolve(&fd, "/missing".as_ref(), None).is_err());
    }

    #[test]
    fn paths_in_overlay_options_are_escaped() {
        assert_eq!(escaped("/a:b,c\\d".as_ref()), b"/a\\:b\\,c\\\\d");
    }
}
