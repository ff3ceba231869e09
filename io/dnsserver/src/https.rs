//! DNS over HTTPS (RFC 8484): GET and POST of `/dns-query`, over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use sealane_dns::chain::{Parent, ServerAddress};
use sealane_dns::server::max_age;
use sealane_dns::{Event, Transport, decode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::limits::Limits;
use crate::shared::{Shared, told};

const PATH: &str = "/dns-query";
const MESSAGE: HeaderValue = HeaderValue::from_static("application/dns-message");
/// A query's octets at most.
const LARGEST: usize = 65_535;
/// Requests at once on one connection.
const STREAMS: u32 = 100;

/// Requests of a connection: begun, and ended.
#[derive(Default)]
struct Work(AtomicU64, AtomicU64);

/// Serves one connection.
pub(crate) async fn connection(
    shared: Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    (from, at): (SocketAddr, ServerAddress),
    limits: Limits,
    closed: watch::Receiver<bool>,
) -> Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    // It begins with the wait for a request.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle.max(limits.read));
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    conversation(&builder, stream, limits, closed, move |request| {
        let shared = shared.clone();
        async move {
            let response = respond(&shared, request, (from, at), limits.read).await;
            shared.server(|server| server.answered_https(at, response.status().as_u16()));
            response
        }
    })
    .await
}

/// Answers the requests of one connection, until it has been idle for too long, or is told to end.
pub(crate) async fn conversation<F, B>(
    builder: &Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    limits: Limits,
    mut closed: watch::Receiver<bool>,
    respond: impl Fn(Request<Incoming>) -> F,
) -> Result<()>
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let work = Arc::new(Work::default());
    let of_requests = work.clone();
    let service = service_fn(move |request| {
        let (work, response) = (of_requests.clone(), respond(request));
        async move {
            work.0.fetch_add(1, Ordering::Relaxed);
            let response = response.await;
            work.1.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let (mut seen, mut ending) = (0, false);
    // The first request comes soon (`ReadTimeout` of Go's http.Server).
    let mut patience = limits.read;
    loop {
        tokio::select! {
            ended = &mut connection => return ended.map_err(Error::other),
            () = told(&mut closed), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(patience) => {
                let (begun, ended) = (work.0.load(Ordering::Relaxed), work.1.load(Ordering::Relaxed));
                if begun == ended && begun == seen && !ending {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                } else if begun == ended && begun == seen {
                    // It has had its time: a client that does not see that is left.
                    return Ok(());
                }
                (seen, patience) = (begun, limits.idle);
            }
        }
    }
}

/// The trace that a request is part of, where it says so.
pub(crate) fn parent(headers: &HeaderMap) -> Option<Parent> {
    Parent::from_headers(|name| headers.get(name).and_then(|value| value.to_str().ok()))
}

/// A request's query.
pub(crate) fn asked(
    parent: Option<Parent>,
    (server, client): (ServerAddress, SocketAddr),
    bytes: &[u8],
) -> Event<'_> {
    let transport = Transport::Tcp;
    match parent {
        Some(parent) => Event::Traced { parent, server, transport, client, bytes },
        None => Event::Query { server, transport, client, bytes },
    }
}

fn bare(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

async fn respond(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    (from, at): (SocketAddr, ServerAddress),
    patience: Duration,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return bare(StatusCode::NOT_FOUND, "");
    }
    let parent = parent(request.headers());
    let Some(query) = query(request, patience).await.filter(|query| decode(query).is_ok()) else {
        return bare(StatusCode::BAD_REQUEST, "invalid request\n");
    };
    let effects = shared.step(asked(parent, (at, from), &query));
    let mut messages = shared.carry_out(effects).await.into_iter();
    let Some(answer) = messages.next() else {
        return bare(StatusCode::INTERNAL_SERVER_ERROR, "No response\n");
    };
    let age = decode(&answer).map_or(0, |answer| max_age(&answer));
    let mut response = Response::new(Full::new(Bytes::from(answer)));
    response.headers_mut().insert(CONTENT_TYPE, MESSAGE);
    if let Ok(age) = HeaderValue::from_str(&format!("max-age={age}")) {
        response.headers_mut().insert(CACHE_CONTROL, age);
    }
    response
}

/// The message of a request.
async fn query(request: Request<Incoming>, patience: Duration) -> Option<Vec<u8>> {
    match *request.method() {
        Method::GET => from_uri(request.uri().query()?),
        Method::POST => {
            let body = Limited::new(request.into_body(), LARGEST).collect();
            let body = tokio::time::timeout(patience, body).await.ok()?.ok()?;
            Some(body.to_bytes().to_vec())
        }
        _ => None,
    }
}

/// The one `dns` of a URI, in base64url without padding (RFC 8484 section 4.1).
fn from_uri(query: &str) -> Option<Vec<u8>> {
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix("dns="));
    let value = values.next()?;
    if values.next().is_some() || value.len() > LARGEST.div_ceil(3) * 4 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(value).ok()
}

#[cfg(test)]
mod tests {
    use super::from_uri;

    #[test]
    fn messages_in_uris() {
        for (query, message) in [
            ("dns=AAAB", Some(&[0, 0, 1][..])),
            ("x=1&dns=-_8", Some(&[0xfb, 0xff][..])),
            ("dns=", Some(&[][..])),
            ("dns=AAA=", None),
            ("dns=+/8", None),
            ("dns=AAAB&dns=AAAB", None),
            ("x=1", None),
            ("", None),
        ] {
            assert_eq!(from_uri(query).as_deref(), message, "{query}");
        }
    }
}
