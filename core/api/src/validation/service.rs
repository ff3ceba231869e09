//! Services (`ValidateService`, `ValidateServiceUpdate` in `pkg/apis/core/validation`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{PROTOCOLS, address, each, immutable, meta, one_of, port_number, port_number_or_name};
use crate::defaults::service::{externally_accessible, needs_health_check_node_port};
use crate::document::{empty, int, items, text};
use crate::field::{FieldError, FieldErrors, Path, Reason};
use crate::kinds::Scope;
use crate::names;

const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// The kubelet's port, which no load balancer may expose.
const KUBELET_PORT: i64 = 10_250;

/// A Service, addresses and node ports already allocated.
pub fn service(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(meta::update(new, old));
        once_set(&mut errors, &new["spec"], &old["spec"], "clusterIPs");
        once_set(&mut errors, &new["spec"], &old["spec"], "ipFamilies");
        if balanced(&new["spec"]) && balanced(&old["spec"]) {
            let path = Path::root("spec").child("loadBalancerClass");
            let key = "loadBalancerClass";
            immutable(&mut errors, &path, &new["spec"][key], &old["spec"][key]);
        }
    }
    errors.extend(meta::create(new, Scope::Namespaced, names::dns1123_label));
    let (spec, path) = (&new["spec"], Path::root("spec"));
    if items(&spec["ports"]).is_empty() && !headless(spec) && text(&spec["type"]) != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    by_type(&mut errors, spec, &path);
    let mut port_names = BTreeSet::new();
    for (i, port) in items(&spec["ports"]).iter().enumerate() {
        let several = items(&spec["ports"]).len() > 1;
        self::port(&mut errors, port, several, &mut port_names, &path.child("ports").index(i));
    }
    meta::labels(&mut errors, &path.child("selector"), &spec["selector"]);
    affinity(&mut errors, spec, &path);
    errors.extend(cluster_ips(new));
    for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        let path = path.child("externalIPs").index(i);
        if address::ip(&mut errors, &path, ip) {
            address::not_special(&mut errors, &path, ip);
        }
    }
    one_of(&mut errors, &path.child("type"), &spec["type"], TYPES);
    ports_together(&mut errors, spec, &path.child("ports"));
    load_balancer(&mut errors, spec, &path);
    traffic(&mut errors, spec, &path);
    errors
}

fn balanced(spec: &Value) -> bool {
    text(&spec["type"]) == "LoadBalancer"
}

fn headless(spec: &Value) -> bool {
    let ips = items(&spec["clusterIPs"]);
    ips.len() == 1 && text(&ips[0]) == "None"
}

fn by_type(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let kind = text(&spec["type"]);
    if kind == "LoadBalancer" {
        for (i, port) in items(&spec["ports"]).iter().enumerate() {
            if int(&port["port"]) == KUBELET_PORT {
                let detail =
                    format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                errors.push(FieldError::invalid(&path.child("ports").index(i), &port["port"], &detail));
            }
        }
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && headless(spec) {
        let detail = format!("may not be set to 'None' for {kind} services");
        let at = path.child("clusterIPs").index(0);
        errors.push(FieldError::invalid(&at, &spec["clusterIPs"][0], &detail));
    }
    if kind == "ExternalName" {
        for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if !empty(&spec[key]) {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(&path.child(key), detail));
            }
        }
        let name = text(&spec["externalName"]);
        let name = name.strip_suffix('.').unwrap_or(name);
        let at = path.child("externalName");
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            each(errors, &at, &json!(name), &names::dns1123_subdomain(name));
        }
    }
}

fn port<'a>(
    errors: &mut FieldErrors,
    port: &'a Value,
    several: bool,
    known: &mut BTreeSet<&'a str>,
    path: &Path,
) {
    let name = text(&port["name"]);
    if name.is_empty() {
        if several {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        each(errors, &path.child("name"), &port["name"], &names::dns1123_label(name));
        if !known.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), &port["name"]));
        }
    }
    port_number(errors, &path.child("port"), &json!(int(&port["port"])));
    one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
    port_number_or_name(errors, &path.child("targetPort"), &port["targetPort"]);
    if let Some(protocol) = port["appProtocol"].as_str() {
        each(errors, &path.child("appProtocol"), &port["appProtocol"], &names::qualified_name(protocol));
    }
}

