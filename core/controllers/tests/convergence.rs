//! Whatever happens, and however late the watches are: the controllers come to rest where the specs say, and on the way
//! there are never more Pods than allowed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod memory;

use std::collections::{BTreeMap, BTreeSet};

use memory::{Cluster, text};
use proptest::prelude::*;
use sealane_controllers::Controller;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Step {
    /// `spec.replicas` of the Deployment and the StatefulSet.
    Replicas(u8),
    /// Another template.
    Template(u8),
    /// `spec.paused` of the Deployment.
    Pause(bool),
    /// One Pod's readiness.
    Ready(u8, bool),
    /// Somebody deletes a Pod.
    Delete(u8),
    /// A node ends a Pod that was told to.
    End(u8),
    /// A Pod's process ends for good.
    Fail(u8),
    /// The watch of a kind breaks and begins anew.
    Relist(u8),
    /// So many events are delivered and plans made.
    Run(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..6_u8).prop_map(Step::Replicas),
        1 => (0..3_u8).prop_map(Step::Template),
        1 => any::<bool>().prop_map(Step::Pause),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(n, ready)| Step::Ready(n, ready)),
        2 => any::<u8>().prop_map(Step::Delete),
        2 => any::<u8>().prop_map(Step::End),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => any::<u8>().prop_map(Step::Relist),
        6 => (1..40_u8).prop_map(Step::Run),
    ]
}

fn template(app: &str, n: u8) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": format!("i{n}")}]}})
}

struct World {
    c: Cluster,
    replicas: i64,
    /// More Pods than wanted that a rollout may have.
    surge: i64,
    /// The most Pods that any spec since the last rest allows.
    most: i64,
    ips: u32,
    /// The largest size that each ReplicaSet has had, by uid.
    largest: BTreeMap<String, i64>,
}

