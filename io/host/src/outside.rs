//! The way outside: on the host as root (masquerade and forwarding), by pasta or slirp4netns as an ordinary user.

use std::fs;
use std::io::{self, BufRead as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::HostError;
use crate::links;
use crate::netlink::Socket;
use crate::sys;
use crate::tree::step;

/// The link that a user's helper program makes in the node.
pub(crate) const TAP: &str = "tap0";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The host's forwarding, as it was before.
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// Open for writing, in the host's network namespace. Its offset is shared with the launcher: write at 0.
    file: OwnedFd,
    before: String,
}

impl Forwarding {
    /// The setting where somebody has to turn it on: not for an ordinary user's node, which has its own.
    pub(crate) fn of(rootless: bool) -> Result<Option<Forwarding>, HostError> {
        if rootless {
            return Ok(None);
        }
        Forwarding::off().map_err(|error| step("read net.ipv4.ip_forward", error))
    }

    /// Reads the setting; `None` where it is on already.
    fn off() -> io::Result<Option<Forwarding>> {
        let before = fs::read_to_string(FORWARDING)?.trim().to_owned();
        if before == "1" {
            return Ok(None);
        }
        let file = fs::File::options().write(true).open(FORWARDING)?.into();
        Ok(Some(Forwarding { file, before }))
    }

    /// Turns it on.
    pub(crate) fn turn_on(&self) -> io::Result<()> {
        rustix::io::pwrite(&self.file, b"1", 0)?;
        Ok(())
    }

    /// Puts it back.
    pub(crate) fn restore(&self) -> Result<(), HostError> {
        rustix::io::pwrite(&self.file, self.before.as_bytes(), 0)
            .map(drop)
            .map_err(|error| step("put net.ipv4.ip_forward back", error))
    }

    /// For the launcher, which puts it back when the main process cannot: the file and what to write.
    pub(crate) fn for_launcher(&self) -> io::Result<(OwnedFd, String)> {
        Ok((self.file.as_fd().try_clone_to_owned()?, self.before.clone()))
    }
}

/// The MTU of the link that the host's default route uses.
pub(crate) fn mtu() -> Option<u32> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let link = default_link(&routes)?;
    fs::read_to_string(Path::new("/sys/class/net").join(link).join("mtu")).ok()?.trim().parse().ok()
}

/// The link of the default route in /proc/net/route: the one whose destination and mask are zero.
fn default_link(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")).then(|| fields[0])
    })
}

/// A program that carries an ordinary user's node's traffic outside; it ends when this is dropped, and with the main
/// process.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    _open: Option<ChildStdin>,
    /// Gives the last line that it wrote on standard error, when it has ended.
    keeper: Option<JoinHandle<String>>,
}

impl Helper {
    /// Starts it on a thread that lives as long as it does: the kernel kills it when that thread ends, as it does with
    /// the main process, even with one that is killed.
    fn start(mut command: Command) -> io::Result<Helper> {
        let (started, starting) = std::sync::mpsc::channel();
        let keep = move || {
            let mut child = match sys::die_with_this_thread(&mut command).spawn() {
                Ok(child) => child,
                Err(error) => {
                    // The other side waits for this.
                    let _ = started.send(Err(error));
                    return String::new();
                }
            };
            let errors = child.stderr.take();
            let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
            let _ = started.send(Ok(child));
            let mut last = String::new();
            // Read to the end, so that it never waits for a reader.
            for line in errors.into_iter().flat_map(|e| io::BufReader::new(e).lines().map_while(Result::ok)) {
                tracing::debug!("the way outside: {line}");
                last = line;
            }
            if let Ok(pidfd) = pidfd {
                let end = &mut [PollFd::new(&pidfd, PollFlags::IN)];
                while rustix::event::poll(end, None) == Err(rustix::io::Errno::INTR) {}
            }
            last
        };
        let keeper = std::thread::Builder::new().name("way-outside".to_owned()).spawn(keep)?;
        let gone = || io::Error::other("the thread that starts it panicked");
        let mut child = starting.recv().map_err(|_| gone())??;
        let open = child.stdin.take();
        Ok(Helper { child, _open: open, keeper: Some(keeper) })
    }

    /// The last line that it wrote on standard error; it has ended.
    fn last_words(&mut self) -> String {
        let said = self.keeper.take().and_then(|keeper| keeper.join().ok()).unwrap_or_default();
        if said.is_empty() { "it did not say why".to_owned() } else { said }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self._open = None;
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts pasta or slirp4netns for a network namespace; `None` where neither is installed. Waits until its link is
/// there.
pub(crate) fn start_helper(node: &OwnedFd) -> Result<Option<Helper>, HostError> {
    let mut command = if let Some(pasta) = installed("pasta") {
        let mut command = Command::new(pasta);
        // It leaves when the namespace does, and accepts nothing from outside. Its own user namespace could not enter
        // the node's network, and without most capabilities, which it drops, it may not look into /proc/PID/ns of a
        // process that has them: it gets the namespace as its standard input.
        command.args(["--foreground", "--quiet", "--config-net", "--ns-ifname", TAP, "--no-map-gw"]);
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--runas", "0"]);
        command.args(["--netns-only", "--netns", "/proc/self/fd/0"]);
        command.stdin(node.try_clone().map_err(|error| step("pass the node's network on", error))?);
        command
    } else if let Some(slirp) = installed("slirp4netns") {
        let mut command = Command::new(slirp);
        // It leaves when its standard input, a pipe from here, closes.
        command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--exit-fd=0"]);
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), node.as_raw_fd());
        command.arg("--netns-type=path").arg(namespace).arg(TAP).stdin(Stdio::piped());
        command
    } else {
        return Ok(None);
    };
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut helper = Helper::start(command).map_err(|error| step(format!("start {name}"), error))?;
    let socket = within(node, Socket::route).map_err(|error| step("look into the node's network", error))?;
    // Five seconds: these programs take some tens of milliseconds.
    for _ in 0..500 {
        let there = links::index_of(&socket, TAP).map_err(|error| step("read the node's links", error))?;
        if there.is_some() {
            return Ok(Some(helper));
        }
        if let Ok(Some(status)) = helper.child.try_wait() {
            let said = helper.last_words();
            let source = io::Error::other(format!("it ended with {status}: {said}"));
            return Err(step(format!("connect the node to the outside with {name}"), source));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let source = io::Error::other(format!("its link {TAP} did not appear"));
    Err(step(format!("connect the node to the outside with {name}"), source))
}

fn installed(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').map(|directory| Path::new(directory).join(program)).find(|candidate| candidate.is_file())
}

/// Runs a closure on a thread inside a network namespace.
pub(crate) fn within<T: Send + 'static>(
    namespace: &OwnedFd,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = namespace.try_clone()?;
    let thread = std::thread::Builder::new().name("in-namespace".to_owned()).spawn(move || {
        links::enter(&namespace)?;
        run()
    })?;
    thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_found() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let local = "eth1\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let default = "eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_link(&format!("{head}{local}{default}")), Some("eth0"));
        assert_eq!(default_link(&format!("{head}{local}")), None);
    }
}
