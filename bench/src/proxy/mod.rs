//! The service proxy: how soon the kernel follows the API, beside kube-proxy, what it needs for that, what a packet pays
//! for a Service, and how evenly connections are spread.

mod cluster;
mod kernel;
mod layout;
mod paths;
mod peer;
mod process;
mod space;
mod sync;
mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::report::{Figure, Judged};
use paths::Paths;
use process::Program;
use sync::Scene;

/// How many, how long and how often.
pub(crate) struct Rounds {
    /// Services of the bars' cluster.
    services: usize,
    /// Sizes that a change should cost the same at, the smallest first.
    sizes: &'static [usize],
    starts: usize,
    /// Changes that come alone.
    changes: usize,
    /// A thousand changes a second for so long.
    stream: Duration,
    /// Five thousand.
    flood: Duration,
    /// Services that kube-proxy is measured on, and how often something changes there.
    peer: &'static [(usize, usize)],
    paths: Paths,
}

impl Rounds {
    pub(crate) fn new(short: bool) -> Rounds {
        if short {
            Rounds {
                services: 10_000,
                sizes: &[1_000, 10_000],
                starts: 1,
                changes: 200,
                stream: Duration::from_secs(2),
                flood: Duration::from_secs(5),
                peer: &[(100, 5)],
                paths: Paths {
                    sizes: &[1, 1_000],
                    layout: 100,
                    rounds: 3,
                    connections: 3_000,
                    flows: (10, Duration::from_millis(200)),
                    counted: 30_000,
                },
            }
        } else {
            Rounds {
                services: 10_000,
                sizes: &[1_000, 10_000, 50_000],
                starts: 5,
                changes: 2_000,
                stream: Duration::from_secs(20),
                flood: Duration::from_secs(60),
                peer: &[(1_000, 10), (10_000, 2)],
                paths: Paths {
                    sizes: &[1, 1_000, 10_000],
                    layout: 1_000,
                    rounds: 10,
                    connections: 10_000,
                    flows: (50, Duration::from_millis(300)),
                    counted: 100_000,
                },
            }
        }
    }
}

/// The programs.
pub(crate) struct Binaries {
    pub(crate) sealane: PathBuf,
    pub(crate) kube_proxy: PathBuf,
}

/// Everything, in the bench's own namespaces.
pub(crate) fn measure(binaries: &Binaries, rounds: &Rounds) -> Result<Vec<Figure>> {
    let mut figures = synced(&binaries.sealane, rounds)?;
    figures.extend(flat(&binaries.sealane, rounds)?);
    figures.extend(paths(&binaries.sealane, rounds)?);
    for (services, changes) in rounds.peer {
        let sealane = Program::Sealane(binaries.sealane.clone());
        let kube_proxy = Program::KubeProxy(binaries.kube_proxy.clone());
        for (program, name) in [(sealane, "Sealane"), (kube_proxy, "kube-proxy")] {
            figures.extend(peer::measure(&program, name, *services, *changes)?);
        }
    }
    Ok(figures)
}

/// The data path alone.
pub(crate) fn paths(binary: &Path, rounds: &Rounds) -> Result<Vec<Figure>> {
    paths::measure(binary, &rounds.paths)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The bars of a node with many Services.
fn synced(binary: &Path, rounds: &Rounds) -> Result<Vec<Figure>> {
    let sealane = Program::Sealane(binary.to_owned());
    let services = rounds.services;
    let mut firsts = Vec::new();
    for _ in 1..rounds.starts {
        let scene = Scene::new(&sealane, services)?;
        firsts.push(scene.first);
        scene.end()?;
    }
    let mut scene = Scene::new(&sealane, services)?;
    firsts.push(scene.first);
    scene.settle();
    let (resident, peak, anonymous) =
        (scene.process.resident()?, scene.process.peak()?, scene.process.anonymous()?);
    let (alone, _) = scene.alone(rounds.changes, Duration::from_secs(5))?;
    let stream = scene.stream(1_000, rounds.stream)?;
    let flood = scene.stream(5_000, rounds.flood)?;
    scene.settle();
    let after = scene.process.resident()?;
    scene.end()?;
    let named = |what: &str, unit, values| Figure::new(format!("{services} Services: {what}"), unit, values);
    let worst = flood.lags.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        named("lists in -> first rules (ms)", "ms", firsts).bar(600.0, Judged::Median),
        named("RSS (MB)", "MB", vec![resident]).bar(60.0, Judged::Median),
        named("  of which anonymous (MB)", "MB", vec![anonymous]),
        named("  highest until then (MB)", "MB", vec![peak]),
        named("watch event -> kernel, alone (ms)", "ms", alone.clone()).bar(0.5, Judged::Median),
        named("watch event -> kernel, alone (ms)", "ms", alone).bar(3.0, Judged::P99),
        named("watch event -> kernel, 1,000/s (ms)", "ms", stream.lags.clone()).bar(0.5, Judged::Median),
        named("watch event -> kernel, 1,000/s (ms)", "ms", stream.lags).bar(3.0, Judged::P99),
        named("cores in use at 1,000 changes/s", "", vec![stream.cores]),
        named("changes a second, asked for 5,000 (1/s)", "1/s", vec![flood.rate]),
        named("watch event -> kernel, 5,000/s (ms)", "ms", flood.lags),
        named("  the worst (ms)", "ms", vec![worst]),
        named("cores in use at 5,000 changes/s", "", vec![flood.cores]).bar(1.0, Judged::Median),
        named("RSS after that (MB)", "MB", vec![after]).bar(60.0, Judged::Median),
    ])
}

/// One change at several sizes.
fn flat(binary: &Path, rounds: &Rounds) -> Result<Vec<Figure>> {
    let sealane = Program::Sealane(binary.to_owned());
    let mut figures = Vec::new();
    let mut costs = Vec::new();
    for services in rounds.sizes {
        let mut scene = Scene::new(&sealane, *services)?;
        scene.settle();
        let (alone, cpu) = scene.alone(rounds.changes, Duration::from_secs(5))?;
        scene.end()?;
        figures.push(Figure::new(format!("{services} Services: a change alone (ms)"), "ms", alone));
        figures.push(Figure::new(format!("{services} Services: CPU of a change (us)"), "us", vec![cpu]));
        costs.push(cpu);
    }
    if let (Some(small), Some(large)) = (costs.first(), costs.last()) {
        let (least, most) = (rounds.sizes[0], rounds.sizes[rounds.sizes.len() - 1]);
        let name = format!("CPU of a change: {most} / {least} Services");
        // A fifty-fold table is no longer in the processor's caches; what it costs to walk is the same.
        figures.push(Figure::new(name, "x", vec![large / small]).bar(1.5, Judged::Median));
    }
    Ok(figures)
}
