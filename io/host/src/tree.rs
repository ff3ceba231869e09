//! One run of the launcher, seen from the main process: its socket, what it owes answers to, and the node's namespace.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::thread::UnshareFlags;
use tokio::sync::{oneshot, watch};

use crate::HostError;
use crate::links;
use crate::runtime::Exit;
use crate::wire::{self, Answer, Boot, Message, Order, Request};
use crate::{launcher, sys};

/// An answered request: the answer, its file descriptors, and for a started process its end.
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) exit: oneshot::Receiver<Exit>,
}

/// The running launcher.
pub(crate) struct Tree {
    control: Arc<OwnedFd>,
    next: AtomicU64,
    owed: Arc<Mutex<Owed>>,
    /// The node's network namespace.
    pub(crate) node: Arc<OwnedFd>,
    /// The launcher's process id.
    pub(crate) pid: u32,
    /// Becomes `true` when the launcher has ended.
    pub(crate) lost: watch::Receiver<bool>,
}

/// What the launcher owes.
#[derive(Default)]
struct Owed {
    answers: HashMap<u64, oneshot::Sender<Result<Answered, HostError>>>,
    exits: HashMap<u64, oneshot::Sender<Exit>>,
    lost: bool,
}

/// How every process of a lost node ended.
const LOST: Exit = Exit { code: 137, signal: 9, oom_killed: false, node_lost: true };

/// What makes a node's network, run inside its new namespace.
pub(crate) type MakeNode = Box<dyn FnOnce() -> Result<(), HostError> + Send>;

impl Tree {
    /// Makes the namespaces of the node of this name, runs `make_node` in them, and starts the launcher there. Blocks until the launcher
    /// is ready or has said what stands in the way.
    pub(crate) fn start(
        name: &str,
        boot: Boot,
        restore: &[OwnedFd],
        make_node: MakeNode,
    ) -> Result<Tree, HostError> {
        let (ours, theirs) = wire::pair().map_err(|error| step("make the launcher's socket", error))?;
        let control = Arc::new(ours);
        let owed = Arc::new(Mutex::new(Owed::default()));
        let (started, starting) = std::sync::mpsc::channel();
        let (lose, lost) = watch::channel(false);
        let keeper = Keeper { control: Arc::clone(&control), owed: Arc::clone(&owed), lose };
        let name = name.to_owned();
        std::thread::Builder::new()
            .name("launcher".to_owned())
            .spawn(move || match start_launcher(&name, theirs, make_node) {
                Ok((child, node)) => {
                    // The other side waits for this; where it has gone, the launcher goes by itself.
                    let _ = started.send(Ok((child.id(), node)));
                    keeper.keep(child);
                }
                Err(error) => drop(started.send(Err(error))),
            })
            .map_err(|error| step("start the launcher's thread", error))?;
        let (pid, node) = starting.recv().map_err(|_| HostError::Lost)??;
        let tree = Tree { control, next: AtomicU64::new(1), owed, node: Arc::new(node), pid, lost };
        let restore: Vec<BorrowedFd<'_>> = restore.iter().map(AsFd::as_fd).collect();
        let ready = tree.post(Order::Boot(boot), &restore)?;
        ready.blocking_recv().map_err(|_| HostError::Lost)??;
        Ok(tree)
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(&self, order: Order) -> Result<Answered, HostError> {
        let answer = self.post(order, &[])?;
        answer.await.map_err(|_| HostError::Lost)?
    }

    fn post(
        &self,
        order: Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<oneshot::Receiver<Result<Answered, HostError>>, HostError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut owed = lock(&self.owed);
            if owed.lost {
                return Err(HostError::Lost);
            }
            owed.answers.insert(number, answer);
        }
        match wire::send(&*self.control, &Request { number, order }, descriptors) {
            Ok(()) => Ok(answered),
            Err(error) => {
                lock(&self.owed).answers.remove(&number);
                match error.raw_os_error() {
                    Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => Err(HostError::Lost),
                    _ => Err(step("send an order to the launcher", error)),
                }
            }
        }
    }

    /// Tells the launcher to end; [`Tree::lost`] says when it has.
    pub(crate) fn close(&self) {
        // A launcher that has gone already needs no telling.
        let _ = rustix::net::shutdown(&*self.control, rustix::net::Shutdown::Write);
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(owed: &Mutex<Owed>) -> MutexGuard<'_, Owed> {
    owed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step that failed.
pub(crate) fn step(context: impl Into<String>, source: impl Into<io::Error>) -> HostError {
    HostError::Step { context: context.into(), source: source.into() }
}

/// On a thread of its own, which ends up in the node's namespaces: makes them, and starts the launcher in them.
fn start_launcher(name: &str, socket: OwnedFd, make_node: MakeNode) -> Result<(Child, OwnedFd), HostError> {
    sys::unshare(
        UnshareFlags::FS
            | UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWPID,
    )
    .map_err(|error| step("make the node's namespaces", error))?;
    make_node()?;
    let node =
        links::current_namespace().map_err(|error| step("open the node's network namespace", error))?;
    let child = Command::new("/proc/self/exe")
        .arg0("sealane")
        .arg(launcher::ARGUMENT)
        // For people who look at processes.
        .arg(name)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| step("start the launcher", error))?;
    Ok((child, node))
}

/// Reads what the launcher says until it has ended.
struct Keeper {
    control: Arc<OwnedFd>,
    owed: Arc<Mutex<Owed>>,
    lose: watch::Sender<bool>,
}

impl Keeper {
    fn keep(self, mut child: Child) {
        loop {
            match wire::receive::<Message>(&*self.control) {
                Ok(Some((message, descriptors))) => self.message(message, descriptors),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!("read from the launcher: {error}");
                    break;
                }
            }
        }
        // What is left of it after its socket closed ends with it.
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::error!("wait for the launcher: {error}");
        }
        let owed = {
            let mut owed = lock(&self.owed);
            std::mem::replace(&mut *owed, Owed { lost: true, ..Owed::default() })
        };
        for (_, answer) in owed.answers {
            // Nobody may wait any more.
            let _ = answer.send(Err(HostError::Lost));
        }
        for (_, exit) in owed.exits {
            let _ = exit.send(LOST);
        }
        self.lose.send_replace(true);
    }

    fn message(&self, message: Message, descriptors: Vec<OwnedFd>) {
        match message {
            Message::Notice(text) => tracing::warn!("{text}"),
            Message::Ended { process, code, signal, oom_killed } => {
                if let Some(exit) = lock(&self.owed).exits.remove(&process) {
                    // The receiver may have been dropped: nobody is interested.
                    let _ = exit.send(Exit { code, signal, oom_killed, node_lost: false });
                }
            }
            Message::Done { number, result } => {
                let mut owed = lock(&self.owed);
                let Some(waiting) = owed.answers.remove(&number) else { return };
                let result = result.map_err(HostError::from).and_then(|answer| {
                    if answer.descriptors.len() != descriptors.len() {
                        let source = io::Error::from_raw_os_error(libc::EMFILE);
                        return Err(step("take over what the launcher opened", source));
                    }
                    let (end, exit) = oneshot::channel();
                    if answer.process != 0 {
                        owed.exits.insert(answer.process, end);
                    }
                    Ok(Answered { answer, descriptors, exit })
                });
                // The one who asked may have given up; what came with the answer is closed then.
                let _ = waiting.send(result);
            }
        }
    }
}
