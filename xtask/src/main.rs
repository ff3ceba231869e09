//! What a developer runs, under one name: `cargo xtask COMMAND`.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

const HELP: &str = "\
cargo xtask COMMAND

  test [FLAGS]       builds the binary and runs every test (as root; flags go to cargo test)
  ci                 everything that a change must pass (.ci/run)
  bench [FLAGS]      the figures and their bars, on a release build (as root; --json, --short)
  bench dns [FLAGS]  those of the DNS server, beside CoreDNS and Knot (dnsperf, knot: of the distribution)
  bench workers      of these what a second worker costs
  overload [FLAGS]   the DNS server under a CPU quota, asked five times as much as it can answer (as root, dnsperf)
  coredns            builds the CoreDNS that tables and figures compare with (tests/coredns, by go)
  kill [ROUNDS]      kill -9 at any point, ROUNDS times (50), and what the next start finds
  golden             kube-apiserver's recorded answers against ours: what agrees, and the list of the rest
  help               this
";

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
        ["bench", flags @ ..] => bench(flags),
        ["overload", flags @ ..] => bench(&[&["overload"], flags].concat()),
        ["coredns"] => coredns(),
        ["kill"] => kill(ROUNDS),
        ["kill", rounds] => match rounds.parse() {
            Ok(rounds) if rounds > 0 => kill(rounds),
            _ => return wrong(&format!("`{rounds}` is not a number of rounds")),
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

fn golden() -> Result<(), String> {
    run(cargo().args(["build", "-p", "sealane"]))?;
    run(cargo().args(["test", "-p", "sealane-tests", "--test", "golden", "--", "--nocapture"]))
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a program at the workspace's root.
fn run(command: &mut Command) -> Result<(), String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.current_dir(here.parent().unwrap_or(here)).status();
    let status: ExitStatus = status.map_err(|error| format!("{name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}
