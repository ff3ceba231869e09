//! TLS connections on loopback: who a certificate says, and what becomes of connections when the server stops.

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sealane_apiserver::nodes::NoNodes;
use sealane_apiserver::{ApiServer, Config};
use sealane_pki::{KeyPairPem, Pki};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// Seconds since 1970, as certificates need it.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn client(pki: &Pki, pair: Option<&KeyPairPem>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match pair {
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
            config
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap())
                .unwrap()
        }
        None => config.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

async fn connect(tls: &TlsConnector, address: std::net::SocketAddr) -> http1::SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(sender: &mut http1::SendRequest<Empty<Bytes>>, path: &str) -> http::Response<Incoming> {
    let request = Request::get(path).header("host", "localhost").body(Empty::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn certificates_name_users_and_a_stop_ends_what_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(dir.path(), now()).unwrap());
    let pair = pki.server(&["localhost"], &[]).unwrap();
    let tls = Arc::new(pki.server_config(&pair).unwrap());
    let store = Arc::new(sealane_store::MemoryStore::new());
    let tokens: Arc<Pki> = Arc::clone(&pki);
    let server = ApiServer::new(Config::default(), store, Arc::new(NoNodes), tokens).unwrap();
    server.bootstrap().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, tls).await }
    });

    let admin = pki.client("admin", "system:masters").unwrap();
    let mut ours = connect(&client(&pki, Some(&admin)), address).await;
    let answer = get(&mut ours, "/api/v1/namespaces").await;
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();

    let mut anyone = connect(&client(&pki, None), address).await;
    let answer = get(&mut anyone, "/api/v1/namespaces").await;
    assert_eq!(answer.status(), 403);
    let said = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&said).contains("system:anonymous"));

    let mut watch = get(&mut ours, "/api/v1/namespaces?watch=true").await.into_body();
    let first = watch.frame().await.unwrap().unwrap();
    assert!(first.data_ref().unwrap().starts_with(b"{\"type\":\"ADDED\""));
    server.shut_down();
    // The watch ends as a whole answer does, and nothing is left to serve.
    watch.collect().await.unwrap();
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
