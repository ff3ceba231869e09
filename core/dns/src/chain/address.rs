//! [`ServerAddress`]: which of the listeners a query came in by. A server block answers at its own alone.

use std::fmt::{Display, Formatter, Result};
use std::net::{IpAddr, SocketAddr};

use super::{Block, Scheme, ServerKey};

/// What one listener listens for, and where: a server, as CoreDNS counts them (`groupConfigsByListenAddr` in
/// core/dnsserver/register.go). Server blocks that differ in `bind` alone are told apart by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerAddress {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// As `bind` names it; `None`: all addresses that no other listener has for itself.
    pub ip: Option<IpAddr>,
    /// The port, of UDP or TCP.
    pub port: u16,
}

impl From<u16> for ServerAddress {
    /// DNS on all addresses.
    fn from(port: u16) -> Self {
        ServerAddress { port, ..ServerAddress::default() }
    }
}

impl Display for ServerAddress {
    /// `dns://:53`, `tls://127.0.0.1:853`, `dns://[::1]:53`.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

impl Block {
    /// Each of its keys at each of its addresses.
    pub fn servers(&self) -> impl Iterator<Item = (&ServerKey, ServerAddress)> {
        let bound = self.settings.bind.iter().map(|ip| Some(*ip));
        let all = self.settings.bind.is_empty().then_some(None);
        let ips = bound.chain(all);
        self.keys.iter().flat_map(move |key| {
            let ServerKey { scheme, port, .. } = *key;
            ips.clone().map(move |ip| (key, ServerAddress { scheme, ip, port }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Settings;
    use crate::chain::values::server_keys;

    #[test]
    fn servers_as_coredns_writes_them() {
        for (keys, bind, expected) in [
            (&["."][..], &[][..], "dns://:53"),
            (&[".", "tls://a"], &[], "dns://:53 tls://:853"),
            (
                &["a", "b:54"],
                &["127.0.0.1", "::1"],
                "dns://127.0.0.1:53 dns://[::1]:53 dns://127.0.0.1:54 dns://[::1]:54",
            ),
            (&["https://."], &["192.0.2.1"], "https://192.0.2.1:443"),
        ] {
            let keys = keys.iter().flat_map(|key| server_keys(key, 53).unwrap()).collect();
            let bind = bind.iter().map(|ip| ip.parse().unwrap()).collect();
            let block =
                Block { keys, settings: Settings { bind, ..Settings::default() }, plugins: Vec::new() };
            let servers: Vec<String> = block.servers().map(|(_, server)| server.to_string()).collect();
            assert_eq!(servers.join(" "), expected);
        }
    }
}