impl World {
    fn new(seed: u64, recreate: bool, policy: &str) -> Self {
        let mut c = Cluster::new(&Controller::ALL).with_seed(seed).with_namespace("shop");
        let (strategy, surge) = if recreate {
            (json!({"type": "Recreate"}), 0)
        } else {
            (json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}), 2)
        };
        c.create(
            "deployments",
            "shop",
            json!({"metadata": {"name": "d"}, "spec": {"replicas": 2,
            "selector": {"matchLabels": {"app": "d"}}, "template": template("d", 0),
            "strategy": strategy, "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600}}),
        );
        c.create(
            "statefulsets",
            "shop",
            json!({"metadata": {"name": "s"}, "spec": {"replicas": 2, "serviceName": "s",
            "podManagementPolicy": policy,
            "selector": {"matchLabels": {"app": "s"}}, "template": template("s", 0)}}),
        );
        for app in ["d", "s"] {
            c.create(
                "services",
                "shop",
                json!({"metadata": {"name": app},
                "spec": {"selector": {"app": app}, "ports": [{"port": 80}]}}),
            );
        }
        World { c, replicas: 2, surge, most: 2, ips: 0, largest: BTreeMap::new() }
    }

    fn pods(&self, app: &str) -> Vec<Value> {
        let mut pods = self.c.pods("shop");
        pods.retain(|p| text(p, "/metadata/labels/app") == app);
        pods
    }

    fn check(&mut self) {
        let is_active = |p: &&Value| {
            p.pointer("/metadata/deletionTimestamp").is_none()
                && !matches!(text(p, "/status/phase"), "Failed" | "Succeeded")
        };
        let count = |pods: &[Value]| i64::try_from(pods.iter().filter(is_active).count()).unwrap();
        // A Deployment answers for the sizes of its sets, and each set for its Pods.
        let mut sum = 0;
        for set in self.c.api.list("replicasets", "shop") {
            let uid = text(&set, "/metadata/uid").to_owned();
            let size = set["spec"]["replicas"].as_i64().unwrap();
            sum += size;
            let largest = self.largest.entry(uid.clone()).or_default();
            *largest = size.max(*largest);
            let mut pods = self.c.pods("shop");
            pods.retain(|p| text(p, "/metadata/ownerReferences/0/uid") == uid);
            assert!(count(&pods) <= *largest, "{} Pods of a ReplicaSet of {largest}", count(&pods));
        }
        let allowed = self.most + self.surge;
        assert!(sum <= allowed, "ReplicaSets of {sum}, {allowed} allowed");
        let of_deployment = count(&self.pods("d"));
        assert!(of_deployment <= allowed, "{of_deployment} Pods of the Deployment, {allowed} allowed");
        let of_set = count(&self.pods("s"));
        assert!(of_set <= self.most, "{of_set} Pods of the StatefulSet");
    }

    fn ready(&mut self, name: &str, ready: bool) {
        // What ended for good stays so.
        if text(self.c.api.get("pods", "shop", name).unwrap(), "/status/phase") == "Failed" {
            return;
        }
        self.ips += 1;
        let ip = format!("10.244.{}.{}", self.ips / 200, self.ips % 200 + 1);
        self.c.pod_status("shop", name, &ip, ready);
    }

    fn pick(&self, n: u8) -> Option<String> {
        let pods = self.c.pods("shop");
        let pod = pods.get(usize::from(n) % pods.len().max(1))?;
        Some(text(pod, "/metadata/name").to_owned())
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Replicas(n) => {
                self.replicas = i64::from(*n);
                self.most = self.most.max(self.replicas);
                let spec = json!({"spec": {"replicas": n}});
                self.c.merge("deployments", "shop", "d", spec.clone(), None);
                self.c.merge("statefulsets", "shop", "s", spec, None);
            }
            Step::Template(n) => {
                self.c.merge(
                    "deployments",
                    "shop",
                    "d",
                    json!({"spec": {"template": template("d", *n)}}),
                    None,
                );
                self.c.merge(
                    "statefulsets",
                    "shop",
                    "s",
                    json!({"spec": {"template": template("s", *n)}}),
                    None,
                );
            }
            Step::Pause(paused) => {
                self.c.merge("deployments", "shop", "d", json!({"spec": {"paused": paused}}), None);
            }
            Step::Ready(n, ready) => {
                if let Some(name) = self.pick(*n) {
                    self.ready(&name, *ready);
                }
            }
            Step::Delete(n) => {
                if let Some(name) = self.pick(*n) {
                    self.c.delete("pods", "shop", &name, json!({}));
                }
            }
            Step::End(n) => {
                let mut told = self.c.pods("shop");
                told.retain(|p| p.pointer("/metadata/deletionTimestamp").is_some());
                if let Some(pod) = told.get(usize::from(*n) % told.len().max(1)) {
                    let name = text(pod, "/metadata/name");
                    self.c.delete("pods", "shop", name, json!({"gracePeriodSeconds": 0}));
                }
            }
            Step::Fail(n) => {
                if let Some(name) = self.pick(*n) {
                    let failed = json!({"status": {"phase": "Failed"}});
                    let status = Some(sealane_api::kinds::Subresource::Status);
                    self.c.merge("pods", "shop", &name, failed, status);
                }
            }
            Step::Relist(n) => {
                let kinds = [
                    "pods",
                    "replicasets",
                    "deployments",
                    "statefulsets",
                    "endpointslices",
                    "controllerrevisions",
                ];
                self.c.relist(kinds[usize::from(*n) % kinds.len()]);
            }
            Step::Run(n) => {
                for at in 0..*n {
                    if at % 2 == 0 {
                        self.c.step();
                    } else {
                        self.c.deliver_one();
                    }
                    self.check();
                }
            }
        }
        self.check();
    }

    /// Nodes do their work, until nothing changes any more.
    fn rest(&mut self) {
        for _ in 0..200 {
            self.c.settle();
            self.check();
            let mut changed = false;
            for pod in self.c.pods("shop") {
                let name = text(&pod, "/metadata/name").to_owned();
                if pod.pointer("/metadata/deletionTimestamp").is_some() {
                    self.c.delete("pods", "shop", &name, json!({"gracePeriodSeconds": 0}));
                    changed = true;
                } else if !matches!(text(&pod, "/status/phase"), "Failed")
                    && (text(&pod, "/status/phase") != "Running"
                        || text(&pod, "/status/conditions/0/status") != "True")
                {
                    self.ready(&name, true);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
        panic!("no rest");
    }

    fn check_rest(&self) {
        let wanted = usize::try_from(self.replicas).unwrap();
        for app in ["d", "s"] {
            let alive: Vec<Value> =
                self.pods(app).into_iter().filter(|p| text(p, "/status/phase") == "Running").collect();
            assert_eq!(alive.len(), wanted, "{app}");
            let object = if app == "d" { "deployments" } else { "statefulsets" };
            let image = self.c.api.get(object, "shop", app).unwrap();
            let image = text(image, "/spec/template/spec/containers/0/image");
            assert!(alive.iter().all(|p| text(p, "/spec/containers/0/image") == image), "{app}: {image}");
            let ready: BTreeSet<String> = alive.iter().map(|p| text(p, "/status/podIP").to_owned()).collect();
            let slices = self.c.api.list("endpointslices", "shop");
            let said: Vec<String> = slices
                .iter()
                .filter(|s| text(s, "/metadata/labels/kubernetes.io~1service-name") == app)
                .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
                .map(|e| text(&e, "/addresses/0").to_owned())
                .collect();
            assert_eq!(said.len(), ready.len(), "{app}: every endpoint once");
            assert_eq!(said.into_iter().collect::<BTreeSet<_>>(), ready);
            let endpoints = self.c.api.get("endpoints", "shop", app).unwrap();
            let listed =
                endpoints.pointer("/subsets/0/addresses").and_then(Value::as_array).map_or(0, Vec::len);
            assert_eq!(listed, wanted);
        }
        let deployment = self.c.api.get("deployments", "shop", "d").unwrap();
        let status = &deployment["status"];
        assert_eq!(status["observedGeneration"], deployment["metadata"]["generation"]);
        assert_eq!(status["availableReplicas"].as_i64().unwrap_or(0), self.replicas, "{status}");
        let status = &self.c.api.get("statefulsets", "shop", "s").unwrap()["status"];
        assert_eq!(status["currentRevision"], status["updateRevision"], "{status}");
        let ordinals: Vec<String> = self
            .pods("s")
            .iter()
            .filter(|p| text(p, "/status/phase") == "Running")
            .map(|p| text(p, "/metadata/name").to_owned())
            .collect();
        assert_eq!(ordinals, (0..wanted).map(|n| format!("s-{n}")).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn controllers_converge(
        steps in prop::collection::vec(step(), 1..40), seed in any::<u64>(),
        recreate in any::<bool>(), parallel in any::<bool>(),
    ) {
        let mut world = World::new(seed, recreate, if parallel { "Parallel" } else { "OrderedReady" });
        for step in &steps {
            world.apply(step);
        }
        world.apply(&Step::Pause(false));
        world.rest();
        world.check_rest();
        // At rest nothing is written.
        let before = world.c.writes;
        for plural in ["pods", "replicasets", "deployments", "statefulsets", "endpointslices", "services", "endpoints"] {
            world.c.relist(plural);
        }
        world.c.settle();
        prop_assert_eq!(world.c.writes, before);
    }
}
