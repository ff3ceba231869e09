//! The thread that keeps a sink in step with the table.

use crate::burst::Burst;
use crate::metrics::{Synced, Task};
use crate::trouble::Trouble;
use crate::watch::Notice;
use crate::weighing::Weighing;
use crate::{Metrics, Observer, Watch};
use sealane_catalog::{Entry, NamespacedName};
use sealane_host::memory;
use sealane_proxy::weigh::{Flow, Look, Wanted};
use sealane_proxy::{
    Change, Departed, FlowTable, Frontend, NodeContext, RuleSink, Table, Tally, Unserved, tally,
};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often it is looked how full the table of flows is: some microseconds' work, and a table that is full loses
/// connections until then.
const LOOK: Duration = Duration::from_millis(250);
/// Every so many of these looks it is looked whether others removed the rules, which is heard of as well.
const LOOKS_AT_RULES: u32 = 4;
/// How long notices are waited for at a time.
const LONG: Duration = Duration::from_secs(1);
/// How long notices of what is done to the rules are gathered: our own are many, and those of others rare.
const GATHER: Duration = Duration::from_millis(2);
/// Elements beyond which a change is written unheard: the kernel tells each to whoever listens.
const LOUD: usize = 2000;
/// That somebody else changed the rules is said no more often.
const REPAIRS_SAID: Duration = Duration::from_secs(60);

/// What changed. The first update carries everything there is: rules are written with it, and not before.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The revision that is in force once this update is.
    pub revision: u64,
    /// Services with their slices as they are now; `None`: gone.
    pub services: Vec<(NamespacedName, Option<Arc<Entry>>)>,
    /// The node, where that changed.
    pub node: Option<NodeContext>,
}

/// The running proxy. It ends when the updates' senders are dropped; the rules stay.
#[derive(Debug)]
pub struct Proxy {
    applied: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    rewrite: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Proxy {
    /// Has everything written anew before long, for a sink that is to do it otherwise from now on.
    pub fn rewrite(&self) {
        self.rewrite.store(true, Ordering::Release);
    }

    /// The last revision in force: new connections follow it. 0 before the first.
    pub fn applied(&self) -> &watch::Receiver<u64> {
        &self.applied
    }

    /// Its figures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits for its end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the proxy's thread panicked");
        }
    }
}

/// Starts a thread that carries updates into a sink: what came in meanwhile goes in at once, changes cost what
/// changed, and after an error, or when somebody removed the rules, all are written anew.
pub fn spawn<S>(table: Table, sink: S, updates: Receiver<Update>) -> io::Result<Proxy>
where
    S: RuleSink + Send + 'static,
{
    start(table, sink, updates, None, None)
}

/// As [`spawn`], with a second thread that listens to what others do to the rules: they are repaired within
/// milliseconds rather than a second. `watch` comes from [`NftSink::watch`](crate::NftSink::watch).
pub fn spawn_watched<S>(table: Table, sink: S, updates: Receiver<Update>, watch: Watch) -> io::Result<Proxy>
where
    S: RuleSink + Send + 'static,
{
    start(table, sink, updates, Some(Arc::new(watch)), None)
}

/// As [`spawn_watched`], with a third thread that looks at flows for Services whose annotations ask for what depends
/// on them, or on time ([`sealane_proxy::weigh`]); without it nobody's are followed.
pub fn spawn_observed<S>(
    table: Table,
    sink: S,
    updates: Receiver<Update>,
    watch: Watch,
    observer: Observer,
) -> io::Result<Proxy>
where
    S: RuleSink + Send + 'static,
{
    start(table, sink, updates, Some(Arc::new(watch)), Some(observer))
}

