//! Containers and their processes: started, watched, reaped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::LinkNameSpaceType;

use super::{Event, Launcher, Reply};
use crate::cgroup::Cgroup;
use crate::container::{First, Further, Report, Streams};
use crate::runtime::{ContainerSpec, ExecSpec};
use crate::sys::{self, Fork};
use crate::wire::{self, Answer, Descriptor, Failure, Message, Step};

/// A container, from its start to its removal.
pub(crate) struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) cgroup: Cgroup,
    /// Its first process, while that lives.
    pub(super) process: Option<u64>,
    /// Requests that wait for its removal.
    removers: Vec<u64>,
}

impl Container {
    pub(super) fn lives(&self) -> bool {
        self.process.is_some()
    }
}

/// A child of the launcher.
pub(crate) struct Process {
    pub(super) id: u64,
    pub(super) pidfd: OwnedFd,
    kind: Kind,
    start: Option<Start>,
    /// Its start was answered with success.
    announced: bool,
}

enum Kind {
    /// Keeps a shared process namespace.
    Keeper,
    First(String),
    Further,
}

/// A start that is not finished.
struct Start {
    number: u64,
    pid: u32,
    report: OwnedFd,
    descriptors: Vec<(Descriptor, OwnedFd)>,
    failure: Option<Failure>,
    /// Nothing more is reported.
    closed: bool,
}

impl Process {
    pub(super) fn report(&self) -> Option<&OwnedFd> {
        self.start.as_ref().filter(|start| !start.closed).map(|start| &start.report)
    }
}

/// The launcher's ends of a process's streams, by what they are.
type Ends = Vec<(Descriptor, OwnedFd)>;

