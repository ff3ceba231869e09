//! What outlives one set of programs: a folder of a BPF file system, in which maps and links have names.

use crate::{BpfError, namespace};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
    mount, unmount,
};
use std::collections::BTreeSet;
use std::fs::{DirEntry, File};
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC`.
const BPF_FS: u64 = 0xcafe_4a11;
/// Where the BPF file system is mounted everywhere.
const MOUNT: &str = "/sys/fs/bpf";
/// What a mount of ours says that it is of.
const OURS: &str = "sealane";
/// Changes with the layout of the maps that are kept: programs of another one get new ones.
const LAYOUT: u32 = 1;
/// Maps that are kept.
pub(crate) const KEPT: [&str; 4] = ["beliefs", "flows", "choices", "tracks"];

/// A folder for what is kept.
#[derive(Debug)]
pub(crate) struct Pins {
    folder: PathBuf,
    /// A mount that nobody else sees, and that goes with us.
    _own: Option<OwnedFd>,
}

impl Pins {
    /// One that ends with this process, however it ends.
    pub fn passing() -> Result<Self, BpfError> {
        let mount = || -> Result<OwnedFd, Errno> {
            let fs = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&fs)?;
            fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        let own = mount().map_err(BpfError::BpfFs)?;
        // The root has files of the kernel's.
        let folder = PathBuf::from(format!("/proc/self/fd/{}/{OURS}", own.as_raw_fd()));
        Ok(Self { folder, _own: Some(own) })
    }

    /// The one of a network namespace that is there until it is removed; the BPF file system is mounted where it is
    /// missing.
    pub fn lasting(namespace: &File) -> Result<Self, BpfError> {
        if !is_bpf_fs(Path::new(MOUNT)) {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount(OURS, MOUNT, "bpf", flags, Some(c"mode=0700")).map_err(BpfError::BpfFs)?;
        }
        Ok(Self { folder: folder(namespace)?, _own: None })
    }

    /// Makes the folder where it is not there.
    pub fn make(&self) -> Result<(), BpfError> {
        std::fs::create_dir_all(&self.folder).map_err(|why| BpfError::File { path: self.folder.clone(), why })
    }

    /// Where a map is.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(Self::map_name(name))
    }

    fn map_name(name: &str) -> String {
        format!("{name}_{LAYOUT}")
    }

    /// Where what leads a program to a link is, by the link's number.
    pub fn link(&self, program: &str, index: u32) -> PathBuf {
        self.folder.join(Self::link_name(program, index))
    }

    fn link_name(program: &str, index: u32) -> String {
        format!("{program}-{index}")
    }

    /// Takes the programs away from all links but these, by number, and removes maps of other layouts.
    pub fn keep_links(&self, programs: &[&str], indices: &[u32]) -> Result<(), BpfError> {
        let links = indices.iter().flat_map(|i| programs.iter().map(|p| Self::link_name(p, *i)));
        let names: BTreeSet<String> = links.chain(KEPT.map(Self::map_name)).collect();
        let fail = |why| BpfError::File { path: self.folder.clone(), why };
        for entry in listed(&self.folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !names.contains(&name) {
                gone(std::fs::remove_file(entry.path())).map_err(fail)?;
            }
        }
        Ok(())
    }
}

/// Removes what lasts of a network namespace, and the mount where it is ours and nothing else is in it.
pub(crate) fn remove(namespace: &File) -> Result<(), BpfError> {
    if !is_bpf_fs(Path::new(MOUNT)) {
        return Ok(());
    }
    let folder = folder(namespace)?;
    let fail = |why| BpfError::File { path: folder.clone(), why };
    for entry in listed(&folder).map_err(fail)? {
        gone(std::fs::remove_file(entry.map_err(fail)?.path())).map_err(fail)?;
    }
    gone(std::fs::remove_dir(&folder)).map_err(fail)?;
    // Other namespaces' stay, and so does what others keep there.
    let above = Path::new(MOUNT).join(OURS);
    let _ = std::fs::remove_dir(above);
    // The kernel's own files have a dot in their names, which it lets nobody else have.
    let kernels = |e: Result<DirEntry, Error>| e.is_ok_and(|e| e.file_name().as_bytes().contains(&b'.'));
    let empty = std::fs::read_dir(MOUNT).is_ok_and(|mut entries| entries.all(kernels));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if empty && mounts.contains(&format!(" {MOUNT} ")) && mounts.contains(&format!(" - bpf {OURS} ")) {
        let _ = unmount(MOUNT, UnmountFlags::empty());
    }
    Ok(())
}

/// A network namespace's folder, by its number.
fn folder(namespace: &File) -> Result<PathBuf, BpfError> {
    let facts = namespace.metadata().map_err(|why| BpfError::File { path: namespace::PATH.into(), why })?;
    Ok(Path::new(MOUNT).join(OURS).join(format!("net-{}", facts.ino())))
}

fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|facts| facts.f_type as u64 & 0xffff_ffff == BPF_FS)
}

/// What is in a folder; nothing, where it is not there.
fn listed(folder: &Path) -> Result<impl Iterator<Item = Result<DirEntry, Error>>, Error> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        entries => Ok(Some(entries?).into_iter().flatten()),
    }
}

/// What is not there needs no removal.
fn gone(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
