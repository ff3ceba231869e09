//! Runs the controllers against an API.

use std::collections::HashSet;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use sealane_catalog::read::Fields;
use sealane_controllers::{
    Action, Config, Controller, Doc, Event, Index, Note, Pools, Recorder, Row, Work, Write, plan,
    watched_kinds,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::execute::{Answer, Failure, execute};
use crate::feed::{Fed, feed};
use crate::queue::Queue;

/// Requests under way at most.
const REQUESTS: usize = 128;
/// Events that wait to be recorded at most; more are dropped, they are news and no state.
const NOTES: usize = 4096;
/// Messages of the watches taken in at one go, so that answers and plans come in between.
const BATCH: usize = 512;

/// What the controllers are told once.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// The CA that ConfigMap `kube-root-ca.crt` carries (PEM); empty: no such ConfigMaps.
    pub root_ca_pem: String,
    /// So long after its last sign of life a Node counts as unreachable, in seconds.
    pub node_grace_seconds: u32,
    /// What Services of type LoadBalancer get their addresses from; empty: they are somebody else's.
    pub load_balancers: Pools,
}

impl Default for ControllersConfig {
    fn default() -> Self {
        ControllersConfig {
            root_ca_pem: String::new(),
            node_grace_seconds: Config::default().node_grace_seconds,
            load_balancers: Pools::default(),
        }
    }
}

/// A plan's request came back.
struct Done {
    work: Work,
    write: Arc<Write>,
    note: Option<Note>,
    answer: Answer,
}

/// What is left of a plan under way.
struct Open {
    requests: usize,
    failed: bool,
    confirmed: bool,
    after: Option<Duration>,
}

struct Runner {
    index: Index,
    queue: Queue,
    open: std::collections::HashMap<Work, Open>,
    requests: JoinSet<Done>,
    permits: Arc<Semaphore>,
    notes: mpsc::Sender<(Controller, Note)>,
    client: Client,
    unlisted: HashSet<&'static str>,
    seeds: RandomState,
    drawn: u64,
}

