//! Questions to upstreams over gRPC, one HTTP/2 connection each.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sealane_dns::chain::{GrpcClient, TlsClient};
use sealane_dns::message::grpc::{
    self as packet, INTERNAL, LARGEST, PATH, RESOURCE_EXHAUSTED, Status, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::outgoing::{Outgoing, Stream};
use crate::tls;

/// What connections that may take each other's place have in common.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    to: SocketAddr,
    /// Where its client is; the one that is kept holds it there.
    client: usize,
}

type Sender = SendRequest<Full<Bytes>>;

/// The connection to one upstream, for all calls at once; `None`: there is none now.
#[derive(Default)]
struct Line(tokio::sync::Mutex<Option<Sender>>);

/// The connections to all upstreams, each with how its upstream is reached.
#[derive(Default)]
pub(crate) struct Clients(Mutex<Lines>);

type Lines = HashMap<Place, (Arc<GrpcClient>, Arc<Line>)>;

impl Clients {
    /// Calls an upstream, and says whether that went over a connection that was there already.
    pub(crate) async fn call(
        &self,
        outgoing: &Outgoing<'_>,
        client: &Arc<GrpcClient>,
        was_kept: &mut bool,
    ) -> Result<Vec<u8>> {
        let place = Place { to: outgoing.to, client: Arc::as_ptr(client).addr() };
        let line = {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.entry(place).or_insert_with(|| (client.clone(), Arc::default())).1.clone()
        };
        loop {
            let (mut sender, kept) = line.sender(outgoing, client).await?;
            *was_kept = kept;
            let answer = async {
                sender.ready().await.map_err(unavailable)?;
                call(&mut sender, outgoing, client).await
            };
            match answer.await {
                Ok(answer) => return answer.map_err(Error::other),
                // It was closed while nobody looked: a new one is made.
                Err(_) if kept && sender.is_closed() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes those whose plugin is gone, and forgets those that are closed.
    pub(crate) fn sweep(&self) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, (client, line)| {
            let open =
                line.0.try_lock().map_or(true, |sender| sender.as_ref().is_some_and(|s| !s.is_closed()));
            Arc::strong_count(client) > 1 && open
        });
    }
}

impl Line {
    /// The connection, made where there is none, and whether it was there. Others wait meanwhile.
    async fn sender(&self, outgoing: &Outgoing<'_>, client: &GrpcClient) -> Result<(Sender, bool)> {
        let mut line = self.0.lock().await;
        if let Some(sender) = line.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), true));
        }
        let stream = TokioIo::new(connect(outgoing.to, client).await.map_err(unavailable)?);
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.map_err(unavailable)?;
        // It ends when the last sender is gone, or the upstream says so.
        tokio::spawn(connection);
        *line = Some(sender.clone());
        Ok((sender, false))
    }
}

fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::other(Status::new(UNAVAILABLE, why.to_string()))
}

async fn connect(to: SocketAddr, client: &GrpcClient) -> Result<Box<dyn Stream>> {
    let stream: Box<dyn Stream> = match &client.socket {
        Some(path) => Box::new(UnixStream::connect(path).await?),
        None => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    };
    let Some(tls) = &client.tls else { return Ok(stream) };
    let mut config = (*tls::client(tls).map_err(Error::other)?).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A socket in the file system is this machine's.
    let local = || TlsClient { server_name: Some("localhost".to_owned()), ..TlsClient::default() };
    let name = match (&tls.server_name, &client.socket) {
        (None, Some(_)) => tls::server_name(&local(), to)?,
        _ => tls::server_name(tls, to)?,
    };
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// One call. An error of the connection is the outer one, the upstream's own the inner one.
async fn call(
    sender: &mut Sender,
    outgoing: &Outgoing<'_>,
    client: &GrpcClient,
) -> Result<std::result::Result<Vec<u8>, Status>> {
    let authority = match &client.socket {
        Some(_) => "localhost".to_owned(),
        None => outgoing.to.to_string(),
    };
    let scheme = if client.tls.is_some() { "https" } else { "http" };
    let millis = outgoing.timeout.as_millis().clamp(1, 99_999_999);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{authority}{PATH}"))
        .header(CONTENT_TYPE, packet::CONTENT_TYPE)
        .header("te", "trailers")
        .header("grpc-timeout", format!("{millis}m"))
        .body(Full::new(Bytes::from(packet::wrap(outgoing.message))))
        .map_err(Error::other)?;
    let response = sender.send_request(request).await.map_err(unavailable)?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Ok(Err(of_http(head.status)));
    }
    let body = match Limited::new(body, LARGEST).collect().await {
        Ok(body) => body,
        Err(why) if why.is::<LengthLimitError>() => {
            return Ok(Err(Status::new(RESOURCE_EXHAUSTED, "the answer is too large")));
        }
        Err(why) => return Err(unavailable(why)),
    };
    // Where there is no body the header has what the trailer would have (`Trailers-Only`).
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    Ok(ended(&trailers).and_then(|()| packet::unwrap(&body.to_bytes()).map(<[u8]>::to_vec)))
}

/// What a call's trailers say.
fn ended(trailers: &HeaderMap) -> std::result::Result<(), Status> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(str::parse::<u8>) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => Err(Status::new(code, text("grpc-message").unwrap_or(""))),
        Some(Err(_)) | None => Err(Status::new(INTERNAL, "the answer has no grpc-status")),
    }
}

/// What HTTP's status means to gRPC (its `http-grpc-status-mapping.md`).
fn of_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    Status::new(code, format!("unexpected HTTP status {}", status.as_u16()))
}

/// Where the whole time went by.
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorKind::TimedOut, "rpc error: code = DeadlineExceeded desc = context deadline exceeded")
}
