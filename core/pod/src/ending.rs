//! The order in which a Pod ends: its endpoints leave first, then its processes, its network last.
//!
//! Kubernetes ends both sides of a rollout at once: kubelet sends TERM while EndpointSlices and proxies still lead to
//! the Pod (`pkg/kubelet/pod_workers.go` waits for nobody), which is why people put `sleep` into preStop hooks. Here a
//! deleted Pod's processes hear of it when no proxy begins connections to it any more, and its network stays until
//! nothing leads there at all. Both waits are bounded: who cannot be told does not keep a Pod alive.

use jiff::{SignedDuration, Timestamp};

use crate::record::{Record, Role};

/// The longest that processes, and after them the network, are held for rules to follow.
pub const LEAVE: SignedDuration = SignedDuration::from_secs(1);
/// A connection that began under the rules before has so long for its handshake and its first request.
pub const SETTLE: SignedDuration = SignedDuration::from_millis(50);

/// As what a Pod's endpoints stand in the rules that are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// None of them, or none that serves: no connection begins there.
    Removed,
    /// Terminating: connections begin there where a Service has nobody else (KEP-1669).
    Terminating,
    /// Ready, or not known to be terminating.
    Ready,
}

/// Why a Pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was deleted: its object is removed at the end.
    Deleted,
    /// Its object is gone already (deleted by force, or while nobody looked).
    Gone,
    /// The node stops: the object stays.
    Shutdown,
    /// The node ends it (activeDeadlineSeconds): the object shows why.
    Failed,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before then, unless something changes.
    Wait(Timestamp),
    /// End these containers, by their place in the records; told once is enough.
    Stop(Vec<usize>),
    /// They have ended, which the API is to hear; nothing else before then, unless something changes.
    Report(Timestamp),
    /// Remove namespaces and network, and then the object.
    TearDown,
}

/// A Pod on its way out.
#[derive(Clone, Debug)]
pub struct Ending {
    why: Why,
    deadline: Timestamp,
    leave_by: Timestamp,
    exposure: Option<Exposure>,
    /// No new connections since.
    left: Option<Timestamp>,
    /// Processes have been told: there is no way back.
    told: bool,
    /// No processes since.
    ended: Option<Timestamp>,
}

impl Ending {
    /// A Pod that ends from `now` on, within `grace`.
    pub fn new(why: Why, grace: SignedDuration, now: Timestamp) -> Self {
        let (deadline, leave_by) = bounds(grace, now);
        Ending { why, deadline, leave_by, exposure: None, left: None, told: false, ended: None }
    }

    /// A later word: it may shorten the time, never lengthen it, but for the node's own ending (activeDeadlineSeconds),
    /// which is another thing than what somebody asks for.
    pub fn again(&mut self, why: Why, grace: SignedDuration, now: Timestamp) {
        let (deadline, leave_by) = bounds(grace, now);
        if self.why == Why::Failed || deadline < self.deadline {
            self.deadline = deadline;
        }
        self.leave_by = self.leave_by.min(leave_by);
        self.why = why;
    }

    /// Why it ends.
    pub fn why(&self) -> Why {
        self.why
    }

    /// When processes are killed that have not ended.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// The rules in force have the Pod as this now.
    pub fn exposed(&mut self, exposure: Exposure, now: Timestamp) {
        if exposure == Exposure::Terminating {
            self.left.get_or_insert(now);
        }
        self.exposure = Some(exposure);
    }

    /// Until when processes that run are left to serve.
    fn serves_until(&self) -> Option<Timestamp> {
        let settled = match (self.why, self.exposure) {
            (Why::Deleted, None | Some(Exposure::Ready)) => self.leave_by,
            (Why::Deleted, Some(_)) => self.left?.checked_add(SETTLE).ok()?,
            // Nobody waits for a Pod without an object, and the node's own reasons are urgent.
            (Why::Gone | Why::Shutdown | Why::Failed, _) => return None,
        };
        Some(settled.min(self.leave_by))
    }

    /// What to do next; `network`: the Pod's network stands.
    pub fn step(&mut self, records: &[Record], network: bool, now: Timestamp) -> Step {
        let running = |main: bool| {
            let of = records.iter().enumerate().filter(move |(_, r)| (r.role == Role::Main) == main);
            of.filter(|(_, r)| r.is_running()).map(|(at, _)| at)
        };
        // Containers at once, then sidecars in reverse order (KEP-753).
        let mut stopping: Vec<usize> = running(true).collect();
        if stopping.is_empty() {
            stopping.extend(running(false).next_back());
        }
        if !stopping.is_empty() {
            if let Some(until) = self.serves_until().filter(|until| now < *until && !self.told) {
                return Step::Wait(until);
            }
            self.told = true;
            return Step::Stop(stopping);
        }
        let lingers = matches!(self.why, Why::Deleted | Why::Gone) && network;
        if lingers && self.exposure != Some(Exposure::Removed) {
            let ended = *self.ended.get_or_insert(now);
            let until = ended.checked_add(LEAVE).unwrap_or(ended);
            if now < until {
                return Step::Report(until);
            }
        }
        Step::TearDown
    }
}

/// When processes are killed, and until when they are left alone: at most half of the grace period, which counts from
/// the deletion.
fn bounds(grace: SignedDuration, now: Timestamp) -> (Timestamp, Timestamp) {
    let after = |d: SignedDuration| now.checked_add(d).unwrap_or(Timestamp::MAX);
    (after(grace), after((grace / 2).min(LEAVE)))
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
