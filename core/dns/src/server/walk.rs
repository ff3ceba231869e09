//! Walking the chain: a query goes down from plugin to plugin until one answers, its answer up again through those
//! that it passed. What has to wait goes out as a [`Pending`] and takes up where it was.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Chains, Effect, MOST_WAITING, Server};
use crate::chain::{
    Answer, Ask, Context, Deed, Failure, Flow, Keeping, MAX_DEPTH, Note, Now, Peers, Plugin, Query,
    Transport, Up, Via,
};
use crate::message::{Message, Question, decode, encode, encode_within, rcode, rtype};
use crate::metrics::Family;

static CROWDED: Family = Family::counter(
    "sealane_dns_waiting_rejects_total",
    "Queries that were refused, since as many as the server keeps at once were waiting for upstreams.",
);

/// What an `Ask` or a `Wait` is for; handed back with its outcome.
#[derive(Debug)]
pub struct Pending {
    generation: u64,
    id: u16,
    kept: Option<bool>,
    local: Option<SocketAddr>,
    transfer: bool,
    purpose: Purpose,
}

impl Pending {
    /// A client's query that has asked an upstream with this id, from a plugin that it came to as the client asked it.
    pub(super) fn asked(
        query: Query,
        (generation, block, place): (u64, usize, usize),
        note: Note,
        (id, kept): (u16, Option<bool>),
        asked: Asked,
    ) -> Self {
        let passed = (0..place).map(|place| (place, Note::default())).collect();
        let (by, more, waits) = ("", Vec::new(), Waits::Client);
        let walk = Walk { query, generation, block, place, note, passed, by, more, waits };
        let purpose = Purpose::Asked(Box::new(walk), asked);
        Pending { generation, id, kept, local: None, transfer: false, purpose }
    }

    /// The message's id: an upstream's message with another one is not its answer.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Whether a zone is asked for: its messages come until [`crate::zone::transfer::Extent`] says that this was the
    /// last, each within the timeout, and go to [`super::Event::Transferred`].
    pub fn is_transfer(&self) -> bool {
        self.transfer
    }

    /// Says whether the question went over a connection that was there already.
    pub fn went_over(&mut self, kept: bool) {
        self.kept = Some(kept);
    }

    /// Says where the question came from ([`Keeping::tells`]).
    pub fn came_from(&mut self, local: Option<SocketAddr>) {
        self.local = local;
    }

    /// Whether a client waits for it (else it is a health check or a refresh).
    pub fn has_client(&self) -> bool {
        match &self.purpose {
            Purpose::Asked(walk, _) | Purpose::Waiting(walk) => walk.has_client(),
            Purpose::Own { .. } => false,
        }
    }
}

#[derive(Debug)]
enum Purpose {
    Asked(Box<Walk>, Asked),
    Waiting(Box<Walk>),
    /// A plugin's own question.
    Own {
        block: usize,
        place: usize,
        asked: Asked,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) from: SocketAddr,
    pub(super) at: Duration,
    pub(super) tag: u64,
}

/// A query on its way.
#[derive(Debug)]
pub(super) struct Walk {
    query: Query,
    generation: u64,
    block: usize,
    /// The plugin that has it, and its note.
    place: usize,
    note: Note,
    /// Those that it passed on the way down.
    passed: Vec<(usize, Note)>,
    /// Who answered.
    by: &'static str,
    /// What follows the answer.
    more: Vec<Message>,
    waits: Waits,
}

/// Who waits for a walk's end.
#[derive(Debug)]
enum Waits {
    Client,
    /// The plugin of another walk.
    Plugin(Box<Walk>),
    Nobody,
}

impl Walk {
    fn has_client(&self) -> bool {
        match &self.waits {
            Waits::Client => true,
            Waits::Plugin(parent) => parent.has_client(),
            Waits::Nobody => false,
        }
    }
}

/// What comes next in a walk.
#[derive(Debug)]
enum Turn {
    Down,
    Said(Flow),
    /// An answer goes up.
    Answered(Message),
    /// A failure goes up.
    Failed(Failure),
}

