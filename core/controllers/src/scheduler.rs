//! The scheduler: filter the Nodes, take the one with most room and fewest Pods of the same kind (upstream
//! `pkg/scheduler` with its default plugins, those of them that Sealane's Nodes have a use for).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodCondition, PodSpec, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sealane_api::kinds::Subresource;
use sealane_api::quantity::Quantity;
use serde_json::json;

use crate::affinity::Neighbours;
use crate::doc::Key;
use crate::index::{Index, full_name};
use crate::names::Names;
use crate::plan::{Note, Patch, Plan, Write, row};
use crate::spread::Spread;
use crate::{meta, pods};

/// What scores count beside room (`getDefaultPlugins`).
const SPREAD_WEIGHT: i64 = 2;
const NEIGHBOUR_WEIGHT: i64 = 2;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;

/// What a Pod asks for or a Node has, by resource, in thousandths.
type Amounts = BTreeMap<String, i64>;

pub(crate) fn plan(index: &Index, key: &Key, now: Timestamp, random: u64) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = index.pod(key) else { return plan };
    let Some(spec) = &pod.spec else { return plan };
    let name = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    if name != "default-scheduler"
        || gated
        || !pods::node(pod).is_empty()
        || !pods::is_active(pod)
        || index.is_assumed(key)
    {
        return plan;
    }
    let asked = requests(spec);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let (mut taken, mut scores): (Vec<&Node>, Vec<i64>) = Default::default();
    let all: Vec<&Node> = index.nodes().map(|n| &**n).collect();
    let eligible = all.iter().filter(|n| selects(spec, n)).copied().collect();
    let spread = Spread::of(index, key, pod, spec, eligible);
    let neighbours = Neighbours::of(index, pod, &all);
    for node in &all {
        let room = Room::of(index, node);
        let refusal = room
            .refusal(node, spec, &asked)
            .or_else(|| spread.refusal(node).map(|why| vec![why]))
            .or_else(|| neighbours.refusal(node).map(|why| vec![why.to_owned()]));
        match refusal {
            Some(why) => why.into_iter().for_each(|w| *reasons.entry(w).or_default() += 1),
            None => {
                taken.push(node);
                scores.push(room.score(spec, &asked));
            }
        }
    }
    for (weight, more) in [
        (SPREAD_WEIGHT, spread.scores(&taken)),
        (NEIGHBOUR_WEIGHT, neighbours.scores(&taken)),
        (NODE_AFFINITY_WEIGHT, out_of_100(taken.iter().map(|n| liking(spec, n)))),
        (TAINT_WEIGHT, out_of_100(taken.iter().map(|n| -dislikes(spec, n)))),
    ] {
        scores.iter_mut().zip(more).for_each(|(score, more)| *score += weight * more);
    }
    let mut best: Vec<(&Node, i64)> = taken.into_iter().zip(scores).collect();
    let top = best.iter().map(|(_, score)| *score).max();
    best.retain(|(_, score)| Some(*score) == top);
    if best.is_empty() {
        unschedulable(pod, key, all.len(), &reasons, now, &mut plan);
        return plan;
    }
    // Equals are chosen by chance, so that many Pods at once don't meet on one Node.
    let pick = Names::new(random).next() % best.len() as u64;
    let node = meta::name(&best[usize::try_from(pick).unwrap_or(0)].0.metadata).to_owned();
    let message = format!("Successfully assigned {} to {node}", full_name(&pod.metadata));
    let note = Note::normal(meta::reference::<Pod>(&pod.metadata), "Scheduled", message);
    plan.push_noted(Write::Bind { key: key.clone(), uid: meta::uid(&pod.metadata).to_owned(), node }, note);
    plan
}

