//! What kube-apiserver's default admission plugins put into a Pod on create: ServiceAccount, Priority,
//! DefaultTolerationSeconds.

use serde_json::{Value, json};

use crate::document::{items, map, preset, preset_zero, text};

/// Where a container finds its ServiceAccount's token.
pub const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that an admitted token lives (an hour and 7 s, so that tools can tell it from others).
pub const TOKEN_SECONDS: i64 = 3607;
/// Seconds that a Pod stays on a Node that is not ready or not reachable.
pub const TOLERATION_SECONDS: i64 = 300;

/// What of a Pod's ServiceAccount counts for its admission.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// `automountServiceAccountToken`, where the account says it.
    pub automount: Option<bool>,
    /// `imagePullSecrets`, null for none.
    pub image_pull_secrets: &'a Value,
}

/// The name of the ServiceAccount that the Pod runs as.
pub fn account_name(pod: &Value) -> &str {
    let name = text(&pod["spec"]["serviceAccountName"]);
    if name.is_empty() { "default" } else { name }
}

/// Fills in a defaulted Pod; `suffix` is five characters of [`crate::names::suffix`] for its token volume.
pub fn admit(pod: &mut Value, account: Account<'_>, suffix: &str) {
    let name = account_name(pod).to_owned();
    let spec = map(pod, "spec");
    spec["serviceAccountName"] = json!(name);
    spec["serviceAccount"] = json!(name);
    if items(&spec["imagePullSecrets"]).is_empty() && !items(account.image_pull_secrets).is_empty() {
        spec["imagePullSecrets"] = account.image_pull_secrets.clone();
    }
    let automount = spec["automountServiceAccountToken"].as_bool().or(account.automount).unwrap_or(true);
    if automount {
        mount_token(spec, &format!("kube-api-access-{suffix}"));
    }
    priority(spec);
    tolerations(spec);
}

/// Copies its Node's zone and region to a Pod that has been given to it, on create or by a binding
/// (PodTopologyLabels, KEP-4742).
pub fn topology_labels(pod: &mut Value, node_labels: &Value) {
    for key in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
        if let Some(value) = node_labels.get(key) {
            map(map(pod, "metadata"), "labels")[key] = value.clone();
        }
    }
}

fn mount_token(spec: &mut Value, volume: &str) {
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in crate::document::items_mut(spec, list) {
            if items(&container["volumeMounts"]).iter().any(|m| text(&m["mountPath"]) == TOKEN_PATH) {
                continue;
            }
            push(
                container,
                "volumeMounts",
                json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}),
            );
            mounted = true;
        }
    }
    if !mounted {
        return;
    }
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]);
    push(spec, "volumes", json!({"name": volume, "projected": {"sources": sources, "defaultMode": 0o644}}));
}

fn push(owner: &mut Value, list: &str, item: Value) {
    match owner[list].as_array_mut() {
        Some(items) => items.push(item),
        None => owner[list] = json!([item]),
    }
}

/// The two built-in classes count; without one the priority is 0.
fn priority(spec: &mut Value) {
    let value = match text(&spec["priorityClassName"]) {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => 0,
    };
    preset(spec, "priority", value);
    preset_zero(spec, "preemptionPolicy", "PreemptLowerPriority");
}

fn tolerations(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = items(&spec["tolerations"]).iter().any(|t| {
            let (of, effect) = (text(&t["key"]), text(&t["effect"]));
            (of == key || of.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            push(
                spec,
                "tolerations",
                json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": TOLERATION_SECONDS}),
            );
        }
    }
}
