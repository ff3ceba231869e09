//! Pods and Pod specs (`ValidatePodCreate`, `ValidatePodSpec`).

use serde_json::{Value, json};

use super::container::{self, Context};
use super::{address, each, meta, not_negative, one_of, pod_update, volume};
use crate::document::{int, items, text};
use crate::field::{FieldError, FieldErrors, Path};
use crate::kinds::Scope;
use crate::names;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A Pod.
pub fn pod(new: &Value, old: Option<&Value>) -> FieldErrors {
    if let Some(old) = old {
        return pod_update::update(new, old);
    }
    let mut errors = meta::create(new, Scope::Namespaced, names::dns1123_subdomain);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    pod_spec(&mut errors, spec, &path);
    if !items(&spec["ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(&spec["nodeName"]).is_empty() && !items(&spec["schedulingGates"]).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors
}

/// A Pod template: labels, annotations and spec.
pub fn template(errors: &mut FieldErrors, template: &Value, path: &Path) {
    meta::labels(errors, &path.child("labels"), &template["metadata"]["labels"]);
    meta::annotations(errors, &path.child("annotations"), &template["metadata"]["annotations"]);
    pod_spec(errors, &template["spec"], &path.child("spec"));
}

/// A Pod's spec.
pub fn pod_spec(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let grace = int(&spec["terminationGracePeriodSeconds"]);
    let volumes = volume::volumes(errors, &spec["volumes"], &path.child("volumes"));
    let host_network = spec["hostNetwork"] == json!(true);
    let context = Context { volumes: &volumes, grace, host_network };
    container::containers(errors, &spec["containers"], &context, &path.child("containers"));
    let path_of = path.child("initContainers");
    container::init_containers(errors, &spec["initContainers"], &spec["containers"], &context, &path_of);
    not_negative(
        errors,
        &path.child("terminationGracePeriodSeconds"),
        &spec["terminationGracePeriodSeconds"],
    );
    let policies = &["Always", "OnFailure", "Never"];
    one_of(errors, &path.child("restartPolicy"), &spec["restartPolicy"], policies);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(errors, &path.child("dnsPolicy"), &spec["dnsPolicy"], policies);
    meta::labels(errors, &path.child("nodeSelector"), &spec["nodeSelector"]);
    node_affinity(errors, &spec["affinity"]["nodeAffinity"], &path.child("affinity").child("nodeAffinity"));
    dns_config(errors, spec, &path.child("dnsConfig"));
    for (i, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        let of = &gate["conditionType"];
        each(errors, &at, of, &names::qualified_name(text(of)));
    }
    scheduling_gates(errors, &spec["schedulingGates"], &path.child("schedulingGates"));
    spread(errors, &spec["topologySpreadConstraints"], &path.child("topologySpreadConstraints"));
    for (key, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as meta::NameRule),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        if !text(&spec[key]).is_empty() {
            each(errors, &path.child(key), &spec[key], &rule(text(&spec[key])));
        }
    }
    let deadline = &spec["activeDeadlineSeconds"];
    if !deadline.is_null() && !(1..=i64::from(i32::MAX)).contains(&int(deadline)) {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), deadline, &detail));
    }
    tolerations(errors, &spec["tolerations"], &path.child("tolerations"));
    for (i, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        address::ip(errors, &path.child("ip"), &json!(text(&alias["ip"])));
        for (j, name) in items(&alias["hostnames"]).iter().enumerate() {
            let at = path.child("hostnames").index(j);
            each(errors, &at, name, &names::dns1123_subdomain(text(name)));
        }
    }
}

