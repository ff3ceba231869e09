//! Sealane's figures and their bars, measured on the built binary as a user has it: in namespaces of the bench's own,
//! in a data directory that goes with it, through HTTPS, DNS and connections.
//!
//! `cargo run --release -p sealane-bench`, as root; `--help` says the rest. It needs `unshare` (util-linux) and `ip`
//! (iproute2).

mod cores;
mod dns;
mod endpoints;
mod https;
mod memory;
mod nameservers;
mod namespace;
mod played;
mod pods;
mod proxy;
mod report;
mod up;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use endpoints::Place;
use report::{Figure, Judged, Report};
use up::Up;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures `sealane up`: starting, memory, Pods, endpoints.
#[derive(Parser)]
#[command(
    name = "sealane-bench",
    after_help = "Exit status: 0 all bars are met, 1 one is missed or was not measured."
)]
struct Arguments {
    /// What to measure [default: `sealane up`]
    #[arg(value_enum)]
    part: Option<Part>,
    /// The sealane to measure [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// A tenth of the rounds: shows that it works, measures little
    #[arg(long)]
    short: bool,
}

/// Measured on its own.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    /// The DNS server beside CoreDNS (SEALANE_COREDNS, or tests/coredns/coredns) and Knot, asked by dnsperf
    Dns,
    /// The DNS server on one core and on two, asked by dnsperf
    Workers,
    /// The DNS server under a CPU quota, asked five times as much as it can answer, by dnsperf
    Overload,
    /// How soon the DNS server answers a change, asked as much as it can bear
    Changes,
    /// The DNS server as a forwarder and a cache, beside CoreDNS
    Forwarding,
    /// The DNS server under a CPU quota, flooded by one client: what it and another get, with `fairness` and without
    Fairness,
    /// The DNS server's memory when the API server restarts
    Relist,
    /// The service proxy beside kube-proxy (SEALANE_KUBE_PROXY, or tests/apiserver/kube-proxy), in nftables (nft)
    Proxy,
    /// Of these what a packet pays for a Service, and how evenly connections are spread
    Paths,
}

/// How often each thing is done.
struct Rounds {
    starts: usize,
    pods: usize,
    changes: usize,
}

