//! kill -9 of `up`, of its launcher and of its Pods' processes while Deployments come and go: what was acknowledged is
//! there afterwards, the right Pods run, and nothing stale stays.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sealane_tests::{Start, Up, eventually};

/// Deployments that are kept at a time.
const KEPT: usize = 3;

/// What kubectl's exit status has promised.
#[derive(Default)]
struct Promised {
    /// Created, and no deletion begun.
    there: BTreeSet<String>,
    /// Deleted.
    gone: BTreeSet<String>,
    /// In order of creation.
    order: Vec<String>,
}

/// Creates Deployments and deletes those before the last few, until told to stop.
fn churn(up: &Up, round: usize, promised: &Mutex<Promised>, done: &AtomicUsize, stop: &AtomicBool) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("d-{round}-{n}");
        let words = ["create", "deployment", &name, "--image=sealane/demo", "--", "sleep", "infinity"];
        if up.kubectl(&words).status.success() {
            let mut promised = promised.lock().unwrap();
            promised.there.insert(name.clone());
            promised.order.push(name);
            done.fetch_add(1, Ordering::Relaxed);
        }
        let oldest = {
            let mut promised = promised.lock().unwrap();
            let full = promised.order.len() > KEPT;
            full.then(|| {
                let oldest = promised.order.remove(0);
                // From now on nothing is promised of it, until its deletion is acknowledged.
                promised.there.remove(&oldest);
                oldest
            })
        };
        if let Some(oldest) = oldest
            && up.kubectl(&["delete", "deployment", &oldest]).status.success()
        {
            promised.lock().unwrap().gone.insert(oldest);
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lets the churn run for some acknowledged operations and a moment that differs from round to round.
fn some_time(round: usize, done: &AtomicUsize) {
    let enough = 2 + round % 5;
    eventually("acknowledged operations", || {
        let n = done.load(Ordering::Relaxed);
        if n >= enough { Ok(()) } else { Err(format!("{n} of {enough}")) }
    });
    let moment = Instant::now() + Duration::from_millis(round as u64 * 37 % 200);
    while Instant::now() < moment {
        std::thread::yield_now();
    }
}

/// Whom a round kills: `up`, its launcher, or one of the others, kube-dns among them.
fn victim(up: &Up, round: usize) -> i32 {
    let (own, launcher) = (up.pid(), up.launcher());
    let others: Vec<i32> = up.processes().into_iter().filter(|p| *p != own && *p != launcher).collect();
    match round % 3 {
        0 => own,
        1 => launcher,
        _ => others[(round / 3) % others.len()],
    }
}

/// The programs of the Deployments' Pods.
fn sleepers(up: &Up) -> usize {
    let line = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    up.processes().into_iter().filter(|p| line(*p).ends_with(b"sleep\0infinity\0")).count()
}

#[track_caller]
fn as_promised(up: &Up, round: usize, promised: &Mutex<Promised>) {
    let mut promised = promised.lock().unwrap();
    let listed = up.value(&["get", "deployments"], "{.items[*].metadata.name}");
    let found: BTreeSet<String> = listed.split_whitespace().map(str::to_owned).collect();
    let lost: Vec<_> = promised.there.difference(&found).collect();
    assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
    let back: Vec<_> = promised.gone.intersection(&found).collect();
    assert!(back.is_empty(), "round {round}: deleted and there again: {back:?}");
    // Those without an answer count from now on as what they are.
    promised.order = found.iter().cloned().collect();
    promised.there.clone_from(&found);
    eventually(&format!("round {round}: one Pod for each Deployment"), || {
        let all = up.json(&["get", "pods"]);
        let mut owners = BTreeSet::new();
        for pod in all["items"].as_array().unwrap() {
            let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
            if !ready || !pod["metadata"]["deletionTimestamp"].is_null() {
                return Err(up.ok(&["get", "pods", "-o", "wide"]));
            }
            owners.insert(pod["metadata"]["labels"]["app"].as_str().unwrap_or_default().to_owned());
        }
        let count = sleepers(up);
        let right =
            owners == found && all["items"].as_array().unwrap().len() == found.len() && count == found.len();
        let shown = || {
            format!(
                "{} programs, {} Deployments\n{}",
                count,
                found.len(),
                up.ok(&["get", "pods", "-o", "wide"])
            )
        };
        if right { Ok(()) } else { Err(shown()) }
    });
    up.ready_pods("kube-system", "k8s-app=kube-dns", 1);
}

#[test]
fn killed_again_and_again() {
    let rounds: usize = std::env::var("SEALANE_KILL_ROUNDS").map_or(4, |n| n.parse().expect("a number"));
    let start = Start::new();
    let promised = Mutex::new(Promised::default());
    let mut up = start.up();
    for round in 0..rounds {
        let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let family = std::thread::scope(|scope| {
            scope.spawn(|| churn(&up, round, &promised, &done, &stop));
            some_time(round, &done);
            let family = up.family();
            let pid = victim(&up, round);
            if let Err(e) = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL) {
                // A Pod that the churn deleted has ended by itself.
                assert_eq!(e, rustix::io::Errno::SRCH);
            }
            stop.store(true, Ordering::Relaxed);
            (pid == up.pid()).then_some(family)
        });
        if let Some(family) = family {
            up.killed(&family);
            up = start.up();
        }
        as_promised(&up, round, &promised);
    }
    up.stop();
}

#[test]
fn the_launchers_end_is_told_once() {
    let start = Start::new();
    let up = start.up();
    up.ok(&["create", "deployment", "d", "--image=sealane/demo", "--replicas=3", "--", "sleep", "infinity"]);
    up.ready_pods("default", "app=d", 3);
    let launcher = up.launcher();
    kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
    eventually("every program runs again", || {
        let others = up.processes().into_iter().all(|p| p != launcher);
        let count = sleepers(&up);
        if others && count == 3 { Ok(()) } else { Err(format!("{count} programs\n{}", up.log())) }
    });
    up.ready_pods("default", "app=d", 3);
    let log = std::fs::read_to_string(start.file("stderr")).unwrap();
    let warnings: Vec<&str> = log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("the node's launcher ended"), "{log}");
    up.stop();
}

#[test]
fn a_launcher_that_hangs_leaves_nothing() {
    let up = Start::new().up();
    up.ok(&["create", "deployment", "d", "--image=sealane/demo", "--", "sleep", "infinity"]);
    up.ready_pods("default", "app=d", 1);
    kill_process(Pid::from_raw(up.launcher()).unwrap(), Signal::STOP).unwrap();
    up.stop();
}
