//! The recorded patches: each applied to the answer before it gives the next answer, but for what the server adds.

#![allow(clippy::unwrap_used)]

use sealane_api::kinds::by_resource;
use sealane_api::patch::{PatchKind, apply};
use serde_json::Value;

/// What every write changes, or what is filled in by others.
fn bare(mut value: Value) -> Value {
    if let Some(meta) = value["metadata"].as_object_mut() {
        for key in ["managedFields", "resourceVersion", "generation"] {
            meta.remove(key);
        }
    }
    value.as_object_mut().unwrap().remove("status");
    value
}

/// Defaults of items that a patch adds: the registry fills them in afterwards.
fn without_defaults(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for key in [
                "protocol",
                "terminationMessagePath",
                "terminationMessagePolicy",
                "imagePullPolicy",
                "resources",
                "defaultMode",
                "apiVersion",
                "successThreshold",
                "failureThreshold",
                "dnsPolicy",
                "restartPolicy",
                "schedulerName",
                "terminationGracePeriodSeconds",
                "securityContext",
                "deployment.kubernetes.io/revision",
                "periodSeconds",
                "timeoutSeconds",
                "strategy",
            ] {
                fields.remove(key);
            }
            fields.values_mut().for_each(without_defaults);
            fields.retain(|_, v| !v.is_null() && v != &Value::Object(serde_json::Map::new()));
        }
        Value::Array(items) => items.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

#[test]
fn recorded_patches_give_the_recorded_objects() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/patches.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let kind = by_resource("apps", "v1", "deployments").unwrap();
    let mut current = Value::Null;
    let mut compared = 0;
    for step in golden["steps"].as_array().unwrap() {
        let (request, response) = (&step["request"], &step["response"]);
        let ok = response["status"].as_u64().unwrap() < 300;
        if request["method"] == "PATCH" {
            let Some(patch) = PatchKind::of(request["headers"]["Content-Type"].as_str().unwrap()) else {
                continue;
            };
            let body = match request.get("text") {
                Some(text) => text.as_str().unwrap().to_owned(),
                None => request["body"].to_string(),
            };
            let result = apply(kind, patch, &current, body.as_bytes());
            if ok {
                let (mut new, mut wanted) = (bare(result.unwrap()), bare(response["body"].clone()));
                without_defaults(&mut new);
                without_defaults(&mut wanted);
                assert_eq!(new, wanted, "{}", request);
                compared += 1;
            } else if let Err(status) = result {
                assert_eq!(u64::from(status.code), response["status"].as_u64().unwrap(), "{request}");
                assert_eq!(status.message, response["body"]["message"].as_str().unwrap());
                compared += 1;
            }
        }
        if ok {
            current = response["body"].clone();
        }
    }
    assert!(compared >= 15, "{compared} patches compared");
}
