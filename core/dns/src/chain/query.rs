//! [`Query`]: a question on its way, and how its answer is made fit for the client.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::setup::Block;
use super::{Ask, Now, Parent, ServerAddress, Spans, Via, World};
use crate::message::{Edns, EdnsOption, Flags, Message, Question, encode};
use crate::prepared::{Aging, Basis};
use crate::tsig::{Checked, Signer};

/// Options that are sent back as they came: NSID, EXPIRE, COOKIE, KEEPALIVE, PADDING (`plugin/pkg/edns`).
const ECHOED: [u16; 5] = [3, 9, 10, 11, 12];

/// EDNS option of extended errors (RFC 8914 section 2).
const EXTENDED_ERROR: u16 = 15;

/// The block of a query that none is found for yet, and its labels.
static NOWHERE: LazyLock<(Arc<Block>, Arc<str>)> = LazyLock::new(|| (Arc::default(), Arc::from("")));

/// How a client's message travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A datagram.
    #[default]
    Udp,
    /// A stream, each message behind its length; also that within TLS.
    Tcp,
}

impl Transport {
    /// `udp`, `tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
    }
}

/// What the sender of a message can take in a datagram, octets (RFC 6891 section 6.2.3).
fn datagram(request: &Message) -> usize {
    request.edns.as_ref().map_or(512, |edns| usize::from(edns.udp_size).max(512))
}

/// A question under way.
#[derive(Clone, Debug)]
pub struct Query {
    /// The client's message. Plugins may change its flags and EDNS for those behind them; its question is
    /// the client's, [`Query::question`] the one that is asked now.
    pub request: Message,
    /// From whom.
    pub client: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// Where it came in.
    pub server: ServerAddress,
    /// The client's message in octets.
    pub size: usize,
    /// When it came.
    pub started: Duration,
    /// The server block that it is for.
    pub block: Arc<Block>,
    /// That block's labels in metrics: `server="dns://:53",zone=".",view=""`.
    pub labels: Arc<str>,
    /// How many look-ups led to it; 0: it is a client's own.
    pub depth: u8,
    /// When it is given up (`cancel`), on the clock of [`Query::started`]; look-ups that it leads to share it.
    pub deadline: Option<Duration>,
    /// No client waits for it: [`super::Context::refresh`].
    pub background: bool,
    /// The answer depends on the snapshot: it may be another one when [`super::World::epoch`] is. Set by plugins that
    /// answer from the cluster, handed on from look-ups to who looked up, obeyed by `cache`.
    pub from_cluster: bool,
    /// All that the answer was made from, where the plugin that answered knows: the answer may be handed out again
    /// while that is as it is ([`crate::prepared`]).
    pub basis: Option<Basis>,
    /// How long the answer may be handed out again, where it was kept for a time (`cache`).
    pub aging: Option<Aging>,
    /// The answer, or the order of its records, is meant for this client and no other: it is neither kept nor
    /// shuffled. Handed on from look-ups to who looked up.
    pub for_client: bool,
    /// The trace that a client's query is part of, where it said so.
    pub parent: Option<Box<Parent>>,
    /// What it does, written down for `trace`; `None`: nobody wants to know.
    pub spans: Option<Box<Spans>>,
    /// It came signed (TSIG), and what is wrong with that; the record is the request's last additional one. `tsig`
    /// takes it.
    pub tsig: Option<Box<Checked>>,
    /// Signs the answer.
    pub signer: Option<Box<Signer>>,
    /// What the client said that it can take in a datagram, octets.
    datagram: usize,
    question: Question,
    /// Questions that were asked before, and the place of the plugin that changed them.
    before: Vec<(usize, Question)>,
    /// The plugin that has it now.
    pub(crate) place: usize,
    labelled: BTreeMap<String, String>,
}

impl Query {
    /// A client's query. The message must have a question.
    pub fn new(
        request: Message,
        client: SocketAddr,
        transport: Transport,
        server: ServerAddress,
        size: usize,
    ) -> Self {
        let root = || Question { name: crate::name::Name::root(), rtype: 0, class: 0 };
        let question = request.questions.first().cloned().unwrap_or_else(root);
        let datagram = datagram(&request);
        Query {
            request,
            client,
            transport,
            server,
            size,
            started: Duration::ZERO,
            block: NOWHERE.0.clone(),
            labels: NOWHERE.1.clone(),
            depth: 0,
            deadline: None,
            background: false,
            from_cluster: false,
            basis: None,
            aging: None,
            for_client: false,
            parent: None,
            spans: None,
            tsig: None,
            signer: None,
            datagram,
            question,
            before: Vec::new(),
            place: 0,
            labelled: BTreeMap::new(),
        }
    }

    /// The same client's query for something else, one deeper (`NewWithQuestion`).
    #[must_use]
    pub fn look_up(&self, question: Question) -> Self {
        let request = Message { questions: vec![question], ..self.request.clone() };
        let query = Query::new(request, self.client, self.transport, self.server, self.size);
        let labelled = self.labelled.clone();
        let Query { started, deadline, datagram, .. } = *self;
        Query { started, depth: self.depth + 1, deadline, datagram, labelled, ..query }
    }

