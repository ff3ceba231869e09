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
mod batch;
mod corefile;
mod https;
mod listen;
mod problems;
mod shared;
mod tls;
mod udp;
mod upstream;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dns::Event;
pub use sealane_dns::chain::{ApiAccess, ClientFiles, Needs, WarmFile};
use tokio::sync::{Notify, watch};

pub use crate::problems::problems;

use crate::corefile::{Loaded, Look};
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
    /// Loads the Corefile again at once when notified, changed or not, and where the `reload` plugin is off, too:
    /// CoreDNS's USR1.
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
    /// A certificate, its key or an authority cannot be used.
    #[error("cannot speak TLS: {0}")]
    Tls(String),
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
    let needs = config.needs();
    let (shared, mut fatal) = Shared::new(config, &settings);
    let first = snapshots.borrow_and_update().clone();
    shared.background(Event::Snapshot(first));
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return Ok(()),
        () = known(&needs, &shared, &mut snapshots) => {}
    }
    let mut listeners = Listeners::default();
    let bound = listeners.bind(&loaded.blocks)?;
    listeners.serve(&shared, bound);
    shared.version(loaded.version());
    for line in banner(&loaded) {
        shared.log(&line);
    }
    let mut tried = loaded.fingerprint.clone();
    let mut files = corefile::Watch::new(&settings, &loaded);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fed = true;
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(why) = fatal.recv() => break Err(DnsError::Loop(why)),
            changed = snapshots.changed(), if fed => {
                // A writer that is gone leaves the last snapshot: names go on being answered.
                fed = changed.is_ok();
                let snapshot = snapshots.borrow_and_update().clone();
                shared.background(Event::Snapshot(snapshot));
            }
            _ = tick.tick() => {
                shared.background(Event::Tick);
                shared.upstreams.sweep();
                let changed = files.content();
                for (path, content) in &changed {
                    shared.background(Event::File { path, content: content.as_deref() });
                }
                if !changed.is_empty() {
                    files.extend(shared.server(|server| server.files()));
                }
            }
            look = files.changed(&settings) => {
                if let Some(new) = reload(&settings, look, &mut tried, &shared, &mut listeners).await {
                    loaded = new;
                    files.renew(&settings, &loaded);
                }
            }
        }
    };
    if ended.is_ok() {
        lameduck(&loaded, &shared, &mut snapshots).await;
        listeners.retire_all().await;
    }
    drop(listeners);
    ended
}

/// Waits for the cluster, but for no longer than the configuration says (`startup_timeout` of `kubernetes`): clients
/// that ask nobody ask another server, or wait, where SERVFAIL would be their answer.
async fn known(needs: &Needs, shared: &Arc<Shared>, snapshots: &mut watch::Receiver<Arc<Snapshot>>) {
    if !needs.cluster || needs.startup_timeout.is_zero() || snapshots.borrow().synced() {
        return;
    }
    shared.log("[INFO] plugin/kubernetes: Waiting for Kubernetes API before starting server");
    let synced = snapshots.wait_for(|snapshot| snapshot.synced());
    let snapshot =
        tokio::time::timeout(needs.startup_timeout, synced).await.map(|found| found.ok().as_deref().cloned());
    match snapshot {
        Ok(Some(snapshot)) => shared.background(Event::Snapshot(snapshot)),
        _ => shared.log("[WARNING] plugin/kubernetes: starting server with unsynced Kubernetes API"),
    }
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
                shared.background(Event::Snapshot(snapshot));
            }
        }
    }
}

/// Goes over to the Corefile as it is now, where it is another one (`plugin/reload/reload.go`) or is asked for. Of
/// what the old one has to answer nothing is lost. One that is wrong is tried once: `tried` is the last one's hash.
async fn reload(
    settings: &Settings,
    look: Look,
    tried: &mut String,
    shared: &Arc<Shared>,
    listeners: &mut Listeners,
) -> Option<Loaded> {
    if look == Look::Asked {
        shared.log("[INFO] SIGUSR1: Reloading");
    }
    let refused = |tried: &mut String, why: DnsError, now: Option<String>| {
        // What can't be read at all is known by what is said of it.
        let now = now.unwrap_or_else(|| why.to_string());
        if *tried == now && look == Look::Changed {
            return;
        }
        *tried = now;
        shared.server(|server| server.reload_failed());
        shared.log(&match look {
            Look::Asked => format!("[ERROR] SIGUSR1: {why}"),
            Look::Changed => format!("[ERROR] plugin/reload: Corefile changed but reload failed: {why}"),
        });
    };
    let texts = match corefile::texts(settings, None) {
        Ok(texts) if texts.fingerprint == *tried && look == Look::Changed => return None,
        Ok(texts) => texts,
        Err(why) => {
            refused(tried, why, None);
            return None;
        }
    };
    let fingerprint = texts.fingerprint.clone();
    // New ports are bound before anything else changes.
    let new = corefile::compile(texts, settings);
    let new = new.and_then(|(new, config)| listeners.bind(&new.blocks).map(|bound| (new, config, bound)));
    let (new, config, bound) = match new {
        Ok(new) => new,
        Err(why) => {
            refused(tried, why, Some(fingerprint));
            return None;
        }
    };
    *tried = fingerprint;
    shared.log("[INFO] Reloading");
    // What came in by ports that go is answered by the old configuration, what waits at new ones by the new.
    listeners.retire(&new.blocks).await;
    let now = shared.now();
    shared.server(|server| server.configure(config, now));
    listeners.serve(shared, bound);
    shared.version(new.version());
    for line in new.warnings.iter().chain([&running(&new)]) {
        shared.log(line);
    }
    shared.log("[INFO] Reloading complete");
    Some(new)
}

fn running(loaded: &Loaded) -> String {
    let plugin = if loaded.version().is_some() { "plugin/reload: " } else { "" };
    format!("[INFO] {plugin}Running configuration SHA512 = {}", loaded.fingerprint)
}

fn banner(loaded: &Loaded) -> Vec<String> {
    let keys = loaded.blocks.iter().flat_map(|block| &block.keys);
    let mut lines = loaded.warnings.clone();
    lines.extend(keys.map(|key| format!("{}:{}", key.zone, key.port)));
    lines.push(running(loaded));
    lines.push(format!("Sealane-{}", env!("CARGO_PKG_VERSION")));
    lines
}
