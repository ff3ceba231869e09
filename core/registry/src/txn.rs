//! [`Txn`]: what the registry asks the store to do, all or nothing.

use bytes::Bytes;

/// What must be true of a key for the transaction to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key's last write was at this revision.
    Revision(u64),
}

/// One key's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The value without `metadata.resourceVersion`: the commit's revision is it.
    Put(Bytes),
    /// The key goes.
    Delete,
}

/// A compare-and-swap over several keys: all checks hold and all writes are made under one new revision, or
/// nothing happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Compared before anything is written.
    pub checks: Vec<(String, Expect)>,
    /// Written together; keys are distinct.
    pub writes: Vec<(String, Write)>,
}