    /// What is asked now.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Asks the plugins behind this one something else. On the way up each plugin sees the question that it saw on
    /// the way down.
    pub fn ask_instead(&mut self, question: Question) {
        let before = std::mem::replace(&mut self.question, question);
        self.before.push((self.place, before));
    }

    /// The question as the plugin at `place` saw it.
    pub(crate) fn back_to(&mut self, place: usize) {
        self.place = place;
        while let Some((_, question)) = self.before.pop_if(|(changed, _)| *changed >= place) {
            self.question = question;
        }
    }

    /// The plugin that has it now begins with it.
    pub(crate) fn begin_span(&mut self, name: &'static str, now: Now) {
        if let Some(spans) = &mut self.spans {
            spans.begin(name, (self.depth, self.place), now);
        }
    }

    /// An upstream is asked.
    pub(crate) fn begin_ask(&mut self, ask: &Ask, now: Now) {
        if let Some(spans) = &mut self.spans {
            // CoreDNS's names of the spans of `forward` and `grpc`.
            let name = if matches!(ask.via, Via::Grpc(_)) { "query" } else { "connect" };
            spans.begin(name, (self.depth, self.place + 1), now);
            spans.tag("peer.address", ask.to.to_string());
        }
    }

    /// What came behind the plugin that has it now is over.
    pub(crate) fn end_spans(&mut self, now: Now) {
        if let Some(spans) = &mut self.spans {
            spans.end((self.depth, self.place), now);
        }
    }

    /// A look-up is over, and gives back what was written down.
    pub(crate) fn trace_again(&mut self, spans: Option<Box<Spans>>, now: Now) {
        self.spans = spans;
        self.end_spans(now);
    }

    /// Sets a label of `metadata` for those who come later.
    pub fn set_label(&mut self, label: &str, value: impl Into<String>) {
        self.labelled.insert(label.to_owned(), value.into());
    }

    /// A label that was set; [`super::Peers::metadata`] asks the plugins, too.
    pub fn label(&self, label: &str) -> Option<String> {
        self.labelled.get(label).cloned()
    }

    /// What the client asked, whatever was made of it since.
    pub fn asked(&self) -> &Question {
        self.request.questions.first().unwrap_or(&self.question)
    }

    /// The address that it came to, as far as it is known: the listener's before the machine's own of the client's
    /// family.
    pub fn server_ip(&self, world: &World) -> Option<IpAddr> {
        let family = |ip: &&IpAddr| ip.is_ipv4() == self.client.is_ipv4() && !ip.is_unspecified();
        self.server.ip.iter().chain(&world.local).find(family).copied()
    }

    /// Whether the client wants DNSSEC's records (DO).
    pub fn dnssec_ok(&self) -> bool {
        self.request.edns.as_ref().is_some_and(|edns| edns.dnssec_ok)
    }

    /// What the client can take, in octets (`request.Size`). A plugin that gives the question EDNS (`rewrite edns0`)
    /// does not make that more, one that takes some of it away (`bufsize`) makes it less.
    pub fn room(&self) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => datagram(&self.request).min(self.datagram),
        }
    }

    /// The options that go back to the client as they came.
    fn echoed(&self) -> impl Iterator<Item = &EdnsOption> {
        let more = &self.block.settings.echoed;
        let options = self.request.edns.iter().flat_map(|edns| &edns.options);
        options.filter(|(code, _)| ECHOED.contains(code) || more.contains(code))
    }

    /// Says why an answer is as it is, beside the options that the client gets anyway (RFC 8914 section 2).
    pub fn explain(&self, reply: &mut Message, code: u16, text: &str) {
        let mut data = code.to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        let mut options: Vec<EdnsOption> = self.echoed().cloned().collect();
        options.push((EXTENDED_ERROR, data.into()));
        reply.edns = Some(Edns { options, ..Edns::default() });
    }

    /// Makes an answer this query's: id, question and flags of the request, EDNS as the client's.
    pub fn fit(&self, reply: &mut Message) {
        let skeleton = self.request.reply(reply.rcode);
        reply.id = skeleton.id;
        reply.flags = Flags {
            authoritative: reply.flags.authoritative,
            truncated: reply.flags.truncated,
            recursion_available: reply.flags.recursion_available,
            authentic: reply.flags.authentic,
            ..skeleton.flags
        };
        reply.questions = skeleton.questions;
        reply.edns = self.request.edns.as_ref().map(|asked| Edns {
            udp_size: asked.udp_size,
            version: 0,
            dnssec_ok: asked.dnssec_ok,
            options: reply.edns.take().map_or_else(|| self.echoed().cloned().collect(), |edns| edns.options),
        });
    }

    /// The answer as the client gets it, cut to its size.
    pub fn encoded(&self, reply: &Message) -> Vec<u8> {
        let mut reply = reply.clone();
        self.fit(&mut reply);
        encode(&reply, self.room())
    }
}
