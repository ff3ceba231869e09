//! `sealane`: command line, typed configuration, wiring; nothing else.
//!
//! The binary is called by several names: as `sealane`, as the launcher of the node's Pods (its own first process),
//! and inside the built-in images by the names of their programs.

mod announce;
mod check;
mod cli;
mod config;
mod demo;
mod dns;
mod image;
mod kubeconfig;
mod logging;
mod proxy;
mod shell;
mod sinks;
mod up;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if rest.first().is_some_and(|a| a == sealane_host::launcher::ARGUMENT) {
        sealane_host::launcher_main();
    }
    // Before anything is printed into a pipe whose reader is gone: an error then, not the end.
    let name = Path::new(&name).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(code) = sealane_demo::run(&name, rest) {
        return code;
    }
    install_tls();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sealane: {why}");
            ExitCode::FAILURE
        }
    }
}

/// TLS by ring, for every client and server of the process.
fn install_tls() {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Up(flags) => up::main(&flags),
        Command::Down(data) => up::down(data.data_dir.as_deref()),
        Command::Demo(args) => demo::run(&args),
        Command::Image(command) => image::run(command),
        Command::Shell(args) => shell::run(&args),
        Command::Dns { flags } => dns::run(&flags),
        Command::Proxy { flags } => proxy::run(&flags),
        Command::Check(args) => check::run(&args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sealane", &mut std::io::stdout());
            Ok(())
        }
        Command::Version => {
            println!("sealane {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}
