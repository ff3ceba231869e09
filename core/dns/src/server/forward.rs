//! The `forward` plugin: which upstream to ask, when to ask the next, and which are down (`plugin/forward`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::finish::shuffle;
use super::{Counter, Effect, Job, Measure, Now, Server, Transport};
use crate::cache::{self, Found};
use crate::config::{self, Policy, Upstream, resolv_conf};
use crate::kubernetes::Reply;
use crate::message::{Message, Question, decode, encode, rcode, rtype};

/// How long a query may take in all (forward.go's `defaultTimeout`).
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one upstream may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a health check may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Rounds over the upstreams.
const ROUNDS: usize = 2;

#[derive(Debug)]
struct UpstreamState {
    address: SocketAddr,
    fails: u32,
    /// Failed since it last answered: it is checked until it does.
    suspect: bool,
    next_probe: Duration,
    probing: bool,
}

/// A `forward` with what it remembers of its upstreams.
#[derive(Debug)]
pub(super) struct ForwardState {
    config: Arc<config::Forward>,
    upstreams: Vec<UpstreamState>,
    turn: usize,
    under_way: u32,
}

/// What an `Ask` is for; handed back with its outcome.
#[derive(Debug)]
pub struct Pending {
    purpose: Purpose,
    generation: u64,
    block: usize,
    forward: usize,
    upstream: usize,
    /// Upstreams still to be asked, the last one first.
    rest: Vec<usize>,
    question: Question,
    transport: Transport,
    id: u16,
    asked: Duration,
    deadline: Duration,
}

impl Pending {
    /// The message's id: an upstream's message with another one is not its answer.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Whether a client waits for it (else it is a health check or a refresh).
    pub fn has_client(&self) -> bool {
        matches!(self.purpose, Purpose::Query(_))
    }
}

#[derive(Debug)]
enum Purpose {
    Query(Box<Job>),
    /// Its answer goes to the cache alone.
    Refresh(Box<Job>),
    Probe,
}

impl ForwardState {
    pub(super) fn new(config: &config::Forward, files: &BTreeMap<String, String>) -> Self {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for to in &config.to {
            match to {
                Upstream::Address(address) => addresses.push(*address),
                Upstream::ResolvConf(path) => {
                    addresses.extend(resolv_conf(files.get(path).map_or("", String::as_str)));
                }
            }
        }
        addresses.dedup();
        let state = |address| UpstreamState {
            address,
            fails: 0,
            suspect: false,
            next_probe: Duration::ZERO,
            probing: false,
        };
        ForwardState {
            config: Arc::new(config.clone()),
            upstreams: addresses.into_iter().map(state).collect(),
            turn: 0,
            under_way: 0,
        }
    }

    /// Upstreams in the order of asking, reversed: those that are up, then, should all be down, any.
    fn order(&mut self, random: u64) -> Vec<usize> {
        let count = self.upstreams.len();
        let mut order: Vec<usize> = (0..count).collect();
        match self.config.policy {
            Policy::Sequential => {}
            Policy::Random => shuffle(&mut order, random),
            Policy::RoundRobin => {
                order.rotate_left(self.turn % count.max(1));
                self.turn = self.turn.wrapping_add(1);
            }
        }
        let max = self.config.max_fails;
        let up: Vec<usize> =
            order.iter().copied().filter(|at| max == 0 || self.upstreams[*at].fails <= max).collect();
        // All down: the checks may be what is wrong, so one is asked all the same.
        let mut list = if up.is_empty() { order.into_iter().take(1).collect() } else { up };
        list = list.repeat(ROUNDS);
        list.reverse();
        list
    }
}

impl Server {
    /// Asks an upstream, where a `forward` is meant.
    pub(super) fn forward(
        &mut self,
        at: usize,
        job: Job,
        question: Question,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let servfail = || Reply { rcode: rcode::SERVFAIL, ..Reply::default() }.into();
        let Some(index) = self.forward_for(at, &question) else {
            // Aliases are answers whether their target can be asked for or not.
            self.finish(job, Some("no next plugin found"), servfail(), "", now, out);
            return;
        };
        if self.blocks[at].cache.is_some() {
            self.metrics.count(Counter::CacheRequests, &job.labels);
            self.metrics.count(Counter::CacheMisses, &job.labels);
        }
        let state = &mut self.blocks[at].forward[index];
        if state.config.max_concurrent > 0 && state.under_way >= state.config.max_concurrent {
            self.metrics.count(Counter::ForwardRejects, "");
            let error = format!("concurrent queries exceeded maximum {}", state.config.max_concurrent);
            let refused = Reply { rcode: rcode::REFUSED, ..Reply::default() };
            self.finish(job, Some(&error), refused.into(), "forward", now, out);
            return;
        }
        let rest = state.order(now.random);
        if rest.is_empty() {
            self.finish(job, Some("forward has no upstream"), servfail(), "forward", now, out);
            return;
        }
        state.under_way += 1;
        let transport = transport_of(&state.config, job.transport);
        let pending = Pending {
            purpose: Purpose::Query(Box::new(job)),
            generation: self.generation,
            block: at,
            forward: index,
            upstream: 0,
            rest,
            question,
            transport,
            id: 0,
            asked: now.monotonic,
            deadline: now.monotonic + DEADLINE,
        };
        self.ask_next(pending, "", now, out);
    }

