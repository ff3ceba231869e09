//! What a Deployment's status says (`pkg/controller/deployment/{progress,sync}.go`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealane_api::kinds::Subresource;

use crate::meta::{self, annotation};
use crate::plan::{Plan, row, update};
use crate::rollout::{REVISION, Sets, max_unavailable, wanted};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const DONE: &str = "NewReplicaSetAvailable";
const LATE: &str = "ProgressDeadlineExceeded";
/// `progressDeadlineSeconds` that stands for none.
const NO_DEADLINE: i32 = i32::MAX;

/// What becomes of a Deployment's status.
pub(crate) struct Progress {
    /// The new set's revision, which the Deployment carries too.
    pub(crate) revision: Option<String>,
    /// A hash that was taken is counted here.
    pub(crate) collisions: Option<i32>,
    /// Whether a rollout may go on: not while paused, scaled or deleted.
    pub(crate) is_rollout: bool,
    conditions: Vec<DeploymentCondition>,
    status: DeploymentStatus,
}

fn condition<'a>(all: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    all.iter().find(|c| c.type_ == kind)
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|s| *s != NO_DEADLINE)
}

fn made(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    let now = Some(Time(meta::seconds(now)));
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

/// Sets a condition; one with the same status and reason stays as it is (`SetDeploymentCondition`).
fn set(all: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = condition(all, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    all.retain(|c| c.type_ != new.type_);
    all.push(new);
}

fn some(count: i32) -> Option<i32> {
    Some(count).filter(|n| *n != 0)
}

impl Progress {
    pub(crate) fn of(deployment: &Deployment, sets: &Sets) -> Self {
        let held = deployment.status.clone().unwrap_or_default();
        let count = |f: &dyn Fn(&ReplicaSetStatus) -> i32| -> i32 {
            sets.all().map(|s| s.status.as_ref().map_or(0, f)).sum()
        };
        let total = count(&|s| s.replicas);
        let available = count(&|s| s.available_replicas.unwrap_or(0));
        let updated = sets.new.as_ref().and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas);
        let status = DeploymentStatus {
            observed_generation: deployment.metadata.generation,
            replicas: some(total),
            updated_replicas: some(updated),
            ready_replicas: some(count(&|s| s.ready_replicas.unwrap_or(0))),
            available_replicas: some(available),
            unavailable_replicas: some((total - available).max(0)),
            terminating_replicas: sets.all().map(|s| s.status.as_ref()?.terminating_replicas).sum(),
            collision_count: held.collision_count,
            conditions: None,
        };
        Progress {
            revision: None,
            collisions: None,
            is_rollout: true,
            conditions: held.conditions.unwrap_or_default(),
            status,
        }
    }

    /// All replicas are the new set's and available.
    pub(crate) fn is_complete(&self, deployment: &Deployment) -> bool {
        let all = some(wanted(deployment));
        self.status.updated_replicas == all
            && self.status.replicas == all
            && self.status.available_replicas == all
    }

    fn progressing(&mut self, status: &str, reason: &str, message: String, now: Timestamp) {
        set(&mut self.conditions, made(PROGRESSING, status, reason, message, now));
    }

    /// A pause begins or ends: time under it doesn't count against the deadline.
    pub(crate) fn note_pause(&mut self, deployment: &Deployment, paused: bool, now: Timestamp) {
        if deadline(deployment).is_none() {
            return;
        }
        let reason =
            condition(&self.conditions, PROGRESSING).and_then(|c| c.reason.clone()).unwrap_or_default();
        if reason == LATE {
            return;
        }
        match (paused, reason == "DeploymentPaused") {
            (true, false) => {
                self.progressing("Unknown", "DeploymentPaused", "Deployment is paused".to_owned(), now)
            }
            (false, true) => {
                self.progressing("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now)
            }
            _ => {}
        }
    }

    pub(crate) fn note_found(&mut self, deployment: &Deployment, new: &ReplicaSet, now: Timestamp) {
        if deadline(deployment).is_some() && condition(&self.conditions, PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", meta::name(&new.metadata));
            self.progressing("True", "FoundNewReplicaSet", message, now);
        }
    }

    pub(crate) fn note_created(&mut self, deployment: &Deployment, name: &str, now: Timestamp) {
        // The next plan, with the set in sight, judges the rollout.
        self.is_rollout = false;
        if deadline(deployment).is_some() {
            let message = format!("Created new replica set {name:?}");
            self.progressing("True", "NewReplicaSetCreated", message, now);
        }
    }

    /// Whether the rollout got on since the status was last written.
    fn got_on(&self, held: &DeploymentStatus) -> bool {
        let n = |count: Option<i32>| count.unwrap_or(0);
        let (new, old) = (&self.status, held);
        let rest = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
        n(new.updated_replicas) > n(old.updated_replicas)
            || rest(new) < rest(old)
            || n(new.ready_replicas) > n(old.ready_replicas)
            || n(new.available_replicas) > n(old.available_replicas)
    }

    /// `syncRolloutStatus`. Returns how long until the deadline.
    fn judge(&mut self, deployment: &Deployment, sets: &Sets, now: Timestamp) -> Option<Duration> {
        let limit = deadline(deployment)?;
        let held = deployment.status.clone().unwrap_or_default();
        let current = condition(&self.conditions, PROGRESSING).cloned();
        let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
        if self.status.replicas == self.status.updated_replicas && reason == DONE {
            return None;
        }
        let what = match &sets.new {
            Some(new) => format!("ReplicaSet {:?}", meta::name(&new.metadata)),
            None => format!("Deployment {:?}", meta::name(&deployment.metadata)),
        };
        if self.is_complete(deployment) {
            self.progressing("True", DONE, format!("{what} has successfully progressed."), now);
            return None;
        }
        if self.got_on(&held) {
            let mut new =
                made(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."), now);
            if let Some(old) = current.as_ref().filter(|c| c.status == "True") {
                new.last_transition_time.clone_from(&old.last_transition_time);
            }
            // Replaced even where it says the same: its time is what the deadline counts from.
            self.conditions.retain(|c| c.type_ != PROGRESSING);
            self.conditions.push(new);
            return Some(Duration::from_secs(u64::try_from(limit).unwrap_or(0) + 1));
        }
        if reason == DONE || reason == LATE {
            return None;
        }
        let from = current?.last_update_time?.0;
        match meta::until(meta::plus_seconds(from, i64::from(limit)), now) {
            Some(wait) => Some(wait + Duration::from_secs(1)),
            None => {
                self.progressing("False", LATE, format!("{what} has timed out progressing."), now);
                None
            }
        }
    }
}

/// Plans the write of status and revision, which is one, where either changes.
pub(crate) fn write(
    deployment: &Deployment,
    sets: &Sets,
    mut progress: Progress,
    now: Timestamp,
    plan: &mut Plan,
) {
    let enough =
        progress.status.available_replicas.unwrap_or(0) >= wanted(deployment) - max_unavailable(deployment);
    let available = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut progress.conditions, made(AVAILABLE, available.0, available.1, available.2.to_owned(), now));
    if progress.is_rollout
        && let Some(wait) = progress.judge(deployment, sets, now)
    {
        plan.again_after(wait);
    }
    let mut status = progress.status;
    status.collision_count = progress.collisions.or(status.collision_count);
    status.conditions = Some(progress.conditions);
    let revision = progress.revision.filter(|r| annotation(&deployment.metadata, REVISION) != Some(r));
    if revision.is_none() && deployment.status.as_ref() == Some(&status) {
        return;
    }
    let mut object = Deployment::clone(deployment);
    object.status = Some(status);
    if let Some(revision) = revision {
        object.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision);
    }
    plan.push(update(row("apps/v1", "Deployment"), &deployment.metadata, Some(Subresource::Status), &object));
}
