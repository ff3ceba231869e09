//! Updates that must not be stored, and what carries over in those that may: upstream's words by rule.
#![allow(clippy::unwrap_used)]

use sealane_api::{defaults, kinds};
use serde_json::{Value, json};

fn merge(into: &mut Value, patch: &Value) {
    let (Some(fields), Some(patch_fields)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        return;
    };
    for (key, value) in patch_fields {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// An object as stored, after defaults.
fn stored(kind: &str, version: &str, fields: Value) -> Value {
    let row = kinds::by_kind(version, kind).unwrap();
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "uid": "u"}});
    if row.namespaced() {
        object["metadata"]["namespace"] = json!("ns");
    }
    merge(&mut object, &fields);
    defaults::apply(row, &mut object);
    object
}

/// The update that a merge patch makes, and its refusals as `field: message`.
fn patched(old: &Value, patch: &Value) -> (Value, Vec<String>) {
    let row = kinds::by_kind(old["apiVersion"].as_str().unwrap(), old["kind"].as_str().unwrap()).unwrap();
    let mut new = old.clone();
    merge(&mut new, patch);
    defaults::apply(row, &mut new);
    (row.prepare_update)(&mut new, old);
    let mut errors: Vec<String> =
        (row.validate)(&new, Some(old)).iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
    errors.dedup();
    (new, errors)
}

fn service(fields: Value) -> Value {
    let mut spec = json!({"type": "ClusterIP", "ports": [{"port": 80}], "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
    merge(&mut spec, &fields);
    stored("Service", "v1", json!({"spec": spec}))
}

#[test]
fn updates_are_refused_rule_by_rule() {
    let frozen = "field is immutable when `immutable` is set";
    let table: Vec<(Value, Value, Vec<String>)> = vec![
        (
            service(json!({})),
            json!({"spec": {"clusterIP": "None"}}),
            vec!["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set".into()],
        ),
        (
            service(json!({})),
            json!({"spec": {"clusterIP": "10.96.0.8"}}),
            vec!["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set".into()],
        ),
        (service(json!({})), json!({"spec": {"clusterIP": null, "clusterIPs": null}}), vec![]),
        (service(json!({})), json!({"spec": {"type": "NodePort"}}), vec![]),
        (service(json!({})), json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}), vec![]),
        (
            service(json!({})),
            json!({"spec": {"ipFamilies": ["IPv6"]}}),
            vec![
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set".into(),
                "spec.clusterIPs[0]: Invalid value: \"10.96.0.7\": expected an IPv6 value as indicated by `ipFamilies[0]`"
                    .into(),
            ],
        ),
        (
            stored("ConfigMap", "v1", json!({"immutable": true, "data": {"a": "b"}})),
            json!({"immutable": null, "data": {"a": "c"}}),
            vec![format!("immutable: Forbidden: {frozen}"), format!("data: Forbidden: {frozen}")],
        ),
        (
            stored("Secret", "v1", json!({"stringData": {"a": "b"}})),
            json!({"type": "kubernetes.io/ssh-auth"}),
            vec![
                "type: Invalid value: \"kubernetes.io/ssh-auth\": field is immutable".into(),
                "data[ssh-privatekey]: Required value".into(),
            ],
        ),
        (
            stored("ConfigMap", "v1", json!({"metadata": {"deletionTimestamp": "2026-11-21T00:00:00Z"}})),
            json!({"metadata": {"finalizers": ["a.b/c"]}}),
            vec![
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                 found new finalizers []string{\"a.b/c\"}"
                    .into(),
            ],
        ),
        (
            stored("ConfigMap", "v1", json!({})),
            json!({"metadata": {"uid": "other"}}),
            vec!["metadata.uid: Invalid value: \"other\": field is immutable".into()],
        ),
        (
            stored(
                "RoleBinding",
                "rbac.authorization.k8s.io/v1",
                json!({"roleRef": {"kind": "Role", "name": "r"}}),
            ),
            json!({"roleRef": {"name": "s"}}),
            vec![
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"s\"}: \
                 cannot change roleRef"
                    .into(),
            ],
        ),
        (
            stored("Node", "v1", json!({"spec": {"podCIDRs": ["10.244.0.0/24"]}})),
            json!({"spec": {"podCIDRs": ["10.244.1.0/24"]}}),
            vec!["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid".into()],
        ),
        (
            stored("ControllerRevision", "apps/v1", json!({"data": {"a": 1}, "revision": 1})),
            json!({"data": {"a": 2}}),
            vec!["data: Invalid value: {\"a\":2}: field is immutable".into()],
        ),
        (
            stored("Lease", "coordination.k8s.io/v1", json!({})),
            json!({"spec": {"leaseDurationSeconds": 0}}),
            vec!["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0".into()],
        ),
    ];
    for (old, patch, expected) in table {
        assert_eq!(patched(&old, &patch).1, expected, "{patch}");
    }
}

fn pod(fields: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "x:1"}]});
    merge(&mut spec, &fields);
    stored("Pod", "v1", json!({"spec": spec}))
}

