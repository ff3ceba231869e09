//! [`Host`]: the node on this machine, and [`Runtime`] on it.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::network::Network;
use crate::outside::Forwarding;
use crate::ports::{self, Ports};
use crate::ranges::Cidr;
use crate::runtime::{ContainerSpec, ExecSpec, HostError, Runtime, SandboxSpec, Started};
use crate::threads::{blocking, lock, within};
use crate::tree::{Answered, Tree, step};
use crate::uplink::{self, Ends, Uplink};
use crate::userns::Rootless;
use crate::wire::{Boot, Descriptor, Order};
use crate::{cgroup, links, shell, userns};

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Absolute. Containers' writable layers go to `containers` in it, the launcher's number to `run`.
    pub data_dir: PathBuf,
    /// Beginning of the name of this run's cgroups, file-name safe: the node's.
    pub name: String,
    /// All Pods' range, `--pod-cidr`.
    pub pod_cidr: Cidr,
    /// This node's part of it: its second address (`.1`) is the node's own.
    pub node_cidr: Cidr,
    /// All Services' range, `--service-cidr`.
    pub service_cidr: Cidr,
    /// What [`crate::enter_user_namespace`] gave; `None` as root.
    pub rootless: Option<Rootless>,
    /// What the node is linked to where it is one of several; `None`: it is the only one, linked to the host itself.
    pub network: Option<Network>,
}

impl HostConfig {
    /// The node's own address, every Pod's gateway: the first one of its range.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node_cidr.nth(1)
    }

    /// The other side's address on the link to the node: the network's, or, of an only node, the host's, which is
    /// the last one of the node's range.
    pub fn host_address(&self) -> Ipv4Addr {
        self.network.as_ref().map_or_else(|| self.node_cidr.last_usable(), |n| n.config().address())
    }

    /// The Pods' range whose addresses are nowhere else.
    fn own_pods(&self) -> Cidr {
        if self.network.is_some() { self.node_cidr } else { self.pod_cidr }
    }

    fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// Name of this run's cgroups: nodes of one name in different data directories keep apart, and the next run on
    /// this directory finds what was left.
    fn cgroup(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.data_dir.hash(&mut hasher);
        format!("{}-{:08x}", self.name, hasher.finish() as u32)
    }
}

/// The node on this machine. Clones are the same node.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    config: HostConfig,
    forwarding: Option<Forwarding>,
    run: Mutex<Option<Arc<Run>>>,
}

/// The node from one start of its launcher to the launcher's end.
struct Run {
    tree: Tree,
    /// Network namespaces by sandbox.
    sandboxes: Mutex<HashMap<String, Arc<OwnedFd>>>,
    /// Sandboxes by container.
    containers: Mutex<HashMap<String, String>>,
    ports: Arc<Mutex<Ports>>,
    /// Of an only node; several share their network's.
    _uplink: Option<Uplink>,
}

impl Host {
    /// Makes the node: its namespaces, network and launcher. Whatever an earlier run left is removed first.
    ///
    /// # Errors
    ///
    /// One line: ranges that overlap the host's routes (with a proposal), or what stands in the way.
    pub async fn start(config: HostConfig) -> Result<Host, HostError> {
        blocking(move || {
            let forwarding = match config.network {
                Some(_) => None,
                None => Forwarding::of(config.rootless.is_some())?,
            };
            let run = start(&config, forwarding.as_ref())?;
            let run = Mutex::new(Some(Arc::new(run)));
            Ok(Host { inner: Arc::new(Inner { config, forwarding, run }) })
        })
        .await
    }

