//! [`MemoryStore`]: for tests, and for an `up` that shall leave nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealane_registry::{Expect, Txn, Write};

use crate::feed::Feed;
use crate::{Change, Changes, Revision, Store, StoreError, Versioned};

/// A store that ends with its process.
#[derive(Debug)]
pub struct MemoryStore(Mutex<State>);

#[derive(Debug)]
struct State {
    revision: Revision,
    values: BTreeMap<Arc<str>, Versioned>,
    feed: Feed,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        MemoryStore(Mutex::new(State { revision: 0, values: BTreeMap::new(), feed: Feed::new(0) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn commit(&mut self, txn: Txn) -> Result<Revision, StoreError> {
        for (key, expect) in &txn.checks {
            let found = self.values.get(key.as_str()).map(|v| v.revision);
            if !holds(expect, found) {
                return Err(StoreError::Conflict { key: key.clone() });
            }
        }
        self.revision += 1;
        let revision = self.revision;
        let mut changes = Vec::with_capacity(txn.writes.len());
        for (key, write) in txn.writes {
            let key: Arc<str> = key.into();
            let (value, previous) = match write {
                Write::Put(value) => {
                    let new = Versioned { key: Arc::clone(&key), value: value.clone(), revision };
                    (Some(value), self.values.insert(Arc::clone(&key), new))
                }
                Write::Delete => (None, self.values.remove(&key)),
            };
            if value.is_some() || previous.is_some() {
                changes.push(Change { key, value, previous: previous.map(|v| v.value), revision });
            }
        }
        self.feed.publish(changes);
        Ok(revision)
    }
}

/// Whether a check holds for a key last written at `found`.
pub(crate) fn holds(expect: &Expect, found: Option<Revision>) -> bool {
    match expect {
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found == Some(*revision),
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(self.state().values.get(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<(Vec<Versioned>, Revision), StoreError> {
        let state = self.state();
        let from =
            state.values.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        let found = from.take_while(|(k, _)| k.starts_with(prefix)).map(|(_, v)| v.clone()).collect();
        Ok((found, state.revision))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.state().commit(txn)
    }

    fn watch(&self, from: Revision) -> Result<Changes, StoreError> {
        self.state().feed.watch(from)
    }

    fn revision(&self) -> Revision {
        self.state().revision
    }
}
