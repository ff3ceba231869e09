//! Defaults, refusals and tables against what kube-apiserver answered (`tests/golden`).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use sealane_api::columns::{self, Include};
use sealane_api::defaults::pod_admission::{self, Account};
use sealane_api::document::{items, remove, text};
use sealane_api::field::FieldErrors;
use sealane_api::{Kind, Object, Status, defaults, document, kinds, selector, time};
use serde_json::{Value, json};

fn scenario(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(format!("{name}.json"));
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    items(&file["steps"]).to_vec()
}

/// The row of a request's path.
fn kind_of(path: &str) -> Option<&'static Kind> {
    let path = path.split('?').next()?.trim_start_matches('/');
    let mut parts = path.split('/');
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let plural = match rest[..] {
        ["namespaces", _, plural, ..] => plural,
        [plural, ..] => plural,
        [] => return None,
    };
    kinds::by_resource(group, version, plural)
}

fn namespace_of(path: &str) -> Option<&str> {
    path.split("/namespaces/").nth(1)?.split(['/', '?']).next()
}

/// What the registry fills in, taken from the answer: compared are the rest's defaults.
fn fill_in(kind: &Kind, made: &mut Value, answer: &Value) {
    for key in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        if let Some(value) = answer["metadata"].get(key) {
            made["metadata"][key] = value.clone();
        }
    }
    if kind.kind == "Service" {
        for key in ["clusterIP", "clusterIPs"] {
            if let Some(value) = answer["spec"].get(key).filter(|_| made["spec"].get(key).is_none()) {
                made["spec"][key] = value.clone();
            }
        }
        let ports = items(&answer["spec"]["ports"]).to_vec();
        for (port, said) in document::items_mut(&mut made["spec"], "ports").zip(ports) {
            if let Some(node) = said.get("nodePort").filter(|_| port.get("nodePort").is_none()) {
                port["nodePort"] = node.clone();
            }
        }
    }
    if kind.kind == "Pod" {
        let volume = items(&answer["spec"]["volumes"]).last().map_or("", |v| text(&v["name"]));
        let suffix = volume.strip_prefix("kube-api-access-").unwrap_or("");
        let account = Account { automount: None, image_pull_secrets: &Value::Null };
        pod_admission::admit(made, account, suffix);
        if made["spec"]["nodeName"] == "n1" {
            pod_admission::topology_labels(made, &json!({"topology.kubernetes.io/zone": "zone-a", "x": "y"}));
        }
    }
}

fn prepared(kind: &Kind, request: &Value) -> Value {
    let mut made = request["body"].clone();
    if kind.namespaced() {
        made["metadata"]["namespace"] = json!(namespace_of(text(&request["path"])).unwrap());
    }
    defaults::apply(kind, &mut made);
    (kind.prepare_create)(&mut made);
    made
}

/// What allocation refuses before validation is asked.
fn families(kind: &Kind, made: &mut Value) -> FieldErrors {
    if kind.kind == "Service" { defaults::service_families::settle(made, &["IPv4"]) } else { Vec::new() }
}

/// Where two documents differ.
fn differences(at: &str, made: &Value, said: &Value) -> Vec<String> {
    match (made, said) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter()
                .flat_map(|k| match (a.get(k), b.get(k)) {
                    (Some(a), Some(b)) => differences(&format!("{at}.{k}"), a, b),
                    (a, b) => vec![format!("{at}.{k}: made {a:?}, upstream {b:?}")],
                })
                .collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .flat_map(|(i, (a, b))| differences(&format!("{at}[{i}]"), a, b))
            .collect(),
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![format!("{at}: made {a}, upstream {b}")],
    }
}

fn is_create(step: &Value) -> Option<&'static Kind> {
    let request = &step["request"];
    let path = text(&request["path"]);
    let plain = path.split('?').next().unwrap_or("");
    let kind = kind_of(path)?;
    (text(&request["method"]) == "POST" && plain.ends_with(kind.plural) && request["body"].is_object())
        .then_some(kind)
}

