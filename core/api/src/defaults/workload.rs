//! Deployments, ReplicaSets, StatefulSets and ControllerRevisions (`pkg/apis/apps/v1/defaults.go`).

use serde_json::{Value, json};

use super::{condition_times, label_selector, pod};
use crate::document::{empty, items_mut, map, omit_empty, preset, preset_zero, text};

/// Deployment: one replica, a rolling update of a quarter, ten old ReplicaSets, ten minutes.
pub fn deployment(object: &mut Value) {
    let spec = map(object, "spec");
    preset(spec, "replicas", 1);
    label_selector(spec);
    pod::template(map(spec, "template"));
    let strategy = map(spec, "strategy");
    preset_zero(strategy, "type", "RollingUpdate");
    if text(&strategy["type"]) == "RollingUpdate" {
        let rolling = map(strategy, "rollingUpdate");
        preset(rolling, "maxUnavailable", "25%");
        preset(rolling, "maxSurge", "25%");
    }
    preset(spec, "revisionHistoryLimit", 10);
    preset(spec, "progressDeadlineSeconds", 600);
    omit_empty(spec, &["minReadySeconds", "paused"]);
    let status = map(object, "status");
    omit_empty(
        status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "conditions",
        ],
    );
    condition_times(status, &["lastUpdateTime", "lastTransitionTime"]);
}

/// ReplicaSet: one replica.
pub fn replica_set(object: &mut Value) {
    let spec = map(object, "spec");
    preset(spec, "replicas", 1);
    label_selector(spec);
    if !empty(&spec["template"]) {
        pod::template(map(spec, "template"));
    }
    omit_empty(spec, &["minReadySeconds"]);
    let status = map(object, "status");
    preset(status, "replicas", 0);
    omit_empty(
        status,
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration", "conditions"],
    );
    condition_times(status, &["lastTransitionTime"]);
}

/// StatefulSet: one replica, ordered, rolling from the highest ordinal, claims kept.
pub fn stateful_set(object: &mut Value) {
    let spec = map(object, "spec");
    preset_zero(spec, "podManagementPolicy", "OrderedReady");
    let strategy = map(spec, "updateStrategy");
    preset_zero(strategy, "type", "RollingUpdate");
    if text(&strategy["type"]) == "RollingUpdate" {
        preset(map(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = map(spec, "persistentVolumeClaimRetentionPolicy");
    preset_zero(retention, "whenDeleted", "Retain");
    preset_zero(retention, "whenScaled", "Retain");
    preset(spec, "replicas", 1);
    preset(spec, "revisionHistoryLimit", 10);
    label_selector(spec);
    pod::template(map(spec, "template"));
    for claim in items_mut(spec, "volumeClaimTemplates") {
        claim["apiVersion"] = json!("v1");
        claim["kind"] = json!("PersistentVolumeClaim");
        preset(map(claim, "spec"), "volumeMode", "Filesystem");
        let resources = map(map(claim, "spec"), "resources");
        super::cluster::quantities(resources, "requests");
        super::cluster::quantities(resources, "limits");
        preset_zero(map(claim, "status"), "phase", "Pending");
    }
    // `serviceName` is written even where it is empty.
    preset(spec, "serviceName", "");
    omit_empty(spec, &["minReadySeconds", "volumeClaimTemplates"]);
    let status = map(object, "status");
    preset(status, "replicas", 0);
    preset(status, "availableReplicas", 0);
    omit_empty(
        status,
        &[
            "observedGeneration",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "currentRevision",
            "updateRevision",
            "conditions",
        ],
    );
    condition_times(status, &["lastTransitionTime"]);
}

/// ControllerRevision: `revision` is written even where it is 0.
pub fn controller_revision(object: &mut Value) {
    preset(object, "revision", 0);
}
