//! [`Server`]: the state machine. Queries, upstreams' answers, ticks and snapshots in; replies and questions to
//! upstreams out. It has no clock, no sockets and no randomness but what each step is handed.

mod finish;
mod forward;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;

use crate::cache::{self, Cache, Found, Side};
use crate::config::{Block, Config};
use crate::hosts;
use crate::kubernetes::{self, Answer, Reply};
use crate::message::{self, CLASS_IN, Edns, Message, Question, decode, encode, rcode, rtype};
use crate::metrics::{Counter, Measure, Metrics, gauge};
use crate::name::Name;
pub use finish::Job;
use forward::ForwardState;
pub use forward::Pending;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream, each message behind its length.
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

/// When a step happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Since any fixed point; never goes back.
    pub monotonic: Duration,
    /// Seconds since 1970.
    pub unix: u64,
    /// A fresh random number.
    pub random: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message came in.
    Query {
        /// Port that it came to.
        port: u16,
        /// How.
        transport: Transport,
        /// From whom.
        client: SocketAddr,
        /// The message.
        bytes: &'a [u8],
    },
    /// An upstream answered; the id has been compared.
    Answer {
        /// From [`Effect::Ask`].
        pending: Box<Pending>,
        /// The message.
        bytes: &'a [u8],
    },
    /// An upstream did not answer in time, or could not be reached.
    Failed {
        /// From [`Effect::Ask`].
        pending: Box<Pending>,
        /// In a few words.
        why: String,
    },
    /// The cluster changed.
    Snapshot(Arc<Snapshot>),
    /// A hosts file changed; also its first content.
    HostsFile {
        /// As in [`Config::files`].
        path: &'a str,
        /// Its content.
        content: &'a str,
    },
    /// Some time went by; a few times a second.
    Tick,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Send this to who asked (with [`Effect::Ask`] in between: to who asked then).
    Reply(Vec<u8>),
    /// Ask an upstream, and come back with [`Event::Answer`] or [`Event::Failed`]. Never drop it.
    Ask {
        /// Whom.
        upstream: SocketAddr,
        /// How.
        transport: Transport,
        /// What.
        message: Vec<u8>,
        /// How long to wait.
        timeout: Duration,
        /// To be handed back.
        pending: Box<Pending>,
    },
    /// A line for the log.
    Log(String),
    /// Queries go in circles: stop the server and say this.
    Fatal(String),
}

/// A block with what it remembers.
#[derive(Debug)]
struct BlockState {
    config: Arc<Block>,
    zones: Vec<Name>,
    /// `server="dns://:53",zone=".",view=""`
    labels: Vec<(Name, u16, String)>,
    cache: Option<Cache>,
    hosts: hosts::Table,
    forward: Vec<ForwardState>,
    loop_name: Option<Name>,
    loop_seen: u32,
}

/// The server.
#[derive(Debug, Default)]
pub struct Server {
    blocks: Vec<BlockState>,
    snapshot: Arc<Snapshot>,
    /// When the snapshot last changed, seconds since 1970.
    serial: u32,
    local: Vec<IpAddr>,
    /// Counts configurations.
    generation: u64,
    metrics: Metrics,
    version: String,
    reloads_failed: u64,
}

