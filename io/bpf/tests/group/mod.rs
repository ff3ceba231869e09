//! A cgroup that is gone with the test, for threads of the test's own.
#![allow(dead_code)]

use crate::lab::Namespace;
use sealane_bpf::{BpfSink, cgroup2_root};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A threaded cgroup below the root: sockets are in the cgroup of the thread that opens them.
pub struct Group {
    root: PathBuf,
    path: PathBuf,
    threads: Mutex<Vec<String>>,
}

impl Group {
    pub fn new() -> Self {
        let root = cgroup2_root().expect("this test needs cgroup v2");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("sealane-bpf-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("this test makes cgroups: run it as root");
        std::fs::write(path.join("cgroup.type"), "threaded").unwrap();
        Self { root, path, threads: Mutex::default() }
    }

    pub fn sink(&self) -> BpfSink {
        BpfSink::open(&self.path).unwrap()
    }

    /// A sink that belongs to a namespace: its links are the ones that the sink attaches to.
    pub fn sink_in(&self, namespace: &Namespace) -> BpfSink {
        let path = self.path.clone();
        namespace.run(move || BpfSink::open(&path).unwrap())
    }

    /// Takes a namespace's thread in; those that it started before stay outside.
    pub fn take(&self, namespace: &Namespace) {
        let file = self.path.join("cgroup.threads");
        let thread = namespace.run(move || {
            let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
            std::fs::write(file, &thread).unwrap();
            thread
        });
        self.threads.lock().unwrap().push(thread);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // One that has ended cannot be moved, and is in no cgroup.
        for thread in self.threads.get_mut().unwrap() {
            let _ = std::fs::write(self.root.join("cgroup.threads"), thread);
        }
        // A thread on its way out holds the folder for a moment.
        while let Err(error) = std::fs::remove_dir(&self.path) {
            assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
            std::thread::yield_now();
        }
    }
}
