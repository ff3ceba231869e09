//! A registry of the test's own: plain HTTP, the pulling half of the OCI distribution API.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::image::{Image, digest};
use crate::machine::Machine;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Path below `/v2/` to media type and content.
type Content = HashMap<String, (&'static str, Vec<u8>)>;

/// Serves images on a machine of the test's until dropped.
pub struct Registry {
    stop: Arc<AtomicBool>,
    content: Arc<Mutex<Content>>,
    served: Arc<AtomicUsize>,
}

impl Registry {
    /// Opens it; `address` becomes one of the machine's own.
    #[track_caller]
    pub fn open(machine: &Machine, address: Ipv4Addr, port: u16) -> Registry {
        if !address.is_loopback() {
            machine.add_address(address);
        }
        let listener = machine.within(|| TcpListener::bind(SocketAddr::from((address, port)))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let registry = Registry { stop: Arc::default(), content: Arc::default(), served: Arc::default() };
        let (stop, content) = (Arc::clone(&registry.stop), Arc::clone(&registry.content));
        let served = Arc::clone(&registry.served);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (content, served) = (Arc::clone(&content), Arc::clone(&served));
                        std::thread::spawn(move || drop(serve(&stream, &content, &served)));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        registry
    }

    /// Takes an image; the reference's part before the first `/` is the registry's own name.
    #[track_caller]
    pub fn push(&self, image: &Image) {
        let (_, name) = image.reference.split_once('/').expect("a registry's name");
        let (repository, tag) = name.rsplit_once(':').expect("a tag");
        let (layer, layer_digest) = image.layer().gzip();
        let config = image.config().to_string().into_bytes();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer_digest, "size": layer.len()}]});
        let manifest = manifest.to_string().into_bytes();
        let mut content = self.content.lock().unwrap();
        let blob = "application/octet-stream";
        content.insert(format!("{repository}/manifests/{tag}"), (MANIFEST, manifest.clone()));
        content.insert(format!("{repository}/manifests/{}", digest(&manifest)), (MANIFEST, manifest));
        content.insert(format!("{repository}/blobs/{}", digest(&config)), (blob, config));
        content.insert(format!("{repository}/blobs/{layer_digest}"), (blob, layer.clone()));
    }

    /// How many manifests were asked for and found.
    pub fn pulls(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(stream: &TcpStream, content: &Mutex<Content>, served: &AtomicUsize) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while lines.read_line(&mut line)? > 2 {
            line.clear();
        }
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        let key = path.strip_prefix("/v2/").unwrap_or_default();
        let found = if path == "/v2/" {
            Some(("application/json", b"{}".to_vec()))
        } else {
            content.lock().unwrap().get(key).cloned()
        };
        if found.is_some() && key.contains("/manifests/") {
            served.fetch_add(1, Ordering::Relaxed);
        }
        let unknown = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
        let (status, (kind, body)) = match found {
            Some(found) => ("200 OK", found),
            None => ("404 Not Found", ("application/json", unknown.to_string().into_bytes())),
        };
        let mut head =
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        if key.contains("/manifests/") {
            head += &format!("Docker-Content-Digest: {}\r\n", digest(&body));
        }
        head += "\r\n";
        let mut out = stream;
        out.write_all(head.as_bytes())?;
        if method != "HEAD" {
            out.write_all(&body)?;
        }
    }
}
