//! TLS: how listeners are known to clients and clients to them (`plugin/tls`), and how upstreams are known.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, KeyLog, RootCertStore, ServerConfig,
    SignatureScheme,
};
use sealane_dns::Config;
use sealane_dns::chain::tap::Way as TapWay;
use sealane_dns::chain::{ClientAuth, Scheme, Tap, TlsClient, TlsServer};
use sealane_dns::plugins::dnstap::Dnstap;
use sealane_dns::plugins::forward::Forward;
use sealane_dns::plugins::grpc::Grpc;
use tokio_rustls::TlsAcceptor;

fn bad(what: &str, why: impl std::fmt::Display) -> String {
    format!("{what}: {why}")
}

/// Authorities of a PEM text, or the system's.
fn roots(what: &str, pem: Option<&str>) -> std::result::Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in certificates(what, pem)? {
                roots.add(certificate).map_err(|why| bad(what, why))?;
            }
        }
        // What of them can't be read is left out, as everywhere.
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(Arc::new(roots))
}

fn certificates(what: &str, pem: &str) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let list: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let list = list.map_err(|why| bad(what, why))?;
    if list.is_empty() { Err(bad(what, "no certificate in PEM")) } else { Ok(list) }
}

fn key(what: &str, pem: &str) -> std::result::Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|why| bad(what, format!("no private key: {why}")))
}

/// How upstreams are spoken to.
pub(crate) fn client(tls: &TlsClient) -> std::result::Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| bad("TLS", why))?
        .with_root_certificates(roots("CA", tls.authorities.as_deref())?);
    Ok(Arc::new(match &tls.identity {
        Some((chain, private)) => builder
            .with_client_auth_cert(certificates("certificate", chain)?, key("key", private)?)
            .map_err(|why| bad("certificate and key", why))?,
        None => builder.with_no_client_auth(),
    }))
}

/// The name that an upstream's certificate must have.
pub(crate) fn server_name(tls: &TlsClient, to: SocketAddr) -> Result<ServerName<'static>> {
    match &tls.server_name {
        Some(name) => ServerName::try_from(name.clone()).map_err(Error::other),
        None => Ok(ServerName::IpAddress(to.ip().into())),
    }
}

/// How a reader of dnstap or of spans is spoken to, by `HOST:PORT`, and the name that its certificate must have.
pub(crate) fn reader(
    host: &str,
    skip_verify: bool,
) -> std::result::Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|why| bad(host, why))?;
    let mut config = (*client(&TlsClient::default())?).clone();
    if skip_verify {
        let provider = Arc::new(ring::default_provider());
        config.dangerous().set_certificate_verifier(Arc::new(AnyServer { provider }));
    }
    Ok((Arc::new(config), name))
}

/// Whether all that a configuration names can be used.
pub(crate) fn check(config: &Config) -> std::result::Result<(), String> {
    for upstream in config.plugins_of::<Forward>().flat_map(Forward::tls_clients) {
        client(upstream).map_err(|why| bad("forward", why))?;
    }
    for upstream in config.plugins_of::<Grpc>().filter_map(Grpc::tls_client) {
        client(upstream).map_err(|why| bad("grpc", why))?;
    }
    for dnstap in config.plugins_of::<Dnstap>() {
        tap_identity(dnstap.tap()).map_err(|why| bad("dnstap", why))?;
    }
    for block in &config.blocks {
        // Nothing is written yet.
        let tls = block.settings.tls.as_ref().map(|tls| TlsServer { keylog: None, ..tls.clone() });
        tls.map_or(Ok(()), |tls| server(&tls, Scheme::Tls).map(drop))?;
    }
    Ok(())
}

/// How readers of dnstap that connect to us are spoken to; `None`: without TLS.
pub(crate) fn tap_identity(tap: &Tap) -> std::result::Result<Option<TlsAcceptor>, String> {
    let TapWay::Listen { identity: Some((certificate, key)), authorities } = &tap.way else {
        return Ok(None);
    };
    let client_auth = match (authorities, tap.skip_verify) {
        (None, _) => ClientAuth::None,
        (Some(_), true) => ClientAuth::VerifyIfGiven,
        (Some(_), false) => ClientAuth::RequireAndVerify,
    };
    let settings = TlsServer {
        certificate: certificate.clone(),
        key: key.clone(),
        authorities: authorities.clone(),
        client_auth,
        keylog: None,
    };
    server(&settings, Scheme::Tls).map(|config| Some(TlsAcceptor::from(config)))
}

fn read(path: &str) -> std::result::Result<String, String> {
    std::fs::read_to_string(path).map_err(|why| bad(path, why))
}

/// How a listener is spoken to.
pub(crate) fn server(tls: &TlsServer, scheme: Scheme) -> std::result::Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let authorities = || {
        let pem = tls.authorities.as_deref().map(|path| read(path).map(|pem| (path, pem))).transpose()?;
        let (what, pem) = pem.as_ref().map_or(("CA", None), |(path, pem)| (*path, Some(pem.as_str())));
        roots(what, pem)
    };
    let verifier = |optional: bool| {
        let builder = WebPkiClientVerifier::builder_with_provider(authorities()?, provider.clone());
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map_err(|why| bad(tls.authorities.as_deref().unwrap_or("the system's CAs"), why))
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|why| bad("TLS", why))?;
    let builder = match tls.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Request => builder.with_client_cert_verifier(AnyClient::new(provider.clone(), false)),
        ClientAuth::Require => builder.with_client_cert_verifier(AnyClient::new(provider.clone(), true)),
        ClientAuth::VerifyIfGiven => builder.with_client_cert_verifier(verifier(true)?),
        ClientAuth::RequireAndVerify => builder.with_client_cert_verifier(verifier(false)?),
    };
    let chain = certificates(&tls.certificate, &read(&tls.certificate)?)?;
    let private = key(&tls.key, &read(&tls.key)?)?;
    let mut config = builder.with_single_cert(chain, private).map_err(|why| bad(&tls.certificate, why))?;
    match scheme {
        Scheme::Https => config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Scheme::Grpc => config.alpn_protocols = vec![b"h2".to_vec()],
        _ => {}
    }
    if let Some(path) = &tls.keylog {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        config.key_log = Arc::new(Keys(Mutex::new(file.map_err(|why| bad(path, why))?)));
    }
    Ok(Arc::new(config))
}

/// `keylog`: secrets for who looks into recorded connections (NSS's key log format).
#[derive(Debug)]
struct Keys(Mutex<File>);

impl KeyLog for Keys {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // A disk that is full is no reason to refuse connections.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

/// What both say of signatures, in rustls's words: they are checked as ever, by the `provider`.
macro_rules! checks_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// `request` and `require`: any certificate will do, its bearer must have its key (crypto/tls's
/// `RequestClientCert`, `RequireAnyClientCert`).
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
    required: bool,
}

impl AnyClient {
    fn new(provider: Arc<CryptoProvider>, required: bool) -> Arc<Self> {
        Arc::new(AnyClient { provider, required })
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    checks_signatures!();
}

/// `skipverify`: any certificate will do, its bearer must have its key (crypto/tls's `InsecureSkipVerify`).
#[derive(Debug)]
struct AnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    checks_signatures!();
}
