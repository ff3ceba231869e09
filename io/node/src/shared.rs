//! What a Pod's worker shows to readers of logs, exec and attach.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};

use crate::streams::Output;

/// One container, as others may use it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The runtime's name, while it runs.
    pub(crate) id: Option<String>,
    /// The current log.
    pub(crate) log: Option<PathBuf>,
    /// Its writer, while it runs.
    pub(crate) output: Option<Arc<Output>>,
    /// The log of the last incarnation.
    pub(crate) previous: Option<PathBuf>,
    pub(crate) stdin: Option<mpsc::Sender<Bytes>>,
    pub(crate) terminal: Option<Arc<OwnedFd>>,
    /// The exit status, when it has ended.
    pub(crate) done: Option<watch::Receiver<Option<i32>>>,
    /// Why it waits.
    pub(crate) waiting: String,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) pod: Arc<Pod>,
    pub(crate) slots: HashMap<String, Slot>,
}

/// A Pod, as others may use it.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<Inner>>);

impl Shared {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Shared(Arc::new(Mutex::new(Inner { pod, slots: HashMap::new() })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
