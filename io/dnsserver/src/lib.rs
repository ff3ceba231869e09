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
#![deny(unsafe_code)]

mod admin;
mod backlog;
mod batch;
mod corefile;
mod datagrams;
mod fair;
mod files;
mod grpc;
mod grpc_client;
mod https;
mod limits;
mod listen;
mod machine;
mod mmsg;
mod outgoing;
mod outlet;
mod panics;
mod patient;
mod problems;
mod shared;
mod sockets;
mod spans;
mod tap;
mod tcp;
mod tls;
mod udp;
mod upstream;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sealane_catalog::Snapshot;
use sealane_dns::chain::Block;
use sealane_dns::chain::values::go_duration;
pub use sealane_dns::chain::{ApiAccess, ClientFiles, Needs, WarmFile};
use sealane_dns::{Config, Event};
use tokio::sync::{Notify, watch};

pub use crate::problems::problems;

use crate::corefile::{Loaded, Look};
use crate::listen::{Fresh, Listeners};
use crate::shared::Shared;

/// How often time-driven work is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Who waits for the cluster says so every so often.
const WAITING: Duration = Duration::from_millis(500);

/// Takes the server's log lines (`[INFO] …`), one at a time, without line end.
pub type LogSink = Arc<dyn Fn(&str) + Send + Sync>;

/// How the server runs.
#[derive(Clone)]
pub struct Settings {
    /// The Corefile.
    pub corefile: PathBuf,
    /// Stands in for the Corefile, whose name is for messages and imports then.
    pub text: Option<String>,
    /// Port of server blocks that name none (`-dns.port`).
    pub default_port: u16,
    /// Addresses that clients reach the server at, for NS records; empty: found out.
    pub local: Vec<IpAddr>,
    /// Where log lines go; standard output as CoreDNS's do, unless set.
    pub log: LogSink,
    /// Loads the Corefile again at once when notified, changed or not, and where the `reload` plugin is off, too:
    /// CoreDNS's USR1.
    pub reload: Arc<Notify>,
    /// Nothing is said of zones, ports and version at the start (`-quiet`).
    pub quiet: bool,
    /// What comes from other clusters, where [`Needs::imports`] asks for it.
    pub imports: Option<watch::Receiver<Arc<Snapshot>>>,
}

impl Settings {
    /// CoreDNS's defaults for a Corefile.
    pub fn new(corefile: impl Into<PathBuf>) -> Self {
        Settings {
            corefile: corefile.into(),
            text: None,
            default_port: 53,
            local: Vec::new(),
            // A reader that is gone is no reason to stop answering, as `println!` would.
            log: Arc::new(|line| drop(writeln!(std::io::stdout(), "{line}"))),
            reload: Arc::new(Notify::new()),
            quiet: false,
            imports: None,
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
    /// Queries go in circles, or something panicked where `debug` wants to know.
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
    let mut imports = settings.imports.clone();
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return Ok(()),
        () = known(&needs, &shared, &mut snapshots, &imports) => {}
    }
    if let Some(imports) = &mut imports {
        let first = imports.borrow_and_update().clone();
        shared.background(Event::Imports(first));
    }
    let mut listeners = Listeners::new();
    let bound = listeners.bind(&loaded.blocks)?;
    listeners.serve(&shared, bound);
    shared.running(&settings, loaded.version());
    for line in banner(&loaded, &settings) {
        shared.log(&line);
    }
    let mut reloads = Reloads { tried: loaded.fingerprint.clone(), under_way: None };
    let mut files = corefile::Watch::new(&settings, &loaded);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fed = true;
    let ended = loop {
        let idle = reloads.under_way.is_none();
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(why) = fatal.recv() => break Err(DnsError::Loop(why)),
            changed = snapshots.changed(), if fed => {
                // A writer that is gone leaves the last snapshot: names go on being answered.
                fed = changed.is_ok();
                let snapshot = snapshots.borrow_and_update().clone();
                shared.background(Event::Snapshot(snapshot));
            }
            imports = news(&mut imports) => shared.background(Event::Imports(imports)),
            _ = tick.tick() => {
                shared.background(Event::Tick);
                shared.upstreams.sweep();
                shared.taps.sweep();
                shared.collectors.sweep();
                let changed = files.content();
                for (path, content) in &changed {
                    shared.background(Event::File { path, content: content.as_deref() });
                }
                if !changed.is_empty() {
                    files.extend(shared.server(|server| server.files()));
                }
            }
            look = files.changed(&settings), if idle => {
                reloads.begin(&settings, look, &shared, &mut listeners);
            }
            next = reloads.over() => {
                loaded = next.complete(&settings, &shared, &mut listeners);
                files.renew(&settings, &loaded);
            }
        }
    };
    shared.end();
    if ended.is_ok() {
        lameduck(&loaded, &shared, &mut snapshots, &mut imports).await;
        listeners.retire_all().await;
        shared.stop();
    }
    drop(listeners);
    tokio::join!(shared.taps.close(), shared.collectors.close());
    ended
}