    fn forward_for(&self, at: usize, question: &Question) -> Option<usize> {
        self.blocks[at].forward.iter().position(|f| {
            let name = &question.name;
            name.is_within(&f.config.from) && !f.config.except.iter().any(|zone| name.is_within(zone))
        })
    }

    /// Asks in the background, for the cache.
    pub(super) fn refresh(
        &mut self,
        at: usize,
        job: &Job,
        question: &Question,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some(index) = self.forward_for(at, question) else { return };
        let state = &mut self.blocks[at].forward[index];
        let rest = state.order(now.random);
        state.under_way += 1;
        let pending = Pending {
            purpose: Purpose::Refresh(Box::new(Job { aliases: Vec::new(), ..job.clone() })),
            generation: self.generation,
            block: at,
            forward: index,
            upstream: 0,
            rest,
            question: question.clone(),
            transport: transport_of(&state.config, job.transport),
            id: 0,
            asked: now.monotonic,
            deadline: now.monotonic + DEADLINE,
        };
        self.ask_next(pending, "", now, out);
    }

    fn ask_next(&mut self, mut pending: Pending, why: &str, now: Now, out: &mut Vec<Effect>) {
        let left = pending.deadline.saturating_sub(now.monotonic);
        let next =
            if left.is_zero() || pending.generation != self.generation { None } else { pending.rest.pop() };
        let Some(upstream) = next else {
            self.give_up(pending, why, now, out);
            return;
        };
        pending.upstream = upstream;
        let (Purpose::Query(job) | Purpose::Refresh(job)) = &pending.purpose else { return };
        let state = &self.blocks[pending.block].forward[pending.forward];
        let address = state.upstreams[upstream].address;
        let id = (now.random >> 7) as u16;
        let mut request = Message { questions: vec![pending.question.clone()], ..job.request.clone() };
        request.id = id;
        request.flags.recursion_desired |= !job.aliases.is_empty();
        self.metrics.count(Counter::ForwardRequests, &format!("to=\"{address}\""));
        pending.id = id;
        pending.asked = now.monotonic;
        out.push(Effect::Ask {
            upstream: address,
            transport: pending.transport,
            message: encode(&request, usize::from(u16::MAX)),
            timeout: TIMEOUT.min(left),
            pending: Box::new(pending),
        });
    }

    fn give_up(&mut self, pending: Pending, why: &str, now: Now, out: &mut Vec<Effect>) {
        self.ended(&pending);
        match pending.purpose {
            Purpose::Query(job) => {
                if pending.generation == self.generation
                    && let Some(cache) = &mut self.blocks[pending.block].cache
                {
                    let key = job.cache_key(&pending.question);
                    // `serve_stale verify`: what has ended is better than nothing.
                    if let Found::Stale { mut message, .. } = cache.find(&key, now.monotonic) {
                        cache.refreshed(&key);
                        message.flags.authoritative = true;
                        self.metrics.count(Counter::CacheStale, &job.labels);
                        self.finish(*job, None, message, "cache", now, out);
                        return;
                    }
                }
                let why = if why.is_empty() { "the configuration changed meanwhile" } else { why };
                let servfail = Reply { rcode: rcode::SERVFAIL, ..Reply::default() };
                self.finish(*job, Some(why), servfail.into(), "forward", now, out);
            }
            Purpose::Refresh(job) => {
                let key = job.cache_key(&pending.question);
                if pending.generation == self.generation
                    && let Some(cache) = &mut self.blocks[pending.block].cache
                {
                    cache.refreshed(&key);
                }
            }
            Purpose::Probe => {}
        }
    }

    fn ended(&mut self, pending: &Pending) {
        if pending.generation == self.generation && !matches!(pending.purpose, Purpose::Probe) {
            let state = &mut self.blocks[pending.block].forward[pending.forward];
            state.under_way = state.under_way.saturating_sub(1);
        }
    }

    fn upstream_mut(&mut self, pending: &Pending) -> Option<&mut UpstreamState> {
        if pending.generation != self.generation {
            return None;
        }
        self.blocks[pending.block].forward[pending.forward].upstreams.get_mut(pending.upstream)
    }

