//! Workloads come to rest where they should, whatever happens on the way and however watches lag.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::World;
use proptest::prelude::*;
use sealane_controllers::Propagation;
use serde_json::{Value, json};

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: u32, strategy: &str) -> Value {
    let strategy = if strategy == "Recreate" {
        json!({"type": "Recreate"})
    } else {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    };
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "a"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "d"}}, "template": template("d", "web:1"),
            "strategy": strategy, "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600}})
}

fn stateful(replicas: u32, policy: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "a"},
        "spec": {"replicas": replicas, "serviceName": "nginx", "selector": {"matchLabels": {"app": "s"}},
            "template": template("s", "web:1"), "podManagementPolicy": policy,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}})
}

fn image(value: &Value) -> String {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": value}]}}}}).to_string()
}

fn set_image(world: &mut World, plural: &'static str, name: &str, tag: usize) {
    let patch: Value = serde_json::from_str(&image(&json!(format!("web:{tag}")))).unwrap();
    world.patch(&World::id(plural, name), &patch, None).unwrap();
}

fn images(world: &World) -> Vec<String> {
    world
        .all("pods")
        .iter()
        .map(|p| p["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Scale(u32),
    Image(usize),
    KillPod,
    FailPod,
    Steps(usize),
    Deliver(usize),
    Node,
    Pause(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..6_u32).prop_map(Op::Scale),
        (1..4_usize).prop_map(Op::Image),
        Just(Op::KillPod),
        Just(Op::FailPod),
        (1..12_usize).prop_map(Op::Steps),
        (1..8_usize).prop_map(Op::Deliver),
        Just(Op::Node),
        any::<bool>().prop_map(Op::Pause),
    ]
}

fn play(world: &mut World, plural: &'static str, name: &str, op: &Op) {
    match op {
        Op::Scale(n) => {
            world.patch(&World::id(plural, name), &json!({"spec": {"replicas": n}}), None).unwrap();
        }
        Op::Image(tag) => set_image(world, plural, name, *tag),
        Op::KillPod | Op::FailPod => {
            let names = world.names("pods");
            if !names.is_empty() {
                let pod = World::id("pods", &names[world.draw(names.len())].clone());
                if matches!(op, Op::KillPod) {
                    world.delete(&pod, None, true);
                } else {
                    let status = json!({"status": {"phase": "Failed"}});
                    let _ = world.patch(&pod, &status, Some(sealane_api::kinds::Subresource::Status));
                }
            }
        }
        Op::Steps(n) => (0..*n).for_each(|_| {
            world.step();
        }),
        Op::Deliver(n) => (0..*n).for_each(|_| {
            world.deliver();
        }),
        Op::Node => {
            world.node(true);
        }
        Op::Pause(paused) => {
            if plural == "deployments" {
                world.patch(&World::id(plural, name), &json!({"spec": {"paused": paused}}), None).unwrap();
            }
        }
    }
}

fn live(world: &World) -> usize {
    world.all("pods").iter().filter(|p| p["status"]["phase"] == "Running").count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn deployments_converge(
        seed in any::<u64>(), recreate in any::<bool>(), ops in proptest::collection::vec(op(), 1..24)
    ) {
        let mut world = World::new(seed);
        let first = 3;
        world.create(deployment(first, if recreate { "Recreate" } else { "RollingUpdate" }));
        let mut most = first;
        for op in &ops {
            if let Op::Scale(n) = op {
                most = most.max(*n);
            }
            play(&mut world, "deployments", "d", op);
        }
        play(&mut world, "deployments", "d", &Op::Pause(false));
        world.settle(true);
        let d = world.objects[&World::id("deployments", "d")].clone();
        let wanted = d["spec"]["replicas"].as_u64().unwrap();
        prop_assert_eq!(live(&world) as u64, wanted, "{:#?}", d);
        let tag = &d["spec"]["template"]["spec"]["containers"][0]["image"];
        let running = world.all("pods").into_iter().filter(|p| p["status"]["phase"] == "Running");
        prop_assert!(running.into_iter().all(|p| p["spec"]["containers"][0]["image"] == *tag));
        prop_assert_eq!(d["status"]["observedGeneration"].clone(), d["metadata"]["generation"].clone());
        prop_assert_eq!(d["status"]["availableReplicas"].as_u64().unwrap_or(0), wanted);
        let surge = if recreate { 0 } else { most.div_ceil(4) };
        let peak = world.most.get("d").copied().unwrap_or(0);
        prop_assert!(peak <= (most + surge) as usize, "{} Pods at once, of {} + {}", peak, most, surge);
    }

    #[test]
    fn stateful_sets_converge(
        seed in any::<u64>(), parallel in any::<bool>(), ops in proptest::collection::vec(op(), 1..24)
    ) {
        let mut world = World::new(seed);
        world.create(stateful(3, if parallel { "Parallel" } else { "OrderedReady" }));
        for op in &ops {
            play(&mut world, "statefulsets", "web", op);
        }
        world.settle(true);
        let s = world.objects[&World::id("statefulsets", "web")].clone();
        let wanted = s["spec"]["replicas"].as_u64().unwrap();
        let names: Vec<String> = (0..wanted).map(|n| format!("web-{n}")).collect();
        prop_assert_eq!(world.names("pods"), names);
        prop_assert_eq!(&s["status"]["currentRevision"], &s["status"]["updateRevision"]);
        let tag = s["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
        prop_assert!(images(&world).iter().all(|i| *i == tag), "{:?}", images(&world));
    }
}

#[test]
fn a_rollout_step_by_step() {
    let mut world = World::new(7);
    world.create(deployment(3, "RollingUpdate"));
    world.settle(true);
    let d = world.objects[&World::id("deployments", "d")].clone();
    assert_eq!(d["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(d["status"]["conditions"][0]["reason"], "MinimumReplicasAvailable");
    assert_eq!(d["status"]["conditions"][1]["reason"], "NewReplicaSetAvailable");
    let set = world.names("replicasets").remove(0);
    assert_eq!(
        d["status"]["conditions"][1]["message"],
        format!("ReplicaSet \"{set}\" has successfully progressed.")
    );
    set_image(&mut world, "deployments", "d", 2);
    world.settle(false);
    // One new Pod, not ready: the old ones stay.
    assert_eq!(world.names("pods").len(), 4);
    assert_eq!(images(&world).iter().filter(|i| *i == "web:2").count(), 1);
    world.settle(true);
    assert_eq!(images(&world), ["web:2", "web:2", "web:2"]);
    let scalings: Vec<String> = world
        .notes
        .iter()
        .filter(|n| n.reason == "ScalingReplicaSet")
        .map(|n| n.message.split(" replica set ").collect::<Vec<_>>()[0].to_owned())
        .collect();
    assert_eq!(scalings.len(), 7, "{:#?}", world.notes);
    // Back to the first: its set is taken again, as revision 3.
    set_image(&mut world, "deployments", "d", 1);
    world.settle(true);
    let old = world.objects[&World::id("replicasets", &set)].clone();
    assert_eq!(old["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(old["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(world.names("replicasets").len(), 2);
}

#[test]
fn deletion_takes_dependents_along_or_leaves_them() {
    for (propagation, left) in
        [(Propagation::Background, 0), (Propagation::Foreground, 0), (Propagation::Orphan, 1)]
    {
        let mut world = World::new(11);
        world.create(deployment(2, "RollingUpdate"));
        world.settle(true);
        world.delete(&World::id("deployments", "d"), Some(propagation), true);
        world.settle(true);
        assert!(world.names("deployments").is_empty(), "{propagation:?}");
        assert_eq!(world.names("replicasets").len(), left, "{propagation:?}");
        assert_eq!(world.names("pods").len(), left * 2, "{propagation:?}");
        assert!(world.all("replicasets").iter().all(|r| r["metadata"]["ownerReferences"] == json!([])));
    }
}

#[test]
fn a_namespace_is_emptied_and_finalized() {
    let mut world = World::new(3);
    world.create(deployment(2, "RollingUpdate"));
    world.create(stateful(2, "OrderedReady"));
    world.settle(true);
    assert!(world.names("serviceaccounts").contains(&"default".to_owned()));
    assert!(world.names("configmaps").contains(&"kube-root-ca.crt".to_owned()));
    world.delete(&("namespaces", String::new(), "a".to_owned()), None, true);
    world.settle(true);
    let left: Vec<_> = world.objects.keys().filter(|(_, ns, name)| ns == "a" || name == "a").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stateful_pods_come_and_go_in_order() {
    let mut world = World::new(5);
    world.create(stateful(3, "OrderedReady"));
    world.settle(false);
    assert_eq!(world.names("pods"), ["web-0"]);
    world.settle(true);
    assert_eq!(world.names("pods"), ["web-0", "web-1", "web-2"]);
    let pod = world.objects[&World::id("pods", "web-1")].clone();
    assert_eq!(pod["spec"]["hostname"], "web-1");
    assert_eq!(pod["spec"]["subdomain"], "nginx");
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    // A new image: the highest number first, one at a time.
    set_image(&mut world, "statefulsets", "web", 2);
    world.settle(false);
    assert_eq!(images(&world)[..2], ["web:1", "web:1"]);
    world.settle(true);
    assert_eq!(images(&world), ["web:2", "web:2", "web:2"]);
    assert_eq!(world.names("controllerrevisions").len(), 2);
    // Below the partition the old stays.
    let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}});
    world.patch(&World::id("statefulsets", "web"), &partition, None).unwrap();
    set_image(&mut world, "statefulsets", "web", 3);
    world.settle(true);
    assert_eq!(images(&world), ["web:2", "web:2", "web:3"]);
    world.delete(&World::id("pods", "web-0"), None, false);
    world.settle(true);
    assert_eq!(images(&world), ["web:2", "web:2", "web:3"]);
}
