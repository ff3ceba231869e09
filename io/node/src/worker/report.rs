//! A Pod's status on its way to the API.

use std::time::Duration;

use super::*;
use k8s_openapi::api::core::v1::PodCondition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

/// Between tries while the API does not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// Writes a Pod's newest status; what is overtaken while a write is on its way is not written.
pub(super) struct Reporter {
    newest: watch::Sender<Option<Value>>,
    task: JoinHandle<()>,
}

impl Reporter {
    pub(super) fn start(client: kube::Client, pod: &Pod) -> Self {
        let (newest, rx) = watch::channel(None);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let api = Api::namespaced(client, &namespace);
        let task = tokio::spawn(write(api, pod.metadata.name.clone().unwrap_or_default(), rx));
        Reporter { newest, task }
    }

    pub(super) fn send(&self, pod: &Pod, status: &PodStatus) {
        self.newest.send_replace(Some(patch(pod, status)));
    }

    /// Returns when the last status is written, or has nowhere to go.
    pub(super) async fn finish(self) {
        drop(self.newest);
        let _ = self.task.await;
    }
}

async fn write(api: Api<Pod>, name: String, mut newest: watch::Receiver<Option<Value>>) {
    loop {
        let closed = newest.changed().await.is_err();
        let Some(mut patch) = newest.borrow_and_update().clone().filter(|_| !closed) else { return };
        loop {
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(_) => break,
                // Another Pod of this name, or none.
                Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(%error, pod = name, "a Pod's status is not written yet");
                    tokio::time::sleep(AGAIN).await;
                    if let Some(newer) = newest.borrow_and_update().clone() {
                        patch = newer;
                    }
                }
            }
        }
    }
}

/// The strategic merge patch: `metadata.uid` refuses another Pod of the name; null removes what is no more.
fn patch(pod: &Pod, status: &PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for key in ["reason", "message"] {
        if value.get(key).is_none() {
            value[key] = Value::Null;
        }
    }
    for condition in value["conditions"].as_array_mut().into_iter().flatten() {
        for key in ["reason", "message"] {
            if condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
    }
    json!({"metadata": {"uid": pod.metadata.uid}, "status": value})
}

/// The status now. Others' conditions are the API's newest; our own are what we said last, which may still be on
/// its way.
pub(super) fn status(
    pod: &Pod,
    last: Option<&PodStatus>,
    records: &[Record],
    sandbox: &Sandbox,
    now: Timestamp,
) -> PodStatus {
    let mut pod = pod.clone();
    if let (Some(last), Some(status)) = (last, pod.status.as_mut()) {
        let own = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
        let is_own = |c: &&PodCondition| own.contains(&c.type_.as_str());
        let mine = last.conditions.iter().flatten().filter(is_own).cloned();
        let theirs = status.conditions.iter().flatten().filter(|c| !is_own(c)).cloned();
        status.conditions = Some(theirs.chain(mine).collect());
        status.start_time = last.start_time.clone();
    }
    pod_status(&pod, records, sandbox, now)
}

/// Removes the Pod's object for good.
pub(super) async fn delete(client: &kube::Client, pod: &Pod) {
    let api: Api<Pod> =
        Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = Some(pod.metadata.uid.clone().unwrap_or_default());
    let params =
        DeleteParams::default().grace_period(0).preconditions(Preconditions { uid, resource_version: None });
    loop {
        match api.delete(name, &params).await {
            Ok(_) => return,
            Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => return,
            Err(error) => {
                tracing::warn!(%error, pod = name, "a Pod's object is not removed yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
