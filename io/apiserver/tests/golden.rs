//! Plays kube-apiserver's recorded answers (`tests/golden`) against this server and compares.
//!
//! Every step agrees, or stands in `golden/exceptions.json` with its reason; an exception that agrees by now is a
//! failure too, so that the list only shrinks. Steps that need controllers are counted and left to the whole program's
//! tests.
#![allow(clippy::unwrap_used)]

#[path = "golden/compare.rs"]
mod compare;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use compare::{Learned, differences};
use http::{Request, Response};
use http_body_util::BodyExt;
use sealane_apiserver::nodes::NoNodes;
use sealane_apiserver::{ApiServer, Config};
use sealane_registry::rbac::User;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Scenarios whose answers are controllers' work from the first steps on.
const CONTROLLERS: [&str; 3] = ["endpoint-controllers", "rollout", "stateful"];

struct Player {
    server: ApiServer,
    learned: Learned,
}

fn admin() -> User {
    User { name: "kubernetes-admin".into(), groups: vec!["system:masters".into()], ..User::default() }
}

impl Player {
    /// A server in which the scenario's namespace and node exist, with what controllers would have put there.
    async fn new(scenario: &str) -> Self {
        let store = Arc::new(sealane_store::MemoryStore::new());
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let tokens = Arc::new(sealane_pki::TokenKey::from_pem(&key).unwrap());
        let advertise = "192.0.2.2:16443".parse().unwrap();
        let config = Config { advertise, ..Config::default() };
        let server = ApiServer::new(config, store, Arc::new(NoNodes), tokens).unwrap();
        server.bootstrap().await.unwrap();
        let player = Player { server, learned: Learned::default() };
        let namespace = format!("g-{scenario}");
        let label = json!({"topology.kubernetes.io/zone": "zone-a"});
        player.make("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await;
        player.make("/api/v1/nodes", &json!({"metadata": {"name": "n1", "labels": label}})).await;
        let of = |plural: &str| format!("/api/v1/namespaces/{namespace}/{plural}");
        player.make(&of("serviceaccounts"), &json!({"metadata": {"name": "default"}})).await;
        let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
             the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
             Kubernetes clusters.";
        let config = json!({"metadata": {"name": "kube-root-ca.crt", "annotations": {"kubernetes.io/description": about}},
            "data": {"ca.crt": "x"}});
        player.make(&of("configmaps"), &config).await;
        player
    }

    fn router(&self, who: &str) -> Router {
        if who.is_empty() { self.server.router_as(admin()) } else { self.server.router() }
    }

    async fn make(&self, path: &str, body: &Value) {
        let request = Request::post(path)
            .header("user-agent", "kube-controller-manager/v1")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.router("").oneshot(request).await.unwrap();
        assert_eq!(response.status(), 201, "{path}");
    }

    async fn send(&self, recorded: &Value) -> Response<Body> {
        let text = |key: &str| recorded[key].as_str().unwrap_or("");
        let path = self.learned.path(text("path"));
        let mut request = Request::builder().method(text("method")).uri(path.replace(' ', "%20"));
        for (name, value) in recorded["headers"].as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().unwrap());
        }
        if text("as") == "wrong-token" {
            request = request.header("Authorization", "Bearer nobody");
        }
        let body = if let Some(body) = recorded.get("body") {
            self.learned.ours(&body.to_string()).into_bytes()
        } else if let Some(body) = recorded["bodyBase64"].as_str() {
            STANDARD.decode(body).unwrap()
        } else {
            self.learned.ours(text("text")).into_bytes()
        };
        let request = request.body(Body::from(body)).unwrap();
        self.router(text("as")).oneshot(request).await.unwrap()
    }

    /// What differs from the recorded answer.
    async fn step(&mut self, request: &Value, recorded: &Value) -> Vec<String> {
        let response = self.send(request).await;
        let mut found = Vec::new();
        let status = response.status().as_u16();
        if recorded["status"] != status {
            found.push(format!("status: theirs {} ours {status}", recorded["status"]));
        }
        let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let content_type = header("content-type").unwrap_or_default();
        if recorded["contentType"].as_str().is_some_and(|t| t != content_type) {
            found.push(format!("contentType: theirs {} ours {content_type}", recorded["contentType"]));
        }
        let warnings: Vec<&str> =
            response.headers().get_all("warning").iter().map(|v| v.to_str().unwrap()).collect();
        let expected: Vec<&str> =
            recorded["warning"].as_array().into_iter().flatten().map(|v| v.as_str().unwrap()).collect();
        if warnings != expected {
            found.push(format!("warnings: theirs {expected:?} ours {warnings:?}"));
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        found.extend(self.body(recorded, &body));
        found
    }

    fn body(&mut self, recorded: &Value, body: &[u8]) -> Vec<String> {
        if let Some(theirs) = recorded.get("body") {
            return match serde_json::from_slice(body) {
                Ok(ours) => differences(theirs, &ours, &mut self.learned),
                Err(e) => vec![format!("body: no JSON ({e})")],
            };
        }
        if let Some(theirs) = recorded["bodyBase64"].as_str() {
            let theirs = sealane_api::protobuf::decode(&STANDARD.decode(theirs).unwrap()).unwrap();
            return match sealane_api::protobuf::decode(body) {
                Ok(ours) => differences(&theirs, &ours, &mut self.learned),
                Err(e) => vec![format!("body: no protobuf ({e})")],
            };
        }
        let theirs = recorded["text"].as_str().unwrap_or("");
        let ours = String::from_utf8_lossy(body).into_owned();
        let is_yaml = recorded["contentType"] == "application/yaml";
        let (theirs, ours) = if is_yaml {
            let parse = |t: &str| sealane_api::yaml::parse(t).unwrap();
            (parse(theirs), parse(&ours))
        } else {
            (json!(theirs), json!(ours))
        };
        differences(&theirs, &ours, &mut self.learned)
    }

    /// A watch with what is sent meanwhile; the frames that were recorded.
    async fn watch(&mut self, step: &Value) -> Vec<String> {
        let watch = &step["watch"];
        let path = format!("{}&timeoutSeconds=9", watch["path"].as_str().unwrap());
        let request = json!({"method": "GET", "path": path, "headers": watch["headers"]});
        let response = self.send(&request).await;
        let mut found = Vec::new();
        let frames: Vec<Value> = step["frames"].as_array().unwrap().clone();
        let status = response.status().as_u16();
        if frames[0]["status"] != status {
            found.push(format!("status: theirs {} ours {status}", frames[0]["status"]));
        }
        for part in step["during"].as_array().into_iter().flatten() {
            found.extend(self.step(&part["request"], &part["response"]).await);
        }
        // All changes are in the cache by now; the runtime's clock jumps to the watch's end when all is sent.
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let ours: Vec<Value> = body
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap_or(Value::Null))
            .collect();
        let theirs = Value::Array(frames[1..].to_vec());
        found.extend(differences(&theirs, &Value::Array(ours), &mut self.learned));
        found
    }
}

