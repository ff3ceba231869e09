//! Sealane's DNS server beside CoreDNS and Knot: CPU time a query, latency, memory, and how soon a cluster is loaded.
//! Each server has the first core to itself, dnsperf the second; runs of the servers take turns, and medians count.

mod bare;
mod changes;
mod cluster;
pub(crate) mod fairness;
pub(crate) mod forwarding;
pub(crate) mod overload;
pub(crate) mod relist;
mod scene;
mod server;
pub(crate) mod workers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::cores::{CORES, on_core};
use crate::report::{Figure, Judged};
use crate::up::Up;
use cluster::Size;
use scene::Said;
use server::{Asked, Client, Program, Server};

/// The bars' cluster, …
const CLUSTER: Size = Size { services: 1000, headless_one_in: 5, all_have_endpoints: false };
/// … and the large one.
const LARGE: Size = Size { services: 10_000, headless_one_in: 5, all_have_endpoints: true };
/// Questions one at a time, in each round, of each server: so many turns, …
const TURNS: usize = 20;
/// … and so many questions in each.
const LONE: usize = 50;

/// How long and how often.
#[derive(Clone, Copy)]
pub(crate) struct Rounds {
    rounds: usize,
    /// How often each server is started.
    starts: usize,
    seconds: u32,
    large: Size,
    /// How long the cluster changes all the time.
    changes: Duration,
}

impl Rounds {
    pub(crate) fn new(short: bool) -> Rounds {
        if short {
            Rounds {
                rounds: 2,
                starts: 1,
                seconds: 2,
                large: Size { services: 1000, ..LARGE },
                changes: Duration::from_secs(3),
            }
        } else {
            Rounds { rounds: 7, starts: 1, seconds: 5, large: LARGE, changes: Duration::from_secs(20) }
        }
    }
}

/// The programs.
pub(crate) struct Binaries {
    pub(crate) sealane: PathBuf,
    pub(crate) coredns: PathBuf,
}

impl Binaries {
    fn of(&self, program: Program) -> &Path {
        match program {
            Program::Sealane => &self.sealane,
            Program::CoreDns => &self.coredns,
            Program::Knot => Path::new("knotd"),
        }
    }
}

/// What was measured of one server, round by round.
#[derive(Default)]
struct Measured {
    /// Queries a second at saturation.
    rate: Vec<f64>,
    /// µs of CPU a query at saturation, …
    full: Vec<f64>,
    /// … and at a quarter.
    quarter: Vec<f64>,
    /// µs of a lone query, the median of the round.
    lone: Vec<f64>,
    resident: f64,
    /// ms from exec to the first answer, start by start.
    loaded: Vec<f64>,
}

/// How soon a change is answered.
pub(crate) fn changes(binary: &Path, rounds: Rounds) -> Result<Vec<Figure>> {
    changes::measure(binary, CLUSTER, rounds.rounds.min(3), rounds.changes)
}

/// Everything, in the bench's own namespaces.
pub(crate) fn measure(binaries: &Binaries, rounds: Rounds) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let all = one_cluster(binaries, CLUSTER, rounds)?;
    let of = |program: Program| &all[Program::ALL.iter().position(|p| *p == program).unwrap_or(0)];
    let (ours, knot, coredns) = (of(Program::Sealane), of(Program::Knot), of(Program::CoreDns));
    for (program, measured) in Program::ALL.iter().zip(&all) {
        let name = program.name();
        let own =
            |what: &str, unit, values: &[f64]| Figure::new(format!("{name}: {what}"), unit, values.to_vec());
        figures.push(own("queries a second at saturation (1/s)", "1/s", &measured.rate));
        let busy: Vec<f64> =
            measured.rate.iter().zip(&measured.full).map(|(rate, cpu)| rate * cpu / 1e4).collect();
        // Below 100 it was dnsperf that could do no more.
        figures.push(own("its core's load at saturation (%)", "%", &busy));
        figures.push(own("CPU a query at saturation (us)", "us", &measured.full));
        figures.push(own("CPU a query at a quarter (us)", "us", &measured.quarter));
        figures.push(own("latency of a lone query, medians (us)", "us", &measured.lone));
        let resident = own("RSS (MB)", "MB", &[measured.resident]);
        let ours = *program == Program::Sealane;
        figures.push(if ours { resident.bar(20.0, Judged::Median) } else { resident });
    }
    let ratio = |name: &str, ours: &[f64], theirs: &[f64], bar: f64| {
        let ratios = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        Figure::new(name, "x", ratios).bar(bar, Judged::Median)
    };
    figures.push(ratio("CPU at saturation: Sealane / Knot", &ours.full, &knot.full, 0.7));
    figures.push(ratio("CPU at a quarter: Sealane / Knot", &ours.quarter, &knot.quarter, 1.0));
    figures.push(ratio("CPU at saturation: Sealane / CoreDNS", &ours.full, &coredns.full, 1.0 / 16.0));
    figures.push(ratio("lone query: Sealane / Knot", &ours.lone, &knot.lone, 1.0));
    figures.extend(workers::measure(&binaries.sealane, rounds)?);
    figures.extend(changes(&binaries.sealane, rounds)?);
    let large =
        one_cluster(binaries, rounds.large, Rounds { rounds: rounds.rounds.min(3), starts: 3, ..rounds })?;
    let services = rounds.large.services;
    for (program, measured) in Program::ALL.iter().zip(&large) {
        let named = |what: &str, unit, values: Vec<f64>, bar: Option<f64>| {
            let figure = Figure::new(format!("{}, {services} x 10: {what}", program.name()), unit, values);
            match bar.filter(|_| *program == Program::Sealane) {
                Some(bar) => figure.bar(bar, Judged::Median),
                None => figure,
            }
        };
        figures.push(named("CPU a query at saturation (us)", "us", measured.full.clone(), None));
        figures.push(named("RSS (MB)", "MB", vec![measured.resident], Some(60.0)));
        figures.push(named("exec -> first answer (ms)", "ms", measured.loaded.clone(), Some(500.0)));
    }
    // "The same" is within what two runs of the same thing differ by.
    let grown = [median(&large[0].full)];
    figures.push(ratio("CPU at saturation: large / small cluster", &grown, &[median(&ours.full)], 1.1));
    figures.extend(forwarding::measure(binaries, rounds)?);
    Ok(figures)
}

