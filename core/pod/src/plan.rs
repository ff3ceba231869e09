//! What a Pod needs next (`computePodActions` of `pkg/kubelet/kuberuntime/kuberuntime_manager.go`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::backoff::go_duration;
use crate::identity::pod_name;
use crate::record::{Record, Role, State, was_lost};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the container at this place of the records.
    Start(usize),
    /// Stop it: what it was for has ended.
    Stop(usize),
    /// Nothing more will run: the Pod is finished.
    Finish,
    /// Ask again then.
    Wake(Timestamp),
}

/// The container that a record is of.
pub fn container<'a>(pod: &'a Pod, record: &Record) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let list = match record.role {
        Role::Main => &spec.containers,
        Role::Init | Role::Sidecar => spec.init_containers.as_ref()?,
    };
    list.iter().find(|c| c.name == record.name)
}

/// Whether a container that ended so is started again: by its own `restartPolicyRules` and `restartPolicy`
/// (KEP-5307), else the Pod's.
pub fn restarts(pod: &Pod, record: &Record, code: i32) -> bool {
    if record.role == Role::Sidecar {
        return true;
    }
    let own = container(pod, record);
    for rule in own.and_then(|c| c.restart_policy_rules.as_ref()).into_iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let among = codes.values.as_ref().is_some_and(|v| v.contains(&code));
        if among == (codes.operator == "In") && rule.action == "Restart" {
            return true;
        }
    }
    let of_pod = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    let policy = own.and_then(|c| c.restart_policy.as_deref()).or(of_pod).unwrap_or("Always");
    match (policy, record.role) {
        ("Never", _) => false,
        // An init container that succeeded is done whatever the policy.
        ("Always", Role::Main) => true,
        _ => code != 0,
    }
}

/// Whether all that the Pod is for has ended for good.
pub fn finished(pod: &Pod, records: &[Record]) -> bool {
    let over = |r: &Record| r.ended().is_some_and(|e| !restarts(pod, r, e.code));
    let init_failed = records.iter().any(|r| r.role == Role::Init && over(r) && failed(r));
    let mut main = records.iter().filter(|r| r.role == Role::Main).peekable();
    init_failed || main.peek().is_some() && main.all(over)
}

fn failed(r: &Record) -> bool {
    r.ended().is_some_and(|e| e.code != 0)
}

/// What to do now. Records that wait for a restart get their reason (CrashLoopBackOff) here.
pub fn plan(pod: &Pod, records: &mut [Record], now: Timestamp) -> Vec<Action> {
    if finished(pod, records) {
        // Sidecars go last and in reverse order, one at a time (KEP-753).
        return match records.iter().rposition(|r| r.is_running() && r.role != Role::Main) {
            Some(i) if records[i].stopping => Vec::new(),
            Some(i) => vec![Action::Stop(i)],
            None if records.iter().any(|r| r.starting) => Vec::new(),
            None => vec![Action::Finish],
        };
    }
    // Once the Pod has come up, a sidecar that crashes holds nothing up.
    let up = records.iter().any(|r| r.role == Role::Main && r.ran && !r.ended().is_some_and(was_lost));
    let mut actions = Vec::new();
    for (i, record) in records.iter_mut().enumerate() {
        let passed = match record.role {
            Role::Main => true,
            Role::Init => record.ended().is_some_and(|e| e.code == 0),
            Role::Sidecar => up || record.is_running() && record.started,
        };
        let done = record.role == Role::Init && passed;
        if !done && !record.is_running() {
            start_or_wait(pod, record, i, now, &mut actions);
        }
        if !passed {
            // What comes later waits for its turn.
            break;
        }
    }
    actions
}

fn start_or_wait(pod: &Pod, record: &mut Record, at: usize, now: Timestamp, actions: &mut Vec<Action>) {
    if record.starting || record.stopping {
        return;
    }
    if let Some(retry) = record.retry_at.filter(|t| *t > now) {
        return actions.push(Action::Wake(retry));
    }
    let ended = match &record.state {
        State::Ended(e) => Some(e.clone()),
        State::Waiting { reason, .. } if reason == "CrashLoopBackOff" => record.last.clone(),
        _ => None,
    };
    let Some(ended) = ended else { return actions.push(Action::Start(at)) };
    if matches!(record.state, State::Ended(_)) && !restarts(pod, record, ended.code) {
        return;
    }
    let since = ended.finished.unwrap_or(now);
    match record.backoff.until(since).filter(|until| *until > now) {
        Some(until) => {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(record.backoff.delay()),
                record.name,
                pod_name(pod)
            );
            record.wait("CrashLoopBackOff", message);
            actions.push(Action::Wake(until));
        }
        None => {
            record.backoff.attempt(now);
            actions.push(Action::Start(at));
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
