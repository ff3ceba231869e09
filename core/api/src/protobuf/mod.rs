//! The API's protobuf (`application/vnd.kubernetes.protobuf`), interpreted from `data/protobuf.json`: a body is
//! `k8s\0` and a `runtime.Unknown` whose `raw` is the object's message.

mod decode;
mod encode;
mod table;
mod zero;

pub use decode::{DecodeError, decode};
pub use encode::{encode, encode_watch_event};
pub use zero::zero;

/// What every body begins with.
const MAGIC: &[u8; 4] = b"k8s\0";
/// Where `ObjectMeta`, `DeleteOptions`, `Status`, … live.
const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1";
const UNKNOWN: &str = "k8s.io.apimachinery.pkg.runtime.Unknown";

/// The message of a kind, e.g. `k8s.io.api.apps.v1.Deployment`.
fn message_name(api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let package = match group {
        "" => "core",
        "apiextensions.k8s.io" => {
            return Some(format!("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.{version}.{kind}"));
        }
        // `rbac.authorization.k8s.io` is `rbac`.
        other => other.split('.').next()?,
    };
    let own = format!("k8s.io.api.{package}.{version}.{kind}");
    if table::message(&own).is_some() {
        return Some(own);
    }
    let meta = format!("{META}.{kind}");
    table::message(&meta).is_some().then_some(meta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn objects_survive_the_round_trip() {
        for object in [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"b": "2", "a": ""}},
                "data": {"k": "v"}, "binaryData": {"b": "AAE="}, "immutable": false}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": "2026-11-21T00:32:37Z"},
                "spec": {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "initialDelaySeconds": 3}}],
                    "volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0},
                "status": {"podIPs": [{"ip": "10.0.0.1"}]}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "managedFields": [
                {"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]},
                "spec": {"replicas": 0, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}}}),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
                "spec": {"renewTime": "2026-11-21T00:32:37.000123Z", "leaseTransitions": -1}}),
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 3},
                "status": {"replicas": 2, "selector": "a=b"}}),
            json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404}),
        ] {
            let bytes = encode(&object).unwrap();
            let mut back = decode(&bytes).unwrap();
            let mut wanted = object.clone();
            prune(&mut back);
            prune(&mut wanted);
            assert_eq!(back, wanted);
        }
    }

    /// Fields that Go writes though they are zero.
    fn prune(value: &mut Value) {
        if let Value::Object(fields) = value {
            fields.values_mut().for_each(prune);
            fields.retain(|k, v| k == "emptyDir" || (v != &json!({}) && v != &json!("") && !v.is_null()));
        } else if let Value::Array(items) = value {
            items.iter_mut().for_each(prune);
        }
    }

    #[test]
    fn recorded_bodies_are_read() {
        let golden = include_str!("../../../../tests/golden/protobuf.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let mut read = 0;
        for step in golden["steps"].as_array().unwrap() {
            // One body is garbage on purpose.
            if step["response"]["status"].as_u64().unwrap() >= 400 {
                continue;
            }
            for side in ["request", "response"] {
                let Some(text) = step[side]["bodyBase64"].as_str() else { continue };
                let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
                let object = decode(&bytes).unwrap_or_else(|e| panic!("{e}: {}", step["request"]));
                assert!(object["kind"].is_string() && object["apiVersion"].is_string(), "{object}");
                let again = decode(&encode(&object).unwrap()).unwrap();
                assert_eq!(again, object);
                read += 1;
            }
        }
        assert!(read > 10, "{read} bodies read");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let mut framed = MAGIC.to_vec();
            framed.extend(&bytes);
            let _ = decode(&framed);
        }

        #[test]
        fn a_damaged_body_is_an_error_or_an_object(at in 0usize..150, bit in 0u8..8) {
            let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {"a": "b"}},
                "spec": {"ports": [{"port": 80, "targetPort": "x"}], "selector": {"a": "b"}}});
            let mut bytes = encode(&object).unwrap().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..at]);
        }
    }
}
