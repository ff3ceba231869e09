//! Questions that go on as they came: [`crate::relay`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Server;
use super::finish::Sort;
use super::intake::candidates;
use super::walk::{self, Pending};
use crate::chain::{Block, Link, Note, Now, Passage, Query, ServerAddress, Transport};
use crate::message::decode;
use crate::metrics::Labels;
use crate::relay::{Answered, Asked, Fit, Relaying};

/// Relays that have come to their end and are used again, at most.
const SPARE: usize = 256;

/// A question on its way.
#[derive(Debug)]
pub struct Relay {
    /// Whom to ask.
    pub to: SocketAddr,
    /// From which address; `None`: any.
    pub source: Option<IpAddr>,
    /// What; the first two octets are its id.
    pub message: Vec<u8>,
    /// How long to wait.
    pub timeout: Duration,
    /// The client's id.
    id: u16,
    client: SocketAddr,
    server: ServerAddress,
    /// The configuration, the server block in it, the plugin, and what that remembers.
    place: (u64, usize, usize),
    note: Note,
    labels: Labels,
    plugin: &'static str,
    at: Duration,
    kept: Option<bool>,
    asked: Asked,
}

impl Relay {
    /// Says whether the question went over a socket that was there already.
    pub fn went_over(&mut self, kept: bool) {
        self.kept = Some(kept);
    }
}

/// The plugins of a chain that a question may come to as it was asked, and that have it go on so. Who sets labels for
/// `metadata` looks at each.
pub(super) fn relays(block: &Block, links: &[Link]) -> Vec<usize> {
    if block.plugins.contains(&"metadata") {
        return Vec::new();
    }
    let open = |link: &Link| link.plugin.relays() || link.plugin.passage() == Passage::Open;
    let reached = links.iter().enumerate().take_while(|(_, link)| open(link));
    reached.filter(|(_, link)| link.plugin.relays()).map(|(at, _)| at).collect()
}

impl Server {
    /// Where a client's datagram goes on to as it is; `None`: it is for [`super::Event::Query`], and nothing has
    /// happened yet.
    pub fn relay(
        &mut self,
        (server, client): (ServerAddress, SocketAddr),
        bytes: &[u8],
        now: Now,
    ) -> Option<Box<Relay>> {
        let chains = self.chains.last()?;
        // Where no plugin relays, the question is not even looked at.
        if chains.blocks.iter().all(|state| state.relays.is_empty()) || self.waiting() >= super::MOST_WAITING
        {
            return None;
        }
        let asked = Asked::read(bytes)?;
        let name = asked.shape.name(bytes);
        let longest = candidates(&chains.blocks, server, name).reduce(|a, b| if b.0 > a.0 { b } else { a });
        let (_, block, labels) = longest?;
        let (generation, labels) = (chains.generation, labels.clone());
        let mut at = 0;
        while let Some(place) = self.blocks().get(block)?.relays.get(at).copied() {
            at += 1;
            let (mut note, mut out) = (Note::default(), Vec::new());
            let called = self.with(generation, block, place, now, &mut out, |plugin, cx| {
                plugin.relay(name, &mut note, cx)
            });
            match called?.0 {
                Relaying::Passes => {}
                Relaying::Walks => return None,
                Relaying::Goes { to, source, timeout } => {
                    let chains = self.chains.last_mut()?;
                    chains.under_way += 1;
                    let plugin = chains.blocks.get(block)?.links.get(place)?.name;
                    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
                    let mut spare = self.spare.pop();
                    let mut message =
                        spare.as_mut().map(|old| std::mem::take(&mut old.message)).unwrap_or_default();
                    message.clear();
                    message.extend_from_slice(bytes);
                    message[..2].copy_from_slice(&walk::id(now).to_be_bytes());
                    let (place, at, kept) = ((generation, block, place), now.monotonic, None);
                    let relay = Relay {
                        to,
                        source,
                        message,
                        timeout,
                        id,
                        client,
                        server,
                        place,
                        note,
                        labels,
                        plugin,
                        at,
                        kept,
                        asked,
                    };
                    return Some(match spare {
                        Some(mut old) => {
                            *old = relay;
                            old
                        }
                        None => Box::new(relay),
                    });
                }
            }
        }
        None
    }

    /// Makes an upstream's answer the client's, and counts it.
    ///
    /// # Errors
    /// Where the general path has to look at it, with [`super::Event::Answer`].
    pub fn relayed(
        &mut self,
        mut relay: Box<Relay>,
        answer: &mut Vec<u8>,
        now: Now,
    ) -> Result<(), Box<Pending>> {
        let Some(fit) = Fit::of(&relay.asked, &relay.message, answer) else { return Err(self.walk(relay)) };
        let Fit { rcode, nothing, .. } = fit;
        let took = now.monotonic.saturating_sub(relay.at);
        let answered = Answered { rcode, nothing, took, kept: relay.kept };
        let ((generation, block, place), mut out) = (relay.place, Vec::new());
        let called = self.with(generation, block, place, now, &mut out, |plugin, cx| {
            plugin.relayed(&relay.note, &answered, cx)
        });
        if !called.is_some_and(|(as_it_is, _)| as_it_is) {
            return Err(self.walk(relay));
        }
        fit.write((relay.id, &relay.asked), &relay.message, answer);
        let Relay { ref labels, client, plugin, ref asked, ref message, .. } = *relay;
        let sort = Sort {
            labels: labels.clone(),
            transport: Transport::Udp,
            v4: client.is_ipv4(),
            rtype: asked.shape.rtype,
            rcode,
            plugin,
        };
        self.count(sort, asked.dnssec_ok, [message.len(), answer.len()], took);
        // What the plugin counts by its notes is over.
        relay.note = Note::default();
        if self.spare.len() < SPARE {
            self.spare.push(relay);
        }
        self.back_from(generation);
        self.let_go(now);
        Ok(())
    }

    /// What the general path would know by now of a question that went on as it came: for [`super::Event::Answer`] and
    /// [`super::Event::Failed`].
    pub fn walk(&self, relay: Box<Relay>) -> Box<Pending> {
        let Relay { to, message, id, client, server, place, note, labels, at, kept, .. } = *relay;
        let sent = u16::from_be_bytes([message[0], message[1]]);
        // It was looked through when it came: it is one.
        let mut request = decode(&message).unwrap_or_default();
        request.id = id;
        let mut query = Query::new(request, client, Transport::Udp, server, message.len());
        let chains = self.chains.iter().find(|chains| chains.generation == place.0);
        if let Some(state) = chains.and_then(|chains| chains.blocks.get(place.1)) {
            query.block = state.block.clone();
        }
        (query.labels, query.started) = (labels, at);
        let asked = walk::Asked { from: to, at, tag: 0 };
        Box::new(Pending::asked(query, place, note, (sent, kept), asked))
    }
}
