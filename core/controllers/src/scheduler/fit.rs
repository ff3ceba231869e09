//! Whether a Node takes a Pod, and how gladly.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, NodeSelectorTerm, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::label;
use crate::meta;
use crate::quantity::Quantity;

type Resources = BTreeMap<String, i128>;

/// Why the Node doesn't take the Pod, in the words of upstream's filters; empty: it does. `on`: Pods that run there.
pub(super) fn refusals(pod: &Pod, node: &Node, on: &[&Pod]) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let node_spec = node.spec.clone().unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    let unschedulable = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    // The first filter that refuses ends the search, as upstream: one Node, one reason, but for resources.
    if node_spec.unschedulable == Some(true) && !any_tolerates(tolerations, &unschedulable) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute") && !any_tolerates(tolerations, t);
    if let Some(taint) = node_spec.taints.iter().flatten().find(hard) {
        let value = taint.value.as_deref().unwrap_or("");
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    if !is_selected(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let wanted = host_ports(pod);
    if on.iter().flat_map(|p| host_ports(p)).any(|taken| wanted.iter().any(|w| clash(w, &taken))) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    room(pod, node, on)
}

/// Whether one of the tolerations lets the taint pass (`ToleratesTaint`).
fn any_tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// Whether this toleration lets the taint pass.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |s: &Option<String>| s.as_deref().unwrap_or("").is_empty();
    let effect = empty(&toleration.effect) || toleration.effect.as_deref() == Some(&taint.effect);
    let key = empty(&toleration.key) || toleration.key.as_deref() == Some(&taint.key);
    let value = toleration.operator.as_deref() == Some("Exists")
        || toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("");
    effect && key && value
}

fn is_selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let simple = spec.node_selector.iter().flatten().all(|(k, v)| label(node, k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    simple && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| matches(t, node)))
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    // A term that says nothing takes no Node.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = meta::name(&node.metadata);
    expressions.iter().all(|e| holds(label(node, &e.key), &e.operator, e.values.as_deref().unwrap_or(&[])))
        && fields
            .iter()
            .all(|f| f.key == "metadata.name" && holds(Some(name), &f.operator, f.values.as_deref().unwrap_or(&[])))
}

fn holds(value: Option<&str>, operator: &str, values: &[String]) -> bool {
    let among = value.is_some_and(|v| values.iter().any(|x| x == v));
    let order = || {
        let left: i64 = value?.parse().ok()?;
        let right: i64 = values.first()?.parse().ok()?;
        Some(left.cmp(&right))
    };
    match operator {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => order() == Some(std::cmp::Ordering::Greater),
        "Lt" => order() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Address ("" for all), protocol, number.
type HostPort = (String, String, i32);

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten().filter(|c| is_sidecar(c));
    spec.into_iter().flat_map(|s| &s.containers).chain(sidecars)
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    containers(pod)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let number = p.host_port.or(host_network.then_some(p.container_port)).filter(|n| *n > 0)?;
            let address = p.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            Some((address, p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0.is_empty() || b.0.is_empty())
}

fn of(list: Option<&BTreeMap<String, resource::Quantity>>) -> Resources {
    list.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(&v.0)?.0))).collect()
}

fn requests(container: &Container) -> Resources {
    of(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

fn add(to: &mut Resources, more: &Resources) {
    for (k, v) in more {
        *to.entry(k.clone()).or_default() += v;
    }
}

/// What a Pod needs (`PodRequests`): its containers and sidecars together, or an init container and the sidecars
/// before it where that is more; and its overhead.
fn needs(pod: &Pod) -> Resources {
    let mut total = Resources::new();
    for container in containers(pod) {
        add(&mut total, &requests(container));
    }
    let mut sidecars = Resources::new();
    for container in pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).into_iter().flatten() {
        let mut peak = requests(container);
        if is_sidecar(container) {
            add(&mut sidecars, &peak);
            continue;
        }
        add(&mut peak, &sidecars);
        for (k, v) in peak {
            let held = total.entry(k).or_default();
            *held = (*held).max(v);
        }
    }
    add(&mut total, &of(pod.spec.as_ref().and_then(|s| s.overhead.as_ref())));
    total
}

fn room(pod: &Pod, node: &Node, on: &[&Pod]) -> Vec<String> {
    let allocatable = of(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    let mut why = Vec::new();
    let most = allocatable.get("pods").copied().unwrap_or(0);
    if i128::try_from(on.len() + 1).unwrap_or(i128::MAX) * 1000 > most {
        why.push("Too many pods".to_owned());
    }
    let mut used = Resources::new();
    for other in on {
        add(&mut used, &needs(other));
    }
    for (name, wanted) in needs(pod) {
        let free = allocatable.get(&name).copied().unwrap_or(0) - used.get(&name).copied().unwrap_or(0);
        if wanted > 0 && wanted > free {
            why.push(format!("Insufficient {name}"));
        }
    }
    why
}

/// What a container that asks for nothing is counted as when Nodes are compared: 100m, 200 MB (`GetNonzeroRequests`).
const ASSUMED: [(&str, i128); 2] = [("cpu", 100), ("memory", 200 * 1024 * 1024 * 1000)];

/// Least allocated first: the mean free share of cpu and memory after placing, 0 to 1000; a taint that the Pod would
/// rather avoid and an affinity that it would rather have count too.
pub(super) fn score(pod: &Pod, node: &Node, on: &[&Pod]) -> i64 {
    let allocatable = of(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    let mut free = 0;
    for (name, assumed) in ASSUMED {
        let total = allocatable.get(name).copied().unwrap_or(0);
        let asked = |p: &Pod| {
            let own: i128 = containers(p).map(|c| requests(c).get(name).copied().unwrap_or(assumed)).sum();
            own.max(needs(p).get(name).copied().unwrap_or(0))
        };
        let used: i128 = on.iter().map(|p| asked(p)).sum::<i128>() + asked(pod);
        if total > 0 {
            free += ((total - used).max(0) * 500 / total).clamp(0, 500);
        }
    }
    let spec = pod.spec.as_ref();
    let tolerations = spec.and_then(|s| s.tolerations.as_deref()).unwrap_or(&[]);
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
    let soft = taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !any_tolerates(tolerations, t)).count();
    let preferred: i64 = spec
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
        .filter(|p| matches(&p.preference, node))
        .map(|p| i64::from(p.weight) * 20)
        .sum();
    i64::try_from(free).unwrap_or(0) + preferred - 1000 * i64::try_from(soft).unwrap_or(0)
}
