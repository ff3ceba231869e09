//! Fairness: a client that asks for five times as much as the server can answer, and one beside it that asks a hundred
//! times a second. What comes of the questions of each, with `fairness` and without.

use std::path::Path;

use super::overload::Quota;
use super::scene::{Answered, Load, Scene, ask};
use super::server::Server;
use super::{CLUSTER, Rounds};
use crate::Result;
use crate::report::{Figure, Judged};

/// Of each period so much, µs: 1/25 of a core, without standing still for long.
const QUOTA: (u32, u32) = (1000, 25_000);
/// So much more than it can.
const TIMES: f64 = 5.0;
/// Questions a second of who is quiet.
const QUIET: f64 = 100.0;

pub(crate) fn measure(binary: &Path, rounds: Rounds) -> Result<Vec<Figure>> {
    let scene = Scene::new(binary, CLUSTER)?;
    let mut figures = Vec::new();
    for line in ["", "fairness"] {
        figures.extend(flooded(&scene, rounds, line)?);
    }
    scene.end()?;
    Ok(figures)
}

fn flooded(scene: &Scene, rounds: Rounds, line: &str) -> Result<Vec<Figure>> {
    // It goes after who is in it.
    let cgroup = Quota::new(QUOTA.0, QUOTA.1)?;
    let server = scene.server_with("0", line)?;
    cgroup.take(&server)?;
    let load = Load { cores: "1", seconds: rounds.seconds, at_once: "500", patience: "1", ..Load::default() };
    let (mut quiet, mut flood, mut more) = (vec![], vec![], vec![]);
    for _ in 0..rounds.rounds {
        let capacity = scene.ask(&server, load)?.rate;
        let both = [
            Load { rate: Some(capacity * TIMES), at_once: "60000", from: "127.0.0.2", ..load },
            Load { rate: Some(QUIET), clients: "1", at_once: "200", from: "127.0.0.3", ..load },
        ];
        let [loud, other] = together(scene, &server, both)?;
        flood.push(loud.rate / loud.offered);
        quiet.push(other.rate / other.offered);
        more.push(other.offered / other.rate);
    }
    let name = if line.is_empty() { "without fairness" } else { "with fairness" };
    let figure = |what: &str, samples| Figure::new(format!("{name}: {what}"), "x", samples);
    let asked = figure("questions of 127.0.0.3 (100/s) / answers", more);
    Ok(vec![
        figure("answers / questions of 127.0.0.2, which floods", flood),
        figure("answers / questions of 127.0.0.3 (100/s)", quiet),
        if line.is_empty() { asked } else { asked.bar(1.1, Judged::Median) },
    ])
}

/// Both ask at once.
fn together(scene: &Scene, server: &Server, loads: [Load; 2]) -> Result<[Answered; 2]> {
    let questions = scene.questions();
    let questions = questions.as_path();
    std::thread::scope(|scope| {
        let asking = loads.map(|load| scope.spawn(move || ask(questions, server, load)));
        let [first, second] = asking.map(|thread| thread.join().map_err(|_| "a client failed"));
        Ok([first??, second??])
    })
}