fn start<S>(
    table: Table,
    sink: S,
    updates: Receiver<Update>,
    watch: Option<Arc<Watch>>,
    observer: Option<Observer>,
) -> io::Result<Proxy>
where
    S: RuleSink + Send + 'static,
{
    let worker = Worker::new(table, sink, watch.clone(), observer.is_some());
    let applied = worker.publish.subscribe();
    let (metrics, rewrite) = (worker.metrics.clone(), worker.rewrite.clone());
    let worker = Arc::new(Mutex::new(worker));
    // Its other end is closed with the thread that follows updates, whichever way that ends.
    let (alive, end) = UnixStream::pair()?;
    let mut others = Vec::new();
    if let Some(observer) = observer {
        let (worker, end) = (worker.clone(), end.try_clone()?);
        let observe = move || observe(&worker, observer, &end);
        others.push(std::thread::Builder::new().name("proxy-flows".to_owned()).spawn(observe)?);
    }
    if let Some(watch) = watch {
        let worker = worker.clone();
        let listen = move || listen(&worker, &watch, &end);
        others.push(std::thread::Builder::new().name("proxy-watch".to_owned()).spawn(listen)?);
    }
    let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
        follow(&worker, &updates);
        drop(alive);
        if others.into_iter().map(JoinHandle::join).filter(Result::is_err).count() > 0 {
            tracing::error!("a thread of the proxy's panicked");
        }
    })?;
    Ok(Proxy { applied, metrics, rewrite, thread })
}

/// A poisoned lock holds a worker whose last step broke off: that is repaired as any failure is.
fn lock<S>(worker: &Mutex<Worker<S>>) -> MutexGuard<'_, Worker<S>> {
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries updates out until their senders are gone.
fn follow<S: RuleSink>(worker: &Mutex<Worker<S>>, updates: &Receiver<Update>) {
    loop {
        let wait = lock(worker).patience(Instant::now());
        let first = match updates.recv_timeout(wait) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut worker = lock(worker);
        let changes = first.map(|first| worker.take(std::iter::once(first).chain(updates.try_iter())));
        worker.turn(changes.as_ref(), Instant::now());
    }
}

/// Has the rules repaired as soon as somebody else has changed them, until `end` closes.
fn listen<S: RuleSink>(worker: &Mutex<Worker<S>>, watch: &Watch, end: &UnixStream) {
    loop {
        let notice = watch.wait(end, LONG);
        let noticed = Instant::now();
        match notice {
            Notice::Ended => return,
            Notice::Quiet => continue,
            Notice::Harmless => {}
            Notice::Disturbed => lock(worker).repair(true),
            Notice::Lost => {
                let mut worker = lock(worker);
                worker.troubled(Task::Notifications, &"too much was done to nftables to be told of it");
                worker.repair(true);
            }
            Notice::Failed(error) => {
                lock(worker).troubled(Task::Notifications, &error);
                std::thread::sleep(LOOK);
            }
        }
        // Whoever goes on to change the rules is not fought with more than half of the time.
        std::thread::sleep(noticed.elapsed().max(GATHER));
    }
}

/// Looks at flows for as long as some Service asks for it, until `end` closes. It is done beside the lock: new rules
/// do not wait for a look.
fn observe<S: RuleSink>(worker: &Mutex<Worker<S>>, mut observer: Observer, end: &UnixStream) {
    loop {
        let wanted = lock(worker).weighing.wanted();
        let done = match observer.look(&wanted) {
            Ok(look) if wanted != Wanted::Nothing => {
                let moves = lock(worker).shift(look.as_ref());
                observer.forget(&moves).map(|_| ())
            }
            done => done.map(|_| ()),
        };
        match done {
            Ok(()) => lock(worker).recovered(Task::Weights),
            Err(error) => lock(worker).troubled(Task::Weights, &error),
        }
        if observer.pause(&wanted, end) {
            return;
        }
    }
}

/// No changes.
const NOTHING: [Vec<Change>; 2] = [Vec::new(), Vec::new()];

/// What is known of the rules in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first update has not come: nothing is written.
    Waiting,
    /// They may be anything: all are to be written.
    Unknown,
    /// They are what the table says.
    Whole,
}

struct Worker<S> {
    table: Table,
    sink: S,
    publish: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    watch: Option<Arc<Watch>>,
    /// All is to be written anew.
    rewrite: Arc<AtomicBool>,
    unserved: Unserved,
    departed: Departed,
    /// What is in the table and not in force.
    waiting: Tally,
    state: State,
    /// What fails at present, by task.
    troubles: [Trouble; Task::ALL.len()],
    looked: Instant,
    looks: u32,
    repair_said: Option<Instant>,
    /// Packets are being lost for want of room in the table of flows.
    losing: bool,
    revision: u64,
    weighing: Weighing,
    burst: Burst,
}

