//! A message from a client: what is no query, and which server block a query is for.

use std::net::SocketAddr;

use super::{BlockState, Effect, Server};
use crate::chain::{Failure, Now, Parent, Peers, Query, ServerAddress, Transport};
use crate::message::{CLASS_IN, DecodeError, Edns, Flags, Message, Question, decode, encode, rcode, rtype};
use crate::metrics::Labels;
use crate::name::Name;
use crate::tsig;
use crate::zone::transfer::OPCODE_NOTIFY;

impl Server {
    pub(super) fn query(
        &mut self,
        (server, transport, client, bytes): (ServerAddress, Transport, SocketAddr, &[u8]),
        parent: Option<Parent>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        self.preparation = None;
        // Too short to have a header, or a response: no answer, or two servers would talk for ever.
        if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
            return;
        }
        let (request, refusal) = read(bytes);
        if let Some(rcode) = refusal {
            let mut reply = request.reply(rcode);
            reply.questions.truncate(1);
            out.push(Effect::Reply(encode(&reply, 512)));
            return;
        }
        if let Some(edns) = request.edns.as_ref().filter(|edns| edns.version != 0) {
            let mut reply = request.reply(rcode::BADVERS);
            reply.edns = Some(Edns { udp_size: edns.udp_size, ..Edns::default() });
            out.push(Effect::Reply(encode(&reply, 512)));
            return;
        }
        let mut query = Query::new(request, client, transport, server, bytes.len());
        query.started = now.monotonic;
        query.parent = parent.map(Box::new);
        if let Some(record) = query.request.additional.last().filter(|r| r.data.rtype() == rtype::TSIG) {
            let checked = tsig::check(bytes, record, |key| self.tsig_secret(server, key), now.unix);
            query.tsig = checked.map(Box::new);
        }
        self.begin(query, now, out);
    }

    /// The secret of a key: those of all blocks of a server are known to each (`NewServer` in core/dnsserver/server.go).
    fn tsig_secret(&self, server: ServerAddress, key: &Name) -> Option<&[u8]> {
        let here = |state: &&BlockState| state.has(server);
        let links = self.of_server(server).1.iter().filter(here).flat_map(|state| &state.links);
        links.map(|link| &link.plugin).find_map(|plugin| plugin.tsig_secret(key))
    }

    /// Finds the server block that a query is for: the longest zone around the name whose plugins accept it
    /// (`ServeDNS` in core/dnsserver/server.go). The query is told; the configuration's generation and the block's place
    /// in it, or why there is none.
    pub(super) fn place(&self, query: &mut Query) -> Result<(u64, usize), Failure> {
        let refused = Failure { rcode: rcode::REFUSED, why: None };
        let (generation, blocks) = self.of_server(query.server);
        let Question { name, rtype, class } = query.question().clone();
        // CoreDNS's `EnableChaos`: one block opens the server for all.
        let opens = |state: &BlockState| state.block.settings.other_classes && state.has(query.server);
        if class != CLASS_IN && !blocks.iter().any(opens) {
            query.labels = dropped(query.server);
            return Err(refused);
        }
        let (mut candidates, mut found) =
            (candidates(blocks, query.server, name.wire()).collect::<Vec<_>>(), None);
        // Of blocks with one zone the first comes first: the sort is stable.
        candidates.sort_by_key(|(len, ..)| std::cmp::Reverse(*len));
        for (len, at, labels) in candidates {
            // What a name is signed with its parent says, whom this server may have, too: the shortest zone but for the
            // root, which may be a grandparent's.
            if found.is_some() && len == ROOT {
                break;
            }
            let state = &blocks[at];
            query.block = state.block.clone();
            query.labels = labels.clone();
            let peers = Peers::new(&state.links, &[]);
            if state.links.iter().all(|link| link.plugin.accepts(query, peers, &self.world)) {
                found = Some((at, labels.clone()));
                if rtype != rtype::DS {
                    break;
                }
            }
        }
        if let Some((at, labels)) = found {
            query.block = blocks[at].block.clone();
            query.labels = labels;
            return Ok((generation, at));
        }
        query.block = std::sync::Arc::default();
        query.labels = dropped(query.server);
        Err(refused)
    }
}

/// The server blocks whose zones are around a name in wire form: how long the zone is, the block's place, and its
/// labels.
pub(super) fn candidates<'a>(
    blocks: &'a [BlockState],
    server: ServerAddress,
    name: &'a [u8],
) -> impl Iterator<Item = (usize, usize, &'a Labels)> {
    blocks.iter().enumerate().flat_map(move |(at, state)| {
        let keys = state.block.servers().zip(&state.labels);
        let around = keys.filter(move |((key, own), _)| *own == server && key.zone.is_around(name));
        around.map(move |((key, _), labels)| (key.zone.wire().len(), at, labels))
    })
}

/// The root's name in octets.
const ROOT: usize = 1;

/// Labels of queries that no block is for (`vars.Dropped`).
fn dropped(server: ServerAddress) -> std::sync::Arc<str> {
    format!("server=\"{server}\",zone=\"dropped\",view=\"\"").into()
}

/// Reads a message; with the response code where it is not to be answered otherwise.
fn read(bytes: &[u8]) -> (Message, Option<u16>) {
    let count = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // What no query needs is not even read (miekg/dns `acceptfunc.go`).
    let crammed = count(6) > 1 || count(8) > 1 || count(10) > 2;
    match if crammed { Err(DecodeError::Short) } else { decode(bytes) } {
        Ok(request) if !matches!(request.flags.opcode, 0 | OPCODE_NOTIFY) => (request, Some(rcode::NOTIMP)),
        Ok(request) if request.questions.len() != 1 => (request, Some(rcode::FORMERR)),
        Ok(request) => (request, None),
        Err(_) => {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            let flags = Flags { opcode: bytes[2] >> 3 & 0xf, ..Flags::default() };
            (Message { id, flags, ..Message::default() }, Some(rcode::FORMERR))
        }
    }
}
