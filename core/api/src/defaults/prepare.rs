//! What upstream's strategies settle before validation (`pkg/registry/*/strategy.go`): a client's
//! `status` does not count outside of the status subresource, allocated fields are carried over.

use serde_json::{Value, json};

use super::service::{
    externally_accessible, needs_cluster_ip, needs_health_check_node_port, needs_node_port,
};
use crate::document::{empty, inherit, int, items, items_mut, map, remove, text};
use crate::quantity::{self, Quantity};

/// `status` is the old object's.
pub fn keep_status(new: &mut Value, old: &Value) {
    inherit(new, old, "status");
}

/// `status` starts empty.
pub fn empty_status(new: &mut Value) {
    new["status"] = json!({});
}

/// ReplicaSet: a status of no replicas.
pub fn replica_set_create(new: &mut Value) {
    new["status"] = json!({"replicas": 0});
}

/// StatefulSet: a status of no replicas.
pub fn stateful_set_create(new: &mut Value) {
    new["status"] = json!({"replicas": 0, "availableReplicas": 0});
}

/// Namespace: active, and `kubernetes` finalizes it.
pub fn namespace_create(new: &mut Value) {
    new["status"] = json!({"phase": "Active"});
    let finalizers = &mut map(new, "spec")["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|f| text(f) == "kubernetes") => {}
        Some(list) => list.push(json!("kubernetes")),
        None => *finalizers = json!(["kubernetes"]),
    }
}

/// Namespace: finalizers change by the finalize subresource alone.
pub fn namespace_update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    let spec = old["spec"].clone();
    inherit(map(new, "spec"), &spec, "finalizers");
}

/// Pod: pending, of a quality of service; not scheduled while it has scheduling gates.
pub fn pod_create(new: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": quality_of_service(&new["spec"])});
    if !items(&new["spec"]["schedulingGates"]).is_empty() {
        status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null}]);
    }
    new["status"] = status;
}

/// `Guaranteed`, `Burstable` or `BestEffort` (`pkg/apis/core/helper/qos`).
pub fn quality_of_service(spec: &Value) -> &'static str {
    let mut sums = [[None::<Quantity>; 2]; 2];
    let mut guaranteed = true;
    for container in ["containers", "initContainers"].iter().flat_map(|list| items(&spec[*list])) {
        for (kind, list) in ["requests", "limits"].iter().enumerate() {
            let mut found = 0;
            for (which, resource) in ["cpu", "memory"].iter().enumerate() {
                let amount = quantity::read(&container["resources"][*list][*resource]);
                if let Some(q) = amount.filter(|q| !q.is_zero() && !q.is_negative()) {
                    sums[kind][which] = Some(sums[kind][which].map_or(q, |sum| sum.plus(q)));
                    found += 1;
                }
            }
            guaranteed &= *list != "limits" || found == 2;
        }
    }
    let [requests, limits] = sums;
    if requests == [None; 2] && limits == [None; 2] {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Service: no status yet; `clusterIP` and `clusterIPs` agree.
pub fn service_create(new: &mut Value) {
    new["status"] = json!({"loadBalancer": {}});
    normalize_cluster_ips(map(new, "spec"), None);
}

/// Service: what was allocated stays where the client leaves it out, and goes with the type that needed it.
pub fn service_update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    let before = &old["spec"];
    let after = map(new, "spec");
    normalize_cluster_ips(after, Some(before));
    patch_allocated(after, before);
    drop_type_dependent(after, before);
}

