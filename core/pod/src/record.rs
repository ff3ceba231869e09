//! What is known of a container: what the agent learned from the host, and what the API remembered over a restart
//! of the program.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::backoff::BackOff;

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container with `restartPolicy: Always` (KEP-753): starts in its turn and stays.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Exit status.
    pub code: i32,
    /// The signal, 0 where none.
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// `sealane://…`
    pub id: String,
}

/// What a container does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running; why.
    Waiting {
        /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`, …
        reason: String,
        /// For people.
        message: String,
    },
    /// Running.
    Running {
        /// Since.
        since: Timestamp,
    },
    /// Ended, and not, or not yet, started again.
    Ended(Ended),
}

/// One container of a Pod.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// What it does.
    pub state: State,
    /// How its last incarnation ended.
    pub last: Option<Ended>,
    /// How often it has been started again.
    pub restarts: i32,
    /// `sealane://…` of the last incarnation, "" before the first.
    pub id: String,
    /// The image as the Pod names it.
    pub image: String,
    /// The image's digest, "" until it is known.
    pub image_id: String,
    /// Runs, and its startup probe and postStart hook passed.
    pub started: bool,
    /// Runs, started, and its readiness probe passes.
    pub ready: bool,
    /// The agent is about to start it (pulling, mounting).
    pub starting: bool,
    /// The agent is about to stop it.
    pub stopping: bool,
    /// Waits of its restarts.
    pub backoff: BackOff,
    /// A failed start (image, configuration) is tried again then.
    pub retry_at: Option<Timestamp>,
    /// It has been started at least once in this Pod's life.
    pub ran: bool,
}

impl Record {
    /// A container that has never run.
    pub fn new(container: &Container, role: Role, has_inits: bool) -> Self {
        let reason = if has_inits { "PodInitializing" } else { "ContainerCreating" };
        Record {
            name: container.name.clone(),
            role,
            state: State::Waiting { reason: reason.to_owned(), message: String::new() },
            last: None,
            restarts: 0,
            id: String::new(),
            image: container.image.clone().unwrap_or_default(),
            image_id: String::new(),
            started: false,
            ready: false,
            starting: false,
            stopping: false,
            backoff: BackOff::default(),
            retry_at: None,
            ran: false,
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// How it ended, where it has and is not started again.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(e) => Some(e),
            _ => None,
        }
    }

    /// Notes that the process ended.
    pub fn end(&mut self, ended: Ended) {
        self.state = State::Ended(ended);
        self.started = false;
        self.ready = false;
        self.starting = false;
        self.stopping = false;
    }

    /// Notes that an incarnation starts to run.
    pub fn run(&mut self, now: Timestamp, id: String, image_id: String) {
        if let State::Ended(e) = &self.state {
            self.last = Some(e.clone());
        }
        self.state = State::Running { since: now };
        self.id = id;
        self.image_id = image_id;
        self.starting = false;
        self.retry_at = None;
        self.ran = true;
    }

    /// Waits for `reason`; an end that was shown moves to `last`.
    pub fn wait(&mut self, reason: &str, message: String) {
        if let State::Ended(e) = &self.state {
            self.last = Some(e.clone());
        }
        self.state = State::Waiting { reason: reason.to_owned(), message };
    }
}

/// The containers of a Pod that has never run here, init containers first.
pub fn records(pod: &Pod) -> Vec<Record> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let has_inits = !inits.is_empty();
    let init = inits.iter().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        Record::new(c, if sidecar { Role::Sidecar } else { Role::Init }, has_inits)
    });
    init.chain(spec.containers.iter().map(|c| Record::new(c, Role::Main, has_inits))).collect()
}

/// The containers of a Pod that the API remembers: their processes died with the program's former run. What had
/// ended stays ended; what ran counts as ended by a signal, for `plan` to start again.
pub fn adopt(pod: &Pod, now: Timestamp) -> Vec<Record> {
    let mut out = records(pod);
    let Some(status) = &pod.status else { return out };
    let known: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .collect();
    for record in &mut out {
        let Some(old) = known.iter().find(|s| s.name == record.name) else { continue };
        record.restarts = old.restart_count;
        record.id = old.container_id.clone().unwrap_or_default();
        record.image_id = old.image_id.clone();
        record.last = old.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(ended);
        record.ran = !record.id.is_empty();
        let Some(state) = &old.state else { continue };
        match (&state.terminated, &state.running) {
            (Some(t), _) => record.state = State::Ended(ended(t)),
            (None, Some(running)) => {
                record.state = State::Ended(Ended {
                    code: 137,
                    signal: 9,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "The node's program ended, and the container with it".to_owned(),
                    started: running.started_at.as_ref().map(|t| t.0),
                    finished: Some(now),
                    id: record.id.clone(),
                });
            }
            // It was waiting to be started again: how it ended decides what comes next.
            _ => {
                if let Some(last) = record.last.take().filter(|_| record.ran) {
                    record.state = State::Ended(last);
                }
            }
        }
    }
    // With the sandbox gone, init containers run again before what needs them does (`computePodActions`), but only
    // where something is left to run.
    let inits_again = out.iter().any(|r| r.role == Role::Main && r.ended().is_some_and(was_lost));
    if inits_again {
        for record in out.iter_mut().filter(|r| r.role == Role::Init && r.ended().is_some()) {
            record.wait("PodInitializing", String::new());
        }
    }
    out
}

/// Whether the node's program, not the container, ended.
pub(crate) fn was_lost(e: &Ended) -> bool {
    e.reason == "ContainerStatusUnknown"
}

fn ended(t: &ContainerStateTerminated) -> Ended {
    Ended {
        code: t.exit_code,
        signal: t.signal.unwrap_or(0),
        reason: t.reason.clone().unwrap_or_default(),
        message: t.message.clone().unwrap_or_default(),
        started: t.started_at.as_ref().map(|t| t.0),
        finished: t.finished_at.as_ref().map(|t| t.0),
        id: t.container_id.clone().unwrap_or_default(),
    }
}

fn text(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}

/// As the API shows an end.
pub fn terminated(e: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: text(&e.id),
        exit_code: e.code,
        finished_at: e.finished.map(Time),
        message: text(&e.message),
        reason: text(&e.reason),
        signal: (e.signal != 0).then_some(e.signal),
        started_at: e.started.map(Time),
    }
}

/// As the API shows a state.
pub fn container_state(state: &State) -> ContainerState {
    use k8s_openapi::api::core::v1::{ContainerStateRunning, ContainerStateWaiting};
    match state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
            ..ContainerState::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..ContainerState::default()
        },
        State::Ended(e) => ContainerState { terminated: Some(terminated(e)), ..ContainerState::default() },
    }
}