impl Server {
    /// A server for a configuration. `files` are the contents of [`Config::files`], what is missing there has
    /// none; `local` the addresses that it is reached at.
    pub fn new(config: Config, files: &BTreeMap<String, String>, local: Vec<IpAddr>, now: Now) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let mut server = Server { local, version, ..Server::default() };
        server.configure(config, files, now);
        server
    }

    /// Takes another configuration; snapshot and counters stay, caches are emptied.
    pub fn configure(&mut self, config: Config, files: &BTreeMap<String, String>, now: Now) {
        self.generation += 1;
        let blocks = config.blocks.into_iter().enumerate();
        self.blocks = blocks.map(|(at, block)| BlockState::new(block, files, at, now)).collect();
    }

    /// A configuration was refused; the old one stays.
    pub fn reload_failed(&mut self) {
        self.reloads_failed += 1;
    }

    /// Whether everything that it answers from is there (`ready`).
    pub fn ready(&self) -> bool {
        self.snapshot.synced() || self.blocks.iter().all(|b| b.config.kubernetes.is_empty())
    }

    /// The newest resourceVersion that answers are made from.
    pub fn applied_revision(&self) -> u64 {
        self.snapshot.revision()
    }

    /// The queries by which `loop` finds out whether the server asks itself, and the server's own addresses to
    /// send them to.
    pub fn loop_probes(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let blocks = self.blocks.iter().filter_map(|block| {
            let name = block.loop_name.clone()?;
            let ip = block.config.bind.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
            let own = SocketAddr::new(ip, block.config.keys.first()?.1);
            Some((own, encode(&Message::query(self.generation as u16, name, rtype::HINFO), 512)))
        });
        blocks.collect()
    }

    /// The start is over: what looks like a probe of `loop` from now on is none.
    pub fn loop_checked(&mut self) {
        for block in &mut self.blocks {
            block.loop_name = None;
        }
    }

    /// All counters in Prometheus's text form.
    pub fn render_metrics(&self, out: &mut String) {
        let build = format!("goversion=\"\",revision=\"sealane\",version=\"{}\"", self.version);
        gauge(out, "coredns_build_info", "A metric with the build's version.", &[(build, 1.0)]);
        self.metrics.render(out);
        let (mut enabled, mut entries, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
        for block in &self.blocks {
            for (_, _, labels) in &block.labels {
                enabled.extend(block.config.plugins.iter().map(|p| (format!("{labels},name=\"{p}\""), 1.0)));
                if let Some(cache) = &block.cache {
                    for (side, name) in [(Side::Success, "success"), (Side::Denial, "denial")] {
                        entries.push((format!("{labels},type=\"{name}\""), cache.len(side) as f64));
                    }
                }
            }
            if block.config.hosts.is_some() {
                hosts.push((String::new(), block.hosts.len() as f64));
            }
        }
        gauge(out, "coredns_plugin_enabled", "A metric that shows which plugins are enabled.", &enabled);
        gauge(out, "coredns_cache_entries", "The number of elements in the cache.", &entries);
        gauge(out, "coredns_hosts_entries", "The combined number of entries in hosts.", &hosts);
        for (name, help, value) in [
            ("coredns_panics_total", "A metric that counts the number of panics.", 0.0),
            ("coredns_reload_failed_total", "Counter of failed reload attempts.", self.reloads_failed as f64),
            (
                "sealane_dns_applied_revision",
                "The newest resourceVersion that answers are made from.",
                self.applied_revision() as f64,
            ),
            ("sealane_dns_services", "Services known.", self.snapshot.services().count() as f64),
        ] {
            gauge(out, name, help, &[(String::new(), value)]);
        }
    }

    /// Takes one event. A query has one reply at most, now or when its `Ask` is over.
    pub fn step(&mut self, event: Event<'_>, now: Now) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Query { port, transport, client, bytes } => {
                self.query(port, transport, client, bytes, now, &mut out);
            }
            Event::Answer { pending, bytes } => self.answered(*pending, bytes, now, &mut out),
            Event::Failed { pending, why } => self.failed(*pending, &why, now, &mut out),
            Event::Snapshot(snapshot) => {
                if !snapshot.since(&self.snapshot).is_empty() {
                    self.serial = u32::try_from(now.unix).unwrap_or(u32::MAX);
                }
                self.snapshot = snapshot;
            }
            Event::HostsFile { path, content } => {
                for block in &mut self.blocks {
                    block.set_hosts(path, content);
                }
            }
            Event::Tick => self.probe_upstreams(now, &mut out),
        }
        out
    }

    fn query(
        &mut self,
        port: u16,
        transport: Transport,
        client: SocketAddr,
        bytes: &[u8],
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        // Too short to have a header, or a response: no answer, or two servers would talk for ever.
        if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
            return;
        }
        let count = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        // What no query needs is not even read (miekg/dns `acceptfunc.go`).
        let crammed = count(6) > 1 || count(8) > 1 || count(10) > 2;
        let (request, refusal) = match if crammed { Err(message::DecodeError::Short) } else { decode(bytes) }
        {
            Ok(request) if request.flags.opcode != 0 => (request, Some(rcode::NOTIMP)),
            Ok(request) if request.questions.len() != 1 => (request, Some(rcode::FORMERR)),
            Ok(request) => (request, None),
            Err(_) => {
                let id = u16::from_be_bytes([bytes[0], bytes[1]]);
                let opcode = bytes[2] >> 3 & 0xf;
                let flags = message::Flags { opcode, ..message::Flags::default() };
                (Message { id, flags, ..Message::default() }, Some(rcode::FORMERR))
            }
        };
        let job = Job {
            request,
            client,
            transport,
            port,
            size: bytes.len(),
            started: now.monotonic,
            block: None,
            aliases: Vec::new(),
            labels: String::new(),
        };
        if let Some(rcode) = refusal {
            let reply = Message { questions: Vec::new(), ..job.request.reply(rcode) };
            let reply =
                Message { questions: job.request.questions.iter().take(1).cloned().collect(), ..reply };
            out.push(Effect::Reply(encode(&reply, 512)));
            return;
        }
        if let Some(edns) = job.request.edns.as_ref().filter(|edns| edns.version != 0) {
            let mut reply = job.request.reply(rcode::BADVERS);
            reply.edns = Some(Edns { udp_size: edns.udp_size, ..Edns::default() });
            out.push(Effect::Reply(encode(&reply, 512)));
            return;
        }
        let question = job.request.questions[0].clone();
        self.resolve(job, question, now, out);
    }

    /// The block with the longest zone around the name.
    fn block_for(&self, name: &Name, port: u16) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize, usize)> = None;
        for (at, block) in self.blocks.iter().enumerate() {
            for (key, (zone, on, _)) in block.labels.iter().enumerate() {
                let len = zone.wire().len();
                if *on == port && name.is_within(zone) && best.is_none_or(|(_, _, longest)| len > longest) {
                    best = Some((at, key, len));
                }
            }
        }
        best.map(|(at, key, _)| (at, key))
    }

    /// Takes a question down the chain of plugins, in CoreDNS's order (`plugin.cfg`).
    fn resolve(&mut self, mut job: Job, mut question: Question, now: Now, out: &mut Vec<Effect>) {
        loop {
            let Some((at, key)) = self.block_for(&question.name, job.port) else {
                self.finish(
                    job,
                    None,
                    Reply { rcode: rcode::REFUSED, ..Reply::default() }.into(),
                    "",
                    now,
                    out,
                );
                return;
            };
            if job.block.is_none() {
                job.block = Some(self.blocks[at].config.clone());
                job.labels.clone_from(&self.blocks[at].labels[key].2);
            }
            if question.class != CLASS_IN {
                self.finish(
                    job,
                    None,
                    Reply { rcode: rcode::REFUSED, ..Reply::default() }.into(),
                    "",
                    now,
                    out,
                );
                return;
            }
            if self.serve_cached(at, &mut job, &question, now, out) {
                return;
            }
            let block = &mut self.blocks[at];
            if let Some(config) = &block.config.hosts
                && let Some(reply) = hosts::answer(config, &block.hosts, &block.zones, &question)
            {
                self.finish(job, None, reply.into(), "hosts", now, out);
                return;
            }
            let view = kubernetes::View { snapshot: &self.snapshot, serial: self.serial, local: &self.local };
            let plugins = block.config.kubernetes.iter();
            let answer = plugins.map(|k| k.answer(view, &question)).find(|answer| *answer != Answer::Next);
            match answer {
                Some(Answer::Reply(reply)) => {
                    self.finish(job, None, reply.into(), "kubernetes", now, out);
                    return;
                }
                Some(Answer::Chase { aliases, target }) => {
                    job.aliases.extend(aliases);
                    if job.aliases.len() > 8 {
                        let none = Reply { rcode: rcode::SERVFAIL, ..Reply::default() };
                        self.finish(job, Some("alias goes in circles"), none.into(), "kubernetes", now, out);
                        return;
                    }
                    question.name = target;
                }
                Some(Answer::Next) | None => {
                    if self.is_looping(at, &question, out) {
                        return;
                    }
                    self.forward(at, job, question, now, out);
                    return;
                }
            }
        }
    }

    /// Counts what looks like one of `loop`'s own probes; the third look means that it went round.
    fn is_looping(&mut self, at: usize, question: &Question, out: &mut Vec<Effect>) -> bool {
        let block = &mut self.blocks[at];
        if question.rtype != rtype::HINFO || block.loop_name.as_ref() != Some(&question.name) {
            return false;
        }
        block.loop_seen += 1;
        if block.loop_seen > 2 {
            let zone = block.zones.first().map(ToString::to_string).unwrap_or_default();
            out.push(Effect::Fatal(format!(
                "plugin/loop: Loop detected for zone {zone:?}: a query for {} came back from the upstream; \
                 let 'forward' name a server that does not forward to this one",
                question.name
            )));
            return true;
        }
        false
    }

    /// Answers from the cache, where it can; puts questions in the background where that is worth it.
    fn serve_cached(
        &mut self,
        at: usize,
        job: &mut Job,
        question: &Question,
        now: Now,
        out: &mut Vec<Effect>,
    ) -> bool {
        let block = &mut self.blocks[at];
        let (Some(config), Some(cache)) = (&block.config.cache, &mut block.cache) else { return false };
        if !config.zones.is_empty() && !config.zones.iter().any(|zone| question.name.is_within(zone)) {
            return false;
        }
        let key = job.cache_key(question);
        let labels = &job.labels;
        let found = cache.find(&key, now.monotonic);
        let (message, side, refresh) = match found {
            // What is not cached at all (names of the cluster) is not counted as a miss: see `forward`.
            Found::Nothing => return false,
            Found::Stale { verify: true, .. } => return false,
            Found::Fresh { message, side, refresh } => (message, side, refresh),
            Found::Stale { message, side, refresh, .. } => {
                self.metrics.count(Counter::CacheStale, labels);
                (message, side, refresh)
            }
        };
        let kind = if side == Side::Success { "success" } else { "denial" };
        self.metrics.count(Counter::CacheRequests, labels);
        self.metrics.count(Counter::CacheHits, &format!("{labels},type=\"{kind}\""));
        if refresh {
            self.metrics.count(Counter::CachePrefetch, labels);
            self.refresh(at, job, question, now, out);
        }
        let mut message = message;
        // As CoreDNS: some clients discard what is not authoritative.
        message.flags.authoritative = true;
        let job = std::mem::take(job);
        self.finish(job, None, message, "cache", now, out);
        true
    }
}

