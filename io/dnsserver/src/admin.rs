//! `/health`, `/ready` and `/metrics`: three pages, so HTTP is written by hand.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::shared::Shared;

/// How long a request may take to arrive, and an answer to leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request's head, at most.
const MAX_HEAD: usize = 8192;
/// Connections at once.
const CONNECTIONS: usize = 64;

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
        Page::Ready => match shared.server(|server| server.unready()).as_slice() {
            [] => ("200 OK", TEXT, "OK".to_owned()),
            // As CoreDNS names them.
            unready => ("503 Service Unavailable", TEXT, unready.join(",")),
        },
        Page::Metrics => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", shared.metrics().await),
    }
}
