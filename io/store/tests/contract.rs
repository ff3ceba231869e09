//! What every [`Store`] promises, run on each of them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use sealane_registry::{Expect, Txn, Write};
use sealane_store::{DiskStore, MemoryStore, Store, StoreError};

fn put(key: &str, value: &str) -> (String, Write) {
    (key.into(), Write::Put(Bytes::copy_from_slice(value.as_bytes())))
}

fn txn(checks: &[(&str, Expect)], writes: Vec<(String, Write)>) -> Txn {
    Txn { checks: checks.iter().map(|(k, e)| ((*k).into(), e.clone())).collect(), writes }
}

fn run<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
}

async fn compare_and_swap<S: Store>(store: S) {
    assert_eq!(store.revision(), 0);
    assert!(store.get("/a").unwrap().is_none());
    let first = store.commit(txn(&[("/a", Expect::Absent)], vec![put("/a", "1")])).await.unwrap();
    assert_eq!(first, 1);
    let again = store.commit(txn(&[("/a", Expect::Absent)], vec![put("/a", "2")])).await;
    assert!(matches!(again, Err(StoreError::Conflict { key }) if key == "/a"));
    assert_eq!(store.revision(), first, "a refused transaction takes no revision");
    let second =
        store.commit(txn(&[("/a", Expect::Revision(first))], vec![put("/a", "2"), put("/b", "x")])).await;
    assert_eq!(second.unwrap(), 2);
    let (a, b) = (store.get("/a").unwrap().unwrap(), store.get("/b").unwrap().unwrap());
    assert_eq!((a.revision, &a.value[..], b.revision), (2, &b"2"[..], 2), "one revision for the whole of it");
    let stale =
        store.commit(txn(&[("/a", Expect::Revision(first))], vec![("/a".into(), Write::Delete)])).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let half = store
        .commit(txn(&[("/b", Expect::Revision(2)), ("/c", Expect::Revision(9))], vec![put("/b", "never")]))
        .await;
    assert!(matches!(half, Err(StoreError::Conflict { key }) if key == "/c"));
    assert_eq!(
        &store.get("/b").unwrap().unwrap().value[..],
        b"x",
        "nothing of a refused transaction is written"
    );
    store.commit(txn(&[("/a", Expect::Revision(2))], vec![("/a".into(), Write::Delete)])).await.unwrap();
    assert!(store.get("/a").unwrap().is_none());
    assert_eq!(store.revision(), 3);
}

async fn lists_by_prefix<S: Store>(store: S) {
    for key in ["/p/b", "/p/a", "/q/a", "/p", "/pa/a"] {
        store.commit(txn(&[], vec![put(key, key)])).await.unwrap();
    }
    let (found, at) = store.list("/p/").unwrap();
    let keys: Vec<&str> = found.iter().map(|v| &*v.key).collect();
    assert_eq!((keys, at), (vec!["/p/a", "/p/b"], 5));
    assert_eq!(store.list("").unwrap().0.len(), 5);
    assert!(store.list("/zzz").unwrap().0.is_empty());
}

async fn watches<S: Store>(store: S) {
    store.commit(txn(&[], vec![put("/a", "1")])).await.unwrap();
    store.commit(txn(&[], vec![put("/a", "2"), put("/b", "1")])).await.unwrap();
    let mut late = store.watch(1).unwrap();
    let mut all = store.watch(0).unwrap();
    store
        .commit(txn(&[], vec![("/a".into(), Write::Delete), ("/none".into(), Write::Delete)]))
        .await
        .unwrap();
    let mut seen = Vec::new();
    while let Ok(batch) = all.try_recv() {
        seen.extend(
            batch.iter().map(|c| (c.revision, c.key.to_string(), c.value.clone(), c.previous.clone())),
        );
    }
    let bytes = |s: &'static str| Some(Bytes::from_static(s.as_bytes()));
    assert_eq!(
        seen,
        [
            (1, "/a".into(), bytes("1"), None),
            (2, "/a".into(), bytes("2"), bytes("1")),
            (2, "/b".into(), bytes("1"), None),
            (3, "/a".into(), None, bytes("2")),
        ]
    );
    let mut revisions = Vec::new();
    while let Ok(batch) = late.try_recv() {
        revisions.extend(batch.iter().map(|c| c.revision));
    }
    assert_eq!(revisions, [2, 2, 3]);
}

async fn forgets_old_history<S: Store>(store: S) {
    for n in 0..10_050 {
        store.commit(txn(&[], vec![put("/a", &n.to_string())])).await.unwrap();
    }
    assert!(matches!(store.watch(3), Err(StoreError::Compacted { requested: 3, oldest }) if oldest > 3));
    assert!(store.watch(store.revision()).is_ok());
}

async fn many_at_once<S: Store>(store: S) {
    let store = Arc::new(store);
    store.commit(txn(&[], vec![put("/n", "0")])).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..20 {
                    loop {
                        let now = store.get("/n").unwrap().unwrap();
                        let n: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                        let next = put("/n", &(n + 1).to_string());
                        if store
                            .commit(txn(&[("/n", Expect::Revision(now.revision))], vec![next]))
                            .await
                            .is_ok()
                        {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(&store.get("/n").unwrap().unwrap().value[..], b"160", "no increment was lost");
    assert_eq!(store.revision(), 161);
}

macro_rules! contract {
    ($($name:ident),*) => {
        mod memory {
            use super::*;
            $(#[test] fn $name() { run(super::$name(MemoryStore::new())); })*
        }
        mod disk {
            use super::*;
            $(#[test] fn $name() {
                let dir = tempfile::tempdir().unwrap();
                run(super::$name(DiskStore::open(dir.path().join("store")).unwrap()));
            })*
        }
    };
}
contract!(compare_and_swap, lists_by_prefix, watches, many_at_once);

/// Not on disk: ten thousand commits one after the other are half a minute of fsync; the history is shared code.
#[test]
fn memory_forgets_old_history() {
    run(forgets_old_history(MemoryStore::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any sequence of transactions leaves what a plain map would hold, before and after the file is opened again.
    #[test]
    fn disk_is_a_map(ops in prop::collection::vec((0u8..6, prop::option::of(0u16..999), any::<bool>()), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut model: BTreeMap<String, (u64, String)> = BTreeMap::new();
        let mut revision = 0;
        run(async {
            let mut store = DiskStore::open(&path).unwrap();
            for (key, value, wrong) in ops {
                let key = format!("/k/{key}");
                let known = model.get(&key).map_or(Expect::Absent, |(r, _)| Expect::Revision(*r));
                let check = if wrong { Expect::Revision(u64::MAX) } else { known };
                let write = value.map_or(Write::Delete, |v| Write::Put(v.to_string().into()));
                let result = store.commit(txn(&[(&key, check)], vec![(key.clone(), write)])).await;
                prop_assert_eq!(result.is_err(), wrong);
                if !wrong {
                    revision += 1;
                    match value {
                        Some(v) => model.insert(key, (revision, v.to_string())),
                        None => model.remove(&key),
                    };
                }
                if value == Some(7) {
                    drop(store);
                    store = DiskStore::open(&path).unwrap();
                }
            }
            let (found, at) = store.list("").unwrap();
            let found: BTreeMap<_, _> = found
                .into_iter()
                .map(|v| (v.key.to_string(), (v.revision, String::from_utf8(v.value.to_vec()).unwrap())))
                .collect();
            prop_assert_eq!((found, at), (model, revision));
            Ok(())
        })?;
    }
}