/// Waits for the cluster, but for no longer than the configuration says (`startup_timeout` of `kubernetes`): clients
/// that ask nobody ask another server, or wait, where SERVFAIL would be their answer.
async fn known(
    needs: &Needs,
    shared: &Arc<Shared>,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    imports: &Option<watch::Receiver<Arc<Snapshot>>>,
) {
    let there = |snapshots: &watch::Receiver<Arc<Snapshot>>| {
        let imported = imports.as_ref().is_none_or(|imports| imports.borrow().synced());
        imported && snapshots.borrow().synced()
    };
    if !needs.cluster || needs.startup_timeout.is_zero() || there(snapshots) {
        return;
    }
    let mut imported = imports.clone();
    let synced = async {
        // Writers that are gone leave what there is.
        let _ = snapshots.wait_for(|snapshot| snapshot.synced()).await;
        if let Some(imports) = &mut imported {
            let _ = imports.wait_for(|imports| imports.synced()).await;
        }
    };
    let waiting = async {
        loop {
            tokio::time::sleep(WAITING).await;
            shared.log("[INFO] plugin/kubernetes: waiting for Kubernetes API before starting server");
        }
    };
    let synced = async {
        tokio::select! {
            () = synced => {}
            () = waiting => {}
        }
    };
    // Whether that was long enough is seen below.
    let _ = tokio::time::timeout(needs.startup_timeout, synced).await;
    if !there(snapshots) {
        shared.log("[WARNING] plugin/kubernetes: starting server with unsynced Kubernetes API");
    }
    let snapshot = snapshots.borrow_and_update().clone();
    shared.background(Event::Snapshot(snapshot));
}

/// The next state of what comes from other clusters; never, where nobody feeds it.
async fn news(imports: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> Arc<Snapshot> {
    if let Some(receiver) = imports
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Goes on serving, the cluster's changes included, while clients learn that this server is going.
async fn lameduck(
    loaded: &Loaded,
    shared: &Arc<Shared>,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    imports: &mut Option<watch::Receiver<Arc<Snapshot>>>,
) {
    let blocks = loaded.blocks.iter().filter_map(|block| block.settings.health.as_ref());
    let time = blocks.map(|health| health.lameduck).max().unwrap_or_default();
    if time.is_zero() {
        return;
    }
    shared.log(&format!("[INFO] plugin/health: Going into lameduck mode for {}", go_duration(time)));
    let end = tokio::time::sleep(time);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            imports = news(imports) => shared.background(Event::Imports(imports)),
            Ok(()) = snapshots.changed() => {
                let snapshot = snapshots.borrow_and_update().clone();
                shared.background(Event::Snapshot(snapshot));
            }
        }
    }
}

