//! The store as the server holds it, whichever it is.

use std::sync::Arc;

use futures::future::BoxFuture;
use sealane_registry::Txn;
use sealane_store::{Revision, Store, StoreError};

/// What the server asks of a [`Store`] once the cache is filled.
pub(crate) trait Backend: Send + Sync {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>>;
    fn revision(&self) -> Revision;
}

struct Held<S>(Arc<S>);

impl<S: Store> Backend for Held<S> {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(self.0.commit(txn))
    }

    fn revision(&self) -> Revision {
        self.0.revision()
    }
}

pub(crate) fn hold<S: Store>(store: Arc<S>) -> Arc<dyn Backend> {
    Arc::new(Held(store))
}
