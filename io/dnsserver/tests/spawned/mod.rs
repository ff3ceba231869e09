//! A server in a task, with a Corefile of its own.

// Not every file of tests needs all of it.
#![allow(dead_code)]

use std::sync::{Arc, Mutex};

use sealane_catalog::Snapshot;
use sealane_dnsserver::{DnsError, Settings, run};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// What it is made of; it ends when `stop` is used or dropped.
pub struct Spawned {
    /// Where its Corefile is.
    pub folder: TempDir,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<Result<(), DnsError>>,
    pub logs: Arc<Mutex<Vec<String>>>,
}

/// Starts it; nothing is known of a cluster.
pub fn spawn(corefile: &str) -> Spawned {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, corefile).unwrap();
    let mut settings = Settings::new(&path);
    let logs = Arc::new(Mutex::new(Vec::new()));
    let sink = logs.clone();
    settings.log = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
    let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        run(settings, receiver, async {
            let _ = stopped.await;
        })
        .await
    });
    Spawned { folder, snapshots, stop, task, logs }
}
