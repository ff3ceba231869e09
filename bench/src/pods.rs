//! From the create request of a Pod of a local image until a watch shows it Ready.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::https::{Cluster, Watch};
use crate::up::milliseconds;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// A Pod that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the watch has shown of a Pod, and when it came in.
enum Seen {
    Ready(String, Instant),
    Gone(String),
}

/// Times of `rounds` Pods, one after the other, ms.
pub(crate) fn until_ready(cluster: &Cluster, rounds: usize) -> Result<Vec<f64>> {
    let mut api = cluster.connect()?;
    let list = api.get(PODS)?;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let watch = cluster.connect()?.watch(&format!("{PODS}?watch=true&resourceVersion={revision}"))?;
    let seen = follow(watch);
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
        let ready = wait(&seen, &format!("Pod {name} to be Ready"), |seen| match seen {
            Seen::Ready(pod, when) if pod == name => Some(when),
            _ => None,
        })?;
        samples.push(milliseconds(ready - begun));
        api.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0"))?;
        wait(&seen, &format!("Pod {name} to be gone"), |seen| match seen {
            Seen::Gone(pod) if pod == name => Some(()),
            _ => None,
        })?;
    }
    Ok(samples)
}

/// Reads the watch on a thread of its own, so that an event's time is when it came.
fn follow(mut watch: Watch) -> Receiver<Result<Seen>> {
    let (send, seen) = channel();
    thread::spawn(move || {
        loop {
            let event = watch.next();
            let when = Instant::now();
            let item = match event {
                Ok(event) => {
                    let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    if event["type"] == "DELETED" {
                        Ok(Seen::Gone(name))
                    } else if is_ready(&event["object"]) {
                        Ok(Seen::Ready(name, when))
                    } else {
                        continue;
                    }
                }
                Err(error) => Err(error),
            };
            let over = item.is_err();
            if send.send(item).is_err() || over {
                return;
            }
        }
    });
    seen
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn wait<T>(seen: &Receiver<Result<Seen>>, what: &str, wanted: impl Fn(Seen) -> Option<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let event = seen.recv_timeout(left).map_err(|_| format!("waited 20 s for {what}"))??;
        if let Some(found) = wanted(event) {
            return Ok(found);
        }
    }
}
