//! Plays every answer of kube-apiserver that was recorded (`golden/README.md`) against `sealane up` with its
//! controllers at work, over HTTPS, and compares.
//!
//! Every step agrees, or stands in `golden/exceptions.json` beside this file with its reason; an exception that
//! agrees by now is a failure too, so that the list only shrinks. The recordings had no scheduler and no kubelet:
//! the node is cordoned here, and what the scheduler says of that is left out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "golden/client.rs"]
mod client;
#[path = "golden/compare.rs"]
mod compare;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Answer, Client, Pending};
use compare::{Learned, differences};
use sealane_tests::{Start, eventually};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// How long a read may differ while controllers are at work.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// One scenario's way through.
struct Player<'a> {
    client: &'a Client,
    learned: Learned,
}

/// Leaves out what a scheduler writes.
fn without_scheduler(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(list)) = map.get_mut("conditions") {
                list.retain(|c| c["type"] != "PodScheduled" || c["status"] != "False");
                if list.is_empty() {
                    map.remove("conditions");
                }
            }
            if let Some(Value::Array(list)) = map.get_mut("managedFields") {
                for entry in &mut *list {
                    if let Some(conditions) = entry.pointer_mut("/fieldsV1/f:status/f:conditions") {
                        let conditions = conditions.as_object_mut().unwrap();
                        conditions.remove("k:{\"type\":\"PodScheduled\"}");
                    }
                }
                let alone = |c: &Value| c.as_object().is_some_and(|c| c.keys().all(|k| k == "."));
                list.retain(|m| !m.pointer("/fieldsV1/f:status/f:conditions").is_some_and(alone));
            }
            map.values_mut().for_each(without_scheduler);
        }
        Value::Array(list) => list.iter_mut().for_each(without_scheduler),
        _ => {}
    }
}

