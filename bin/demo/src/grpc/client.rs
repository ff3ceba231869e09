//! The client: many calls over one channel, counted by the Pod that answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::channel::RoundRobin;

/// Failed calls that end a run: something is wrong then.
const PATIENCE: u64 = 1000;

/// Makes `calls` calls from `threads` tasks, prints the counts; stays until TERM unless `once`, so that a
/// Deployment doesn't start it again.
pub(super) async fn run(target: &str, calls: u64, threads: u64, once: bool) -> Result<(), String> {
    let work = count(target, calls, threads);
    tokio::select! {
        result = work => result?,
        () = crate::terminated() => return Ok(()),
    }
    if !once {
        crate::terminated().await;
    }
    Ok(())
}

async fn connected(target: &str) -> Result<RoundRobin, String> {
    // The server may be starting at the same time: half a minute of patience, as a client would have.
    let mut last = String::new();
    for _ in 0..60 {
        match RoundRobin::connect(target).await {
            Ok(channel) => return Ok(channel),
            Err(why) => last = why,
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(last)
}

async fn count(target: &str, calls: u64, threads: u64) -> Result<(), String> {
    let channel = Arc::new(connected(target).await?);
    let (left, failed) = (Arc::new(AtomicU64::new(calls)), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let tasks: Vec<_> = (0..threads)
        .map(|_| {
            let (channel, left, failed) = (Arc::clone(&channel), Arc::clone(&left), Arc::clone(&failed));
            tokio::spawn(async move {
                let mut counts: BTreeMap<String, u64> = BTreeMap::new();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    match channel.hello().await {
                        Ok(pod) => *counts.entry(pod).or_default() += 1,
                        Err(status) => {
                            if failed.fetch_add(1, Ordering::Relaxed) == 0 {
                                println!("call failed: {status}");
                            }
                            if failed.load(Ordering::Relaxed) > PATIENCE {
                                break;
                            }
                        }
                    }
                }
                counts
            })
        })
        .collect();
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    for task in tasks {
        for (pod, n) in task.await.map_err(|e| e.to_string())? {
            *total.entry(pod).or_default() += n;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let failed = failed.load(Ordering::Relaxed);
    for (pod, n) in &total {
        println!("{n:>9} calls answered by {pod}");
    }
    let report = serde_json::json!({"target": target, "calls": calls, "failed": failed, "seconds": seconds, "pods": total});
    println!("result {report}");
    if failed > PATIENCE { Err(format!("{failed} calls failed")) } else { Ok(()) }
}
