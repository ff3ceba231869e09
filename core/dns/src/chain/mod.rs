//! The chain of plugins that a query goes down and its answer comes up again: what a plugin is ([`Plugin`]), what it
//! is shown ([`Query`], [`Context`]) and what it may say ([`Flow`], [`Up`]). The order is [`crate::order::ROWS`]'s,
//! the walking `server`'s.

mod address;
pub mod args;
mod ask;
mod needs;
mod note;
mod query;
mod random;
mod reply;
mod setup;
pub mod spans;
pub mod tap;
pub mod values;

use std::any::Any;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;

use crate::message::{Message, Question, Record};
use crate::metrics::Metrics;
use crate::name::Name;
use crate::prepared::Share;
use crate::relay::{Answered, Relaying};
use crate::zone::Zone;
pub use address::ServerAddress;
pub use ask::{Answer, Ask, GrpcClient, Keeping, TlsClient, Via};
pub use needs::{ApiAccess, ClientFiles, Needs, WarmFile};
pub use note::Note;
pub use query::{Query, Transport};
pub use random::Randomness;
pub use reply::{Class, Reply, classify, shuffle};
pub use setup::{
    Block, ClientAuth, Health, HttpServer, Link, Reader, Reload, Row, Settings, Setup, Sockets, Timeouts,
    TlsServer,
};
pub use spans::{Parent, Spans, Tracer};
pub use tap::Tap;
pub use values::{Network, Scheme, ServerKey};

/// Look-ups within look-ups, and aliases one after the other, that one query may lead to.
pub const MAX_DEPTH: u8 = 8;

/// When a step happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Since any fixed point; never goes back.
    pub monotonic: Duration,
    /// Seconds since 1970.
    pub unix: u64,
    /// Nanoseconds since that second began.
    pub nanos: u32,
    /// A fresh random number.
    pub random: u64,
}

/// What all plugins answer from, beside their own lines.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The cluster.
    pub snapshot: Arc<Snapshot>,
    /// When the snapshot last changed, seconds since 1970: the serial of its SOA.
    pub serial: u32,
    /// What comes from other clusters (`multicluster`).
    pub imports: Arc<Snapshot>,
    /// When that last changed, seconds since 1970: the serial of its zones' SOA.
    pub imports_serial: u32,
    /// Counts the snapshots, of either, that said something new.
    pub epoch: u64,
    /// The addresses that the server is reached at.
    pub local: Vec<IpAddr>,
    /// The server's version.
    pub version: String,
    /// The machine's name; empty where it has none.
    pub hostname: String,
}

impl World {
    /// The machine's name, as it is told to clients.
    pub fn hostname(&self) -> &str {
        if self.hostname.is_empty() { "localhost" } else { &self.hostname }
    }
}

/// No answer, but a reason: CoreDNS's `return rcode, err`. The server makes the answer; plugins above learn of it by
/// [`Plugin::failed`], not by [`Plugin::up`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// What the client is told.
    pub rcode: u16,
    /// What `errors` logs; `None`: nothing.
    pub why: Option<String>,
}

/// What a plugin says to a question.
#[derive(Debug)]
pub enum Flow {
    /// It is for the next plugin.
    Next,
    /// This is the answer: it goes up the chain.
    Reply(Message),
    /// Several messages, one after the other (zone transfers over TCP). The first goes up the chain, the others
    /// follow it as they are.
    Stream(Vec<Message>),
    /// There is none: the failure goes up the chain.
    Fail(Failure),
    /// The client gets nothing.
    Drop,
    /// Ask an upstream, and hand its answer to [`Plugin::answered`].
    Ask(Ask),
    /// Ask this server as the client would (`plugin/pkg/upstream`), and hand the answer to [`Plugin::looked_up`].
    Lookup(Question),
    /// Let this time go by, then call [`Plugin::waited`].
    Wait(Duration),
}

impl Flow {
    /// A failure with a reason for the log.
    pub fn fail(rcode: u16, why: impl Into<String>) -> Self {
        Flow::Fail(Failure { rcode, why: Some(why.into()) })
    }

    /// A failure that nobody logs.
    pub fn refuse(rcode: u16) -> Self {
        Flow::Fail(Failure { rcode, why: None })
    }
}

/// How a plugin treats the same question, and its answer on the way up, when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Perhaps differently: every query has to come by.
    Varies,
    /// In the same way, and nothing else comes of it.
    Same,
    /// As it is, and so the answer, whatever they are: only failures are its business.
    Open,
    /// In the same way but for the order of addresses.
    Shuffles,
    /// In the same way, but this share of all has to come by.
    Sampled(Share),
}

/// What a plugin says to an answer that passes it.
#[derive(Debug)]
// It lives for one call, and most flows hold a message anyway.
#[allow(clippy::large_enum_variant)]
pub enum Up {
    /// On, up the chain.
    Pass,
    /// The answer is let go, and this happens as if the plugin had said it to the question: another answer,
    /// a look-up, the rest of the chain once more ([`Flow::Next`]). What of the answer is still wanted goes into the
    /// note first.
    Instead(Flow),
}

