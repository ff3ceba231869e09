//! The programs of the built-in image `sealane/demo`: servers to balance, clients to see it with, and the few
//! commands that the articles use to look around.
//!
//! What it is for: [`run`] is called by the name under which the binary was started.
//!
//! What it may not know: Sealane itself. These are programs inside Pods, as anybody's would be.
//!
//! ```
//! assert!(sealane_demo::PROGRAMS.iter().any(|p| p.name == "grpc-server"));
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod curl;
mod dig;
mod files;
mod grpc;
mod kuard;
mod nslookup;
mod ping;
mod resolver;
mod shell;
mod web;

use std::process::ExitCode;

/// A program: its name and what it does with its arguments.
pub struct Program {
    /// The link in `/bin`.
    pub name: &'static str,
    run: fn(Vec<String>) -> Result<ExitCode, String>,
}

/// All of them.
pub const PROGRAMS: &[Program] = &[
    Program { name: "grpc-server", run: grpc::server },
    Program { name: "grpc-client", run: grpc::client },
    Program { name: "kuard", run: kuard::main },
    Program { name: "web", run: web::main },
    Program { name: "sh", run: shell::main },
    Program { name: "bash", run: shell::main },
    Program { name: "nslookup", run: nslookup::main },
    Program { name: "dig", run: dig::main },
    Program { name: "curl", run: curl::main },
    Program { name: "ping", run: ping::main },
    Program { name: "sleep", run: files::sleep },
    Program { name: "printenv", run: files::printenv },
    Program { name: "env", run: files::env },
    Program { name: "cat", run: files::cat },
    Program { name: "ls", run: files::ls },
    Program { name: "mkdir", run: files::mkdir },
    Program { name: "hostname", run: files::hostname },
    Program { name: "id", run: files::id },
];

/// Runs the program of that name with its arguments (without the name), or `None` where there is none.
pub fn run(name: &str, arguments: Vec<String>) -> Option<ExitCode> {
    let program = PROGRAMS.iter().find(|p| p.name == name)?;
    Some((program.run)(arguments).unwrap_or_else(|why| {
        eprintln!("{name}: {why}");
        ExitCode::FAILURE
    }))
}

/// The value after `--name` or in `--name=value`.
fn option(arguments: &[String], name: &str) -> Option<String> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == name {
            return rest.next().cloned();
        }
        if let Some(value) = argument.strip_prefix(name).and_then(|v| v.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}

/// A number given by flag or environment variable.
fn number(arguments: &[String], flag: &str, variable: &str, default: u64) -> Result<u64, String> {
    match option(arguments, flag).or_else(|| std::env::var(variable).ok()) {
        Some(text) => text.parse().map_err(|_| format!("{flag}: {text:?} is not a number")),
        None => Ok(default),
    }
}

/// This Pod's name.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Ends on TERM as a well-behaved server does; as PID 1 nothing would end it otherwise.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())
}
