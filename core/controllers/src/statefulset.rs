//! StatefulSets (upstream `pkg/controller/statefulset`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use sealane_api::kinds::Subresource;
use serde_json::json;

use crate::doc::Key;
use crate::index::Index;
use crate::plan::{Note, Plan, Write, delete, merge, row, update};
use crate::replicaset::{claim, nonzero, pod_of};
use crate::{labels, meta, pods, revisions};

const REVISION_LABEL: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// A set as one plan sees it.
struct View<'a> {
    set: &'a StatefulSet,
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
    /// Pods by ordinal, those beyond the set's size too.
    pods: BTreeMap<i32, &'a Arc<Pod>>,
    now: Timestamp,
}

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = index.stateful_set(key) else { return plan };
    let Some(spec) = &set.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return plan;
    }
    let about = || meta::reference::<StatefulSet>(&set.metadata);
    if spec.volume_claim_templates.as_ref().is_some_and(|v| !v.is_empty()) {
        let message = "volumeClaimTemplates need PersistentVolumeClaims, which are not served here: use a volume of \
                       the Pod template (emptyDir, hostPath) instead";
        plan.notes.push(Note::warning(about(), "FailedCreate", message.to_owned()));
        return plan;
    }
    let name = meta::name(&set.metadata);
    let member = |pod: &Pod| ordinal(name, meta::name(&pod.metadata)).is_some();
    let mine = claim::<StatefulSet>(index, &set.metadata, &spec.selector, member, &mut plan);
    let Some((current, update)) = revisions_of(index, set, &mut plan) else { return plan };
    let by_ordinal =
        mine.into_iter().filter_map(|p| Some((ordinal(name, meta::name(&p.metadata))?, p))).collect();
    let view = View { set, current, update, pods: by_ordinal, now };
    if set.metadata.deletion_timestamp.is_none() {
        view.steps(&mut plan);
        view.trim_history(index, &mut plan);
    }
    view.status(&mut plan);
    plan
}

/// `web-3` of set `web` is 3.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// The revision that the set comes from and the one that it goes to. `None` while the latter is being written.
fn revisions_of(
    index: &Index,
    set: &StatefulSet,
    plan: &mut Plan,
) -> Option<(Arc<ControllerRevision>, Arc<ControllerRevision>)> {
    let kind = row("apps/v1", "ControllerRevision");
    let held = revisions::of_set(index, set);
    let last = held.last().map_or(0, |r| r.revision);
    let wanted = revisions::wanted(set, last + 1);
    let same = held.iter().rev().find(|r| r.metadata.name == wanted.metadata.name).cloned();
    let update = match same {
        Some(update) => {
            // A template taken up again becomes the newest.
            if update.revision != last {
                plan.push(merge(kind, &update.metadata, json!({"revision": last + 1})));
            }
            update
        }
        None => {
            if set.metadata.deletion_timestamp.is_none() {
                let body = serde_json::to_value(&wanted).unwrap_or_default();
                let namespace = set.metadata.namespace.clone().unwrap_or_default();
                plan.push(Write::Create { kind, namespace, body });
            }
            return None;
        }
    };
    let named = set.status.as_ref().and_then(|s| s.current_revision.clone());
    let current = held.iter().find(|r| r.metadata.name == named).cloned().unwrap_or_else(|| Arc::clone(&update));
    Some((current, update))
}

