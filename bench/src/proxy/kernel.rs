//! What nftables tells whoever listens: when something was put into force, whoever did it and however.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::cluster::is_fresh;
use crate::Result;

/// `NFNLGRP_NFTABLES`, the seventh, as a bit.
const GROUP: u32 = 1 << 6;
/// `NFT_MSG_GETGEN` of `NFNL_SUBSYS_NFTABLES`.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// Room for what a thousand changes say.
const BUFFER: usize = 256 << 20;

/// A netfilter socket in the network namespace of the thread that opened it.
pub(crate) struct Kernel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Kernel {
    /// To ask.
    pub(crate) fn open() -> Result<Kernel> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        Ok(Kernel { socket, buffer: vec![0; 1 << 18] })
    }

    /// To listen.
    pub(crate) fn listen() -> Result<Kernel> {
        let kernel = Kernel::open()?;
        set_socket_recv_buffer_size_force(&kernel.socket, BUFFER)?;
        bind(&kernel.socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(kernel)
    }

    /// How often rules were changed in this namespace.
    pub(crate) fn generation(&mut self) -> Result<u32> {
        let mut request = Vec::new();
        request.extend(20u32.to_ne_bytes());
        request.extend(GET_GENERATION.to_ne_bytes());
        // NLM_F_REQUEST
        request.extend(1u16.to_ne_bytes());
        request.extend([0; 12]);
        send(&self.socket, &request, SendFlags::empty())?;
        let (length, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
        // Behind both headers its first attribute, NFTA_GEN_ID.
        let value = self.buffer[..length].get(24..28).and_then(|v| v.try_into().ok());
        Ok(value.map(u32::from_be_bytes).ok_or("nftables has no generation")?)
    }

    /// Waits for what was changed next: the fresh addresses that it names, and when it was heard; none in time is empty.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<(Vec<usize>, Instant)> {
        let mut wait = [PollFd::new(&self.socket, PollFlags::IN)];
        let patience = Timespec::try_from(patience)?;
        match poll(&mut wait, Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => return Ok((Vec::new(), Instant::now())),
            other => other?,
        };
        let (length, _) = match recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
            Err(Errno::NOBUFS) => return Err("what the kernel said of changes was lost".into()),
            other => other?,
        };
        let heard = Instant::now();
        // Attributes stand at multiples of four, and so do addresses in them.
        let mut found: Vec<usize> = self.buffer[..length]
            .chunks_exact(4)
            .filter_map(|word| is_fresh([word[0], word[1], word[2], word[3]]))
            .collect();
        found.dedup();
        Ok((found, heard))
    }

    /// Takes in what has been said so far.
    pub(crate) fn forget(&mut self) {
        while recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}
