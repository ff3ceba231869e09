//! Runs iptables-restore and iptables-save in the network namespace that it was started in.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};

/// Seconds that others are given to finish their own changes (xtables lock), as kube-proxy has it.
const LOCK: &str = "5";
/// Where programs of administrators are, in case PATH does not say.
const PLACES: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Why iptables did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// It is not installed.
    #[error("{0} is not on this machine: install the package iptables, or choose proxy mode nftables")]
    Missing(String),
    /// It could not be run.
    #[error("{program} cannot be run: {error}")]
    Run {
        /// Which program.
        program: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It refused.
    #[error("{program}: {said}")]
    Failed {
        /// Which program.
        program: String,
        /// What it said, in one line.
        said: String,
    },
    /// The flows could not be looked through.
    #[error(transparent)]
    Netlink(#[from] crate::NetlinkError),
}

/// Which iptables: the machine's choice, or one that is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// `iptables`, whatever that is here.
    #[default]
    Default,
    /// `iptables-nft`: its rules are nftables'.
    Nft,
    /// `iptables-legacy`: the kernel's older tables.
    Legacy,
}

/// A program of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Restore,
    Save,
    List,
}

struct Job {
    program: String,
    arguments: Vec<String>,
    input: String,
    done: Sender<Result<String, IptablesError>>,
}

/// A thread of the network namespace in which it was started: what it runs is there as well.
#[derive(Debug)]
pub(super) struct Programs {
    jobs: Sender<Job>,
    variant: Variant,
}

fn failed(program: &str, error: std::io::Error) -> IptablesError {
    IptablesError::Run { program: program.to_owned(), error }
}

impl Programs {
    /// Starts the thread; it ends with this value.
    pub(super) fn start(variant: Variant) -> Result<Self, IptablesError> {
        let programs = Self { variant, jobs: channel().0 };
        for tool in [Tool::Restore, Tool::Save, Tool::List] {
            let name = programs.name(tool, false);
            find(&name).ok_or(IptablesError::Missing(name))?;
        }
        let (jobs, inbox) = channel::<Job>();
        let work = move || {
            for job in inbox {
                // Whoever does not wait any more wants no answer.
                let _ = job.done.send(run(&job));
            }
        };
        let started = std::thread::Builder::new().name("iptables".to_owned()).spawn(work);
        started.map_err(|error| failed("the thread for iptables", error))?;
        Ok(Self { jobs, variant })
    }

    fn name(&self, tool: Tool, ipv6: bool) -> String {
        let family = if ipv6 { "ip6tables" } else { "iptables" };
        let variant = match self.variant {
            Variant::Default => "",
            Variant::Nft => "-nft",
            Variant::Legacy => "-legacy",
        };
        let what = match tool {
            Tool::Restore => "-restore",
            Tool::Save => "-save",
            Tool::List => "",
        };
        format!("{family}{variant}{what}")
    }

    fn run(
        &self,
        tool: Tool,
        ipv6: bool,
        arguments: &[&str],
        input: String,
    ) -> Result<String, IptablesError> {
        let program = self.name(tool, ipv6);
        let (done, result) = channel();
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let gone = || failed(&program, ErrorKind::BrokenPipe.into());
        self.jobs.send(Job { program: program.clone(), arguments, input, done }).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }

    /// Carries out a text for iptables-restore; what it does not name stays.
    pub(super) fn restore(&self, ipv6: bool, text: String) -> Result<(), IptablesError> {
        if text.is_empty() {
            return Ok(());
        }
        self.run(Tool::Restore, ipv6, &["--noflush", "--wait", LOCK], text).map(drop)
    }

    /// All tables, as iptables-save prints them.
    pub(super) fn save(&self, ipv6: bool) -> Result<String, IptablesError> {
        self.run(Tool::Save, ipv6, &[], String::new())
    }

    /// One chain; an error where it is not there.
    pub(super) fn list(&self, ipv6: bool, table: &str, chain: &str) -> Result<String, IptablesError> {
        self.run(Tool::List, ipv6, &["--wait", LOCK, "-t", table, "-S", chain], String::new())
    }

    /// What it says of itself: `iptables v1.8.9 (nf_tables)`.
    pub(super) fn version(&self) -> Result<String, IptablesError> {
        self.run(Tool::List, false, &["--version"], String::new())
    }

    /// Whether what IPv6 takes is installed.
    pub(super) fn speaks_ipv6(&self) -> bool {
        find(&self.name(Tool::Restore, true)).is_some()
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| Path::is_file(file))
}

fn run(job: &Job) -> Result<String, IptablesError> {
    let path = find(&job.program).ok_or_else(|| IptablesError::Missing(job.program.clone()))?;
    let fail = |error| failed(&job.program, error);
    let mut child = Command::new(path)
        .args(&job.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who stops reading says why at its end; and none prints before it has read all.
        let _ = stdin.write_all(job.input.as_bytes());
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let said = if lines.is_empty() { output.status.to_string() } else { lines.join("; ") };
    Err(IptablesError::Failed { program: job.program.clone(), said })
}