/// Runs all controllers until `shutdown` returns. The first plan is made when the first list of every kind is in. A
/// change is planned as soon as it is seen; requests of different keys are under way at once.
pub async fn run_controllers(client: Client, config: ControllersConfig, shutdown: impl Future<Output = ()>) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Row, Fed)>();
    let mut tasks = JoinSet::new();
    let mut unlisted = HashSet::new();
    for row in watched_kinds() {
        unlisted.insert(row.plural);
        let sender = sender.clone();
        tasks.spawn(feed(client.clone(), row.0, Fields::all(), move |fed| sender.send((row, fed)).is_ok()));
    }
    let (notes, noted) = mpsc::channel(NOTES);
    tasks.spawn(record(client.clone(), noted));
    let index = Index::new(Config {
        root_ca: config.root_ca_pem,
        started: Timestamp::now(),
        node_grace_seconds: config.node_grace_seconds,
        load_balancers: config.load_balancers,
    });
    let mut runner = Runner {
        index,
        queue: Queue::default(),
        open: std::collections::HashMap::new(),
        requests: JoinSet::new(),
        permits: Arc::new(Semaphore::new(REQUESTS)),
        notes,
        client,
        unlisted,
        seeds: RandomState::new(),
        drawn: 0,
    };
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let due = runner.queue.due();
        tokio::select! {
            () = &mut shutdown => return,
            message = receiver.recv() => {
                let Some((row, fed)) = message else { return };
                runner.take_in(row, fed);
                for _ in 1..BATCH {
                    let Ok((row, fed)) = receiver.try_recv() else { break };
                    runner.take_in(row, fed);
                }
            }
            Some(done) = runner.requests.join_next() => runner.finished(done),
            () = wait(due) => {}
        }
        while let Some(done) = runner.requests.try_join_next() {
            runner.finished(done);
        }
        runner.queue.wake(Instant::now());
        if runner.unlisted.is_empty() {
            runner.plan_all();
        }
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Runner {
    fn learn(&mut self, event: Event) {
        for work in self.index.apply(event) {
            self.queue.add(work);
        }
    }

    fn take_in(&mut self, row: Row, fed: Fed) {
        let read = |value| match Doc::of(row, value) {
            Ok(doc) => Some(doc),
            Err(error) => {
                tracing::warn!(kind = row.plural, %error, "an object can't be read and is left out");
                None
            }
        };
        let event = match fed {
            Fed::ListBegins => Some(Event::ListBegins(row)),
            Fed::Listed(value) => read(value).map(Event::Listed),
            // A kind that is not served lists nothing at no revision.
            Fed::ListEnds(0) => Some(Event::ListEnds(row)),
            // What was written while the list was on its way is newer than it, and stays.
            Fed::ListEnds(revision) => Some(Event::ListEndsAt(row, revision)),
            Fed::Applied(value) => read(value).map(Event::Applied),
            Fed::Deleted(value) => read(value).map(Event::Deleted),
            Fed::Revision(_) | Fed::ListFails | Fed::Connected | Fed::Lost => None,
        };
        let ends = matches!(event, Some(Event::ListEnds(_) | Event::ListEndsAt(..)));
        if let Some(event) = event {
            self.learn(event);
        }
        if ends {
            self.unlisted.remove(row.plural);
        }
    }

    fn plan_all(&mut self) {
        while let Some(work) = self.queue.next() {
            self.drawn += 1;
            let mut hasher = self.seeds.build_hasher();
            hasher.write_u64(self.drawn);
            let plan = plan(work.controller, &self.index, &work.key, Timestamp::now(), hasher.finish());
            for note in plan.notes {
                self.note(work.controller, note);
            }
            if plan.actions.is_empty() {
                self.queue.done(work, false, plan.requeue_after, Instant::now());
                continue;
            }
            let open = Open {
                requests: plan.actions.len(),
                failed: false,
                confirmed: false,
                after: plan.requeue_after,
            };
            self.open.insert(work.clone(), open);
            for action in plan.actions {
                self.send(work.clone(), action);
            }
        }
    }

    fn send(&mut self, work: Work, action: Action) {
        self.index.dispatched(&action.write);
        let (client, permits) = (self.client.clone(), self.permits.clone());
        self.requests.spawn(async move {
            // The semaphore is never closed: without a permit there would be no bound, and that is all.
            let _permit = permits.acquire_owned().await.ok();
            let write = Arc::new(action.write);
            let answer = execute(&client, &write).await;
            Done { work, write, note: action.note, answer }
        });
    }

    fn note(&self, controller: Controller, note: Note) {
        if self.notes.try_send((controller, note)).is_err() {
            tracing::debug!("too many Events; one is dropped");
        }
    }

    fn finished(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let Done { work, write, note, answer } = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "a request's task ended early");
                return;
            }
        };
        if let Some(event) = answer.event {
            self.learn(event);
        }
        let failure = answer.result.err();
        match &failure {
            None => {
                if let Some(note) = note {
                    self.note(work.controller, note);
                }
            }
            Some(failure) => {
                self.index.failed(&write);
                let component = work.controller.component();
                let key = format!("{}/{}", work.key.namespace, work.key.name);
                match failure {
                    Failure::Conflict(why) => tracing::debug!(component, key, why, "planning again"),
                    Failure::Other(why) => {
                        tracing::warn!(component, key, why, "a write failed; trying again");
                        if let Some(note) = note
                            && let Some((reason, before)) = note.failure
                        {
                            self.note(
                                work.controller,
                                Note::warning(note.regarding, reason, format!("{before}{why}")),
                            );
                        }
                    }
                }
            }
        }
        let Some(open) = self.open.get_mut(&work) else { return };
        open.requests -= 1;
        open.failed |= failure.is_some();
        open.confirmed |= matches!(&*write, Write::Confirm { .. });
        if open.requests == 0
            && let Some(open) = self.open.remove(&work)
        {
            if open.confirmed && !open.failed {
                // What was asked for is known now.
                self.queue.add(work.clone());
            }
            self.queue.done(work, open.failed, open.after, Instant::now());
        }
    }
}

/// Records Events one after the other.
async fn record(client: Client, mut notes: mpsc::Receiver<(Controller, Note)>) {
    let mut recorder = Recorder::default();
    while let Some((controller, note)) = notes.recv().await {
        let write = recorder.record(controller, &note, Timestamp::now());
        if let Err(error) = execute(&client, &write).await.result {
            tracing::debug!(%error, "an Event could not be recorded");
        }
    }
}
