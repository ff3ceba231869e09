//! Containers, their ports, variables, mounts, probes and resources (`validateContainers`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{PROTOCOLS, each, not_negative, one_of, port_number, port_number_or_name};
use crate::document::{entries, int, items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::names;
use crate::quantity;

/// What containers share.
pub struct Context<'a> {
    /// The Pod's volumes.
    pub volumes: &'a BTreeSet<&'a str>,
    /// The Pod's grace period in seconds.
    pub grace: i64,
    /// Whether it is in the host's network.
    pub host_network: bool,
}

/// The Pod's containers.
pub fn containers(errors: &mut FieldErrors, containers: &Value, context: &Context<'_>, path: &Path) {
    let containers = items(containers);
    if containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut known = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        common(errors, container, context, &path);
        if !known.insert(text(&container["name"])) {
            errors.push(FieldError::duplicate(&path.child("name"), &container["name"]));
        }
        lifecycle_and_probes(errors, container, context, &path);
    }
    host_ports(errors, containers, path);
}

/// The Pod's init containers, whose names differ from the containers' too.
pub fn init_containers(
    errors: &mut FieldErrors,
    containers: &Value,
    main: &Value,
    context: &Context<'_>,
    path: &Path,
) {
    let mut known: BTreeSet<&str> = items(main).iter().map(|c| text(&c["name"])).collect();
    for (i, container) in items(containers).iter().enumerate() {
        let path = path.index(i);
        common(errors, container, context, &path);
        if !known.insert(text(&container["name"])) {
            errors.push(FieldError::duplicate(&path.child("name"), &container["name"]));
        }
        host_ports(errors, std::slice::from_ref(container), &path);
        let policy = &container["restartPolicy"];
        if text(policy) == "Always" {
            lifecycle_and_probes(errors, container, context, &path);
            continue;
        }
        if !policy.is_null() && !matches!(text(policy), "OnFailure" | "Never") {
            errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !container[key].is_null() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(&path.child(key), detail));
            }
        }
    }
}

fn common(errors: &mut FieldErrors, container: &Value, context: &Context<'_>, path: &Path) {
    let (name, image) = (text(&container["name"]), text(&container["image"]));
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        each(errors, &path.child("name"), &container["name"], &names::dns1123_label(name));
    }
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), &container["image"], detail));
    }
    let policies = &["FallbackToLogsOnError", "File"];
    let at = path.child("terminationMessagePolicy");
    one_of(errors, &at, &container["terminationMessagePolicy"], policies);
    ports(errors, &container["ports"], context, &path.child("ports"));
    for (i, variable) in items(&container["env"]).iter().enumerate() {
        env(errors, variable, &path.child("env").index(i));
    }
    for (i, source) in items(&container["envFrom"]).iter().enumerate() {
        env_from(errors, source, &path.child("envFrom").index(i));
    }
    mounts(errors, &container["volumeMounts"], context, &path.child("volumeMounts"));
    let policies = &["Always", "IfNotPresent", "Never"];
    one_of(errors, &path.child("imagePullPolicy"), &container["imagePullPolicy"], policies);
    resources(errors, &container["resources"], &path.child("resources"));
}

fn ports(errors: &mut FieldErrors, ports: &Value, context: &Context<'_>, path: &Path) {
    let mut known = BTreeSet::new();
    for (i, port) in items(ports).iter().enumerate() {
        let (name, path) = (text(&port["name"]), path.index(i));
        if !name.is_empty() {
            let wrong = names::port_name(name);
            each(errors, &path.child("name"), &port["name"], &wrong);
            if wrong.is_empty() && !known.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), &port["name"]));
            }
        }
        let (number, host) = (int(&port["containerPort"]), int(&port["hostPort"]));
        if number == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            port_number(errors, &path.child("containerPort"), &port["containerPort"]);
        }
        if host != 0 {
            port_number(errors, &path.child("hostPort"), &port["hostPort"]);
            if context.host_network && host != number {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(
                    &path.child("containerPort"),
                    &port["containerPort"],
                    detail,
                ));
            }
        }
        one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
    }
}

/// `AccumulateUniqueHostPorts`
fn host_ports(errors: &mut FieldErrors, containers: &[Value], path: &Path) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in items(&container["ports"]).iter().enumerate() {
            let number = int(&port["hostPort"]);
            let key = format!("{}/{}/{number}", text(&port["protocol"]), text(&port["hostIP"]));
            if number != 0 && !taken.insert(key.clone()) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::duplicate(&at, &json!(key)));
            }
        }
    }
}

fn env(errors: &mut FieldErrors, variable: &Value, path: &Path) {
    let name = text(&variable["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        each(errors, &path.child("name"), &variable["name"], &names::env_var_name(name));
    }
    let (source, path) = (&variable["valueFrom"], path.child("valueFrom"));
    if source.is_null() {
        return;
    }
    let said = entries(source).filter(|(_, v)| !v.is_null()).count();
    if said == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(&path, &json!(""), detail));
    }
    if !text(&variable["value"]).is_empty() && said > 0 {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(&path, &json!(""), detail));
    } else if said > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(&path, &json!(""), detail));
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        let reference = &source[key];
        if !reference.is_null() {
            let path = path.child(key);
            if text(&reference["key"]).is_empty() {
                errors.push(FieldError::required(&path.child("key"), ""));
            } else {
                let wrong = names::config_key(text(&reference["key"]));
                each(errors, &path.child("key"), &reference["key"], &wrong);
            }
        }
    }
    field_reference(errors, &source["fieldRef"], &path.child("fieldRef"));
}

