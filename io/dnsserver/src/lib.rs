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
mod feed;
mod files;
mod filter;
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
mod reload;
mod shared;
mod sockets;
mod spans;
mod tap;
mod tcp;
mod tls;
mod udp;
mod upstream;

use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sealane_dns::Event;
use sealane_dns::chain::Block;
use sealane_dns::chain::values::go_duration;
pub use sealane_dns::chain::{ApiAccess, ClientFiles, Needs, WarmFile};
use tokio::sync::Notify;

pub use crate::feed::{Feed, Feeder, Feeding, Feeds};
pub use crate::problems::problems;

use crate::corefile::Loaded;
use crate::listen::Listeners;
use crate::reload::{Reloads, Step};
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
    #[error("cannot listen on {address} ({what}): {source}{}", remedy(source))]
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
    /// What the configuration answers from cannot be watched.
    #[error("{0}")]
    Feed(String),
    /// Queries go in circles, or something panicked where `debug` wants to know.
    #[error("{0}")]
    Loop(String),
}

/// What to do where a port cannot be had.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::AddrInUse => {
            "; end the program that has it, or name another port (`.:1053`) or address (`bind`)"
        }
        ErrorKind::PermissionDenied => {
            "; ports below 1024 are for root and CAP_NET_BIND_SERVICE: name another (`.:1053`)"
        }
        ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

/// Reads and checks a Corefile with what it imports, without starting anything (`sealane check`).
///
/// # Errors
/// What is wrong with it.
pub fn check(settings: &Settings) -> Result<Needs, DnsError> {
    let (_, config) = corefile::load(settings)?;
    Ok(config.needs())
}

/// Serves until `shutdown` is done, then for `lameduck` more. What is answered from comes from `feed`.
///
/// # Errors
/// Where it cannot start, or finds that it forwards to itself. A Corefile that gets worse while it runs is refused
/// with a log line, and the old one stays.
pub async fn run(
    settings: Settings,
    feed: impl Into<Feed>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), DnsError> {
    let feed = feed.into();
    let (mut loaded, config) = corefile::load(&settings)?;
    let needs = config.needs();
    let (shared, mut fatal) = Shared::new(config, &settings);
    tokio::pin!(shutdown);
    let mut feeds = tokio::select! {
        () = &mut shutdown => return Ok(()),
        feeds = feed.clone().begin(needs.clone(), shared.clone()) => feeds.map_err(DnsError::Feed)?,
    };
    feeds.latest().into_iter().for_each(|event| shared.background(event));
    let mut listeners = Listeners::new();
    let bound = listeners.bind(&loaded.blocks)?;
    listeners.serve(&shared, bound);
    shared.running(&settings, loaded.version());
    for line in banner(&loaded, &settings) {
        shared.log(&line);
    }
    let mut reloads = Reloads::new(&loaded, needs, feed);
    let mut files = corefile::Watch::new(&settings, &loaded);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        let idle = reloads.idle();
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(why) = fatal.recv() => break Err(DnsError::Loop(why)),
            event = feeds.next() => shared.background(event),
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
            step = reloads.step() => match step {
                Step::Fed(look, new, fed) => reloads.fed((look, new), fed, &shared, &mut listeners),
                Step::Answered(next) => {
                    let (new, other) = reloads.complete(next, &settings, &shared, &mut listeners);
                    loaded = new;
                    feeds = other.unwrap_or(feeds);
                    files.renew(&settings, &loaded);
                }
            },
        }
    };
    shared.end();
    if ended.is_ok() {
        lameduck(&loaded, &shared, &mut feeds).await;
        listeners.retire_all().await;
        shared.stop();
    }
    drop(listeners);
    tokio::join!(shared.taps.close(), shared.collectors.close());
    ended
}

/// Goes on serving, the cluster's changes included, while clients learn that this server is going.
async fn lameduck(loaded: &Loaded, shared: &Arc<Shared>, feeds: &mut Feeds) {
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
            event = feeds.next() => shared.background(event),
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
    use sealane_dns::Config;

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
