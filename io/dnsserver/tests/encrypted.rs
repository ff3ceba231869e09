//! DNS over TLS, HTTPS and gRPC in both directions, and upstreams' connections, on loopback with certificates of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sealane_catalog::Snapshot;
use sealane_dns::message::{Data, Record, grpc as packet, rtype};
use sealane_dns::{Message, decode, encode};
use sealane_dnsserver::{Settings, check, run};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough to mean that it never happens.
const NEVER: Duration = Duration::from_secs(20);

/// A loopback port that nobody has: below those that the kernel gives to clients, and given out once.
async fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 11_000 + (std::process::id() % 80) as u16 * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        let tcp = TcpListener::bind(("127.0.0.1", port)).await;
        if tcp.is_ok() && UdpSocket::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

/// Writes `ca.pem`, and `NAME.pem` with `NAME.key` signed by it for each name.
fn certificates(folder: &Path, names: &[&str]) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    for name in names {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![(*name).to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A client that trusts the folder's CA, and shows a certificate where one is named.
fn client(folder: &Path, identity: Option<&str>, alpn: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some(name) => {
            let chain = CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(client: &TlsConnector, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    client.connect(ServerName::try_from("dns.example").unwrap(), stream).await
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    name: &str,
) -> std::io::Result<Message> {
    let query = encode(&Message::query(9, name.parse().unwrap(), rtype::A), 512);
    stream.write_u16(query.len() as u16).await?;
    stream.write_all(&query).await?;
    stream.flush().await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(decode(&reply).unwrap())
}

fn address(message: &Message) -> String {
    match message.answers.as_slice() {
        [Record { data: Data::A(ip), .. }] => ip.to_string(),
        _ => format!("{message:?}"),
    }
}

/// Runs a server until the test ends.
async fn serve(folder: &Path, corefile: &str, port: u16) {
    let path = folder.join("Corefile");
    std::fs::write(&path, corefile).unwrap();
    let settings = Settings::new(&path);
    check(&settings).unwrap();
    let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
    tokio::spawn(async move {
        let _sender = sender;
        run(settings, receiver, std::future::pending()).await.unwrap();
    });
    let up = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, up).await.expect("it never came up");
}

fn block(folder: &Path, scheme: &str, port: u16, tls: &str) -> String {
    let dir = folder.display();
    format!(
        "{scheme}://.:{port} {{\n bind 127.0.0.1\n tls {dir}/dns.example.pem {dir}/dns.example.key {tls}\n \
         hosts /nowhere {{\n 192.0.2.7 a.example\n }}\n}}\n"
    )
}

#[tokio::test]
async fn dns_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["dns.example"]);
    let port = free_port().await;
    serve(folder.path(), &block(folder.path(), "tls", port, ""), port).await;
    let mut stream = connect(&client(folder.path(), None, &["dot"]), port).await.unwrap();
    for _ in 0..2 {
        assert_eq!(address(&exchange(&mut stream, "a.example").await.unwrap()), "192.0.2.7");
    }
    // Without TLS there is nothing to be had.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(exchange(&mut plain, "a.example").await.is_err());
}

#[tokio::test]
async fn client_certificates() {
    // The other CA's clients have the names of this one's.
    let (folder, stranger) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(folder.path(), &["dns.example", "client"]);
    certificates(stranger.path(), &["client"]);
    std::fs::copy(folder.path().join("ca.pem"), stranger.path().join("ca.pem")).unwrap();
    for (kind, none, ours, others) in [
        ("nocert", true, true, true),
        ("request", true, true, true),
        ("require", false, true, true),
        ("verify_if_given", true, true, false),
        ("require_and_verify", false, true, false),
    ] {
        let port = free_port().await;
        let tls = format!("{}/ca.pem {{\n client_auth {kind}\n }}", folder.path().display());
        serve(folder.path(), &block(folder.path(), "tls", port, &tls), port).await;
        for (client, admitted) in [
            (client(folder.path(), None, &[]), none),
            (client(folder.path(), Some("client"), &[]), ours),
            (client(stranger.path(), Some("client"), &[]), others),
        ] {
            let answer = async {
                let mut stream = connect(&client, port).await?;
                exchange(&mut stream, "a.example").await
            };
            assert_eq!(answer.await.is_ok(), admitted, "{kind} {none} {ours} {others}");
        }
    }
}

async fn https(
    folder: &Path,
    port: u16,
    alpn: &str,
    request: http::Request<Full<Bytes>>,
) -> http::Response<Bytes> {
    let stream = TokioIo::new(connect(&client(folder, None, &[alpn]), port).await.unwrap());
    let response = if alpn == "h2" {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = response.into_parts();
    http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn dns_over_https() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["dns.example"]);
    let port = free_port().await;
    serve(folder.path(), &block(folder.path(), "https", port, ""), port).await;
    let query = encode(&Message::query(0, "a.example".parse().unwrap(), rtype::A), 512);
    let get = format!("/dns-query?dns={}", URL_SAFE_NO_PAD.encode(&query));
    for (method, path, body, status) in [
        ("GET", get.as_str(), &[][..], 200),
        ("POST", "/dns-query", &query, 200),
        ("POST", "/other", &query, 404),
        ("GET", "/dns-query", &[], 400),
        ("PUT", "/dns-query", &query, 400),
        ("POST", "/dns-query", &query[..7], 400),
        ("POST", "/dns-query", &[0; 70_000], 400),
    ] {
        for alpn in ["h2", "http/1.1"] {
            let request = http::Request::builder().method(method);
            let request = request.uri(format!("https://dns.example{path}")).header("host", "dns.example");
            let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
            let response = https(folder.path(), port, alpn, request).await;
            assert_eq!(response.status().as_u16(), status, "{method} {path} {alpn}");
            if status == 200 {
                assert_eq!(response.headers()["content-type"], "application/dns-message");
                assert_eq!(response.headers()["cache-control"], "max-age=3600");
                assert_eq!(address(&decode(response.body()).unwrap()), "192.0.2.7");
            }
        }
    }
}

/// A call of gRPC: the body of the answer, and the trailers' `grpc-status`.
async fn grpc(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: http::Request<Full<Bytes>>,
) -> (Bytes, String) {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let body = response.into_body().collect().await.unwrap();
    let status = body.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned();
    (body.to_bytes(), status)
}

#[tokio::test]
async fn dns_over_grpc() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["dns.example"]);
    let [plain, encrypted] = [free_port().await, free_port().await];
    let within = block(folder.path(), "grpc", encrypted, "");
    let hosts = "hosts /nowhere {\n 192.0.2.7 a.example\n }";
    let drops = "acl drop.example {\n drop\n }";
    let corefile = format!("grpc://.:{plain} {{\n bind 127.0.0.1\n {drops}\n {hosts}\n}}\n{within}");
    serve(folder.path(), &corefile, encrypted).await;
    let message = |name: &str| encode(&Message::query(9, name.parse().unwrap(), rtype::A), 512);
    let query = packet::wrap(&message("a.example"));
    let (path, kind) = (packet::PATH, packet::CONTENT_TYPE);
    for (path, kind, body, status) in [
        (path, kind, query.clone(), "0"),
        (path, "application/grpc+proto", query.clone(), "0"),
        (path, "application/json", query.clone(), "2"),
        ("/coredns.dns.DnsService/Other", kind, query.clone(), "12"),
        (path, kind, query[..9].to_vec(), "13"),
        (path, kind, packet::wrap(b"no message"), "2"),
        (path, kind, packet::wrap(&[0; 66_000]), "8"),
        // Nobody answers.
        (path, kind, packet::wrap(&message("drop.example")), "14"),
    ] {
        for tls in [false, true] {
            if tls && status == "14" {
                continue;
            }
            let request = http::Request::builder().method("POST").header("content-type", kind);
            let request = request.uri(format!("http://dns.example{path}")).header("te", "trailers");
            let request = request.body(Full::new(Bytes::from(body.clone()))).unwrap();
            let (body, found) = match tls {
                true => {
                    let client = client(folder.path(), None, &["h2"]);
                    grpc(connect(&client, encrypted).await.unwrap(), request).await
                }
                false => grpc(TcpStream::connect(("127.0.0.1", plain)).await.unwrap(), request).await,
            };
            assert_eq!(found, status, "{path} {kind} {tls}");
            if status == "0" {
                let answer = decode(packet::unwrap(&body).unwrap()).unwrap();
                assert_eq!((answer.id, address(&answer).as_str()), (9, "192.0.2.7"));
            }
        }
    }
}

