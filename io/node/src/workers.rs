//! The workers of a node's Pods, as the watch feeds them and as they are found from outside.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use sealane_host::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::context::Context;
use crate::images::Images;
use crate::shared::Shared;
use crate::worker::{Message, Worker};

/// What Pods without which there is no cluster get at the node's end, after all others
/// (`shutdownGracePeriodCriticalPods`). Nobody is left to be served by them.
const CRITICAL: Duration = Duration::from_millis(200);
/// Where the priorities of the `system-` classes begin (`pkg/apis/scheduling/types.go`, SystemCriticalPriority).
const SYSTEM_PRIORITY: i32 = 2_000_000_000;
/// For those whose KILL is on its way; what is left then ends with the launcher.
const LAST: Duration = Duration::from_millis(500);

/// A worker from outside.
struct Entry {
    namespace: String,
    name: String,
    inbox: mpsc::UnboundedSender<Message>,
    shared: Shared,
    /// The API has the Pod no more. Until then an ended worker stays known: late news must not start another.
    gone: bool,
    task: JoinHandle<()>,
}

impl Entry {
    fn is_critical(&self) -> bool {
        let pod = &self.shared.lock().pod;
        let spec = pod.spec.as_ref();
        spec.and_then(|s| s.priority).is_some_and(|p| p >= SYSTEM_PRIORITY)
            || spec.and_then(|s| s.priority_class_name.as_deref()).is_some_and(|c| c.starts_with("system-"))
    }
}

/// All workers, by the uid of their Pod.
#[derive(Default)]
pub(crate) struct Workers(Mutex<HashMap<String, Entry>>);

impl Workers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Pod is there, or changed.
    pub(crate) fn applied<R: Runtime, I: Images>(&self, ctx: &Arc<Context<R, I>>, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        let mut workers = self.lock();
        workers.retain(|_, e| !(e.gone && e.inbox.is_closed()));
        if let Some(entry) = workers.get(&uid) {
            // A worker that has just ended needs no news.
            let _ = entry.inbox.send(Message::Update(pod));
            return;
        }
        let (inbox, rx) = mpsc::unbounded_channel();
        let shared = Shared::new(pod.clone());
        let worker = Worker::new(ctx.clone(), pod.clone(), shared.clone(), inbox.clone());
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let task = tokio::spawn(worker.run(rx));
        workers.insert(uid, Entry { namespace, name, inbox, shared, gone: false, task });
    }

    /// A Pod is no more.
    pub(crate) fn gone(&self, uid: &str) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.gone = true;
            let _ = entry.inbox.send(Message::Gone);
        }
    }

    /// These are all the Pods that there are.
    pub(crate) fn keep(&self, listed: &[String]) {
        let known: Vec<String> = self.lock().keys().cloned().collect();
        known.iter().filter(|uid| !listed.contains(uid)).for_each(|uid| self.gone(uid));
    }

    /// The Pod of this name; the one that is not ending where there are two.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Shared> {
        let workers = self.lock();
        let mut of =
            workers.values().filter(|e| e.namespace == namespace && e.name == name && !e.inbox.is_closed());
        let first = of.next()?;
        let newest = of.fold(first, |best, e| {
            let ending = best.shared.lock().pod.metadata.deletion_timestamp.is_some();
            if ending { e } else { best }
        });
        Some(newest.shared.clone())
    }

    /// Ends all workers where they stand.
    pub(crate) fn halt(&self) {
        self.lock().drain().for_each(|(_, entry)| entry.task.abort());
    }

    /// Stops all Pods within `limit`, critical ones when the others have ended; their objects stay as they are.
    pub(crate) async fn stop_all(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let all: Vec<Entry> = self.lock().drain().map(|(_, e)| e).collect();
        let (critical, others): (Vec<Entry>, Vec<Entry>) = all.into_iter().partition(Entry::is_critical);
        stop(others, end.checked_sub(CRITICAL).unwrap_or(end)).await;
        stop(critical, end.min(Instant::now() + CRITICAL)).await;
    }
}

async fn stop(entries: Vec<Entry>, deadline: Instant) {
    for entry in &entries {
        let _ = entry.inbox.send(Message::Shutdown(deadline));
    }
    for mut entry in entries {
        if tokio::time::timeout_at(deadline + LAST, &mut entry.task).await.is_err() {
            entry.task.abort();
        }
    }
}
