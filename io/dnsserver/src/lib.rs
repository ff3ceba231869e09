//! The DNS server's sockets and files: UDP and TCP listeners, upstreams, the Corefile and its reload, health,
//! readiness and metrics over HTTP. What is answered is `sealane_dns`'s business.
//!
//! What it may not know: where snapshots come from. It takes whole ones from a watch channel, the newest only: what it
//! did not see in between does not matter.
//!
//! ```no_run
//! # async fn example() -> Result<(), sealane_dnsserver::DnsError> {
//! use sealane_dnsserver::{Settings, run};
//! let (_writer, snapshots) = tokio::sync::watch::channel(Default::default());
//! run(Settings::new("/etc/coredns/Corefile"), snapshots, std::future::pending()).await
//! # }
//! ```
#![forbid(unsafe_code)]

mod admin;
mod corefile;
mod listen;
mod shared;
mod upstream;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dns::Event;
pub use sealane_dns::chain::Needs;
use tokio::sync::{Notify, watch};

use crate::corefile::Loaded;
use crate::listen::Listeners;
use crate::shared::Shared;

/// How often time-driven work is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Takes the server's log lines (`[INFO] …`), one at a time, without line end.
pub type LogSink = Arc<dyn Fn(&str) + Send + Sync>;

/// How the server runs.
#[derive(Clone)]
pub struct Settings {
    /// The Corefile.
    pub corefile: PathBuf,
    /// Port of server blocks that name none (`-dns.port`).
    pub default_port: u16,
    /// Addresses that clients reach the server at, for NS records; empty: found out.
    pub local: Vec<IpAddr>,
    /// Where log lines go; standard output as CoreDNS's do, unless set.
    pub log: LogSink,
    /// Looks at the Corefile at once when notified (where the `reload` plugin is on or not).
    pub reload: Arc<Notify>,
}

impl Settings {
    /// CoreDNS's defaults for a Corefile.
    pub fn new(corefile: impl Into<PathBuf>) -> Self {
        Settings {
            corefile: corefile.into(),
            default_port: 53,
            local: Vec::new(),
            // A reader that is gone is no reason to stop answering, as `println!` would.
            log: Arc::new(|line| drop(writeln!(std::io::stdout(), "{line}"))),
            reload: Arc::new(Notify::new()),
        }
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The Corefile is wrong.
    #[error(transparent)]
    Corefile(#[from] sealane_dns::corefile::CorefileError),
    /// A plugin cannot do with what a file says, or without it.
    #[error("{0}")]
    File(String),
    /// A port is taken or not allowed.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// Where.
        address: String,
        /// For what.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Queries go in circles.
    #[error("{0}")]
    Loop(String),
}

/// Reads and checks a Corefile with what it imports, without starting anything (`sealane check`).
///
/// # Errors
/// What is wrong with it.
pub fn check(settings: &Settings) -> Result<Needs, DnsError> {
    let (_, config) = corefile::load(settings)?;
    Ok(config.needs())
}

/// Serves until `shutdown` is done, then for `lameduck` more.
///
/// # Errors
/// Where it cannot start, or finds that it forwards to itself. A Corefile that gets worse while it runs is refused
/// with a log line, and the old one stays.
pub async fn run(
    settings: Settings,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), DnsError> {
    let (mut loaded, config) = corefile::load(&settings)?;
    let (shared, mut fatal) = Shared::new(config, &settings);
    let first = snapshots.borrow_and_update().clone();
    shared.step(Event::Snapshot(first));
    let mut listeners = Listeners::default();
    listeners.reconcile(&shared, &loaded.blocks)?;
    for line in banner(&loaded) {
        shared.log(&line);
    }
    let mut files = corefile::Watch::new(&settings, &loaded);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    let mut fed = true;
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(why) = fatal.recv() => break Err(DnsError::Loop(why)),
            changed = snapshots.changed(), if fed => {
                // A writer that is gone leaves the last snapshot: names go on being answered.
                fed = changed.is_ok();
                let snapshot = snapshots.borrow_and_update().clone();
                shared.step(Event::Snapshot(snapshot));
            }
            _ = tick.tick() => {
                shared.background(Event::Tick);
                for (path, content) in files.content() {
                    shared.background(Event::File { path: &path, content: content.as_deref() });
                }
            }
            () = files.changed(&settings) => {
                if let Some(new) = reload(&settings, &loaded, &shared, &mut listeners) {
                    loaded = new;
                    files = corefile::Watch::new(&settings, &loaded);
                }
            }
        }
    };
    if ended.is_ok() {
        lameduck(&loaded, &shared, &mut snapshots).await;
    }
    drop(listeners);
    ended
}

/// Goes on serving, the cluster's changes included, while clients learn that this server is going.
async fn lameduck(loaded: &Loaded, shared: &Arc<Shared>, snapshots: &mut watch::Receiver<Arc<Snapshot>>) {
    let blocks = loaded.blocks.iter().filter_map(|block| block.settings.health.as_ref());
    let time = blocks.map(|health| health.lameduck).max().unwrap_or_default();
    if time.is_zero() {
        return;
    }
    shared.log(&format!("[INFO] plugin/health: Going into lameduck mode for {}s", time.as_secs_f64()));
    let end = tokio::time::sleep(time);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            Ok(()) = snapshots.changed() => {
                let snapshot = snapshots.borrow_and_update().clone();
                shared.step(Event::Snapshot(snapshot));
            }
        }
    }
}

fn reload(
    settings: &Settings,
    old: &Loaded,
    shared: &Arc<Shared>,
    listeners: &mut Listeners,
) -> Option<Loaded> {
    let refused = |why: &dyn std::fmt::Display| {
        shared.server(|server| server.reload_failed());
        shared.log(&format!("[ERROR] Corefile is not reloaded, the old one stays: {why}"));
    };
    let (new, config) = match corefile::load(settings) {
        Ok((new, _)) if new.fingerprint == old.fingerprint => return None,
        Ok(loaded) => loaded,
        Err(error) => {
            refused(&error);
            return None;
        }
    };
    // New ports are bound before anything else changes.
    if let Err(error) = listeners.reconcile(shared, &new.blocks) {
        refused(&error);
        return None;
    }
    let now = shared.now();
    let effects = shared.server(|server| server.configure(config, now));
    shared.detached(effects);
    shared.log(&format!("[INFO] plugin/reload: Running configuration {}", new.fingerprint_text()));
    Some(new)
}

fn banner(loaded: &Loaded) -> Vec<String> {
    let keys = loaded.blocks.iter().flat_map(|block| &block.keys);
    let mut lines: Vec<String> = keys.map(|key| format!("{}:{}", key.zone, key.port)).collect();
    lines.push(format!("[INFO] Running configuration {}", loaded.fingerprint_text()));
    lines.push(format!("Sealane-{}", env!("CARGO_PKG_VERSION")));
    lines
}