/// `validatePodDNSConfig`
fn dns_config(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let (config, policy) = (&spec["dnsConfig"], text(&spec["dnsPolicy"]));
    if config.is_null() {
        if policy == "None" {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, detail));
        }
        return;
    }
    let servers = items(&config["nameservers"]);
    if policy == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&path.child("nameservers"), detail));
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(&path.child("nameservers"), &config["nameservers"], detail));
    }
    for (i, server) in servers.iter().enumerate() {
        address::ip(errors, &path.child("nameservers").index(i), server);
    }
    let searches = items(&config["searches"]);
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(&path.child("searches"), &config["searches"], detail));
    }
    let length: usize = searches.iter().map(|s| text(s).len()).sum::<usize>() + searches.len().max(1) - 1;
    if length > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(&path.child("searches"), &config["searches"], detail));
    }
    for (i, search) in searches.iter().enumerate() {
        let name = text(search);
        if name == "." {
            continue;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let wrong = names::dns1123_subdomain_with_underscore(name);
        each(errors, &path.child("searches").index(i), search, &wrong);
    }
    for (i, option) in items(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            errors.push(FieldError::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

fn scheduling_gates(errors: &mut FieldErrors, gates: &Value, path: &Path) {
    let gates = items(gates);
    for (i, gate) in gates.iter().enumerate() {
        let at = path.index(i);
        each(errors, &at, &gate["name"], &names::qualified_name(text(&gate["name"])));
        if gates[..i].contains(gate) {
            errors.push(FieldError::duplicate(&at, &gate["name"]));
        }
    }
}

/// `ValidateTolerations`
fn tolerations(errors: &mut FieldErrors, tolerations: &Value, path: &Path) {
    for (i, toleration) in items(tolerations).iter().enumerate() {
        let path = path.index(i);
        let (key, operator) = (text(&toleration["key"]), text(&toleration["operator"]));
        if !key.is_empty() {
            each(errors, &path.child("key"), &toleration["key"], &names::qualified_name(key));
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&path.child("operator"), &json!(operator), detail));
        }
        let seconds = &toleration["tolerationSeconds"];
        if !seconds.is_null() && text(&toleration["effect"]) != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(
                &path.child("effect"),
                &json!(text(&toleration["effect"])),
                detail,
            ));
        }
        let value = text(&toleration["value"]);
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    let at = path.child("operator");
                    errors.push(FieldError::invalid(&at, &toleration["value"], &wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.child("operator"), toleration, detail));
            }
            "Exists" => {}
            _ => {
                let at = path.child("operator");
                errors.push(FieldError::not_supported(&at, &toleration["operator"], &["Equal", "Exists"]));
            }
        }
        let effect = &toleration["effect"];
        if !text(effect).is_empty() && !EFFECTS.contains(&text(effect)) {
            errors.push(FieldError::not_supported(&path.child("effect"), effect, EFFECTS));
        }
    }
}

/// `validateNodeAffinity`: the required terms.
fn node_affinity(errors: &mut FieldErrors, affinity: &Value, path: &Path) {
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_null() {
        return;
    }
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    let terms = items(&required["nodeSelectorTerms"]);
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(&path, detail));
    }
    for (i, term) in terms.iter().enumerate() {
        for (j, expression) in items(&term["matchExpressions"]).iter().enumerate() {
            node_requirement(errors, expression, &path.index(i).child("matchExpressions").index(j));
        }
    }
}

fn node_requirement(errors: &mut FieldErrors, expression: &Value, path: &Path) {
    let values = items(&expression["values"]);
    let (operator, at) = (text(&expression["operator"]), path.child("values"));
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&at, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&at, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&at, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => {
            let at = path.child("operator");
            errors.push(FieldError::invalid(&at, &expression["operator"], "not a valid selector operator"));
        }
    }
    each(errors, &path.child("key"), &expression["key"], &names::qualified_name(text(&expression["key"])));
}

fn spread(errors: &mut FieldErrors, constraints: &Value, path: &Path) {
    for (i, constraint) in items(constraints).iter().enumerate() {
        let path = path.index(i);
        if int(&constraint["maxSkew"]) <= 0 {
            let at = path.child("maxSkew");
            errors.push(FieldError::invalid(&at, &constraint["maxSkew"], "must be greater than zero"));
        }
        if text(&constraint["topologyKey"]).is_empty() {
            errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        let actions = &["DoNotSchedule", "ScheduleAnyway"];
        let action = &constraint["whenUnsatisfiable"];
        if !actions.contains(&text(action)) {
            errors.push(FieldError::not_supported(&path.child("whenUnsatisfiable"), action, actions));
        }
    }
}