impl<S: RuleSink> Worker<S> {
    /// Before the first update. `observed`: flows are looked at for Services that ask for it.
    fn new(table: Table, sink: S, watch: Option<Arc<Watch>>, observed: bool) -> Self {
        Self {
            table,
            sink,
            publish: watch::Sender::new(0),
            metrics: Arc::default(),
            watch,
            rewrite: Arc::default(),
            unserved: Unserved::default(),
            departed: Departed::default(),
            waiting: Tally::default(),
            state: State::Waiting,
            troubles: Default::default(),
            looked: Instant::now(),
            looks: 0,
            repair_said: None,
            losing: false,
            revision: 0,
            weighing: Weighing::new(observed),
            burst: Burst::default(),
        }
    }

    /// How long to wait for updates before something else is to be done.
    fn patience(&self, now: Instant) -> Duration {
        let look = LOOK.saturating_sub(now.saturating_duration_since(self.looked));
        match self.state {
            State::Unknown => look.min(self.troubles[Task::Rules as usize].patience(now)),
            _ => look,
        }
    }

    /// Takes updates into the table: of each Service, the last state alone.
    /// Changes come in batches, in each of which a frontend stands once.
    fn take(&mut self, updates: impl Iterator<Item = Update>) -> [Vec<Change>; 2] {
        let mut changed: BTreeMap<NamespacedName, Option<Arc<Entry>>> = BTreeMap::new();
        let mut node = None;
        for update in updates {
            self.revision = update.revision;
            changed.extend(update.services);
            node = update.node.or(node);
        }
        let mut counted = Tally::default();
        for (name, entry) in &changed {
            let before = self.table.entry(name);
            if self.sink.ends_connections() {
                self.departed.note(before, entry.as_deref());
            }
            let one = tally(before, entry.as_deref());
            counted.services += one.services;
            counted.slices += one.slices;
            counted.triggered.extend(one.triggered);
        }
        self.metrics.queued(&counted);
        self.burst.note(changed.len());
        self.waiting.triggered.append(&mut counted.triggered);
        if self.state == State::Waiting {
            self.state = State::Unknown;
        }
        let mut of_node = Vec::new();
        if let Some(node) = node.filter(|n| n != self.table.node()) {
            // Where the node's rules depend on what changed, frontends alone are not enough.
            if !node.same_rules(self.table.node()) {
                self.state = State::Unknown;
            }
            self.weighing.set_node(&mut self.table, &node);
            of_node = self.table.set_node(node);
        }
        self.weighing.update(&mut self.table, &changed, &self.metrics);
        let of_services = self.table.update(changed.iter().map(|(name, entry)| (name, entry.as_deref())));
        self.unserved.note(&of_node);
        self.unserved.note(&of_services);
        [of_node, of_services]
    }

    /// Has shares follow a look, or the time; gives back connections to be moved.
    fn shift(&mut self, look: Option<&Look>) -> Vec<Flow> {
        let (changes, moves) = self.weighing.shift(&mut self.table, look);
        self.unserved.note(&changes);
        // Otherwise they go in with everything.
        if self.state == State::Whole && !changes.is_empty() {
            self.advance(&[changes, Vec::new()], Instant::now());
        }
        // What is counted is in force.
        self.weighing.tell(&self.metrics);
        moves
    }

    /// Whether IPv4 and IPv6 have a part in a round: with everything, those that have rules.
    fn families(&self, changes: &[Vec<Change>; 2]) -> [bool; 2] {
        [false, true].map(|ipv6| match self.state {
            State::Whole => changes.iter().flatten().any(|c| c.key().address.is_ipv6() == ipv6),
            // IPv4's table always stands.
            _ => !ipv6 || self.table.frontends().keys().next_back().is_some_and(|k| k.address.is_ipv6()),
        })
    }

    /// Does what is due: carries out what updates changed, tries again what failed, looks around.
    fn turn(&mut self, changes: Option<&[Vec<Change>; 2]>, now: Instant) {
        if self.state == State::Whole && self.rewrite.swap(false, Ordering::Acquire) {
            self.state = State::Unknown;
        }
        match (self.state, changes) {
            (State::Waiting, _) => return,
            (State::Whole, Some(changes)) => {
                // Who changes nothing has time to look: what is said to be in force should be.
                if changes.iter().all(Vec::is_empty) {
                    self.look_at_rules();
                }
                self.advance(changes, now);
            }
            (State::Whole, None) => {}
            // What comes before the next try is due is in the table, and goes in with it.
            (State::Unknown, _) if self.troubles[Task::Rules as usize].patience(now).is_zero() => {
                self.advance(&NOTHING, now);
            }
            (State::Unknown, _) => {}
        }
        // However many changes come, the rest has its turn.
        if now.saturating_duration_since(self.looked) >= LOOK {
            self.looked = now;
            self.look();
        }
    }