#[test]
fn of_a_pods_spec_little_may_change() {
    let image = |image: &str| {
        let mut container = pod(json!({}))["spec"]["containers"][0].clone();
        container["image"] = json!(image);
        json!({"spec": {"containers": [container]}})
    };
    assert_eq!(patched(&pod(json!({})), &image("x:2")).1, [""; 0]);
    assert_eq!(patched(&pod(json!({})), &image("")).1, ["spec.containers[0].image: Required value"]);
    let tolerations = json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}});
    assert_eq!(patched(&pod(json!({})), &tolerations).1, [""; 0]);
    assert_eq!(
        patched(&pod(json!({"activeDeadlineSeconds": 5})), &json!({"spec": {"activeDeadlineSeconds": 6}})).1,
        ["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"]
    );
    let gated = pod(json!({"schedulingGates": [{"name": "a"}]}));
    assert_eq!(patched(&gated, &json!({"spec": {"schedulingGates": null}})).1, [""; 0]);
    let other = json!({"spec": {"schedulingGates": [{"name": "b"}]}});
    assert_eq!(
        patched(&gated, &other).1,
        ["spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'b'"]
    );
    let refused = patched(&pod(json!({})), &json!({"spec": {"nodeName": "n"}})).1;
    assert!(
        refused[0].starts_with("spec: Forbidden: pod updates may not change fields other than"),
        "{refused:?}"
    );
}

#[test]
fn what_was_allocated_carries_over() {
    let node = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    // A client that knows nothing of allocated fields sends its manifest again.
    let manifest = json!({"spec": {"clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
        "ports": [{"port": 80, "targetPort": 8080}]}});
    let (new, errors) = patched(&node, &manifest);
    assert_eq!(errors, [""; 0]);
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
    assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    // A type without node ports drops them; one without an address drops that.
    let (new, errors) = patched(&node, &json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!((errors, &new["spec"]["ports"][0]["nodePort"]), (vec![], &Value::Null));
    assert!(new["spec"].get("externalTrafficPolicy").is_none());
    let (new, errors) = patched(&node, &json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}));
    assert_eq!(errors, [""; 0]);
    assert!(new["spec"].get("clusterIP").is_none() && new["spec"].get("internalTrafficPolicy").is_none());
    // Status is the status subresource's.
    let (new, _) = patched(&node, &json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}));
    assert_eq!(new["status"], node["status"]);
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let of = |resources: Value| {
        let pod = pod(json!({"containers": [{"name": "c", "image": "x", "resources": resources}]}));
        defaults::prepare::quality_of_service(&pod["spec"]).to_owned()
    };
    assert_eq!(of(json!({})), "BestEffort");
    assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(of(json!({"limits": {"cpu": "1"}})), "Burstable");
    assert_eq!(of(json!({"requests": {"cpu": "0"}})), "BestEffort");
}
