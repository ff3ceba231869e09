//! [`Server`]: the state machine. Queries, upstreams' answers, ticks and snapshots in; replies and questions to
//! upstreams out. It has no clock, no sockets and no randomness but what each step is handed.

mod finish;
mod https;
mod intake;
mod relay;
mod walk;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use sealane_catalog::Snapshot;

use crate::chain::{
    Block, FileWrite, Keeping, Link, Now, Parent, Passage, Plugin, ServerAddress, Settings, Tap, Tracer,
    Transport, Via, Want, World,
};
use crate::config::{Config, wanted};
use crate::fairness::Throttled;
use crate::message::{decode, encode, rcode};
use crate::metrics::{Family, Handle, Metrics};
use crate::prepared::{Changed, Preparation, Share};
pub use https::max_age;
pub use relay::Relay;
pub use walk::Pending;

/// What waits for longer than this will not come back: its client has gone.
const RETIRED: Duration = Duration::from_secs(60);

/// A configuration that was retired so long ago has handed over all that had come in by its listeners.
const HANDED_OVER: Duration = Duration::from_secs(10);

/// Queries that the server keeps at once while they wait for upstreams, all plugins together; more are refused, and
/// counted. One needs some 2.5 KiB, so all of them need 80 MiB: with the rest of the server they stay below the 170 MiB
/// that manifests give cluster DNS. An upstream that answers within 50 ms can be asked 650,000 times a second before
/// that, and one that is dead (5 s a query) 6,500 times.
pub const MOST_WAITING: usize = 32_768;

static BUILD: Family = Family::gauge(
    "coredns_build_info",
    "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.",
);
static ENABLED: Family = Family::gauge(
    "coredns_plugin_enabled",
    "A metric that indicates whether a plugin is enabled on per server and zone basis.",
);
static PANICS: Family =
    Family::counter("coredns_panics_total", "A metrics that counts the number of panics.");
static RELOADS_FAILED: Family =
    Family::counter("coredns_reload_failed_total", "Counter of the number of failed reload attempts.");
static RUNNING: Family = Family::gauge(
    "coredns_reload_version_info",
    "A metric with a constant '1' value labeled by hash, and value which type of hash generated.",
);
static HEALTH: Family = Family::slim_times(
    "coredns_health_request_duration_seconds",
    "Histogram of the time (in seconds) each request took.",
);
static UNHEALTHY: Family =
    Family::counter("coredns_health_request_failures_total", "The number of times the health check failed.");
static REVISION: Family =
    Family::gauge("sealane_dns_applied_revision", "The newest resourceVersion that answers are made from.");
static SERVICES: Family = Family::gauge("sealane_dns_services", "Services known.");
static AGE: Family = Family::gauge(
    "sealane_dns_view_age_seconds",
    "How long ago the cluster was as it is answered from: 0 while the API tells what changes.",
);

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message came in.
    Query {
        /// By which listener.
        server: ServerAddress,
        /// How.
        transport: Transport,
        /// From whom.
        client: SocketAddr,
        /// The message.
        bytes: &'a [u8],
    },
    /// The same, as part of a trace that somebody else began.
    Traced {
        /// What it is part of.
        parent: Parent,
        /// By which listener.
        server: ServerAddress,
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
    /// A zone came, for an [`Effect::Ask`] that says so ([`Pending::is_transfer`]): all of its messages.
    Transferred {
        /// From [`Effect::Ask`].
        pending: Box<Pending>,
        /// The messages, one at least.
        messages: &'a [Vec<u8>],
    },
    /// An upstream did not answer in time, or could not be reached.
    Failed {
        /// From [`Effect::Ask`].
        pending: Box<Pending>,
        /// In a few words.
        why: String,
    },
    /// The time of an [`Effect::Wait`] is over.
    Waited(Box<Pending>),
    /// The cluster changed.
    Snapshot(Arc<Snapshot>),
    /// What comes from other clusters changed.
    Imports(Arc<Snapshot>),
    /// A file of [`Config::files`] changed.
    File {
        /// As the plugin wrote it.
        path: &'a str,
        /// Its content; `None`: it is gone, or cannot be read.
        content: Option<&'a str>,
    },
    /// Some time went by; a few times a second.
    Tick,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Send this to who asked (with [`Effect::Ask`] in between: to who asked then). Several of them in a row are one
    /// answer in several messages.
    Reply(Vec<u8>),
    /// Ask an upstream, and come back with [`Event::Answer`] or [`Event::Failed`]. Never drop it.
    Ask {
        /// Whom.
        upstream: SocketAddr,
        /// How.
        via: Via,
        /// What.
        message: Vec<u8>,
        /// How long to wait.
        timeout: Duration,
        /// How its connection is kept.
        keeping: Keeping,
        /// To be handed back.
        pending: Box<Pending>,
    },
    /// Come back after this time with [`Event::Waited`]. Never drop it.
    Wait {
        /// How long.
        time: Duration,
        /// To be handed back.
        pending: Box<Pending>,
    },
    /// Write a file, whole or not at all, and log what came of it.
    Write(FileWrite),
    /// A line for the log.
    Log(String),
    /// Queries go in circles: stop the server and say this.
    Fatal(String),
    /// A message of dnstap for who looks on; an empty one: open the way to them.
    Show(Arc<Tap>, Vec<u8>),
    /// Spans for who collects them, one text each.
    Trace(Arc<Tracer>, Vec<String>),
}

