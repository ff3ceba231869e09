//! A netfilter netlink socket: transactions and dumps. The kernel handles what is sent before `send` returns, so
//! whatever it has to say about a transaction is there by then.

use crate::feature;
use crate::message::{Messages, Received, flags, received};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_recv_buffer_size_force, set_socket_send_buffer_size, set_socket_send_buffer_size_force,
    socket_send_buffer_size,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM_NFTABLES: u16 = 10;
/// What a socket may hold on its way to the kernel, where that may be forced: 256 MiB, a million endpoints.
const SEND_BUFFER: usize = 256 << 20;
const RECEIVE_BUFFER: usize = 4 << 20;
/// Room for one datagram: the kernel's dumps come in 32 KiB, its errors carry what they complain of.
const DATAGRAM: usize = 256 << 10;
/// Begin and end of a batch, and what the kernel keeps back.
const OVERHEAD: usize = 128;

/// Why the kernel did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed.
    #[error("netlink: {what}: {errno}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// No right to change rules.
    #[error(
        "the kernel forbids changing nftables rules: run as root, or in a user namespace that owns the network namespace"
    )]
    Forbidden,
    /// Another process writes these tables, and holds them.
    #[error(
        "{by} holds the table sealane: one service proxy runs in a network at a time; end that one first"
    )]
    Held {
        /// Whoever does.
        by: String,
    },
    /// The kernel was built without something that rules need.
    #[error("the kernel lacks {what}: {errno}; load its module, or use a kernel that has it")]
    Missing {
        /// What, and the option that builds it.
        what: String,
        /// How the kernel said so.
        errno: Errno,
    },
    /// The kernel refused a message; of a batch, nothing was done.
    #[error("the kernel refused message {index} of type {kind:#06x}: {errno}")]
    Refused {
        /// Its type: subsystem and message.
        kind: u16,
        /// Its place in what was sent, from 0.
        index: u32,
        /// Why.
        errno: Errno,
    },
    /// What the kernel had to say was lost (ENOBUFS): the state in force is not known.
    #[error("the kernel's answers were lost: rules must be written anew")]
    Lost,
}

impl NetlinkError {
    /// The kernel says that it is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, NetlinkError::Refused { errno: Errno::NOENT, .. })
    }
}

/// Opens a netfilter socket in the network namespace of the calling thread. The socket stays in that namespace,
/// whichever thread uses it.
pub fn netlink_socket() -> Result<OwnedFd, NetlinkError> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
        .map_err(|errno| match errno {
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => NetlinkError::Missing {
                what: "netfilter over netlink (CONFIG_NETFILTER_NETLINK)".to_owned(),
                errno,
            },
            errno => NetlinkError::Socket { what: "open a netfilter socket", errno },
        })
}

/// A socket to the kernel's netfilter.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    limit: usize,
    buffer: Vec<u8>,
    /// What becomes of what is sent: messages that this kernel refuses as another would refuse the true ones.
    #[cfg(test)]
    pub(crate) distort: Option<fn(&mut Vec<u8>)>,
}

impl Netlink {
    /// Takes a socket from [`netlink_socket`] and gives it the largest buffers that it may have.
    pub fn new(socket: OwnedFd) -> Result<Self, NetlinkError> {
        // A user namespace may not force: there wmem_max bounds a batch, which the kernel doubles.
        if set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
            let asked = set_socket_send_buffer_size(&socket, SEND_BUFFER);
            asked.map_err(|errno| NetlinkError::Socket { what: "size the send buffer", errno })?;
        }
        // Where it may not be forced the default does: one error and its message fit.
        let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        let granted = socket_send_buffer_size(&socket)
            .map_err(|errno| NetlinkError::Socket { what: "read the send buffer's size", errno })?;
        let limit = granted.saturating_sub(OVERHEAD).max(1 << 16);
        Ok(Self {
            socket,
            sequence: 1,
            limit,
            buffer: vec![0; DATAGRAM],
            #[cfg(test)]
            distort: None,
        })
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Bytes that one batch may have.
    pub fn limit(&self) -> usize {
        self.limit
    }

