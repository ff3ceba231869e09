//! Ends sockets whose endpoint is gone: the programs led them there once, and no packet of theirs is looked at again.

use crate::BpfError;
use crate::cgroup::namespaces;
use crate::diag::{Diag, Socket};
use crate::namespace::within;
use crate::raw::{self, COMES, FlowKey, Key, LEAVES, Place, Track, TrackKey};
use aya::maps::{HashMap, MapData, MapError};
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, FrontendKey};
use std::collections::BTreeSet;
use std::path::Path;

/// Whose sockets are to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dead {
    /// Backends of UDP that a frontend no longer has: a client would go on sending to nobody.
    pub lost: BTreeSet<(Backend, FrontendKey)>,
    /// Endpoints that no slice has any more: connections of TCP to one that merely terminates end in their own time.
    pub gone: BTreeSet<Backend>,
}

impl Dead {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.gone.is_empty()
    }

    /// Whether a socket at a backend, which takes it for this address, is one of them.
    fn has(&self, socket: &Socket, flow: Option<&Place>) -> bool {
        let Some(flow) = flow else { return false };
        match socket.protocol {
            Protocol::Udp => {
                let key = Key { address: flow.address, port: flow.port, protocol: 17, zero: 0 };
                key.frontend().is_some_and(|key| self.lost.contains(&(socket.peer, key)))
            }
            _ => self.gone.contains(&socket.peer),
        }
    }

    /// Protocols that there is something of.
    fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let udp = (!self.lost.is_empty()).then_some(Protocol::Udp);
        udp.into_iter().chain((!self.gone.is_empty()).then_some(Protocol::Tcp))
    }
}

/// Ends sockets in all network namespaces of a cgroup's processes, and says how many there were. Sockets that were not
/// led by a program are left alone, even where they are connected to the same endpoint.
pub(crate) fn end_sockets(
    cgroup: &Path,
    flows: &HashMap<MapData, FlowKey, Place>,
    dead: &Dead,
) -> Result<u64, BpfError> {
    let namespaces = namespaces(cgroup);
    let ended = within(&namespaces, || {
        let mut ended = 0;
        let mut diag = Diag::open()?;
        for protocol in dead.protocols() {
            for socket in diag.connected(protocol)? {
                let flow = flow(flows, &socket)?;
                if dead.has(&socket, flow.as_ref()) {
                    ended += u64::from(diag.destroy(&socket)?);
                }
            }
        }
        Ok(ended)
    })?;
    Ok(ended.into_iter().sum())
}

/// Forgets which backends flows of UDP from outside were led to, where those no longer serve them: the next datagram is
/// led anew.
pub(crate) fn forget_tracks(
    tracks: &mut HashMap<MapData, TrackKey, Track>,
    dead: &Dead,
) -> Result<(), BpfError> {
    if dead.lost.is_empty() {
        return Ok(());
    }
    let mut stale = Vec::new();
    for entry in tracks.iter() {
        let (key, to) = entry.map_err(BpfError::map("tracks"))?;
        let at =
            Key { address: key.destination, port: key.destination_port, protocol: key.protocol, zero: 0 };
        let backend = Backend { address: raw::ip(to.address), port: u16::from_be_bytes(to.port) };
        let lost =
            key.direction == COMES && at.frontend().is_some_and(|at| dead.lost.contains(&(backend, at)));
        if lost {
            let answers = TrackKey {
                source: to.address,
                destination: key.source,
                source_port: to.port,
                destination_port: key.source_port,
                direction: LEAVES,
                ..key
            };
            stale.extend([key, answers]);
        }
    }
    for key in stale {
        match tracks.remove(&key) {
            // The eldest are forgotten by themselves.
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::NotFound => {}
            Err(why) => return Err(BpfError::map("tracks")(why)),
        }
    }
    Ok(())
}

/// What a socket believes its peer to be, where a program led it there.
fn flow(flows: &HashMap<MapData, FlowKey, Place>, socket: &Socket) -> Result<Option<Place>, BpfError> {
    let key = FlowKey {
        cookie: socket.cookie,
        address: raw::address(socket.peer.address),
        port: socket.peer.port.to_be_bytes(),
        protocol: raw::protocol(socket.protocol),
        zero: [0; 5],
    };
    match flows.get(&key, 0) {
        Ok(flow) => Ok(Some(flow)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(why) => Err(BpfError::map("flows")(why)),
    }
}
