//! `web`: a line that says who asked and which Pod answered, as the Pods of article 001 print it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// The client, as this Pod sees it.
    pub(crate) client: SocketAddr,
    /// This Pod's address that it connected to.
    pub(crate) server: SocketAddr,
}

/// Serves HTTP/1.1 until TERM.
pub(crate) async fn serve<F, R>(port: u16, answer: F) -> Result<(), String>
where
    F: Fn(Request<Incoming>, Ends) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let fail = |e: std::io::Error| format!("port {port}: {e}");
    let listener = TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).await;
    let listener = match listener {
        Ok(listener) => listener,
        // No IPv6 here.
        Err(_) => TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await.map_err(fail)?,
    };
    println!("{}: listening on :{port}", crate::host_name());
    let accept = async {
        loop {
            let Ok((stream, client)) = listener.accept().await else { continue };
            let answer = answer.clone();
            tokio::spawn(connection(stream, client, answer));
        }
    };
    tokio::select! { () = accept => {}, () = crate::terminated() => {} }
    Ok(())
}

async fn connection<F, R>(stream: TcpStream, client: SocketAddr, answer: F)
where
    F: Fn(Request<Incoming>, Ends) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let Ok(server) = stream.local_addr() else { return };
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let ends = Ends { client: plain(client), server: plain(server) };
    let service = service_fn(move |request| {
        let reply = answer(request, ends);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    // A client that goes away is its own affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A page of text.
pub(crate) fn text(status: u16, body: impl Into<Bytes>, kind: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    if let Ok(kind) = http::HeaderValue::from_str(kind) {
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    response
}

/// `web [--port 80]`
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let port = crate::number(&arguments, "--port", "PORT", 80)?;
    let port = u16::try_from(port).map_err(|_| format!("--port: {port} is above 65535"))?;
    let release = std::env::var("VERSION").unwrap_or_else(|_| "v0.1".into());
    let pod = crate::host_name();
    crate::runtime()?.block_on(serve(port, move |_, ends| {
        let line = format!(
            "kubernetes pod-test {release}!! ClientIP: {}, ServerName: {pod}, ServerIP: {}!\n",
            ends.client.ip(),
            ends.server.ip()
        );
        async move { text(200, line, "text/plain; charset=utf-8") }
    }))?;
    Ok(ExitCode::SUCCESS)
}
