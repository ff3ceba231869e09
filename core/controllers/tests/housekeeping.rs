//! Namespaces, owners and dependents, Nodes: what goes when something else does.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod memory;

use memory::{Cluster, text};
use sealane_api::kinds::Subresource;
use sealane_controllers::Controller;
use serde_json::{Value, json};

fn web(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "a"}]}}}})
}

fn cluster() -> Cluster {
    let mut c = Cluster::new(&Controller::ALL).with_namespace("shop");
    c.settle();
    c
}

fn left(cluster: &Cluster) -> Vec<(String, String)> {
    let all = cluster.api.objects.iter().filter(|(id, _)| id.1 == "shop");
    all.map(|(id, _)| (id.0.to_owned(), id.2.clone())).collect()
}

#[test]
fn a_namespace_begins_with_its_account_and_ca() {
    let c = cluster();
    let account = c.api.get("serviceaccounts", "shop", "default").unwrap();
    assert_eq!(text(account, "/metadata/name"), "default");
    let ca = c.api.get("configmaps", "shop", "kube-root-ca.crt").unwrap();
    assert_eq!(text(ca, "/data/ca.crt"), "CA");
}

#[test]
fn what_every_namespace_has_is_put_back() {
    let mut c = cluster();
    c.delete("serviceaccounts", "shop", "default", json!({}));
    c.merge("configmaps", "shop", "kube-root-ca.crt", json!({"data": {"ca.crt": "other"}}), None);
    c.settle();
    assert!(c.api.get("serviceaccounts", "shop", "default").is_some());
    assert_eq!(text(c.api.get("configmaps", "shop", "kube-root-ca.crt").unwrap(), "/data/ca.crt"), "CA");
}

/// Ends Pods that were told to, as their node does.
fn end_pods(cluster: &mut Cluster) {
    for pod in cluster.pods("shop") {
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            cluster.delete("pods", "shop", text(&pod, "/metadata/name"), json!({"gracePeriodSeconds": 0}));
        }
    }
    cluster.settle();
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    let mut c = cluster();
    c.create("deployments", "shop", web("d"));
    let mut set = web("s");
    set["spec"]["serviceName"] = json!("s");
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    c.create("statefulsets", "shop", set);
    c.create(
        "services",
        "shop",
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"app": "d"}, "ports": [{"port": 80}]}}),
    );
    c.create("secrets", "shop", json!({"metadata": {"name": "s"}}));
    c.create("configmaps", "shop", json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}));
    c.settle();
    assert_eq!(c.pods("shop").len(), 4);
    c.delete("namespaces", "", "shop", json!({}));
    c.settle();
    end_pods(&mut c);
    let rest = left(&c);
    assert_eq!(rest, [("configmaps".to_owned(), "held".to_owned())]);
    let conditions = c.api.get("namespaces", "", "shop").unwrap()["status"]["conditions"].to_string();
    for said in [
        "Some resources are remaining: configmaps. has 1 resource instances",
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
    ] {
        assert!(conditions.contains(said), "{conditions}");
    }
    c.merge("configmaps", "shop", "held", json!({"metadata": {"finalizers": null}}), None);
    c.settle();
    assert!(c.api.get("namespaces", "", "shop").is_none());
    assert!(left(&c).is_empty());
}

#[test]
fn dependents_go_with_their_owner() {
    for policy in ["Background", "Foreground"] {
        let mut c = cluster();
        c.create("deployments", "shop", web("d"));
        c.settle();
        c.delete("deployments", "shop", "d", json!({"propagationPolicy": policy}));
        c.settle();
        assert_eq!(c.api.get("deployments", "shop", "d").is_some(), policy == "Foreground", "{policy}");
        end_pods(&mut c);
        for plural in ["deployments", "replicasets", "pods"] {
            assert!(c.api.list(plural, "shop").is_empty(), "{policy}: {plural}");
        }
    }
}

