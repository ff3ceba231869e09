//! The servers that the tables are held against, each a program with CoreDNS's flags.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use sealane_tests::{Machine, sealane};

use super::codec::{Query, Reply, decode};

/// Where the tables' servers listen, on the loopback of the test's machine.
pub const SERVER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5300));
/// A lost datagram is asked again after this long, …
const LOST: Duration = Duration::from_secs(2);
/// … so often.
const TRIES: usize = 3;

/// Whose rows are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Sealane,
    CoreDns,
}

impl Program {
    pub const ALL: [Program; 2] = [Program::CoreDns, Program::Sealane];

    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Program::Sealane => "sealane",
            Program::CoreDns => "coredns",
        }
    }

    /// The server on this machine, ready to run. CoreDNS is `SEALANE_COREDNS`, or `tests/coredns/coredns`, or the
    /// one in PATH.
    pub fn command(self, machine: &Machine, corefile: &Path) -> Command {
        let mut command = match self {
            Program::Sealane => {
                let mut command = machine.command(sealane());
                command.arg("dns");
                command
            }
            Program::CoreDns => {
                let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/coredns/coredns"));
                machine.command(match std::env::var_os("SEALANE_COREDNS") {
                    Some(path) => path.into(),
                    None if built.is_file() => built,
                    None => "coredns".into(),
                })
            }
        };
        command.arg("-conf").arg(corefile).stdin(Stdio::null());
        command
    }

    /// A Corefile of a table as this server has it: Sealane's way to the API is KUBECONFIG.
    pub fn corefile(self, text: &str, kubeconfig: &str, dir: &str) -> String {
        let own = |line: &&str| self == Program::CoreDns || !line.contains("$KUBECONFIG");
        let lines: Vec<&str> = text.lines().filter(own).collect();
        lines.join("\n").replace("$KUBECONFIG", kubeconfig).replace("$DIR", dir) + "\n"
    }
}

/// A running server.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; nothing is waited for.
    #[track_caller]
    pub fn start(mut command: Command, log: PathBuf) -> Server {
        let out = File::create(&log).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap_or_else(|e| {
            panic!("{command:?}: {e}; CoreDNS is built by `cargo xtask coredns`, or named by SEALANE_COREDNS")
        });
        Server { child, log }
    }

    /// What it said, and whether it has ended.
    pub fn log(&mut self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        match self.child.try_wait() {
            Ok(Some(status)) => format!("{text}({status})"),
            _ => text,
        }
    }

    /// Tells it to end, and waits until it has.
    #[allow(dead_code, reason = "not all tests end servers in peace")]
    pub fn end(&mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One question over UDP. Called on the test's machine.
pub fn ask_udp(to: SocketAddr, query: &Query) -> Result<Reply, String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).map_err(|e| e.to_string())?;
    socket.connect(to).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(LOST)).map_err(|e| e.to_string())?;
    let mut buffer = vec![0; 65_535];
    let mut last = String::new();
    for id in 1..=TRIES {
        let id = u16::try_from(id).unwrap_or_default() | 0x5a00;
        socket.send(&query.encode(id)).map_err(|e| e.to_string())?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let reply = decode(&buffer[..length])?;
                if reply.id == id {
                    return Ok(reply);
                }
                last = format!("an answer with id {:#x} instead of {id:#x}", reply.id);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                last = "no answer".to_owned();
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    Err(last)
}

/// All questions over one connection, the next without waiting for the answer to the one before (RFC 7766 section
/// 6.2.1.1); the answers in the questions' order.
pub fn ask_tcp(to: SocketAddr, queries: &[&Query]) -> Result<Vec<Reply>, String> {
    let mut stream = TcpStream::connect_timeout(&to, LOST).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(LOST)).map_err(|e| e.to_string())?;
    let mut reader = stream.try_clone().map_err(|e| e.to_string())?;
    let mut sent = Vec::new();
    for (query, id) in queries.iter().zip(0u16..) {
        let message = query.encode(id);
        sent.extend(u16::try_from(message.len()).map_err(|e| e.to_string())?.to_be_bytes());
        sent.extend(message);
    }
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || stream.write_all(&sent).map(|()| stream));
        let mut replies: Vec<Option<Reply>> = vec![None; queries.len()];
        for answered in 0..queries.len() {
            let mut length = [0; 2];
            let unanswered = |replies: &[Option<Reply>]| {
                let left = queries.iter().zip(replies).find(|(_, reply)| reply.is_none());
                left.map_or(String::new(), |(query, _)| format!("{} type {}", query.name, query.rtype))
            };
            let missing = |e: std::io::Error| {
                format!("after {answered} answers: {e}; unanswered: {}", unanswered(&replies))
            };
            reader.read_exact(&mut length).map_err(missing)?;
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            reader.read_exact(&mut message).map_err(|e| e.to_string())?;
            let reply = decode(&message)?;
            let place = replies.get_mut(usize::from(reply.id));
            let place = place.filter(|p| p.is_none()).ok_or(format!("an answer with id {}", reply.id))?;
            *place = Some(reply);
        }
        writing.join().map_err(|_| "the writer failed")?.map_err(|e| e.to_string())?;
        replies.into_iter().map(|reply| reply.ok_or_else(|| "unanswered".to_owned())).collect()
    })
}
