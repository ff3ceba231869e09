//! Ends sockets whose endpoint is gone: the programs led them there once, and no packet of theirs is looked at again.

use crate::BpfError;
use crate::cgroup::namespaces;
use crate::diag::{Diag, Socket};
use crate::namespace::within;
use crate::raw::{self, Belief, COMES, Key, LEAVES, Track, TrackKey};
use aya::maps::{Array, HashMap, MapData, MapError};
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, Frontend, FrontendKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// What is in force.
pub(crate) type Frontends = BTreeMap<FrontendKey, Arc<Frontend>>;

/// Whose flows are to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dead {
    /// Those of UDP whose frontend does not have their backend any more: a client would go on sending to nobody.
    pub datagrams: bool,
    /// Those of TCP to endpoints that no slice has any more: connections to one that merely terminates end in their own
    /// time.
    pub gone: BTreeSet<IpAddr>,
}

impl Dead {
    pub fn is_empty(&self) -> bool {
        !self.datagrams && self.gone.is_empty()
    }

    /// Protocols that there may be something of.
    fn protocols(&self) -> impl Iterator<Item = Protocol> {
        let udp = self.datagrams.then_some(Protocol::Udp);
        udp.into_iter().chain((!self.gone.is_empty()).then_some(Protocol::Tcp))
    }
}

/// Whether a flow of UDP may go on.
fn serves(frontends: &Frontends, key: Key, backend: Backend) -> bool {
    let frontend = key.frontend().and_then(|key| frontends.get(&key));
    frontend.is_some_and(|f| f.flows_to().any(|b| *b == backend))
}

/// Ends sockets in all network namespaces of a cgroup's processes, and says how many there were. Sockets that were not
/// led by a program are left alone, even where they are connected to the same endpoint.
pub(crate) fn end_sockets(
    cgroup: &Path,
    beliefs: &Array<MapData, Belief>,
    dead: &Dead,
    frontends: &Frontends,
) -> Result<u64, BpfError> {
    let namespaces = namespaces(cgroup);
    let ended = within(&namespaces, || {
        let mut ended = 0;
        let mut diag = Diag::open()?;
        for protocol in dead.protocols() {
            for socket in diag.connected(protocol)? {
                let Some(service) = service(beliefs, &socket)? else { continue };
                let due = match protocol {
                    Protocol::Udp => !serves(frontends, service, socket.peer),
                    _ => dead.gone.contains(&socket.peer.address),
                };
                if due {
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
    frontends: &Frontends,
) -> Result<(), BpfError> {
    if !dead.datagrams {
        return Ok(());
    }
    let mut stale = Vec::new();
    for entry in tracks.iter() {
        let (key, to) = entry.map_err(BpfError::map("tracks"))?;
        let at =
            Key { address: key.destination, port: key.destination_port, protocol: key.protocol, zero: 0 };
        let backend = Backend { address: raw::ip(to.address), port: u16::from_be_bytes(to.port) };
        if key.direction == COMES
            && key.protocol == raw::protocol(Protocol::Udp)
            && !serves(frontends, at, backend)
        {
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
fn service(beliefs: &Array<MapData, Belief>, socket: &Socket) -> Result<Option<Key>, BpfError> {
    // As the programs find its place.
    let place = (socket.cookie % u64::from(beliefs.len())) as u32;
    let belief = beliefs.get(&place, 0).map_err(BpfError::map("beliefs"))?;
    let backend = Backend { address: raw::ip(belief.backend), port: u16::from_be_bytes(belief.backend_port) };
    let protocol = raw::protocol(socket.protocol);
    let service = Key { address: belief.service, port: belief.service_port, protocol, zero: 0 };
    Ok((belief.cookie == socket.cookie && backend == socket.peer).then_some(service))
}
