//! The thread that keeps a sink in step with the table.

use crate::Metrics;
use crate::metrics::Synced;
use sealane_catalog::{Entry, NamespacedName};
use sealane_proxy::{Change, NodeContext, RuleSink, Table, Tally, Unserved, tally};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often it is looked whether others removed the rules.
const LOOK: Duration = Duration::from_secs(1);
/// How long a failed round waits at most for its next try; it begins with a hundredth of that.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

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
    thread: JoinHandle<()>,
}

impl Proxy {
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
    let (publish, applied) = watch::channel(0);
    let metrics = Arc::new(Metrics::default());
    let mut worker = Worker {
        table,
        sink,
        publish,
        metrics: metrics.clone(),
        unserved: Unserved::default(),
        waiting: Tally::default(),
        whole: false,
        revision: 0,
    };
    let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || worker.run(&updates))?;
    Ok(Proxy { applied, metrics, thread })
}

struct Worker<S> {
    table: Table,
    sink: S,
    publish: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    unserved: Unserved,
    /// What is in the table and not in force.
    waiting: Tally,
    /// What the sink has is what the table says.
    whole: bool,
    revision: u64,
}

impl<S: RuleSink> Worker<S> {
    fn run(&mut self, updates: &Receiver<Update>) {
        let mut started = false;
        let mut retry = LONGEST_RETRY / 100;
        loop {
            let wait = if started && !self.whole { retry } else { LOOK };
            let changes = match updates.recv_timeout(wait) {
                Ok(first) => {
                    started = true;
                    self.take(std::iter::once(first).chain(updates.try_iter()))
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if !started => continue,
                Err(RecvTimeoutError::Timeout) => [Vec::new(), Vec::new()],
            };
            match self.step(&changes) {
                Ok(()) => retry = LONGEST_RETRY / 100,
                Err(error) => {
                    self.whole = false;
                    self.metrics.failed(self.families(&changes));
                    tracing::warn!(%error, ?retry, "service rules were not written; all will be written anew");
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
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
            let one = tally(self.table.entry(name), entry.as_deref());
            counted.services += one.services;
            counted.slices += one.slices;
            counted.triggered.extend(one.triggered);
        }
        self.metrics.queued(&counted);
        self.waiting.triggered.append(&mut counted.triggered);
        let mut of_node = Vec::new();
        if let Some(node) = node.filter(|n| n != self.table.node()) {
            // Where the node's rules depend on what changed, frontends alone are not enough.
            self.whole &= node.same_rules(self.table.node());
            of_node = self.table.set_node(node);
        }
        let of_services = self.table.update(changed.iter().map(|(name, entry)| (name, entry.as_deref())));
        self.unserved.note(&of_node);
        self.unserved.note(&of_services);
        [of_node, of_services]
    }

    /// Whether IPv4 and IPv6 have a part in a round: with everything, those that have rules.
    fn families(&self, changes: &[Vec<Change>; 2]) -> [bool; 2] {
        [false, true].map(|ipv6| match self.whole {
            true => changes.iter().flatten().any(|c| c.key().address.is_ipv6() == ipv6),
            // IPv4's table always stands.
            false => !ipv6 || self.table.frontends().keys().next_back().is_some_and(|k| k.address.is_ipv6()),
        })
    }

    fn step(&mut self, changes: &[Vec<Change>; 2]) -> Result<(), S::Error> {
        let idle = changes.iter().all(Vec::is_empty);
        if self.whole && idle && !self.sink.intact()? {
            tracing::warn!("somebody removed the service rules; writing them anew");
            self.whole = false;
        }
        let begun = Instant::now();
        let full = !self.whole;
        let families = self.families(changes);
        if full {
            self.sink.replace(self.table.node(), self.table.frontends())?;
            self.whole = true;
        } else {
            for batch in changes.iter().filter(|batch| !batch.is_empty()) {
                self.sink.apply(batch)?;
            }
        }
        if full || !idle {
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
        self.metrics.flows(self.sink.flows());
        if settled.is_err() {
            self.metrics.not_cleaned(families);
        }
        settled
    }
}
