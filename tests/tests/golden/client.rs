//! A client of the API over HTTPS: one connection a request, the answer's octets as they came.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

/// For connecting and for each read: longer than any recorded watch.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Values of a header, in the order in which they came.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// A request that was sent; its answer is still to be read.
pub struct Pending {
    stream: StreamOwned<ClientConnection, TcpStream>,
    read: Vec<u8>,
}

/// Who asks, and where.
pub struct Client {
    address: SocketAddr,
    administrator: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
}

impl Client {
    pub fn new(kubeconfig: &Path) -> Client {
        // JSON, which is YAML: one cluster, one user.
        let config: Value = serde_json::from_slice(&std::fs::read(kubeconfig).unwrap()).unwrap();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let data = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let server = cluster["server"].as_str().and_then(|s| s.strip_prefix("https://")).unwrap();
        let address = server.parse().unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&data(&cluster["certificate-authority-data"])) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let chain = data(&user["client-certificate-data"]);
        let chain = CertificateDer::pem_slice_iter(&chain).map(|c| c.unwrap()).collect();
        let key = PrivateKeyDer::from_pem_slice(&data(&user["client-key-data"])).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
            builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots.clone())
        };
        let administrator = Arc::new(builder().with_client_auth_cert(chain, key).unwrap());
        Client { address, administrator, nobody: Arc::new(builder().with_no_client_auth()) }
    }

    /// Sends a request: as the administrator, or with no certificate.
    pub fn send(
        &self,
        administrator: bool,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Pending {
        let config = if administrator { &self.administrator } else { &self.nobody };
        let name = ServerName::from(self.address.ip());
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let socket = TcpStream::connect_timeout(&self.address, PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let host = self.address;
        let mut wire = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            wire.push_str(&format!("{name}: {value}\r\n"));
        }
        wire.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let bytes = [wire.as_bytes(), body].concat();
        stream.write_all(&bytes).unwrap();
        Pending { stream, read: Vec::new() }
    }
}

impl Pending {
    /// Waits for the head: the server has begun to do what was asked.
    pub fn begun(&mut self) {
        let mut part = [0; 4096];
        while !self.read.windows(4).any(|w| w == b"\r\n\r\n") {
            let length = self.stream.read(&mut part).expect("an answer's head");
            assert!(length > 0, "closed before the answer's head");
            self.read.extend_from_slice(&part[..length]);
        }
    }

    /// The whole answer.
    pub fn answer(self) -> Answer {
        let Pending { mut stream, read: mut bytes } = self;
        match stream.read_to_end(&mut bytes) {
            // Whether the close was announced makes no difference to what came.
            Err(e) if e.kind() != ErrorKind::UnexpectedEof => panic!("reading an answer: {e}"),
            _ => {}
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer's head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers = lines.map(header).collect();
        let mut answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
        if answer.headers("transfer-encoding") == ["chunked"] {
            answer.body = unchunked(&answer.body);
        }
        answer
    }
}

/// RFC 9112, section 7.1.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}
