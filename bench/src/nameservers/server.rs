//! The servers that are compared, each pinned to the first core, and what the kernel says about them.

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::time::TimeSpec;
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::cores::{CORES, spent};

/// A server that answers later has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions whether it answers by now.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Sealane,
    CoreDns,
    Knot,
}

impl Program {
    pub(crate) const ALL: [Program; 3] = [Program::Sealane, Program::Knot, Program::CoreDns];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Sealane => "Sealane",
            Program::CoreDns => "CoreDNS",
            Program::Knot => "Knot",
        }
    }

    /// In a network namespace of its own nobody else has them.
    pub(crate) fn port(self) -> u16 {
        match self {
            Program::Sealane => 5301,
            Program::CoreDns => 5302,
            Program::Knot => 5303,
        }
    }

    /// Its configuration's text. Both that read Corefiles have kubeadm's (of Kubernetes 1.36).
    pub(crate) fn configuration(self, folder: &Path, kubeconfig: &Path) -> String {
        let (port, folder, kubeconfig) = (self.port(), folder.display(), kubeconfig.display());
        match self {
            Program::Knot => format!(
                "server:\n  rundir: {folder}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                 background-workers: 1\ndatabase:\n  storage: {folder}\nlog:\n  - target: stderr\n    any: warning\n\
                 zone:\n  - domain: cluster.local\n    file: {folder}/zone\n    zonefile-load: whole\n    \
                 journal-content: none\n"
            ),
            Program::Sealane | Program::CoreDns => {
                // Nobody listens there, and nothing is asked that would go there.
                let upstream = "127.0.0.1:5399";
                // Of two servers that run in turns each has its own.
                let [health, ready, metrics] = [10_000, 20_000, 30_000].map(|more| port + more);
                format!(
                    ".:{port} {{\n    errors\n    health :{health} {{\n        lameduck 5s\n    }}\n    ready :{ready}\n    \
                     kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        kubeconfig {kubeconfig}\n        \
                     pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }}\n    \
                     prometheus :{metrics}\n    forward . {upstream} {{\n        max_concurrent 1000\n    }}\n    \
                     cache 30 {{\n        disable success cluster.local\n        disable denial cluster.local\n    \
                     }}\n    loop\n    reload\n    loadbalance\n}}\n"
                )
            }
        }
    }
}

/// What dnsperf asks.
pub(crate) trait Asked {
    /// For people.
    fn name(&self) -> &'static str;

    /// At 127.0.0.1.
    fn port(&self) -> u16;

    /// CPU time that it has spent, µs, to a tick.
    fn cpu(&self) -> Result<f64>;
}

/// A running server.
pub(crate) struct Server {
    pub(crate) program: Program,
    child: Child,
    /// From exec to the first right answer, ms.
    pub(crate) loaded: f64,
}

impl Server {
    /// Starts it and waits until it knows `name`.
    pub(crate) fn start(
        program: Program,
        binary: &Path,
        folder: &Path,
        kubeconfig: &Path,
        name: &str,
    ) -> Result<Server> {
        Server::start_on(CORES[0], program, binary, folder, kubeconfig, name)
    }

    /// The same on other cores.
    pub(crate) fn start_on(
        cores: &str,
        program: Program,
        binary: &Path,
        folder: &Path,
        kubeconfig: &Path,
        name: &str,
    ) -> Result<Server> {
        let configuration = program.configuration(folder, kubeconfig);
        Server::configured((program, cores, &configuration), binary, folder, kubeconfig, name)
    }

