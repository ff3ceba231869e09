//! Services (`SetDefaults_Service` in `pkg/apis/core/v1/defaults.go`).

use serde_json::{Value, json};

use crate::document::{empty, items, items_mut, map, omit_empty, preset, preset_zero, remove, text};

/// Seconds that session affinity by client address holds on, unless said (three hours).
pub const AFFINITY_SECONDS: i64 = 10_800;

/// Fills in a Service. Addresses, address families and node ports are allocated by the registry.
pub fn service(object: &mut Value) {
    let spec = map(object, "spec");
    preset_zero(spec, "sessionAffinity", "None");
    match text(&spec["sessionAffinity"]) {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" => {
            let client = map(map(spec, "sessionAffinityConfig"), "clientIP");
            preset(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
    preset_zero(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        preset_zero(port, "protocol", "TCP");
        if port.get("targetPort").is_none_or(empty) {
            port["targetPort"] = port.get("port").cloned().unwrap_or(json!(0));
        }
        omit_empty(port, &["name", "nodePort"]);
    }
    let kind = text(&spec["type"]).to_owned();
    if externally_accessible(spec) {
        preset_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(&*kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        preset(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        preset(spec, "allocateLoadBalancerNodePorts", true);
    }
    omit_empty(
        spec,
        &[
            "ports",
            "selector",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "publishNotReadyAddresses",
            "ipFamilies",
        ],
    );
    let balancer = map(map(object, "status"), "loadBalancer");
    for ingress in items_mut(balancer, "ingress") {
        if !empty(&ingress["ip"]) {
            preset(ingress, "ipMode", "VIP");
        }
    }
}

/// Whether traffic from outside the cluster can reach it (`service.ExternallyAccessible`).
pub fn externally_accessible(spec: &Value) -> bool {
    match text(&spec["type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !items(&spec["externalIPs"]).is_empty(),
        _ => false,
    }
}

/// Whether it has a cluster address (or is headless): every type but ExternalName.
pub fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(&spec["type"]), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether its ports get node ports.
pub fn needs_node_port(spec: &Value) -> bool {
    match text(&spec["type"]) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

/// Whether it gets a health check's node port.
pub fn needs_health_check_node_port(spec: &Value) -> bool {
    text(&spec["type"]) == "LoadBalancer" && text(&spec["externalTrafficPolicy"]) == "Local"
}