/// How long nothing happens before memory is counted.
const IDLE: Duration = Duration::from_secs(10);
const MEGABYTE: f64 = 1_000_000.0;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(report) => {
            if arguments.json {
                println!("{:#}", report.json());
            } else {
                println!("{}", report.table());
            }
            if report.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("sealane-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    let binary = match &arguments.binary {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("sealane"),
    };
    let binary = binary.canonicalize().map_err(|e| {
        format!(
            "{}: {e}; build it with `cargo build --release` or name another with --binary",
            binary.display()
        )
    })?;
    namespace::enter()?;
    let rounds = if arguments.short {
        Rounds { starts: 2, pods: 5, changes: 50 }
    } else {
        Rounds { starts: 10, pods: 50, changes: 500 }
    };
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first_word = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
    let load_before = first_word(load());
    let mut run = Run { figures: Vec::new(), notes: Vec::new(), failed: false };
    match arguments.part {
        None => run.everything(&binary, &rounds)?,
        Some(Part::Workers) => {
            run.figures = nameservers::workers::measure(&binary, nameservers::Rounds::new(arguments.short))?;
        }
        Some(Part::Overload) => {
            run.figures = nameservers::overload::measure(&binary, nameservers::Rounds::new(arguments.short))?;
        }
        Some(Part::Changes) => {
            run.figures = nameservers::changes(&binary, nameservers::Rounds::new(arguments.short))?;
        }
        Some(Part::Fairness) => {
            run.figures = nameservers::fairness::measure(&binary, nameservers::Rounds::new(arguments.short))?;
        }
        Some(Part::Relist) => run.figures = nameservers::relist::measure(&binary, arguments.short)?,
        Some(Part::Proxy) => {
            let kube_proxy = peer("SEALANE_KUBE_PROXY", "tests/apiserver/kube-proxy");
            let binaries = proxy::Binaries { sealane: binary.clone(), kube_proxy };
            run.figures = proxy::measure(&binaries, &proxy::Rounds::new(arguments.short))?;
        }
        Some(Part::Paths) => run.figures = proxy::paths(&binary, &proxy::Rounds::new(arguments.short))?,
        Some(part @ (Part::Dns | Part::Forwarding)) => {
            let coredns = peer("SEALANE_COREDNS", "tests/coredns/coredns");
            let binaries = nameservers::Binaries { sealane: binary.clone(), coredns };
            let rounds = nameservers::Rounds::new(arguments.short);
            let measure = if matches!(part, Part::Dns) {
                nameservers::measure
            } else {
                nameservers::forwarding::measure
            };
            run.figures = measure(&binaries, rounds)?;
        }
    }
    let machine = json!({
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "kernel": first_word(fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        "loadBefore": load_before,
        "loadAfter": first_word(load()),
        "binary": binary.display().to_string(),
    });
    Ok(Report { machine, figures: run.figures, notes: run.notes, complete: !run.failed })
}

/// A program to compare with: named by a variable, or where xtask builds it.
fn peer(variable: &str, built: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    std::env::var_os(variable).map_or_else(|| root.join(built), PathBuf::from)
}

/// What has been measured so far. A part that fails is noted, and the rest goes on.
struct Run {
    figures: Vec<Figure>,
    notes: Vec<String>,
    failed: bool,
}

impl Run {
    fn everything(&mut self, binary: &Path, rounds: &Rounds) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        self.starts(binary, folder.path(), &log, rounds.starts);
        let mut up = Up::start(binary, &folder.path().join("data"), &log)?;
        let (_, cluster) = up.api_answers()?;
        let (_, line) = up.all_ready()?;
        self.notes.push(format!("its own words: {line}"));
        let part = self.memory();
        self.noted("memory", part);
        let part = pods::until_ready(&cluster, rounds.pods);
        if let Some(samples) = self.noted("Pods", part) {
            self.figures.push(
                Figure::new("Pod of a local image: create -> watch shows Ready", "ms", samples)
                    .bar(150.0, Judged::Median),
            );
        }
        let part = endpoints::serve();
        self.noted("the endpoints' server", part);
        for (place, name) in [(Place::Dns, "DNS"), (Place::Kernel, "kernel")] {
            let part = endpoints::after_slice_write(&cluster, place, rounds.changes);
            if let Some(visible) = self.noted(&format!("EndpointSlice -> {name}"), part) {
                self.figures.push(
                    Figure::new(format!("EndpointSlice write acknowledged -> {name}"), "ms", visible.change)
                        .bar(5.0, Judged::P99),
                );
                self.figures.push(Figure::new(format!("  of which one probe, {name}"), "ms", visible.probe));
            }
        }
        let part = endpoints::make_pods(&cluster);
        if self.noted("the Pods written by hand", part).is_some() {
            for (place, name) in [(Place::Dns, "DNS"), (Place::Kernel, "kernel")] {
                let part = endpoints::after_status_write(&cluster, place, rounds.changes);
                if let Some(visible) = self.noted(&format!("Pod status -> {name}"), part) {
                    let name = format!("Pod status write acknowledged -> {name}");
                    self.figures.push(
                        Figure::new(format!("{name}, less one commit"), "ms", visible.less_commit())
                            .bar(5.0, Judged::P99),
                    );
                    self.figures.push(Figure::new("  the whole", "ms", visible.change));
                    self.figures.push(Figure::new("  one durable commit meanwhile", "ms", visible.commit));
                    for (what, samples) in
                        [("EndpointSlice", visible.slice), ("Endpoints", visible.endpoints)]
                    {
                        let name = format!("  until a watch shows the {what}");
                        self.figures.push(Figure::new(name, "ms", samples));
                    }
                }
            }
        }
        let part = up.stop();
        self.noted("the end", part);
        Ok(())
    }

    /// Starts it again and again, on an empty data directory and on that one again.
    fn starts(&mut self, binary: &Path, folder: &Path, log: &Path, rounds: usize) {
        let mut fresh = [Vec::new(), Vec::new()];
        let mut again = [Vec::new(), Vec::new()];
        let mut ends = Vec::new();
        for round in 0..rounds {
            let data_dir = folder.join(format!("data-{round}"));
            for (samples, which) in [(&mut fresh, "a fresh data directory"), (&mut again, "an existing one")]
            {
                let part = one_start(binary, &data_dir, log);
                if let Some([api, ready, end]) = self.noted(&format!("a start on {which}"), part) {
                    samples[0].push(api);
                    samples[1].push(ready);
                    ends.push(end);
                }
            }
            if self.failed {
                break;
            }
        }
        for (which, [api, ready]) in [("fresh", fresh), ("existing", again)] {
            for (what, bar, samples) in [("API answers", 100.0, api), ("all ready", 1000.0, ready)] {
                let name = format!("{what}, from exec, {which} data directory");
                self.figures.push(Figure::new(name, "ms", samples).bar(bar, Judged::P99));
            }
        }
        self.figures.push(Figure::new("TERM -> ended", "ms", ends).bar(5000.0, Judged::P99));
    }

    fn memory(&mut self) -> Result<()> {
        thread::sleep(IDLE);
        let processes = memory::processes()?;
        #[allow(clippy::cast_precision_loss)]
        let megabytes = |bytes: u64| bytes as f64 / MEGABYTE;
        let sum = processes.iter().map(|process| process.pss).sum();
        self.figures.push(
            Figure::new("memory (PSS) of all processes after 10 s idle", "MB", vec![megabytes(sum)])
                .bar(60.0, Judged::P99),
        );
        for process in processes {
            self.notes.push(format!(
                "memory: {:6.2} MB ({:6.2} anonymous)  {} {}",
                megabytes(process.pss),
                megabytes(process.anonymous),
                process.pid,
                process.command
            ));
        }
        Ok(())
    }

    fn noted<T>(&mut self, part: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed = true;
                self.notes.push(format!("NOT MEASURED: {part}: {error}"));
                None
            }
        }
    }
}

/// One life: until the API answers, until all is ready, and from TERM to the end, ms.
fn one_start(binary: &Path, data_dir: &Path, log: &Path) -> Result<[f64; 3]> {
    let mut up = Up::start(binary, data_dir, log)?;
    let (api, _) = up.api_answers()?;
    let (ready, _) = up.all_ready()?;
    Ok([api, ready, up.stop()?])
}