fn affinity(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let affinity = &spec["sessionAffinity"];
    one_of(errors, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let (config, path) = (&spec["sessionAffinityConfig"], path.child("sessionAffinityConfig"));
    match text(affinity) {
        "ClientIP" => {
            let path = path.child("clientIP").child("timeoutSeconds");
            let seconds = &config["clientIP"]["timeoutSeconds"];
            if seconds.is_null() {
                errors.push(FieldError::required(&path, "when session affinity type is ClientIP"));
            } else if !(1..=86_400).contains(&int(seconds)) {
                let detail = "must be greater than 0 and less than 86400";
                errors.push(FieldError::invalid(&path, seconds, detail));
            }
        }
        "None" if !config.is_null() => {
            let detail = "must not be set when session affinity is None";
            errors.push(FieldError::forbidden(&path, detail));
        }
        _ => {}
    }
}

/// `ValidateServiceClusterIPsRelatedFields`: addresses, families and their policy; asked before allocation too,
/// which reports these alone.
pub fn cluster_ips(service: &Value) -> FieldErrors {
    let (spec, path) = (&service["spec"], Path::root("spec"));
    let mut errors = Vec::new();
    if text(&spec["type"]) == "ExternalName" {
        return errors;
    }
    let (ip, ips, ips_path) =
        (text(&spec["clusterIP"]), items(&spec["clusterIPs"]), path.child("clusterIPs"));
    if ip.is_empty() {
        if !ips.is_empty() {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(&ips_path, &spec["clusterIPs"], detail));
        }
    } else if ips.is_empty() {
        errors.push(FieldError::required(&ips_path, ""));
    } else if text(&ips[0]) != ip {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(&ips_path, &spec["clusterIPs"], detail));
    }
    let families = items(&spec["ipFamilies"]);
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        if !matches!(text(family), "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&path, family, &["IPv4", "IPv6"]));
        }
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&path, family));
        }
    }
    let policy = &spec["ipFamilyPolicy"];
    if !policy.is_null() {
        let policies = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(&mut errors, &path.child("ipFamilyPolicy"), policy, policies);
    }
    let before = errors.len();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && text(ip) == "None" {
            if ips.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(&ips_path, &spec["clusterIPs"], detail));
            }
            continue;
        }
        address::ip(&mut errors, &ips_path.index(i), ip);
    }
    let malformed = errors.len() > before;
    if ips.len() > 2 {
        errors.push(FieldError::invalid(&ips_path, &spec["clusterIPs"], "may only hold up to 2 values"));
    }
    if malformed {
        return errors;
    }
    let v6 = |ip: &Value| address::parse(text(ip)).is_some_and(|ip| ip.is_ipv6());
    if ips.len() > 1 && (v6(&ips[0]) == v6(&ips[1]) || ips.len() > 2) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&ips_path, &spec["clusterIPs"], detail));
    }
    if !headless(spec) {
        for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
            let expected = text(family);
            if (expected == "IPv4" && v6(ip)) || (expected == "IPv6" && !v6(ip)) {
                let detail = format!("expected an {expected} value as indicated by `ipFamilies[{i}]`");
                errors.push(FieldError::invalid(&ips_path.index(i), ip, &detail));
            }
        }
    }
    errors
}

