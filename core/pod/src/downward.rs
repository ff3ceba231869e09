//! The downward API: a Pod's own fields and resources as text (`pkg/fieldpath`, `pkg/api/v1/resource`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::quantity;

/// What the node adds to the Pod's object.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// `status.podIP`.
    pub pod_ip: String,
    /// `status.hostIP`.
    pub host_ip: String,
    /// Allocatable cpu, thousandths of a core: the limit of a container without one.
    pub cpu_milli: u64,
    /// Allocatable memory, bytes.
    pub memory: u64,
}

/// The value of `fieldRef.fieldPath`.
///
/// # Errors
/// With upstream's message, where the path is not one that the downward API has.
pub fn field(pod: &Pod, facts: &NodeFacts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let of = |m: &Option<BTreeMap<String, String>>| {
            m.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
        };
        return match map {
            "metadata.annotations" => Ok(of(&meta.annotations)),
            "metadata.labels" => Ok(of(&meta.labels)),
            _ => Err(format!("fieldPath {path:?} does not support subscript")),
        };
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines in key order (`fieldpath.FormatMap`).
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`; `own` is the container that asks, for selectors without a name.
///
/// # Errors
/// Where the container or the resource does not exist.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    facts: &NodeFacts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        None => own,
        Some(name) => spec
            .into_iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|c| c.name == name),
    }
    .ok_or_else(|| format!("container {} not found", named.unwrap_or_default()))?;
    let (list, name) = selector.resource.split_once('.').unwrap_or(("", ""));
    let resources = container.resources.as_ref();
    let amounts = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let stated = amounts.and_then(|a| a.get(name)).and_then(|q| quantity::milli(&q.0));
    let amount = match (stated, list, name) {
        (Some(m), _, _) => m,
        (None, "limits", "cpu") => i128::from(facts.cpu_milli),
        (None, "limits", "memory") => i128::from(facts.memory) * 1000,
        (None, _, "cpu" | "memory" | "ephemeral-storage") => 0,
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().and_then(|d| quantity::milli(&d.0)).filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(1000);
    Ok(((amount + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn pod() -> Pod {
        from_value(json!({
            "metadata": {"name": "web-0", "namespace": "default", "uid": "u",
                "labels": {"app": "web", "b": "x\"y"}, "annotations": {"a.b/c": "d"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields() {
        let facts =
            NodeFacts { pod_ip: "10.244.0.5".into(), host_ip: "10.0.0.1".into(), ..NodeFacts::default() };
        for (path, want) in [
            ("metadata.name", Ok("web-0")),
            ("metadata.labels", Ok("app=\"web\"\nb=\"x\\\"y\"")),
            ("metadata.labels['app']", Ok("web")),
            ("metadata.labels['none']", Ok("")),
            ("metadata.annotations['a.b/c']", Ok("d")),
            ("spec.nodeName", Ok("n1")),
            ("status.podIP", Ok("10.244.0.5")),
            ("status.hostIP", Ok("10.0.0.1")),
            ("status.phase", Err("unsupported fieldPath: status.phase")),
        ] {
            assert_eq!(field(&pod(), &facts, path), want.map(String::from).map_err(String::from), "{path}");
        }
    }

    #[test]
    fn resources() {
        let pod = pod();
        let own = pod.spec.as_ref().map(|s| &s.containers[0]);
        let facts = NodeFacts { cpu_milli: 2000, memory: 1 << 30, ..NodeFacts::default() };
        for (selector, want) in [
            (json!({"resource": "limits.cpu"}), "2"),
            (json!({"resource": "limits.cpu", "divisor": "1m"}), "1500"),
            (json!({"resource": "requests.memory", "divisor": "1Mi"}), "64"),
            (json!({"resource": "limits.memory", "divisor": "1Mi"}), "1024"),
            (json!({"resource": "requests.cpu"}), "0"),
            (json!({"resource": "limits.cpu", "divisor": "0"}), "2"),
        ] {
            let selector = from_value(selector).unwrap();
            assert_eq!(resource(&pod, own, &facts, &selector).as_deref(), Ok(want), "{selector:?}");
        }
        let missing = from_value(json!({"resource": "limits.cpu", "containerName": "x"})).unwrap();
        assert!(resource(&pod, own, &facts, &missing).is_err());
    }
}
