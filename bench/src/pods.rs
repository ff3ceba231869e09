//! From the create request of a Pod of a local image until a watch shows it Ready.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::https::Cluster;
use crate::up::milliseconds;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// A Pod that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Times of `rounds` Pods, one after the other, ms.
pub(crate) fn until_ready(cluster: &Cluster, rounds: usize) -> Result<Vec<f64>> {
    let mut api = cluster.connect()?;
    let events = cluster.connect()?.watch(PODS)?.follow();
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let name = format!("bench-{round}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [
                {"name": "sleeper", "image": "sealane/demo", "command": ["sleep", "infinity"]},
            ]},
        });
        let begun = Instant::now();
        api.create(PODS, &pod)?;
        let ready = wait(&events, &name, "to be Ready", |event| is_ready(&event["object"]))?;
        samples.push(milliseconds(ready - begun));
        api.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0"))?;
        wait(&events, &name, "to be gone", |event| event["type"] == "DELETED")?;
    }
    Ok(samples)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// When the event of the Pod came that is waited for.
fn wait(
    events: &Receiver<(Instant, Value)>,
    pod: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Instant> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let (when, event) =
            events.recv_timeout(left).map_err(|e| format!("waited for Pod {pod} {what}: {e}"))?;
        if event["object"]["metadata"]["name"] == pod && wanted(&event) {
            return Ok(when);
        }
    }
}