/// Another configuration on its way in.
struct Handover {
    loaded: Loaded,
    config: Config,
    fresh: Fresh,
    /// What came in by ports that go is answered by the old configuration, what waits at new ones by the new.
    answered: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Handover {
    fn complete(self, settings: &Settings, shared: &Arc<Shared>, listeners: &mut Listeners) -> Loaded {
        let Handover { loaded, config, fresh, .. } = self;
        let now = shared.now();
        shared.server(|server| server.configure(config, now));
        listeners.serve(shared, fresh);
        shared.running(settings, loaded.version());
        for line in loaded.warnings.iter().chain([&running(&loaded)]) {
            shared.log(line);
        }
        shared.log("[INFO] Reloading complete");
        loaded
    }
}

/// Going over to the Corefile as it is now, where it is another one (`plugin/reload/reload.go`) or is asked for. Of
/// what the old one has to answer nothing is lost.
struct Reloads {
    /// The last one's hash: one that is wrong is tried once.
    tried: String,
    under_way: Option<Handover>,
}

impl Reloads {
    fn begin(&mut self, settings: &Settings, look: Look, shared: &Arc<Shared>, listeners: &mut Listeners) {
        if look == Look::Asked {
            shared.log("[INFO] SIGUSR1: Reloading");
        }
        let texts = match corefile::texts(settings, None) {
            Ok(texts) if texts.fingerprint == self.tried && look == Look::Changed => return,
            Ok(texts) => texts,
            // What can't be read at all is known by what is said of it.
            Err(why) => return self.refuse(look, why.to_string(), &why, shared),
        };
        let fingerprint = texts.fingerprint.clone();
        // New ports are bound before anything else changes.
        let new = corefile::compile(texts, settings);
        let new = new.and_then(|(new, config)| listeners.bind(&new.blocks).map(|fresh| (new, config, fresh)));
        match new {
            Ok((loaded, config, fresh)) => {
                self.tried = fingerprint;
                shared.log("[INFO] Reloading");
                let answered = Box::pin(listeners.retire(&fresh));
                self.under_way = Some(Handover { loaded, config, fresh, answered });
            }
            Err(why) => self.refuse(look, fingerprint, &why, shared),
        }
    }

    fn refuse(&mut self, look: Look, tried: String, why: &DnsError, shared: &Shared) {
        if self.tried == tried && look == Look::Changed {
            return;
        }
        self.tried = tried;
        shared.server(|server| server.reload_failed());
        shared.log(&match look {
            Look::Asked => format!("[ERROR] SIGUSR1: {why}"),
            Look::Changed => format!("[ERROR] plugin/reload: Corefile changed but reload failed: {why}"),
        });
    }

    /// Returns the one that may take over by now. Dropped half way nothing is lost.
    async fn over(&mut self) -> Handover {
        if let Some(next) = &mut self.under_way {
            next.answered.as_mut().await;
        }
        match self.under_way.take() {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

fn running(loaded: &Loaded) -> String {
    let plugin = if loaded.version().is_some() { "plugin/reload: " } else { "" };
    format!("[INFO] {plugin}Running configuration SHA512 = {}", loaded.fingerprint)
}

fn banner(loaded: &Loaded, settings: &Settings) -> Vec<String> {
    let mut lines = loaded.warnings.clone();
    if !settings.quiet {
        lines.extend(loaded.blocks.iter().flat_map(|block| zones(block)));
    }
    lines.push(running(loaded));
    if !settings.quiet {
        lines.push(format!("Sealane-{}", env!("CARGO_PKG_VERSION")));
    }
    lines
}

/// What is answered where, in the words of `core/dnsserver/onstartup.go`.
fn zones(block: &Block) -> Vec<String> {
    let mut lines = Vec::new();
    for key in &block.keys {
        let zone = key.zone.to_string();
        if !preferred(&zone) {
            lines.push(format!("Warning: Domain {zone:?} does not follow RFC1035 preferred syntax"));
        }
        let line = key.to_string();
        let line = line.strip_prefix("dns://").unwrap_or(&line);
        let bound = block.settings.bind.iter().map(|ip| format!("{line} on {ip}"));
        lines.extend(bound);
        if block.settings.bind.is_empty() {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// RFC 1035 section 2.3.1; the root and reverse zones need not.
fn preferred(zone: &str) -> bool {
    let reverse = ["in-addr.arpa.", "ip6.arpa."].iter().any(|arpa| zone.ends_with(arpa));
    let label = |label: &str| {
        label.starts_with(|c: char| c.is_ascii_alphabetic())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    zone == "." || reverse || zone.trim_end_matches('.').split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_zones() {
        for (corefile, expected) in [
            (". {\n}", vec![".:53"]),
            ("tls://a-1.example, b.example:1053 {\n}", vec!["tls://a-1.example.:853", "b.example.:1053"]),
            (". {\n bind 127.0.0.1 ::1\n}", vec![".:53 on 127.0.0.1", ".:53 on ::1"]),
            ("10.0.0.0/24", vec!["0.0.10.in-addr.arpa.:53"]),
            (
                "a_b.example",
                vec![
                    "Warning: Domain \"a_b.example.\" does not follow RFC1035 preferred syntax",
                    "a_b.example.:53",
                ],
            ),
        ] {
            let config = Config::parse("Corefile", corefile, &Default::default(), 53).unwrap();
            assert_eq!(zones(&config.blocks[0]), expected, "{corefile}");
        }
    }
}
