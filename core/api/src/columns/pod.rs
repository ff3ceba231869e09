//! Pods (`printPod` in `pkg/printers/internalversion/printers.go`).

use serde_json::{Value, json};

use super::{AGE, NAME, column, or_none, says};
use crate::document::{int, items, text, truth};
use crate::kinds::Column;
use crate::time;

/// Pod.
pub const POD: &[Column] = &[
    NAME,
    column("Ready", "string", 0, says::POD_READY, |o, now| json!(Summary::of(o, now).ready)),
    column("Status", "string", 0, says::POD_STATUS, |o, now| json!(Summary::of(o, now).status)),
    column("Restarts", "string", 0, says::POD_RESTARTS, |o, now| json!(Summary::of(o, now).restarts)),
    AGE,
    column("IP", "string", 1, says::POD_IP, |o, _| json!(ip(o))),
    column("Node", "string", 1, says::POD_NODE, |o, _| {
        json!(or_none(text(&o["spec"]["nodeName"]).to_owned()))
    }),
    column("Nominated Node", "string", 1, says::POD_NOMINATED_NODE, |o, _| {
        json!(or_none(text(&o["status"]["nominatedNodeName"]).to_owned()))
    }),
    column("Readiness Gates", "string", 1, says::POD_READINESS_GATES, |o, _| json!(readiness_gates(o))),
];

/// Tables mark the rows of Pods that have ended.
pub fn row_conditions(pod: &Value) -> Value {
    let ended = |reason: &str, message: &str| json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
    match text(&pod["status"]["phase"]) {
        "Succeeded" => ended("Succeeded", "The pod has completed successfully."),
        "Failed" => ended("Failed", "The pod failed."),
        _ => Value::Null,
    }
}

fn ip(pod: &Value) -> String {
    let first = text(&pod["status"]["podIPs"][0]["ip"]);
    or_none(if first.is_empty() { text(&pod["status"]["podIP"]) } else { first }.to_owned())
}

fn condition(pod: &Value, of: &str) -> bool {
    items(&pod["status"]["conditions"]).iter().any(|c| text(&c["type"]) == of && text(&c["status"]) == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|g| condition(pod, text(&g["conditionType"]))).count();
    format!("{met}/{}", gates.len())
}

/// The three cells that are worked out together.
struct Summary {
    ready: String,
    status: String,
    restarts: String,
}

/// Restarts, and when the last container ended that was started again.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += int(&container["restartCount"]);
        let ended = time::parse(text(&container["lastState"]["terminated"]["finishedAt"]));
        self.last = self.last.max(ended);
    }
    fn say(&self, now: i64) -> String {
        match self.last {
            Some(at) if self.count != 0 => format!("{} ({} ago)", self.count, time::human(now - at)),
            _ => self.count.to_string(),
        }
    }
}

fn ended_as(ended: &Value) -> String {
    let reason = text(&ended["reason"]);
    if !reason.is_empty() {
        reason.to_owned()
    } else if int(&ended["signal"]) != 0 {
        format!("Signal:{}", int(&ended["signal"]))
    } else {
        format!("ExitCode:{}", int(&ended["exitCode"]))
    }
}

/// Whether the init container of this name runs beside the Pod's own (a sidecar, KEP-753).
fn is_sidecar(pod: &Value, name: &str) -> bool {
    items(&pod["spec"]["initContainers"])
        .iter()
        .any(|c| text(&c["name"]) == name && text(&c["restartPolicy"]) == "Always")
}

impl Summary {
    fn of(pod: &Value, now: i64) -> Self {
        let mut total = items(&pod["spec"]["containers"]).len();
        let status = &pod["status"];
        let (mut restarts, mut sidecars) = (Restarts::default(), Restarts::default());
        let mut ready = 0;
        let mut reason = text(&status["phase"]).to_owned();
        if !text(&status["reason"]).is_empty() {
            reason = text(&status["reason"]).to_owned();
        }
        let gated = items(&status["conditions"])
            .iter()
            .any(|c| text(&c["type"]) == "PodScheduled" && text(&c["reason"]) == "SchedulingGated");
        if gated {
            reason = "SchedulingGated".to_owned();
        }
        total += items(&pod["spec"]["initContainers"])
            .iter()
            .filter(|c| text(&c["restartPolicy"]) == "Always")
            .count();
        let initializing =
            Self::init(pod, &mut restarts, &mut sidecars, &mut ready).inspect(|said| reason.clone_from(said));
        if initializing.is_none() || condition(pod, "Initialized") {
            restarts = sidecars;
            if let Some(said) = Self::main(status, &mut restarts, &mut ready, pod) {
                reason = said;
            }
        }
        if !text(&pod["metadata"]["deletionTimestamp"]).is_empty() {
            reason = if text(&status["reason"]) == "NodeLost" {
                "Unknown".to_owned()
            } else if matches!(text(&status["phase"]), "Failed" | "Succeeded") {
                reason
            } else {
                "Terminating".to_owned()
            };
        }
        Summary { ready: format!("{ready}/{total}"), status: reason, restarts: restarts.say(now) }
    }

    /// What the first init container that is not done says, where there is one.
    fn init(
        pod: &Value,
        restarts: &mut Restarts,
        sidecars: &mut Restarts,
        ready: &mut usize,
    ) -> Option<String> {
        for (i, container) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
            restarts.add(container);
            let sidecar = is_sidecar(pod, text(&container["name"]));
            if sidecar {
                sidecars.add(container);
            }
            let (ended, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
            if !ended.is_null() && int(&ended["exitCode"]) == 0 {
                continue;
            }
            if sidecar && truth(&container["started"]) {
                if truth(&container["ready"]) {
                    *ready += 1;
                }
                continue;
            }
            let waits_for = text(&waiting["reason"]);
            return Some(if !ended.is_null() {
                format!("Init:{}", ended_as(ended))
            } else if !waits_for.is_empty() && waits_for != "PodInitializing" {
                format!("Init:{waits_for}")
            } else {
                format!("Init:{i}/{}", items(&pod["spec"]["initContainers"]).len())
            });
        }
        None
    }

    /// What the containers say, the first of them last; `None` where they say nothing.
    fn main(status: &Value, restarts: &mut Restarts, ready: &mut usize, pod: &Value) -> Option<String> {
        let mut reason = None;
        let mut running = false;
        for container in items(&status["containerStatuses"]).iter().rev() {
            restarts.add(container);
            let state = &container["state"];
            let waits_for = text(&state["waiting"]["reason"]);
            if !waits_for.is_empty() {
                reason = Some(waits_for.to_owned());
            } else if !state["terminated"].is_null() {
                reason = Some(ended_as(&state["terminated"]));
            } else if truth(&container["ready"]) && !state["running"].is_null() {
                running = true;
                *ready += 1;
            }
        }
        // Some ended well while others run on.
        if reason.as_deref() == Some("Completed") && running {
            let said = if condition(pod, "Ready") { "Running" } else { "NotReady" };
            reason = Some(said.to_owned());
        }
        reason
    }
}
