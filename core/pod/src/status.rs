//! A Pod's status from what is known of its containers (`generateAPIPodStatus` of `pkg/kubelet/kubelet_pods.go`,
//! `pkg/kubelet/status/generate.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::plan::{container, finished, restarts};
use crate::quantity;
use crate::record::{Record, Role, State, container_state, terminated};

/// What the node knows of a Pod besides its containers.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// The Pod's address, "" before it has one.
    pub address: String,
    /// The node's address.
    pub host: String,
    /// The namespaces and the network are there.
    pub ready: bool,
    /// When the node first saw the Pod.
    pub started: Option<Timestamp>,
    /// The node ended the Pod: reason and message (`DeadlineExceeded`).
    pub failed: Option<(String, String)>,
    /// Nothing is started again: the Pod was deleted and all of it has ended.
    pub terminal: bool,
}

/// Guaranteed, Burstable or BestEffort (`pkg/apis/core/v1/helper/qos`).
pub fn qos(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let amount = |list: Option<&BTreeMap<String, Quantity>>, name: &str| {
        list.and_then(|l| l.get(name)).and_then(|q| quantity::milli(&q.0)).filter(|m| *m > 0)
    };
    let of = |c: &Container, limit: bool, name: &str| {
        let r = c.resources.as_ref();
        amount(r.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() }), name)
    };
    let names = ["cpu", "memory"];
    let any = all().any(|c| names.iter().any(|n| of(c, true, n).is_some() || of(c, false, n).is_some()));
    if !any {
        return "BestEffort";
    }
    let guaranteed = all().all(|c| {
        names.iter().all(|n| {
            let limit = of(c, true, n);
            limit.is_some() && of(c, false, n).is_none_or(|r| Some(r) == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// `Pending`, `Running`, `Succeeded` or `Failed` (`getPhase`).
pub fn phase(pod: &Pod, records: &[Record]) -> &'static str {
    let main = || records.iter().filter(|r| r.role == Role::Main);
    if finished(pod, records) {
        let bad = records
            .iter()
            .filter(|r| r.role != Role::Sidecar)
            .any(|r| r.ended().is_some_and(|e| e.code != 0));
        // A sidecar that still runs keeps the Pod running (KEP-753).
        return match (records.iter().any(|r| r.is_running()), bad) {
            (true, _) => "Running",
            (false, true) => "Failed",
            (false, false) => "Succeeded",
        };
    }
    let initialized = records.iter().all(|r| match r.role {
        Role::Init => r.ended().is_some_and(|e| e.code == 0),
        Role::Sidecar => r.started || r.ran,
        Role::Main => true,
    });
    let unknown = main().any(|r| !r.ran && matches!(r.state, State::Waiting { .. }));
    if !initialized || unknown { "Pending" } else { "Running" }
}

/// The whole status. `old` is what the API has: conditions of others (PodScheduled, readiness gates) and
/// transition times come from there.
pub fn pod_status(pod: &Pod, records: &[Record], sandbox: &Sandbox, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let statuses = |main: bool| -> Vec<ContainerStatus> {
        let of = records.iter().filter(|r| (r.role == Role::Main) == main);
        of.map(|r| container_status(pod, r)).collect()
    };
    let init = statuses(false);
    let phase = match &sandbox.failed {
        Some(_) => "Failed",
        None if sandbox.terminal => {
            let good = |r: &Record| r.role != Role::Main || r.ended().is_some_and(|e| e.code == 0);
            if records.iter().all(good) { "Succeeded" } else { "Failed" }
        }
        None => phase(pod, records),
    };
    let address = Some(sandbox.address.clone()).filter(|a| !a.is_empty());
    let host = Some(sandbox.host.clone()).filter(|a| !a.is_empty());
    PodStatus {
        conditions: Some(conditions(pod, records, sandbox, phase, &old, now)),
        container_statuses: Some(statuses(true)),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ips: host.clone().map(|ip| vec![HostIP { ip }]),
        host_ip: host,
        pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: address,
        phase: Some(phase.to_owned()),
        reason: sandbox.failed.as_ref().map(|f| f.0.clone()),
        message: sandbox.failed.as_ref().map(|f| f.1.clone()),
        qos_class: Some(old.qos_class.filter(|q| !q.is_empty()).unwrap_or_else(|| qos(pod).to_owned())),
        start_time: old.start_time.or_else(|| sandbox.started.map(Time)),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn container_status(pod: &Pod, record: &Record) -> ContainerStatus {
    let own = container(pod, record);
    let state = match &record.state {
        // kubelet shows an init container that waits to run again as such, not as ended.
        State::Ended(e) if record.starting && restarts(pod, record, e.code) => container_state(&record.state),
        state => container_state(state),
    };
    let ready = match record.role {
        Role::Init => record.ended().is_some_and(|e| e.code == 0),
        Role::Sidecar | Role::Main => record.ready,
    };
    let last = record
        .last
        .as_ref()
        .map(|e| ContainerState { terminated: Some(terminated(e)), ..ContainerState::default() });
    ContainerStatus {
        name: record.name.clone(),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        container_id: Some(record.id.clone()).filter(|id| !id.is_empty()),
        ready,
        started: Some(record.started),
        restart_count: record.restarts,
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        resources: own.and_then(|c| c.resources.clone()),
        ..ContainerStatus::default()
    }
}

type Verdict = (bool, Option<String>, Option<String>);

fn no(reason: &str, message: String) -> Verdict {
    (false, Some(reason.to_owned()), Some(message).filter(|m| !m.is_empty()))
}

const YES: Verdict = (true, None, None);

fn conditions(
    pod: &Pod,
    records: &[Record],
    sandbox: &Sandbox,
    phase: &str,
    old: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let over = matches!(phase, "Succeeded" | "Failed");
    let list = |names: Vec<&str>| format!("[{}]", names.join(" "));
    let not_initialized: Vec<&str> = records
        .iter()
        .filter(|r| match r.role {
            Role::Init => r.ended().is_none_or(|e| e.code != 0),
            Role::Sidecar => !r.started && !over,
            Role::Main => false,
        })
        .map(|r| r.name.as_str())
        .collect();
    let unready: Vec<&str> =
        records.iter().filter(|r| r.role != Role::Init && !r.ready).map(|r| r.name.as_str()).collect();
    let initialized = match (not_initialized.is_empty(), phase) {
        (true, "Succeeded") => (true, Some("PodCompleted".to_owned()), None),
        (true, _) => YES,
        (false, _) => no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: {}", list(not_initialized)),
        ),
    };
    let containers = match (over, phase, unready.is_empty()) {
        (true, "Succeeded", _) => no("PodCompleted", String::new()),
        (true, _, _) => no("PodFailed", String::new()),
        (false, _, true) => YES,
        _ => no("ContainersNotReady", format!("containers with unready status: {}", list(unready))),
    };
    let gate_ok = |gate: &str| old.conditions.iter().flatten().any(|c| c.type_ == gate && c.status == "True");
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref()).into_iter().flatten();
    let missing: Vec<String> = gates
        .filter(|g| !gate_ok(&g.condition_type))
        .map(|g| {
            let known = old.conditions.iter().flatten().any(|c| c.type_ == g.condition_type);
            let what = if known {
                "the status of pod readiness gate"
            } else {
                "corresponding condition of pod readiness gate"
            };
            let tail = if known { "is not \"True\", but False" } else { "does not exist." };
            format!("{what} \"{}\" {tail}", g.condition_type)
        })
        .collect();
    let ready = match (containers.0, missing.is_empty()) {
        (true, true) => YES,
        (true, false) => no("ReadinessGatesNotReady", missing.join(", ")),
        (false, _) => containers.clone(),
    };
    let table = [
        ("PodReadyToStartContainers", (sandbox.ready, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", YES),
    ];
    let mut out: Vec<PodCondition> =
        table.into_iter().map(|(kind, verdict)| condition(pod, kind, verdict, old, now)).collect();
    // What others wrote stays as it is.
    let foreign =
        old.conditions.iter().flatten().filter(|c| !out.iter().any(|o| o.type_ == c.type_)).cloned();
    let foreign: Vec<PodCondition> = foreign.collect();
    out.extend(foreign);
    out
}

fn condition(
    pod: &Pod,
    kind: &str,
    (ok, reason, message): Verdict,
    old: &PodStatus,
    now: Timestamp,
) -> PodCondition {
    let status = if ok { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
