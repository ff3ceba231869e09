//! The Node object and its Lease: made, kept, renewed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::context::AgentConfig;
use crate::events::{Level, Recorder};
use crate::machine::Machine;

/// `leaseDurationSeconds` of kubelet.
const LEASE_SECONDS: i32 = 40;
/// Between renewals.
const RENEW: Duration = Duration::from_secs(10);
/// Between status reports of an unchanged node (`nodeStatusReportFrequency`), in renewals.
const STATUS_EVERY: u32 = 30;
/// Between tries while the API does not answer.
const RETRY: Duration = Duration::from_millis(200);
/// Namespace of the Leases.
const LEASES: &str = "kube-node-lease";

/// The node's labels: the well-known ones, under those of the configuration.
fn labels(config: &AgentConfig, machine: &Machine) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), machine.architecture.to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), machine.architecture.to_owned()),
    ]);
    out.extend(config.labels.clone());
    out
}

fn conditions(now: Timestamp, before: Option<&Node>) -> Value {
    let table = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let old = before.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
    let row = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let same = old.into_iter().flatten().find(|c| c.type_ == kind && c.status == status);
        let since = same.and_then(|c| c.last_transition_time.as_ref()).map_or(now, |t| t.0);
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(since)})
    };
    table.map(row).into()
}

fn seconds(t: Timestamp) -> String {
    format!("{t:.0}")
}

/// The node's status.
pub(crate) fn status(
    config: &AgentConfig,
    machine: &Machine,
    now: Timestamp,
    before: Option<&Node>,
) -> Value {
    let capacity = json!({
        "cpu": machine.cpus.to_string(),
        "memory": format!("{}Ki", machine.memory / 1024),
        "pods": config.max_pods.to_string(),
        "ephemeral-storage": format!("{}Ki", disk(config) / 1024),
    });
    json!({
        "addresses": [
            {"type": "InternalIP", "address": config.node_address.to_string()},
            {"type": "Hostname", "address": config.node_name},
        ],
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": conditions(now, before),
        "nodeInfo": {
            "architecture": machine.architecture,
            "bootID": machine.boot_id,
            "containerRuntimeVersion": config.runtime_version,
            "kernelVersion": machine.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": config.kubelet_version,
            "machineID": machine.machine_id,
            "operatingSystem": "linux",
            "osImage": machine.os_image,
            "systemUUID": machine.system_uuid,
        },
    })
}

fn disk(config: &AgentConfig) -> u64 {
    rustix::fs::statvfs(&config.data_dir).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize))
}

/// Makes the Node, or brings an older one of its name up to date, until that has worked once.
pub(crate) async fn register(client: &kube::Client, config: &AgentConfig, machine: &Machine) {
    while let Err(error) = try_register(client, config, machine).await {
        tracing::warn!(%error, node = config.node_name, "the node is not registered yet");
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_register(
    client: &kube::Client,
    config: &AgentConfig,
    machine: &Machine,
) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let before = api.get_opt(&config.node_name).await?;
    let status = status(config, machine, Timestamp::now(), before.as_ref());
    let cidr = format!("{}/{}", config.pod_range.0, config.pod_range.1);
    let metadata = json!({"name": config.node_name, "labels": labels(config, machine)});
    match &before {
        None => {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status,
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
            let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &node).await?;
        }
        Some(old) => {
            let spec = old.spec.as_ref();
            if spec.and_then(|s| s.pod_cidr.as_deref()).is_none_or(str::is_empty) {
                let patch = json!({"metadata": metadata, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
                api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            } else {
                let patch = json!({"metadata": {"labels": labels(config, machine)}});
                api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
        }
    }
    // An API that keeps to the rules drops the status of a create.
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status(&config.node_name, &PatchParams::default(), &patch).await.map(drop)
}

/// Renews the Lease and, less often, the status, for as long as the agent runs.
pub(crate) async fn keep(client: kube::Client, config: AgentConfig, machine: Machine, events: Recorder) {
    events.node(&config.node_name, Level::Normal, "Starting", "Starting kubelet.".to_owned());
    let mut round = 0u32;
    loop {
        if let Err(error) = renew(&client, &config).await {
            tracing::debug!(%error, "the node's lease is not renewed");
        }
        if round % STATUS_EVERY == STATUS_EVERY - 1
            && let Err(error) = try_register(&client, &config, &machine).await
        {
            tracing::debug!(%error, "the node's status is not written");
        }
        round = round.wrapping_add(1);
        tokio::time::sleep(RENEW).await;
    }
}

async fn renew(client: &kube::Client, config: &AgentConfig) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let spec = json!({"holderIdentity": config.node_name, "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": MicroTime(Timestamp::now())});
    let patch = Patch::Merge(json!({"spec": spec}));
    match api.patch(&config.node_name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(e)) if e.code == 404 => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": config.node_name, "namespace": LEASES}, "spec": spec});
            let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
