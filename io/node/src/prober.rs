//! One attempt of a probe or hook: exec, HTTP, TCP, gRPC (`pkg/probe`).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sealane_host::runtime::{ExecSpec, HostError, Runtime};
use sealane_pod::probe::Outcome;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::streams::drain;

/// Bytes of an answer that go into a message (`maxRespBodyLength`, `maxReadLength`).
const MAX_BODY: usize = 10 << 10;

/// What is probed.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    pub(crate) container: Container,
}

/// An outcome with what it says.
pub(crate) type Answer = (Outcome, String);

fn failure(message: impl Into<String>) -> Answer {
    (Outcome::Failure, message.into())
}

/// Tries once, at most so long.
pub(crate) async fn attempt<R: Runtime>(
    runtime: &R,
    target: &Target,
    probe: &Probe,
    timeout: Duration,
) -> Answer {
    if let Some(exec) = &probe.exec {
        return self::exec(runtime, target, exec, Some(timeout)).await;
    }
    let work = async {
        let result = if let Some(get) = &probe.http_get {
            http_get(runtime, target, get).await
        } else if let Some(tcp) = &probe.tcp_socket {
            connect(runtime, target, tcp.host.as_deref(), &tcp.port).await.map(drop).map(|()| String::new())
        } else if let Some(grpc) = &probe.grpc {
            grpc_check(runtime, target, grpc.port, grpc.service.as_deref().unwrap_or_default()).await
        } else {
            return (Outcome::Success, String::new());
        };
        match result {
            Ok(text) => (Outcome::Success, text),
            Err(text) => failure(text),
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(answer) => answer,
        Err(_) if probe.grpc.is_some() => {
            failure(format!("timeout: health rpc did not complete within {}s", timeout.as_secs()))
        }
        Err(_) => failure("context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
    }
}

/// Runs a lifecycle hook to its end.
///
/// # Errors
/// With what the event says.
pub(crate) async fn hook<R: Runtime>(
    runtime: &R,
    target: &Target,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(exec) = &hook.exec {
        return match self::exec(runtime, target, exec, None).await {
            (Outcome::Success, _) => Ok(()),
            (_, message) => Err(message),
        };
    }
    match &hook.http_get {
        Some(get) => http_get(runtime, target, get).await.map(drop),
        None => Ok(()),
    }
}

/// Runs a command in the container. One that takes longer is killed, as container runtimes do for kubelet
/// (`ExecSync` of the CRI); what it has started itself lives on.
async fn exec<R: Runtime>(
    runtime: &R,
    target: &Target,
    action: &ExecAction,
    timeout: Option<Duration>,
) -> Answer {
    let args = action.command.clone().unwrap_or_default();
    let command = args.join(" ");
    let spec = ExecSpec { container: target.id.clone(), args, tty: false, stdin: false };
    let started = match runtime.exec(spec).await {
        Ok(started) => started,
        Err(HostError::CannotRun(message)) => return failure(message),
        // Says nothing about the container (`probe.Unknown`).
        Err(error) => return (Outcome::Unknown, error.to_string()),
    };
    let process = started.process;
    let end = async { tokio::join!(beginning(started.stdout), beginning(started.stderr), started.exit) };
    let ended = match timeout {
        Some(limit) => tokio::time::timeout(limit, end).await.ok(),
        None => Some(end.await),
    };
    let Some((mut out, errors, exit)) = ended else {
        if let Err(error) = runtime.kill_exec(process).await {
            tracing::debug!(%error, "a probe's command could not be killed");
        }
        let after = timeout.unwrap_or_default().as_secs();
        // `ErrCommandTimedOut` of the CRI client.
        return failure(format!("command timed out: {command:?} timed out after {after}s"));
    };
    out.extend(errors);
    out.truncate(MAX_BODY);
    let text = String::from_utf8_lossy(&out).into_owned();
    match exit {
        Ok(exit) if exit.code == 0 => (Outcome::Success, text),
        Ok(exit) if text.is_empty() => failure(format!("command exited with status {}", exit.code)),
        Ok(_) => failure(text),
        Err(_) => (Outcome::Unknown, "the command's end was not seen".to_owned()),
    }
}

/// Reads a stream to its end; what goes into a message.
async fn beginning(stream: Option<OwnedFd>) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(fd) = stream else { return out };
    let mut rx = drain(fd);
    while let Some(chunk) = rx.recv().await {
        let room = MAX_BODY.saturating_sub(out.len());
        out.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    out
}

/// The number of a port that is named or numbered.
pub(crate) fn port_of(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports.filter(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port).next();
            named.or_else(|| name.parse().ok())
        }
    };
    let shown = match port {
        IntOrString::Int(n) => n.to_string(),
        IntOrString::String(s) => s.clone(),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port number: {shown}"))
}

async fn connect<R: Runtime>(
    runtime: &R,
    target: &Target,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<tokio::net::TcpStream, String> {
    let port = port_of(&target.container, port)?;
    let address = match host.filter(|h| !h.is_empty()) {
        Some("localhost") => IpAddr::from([127, 0, 0, 1]),
        Some(host) => host.parse().map_err(|_| format!("probe host {host:?} is not an address"))?,
        None => target.address,
    };
    let to = SocketAddr::new(address, port);
    runtime.connect_from_node(to).await.map_err(|e| match e {
        HostError::Step { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("dial tcp {to}: connect: connection refused")
        }
        other => format!("dial tcp {to}: {other}"),
    })
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

async fn http_get<R: Runtime>(runtime: &R, target: &Target, get: &HTTPGetAction) -> Result<String, String> {
    let mut path = get.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let port = port_of(&target.container, &get.port)?;
    let host = get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.address.to_string());
    // Ten redirects, as Go's client; only such as stay with the Pod (`RedirectChecker`).
    for _ in 0..10 {
        let url = format!("{scheme}://{host}:{port}{path}");
        let wrap = |e: String| format!("Get {url:?}: {e}");
        let tcp = connect(runtime, target, get.host.as_deref(), &get.port).await.map_err(wrap)?;
        let stream: Box<dyn Connection> =
            if scheme == "https" { Box::new(tls(tcp).await.map_err(wrap)?) } else { Box::new(tcp) };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| wrap(e.to_string()))?;
        let driver = tokio::spawn(connection);
        let request = request(get, &path, &host, port).map_err(wrap)?;
        let answer = sender.send_request(request).await.map_err(|e| wrap(cause(&e)))?;
        let status = answer.status();
        let location =
            answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        driver.abort();
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        match location {
            Some(to) if status.is_redirection() && to.starts_with('/') => path = to,
            _ if status.is_success() || status.is_redirection() => return Ok(text),
            _ => return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
        }
    }
    Err("stopped after 10 redirects".to_owned())
}

fn cause(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |s| format!("{error}: {s}"))
}