impl<'a> Player<'a> {
    /// The scenario's namespace is there, with what controllers put into it.
    fn new(client: &'a Client, scenario: &str) -> Self {
        let player = Player { client, learned: Learned::default() };
        let namespace = format!("g-{scenario}");
        player.make("/api/v1/namespaces", &json!({"metadata": {"name": namespace}}));
        for object in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            let path = format!("/api/v1/namespaces/{namespace}/{object}");
            eventually(&path, || {
                let status = player.get(&path).status;
                if status == 200 { Ok(()) } else { Err(status.to_string()) }
            });
        }
        player
    }

    fn make(&self, path: &str, body: &Value) {
        let answer = self.client.send(true, "POST", path, &[], body.to_string().as_bytes()).answer();
        assert_eq!(answer.status, 201, "{path}: {}", String::from_utf8_lossy(&answer.body));
    }

    fn get(&self, path: &str) -> Answer {
        self.client.send(true, "GET", path, &[], b"").answer()
    }

    fn send(&self, recorded: &Value) -> Pending {
        let text = |key: &str| recorded[key].as_str().unwrap_or("");
        let path = self.learned.path(text("path")).replace(' ', "%20");
        let mut headers: Vec<(&str, &str)> = Vec::new();
        for (name, value) in recorded["headers"].as_object().into_iter().flatten() {
            headers.push((name, value.as_str().unwrap()));
        }
        if text("as") == "wrong-token" {
            headers.push(("Authorization", "Bearer nobody"));
        }
        let body = if let Some(body) = recorded.get("body") {
            self.learned.ours(&body.to_string()).into_bytes()
        } else if let Some(body) = recorded["bodyBase64"].as_str() {
            STANDARD.decode(body).unwrap()
        } else {
            self.learned.ours(text("text")).into_bytes()
        };
        self.client.send(text("as").is_empty(), text("method"), &path, &headers, &body)
    }

    /// What differs from the recorded answer in the end: a read is repeated until it agrees, or until it differs
    /// as it is known to.
    fn step(&mut self, request: &Value, recorded: &Value, agrees: bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        if request["method"] != "GET" {
            if agrees {
                self.let_controllers_write(request, recorded, deadline);
            }
            let answer = self.send(request).answer();
            return self.compare(recorded, &answer);
        }
        loop {
            let before = self.learned.clone();
            let answer = self.send(request).answer();
            let found = self.compare(recorded, &answer);
            if found.is_empty() == agrees || Instant::now() > deadline {
                return found;
            }
            self.learned = before;
            std::thread::sleep(STEP);
        }
    }

    /// A write's answer holds what controllers wrote before it: waits until they have.
    fn let_controllers_write(&self, request: &Value, recorded: &Value, deadline: Instant) {
        let theirs = &recorded["body"];
        let path = self.learned.path(request["path"].as_str().unwrap());
        let path = path.split('?').next().unwrap_or_default().trim_end_matches("/scale");
        let made = request["method"] == "POST" || theirs["status"].as_object().is_none();
        if made || path.ends_with("/status") {
            return;
        }
        let part = |object: &Value| {
            let revision = &object["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            let annotations = json!({"deployment.kubernetes.io/revision": revision});
            json!({"metadata": {"annotations": annotations}, "spec": {}, "status": object["status"]})
        };
        while Instant::now() < deadline {
            let answer = self.get(path);
            let Ok(mut ours) = serde_json::from_slice::<Value>(&answer.body) else { return };
            without_scheduler(&mut ours);
            let agree = differences(&part(theirs), &part(&ours), &mut self.learned.clone()).is_empty();
            if agree || answer.status != 200 {
                return;
            }
            std::thread::sleep(STEP);
        }
    }

    fn compare(&mut self, recorded: &Value, answer: &Answer) -> Vec<String> {
        let mut found = Vec::new();
        if recorded["status"] != answer.status {
            found.push(format!("status: theirs {} ours {}", recorded["status"], answer.status));
        }
        let content_type = answer.headers("content-type").concat();
        if recorded["contentType"].as_str().is_some_and(|t| t != content_type) {
            found.push(format!("contentType: theirs {} ours {content_type}", recorded["contentType"]));
        }
        let warnings = answer.headers("warning");
        let expected: Vec<&str> =
            recorded["warning"].as_array().into_iter().flatten().map(|v| v.as_str().unwrap()).collect();
        if warnings != expected {
            found.push(format!("warnings: theirs {expected:?} ours {warnings:?}"));
        }
        found.extend(self.body(recorded, &answer.body));
        found
    }

    fn body(&mut self, recorded: &Value, body: &[u8]) -> Vec<String> {
        let (theirs, ours) = if let Some(theirs) = recorded.get("body") {
            (theirs.clone(), serde_json::from_slice(body).map_err(|e| format!("body: no JSON ({e})")))
        } else if let Some(theirs) = recorded["bodyBase64"].as_str() {
            let theirs = sealane_api::protobuf::decode(&STANDARD.decode(theirs).unwrap()).unwrap();
            (theirs, sealane_api::protobuf::decode(body).map_err(|e| format!("body: no protobuf ({e})")))
        } else {
            let theirs = recorded["text"].as_str().unwrap_or("");
            let ours = String::from_utf8_lossy(body).into_owned();
            if recorded["contentType"] == "application/yaml" {
                let ours = sealane_api::yaml::parse(&ours).map_err(|e| format!("body: no YAML ({e})"));
                (sealane_api::yaml::parse(theirs).unwrap(), ours)
            } else {
                (json!(theirs), Ok(json!(ours)))
            }
        };
        match ours {
            Ok(mut ours) => {
                without_scheduler(&mut ours);
                differences(&theirs, &ours, &mut self.learned)
            }
            Err(why) => vec![why],
        }
    }

    /// A watch with what is sent meanwhile; the frames that were recorded.
    fn watch(&mut self, step: &Value) -> Vec<String> {
        let watch = &step["watch"];
        let during = step["during"].as_array().cloned().unwrap_or_default();
        // The server ends it: late enough for what is sent meanwhile, on a busy machine too.
        let seconds = if during.is_empty() { 1 } else { 3 };
        let path = format!("{}&timeoutSeconds={seconds}", watch["path"].as_str().unwrap());
        let request = json!({"method": "GET", "path": path, "headers": watch["headers"]});
        let mut pending = self.send(&request);
        pending.begun();
        let mut found = Vec::new();
        for part in during {
            found.extend(self.step(&part["request"], &part["response"], true));
        }
        let answer = pending.answer();
        let frames = step["frames"].as_array().unwrap();
        if frames[0]["status"] != answer.status {
            found.push(format!("status: theirs {} ours {}", frames[0]["status"], answer.status));
        }
        let ours: Vec<Value> = answer
            .body
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap_or(Value::Null))
            .collect();
        let theirs = Value::Array(frames[1..].to_vec());
        found.extend(differences(&theirs, &Value::Array(ours), &mut self.learned));
        found
    }
}

/// Scenario to reason to the steps that differ for it.
type Exceptions = BTreeMap<String, BTreeMap<String, Vec<usize>>>;

/// What came of one scenario.
#[derive(Default)]
struct Outcome {
    scenario: String,
    steps: usize,
    agree: usize,
    /// Number, request, and the reason why it differs.
    excepted: Vec<String>,
    failures: Vec<String>,
}