type Exceptions = BTreeMap<String, BTreeMap<String, String>>;

#[tokio::test(start_paused = true)]
async fn answers_are_kube_apiservers() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exceptions: Exceptions =
        serde_json::from_slice(&std::fs::read(here.join("tests/golden/exceptions.json")).unwrap()).unwrap();
    let mut failures = Vec::new();
    let mut files: Vec<_> =
        std::fs::read_dir(here.join("../../tests/golden")).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(files.len() > 15, "the recorded answers are not where they were");
    for file in files {
        let recorded: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let scenario = recorded["scenario"].as_str().unwrap().to_owned();
        let steps = recorded["steps"].as_array().unwrap();
        if CONTROLLERS.contains(&scenario.as_str()) {
            println!("{scenario}: {} steps need controllers", steps.len());
            continue;
        }
        let known = exceptions.get(&scenario).cloned().unwrap_or_default();
        if known.contains_key("*") {
            println!("{scenario}: {} steps left out: {}", steps.len(), known["*"]);
            continue;
        }
        let (mut agree, mut settle) = (0, 0);
        let mut player = Player::new(&scenario).await;
        for (n, step) in steps.iter().enumerate() {
            let found = if step.get("watch").is_some() {
                player.watch(step).await
            } else {
                player.step(&step["request"], &step["response"]).await
            };
            if scenario == "reading" && n == 0 {
                // The recording names the first of seven.
                for i in 1..7 {
                    let labels = json!({"n": i.to_string(), "odd": (i % 2).to_string()});
                    let body = json!({"metadata": {"name": format!("c{i}"), "labels": labels}});
                    let request = json!({"method": "POST", "path": step["request"]["path"], "body": body});
                    assert_eq!(player.send(&request).await.status(), 201);
                }
            }
            if step["settle"] == true {
                settle += 1;
                continue;
            }
            let said = format!("{} {}", step["request"]["method"], step["request"]["path"]);
            match (found.is_empty(), known.get(&n.to_string())) {
                (true, None) => agree += 1,
                (true, Some(_)) => {
                    failures.push(format!("{scenario} {n} {said}: agrees, but is an exception"))
                }
                (false, Some(_)) => {}
                (false, None) => {
                    failures.push(format!("{scenario} {n} {said}\n    {}", found.join("\n    ")))
                }
            }
        }
        println!(
            "{scenario}: {agree} of {} steps agree, {} exceptions, {settle} need controllers",
            steps.len(),
            known.len()
        );
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}
