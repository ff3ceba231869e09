//! Sandboxes: a Pod's namespaces and its link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::thread::UnshareFlags;

use super::{Launcher, Reply};
use crate::container::Namespaces;
use crate::links;
use crate::runtime::SandboxSpec;
use crate::sys::{self, Fork};
use crate::wire::{Answer, Descriptor, Failure, Step};

/// A Pod's namespaces.
pub(crate) struct Sandbox {
    pub(super) spec: SandboxSpec,
    pub(super) namespaces: Namespaces,
    /// The first process of the process namespace that its containers share.
    pub(super) shared: Option<Shared>,
    /// Requests that wait for its removal.
    pub(super) removers: Vec<u64>,
}

/// A process namespace that outlives any one container.
pub(crate) struct Shared {
    pub(super) namespace: OwnedFd,
    pub(super) process: u64,
}

impl Launcher {
    pub(super) fn create_sandbox(&mut self, spec: SandboxSpec) -> Result<Reply, Failure> {
        if self.sandboxes.contains_key(&spec.id) {
            return Err(Failure::step(
                format!("make the sandbox {}", spec.id),
                &io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let holder = self
            .sandboxes
            .values()
            .find(|other| spec.address.is_some() && other.spec.address == spec.address);
        if let Some(holder) = holder {
            let text = format!("the Pod {} has its address", holder.spec.hostname);
            return Err(Failure::step(format!("make the sandbox {}", spec.id), &io::Error::other(text)));
        }
        let made = self.make_namespaces(&spec);
        // The launcher's own place is the node's, whatever happened. Without the way back nothing later is right.
        if let Err(error) = self.node.enter() {
            eprintln!("sealane launcher: go back to the node's namespaces: {error}");
            std::process::exit(1);
        }
        let namespaces = made?;
        let shared = spec.share_processes.then(|| self.share_processes()).transpose()?;
        let step = || "hand out the Pod's network namespace".to_owned();
        let network = namespaces.network.as_fd().try_clone_to_owned().step(step)?;
        let id = spec.id.clone();
        self.sandboxes.insert(id, Sandbox { spec, namespaces, shared, removers: Vec::new() });
        let answer = Answer { descriptors: vec![Descriptor::NetworkNamespace], ..Answer::default() };
        Ok((answer, vec![network]))
    }

    /// Leaves the launcher in the new namespaces.
    fn make_namespaces(&self, spec: &SandboxSpec) -> Result<Namespaces, Failure> {
        let mut flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        if spec.address.is_some() {
            flags |= UnshareFlags::NEWNET;
            // The module may have been loaded since the last Pod.
            links::no_bridge_hooks().step(|| "keep the node's bridge out of the IP hooks".to_owned())?;
        }
        sys::unshare(flags).step(|| "make the Pod's namespaces".to_owned())?;
        rustix::system::sethostname(spec.hostname.as_bytes())
            .step(|| format!("set the host name {}", spec.hostname))?;
        if let Some(address) = spec.address {
            links::make_pod(
                &self.links,
                self.node.network.as_fd(),
                address,
                self.boot.gateway,
                self.boot.mtu,
            )
            .step(|| format!("link the Pod {} to the node", spec.hostname))?;
            // What containerd gives every Pod: ports below 1024 and ping need no capability inside.
            let groups = format!("0 {}", self.boot.ids.min(i32::MAX as u32) - 1);
            for (name, value) in
                [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", &groups)]
            {
                // Kernels that do not have the setting run Pods too.
                let _ = fs::write(sysctl_path(name), value);
            }
        }
        for (name, value) in &spec.sysctls {
            fs::write(sysctl_path(name), value).step(|| format!("set the sysctl {name}"))?;
        }
        Namespaces::current().step(|| "open the Pod's namespaces".to_owned())
    }

    /// A process namespace with a first process that does nothing but keep it.
    fn share_processes(&mut self) -> Result<Shared, Failure> {
        let step = || "make the Pod's process namespace".to_owned();
        // SAFETY: the launcher has one thread.
        let fork = unsafe { sys::fork(sys::NEW_PROCESSES) }.step(step)?;
        match fork {
            // SAFETY: one thread, and `idle` never returns to code that uses a descriptor.
            Fork::Child => unsafe { sys::idle() },
            Fork::Parent { pid, pidfd } => {
                let path = Path::new("/proc").join(pid.to_string()).join("ns/pid");
                let namespace = fs::File::open(path).step(step)?.into();
                Ok(Shared { namespace, process: self.keep(pidfd) })
            }
        }
    }

    pub(super) fn remove_sandbox(&mut self, id: &str, number: u64) -> Option<Reply> {
        let Some(sandbox) = self.sandboxes.get_mut(id) else {
            return Some((Answer::default(), Vec::new()));
        };
        sandbox.removers.push(number);
        let containers: Vec<String> = self
            .containers
            .values()
            .filter(|container| container.spec.sandbox == id)
            .map(|container| container.spec.id.clone())
            .collect();
        for container in containers {
            self.kill(&container);
        }
        if let Some(shared) = self.sandboxes.get(id).and_then(|sandbox| sandbox.shared.as_ref()) {
            self.kill_process(shared.process);
        }
        None
    }

    /// Finishes removals that nothing holds up any more.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        self.leaving.retain(|cgroup| !cgroup.remove());
        let gone: Vec<String> = self
            .sandboxes
            .values()
            .filter(|sandbox| !sandbox.removers.is_empty())
            .filter(|sandbox| {
                let shared = sandbox.shared.as_ref().map(|shared| shared.process);
                let process_lives = |id: u64| self.processes.iter().any(|process| process.id == id);
                !shared.is_some_and(process_lives)
                    && !self
                        .containers
                        .values()
                        .any(|container| container.spec.sandbox == sandbox.spec.id && container.lives())
            })
            .map(|sandbox| sandbox.spec.id.clone())
            .collect();
        for id in gone {
            let Some(sandbox) = self.sandboxes.remove(&id) else { continue };
            self.containers.retain(|_, container| container.spec.sandbox != id);
            let result = match sandbox.spec.address {
                Some(address) => links::detach_pod(&self.links, address)
                    .step(|| format!("detach the Pod {}", sandbox.spec.hostname)),
                None => Ok(()),
            };
            for number in sandbox.removers {
                let result = match &result {
                    Ok(()) => Ok(Answer::default()),
                    Err(failure) => Err(failure.clone()),
                };
                self.answer(number, result, &[])?;
            }
        }
        Ok(())
    }
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` name the same file; a name never leads out of /proc/sys.
fn sysctl_path(name: &str) -> std::path::PathBuf {
    let mut path = std::path::PathBuf::from("/proc/sys");
    let separator = if name.contains('/') { '/' } else { '.' };
    path.extend(name.split(separator).filter(|part| !part.is_empty() && *part != ".."));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_stay_below_proc_sys() {
        for (name, path) in [
            ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
            ("net/ipv4/conf/eth0.1/rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"),
            ("../../etc/passwd", "/proc/sys/etc/passwd"),
            ("/etc/passwd", "/proc/sys/etc/passwd"),
        ] {
            assert_eq!(sysctl_path(name), Path::new(path));
        }
    }
}
