//! The launcher: a small process of one thread, first of the node's process namespace, that makes sandboxes and starts
//! containers. It ends when its control socket closes, and everything of the node ends with it.

mod processes;
mod sandboxes;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};

use self::processes::{Container, Process};
use self::sandboxes::Sandbox;
use crate::cgroup::{Cgroup, Cgroups};
use crate::container::Namespaces;
use crate::netlink::Socket;
use crate::wire::{self, Answer, Boot, Failure, Message, Order, Request};

/// The argument that makes the program a launcher.
pub const ARGUMENT: &str = "__launcher";

/// How long a cgroup whose processes are still leaving is tried again, milliseconds between tries.
const RETRY_MS: i64 = 20;

/// What the program does first where its first argument is [`ARGUMENT`]: it becomes the launcher, which reads its
/// orders from standard input, a socket that the main process has made.
pub fn main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("sealane launcher: {error}");
            1
        }
    };
    std::process::exit(code)
}

pub(crate) struct Launcher {
    control: OwnedFd,
    boot: Boot,
    restore: Vec<OwnedFd>,
    cgroups: Cgroups,
    /// The node's own namespaces, and its process namespace.
    node: Namespaces,
    processes_of_node: OwnedFd,
    links: Socket,
    sandboxes: HashMap<String, Sandbox>,
    containers: HashMap<String, Container>,
    processes: Vec<Process>,
    /// Cgroups that some process is still leaving.
    leaving: Vec<Cgroup>,
    next_process: u64,
    /// What people were told already.
    said: HashSet<String>,
}

fn run() -> io::Result<()> {
    let control = rustix::stdio::stdin().try_clone_to_owned()?;
    let Some((request, restore)) = wire::receive::<Request>(&control)? else { return Ok(()) };
    let Order::Boot(boot) = request.order else {
        return Err(io::Error::other("the first message is not `Boot`"));
    };
    let (result, launcher) = match Launcher::start(control.try_clone()?, boot, restore) {
        Ok((launcher, notice)) => {
            if let Some(notice) = notice {
                wire::send(&control, &Message::Notice(notice), &[])?;
            }
            (Ok(Answer::default()), Some(launcher))
        }
        Err(failure) => (Err(failure), None),
    };
    wire::send(&control, &Message::Done { number: request.number, result }, &[])?;
    launcher.map_or(Ok(()), |mut launcher| {
        let result = launcher.serve();
        launcher.end();
        result
    })
}