impl BlockState {
    fn new(config: Block, files: &BTreeMap<String, String>, index: usize, now: Now) -> Self {
        let zones: Vec<Name> = config.keys.iter().map(|(zone, _)| zone.clone()).collect();
        let labels = config.keys.iter().map(|(zone, port)| {
            let text = format!("server=\"dns://:{port}\",zone=\"{zone}\",view=\"\"");
            (zone.clone(), *port, text)
        });
        let loop_name = config.detect_loop.then(|| {
            let zone = zones.first().cloned().unwrap_or_else(Name::root);
            let (a, b) = (now.random >> 1, now.random.rotate_left(17) ^ (index as u64));
            zone.under(&[&a.to_string(), &b.to_string()])
        });
        let mut block = BlockState {
            labels: labels.collect(),
            cache: config.cache.clone().map(Cache::new),
            hosts: hosts::Table::default(),
            forward: config.forward.iter().map(|f| ForwardState::new(f, files)).collect(),
            config: Arc::new(config),
            zones,
            loop_name,
            loop_seen: 0,
        };
        if let Some(path) = block.config.hosts.as_ref().map(|h| h.path.clone()) {
            block.set_hosts(&path, files.get(&path).map_or("", String::as_str));
        }
        block
    }

    fn set_hosts(&mut self, path: &str, content: &str) {
        if let Some(hosts) = self.config.hosts.as_ref().filter(|hosts| hosts.path == path) {
            let mut table = hosts::Table::parse(&hosts.inline);
            table.add(content);
            self.hosts = table;
        }
    }
}

impl From<Reply> for Message {
    /// An answer of this server's own: authoritative, unless it is a refusal.
    fn from(reply: Reply) -> Self {
        let own = !matches!(reply.rcode, rcode::REFUSED | rcode::SERVFAIL) || !reply.authority.is_empty();
        Message {
            flags: message::Flags { authoritative: own, ..message::Flags::default() },
            rcode: reply.rcode,
            answers: reply.answers,
            authority: reply.authority,
            additional: reply.additional,
            ..Message::default()
        }
    }
}

impl Job {
    fn cache_key(&self, question: &Question) -> cache::Key {
        cache::Key {
            name: question.name.clone(),
            rtype: question.rtype,
            dnssec_ok: self.request.edns.as_ref().is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: self.request.flags.checking_disabled,
        }
    }
}

fn measure_labels(labels: &str, transport: Transport) -> String {
    format!("{labels},proto=\"{}\"", transport.as_str())
}