    /// The same with a configuration of its own.
    pub(crate) fn configured(
        (program, cores, configuration): (Program, &str, &str),
        binary: &Path,
        folder: &Path,
        kubeconfig: &Path,
        name: &str,
    ) -> Result<Server> {
        let file = folder.join(format!("{}.conf", program.name()));
        fs::write(&file, configuration)?;
        let mut command = Command::new("taskset");
        command.args(["-c", cores]).arg(binary);
        match program {
            Program::Sealane => command.args(["dns", "-conf"]).arg(&file),
            Program::CoreDns => command.arg("-conf").arg(&file),
            Program::Knot => command.arg("-c").arg(&file),
        };
        let log = folder.join(format!("{}.log", program.name()));
        let out = File::create(&log)?;
        command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let begun = Instant::now();
        let child = command.spawn().map_err(|e| format!("{}: {e}", program.name()))?;
        let mut server = Server { program, child, loaded: 0.0 };
        let mut client = Client::new(program)?;
        while !client.knows(name) {
            let ended = server.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{} does not answer ({ended:?}): {said}", program.name()).into());
            }
            std::thread::sleep(LOOK);
        }
        server.loaded = begun.elapsed().as_secs_f64() * 1e3;
        Ok(server)
    }

    /// Its process, as this one sees it.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, MB (10^6 bytes).
    pub(crate) fn resident(&self) -> Result<f64> {
        crate::memory::status(self.child.id(), "VmRSS:")
    }

    /// The most that was resident since the start, or since it was forgotten, MB.
    pub(crate) fn peak(&self) -> Result<f64> {
        crate::memory::status(self.child.id(), "VmHWM:")
    }

    /// The peak is what is resident now (proc(5), clear_refs).
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// Stops it where it is, so that another has the core alone, or lets it go on.
    pub(crate) fn pause(&self, paused: bool) -> Result<()> {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("no process")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Asked for Server {
    fn name(&self) -> &'static str {
        self.program.name()
    }

    fn port(&self) -> u16 {
        self.program.port()
    }

    fn cpu(&self) -> Result<f64> {
        Ok(spent(&format!("/proc/{}/stat", self.child.id()))?[..2].iter().sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between two questions about a change.
const PROBE: Duration = Duration::from_micros(100);

/// Asks one question at a time, but for changes.
pub(crate) struct Client {
    socket: UdpSocket,
    id: u16,
    buffer: [u8; 4096],
}

impl Client {
    pub(crate) fn new(program: Program) -> Result<Client> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, program.port()))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        nix::sys::socket::setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(Client { socket, id: 0, buffer: [0; 4096] })
    }

    /// Whether there is an A record.
    fn knows(&mut self, name: &str) -> bool {
        self.ask(name).is_some_and(|(rcode, answers, _)| rcode == 0 && answers > 0)
    }

    /// Asks every [`PROBE`], whatever is still to be answered, until the address is among the answers: when that answer
    /// came, by the kernel's clock, whenever this thread was there to take it; `None` where it was not in time.
    pub(super) fn until(
        &mut self,
        name: &str,
        address: Ipv4Addr,
        patience: Duration,
    ) -> Result<Option<SystemTime>> {
        let (begun, first, mut asked) = (Instant::now(), self.id.wrapping_add(1), 0u16);
        self.socket.set_nonblocking(true)?;
        while begun.elapsed() < patience {
            if begun.elapsed() >= PROBE * u32::from(asked) {
                self.id = self.id.wrapping_add(1);
                asked = asked.checked_add(1).ok_or("too many questions for one change")?;
                self.socket.send(&crate::dns::question(self.id, name))?;
            }
            while let Ok((length, when)) = self.receive() {
                let id = u16::from_be_bytes([self.buffer[0], self.buffer[1]]);
                // Others are late answers about an earlier change.
                let own = length >= 12 && id.wrapping_sub(first) < asked;
                let found = crate::dns::addresses(&self.buffer[..length]);
                if own && found.is_some_and(|found| found.contains(&address)) {
                    self.socket.set_nonblocking(false)?;
                    return Ok(when);
                }
            }
            std::thread::sleep(PROBE / 5);
        }
        self.socket.set_nonblocking(false)?;
        Ok(None)
    }

    /// A datagram's length, and when it came.
    fn receive(&mut self) -> nix::Result<(usize, Option<SystemTime>)> {
        let (mut room, mut into) = (nix::cmsg_space!(TimeSpec), [IoSliceMut::new(&mut self.buffer)]);
        let flags = MsgFlags::empty();
        let came = recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut room), flags)?;
        let when = came.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(when) => Some(UNIX_EPOCH + Duration::from(when)),
            _ => None,
        });
        Ok((came.bytes, when))
    }

    /// Response code, answers, and how long it took in µs; `None` without an answer.
    pub(crate) fn ask(&mut self, name: &str) -> Option<(u8, u16, f64)> {
        let (_, took) = self.exchange(name)?;
        let head = &self.buffer;
        Some((head[3] & 0xf, u16::from_be_bytes([head[6], head[7]]), took))
    }

    /// The answer's length, and µs until it came.
    fn exchange(&mut self, name: &str) -> Option<(usize, f64)> {
        self.id = self.id.wrapping_add(1);
        let question = crate::dns::question(self.id, name);
        let begun = Instant::now();
        self.socket.send(&question).ok()?;
        loop {
            let length = self.socket.recv(&mut self.buffer).ok()?;
            let took = begun.elapsed().as_secs_f64() * 1e6;
            if length >= 12 && self.buffer[..2] == self.id.to_be_bytes() {
                return Some((length, took));
            }
        }
    }
}