/// A file that a plugin wants to be handed; see [`Plugin::file_changed`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// Path of the file, or of a folder all of whose files are wanted.
    pub path: String,
    /// It is a folder.
    pub folder: bool,
    /// Between two looks at it; zero: one look is enough.
    pub every: Duration,
}

/// A file that a plugin wants to have written, whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWrite {
    /// Where.
    pub path: String,
    /// What.
    pub content: String,
    /// The line for the log when it is there.
    pub written: String,
    /// The line for the log when it could not be written; the reason is put behind it.
    pub failed: String,
}

/// What a plugin has asked for, beside what it returned.
#[derive(Debug)]
pub enum Deed {
    /// A line for the log.
    Log(String),
    /// The server must end.
    Fatal(String),
    /// The rest of the chain once more, in the background.
    Refresh(Note),
    /// A message of dnstap for who looks on; an empty one says that there will be some.
    Show(Arc<Tap>, Vec<u8>),
    /// Spans for who collects them.
    Trace(Arc<Tracer>, Vec<String>),
    /// A question of the plugin's own.
    Ask(Ask),
    /// A file to be written.
    Write(FileWrite),
}

/// The other plugins of the server block.
#[derive(Clone, Copy, Debug)]
pub struct Peers<'a> {
    before: &'a [Link],
    after: &'a [Link],
}

impl<'a> Peers<'a> {
    /// From those before and those behind.
    pub fn new(before: &'a [Link], after: &'a [Link]) -> Self {
        Peers { before, after }
    }

    /// Whether nobody comes behind the plugin that asks.
    pub fn is_last(self) -> bool {
        self.after.is_empty()
    }

    /// All, in the chain's order, with their names.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, &'a dyn Plugin)> {
        self.before.iter().chain(self.after).map(|link| (link.name, &*link.plugin))
    }

    /// Those of one type.
    pub fn of<T: Plugin>(self) -> impl Iterator<Item = &'a T> {
        self.iter().filter_map(|(_, plugin)| (plugin as &dyn Any).downcast_ref())
    }

    /// The one right behind, where it is of this type.
    pub fn next<T: Plugin>(self) -> Option<&'a T> {
        (&*self.after.first()?.plugin as &dyn Any).downcast_ref()
    }

    /// A label's value, from the first plugin that knows it; `None` where `metadata` is off for the name that the
    /// client asked for.
    pub fn metadata(self, label: &str, query: &Query, world: &World) -> Option<String> {
        let (zones, name) = (&query.block.settings.metadata, &query.asked().name);
        if !zones.iter().any(|zone| name.is_within(zone)) {
            return None;
        }
        query.label(label).or_else(|| self.iter().find_map(|(_, p)| p.metadata(label, query, world)))
    }
}

/// What surrounds a call to a plugin.
#[derive(Debug)]
pub struct Context<'a> {
    /// The cluster and the like.
    pub world: &'a World,
    /// The time.
    pub now: Now,
    /// Counters.
    pub metrics: &'a mut Metrics,
    /// The other plugins of the server block.
    pub peers: Peers<'a>,
    /// What has been asked for so far.
    pub deeds: &'a mut Vec<Deed>,
}

