//! StatefulSets and Deployments step by step, on an API in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod memory;

use memory::{Cluster, text};
use sealane_controllers::Controller;
use serde_json::{Value, json};

const RUN: [Controller; 4] =
    [Controller::ReplicaSet, Controller::Deployment, Controller::StatefulSet, Controller::Garbage];

fn cluster() -> Cluster {
    Cluster::new(&RUN).with_namespace("shop")
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn stateful(cluster: &mut Cluster, replicas: i32, extra: Value) {
    let mut set = json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "serviceName": "nginx",
        "selector": {"matchLabels": {"app": "web"}}, "template": template("a")}});
    for (key, value) in extra.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    cluster.create("statefulsets", "shop", set);
    cluster.settle();
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.pods("shop").iter().map(|p| text(p, "/metadata/name").to_owned()).collect()
}

fn images(cluster: &Cluster) -> Vec<String> {
    cluster.pods("shop").iter().map(|p| text(p, "/spec/containers/0/image").to_owned()).collect()
}

/// Makes every Pod that isn't ready so, once.
fn ready_all(cluster: &mut Cluster) -> usize {
    let waiting: Vec<String> = cluster
        .pods("shop")
        .iter()
        .filter(|p| text(p, "/status/phase") != "Running")
        .map(|p| text(p, "/metadata/name").to_owned())
        .collect();
    for name in &waiting {
        cluster.pod_status("shop", name, "10.244.0.9", true);
    }
    cluster.settle();
    waiting.len()
}

fn sizes(cluster: &Cluster) -> Vec<i64> {
    let mut sets = cluster.api.list("replicasets", "shop");
    sets.sort_by_key(|s| text(s, "/metadata/uid").to_owned());
    sets.iter().map(|s| s["spec"]["replicas"].as_i64().unwrap()).collect()
}

#[test]
fn ordered_pods_come_and_go_one_by_one() {
    let mut c = cluster();
    stateful(&mut c, 3, json!({}));
    assert_eq!(names(&c), ["web-0"]);
    ready_all(&mut c);
    assert_eq!(names(&c), ["web-0", "web-1"]);
    // A Pod that is not ready holds the next one up.
    c.pod_status("shop", "web-0", "10.244.0.1", false);
    c.pod_status("shop", "web-1", "10.244.0.2", true);
    c.settle();
    assert_eq!(names(&c), ["web-0", "web-1"]);
    c.pod_status("shop", "web-0", "10.244.0.1", true);
    c.settle();
    ready_all(&mut c);
    assert_eq!(names(&c), ["web-0", "web-1", "web-2"]);
    let second = c.api.get("pods", "shop", "web-2").unwrap().clone();
    assert_eq!(text(&second, "/spec/hostname"), "web-2");
    assert_eq!(text(&second, "/spec/subdomain"), "nginx");
    assert_eq!(text(&second, "/metadata/labels/apps.kubernetes.io~1pod-index"), "2");
    // Down to one: the highest first.
    c.merge("statefulsets", "shop", "web", json!({"spec": {"replicas": 1}}), None);
    c.settle();
    assert_eq!(names(&c), ["web-0"]);
}

#[test]
fn parallel_pods_come_at_once() {
    let mut c = cluster();
    stateful(&mut c, 3, json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(names(&c), ["web-0", "web-1", "web-2"]);
    c.merge("statefulsets", "shop", "web", json!({"spec": {"replicas": 0}}), None);
    c.settle();
    assert!(names(&c).is_empty());
}

#[test]
fn updates_go_from_the_top_down_to_the_partition() {
    for (strategy, expected) in [
        (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}), ["b", "b", "b"]),
        (json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}), ["a", "a", "b"]),
        (json!({"type": "OnDelete"}), ["a", "a", "a"]),
    ] {
        let mut c = cluster();
        stateful(&mut c, 3, json!({"updateStrategy": strategy}));
        while ready_all(&mut c) > 0 {}
        c.merge("statefulsets", "shop", "web", json!({"spec": {"template": template("b")}}), None);
        c.settle();
        loop {
            let down = c.pods("shop").iter().filter(|p| text(p, "/status/phase") != "Running").count();
            assert!(down <= 1, "{strategy}: one Pod at a time");
            if ready_all(&mut c) == 0 {
                break;
            }
        }
        assert_eq!(images(&c), expected, "{strategy}");
        let set = c.api.get("statefulsets", "shop", "web").unwrap();
        let done = text(set, "/status/currentRevision") == text(set, "/status/updateRevision");
        assert_eq!(done, expected == ["b", "b", "b"], "{strategy}");
        assert_eq!(c.api.list("controllerrevisions", "shop").len(), 2);
    }
}

