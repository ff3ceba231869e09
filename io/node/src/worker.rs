//! One Pod's worker: takes what happens, asks `sealane_pod` what to do, does it, and reports the status.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use sealane_host::runtime::{Exit, HostError, Runtime, SandboxSpec};
use sealane_pod::backoff::{self, BackOff};
use sealane_pod::ending::{Ending, Exposure, Step, Why};
use sealane_pod::files;
use sealane_pod::plan::{self, Action};
use sealane_pod::probe::{self, Kind, Outcome};
use sealane_pod::record::{self, Ended, Record, Role, State};
use sealane_pod::status::{Sandbox, pod_status};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::context::Context;
use crate::events::Level;
use crate::images::Images;
use crate::logs;
use crate::prober::{self, Target};
use crate::shared::{Shared, Slot};
use crate::start::{self, Failure, Request, Running};
use crate::stop::{MINIMUM, Stop, stop};
use crate::volumes::{Maker, Volumes};

mod report;
mod run;

use report::Reporter;

/// A starting Pod's status waits so long for its containers, so that a Pod that starts at once costs one write.
const HOLD: Duration = Duration::from_millis(40);
/// After the first failure to make a sandbox or volumes; doubles up to [`MAX_RETRY`].
const RETRY: SignedDuration = SignedDuration::from_millis(500);
const MAX_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// ErrImagePull is shown so long before it is ImagePullBackOff.
const SHOW_ERROR: SignedDuration = SignedDuration::from_secs(2);