    #[cfg(test)]
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Carries out nftables messages: all or none, where they fit one batch; else batch after batch.
    pub(crate) fn transact(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        if messages.is_empty() {
            return Ok(());
        }
        if messages.bytes().len() <= self.limit {
            return self.batch(messages);
        }
        messages.split(self.limit).into_iter().try_for_each(|run| self.batch(run))
    }

    fn batch(&mut self, mut batch: Messages) -> Result<(), NetlinkError> {
        let mut begin = Messages::default();
        begin.push_for(BATCH_BEGIN, 0, 0, SUBSYSTEM_NFTABLES, |_| {});
        batch.prepend(begin);
        batch.push_for(BATCH_END, 0, 0, SUBSYSTEM_NFTABLES, |_| {});
        match self.send(&mut batch) {
            Err(NetlinkError::Refused { kind, index, errno }) => {
                // Behind the batch's beginning.
                let refused = batch.get(index as usize + 1).filter(|m| m.kind == kind);
                let missing = refused.and_then(|m| feature::of_message(&m, errno));
                Err(missing.map_or(NetlinkError::Refused { kind, index, errno }, |what| {
                    NetlinkError::Missing { what, errno }
                }))
            }
            other => other,
        }
    }

    /// Sends messages and takes in what the kernel says to them: the first complaint is the result.
    pub(crate) fn send(&mut self, messages: &mut Messages) -> Result<(), NetlinkError> {
        let mut outcome = Ok(());
        self.exchange(messages, |error| {
            if outcome.is_ok() {
                outcome = Err(error);
            }
        })?;
        outcome
    }

    /// Sends deletions, each for itself; gives back how many found what they name.
    pub(crate) fn delete_each(&mut self, deletions: &[Messages]) -> Result<u64, NetlinkError> {
        // Complaints of so many fit the smallest of receive buffers.
        const TOGETHER: usize = 100;
        let mut deleted = 0;
        for part in deletions.chunks(TOGETHER) {
            let mut messages = Messages::default();
            part.iter().for_each(|deletion| messages.append(deletion.clone()));
            let (mut outcome, mut missed) = (Ok(()), 0);
            self.exchange(&mut messages, |error| match error {
                // It ended by itself.
                error if error.is_not_found() => missed += 1,
                error if outcome.is_ok() => outcome = Err(error),
                _ => {}
            })?;
            outcome?;
            deleted += (part.len() as u64).saturating_sub(missed);
        }
        Ok(deleted)
    }

