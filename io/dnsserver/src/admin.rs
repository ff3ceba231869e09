//! `/health`, `/ready` and `/metrics`: three pages, so HTTP is written by hand.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sealane_dns::chain::values::go_duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::shared::Shared;

/// How long a request may take to arrive, and an answer to leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request's head, at most.
const MAX_HEAD: usize = 8192;
/// Connections at once.
const CONNECTIONS: usize = 64;
/// A server that asks itself does so this often, …
const CHECKS: Duration = Duration::from_secs(1);
/// … waits this long for its answer, …
const CHECK: Duration = Duration::from_secs(3);
/// … and says so where it took longer than this.
const LONG: Duration = Duration::from_secs(1);

/// What a listener shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Page {
    Health,
    Ready,
    Metrics,
}

impl Page {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Page::Health => "health",
            Page::Ready => "ready",
            Page::Metrics => "prometheus",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Page::Health => "/health",
            Page::Ready => "/ready",
            Page::Metrics => "/metrics",
        }
    }
}

pub(crate) async fn serve(shared: Arc<Shared>, listener: Arc<TcpListener>, page: Page) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= CONNECTIONS {
            tasks.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tasks.spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, connection(&shared, stream, page)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(shared: &Shared, mut stream: TcpStream, page: Page) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let (status, kind, body) = answer(shared, page, path).await;
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if method != "HEAD" {
        reply.push_str(&body);
    }
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

async fn answer(shared: &Shared, page: Page, path: &str) -> (&'static str, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    if path != page.path() {
        return ("404 Not Found", TEXT, "404 page not found\n".to_owned());
    }
    match page {
        Page::Health => ("200 OK", TEXT, "OK".to_owned()),
        Page::Ready if shared.ending() => ("503 Service Unavailable", TEXT, "Shutting down".to_owned()),
        Page::Ready => match shared.server(|server| server.unready()).as_slice() {
            [] => ("200 OK", TEXT, "OK".to_owned()),
            // As CoreDNS names them.
            unready => {
                let unready = unready.join(",");
                shared.log(&format!("[INFO] plugin/ready: Plugins not ready: {unready:?}"));
                ("503 Service Unavailable", TEXT, unready)
            }
        },
        Page::Metrics => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", shared.metrics().await),
    }
}

/// Asks for the own `/health` as others do: how long that takes tells how busy the server is
/// (`plugin/health/overloaded.go`).
pub(crate) async fn ask_health(shared: Arc<Shared>, ip: Option<IpAddr>, port: u16) {
    let host = ip.map_or_else(|| format!("localhost:{port}"), |ip| SocketAddr::new(ip, port).to_string());
    let to = match ip {
        Some(ip) if !ip.is_unspecified() => ip,
        _ => Ipv4Addr::LOCALHOST.into(),
    };
    let mut checks = interval_at(Instant::now() + CHECKS, CHECKS);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        checks.tick().await;
        let begun = Instant::now();
        let healthy = match timeout(CHECK, asked((to, port).into())).await {
            Ok(result) => result,
            Err(late) => Err(late.into()),
        };
        let took = begun.elapsed();
        shared.server(|server| server.health_checked(took, healthy.is_ok()));
        let url = format!("[WARNING] plugin/health: Local health request to \"http://{host}/health\"");
        match healthy {
            Err(why) => shared.log(&format!("{url} failed: {why}")),
            Ok(()) if took > LONG => shared.log(&format!("{url} took more than 1s: {}", go_duration(took))),
            Ok(()) => {}
        }
    }
}

async fn asked(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(512);
    stream.take(MAX_HEAD as u64).read_to_end(&mut head).await?;
    if head.starts_with(b"HTTP/1.1 ") { Ok(()) } else { Err(Error::new(ErrorKind::InvalidData, "no HTTP")) }
}