/// What happens to a Pod.
pub(crate) enum Message {
    /// The API has a newer version.
    Update(Arc<Pod>),
    /// The API has it no more.
    Gone,
    /// Stop by then and leave the object alone.
    Shutdown(Instant),
    /// Namespaces and volumes are made, or why not.
    Prepared { sandbox: Result<(), String>, volumes: Result<Volumes, String> },
    /// Volumes show objects that changed, or a token is due.
    Refresh,
    /// They have been written again.
    Refreshed(Result<Volumes, String>),
    /// A container has started, or why not.
    Started { at: usize, result: Result<Box<Running>, Failure> },
    /// Its postStart hook ended.
    Hooked { at: usize, attempt: u32, result: Result<(), String> },
    /// It ended.
    Exited { at: usize, attempt: u32, exit: Exit, message: String },
    /// A probe's verdict changed.
    Probed { at: usize, attempt: u32, kind: Kind, verdict: Outcome },
    /// As what the service rules have the Pod that ends.
    Exposed(Exposure),
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A container that runs.
struct Live {
    attempt: u32,
    target: Target,
    done: watch::Sender<Option<i32>>,
    /// When the startup probe passed.
    passed: watch::Sender<Option<Timestamp>>,
    probes: HashMap<Kind, Task>,
    hooked: bool,
    readiness: bool,
    started: Timestamp,
}

pub(crate) struct Worker<R, I> {
    ctx: Arc<Context<R, I>>,
    pod: Arc<Pod>,
    shared: Shared,
    inbox: mpsc::UnboundedSender<Message>,
    records: Vec<Record>,
    live: HashMap<usize, Live>,
    starts: HashMap<usize, Task>,
    image_backoff: HashMap<usize, BackOff>,
    attempts: u32,
    address: Option<Ipv4Addr>,
    sandbox: Sandbox,
    sandbox_made: bool,
    volumes: Option<Arc<Volumes>>,
    volumes_watch: Option<Task>,
    preparing: Option<Task>,
    refreshing: Option<Task>,
    prepare_at: Option<Timestamp>,
    prepare_delay: SignedDuration,
    ending: Option<Ending>,
    /// Follows the Pod's endpoints out of the service rules.
    leaving: Option<Task>,
    deadline: watch::Sender<Instant>,
    finished: bool,
    over: bool,
    hold: Instant,
    wake: Option<Timestamp>,
    status: Option<PodStatus>,
    reporter: Option<Reporter>,
}

impl<R: Runtime, I: Images> Worker<R, I> {
    pub(crate) fn new(
        ctx: Arc<Context<R, I>>,
        pod: Arc<Pod>,
        shared: Shared,
        inbox: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let now = Timestamp::now();
        let records = record::adopt(&pod, now);
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        let finished = phase == "Succeeded" || phase == "Failed";
        let reporter = Reporter::start(ctx.client.clone(), &pod);
        let host = ctx.config.node_address.to_string();
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
        let worker = Worker {
            sandbox: Sandbox { host, started: Some(started), ..Sandbox::default() },
            deadline: watch::Sender::new(Instant::now()),
            hold: Instant::now() + HOLD,
            prepare_delay: RETRY,
            reporter: Some(reporter),
            status: None,
            live: HashMap::new(),
            starts: HashMap::new(),
            image_backoff: HashMap::new(),
            attempts: 0,
            address: None,
            sandbox_made: false,
            volumes: None,
            volumes_watch: None,
            preparing: None,
            refreshing: None,
            prepare_at: None,
            ending: None,
            leaving: None,
            over: false,
            wake: None,
            ctx,
            pod,
            shared,
            inbox,
            records,
            finished,
        };
        worker.find_old_logs();
        worker
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `DATA/pods/NAMESPACE_NAME_UID`
    fn folder(&self) -> PathBuf {
        let m = &self.pod.metadata;
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let name = format!("{}_{}_{}", text(&m.namespace), text(&m.name), text(&m.uid));
        self.ctx.config.data_dir.join("pods").join(name)
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
    }

    fn container(&self, at: usize) -> Container {
        plan::container(&self.pod, &self.records[at]).cloned().unwrap_or_default()
    }

    /// `spec.containers{web}`, for events.
    fn field(&self, at: usize) -> String {
        let record = &self.records[at];
        let list = if record.role == Role::Main { "containers" } else { "initContainers" };
        format!("spec.{list}{{{}}}", record.name)
    }

    fn event(&self, at: Option<usize>, level: Level, reason: &'static str, message: String) {
        self.ctx.events.pod(&self.pod, at.map(|i| self.field(i)), level, reason, message);
    }

    /// Logs of the program's former run stay readable.
    fn find_old_logs(&self) {
        let folder = self.folder();
        let mut shared = self.shared.lock();
        for record in &self.records {
            let file =
                |n: i32| Some(folder.join(&record.name).join(format!("{n}.log"))).filter(|p| p.exists());
            let slot =
                Slot { log: file(record.restarts), previous: file(record.restarts - 1), ..Slot::default() };
            shared.slots.insert(record.name.clone(), slot);
        }
    }

    pub(crate) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        self.note_ending();
        self.advance().await;
        while !self.over {
            let timer = self.timer();
            let sleep = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = sleep => {}
            }
            while let Ok(more) = messages.try_recv() {
                self.take(more);
            }
            self.advance().await;
        }
    }