    pub(super) fn answered(&mut self, mut pending: Pending, bytes: &[u8], now: Now, out: &mut Vec<Effect>) {
        let probe = matches!(pending.purpose, Purpose::Probe);
        if let Some(upstream) = self.upstream_mut(&pending) {
            if probe {
                // Any answer at all means that it is there (health.go).
                upstream.probing = false;
                upstream.suspect = false;
                upstream.fails = 0;
                return;
            }
            let address = upstream.address;
            let took = now.monotonic.saturating_sub(pending.asked);
            let code = rcode::name(bytes.get(3).map_or(0, |b| u16::from(b & 0xf)));
            let labels = format!("to=\"{address}\",rcode=\"{code}\"");
            self.metrics.count(Counter::ForwardResponses, &labels);
            self.metrics.time(Measure::ForwardDuration, &format!("proxy_name=\"forward\",{labels}"), took);
        }
        let (Purpose::Query(job) | Purpose::Refresh(job)) = &pending.purpose else { return };
        let matching = decode(bytes).ok().filter(|answer| {
            answer.flags.response && answer.questions.first().is_none_or(|q| *q == pending.question)
        });
        let Some(mut answer) = matching else {
            // Not what was asked (forward.go: "FORMERR").
            let job = job.clone();
            self.ended(&pending);
            if matches!(pending.purpose, Purpose::Query(_)) {
                let formerr = Reply { rcode: rcode::FORMERR, ..Reply::default() };
                self.finish(
                    *job,
                    Some("upstream's answer is not to the question"),
                    formerr.into(),
                    "forward",
                    now,
                    out,
                );
            }
            return;
        };
        let prefers_udp = |server: &Server| {
            pending.generation == server.generation
                && server.blocks[pending.block].forward[pending.forward].config.prefer_udp
        };
        if answer.flags.truncated && pending.transport == Transport::Udp && prefers_udp(self) {
            pending.rest.push(pending.upstream);
            pending.transport = Transport::Tcp;
            self.ask_next(pending, "the answer over UDP was cut off", now, out);
            return;
        }
        self.ended(&pending);
        let key = job.cache_key(&pending.question);
        if pending.generation == self.generation {
            self.keep(pending.block, key, &mut answer, now);
        }
        if let Purpose::Query(job) = pending.purpose {
            self.finish(*job, None, answer, "forward", now, out);
        }
    }

    fn keep(&mut self, at: usize, key: cache::Key, answer: &mut Message, now: Now) {
        let block = &mut self.blocks[at];
        let Some(config) = &block.config.cache else { return };
        let within = config.zones.is_empty() || config.zones.iter().any(|zone| key.name.is_within(zone));
        if let (true, Some(cache)) = (within, &mut block.cache) {
            cache.store(key, answer, now.monotonic);
        }
    }

    pub(super) fn failed(&mut self, pending: Pending, why: &str, now: Now, out: &mut Vec<Effect>) {
        let probe = matches!(pending.purpose, Purpose::Probe);
        let mut address = None;
        if let Some(upstream) = self.upstream_mut(&pending) {
            address = Some(upstream.address);
            if probe {
                upstream.probing = false;
                upstream.fails = upstream.fails.saturating_add(1);
            } else if !upstream.suspect {
                upstream.suspect = true;
                upstream.next_probe = now.monotonic;
            }
        }
        let named = address.map_or_else(|| "upstream".to_owned(), |address| address.to_string());
        if probe {
            self.metrics
                .count(Counter::HealthcheckFailures, &format!("proxy_name=\"forward\",to=\"{named}\""));
            return;
        }
        self.ask_next(pending, &format!("{named}: {why}"), now, out);
    }

    /// Checks upstreams that failed until they answer again.
    pub(super) fn probe_upstreams(&mut self, now: Now, out: &mut Vec<Effect>) {
        let generation = self.generation;
        for (block_at, block) in self.blocks.iter_mut().enumerate() {
            for (forward_at, forward) in block.forward.iter_mut().enumerate() {
                let config = &forward.config;
                for (at, upstream) in forward.upstreams.iter_mut().enumerate() {
                    let due = upstream.suspect && !upstream.probing && upstream.next_probe <= now.monotonic;
                    if !due || config.max_fails == 0 {
                        continue;
                    }
                    upstream.probing = true;
                    upstream.next_probe = now.monotonic + config.health_interval;
                    let id = (now.random >> 13) as u16 ^ at as u16;
                    let mut request = Message::query(id, config.health_domain.clone(), rtype::NS);
                    request.flags.recursion_desired = config.health_recursion;
                    let question = request.questions[0].clone();
                    let transport = if config.force_tcp { Transport::Tcp } else { Transport::Udp };
                    out.push(Effect::Ask {
                        upstream: upstream.address,
                        transport,
                        message: encode(&request, 512),
                        timeout: PROBE_TIMEOUT,
                        pending: Box::new(Pending {
                            purpose: Purpose::Probe,
                            generation,
                            block: block_at,
                            forward: forward_at,
                            upstream: at,
                            rest: Vec::new(),
                            question,
                            transport,
                            id,
                            asked: now.monotonic,
                            deadline: now.monotonic + PROBE_TIMEOUT,
                        }),
                    });
                }
            }
        }
    }
}

fn transport_of(config: &config::Forward, client: Transport) -> Transport {
    match (config.force_tcp, config.prefer_udp) {
        (true, _) => Transport::Tcp,
        (false, true) => Transport::Udp,
        (false, false) => client,
    }
}
