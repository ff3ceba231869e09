use super::*;
use crate::record::{Ended, adopt, records};
use serde_json::{Value, from_value, json};

fn pod(spec: Value) -> Pod {
    from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn t(s: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + s).unwrap()
}

fn end(r: &mut Record, code: i32, now: Timestamp) {
    r.end(Ended { code, finished: Some(now), reason: "Error".into(), ..Ended::default() });
}

fn run(r: &mut Record, now: Timestamp) {
    if r.ran {
        r.restarts += 1;
    }
    r.run(now, "sealane://x".into(), String::new());
    r.started = true;
    r.ready = true;
}

#[test]
fn crash_loop_on_simulated_time() {
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let mut rs = records(&pod);
    let mut now = 0;
    let mut starts = Vec::new();
    while starts.len() < 9 {
        for action in plan(&pod, &mut rs, t(now)) {
            match action {
                Action::Start(0) => {
                    starts.push(now);
                    run(&mut rs[0], t(now));
                    end(&mut rs[0], 1, t(now));
                }
                Action::Wake(at) => {
                    let State::Waiting { reason, message } = &rs[0].state else {
                        panic!("{:?}", rs[0].state)
                    };
                    assert_eq!(reason, "CrashLoopBackOff");
                    assert!(message.ends_with("restarting failed container=c pod=p_n(u)"), "{message}");
                    now = at.duration_since(t(0)).as_secs();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let waits: Vec<i64> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(rs[0].restarts, 8);
    assert_eq!(rs[0].last.as_ref().map(|e| e.code), Some(1));
}

#[test]
fn restart_policies() {
    for (policy, code, want) in [
        ("Always", 0, vec![Action::Start(0)]),
        ("Always", 1, vec![Action::Start(0)]),
        ("OnFailure", 0, vec![Action::Finish]),
        ("OnFailure", 1, vec![Action::Start(0)]),
        ("Never", 0, vec![Action::Finish]),
        ("Never", 1, vec![Action::Finish]),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "c"}]}));
        let mut rs = records(&pod);
        run(&mut rs[0], t(0));
        assert_eq!(plan(&pod, &mut rs, t(1)), []);
        end(&mut rs[0], code, t(1));
        assert_eq!(plan(&pod, &mut rs, t(1)), want, "{policy} {code}");
    }
}

#[test]
fn own_restart_rules() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
    let rs = records(&pod);
    assert!(restarts(&pod, &rs[0], 42));
    assert!(!restarts(&pod, &rs[0], 1));
}

#[test]
fn init_containers_and_sidecars_in_order() {
    let pod = pod(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "a"}, {"name": "side", "restartPolicy": "Always"}, {"name": "b"}],
        "containers": [{"name": "c"}, {"name": "d"}]}));
    let mut rs = records(&pod);
    let now = || t(0);
    assert_eq!(plan(&pod, &mut rs, now()), [Action::Start(0)]);
    run(&mut rs[0], now());
    assert_eq!(plan(&pod, &mut rs, now()), []);
    end(&mut rs[0], 0, now());
    assert_eq!(plan(&pod, &mut rs, now()), [Action::Start(1)]);
    run(&mut rs[1], now());
    rs[1].started = false;
    assert_eq!(plan(&pod, &mut rs, now()), [], "the next waits until the sidecar has started");
    rs[1].started = true;
    assert_eq!(plan(&pod, &mut rs, now()), [Action::Start(2)]);
    run(&mut rs[2], now());
    end(&mut rs[2], 0, now());
    assert_eq!(plan(&pod, &mut rs, now()), [Action::Start(3), Action::Start(4)]);
    run(&mut rs[3], now());
    run(&mut rs[4], now());
    end(&mut rs[3], 0, now());
    assert_eq!(plan(&pod, &mut rs, now()), [], "one has ended for good, the other runs");
    end(&mut rs[4], 3, now());
    assert_eq!(plan(&pod, &mut rs, now()), [Action::Stop(1)]);
    rs[1].stopping = true;
    assert_eq!(plan(&pod, &mut rs, now()), []);
    end(&mut rs[1], 143, now());
    assert_eq!(plan(&pod, &mut rs, now()), [Action::Finish]);
}

#[test]
fn failed_init_container() {
    for (policy, want) in
        [("Never", Action::Finish), ("Always", Action::Start(0)), ("OnFailure", Action::Start(0))]
    {
        let pod = pod(
            json!({"restartPolicy": policy, "initContainers": [{"name": "a"}], "containers": [{"name": "c"}]}),
        );
        let mut rs = records(&pod);
        run(&mut rs[0], t(0));
        end(&mut rs[0], 1, t(0));
        assert_eq!(plan(&pod, &mut rs, t(0)), [want], "{policy}");
    }
}

#[test]
fn adopts_after_a_restart() {
    let running = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 2,
        "containerID": "sealane://old", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
    let done = json!({"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
        "containerID": "sealane://a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    for (policy, want) in [("Always", vec![Action::Start(0)]), ("Never", vec![Action::Finish])] {
        let mut pod = pod(
            json!({"restartPolicy": policy, "initContainers": [{"name": "a"}], "containers": [{"name": "c"}]}),
        );
        pod.status =
            from_value(json!({"initContainerStatuses": [done], "containerStatuses": [running]})).unwrap();
        let mut rs = adopt(&pod, t(0));
        assert_eq!(rs[1].restarts, 2);
        assert_eq!(rs[1].ended().map(|e| (e.code, e.reason.as_str())), Some((137, "ContainerStatusUnknown")));
        assert_eq!(plan(&pod, &mut rs, t(0)), want, "{policy}");
    }
}

#[test]
fn a_sidecar_that_crashes_holds_nothing_up() {
    let pod = pod(json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "c"}]}));
    let mut rs = records(&pod);
    run(&mut rs[0], t(0));
    run(&mut rs[1], t(0));
    end(&mut rs[0], 1, t(1));
    end(&mut rs[1], 1, t(1));
    assert_eq!(plan(&pod, &mut rs, t(1)), [Action::Start(0), Action::Start(1)]);
}
