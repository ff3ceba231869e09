//! What a second worker costs: CPU time a query of the server on both cores beside that on the first alone, each worker
//! asked the same (a quarter of what one can do); and where both share what one had, so that batches are half as long.
//! dnsperf runs where the kernel lets it.

use std::path::Path;

use super::scene::{Load, Scene};
use super::{CLUSTER, Rounds, median};
use crate::Result;
use crate::report::{Figure, Judged};

pub(crate) fn measure(binary: &Path, rounds: Rounds) -> Result<Vec<Figure>> {
    let scene = Scene::new(binary, CLUSTER)?;
    let load = Load { seconds: rounds.seconds, ..Load::default() };
    let mut full = Vec::new();
    for _ in 0..3 {
        full.push(scene.ask(&scene.server("0")?, load)?.rate);
    }
    let each = median(&full) / 4.0;
    let load = |workers: f64| Load { rate: Some(each * workers), ..load };
    let (mut one, mut two, mut shared) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.rounds {
        one.push(scene.ask(&scene.server("0")?, load(1.0))?.cpu);
        two.push(scene.ask(&scene.server("0,1")?, load(2.0))?.cpu);
        shared.push(scene.ask(&scene.server("0,1")?, load(1.0))?.cpu);
    }
    scene.end()?;
    let ratio = |two: &[f64]| two.iter().zip(&one).map(|(two, one)| two / one).collect();
    let ratios = [ratio(&two), ratio(&shared)];
    let [alike, split] = ratios;
    Ok(vec![
        Figure::new("one worker: CPU a query at a quarter of what it can (us)", "us", one),
        Figure::new("two workers, each asked as much: CPU a query (us)", "us", two),
        Figure::new("two workers, together asked as much: CPU a query (us)", "us", shared),
        Figure::new("CPU a query: two workers / one", "x", alike).bar(1.1, Judged::Median),
        Figure::new("CPU a query: one worker's load shared by two / one", "x", split),
    ])
}
