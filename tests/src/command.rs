//! Programs under test and how they are run: always with a deadline, always with what they said.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Any one command's deadline.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the same thing.
const STEP: Duration = Duration::from_millis(50);

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// What was run, for messages.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Done {
    /// The standard output of a command that must have worked.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// The standard error of a command that must have failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.status.success(), "expected a failure: {self}");
        self.stderr
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Done { command, status, stdout, stderr } = self;
        write!(f, "`{command}`: {status}\n--- stdout\n{stdout}--- stderr\n{stderr}---")
    }
}

/// Runs a command to its end; kills it and fails after a minute.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Done {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let said = words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("`{said}`: {e}"));
    let (mut stdin, mut out, mut err) =
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        // A program that doesn't read its input is as good.
        scope.spawn(move || drop(stdin.write_all(input)));
        let out = scope.spawn(move || text(&mut out));
        let err = scope.spawn(move || text(&mut err));
        let deadline = Instant::now() + PATIENCE;
        let mut late = false;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline && !late => {
                    late = true;
                    child.kill().unwrap();
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let done = Done { command: said, status, stdout: out.join().unwrap(), stderr: err.join().unwrap() };
        assert!(!late, "not done after {PATIENCE:?}: {done}");
        done
    })
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // The other end's death is the end of the text.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Looks again and again until `look` gives something, for a minute; then fails with what it said last.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look)
}

/// [`eventually`], with a deadline of one's own.
#[track_caller]
pub fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < deadline, "{what}: not after {patience:?}: {why}"),
        }
        std::thread::sleep(STEP);
    }
}

/// The binary: `SEALANE_BIN`, or the one that cargo built beside this test.
pub fn sealane() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| binary("SEALANE_BIN", "sealane", "cargo build")).clone()
}

/// The binary with the feature `ebpf`: `SEALANE_EBPF_BIN`, or what `cargo xtask test` put beside the other.
pub fn sealane_ebpf() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| binary("SEALANE_EBPF_BIN", "sealane-ebpf", "cargo xtask test")).clone()
}

fn binary(variable: &str, name: &str, build: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return std::path::absolute(path).unwrap();
    }
    let test = std::env::current_exe().unwrap();
    let beside = test.ancestors().skip(1).map(|d| d.join(name)).find(|p| p.is_file());
    beside.unwrap_or_else(|| panic!("no `{name}` above {}: run `{build}`, or set {variable}", test.display()))
}

/// kubectl: `SEALANE_KUBECTL`, or `tests/kubectl/kubectl`, or the one in PATH.
pub fn kubectl() -> PathBuf {
    if let Some(path) = std::env::var_os("SEALANE_KUBECTL") {
        return path.into();
    }
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/kubectl/kubectl"));
    if built.is_file() { built } else { "kubectl".into() }
}