#[test]
fn creates_are_defaulted_as_upstream_does() {
    let mut compared = 0;
    for name in [
        "service-defaults",
        "workload-defaults",
        "pod-defaults-and-refusals",
        "endpoints-and-slices",
        "namespaces",
        "service-invalid",
        "pod-table",
        "errors",
        "reading",
        "rollout",
        "stateful",
        "endpoint-controllers",
        "apply",
        "patches",
        "protobuf",
        "watching",
    ] {
        for (i, step) in scenario(name).iter().enumerate() {
            let Some(kind) = is_create(step).filter(|_| step["response"]["status"] == 201) else { continue };
            let answer = &step["response"]["body"];
            if text(&answer["kind"]) != kind.kind || text(&step["request"]["path"]).contains('?') {
                continue;
            }
            if text(&step["request"]["body"]["metadata"]["name"]).is_empty() {
                continue;
            }
            let mut made = prepared(kind, &step["request"]);
            assert_eq!(families(kind, &mut made), [], "{name} step {i}");
            fill_in(kind, &mut made, answer);
            // Fields that no kind has are dropped when a body is decoded.
            remove(&mut made, "a");
            remove(&mut made, "extra");
            assert_eq!(differences("", &made, answer), [""; 0], "{name} step {i}");
            assert_eq!((kind.validate)(&made, None), [], "{name} step {i}");
            let warned: Vec<String> = items(&step["response"]["warning"])
                .iter()
                .map(|w| text(w).to_owned())
                .filter(|w| !w.contains("unknown field"))
                .collect();
            let said: Vec<String> = kind
                .deprecated
                .map(str::to_owned)
                .into_iter()
                .chain((kind.warnings)(&made, None))
                .map(|w| format!("299 - {w:?}"))
                .collect();
            assert_eq!(said, warned, "{name} step {i}");
            compared += 1;
        }
    }
    assert!(compared >= 52, "{compared}");
}

/// Refusals of the registry's (allocation), not of validation.
fn by_registry(message: &str) -> bool {
    message.contains("failed to allocate") || message.contains("provided port")
}

#[test]
fn creates_are_refused_in_upstreams_words() {
    let mut compared = 0;
    for name in [
        "service-invalid",
        "errors",
        "pod-defaults-and-refusals",
        "workload-defaults",
        "endpoints-and-slices",
        "namespaces",
    ] {
        for (i, step) in scenario(name).iter().enumerate() {
            let Some(kind) = is_create(step).filter(|_| step["response"]["status"] == 422) else { continue };
            let answer = &step["response"]["body"];
            let message = text(&answer["message"]);
            if by_registry(message) || text(&answer["details"]["kind"]) != kind.kind {
                continue;
            }
            let mut made = prepared(kind, &step["request"]);
            if kind.kind == "Pod" {
                let account = Account { automount: Some(false), image_pull_secrets: &Value::Null };
                pod_admission::admit(&mut made, account, "abcde");
            }
            let mut errors = families(kind, &mut made);
            if errors.is_empty() {
                errors = (kind.validate)(&made, None);
            }
            let status = Status::invalid(kind, text(&made["metadata"]["name"]), &errors);
            assert_eq!(status.to_value(), *answer, "{name} step {i}");
            compared += 1;
        }
    }
    assert!(compared >= 73, "{compared}");
}

