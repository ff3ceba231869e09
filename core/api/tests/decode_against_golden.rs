//! What bodies become, and how they are refused, against what kube-apiserver answered (`tests/golden`).
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use sealane_api::decode::{self, Format};
use sealane_api::document::{items, text};
use sealane_api::{Kind, defaults, kinds};
use serde_json::{Value, json};

fn golden() -> impl Iterator<Item = (String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    files.filter(|f| f.extension().is_some_and(|e| e == "json")).flat_map(|path| {
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let steps = items(&file["steps"]).to_vec();
        steps.into_iter().enumerate().map(move |(n, step)| (format!("{name} {n}"), step))
    })
}

/// The kind of a path that names a collection or an object, not a subresource.
fn kind_of(path: &str) -> Option<&'static Kind> {
    let mut parts = path.split('?').next()?.trim_start_matches('/').split('/');
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    match rest[..] {
        ["namespaces", _, plural] | ["namespaces", _, plural, _] | [plural] | [plural, _] => {
            kinds::by_resource(group, version, plural)
        }
        _ => None,
    }
}

fn base64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn sent(request: &Value) -> Vec<u8> {
    match (request["text"].as_str(), request["bodyBase64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (_, Some(text)) => base64(text),
        _ => request["body"].to_string().into_bytes(),
    }
}

/// The recordings' bodies have their fields as the file has them, these tests sorted ones.
fn sorted(message: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = message.split("strict decoding error: ").flat_map(|s| s.split(", ")).collect();
    parts.sort_unstable();
    parts
}

#[test]
fn bodies_are_taken_and_refused_as_upstream_does() {
    let (mut taken, mut refused) = (0, 0);
    for (at, step) in golden() {
        let (request, response) = (&step["request"], &step["response"]);
        let path = text(&request["path"]);
        let Some(kind) = kind_of(path) else { continue };
        let format = match text(&request["headers"]["Content-Type"]) {
            "application/json" => Format::Json,
            "application/yaml" => Format::Yaml,
            "application/vnd.kubernetes.protobuf" => Format::Protobuf,
            _ => continue,
        };
        let status = response["status"].as_u64().unwrap_or(0);
        if !matches!(text(&request["method"]), "POST" | "PUT") || status == 405 {
            continue;
        }
        let answer = &response["body"];
        let decodes = ["cannot be handled as", "the object provided is unrecognized"];
        let wanted = Some(text(&answer["message"])).filter(|m| decodes.iter().any(|d| m.contains(d)));
        let strict = path.contains("fieldValidation=Strict");
        let said = match decode::body(kind, &sent(request), format) {
            Err(refusal) => Some(refusal.message),
            Ok((_, problems)) if strict && !problems.is_empty() => Some(format!(
                "{0} in version {1:?} cannot be handled as a {0}: strict decoding error: {2}",
                kind.kind,
                kind.version,
                problems.join(", ")
            )),
            Ok((_, problems)) => {
                if !path.contains("fieldValidation=Ignore") {
                    for problem in problems {
                        let warned = items(&response["warning"])
                            .iter()
                            .map(text)
                            .any(|w| *w == format!("299 - {problem:?}"));
                        assert!(warned, "{at}: {problem}");
                    }
                }
                None
            }
        };
        assert_eq!(said.as_deref().map(sorted), wanted.map(sorted), "{at}");
        if said.is_some() { refused += 1 } else { taken += 1 }
    }
    assert!(taken > 100 && refused == 9, "{taken} {refused}");
}

#[test]
fn problems_stand_in_the_bodys_order() {
    let kind = kinds::by_kind("v1", "ConfigMap").unwrap();
    let body = br#"{"metadata":{"name":"s","nope":1},"data":{"k":"v","k":"w"},"extra":2,"about":3}"#;
    let (_, problems) = decode::body(kind, body, Format::Json).unwrap();
    let wanted = [
        r#"unknown field "metadata.nope""#,
        r#"duplicate field "data.k""#,
        r#"unknown field "extra""#,
        r#"unknown field "about""#,
    ];
    assert_eq!(problems, wanted);
}

/// The same object, read as JSON and as protobuf.
#[test]
fn protobuf_and_json_are_the_same_object() {
    let mut json: HashMap<(String, Value), Value> = HashMap::new();
    let mut compared = 0;
    for (at, step) in golden() {
        let (path, response) = (text(&step["request"]["path"]).to_owned(), &step["response"]);
        let Some(kind) = kind_of(&path) else { continue };
        let body = &response["body"];
        if body["kind"] == kind.kind {
            json.insert(
                (text(&body["metadata"]["name"]).to_owned(), body["metadata"]["resourceVersion"].clone()),
                body.clone(),
            );
        }
        let Some(bytes) = response["bodyBase64"].as_str() else { continue };
        let Ok((mut ours, _)) = decode::body(kind, &base64(bytes), Format::Protobuf) else { continue };
        defaults::apply(kind, &mut ours);
        let key = (text(&ours["metadata"]["name"]).to_owned(), ours["metadata"]["resourceVersion"].clone());
        let Some(theirs) = json.get(&key) else { continue };
        assert_eq!(json!(ours), *theirs, "{at}");
        compared += 1;
    }
    assert!(compared > 4, "{compared}");
}

#[test]
fn values_become_what_go_writes() {
    let pod = |resources: Value| {
        json!({"spec": {"containers": [{"name": "c", "resources": {"limits": resources}}]}}).to_string()
    };
    let cases: &[(Value, Value)] = &[
        (json!({"cpu": "1000m"}), json!({"cpu": "1"})),
        (json!({"cpu": 0.5}), json!({"cpu": "500m"})),
        (json!({"memory": "1024Mi"}), json!({"memory": "1Gi"})),
        (json!({"cpu": null}), json!({"cpu": "0"})),
    ];
    let kind = kinds::by_kind("v1", "Pod").unwrap();
    for (sent, kept) in cases {
        let (value, _) = decode::body(kind, pod(sent.clone()).as_bytes(), Format::Json).unwrap();
        assert_eq!(value["spec"]["containers"][0]["resources"]["limits"], *kept);
    }
    let lease = kinds::by_kind("coordination.k8s.io/v1", "Lease").unwrap();
    let body = r#"{"metadata":{"creationTimestamp":"2026-01-01T02:00:00.9+02:00"},"spec":{"renewTime":"2026-01-01T00:00:00Z"}}"#;
    let (value, _) = decode::body(lease, body.as_bytes(), Format::Json).unwrap();
    assert_eq!(value["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(value["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z");
}

#[test]
fn wrong_values_are_refused() {
    let cases = [
        (
            r#"{"spec":{"replicas":3.0}}"#,
            "json: cannot unmarshal number 3.0 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
        ),
        (
            r#"{"kind":"ReplicaSet","apiVersion":"apps/v1"}"#,
            "converting (v1.ReplicaSet) to (apps.Deployment): unknown conversion",
        ),
        (r#"{"kind":1}"#, "json: cannot unmarshal number into Go struct field .kind of type string"),
        (
            "[]",
            "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct",
        ),
    ];
    let kind = kinds::by_kind("apps/v1", "Deployment").unwrap();
    for (body, why) in cases {
        let refused = decode::body(kind, body.as_bytes(), Format::Json).unwrap_err();
        assert!(refused.code == 400 && refused.message.contains(why), "{}", refused.message);
    }
    let (value, _) = decode::body(kind, b"spec: {replicas: 3.0}", Format::Yaml).unwrap();
    assert_eq!(value["spec"]["replicas"], json!(3));
}