impl Launcher {
    pub(super) fn start_container(&mut self, spec: ContainerSpec, number: u64) -> Result<(), Failure> {
        self.check_ids(&spec)?;
        if self.containers.contains_key(&spec.id) {
            return Err(Failure::step(
                format!("start the container {}", spec.id),
                &io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let sandbox = self
            .sandboxes
            .get(&spec.sandbox)
            .ok_or_else(|| Failure::Unknown(format!("sandbox {}", spec.sandbox)))?;
        let step = || format!("start the container {}", spec.id);
        let (streams, ends) = streams(spec.tty, spec.stdin).step(step)?;
        let (report, reporter) = wire::pair().step(step)?;
        let cgroup = self
            .cgroups
            .create(&spec.id, &spec)
            .step(|| format!("set the limits of the container {}", spec.id))?;
        let shared = sandbox.shared.as_ref();
        let flags = sys::NEW_MOUNTS | if shared.is_some() { 0 } else { sys::NEW_PROCESSES };
        if let Some(shared) = shared {
            enter_processes(&shared.namespace).step(step)?;
        }
        // SAFETY: the launcher has one thread.
        let fork = unsafe { sys::fork(flags) };
        if matches!(fork, Ok(Fork::Child)) {
            let first = First {
                boot: &self.boot,
                spec: &spec,
                namespaces: &sandbox.namespaces,
                cgroup: &cgroup,
                streams,
                report: reporter,
            };
            first.run();
            sys::exit_now(1);
        }
        if shared.is_some() {
            enter_processes(&self.processes_of_node).step(step)?;
        }
        let fork = fork.step(step);
        let Ok(Fork::Parent { pid, pidfd }) = fork else {
            cgroup.remove();
            return Err(fork.err().unwrap_or_else(|| Failure::Unknown("process".to_owned())));
        };
        let kind = Kind::First(spec.id.clone());
        let start = Start { number, pid, report, descriptors: ends, failure: None, closed: false };
        let process = self.add(pidfd, kind, Some(start));
        let id = spec.id.clone();
        let container = Container { spec, cgroup, process: Some(process), removers: Vec::new() };
        self.containers.insert(id, container);
        Ok(())
    }

    /// Images that change user need subordinate ids.
    fn check_ids(&self, spec: &ContainerSpec) -> Result<(), Failure> {
        let who = &spec.identity;
        let highest = who.groups.iter().copied().chain([who.uid, who.gid]).max().unwrap_or(0);
        if highest < self.boot.ids {
            return Ok(());
        }
        Err(Failure::CannotRun(if self.boot.ids == 1 {
            format!(
                "the container wants to run as user {}:{}, but an ordinary user's node has user 0 alone: install \
                 newuidmap (package uidmap) and give this user a range in /etc/subuid and /etc/subgid, or run as root",
                who.uid, who.gid
            )
        } else {
            format!(
                "the container wants to run as user {}:{}, but this user's range in /etc/subuid and /etc/subgid \
                 ends at {}",
                who.uid,
                who.gid,
                self.boot.ids - 1
            )
        }))
    }

    pub(super) fn exec(&mut self, spec: &ExecSpec, number: u64) -> Result<(), Failure> {
        let unknown = || Failure::Unknown(format!("running container {}", spec.container));
        let container = self.containers.get(&spec.container).ok_or_else(unknown)?;
        let first = self
            .processes
            .iter()
            .find(|process| Some(process.id) == container.process && process.announced)
            .ok_or_else(unknown)?;
        let step = || format!("run a process in the container {}", spec.container);
        let (streams, ends) = streams(spec.tty, spec.stdin).step(step)?;
        let (report, reporter) = wire::pair().step(step)?;
        // Children alone go into the container's process namespace, and stay children of this process.
        rustix::thread::move_into_thread_name_spaces(
            first.pidfd.as_fd(),
            rustix::thread::ThreadNameSpaceType::PROCESS_ID,
        )
        .map_err(|error| {
            if error == rustix::io::Errno::SRCH { unknown() } else { Failure::step(step(), &error.into()) }
        })?;
        // SAFETY: the launcher has one thread.
        let fork = unsafe { sys::fork(0) };
        if matches!(fork, Ok(Fork::Child)) {
            let further = Further {
                spec: &container.spec,
                first: first.pidfd.as_fd(),
                cgroup: &container.cgroup,
                args: &spec.args,
                tty: spec.tty,
                streams,
                report: reporter,
            };
            further.run();
            sys::exit_now(1);
        }
        enter_processes(&self.processes_of_node).step(step)?;
        // A process namespace whose first process is ending takes no more (ENOMEM).
        let Fork::Parent { pid, pidfd } = fork.map_err(|_| unknown())? else { return Err(unknown()) };
        let start = Start { number, pid, report, descriptors: ends, failure: None, closed: false };
        self.add(pidfd, Kind::Further, Some(start));
        Ok(())
    }

    pub(super) fn signal(&mut self, id: &str, signal: i32) -> Result<(), Failure> {
        let unknown = || Failure::Unknown(format!("running container {id}"));
        let process = self.containers.get(id).and_then(|container| container.process).ok_or_else(unknown)?;
        let process = self.processes.iter().find(|one| one.id == process).ok_or_else(unknown)?;
        sys::send_signal(&process.pidfd, signal)
            .step(|| format!("send signal {signal} to the container {id}"))
    }

    pub(super) fn remove_container(&mut self, id: &str, number: u64) -> Option<Reply> {
        let done = Some((Answer::default(), Vec::new()));
        let Some(container) = self.containers.get_mut(id) else { return done };
        if container.lives() {
            container.removers.push(number);
            self.kill(id);
            return None;
        }
        self.containers.remove(id);
        done
    }

    /// Kills a container's processes.
    pub(super) fn kill(&self, id: &str) {
        if let Some(process) = self.containers.get(id).and_then(|container| container.process) {
            self.kill_process(process);
        }
    }

    /// Kills a further process of a container; one that has ended needs no killing.
    pub(super) fn kill_exec(&self, id: u64) {
        if self.processes.iter().any(|process| process.id == id && matches!(process.kind, Kind::Further)) {
            self.kill_process(id);
        }
    }

    pub(super) fn kill_process(&self, id: u64) {
        if let Some(process) = self.processes.iter().find(|process| process.id == id) {
            // Ended already is as good.
            let _ = sys::send_signal(&process.pidfd, libc::SIGKILL);
        }
    }

    /// Watches over the first process of a shared process namespace.
    pub(super) fn keep(&mut self, pidfd: OwnedFd) -> u64 {
        self.add(pidfd, Kind::Keeper, None)
    }

    fn add(&mut self, pidfd: OwnedFd, kind: Kind, start: Option<Start>) -> u64 {
        let id = self.next_process;
        self.next_process += 1;
        self.processes.push(Process { id, pidfd, kind, start, announced: false });
        id
    }

    pub(super) fn process_event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Report(id) => self.report(id),
            Event::Ended(id) => self.ended(id),
        }
    }

    /// A process that is starting says something, or closes its report by becoming the program.
    fn report(&mut self, id: u64) -> io::Result<()> {
        let Some(process) = self.processes.iter_mut().find(|process| process.id == id) else { return Ok(()) };
        let Some(start) = process.start.as_mut() else { return Ok(()) };
        match wire::receive::<Report>(&start.report)? {
            Some((Report::Notice(text), _)) => self.notice(text),
            Some((Report::Terminal, terminal)) => {
                if terminal.is_empty() {
                    let source = io::Error::from_raw_os_error(libc::EMFILE);
                    start.failure = Some(Failure::step("open a terminal", &source));
                }
                start.descriptors.extend(terminal.into_iter().map(|fd| (Descriptor::Terminal, fd)));
                Ok(())
            }
            Some((Report::Failed(failure), _)) => {
                start.failure = Some(failure);
                Ok(())
            }
            None if start.failure.is_some() => {
                // Answered when the process has gone, and its name is free again.
                start.closed = true;
                Ok(())
            }
            None => {
                let Some(start) = process.start.take() else { return Ok(()) };
                process.announced = true;
                let (kinds, descriptors): (Vec<_>, Vec<_>) = start.descriptors.into_iter().unzip();
                let answer = Answer { process: id, pid: start.pid, descriptors: kinds };
                self.answer(start.number, Ok(answer), &descriptors)
            }
        }
    }

    /// A process has ended: it is reaped, and told of where its start was.
    fn ended(&mut self, id: u64) -> io::Result<()> {
        // Its report may have come in the same moment, or after the wait returned.
        while self.processes.iter().any(|process| process.id == id && process.report().is_some()) {
            self.report(id)?;
        }
        let Some(at) = self.processes.iter().position(|process| process.id == id) else { return Ok(()) };
        let process = self.processes.swap_remove(at);
        let status = rustix::process::waitid(
            WaitId::PidFd(process.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )?;
        let signal = status.as_ref().and_then(|status| status.terminating_signal()).unwrap_or(0);
        let exit = status.as_ref().and_then(|status| status.exit_status());
        let code = exit.unwrap_or(128 + signal);
        let mut oom_killed = false;
        if let Kind::First(name) = &process.kind {
            // One that got over the kill of a child of its was not ended by it.
            oom_killed = self.container_ended(name, process.announced)? && code != 0;
        }
        if let Some(Start { number, failure: Some(failure), .. }) = process.start {
            return self.answer(number, Err(failure), &[]);
        }
        if process.announced {
            wire::send(&self.control, &Message::Ended { process: id, code, signal, oom_killed }, &[])?;
        }
        Ok(())
    }

    /// Clears away after a container; whether the out-of-memory killer was at work in it.
    fn container_ended(&mut self, name: &str, announced: bool) -> io::Result<bool> {
        let Some(container) = self.containers.get_mut(name) else { return Ok(false) };
        container.process = None;
        let oom = container.cgroup.oom_kills() > 0;
        let cgroup = std::mem::take(&mut container.cgroup);
        let removers = std::mem::take(&mut container.removers);
        // In a shared process namespace others of its processes may live on.
        cgroup.kill();
        if !cgroup.remove() {
            self.leaving.push(cgroup);
        }
        // One that never ran leaves its name free, as one that is removed does.
        if !announced || !removers.is_empty() {
            self.containers.remove(name);
        }
        for number in removers {
            self.answer(number, Ok(Answer::default()), &[])?;
        }
        Ok(oom)
    }
}

fn enter_processes(namespace: &OwnedFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?)
}

/// A process's standard streams and the other ends of them.
fn streams(tty: bool, stdin: bool) -> io::Result<(Option<Streams>, Ends)> {
    if tty {
        return Ok((None, Vec::new()));
    }
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let mut ends = Vec::new();
    let stdin = if stdin {
        let (read, write) = pipe()?;
        ends.push((Descriptor::Stdin, write));
        read
    } else {
        std::fs::File::open("/dev/null")?.into()
    };
    let (stdout_end, stdout) = pipe()?;
    let (stderr_end, stderr) = pipe()?;
    ends.push((Descriptor::Stdout, stdout_end));
    ends.push((Descriptor::Stderr, stderr_end));
    Ok((Some(Streams { stdin, stdout, stderr }), ends))
}
