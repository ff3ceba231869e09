//! kube-proxy 1.36 in nftables mode on the same Services, over the same API that is played.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::process::Program;
use super::sync::Scene;
use crate::Result;
use crate::report::Figure;

/// Its first sync of 10,000 Services takes minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// First rules, a change, CPU time and memory, by kube-proxy or, for what stands beside that, by Sealane.
pub(crate) fn measure(program: &Program, name: &str, services: usize, changes: usize) -> Result<Vec<Figure>> {
    let mut scene = Scene::new(program, services)?;
    // It writes in several batches, and counts itself when it is done.
    let metric = |what: &str| {
        scene.process.metric(&format!("kubeproxy_sync_proxy_rules_duration_seconds_{what}"), "IPv4")
    };
    let begun = Instant::now();
    while metric("count").unwrap_or(0.0) < 1.0 {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{name} has no rules: {}", scene.process.said()).into());
        }
        sleep(Duration::from_millis(20));
    }
    let first = metric("sum").unwrap_or(0.0) / metric("count").unwrap_or(1.0);
    scene.settle();
    let resident = scene.process.resident()?;
    let before = scene.process.cpu_with_children()?;
    let (took, _) = scene.alone(changes, PATIENCE)?;
    scene.settle();
    let cpu = (scene.process.cpu_with_children()? - before) / changes as f64;
    scene.end()?;
    let named =
        |what: &str, unit, values| Figure::new(format!("{name}, {services} Services: {what}"), unit, values);
    Ok(vec![
        named("first sync, its own metric (ms)", "ms", vec![first * 1e3]),
        named("watch event -> kernel, alone (ms)", "ms", took),
        named("CPU of a change (ms)", "ms", vec![cpu]),
        named("RSS (MB)", "MB", vec![resident]),
    ])
}