#[tokio::test]
async fn upstreams_over_grpc() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["dns.example"]);
    let ports =
        [free_port().await, free_port().await, free_port().await, free_port().await, free_port().await];
    let [plain, encrypted, to_plain, good, bad] = ports;
    let grpc = |port: u16, to: u16, tls: &str| {
        format!(".:{port} {{\n bind 127.0.0.1\n grpc . 127.0.0.1:{to} {{\n {tls}\n }}\n}}\n")
    };
    let tls = |name: &str| format!("tls {}/ca.pem\n tls_servername {name}", folder.path().display());
    let plain_block = block(folder.path(), "grpc", plain, "").replace("tls ", "# tls ");
    let corefile = plain_block
        + &block(folder.path(), "grpc", encrypted, "")
        + &grpc(to_plain, plain, "")
        + &grpc(good, encrypted, &tls("dns.example"))
        + &grpc(bad, encrypted, &tls("other.example"));
    serve(folder.path(), &corefile, bad).await;
    for port in [to_plain, good] {
        for _ in 0..3 {
            assert_eq!(address(&udp(port, "a.example").await), "192.0.2.7");
        }
    }
    assert_eq!(udp(bad, "a.example").await.rcode, 2);
    // A CA that is none is found before anything starts.
    std::fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    let error = check(&Settings::new(folder.path().join("Corefile"))).unwrap_err().to_string();
    assert_eq!(error, "cannot speak TLS: grpc: CA: no certificate in PEM");
}

