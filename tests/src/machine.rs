//! A machine of the test's own: a network namespace, so that tests disturb neither each other nor the real one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::run;

/// What names of these namespaces begin with.
const PREFIX: &str = "sealane-test-";

/// A network namespace with its loopback up, removed when dropped. Only root can make one.
#[derive(Debug)]
pub struct Machine {
    name: String,
}

impl Machine {
    /// Makes one.
    #[allow(clippy::new_without_default)]
    #[track_caller]
    pub fn new() -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]), b"").ok();
        let machine = Machine { name };
        run(machine.command("ip").args(["link", "set", "lo", "up"]), b"").ok();
        machine
    }

    /// Its name, unique on the real machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives its loopback another address.
    #[track_caller]
    pub fn add_address(&self, address: Ipv4Addr) {
        let address = format!("{address}/32");
        run(self.command("ip").args(["address", "add", &address, "dev", "lo"]), b"").ok();
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run on it; nsenter becomes the program, so the process is the program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.path());
        let mut command = Command::new("nsenter");
        command.arg(net).arg("--").arg(program);
        command
    }

    /// Runs a closure on a thread that is on it: sockets that it opens are its.
    #[track_caller]
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Connects to an address and takes all that is said there; `patience` is for connecting and for each read.
    #[track_caller]
    pub fn hear(&self, to: &str, patience: Duration) -> std::io::Result<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.within(move || {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        })
    }

    /// What `up` could have left here: links, routes and rules. Empty is good.
    #[track_caller]
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let links = run(self.command("ip").args(["-o", "link"]), b"").ok();
        left.extend(links.lines().filter(|l| !l.contains(": lo:")).map(|l| format!("link {l}")));
        let routes = run(self.command("ip").args(["-4", "route"]), b"").ok();
        left.extend(routes.lines().map(|l| format!("route {l}")));
        let rules = run(self.command("nft").args(["list", "ruleset"]), b"").ok();
        left.extend(rules.lines().map(|l| format!("rule {l}")));
        left
    }

    /// Names of network namespaces on the real machine that are no test's.
    #[track_caller]
    pub fn foreign_namespaces() -> Vec<String> {
        let all = run(Command::new("ip").args(["netns", "list"]), b"").ok();
        all.lines().filter(|l| !l.starts_with(PREFIX) && !l.is_empty()).map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing to be done about a failure, and the next run has other names.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}