/// A message and those behind it, or why there is none.
type Outcome<'a> = Result<(&'a [u8], &'a [Vec<u8>]), String>;

impl Server {
    /// A client's query, from the top.
    pub(super) fn begin(&mut self, query: Query, now: Now, out: &mut Vec<Effect>) {
        let (walk, turn) = self.enter(query, Waits::Client);
        self.run(walk, turn, now, out);
    }

    /// A walk that stands before its block's first plugin.
    fn enter(&self, mut query: Query, waits: Waits) -> (Box<Walk>, Turn) {
        let found = self.place(&mut query);
        let (generation, block) = found.as_ref().copied().unwrap_or_default();
        let walk = Box::new(Walk {
            query,
            generation,
            block,
            place: 0,
            note: Note::default(),
            passed: Vec::new(),
            by: "",
            more: Vec::new(),
            waits,
        });
        (walk, found.map_or_else(Turn::Failed, |_| Turn::Down))
    }

    /// What came back.
    pub(super) fn answered(
        &mut self,
        pending: Pending,
        outcome: Outcome<'_>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        self.back_from(pending.generation);
        match pending.purpose {
            Purpose::Asked(walk, _) | Purpose::Waiting(walk) if given_up(&walk.query, now) => {
                self.run(walk, Turn::Failed(late()), now, out);
            }
            Purpose::Asked(mut walk, asked) => {
                walk.query.end_spans(now);
                let answer = answer(asked, outcome, (pending.kept, pending.local), now);
                let turn = self.call(&mut walk, now, out, |plugin, walk, cx| {
                    plugin.answered(&mut walk.query, &mut walk.note, answer, cx)
                });
                self.run(walk, turn.map_or_else(Turn::Failed, Turn::Said), now, out);
            }
            Purpose::Waiting(mut walk) => {
                let turn = self.call(&mut walk, now, out, |plugin, walk, cx| {
                    plugin.waited(&mut walk.query, &mut walk.note, cx)
                });
                self.run(walk, turn.map_or_else(Turn::Failed, Turn::Said), now, out);
            }
            Purpose::Own { block, place, asked } => {
                let answer = answer(asked, outcome, (pending.kept, pending.local), now);
                let told = |plugin: &mut dyn Plugin, cx: &mut Context<'_>| plugin.told(answer, cx);
                self.with(pending.generation, block, place, now, out, told);
            }
        }
        self.let_go(now);
    }

    /// One that was under way is back.
    pub(super) fn back_from(&mut self, generation: u64) {
        if let Some(chains) = self.generation(generation) {
            chains.under_way = chains.under_way.saturating_sub(1);
        }
    }

    fn generation(&mut self, generation: u64) -> Option<&mut Chains> {
        self.chains.iter_mut().find(|chains| chains.generation == generation)
    }

