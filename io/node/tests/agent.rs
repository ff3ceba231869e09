//! The agent against a pretended host and an API in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod fakes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fakes::api::Api;
use fakes::{FakeEndpoints, FakeImages, FakeRuntime, runtime};
use futures::StreamExt;
use sealane_node::{Agent, AgentConfig, NodeHandle};
use sealane_pod::ending::Exposure;
use sealane_pod::request::{ExecRequest, LogOptions, NodeError};
use serde_json::{Value, json};

struct Node {
    api: Api,
    runtime: Arc<FakeRuntime>,
    rules: Arc<FakeEndpoints>,
    handle: NodeHandle,
    dir: tempfile::TempDir,
}

async fn node_on(api: Api) -> Node {
    node_with(api, Exposure::Removed, |_| {}).await
}

async fn node_with(api: Api, exposure: Exposure, change: impl FnOnce(&mut AgentConfig)) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let mut config = AgentConfig::new("n1", [10, 0, 0, 1].into(), dir.path());
    change(&mut config);
    let runtime = runtime();
    let rules = Arc::new(FakeEndpoints::new(runtime.clone(), exposure));
    let images = Arc::new(FakeImages);
    let handle = Agent::start(config, api.client(), runtime.clone(), images, rules.clone()).await;
    Node { api, runtime, rules, handle, dir }
}

async fn node() -> Node {
    node_on(Api::new()).await
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = json!("n1");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": spec})
}

fn one(command: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "img:1", "command": command}]})
}

fn condition(pod: &Value, kind: &str) -> String {
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or("").to_owned()
}

async fn ready(api: &Api, name: &str) -> Value {
    api.until("the Pod is ready", |a| a.get("pods", name).filter(|p| condition(p, "Ready") == "True")).await
}

async fn text(node: &Node, options: LogOptions) -> String {
    let mut stream = node.handle.logs("default", "p", options).await.unwrap();
    let mut out = Vec::new();
    while let Some(chunk) = stream.next().await {
        out.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_a_pod() {
    let n = node().await;
    let object = n.api.get("nodes", "n1").unwrap();
    assert_eq!(condition(&object, "Ready"), "True");
    assert_eq!(object["status"]["nodeInfo"]["containerRuntimeVersion"], "sealane://0.1.0");
    n.api.until("the lease is there", |a| a.get("leases", "n1")).await;

    n.api.put(
        "pods",
        pod(
            "p",
            json!({"containers": [{"name": "c", "image": "img:1", "env": [{"name": "X", "value": "1"}]}]}),
        ),
    );
    let p = ready(&n.api, "p").await;
    let s = &p["status"];
    assert_eq!((s["phase"].as_str(), s["qosClass"].as_str()), (Some("Running"), Some("BestEffort")));
    assert_eq!((s["podIP"].as_str(), s["hostIP"].as_str()), (Some("10.244.0.2"), Some("10.0.0.1")));
    assert_eq!(s["observedGeneration"], 1);
    let c = &s["containerStatuses"][0];
    assert!(c["containerID"].as_str().unwrap().starts_with("sealane://"));
    assert_eq!((c["imageID"].as_str(), c["started"].as_bool()), (Some("img@sha256:1"), Some(true)));
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&p, kind), "True", "{kind}");
    }
    let spec = n.runtime.spec("run");
    for want in ["X=1", "FROM=image", "HOSTNAME=p", "HOME=/"] {
        assert!(spec.env.iter().any(|e| e == want), "{want}");
    }
    let hosts = spec.mounts.iter().find(|m| m.target.ends_with("etc/hosts")).unwrap();
    assert!(std::fs::read_to_string(&hosts.source).unwrap().ends_with("10.244.0.2\tp\n"));
    n.api
        .until("its events", |a| {
            let reasons: Vec<Value> = a.list("events").iter().map(|e| e["reason"].clone()).collect();
            ["Pulled", "Created", "Started"].iter().all(|r| reasons.contains(&json!(r))).then_some(())
        })
        .await;

    n.runtime.print("run", "more\n");
    n.api.delete("p", 1);
    n.api.until("the object is gone", |a| a.get("pods", "p").is_none().then_some(())).await;
    let calls = n.runtime.calls();
    assert_eq!(calls[calls.len() - 2..], ["signal run 15", "remove sandbox"]);
}

