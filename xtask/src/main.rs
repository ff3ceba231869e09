//! What a developer runs, under one name: `cargo xtask COMMAND`.

mod real_api;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

const HELP: &str = "\
cargo xtask COMMAND

  test [FLAGS]       builds the binary, with and without ebpf, and runs every test (as root; flags go to cargo test)
  ci                 everything that a change must pass (.ci/run)
  bench [FLAGS]      the figures and their bars, on a release build (as root; --json, --short)
  bench dns [FLAGS]  those of the DNS server, beside CoreDNS and Knot (dnsperf, knot: of the distribution)
  bench workers      of these what a second worker costs
  bench proxy [FLAGS]
                     those of the service proxy, beside kube-proxy and its nftables layout (go, nft)
  bench paths        of these what a packet pays for a Service
  overload [FLAGS]   the DNS server under a CPU quota, asked five times as much as it can answer (as root, dnsperf)
  fairness [FLAGS]   the same, flooded by one client while another asks a little: what each gets
  coredns            builds the CoreDNS that tables and figures compare with (tests/coredns, by go)
  real-api           the tables of DNS answers once more, over a kube-apiserver (tests/apiserver, by go; etcd, openssl)
  kill [ROUNDS]      kill -9 at any point, ROUNDS times (50), and what the next start finds
  fuzz dns [--minutes N]
                     messages of strangers for the DNS server's parser and for the server itself (10 minutes)
  golden             kube-apiserver's recorded answers against ours: what agrees, and the list of the rest
  help               this
";

/// How long strangers' messages come unless told otherwise.
const MINUTES: u32 = 10;
/// How often the kill test kills unless told otherwise.
const ROUNDS: u32 = 50;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ["test", flags @ ..] => test(flags),
        ["ci"] => run(Command::new("bash").arg(".ci/run")),
        ["bench", "dns", flags @ ..] => coredns().and_then(|()| bench(&[&["dns"], flags].concat())),
        ["bench", "proxy", flags @ ..] => {
            real_api::built("kube-proxy").and_then(|()| bench(&[&["proxy"], flags].concat()))
        }
        ["bench", flags @ ..] => bench(flags),
        ["overload", flags @ ..] => bench(&[&["overload"], flags].concat()),
        ["fairness", flags @ ..] => bench(&[&["fairness"], flags].concat()),
        ["coredns"] => coredns(),
        ["real-api"] => coredns().and_then(|()| real_api::tables()),
        ["kill"] => kill(ROUNDS),
        ["kill", rounds] => match rounds.parse() {
            Ok(rounds) if rounds > 0 => kill(rounds),
            _ => return wrong(&format!("`{rounds}` is not a number of rounds")),
        },
        ["fuzz", "dns"] => fuzz(MINUTES),
        ["fuzz", "dns", "--minutes", minutes] => match minutes.parse() {
            Ok(minutes) if minutes > 0 => fuzz(minutes),
            _ => return wrong(&format!("`{minutes}` is not a number of minutes")),
        },
        ["golden"] => golden(),
        _ => return wrong(&format!("no such command: {}", words.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(what: &str) -> ExitCode {
    eprint!("xtask: {what}\n\n{HELP}");
    ExitCode::from(2)
}

/// The black-box tests run the binary that is built here.
fn test(flags: &[&str]) -> Result<(), String> {
    // What tests of mode ebpf run, beside what all others do.
    run(cargo().args(["build", "-p", "sealane", "--features", "ebpf"]))?;
    let own = env::current_exe().map_err(|e| format!("xtask's own path: {e}"))?;
    let built = own.with_file_name("sealane");
    let kept = own.with_file_name("sealane-ebpf");
    std::fs::copy(&built, &kept).map_err(|e| format!("{} to {}: {e}", built.display(), kept.display()))?;
    run(cargo().args(["build", "-p", "sealane"]))?;
    run(cargo().args(["test", "--workspace"]).args(flags))
}

fn bench(flags: &[&str]) -> Result<(), String> {
    run(cargo().args(["build", "--release", "-p", "sealane", "-p", "sealane-bench"]))?;
    run(cargo().args(["run", "--release", "-q", "-p", "sealane-bench", "--"]).args(flags))
}

/// A Go module of its own; go does nothing where nothing has changed.
fn coredns() -> Result<(), String> {
    run(Command::new("go").args(["build", "-C", "tests/coredns", "-o", "coredns", "."]))
}

fn kill(rounds: u32) -> Result<(), String> {
    run(cargo().args(["build", "-p", "sealane"]))?;
    let rounds = rounds.to_string();
    let test = ["test", "-p", "sealane-tests", "--test", "kill", "--", "--nocapture"];
    run(cargo().env("SEALANE_KILL_ROUNDS", rounds).args(test))
}

/// One target after the other, each has a third of the time: all at once they take as many cores.
fn fuzz(minutes: u32) -> Result<(), String> {
    let test = ["test", "-p", "sealane-dns", "--test", "hostile", "--", "--nocapture", "--test-threads=1"];
    run(cargo().env("SEALANE_FUZZ_MINUTES", minutes.to_string()).args(test))
}

fn golden() -> Result<(), String> {
    run(cargo().args(["build", "-p", "sealane"]))?;
    run(cargo().args(["test", "-p", "sealane-tests", "--test", "golden", "--", "--nocapture"]))
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The workspace's root.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Runs a program at the workspace's root.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.current_dir(root()).status();
    let status: ExitStatus = status.map_err(|error| format!("{name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}