#[test]
fn orphans_stay() {
    let mut c = cluster();
    c.create("deployments", "shop", web("d"));
    c.settle();
    c.delete("deployments", "shop", "d", json!({"propagationPolicy": "Orphan"}));
    c.settle();
    assert!(c.api.list("deployments", "shop").is_empty());
    let sets = c.api.list("replicasets", "shop");
    assert_eq!(sets.len(), 1);
    assert!(sets[0].pointer("/metadata/ownerReferences/0").is_none());
    assert_eq!(c.pods("shop").len(), 2);
}

#[test]
fn an_owner_that_was_never_seen_is_asked_for() {
    let mut c = cluster();
    let owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid}]);
    let real = c.create("configmaps", "shop", json!({"metadata": {"name": "o"}}));
    let uid = text(&real, "/metadata/uid").to_owned();
    for (name, uid) in [("kept", uid.as_str()), ("lost", "another")] {
        c.create("configmaps", "shop", json!({"metadata": {"name": name, "ownerReferences": owner(uid)}}));
    }
    // Of a kind that isn't served nothing is known.
    let foreign = json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "o", "uid": "w"}]);
    c.create("configmaps", "shop", json!({"metadata": {"name": "foreign", "ownerReferences": foreign}}));
    c.settle();
    for (name, stays) in [("kept", true), ("lost", false), ("foreign", true)] {
        assert_eq!(c.api.get("configmaps", "shop", name).is_some(), stays, "{name}");
    }
}

#[test]
fn a_silent_node_loses_its_pods() {
    let mut c = cluster();
    c.create("deployments", "shop", web("d"));
    c.settle();
    for pod in c.pods("shop") {
        assert_eq!(text(&pod, "/spec/nodeName"), "n1");
        c.pod_status("shop", text(&pod, "/metadata/name"), "10.244.0.1", true);
        let tolerations = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 300}]);
        c.merge(
            "pods",
            "shop",
            text(&pod, "/metadata/name"),
            json!({"spec": {"tolerations": tolerations}}),
            None,
        );
    }
    c.settle();
    c.pass(30);
    assert_eq!(text(c.api.get("nodes", "", "n1").unwrap(), "/status/conditions/0/status"), "True");
    c.pass(30);
    let node = c.api.get("nodes", "", "n1").unwrap();
    let ready =
        node["status"]["conditions"].as_array().unwrap().iter().find(|x| x["type"] == "Ready").unwrap();
    assert_eq!(ready["status"], "Unknown");
    let taints: Vec<&str> =
        node["spec"]["taints"].as_array().unwrap().iter().map(|t| text(t, "/effect")).collect();
    assert_eq!(taints, ["NoSchedule", "NoExecute"]);
    for pod in c.pods("shop") {
        assert_eq!(text(&pod, "/status/conditions/0/status"), "False");
        assert!(pod.pointer("/metadata/deletionTimestamp").is_none());
    }
    c.pass(301);
    assert_eq!(
        c.pods("shop").iter().filter(|p| p.pointer("/metadata/deletionTimestamp").is_some()).count(),
        2
    );
    // It speaks again.
    let alive = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
        "lastHeartbeatTime": c.api.now.to_string()}]}});
    c.merge("nodes", "", "n1", alive, Some(Subresource::Status));
    c.settle();
    let node = c.api.get("nodes", "", "n1").unwrap();
    assert!(node.pointer("/spec/taints/0").is_none(), "{node}");
}

#[test]
fn pods_of_a_node_that_is_gone_go() {
    let mut c = cluster();
    c.create("deployments", "shop", web("d"));
    c.settle();
    let before: Vec<String> = c.pods("shop").iter().map(|p| text(p, "/metadata/uid").to_owned()).collect();
    c.delete("nodes", "", "n1", json!({}));
    c.settle();
    for pod in c.pods("shop") {
        assert!(!before.contains(&text(&pod, "/metadata/uid").to_owned()));
        assert_eq!(text(&pod, "/spec/nodeName"), "");
    }
    assert!(c.notes.iter().any(|n| n.message == "no nodes available to schedule pods"));
}