/// Upstreams behind a Unix socket, one after the other: a connection that ended is made again.
#[tokio::test]
async fn grpc_connections_are_kept_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let port = free_port().await;
    let corefile = format!(".:{port} {{\n bind 127.0.0.1\n grpc . unix://{}\n}}\n", socket.to_str().unwrap());
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    serve(folder.path(), &corefile, port).await;
    for connection in 1..3u8 {
        let asking = tokio::spawn(async move {
            let first = udp(port, "a.example").await;
            (first, udp(port, "a.example").await)
        });
        let (stream, _) = listener.accept().await.unwrap();
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let query = decode(packet::unwrap(&body).unwrap()).unwrap();
                let mut reply = query.reply(0);
                let data = Data::A([192, 0, 2, connection].into());
                reply.answers.push(Record::new(query.questions[0].name.clone(), 60, data));
                let trailers = http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    http::HeaderValue::from_static("0"),
                )]);
                let body = Full::new(Bytes::from(packet::wrap(&encode(&reply, 512))));
                let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let serving = tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        let (first, second) = asking.await.unwrap();
        let expected = format!("192.0.2.{connection}");
        assert_eq!((address(&first), address(&second)), (expected.clone(), expected));
        serving.abort();
        let _ = serving.await;
    }
}

async fn udp(port: u16, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", port)).await.unwrap();
    socket.send(&encode(&Message::query(9, name.parse().unwrap(), rtype::A), 512)).await.unwrap();
    let mut buffer = [0; 4096];
    let len = tokio::time::timeout(NEVER, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    decode(&buffer[..len]).unwrap()
}

#[tokio::test]
async fn upstreams_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &["dns.example"]);
    let [upstream, good, bad] = [free_port().await, free_port().await, free_port().await];
    let forward = |port: u16, name: &str| {
        format!(
            ".:{port} {{\n bind 127.0.0.1\n forward . tls://127.0.0.1:{upstream} {{\n tls {}/ca.pem\n \
             tls_servername {name}\n }}\n}}\n",
            folder.path().display()
        )
    };
    let corefile = block(folder.path(), "tls", upstream, "")
        + &forward(good, "dns.example")
        + &forward(bad, "other.example");
    serve(folder.path(), &corefile, bad).await;
    assert_eq!(address(&udp(good, "a.example").await), "192.0.2.7");
    assert_eq!(udp(bad, "a.example").await.rcode, 2);
    // A CA that is none is found before anything starts.
    std::fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    let error = check(&Settings::new(folder.path().join("Corefile"))).unwrap_err().to_string();
    assert_eq!(error, "cannot speak TLS: forward: CA: no certificate in PEM");
}

/// An upstream over TCP that ends each connection after so many answers, and counts connections.
async fn upstream(answers: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                for _ in 0..answers {
                    let Ok(len) = stream.read_u16().await else { return };
                    let mut query = vec![0; usize::from(len)];
                    stream.read_exact(&mut query).await.unwrap();
                    let query = decode(&query).unwrap();
                    let mut reply = query.reply(0);
                    let record =
                        Record::new(query.questions[0].name.clone(), 60, Data::A([192, 0, 2, 80].into()));
                    reply.answers.push(record);
                    // One to another question first.
                    for id in [reply.id ^ 1, reply.id] {
                        let bytes = encode(&Message { id, ..reply.clone() }, 512);
                        stream.write_u16(bytes.len() as u16).await.unwrap();
                        stream.write_all(&bytes).await.unwrap();
                    }
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn connections_to_upstreams_are_used_again() {
    for (answers, option, expected) in
        [(100, "", 1), (2, "", 3), (100, "expire 0", 6), (100, "max_idle_conns 1", 1)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (port, (upstream, connections)) = (free_port().await, upstream(answers).await);
        let corefile = format!(
            ".:{port} {{\n bind 127.0.0.1\n forward . {upstream} {{\n force_tcp\n {option}\n }}\n}}\n"
        );
        serve(folder.path(), &corefile, port).await;
        for i in 0..6 {
            assert_eq!(address(&udp(port, &format!("n{i}.example")).await), "192.0.2.80", "{option}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), expected, "{answers} {option}");
    }
}

#[tokio::test]
async fn datagrams_that_answer_something_else_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (port, socket) = (free_port().await, UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let corefile = format!(".:{port} {{\n bind 127.0.0.1\n forward . {}\n}}\n", socket.local_addr().unwrap());
    serve(folder.path(), &corefile, port).await;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
        let query = decode(&buffer[..len]).unwrap();
        let reply = |name: &str, id: u16, last: u8| {
            let asked = Message::query(id, name.parse().unwrap(), rtype::A);
            let mut reply = asked.reply(0);
            let data = Data::A([192, 0, 2, last].into());
            reply.answers.push(Record::new(asked.questions[0].name.clone(), 60, data));
            encode(&reply, 512)
        };
        for wrong in [
            reply("www.example", query.id ^ 1, 66),
            reply("other.example", query.id, 66),
            buffer[..len].to_vec(),
            vec![buffer[0], buffer[1], 0x80],
            reply("WWW.example", query.id, 80),
        ] {
            socket.send_to(&wrong, from).await.unwrap();
        }
    });
    assert_eq!(address(&udp(port, "www.example").await), "192.0.2.80");
}