impl Launcher {
    fn start(
        control: OwnedFd,
        boot: Boot,
        restore: Vec<OwnedFd>,
    ) -> Result<(Launcher, Option<String>), Failure> {
        use crate::wire::Step;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).step(|| crate::sys::PRIVATE_MOUNTS.to_owned())?;
        let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("proc", "/proc", "proc", strict, None).step(|| {
            "mount /proc (in a container? it hides parts of its own /proc: run it with --privileged or \
             --security-opt systempaths=unconfined)"
                .to_owned()
        })?;
        let (cgroups, notice) = Cgroups::open(&boot.name, boot.rootless);
        let own = || "open the node's namespaces".to_owned();
        let launcher = Launcher {
            control,
            boot,
            restore,
            cgroups,
            node: Namespaces::current().step(own)?,
            processes_of_node: fs::File::open("/proc/self/ns/pid").step(own)?.into(),
            links: Socket::route().step(own)?,
            sandboxes: HashMap::new(),
            containers: HashMap::new(),
            processes: Vec::new(),
            leaving: Vec::new(),
            next_process: 1,
            said: HashSet::new(),
        };
        Ok((launcher, notice))
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let (control, events) = self.wait()?;
            for event in events {
                self.process_event(event)?;
            }
            if control {
                let Some((request, _)) = wire::receive::<Request>(&self.control)? else { return Ok(()) };
                let number = request.number;
                match self.order(request) {
                    Ok(None) => {}
                    Ok(Some((answer, descriptors))) => self.answer(number, Ok(answer), &descriptors)?,
                    Err(failure) => self.answer(number, Err(failure), &[])?,
                }
            }
            self.settle()?;
        }
    }

    /// Waits for something to do: whether there is a request, and what processes have events.
    fn wait(&self) -> io::Result<(bool, Vec<Event>)> {
        let mut polled = vec![PollFd::new(&self.control, PollFlags::IN)];
        let mut of = Vec::new();
        for process in &self.processes {
            polled.push(PollFd::new(&process.pidfd, PollFlags::IN));
            of.push(Event::Ended(process.id));
            if let Some(report) = process.report() {
                polled.push(PollFd::new(report, PollFlags::IN));
                of.push(Event::Report(process.id));
            }
        }
        let patience = rustix::time::Timespec { tv_sec: 0, tv_nsec: RETRY_MS * 1_000_000 };
        let patience = (!self.leaving.is_empty()).then_some(&patience);
        match rustix::event::poll(&mut polled, patience) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let control = !polled[0].revents().is_empty();
        let ready = polled[1..].iter().zip(of).filter(|(fd, _)| !fd.revents().is_empty());
        let mut events: Vec<Event> = ready.map(|(_, event)| event).collect();
        // What a process reported comes before its end.
        events.sort();
        Ok((control, events))
    }

    /// Carries a request out. `None`: it is answered later.
    fn order(&mut self, request: Request) -> Result<Option<Reply>, Failure> {
        let number = request.number;
        match request.order {
            Order::Boot(_) => Err(Failure::Unknown("request".to_owned())),
            Order::CreateSandbox(spec) => self.create_sandbox(spec).map(Some),
            Order::RemoveSandbox(id) => Ok(self.remove_sandbox(&id, number)),
            Order::Start(spec) => self.start_container(*spec, number).map(|()| None),
            Order::Exec(spec) => self.exec(&spec, number).map(|()| None),
            Order::Signal { container, signal } => {
                self.signal(&container, signal).map(|()| Some((Answer::default(), Vec::new())))
            }
            Order::RemoveContainer(id) => Ok(self.remove_container(&id, number)),
            Order::KillExec(process) => {
                self.kill_exec(process);
                Ok(Some((Answer::default(), Vec::new())))
            }
        }
    }

    /// Tells people something, once.
    fn notice(&mut self, text: String) -> io::Result<()> {
        if self.said.insert(text.clone()) {
            wire::send(&self.control, &Message::Notice(text), &[])?;
        }
        Ok(())
    }

    fn answer(
        &self,
        number: u64,
        result: Result<Answer, Failure>,
        descriptors: &[OwnedFd],
    ) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        wire::send(&self.control, &Message::Done { number, result }, &descriptors)
    }

    /// The main process has gone: kills all, removes what would stay behind, puts the host's settings back.
    fn end(&mut self) {
        for process in &self.processes {
            // Ended already is as good.
            let _ = crate::sys::send_signal(&process.pidfd, libc::SIGKILL);
        }
        // As the first process of its namespace this one reaps all others before the cgroups can go.
        while !matches!(
            rustix::process::wait(rustix::process::WaitOptions::empty()),
            Err(rustix::io::Errno::CHILD)
        ) {}
        self.cgroups.close();
        for (file, value) in self.restore.drain(..).zip(&self.boot.restore) {
            // Nobody is left to be told.
            let _ = rustix::io::pwrite(&file, value.as_bytes(), 0);
        }
    }
}

/// An answer and its file descriptors.
pub(crate) type Reply = (Answer, Vec<OwnedFd>);

/// What happened to a process; reports sort before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Report(u64),
    Ended(u64),
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::runtime::{ContainerSpec, Identity};

    /// A container with nothing special.
    pub(crate) fn container(id: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            sandbox: "pod".to_owned(),
            layers: Vec::new(),
            args: vec!["/bin/sh".to_owned()],
            env: Vec::new(),
            cwd: "/".into(),
            identity: Identity::default(),
            mounts: Vec::new(),
            tty: false,
            stdin: false,
            read_only_root: false,
            privileged: false,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            no_new_privileges: false,
            memory_limit: None,
            cpu_limit_milli: None,
            cpu_request_milli: None,
        }
    }
}
