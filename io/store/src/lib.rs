//! Compare-and-swap and watch: where objects are kept.
//!
//! What it is for: the [`Store`] trait, a durable store in one file ([`DiskStore`], redb with group commit) and
//! one in memory ([`MemoryStore`]); one contract suite (`tests/contract.rs`) runs on both.
//!
//! What it may not know: what the values mean. Keys are text, values are bytes; the commit's revision is an
//! object's resourceVersion, and who reads puts it into the object.
//!
//! ```
//! use sealane_registry::{Expect, Txn, Write};
//! use sealane_store::{MemoryStore, Store};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = MemoryStore::new();
//! let key = "/core/configmaps/default/a".to_owned();
//! let txn = Txn {
//!     checks: vec![(key.clone(), Expect::Absent)],
//!     writes: vec![(key.clone(), Write::Put(bytes::Bytes::from_static(b"{}")))],
//! };
//! let revision = store.commit(txn.clone()).await.unwrap();
//! assert_eq!(store.get(&key).unwrap().unwrap().revision, revision);
//! assert!(store.commit(txn).await.is_err(), "it exists by now");
//! # });
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod disk;
mod feed;
mod memory;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sealane_registry::Txn;
use tokio::sync::mpsc;

pub use disk::DiskStore;
pub use memory::MemoryStore;

/// Counts commits; the first is 1.
pub type Revision = u64;

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Its key.
    pub key: Arc<str>,
    /// The bytes that were put.
    pub value: Bytes,
    /// The commit that put them.
    pub revision: Revision,
}

/// What one commit did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Arc<str>,
    /// Its new value; `None` where it was deleted.
    pub value: Option<Bytes>,
    /// Its former value; `None` where it did not exist.
    pub previous: Option<Bytes>,
    /// The commit.
    pub revision: Revision,
}

/// Changes in the order of their revisions; each batch is whole commits.
pub type Changes = mpsc::UnboundedReceiver<Arc<Vec<Change>>>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A check of the transaction does not hold; nothing was written.
    #[error("{key} changed in between")]
    Conflict {
        /// The first key whose check failed.
        key: String,
    },
    /// The history no longer reaches back so far.
    #[error("revision {requested} is no longer in the history, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// Another process has the file open.
    #[error("{}: another sealane process uses it; stop that one, or give another --data-dir", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A later version of Sealane wrote the file.
    #[error(
        "{}: written by a newer sealane (format {found}, this one reads {known}); use that version, or another --data-dir",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format in the file.
        found: u64,
        /// The newest format known here.
        known: u64,
    },
    /// The file does not hold what was written.
    #[error("{}: the store is damaged ({what}); put a copy in its place, or move it away to begin anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The disk did not do it (full, read-only, gone).
    #[error("{}: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
}

/// A store of keys and values with one revision over all of them.
pub trait Store: Send + Sync + 'static {
    /// One key's value.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// All values whose keys begin with `prefix`, in the order of their keys, and the revision that they show.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    fn list(&self, prefix: &str) -> Result<(Vec<Versioned>, Revision), StoreError>;

    /// Makes all writes under one new revision if all checks hold; durable when it returns. Whoever watches has
    /// been sent the changes by then.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where a check fails, [`StoreError::Io`] where the disk does; in both cases
    /// nothing was written.
    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// Every change after revision `from`, and those to come.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] where the history does not reach back to `from`.
    fn watch(&self, from: Revision) -> Result<Changes, StoreError>;

    /// The revision of the last commit, 0 before the first.
    fn revision(&self) -> Revision;
}