    fn timer(&self) -> Option<Instant> {
        let now = Instant::now();
        let hold = (self.hold > now && self.status.is_none()).then_some(self.hold);
        let renew = self.volumes.as_ref().and_then(|v| v.renew_at).filter(|_| self.refreshing.is_none());
        [self.wake.map(instant), hold, renew.map(instant)].into_iter().flatten().min()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Update(pod) => self.updated(pod),
            Message::Gone if self.finished && self.live.is_empty() => self.end(Why::Gone, Duration::ZERO),
            Message::Gone => self.end(Why::Gone, Duration::from_secs(1)),
            Message::Shutdown(at) => {
                // No word of it to the API: the next run goes on from what it says now.
                self.reporter = None;
                let grace = at.saturating_duration_since(Instant::now());
                self.end(Why::Shutdown, grace.min(self.grace(None)));
            }
            Message::Prepared { sandbox, volumes } => self.prepared(sandbox, volumes),
            Message::Refresh => self.refresh(),
            Message::Refreshed(result) => {
                self.refreshing = None;
                match result {
                    Ok(volumes) => self.set_volumes(volumes),
                    Err(error) => {
                        self.event(None, Level::Warning, "FailedMount", error);
                        self.volumes_retry();
                    }
                }
            }
            Message::Started { at, result } => self.started(at, result),
            Message::Hooked { at, attempt, result } => self.hooked(at, attempt, result),
            Message::Exited { at, attempt, exit, message } => self.exited(at, attempt, exit, message),
            Message::Probed { at, attempt, kind, verdict } => self.probed(at, attempt, kind, verdict),
            Message::Exposed(exposure) => {
                self.ending.iter_mut().for_each(|e| e.exposed(exposure, Timestamp::now()));
            }
        }
    }

    fn updated(&mut self, pod: Arc<Pod>) {
        let meta = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        let shown = meta(&self.pod) != meta(&pod);
        self.pod = pod.clone();
        self.shared.lock().pod = pod;
        self.note_ending();
        if shown && self.volumes.is_some() && self.ending.is_none() {
            self.refresh();
        }
    }

    /// The Pod's grace period; `own` is a probe's.
    fn grace(&self, own: Option<i64>) -> Duration {
        let spec = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let meta = self.pod.metadata.deletion_grace_period_seconds;
        let seconds = meta.or(own).or(spec).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
    }

    fn note_ending(&mut self) {
        let gone = self.ending.as_ref().is_some_and(|e| e.why() == Why::Gone);
        if self.pod.metadata.deletion_timestamp.is_some() && !gone {
            self.end(Why::Deleted, self.grace(None));
        }
    }

    fn end(&mut self, why: Why, grace: Duration) {
        let (now, grace) = (Timestamp::now(), SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX));
        let before = self.ending.as_ref().map(Ending::deadline);
        let ending = self.ending.get_or_insert_with(|| Ending::new(why, grace, now));
        if before.is_some() {
            ending.again(why, grace, now);
        }
        if before != Some(ending.deadline()) {
            self.deadline.send_replace(instant(ending.deadline()));
        }
        if before.is_none() {
            self.preparing = None;
            self.starts.clear();
            self.records.iter_mut().for_each(|r| r.starting = false);
        }
        if self.leaving.is_none() && matches!(why, Why::Deleted | Why::Gone) {
            self.follow_endpoints();
        }
    }

    async fn advance(&mut self) {
        self.wake = None;
        let now = Timestamp::now();
        self.check_deadline(now);
        if self.ending.is_some() {
            self.advance_ending(now).await;
        } else if !self.finished {
            self.advance_running(now).await;
        }
        if !self.over {
            self.publish(now);
        }
    }

    /// `activeDeadlineSeconds` (`pkg/kubelet/active_deadline.go`).
    fn check_deadline(&mut self, now: Timestamp) {
        let seconds = self.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
        let (Some(seconds), Some(started), None, false) =
            (seconds, self.sandbox.started, &self.ending, self.finished)
        else {
            return;
        };
        let Ok(at) = started.checked_add(SignedDuration::from_secs(seconds)) else { return };
        if at > now {
            return self.wake_at(at);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.event(None, Level::Normal, "DeadlineExceeded", message.clone());
        self.sandbox.failed = Some(("DeadlineExceeded".to_owned(), message));
        self.end(Why::Failed, self.grace(None));
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    async fn advance_running(&mut self, now: Timestamp) {
        if self.renewal_due(now) {
            self.refresh();
        }
        if !self.sandbox_made || self.volumes.is_none() {
            if plan::finished(&self.pod, &self.records) {
                // What the former run left unfinished in the API has nothing left to run (restartPolicy Never).
                self.finish().await;
            } else if self.preparing.is_none() {
                match self.prepare_at.filter(|at| *at > now) {
                    Some(at) => self.wake_at(at),
                    None => self.prepare(),
                }
            }
            return;
        }
        self.show_pull_backoff(now);
        for action in plan::plan(&self.pod, &mut self.records, now) {
            match action {
                Action::Start(at) => self.start(at),
                Action::Stop(at) => self.stop(at, None),
                Action::Finish => self.finish().await,
                Action::Wake(at) => self.wake_at(at),
            }
        }
    }

    fn renewal_due(&self, now: Timestamp) -> bool {
        self.volumes.as_ref().and_then(|v| v.renew_at).is_some_and(|at| at <= now)
    }

    /// Nothing more will run: namespaces go, object, logs and status stay.
    async fn finish(&mut self) {
        self.finished = true;
        self.tear_down().await;
    }

    async fn tear_down(&mut self) {
        self.volumes_watch = None;
        self.volumes = None;
        self.preparing = None;
        self.refreshing = None;
        // A sandbox that was being made when the Pod ended may exist: removing is idempotent.
        match self.ctx.runtime.remove_sandbox(self.uid()).await {
            // Where the launcher is gone, so are they; that it went is told once, for all Pods.
            Ok(()) | Err(HostError::Lost) => {}
            Err(error) => tracing::warn!(%error, pod = self.uid(), "a Pod's namespaces are not removed"),
        }
        self.sandbox_made = false;
        self.sandbox.ready = false;
        self.ctx.addresses().release(self.uid());
    }

    async fn advance_ending(&mut self, now: Timestamp) {
        let Some(ending) = &mut self.ending else { return };
        let why = ending.why();
        match ending.step(&self.records, self.sandbox_made, now) {
            Step::Wait(until) => self.wake_at(until),
            Step::Stop(which) => {
                for at in which {
                    if !self.records[at].stopping {
                        self.stop(at, None);
                    }
                }
            }
            Step::Report(until) => {
                // A Pod that has ended for good is in no slice (`ShouldPodBeInEndpoints`).
                self.note_end();
                self.wake_at(until);
            }
            Step::TearDown => {
                self.tear_down().await;
                self.ended(why).await;
            }
        }
    }

    /// What the last status says.
    fn note_end(&mut self) {
        self.sandbox.terminal = true;
        self.sandbox.ready = false;
    }

    /// Nothing of it is left on the node.
    async fn ended(&mut self, why: Why) {
        match why {
            Why::Deleted => self.remove().await,
            Why::Gone => {
                self.reporter = None;
                self.forget();
            }
            Why::Failed => {
                self.ending = None;
                self.finished = true;
            }
            Why::Shutdown => self.over = true,
        }
    }

    /// Writes the last status, then removes the object, where it is still the same.
    async fn remove(&mut self) {
        self.note_end();
        self.publish(Timestamp::now());
        if let Some(reporter) = self.reporter.take() {
            reporter.finish().await;
        }
        report::delete(&self.ctx.client, &self.pod).await;
        self.forget();
    }

    fn forget(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.folder())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, folder = %self.folder().display(), "a Pod's files are not removed");
        }
        self.over = true;
    }

    /// Reports the status where it changed.
    fn publish(&mut self, now: Timestamp) {
        let early = self.status.is_none() && Instant::now() < self.hold;
        let busy = self.preparing.is_some() || self.records.iter().any(|r| r.starting);
        if early && busy && self.ending.is_none() {
            return;
        }
        {
            let mut shared = self.shared.lock();
            for record in &self.records {
                if let (State::Waiting { reason, .. }, Some(slot)) =
                    (&record.state, shared.slots.get_mut(&record.name))
                {
                    slot.waiting = reason.clone();
                }
            }
        }
        let Some(reporter) = &self.reporter else { return };
        let status = report::status(&self.pod, self.status.as_ref(), &self.records, &self.sandbox, now);
        // A finished Pod of a former run is as the API has it.
        let untouched = self.status.is_none() && self.finished && self.sandbox.failed.is_none();
        if untouched && self.pod.status.as_ref().is_some_and(|s| s.phase == status.phase) {
            return;
        }
        if self.status.as_ref() != Some(&status) {
            reporter.send(&self.pod, &status);
            self.status = Some(status);
        }
    }
}

/// A time of day as a time to sleep until.
fn instant(at: Timestamp) -> Instant {
    Instant::now() + Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}
