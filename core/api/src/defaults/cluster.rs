//! Namespaces, Nodes and RBAC.

use serde_json::{Value, json};

use crate::document::{items_mut, map, omit_empty, preset, preset_zero, text};
use crate::quantity;

/// Namespace: the label with its name, `status.phase` (`SetDefaults_Namespace`, `SetDefaults_NamespaceStatus`).
pub fn namespace(object: &mut Value) {
    let name = text(&object["metadata"]["name"]).to_owned();
    map(object, "spec");
    preset_zero(map(object, "status"), "phase", "Active");
    if !name.is_empty() {
        let labels = map(map(object, "metadata"), "labels");
        labels["kubernetes.io/metadata.name"] = json!(name);
    }
}

/// Node: allocatable is what capacity is, quantities in canonical form, the runtime's empty sections.
pub fn node(object: &mut Value) {
    let spec = map(object, "spec");
    omit_empty(spec, &["podCIDR", "podCIDRs", "providerID", "unschedulable", "taints"]);
    let status = map(object, "status");
    for list in ["capacity", "allocatable"] {
        quantities(status, list);
    }
    // SetDefaults_NodeStatus: `allocatable` defaults to `capacity`.
    if status["allocatable"].is_null() && !status["capacity"].is_null() {
        status["allocatable"] = status["capacity"].clone();
    }
    super::condition_times(status, &["lastHeartbeatTime", "lastTransitionTime"]);
    let endpoints = map(status, "daemonEndpoints");
    let kubelet = map(endpoints, "kubeletEndpoint");
    preset(kubelet, "Port", 0);
    let info = map(status, "nodeInfo");
    for key in [
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ] {
        preset(info, key, "");
    }
}

/// A resource list's quantities in canonical form, rounded up to thousandths.
pub fn quantities(owner: &mut Value, list: &str) {
    let Some(fields) = owner.get_mut(list).and_then(Value::as_object_mut) else { return };
    for value in fields.values_mut() {
        if let Some(q) = quantity::read(value) {
            *value = json!(q.to_milli_precision().to_string());
        }
    }
    omit_empty(owner, &[list]);
}

/// Role and ClusterRole: `rules` is written even where it is empty.
pub fn role(object: &mut Value) {
    if object["rules"].is_null() {
        object["rules"] = Value::Null;
    }
    for rule in items_mut(object, "rules") {
        omit_empty(rule, &["apiGroups", "resources", "resourceNames", "nonResourceURLs"]);
    }
}

/// Bindings: the groups of `roleRef` and of subjects (`SetDefaults_RoleBinding`, `SetDefaults_Subject`).
pub fn role_binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    preset_zero(map(object, "roleRef"), "apiGroup", GROUP);
    for subject in items_mut(object, "subjects") {
        if matches!(text(&subject["kind"]), "User" | "Group") {
            preset_zero(subject, "apiGroup", GROUP);
        }
        omit_empty(subject, &["apiGroup", "namespace"]);
    }
    omit_empty(object, &["subjects"]);
}