/// Fields that variables may show, and maps of which they may show a key.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn field_reference(errors: &mut FieldErrors, reference: &Value, path: &Path) {
    if reference.is_null() {
        return;
    }
    let field = text(&reference["fieldPath"]);
    let at = path.child("fieldPath");
    let keyed = |map: &str| field.strip_prefix(map).is_some_and(|r| r.starts_with("['") && r.ends_with("']"));
    if field.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !FIELDS.contains(&field) && !keyed("metadata.annotations") && !keyed("metadata.labels") {
        errors.push(FieldError::not_supported(&at, &reference["fieldPath"], FIELDS));
    }
}

fn env_from(errors: &mut FieldErrors, source: &Value, path: &Path) {
    let prefix = text(&source["prefix"]);
    if !prefix.is_empty() {
        each(errors, &path.child("prefix"), &source["prefix"], &names::env_var_name(prefix));
    }
    let mut said = 0;
    for key in ["configMapRef", "secretRef"] {
        if !source[key].is_null() {
            said += 1;
            if text(&source[key]["name"]).is_empty() {
                errors.push(FieldError::required(&path.child(key).child("name"), ""));
            }
        }
    }
    let detail = match said {
        0 => "must specify one of: `configMapRef` or `secretRef`",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, &json!(""), detail));
}

fn mounts(errors: &mut FieldErrors, mounts: &Value, context: &Context<'_>, path: &Path) {
    let mut known = BTreeSet::new();
    for (i, mount) in items(mounts).iter().enumerate() {
        let (name, at, path) = (text(&mount["name"]), text(&mount["mountPath"]), path.index(i));
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if !context.volumes.contains(name) {
            errors.push(FieldError::not_found(&path.child("name"), &json!(name)));
        }
        if at.is_empty() {
            errors.push(FieldError::required(&path.child("mountPath"), ""));
        }
        if !known.insert(at) {
            errors.push(FieldError::invalid(&path.child("mountPath"), &mount["mountPath"], "must be unique"));
        }
        for key in ["subPath", "subPathExpr"] {
            super::volume::descending(errors, &mount[key], &path.child(key));
        }
    }
}

/// `ValidateContainerResourceRequirements`
fn resources(errors: &mut FieldErrors, resources: &Value, path: &Path) {
    for list in ["limits", "requests"] {
        let path = path.child(list);
        for (name, amount) in entries(&resources[list]) {
            let at = path.key(name);
            let wrong = names::qualified_name(name);
            each(errors, &at, &json!(name), &wrong);
            let standard =
                matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if wrong.is_empty() && !name.contains('/') && !standard {
                let detail = "must be a standard resource for containers";
                errors.push(FieldError::invalid(&at, &json!(name), detail));
            }
            let Some(amount) = quantity::read(amount) else { continue };
            if amount.is_negative() {
                let shown = json!(amount.to_string());
                errors.push(FieldError::invalid(&at, &shown, "must be greater than or equal to 0"));
            }
            let limit = quantity::read(&resources["limits"][name]);
            if let Some(limit) = limit.filter(|limit| list == "requests" && amount > *limit) {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&path, &json!(amount.to_string()), &detail));
            }
        }
    }
}

fn lifecycle_and_probes(errors: &mut FieldErrors, container: &Value, context: &Context<'_>, path: &Path) {
    for hook in ["postStart", "preStop"] {
        let said = &container["lifecycle"][hook];
        if !said.is_null() {
            handler(errors, said, context.grace, &path.child("lifecycle").child(hook));
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, path) = (&container[key], path.child(key));
        if probe.is_null() {
            continue;
        }
        handler(errors, probe, context.grace, &path);
        for number in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            not_negative(errors, &path.child(number), &probe[number]);
        }
        let (grace, at) =
            (&probe["terminationGracePeriodSeconds"], path.child("terminationGracePeriodSeconds"));
        if key == "readinessProbe" {
            if !grace.is_null() {
                errors.push(FieldError::invalid(&at, grace, "must not be set for readinessProbes"));
            }
            continue;
        }
        if !grace.is_null() && int(grace) <= 0 {
            errors.push(FieldError::invalid(&at, grace, "must be greater than 0"));
        }
        if int(&probe["successThreshold"]) != 1 {
            let at = path.child("successThreshold");
            errors.push(FieldError::invalid(&at, &probe["successThreshold"], "must be 1"));
        }
    }
}

/// `validateHandler`
fn handler(errors: &mut FieldErrors, handler: &Value, grace: i64, path: &Path) {
    let mut handlers = 0;
    for key in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let (action, path) = (&handler[key], path.child(key));
        if action.is_null() {
            continue;
        }
        handlers += 1;
        if handlers > 1 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        match key {
            "exec" if items(&action["command"]).is_empty() => {
                errors.push(FieldError::required(&path.child("command"), ""));
            }
            "httpGet" => http_get(errors, action, &path),
            "tcpSocket" => port_number_or_name(errors, &path.child("port"), &action["port"]),
            "grpc" => port_number(errors, &path.child("port"), &action["port"]),
            "sleep" => {
                let seconds = &action["seconds"];
                if !(0..=grace).contains(&int(seconds)) {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(&path, seconds, &detail));
                }
            }
            _ => {}
        }
    }
    if handlers == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut FieldErrors, action: &Value, path: &Path) {
    if text(&action["path"]).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    port_number_or_name(errors, &path.child("port"), &action["port"]);
    let scheme = &action["scheme"];
    if !matches!(text(scheme), "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for (i, header) in items(&action["httpHeaders"]).iter().enumerate() {
        let name = text(&header["name"]);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            let at = path.child("httpHeaders").index(i).child("name");
            errors.push(FieldError::invalid(&at, &header["name"], detail));
        }
    }
}