fn unschedulable(
    pod: &Pod,
    key: &Key,
    nodes: usize,
    reasons: &BTreeMap<String, usize>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let message = if nodes == 0 {
        "no nodes available to schedule pods".to_owned()
    } else {
        let mut list: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
        list.sort();
        format!("0/{nodes} nodes are available: {}.", list.join(", "))
    };
    let held = pods::condition(pod, "PodScheduled");
    let same = held.is_some_and(|c| {
        c.status == "False"
            && c.reason.as_deref() == Some("Unschedulable")
            && c.message.as_ref() == Some(&message)
    });
    if same {
        return;
    }
    let since = held.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.clone()),
        last_transition_time: Some(since.unwrap_or(Time(meta::seconds(now)))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
    let write = Write::Patch {
        kind: row("v1", "Pod"),
        key: key.clone(),
        subresource: Some(Subresource::Status),
        patch: Patch::Strategic,
        body,
    };
    plan.push(write);
    plan.notes.push(Note::warning(meta::reference::<Pod>(&pod.metadata), "FailedScheduling", message));
}

fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let read = |text: &Text| Quantity::parse(&text.0).map_or(0, Quantity::millis);
    list.into_iter().flatten().map(|(name, text)| (name.clone(), read(text))).collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, n) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*n);
    }
}

fn container(c: &Container) -> Amounts {
    amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// What a Pod takes up (`resourcehelper.PodRequests`): its containers together, or the largest init container with the
/// sidecars that run by then, whichever is more; and its overhead.
fn requests(spec: &PodSpec) -> Amounts {
    let mut sum = Amounts::new();
    for c in &spec.containers {
        add(&mut sum, &container(c));
    }
    let mut sidecars = Amounts::new();
    let mut init = Amounts::new();
    for c in spec.init_containers.iter().flatten() {
        let mut peak = sidecars.clone();
        add(&mut peak, &container(c));
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars.clone_from(&peak);
        }
        larger(&mut init, peak);
    }
    add(&mut sum, &sidecars);
    larger(&mut sum, init);
    // Requests for the Pod as a whole stand in the place of its containers'.
    sum.extend(amounts(spec.resources.as_ref().and_then(|r| r.requests.as_ref())));
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

fn larger(to: &mut Amounts, other: Amounts) {
    for (name, n) in other {
        let held = to.entry(name).or_default();
        *held = (*held).max(n);
    }
}

/// Address, protocol and number of a port on the host.
type HostPort = (String, String, i32);

fn host_ports(spec: &PodSpec) -> BTreeSet<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let number = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}

fn collide(a: &HostPort, b: &HostPort) -> bool {
    (a.1.as_str(), a.2) == (b.1.as_str(), b.2) && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0")
}

/// What a Node has and what its Pods take.
struct Room {
    has: Amounts,
    used: Amounts,
    /// With upstream's assumed requests for Pods that state none: scoring spreads those too.
    scored: Amounts,
    pods: i64,
    ports: BTreeSet<HostPort>,
}

/// What Pods that ask for nothing are scored with (`DefaultMilliCPURequest`, `DefaultMemoryRequest`, in thousandths).
const DEFAULTS: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 * 1024 * 1024 * 1000)];

fn with_defaults(spec: &PodSpec, asked: &Amounts) -> Amounts {
    let mut out = asked.clone();
    for (name, each) in DEFAULTS {
        if !out.contains_key(name) {
            out.insert(name.to_owned(), each * i64::try_from(spec.containers.len()).unwrap_or(1));
        }
    }
    out
}

impl Room {
    fn of(index: &Index, node: &Node) -> Self {
        let has = amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
        let mut room =
            Room { has, used: Amounts::new(), scored: Amounts::new(), pods: 0, ports: BTreeSet::new() };
        for pod in index.pods_on(meta::name(&node.metadata)) {
            if let Some(spec) = pod.spec.as_ref().filter(|_| !pods::is_terminal(pod)) {
                let asked = requests(spec);
                add(&mut room.scored, &with_defaults(spec, &asked));
                add(&mut room.used, &asked);
                room.pods += 1;
                room.ports.extend(host_ports(spec));
            }
        }
        room
    }