fn merge(into: &mut Value, patch: &Value) {
    match (into.as_object_mut(), patch.as_object()) {
        (Some(fields), Some(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    fields.remove(key);
                } else {
                    merge(fields.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        _ => *into = patch.clone(),
    }
}

#[test]
fn updates_are_refused_in_upstreams_words() {
    let mut compared = 0;
    for name in ["workload-defaults", "pod-defaults-and-refusals", "endpoints-and-slices"] {
        let mut stored: Vec<(String, Value)> = Vec::new();
        for (i, step) in scenario(name).iter().enumerate() {
            let (request, answer) = (&step["request"], &step["response"]["body"]);
            let path = text(&request["path"]).to_owned();
            let Some(kind) = kind_of(&path) else { continue };
            if is_create(step).is_some() && step["response"]["status"] == 201 {
                stored.push((format!("{path}/{}", text(&answer["metadata"]["name"])), answer.clone()));
            }
            if text(&request["method"]) != "PATCH" {
                continue;
            }
            let Some((_, old)) = stored.iter_mut().find(|(p, _)| *p == path) else { continue };
            let mut new = old.clone();
            merge(&mut new, &request["body"]);
            defaults::apply(kind, &mut new);
            (kind.prepare_update)(&mut new, old);
            if kind.kind == "Pod" && step["response"]["status"] == 200 {
                // The patch names the container: strategic, not plain, merging.
                *old = answer.clone();
                continue;
            }
            let errors = (kind.validate)(&new, Some(old));
            let said = Status::invalid(kind, text(&new["metadata"]["name"]), &errors).to_value();
            if kind.kind == "Pod" {
                // Upstream goes on with a diff of Go structs.
                let first = |m: &Value| text(m).split('\n').next().unwrap_or("").to_owned();
                assert_eq!(first(&said["message"]), first(&answer["message"]), "{name} step {i}");
                assert!(text(&said["message"]).contains("- \"restartPolicy\": \"Always\""));
            } else {
                assert_eq!(said, *answer, "{name} step {i}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 9, "{compared}");
}

/// Updates that are taken: the object's, and its status's.
#[test]
fn updates_are_settled_as_upstream_does() {
    let mut compared = 0;
    for name in [
        "service-defaults",
        "workload-defaults",
        "pod-table",
        "patches",
        "rollout",
        "stateful",
        "endpoint-controllers",
        "watching",
        "namespaces",
        "errors",
    ] {
        let mut stored: Vec<(String, Value)> = Vec::new();
        for (i, step) in scenario(name).iter().enumerate() {
            let (request, answer) = (&step["request"], &step["response"]["body"]);
            let path = text(&request["path"]).split('?').next().unwrap().to_owned();
            let Some(kind) = kind_of(&path) else { continue };
            if text(&answer["kind"]) != kind.kind || answer["metadata"]["uid"].is_null() {
                continue;
            }
            let (base, status) = path.strip_suffix("/status").map_or((&*path, false), |b| (b, true));
            let base = match text(&request["method"]) {
                "POST" => format!("{base}/{}", text(&answer["metadata"]["name"])),
                _ => base.to_owned(),
            };
            let at = stored.iter().position(|(p, _)| *p == base);
            let old = at.map(|at| stored.remove(at).1);
            stored.push((base, answer.clone()));
            let merging = text(&request["headers"]["Content-Type"]).contains("merge-patch+json")
                && !text(&request["headers"]["Content-Type"]).contains("strategic");
            let next = |v: &Value| text(&v["metadata"]["resourceVersion"]).parse::<u64>().unwrap_or(0);
            let Some(old) = old.filter(|_| merging && text(&request["method"]) == "PATCH") else { continue };
            let mut new = old.clone();
            merge(&mut new, &request["body"]);
            defaults::apply(kind, &mut new);
            if status {
                let errors = (kind.validate_status)(&new, &old);
                assert_eq!(errors, [], "{name} step {i}");
                kind.prepare_status(&mut new, &old);
            } else {
                (kind.prepare_update)(&mut new, &old);
                assert_eq!((kind.validate)(&new, Some(&old)), [], "{name} step {i}");
            }
            // Between two readings the controllers wrote too.
            let mut answer = answer.clone();
            if next(&answer) != next(&old) + 1 && kind.kind != "Service" && kind.kind != "Pod" {
                continue;
            }
            if kind.generation_changes(&new, &old) {
                let was = old["metadata"]["generation"].as_i64().unwrap();
                new["metadata"]["generation"] = json!(was + 1);
            }
            for key in ["managedFields", "resourceVersion"] {
                remove(&mut new["metadata"], key);
                remove(&mut answer["metadata"], key);
            }
            assert_eq!(differences("", &new, &answer), [""; 0], "{name} step {i}");
            compared += 1;
        }
    }
    assert!(compared >= 21, "{compared}");
}

/// Tables whose objects the scenario shows: their cells, and every definition.
#[test]
fn tables_are_upstreams() {
    let mut rows = 0;
    for name in [
        "pod-table",
        "service-defaults",
        "workload-defaults",
        "endpoints-and-slices",
        "namespaces",
        "endpoint-controllers",
        "rollout",
        "stateful",
    ] {
        let mut seen: Vec<(String, Value)> = Vec::new();
        for (i, step) in scenario(name).iter().enumerate() {
            let body = &step["response"]["body"];
            let Some(kind) = kind_of(text(&step["request"]["path"])) else { continue };
            for object in std::iter::once(body).chain(items(&body["items"])) {
                let uid = text(&object["metadata"]["uid"]);
                let is_list = object["items"].is_array();
                if !uid.is_empty()
                    && !is_list
                    && (text(&object["kind"]) == kind.kind || object["kind"].is_null())
                {
                    let key = format!("{uid} {}", text(&object["metadata"]["resourceVersion"]));
                    seen.push((key, object.clone()));
                }
            }
            if text(&body["kind"]) != "Table" {
                continue;
            }
            assert_eq!(columns::definitions(kind), body["columnDefinitions"], "{name} step {i}");
            for said in items(&body["rows"]) {
                let meta = &said["object"]["metadata"];
                let key = format!("{} {}", text(&meta["uid"]), text(&meta["resourceVersion"]));
                let Some((_, object)) = seen.iter().find(|(k, _)| *k == key) else { continue };
                let age = kind.columns.iter().position(|c| c.name == "Age").unwrap();
                // The recording's clock, from the age that it printed.
                let seconds: i64 = text(&said["cells"][age]).trim_end_matches('s').parse().unwrap();
                let now = time::parse(text(&meta["creationTimestamp"])).unwrap() + seconds;
                let made = columns::row(kind, object, now, Include::Metadata);
                assert_eq!(made, *said, "{name} step {i}");
                rows += 1;
            }
        }
    }
    assert!(rows >= 42, "{rows}");
}

#[test]
fn a_table_without_objects_has_its_columns() {
    let pods = kinds::by_kind("v1", "Pod").unwrap();
    let pod = Object::new(json!({"metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"}}));
    let table = columns::table(pods, [&pod], 61, Include::None);
    assert_eq!(table["rows"][0]["object"], Value::Null);
    assert_eq!(table["rows"][0]["cells"][4], "61s");
    assert_eq!(columns::table(pods, [], 0, Include::Object)["rows"], json!([]));
    assert_eq!(Include::parse("Everything"), None);
}

/// Every list with a selector picks what the recording's does, or is refused as there.
#[test]
fn selectors_pick_what_upstream_picks() {
    let mut compared = 0;
    for name in ["reading", "pod-defaults-and-refusals", "service-defaults"] {
        for step in scenario(name) {
            let Some((path, query)) = text(&step["request"]["path"]).split_once('?') else { continue };
            let Some(kind) = kind_of(path) else { continue };
            let (answer, refused) = (&step["response"]["body"], step["response"]["status"] == 400);
            for (key, value) in query.split('&').filter_map(|p| p.split_once('=')) {
                let value = decode(value);
                let said = match key {
                    "labelSelector" => selector::Selector::parse(&value)
                        .map(|s| Box::new(move |o: &Value| s.matches(&o["metadata"]["labels"])) as Picks),
                    "fieldSelector" => selector::FieldSelector::parse(&value, kind)
                        .map(|s| Box::new(move |o: &Value| s.matches(o, kind)) as Picks),
                    _ => continue,
                };
                match said {
                    Ok(picks) => {
                        assert!(!refused, "{name}: {value}");
                        assert!(items(&answer["items"]).iter().all(picks), "{name}: {value}");
                    }
                    Err(refusal) => assert_eq!(answer["message"], refusal.0, "{name}: {value}"),
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 19, "{compared}");
}

type Picks = Box<dyn Fn(&Value) -> bool>;

fn decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    String::from_utf8(out).unwrap()
}

/// Leaves of a discovery document what Sealane serves, and no storage hashes.
fn served(list: &mut Value, name: &str) {
    let keep = |r: &Value| {
        let (plural, sub) = text(&r[name]).split_once('/').unwrap_or((text(&r[name]), ""));
        let row = kinds::KINDS.iter().any(|k| k.plural == plural);
        let answered = kinds::VIRTUAL.iter().any(|v| v.plural == plural);
        (row || answered) && sub != "resize"
    };
    for resource in list.as_array_mut().unwrap() {
        remove(resource, "storageVersionHash");
        if let Some(subresources) = resource.get_mut("subresources") {
            subresources.as_array_mut().unwrap().retain(|s| s["subresource"] != "resize");
        }
    }
    list.as_array_mut().unwrap().retain(|r| keep(r));
}

/// Discovery documents, of what both serve.
#[test]
fn discovery_is_upstreams() {
    use sealane_api::discovery;
    let mut compared = 0;
    for step in scenario("discovery") {
        let mut body = step["response"]["body"].clone();
        let path = text(&step["request"]["path"]);
        let made = match text(&body["kind"]) {
            "APIResourceList" => {
                let of = text(&body["groupVersion"]).to_owned();
                let (group, version) = of.split_once('/').unwrap_or(("", "v1"));
                let made = discovery::resource_list(group, version);
                served(&mut body["resources"], "name");
                made.unwrap()
            }
            "APIGroup" => discovery::group(text(&body["name"])).unwrap(),
            "APIVersions" => {
                discovery::api_versions(text(&body["serverAddressByClientCIDRs"][0]["serverAddress"]))
            }
            "APIGroupDiscoveryList" => {
                for group in body["items"].as_array_mut().unwrap() {
                    for version in group["versions"].as_array_mut().unwrap() {
                        served(&mut version["resources"], "resource");
                    }
                }
                discovery::aggregated(path == "/api")
            }
            _ => continue,
        };
        assert_eq!(differences("", &made, &body), [""; 0], "{path}");
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
    // Every kind is in exactly one list, and every group is listed.
    let mut listed = 0;
    for group in std::iter::once(&"").chain(discovery::GROUPS) {
        for version in discovery::versions(group) {
            let list = discovery::resource_list(group, version).unwrap();
            listed += items(&list["resources"]).iter().filter(|r| !text(&r["name"]).contains('/')).count();
        }
    }
    assert_eq!(listed, kinds::KINDS.len() + kinds::VIRTUAL.len());
    assert_eq!(items(&discovery::group_list()["groups"]).len(), discovery::GROUPS.len());
    assert_eq!(items(&discovery::aggregated(false)["items"]).len(), discovery::GROUPS.len());
    assert_eq!((discovery::group("nothing.io"), discovery::group("")), (None, None));
}

/// Refused options of requests have no row of their own.
#[test]
fn options_are_refused_in_upstreams_words() {
    use sealane_api::validation::options::{self, List, Write};
    let mut compared = 0;
    for name in ["errors", "reading", "apply"] {
        for step in scenario(name) {
            let (request, answer) = (&step["request"], &step["response"]["body"]);
            let kind = text(&answer["details"]["kind"]);
            if answer["details"]["group"] != "meta.k8s.io" {
                continue;
            }
            let query = text(&request["path"]).split_once('?').map_or("", |(_, q)| q);
            let given = |key: &str| {
                query
                    .split('&')
                    .filter_map(|p| p.split_once('='))
                    .find(|(k, _)| *k == key)
                    .map_or("", |(_, v)| v)
            };
            let dry_run = [given("dryRun")];
            let errors = match kind {
                "ListOptions" => options::list(List {
                    resource_version: given("resourceVersion"),
                    version_match: given("resourceVersionMatch"),
                    ..List::default()
                }),
                "DeleteOptions" => options::delete(&request["body"]),
                _ => options::write(Write {
                    dry_run: if dry_run[0].is_empty() { &[] } else { &dry_run },
                    field_manager: given("fieldManager"),
                    field_validation: given("fieldValidation"),
                    apply: kind == "PatchOptions",
                }),
            };
            let status = Status::invalid_of("meta.k8s.io", kind, "", &errors);
            assert_eq!(differences("", &status.to_value(), answer), [""; 0], "{name}");
            let twice = [errors.clone(), errors].concat();
            let status_twice = Status::invalid_of("meta.k8s.io", kind, "", &twice);
            assert_eq!(status_twice.message, status.message);
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared}");
}

#[test]
fn rows_agree_with_one_another() {
    for kind in kinds::KINDS {
        assert!(std::ptr::eq(kinds::by_resource(kind.group, kind.version, kind.plural).unwrap(), kind));
        assert!(std::ptr::eq(kinds::by_kind(&kind.api_version(), kind.kind).unwrap(), kind));
        assert!(!kind.columns.is_empty());
        assert!(kind.key("ns", "n").starts_with(&kind.prefix("ns")));
        // No hook may panic on what a client can send.
        for odd in
            [json!({}), json!({"metadata": null, "spec": [], "status": 3, "rules": "x", "ports": [1, null]})]
        {
            let mut made = odd;
            if made.get("spec").is_none() {
                defaults::apply(kind, &mut made);
                (kind.prepare_create)(&mut made);
                (kind.prepare_update)(&mut made, &json!({}));
                kind.prepare_status(&mut made, &json!({}));
            }
            let _ = (kind.validate)(&made, None);
            let _ = (kind.validate)(&made, Some(&json!({})));
            let _ = (kind.validate_status)(&made, &json!({}));
            let _ = columns::row(kind, &made, 0, Include::Object);
        }
    }
    let events = kinds::by_kind("events.k8s.io/v1", "Event").unwrap();
    assert_eq!(events.key("ns", "e"), "/core/events/ns/e");
    assert!(std::ptr::eq(events.storage(), kinds::by_kind("v1", "Event").unwrap()));
    assert!(std::ptr::eq(kinds::KINDS[0].storage(), &kinds::KINDS[0]));
}

/// The Scale that follows a reading or writing of its workload.
#[test]
fn scales_are_upstreams() {
    let mut compared = 0;
    let steps = scenario("workload-defaults");
    for step in &steps {
        let (path, answer) = (text(&step["request"]["path"]), &step["response"]["body"]);
        let Some(base) = path.strip_suffix("/scale") else { continue };
        let collection = base.strip_suffix("/w").unwrap();
        let made =
            steps.iter().find(|s| s["request"]["method"] == "POST" && s["request"]["path"] == collection);
        let mut object = made.unwrap()["response"]["body"].clone();
        object["metadata"]["resourceVersion"] = answer["metadata"]["resourceVersion"].clone();
        // The controllers had counted by then.
        object["status"]["replicas"] = answer["status"]["replicas"].clone();
        assert_eq!(sealane_api::scale::apply(&mut object, answer), []);
        assert_eq!(differences("", &sealane_api::scale::of(&object), answer), [""; 0], "{path}");
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}

/// What kube-apiserver answers is settled: defaulting it again changes nothing.
#[test]
fn answers_stay_as_they_are() {
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for name in [
        "apply",
        "discovery",
        "endpoint-controllers",
        "endpoints-and-slices",
        "errors",
        "namespaces",
        "patches",
        "pod-defaults-and-refusals",
        "pod-table",
        "protobuf",
        "reading",
        "rollout",
        "service-defaults",
        "service-invalid",
        "stateful",
        "watching",
        "workload-defaults",
    ] {
        for (i, step) in scenario(name).iter().enumerate() {
            let Some(kind) = kind_of(text(&step["request"]["path"])) else { continue };
            let body = &step["response"]["body"];
            let list = text(&body["kind"]) == kind.list_kind();
            if !list && text(&body["kind"]) != kind.kind {
                continue;
            }
            let objects = if list { items(&body["items"]) } else { std::slice::from_ref(body) };
            for object in objects {
                let mut again = object.clone();
                defaults::apply(kind, &mut again);
                assert_eq!(differences("", &again, object), [""; 0], "{name} step {i}");
                assert_eq!((kind.validate)(object, None), [], "{name} step {i}");
                assert_eq!((kind.validate)(object, Some(object)), [], "{name} step {i}");
                assert_eq!((kind.validate_status)(object, object), [], "{name} step {i}");
                *seen.entry(kind.kind).or_default() += 1;
            }
        }
    }
    assert!(seen.values().sum::<usize>() >= 229, "{seen:?}");
}
