//! What the main process and its launcher say to each other over a SOCK_SEQPACKET pair: one JSON document a message,
//! file descriptors beside it. A document too large for a packet travels in a memfd.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::HostError;
use crate::runtime::{ContainerSpec, ExecSpec, SandboxSpec};

/// Documents up to this size travel in the packet itself, bytes.
const INLINE: usize = 64 * 1024;
/// File descriptors a message, at most.
const DESCRIPTORS: usize = 16;

/// From the main process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Chosen by the main process; the reply names it.
    pub(crate) number: u64,
    pub(crate) order: Order,
}

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first message. Its file descriptors: one open file for each of `Boot::restore`.
    Boot(Boot),
    CreateSandbox(SandboxSpec),
    RemoveSandbox(String),
    Start(Box<ContainerSpec>),
    Exec(ExecSpec),
    Signal {
        container: String,
        signal: i32,
    },
    RemoveContainer(String),
    /// A process that `Exec` started, by its number.
    KillExec(u64),
}

/// What the launcher has to know once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// `DATA/containers`.
    pub(crate) containers: std::path::PathBuf,
    /// Name of cgroups.
    pub(crate) name: String,
    /// The node's address on the bridge: every Pod's gateway.
    pub(crate) gateway: std::net::Ipv4Addr,
    /// The node of an ordinary user.
    pub(crate) rootless: bool,
    /// This user namespace is not the machine's first one.
    pub(crate) in_user_namespace: bool,
    /// Any user id up to this one (exclusive) may be used inside.
    pub(crate) ids: u32,
    /// MTU of Pod links.
    pub(crate) mtu: u32,
    /// What to write into each file that comes with this message when the main process has died.
    pub(crate) restore: Vec<String>,
}

/// From the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The answer to request `number`. Its file descriptors are named by `Answer::descriptors`.
    Done { number: u64, result: Result<Answer, Failure> },
    /// A started process has ended.
    Ended { process: u64, code: i32, signal: i32, oom_killed: bool },
    /// For people: something works in a lesser way than it could.
    Notice(String),
}

/// What a request gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Names the started process in [`Message::Ended`]; 0 where none was started.
    pub(crate) process: u64,
    /// In the launcher's process namespace.
    pub(crate) pid: u32,
    /// What the message's file descriptors are, in their order.
    pub(crate) descriptors: Vec<Descriptor>,
}

/// A file descriptor's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Descriptor {
    Stdin,
    Stdout,
    Stderr,
    Terminal,
    NetworkNamespace,
}

/// Why a request failed: [`HostError`] as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Step { context: String, errno: Option<i32>, text: String },
    CannotRun(String),
    Unknown(String),
}

impl Failure {
    /// A step that failed.
    pub(crate) fn step(context: impl Into<String>, source: &io::Error) -> Failure {
        Failure::Step { context: context.into(), errno: source.raw_os_error(), text: source.to_string() }
    }
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> HostError {
        match failure {
            Failure::Step { context, errno, text } => HostError::Step {
                context,
                source: errno.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error),
            },
            Failure::CannotRun(text) => HostError::CannotRun(text),
            Failure::Unknown(what) => HostError::Unknown(what),
        }
    }
}

/// `result.step(|| "what was being done")`.
pub(crate) trait Step<T> {
    /// Names the step that an error broke.
    fn step(self, context: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, context: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::step(context(), &error.into()))
    }
}

/// Sends one message with its file descriptors.
pub(crate) fn send(
    socket: impl AsFd,
    document: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(document)?;
    let mut all = descriptors.to_vec();
    if all.len() >= DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let memory;
    let packet = if body.len() <= INLINE {
        [&[0][..], &body].concat()
    } else {
        let file = rustix::fs::memfd_create("message", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(file);
        file.write_all(&body)?;
        file.rewind()?;
        memory = OwnedFd::from(file);
        all.push(memory.as_fd());
        vec![1]
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !all.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&all));
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(drop).map_err(io::Error::from),
        }
    }
}

/// Receives one message; `None`: the other side has closed. There may be fewer descriptors than were sent.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0u8; INLINE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let into = &mut [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(&socket, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // What a peer that died with unread messages leaves behind.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    // A process at its limit of open files gets fewer descriptors (CTRUNC): the receiver's matter.
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("a message between the main process and its launcher was cut"));
    }
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    let document = if buffer[0] == 0 {
        serde_json::from_slice(&buffer[1..received.bytes])?
    } else {
        let memory = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
        let mut body = Vec::new();
        std::fs::File::from(memory).read_to_end(&mut body)?;
        serde_json::from_slice(&body)?
    };
    Ok(Some((document, descriptors)))
}

/// A connected pair of message sockets, closed on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_documents_arrive_with_their_descriptors() {
        let (one, other) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for length in [0, 1, INLINE - 10, INLINE, 3 * INLINE] {
            let text = "x".repeat(length);
            send(&one, &text, &[file.as_fd(), file.as_fd()]).unwrap();
            let (received, descriptors) = receive::<String>(&other).unwrap().unwrap();
            assert_eq!(received, text);
            assert_eq!(descriptors.len(), 2);
        }
        drop(one);
        assert!(receive::<String>(&other).unwrap().is_none());
    }
}