    /// Why the Node won't do, in upstream's words; the first filter that refuses speaks.
    fn refusal(&self, node: &Node, spec: &PodSpec, asked: &Amounts) -> Option<Vec<String>> {
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
        let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        if cordoned && !tolerations.iter().any(|t| pods::tolerates(t, &cordon)) {
            return Some(vec!["node(s) were unschedulable".to_owned()]);
        }
        let keeps_off =
            |t: &&Taint| t.effect != "PreferNoSchedule" && !tolerations.iter().any(|o| pods::tolerates(o, t));
        if let Some(taint) = taints.iter().find(keeps_off) {
            let value = taint.value.as_deref().unwrap_or("");
            return Some(vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)]);
        }
        if !selects(spec, node) {
            return Some(vec!["node(s) didn't match Pod's node affinity/selector".to_owned()]);
        }
        let wanted = host_ports(spec);
        if wanted.iter().any(|p| self.ports.iter().any(|held| collide(p, held))) {
            return Some(vec!["node(s) didn't have free ports for the requested pod ports".to_owned()]);
        }
        let mut short = Vec::new();
        if self.has.get("pods").is_some_and(|max| (self.pods + 1) * 1000 > *max) {
            short.push("Too many pods".to_owned());
        }
        for (name, n) in asked.iter().filter(|(_, n)| **n > 0) {
            let free = self.has.get(name).copied().unwrap_or(0) - self.used.get(name).copied().unwrap_or(0);
            if *n > free {
                short.push(format!("Insufficient {name}"));
            }
        }
        (!short.is_empty()).then_some(short)
    }

    /// `LeastAllocated` over cpu and memory: 0 to 100.
    fn score(&self, spec: &PodSpec, asked: &Amounts) -> i64 {
        let asked = with_defaults(spec, asked);
        let mut sum = 0;
        let mut count = 0;
        for (name, _) in DEFAULTS {
            let has = i128::from(self.has.get(name).copied().unwrap_or(0));
            if has > 0 {
                let taken = i128::from(self.scored.get(name).copied().unwrap_or(0))
                    + i128::from(asked.get(name).copied().unwrap_or(0));
                sum += i64::try_from((has - taken).max(0) * 100 / has).unwrap_or(0);
                count += 1;
            }
        }
        if count == 0 { 0 } else { sum / count }
    }
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let by_selector = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    by_selector
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_takes(term, labels, node)))
}

fn term_takes(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    // An empty term takes nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| takes(r, labels.get(&r.key).map(String::as_str)))
        && fields
            .iter()
            .all(|r| takes(r, Some(meta::name(&node.metadata)).filter(|_| r.key == "metadata.name")))
}

fn takes(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let among = value.is_some_and(|v| values.iter().any(|x| x == v));
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let pair = number(value).zip(number(values.first().map(String::as_str)));
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => pair.is_some_and(|(held, bound)| held > bound),
        "Lt" => pair.is_some_and(|(held, bound)| held < bound),
        _ => false,
    }
}

/// By how much a Pod likes a Node: the weights of its preferred terms that take it.
fn liking(spec: &PodSpec, node: &Node) -> i64 {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let taken = terms.into_iter().flatten().filter(|t| term_takes(&t.preference, labels, node));
    taken.map(|t| i64::from(t.weight)).sum()
}

/// How many taints of a Node would rather not have a Pod.
fn dislikes(spec: &PodSpec, node: &Node) -> i64 {
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    let unwelcome = taints
        .iter()
        .filter(|t| t.effect == "PreferNoSchedule" && !tolerations.iter().any(|o| pods::tolerates(o, t)));
    i64::try_from(unwelcome.count()).unwrap_or(i64::MAX)
}

/// What counts for Nodes (0 to 100), or against them (-100 to 0), in relation to the most that does
/// (`DefaultNormalizeScore`).
fn out_of_100(raw: impl Iterator<Item = i64>) -> Vec<i64> {
    let raw: Vec<i64> = raw.collect();
    match raw.iter().map(|s| s.abs()).max() {
        Some(most @ 1..) => raw.iter().map(|s| s * 100 / most).collect(),
        _ => raw,
    }
}