    fn exchange(
        &mut self,
        messages: &mut Messages,
        mut complain: impl FnMut(NetlinkError),
    ) -> Result<(), NetlinkError> {
        let first = self.number(messages);
        let written = self.write(messages);
        loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    received(&self.buffer[..length])
                        .filter_map(|message| complaint(&message, first).err())
                        .for_each(&mut complain);
                }
                Err(Errno::AGAIN) => return written,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => complain(NetlinkError::Lost),
                Err(errno) => return Err(NetlinkError::Socket { what: "receive", errno }),
            }
        }
    }

    /// Asks for all of something; `visit` gets each message. Begins again where others wrote meanwhile.
    pub(crate) fn dump(
        &mut self,
        request: &Messages,
        mut visit: impl FnMut(&Received<'_>),
    ) -> Result<(), NetlinkError> {
        let nothing = |message: &Received<'_>| {
            visit(message);
            None
        };
        self.dump_and_act(request, nothing).map(drop)
    }

    /// As [`dump`](Self::dump); what `visit` gives back is sent while the rest is still to come. Gives back how many of
    /// those messages the kernel did not refuse.
    pub(crate) fn dump_and_act(
        &mut self,
        request: &Messages,
        mut visit: impl FnMut(&Received<'_>) -> Option<Messages>,
    ) -> Result<u64, NetlinkError> {
        let mut request = request.clone();
        let first = self.number(&mut request);
        self.write(&request)?;
        let (mut sent, mut refused, mut done) = (0u64, 0, false);
        loop {
            // What is refused has its answer by the time it is sent.
            let how = if done { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
            let length = match recv(&self.socket, &mut self.buffer[..], how) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if done => return Ok(sent.saturating_sub(refused)),
                Err(Errno::NOBUFS) => return Err(NetlinkError::Lost),
                Err(errno) => return Err(NetlinkError::Socket { what: "receive", errno }),
            };
            let mut answers = Messages::default();
            for message in received(&self.buffer[..length]) {
                match message.sequence.wrapping_sub(first) {
                    0 => {}
                    // To one of those messages, or to what was sent long before.
                    later => {
                        refused += u64::from(message.kind == NLMSG_ERROR && later <= u32::MAX / 2);
                        continue;
                    }
                }
                if message.flags & flags::DUMP_INTERRUPTED != 0 {
                    tracing::debug!("a dump met a change");
                }
                match message.kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => return complaint(&message, first).map(|()| 0),
                    _ => visit(&message).into_iter().for_each(|answer| answers.append(answer)),
                }
            }
            if !answers.is_empty() {
                sent += received(answers.bytes()).count() as u64;
                self.number(&mut answers);
                self.write(&answers)?;
            } else if done && sent == 0 {
                return Ok(0);
            }
        }
    }

    /// Asks for one thing, without DUMP: one answer or a complaint, which is there when `send` returns.
    pub(crate) fn ask(
        &mut self,
        mut request: Messages,
        mut visit: impl FnMut(&Received<'_>),
    ) -> Result<(), NetlinkError> {
        let first = self.number(&mut request);
        self.write(&request)?;
        loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    for message in received(&self.buffer[..length]).filter(|m| m.sequence == first) {
                        match message.kind {
                            NLMSG_ERROR => complaint(&message, first)?,
                            _ => visit(&message),
                        }
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Err(NetlinkError::Lost),
                Err(errno) => return Err(NetlinkError::Socket { what: "receive", errno }),
            }
        }
    }

    fn number(&mut self, messages: &mut Messages) -> u32 {
        let first = self.sequence;
        messages.number(first);
        self.sequence = self.sequence.wrapping_add(received(messages.bytes()).count() as u32);
        first
    }

    fn write(&self, messages: &Messages) -> Result<(), NetlinkError> {
        let bytes = messages.bytes();
        #[cfg(test)]
        let bytes = &self.distort.map_or_else(
            || bytes.to_vec(),
            |distort| {
                let mut bytes = bytes.to_vec();
                distort(&mut bytes);
                bytes
            },
        )[..];
        loop {
            match send(&self.socket, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(NetlinkError::Socket { what: "send", errno }),
            }
        }
    }
}

/// What an error message says; Ok where it is none, a mere acknowledgement, or an old one.
fn complaint(message: &Received<'_>, first: u32) -> Result<(), NetlinkError> {
    let index = message.sequence.wrapping_sub(first);
    if message.kind != NLMSG_ERROR || index > u32::MAX / 2 {
        return Ok(());
    }
    let code = message.body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    // The message complained of follows: its header's type.
    let kind = message.body.get(8..10).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
    match Errno::from_raw_os_error(code.saturating_neg()) {
        _ if code == 0 => Ok(()),
        Errno::PERM => Err(NetlinkError::Forbidden),
        Errno::NOBUFS => Err(NetlinkError::Lost),
        errno if let Some(what) = feature::of_subsystem(kind, errno) => {
            Err(NetlinkError::Missing { what, errno })
        }
        errno => Err(NetlinkError::Refused { kind, index: index.saturating_sub(1), errno }),
    }
}
