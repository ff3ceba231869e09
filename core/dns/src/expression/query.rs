//! CoreDNS's functions about a query (`plugin/pkg/expression`).

use std::net::IpAddr;

use super::run::Scope;
use super::value::Value;
use crate::chain::{Peers, Query, World};
use crate::message::{class, rtype};

/// Functions with the number of their arguments.
const FUNCTIONS: &[(&str, usize)] = &[
    ("bufsize", 0),
    ("class", 0),
    ("client_ip", 0),
    ("do", 0),
    ("id", 0),
    ("name", 0),
    ("opcode", 0),
    ("port", 0),
    ("proto", 0),
    ("server_ip", 0),
    ("server_port", 0),
    ("size", 0),
    ("type", 0),
    ("incidr", 2),
    ("metadata", 1),
];

/// How many arguments a function takes; `None` where there is none of that name.
pub fn arity(name: &str) -> Option<(usize, usize)> {
    FUNCTIONS.iter().find(|row| row.0 == name).map(|row| (row.1, row.1))
}

/// A query, for expressions about it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// It.
    pub query: &'a Query,
    /// The block's plugins, for `metadata()`.
    pub peers: Peers<'a>,
    /// What they know from.
    pub world: &'a World,
}

impl Scope for Asked<'_> {
    fn call(&self, name: &str, args: &[Value]) -> Option<Result<Value, String>> {
        let query = self.query;
        Some(Ok(match (name, args) {
            ("bufsize", _) => Value::Int(i64::try_from(query.room()).unwrap_or(0)),
            ("class", _) => class::name(query.question().class).into(),
            ("client_ip", _) => query.client.ip().to_string().into(),
            ("do", _) => Value::Bool(query.dnssec_ok()),
            ("id", _) => Value::Int(query.request.id.into()),
            ("name", _) => query.question().name.to_lowercase().to_string().into(),
            ("opcode", _) => Value::Int(query.request.flags.opcode.into()),
            ("port", _) => query.client.port().to_string().into(),
            ("proto", _) => query.transport.as_str().into(),
            ("server_ip", _) => query.server_ip(self.world).map_or(String::new(), |ip| ip.to_string()).into(),
            ("server_port", _) => query.server.port.to_string().into(),
            ("size", _) => Value::Int(i64::try_from(query.size).unwrap_or(0)),
            ("type", _) => rtype::name(query.question().rtype).into(),
            ("incidr", [Value::Text(ip), Value::Text(network)]) => {
                return Some(in_network(ip, network).map(Value::Bool));
            }
            ("metadata", [Value::Text(label)]) => {
                self.peers.metadata(label, query, self.world).unwrap_or_default().into()
            }
            ("incidr" | "metadata", _) => return Some(Err(format!("{name}() takes strings"))),
            _ => return None,
        }))
    }
}

fn in_network(ip: &str, network: &str) -> Result<bool, String> {
    let ip: IpAddr = ip.parse().map_err(|_| format!("'{ip}' is no IP address"))?;
    let parsed = network.split_once('/').and_then(|(address, bits)| {
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= most)?;
        Some((address, bits))
    });
    let (address, bits) = parsed.ok_or_else(|| format!("'{network}' is no network"))?;
    Ok(match (ip.to_canonical(), address) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            (u32::from(ip) ^ u32::from(net)).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            (u128::from(ip) ^ u128::from(net)).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    })
}