/// A block with its chain.
#[derive(Debug)]
struct BlockState {
    block: Arc<Block>,
    /// For each of [`Block::servers`]: `server="dns://:53",zone=".",view=""`
    labels: Vec<Arc<str>>,
    links: Vec<Link>,
    /// So many of the first plugins let a question by in the same way each time.
    same: usize,
    /// One of them shuffles addresses.
    shuffles: bool,
    /// One of them has to see these, whatever is prepared.
    sampled: Option<Share>,
    /// Plugins that a question may come to as the client asked it, and have go on so.
    relays: Vec<usize>,
}

impl BlockState {
    fn has(&self, server: ServerAddress) -> bool {
        self.block.servers().any(|(_, own)| own == server)
    }
}

/// The chains of one configuration.
#[derive(Debug, Default)]
struct Chains {
    generation: u64,
    blocks: Vec<BlockState>,
    /// Asks and waits that will come back.
    under_way: usize,
    /// When another configuration took over; what is under way ends with the one that it began with.
    retired: Option<Duration>,
    /// Plugins that have been ready once.
    ready: BTreeSet<&'static str>,
}

/// The server.
#[derive(Debug, Default)]
pub struct Server {
    /// The last one is the one in force.
    chains: Vec<Chains>,
    world: World,
    metrics: Metrics,
    reloads_failed: u64,
    fingerprint: String,
    /// The last event's time, seconds since 1970.
    unix: u64,
    /// Where queries of each sort are counted.
    sorts: HashMap<finish::Sort, [Handle; 5], FixedState>,
    /// The last query's answer may be kept.
    preparation: Option<Preparation>,
    /// What changed since somebody asked.
    changed: Option<Changed>,
    /// Who was turned away, and how often.
    throttled: Throttled,
    /// What plugins said when they were started.
    starting: Vec<Effect>,
    /// Room for questions that go on as they come.
    #[allow(clippy::vec_box)] // It is the boxes that are kept.
    spare: Vec<Box<Relay>>,
}

