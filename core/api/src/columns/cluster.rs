//! Namespaces and Nodes.

use serde_json::{Value, json};

use super::{AGE, NAME, column, says};
use crate::document::{entries, items, text, truth};
use crate::kinds::Column;

/// Namespace.
pub const NAMESPACE: &[Column] = &[
    NAME,
    column("Status", "string", 0, says::NAMESPACE_STATUS, |o, _| json!(text(&o["status"]["phase"]))),
    AGE,
];

/// Node.
pub const NODE: &[Column] = &[
    NAME,
    column("Status", "string", 0, says::NODE_STATUS, |o, _| json!(status(o))),
    column("Roles", "string", 0, says::NODE_ROLES, |o, _| json!(roles(o))),
    AGE,
    column("Version", "string", 0, says::NODE_VERSION, |o, _| info(o, "kubeletVersion", "")),
    column("Internal-IP", "string", 1, says::NODE_ADDRESSES, |o, _| address(o, "InternalIP")),
    column("External-IP", "string", 1, says::NODE_ADDRESSES, |o, _| address(o, "ExternalIP")),
    column("OS-Image", "string", 1, says::NODE_OS_IMAGE, |o, _| info(o, "osImage", "<unknown>")),
    column("Kernel-Version", "string", 1, says::NODE_KERNEL, |o, _| info(o, "kernelVersion", "<unknown>")),
    column("Container-Runtime", "string", 1, says::NODE_RUNTIME, |o, _| {
        info(o, "containerRuntimeVersion", "<unknown>")
    }),
];

fn status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).iter().find(|c| text(&c["type"]) == "Ready");
    let mut said = match ready {
        None => "Unknown",
        Some(c) if text(&c["status"]) == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if truth(&node["spec"]["unschedulable"]) {
        said.push_str(",SchedulingDisabled");
    }
    said
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = entries(&node["metadata"]["labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some("") => None,
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(text(value)).filter(|v| !v.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    super::or_none(roles.join(","))
}

fn address(node: &Value, of: &str) -> Value {
    let found = items(&node["status"]["addresses"]).iter().find(|a| text(&a["type"]) == of);
    found.map_or_else(|| json!("<none>"), |a| a["address"].clone())
}

fn info(node: &Value, key: &str, absent: &str) -> Value {
    let said = text(&node["status"]["nodeInfo"][key]);
    json!(if said.is_empty() { absent } else { said })
}
