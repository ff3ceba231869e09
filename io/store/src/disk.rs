//! [`DiskStore`]: one redb file, one writer thread, one fsync for all transactions that wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};

use bytes::{BufMut, Bytes, BytesMut};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError,
};
use sealane_registry::{Txn, Write};
use tokio::sync::oneshot;

use crate::feed::Feed;
use crate::memory::holds;
use crate::{Change, Changes, Revision, Store, StoreError, Versioned};

/// Key to revision (8 bytes, big-endian), CRC-32 of the rest (4 bytes), value.
const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// `format` and `revision`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// The format that this version writes and the newest that it reads.
const FORMAT: u64 = 1;
/// Transactions that share one fsync at most; bounds the time that the first of them waits.
const GROUP: usize = 256;
/// Page cache in bytes: objects are served from the API server's watch cache, not from here.
const CACHE: usize = 4 << 20;

/// A durable store: what [`Store::commit`] has acknowledged is there after a kill or a power cut.
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
    /// `None` once dropped, so that the writer ends.
    queue: Option<mpsc::Sender<Request>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// `None` after an I/O error, until the writer has opened the file again.
    database: RwLock<Option<Arc<Database>>>,
    revision: AtomicU64,
    feed: Mutex<Feed>,
}

#[derive(Debug)]
struct Request {
    txn: Txn,
    done: oneshot::Sender<Result<Revision, StoreError>>,
}

impl DiskStore {
    /// Opens the file at `path`, or makes it. Every value is read and checked once.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let (database, revision) = quietly(|| open_checked(&path)).unwrap_or_else(|| {
            Err(StoreError::Damaged { path: path.clone(), what: "its pages make no sense".into() })
        })?;
        let shared = Arc::new(Shared {
            path,
            database: RwLock::new(Some(Arc::new(database))),
            revision: AtomicU64::new(revision),
            feed: Mutex::new(Feed::new(revision)),
        });
        let (queue, requests) = mpsc::channel();
        let worker = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || worker.write_loop(&requests))
            .map_err(|e| shared.io(&e))?;
        Ok(DiskStore { shared, queue: Some(queue), writer: Some(writer) })
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// `f`'s result, or `None` where it panicked, which is then not reported: redb asserts on pages that no version
/// of it wrote, and a damaged file is input.
fn quietly<T>(f: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(f)).ok();
    std::panic::set_hook(hook);
    result
}

fn open_checked(path: &Path) -> Result<(Database, Revision), StoreError> {
    let io = |e: &dyn std::fmt::Display| StoreError::Io { path: path.into(), what: e.to_string() };
    let damaged = |what: String| StoreError::Damaged { path: path.into(), what };
    let fresh = !path.exists();
    let mut database = Database::builder().set_cache_size(CACHE).create(path).map_err(|e| match e {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.into() },
        DatabaseError::Storage(redb::StorageError::Io(e)) if !is_garbage(&e) => io(&e),
        other => damaged(other.to_string()),
    })?;
    if !fresh && !database.check_integrity().map_err(|e| damaged(e.to_string()))? {
        return Err(damaged("checksums do not agree".into()));
    }
    let write = database.begin_write().map_err(|e| io(&e))?;
    let revision = {
        write.open_table(OBJECTS).map_err(|e| damaged(e.to_string()))?;
        let mut meta = write.open_table(META).map_err(|e| damaged(e.to_string()))?;
        let format = meta.get("format").map_err(|e| damaged(e.to_string()))?.map(|v| v.value());
        match format {
            Some(found) if found > FORMAT => {
                return Err(StoreError::Newer { path: path.into(), found, known: FORMAT });
            }
            Some(_) => {}
            None => {
                meta.insert("format", FORMAT).map_err(|e| io(&e))?;
                meta.insert("revision", 0).map_err(|e| io(&e))?;
            }
        }
        meta.get("revision").map_err(|e| damaged(e.to_string()))?.map_or(0, |v| v.value())
    };
    if fresh {
        write.commit().map_err(|e| io(&e))?;
    } else {
        write.abort().map_err(|e| io(&e))?;
    }
    let read = database.begin_read().map_err(|e| io(&e))?;
    let objects = read.open_table(OBJECTS).map_err(|e| damaged(e.to_string()))?;
    for row in objects.iter().map_err(|e| damaged(e.to_string()))? {
        let (key, row) = row.map_err(|e| damaged(e.to_string()))?;
        let (found, _) =
            parse(row.value()).ok_or_else(|| damaged(format!("{} cannot be read", key.value())))?;
        if found > revision {
            return Err(damaged(format!("{} is of revision {found}, the store of {revision}", key.value())));
        }
    }
    drop(objects);
    drop(read);
    Ok((database, revision))
}

