//! Sizes of ReplicaSets during a rollout (`rolling.go`, `recreate.go`, `sync.go` upstream).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::replica_sets::{annotate, create, resize};
use super::{View, annotation, size, total};
use crate::plan::Plan;

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// The current set's size: as large as the surge allows (`NewRSNewReplicas`).
pub(super) fn new_size(view: &View, now: i32) -> i32 {
    let wanted = view.wanted();
    if !view.is_rolling() {
        return wanted;
    }
    let current: i32 = view.sets.iter().map(|s| size(s)).sum();
    let room = wanted + view.bounds().0 - current;
    if room <= 0 { now } else { now + room.min(wanted - now).max(0) }
}

/// One step of a rolling update. Each plan takes one side's step: the other side's is planned on what came of it.
pub(super) fn roll(view: &View, plan: &mut Plan) {
    let Some(new) = view.new else { return create(view, plan) };
    // Annotating and sizing are both patches of one version; the second would conflict.
    if annotate(view, plan) {
        return;
    }
    let at = size(new);
    let target = if at > view.wanted() { view.wanted() } else { new_size(view, at) };
    if target != at {
        return resize(view, new, target, plan);
    }
    down(view, new, plan);
}

/// Takes old Pods away as far as the new ones' availability allows.
fn down(view: &View, new: &Arc<ReplicaSet>, plan: &mut Plan) {
    let old = view.old();
    let all: i32 = view.sets.iter().map(|s| size(s)).sum();
    let floor = view.wanted() - view.bounds().1;
    let new_unavailable = size(new) - available(new);
    let mut budget = all - floor - new_unavailable;
    if budget <= 0 {
        return;
    }
    let mut sizes: Vec<i32> = old.iter().map(|s| size(s)).collect();
    // Pods that serve nobody go first, whatever their set's age.
    for (set, to) in old.iter().zip(&mut sizes) {
        let sick = (*to - available(set)).clamp(0, budget);
        *to -= sick;
        budget -= sick;
    }
    let healthy = total(view.sets, |s| s.available_replicas.unwrap_or(0));
    let mut spare = healthy - floor;
    for to in &mut sizes {
        let take = (*to).clamp(0, spare.max(0));
        // Only what remains of the whole budget: unhealthy Pods count in it.
        let take = take.min(budget.max(0));
        *to -= take;
        spare -= take;
        budget -= take;
    }
    for (set, to) in old.iter().zip(sizes) {
        if to != size(set) {
            resize(view, set, to, plan);
        }
    }
}

/// Recreate: all old Pods end before the first new one is made.
pub(super) fn recreate(view: &View, plan: &mut Plan) {
    let running: Vec<_> = view.old().into_iter().filter(|s| size(s) > 0).collect();
    if !running.is_empty() {
        for set in running {
            resize(view, set, 0, plan);
        }
        return;
    }
    if view.has_old_pods() {
        return;
    }
    match view.new {
        None => create(view, plan),
        Some(new) => {
            if !annotate(view, plan) {
                resize(view, new, view.wanted(), plan);
            }
        }
    }
}

/// A change of the Deployment's size: the one active set gets it, or all active sets share it by their sizes.
pub(super) fn scale(view: &View, plan: &mut Plan) {
    let mut active: Vec<&Arc<ReplicaSet>> = view.sets.iter().filter(|s| size(s) > 0).collect();
    let single = match active.as_slice() {
        [] => view.new,
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = single {
        return resize(view, set, view.wanted(), plan);
    }
    // The current set is complete: the rest has nothing left to do.
    if view.new.is_some_and(|n| size(n) == view.wanted() && available(n) == view.wanted()) {
        for set in view.old().into_iter().filter(|s| size(s) > 0) {
            resize(view, set, 0, plan);
        }
        return;
    }
    if !view.is_rolling() {
        return;
    }
    let allowed = if view.wanted() > 0 { view.wanted() + view.bounds().0 } else { 0 };
    let now: i32 = active.iter().map(|s| size(s)).sum();
    let to_add = allowed - now;
    // Upwards newest first, downwards oldest first; larger sets before smaller ones.
    active.sort_by_key(|s| super::age(s));
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|s| std::cmp::Reverse(size(s)));
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::new();
    for set in &active {
        let share = if to_add == 0 { 0 } else { proportion(view, set, allowed, to_add, added) };
        sizes.push(size(set) + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, to) in active.iter().zip(sizes) {
        resize(view, set, to, plan);
    }
}

/// A set's part of a change (`GetReplicaSetProportion`).
fn proportion(view: &View, set: &ReplicaSet, allowed: i32, to_add: i32, added: i32) -> i32 {
    let own = size(set);
    // What the Deployment's size was with its surge when the set was last sized.
    let was = annotation(set, "deployment.kubernetes.io/max-replicas").and_then(|m| m.parse().ok());
    let was = was.filter(|m: &i32| *m > 0).unwrap_or_else(|| {
        view.deployment.status.as_ref().and_then(|s| s.replicas).filter(|n| *n > 0).unwrap_or(allowed.max(1))
    });
    let exact = f64::from(own) * f64::from(allowed) / f64::from(was);
    #[allow(clippy::cast_possible_truncation)] // sizes are i32, and so is their quotient rounded
    let part = exact.round() as i32 - own;
    let left = to_add - added;
    if to_add > 0 { part.min(left).max(0) } else { part.max(left).min(0) }
}
