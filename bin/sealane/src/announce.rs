//! Keeps a link's answers for load balancers' addresses as the Services are.

use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dataplane::Announcer;
use sealane_proxy::announced;
use tokio::sync::watch;

/// Between two looks at all Services, however many change.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens the link, in the network namespace of the calling thread.
pub(crate) fn open(link: &str) -> Result<Announcer, String> {
    Announcer::start(link).map_err(|e| format!("--announce: {e}"))
}

/// Runs until nobody publishes. `node`: whose addresses are answered for, all of them where it is `None`.
pub(crate) async fn follow(
    announcer: Announcer,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    node: Option<String>,
) {
    let mut before = None;
    loop {
        let now = snapshots.borrow_and_update().clone();
        if now.synced() {
            let addresses = announced(&now, node.as_deref());
            if before.as_ref() != Some(&addresses) {
                tracing::debug!(?addresses, "announced from now on");
                announcer.set(addresses.clone());
                before = Some(addresses);
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