fn request(get: &HTTPGetAction, path: &str, host: &str, port: u16) -> Result<Request<Full<Bytes>>, String> {
    let mut builder = Request::get(path);
    let mut named = (false, false, false);
    for h in get.http_headers.iter().flatten() {
        match h.name.to_ascii_lowercase().as_str() {
            "host" => named.0 = true,
            "user-agent" => named.1 = true,
            "accept" => named.2 = true,
            _ => {}
        }
        builder = builder.header(h.name.as_str(), h.value.as_str());
    }
    if !named.0 {
        builder = builder.header(header::HOST, format!("{host}:{port}"));
    }
    if !named.1 {
        builder = builder.header(header::USER_AGENT, "kube-probe/1.36");
    }
    if !named.2 {
        builder = builder.header(header::ACCEPT, "*/*");
    }
    builder.header(header::CONNECTION, "close").body(Full::default()).map_err(|e| e.to_string())
}

async fn tls(
    tcp: tokio::net::TcpStream,
) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("probe").map_err(|e| e.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| e.to_string())
}

/// Probes take any certificate, as kubelet's do (`InsecureSkipVerify`).
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `grpc.health.v1.Health/Check` over plain HTTP/2: two message types of one field each, written by hand.
async fn grpc_check<R: Runtime>(
    runtime: &R,
    target: &Target,
    port: i32,
    service: &str,
) -> Result<String, String> {
    let tcp = connect(runtime, target, None, &IntOrString::Int(port)).await;
    let tcp =
        tcp.map_err(|e| format!("timeout: failed to connect service \"{}:{port}\": {e}", target.address))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
    let (mut sender, connection) = handshake.map_err(|e| format!("error: health rpc failed: {e}"))?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{}:{port}/grpc.health.v1.Health/Check", target.address))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(health_request(service)))
        .map_err(|e| e.to_string())?;
    let answer =
        sender.send_request(request).await.map_err(|e| format!("error: health rpc failed: {}", cause(&e)))?;
    let in_headers = status_of(answer.headers());
    let http = answer.status();
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
    driver.abort();
    let body = body.map_err(|e| format!("error: health rpc failed: {e}"))?;
    let status = in_headers.or_else(|| body.trailers().and_then(status_of));
    match status.as_deref() {
        Some("0") => {}
        Some("12") => {
            return Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .into(),
            );
        }
        Some(code) => return Err(format!("error: health rpc failed with code {code}")),
        None => return Err(format!("error: health rpc failed: HTTP status {http} without grpc-status")),
    }
    match health_answer(&body.to_bytes()) {
        Some(1) => Ok("status: SERVING".to_owned()),
        Some(2) => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Some(n) => Err(format!("service unhealthy (responded with {n})")),
        None => Err("error: health rpc failed: the answer is no HealthCheckResponse".to_owned()),
    }
}

fn status_of(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// A length-prefixed `HealthCheckRequest{service = 1}`.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put(message);
    out.freeze()
}

/// `status = 1` of a length-prefixed `HealthCheckResponse`; an absent field is UNKNOWN, 0.
fn health_answer(body: &[u8]) -> Option<u8> {
    let (&compressed, rest) = body.split_first()?;
    let message = rest.get(4..)?;
    match (compressed, message) {
        (0, []) => Some(0),
        (0, [0x08, status, ..]) => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn ports() {
        let c: Container =
            from_value(json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]})).unwrap();
        let named = |s: &str| port_of(&c, &IntOrString::String(s.into()));
        assert_eq!(named("http"), Ok(8080));
        assert_eq!(named("81"), Ok(81));
        assert!(named("none").is_err());
        assert!(port_of(&c, &IntOrString::Int(70_000)).is_err());
    }

    #[test]
    fn health_messages() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        for (body, want) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
        ] {
            assert_eq!(health_answer(body), want);
        }
    }
}
