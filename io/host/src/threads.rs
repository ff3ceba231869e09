//! Work beside the async runtime: what blocks, and what has to be done in another network namespace.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::links;
use crate::runtime::HostError;
use crate::tree::step;

/// Nothing is left half done in what these locks hold, whoever panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    tokio::task::spawn_blocking(run)
        .await
        .map_err(|error| step("run a blocking task", io::Error::other(error)))?
}

/// Runs a closure on a thread inside a network namespace.
pub(crate) async fn within<T: Send + 'static>(
    namespace: Arc<OwnedFd>,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HostError> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("in-namespace".to_owned())
        .spawn(move || {
            let result = links::enter(&namespace).map(|()| run());
            // The one who asked may have given up.
            let _ = send.send(result);
        })
        .map_err(|error| step("start a thread", error))?;
    match receive.await {
        Ok(result) => result.map_err(|error| step("enter a network namespace", error)),
        Err(_) => Err(step("run inside a network namespace", io::Error::other("the thread panicked"))),
    }
}