    /// Makes a fresh node after the launcher was lost. Every Pod of the old one has ended.
    ///
    /// # Errors
    ///
    /// As [`Host::start`].
    pub async fn restart(&self) -> Result<(), HostError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            // First the old one goes: its link and table have the new one's names.
            drop(lock(&inner.run).take());
            unlink(&inner.config)?;
            let run = start(&inner.config, inner.forwarding.as_ref())?;
            *lock(&inner.run) = Some(Arc::new(run));
            Ok(())
        })
        .await
    }

    /// Comes when the launcher, and with it every Pod, has ended.
    pub async fn lost(&self) {
        let lost: Option<watch::Receiver<bool>> =
            lock(&self.inner.run).as_ref().map(|run| run.tree.lost.clone());
        if let Some(mut lost) = lost {
            // An error says that the launcher's keeper is gone: lost as well.
            let _ = lost.wait_for(|lost| *lost).await;
        }
    }

    /// What this node was made of.
    pub fn config(&self) -> &HostConfig {
        &self.inner.config
    }

    /// The launcher's process id.
    pub fn launcher_pid(&self) -> Option<u32> {
        lock(&self.inner.run).as_ref().map(|run| run.tree.pid)
    }

    /// Ends everything that is left of the node and removes every trace of it; Pods should have been told to end
    /// before. After `deadline` the launcher is killed.
    ///
    /// # Errors
    ///
    /// What could not be removed.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), HostError> {
        let Some(run) = lock(&self.inner.run).take() else { return Ok(()) };
        run.tree.close();
        let mut lost = run.tree.lost.clone();
        if tokio::time::timeout(deadline, lost.wait_for(|lost| *lost)).await.is_err() {
            if let Some(pid) = i32::try_from(run.tree.pid).ok().and_then(rustix::process::Pid::from_raw) {
                // Ended in this very moment is as good.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let _ = lost.wait_for(|lost| *lost).await;
        }
        drop(run);
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let config = &inner.config;
            unlink(config)?;
            inner.forwarding.as_ref().map_or(Ok(()), Forwarding::restore)?;
            cgroup::remove_left(&config.cgroup(), config.rootless.is_some());
            remove_directory(&config.containers())?;
            match fs::remove_file(shell::state_file(&config.data_dir)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(step("remove the launcher's number", error))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// Runs a closure on a thread inside the node's network namespace: sockets that it opens stay there. Meant for
    /// opening sockets; it may block.
    ///
    /// # Errors
    ///
    /// [`HostError::Lost`], or that the namespace can't be entered.
    pub async fn node_network<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HostError> {
        let node = Arc::clone(&self.run()?.tree.node);
        within(node, run).await
    }

    /// As [`Host::node_network`], in a sandbox's network namespace.
    ///
    /// # Errors
    ///
    /// As [`Host::node_network`]; [`HostError::Unknown`] for a sandbox that does not exist.
    pub async fn sandbox_network<T: Send + 'static>(
        &self,
        sandbox: &str,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HostError> {
        let found = lock(&self.run()?.sandboxes).get(sandbox).cloned();
        let network = found.ok_or_else(|| HostError::Unknown(format!("sandbox {sandbox}")))?;
        within(network, run).await
    }

    fn node(&self) -> ports::Node {
        let config = &self.inner.config;
        ports::Node { address: config.gateway(), pods: config.pod_cidr }
    }

    fn run(&self) -> Result<Arc<Run>, HostError> {
        lock(&self.inner.run).clone().ok_or(HostError::Lost)
    }
}

/// The node's link goes.
fn unlink(config: &HostConfig) -> Result<(), HostError> {
    match &config.network {
        Some(network) => network.detach(config.gateway(), config.node_cidr),
        None => uplink::close(config.rootless.is_some()),
    }
}

fn start(config: &HostConfig, forwarding: Option<&Forwarding>) -> Result<Run, HostError> {
    let rootless = config.rootless.is_some();
    shell::refuse_second(&config.data_dir)?;
    if config.network.is_none() {
        uplink::prepare(rootless, config.pod_cidr, config.service_cidr)?;
    }
    let containers = config.containers();
    remove_directory(&containers)?;
    fs::create_dir_all(&containers).map_err(|error| step(format!("make {}", containers.display()), error))?;
    let forwarding = config.network.as_ref().map_or(forwarding, Network::forwarding);
    let saved = forwarding.map(Forwarding::for_launcher).transpose();
    let (restore, values) = saved
        .map_err(|error| step("keep net.ipv4.ip_forward", error))?
        .into_iter()
        .unzip::<_, _, Vec<_>, _>();
    let mtu = uplink::mtu(rootless);
    let boot = Boot {
        containers,
        name: config.cgroup(),
        gateway: config.gateway(),
        rootless,
        in_user_namespace: !userns::is_initial(),
        ids: config.rootless.as_ref().map_or(u32::MAX, |rootless| rootless.ids),
        mtu,
        restore: values,
    };
    let node = config.clone();
    let tree = Tree::start(&config.name, boot, &restore, Box::new(move || make_node(&node, mtu)))?;
    let uplink = match &config.network {
        Some(network) => network.attach(&tree.node, config.gateway(), config.node_cidr).map(|()| None)?,
        None => {
            let ends = Ends {
                rootless,
                host: config.host_address(),
                inner: config.gateway(),
                pods: config.pod_cidr,
                others: vec![config.service_cidr],
                services: true,
            };
            Some(Uplink::open(ends, &tree.node, forwarding)?)
        }
    };
    shell::write_state(&config.data_dir, tree.pid)?;
    Ok(Run {
        tree,
        sandboxes: Mutex::default(),
        containers: Mutex::default(),
        ports: Arc::default(),
        _uplink: uplink,
    })
}

/// Inside the node's new network namespace.
fn make_node(config: &HostConfig, mtu: u32) -> Result<(), HostError> {
    let (gateway, prefix) = (config.gateway(), config.node_cidr.prefix);
    links::make_node(gateway, prefix, config.own_pods(), config.service_cidr, mtu)
        .map_err(|error| step("make the node's network", error))?;
    uplink::route_packets()?;
    uplink::set("conf/sealane0/send_redirects", "0")?;
    // Where the kernel has br_netfilter, it would rewrite Service traffic on the bridge, below routing, and then pass it
    // on between isolated ports, which is to drop it. Here every packet between Pods is routed, and filtered there.
    for family in ["ip", "ip6", "arp"] {
        let name = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
        match fs::write(&name, "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(step(format!("turn {name} off in the node's network"), error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), HostError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(step(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn started(answered: Answered) -> Started {
    let Answered { answer, descriptors, exit } = answered;
    let mut started =
        Started { pid: answer.pid, process: answer.process, stdin: None, stdout: None, stderr: None, exit };
    for (kind, descriptor) in answer.descriptors.into_iter().zip(descriptors) {
        match kind {
            Descriptor::Stdin => started.stdin = Some(descriptor),
            Descriptor::Stdout => started.stdout = Some(descriptor),
            Descriptor::Stderr => started.stderr = Some(descriptor),
            Descriptor::Terminal => {
                started.stdin = descriptor.try_clone().ok();
                started.stdout = Some(descriptor);
            }
            Descriptor::NetworkNamespace => {}
        }
    }
    started
}

/// A TCP socket of the calling thread's network namespace.
fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

async fn connect(socket: io::Result<OwnedFd>, to: SocketAddr) -> Result<TcpStream, HostError> {
    let failed = |error| step(format!("connect to {to}"), error);
    let socket = TcpSocket::from_std_stream(socket.map_err(failed)?.into());
    socket.connect(to).await.map_err(failed)
}

impl Runtime for Host {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<(), HostError> {
        let run = self.run()?;
        let (id, address, wanted) = (spec.id.clone(), spec.address, spec.ports.clone());
        let answered = run.tree.ask(Order::CreateSandbox(spec)).await?;
        if let Some(network) = answered.descriptors.into_iter().next() {
            lock(&run.sandboxes).insert(id.clone(), Arc::new(network));
        }
        let (Some(address), false) = (address, wanted.is_empty()) else { return Ok(()) };
        let (ports, node, name) = (Arc::clone(&run.ports), self.node(), id.clone());
        let opened =
            within(Arc::clone(&run.tree.node), move || lock(&ports).open(node, &name, address, &wanted));
        if let Err(error) = opened.await? {
            self.remove_sandbox(&id).await?;
            return Err(step("open the Pod's host ports", error));
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), HostError> {
        let run = self.run()?;
        if lock(&run.ports).has(id) {
            lock(&run.ports)
                .close(self.node(), id)
                .map_err(|error| step("close the Pod's host ports", error))?;
        }
        lock(&run.sandboxes).remove(id);
        run.tree.ask(Order::RemoveSandbox(id.to_owned())).await?;
        let containers: Vec<String> = {
            let mut all = lock(&run.containers);
            let gone =
                all.iter().filter(|(_, sandbox)| *sandbox == id).map(|(name, _)| name.clone()).collect();
            all.retain(|_, sandbox| sandbox != id);
            gone
        };
        let directory = self.inner.config.containers();
        blocking(move || containers.iter().try_for_each(|name| remove_directory(&directory.join(name)))).await
    }

    async fn start_container(&self, spec: ContainerSpec) -> Result<Started, HostError> {
        let run = self.run()?;
        lock(&run.containers).insert(spec.id.clone(), spec.sandbox.clone());
        run.tree.ask(Order::Start(Box::new(spec))).await.map(started)
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), HostError> {
        let order = Order::Signal { container: container.to_owned(), signal };
        self.run()?.tree.ask(order).await.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<(), HostError> {
        let run = self.run()?;
        run.tree.ask(Order::RemoveContainer(id.to_owned())).await?;
        lock(&run.containers).remove(id);
        let directory = self.inner.config.containers().join(id);
        blocking(move || remove_directory(&directory)).await
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Started, HostError> {
        self.run()?.tree.ask(Order::Exec(spec)).await.map(started)
    }

    async fn kill_exec(&self, process: u64) -> Result<(), HostError> {
        self.run()?.tree.ask(Order::KillExec(process)).await.map(drop)
    }

    fn resize(&self, terminal: &OwnedFd, columns: u16, rows: u16) -> Result<(), HostError> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(|error| step("set the terminal's size", error))
    }

    async fn dial(&self, sandbox: &str, port: u16) -> Result<TcpStream, HostError> {
        let ipv4 = self.sandbox_network(sandbox, || socket(AddressFamily::INET)).await?;
        match connect(ipv4, (Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => Ok(stream),
            Err(first) => {
                let ipv6 = self.sandbox_network(sandbox, || socket(AddressFamily::INET6)).await?;
                let to = (std::net::Ipv6Addr::LOCALHOST, port).into();
                connect(ipv6, to).await.map_err(|_| first)
            }
        }
    }

    async fn connect_from_node(&self, to: SocketAddr) -> Result<TcpStream, HostError> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = self.node_network(move || socket(family)).await?;
        connect(socket, to).await
    }
}
