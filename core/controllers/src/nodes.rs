//! Nodes that fall silent (upstream `pkg/controller/nodelifecycle`, `pkg/controller/tainteviction`) and Pods of Nodes
//! that are gone (`pkg/controller/podgc`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealane_api::kinds::Subresource;
use serde_json::json;

use crate::doc::{Doc, Key};
use crate::index::{Index, full_name};
use crate::plan::{Note, Patch, Plan, Write, delete, merge, row};
use crate::{meta, pods};

/// The namespace of the Nodes' Leases.
pub(crate) const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CORDONED: &str = "node.kubernetes.io/unschedulable";
/// The conditions that a Node reports of itself and that nobody knows while it is silent.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that keep new Pods off.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[])
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    conditions(node).iter().find(|c| c.type_ == kind)
}

/// Its last sign of life: its Lease's renewal or its status's heartbeat, or when the controllers began to look.
fn last_sign(index: &Index, node: &Node) -> Timestamp {
    let renewed = match index.get("leases", &Key::new(LEASES, meta::name(&node.metadata))) {
        Some(Doc::Lease(lease)) => lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0),
        _ => None,
    };
    let beat = condition(node, "Ready")
        .filter(|c| c.status != "Unknown")
        .and_then(|c| c.last_heartbeat_time.as_ref());
    let signs = [renewed, beat.map(|t| t.0), meta::created(&node.metadata), Some(index.config.started)];
    signs.into_iter().flatten().max().unwrap_or(index.config.started)
}

pub(crate) fn plan_lifecycle(index: &Index, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(node) = index.node(&key.name) else { return plan };
    if node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let deadline = meta::plus_seconds(last_sign(index, node), i64::from(index.config.node_grace_seconds));
    let silent = match meta::until(deadline, now) {
        Some(wait) => {
            // A renewal doesn't ask for a plan; this look finds it and waits on.
            plan.again_after(wait);
            false
        }
        None => true,
    };
    if silent {
        go_unknown(node, now, &mut plan);
    }
    let ready = if silent { "Unknown" } else { condition(node, "Ready").map_or("", |c| c.status.as_str()) };
    let taints = taints(node, ready, now);
    if node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default() != taints {
        plan.push(merge(row("v1", "Node"), &node.metadata, json!({"spec": {"taints": taints}})));
    }
    for pod in index.pods_on(&key.name) {
        if silent {
            unready(pod, now, &mut plan);
        }
        evict(pod, &taints, now, &mut plan);
    }
    plan
}

fn go_unknown(node: &Node, now: Timestamp, plan: &mut Plan) {
    let mut changed = Vec::new();
    for kind in CONDITIONS {
        let held = condition(node, kind);
        if held.is_some_and(|c| c.status == "Unknown") {
            continue;
        }
        let (reason, message) = match held {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        changed.push(NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: held.and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(meta::seconds(now))),
        });
    }
    if changed.is_empty() {
        return;
    }
    let name = meta::name(&node.metadata);
    let write = Write::Patch {
        kind: row("v1", "Node"),
        key: Key::of(&node.metadata),
        subresource: Some(Subresource::Status),
        patch: Patch::Strategic,
        body: json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": changed}}),
    };
    let about = meta::reference::<Node>(&node.metadata);
    plan.push_noted(
        write,
        Note::normal(about, "NodeNotReady", format!("Node {name} status is now: NodeNotReady")),
    );
}

/// The taints that the Node should have: its own, and those that its conditions stand for.
fn taints(node: &Node, ready: &str, now: Timestamp) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let held = spec.taints.unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "Unknown" => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => {}
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|c| c.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if spec.unschedulable.unwrap_or(false) {
        wanted.push((CORDONED, "NoSchedule"));
    }
    let ours = |key: &str| {
        key == NOT_READY
            || key == UNREACHABLE
            || key == CORDONED
            || PRESSURES.iter().any(|(_, taint)| *taint == key)
    };
    // A Node may register itself as not ready; that taint goes once it says Ready.
    let keeps = |t: &Taint| {
        !ours(&t.key)
            || wanted.contains(&(t.key.as_str(), t.effect.as_str()))
            || (ready.is_empty() && t.key == NOT_READY)
    };
    let mut out: Vec<Taint> = held.iter().filter(|t| keeps(t)).cloned().collect();
    for (key, effect) in wanted {
        if !out.iter().any(|t| t.key == key && t.effect == effect) {
            out.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(meta::seconds(now))),
                value: None,
            });
        }
    }
    out
}

/// Pods of a silent Node leave the endpoints (`MarkPodsNotReady`).
fn unready(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    if !pods::is_ready(pod) {
        return;
    }
    let mut condition = pods::condition(pod, "Ready").cloned().unwrap_or_default();
    condition.status = "False".to_owned();
    condition.last_transition_time = Some(Time(meta::seconds(now)));
    plan.push(Write::Patch {
        kind: row("v1", "Pod"),
        key: Key::of(&pod.metadata),
        subresource: Some(Subresource::Status),
        patch: Patch::Strategic,
        body: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}),
    });
}

/// Deletes a Pod that doesn't tolerate a NoExecute taint, or not for so long.
fn evict(pod: &Pod, taints: &[Taint], now: Timestamp, plan: &mut Plan) {
    if pods::is_terminating(pod) {
        return;
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[]);
    let mut at: Option<Timestamp> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let taking: Vec<_> = tolerations.iter().filter(|t| pods::tolerates(t, taint)).collect();
        let until = if taking.is_empty() {
            Some(now)
        } else {
            taking
                .iter()
                .filter_map(|t| t.toleration_seconds)
                .min()
                .map(|s| meta::plus_seconds(since, s.max(0)))
        };
        at = match (at, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    let Some(at) = at else { return };
    match meta::until(at, now) {
        Some(wait) => plan.again_after(wait),
        None => {
            let message = format!("Marking for deletion Pod {}", full_name(&pod.metadata));
            let note = Note::normal(meta::reference::<Pod>(&pod.metadata), "TaintManagerEviction", message);
            plan.push_noted(delete(row("v1", "Pod"), &pod.metadata), note);
        }
    }
}

/// A Pod whose Node is gone: nobody is left to end it.
pub(crate) fn plan_pod(index: &Index, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = index.pod(key) else { return plan };
    let node = pods::node(pod);
    if node.is_empty() || index.node(node).is_some() {
        return plan;
    }
    if !index.is_absent_node(node) {
        // The watch of Nodes may lag behind that of Pods: the API knows.
        plan.push(Write::Confirm { kind: row("v1", "Node"), key: Key::new("", node), uid: String::new() });
        return plan;
    }
    let meta = &pod.metadata;
    plan.push(Write::Delete {
        kind: row("v1", "Pod"),
        key: key.clone(),
        uid: meta::uid(meta).to_owned(),
        resource_version: None,
        propagation: None,
        grace_seconds: Some(0),
    });
    plan
}
