//! `forward` and `cache`: what a query costs that goes on to an upstream, and one that the cache answers. The upstream is
//! Knot, on the core of who asks.

use std::fmt::Write as _;
use std::fs;

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
    for (what, plugin) in [("forwarded", ""), ("from the cache", "    cache 3600\n")] {
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
        // At saturation, and at the same quarter of what CoreDNS can.
        let mut spent = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for _ in 0..rounds.rounds {
            let mut quarter = None;
            // CoreDNS's turn comes first: its quarter is Sealane's, too.
            for at in [1, 0] {
                servers[at].pause(false)?;
                // The first fills the cache.
                dnsperf(&servers[at], &file, 1, None)?;
                let full = dnsperf(&servers[at], &file, rounds.seconds, None)?;
                let rate = *quarter.get_or_insert(full.rate / 4.0);
                spent[at][0].push(full.cpu);
                spent[at][1].push(dnsperf(&servers[at], &file, rounds.seconds, Some(rate))?.cpu);
                servers[at].pause(true)?;
            }
        }
        for (load, when) in ["at saturation", "at a quarter of CoreDNS's"].iter().enumerate() {
            for (program, spent) in FORWARDERS.iter().zip(&spent) {
                let name = format!("{}, {what}: CPU a query {when} (us)", program.name());
                figures.push(Figure::new(name, "us", spent[load].clone()));
            }
            let ratio = median(&spent[0][load]) / median(&spent[1][load]);
            let name = format!("CPU {when}, {what}: Sealane / CoreDNS");
            figures.push(Figure::new(name, "x", vec![ratio]).bar(BAR, Judged::Median));
        }
    }
    Ok(figures)
}
