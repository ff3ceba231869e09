//! What a second worker costs: CPU time a query of the server on both cores beside that on the first alone, at the same
//! rate, half of what the one can do. dnsperf runs where the kernel lets it.

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
    let load = Load { rate: Some(median(&full) / 2.0), ..load };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..rounds.rounds {
        one.push(scene.ask(&scene.server("0")?, load)?.cpu);
        two.push(scene.ask(&scene.server("0,1")?, load)?.cpu);
    }
    scene.end()?;
    let ratios = two.iter().zip(&one).map(|(two, one)| two / one).collect();
    Ok(vec![
        Figure::new("one worker: CPU a query at half of what it can (us)", "us", one),
        Figure::new("two workers: CPU a query at the same rate (us)", "us", two),
        Figure::new("CPU a query: two workers / one", "x", ratios).bar(1.1, Judged::Median),
    ])
}
