//! A message of dnstap (`dnstap.proto`).

use std::net::{IpAddr, SocketAddr};

use super::Time;
use crate::chain::Transport;
use crate::message::protobuf::{Value, write};

/// `Message.Type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClientQuery = 5,
    ClientResponse,
    ForwarderQuery,
    ForwarderResponse,
}

/// One message, before it is written.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) kind: Kind,
    pub(super) transport: Transport,
    /// Who asked.
    pub(super) client: Option<SocketAddr>,
    /// Who was asked.
    pub(super) server: Option<SocketAddr>,
    pub(super) query_time: Time,
    pub(super) response_time: Option<Time>,
    pub(super) query: Option<Vec<u8>>,
    pub(super) response: Option<Vec<u8>>,
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Payload {
    pub(super) fn new(kind: Kind) -> Self {
        Payload {
            kind,
            transport: Transport::Udp,
            client: None,
            server: None,
            query_time: (0, 0),
            response_time: None,
            query: None,
            response: None,
        }
    }

    /// `Dnstap` with this in it.
    pub(super) fn encode(&self, identity: &str, version: &str, extra: Option<&str>) -> Vec<u8> {
        let mut out = Vec::new();
        write(1, Value::Bytes(identity.as_bytes()), &mut out);
        write(2, Value::Bytes(version.as_bytes()), &mut out);
        if let Some(extra) = extra {
            write(3, Value::Bytes(extra.as_bytes()), &mut out);
        }
        write(14, Value::Bytes(&self.message()), &mut out);
        // The only type that there is: MESSAGE.
        write(15, Value::Varint(1), &mut out);
        out
    }

    /// `Message`
    fn message(&self) -> Vec<u8> {
        let mut fields = vec![(1, Value::Varint(self.kind as u64))];
        let known = self.client.or(self.server).map(|address| address.ip().to_canonical());
        if let Some(ip) = known {
            fields.push((2, Value::Varint(if ip.is_ipv4() { 1 } else { 2 })));
            fields.push((3, Value::Varint(if self.transport == Transport::Udp { 1 } else { 2 })));
        }
        let addresses = [self.client, self.server].map(|a| a.map(|a| (octets(a.ip()), a.port())));
        for (field, address) in (4..).zip(&addresses) {
            fields.extend(address.as_ref().map(|(octets, _)| (field, Value::Bytes(octets))));
        }
        for (field, address) in (6..).zip(&addresses) {
            fields.extend(address.as_ref().map(|(_, port)| (field, Value::Varint(u64::from(*port)))));
        }
        for (field, time) in [(8, Some(self.query_time)), (12, self.response_time)] {
            let message = if field == 8 { &self.query } else { &self.response };
            if let Some((seconds, nanos)) = time {
                fields.push((field, Value::Varint(seconds)));
                fields.push((field + 1, Value::Fixed32(nanos)));
            }
            fields.extend(message.as_deref().map(|bytes| (field + 2, Value::Bytes(bytes))));
        }
        let mut out = Vec::new();
        for (field, value) in fields {
            write(field, value, &mut out);
        }
        out
    }
}