    /// Calls one plugin; `None` where its configuration is gone. Refreshes are left to the caller.
    pub(super) fn with<T>(
        &mut self,
        generation: u64,
        block: usize,
        place: usize,
        now: Now,
        out: &mut Vec<Effect>,
        call: impl FnOnce(&mut dyn Plugin, &mut Context<'_>) -> T,
    ) -> Option<(T, Vec<Note>)> {
        let chains = self.chains.iter_mut().find(|chains| chains.generation == generation)?;
        let (before, rest) = chains.blocks.get_mut(block)?.links.split_at_mut_checked(place)?;
        let (link, after) = rest.split_first_mut()?;
        let mut deeds = Vec::new();
        let mut cx = Context {
            world: &self.world,
            now,
            metrics: &mut self.metrics,
            peers: Peers::new(before, after),
            deeds: &mut deeds,
        };
        let result = call(&mut *link.plugin, &mut cx);
        let (mut refreshes, mut asks) = (Vec::new(), Vec::new());
        for deed in deeds {
            match deed {
                Deed::Write(file) => out.push(Effect::Write(file)),
                Deed::Ask(ask) => asks.push(ask),
                Deed::Log(line) => out.push(Effect::Log(line)),
                Deed::Fatal(why) => out.push(Effect::Fatal(why)),
                Deed::Refresh(note) => refreshes.push(note),
                Deed::Show(tap, message) => out.push(Effect::Show(tap, message)),
                Deed::Trace(tracer, spans) => out.push(Effect::Trace(tracer, spans)),
            }
        }
        for ask in asks {
            self.send_own((generation, block, place), ask, now, out);
        }
        Some((result, refreshes))
    }

    /// Calls the plugin that has a query.
    fn call<T>(
        &mut self,
        walk: &mut Walk,
        now: Now,
        out: &mut Vec<Effect>,
        call: impl FnOnce(&mut dyn Plugin, &mut Walk, &mut Context<'_>) -> T,
    ) -> Result<T, Failure> {
        let (generation, block, place) = (walk.generation, walk.block, walk.place);
        walk.query.place = place;
        let called = self.with(generation, block, place, now, out, |plugin, cx| call(plugin, walk, cx));
        let gone = || Failure {
            rcode: rcode::SERVFAIL,
            why: Some("the configuration changed meanwhile".to_owned()),
        };
        let (result, refreshes) = called.ok_or_else(gone)?;
        for note in refreshes {
            self.refresh(walk, note, now, out);
        }
        Ok(result)
    }

    /// The rest of the chain once more, for the plugin that has the query now.
    fn refresh(&mut self, walk: &Walk, note: Note, now: Now, out: &mut Vec<Effect>) {
        let mut query = walk.query.clone();
        query.background = true;
        query.spans = None;
        // There is no client whose datagram would be too small (`newPrefetchResponseWriter`).
        query.transport = Transport::Tcp;
        let walk = Box::new(Walk {
            query,
            generation: walk.generation,
            block: walk.block,
            place: walk.place + 1,
            note: Note::default(),
            passed: vec![(walk.place, note)],
            by: "",
            more: Vec::new(),
            waits: Waits::Nobody,
        });
        self.run(walk, Turn::Down, now, out);
    }

    /// Goes on until the query is over, or has to wait.
    fn run(&mut self, mut walk: Box<Walk>, mut turn: Turn, now: Now, out: &mut Vec<Effect>) {
        loop {
            turn = match turn {
                Turn::Down => self.down(&mut walk, now, out),
                Turn::Said(Flow::Next) => {
                    walk.passed.push((walk.place, std::mem::take(&mut walk.note)));
                    walk.place += 1;
                    Turn::Down
                }
                Turn::Said(Flow::Reply(message)) => {
                    walk.by = self.name(&walk);
                    Turn::Answered(message)
                }
                Turn::Said(Flow::Stream(messages)) => {
                    walk.by = self.name(&walk);
                    let mut messages = messages.into_iter();
                    let first = messages.next().unwrap_or_default();
                    walk.more = messages.collect();
                    Turn::Answered(first)
                }
                Turn::Said(Flow::Fail(failure)) => Turn::Failed(failure),
                // Who asked in the background learns that nothing comes.
                Turn::Said(Flow::Drop) if matches!(walk.waits, Waits::Nobody) => {
                    Turn::Failed(Failure { rcode: rcode::SERVFAIL, why: None })
                }
                Turn::Said(Flow::Drop) => {
                    self.up_dropped(&mut walk, now, out);
                    match walk.waits {
                        Waits::Plugin(parent) => {
                            let spans = walk.query.spans.take();
                            walk = parent;
                            walk.query.trace_again(spans, now);
                            self.looked_up(&mut walk, bare(rcode::SERVFAIL), now, out)
                        }
                        Waits::Client => {
                            return self.account(&walk.query, &bare(rcode::NOERROR), 0, "", now);
                        }
                        Waits::Nobody => return,
                    }
                }
                Turn::Said(Flow::Ask(_) | Flow::Wait(_)) if given_up(&walk.query, now) => {
                    Turn::Failed(late())
                }
                Turn::Said(Flow::Ask(_) | Flow::Wait(_)) if self.waiting() >= MOST_WAITING => {
                    self.metrics.count(&CROWDED, "");
                    Turn::Failed(crowded())
                }
                Turn::Said(Flow::Ask(ask)) => return self.ask(walk, ask, now, out),
                Turn::Said(Flow::Wait(time)) => return self.wait(walk, time, now, out),
                Turn::Said(Flow::Lookup(_)) if walk.query.depth >= MAX_DEPTH => {
                    self.looked_up(&mut walk, bare(rcode::SERVFAIL), now, out)
                }
                Turn::Said(Flow::Lookup(question)) => {
                    let mut query = walk.query.look_up(question);
                    query.spans = walk.query.spans.take();
                    let (child, turn) = self.enter(query, Waits::Plugin(walk));
                    walk = child;
                    turn
                }
                Turn::Answered(mut message) => match self.up(&mut walk, &mut message, now, out) {
                    Some(Up::Pass) => Turn::Answered(message),
                    Some(Up::Instead(flow)) => Turn::Said(flow),
                    None => match self.over(walk, message, now, out) {
                        Some((parent, turn)) => {
                            walk = parent;
                            turn
                        }
                        None => return,
                    },
                },
                Turn::Failed(failure) => match self.up_failed(&mut walk, &failure, now, out) {
                    Some(Up::Pass) => Turn::Failed(failure),
                    Some(Up::Instead(flow)) => Turn::Said(flow),
                    None => {
                        // The server itself answers (`errorFunc`): nobody of the chain has written anything.
                        walk.by = "";
                        match self.over(walk, bare(failure.rcode), now, out) {
                            Some((parent, turn)) => {
                                walk = parent;
                                turn
                            }
                            None => return,
                        }
                    }
                },
            };
        }
    }

    fn name(&self, walk: &Walk) -> &'static str {
        let chains = self.chains.iter().find(|chains| chains.generation == walk.generation);
        let link = chains.and_then(|chains| chains.blocks.get(walk.block)?.links.get(walk.place));
        link.map_or("", |link| link.name)
    }

    fn down(&mut self, walk: &mut Walk, now: Now, out: &mut Vec<Effect>) -> Turn {
        let chains = self.chains.iter().find(|chains| chains.generation == walk.generation);
        let len = chains.and_then(|chains| chains.blocks.get(walk.block)).map(|block| block.links.len());
        if len.is_some_and(|len| walk.place >= len) {
            let why = Some("no next plugin found".to_owned());
            return Turn::Failed(Failure { rcode: rcode::SERVFAIL, why });
        }
        if walk.query.spans.is_some() {
            let name = self.name(walk);
            walk.query.place = walk.place;
            walk.query.begin_span(name, now);
        }
        let flow =
            self.call(walk, now, out, |plugin, walk, cx| plugin.down(&mut walk.query, &mut walk.note, cx));
        flow.map_or_else(Turn::Failed, Turn::Said)
    }

    /// The next plugin upwards takes back what it let pass.
    fn back(walk: &mut Walk, now: Now) -> bool {
        let Some((place, note)) = walk.passed.pop() else { return false };
        walk.place = place;
        walk.note = note;
        walk.query.back_to(place);
        walk.query.end_spans(now);
        true
    }

    /// One plugin further up; `None`: there is none.
    fn up(&mut self, walk: &mut Walk, message: &mut Message, now: Now, out: &mut Vec<Effect>) -> Option<Up> {
        if !Server::back(walk, now) {
            return None;
        }
        let up = self
            .call(walk, now, out, |plugin, walk, cx| plugin.up(&mut walk.query, &mut walk.note, message, cx));
        // A configuration that is gone takes nothing away from an answer that is there.
        Some(up.unwrap_or(Up::Pass))
    }

    fn up_failed(
        &mut self,
        walk: &mut Walk,
        failure: &Failure,
        now: Now,
        out: &mut Vec<Effect>,
    ) -> Option<Up> {
        if !Server::back(walk, now) {
            return None;
        }
        let up = self.call(walk, now, out, |plugin, walk, cx| {
            plugin.failed(&mut walk.query, &mut walk.note, failure, cx)
        });
        Some(up.unwrap_or(Up::Pass))
    }

    fn up_dropped(&mut self, walk: &mut Walk, now: Now, out: &mut Vec<Effect>) {
        while Server::back(walk, now) {
            let told = self.call(walk, now, out, |plugin, walk, cx| {
                plugin.dropped(&mut walk.query, &mut walk.note, cx);
            });
            // A configuration that is gone has nobody left to be told.
            if told.is_err() {
                return;
            }
        }
    }

    /// A walk's end: the client is answered, or the plugin that looked something up.
    fn over(
        &mut self,
        walk: Box<Walk>,
        mut message: Message,
        now: Now,
        out: &mut Vec<Effect>,
    ) -> Option<(Box<Walk>, Turn)> {
        let Walk { mut query, by, more, waits, block, generation, .. } = *walk;
        match waits {
            Waits::Nobody => None,
            Waits::Client => {
                let bytes = last_form(&mut query, &mut message, now);
                let lasts = more.is_empty() && self.in_force() == Some(generation);
                self.preparation =
                    if lasts { self.prepare((block, by), &query, &message, &bytes) } else { None };
                self.account(&query, &message, bytes.len(), by, now);
                out.push(Effect::Reply(bytes));
                for mut next in more {
                    out.push(Effect::Reply(last_form(&mut query, &mut next, now)));
                }
                None
            }
            Waits::Plugin(mut parent) => {
                query.fit(&mut message);
                let size = encode(&message, usize::from(u16::MAX)).len();
                self.account(&query, &message, size, by, now);
                parent.query.from_cluster |= query.from_cluster;
                parent.query.for_client |= query.for_client;
                parent.query.trace_again(query.spans.take(), now);
                let turn = self.looked_up(&mut parent, message, now, out);
                Some((parent, turn))
            }
        }
    }

    fn looked_up(&mut self, walk: &mut Walk, found: Message, now: Now, out: &mut Vec<Effect>) -> Turn {
        let flow = self.call(walk, now, out, |plugin, walk, cx| {
            plugin.looked_up(&mut walk.query, &mut walk.note, found, cx)
        });
        flow.map_or_else(Turn::Failed, Turn::Said)
    }

    fn ask(&mut self, mut walk: Box<Walk>, mut ask: Ask, now: Now, out: &mut Vec<Effect>) {
        walk.query.begin_ask(&ask, now);
        ask.timeout = within(&walk.query, ask.timeout, now);
        let at = (walk.generation, walk.block, walk.place);
        self.send(at, ask, now, out, |asked| Purpose::Asked(walk, asked));
    }

    /// A plugin's own question.
    fn send_own(&mut self, at: (u64, usize, usize), ask: Ask, now: Now, out: &mut Vec<Effect>) {
        let (_, block, place) = at;
        self.send(at, ask, now, out, |asked| Purpose::Own { block, place, asked });
    }

    fn send(
        &mut self,
        (generation, block, place): (u64, usize, usize),
        ask: Ask,
        now: Now,
        out: &mut Vec<Effect>,
        purpose: impl FnOnce(Asked) -> Purpose,
    ) {
        let Ask { to, via, mut message, timeout, tag } = ask;
        // Each of a step's questions has another id: what came before it is in the list.
        message.id = id(now) ^ (out.len() as u16).wrapping_mul(0x9e37);
        let mut keeping = Keeping::default();
        if let Some(chains) = self.generation(generation) {
            chains.under_way += 1;
            let link = chains.blocks.get(block).and_then(|block| block.links.get(place));
            keeping = link.map(|link| link.plugin.keeping()).unwrap_or_default();
            keeping.source = link.and_then(|link| link.plugin.source(tag)).or(keeping.source);
        }
        let purpose = purpose(Asked { from: to, at: now.monotonic, tag });
        let zone = |question: &Question| matches!(question.rtype, rtype::AXFR | rtype::IXFR);
        let transfer = matches!(purpose, Purpose::Own { .. })
            && via != Via::Udp
            && message.questions.first().is_some_and(zone);
        out.push(Effect::Ask {
            upstream: to,
            via,
            message: encode(&message, usize::from(u16::MAX)),
            timeout,
            keeping,
            pending: Box::new(Pending {
                generation,
                id: message.id,
                kept: None,
                local: None,
                transfer,
                purpose,
            }),
        });
    }

    fn wait(&mut self, walk: Box<Walk>, time: Duration, now: Now, out: &mut Vec<Effect>) {
        let time = within(&walk.query, time, now);
        let generation = walk.generation;
        if let Some(chains) = self.generation(generation) {
            chains.under_way += 1;
        }
        let purpose = Purpose::Waiting(walk);
        out.push(Effect::Wait {
            time,
            pending: Box::new(Pending {
                generation,
                id: 0,
                kept: None,
                local: None,
                transfer: false,
                purpose,
            }),
        });
    }

    /// Calls each plugin of the configuration in force.
    pub(super) fn each_plugin(
        &mut self,
        now: Now,
        out: &mut Vec<Effect>,
        mut call: impl FnMut(&mut dyn Plugin, &mut Context<'_>),
    ) {
        for (generation, block, place) in self.places() {
            // Another random number for each.
            let now =
                Now { random: now.random ^ ((block * 64 + place) as u64).wrapping_mul(0x9e37_79b9), ..now };
            self.with(generation, block, place, now, out, |plugin, cx| call(plugin, cx));
        }
    }

    fn places(&self) -> Vec<(u64, usize, usize)> {
        let Some(chains) = self.chains.last() else { return Vec::new() };
        let blocks = chains.blocks.iter().enumerate();
        let places = blocks.flat_map(|(b, block)| (0..block.links.len()).map(move |place| (b, place)));
        places.map(|(block, place)| (chains.generation, block, place)).collect()
    }

    pub(super) fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        for (generation, block, place) in self.places() {
            let asks = self.with(generation, block, place, now, out, |plugin, cx| plugin.tick(cx));
            for ask in asks.into_iter().flat_map(|(asks, _)| asks) {
                self.send_own((generation, block, place), ask, now, out);
            }
        }
    }
}

/// The id of a step's first question to an upstream.
pub(super) fn id(now: Now) -> u16 {
    (now.random >> 7) as u16
}

/// Whether the time that `cancel` gives a query is over.
fn given_up(query: &Query, now: Now) -> bool {
    query.deadline.is_some_and(|deadline| now.monotonic >= deadline)
}

/// What is left of a time until a query is given up.
fn within(query: &Query, time: Duration, now: Now) -> Duration {
    query.deadline.map_or(time, |deadline| time.min(deadline.saturating_sub(now.monotonic)))
}

/// The reason in the words of Go's contexts, which `errors { consolidate }` lines of Corefiles match.
fn late() -> Failure {
    Failure { rcode: rcode::SERVFAIL, why: Some("context deadline exceeded".to_owned()) }
}

/// As `forward` answers beyond its `max_concurrent`.
fn crowded() -> Failure {
    let why = format!("concurrent queries exceeded maximum {MOST_WAITING} of the server");
    Failure { rcode: rcode::REFUSED, why: Some(why) }
}

/// A message as it goes to the client, signed where it must be.
fn last_form(query: &mut Query, message: &mut Message, now: Now) -> Vec<u8> {
    query.fit(message);
    let room = query.room();
    let Some(signer) = &mut query.signer else { return encode(message, room) };
    let mut bytes = encode_within(message, room.saturating_sub(signer.room()));
    signer.sign(&mut bytes, now.unix);
    bytes
}

/// An answer of the server's own, nothing in it.
fn bare(rcode: u16) -> Message {
    Message { rcode, ..Message::default() }
}

fn answer(
    asked: Asked,
    outcome: Outcome<'_>,
    (kept, local): (Option<bool>, Option<SocketAddr>),
    now: Now,
) -> Answer {
    let read = |bytes: &[u8]| decode(bytes).map_err(|why| format!("not a DNS message: {why}"));
    let messages = outcome.and_then(|(first, more)| {
        let more: Result<Vec<Message>, String> = more.iter().map(|bytes| read(bytes)).collect();
        Ok((read(first)?, more?))
    });
    let (result, more) = match messages {
        Ok((first, more)) => (Ok(first), more),
        Err(why) => (Err(why), Vec::new()),
    };
    let took = now.monotonic.saturating_sub(asked.at);
    Answer { from: asked.from, result, more, took, tag: asked.tag, kept, local }
}
