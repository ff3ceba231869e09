//! Recorded scenarios of kube-controller-manager 1.36, played on these controllers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod memory;

use std::collections::BTreeMap;

use memory::{Cluster, text};
use sealane_api::kinds::{Kind, Subresource, by_resource};
use sealane_api::patch::PatchKind;
use sealane_controllers::Controller;
use serde_json::{Value, json};

const RUN: [Controller; 6] = [
    Controller::EndpointSlice,
    Controller::Endpoints,
    Controller::ReplicaSet,
    Controller::Deployment,
    Controller::StatefulSet,
    Controller::Garbage,
];

struct Target {
    kind: &'static Kind,
    namespace: String,
    name: Option<String>,
    sub: Option<Subresource>,
    query: String,
}

fn target(path: &str) -> Target {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts[0] {
        "api" => ("", parts[1], &parts[2..]),
        _ => (parts[1], parts[2], &parts[3..]),
    };
    let (namespace, rest) =
        if rest[0] == "namespaces" && rest.len() > 2 { (rest[1], &rest[2..]) } else { ("", rest) };
    Target {
        kind: by_resource(group, version, rest[0]).unwrap(),
        namespace: namespace.to_owned(),
        name: rest.get(1).map(|s| (*s).to_owned()),
        sub: rest.get(2).map(|_| Subresource::Status),
        query: query.to_owned(),
    }
}

/// Hashes and generated names differ from run to run; which of them are the same must not.
#[derive(Default)]
struct Names {
    /// Recorded Pod name to the name here.
    pods: BTreeMap<String, String>,
}

impl Names {
    /// The Pod here that plays the recorded one: of a set of the same age, the first that has no part yet.
    fn pod(&mut self, cluster: &Cluster, namespace: &str, recorded: &str, hashes: &[String]) -> String {
        if cluster.api.get("pods", namespace, recorded).is_some() {
            return recorded.to_owned();
        }
        if let Some(known) = self.pods.get(recorded) {
            return known.clone();
        }
        let at = hashes.iter().position(|h| recorded.contains(h.as_str())).expect("a recorded hash");
        let ours = our_hashes(cluster, namespace);
        let taken: Vec<&String> = self.pods.values().collect();
        let pod = cluster
            .pods(namespace)
            .into_iter()
            .map(|p| text(&p, "/metadata/name").to_owned())
            .find(|name| name.contains(&ours[at]) && !taken.contains(&name))
            .expect("a Pod for every recorded one");
        self.pods.insert(recorded.to_owned(), pod.clone());
        pod
    }
}

/// Template hashes in the order in which their sets were made.
fn our_hashes(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let mut sets = cluster.api.list("replicasets", namespace);
    sets.sort_by_key(|s| text(s, "/metadata/uid").to_owned());
    sets.iter().map(|s| text(s, "/metadata/labels/pod-template-hash").to_owned()).collect()
}

/// What is compared of an object: all of it but what differs from run to run.
fn normal(object: &Value, hashes: &[String]) -> Value {
    let mut value = object.clone();
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return value };
    for field in ["uid", "resourceVersion", "managedFields", "creationTimestamp", "selfLink"] {
        meta.remove(field);
    }
    let ordinal = meta.get("labels").is_some_and(|l| l.get("statefulset.kubernetes.io/pod-name").is_some());
    if let Some(base) = meta.get("generateName").and_then(Value::as_str)
        && !ordinal
    {
        meta.insert("name".to_owned(), json!(format!("{base}*")));
    }
    let is_pod = meta.get("ownerReferences").is_some() && value.pointer("/spec/containers").is_some();
    if is_pod {
        // Which of several Pods of a set is which is chance.
        value["metadata"].as_object_mut().unwrap().remove("generation");
        let status = &value["status"];
        let ready = status.pointer("/conditions/0/status").cloned().unwrap_or_default();
        let spec = &value["spec"];
        let (phase, hostname, subdomain) =
            (status["phase"].clone(), spec["hostname"].clone(), spec["subdomain"].clone());
        let image = spec["containers"][0]["image"].clone();
        value["status"] = json!({"phase": phase, "ready": ready});
        value["spec"] = json!({"hostname": hostname, "subdomain": subdomain, "image": image});
    } else if value.pointer("/spec/selector/matchLabels/pod-template-hash").is_some()
        || value.get("addressType").is_some()
    {
        // How many writes it took is not compared.
        value["metadata"].as_object_mut().unwrap().remove("generation");
        if value.pointer("/status/observedGeneration").is_some() {
            value["status"].as_object_mut().unwrap().remove("observedGeneration");
        }
    } else if value.get("data").is_some()
        || value.get("subsets").is_some()
        || value.get("addressType").is_some()
    {
        value["metadata"].as_object_mut().unwrap().remove("generation");
    }
    let mut said = value.to_string();
    for (n, hash) in hashes.iter().enumerate() {
        said = said.replace(hash.as_str(), &format!("HASH{n}"));
    }
    let mut value: Value = serde_json::from_str(&said).unwrap();
    scrub(&mut value);
    value
}