fn play(client: &Client, recorded: &Value, exceptions: &Exceptions) -> Outcome {
    let scenario = recorded["scenario"].as_str().unwrap().to_owned();
    let steps = recorded["steps"].as_array().unwrap();
    let known: BTreeMap<usize, &String> = exceptions
        .get(&scenario)
        .into_iter()
        .flatten()
        .flat_map(|(reason, steps)| steps.iter().map(move |s| (*s, reason)))
        .collect();
    let mut outcome = Outcome { steps: steps.len(), ..Outcome::default() };
    outcome.failures.extend(
        known.keys().filter(|n| **n >= steps.len()).map(|n| format!("{scenario} {n}: there is no such step")),
    );
    let mut player = Player::new(client, &scenario);
    for (n, step) in steps.iter().enumerate() {
        let reason = known.get(&n);
        let found = if step.get("watch").is_some() {
            player.watch(step)
        } else {
            player.step(&step["request"], &step["response"], reason.is_none())
        };
        if scenario == "reading" && n == 0 {
            // The recording names the first of seven.
            for i in 1..7 {
                let labels = json!({"n": i.to_string(), "odd": (i % 2).to_string()});
                let path = step["request"]["path"].as_str().unwrap();
                player.make(path, &json!({"metadata": {"name": format!("c{i}"), "labels": labels}}));
            }
        }
        let request = if step.get("watch").is_some() { &step["watch"] } else { &step["request"] };
        let method = request["method"].as_str().unwrap_or("watch");
        let said = format!("{scenario} {n}: {method} {}", request["path"].as_str().unwrap());
        match (found.is_empty(), reason) {
            (true, None) => outcome.agree += 1,
            (true, Some(reason)) => {
                outcome.failures.push(format!("{said}: agrees, but is an exception: {reason}"));
            }
            (false, Some(reason)) => outcome.excepted.push(format!("{said}: {reason}")),
            (false, None) => outcome.failures.push(format!("{said}\n    {}", found.join("\n    "))),
        }
    }
    outcome.scenario = scenario;
    outcome
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A scenario whose bodies are texts: the order of their fields is part of what was sent, and a `Value` sorts them.
fn scenario(path: &Path) -> Value {
    type Fields = BTreeMap<String, Box<RawValue>>;
    let mut scenario = read(path);
    let fields: Fields = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let steps: Vec<Fields> = serde_json::from_str(fields["steps"].get()).unwrap();
    for (n, step) in steps.iter().enumerate() {
        let Some(request) = step.get("request") else { continue };
        let request: Fields = serde_json::from_str(request.get()).unwrap();
        if let Some(body) = request.get("body") {
            let request = scenario["steps"][n]["request"].as_object_mut().unwrap();
            request.remove("body");
            request.insert("text".to_owned(), json!(compact(body.get())));
        }
    }
    scenario
}

/// JSON without the spaces between its tokens, as it was sent.
fn compact(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let mut keep = |c: &char| {
        let was = quoted;
        if *c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = *c == '\\' && !escaped;
        was || !c.is_whitespace()
    };
    text.chars().filter(|c| keep(c)).collect()
}

#[test]
fn answers_are_kube_apiservers() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exceptions: Exceptions =
        serde_json::from_value(read(&here.join("tests/golden/exceptions.json"))).unwrap();
    let mut files: Vec<_> =
        std::fs::read_dir(here.join("golden")).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    assert!(files.len() > 15, "the recorded answers are not where they were");

    // The address of the recordings' own.
    let start = Start::new().arg("--no-node").arg("--api-address").arg("192.0.2.2:16443");
    start.machine.add_address([192, 0, 2, 2].into());
    let up = start.up();
    let client = up.machine.within(|| Client::new(&up.kubeconfig()));
    let outcomes: Vec<Outcome> = up.machine.within(|| {
        let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
            "spec": {"unschedulable": true}});
        Player { client: &client, learned: Learned::default() }.make("/api/v1/nodes", &node);
        // Watches take their time: they are played beside the rest.
        let (client, exceptions) = (&client, &exceptions);
        std::thread::scope(|scope| {
            let is_watch = |file: &&PathBuf| file.ends_with("watching.json");
            let all = |files: Vec<&PathBuf>| -> Vec<Outcome> {
                files.into_iter().map(|file| play(client, &scenario(file), exceptions)).collect()
            };
            let watches = files.iter().filter(is_watch).collect();
            let beside = scope.spawn(move || all(watches));
            let mut outcomes = all(files.iter().filter(|f| !is_watch(f)).collect());
            outcomes.extend(beside.join().unwrap());
            outcomes
        })
    });

    println!("{:<28} {:>6} {:>6} {:>7}", "scenario", "steps", "agree", "differ");
    let line = |name: &str, steps: usize, agree: usize| {
        println!("{name:<28} {steps:>6} {agree:>6} {:>7}", steps - agree);
    };
    for outcome in &outcomes {
        line(&outcome.scenario, outcome.steps, outcome.agree);
    }
    line("all", outcomes.iter().map(|o| o.steps).sum(), outcomes.iter().map(|o| o.agree).sum());
    for excepted in outcomes.iter().flat_map(|o| &o.excepted) {
        println!("{excepted}");
    }
    let failures: Vec<&String> = outcomes.iter().flat_map(|o| &o.failures).collect();
    let said: Vec<&str> = failures.iter().map(|f| f.as_str()).collect();
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), said.join("\n"));
    let played: Vec<&String> = outcomes.iter().map(|o| &o.scenario).collect();
    let unplayed: Vec<&String> = exceptions.keys().filter(|s| !played.contains(s)).collect();
    assert!(unplayed.is_empty(), "exceptions of scenarios that are not there: {unplayed:?}");
}
