//! A Deployment's status and conditions (`progress.go`, `sync.go` upstream).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealane_api::kinds::Subresource;

use super::{View, size, total};
use crate::meta;
use crate::plan::{Plan, row, update};
use crate::replicaset::nonzero;

fn count(n: i32) -> Option<i32> {
    nonzero(usize::try_from(n).unwrap_or(0))
}

/// Writes the status where it changed.
pub(super) fn write(view: &View, new: Option<&Arc<ReplicaSet>>, plan: &mut Plan) {
    let deployment = view.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let wanted_all: i32 = view.sets.iter().map(|s| size(s)).sum();
    let available = total(view.sets, |s| s.available_replicas.unwrap_or(0));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: count(total(view.sets, |s| s.replicas)),
        updated_replicas: count(new.and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: count(total(view.sets, |s| s.ready_replicas.unwrap_or(0))),
        available_replicas: count(available),
        unavailable_replicas: count(wanted_all - available),
        terminating_replicas: Some(total(view.sets, |s| s.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let now = meta::seconds(view.now);
    if available >= view.wanted() - view.bounds().1 {
        set(&mut status, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set(&mut status, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
    if deployment.metadata.deletion_timestamp.is_none() {
        progress(view, new, &old, &mut status, now, plan);
    }
    if old != status {
        let object = Deployment { status: Some(status), ..deployment.clone() };
        plan.push(update(row("apps/v1", "Deployment"), &deployment.metadata, Some(Subresource::Status), &object));
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Sets a condition; its transition time stays while its status does, and nothing moves while it says the same.
fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let held = find(status, kind).cloned();
    if held.as_ref().is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    replace(status, held, kind, value, reason, message, now);
}

fn replace(
    status: &mut DeploymentStatus,
    held: Option<DeploymentCondition>,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let transition = held.filter(|c| c.status == value).and_then(|c| c.last_transition_time).unwrap_or(Time(now));
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(transition),
    });
}

fn progress(
    view: &View,
    new: Option<&Arc<ReplicaSet>>,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    now: Timestamp,
    plan: &mut Plan,
) {
    let Some(spec) = &view.deployment.spec else { return };
    // i32::MAX means no deadline (`HasProgressDeadline`).
    let Some(deadline) = spec.progress_deadline_seconds.filter(|d| *d != i32::MAX) else {
        status.conditions.get_or_insert_default().retain(|c| c.type_ != "Progressing");
        return;
    };
    let held = find(status, "Progressing").cloned();
    if spec.paused == Some(true) {
        if held.as_ref().and_then(|c| c.reason.as_deref()) != Some("DeploymentPaused") {
            set(status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return;
    }
    if held.as_ref().and_then(|c| c.reason.as_deref()) == Some("DeploymentPaused") {
        set(status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        return;
    }
    let named = new.map(|s| meta::name(&s.metadata).to_owned());
    let said = |tail: &str| match &named {
        Some(name) => format!("ReplicaSet {name:?} {tail}"),
        None => format!("Deployment {:?} {tail}", meta::name(&view.deployment.metadata)),
    };
    let Some(new) = new else {
        let name = super::plain(&spec.template);
        let hash = crate::names::hash(&serde_json::to_vec(&name).unwrap_or_default());
        let message = format!("Created new replica set \"{}-{hash}\"", meta::name(&view.deployment.metadata));
        if held.is_none() {
            set(status, "Progressing", "True", "NewReplicaSetCreated", &message, now);
        }
        return;
    };
    let zero = |n: Option<i32>| n.unwrap_or(0);
    let complete = zero(status.updated_replicas) == view.wanted()
        && zero(status.replicas) == view.wanted()
        && zero(status.available_replicas) == view.wanted();
    let was_complete = held.as_ref().is_some_and(|c| {
        c.reason.as_deref() == Some("NewReplicaSetAvailable")
            && c.message.as_deref().is_some_and(|m| m.contains(&format!("{:?}", meta::name(&new.metadata))))
    });
    if complete {
        let message = said("has successfully progressed.");
        if held.as_ref().and_then(|c| c.message.as_deref()) != Some(&message) {
            replace(status, held, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
        }
        return;
    }
    // A Deployment that was complete and lost a Pod is not rolling out.
    if was_complete && zero(status.replicas) == zero(status.updated_replicas) {
        return;
    }
    let moved = zero(status.updated_replicas) > zero(old.updated_replicas)
        || zero(status.replicas) - zero(status.updated_replicas) < zero(old.replicas) - zero(old.updated_replicas)
        || zero(status.ready_replicas) > zero(old.ready_replicas)
        || zero(status.available_replicas) > zero(old.available_replicas);
    let another = held.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if moved || held.is_none() || another {
        let message = said("is progressing.");
        let held = held.filter(|c| c.status == "True");
        replace(status, held, "Progressing", "True", "ReplicaSetUpdated", &message, now);
    } else if let Some(since) = held.as_ref().and_then(|c| c.last_update_time.as_ref()) {
        let due = meta::plus_seconds(since.0, i64::from(deadline));
        if held.as_ref().and_then(|c| c.reason.as_deref()) == Some("ProgressDeadlineExceeded") {
            return;
        }
        if due <= view.now {
            let message = said("has timed out progressing.");
            set(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
        }
    }
    let since = find(status, "Progressing").filter(|c| c.status == "True").and_then(|c| c.last_update_time.as_ref());
    if let Some(wait) = since.and_then(|t| meta::until(meta::plus_seconds(t.0, i64::from(deadline)), view.now)) {
        plan.again_after(wait);
    }
}