/// All servers on one cluster.
fn one_cluster(binaries: &Binaries, size: Size, rounds: Rounds) -> Result<Vec<Measured>> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut up = Up::without_node(&binaries.sealane, &folder.join("data"), &folder.join("up.log"))?;
    let (_, api) = up.api_answers()?;
    cluster::create(&api, size)?;
    fs::write(folder.join("zone"), cluster::zone(size))?;
    let questions = folder.join("questions");
    fs::write(&questions, cluster::questions(size))?;
    let last = cluster::service(size.services - 1);
    let mut servers = Vec::new();
    let mut measured: Vec<Measured> = Program::ALL.iter().map(|_| Measured::default()).collect();
    for _ in 0..rounds.starts {
        // They take turns; the last of each stays.
        servers.clear();
        for (program, measured) in Program::ALL.into_iter().zip(&mut measured) {
            let kubeconfig = folder.join("data/kubeconfig");
            let server = Server::start(program, binaries.of(program), folder, &kubeconfig, &last)?;
            measured.loaded.push(server.loaded);
            // The next one loads with the core to itself, too.
            server.pause(true)?;
            servers.push(server);
        }
    }
    for round in 0..rounds.rounds {
        let mut quarter = None;
        // Knot's turn comes first: its quarter is Sealane's, too.
        for at in [1, 0, 2] {
            let (server, measured) = (&servers[at], &mut measured[at]);
            server.pause(false)?;
            let run = |rate| dnsperf(server, &questions, rounds.seconds, rate);
            let full = run(None)?;
            let own = full.rate / 4.0;
            let rate = match server.program {
                Program::CoreDns => own,
                Program::Knot | Program::Sealane => *quarter.get_or_insert(own),
            };
            measured.quarter.push(run(Some(rate))?.cpu);
            measured.rate.push(full.rate);
            measured.full.push(full.cpu);
            if round == 0 {
                measured.resident = server.resident()?;
            }
            server.pause(true)?;
        }
        for (measured, lone) in measured.iter_mut().zip(lone(&servers, &last)?) {
            measured.lone.push(lone);
        }
    }
    drop(servers);
    up.stop()?;
    Ok(measured)
}

/// What one run of dnsperf said.
struct Run {
    /// µs a query.
    cpu: f64,
    /// Queries a second.
    rate: f64,
}

/// As fast as the server can, or at a rate.
fn dnsperf(server: &dyn Asked, questions: &Path, seconds: u32, rate: Option<f64>) -> Result<Run> {
    let mut command = Command::new("taskset");
    command.args(["-c", CORES[1], "dnsperf", "-s", "127.0.0.1", "-c", "4", "-T", "1", "-q", "200"]);
    command.args(["-p", &server.port().to_string(), "-l", &seconds.to_string(), "-d"]).arg(questions);
    if let Some(rate) = rate {
        command.args(["-Q", &format!("{rate:.0}")]);
    }
    let (said, spent) = Said::by(command, server)?;
    let completed = said.number("Queries completed:")?;
    let lost = said.number("Queries lost:")?;
    if completed <= 0.0 || lost > completed / 100.0 {
        return Err(format!("{}: {lost} queries of {completed} were lost", server.name()).into());
    }
    Ok(Run { cpu: spent / completed, rate: said.number("Queries per second:")? })
}

/// Median µs of questions one at a time, asked from the second core, of each server. They take turns, so that what this
/// machine does otherwise meets all alike; who is not asked sleeps.
fn lone(servers: &[Server], name: &str) -> Result<Vec<f64>> {
    let pause = |paused| servers.iter().try_for_each(|server| server.pause(paused));
    pause(false)?;
    let (programs, name) = (servers.iter().map(|server| server.program).collect::<Vec<_>>(), name.to_owned());
    let ask = move || -> Result<Vec<f64>> {
        on_core(CORES[1])?;
        let clients = programs.into_iter().map(|program| Ok((Client::new(program)?, Vec::new())));
        let mut clients = clients.collect::<Result<Vec<_>>>()?;
        for _ in 0..TURNS {
            for (client, took) in &mut clients {
                for _ in 0..LONE {
                    took.push(client.ask(&name).ok_or("a lone query was lost")?.2);
                }
            }
        }
        Ok(clients.iter().map(|(_, took)| median(took)).collect())
    };
    let medians = std::thread::spawn(ask).join().map_err(|_| "the client failed")??;
    pause(true)?;
    Ok(medians)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