impl View<'_> {
    fn size(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn start(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
    }

    fn slots(&self) -> std::ops::Range<i32> {
        self.start()..self.start() + self.size()
    }

    fn is_ordered(&self) -> bool {
        self.set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn rolling(&self) -> Option<i32> {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        let on_delete = strategy.is_some_and(|s| s.type_.as_deref() == Some("OnDelete"));
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()?.partition).unwrap_or(0);
        (!on_delete).then_some(partition)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod)
            && !pods::is_terminating(pod)
            && pods::is_available(pod, self.min_ready(), self.now)
    }

    fn note(&self, verb: &'static str, pod: &str) -> Note {
        let set = meta::name(&self.set.metadata);
        let (done, failed) = match verb {
            "create" => ("SuccessfulCreate", "FailedCreate"),
            _ => ("SuccessfulDelete", "FailedDelete"),
        };
        Note::normal(
            meta::reference::<StatefulSet>(&self.set.metadata),
            done,
            format!("{verb} Pod {pod} in StatefulSet {set} successful"),
        )
        .or(failed, format!("{verb} Pod {pod} in StatefulSet {set} failed error: "))
    }

    fn delete(&self, pod: &Pod, plan: &mut Plan) {
        plan.push_noted(delete(row("v1", "Pod"), &pod.metadata), self.note("delete", meta::name(&pod.metadata)));
    }

    fn create(&self, at: i32, plan: &mut Plan) {
        let below_partition = self.rolling().is_some_and(|partition| at < self.start() + partition);
        let revision = if below_partition { &self.current } else { &self.update };
        let Some(spec) = &self.set.spec else { return };
        let template = revisions::template(revision).unwrap_or_else(|| spec.template.clone());
        let name = format!("{}-{at}", meta::name(&self.set.metadata));
        let base = format!("{}-", meta::name(&self.set.metadata));
        let owner = meta::controller_reference::<StatefulSet>(&self.set.metadata);
        let mut pod = pod_of(&template, &self.set.metadata, owner, &name, &base);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_LABEL.to_owned(), meta::name(&revision.metadata).to_owned());
        labels.insert(POD_NAME.to_owned(), name.clone());
        labels.insert(POD_INDEX.to_owned(), at.to_string());
        let inner = pod.spec.get_or_insert_default();
        inner.hostname = Some(name.clone());
        inner.subdomain = spec.service_name.clone().filter(|s| !s.is_empty());
        let namespace = self.set.metadata.namespace.clone().unwrap_or_default();
        let body = serde_json::to_value(&pod).unwrap_or_default();
        plan.push_noted(Write::Create { kind: row("v1", "Pod"), namespace, body }, self.note("create", &name));
    }

    /// The next steps; in order, one at a time: a Pod is made when all before it are healthy, and taken away when
    /// all after it are gone.
    fn steps(&self, plan: &mut Plan) {
        let ordered = self.is_ordered();
        let ripe = self.pods.values().filter(|p| is_running_and_ready(p));
        for wait in ripe.filter_map(|p| meta::until(pods::available_at(p, self.min_ready())?, self.now)) {
            plan.again_after(wait);
        }
        for at in self.slots() {
            match self.pods.get(&at) {
                None => self.create(at, plan),
                Some(pod) if pods::is_terminal(pod) => {
                    // It ended for good: the next one of its name takes its place.
                    if !pods::is_terminating(pod) {
                        self.delete(pod, plan);
                    }
                }
                Some(pod) if self.is_healthy(pod) => continue,
                Some(_) => {}
            }
            if ordered {
                return;
            }
        }
        let slots = self.slots();
        let mut condemned: Vec<_> = self.pods.iter().filter(|(at, _)| !slots.contains(at)).collect();
        condemned.reverse();
        let first_sick = self.pods.values().find(|p| !self.is_healthy(p));
        for (_, pod) in condemned {
            if pods::is_terminating(pod) {
                if ordered {
                    return;
                }
                continue;
            }
            let is_first_sick = first_sick.is_some_and(|f| f.metadata.uid == pod.metadata.uid);
            if ordered && !is_running_and_ready(pod) && !is_first_sick {
                return;
            }
            self.delete(pod, plan);
            if ordered {
                return;
            }
        }
        self.roll(plan);
    }

    /// Rolling update: from the highest ordinal down to the partition, the next one when the last is healthy again.
    fn roll(&self, plan: &mut Plan) {
        let Some(partition) = self.rolling() else { return };
        for at in self.slots().rev().take_while(|at| *at >= self.start() + partition) {
            let Some(pod) = self.pods.get(&at) else { return };
            if revision_of(pod) != self.update.metadata.name.as_deref() && !pods::is_terminating(pod) {
                self.delete(pod, plan);
                return;
            }
            if !self.is_healthy(pod) {
                return;
            }
        }
    }

    fn status(&self, plan: &mut Plan) {
        let old = self.set.status.clone().unwrap_or_default();
        let count = |f: &dyn Fn(&Pod) -> bool| self.pods.values().filter(|p| f(p)).count();
        let of = |revision: &ControllerRevision| {
            count(&|p| !pods::is_terminating(p) && revision_of(p) == revision.metadata.name.as_deref())
        };
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let ready = count(&is_running_and_ready);
        let available = count(&|p| is_running_and_ready(p) && pods::is_available(p, self.min_ready(), self.now));
        let mut status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: int(self.pods.len()),
            ready_replicas: nonzero(ready),
            available_replicas: Some(int(available)),
            current_replicas: nonzero(of(&self.current)),
            updated_replicas: nonzero(of(&self.update)),
            current_revision: self.current.metadata.name.clone(),
            update_revision: self.update.metadata.name.clone(),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions.clone(),
        };
        // The rollout is done: what was updated is current (`completeRollingUpdate`).
        let updated = status.updated_replicas.unwrap_or(0);
        if self.rolling().is_some() && updated == status.replicas && int(ready) == status.replicas {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        if old != status {
            let object = StatefulSet { status: Some(status), ..self.set.clone() };
            let kind = row("apps/v1", "StatefulSet");
            plan.push(update(kind, &self.set.metadata, Some(Subresource::Status), &object));
        }
    }

    /// Deletes the oldest revisions beyond `revisionHistoryLimit` that no Pod has.
    fn trim_history(&self, index: &Index, plan: &mut Plan) {
        let limit = self.set.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let live: Vec<Option<&str>> = self
            .pods
            .values()
            .map(|p| revision_of(p))
            .chain([self.current.metadata.name.as_deref(), self.update.metadata.name.as_deref()])
            .collect();
        let idle: Vec<_> = revisions::of_set(index, self.set)
            .into_iter()
            .filter(|r| !live.contains(&r.metadata.name.as_deref()))
            .collect();
        let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for revision in idle.iter().take(surplus) {
            plan.push(delete(row("apps/v1", "ControllerRevision"), &revision.metadata));
        }
    }
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL).map(String::as_str)
}