/// `normalizeClusterIPs` (`pkg/registry/core/service/storage/alloc.go`).
fn normalize_cluster_ips(after: &mut Value, before: Option<&Value>) {
    let ip = after["clusterIP"].clone();
    let first = after["clusterIPs"].get(0).cloned().unwrap_or(Value::Null);
    let Some(before) = before else {
        if !empty(&ip) && items(&after["clusterIPs"]).is_empty() {
            after["clusterIPs"] = json!([ip]);
        }
        return;
    };
    let same = |key: &str| after.get(key).unwrap_or(&Value::Null) == before.get(key).unwrap_or(&Value::Null);
    if !same("clusterIP") {
        // The old field was cleared, or set anew, by a client that does not know the list.
        if empty(&ip) {
            if same("clusterIPs") {
                remove(after, "clusterIPs");
            }
        } else if same("clusterIPs") || items(&after["clusterIPs"]).is_empty() {
            after["clusterIPs"] = json!([ip]);
        }
    } else if empty(&ip) && !first.is_null() && items(&before["clusterIPs"]).is_empty() {
        after["clusterIP"] = first;
    }
}

/// `patchAllocatedValues`: what the client left out is what was allocated.
fn patch_allocated(after: &mut Value, before: &Value) {
    if needs_cluster_ip(before) && needs_cluster_ip(after) {
        if empty(&after["clusterIP"]) {
            inherit(after, before, "clusterIP");
        }
        if items(&after["clusterIPs"]).is_empty() && after["clusterIP"] == before["clusterIP"] {
            inherit(after, before, "clusterIPs");
        }
    }
    // `defaultOnRead` aside, families follow the addresses (`PatchAllocatedValues` in ipallocator).
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if after.get(key).is_none_or(empty) && needs_cluster_ip(before) && needs_cluster_ip(after) {
            inherit(after, before, key);
        }
    }
    if needs_node_port(before) && needs_node_port(after) {
        let mut used: Vec<i64> = items(&after["ports"]).iter().map(|p| int(&p["nodePort"])).collect();
        for port in items_mut(after, "ports") {
            if int(&port["nodePort"]) != 0 {
                continue;
            }
            let was = items(&before["ports"])
                .iter()
                .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"])
                .map_or(0, |p| int(&p["nodePort"]));
            if was != 0 && !used.contains(&was) {
                port["nodePort"] = json!(was);
                used.push(was);
            }
        }
    }
    if needs_health_check_node_port(before)
        && needs_health_check_node_port(after)
        && empty(&after["healthCheckNodePort"])
    {
        inherit(after, before, "healthCheckNodePort");
    }
}

/// `dropTypeDependentFields`: what the old type needed and the new one doesn't, and the client left alone.
fn drop_type_dependent(after: &mut Value, before: &Value) {
    let same = |after: &Value, key: &str| {
        after.get(key).unwrap_or(&Value::Null) == before.get(key).unwrap_or(&Value::Null)
    };
    if needs_cluster_ip(before) && !needs_cluster_ip(after) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(after, key) {
                remove(after, key);
            }
        }
    }
    if needs_node_port(before) && !needs_node_port(after) {
        let same_ports = items(&after["ports"]).iter().all(|p| {
            int(&p["nodePort"]) == 0
                || items(&before["ports"]).iter().any(|q| {
                    q["port"] == p["port"] && q["protocol"] == p["protocol"] && q["nodePort"] == p["nodePort"]
                })
        });
        if same_ports {
            for port in items_mut(after, "ports") {
                remove(port, "nodePort");
            }
        }
    }
    if needs_health_check_node_port(before)
        && !needs_health_check_node_port(after)
        && same(after, "healthCheckNodePort")
    {
        remove(after, "healthCheckNodePort");
    }
    let balanced = |spec: &Value| text(&spec["type"]) == "LoadBalancer";
    if balanced(before) && !balanced(after) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(after, key) {
                remove(after, key);
            }
        }
    }
    if externally_accessible(before) && !externally_accessible(after) && same(after, "externalTrafficPolicy")
    {
        remove(after, "externalTrafficPolicy");
    }
    if needs_cluster_ip(before) && !needs_cluster_ip(after) && same(after, "internalTrafficPolicy") {
        remove(after, "internalTrafficPolicy");
    }
}
