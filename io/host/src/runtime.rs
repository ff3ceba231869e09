//! [`Runtime`]: sandboxes and containers, as the node's agent asks for them. [`crate`] implements it with the
//! launcher process; tests with a fake.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A Pod's namespaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique, file-name safe: the Pod's uid.
    pub id: String,
    /// Host name inside.
    pub hostname: String,
    /// Address on the node's bridge; `None`: the node's own network (hostNetwork).
    pub address: Option<Ipv4Addr>,
    /// `net.*` and other namespaced sysctls.
    pub sysctls: Vec<(String, String)>,
    /// All containers see each other's processes.
    pub share_processes: bool,
    /// Ports of the node that lead here; with an address alone.
    pub ports: Vec<HostPort>,
}

/// A port of the node that leads into a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// IP protocol number: TCP 6, UDP 17, SCTP 132.
    pub protocol: u8,
    /// On this address of the node; `None`: its address on the bridge, and its loopback.
    pub address: Option<Ipv4Addr>,
    /// The node's port.
    pub port: u16,
    /// The Pod's port.
    pub target: u16,
}

/// A file or directory of the host made visible inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Path outside.
    pub source: PathBuf,
    /// Absolute path inside; made where missing.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// A tmpfs of so many bytes at most instead of `source` (emptyDir `medium: Memory`).
    pub tmpfs: Option<u64>,
}

/// Who a process is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique, file-name safe.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// Unpacked image layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Program and arguments; the program is looked up in `PATH` of `env`, inside.
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, made where missing.
    pub cwd: PathBuf,
    /// Who runs.
    pub identity: Identity,
    /// Volumes, `/etc/hosts`, `/etc/resolv.conf`, the termination message file.
    pub mounts: Vec<Mount>,
    /// A terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// Root file system read-only.
    pub read_only_root: bool,
    /// All capabilities, all devices, no masked paths.
    pub privileged: bool,
    /// Capability names without `CAP_`, to add to the default set.
    pub add_capabilities: Vec<String>,
    /// To drop; `ALL`.
    pub drop_capabilities: Vec<String>,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// Limit in bytes, where there is a memory cgroup.
    pub memory_limit: Option<u64>,
    /// Limit in thousandths of a core, where there is a cpu cgroup.
    pub cpu_limit_milli: Option<u64>,
    /// Request in thousandths of a core: cpu shares.
    pub cpu_request_milli: Option<u64>,
}

/// A container that runs; the ends of its standard streams.
#[derive(Debug)]
pub struct Started {
    /// In the host's (or the node's) process namespace; for people, never for signals.
    pub pid: u32,
    /// The runtime's own number for it, for [`Runtime::kill_exec`]; given once.
    pub process: u64,
    /// To the process; the terminal where there is one.
    pub stdin: Option<OwnedFd>,
    /// From the process; the terminal where there is one.
    pub stdout: Option<OwnedFd>,
    /// From the process; none with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Comes when the process has ended and every process of the container is reaped.
    pub exit: oneshot::Receiver<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, 128 + n where signal n ended it.
    pub code: i32,
    /// The signal, 0 where none.
    pub signal: i32,
    /// The kernel's out-of-memory killer ended it.
    pub oom_killed: bool,
    /// The launcher itself is gone, and everything with it.
    pub node_lost: bool,
}

/// A further process in a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// Input is wanted.
    pub stdin: bool,
}

/// Why the host did not do it; one line that says what and why.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A step failed; `context` says which, in the words of who reads it.
    #[error("{context}: {source}")]
    Step {
        /// What was being done.
        context: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The program does not exist inside or may not be run (exit status 127 or 126 of a shell).
    #[error("{0}")]
    CannotRun(String),
    /// No such sandbox or container.
    #[error("no such {0}")]
    Unknown(String),
    /// The launcher process is gone; all Pods ended with it.
    #[error("the node's launcher process is gone")]
    Lost,
}

/// What the agent asks of the host. Calls are quick and may be made from several tasks.
pub trait Runtime: Send + Sync + 'static {
    /// Makes a Pod's namespaces and, where it has an address, its link on the bridge.
    fn create_sandbox(&self, spec: SandboxSpec) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Removes it with every process that is left in it. Idempotent.
    fn remove_sandbox(&self, id: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Starts a container's process.
    fn start_container(&self, spec: ContainerSpec)
    -> impl Future<Output = Result<Started, HostError>> + Send;
    /// Sends a signal to a container's first process.
    fn signal(&self, container: &str, signal: i32) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Removes an ended container's mounts and writable layer. Idempotent; kills it where it still runs.
    fn remove_container(&self, id: &str) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Runs a further process in a container. Dropping the streams does not end it, but for a terminal, which hangs
    /// up.
    fn exec(&self, spec: ExecSpec) -> impl Future<Output = Result<Started, HostError>> + Send;
    /// Kills a process that [`Runtime::exec`] started, not what it started itself. Idempotent.
    fn kill_exec(&self, process: u64) -> impl Future<Output = Result<(), HostError>> + Send;
    /// Sets a terminal's size.
    fn resize(&self, terminal: &OwnedFd, columns: u16, rows: u16) -> Result<(), HostError>;
    /// Connects to a port on the sandbox's own loopback (127.0.0.1, then ::1).
    fn dial(
        &self,
        sandbox: &str,
        port: u16,
    ) -> impl Future<Output = Result<tokio::net::TcpStream, HostError>> + Send;
    /// Connects to an address from the node's network namespace (probes).
    fn connect_from_node(
        &self,
        to: std::net::SocketAddr,
    ) -> impl Future<Output = Result<tokio::net::TcpStream, HostError>> + Send;
}
