//! hostPort: a Pod answers on the node's address and loopback, for the machine, other Pods and itself.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use sealane_tests::{Start, eventually};

const PODS: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: c
    image: sealane/demo
    args: [web, --port, '8080']
    ports: [{containerPort: 8080, hostPort: 8088}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  containers: [{name: c, image: sealane/demo, args: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: own, labels: {app: own}}
spec:
  hostNetwork: true
  containers: [{name: c, image: sealane/demo, args: [sleep, infinity]}]
";

#[test]
fn a_pod_answers_on_the_nodes_port() {
    let start = Start::new();
    let up = start.up();
    up.apply(PODS).ok();
    for app in ["web", "other", "own"] {
        up.ready_pods("default", &format!("app={app}"), 1);
    }
    let node = up.value(&["get", "node"], "{.items[0].status.addresses[0].address}");
    let outside = up.curl(&format!("{node}:8088"));
    assert!(outside.contains("web"), "{outside}");
    // Another Pod, the Pod itself, and the node's own loopback.
    let at = format!("http://{node}:8088/");
    for (from, at) in [("other", &*at), ("web", &*at), ("own", &*at), ("own", "http://127.0.0.1:8088/")] {
        let said = up.answer(from, at);
        assert!(said.contains("web"), "{from} {at}: {said}");
    }
    // The port is taken: a second Pod that wants it waits.
    up.apply(
        &PODS
            .split("---")
            .next()
            .unwrap()
            .replace("name: web", "name: late")
            .replace("app: web", "app: late"),
    )
    .ok();
    eventually("a second Pod waits for the port", || {
        let path = "{.status.conditions[?(@.type=='PodScheduled')].message}";
        let why = up.value(&["get", "pod", "late"], path);
        if why.contains("free ports") { Ok(()) } else { Err(why) }
    });
    up.ok(&["delete", "pod", "web", "--grace-period=1"]);
    up.ready_pods("default", "app=late", 1);
    let said = up.answer("other", &at);
    assert!(said.contains("late"), "{said}");
    up.ok(&["delete", "pod", "late", "--grace-period=1"]);
    let refused = up.http("GET", &format!("{node}:8088"), "/", "").unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    up.stop();
}
