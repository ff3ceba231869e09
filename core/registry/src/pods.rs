//! What is particular about Pods: admission, binding, eviction.

use sealane_api::defaults::pod_admission::{self, Account};
use sealane_api::document::{items, map, text};
use sealane_api::{Kind, Object, Status, names, time};
use serde_json::{Value, json};

use crate::{Context, Result};

/// ServiceAccount admission and what else upstream puts into a created Pod.
pub(crate) fn admit(kind: &Kind, pod: &mut Value, context: &Context<'_>) -> Result<()> {
    let name = text(&pod["metadata"]["name"]).to_owned();
    // A mirror Pod is the node's own and has no account.
    let mirror = pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some();
    if !mirror {
        let account = pod_admission::account_name(pod).to_owned();
        let Some(found) = context.service_account else {
            let namespace = text(&pod["metadata"]["namespace"]);
            return Err(Status::forbidden(
                kind,
                &name,
                &format!(
                    "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
                ),
            ));
        };
        let secrets = found.get(&["imagePullSecrets"]).cloned().unwrap_or_default();
        let automount = found.get(&["automountServiceAccountToken"]).and_then(Value::as_bool);
        let account = Account { automount, image_pull_secrets: &secrets };
        pod_admission::admit(pod, account, &names::suffix(&context.suffix));
    }
    if let Some(node) = context.node {
        let labels = node.get(&["metadata", "labels"]).cloned().unwrap_or_default();
        pod_admission::topology_labels(pod, &labels);
    }
    Ok(())
}

/// A Pod bound to a node (`pkg/registry/core/pod/storage/storage.go`, `assignPod`).
///
/// # Errors
/// 409 where it has a node already or is on its way out.
pub fn bind(kind: &Kind, pod: &Object, node: &str, context: &Context<'_>) -> Result<Value> {
    let conflict = |why: String| Err(Status::conflict(kind, pod.name(), &why));
    if pod.is_terminating() {
        return conflict(format!("pod {} is being deleted, cannot be assigned to a host", pod.name()));
    }
    let current = pod.str(&["spec", "nodeName"]);
    if !current.is_empty() {
        return conflict(format!("pod {} is already assigned to node {current:?}", pod.name()));
    }
    let mut new = pod.to_value();
    map(&mut new, "spec")["nodeName"] = json!(node);
    let mut conditions: Vec<Value> = items(&new["status"]["conditions"]).to_vec();
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": time::format(context.now)}));
    map(&mut new, "status")["conditions"] = json!(conditions);
    if let Some(node) = context.node {
        let labels = node.get(&["metadata", "labels"]).cloned().unwrap_or_default();
        pod_admission::topology_labels(&mut new, &labels);
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_api::kinds::by_kind;

    #[test]
    fn a_pod_is_bound_once() {
        let kind = by_kind("v1", "Pod").unwrap();
        let pod = Object::new(json!({"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending"}}));
        let bound = bind(kind, &pod, "n1", &Context { now: 5, ..Context::default() }).unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        assert_eq!(bind(kind, &Object::new(bound), "n2", &Context::default()).unwrap_err().code, 409);
    }
}
