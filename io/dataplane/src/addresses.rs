//! The machine's own addresses, and word of their changes (rtnetlink).

use crate::message::{AttributeIter, Messages, flags};
use crate::netlink::{Netlink, NetlinkError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::sync::watch;

const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// How long the thread outlives its readers at most.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;
/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x10 | 0x100;

/// Sockets for addresses, in the network namespace of the thread that opened them: one that asks, one that is told.
#[derive(Debug)]
pub struct AddressSockets {
    ask: OwnedFd,
    told: OwnedFd,
}

/// Opens them in the network namespace of the calling thread.
pub fn address_sockets() -> Result<AddressSockets, NetlinkError> {
    let fail = |what| move |errno| NetlinkError::Socket { what, errno };
    let open = |extra| {
        let kind = SocketFlags::CLOEXEC | extra;
        // Protocol 0 is NETLINK_ROUTE.
        socket_with(AddressFamily::NETLINK, SocketType::RAW, kind, None).map_err(fail("open a route socket"))
    };
    let (ask, told) = (open(SocketFlags::empty())?, open(SocketFlags::NONBLOCK)?);
    bind(&told, &SocketAddrNetlink::new(0, GROUPS)).map_err(fail("listen for addresses"))?;
    Ok(AddressSockets { ask, told })
}

fn address(body: &[u8]) -> Option<IpAddr> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let attributes = AttributeIter::new(body.get(HEADER..)?);
    // On a link from point to point IFA_ADDRESS is the other end's.
    let octets = attributes.get(LOCAL).or_else(|| attributes.get(ADDRESS))?;
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|o| Ipv4Addr::from(o).into()),
        16 => <[u8; 16]>::try_from(octets).ok().map(|o| Ipv6Addr::from(o).into()),
        _ => None,
    }
}

fn list(ask: &mut Netlink) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut request = Messages::default();
    request.push(GET_ADDRESS, flags::DUMP, 0, |_| {});
    let mut found = BTreeSet::new();
    ask.dump(&request, |message| {
        found.extend(Some(message).filter(|m| m.kind == NEW_ADDRESS).and_then(|m| address(m.body)));
    })?;
    Ok(found)
}

/// Starts a thread that publishes the machine's addresses now and whenever they change, until nobody reads. Each change is
/// followed by a whole look, so that one that was missed is made good by the next.
///
/// # Errors
///
/// Where there is no room for a socket's buffers or a thread.
pub fn follow_addresses(
    sockets: AddressSockets,
    publish: watch::Sender<Option<BTreeSet<IpAddr>>>,
) -> Result<(), NetlinkError> {
    let mut ask = Netlink::new(sockets.ask)?;
    let told = sockets.told;
    let follow = move || {
        let mut failed = false;
        while !publish.is_closed() {
            match list(&mut ask).and_then(|found| {
                publish.send_if_modified(|old| {
                    let changed = old.as_ref() != Some(&found);
                    *old = Some(found);
                    changed
                });
                wait(&told, || publish.is_closed())
            }) {
                Ok(()) => failed = false,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!(%error, "the machine's addresses cannot be followed; trying again");
                    }
                    std::thread::sleep(LOOK);
                }
            }
        }
    };
    let started = std::thread::Builder::new().name("addresses".to_owned()).spawn(follow);
    started.map(drop).map_err(|e| NetlinkError::Socket {
        what: "start the thread that follows addresses",
        errno: Errno::from_io_error(&e).unwrap_or(Errno::AGAIN),
    })
}

/// Waits until something is said, or until it is over.
fn wait(told: &OwnedFd, over: impl Fn() -> bool) -> Result<(), NetlinkError> {
    let fail = |errno| NetlinkError::Socket { what: "wait for addresses", errno };
    let patience = Timespec::try_from(LOOK).map_err(|_| fail(Errno::INVAL))?;
    while !over() {
        let mut polled = [PollFd::new(told, PollFlags::IN)];
        match poll(&mut polled, Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return drain(told),
            Err(errno) => return Err(fail(errno)),
        }
    }
    Ok(())
}

/// Takes in all there is: what it says is asked for anew.
fn drain(socket: impl AsFd) -> Result<(), NetlinkError> {
    let mut buffer = vec![0u8; 1 << 15];
    loop {
        match recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            // ENOBUFS: word was lost; the look that follows finds it.
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(NetlinkError::Socket { what: "receive", errno }),
        }
    }
}