/// Node ports and ports that meet one another.
fn ports_together(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let ports = items(&spec["ports"]);
    if text(&spec["type"]) == "ClusterIP" {
        for (i, port) in ports.iter().enumerate() {
            if int(&port["nodePort"]) != 0 {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(&path.index(i).child("nodePort"), detail));
            }
        }
    }
    let meets = |i: usize, key: &str| {
        ports[..i].iter().any(|p| p[key] == ports[i][key] && p["protocol"] == ports[i]["protocol"])
    };
    for (i, port) in ports.iter().enumerate() {
        if int(&port["nodePort"]) != 0 && meets(i, "nodePort") {
            errors.push(FieldError::duplicate(&path.index(i).child("nodePort"), &port["nodePort"]));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if meets(i, "port") {
            // Upstream prints the Go struct that it compares.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                port["protocol"],
                int(&port["port"])
            );
            let message = format!("Duplicate value: {shown}");
            errors.push(FieldError::of(Reason::Duplicate, &path.index(i), message));
        }
    }
}

fn load_balancer(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    let ranges = items(&spec["loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        // Upstream spells this path with a capital.
        let path = path.child("LoadBalancerSourceRanges");
        if !balanced(spec) {
            errors.push(FieldError::forbidden(&path, ONLY_BALANCED));
        }
        for (i, range) in ranges.iter().enumerate() {
            address::cidr(errors, &path.index(i), range);
        }
    }
    let allocate = path.child("allocateLoadBalancerNodePorts");
    match (&spec["allocateLoadBalancerNodePorts"], balanced(spec)) {
        (Value::Null, true) => errors.push(FieldError::required(&allocate, "")),
        (Value::Null, false) | (_, true) => {}
        (_, false) => errors.push(FieldError::forbidden(&allocate, ONLY_BALANCED)),
    }
    let (class, path) = (&spec["loadBalancerClass"], path.child("loadBalancerClass"));
    if !class.is_null() {
        if balanced(spec) {
            each(errors, &path, class, &names::qualified_name(text(class)));
        } else {
            errors.push(FieldError::forbidden(&path, ONLY_BALANCED));
        }
    }
}

fn traffic(errors: &mut FieldErrors, spec: &Value, path: &Path) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let (external, at) = (&spec["externalTrafficPolicy"], path.child("externalTrafficPolicy"));
    if externally_accessible(spec) {
        one_of(errors, &at, external, POLICIES);
    } else if !empty(external) {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&at, external, detail));
    }
    let (check, at) = (&spec["healthCheckNodePort"], path.child("healthCheckNodePort"));
    if needs_health_check_node_port(spec) {
        // Where there is none yet, one is allocated.
        if !empty(check) {
            port_number(errors, &at, check);
        }
    } else if !empty(check) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&at, check, detail));
    }
    let (internal, at) = (&spec["internalTrafficPolicy"], path.child("internalTrafficPolicy"));
    if !internal.is_null() || matches!(text(&spec["type"]), "ClusterIP" | "NodePort" | "LoadBalancer") {
        one_of(errors, &at, internal, POLICIES);
    }
    let distribution = &spec["trafficDistribution"];
    let known = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(said) = distribution.as_str()
        && !known.contains(&said)
    {
        errors.push(FieldError::not_supported(&path.child("trafficDistribution"), distribution, known));
    }
}

/// Addresses and families stay once they are set; a second may come and go
/// (`validateUpgradeDowngradeClusterIPs`, `validateUpgradeDowngradeIPFamilies`).
fn once_set(errors: &mut FieldErrors, new: &Value, old: &Value, key: &str) {
    if text(&new["type"]) == "ExternalName" || text(&old["type"]) == "ExternalName" {
        return;
    }
    let (now, before, path) = (items(&new[key]), items(&old[key]), Path::root("spec").child(key));
    if now.is_empty() && !before.is_empty() {
        let detail = if key == "clusterIPs" {
            "primary clusterIP can not be unset"
        } else {
            "primary ipFamily can not be unset"
        };
        errors.push(FieldError::invalid(&path.index(0), &new[key], detail));
        return;
    }
    for (i, (now, before)) in now.iter().zip(before).enumerate() {
        if now != before {
            errors.push(FieldError::invalid(&path.index(i), &new[key], "may not change once set"));
        }
    }
}
