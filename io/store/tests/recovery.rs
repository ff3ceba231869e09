//! What a kill, a damaged file or a second process does to a [`DiskStore`].

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use bytes::Bytes;
use sealane_registry::{Expect, Txn, Write};
use sealane_store::{DiskStore, Store, StoreError};

const CHILD: &str = "SEALANE_STORE_TEST_FILE";

fn run<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
}

fn put(n: u64) -> Txn {
    let key = format!("/k/{n}");
    let value = Bytes::from(vec![b'x'; 100 + (n as usize % 5000)]);
    Txn { checks: vec![(key.clone(), Expect::Absent)], writes: vec![(key, Write::Put(value))] }
}

/// The child's half of [`acknowledged_writes_survive_a_kill`]; nothing to do when run on its own.
#[test]
fn writes_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = DiskStore::open(path).unwrap();
    run(async {
        let from = store.revision();
        for n in from.. {
            store.commit(put(n)).await.unwrap();
            println!("acknowledged {n}");
        }
    });
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut acknowledged = 0;
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 5 + round * 3;
        for line in lines {
            let line = line.unwrap();
            let Some((_, n)) = line.split_once("acknowledged ") else { continue };
            acknowledged = n.trim().parse::<u64>().unwrap() + 1;
            left -= 1;
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = DiskStore::open(&path).unwrap();
        let (found, at) = store.list("/k/").unwrap();
        assert!(at >= acknowledged, "round {round}: {at} of {acknowledged}");
        assert_eq!(found.len() as u64, at, "round {round}");
        acknowledged = at;
    }
}

fn filled(path: &std::path::Path) {
    let store = DiskStore::open(path).unwrap();
    run(async {
        for n in 0..50 {
            store.commit(put(n)).await.unwrap();
        }
    });
}

#[test]
fn a_second_opener_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _first = DiskStore::open(&path).unwrap();
    assert!(matches!(DiskStore::open(&path), Err(StoreError::InUse { .. })));
}

#[test]
fn a_file_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::write(&path, b"not a store at all").unwrap();
    let refused = DiskStore::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("damaged"), "{refused}");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    filled(&path);
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    drop(database);
    assert!(matches!(DiskStore::open(&path), Err(StoreError::Newer { found: 2, known: 1, .. })));
}

#[test]
fn a_truncated_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    filled(&path);
    let whole = std::fs::read(&path).unwrap();
    for length in [1, 300, 4096, whole.len() / 3, whole.len() / 2, whole.len() - 4096] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let refused = DiskStore::open(&path);
        assert!(
            matches!(refused, Err(StoreError::Damaged { .. })),
            "{length} of {}: {refused:?}",
            whole.len()
        );
    }
}

/// Wherever a bit flips, the store either says that it is damaged or still holds all that was written.
#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    filled(&path);
    let (before, _) = DiskStore::open(&path).unwrap().list("").unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut found = 0;
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        match DiskStore::open(&path) {
            Err(StoreError::Damaged { .. } | StoreError::Newer { .. }) => found += 1,
            Err(other) => panic!("at {at}: {other}"),
            Ok(store) => assert_eq!(store.list("").unwrap().0, before, "at {at}"),
        }
    }
    assert!(found > 0, "no flip was found at all");
}
