//! `sealane up`: all parts on this machine, started in order, stopped in the other.

mod adapters;
mod api;
mod balancer;
mod detach;
mod exposure;
mod feed;
mod files;
mod node;
mod parts;
pub(crate) mod report;
mod system;

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::UpArgs;
use crate::config::UpConfig;

pub(crate) use detach::down;
pub(crate) use parts::start;

/// Pods are given so long to end, whatever their grace period: with what comes after, all of it ends within 5 s.
const STOP: Duration = Duration::from_millis(4500);

/// The command.
pub(crate) fn main(flags: &UpArgs) -> Result<(), String> {
    let config = UpConfig::new(flags)?;
    if flags.detach {
        return detach::start(&config);
    }
    let begun = Instant::now();
    crate::logging::start(config.log_format, config.verbose);
    let rootless = become_root(&config)?;
    runtime()?.block_on(async {
        let mut stop = Stop::new()?;
        let mut running = tokio::select! {
            running = start(config, rootless, begun, report::Report::to_stdout(begun)) => running?,
            () = stop.asked() => return Err("stopped while it started".to_owned()),
        };
        let ended = tokio::select! {
            () = stop.asked() => Ok(()),
            why = running.failed() => Err(why),
        };
        tokio::select! {
            () = running.stop(STOP) => {}
            // A second signal ends it at once: whatever is left dies with this process.
            () = stop.asked() => {}
        }
        ended
    })
}

/// What an ordinary user's node goes by; `None` as root, and where there is no node. Before any thread.
pub(crate) fn become_root(config: &UpConfig) -> Result<Option<sealane_host::Rootless>, String> {
    if config.no_node || sealane_host::is_root().map_err(|e| e.to_string())? {
        return Ok(None);
    }
    sealane_host::enter_user_namespace().map(Some).map_err(|e| e.to_string())
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
}

/// INT and TERM.
pub(crate) struct Stop(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

impl Stop {
    pub(crate) fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("signals: {e}"));
        Ok(Stop(listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?))
    }

    pub(crate) async fn asked(&mut self) {
        tokio::select! { _ = self.0.recv() => {}, _ = self.1.recv() => {} }
    }
}

/// Comes with the first INT or TERM.
pub(crate) async fn terminated() {
    match Stop::new() {
        Ok(mut stop) => stop.asked().await,
        Err(_) => std::future::pending().await,
    }
}

/// Whether an `up` runs on a data directory.
pub(crate) fn running(dir: &Path) -> bool {
    files::holder(dir).is_some()
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A path for messages and scripts.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