fn scrub(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            for (key, inner) in map.iter_mut() {
                if key == "uid"
                    || key.ends_with("Time")
                    || key == "endpoints.kubernetes.io/last-change-trigger-time"
                {
                    *inner = json!("*");
                }
                scrub(inner);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(scrub),
        _ => {}
    }
}

fn recorded_hashes(steps: &[Value]) -> Vec<String> {
    let mut hashes: Vec<String> = Vec::new();
    for step in steps {
        for item in step.pointer("/response/body/items").and_then(Value::as_array).into_iter().flatten() {
            for label in ["pod-template-hash", "controller.kubernetes.io~1hash"] {
                let hash = text(item, &format!("/metadata/labels/{label}")).to_owned();
                if !hash.is_empty() && !hashes.contains(&hash) {
                    hashes.push(hash);
                }
            }
            let revision = text(item, "/metadata/labels/controller-revision-hash");
            if let Some((_, hash)) = revision.rsplit_once('-')
                && !hashes.iter().any(|h| h == hash)
            {
                hashes.push(hash.to_owned());
            }
        }
    }
    // Sets are listed by name: bring them into the order in which they were made.
    let mut first_seen: Vec<(usize, String)> = hashes
        .into_iter()
        .map(|h| (steps.iter().position(|s| s.to_string().contains(&h)).unwrap_or(usize::MAX), h))
        .collect();
    first_seen.sort();
    first_seen.into_iter().map(|(_, h)| h).collect()
}

fn list_of(cluster: &Cluster, at: &Target) -> Vec<Value> {
    let mut items = cluster.api.list(at.kind.plural, &at.namespace);
    if let Some(selector) = at.query.strip_prefix("labelSelector=kubernetes.io%2Fservice-name%3D") {
        items.retain(|i| text(i, "/metadata/labels/kubernetes.io~1service-name") == selector);
    }
    items
}

fn play(file: &str) {
    let path = format!("{}/../../tests/golden/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let scenario: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let steps = scenario["steps"].as_array().unwrap();
    let namespace = format!("g-{file}");
    let mut cluster = Cluster::new(&RUN).with_namespace(&namespace);
    let theirs = recorded_hashes(steps);
    let mut names = Names::default();
    let mut compared = 0;
    for (n, step) in steps.iter().enumerate() {
        let request = &step["request"];
        let mut at = target(text(request, "/path"));
        let body = request["body"].clone();
        if at.kind.kind == "Pod"
            && let Some(name) = &at.name
        {
            at.name = Some(names.pod(&cluster, &at.namespace, name, &theirs));
        }
        let name = at.name.clone().unwrap_or_default();
        let id = (at.kind.plural, at.namespace.clone(), name.clone());
        match text(request, "/method") {
            "POST" => {
                cluster.api.create(at.kind, &at.namespace, body).unwrap();
            }
            "PATCH" => {
                let how = text(request, "/headers/Content-Type");
                cluster.api.patch(at.kind, &id, PatchKind::of(how).unwrap(), &body, at.sub).unwrap();
            }
            "DELETE" => {
                let mut options = if body.is_null() { json!({}) } else { body };
                if let Some(grace) = at.query.strip_prefix("gracePeriodSeconds=") {
                    options["gracePeriodSeconds"] = json!(grace.parse::<i64>().unwrap());
                }
                cluster.api.delete(at.kind, &id, &options).unwrap();
            }
            "GET" => {
                let answer = &step["response"]["body"];
                if text(answer, "/kind") == "Table" {
                    continue;
                }
                compared += 1;
                let mut ours = our_hashes(&cluster, &at.namespace);
                for revision in cluster.api.list("controllerrevisions", &at.namespace) {
                    ours.push(text(&revision, "/metadata/labels/controller.kubernetes.io~1hash").to_owned());
                }
                let sorted = |mut list: Vec<Value>| {
                    list.sort_by_key(Value::to_string);
                    list
                };
                let strip = |v: &Value| {
                    let mut v = v.clone();
                    v.as_object_mut().unwrap().remove("kind");
                    v.as_object_mut().unwrap().remove("apiVersion");
                    v
                };
                let (expected, got) = match &at.name {
                    Some(name) => {
                        let got = cluster.api.get(at.kind.plural, &at.namespace, name).expect("the object");
                        (vec![normal(&strip(answer), &theirs)], vec![normal(&strip(got), &ours)])
                    }
                    None => {
                        let items = answer["items"].as_array().unwrap();
                        let expected = items.iter().map(|i| normal(i, &theirs)).collect();
                        let got = list_of(&cluster, &at).iter().map(|i| normal(&strip(i), &ours)).collect();
                        (sorted(expected), sorted(got))
                    }
                };
                let show = |list: &Vec<Value>| serde_json::to_string_pretty(list).unwrap();
                assert_eq!(show(&expected), show(&got), "{file}, step {n}: {}", text(request, "/path"));
            }
            other => panic!("{other}"),
        }
        // The recorder waited for rest between its steps, and so do these controllers.
        cluster.settle();
    }
    assert!(compared > 0);
}

#[test]
fn endpoint_controllers() {
    play("endpoint-controllers");
}

#[test]
fn rollout() {
    play("rollout");
}

#[test]
fn stateful() {
    play("stateful");
}
