//! StatefulSets (upstream `pkg/controller/statefulset/stateful_set_control.go`): Pods with names that stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use sealane_api::kinds::Subresource;

use crate::doc::Key;
use crate::index::Index;
use crate::plan::{Note, Plan, Write, delete, row, update};
use crate::replicaset::{claim, nonzero, pod_of};
use crate::{labels, meta, pods, revisions, rollout};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const REVISION: &str = "controller-revision-hash";

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = index.stateful_set(key) else { return plan };
    let Some(spec) = &set.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return plan;
    }
    let is_member = |pod: &Pod| ordinal(set, pod).is_some();
    let mut mine = claim::<StatefulSet>(index, &set.metadata, &spec.selector, &is_member, &mut plan);
    mine.retain(|pod| is_member(pod));
    let held = revisions::held(index, set);
    let active = set.metadata.deletion_timestamp.is_none();
    if active {
        revisions::settle(set, &held, &mut plan);
    }
    // A new template's revision comes first; its answer brings the next plan.
    let Some(update) = revisions::of_now(set, &held) else { return plan };
    let status = set.status.clone().unwrap_or_default();
    let named = status.current_revision.as_deref();
    let current = held.iter().find(|r| Some(meta::name(&r.metadata)) == named).unwrap_or(&update);
    let state = State {
        set,
        pods: mine.into_iter().filter_map(|p| Some((ordinal(set, p)?, p))).collect(),
        current: meta::name(&current.metadata),
        update: meta::name(&update.metadata),
        current_template: revisions::template(current),
        now,
    };
    if active {
        state.reconcile(&mut plan);
        let mut live: Vec<&str> = vec![state.current, state.update];
        live.extend(state.pods.values().filter_map(|p| revision_of(p)));
        revisions::truncate(set, &held, &live, &mut plan);
    }
    state.status(&mut plan);
    plan
}

/// The number in a Pod's name, where it is one of this set's names.
fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = meta::name(&pod.metadata).strip_prefix(meta::name(&set.metadata))?.strip_prefix('-')?;
    rest.parse().ok().filter(|n: &i32| *n >= 0 && n.to_string() == rest)
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION).map(String::as_str)
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

struct State<'a> {
    set: &'a StatefulSet,
    pods: BTreeMap<i32, &'a Arc<Pod>>,
    current: &'a str,
    update: &'a str,
    current_template: Option<k8s_openapi::api::core::v1::PodTemplateSpec>,
    now: Timestamp,
}

