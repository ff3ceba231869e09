//! The API as any client sees it: HTTPS with the certificate of the kubeconfig, one request after the other on a
//! connection that stays open. Blocking and small, so that what is measured is the server's time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

use crate::Result;

/// How long an answer may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the API is, and what to show there.
#[derive(Clone)]
pub(crate) struct Cluster {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Cluster {
    /// Reads the kubeconfig that `sealane up` writes (JSON, everything in it).
    pub(crate) fn from_kubeconfig(path: &Path) -> Result<Cluster> {
        let config: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let text = |pointer: &str| {
            config.pointer(pointer).and_then(Value::as_str).ok_or_else(|| format!("kubeconfig: no {pointer}"))
        };
        let pem = |pointer: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(text(pointer)?)?) };
        let server = text("/clusters/0/cluster/server")?;
        let address = server.strip_prefix("https://").ok_or("kubeconfig: not an https server")?.parse()?;
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")?)
        {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Cluster { address, tls: Arc::new(tls) })
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(self.address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = ClientConnection::new(self.tls.clone(), name)?;
        Ok(Connection { stream: BufReader::new(StreamOwned::new(tls, tcp)), host: self.address })
    }
}

/// What an answer's head says of its body.
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
}

/// One open connection.
pub(crate) struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: SocketAddr,
}

impl Connection {
    /// The status and the body as it came.
    pub(crate) fn raw(
        &mut self,
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<(u16, Vec<u8>)> {
        self.send(method, path, body)?;
        let head = self.head()?;
        let mut bytes = Vec::new();
        if head.chunked {
            while self.chunk(&mut bytes)? {}
        } else if let Some(length) = head.length {
            bytes.resize(length, 0);
            self.stream.read_exact(&mut bytes)?;
        }
        Ok((head.status, bytes))
    }

    /// The answer's object; any status but 2xx is an error.
    fn object(&mut self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let (status, bytes) = self.raw(method, path, body)?;
        if !(200..300).contains(&status) {
            return Err(
                format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes).trim()).into()
            );
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Value> {
        self.object("GET", path, None)
    }

    pub(crate) fn create(&mut self, path: &str, object: &Value) -> Result<Value> {
        self.object("POST", path, Some(("application/json", object)))
    }

    pub(crate) fn merge(&mut self, path: &str, patch: &Value) -> Result<Value> {
        self.object("PATCH", path, Some(("application/merge-patch+json", patch)))
    }

    pub(crate) fn delete(&mut self, path: &str) -> Result<Value> {
        self.object("DELETE", path, None)
    }

    /// The events of a collection's objects from now on. The connection ends with them.
    pub(crate) fn watch(mut self, collection: &str) -> Result<Watch> {
        let list = self.get(collection)?;
        let revision =
            list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
        let path = format!("{collection}?watch=true&resourceVersion={revision}");
        self.send("GET", &path, None)?;
        let head = self.head()?;
        if head.status != 200 || !head.chunked {
            return Err(format!("GET {path}: {}, not a stream of events", head.status).into());
        }
        Ok(Watch { connection: self, pending: Vec::new() })
    }

    fn send(&mut self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<()> {
        let (kind, body) = match body {
            Some((kind, object)) => (format!("Content-Type: {kind}\r\n"), serde_json::to_vec(object)?),
            None => (String::new(), Vec::new()),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n{kind}Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(&[head.into_bytes(), body].concat())?;
        Ok(stream.flush()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    fn head(&mut self) -> Result<Head> {
        let first = self.line()?;
        let status =
            first.split(' ').nth(1).ok_or_else(|| format!("not an HTTP answer: {first}"))?.parse()?;
        let mut head = Head { status, length: None, chunked: false };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.trim().eq_ignore_ascii_case("chunked");
            }
        }
        Ok(head)
    }

    /// Appends one chunk (RFC 9112 section 7.1); false after the last.
    fn chunk(&mut self, into: &mut Vec<u8>) -> Result<bool> {
        let size = self.line()?;
        let length = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)?;
        let start = into.len();
        into.resize(start + length, 0);
        self.stream.read_exact(&mut into[start..])?;
        self.line()?;
        Ok(length > 0)
    }
}

/// A watch's events, as they come.
pub(crate) struct Watch {
    connection: Connection,
    pending: Vec<u8>,
}

impl Watch {
    /// Reads on a thread of its own, so that an event's time is when it came. It ends with the stream.
    pub(crate) fn follow(mut self) -> Receiver<(Instant, Value)> {
        let (send, events) = channel();
        thread::spawn(move || {
            while let Ok(event) = self.next() {
                if send.send((Instant::now(), event)).is_err() {
                    return;
                }
            }
        });
        events
    }

    /// The next event; an error at the stream's end or after a long silence.
    fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let event = serde_json::from_slice(&self.pending[..end])?;
                self.pending.drain(..=end);
                return Ok(event);
            }
            if !self.connection.chunk(&mut self.pending)? {
                return Err("the watch has ended".into());
            }
        }
    }
}
