//! Spans on their way to who collects them: in batches, by HTTP.

use std::collections::VecDeque;
use std::io::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use sealane_dns::chain::Tracer;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::outgoing::Stream;
use crate::outlet::{Dropped, Outlets};
use crate::{LogSink, tls};

/// For one batch (zipkin-go's HTTP client).
const PATIENCE: Duration = Duration::from_secs(5);
/// Queries whose spans wait while a batch is under way.
const QUEUE: usize = 1000;

/// The collectors that are known.
#[derive(Default)]
pub(crate) struct Collectors(Outlets<Tracer, Vec<String>>);

impl Collectors {
    /// Sends spans, some time.
    pub(crate) fn send(&self, tracer: &Arc<Tracer>, spans: Vec<String>, log: &LogSink) {
        let collect = |queue, dropped| collect((**tracer).clone(), queue, dropped, log.clone());
        self.0.send(tracer, Some(spans), QUEUE, collect);
    }

    pub(crate) fn sweep(&self) {
        self.0.sweep();
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }

    pub(crate) fn render(&self, out: &mut String) {
        let help = "Counter of traces, or spans of them, that nobody took.";
        self.0.render("sealane_dns_trace_dropped_total", help, |tracer| tracer.url.clone(), out);
    }
}

async fn collect(
    tracer: Tracer,
    mut queue: mpsc::Receiver<Vec<String>>,
    dropped: Arc<Dropped>,
    log: LogSink,
) {
    let mut waiting = VecDeque::new();
    let mut line = Line { sender: None };
    let mut tick = tokio::time::interval_at(Instant::now() + tracer.interval, tracer.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let open = tokio::select! {
            spans = queue.recv() => {
                let open = spans.is_some();
                waiting.extend(spans.into_iter().flatten());
                let over = waiting.len().saturating_sub(tracer.backlog);
                drop(waiting.drain(..over));
                dropped.add(over);
                if open && waiting.len() < tracer.batch {
                    continue;
                }
                open
            }
            _ = tick.tick() => true,
        };
        if !waiting.is_empty() {
            let body = tracer.body(&waiting);
            let posted = timeout(PATIENCE, line.post(&tracer.url, body)).await;
            if let Err(why) = posted.unwrap_or_else(|_| Err(Error::other("no answer in time"))) {
                line.sender = None;
                dropped.add(waiting.len());
                dropped.tell(&log, &format!("plugin/trace: {}: {why}; spans that were lost", tracer.url));
            }
            waiting.clear();
        }
        if !open {
            return;
        }
    }
}

/// A connection to a collector.
struct Line {
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Line {
    async fn post(&mut self, url: &str, body: String) -> Result<()> {
        let uri: Uri = url.parse().map_err(Error::other)?;
        let authority = uri.authority().map(|authority| authority.to_string()).unwrap_or_default();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let body = Bytes::from(body);
        loop {
            let (mut sender, kept) = match self.sender.take() {
                Some(sender) => (sender, true),
                None => (connect(&uri).await?, false),
            };
            let request = Request::builder().method(Method::POST).uri(&path).header(HOST, &authority);
            let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body.clone()));
            let request = request.map_err(Error::other)?;
            let answer = async {
                sender.ready().await?;
                sender.send_request(request).await
            };
            let response = match answer.await {
                Ok(response) => response,
                // The collector closed it while nobody looked.
                Err(_) if kept => continue,
                Err(why) => return Err(Error::other(why)),
            };
            let status = response.status();
            response.into_body().collect().await.map_err(Error::other)?;
            self.sender = Some(sender);
            return if status.is_success() {
                Ok(())
            } else {
                Err(Error::other(format!("HTTP status {status}")))
            };
        }
    }
}

async fn connect(uri: &Uri) -> Result<SendRequest<Full<Bytes>>> {
    let encrypted = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port)).await?;
    let stream: Box<dyn Stream> = if encrypted {
        let (config, name) = tls::reader(&format!("{host}:{port}"), false).map_err(Error::other)?;
        Box::new(TlsConnector::from(config).connect(name, stream).await?)
    } else {
        Box::new(stream)
    };
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}
