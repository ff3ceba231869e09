//! Which server blocks may stand beside each other.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::chain::{Block, ServerKey};
use crate::corefile::Position;

/// What blocks without a view serve so far: where each key is listened for, and the block's line.
#[derive(Default)]
pub(super) struct Served(HashMap<ServerKey, Vec<(Option<IpAddr>, Position)>>);

impl Served {
    /// Takes a block that begins at a line, or says why it may not stand behind those before. A zone may be served
    /// by several blocks where each has addresses of its own to listen on, or a view: the view decides
    /// (`validateZonesAndListeningAddresses` in core/dnsserver/register.go, `zoneOverlap` in address.go).
    pub(super) fn add(&mut self, block: &Block, at: &Position) -> Result<(), String> {
        for (key, server) in block.servers() {
            let served = self.0.entry(key.clone()).or_default();
            if let Some((_, other)) = served.iter().find(|(ip, _)| *ip == server.ip) {
                return Err(format!(
                    "cannot serve {} - it is already defined at {other}; remove one of the two, or let each 'bind' \
                     addresses of its own",
                    written(key, server.ip)
                ));
            }
            // A listener on all addresses has those of the others, too.
            if let Some((ip, other)) = served.iter().find(|(ip, _)| ip.is_none() || server.ip.is_none()) {
                return Err(format!(
                    "cannot serve {} - zone overlap listener capacity with {} at {other}; let both 'bind' addresses \
                     of their own",
                    written(key, server.ip),
                    written(key, *ip)
                ));
            }
            if block.settings.view.is_none() {
                served.push((server.ip, at.clone()));
            }
        }
        Ok(())
    }
}

/// `dns://.:53 on 127.0.0.1`
fn written(key: &ServerKey, ip: Option<IpAddr>) -> String {
    ip.map_or_else(|| key.to_string(), |ip| format!("{key} on {ip}"))
}