#[test]
fn a_pod_made_below_the_partition_has_the_old_template() {
    let mut c = cluster();
    stateful(
        &mut c,
        2,
        json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}),
    );
    while ready_all(&mut c) > 0 {}
    c.merge("statefulsets", "shop", "web", json!({"spec": {"template": template("b")}}), None);
    c.settle();
    while ready_all(&mut c) > 0 {}
    c.delete("pods", "shop", "web-0", json!({}));
    c.settle();
    assert_eq!(images(&c), ["a", "b"]);
}

#[test]
fn a_template_taken_up_again_is_no_new_revision() {
    let mut c = cluster();
    stateful(&mut c, 1, json!({}));
    while ready_all(&mut c) > 0 {}
    for image in ["b", "a"] {
        c.merge("statefulsets", "shop", "web", json!({"spec": {"template": template(image)}}), None);
        c.settle();
        while ready_all(&mut c) > 0 {}
    }
    assert_eq!(images(&c), ["a"]);
    let revisions = c.api.list("controllerrevisions", "shop");
    let mut numbers: Vec<i64> = revisions.iter().map(|r| r["revision"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

fn deploy(cluster: &mut Cluster, replicas: i32, extra: Value) {
    let mut spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("a")});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    cluster.create("deployments", "shop", json!({"metadata": {"name": "d"}, "spec": spec}));
    cluster.settle();
    while ready_all(cluster) > 0 {}
}

fn change(cluster: &mut Cluster, spec: Value) {
    cluster.merge("deployments", "shop", "d", json!({"spec": spec}), None);
    cluster.settle();
}

fn condition(cluster: &Cluster, kind: &str) -> (String, String) {
    let deployment = cluster.api.get("deployments", "shop", "d").unwrap();
    let list = deployment["status"]["conditions"].as_array().unwrap();
    let found = list.iter().find(|c| c["type"] == kind).unwrap();
    (text(found, "/status").to_owned(), text(found, "/reason").to_owned())
}

#[test]
fn a_rollout_and_its_undo() {
    let mut c = cluster();
    deploy(&mut c, 4, json!({}));
    let deployment = c.api.get("deployments", "shop", "d").unwrap();
    assert_eq!(text(deployment, "/metadata/annotations/deployment.kubernetes.io~1revision"), "1");
    assert_eq!(condition(&c, "Available").1, "MinimumReplicasAvailable");
    let first = text(&c.api.list("replicasets", "shop")[0], "/metadata/name").to_owned();
    let done = format!("ReplicaSet \"{first}\" has successfully progressed.");
    assert!(deployment["status"]["conditions"].as_array().unwrap().iter().any(|c| c["message"] == done));
    change(&mut c, json!({"template": template("b")}));
    // A quarter more, a quarter less.
    assert_eq!(sizes(&c), [3, 2]);
    while ready_all(&mut c) > 0 {}
    assert_eq!(sizes(&c), [0, 4]);
    assert_eq!(condition(&c, "Progressing").1, "NewReplicaSetAvailable");
    // What kubectl rollout undo does: the old template again.
    change(&mut c, json!({"template": template("a")}));
    while ready_all(&mut c) > 0 {}
    assert_eq!(sizes(&c), [4, 0]);
    assert_eq!(images(&c), ["a"; 4]);
    let deployment = c.api.get("deployments", "shop", "d").unwrap();
    assert_eq!(text(deployment, "/metadata/annotations/deployment.kubernetes.io~1revision"), "3");
    let set = c.api.get("replicasets", "shop", &first).unwrap();
    assert_eq!(text(set, "/metadata/annotations/deployment.kubernetes.io~1revision"), "3");
    assert_eq!(text(set, "/metadata/annotations/deployment.kubernetes.io~1revision-history"), "1");
    let said: Vec<&str> =
        c.notes.iter().filter(|n| n.reason == "ScalingReplicaSet").map(|n| n.message.as_str()).collect();
    assert!(said[0].starts_with("Scaled up replica set d-") && said[0].ends_with(" from 0 to 4"), "{said:?}");
}

#[test]
fn recreate_ends_all_old_pods_first() {
    let mut c = cluster();
    deploy(&mut c, 3, json!({"strategy": {"type": "Recreate"}}));
    for pod in c.pods("shop") {
        // On a node they take their time to end.
        c.merge("pods", "shop", text(&pod, "/metadata/name"), json!({"spec": {"nodeName": "n1"}}), None);
    }
    c.settle();
    change(&mut c, json!({"template": template("b")}));
    assert_eq!(sizes(&c), [0]);
    assert_eq!(images(&c), ["a"; 3]);
    for pod in c.pods("shop") {
        c.delete("pods", "shop", text(&pod, "/metadata/name"), json!({"gracePeriodSeconds": 0}));
        c.settle();
    }
    assert_eq!(sizes(&c), [0, 3]);
    assert_eq!(images(&c), ["b"; 3]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut c = cluster();
    deploy(&mut c, 2, json!({}));
    change(&mut c, json!({"paused": true, "template": template("b")}));
    assert_eq!(condition(&c, "Progressing"), ("Unknown".to_owned(), "DeploymentPaused".to_owned()));
    change(&mut c, json!({"replicas": 3}));
    assert_eq!(sizes(&c), [3]);
    change(&mut c, json!({"paused": false}));
    while ready_all(&mut c) > 0 {}
    assert_eq!(sizes(&c), [0, 3]);
    assert_eq!(condition(&c, "Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_that_stands_still_is_reported() {
    let mut c = cluster();
    deploy(&mut c, 2, json!({"progressDeadlineSeconds": 60}));
    change(&mut c, json!({"template": template("b")}));
    c.pass(30);
    assert_eq!(condition(&c, "Progressing").0, "True");
    c.pass(40);
    assert_eq!(condition(&c, "Progressing"), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
    while ready_all(&mut c) > 0 {}
    assert_eq!(condition(&c, "Progressing"), ("True".to_owned(), "NewReplicaSetAvailable".to_owned()));
}

#[test]
fn old_sets_are_kept_as_many_as_asked_for() {
    let mut c = cluster();
    deploy(&mut c, 1, json!({"revisionHistoryLimit": 1}));
    for image in ["b", "c", "d"] {
        change(&mut c, json!({"template": template(image)}));
        while ready_all(&mut c) > 0 {}
    }
    assert_eq!(sizes(&c), [0, 1]);
}

#[test]
fn min_ready_seconds_count() {
    let mut c = cluster();
    deploy(&mut c, 1, json!({"minReadySeconds": 10}));
    let available =
        |c: &Cluster| c.api.get("deployments", "shop", "d").unwrap()["status"]["availableReplicas"].clone();
    assert_eq!(available(&c), Value::Null);
    c.pass(11);
    assert_eq!(available(&c), json!(1));
}

#[test]
fn orphans_are_adopted_and_strangers_let_go() {
    let mut c = cluster();
    c.create(
        "pods",
        "shop",
        json!({"metadata": {"name": "stray", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "a"}]}}),
    );
    let set = json!({"metadata": {"name": "rs"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}}, "template": template("a")}});
    c.create("replicasets", "shop", set);
    c.settle();
    assert_eq!(c.pods("shop").len(), 2);
    let stray = c.api.get("pods", "shop", "stray").unwrap();
    assert_eq!(text(stray, "/metadata/ownerReferences/0/name"), "rs");
    c.merge("pods", "shop", "stray", json!({"metadata": {"labels": {"app": "debug"}}}), None);
    c.settle();
    assert_eq!(c.pods("shop").len(), 3);
    let stray = c.api.get("pods", "shop", "stray").unwrap();
    assert!(stray.pointer("/metadata/ownerReferences/0").is_none());
}