/// Whether an I/O error speaks of what is in the file rather than of the disk.
fn is_garbage(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

/// A row's revision and value, or `None` where its checksum does not agree.
fn parse(row: &[u8]) -> Option<(Revision, &[u8])> {
    let (revision, rest) = row.split_first_chunk::<8>()?;
    let (sum, value) = rest.split_first_chunk::<4>()?;
    (crc(*revision, value) == u32::from_be_bytes(*sum)).then(|| (u64::from_be_bytes(*revision), value))
}

fn crc(revision: [u8; 8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&revision);
    hasher.update(value);
    hasher.finalize()
}

fn row(revision: Revision, value: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(12 + value.len());
    out.put_u64(revision);
    out.put_u32(crc(revision.to_be_bytes(), value));
    out.put_slice(value);
    out.freeze()
}

/// Transactions of one group that hold: their answers wait for the fsync.
#[derive(Default)]
struct Group {
    revision: Revision,
    changes: Vec<Change>,
    held: Vec<(oneshot::Sender<Result<Revision, StoreError>>, Revision)>,
    refused: Vec<(oneshot::Sender<Result<Revision, StoreError>>, StoreError)>,
}

impl Shared {
    fn io(&self, e: &dyn std::fmt::Display) -> StoreError {
        StoreError::Io { path: self.path.clone(), what: e.to_string() }
    }

    fn damaged(&self, key: &str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: format!("{key} cannot be read") }
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        // No code that holds the lock can leave the feed half changed.
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database
            .clone()
            .ok_or_else(|| self.io(&"closed after an earlier error, opened again at the next write"))
    }

    fn write_loop(&self, requests: &mpsc::Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut group = vec![first];
            while group.len() < GROUP {
                match requests.try_recv() {
                    Ok(more) => group.push(more),
                    Err(_) => break,
                }
            }
            self.write_group(group);
        }
    }

    /// One fsync for all of `requests`; each is answered.
    fn write_group(&self, requests: Vec<Request>) {
        let mut group = Group { revision: self.revision.load(Ordering::Acquire), ..Group::default() };
        let mut waiting = requests.into_iter();
        let result = self.reopened().and_then(|database| self.try_group(&database, &mut waiting, &mut group));
        for (done, error) in group.refused {
            let _ = done.send(Err(error));
        }
        match result {
            Ok(()) => {
                self.revision.store(group.revision, Ordering::Release);
                self.feed().publish(group.changes);
                for (done, revision) in group.held {
                    let _ = done.send(Ok(revision));
                }
            }
            Err(what) => {
                tracing::error!("{what}");
                // redb refuses everything after an I/O error until it is opened again.
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
                let held = group.held.into_iter().map(|(done, _)| done);
                for done in held.chain(waiting.map(|r| r.done)) {
                    let _ = done.send(Err(self.io(&reason(&what))));
                }
            }
        }
    }

    fn reopened(&self) -> Result<Arc<Database>, StoreError> {
        if let Ok(database) = self.database() {
            return Ok(database);
        }
        let (database, revision) = open_checked(&self.path)?;
        if revision != self.revision.load(Ordering::Acquire) {
            // A commit that was refused for its error did reach the disk: its changes were never published.
            return Err(self.io(&"an unacknowledged change is in the file; restart to go on"));
        }
        let database = Arc::new(database);
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&database));
        Ok(database)
    }

    fn try_group(
        &self,
        database: &Database,
        requests: &mut std::vec::IntoIter<Request>,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let mut write = database.begin_write().map_err(|e| self.io(&e))?;
        write.set_durability(Durability::Immediate).map_err(|e| self.io(&e))?;
        {
            let mut objects = write.open_table(OBJECTS).map_err(|e| self.io(&e))?;
            for Request { txn, done } in requests.by_ref() {
                match self.conflict(&objects, &txn) {
                    Ok(None) => {}
                    Ok(Some(key)) => {
                        group.refused.push((done, StoreError::Conflict { key }));
                        continue;
                    }
                    Err(e) => {
                        group.held.push((done, 0));
                        return Err(e);
                    }
                }
                group.revision += 1;
                group.held.push((done, group.revision));
                self.apply(&mut objects, txn, group)?;
            }
            let mut meta = write.open_table(META).map_err(|e| self.io(&e))?;
            meta.insert("revision", group.revision).map_err(|e| self.io(&e))?;
        }
        if group.held.is_empty() {
            write.abort().map_err(|e| self.io(&e))
        } else {
            write.commit().map_err(|e| self.io(&e))
        }
    }

    fn conflict(&self, objects: &Table<'_, &str, &[u8]>, txn: &Txn) -> Result<Option<String>, StoreError> {
        for (key, expect) in &txn.checks {
            let found = match objects.get(key.as_str()).map_err(|e| self.io(&e))? {
                Some(row) => Some(parse(row.value()).ok_or_else(|| self.damaged(key))?.0),
                None => None,
            };
            if !holds(expect, found) {
                return Ok(Some(key.clone()));
            }
        }
        Ok(None)
    }

    fn apply(
        &self,
        objects: &mut Table<'_, &str, &[u8]>,
        txn: Txn,
        group: &mut Group,
    ) -> Result<(), StoreError> {
        let revision = group.revision;
        for (key, write) in txn.writes {
            let (value, old) = match write {
                Write::Put(value) => {
                    let old = objects
                        .insert(key.as_str(), row(revision, &value).as_ref())
                        .map_err(|e| self.io(&e))?;
                    (Some(value), old)
                }
                Write::Delete => (None, objects.remove(key.as_str()).map_err(|e| self.io(&e))?),
            };
            let previous = match old {
                Some(row) => {
                    Some(Bytes::copy_from_slice(parse(row.value()).ok_or_else(|| self.damaged(&key))?.1))
                }
                None => None,
            };
            if value.is_some() || previous.is_some() {
                group.changes.push(Change { key: key.into(), value, previous, revision });
            }
        }
        Ok(())
    }
}