impl State<'_> {
    fn spec(&self) -> Option<&k8s_openapi::api::apps::v1::StatefulSetSpec> {
        self.set.spec.as_ref()
    }

    fn replicas(&self) -> i32 {
        self.spec().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn start(&self) -> i32 {
        self.spec().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
    }

    fn min_ready(&self) -> i32 {
        self.spec().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn is_ordered(&self) -> bool {
        self.spec().and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel")
    }

    fn partition(&self) -> Option<i32> {
        self.spec()?.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
    }

    fn is_on_delete(&self) -> bool {
        self.spec().and_then(|s| s.update_strategy.as_ref()?.type_.as_deref()) == Some("OnDelete")
    }

    /// Running, ready for long enough, and not on its way out. Asks for another look when it will have been.
    fn is_available(&self, pod: &Pod, plan: &mut Plan) -> bool {
        if !is_running_and_ready(pod) {
            return false;
        }
        if let Some(wait) = pods::available_at(pod, self.min_ready()).and_then(|at| meta::until(at, self.now))
        {
            plan.again_after(wait);
        }
        pods::is_available(pod, self.min_ready(), self.now)
    }

    fn reconcile(&self, plan: &mut Plan) {
        let wanted = self.start()..self.start().saturating_add(self.replicas());
        for n in wanted.clone() {
            let waits = match self.pods.get(&n) {
                None => {
                    self.create(n, plan);
                    true
                }
                // Ended for good: a new one of its name comes when it is gone.
                Some(pod) if pods::is_terminal(pod) => {
                    if !pods::is_terminating(pod) {
                        self.remove(pod, plan);
                    }
                    true
                }
                Some(pod) => pods::is_terminating(pod) || !self.is_available(pod, plan),
            };
            if waits && self.is_ordered() {
                return;
            }
        }
        let condemned: Vec<_> = self.pods.iter().rev().filter(|(n, _)| !wanted.contains(n)).collect();
        // The first that isn't healthy may go although others wait for it.
        let unhealthy =
            condemned.iter().rev().find(|(_, p)| pods::is_terminating(p) || !is_running_and_ready(p));
        let unhealthy = unhealthy.map(|(n, _)| **n);
        for (n, pod) in &condemned {
            if pods::is_terminating(pod) {
                if self.is_ordered() {
                    return;
                }
                continue;
            }
            if self.is_ordered() && !self.is_available(pod, plan) && unhealthy != Some(**n) {
                return;
            }
            self.remove(pod, plan);
            if self.is_ordered() {
                return;
            }
        }
        if !self.is_on_delete() {
            self.roll(wanted, plan);
        }
    }

    /// Replaces Pods of other revisions, the highest number first.
    fn roll(&self, wanted: std::ops::Range<i32>, plan: &mut Plan) {
        let from = self.start().saturating_add(self.partition().unwrap_or(0));
        let strategy = self.spec().and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref());
        let max = strategy.and_then(|r| r.max_unavailable.as_ref());
        let max = rollout::scaled(max, self.replicas(), true).max(1);
        let mut unavailable = 0;
        for n in wanted.clone() {
            let healthy =
                self.pods.get(&n).is_some_and(|p| !pods::is_terminating(p) && self.is_available(p, plan));
            unavailable += i32::from(!healthy);
        }
        for n in wanted.rev().take_while(|n| *n >= from) {
            let Some(pod) = self.pods.get(&n) else { continue };
            if revision_of(pod) != Some(self.update) && !pods::is_terminating(pod) {
                let healthy = self.is_available(pod, plan);
                if healthy && unavailable >= max {
                    return;
                }
                self.remove(pod, plan);
                unavailable += i32::from(healthy);
            }
            if unavailable >= max {
                return;
            }
        }
    }

    fn note(&self, verb: &str, pod: &str, reason: &'static str, failed: &'static str) -> Note {
        let set = meta::name(&self.set.metadata);
        let about = meta::reference::<StatefulSet>(&self.set.metadata);
        Note::normal(about, reason, format!("{verb} Pod {pod} in StatefulSet {set} successful"))
            .or(failed, format!("{verb} Pod {pod} in StatefulSet {set} failed error: "))
    }

    fn remove(&self, pod: &Pod, plan: &mut Plan) {
        let note = self.note("delete", meta::name(&pod.metadata), "SuccessfulDelete", "FailedDelete");
        plan.push_noted(delete(row("v1", "Pod"), &pod.metadata), note);
    }

    fn create(&self, n: i32, plan: &mut Plan) {
        let Some(spec) = self.spec() else { return };
        // Below the partition Pods come back as they were.
        let keeps =
            !self.is_on_delete() && self.partition().is_some_and(|p| n < self.start().saturating_add(p));
        let (template, revision) = match &self.current_template {
            Some(template) if keeps => (template, self.current),
            _ => (&spec.template, self.update),
        };
        let base = format!("{}-", meta::name(&self.set.metadata));
        let name = format!("{base}{n}");
        let owner = meta::controller_reference::<StatefulSet>(&self.set.metadata);
        let mut pod = pod_of(template, &self.set.metadata, owner, &name, &base);
        pod.metadata.labels.get_or_insert_default().extend([
            (POD_NAME.to_owned(), name.clone()),
            (POD_INDEX.to_owned(), n.to_string()),
            (REVISION.to_owned(), revision.to_owned()),
        ]);
        let pod_spec = pod.spec.get_or_insert_default();
        pod_spec.hostname = Some(name.clone());
        pod_spec.subdomain = spec.service_name.clone().filter(|s| !s.is_empty());
        let namespace = self.set.metadata.namespace.clone().unwrap_or_default();
        let body = serde_json::to_value(&pod).unwrap_or_default();
        let note = self.note("create", &name, "SuccessfulCreate", "FailedCreate");
        plan.push_noted(Write::Create { kind: row("v1", "Pod"), namespace, body }, note);
    }

    fn status(&self, plan: &mut Plan) {
        let held = self.set.status.clone().unwrap_or_default();
        let count = |f: &dyn Fn(&Pod) -> bool| self.pods.values().filter(|p| f(p)).count();
        let of = |revision: &str| count(&|p| !pods::is_terminating(p) && revision_of(p) == Some(revision));
        let ready = count(&is_running_and_ready);
        let available =
            count(&|p| is_running_and_ready(p) && pods::is_available(p, self.min_ready(), self.now));
        let updated = of(self.update);
        let wanted = usize::try_from(self.replicas()).unwrap_or(0);
        let done = !self.is_on_delete() && updated == wanted && ready == wanted && self.pods.len() == wanted;
        let (current, current_count) =
            if done { (self.update, updated) } else { (self.current, of(self.current)) };
        let new = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: i32::try_from(self.pods.len()).unwrap_or(i32::MAX),
            ready_replicas: nonzero(ready),
            available_replicas: i32::try_from(available).ok(),
            current_replicas: nonzero(current_count),
            updated_replicas: nonzero(updated),
            current_revision: Some(current.to_owned()),
            update_revision: Some(self.update.to_owned()),
            collision_count: Some(held.collision_count.unwrap_or(0)),
            conditions: held.conditions.clone(),
        };
        if held != new {
            let object = StatefulSet { status: Some(new), ..self.set.clone() };
            let kind = row("apps/v1", "StatefulSet");
            plan.push(update(kind, &self.set.metadata, Some(Subresource::Status), &object));
        }
    }
}
