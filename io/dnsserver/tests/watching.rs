//! Who looks on: readers of dnstap and collectors of spans, on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use sealane_catalog::Snapshot;
use sealane_dns::chain::tap::frames::{Control, control, read};
use sealane_dns::message::protobuf::{Value, fields};
use sealane_dns::message::rtype;
use sealane_dns::{Message, decode, encode};
use sealane_dnsserver::{DnsError, Settings, check, run};
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Long enough to mean that it never happens.
const NEVER: Duration = Duration::from_secs(25);

/// A loopback port that nobody has: below those that the kernel gives to clients, and given out once.
async fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 80) as u16 * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        let tcp = TcpListener::bind(("127.0.0.1", port)).await;
        if tcp.is_ok() && UdpSocket::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

/// A server, and how it is told to end.
struct Running {
    port: u16,
    end: oneshot::Sender<()>,
    done: JoinHandle<Result<(), DnsError>>,
}

/// Runs a server with these lines.
async fn serve(folder: &Path, lines: &str) -> Running {
    let port = free_port().await;
    let path = folder.join("Corefile");
    let hosts = "hosts /nowhere {\n 192.0.2.7 a.example\n }";
    std::fs::write(&path, format!(".:{port} {{\n bind 127.0.0.1\n {lines}\n {hosts}\n}}\n")).unwrap();
    let settings = Settings::new(&path);
    check(&settings).unwrap();
    let (end, ended) = oneshot::channel();
    let done = tokio::spawn(async move {
        let (_sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
        run(settings, receiver, async { drop(ended.await) }).await
    });
    let up = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, up).await.expect("it never came up");
    Running { port, end, done }
}

impl Running {
    async fn ask(&self, name: &str) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(("127.0.0.1", self.port)).await.unwrap();
        socket.send(&encode(&Message::query(9, name.parse().unwrap(), rtype::A), 512)).await.unwrap();
        let mut buffer = [0; 4096];
        let len = tokio::time::timeout(NEVER, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        decode(&buffer[..len]).unwrap()
    }

    async fn ends(self) {
        self.end.send(()).unwrap();
        tokio::time::timeout(NEVER, self.done).await.expect("it never ends").unwrap().unwrap();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A reader of dnstap.
struct Reader<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Reader<S> {
    /// Shakes hands with who writes.
    async fn greeted(stream: S) -> Self {
        let mut reader = Reader(stream);
        assert_eq!(reader.next().await, Err(Control::Ready));
        reader.0.write_all(&control(Control::Accept)).await.unwrap();
        reader.0.flush().await.unwrap();
        assert_eq!(reader.next().await, Err(Control::Start));
        reader
    }

    /// A frame: the number of its kind and its message, or a control frame.
    async fn next(&mut self) -> Result<(u64, Message), Control> {
        let frame = async {
            let len = self.0.read_u32().await.unwrap();
            let data = if len == 0 { self.0.read_u32().await.unwrap() } else { len };
            let mut frame = vec![0; data as usize];
            self.0.read_exact(&mut frame).await.unwrap();
            if len == 0 {
                let (control, ours) = read(&frame).unwrap();
                assert!(ours);
                return Err(control);
            }
            let inner = fields(&frame).find_map(|field| match field.unwrap() {
                (14, Value::Bytes(inner)) => Some(inner.to_vec()),
                _ => None,
            });
            let (mut kind, mut message) = (0, None);
            for field in fields(&inner.unwrap()) {
                match field.unwrap() {
                    (1, Value::Varint(number)) => kind = number,
                    (10 | 14, Value::Bytes(bytes)) => message = Some(decode(bytes).unwrap()),
                    _ => {}
                }
            }
            Ok((kind, message.unwrap()))
        };
        tokio::time::timeout(NEVER, frame).await.expect("a frame")
    }

    /// The two frames of a query.
    async fn sees(&mut self, name: &str) {
        for (kind, answers) in [(5, 0), (6, 1)] {
            let (found, message) = self.next().await.unwrap();
            assert_eq!((found, message.questions[0].name.to_string()), (kind, format!("{name}.")));
            assert_eq!(message.answers.len(), answers);
        }
    }

    async fn ends(mut self) {
        assert_eq!(self.next().await, Err(Control::Stop));
        self.0.write_all(&control(Control::Finish)).await.unwrap();
        self.0.flush().await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_is_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("tap");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = serve(folder.path(), &format!("dnstap {} full", socket.display())).await;
    let mut reader = Reader::greeted(listener.accept().await.unwrap().0).await;
    for _ in 0..3 {
        server.ask("a.example").await;
        reader.sees("a.example").await;
    }
    // It goes, and another one comes: what was written meanwhile is lost.
    drop(reader);
    let again = async {
        loop {
            server.ask("a.example").await;
            if let Ok(accepted) = tokio::time::timeout(Duration::from_millis(20), listener.accept()).await {
                break accepted.unwrap().0;
            }
        }
    };
    let stream = tokio::time::timeout(NEVER, again).await.expect("another connection");
    let mut reader = Reader::greeted(stream).await;
    server.ask("a.example").await;
    // First perhaps the rest of what came before.
    server.ask("z.example").await;
    while reader.next().await.unwrap().1.questions[0].name.to_string() != "z.example." {}
    tokio::join!(server.ends(), reader.ends());
}

#[tokio::test]
async fn readers_that_connect() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, port, encrypted) = (folder.path().join("tap"), free_port().await, free_port().await);
    // Left by one that ended in a hurry.
    drop(UnixListener::bind(&socket).unwrap());
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.path().join("c"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("k"), key.serialize_pem()).unwrap();
    let dir = folder.path().display();
    let lines = format!(
        "dnstap listen {} full\n dnstap listen tcp://127.0.0.1:{port} full\n \
         dnstap listen tls://127.0.0.1:{encrypted} full {{\n tls {dir}/c {dir}/k\n }}",
        socket.display()
    );
    let server = serve(folder.path(), &lines).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(("127.0.0.1", encrypted)).await.unwrap();
    let tls = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let streams: [Box<dyn Stream>; 4] = [
        Box::new(UnixStream::connect(&socket).await.unwrap()),
        Box::new(UnixStream::connect(&socket).await.unwrap()),
        Box::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap()),
        Box::new(tls),
    ];
    let mut readers = Vec::new();
    for stream in streams {
        let mut reader = Reader::greeted(stream).await;
        readers.push(tokio::spawn(async move {
            reader.next().await.unwrap();
            reader
        }));
    }
    // Who has been greeted gets what comes from then on: soon.
    let seen = async {
        while !readers.iter().all(JoinHandle::is_finished) {
            server.ask("a.example").await;
        }
    };
    tokio::time::timeout(NEVER, seen).await.expect("all see something");
    let goodbye = async {
        for reader in readers {
            let mut reader = reader.await.unwrap();
            while reader.next().await.is_ok() {}
            reader.0.write_all(&control(Control::Finish)).await.unwrap();
            reader.0.flush().await.unwrap();
        }
    };
    tokio::join!(server.ends(), goodbye);
    assert!(!socket.exists());
    // A certificate that is none is found before anything starts.
    std::fs::write(folder.path().join("c"), "nothing").unwrap();
    let error = check(&Settings::new(folder.path().join("Corefile"))).unwrap_err().to_string();
    assert!(error.contains("dnstap: ") && error.contains("no certificate in PEM"), "{error}");
}

