//! What a packet pays for a Service: new connections and established ones, beside those that go to the endpoint itself,
//! and beside kube-proxy's layout. Runs of all take turns; ratios are of neighbours, medians count.

use std::path::Path;
use std::time::Duration;

use super::cluster::ENDPOINTS;
use super::median;
use super::world::{Rules, World};
use crate::Result;
use crate::report::{Figure, Judged};

/// How much and how often.
pub(crate) struct Paths {
    /// Services, the fewest first.
    pub(crate) sizes: &'static [usize],
    /// The most that kube-proxy's layout is written for: `nft` needs minutes for more.
    pub(crate) layout: usize,
    pub(crate) rounds: usize,
    /// New connections of a round.
    pub(crate) connections: usize,
    /// How often bytes flow, and how long each time: short and often, so that neighbours have the same machine.
    pub(crate) flows: (usize, Duration),
    /// Connections that are counted by endpoint.
    pub(crate) counted: usize,
}

/// Of one world: what each round said.
#[derive(Default)]
struct Measured {
    /// us until a connection is open, the round's median, all to one Service.
    one: Vec<f64>,
    /// The same over all Services in turn.
    all: Vec<f64>,
    /// us of a whole connection, the round's median, all to one Service, …
    whole: Vec<f64>,
    /// … and over all Services in turn.
    whole_all: Vec<f64>,
}

pub(crate) fn measure(binary: &Path, paths: &Paths) -> Result<Vec<Figure>> {
    let most = paths.sizes.iter().copied().max().unwrap_or(1);
    let mut worlds = vec![("direct".to_owned(), World::new(Rules::Direct, most, binary)?)];
    for (rules, name) in [(Rules::Sealane, "Sealane"), (Rules::Layout, "kube-proxy's layout")] {
        for size in paths.sizes.iter().filter(|s| rules == Rules::Sealane || **s <= paths.layout) {
            worlds.push((format!("{name}, {size}"), World::new(rules, *size, binary)?));
        }
    }
    let mut all: Vec<Measured> = worlds.iter().map(|_| Measured::default()).collect();
    for round in 0..=paths.rounds {
        for ((_, world), measured) in worlds.iter().zip(&mut all) {
            let one = world.connects(paths.connections, 1)?;
            let spread = world.connects(paths.connections, most)?;
            // The first round fills caches.
            if round > 0 {
                measured.one.push(median(&one[0]));
                measured.all.push(median(&spread[0]));
                measured.whole.push(median(&one[1]));
                measured.whole_all.push(median(&spread[1]));
            }
        }
    }
    let mut figures = Vec::new();
    let direct = &all[0];
    for ((name, _), measured) in worlds.iter().zip(&all) {
        let named =
            |what: &str, unit, values: &[f64]| Figure::new(format!("{name}: {what}"), unit, values.to_vec());
        let rates = |whole: &[f64]| whole.iter().map(|us| 1e6 / us).collect::<Vec<_>>();
        figures.push(named("new connections a second, one Service (1/s)", "1/s", &rates(&measured.whole)));
        figures.push(named(
            "new connections a second, all in turn (1/s)",
            "1/s",
            &rates(&measured.whole_all),
        ));
        figures.push(named("connect, one Service (us)", "us", &measured.one));
        figures.push(named("connect, all in turn (us)", "us", &measured.all));
        if !std::ptr::eq(measured, direct) {
            let added = |ours: &[f64], direct: &[f64]| {
                ours.iter().zip(direct).map(|(a, b)| a - b).collect::<Vec<_>>()
            };
            figures.push(named(
                "  added to direct, one Service (us)",
                "us",
                &added(&measured.one, &direct.one),
            ));
            figures.push(named(
                "  added to direct, all in turn (us)",
                "us",
                &added(&measured.all, &direct.all),
            ));
        }
    }
    let ratio = |name: String, a: &[f64], b: &[f64]| {
        Figure::new(name, "x", a.iter().zip(b).map(|(a, b)| a / b).collect())
    };
    let (fewest, most_of_ours) = (&all[1], &all[paths.sizes.len()]);
    let name = format!("{most} Services / {}", paths.sizes[0]);
    for (what, ours, few) in
        [("connect", &most_of_ours.one, &fewest.one), ("a connection", &most_of_ours.whole, &fewest.whole)]
    {
        figures.push(ratio(format!("{what}, one Service: {name}"), ours, few).bar(1.03, Judged::Median));
    }
    // Many destinations cost cache misses wherever they are looked up: routes, sockets, connections. What is left is
    // what many Services cost.
    figures.push(ratio(format!("connect, all in turn: {name}"), &most_of_ours.all, &fewest.all));
    figures.push(ratio("connect, direct: all in turn / one".to_owned(), &direct.all, &direct.one));
    figures.extend(established(&worlds[0].1, &worlds[paths.sizes.len()].1, paths)?);
    figures.push(balance(&worlds[1].1, paths.counted)?);
    Ok(figures)
}

/// Bytes over connections that are there.
fn established(direct: &World, ours: &World, paths: &Paths) -> Result<Vec<Figure>> {
    let (mut plain, mut service) = (Vec::new(), Vec::new());
    for _ in 0..paths.flows.0 {
        plain.push(direct.throughput(paths.flows.1)?);
        service.push(ours.throughput(paths.flows.1)?);
    }
    let ratios = plain.iter().zip(&service).map(|(a, b)| a / b).collect();
    let megabytes = |values: Vec<f64>| values.into_iter().map(|v| v / 1e6).collect();
    Ok(vec![
        Figure::new("established, direct (MB/s)", "MB/s", megabytes(plain)),
        Figure::new("established, over a Service (MB/s)", "MB/s", megabytes(service)),
        Figure::new("established: direct / over a Service", "x", ratios).bar(1.0 / 0.95, Judged::Median),
    ])
}

/// How far from fair the farthest endpoint is.
fn balance(ours: &World, count: usize) -> Result<Figure> {
    let shares = ours.shares(count)?;
    let counted: usize = shares.iter().sum();
    if counted != count {
        return Err(format!("of {count} connections {counted} came: {shares:?}").into());
    }
    let fair = 1.0 / ENDPOINTS as f64;
    let off = shares.iter().map(|share| (*share as f64 / count as f64 - fair).abs() * 100.0);
    let worst = off.fold(0.0, f64::max);
    Ok(Figure::new(format!("{count} connections: farthest from fair (% absolute)"), "%", vec![worst])
        .bar(1.0, Judged::Median))
}
