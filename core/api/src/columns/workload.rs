//! Deployments, ReplicaSets, StatefulSets and ControllerRevisions.

use serde_json::{Value, json};

use super::{AGE, NAME, column, or_none, says};
use crate::document::{int, items, text, truth};
use crate::kinds::Column;
use crate::selector::Selector;

const CONTAINERS: Column =
    column("Containers", "string", 1, says::CONTAINERS, |o, _| of_containers(o, "name"));
const IMAGES: Column = column("Images", "string", 1, says::IMAGES, |o, _| of_containers(o, "image"));

/// Deployment.
pub const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "string", 0, says::WORKLOAD_READY, ready),
    column("Up-to-date", "string", 0, says::DEPLOYMENT_UP_TO_DATE, |o, _| status(o, "updatedReplicas")),
    column("Available", "string", 0, says::DEPLOYMENT_AVAILABLE, |o, _| status(o, "availableReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    column("Selector", "string", 1, says::DEPLOYMENT_SELECTOR, selector),
];

/// ReplicaSet.
pub const REPLICA_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", 0, says::REPLICA_SET_DESIRED, |o, _| json!(int(&o["spec"]["replicas"]))),
    column("Current", "integer", 0, says::REPLICA_SET_CURRENT, |o, _| status(o, "replicas")),
    column("Ready", "integer", 0, says::REPLICA_SET_READY, |o, _| status(o, "readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    column("Selector", "string", 1, says::REPLICA_SET_SELECTOR, selector),
];

/// StatefulSet.
pub const STATEFUL_SET: &[Column] =
    &[NAME, column("Ready", "string", 0, says::WORKLOAD_READY, ready), AGE, CONTAINERS, IMAGES];

/// ControllerRevision.
pub const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    column("Controller", "string", 0, says::REVISION_CONTROLLER, |o, _| json!(controller(o))),
    column("Revision", "string", 0, says::REVISION_NUMBER, |o, _| json!(int(&o["revision"]))),
    AGE,
];

fn ready(object: &Value, _: i64) -> Value {
    json!(format!("{}/{}", int(&object["status"]["readyReplicas"]), int(&object["spec"]["replicas"])))
}

fn status(object: &Value, key: &str) -> Value {
    json!(int(&object["status"][key]))
}

fn selector(object: &Value, _: i64) -> Value {
    // `metav1.FormatLabelSelector`
    json!(match Selector::from_label_selector(&object["spec"]["selector"]) {
        Ok(selector) => or_none(selector.to_string()),
        Err(_) => "<error>".to_owned(),
    })
}

fn of_containers(object: &Value, key: &str) -> Value {
    let containers = items(&object["spec"]["template"]["spec"]["containers"]);
    json!(containers.iter().map(|c| text(&c[key])).collect::<Vec<_>>().join(","))
}

/// `deployment.apps/web`, or `<none>`.
fn controller(object: &Value) -> String {
    let owner = items(&object["metadata"]["ownerReferences"]).iter().find(|o| truth(&o["controller"]));
    owner.map_or_else(
        || "<none>".to_owned(),
        |o| {
            let group = text(&o["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
            let kind = text(&o["kind"]).to_lowercase();
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", text(&o["name"]))
        },
    )
}
