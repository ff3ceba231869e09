//! The scheduler (upstream `pkg/scheduler`): filters, then the Node with the most room.

mod fit;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use sealane_api::kinds::Subresource;
use serde_json::json;

use crate::doc::Key;
use crate::index::Index;
use crate::names::Names;
use crate::plan::{Note, Patch, Plan, Write, row};
use crate::{meta, pods};

pub(crate) use fit::tolerates;

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp, random: u64) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = index.pod(key) else { return plan };
    let Some(spec) = &pod.spec else { return plan };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    let ours = spec.scheduler_name.as_deref().is_none_or(|n| n.is_empty() || n == "default-scheduler");
    if !pods::node(pod).is_empty() || !pods::is_active(pod) || !ours || gated || index.is_assumed(key) {
        return plan;
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Vec<(i64, &str)> = Vec::new();
    let mut nodes = 0;
    for node in index.nodes() {
        nodes += 1;
        let on: Vec<&Pod> =
            index.pods_on(meta::name(&node.metadata)).map(AsRef::as_ref).filter(|p| !pods::is_terminal(p)).collect();
        let why = fit::refusals(pod, node, &on);
        if why.is_empty() {
            best.push((fit::score(pod, node, &on), meta::name(&node.metadata)));
        }
        for reason in why {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let top = best.iter().map(|(score, _)| *score).max();
    best.retain(|(score, _)| Some(*score) == top);
    if best.is_empty() {
        refuse(pod, nodes, &reasons, now, &mut plan);
        return plan;
    }
    // Among equals, chance.
    let choice = usize::try_from(Names::new(random).next() % best.len() as u64).unwrap_or(0);
    let node = best[choice].1.to_owned();
    let message = format!("Successfully assigned {} to {node}", crate::index::full_name(&pod.metadata));
    let note = Note::normal(meta::reference::<Pod>(&pod.metadata), "Scheduled", message)
        .or("FailedScheduling", "binding rejected: ".to_owned());
    plan.push_noted(Write::Bind { key: key.clone(), uid: meta::uid(&pod.metadata).to_owned(), node }, note);
    plan
}

fn refuse(pod: &Pod, nodes: usize, reasons: &BTreeMap<String, usize>, now: Timestamp, plan: &mut Plan) {
    let message = if nodes == 0 {
        "no nodes available to schedule pods".to_owned()
    } else {
        let mut said: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
        said.sort();
        format!("0/{nodes} nodes are available: {}.", said.join(", "))
    };
    let held = pods::condition(pod, "PodScheduled");
    let same = held.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(&message));
    if !same {
        let since = held.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let since = since.map_or_else(|| meta::seconds(now), |t| t.0);
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastProbeTime": null, "lastTransitionTime": since.to_string()});
        plan.push(Write::Patch {
            kind: row("v1", "Pod"),
            key: Key::of(&pod.metadata),
            subresource: Some(Subresource::Status),
            patch: Patch::Strategic,
            body: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}),
        });
        plan.notes.push(Note::warning(meta::reference::<Pod>(&pod.metadata), "FailedScheduling", message));
    }
}

/// The Node's label, "" where unset.
fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Doc, Event, plan::Action};

    fn node(name: &str, extra: serde_json::Value) -> Doc {
        let mut doc = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": {"disk": name}},
            "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}}});
        for (k, v) in extra.as_object().unwrap() {
            doc[k] = v.clone();
        }
        Doc::parse(doc).unwrap()
    }

    fn pod(name: &str, spec: serde_json::Value) -> Doc {
        Doc::parse(json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "2"}}))
        .unwrap()
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}])
    }

    fn outcome(docs: Vec<Doc>, candidate: Doc) -> String {
        let mut index = Index::new(Config::default());
        for doc in docs.into_iter().chain([candidate]) {
            index.apply(Event::Applied(doc));
        }
        let plan = plan(&index, &Key::new("d", "x"), Timestamp::UNIX_EPOCH, 3);
        match plan.actions.as_slice() {
            [Action { write: Write::Bind { node, .. }, .. }] => node.clone(),
            _ => plan.notes[0].message.clone(),
        }
    }

    #[test]
    fn where_a_pod_goes() {
        let taint = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
        let tolerant = json!({"containers": [], "tolerations": [{"key": "gpu", "operator": "Exists"}]});
        let port = json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["b"]}]}]}}});
        let plain = json!({});
        let cases: Vec<(Vec<Doc>, serde_json::Value, &str)> = vec![
            (vec![], json!({"containers": []}), "no nodes available to schedule pods"),
            (vec![node("a", plain.clone())], json!({"containers": []}), "a"),
            (
                vec![node("a", plain.clone()), node("b", plain.clone())],
                json!({"containers": [], "nodeSelector": {"disk": "b"}}),
                "b",
            ),
            (vec![node("a", plain.clone()), node("b", plain.clone())], json!({"containers": [], "affinity": affinity}), "b"),
            (
                vec![node("a", plain.clone())],
                json!({"containers": [], "nodeSelector": {"disk": "b"}}),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ),
            (
                vec![node("a", taint.clone())],
                json!({"containers": []}),
                "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.",
            ),
            (vec![node("a", taint)], tolerant, "a"),
            (
                vec![node("a", json!({"spec": {"unschedulable": true}}))],
                json!({"containers": []}),
                "0/1 nodes are available: 1 node(s) were unschedulable.",
            ),
            (
                vec![node("a", plain.clone())],
                json!({"containers": container("3")}),
                "0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                vec![node("a", plain.clone()), pod("y", json!({"nodeName": "a", "containers": container("1500m")}))],
                json!({"containers": container("600m")}),
                "0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                vec![
                    node("a", plain.clone()),
                    node("b", plain.clone()),
                    pod("y", json!({"nodeName": "a", "containers": container("1")})),
                ],
                json!({"containers": container("500m")}),
                "b",
            ),
            (
                vec![node("a", plain.clone()), pod("y", json!({"nodeName": "a", "containers": port.clone()}))],
                json!({"containers": port}),
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
            ),
        ];
        for (docs, spec, expected) in cases {
            assert_eq!(outcome(docs, pod("x", spec.clone())), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_that_is_being_bound_takes_up_its_room() {
        let mut index = Index::new(Config::default());
        index.apply(Event::Applied(node("a", json!({}))));
        for name in ["x", "y"] {
            index.apply(Event::Applied(pod(name, json!({"containers": container("1500m")}))));
        }
        let first = plan(&index, &Key::new("d", "x"), Timestamp::UNIX_EPOCH, 0);
        index.dispatched(&first.actions[0].write);
        assert!(plan(&index, &Key::new("d", "x"), Timestamp::UNIX_EPOCH, 0).actions.is_empty());
        let second = plan(&index, &Key::new("d", "y"), Timestamp::UNIX_EPOCH, 0);
        assert_eq!(second.notes[0].message, "0/1 nodes are available: 1 Insufficient cpu.");
        index.failed(&first.actions[0].write);
        let third = plan(&index, &Key::new("d", "y"), Timestamp::UNIX_EPOCH, 0);
        assert!(matches!(third.actions[0].write, Write::Bind { .. }));
    }
}
