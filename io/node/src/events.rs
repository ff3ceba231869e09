//! Events about Pods and the node. Equal ones are counted, as `k8s.io/client-go/tools/record` does.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

/// Events wait so long, so that they don't stand in the way of a starting Pod's status.
const HOLD: Duration = Duration::from_millis(30);
/// Kinds of events remembered for counting.
const REMEMBERED: usize = 1024;

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    Normal,
    Warning,
}

#[derive(Debug)]
struct Report {
    object: ObjectReference,
    level: Level,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Where events are reported to; never waits.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(mpsc::UnboundedSender<Report>);

impl Recorder {
    /// A recorder whose events a task of its own writes.
    pub(crate) fn start(client: kube::Client, node: String) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        tokio::spawn(write(client, node, rx));
        Recorder(tx)
    }

    /// Reports something about a Pod; `container` is the path of the container's field, where it is about one.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<String>,
        level: Level,
        reason: &'static str,
        message: String,
    ) {
        let meta = &pod.metadata;
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: container,
        };
        self.send(Report { object, level, reason, message, at: Timestamp::now() });
    }

    /// Reports something about the node.
    pub(crate) fn node(&self, name: &str, level: Level, reason: &'static str, message: String) {
        let object = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.send(Report { object, level, reason, message, at: Timestamp::now() });
    }

    fn send(&self, report: Report) {
        // The receiver lives as long as the agent does; after it, events have no reader.
        let _ = self.0.send(report);
    }
}

type Key = (Option<String>, Option<String>, Level, &'static str, String);

async fn write(client: kube::Client, node: String, mut rx: mpsc::UnboundedReceiver<Report>) {
    let mut known: HashMap<Key, (String, i32)> = HashMap::new();
    while let Some(first) = rx.recv().await {
        tokio::time::sleep(HOLD).await;
        let mut batch = vec![first];
        while let Ok(more) = rx.try_recv() {
            batch.push(more);
        }
        for report in batch {
            if known.len() > REMEMBERED {
                known.clear();
            }
            write_one(&client, &node, report, &mut known).await;
        }
    }
}

async fn write_one(
    client: &kube::Client,
    node: &str,
    report: Report,
    known: &mut HashMap<Key, (String, i32)>,
) {
    let namespace = report.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let key = (
        report.object.uid.clone(),
        report.object.field_path.clone(),
        report.level,
        report.reason,
        report.message.clone(),
    );
    if let Some((name, count)) = known.get_mut(&key) {
        let patch = serde_json::json!({"count": *count + 1, "lastTimestamp": Time(report.at)});
        if api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
            *count += 1;
            return;
        }
        known.remove(&key);
    }
    let object = report.object.name.clone().unwrap_or_default();
    let name = format!("{object}.{:x}", report.at.as_nanosecond());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: report.object,
        reason: Some(report.reason.to_owned()),
        message: Some(report.message),
        type_: Some(format!("{:?}", report.level)),
        count: Some(1),
        first_timestamp: Some(Time(report.at)),
        last_timestamp: Some(Time(report.at)),
        source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    };
    match api.create(&PostParams::default(), &event).await {
        Ok(_) => {
            known.insert(key, (name, 1));
        }
        // An event in a namespace that is going away has nowhere to go (403, 404).
        Err(error) => tracing::debug!(%error, "an event could not be written"),
    }
}
