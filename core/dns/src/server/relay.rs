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
    /// To be handed back with what comes of it, as [`Pending`] is.
    pub passed: Passed,
}

/// What is known of a question that went on as it came.
#[derive(Debug)]
pub struct Passed {
    /// The client's id.
    id: u16,
    client: SocketAddr,
    server: ServerAddress,
    /// The configuration, the server block in it, the plugin, and what that remembers.
    place: (u64, usize, usize),
    note: Note,
    labels: Labels,
    plugin: &'static str,
    to: SocketAddr,
    at: Duration,
    kept: Option<bool>,
    asked: Asked,
}

impl Passed {
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
    ) -> Option<Relay> {
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
                    let mut message = bytes.to_vec();
                    message[..2].copy_from_slice(&walk::id(now).to_be_bytes());
                    let (place, at, kept) = ((generation, block, place), now.monotonic, None);
                    let passed =
                        Passed { id, client, server, place, note, labels, plugin, to, at, kept, asked };
                    return Some(Relay { to, source, message, timeout, passed });
                }
            }
        }
        None
    }

    /// Makes an upstream's answer the client's, and counts it. `question` is the message that was sent.
    ///
    /// # Errors
    /// Where the general path has to look at it, with [`super::Event::Answer`].
    pub fn relayed(
        &mut self,
        passed: Passed,
        question: &[u8],
        answer: &mut Vec<u8>,
        now: Now,
    ) -> Result<(), Box<Pending>> {
        let asked = &passed.asked;
        let Some(fit) = Fit::of(asked, question, answer) else { return Err(self.walk(passed, question)) };
        let Fit { rcode, nothing, .. } = fit;
        let took = now.monotonic.saturating_sub(passed.at);
        let answered = Answered { rcode, nothing, took, kept: passed.kept };
        let ((generation, block, place), mut out) = (passed.place, Vec::new());
        let called = self.with(generation, block, place, now, &mut out, |plugin, cx| {
            plugin.relayed(&passed.note, &answered, cx)
        });
        if !called.is_some_and(|(as_it_is, _)| as_it_is) {
            return Err(self.walk(passed, question));
        }
        fit.write((passed.id, asked), question, answer);
        let Passed { labels, client, plugin, .. } = passed;
        let sort = Sort {
            labels,
            transport: Transport::Udp,
            v4: client.is_ipv4(),
            rtype: asked.shape.rtype,
            rcode,
            plugin,
        };
        self.count(sort, asked.dnssec_ok, [question.len(), answer.len()], took);
        self.back_from(generation);
        self.let_go(now);
        Ok(())
    }

    /// What the general path would know by now of a question that went on as it came: for [`super::Event::Answer`] and
    /// [`super::Event::Failed`]. `question` is the message that was sent.
    pub fn walk(&self, passed: Passed, question: &[u8]) -> Box<Pending> {
        let Passed { id, client, server, place, note, labels, to, at, kept, .. } = passed;
        let sent = u16::from_be_bytes([question[0], question[1]]);
        // It was looked through when it came: it is one.
        let mut request = decode(question).unwrap_or_default();
        request.id = id;
        let mut query = Query::new(request, client, Transport::Udp, server, question.len());
        let chains = self.chains.iter().find(|chains| chains.generation == place.0);
        if let Some(state) = chains.and_then(|chains| chains.blocks.get(place.1)) {
            query.block = state.block.clone();
        }
        (query.labels, query.started) = (labels, at);
        let asked = walk::Asked { from: to, at, tag: 0 };
        Box::new(Pending::asked(query, place, note, (sent, kept), asked))
    }
}
