//! What goes wrong, in words that help.

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why eBPF did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// No cgroup of version 2 at this path, or (`None`) anywhere.
    #[error(
        "{} is no cgroup v2, which eBPF service rules need: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or boot with systemd.unified_cgroup_hierarchy=1",
        .0.as_ref().map_or("there".into(), |p| p.display().to_string())
    )]
    NoCgroup(Option<PathBuf>),
    /// A cgroup's file could not be read.
    #[error("{path}: {why}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
    /// The kernel refused the maps or the object.
    #[error(
        "the kernel takes no eBPF maps: {}; it needs root (CAP_BPF, CAP_NET_ADMIN) and CONFIG_BPF_SYSCALL",
        whole(.0)
    )]
    Load(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refuses the eBPF program {name}: {}; it needs CONFIG_CGROUP_BPF and Linux 5.13", whole(.why))]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        why: Box<ProgramError>,
    },
    /// A map could not be read or written.
    #[error("the eBPF map {map}: {}", whole(.why))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        why: Box<MapError>,
    },
    /// A map holds what nobody here writes.
    #[error("the eBPF map {0} holds what was not written by us: rules must be written anew")]
    Foreign(&'static str),
    /// The kernel does not say which programs a cgroup has.
    #[error("the kernel does not say which eBPF programs are attached: {0}")]
    Query(std::io::Error),
    /// A network namespace is out of reach.
    #[error("a network namespace could not be entered: {0}; it needs root (CAP_SYS_ADMIN)")]
    Namespace(Errno),
    /// There is no BPF file system, and none could be mounted.
    #[error(
        "no BPF file system can be mounted at /sys/fs/bpf: {0}; it needs root (CAP_SYS_ADMIN) or somebody who does it before \
         (mount -t bpf bpf /sys/fs/bpf; in a Pod a hostPath volume)"
    )]
    BpfFs(Errno),
    /// What is kept there is of no use.
    #[error("{}: {why}; sealane proxy --cleanup removes it", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The kernel is too old for programs at links that outlive their process.
    #[error("eBPF programs at links need Linux 6.6 (tcx)")]
    NoTcx,
    /// Links could not be listed.
    #[error("links to the outside could not be listed: {0}")]
    Links(Errno),
    /// Sockets could not be listed or ended.
    #[error("sockets of endpoints that are gone: {what}: {errno}")]
    Sockets {
        /// What was tried.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
}

/// An error with what caused it, which aya tells apart.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl BpfError {
    pub(crate) fn map(map: &'static str) -> impl Fn(MapError) -> Self {
        move |why| BpfError::Map { map, why: Box::new(why) }
    }
}