    /// Whether rules are as they were left.
    fn look_at_rules(&mut self) {
        match self.sink.intact() {
            Ok(true) => {}
            Ok(false) => {
                let heard = self.watch.as_ref().is_some_and(|watch| watch.discard());
                self.repair(heard);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Once in a while: whether rules are as they were left, and what becomes of flows.
    fn look(&mut self) {
        if self.state == State::Waiting {
            return;
        }
        self.looks = self.looks.wrapping_add(1);
        if self.state == State::Whole && self.looks.is_multiple_of(LOOKS_AT_RULES) {
            self.look_at_rules();
        }
        self.try_lacking(Instant::now());
        if self.burst.is_over() {
            memory::give_back_heap();
        }
        // All slices are looked through for who left, which is for here rather than for each change.
        let left = self.departed.take(&self.table);
        if !left.is_empty()
            && let Err(error) = self.sink.left(&left)
        {
            self.troubled(Task::StaleFlows, &error);
        }
        self.forget_flows([true; 2]);
        match self.sink.flow_table() {
            Ok(now) => self.weigh(now, Instant::now()),
            Err(error) => self.troubled(Task::FlowTable, &error),
        }
    }

    /// What the kernel lacks for one family may come, with a module; until then it is said.
    fn try_lacking(&mut self, now: Instant) {
        let tries = self.troubles[Task::Family as usize].patience(now).is_zero();
        if self.state != State::Whole || !tries {
            return;
        }
        if self.sink.lacking().is_some()
            && let Err(error) = self.sink.try_lacking()
        {
            return self.failed(&error);
        }
        match self.sink.lacking() {
            None => self.recovered(Task::Family),
            Some(what) => {
                self.troubled(Task::Family, &what);
                self.troubles[Task::Family as usize].wait(now);
            }
        }
    }

    /// Writes all anew because somebody else changed the rules.
    fn repair(&mut self, at_once: bool) {
        if self.state == State::Waiting {
            return;
        }
        let now = Instant::now();
        if self.repair_said.is_none_or(|said| now.saturating_duration_since(said) >= REPAIRS_SAID) {
            tracing::warn!("somebody else changed the service rules; writing them anew");
            self.repair_said = Some(now);
        }
        self.metrics.repaired(at_once);
        self.state = State::Unknown;
        self.advance(&NOTHING, now);
    }

    /// Carries changes out. What fails is tried once more at once, with everything written anew: the kernel had, or
    /// had not, what it was thought to have (EEXIST, ENOENT), or its answers were lost (ENOBUFS).
    fn advance(&mut self, changes: &[Vec<Change>; 2], now: Instant) {
        let incremental = self.state == State::Whole;
        let mut outcome = self.step(changes);
        if let (Err(error), true) = (&outcome, incremental) {
            self.failed(error);
            outcome = self.step(&NOTHING);
        }
        match outcome {
            Ok(()) => self.recovered(Task::Rules),
            Err(error) => {
                self.failed(&error);
                self.troubles[Task::Rules as usize].wait(now);
            }
        }
    }

    /// Rules were not written, or may not be what they should be.
    fn failed(&mut self, error: &S::Error) {
        self.state = State::Unknown;
        self.metrics.rules(self.sink.rule_counts());
        self.metrics.failed(self.families(&NOTHING));
        self.troubled(Task::Rules, error);
    }

    /// Counts a failure, and says it unless it was said since the last success.
    fn troubled(&mut self, task: Task, error: &dyn std::fmt::Display) {
        self.metrics.troubled(task);
        let text = error.to_string();
        if self.troubles[task as usize].is_new(&text) {
            tracing::warn!(task = task.label(), error = text, "{}; trying again", task.consequence());
        }
    }

    fn recovered(&mut self, task: Task) {
        if self.troubles[task as usize].over() {
            tracing::info!(task = task.label(), revision = self.revision, "it works again");
        }
    }

    /// Forgets flows to backends that are gone. Where that fails rules are in force all the same.
    fn forget_flows(&mut self, families: [bool; 2]) {
        let done = self.sink.forget_flows();
        self.metrics.flows(self.sink.flows());
        match done {
            Ok(()) => self.recovered(Task::StaleFlows),
            Err(error) => {
                self.metrics.not_cleaned(families);
                self.troubled(Task::StaleFlows, &error);
            }
        }
    }

    fn step(&mut self, changes: &[Vec<Change>; 2]) -> Result<(), S::Error> {
        let begun = Instant::now();
        let full = self.state != State::Whole;
        let idle = changes.iter().all(Vec::is_empty);
        let families = self.families(changes);
        if full {
            self.unheard(true, |worker| {
                if let Some(watch) = &worker.watch {
                    watch.discard();
                }
                worker.sink.replace(worker.table.node(), worker.table.frontends())
            })?;
            self.state = State::Whole;
        } else {
            for batch in changes.iter().filter(|batch| !batch.is_empty()) {
                self.unheard(elements(batch) > LOUD, |worker| worker.sink.apply(batch))?;
            }
        }
        if full || !idle {
            self.metrics.rules(self.sink.rule_counts());
            self.metrics.synced(&Synced {
                took: begun.elapsed(),
                full,
                families,
                frontends: self.table.frontends().len(),
                unserved: self.unserved.counts(),
            });
        }
        self.metrics.up_to_date(self.revision, &std::mem::take(&mut self.waiting.triggered));
        self.publish.send_if_modified(|r| std::mem::replace(r, self.revision) != self.revision);
        let settled = self.sink.settle();
        if settled.is_err() {
            self.metrics.not_cleaned(families);
        }
        self.forget_flows(families);
        settled
    }

    /// Writes, where `quietly` without anybody listening; what others did meanwhile is looked for behind it.
    fn unheard(
        &mut self,
        quietly: bool,
        write: impl FnOnce(&mut Self) -> Result<(), S::Error>,
    ) -> Result<(), S::Error> {
        let Some(watch) = self.watch.clone().filter(|_| quietly) else { return write(self) };
        // Where the watch fails, the look once in a while is what is left.
        let left = watch.listen(false);
        let written = write(self);
        if let Err(error) = left.and(watch.listen(true)) {
            self.troubled(Task::Notifications, &error);
        }
        written?;
        if !self.sink.intact()? {
            self.metrics.repaired(false);
            self.sink.replace(self.table.node(), self.table.frontends())?;
        }
        Ok(())
    }

    /// Makes room in a table of flows that is full. Says once that packets are lost, and once that they no longer are.
    fn weigh(&mut self, now: Option<FlowTable>, at: Instant) {
        let before = self.metrics.flow_table(now);
        let (Some(before), Some(now)) = (before, now) else { return };
        let losing = now.dropped > before.dropped;
        let full = losing || now.limit > 0 && now.entries >= now.limit;
        let trouble = &mut self.troubles[Task::FlowTable as usize];
        let mut ended = 0;
        if full && trouble.patience(at).is_zero() {
            match self.sink.make_room() {
                Ok(count) => ended = count,
                Err(error) => self.troubled(Task::FlowTable, &error),
            }
            self.metrics.made_room(ended);
            // Where all that is there lives, it is looked through ever more seldom.
            if ended == 0 {
                self.troubles[Task::FlowTable as usize].wait(at);
            }
        }
        if !full {
            self.recovered(Task::FlowTable);
        }
        match (self.losing, losing) {
            (false, true) => tracing::warn!(
                flows = now.entries,
                limit = now.limit,
                ended,
                "the kernel's table of flows is full and new connections were lost; ended ones are forgotten early. \
                 Raise conntrack.maxPerCore (net.netfilter.nf_conntrack_max)"
            ),
            (true, false) => {
                tracing::info!(flows = now.entries, "the kernel's table of flows has room again")
            }
            _ => {}
        }
        self.losing = losing;
    }
}

/// About how many elements changes write.
fn elements(changes: &[Change]) -> usize {
    let of = |f: Option<&Arc<Frontend>>| f.map_or(0, |f| 1 + f.flows_to().count());
    changes.iter().map(|c| of(c.before()) + of(c.after())).sum()
}

#[cfg(test)]
mod tests;
