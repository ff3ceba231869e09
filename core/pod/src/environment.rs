//! A container's environment: Services, references, its own variables, in upstream's order
//! (`pkg/kubelet/envvars`, `makeEnvironmentVariables` of `pkg/kubelet/kubelet_pods.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::downward::{self, NodeFacts};
use crate::expand::expand;

/// The objects that a container's environment may refer to.
pub trait References {
    /// A ConfigMap of the Pod's namespace.
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    /// A Secret of the Pod's namespace.
    fn secret(&self, name: &str) -> Option<&Secret>;
}

/// The variables of both forms that `services` give: those of the Pod's namespace where `links` is true, and
/// `default/kubernetes` always. Only Services with a cluster address that are not younger than the Pod count.
pub fn service_variables<'a>(
    pod: &Pod,
    services: impl IntoIterator<Item = &'a Service>,
    links: bool,
) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let born = pod.metadata.creation_timestamp.as_ref();
    let mut out = BTreeMap::new();
    for service in services {
        let meta = &service.metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let at = meta.namespace.as_deref().unwrap_or_default();
        let master = at == "default" && name == "kubernetes";
        if !(master || links && at == namespace) {
            continue;
        }
        let younger = matches!((meta.creation_timestamp.as_ref(), born), (Some(s), Some(p)) if s.0 > p.0);
        if younger && !master {
            continue;
        }
        let spec = service.spec.as_ref();
        let address = spec.and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        if address.is_empty() || address == "None" {
            continue;
        }
        add_service(&mut out, name, address, spec.and_then(|s| s.ports.as_deref()).unwrap_or_default());
    }
    out
}

fn add_service(
    out: &mut BTreeMap<String, String>,
    name: &str,
    address: &str,
    ports: &[k8s_openapi::api::core::v1::ServicePort],
) {
    let upper = |s: &str| s.to_ascii_uppercase().replace('-', "_");
    let prefix = upper(name);
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    out.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    for (i, port) in ports.iter().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let scheme = protocol.to_ascii_lowercase();
        let url = format!("{scheme}://{host}:{number}");
        if i == 0 {
            out.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), number.to_string());
        }
        // The form that Docker's links had.
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        out.insert(format!("{link}_PROTO"), scheme);
        out.insert(format!("{link}_PORT"), number.to_string());
        out.insert(format!("{link}_ADDR"), address.to_owned());
        out.insert(link, url);
    }
}

/// The whole environment of `container` but for what the image brings: `services` under what `envFrom` and `env`
/// say, values expanded in order.
///
/// # Errors
/// With kubelet's message for CreateContainerConfigError, where a reference that is not optional leads nowhere.
pub fn container(
    pod: &Pod,
    container: &Container,
    facts: &NodeFacts,
    services: &BTreeMap<String, String>,
    refs: &impl References,
) -> Result<Vec<(String, String)>, String> {
    let mut out: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| set(&mut out, format!("{prefix}{key}"), value);
        if let Some(r) = &source.config_map_ref {
            match refs.config_map(&r.name) {
                Some(map) => map.data.iter().flatten().for_each(|(k, v)| add(k, v.clone())),
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", r.name)),
            }
        }
        if let Some(r) = &source.secret_ref {
            match refs.secret(&r.name) {
                Some(secret) => {
                    for (k, v) in secret.data.iter().flatten() {
                        add(k, String::from_utf8_lossy(&v.0).into_owned());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", r.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => match referenced(pod, container, facts, source, refs)? {
                Some(value) => value,
                None => continue,
            },
            None => expand(variable.value.as_deref().unwrap_or_default(), |name| {
                out.iter()
                    .find(|(k, _)| k == name)
                    .map(|(_, v)| v.clone())
                    .or_else(|| services.get(name).cloned())
            }),
        };
        set(&mut out, variable.name.clone(), value);
    }
    for (key, value) in services {
        if !out.iter().any(|(k, _)| k == key) {
            out.push((key.clone(), value.clone()));
        }
    }
    Ok(out)
}

fn set(out: &mut Vec<(String, String)>, key: String, value: String) {
    match out.iter_mut().find(|(k, _)| *k == key) {
        Some(entry) => entry.1 = value,
        None => out.push((key, value)),
    }
}

fn referenced(
    pod: &Pod,
    container: &Container,
    facts: &NodeFacts,
    source: &EnvVarSource,
    refs: &impl References,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(f) = &source.field_ref {
        return downward::field(pod, facts, &f.field_path).map(Some);
    }
    if let Some(r) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), facts, r).map(Some);
    }
    if let Some(k) = &source.config_map_key_ref {
        let optional = k.optional == Some(true);
        let Some(map) = refs.config_map(&k.name) else {
            return if optional { Ok(None) } else { Err(format!("configmap {:?} not found", k.name)) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&k.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", k.key, k.name)),
        };
    }
    if let Some(k) = &source.secret_key_ref {
        let optional = k.optional == Some(true);
        let Some(secret) = refs.secret(&k.name) else {
            return if optional { Ok(None) } else { Err(format!("secret {:?} not found", k.name)) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&k.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", k.key, k.name)),
        };
    }
    Err("this node does not know this kind of valueFrom".to_owned())
}

/// ConfigMaps and Secrets that the environment of `container` refers to, by name.
pub fn referenced_objects(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    for names in [&mut maps, &mut secrets] {
        names.sort();
        names.dedup();
    }
    (maps, secrets)
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
