//! `forward` and `cache`: what a query costs that goes on to an upstream, and one that the cache answers. The upstream is
//! Knot, on the core of who asks.
//!
//! A quarter of what CoreDNS can is so little that every question finds a server asleep, and its upstream, too: what it
//! costs is the waking. So what a bare loop costs then stands beside it; it is more than an eighth of CoreDNS's already.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::bare::Bare;
use super::cluster;
use super::server::{Program, Server};
use super::{Binaries, CLUSTER, Rounds, dnsperf, median};
use crate::Result;
use crate::cores::CORES;
use crate::report::{Figure, Judged};

/// What a forwarder may cost of what CoreDNS does.
const BAR: f64 = 1.0 / 8.0;
/// Forwarders that are compared.
const FORWARDERS: [Program; 2] = [Program::Sealane, Program::CoreDns];
/// Names that the cache holds: so many that they are asked for again and again.
const CACHED: usize = 500;

/// CPU a query of each, and the ratios against their bar.
pub(crate) fn measure(binaries: &Binaries, rounds: Rounds) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    fs::write(folder.join("zone"), cluster::zone(CLUSTER))?;
    let name = |at: usize| cluster::service(at);
    let mut questions = String::new();
    for at in 0..CACHED {
        writeln!(questions, "{} A", name(at))?;
    }
    let file = folder.join("questions");
    fs::write(&file, questions)?;
    let knot = Program::Knot;
    let configuration = knot.configuration(folder, folder);
    let upstream = (knot, CORES[1], configuration.as_str());
    let _upstream = Server::configured(upstream, binaries.of(knot), folder, folder, &name(0))?;
    let mut figures = Vec::new();
    for (what, plugin, upstream) in
        [("forwarded", "", Some(knot.port())), ("from the cache", "    cache 3600\n", None)]
    {
        let mut servers = Vec::new();
        for program in FORWARDERS {
            let (port, to) = (program.port(), knot.port());
            let corefile = format!(
                ".:{port} {{\n    errors\n    prometheus 127.0.0.1:{}\n{plugin}    forward . 127.0.0.1:{to}\n}}\n",
                port + 4000
            );
            let forwarder = (program, CORES[0], corefile.as_str());
            servers.push(Server::configured(forwarder, binaries.of(program), folder, folder, &name(0))?);
            servers[servers.len() - 1].pause(true)?;
        }
        let spent = spend(&servers, upstream, &file, rounds)?;
        figures.extend(spent.figures(what));
    }
    Ok(figures)
}

/// µs of CPU a query, round by round, of the forwarders in their order.
#[derive(Default)]
struct Spent {
    full: [Vec<f64>; 2],
    /// At the same quarter of what CoreDNS can, …
    quarter: [Vec<f64>; 2],
    /// … and of a bare loop then.
    bare: Vec<f64>,
}

fn spend(servers: &[Server], upstream: Option<u16>, questions: &Path, rounds: Rounds) -> Result<Spent> {
    let mut spent = Spent::default();
    for _ in 0..rounds.rounds {
        let mut quarter = None;
        // CoreDNS's turn comes first: its quarter is the others', too.
        for at in [1, 0] {
            servers[at].pause(false)?;
            // The first fills the cache.
            dnsperf(&servers[at], questions, 1, None)?;
            let full = dnsperf(&servers[at], questions, rounds.seconds, None)?;
            let rate = *quarter.get_or_insert(full.rate / 4.0);
            spent.full[at].push(full.cpu);
            spent.quarter[at].push(dnsperf(&servers[at], questions, rounds.seconds, Some(rate))?.cpu);
            servers[at].pause(true)?;
        }
        let bare = Bare::start(upstream)?;
        spent.bare.push(dnsperf(&bare, questions, rounds.seconds, quarter)?.cpu);
    }
    Ok(spent)
}

impl Spent {
    fn figures(self, what: &str) -> Vec<Figure> {
        let mut figures = Vec::new();
        let bare = median(&self.bare) / median(&self.quarter[1]);
        for (spent, when) in [(self.full, "at saturation"), (self.quarter, "at a quarter of CoreDNS's")] {
            let ratio = median(&spent[0]) / median(&spent[1]);
            for (program, spent) in FORWARDERS.iter().zip(spent) {
                let name = format!("{}, {what}: CPU a query {when} (us)", program.name());
                figures.push(Figure::new(name, "us", spent));
            }
            let name = format!("CPU {when}, {what}: Sealane / CoreDNS");
            figures.push(Figure::new(name, "x", vec![ratio]).bar(BAR, Judged::Median));
        }
        figures.push(Figure::new(format!("CPU then, {what}: a bare loop / CoreDNS"), "x", vec![bare]));
        figures
    }
}