impl Server {
    /// A server for a configuration that has its files ([`Config::load`]); `local` are the addresses that it is
    /// reached at.
    pub fn new(config: Config, local: Vec<IpAddr>, now: Now) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let world = World { local, version, ..World::default() };
        let mut server = Server { world, ..Server::default() };
        server.configure(config, now);
        server
    }

    /// Takes another configuration; snapshot and counters stay, queries under way end with the old one. What its
    /// plugins have to say comes with the next step's effects.
    pub fn configure(&mut self, config: Config, now: Now) {
        let generation = self.chains.last().map_or(0, |chains| chains.generation + 1);
        let mut out = self.stop(now);
        if let Some(old) = self.chains.last_mut() {
            old.retired = Some(now.monotonic);
        }
        let viewed = config.blocks.iter().any(|block| block.settings.view.is_some());
        let blocks = config.blocks.into_iter().zip(config.chains).map(|(block, mut links)| {
            for link in &mut links {
                let before = self.plugins().filter(|(name, _)| *name == link.name);
                before.for_each(|(_, before)| link.plugin.inherit(before));
            }
            let view = block.settings.view.clone().unwrap_or_default();
            let labels = block.servers().map(|(key, server)| {
                format!("server=\"{server}\",zone=\"{}\",view=\"{view}\"", key.zone).into()
            });
            let relays = if viewed { Vec::new() } else { relay::relays(&block, &links) };
            let passages = links.iter().map(|link| link.plugin.passage());
            let same = passages.clone().take_while(|passage| *passage != Passage::Varies).count();
            let passages = passages.take(same);
            let shuffles = passages.clone().any(|passage| passage == Passage::Shuffles);
            let sampled = passages.filter_map(|passage| match passage {
                Passage::Sampled(share) => Some(share),
                _ => None,
            });
            let sampled = sampled.max();
            BlockState { labels: labels.collect(), block, links, same, shuffles, sampled, relays }
        });
        let chains = Chains {
            generation,
            blocks: blocks.collect(),
            under_way: 0,
            retired: None,
            ready: BTreeSet::new(),
        };
        self.chains.push(chains);
        self.changed = Some(Changed::All);
        self.let_go(now);
        out.splice(0..0, std::mem::take(&mut self.starting));
        self.each_plugin(now, &mut out, |plugin, cx| plugin.start(cx));
        self.starting = out;
    }

    /// The server ends: lines that plugins have held back come out.
    pub fn stop(&mut self, now: Now) -> Vec<Effect> {
        let mut out = Vec::new();
        self.each_plugin(now, &mut out, |plugin, cx| plugin.stop(cx));
        out
    }

    /// The machine's name, for `nsid` and `chaos`.
    pub fn set_hostname(&mut self, name: &str) {
        name.clone_into(&mut self.world.hostname);
    }

    /// The addresses that clients reach the server at from now on.
    pub fn set_local(&mut self, local: Vec<IpAddr>) {
        if local != self.world.local {
            self.world.local = local;
            self.changed = Some(Changed::All);
        }
    }

    /// A step panicked and was caught: what it said, and where. The query, with where it came in, is answered
    /// (`ServeDNS` in core/dnsserver/server.go); with `debug` the server ends.
    pub fn panicked(
        &mut self,
        query: Option<(ServerAddress, &[u8])>,
        what: &str,
        place: &str,
    ) -> Vec<Effect> {
        self.metrics.count(&PANICS, "");
        let has = |says: fn(&Settings) -> bool| self.blocks().iter().any(|state| says(&state.block.settings));
        let server = query.map(|(server, _)| format!("\"{server}\" ")).unwrap_or_default();
        if has(|settings| settings.debug) {
            return vec![Effect::Fatal(format!("panic in server: {server}{what} at {place}"))];
        }
        let place = if has(|settings| settings.stacktrace) { format!("\n{place}") } else { String::new() };
        let log = Effect::Log(format!("[ERROR] Recovered from panic in server: {server}{what}{place}"));
        let reply = query.and_then(|(_, bytes)| decode(bytes).ok()).map(|request| {
            let mut reply = request.reply(rcode::SERVFAIL);
            reply.questions.truncate(1);
            Effect::Reply(encode(&reply, 512))
        });
        std::iter::once(log).chain(reply).collect()
    }

    /// How the answer to the query of the last step may be kept, if it may.
    pub fn preparation(&mut self) -> Option<Preparation> {
        self.preparation.take()
    }

    /// What changed since this was asked last, and the serial number of the cluster's SOA from then on.
    pub fn changed(&mut self) -> Option<(Changed, u32)> {
        self.changed.take().map(|changed| (changed, self.world.serial))
    }

    /// A configuration was refused; the old one stays.
    pub fn reload_failed(&mut self) {
        self.reloads_failed += 1;
    }

    /// Forgets old configurations whose queries have ended, and those of listeners that went with them.
    fn let_go(&mut self, now: Now) {
        let servers = |chains: &Chains| -> BTreeSet<ServerAddress> {
            chains.blocks.iter().flat_map(|state| state.block.servers()).map(|(_, server)| server).collect()
        };
        if self.chains.len() < 2 {
            return;
        }
        let here = self.chains.last().map(servers).unwrap_or_default();
        self.chains.retain(|chains| {
            let Some(at) = chains.retired else { return true };
            let age = now.monotonic.saturating_sub(at);
            chains.under_way > 0 && age <= RETIRED || age <= HANDED_OVER && !servers(chains).is_subset(&here)
        });
    }

    /// The generation of the configuration in force.
    fn in_force(&self) -> Option<u64> {
        self.chains.last().map(|chains| chains.generation)
    }

    /// What queries to a server are for: the configuration in force, or, where that has the server no more, the last one
    /// that had it. What had come in by such a listener may come after the handover.
    fn of_server(&self, server: ServerAddress) -> (u64, &[BlockState]) {
        let has = |chains: &&Chains| chains.blocks.iter().any(|state| state.has(server));
        let found = self.chains.iter().rev().find(has).or(self.chains.last());
        found.map_or((0, &[]), |chains| (chains.generation, chains.blocks.as_slice()))
    }

    /// Queries that wait for upstreams, and what plugins ask for themselves.
    fn waiting(&self) -> usize {
        self.chains.iter().map(|chains| chains.under_way).sum()
    }

    fn blocks(&self) -> &[BlockState] {
        self.chains.last().map_or(&[], |chains| &chains.blocks)
    }

    fn plugins(&self) -> impl Iterator<Item = (&'static str, &dyn Plugin)> {
        self.blocks().iter().flat_map(|block| &block.links).map(|link| (link.name, &*link.plugin))
    }

    /// The files that plugins want to be handed now; see [`Config::files`].
    pub fn files(&self) -> Vec<Want> {
        wanted(self.plugins().map(|(_, plugin)| plugin))
    }

    /// Whether everything that it answers from is there (`ready`).
    pub fn ready(&mut self) -> bool {
        self.unready().is_empty()
    }

    /// The plugins that are not ready, each once: those of blocks with `ready`, of all where no block has it. One that
    /// was ready is so from then on, but where its block says `monitor continuously`.
    pub fn unready(&mut self) -> Vec<&'static str> {
        let Some(Chains { blocks, ready, .. }) = self.chains.last_mut() else { return Vec::new() };
        let all = blocks.iter().all(|state| state.block.settings.ready.is_none());
        let mut unready = BTreeSet::new();
        for state in blocks.iter().filter(|state| all || state.block.settings.ready.is_some()) {
            let continuously = state.block.settings.ready_continuously;
            for link in &state.links {
                let known = !continuously && ready.contains(link.name);
                if !known && !link.plugin.ready(&self.world) {
                    unready.insert(link.name);
                }
            }
        }
        let names = blocks.iter().flat_map(|state| &state.links).map(|link| link.name);
        ready.extend(names.filter(|name| !unready.contains(name)));
        unready.into_iter().collect()
    }

    /// What the server found when it asked for its own `/health`.
    pub fn health_checked(&mut self, took: Duration, healthy: bool) {
        self.metrics.time(&HEALTH, "", took);
        if !healthy {
            self.metrics.count(&UNHEALTHY, "");
        }
    }

    /// What runs from now on, by its fingerprint (SHA-512 in hexadecimal digits) (`reload`).
    pub fn running(&mut self, fingerprint: &str) {
        fingerprint.clone_into(&mut self.fingerprint);
    }

    /// Queries a second at a server that no client is denied where others want more than there is; `None`: whoever
    /// comes first is served first.
    pub fn fairness(&self, server: ServerAddress) -> Option<u32> {
        let here = self.blocks().iter().filter(|state| state.has(server));
        here.filter_map(|state| state.block.settings.fairness).max()
    }

    /// Queries of clients were turned away; what is to be logged about it.
    pub fn throttled(&mut self, clients: &[(IpAddr, u64)], now: Now) -> Option<String> {
        self.throttled.add(clients, now.monotonic)
    }

    /// The newest resourceVersion that answers are made from.
    pub fn applied_revision(&self) -> u64 {
        self.world.snapshot.revision()
    }

    /// All counters in Prometheus's text form.
    pub fn render_metrics(&self, out: &mut String) {
        let mut page = self.metrics.clone();
        let version = &self.world.version;
        page.add(&BUILD, &format!("goversion=\"\",revision=\"sealane\",version=\"{version}\""), 1.0);
        for block in self.blocks() {
            // Where `prometheus` is; settings of the server itself are no plugins in this.
            let measured = block.block.settings.prometheus.is_some();
            let names =
                block.block.plugins.iter().filter(|name| {
                    **name == "prometheus" || block.links.iter().any(|link| link.name == **name)
                });
            for name in names.filter(|_| measured) {
                for labels in &block.labels {
                    page.set(&ENABLED, &format!("{labels},name=\"{name}\""), 1.0);
                }
            }
            for link in &block.links {
                link.plugin.render_metrics(&block.labels, &mut page);
            }
        }
        page.add(&PANICS, "", 0.0);
        page.add(&UNHEALTHY, "", 0.0);
        page.add(&RELOADS_FAILED, "", self.reloads_failed as f64);
        if !self.fingerprint.is_empty() {
            page.add(&RUNNING, &format!("hash=\"sha512\",value=\"{}\"", self.fingerprint), 1.0);
        }
        if self.blocks().iter().any(|state| state.block.settings.fairness.is_some()) {
            self.throttled.render(&mut page);
        }
        page.add(&REVISION, "", self.applied_revision() as f64);
        page.add(&SERVICES, "", self.world.snapshot.services().count() as f64);
        if self.world.snapshot.synced() {
            let age = self.world.snapshot.as_of().map_or(0, |as_of| self.unix.saturating_sub(as_of));
            page.add(&AGE, "", age as f64);
        }
        page.render(out);
    }

    /// Takes one event. A query has one answer at most, now or when its `Ask` is over.
    pub fn step(&mut self, event: Event<'_>, now: Now) -> Vec<Effect> {
        let mut out = std::mem::take(&mut self.starting);
        self.unix = now.unix;
        match event {
            Event::Query { server, transport, client, bytes } => {
                self.query((server, transport, client, bytes), None, now, &mut out);
            }
            Event::Traced { parent, server, transport, client, bytes } => {
                self.query((server, transport, client, bytes), Some(parent), now, &mut out);
            }
            Event::Answer { pending, bytes } => self.answered(*pending, Ok((bytes, &[])), now, &mut out),
            Event::Transferred { pending, messages } => {
                let outcome = messages.split_first().map(|(first, more)| (first.as_slice(), more));
                let none = || "there is no answer".to_owned();
                self.answered(*pending, outcome.ok_or_else(none), now, &mut out);
            }
            Event::Failed { pending, why } => self.answered(*pending, Err(why), now, &mut out),
            Event::Waited(pending) => self.answered(*pending, Ok((&[], &[])), now, &mut out),
            Event::Snapshot(snapshot) => self.snapshot(snapshot, now, &mut out),
            Event::Imports(imports) => self.imports(imports, now),
            Event::File { path, content } => {
                self.changed = Some(Changed::All);
                self.each_plugin(now, &mut out, |plugin, cx| {
                    if let Err(why) = plugin.file_changed(path, content) {
                        cx.log(format!("[ERROR] {why}"));
                    }
                });
            }
            Event::Tick => {
                self.let_go(now);
                self.tick(now, &mut out);
            }
        }
        out
    }

    /// No plugin remembers what it has from imports, nor are answers prepared from them.
    fn imports(&mut self, imports: Arc<Snapshot>, now: Now) {
        let old = std::mem::replace(&mut self.world.imports, imports);
        let new = &self.world.imports;
        if new.synced() != old.synced() || !new.since(&old).is_empty() {
            self.world.imports_serial = u32::try_from(now.unix).unwrap_or(u32::MAX);
            self.world.epoch += 1;
        }
    }

    fn snapshot(&mut self, snapshot: Arc<Snapshot>, now: Now, out: &mut Vec<Effect>) {
        let delta = snapshot.since(&self.world.snapshot);
        let old = &self.world.snapshot;
        let synced = snapshot.synced() != old.synced() || snapshot.restored() != old.restored();
        let changed = !delta.is_empty() || synced;
        let what = if synced { Changed::All } else { Changed::by(&delta) };
        let old = std::mem::replace(&mut self.world.snapshot, snapshot);
        if changed {
            self.world.serial = u32::try_from(now.unix).unwrap_or(u32::MAX);
            self.world.epoch += 1;
            self.changed = Some(match self.changed.take() {
                Some(before) => before.and(what),
                None => what,
            });
            self.each_plugin(now, out, |plugin, cx| plugin.snapshot_changed(&old, cx));
        }
    }
}
