//! DNS over gRPC: CoreDNS's `coredns.dns.DnsService` over HTTP/2, as server. What goes over the wire is
//! [`sealane_dns::message::grpc`]'s.

use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use sealane_dns::chain::ServerAddress;
use sealane_dns::decode;
use sealane_dns::message::grpc::{
    self as packet, INTERNAL, LARGEST, PATH, RESOURCE_EXHAUSTED, Status, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::https::{asked, conversation, parent};
use crate::limits::Limits;
use crate::shared::Shared;

/// How long a connection may say nothing at least.
const IDLE: Duration = Duration::from_secs(300);
/// Calls at once on one connection (CoreDNS's `DefaultGRPCMaxStreams`).
const STREAMS: u32 = 256;

/// Serves one connection.
pub(crate) async fn connection(
    shared: Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    (from, at): (SocketAddr, ServerAddress),
    limits: Limits,
    closed: watch::Receiver<bool>,
) -> Result<()> {
    let mut builder = Builder::new(TokioExecutor::new()).http2_only();
    let streams = limits.http.streams.unwrap_or(STREAMS);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams((streams > 0).then_some(streams));
    // Clients make and keep their connections for what comes next.
    let patience = limits.idle.max(IDLE);
    let patient = Limits { read: patience, idle: patience, ..limits };
    conversation(&builder, stream, patient, closed, move |request| {
        let shared = shared.clone();
        async move { response(query(&shared, request, (from, at), limits.read).await) }
    })
    .await
}

/// The answer, and how the call ended behind it.
fn response(
    result: std::result::Result<Vec<u8>, Status>,
) -> Response<impl Body<Data = Bytes, Error = std::convert::Infallible> + Send> {
    let mut trailers = HeaderMap::new();
    let body = match result {
        Ok(message) => {
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            packet::wrap(&message)
        }
        Err(status) => {
            trailers.insert("grpc-status", HeaderValue::from(u16::from(status.code)));
            // Its messages are our own, in plain ASCII.
            if let Ok(message) = HeaderValue::from_str(&status.message) {
                trailers.insert("grpc-message", message);
            }
            Vec::new()
        }
    };
    let body = Full::new(Bytes::from(body)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(packet::CONTENT_TYPE));
    response
}

async fn query(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    (from, at): (SocketAddr, ServerAddress),
    patience: Duration,
) -> std::result::Result<Vec<u8>, Status> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let grpc = kind.and_then(|kind| kind.strip_prefix(packet::CONTENT_TYPE));
    if !grpc.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';'])) {
        return Err(Status::new(UNKNOWN, "the content type is not application/grpc"));
    }
    if request.method() != Method::POST || request.uri().path() != PATH {
        return Err(Status::new(UNIMPLEMENTED, format!("there is {} alone", PATH)));
    }
    let parent = parent(request.headers());
    let body = Limited::new(request.into_body(), LARGEST).collect();
    let body = match tokio::time::timeout(patience, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(why)) if why.is::<LengthLimitError>() => {
            return Err(Status::new(RESOURCE_EXHAUSTED, "the message is too large"));
        }
        Ok(Err(_)) | Err(_) => return Err(Status::new(INTERNAL, "the body ends early")),
    };
    let message = packet::unwrap(&body)?;
    if decode(message).is_err() {
        return Err(Status::new(UNKNOWN, "not a DNS message"));
    }
    let effects = shared.step(asked(parent, (at, from), message));
    let messages = shared.carry_out(effects).await;
    messages.into_iter().next().ok_or_else(|| Status::new(UNAVAILABLE, "there is no answer"))
}
