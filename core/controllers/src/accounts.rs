//! What every Namespace has: ServiceAccount `default` and ConfigMap `kube-root-ca.crt`.

use serde_json::json;

use crate::doc::{Doc, Key};
use crate::index::{Index, is_active_namespace};
use crate::plan::{Plan, Write, merge, row};

/// The ConfigMap's name.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const ABOUT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
Kubernetes clusters.";

pub(crate) fn plan_account(index: &Index, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let account = Key::new(&key.name, "default");
    if is_active_namespace(index, &key.name) && index.get("serviceaccounts", &account).is_none() {
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": &*key.name}});
        plan.push(Write::Create { kind: row("v1", "ServiceAccount"), namespace: key.name.to_string(), body });
    }
    plan
}

pub(crate) fn plan_root_ca(index: &Index, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let ca = &index.config.root_ca;
    if ca.is_empty() || !is_active_namespace(index, &key.name) {
        return plan;
    }
    let annotations = json!({"kubernetes.io/description": ABOUT});
    match index.get("configmaps", &Key::new(&key.name, ROOT_CA)) {
        None => {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": ca},
                "metadata": {"name": ROOT_CA, "namespace": &*key.name, "annotations": annotations}});
            plan.push(Write::Create { kind: row("v1", "ConfigMap"), namespace: key.name.to_string(), body });
        }
        Some(Doc::ConfigMap(map)) => {
            if map.data.as_ref().and_then(|d| d.get("ca.crt")) != Some(ca) {
                let body = json!({"metadata": {"annotations": annotations}, "data": {"ca.crt": ca}});
                plan.push(merge(row("v1", "ConfigMap"), &map.metadata, body));
            }
        }
        Some(_) => {}
    }
    plan
}
