//! Small HTTP servers: health checks and metrics. What is answered is decided elsewhere.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use sealane_proxy::health::Answer;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A client has so long to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that a listener has at a time; others wait in its queue.
const CONNECTIONS: usize = 256;
/// Before a failed accept is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers a path.
pub type Answerer = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// A server; dropped, it and its connections end.
#[derive(Debug)]
pub struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens on an address. `[::]` is IPv6's alone where `only_ipv6`, else IPv4's too.
///
/// # Errors
///
/// Where the address is taken or not the machine's.
pub fn http_listener(address: SocketAddr, only_ipv6: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_ipv6)?;
    }
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    TcpListener::from_std(socket.into())
}

/// Answers on a listener.
pub fn serve_http(listener: TcpListener, answer: Answerer) -> Serving {
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, Arc::clone(&answer)));
                    }
                    // Descriptors may be short for a moment.
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Serving(task.abort_handle())
}

async fn connection(stream: TcpStream, answer: Answerer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let given = answer(request.uri().path());
        async move { Ok::<_, Infallible>(response(given)) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // What a client breaks off is its own affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut builder = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(answer.body.into())).unwrap_or_else(|_| Response::new(Full::default()))
}

/// Servers that come and go with the addresses that are wanted.
#[derive(Debug, Default)]
pub struct Servers(BTreeMap<SocketAddr, Serving>);

impl Servers {
    /// Listens on these addresses and on no others; whom it could not listen on is given back, with why, to be asked
    /// for again.
    pub fn set(
        &mut self,
        wanted: &BTreeSet<SocketAddr>,
        answer: impl Fn(SocketAddr) -> Answerer,
    ) -> Vec<(SocketAddr, io::Error)> {
        self.0.retain(|address, _| wanted.contains(address));
        let mut failed = Vec::new();
        for address in wanted {
            if self.0.contains_key(address) {
                continue;
            }
            match http_listener(*address, true) {
                Ok(listener) => {
                    self.0.insert(*address, serve_http(listener, answer(*address)));
                }
                Err(error) => failed.push((*address, error)),
            }
        }
        failed
    }
}