/// What went wrong without the path, which the new error names again.
fn reason(error: &StoreError) -> String {
    match error {
        StoreError::Io { what, .. } | StoreError::Damaged { what, .. } => what.clone(),
        other => other.to_string(),
    }
}

impl Store for DiskStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let database = self.shared.database()?;
        let read = database.begin_read().map_err(|e| self.shared.io(&e))?;
        let objects = read.open_table(OBJECTS).map_err(|e: TableError| self.shared.io(&e))?;
        let Some(row) = objects.get(key).map_err(|e| self.shared.io(&e))? else { return Ok(None) };
        let (revision, value) = parse(row.value()).ok_or_else(|| self.shared.damaged(key))?;
        Ok(Some(Versioned { key: key.into(), value: Bytes::copy_from_slice(value), revision }))
    }

    fn list(&self, prefix: &str) -> Result<(Vec<Versioned>, Revision), StoreError> {
        let database = self.shared.database()?;
        let read = database.begin_read().map_err(|e| self.shared.io(&e))?;
        let meta = read.open_table(META).map_err(|e| self.shared.io(&e))?;
        let at = meta.get("revision").map_err(|e| self.shared.io(&e))?.map_or(0, |v| v.value());
        let objects = read.open_table(OBJECTS).map_err(|e| self.shared.io(&e))?;
        let mut found = Vec::new();
        for entry in objects.range(prefix..).map_err(|e| self.shared.io(&e))? {
            let (key, row) = entry.map_err(|e| self.shared.io(&e))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (revision, value) = parse(row.value()).ok_or_else(|| self.shared.damaged(key.value()))?;
            found.push(Versioned { key: key.value().into(), value: Bytes::copy_from_slice(value), revision });
        }
        Ok((found, at))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        let (done, answer) = oneshot::channel();
        let gone = || self.shared.io(&"the writer has stopped");
        self.queue.as_ref().ok_or_else(gone)?.send(Request { txn, done }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    fn watch(&self, from: Revision) -> Result<Changes, StoreError> {
        self.shared.feed().watch(from)
    }

    fn revision(&self) -> Revision {
        self.shared.revision.load(Ordering::Acquire)
    }
}
