//! What controllers ask of a Pod (`pkg/api/v1/pod`, `pkg/controller/controller_utils.go`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, Taint, Toleration};

use crate::meta;

/// A condition of a Pod.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Condition Ready is True.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When condition Ready last changed.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")?.last_transition_time.as_ref().map(|t| t.0)
}

/// `status.phase`, "" where unset.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Its processes have ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Marked for deletion.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts as a replica (`IsPodActive`).
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// Ready, and for so long that it counts; otherwise the time from which it will.
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds == 0 {
        return Some(Timestamp::MIN);
    }
    Some(meta::plus_seconds(ready_since(pod)?, i64::from(min_ready_seconds)))
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

/// `spec.nodeName`, "" where unscheduled.
pub(crate) fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// Whether it may stand in endpoints (`endpointutil.ShouldPodBeInEndpoints`).
pub(crate) fn in_endpoints(pod: &Pod, with_terminating: bool) -> bool {
    !is_terminal(pod) && !addresses(pod).is_empty() && (with_terminating || !is_terminating(pod))
}

/// Its addresses, the primary one first.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> =
        status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() {
        status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect()
    } else {
        all
    }
}

/// Whether a toleration takes a taint (`Toleration.ToleratesTaint`).
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let effect = set(&toleration.effect).is_none_or(|e| e == taint.effect);
    let key = set(&toleration.key).is_none_or(|k| k == taint.key);
    let value = toleration.value.as_deref().unwrap_or("");
    let held = taint.value.as_deref().unwrap_or("");
    let number = |text: &str| text.parse::<i64>().ok();
    let by_value = match toleration.operator.as_deref().filter(|o| !o.is_empty()).unwrap_or("Equal") {
        "Exists" => true,
        "Lt" => number(held).zip(number(value)).is_some_and(|(held, bound)| held < bound),
        "Gt" => number(held).zip(number(value)).is_some_and(|(held, bound)| held > bound),
        _ => value == held,
    };
    effect && key && by_value
}