/// Rules first, then the process, then the API, then rules again, and the network last.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_ends_when_its_endpoints_have_left() {
    let n = node_with(Api::new(), Exposure::Ready, |_| {}).await;
    n.api.put("pods", pod("p", one(json!(["run"]))));
    ready(&n.api, "p").await;
    let before = n.runtime.calls().len();
    let called = async |call: &str| {
        n.api.until(call, |_| n.runtime.calls().contains(&call.to_owned()).then_some(())).await;
    };
    n.api.delete("p", 30);
    called("p waits for Terminating").await;
    n.rules.set(Exposure::Terminating);
    called("p waits for Removed").await;
    n.api
        .until("the API hears", |a| (a.get("pods", "p")?["status"]["phase"] == "Failed").then_some(()))
        .await;
    n.rules.set(Exposure::Removed);
    n.api.until("the object is gone", |a| a.get("pods", "p").is_none().then_some(())).await;
    let calls = n.runtime.calls().split_off(before);
    let expected = [
        "p waits for Terminating",
        "rules Terminating",
        "p waits for Removed",
        "signal run 15",
        "rules Removed",
        "remove sandbox",
    ];
    assert_eq!(calls, expected);
}

/// Its processes hear of it at once: nobody is left to be served, and the next run finds the Pod as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_waits_for_no_rules() {
    let n = node_with(Api::new(), Exposure::Ready, |_| {}).await;
    n.api.put("pods", pod("p", one(json!(["run"]))));
    ready(&n.api, "p").await;
    n.handle.shutdown(Duration::from_secs(30)).await;
    let calls = n.runtime.calls();
    assert_eq!(calls[calls.len() - 2..], ["signal run 15", "remove sandbox"]);
    assert!(!calls.iter().any(|c| c.contains("waits")), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_with_its_runtime_says_nothing_of_it() {
    let n = node_with(Api::new(), Exposure::Removed, |config| config.ends_with_runtime = true).await;
    n.api.put("pods", pod("p", one(json!(["run"]))));
    ready(&n.api, "p").await;
    n.runtime.lose();
    // What the agent is told afterwards it does: it had the time to speak of the loss.
    for name in ["q", "r"] {
        n.api.put("pods", pod(name, one(json!(["stubborn"]))));
        ready(&n.api, name).await;
    }
    let runs = || {
        let p = n.api.get("pods", "p").unwrap();
        let restarts = p["status"]["containerStatuses"][0]["restartCount"].clone();
        (condition(&p, "Ready"), restarts)
    };
    assert_eq!(runs(), ("True".to_owned(), json!(0)));
    assert_eq!(n.runtime.calls().iter().filter(|c| *c == "start run").count(), 1);
    assert!(n.handle.has("default", "p"));
    n.handle.halt();
    assert!(!n.handle.has("default", "p"));
    assert_eq!(runs(), ("True".to_owned(), json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_exec_and_attach() {
    let n = node().await;
    n.api.put("pods", pod("p", one(json!(["run"]))));
    ready(&n.api, "p").await;
    let mut follow =
        n.handle.logs("default", "p", LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    assert_eq!(follow.next().await.unwrap().unwrap(), "run begins\n");
    let attach = ExecRequest { stdout: true, ..ExecRequest::default() };
    let mut attached = n.handle.exec("default", "p", attach).await.unwrap();
    n.runtime.print("run", "second\n");
    assert_eq!(follow.next().await.unwrap().unwrap(), "second\n");
    assert_eq!(attached.stdout.as_mut().unwrap().recv().await.unwrap(), "second\n");
    assert_eq!(text(&n, LogOptions { tail_lines: Some(1), ..LogOptions::default() }).await, "second\n");

    let request =
        ExecRequest { command: vec!["echo".into(), "hi".into()], stdout: true, ..ExecRequest::default() };
    let mut session = n.handle.exec("default", "p", request).await.unwrap();
    assert_eq!(session.stdout.as_mut().unwrap().recv().await.unwrap(), "echo hi");
    assert_eq!(session.exit.await.unwrap(), Ok(3));

    let missing =
        n.handle.exec("default", "p", ExecRequest { container: "x".into(), ..ExecRequest::default() }).await;
    assert_eq!(missing.unwrap_err(), NodeError::BadRequest("container x is not valid for pod p".into()));
    assert!(matches!(n.handle.connect("default", "no", 1).await.err(), Some(NodeError::NotFound(_))));
    n.handle.shutdown(Duration::from_secs(5)).await;
    assert_eq!(attached.exit.await.unwrap(), Ok(143));
    assert!(follow.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_loops() {
    let n = node().await;
    n.api.put("pods", pod("p", one(json!(["exit", "7"]))));
    let p = n
        .api
        .until("it waits", |a| {
            let p = a.get("pods", "p")?;
            (p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff")
                .then_some(p)
        })
        .await;
    let c = &p["status"]["containerStatuses"][0];
    assert_eq!(c["restartCount"], 1);
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 7);
    assert!(
        c["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .starts_with("back-off 10s restarting failed container=c")
    );
    assert_eq!(text(&n, LogOptions { previous: true, ..LogOptions::default() }).await, "exit begins\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn finishes() {
    let n = node().await;
    let mut spec = one(json!(["exit", "0"]));
    spec["restartPolicy"] = json!("Never");
    n.api.put("pods", pod("p", spec));
    let p = n
        .api
        .until("it succeeds", |a| a.get("pods", "p").filter(|p| p["status"]["phase"] == "Succeeded"))
        .await;
    assert_eq!(p["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(text(&n, LogOptions::default()).await, "exit begins\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_not_there() {
    let n = node().await;
    for (name, image, policy, reason) in [
        ("a", "no:1", "Never", "ErrImageNeverPull"),
        ("b", "no:1", "IfNotPresent", "ErrImagePull"),
        ("c", "NO", "IfNotPresent", "InvalidImageName"),
    ] {
        n.api.put(
            "pods",
            pod(name, json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]})),
        );
        let state = |a: &Api| {
            a.get("pods", name).map(|p| p["status"]["containerStatuses"][0]["state"]["waiting"].clone())
        };
        n.api.until(reason, |a| state(a).filter(|w| w["reason"] == reason)).await;
    }
    n.api
        .until("ImagePullBackOff", |a| {
            let p = a.get("pods", "b")?;
            (p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff")
                .then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_its_probe() {
    let n = node().await;
    let healthy = Arc::new(AtomicBool::new(false));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = healthy.clone();
    let app = axum::Router::new().fallback(move || {
        let code = if answer.load(Ordering::SeqCst) { 200u16 } else { 503 };
        async move { axum::http::StatusCode::from_u16(code).unwrap() }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    let probe =
        json!({"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1});
    n.api.put(
        "pods",
        pod(
            "p",
            json!({"containers": [{"name": "c", "image": "img:1", "readinessProbe": probe,
            "ports": [{"name": "web", "containerPort": port}]}]}),
        ),
    );
    let with = |want: &'static str| {
        move |a: &Api| {
            let p = a.get("pods", "p")?;
            (p["status"]["phase"] == "Running" && condition(&p, "Ready") == want).then_some(())
        }
    };
    n.api.until("not ready", with("False")).await;
    healthy.store(true, Ordering::SeqCst);
    n.api.until("ready", with("True")).await;
    healthy.store(false, Ordering::SeqCst);
    n.api.until("not ready again", with("False")).await;
    n.api
        .until("an event says so", |a| {
            let unhealthy =
                |e: &Value| e["message"] == "Readiness probe failed: HTTP probe failed with statuscode: 503";
            a.list("events").iter().any(unhealthy).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_is_killed() {
    let n = node().await;
    let probe = json!({"exec": {"command": ["hang", "on"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    let spec = json!({"containers": [{"name": "c", "image": "img:1", "readinessProbe": probe}]});
    n.api.put("pods", pod("p", spec));
    n.api
        .until("an event says so", |a| {
            let text = "Readiness probe failed: command timed out: \"hang on\" timed out after 1s";
            a.list("events").iter().any(|e| e["message"] == text).then_some(())
        })
        .await;
    assert!(n.runtime.calls().contains(&"kill 2".to_owned()), "{:?}", n.runtime.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_may_say_much_on_either_stream() {
    let n = node().await;
    let hook = json!({"postStart": {"exec": {"command": ["complain"]}}});
    let spec = json!({"containers": [{"name": "c", "image": "img:1", "lifecycle": hook}]});
    n.api.put("pods", pod("p", spec));
    ready(&n.api, "p").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_left_closes_its_streams() {
    let n = node().await;
    n.api.put("pods", pod("p", one(json!(["run"]))));
    ready(&n.api, "p").await;
    let request = ExecRequest { command: vec!["hang".into()], stdout: true, ..ExecRequest::default() };
    let mut session = n.handle.exec("default", "p", request).await.unwrap();
    assert_eq!(session.stdout.as_mut().unwrap().recv().await.unwrap(), "hang");
    drop(session);
    n.api.until("its standard output is closed", |_| n.runtime.is_left().then_some(())).await;
    assert!(!n.runtime.calls().iter().any(|c| c.starts_with("kill")), "it is left to itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_in_order() {
    let n = node().await;
    n.api.put(
        "pods",
        pod(
            "p",
            json!({
            "initContainers": [
                {"name": "i", "image": "img:1", "command": ["exit", "0"]},
                {"name": "side", "image": "img:1", "command": ["side"], "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "img:1", "command": ["stubborn"],
                "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}]}),
        ),
    );
    ready(&n.api, "p").await;
    n.api.delete("p", 1);
    n.api.until("the object is gone", |a| a.get("pods", "p").is_none().then_some(())).await;
    assert_eq!(
        n.runtime.calls(),
        [
            "sandbox p Some(10.244.0.2)",
            "start exit",
            "start side",
            "start stubborn",
            "exec bye",
            "signal stubborn 15",
            "signal stubborn 9",
            "signal side 15",
            "remove sandbox"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn config_maps_are_kept_up_to_date() {
    let n = node().await;
    let map = |v: &str| json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"k": v}});
    n.api.put("configmaps", map("old"));
    n.api.put(
        "pods",
        pod(
            "p",
            json!({
            "volumes": [{"name": "v", "configMap": {"name": "cm"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "containers": [{"name": "c", "image": "img:1", "volumeMounts": [
                {"name": "v", "mountPath": "/etc/v"}, {"name": "t", "mountPath": "/t"}]}]}),
        ),
    );
    ready(&n.api, "p").await;
    let mounts = n.runtime.spec("run").mounts;
    let at = |target: &str| mounts.iter().find(|m| m.target.as_os_str() == target).unwrap().source.clone();
    let file = at("/etc/v").join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old");
    assert_eq!(std::fs::read_to_string(at("/t").join("token")).unwrap(), "t0ken");
    n.api.put("configmaps", map("new"));
    n.api.until("the file changes", |_| (std::fs::read_to_string(&file).ok()? == "new").then_some(())).await;
    n.api.put("configmaps", map("newer"));
    n.api
        .until("it changes again", |_| (std::fs::read_to_string(&file).ok()? == "newer").then_some(()))
        .await;
    assert!(file.starts_with(n.dir.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_a_restart() {
    let first = node().await;
    first.api.put("pods", pod("other", one(json!(["run"]))));
    ready(&first.api, "other").await;
    first.api.put("pods", pod("p", one(json!(["run"]))));
    let before = ready(&first.api, "p").await;
    assert_eq!(before["status"]["podIP"], "10.244.0.3");
    first.handle.shutdown(Duration::from_secs(5)).await;
    let left = first.api.get("pods", "p").unwrap();
    assert_eq!(condition(&left, "Ready"), "True", "shutting down says nothing to the API");

    let second = node_on(first.api.clone()).await;
    let p = second
        .api
        .until("it runs again", |a| {
            let p = a.get("pods", "p")?;
            (p["status"]["containerStatuses"][0]["restartCount"] == 1 && condition(&p, "Ready") == "True")
                .then_some(p)
        })
        .await;
    assert_eq!(p["status"]["podIP"], "10.244.0.3");
    assert_eq!(p["metadata"]["uid"], before["metadata"]["uid"]);
    second.runtime.lose();
    second
        .api
        .until("it runs after the launcher's death", |a| {
            let p = a.get("pods", "p")?;
            (p["status"]["containerStatuses"][0]["restartCount"] == 2 && condition(&p, "Ready") == "True")
                .then_some(())
        })
        .await;
}