#[tokio::test]
async fn a_reader_behind_tls() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (option, trusted) in [("", false), ("skipverify", true)] {
        let lines = format!("dnstap tls://127.0.0.1:{port} full {{\n {option}\n }}");
        let server = serve(folder.path(), &lines).await;
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await;
        assert_eq!(stream.is_ok(), trusted, "{option}");
        if let Ok(stream) = stream {
            let mut reader = Reader::greeted(stream).await;
            server.ask("a.example").await;
            reader.sees("a.example").await;
            tokio::join!(server.ends(), reader.ends());
        } else {
            server.ends().await;
        }
    }
}

/// Collects bodies.
async fn collector() -> (u16, mpsc::UnboundedReceiver<(String, Json)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(request.headers()["content-type"], "application/json");
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    sender.send((path, serde_json::from_slice(&body).unwrap())).unwrap();
                    let response = http::Response::builder().status(202).body(Empty::<bytes::Bytes>::new());
                    Ok::<_, std::convert::Infallible>(response.unwrap())
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (port, receiver)
}

#[tokio::test]
async fn spans_are_posted_in_batches() {
    for (kind, path, option) in [("zipkin", "/api/v2/spans", "zipkin"), ("otlp", "/v1/traces", "otlp")] {
        let folder = tempfile::tempdir().unwrap();
        let (port, mut bodies) = collector().await;
        let lines = format!(
            "trace {kind} localhost:{port} {{\n {option}_max_batch_size 4\n {option}_max_batch_interval 1h\n }}"
        );
        let server = serve(folder.path(), &lines).await;
        // Two spans each: the query's, and that of `hosts`.
        let spans = |body: &Json| match kind {
            "zipkin" => body.as_array().unwrap().len(),
            _ => body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len(),
        };
        for _ in 0..3 {
            server.ask("a.example").await;
        }
        let (found, body) = tokio::time::timeout(NEVER, bodies.recv()).await.expect("a batch").unwrap();
        assert_eq!((found.as_str(), spans(&body)), (path, 4));
        // What waits goes when the server does.
        server.ends().await;
        let (_, body) = tokio::time::timeout(NEVER, bodies.recv()).await.expect("the rest").unwrap();
        assert_eq!(spans(&body), 2);
    }
}

#[tokio::test]
async fn collectors_that_are_not_there_cost_nothing_but_their_spans() {
    let folder = tempfile::tempdir().unwrap();
    let (port, page) = (free_port().await, free_port().await);
    let lines = format!(
        "prometheus 127.0.0.1:{page}\n dnstap tcp://127.0.0.1:{port} full\n trace 127.0.0.1:{port} {{\n \
         zipkin_max_batch_size 1\n }}"
    );
    let server = serve(folder.path(), &lines).await;
    for _ in 0..2 {
        assert_eq!(server.ask("a.example").await.answers.len(), 1);
    }
    let counted = async {
        loop {
            let mut stream = TcpStream::connect(("127.0.0.1", page)).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            let tap = format!("sealane_dns_dnstap_dropped_total{{endpoint=\"tcp://127.0.0.1:{port}\"}} 4");
            let url = format!("http://127.0.0.1:{port}/api/v2/spans");
            let trace = format!("sealane_dns_trace_dropped_total{{endpoint=\"{url}\"}} 6");
            if [tap, trace].iter().all(|line| text.lines().any(|l| l == line)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(NEVER, counted).await.expect("what was dropped is counted");
    server.ends().await;
}
