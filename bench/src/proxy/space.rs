//! Network namespaces below the bench's own: each belongs to a thread, and is gone with the bench.

use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use crate::Result;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace.
#[derive(Clone)]
pub(crate) struct Space {
    jobs: Sender<Job>,
    thread: i32,
}

impl Space {
    /// A new one, its loopback up.
    pub(crate) fn new() -> Result<Space> {
        let (jobs, inbox) = channel::<Job>();
        let (made, ready) = channel();
        std::thread::spawn(move || {
            let kind = rustix::thread::UnshareFlags::NEWNET;
            #[allow(deprecated, reason = "a network namespace shares no memory and no descriptors")]
            let unshared = rustix::thread::unshare(kind);
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            if made.send(unshared.map(|()| thread)).is_ok() {
                inbox.into_iter().for_each(|job| job());
            }
        });
        let space = Space { jobs, thread: ready.recv()?? };
        space.ip("link set lo up")?;
        Ok(space)
    }

    /// Runs something inside.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = channel();
        // Who does not wait for it any more has failed otherwise.
        self.jobs.send(Box::new(move || drop(done.send(job())))).map_err(|_| "a namespace is gone")?;
        result.recv().map_err(|_| "a job in a namespace failed")?
    }

    /// Runs a program inside; `input` is its standard input.
    pub(crate) fn command(&self, line: &str) -> Result<()> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output();
            let output = output.map_err(|e| format!("{}: {e}", words[0]))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{}: {said}", words.join(" ")).into());
            }
            Ok(())
        })
    }

    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        self.command(&format!("ip {arguments}"))
    }

    /// Sets what is the namespace's own.
    pub(crate) fn sysctl(&self, path: &str, value: &'static str) -> Result<()> {
        let path = format!("/proc/sys/net/{path}");
        self.run(move || std::fs::write(&path, value).map_err(|e| format!("{path}: {e}").into()))
    }

    /// A pair of links, one end here, the other in another namespace.
    pub(crate) fn wire(&self, link: &str, other: &Space, far: &str) -> Result<()> {
        self.ip(&format!("link add {link} type veth peer name {far} netns {}", other.thread))?;
        self.ip(&format!("link set {link} up"))?;
        other.ip(&format!("link set {far} up"))
    }
}
