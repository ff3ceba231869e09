use super::*;
use crate::record::{Ended, records};
use serde_json::{Value, from_value, json};

fn pod(spec: Value) -> Pod {
    from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec}),
    )
    .unwrap()
}

fn t(s: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + s).unwrap()
}

fn sandbox() -> Sandbox {
    Sandbox {
        address: "10.244.0.2".into(),
        host: "10.0.0.1".into(),
        ready: true,
        started: Some(t(0)),
        failed: None,
        terminal: false,
    }
}

fn run(r: &mut Record, ready: bool) {
    r.run(t(1), "sealane://1".into(), "sha256:1".into());
    r.started = true;
    r.ready = ready;
}

fn of<'a>(s: &'a PodStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
    let c = s.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
    (&c.status, c.reason.as_deref().unwrap_or(""), c.message.as_deref().unwrap_or(""))
}

#[test]
fn from_pending_to_ready() {
    let mut pod =
        pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}));
    let mut rs = records(&pod);
    let s = pod_status(&pod, &rs, &sandbox(), t(0));
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(
        of(&s, "Initialized"),
        ("False", "ContainersNotInitialized", "containers with incomplete status: [i]")
    );
    assert_eq!(of(&s, "Ready"), ("False", "ContainersNotReady", "containers with unready status: [a b]"));
    assert_eq!(of(&s, "PodReadyToStartContainers"), ("True", "", ""));
    assert_eq!(s.observed_generation, Some(3));
    pod.status = Some(s);

    rs[0].end(Ended::default());
    run(&mut rs[1], true);
    run(&mut rs[2], false);
    let s = pod_status(&pod, &rs, &sandbox(), t(5));
    assert_eq!(s.phase.as_deref(), Some("Running"));
    assert_eq!(of(&s, "Ready"), ("False", "ContainersNotReady", "containers with unready status: [b]"));
    let ready = s.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.last_transition_time, Some(Time(t(0))), "False all the time");
    pod.status = Some(s);

    rs[2].ready = true;
    let s = pod_status(&pod, &rs, &sandbox(), t(9));
    assert_eq!(of(&s, "Ready"), ("True", "", ""));
    let ready = s.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.last_transition_time, Some(Time(t(9))));
    let c = &s.container_statuses.unwrap()[0];
    assert_eq!(
        (c.image_id.as_str(), c.container_id.as_deref(), c.started),
        ("sha256:1", Some("sealane://1"), Some(true))
    );
    assert_eq!(s.pod_ips, Some(vec![PodIP { ip: "10.244.0.2".into() }]));
    assert_eq!(s.start_time, Some(Time(t(0))));
}

#[test]
fn ends() {
    for (policy, code, want, reason) in [
        ("Never", 0, "Succeeded", "PodCompleted"),
        ("Never", 1, "Failed", "PodFailed"),
        ("Always", 1, "Running", "ContainersNotReady"),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let mut rs = records(&pod);
        run(&mut rs[0], true);
        rs[0].end(Ended { code, ..Ended::default() });
        let s = pod_status(&pod, &rs, &sandbox(), t(0));
        assert_eq!(s.phase.as_deref(), Some(want));
        assert_eq!(of(&s, "Ready").1, reason);
    }
}

#[test]
fn readiness_gates_and_foreign_conditions() {
    let mut pod = pod(json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a"}]}));
    let mut rs = records(&pod);
    run(&mut rs[0], true);
    let s = pod_status(&pod, &rs, &sandbox(), t(0));
    assert_eq!(of(&s, "ContainersReady").0, "True");
    assert_eq!(of(&s, "Ready").1, "ReadinessGatesNotReady");
    pod.status = from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    let s = pod_status(&pod, &rs, &sandbox(), t(0));
    assert_eq!(of(&s, "Ready").0, "True");
    assert_eq!(of(&s, "x/y").0, "True");
}

#[test]
fn deadline() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let failed = Some((
        "DeadlineExceeded".to_owned(),
        "Pod was active on the node longer than the specified deadline".to_owned(),
    ));
    let s = pod_status(&pod, &records(&pod), &Sandbox { failed, ..sandbox() }, t(0));
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn qos_classes() {
    for (resources, want) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
    ] {
        assert_eq!(
            qos(&pod(json!({"containers": [{"name": "a", "resources": resources}]}))),
            want,
            "{resources}"
        );
    }
}