impl Context<'_> {
    /// Writes a line to the log where the query's server block has `debug`.
    pub fn debug(&mut self, query: &Query, line: impl FnOnce() -> String) {
        if query.block.settings.debug {
            self.log(format!("[DEBUG] {}", line()));
        }
    }

    /// Writes a line to the log: `[INFO] …`.
    pub fn log(&mut self, line: impl Into<String>) {
        self.deeds.push(Deed::Log(line.into()));
    }

    /// Ends the server with this reason.
    pub fn fatal(&mut self, why: impl Into<String>) {
        self.deeds.push(Deed::Fatal(why.into()));
    }

    /// Shows a message of dnstap to who looks on; an empty one has the way to them opened.
    pub fn show(&mut self, tap: Arc<Tap>, message: Vec<u8>) {
        self.deeds.push(Deed::Show(tap, message));
    }

    /// Sends spans, each as [`Spans::done`] writes it.
    pub fn trace(&mut self, tracer: Arc<Tracer>, spans: Vec<String>) {
        self.deeds.push(Deed::Trace(tracer, spans));
    }

    /// Asks somebody, and no client waits for it: what comes of it comes to [`Plugin::told`]. A zone that is asked for
    /// over TCP (AXFR, IXFR) comes as a whole; the timeout is for each of its messages then.
    pub fn ask(&mut self, ask: Ask) {
        self.deeds.push(Deed::Ask(ask));
    }

    /// Writes a file.
    pub fn write(&mut self, file: FileWrite) {
        self.deeds.push(Deed::Write(file));
    }

    /// Asks the plugins behind this one the same question again, in the background. What comes back comes to this
    /// plugin's [`Plugin::up`] or [`Plugin::failed`] with that note, and to nobody else.
    pub fn refresh(&mut self, note: Note) {
        self.deeds.push(Deed::Refresh(note));
    }

    /// A number nobody can foresee, another one with each call.
    pub fn random(&mut self) -> u64 {
        // One step of splitmix64.
        self.now.random = self.now.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.now.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A plugin of one server block, with what it remembers. All have their defaults: a plugin that does nothing is one,
/// too.
#[allow(unused_variables)]
pub trait Plugin: Any + Debug + Send {
    /// A question on its way down.
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        Flow::Next
    }

    /// What came of a [`Flow::Ask`].
    fn answered(&mut self, query: &mut Query, note: &mut Note, answer: Answer, cx: &mut Context<'_>) -> Flow {
        Flow::Next
    }

    /// What came of a [`Flow::Lookup`]: an answer always, SERVFAIL where it led too deep.
    fn looked_up(
        &mut self,
        query: &mut Query,
        note: &mut Note,
        found: Message,
        cx: &mut Context<'_>,
    ) -> Flow {
        Flow::Next
    }

    /// The time of a [`Flow::Wait`] is over.
    fn waited(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        Flow::Next
    }

    /// The answer of a plugin behind this one on its way up; only for queries that this plugin let pass.
    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        Up::Pass
    }

    /// No plugin behind this one had an answer; only for queries that this plugin let pass.
    fn failed(&mut self, query: &mut Query, note: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        Up::Pass
    }

    /// A plugin behind this one lets the client go without an answer; only for queries that this plugin let pass.
    fn dropped(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) {}

    /// How it lets queries of clients by; see [`crate::prepared`]. The configuration and the files are as they are now.
    fn passage(&self) -> Passage {
        Passage::Varies
    }

    /// Whether it has questions of some names go on to upstreams as they came, and lets others by as if it were not
    /// there; see [`crate::relay`].
    fn relays(&self) -> bool {
        false
    }

    /// Such a question, in place of [`Plugin::down`]: the note is what that would have left.
    fn relay(&mut self, name: &[u8], note: &mut Note, cx: &mut Context<'_>) -> Relaying {
        Relaying::Walks
    }

    /// Its answer, in place of [`Plugin::answered`]: whether that would have handed it up as it is. Otherwise nothing
    /// has happened yet.
    fn relayed(&mut self, note: &Note, answer: &Answered, cx: &mut Context<'_>) -> bool {
        false
    }

    /// Whether the server block is for this query at all (`view`). Zone and port are.
    fn accepts(&self, query: &Query, peers: Peers<'_>, world: &World) -> bool {
        true
    }

    /// What this plugin knows under a label of `metadata` (`kubernetes/service`).
    fn metadata(&self, label: &str, query: &Query, world: &World) -> Option<String> {
        None
    }

    /// Takes over from a plugin of the same name in the configuration before what would have to be fetched again.
    fn inherit(&mut self, before: &dyn Plugin) {}

    /// Before the first query, files at hand.
    fn start(&mut self, cx: &mut Context<'_>) {}

    /// Another configuration takes over, or the server ends: what is still to be said is said now.
    fn stop(&mut self, cx: &mut Context<'_>) {}

    /// A few times a second. What comes of what it asks comes to [`Plugin::told`].
    fn tick(&mut self, cx: &mut Context<'_>) -> Vec<Ask> {
        Vec::new()
    }

    /// What came of an ask of [`Plugin::tick`] or [`Context::ask`].
    fn told(&mut self, answer: Answer, cx: &mut Context<'_>) {}

    /// How connections to those that it asks are kept.
    fn keeping(&self) -> Keeping {
        Keeping::default()
    }

    /// Where those of its own asks come from that have this tag; `None`: as [`Plugin::keeping`] says.
    fn source(&self, tag: u64) -> Option<IpAddr> {
        None
    }

    /// The cluster changed.
    fn snapshot_changed(&mut self, old: &Snapshot, cx: &mut Context<'_>) {}

    /// The zones that it holds as a whole, for `transfer`: another version of one is another pointer.
    fn zones(&self, now: Now) -> Vec<Arc<Zone>> {
        Vec::new()
    }

    /// The records of a zone that it has, but does not hold as a whole ([`Plugin::zones`]): the SOA first, and not
    /// again at the end. `None`: the zone is not its own. `peers` are those of the plugin that asks.
    fn transfer(&self, zone: &Name, peers: Peers<'_>, world: &World) -> Option<Vec<Record>> {
        None
    }

    /// The secret of a TSIG key, for all server blocks of its port (`tsig`).
    fn tsig_secret(&self, key: &Name) -> Option<&[u8]> {
        None
    }

    /// Files that it reads. They may become more when [`Plugin::file_changed`] was called.
    fn files(&self) -> Vec<Want> {
        Vec::new()
    }

    /// A file's content: before the start for each of [`Plugin::files`], later for each that changed. `None`: there
    /// is none, or it cannot be read. Files of others come, too.
    ///
    /// # Errors
    /// Why this will not do: the server does not start, or stays with what it had and logs it.
    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        Ok(())
    }

    /// What the catalog has to be fed with.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether everything that it answers from is there (`ready`).
    fn ready(&self, world: &World) -> bool {
        true
    }

    /// Numbers that are looked up when somebody asks. `labels` are those of the server block's keys:
    /// `server="dns://:53",zone=".",view=""`.
    fn render_metrics(&self, labels: &[Arc<str>], out: &mut Metrics) {}
}
