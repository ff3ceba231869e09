//! [`Pki`]: the CA and what it signs.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use time::OffsetDateTime;

use crate::{PkiError, TokenKey, files};

/// Ten years, as kubeadm's CA has.
const CA_SECONDS: i64 = 10 * 365 * 86_400;
/// One year, as kubeadm's certificates have; made anew at each start.
const LEAF_SECONDS: i64 = 365 * 86_400;
/// Clocks of client and server may differ by so much.
const SKEW_SECONDS: i64 = 3600;

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct KeyPairPem {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for KeyPairPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyPairPem(..)")
    }
}

/// Who a client certificate says its bearer is: common name and organisations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// The cluster's keys.
#[derive(Debug)]
pub struct Pki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    tokens: TokenKey,
    now: i64,
}

impl Pki {
    /// Reads the keys in `dir`, or makes them. `now`: seconds since 1970.
    ///
    /// # Errors
    /// Where a file cannot be read, written or understood.
    pub fn open(dir: &Path, now: i64) -> Result<Self, PkiError> {
        let (ca_path, key_path, token_path) = (dir.join("ca.crt"), dir.join("ca.key"), dir.join("sa.key"));
        let (ca_pem, key) = match (files::read(&ca_path)?, files::read(&key_path)?) {
            (Some(ca), Some(key)) => {
                let key = KeyPair::from_pem(&key).map_err(|e| unusable(&key_path, &e))?;
                (ca, key)
            }
            _ => make_ca(&ca_path, &key_path, now)?,
        };
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(|e| unusable(&ca_path, &e))?;
        let tokens = match files::read(&token_path)? {
            Some(pem) => TokenKey::from_pem(&pem).map_err(|e| unusable(&token_path, &e))?,
            None => {
                let key = KeyPair::generate().map_err(make)?;
                files::write_private(&token_path, key.serialize_pem().as_bytes())?;
                TokenKey::from_pem(&key.serialize_pem()).map_err(|e| unusable(&token_path, &e))?
            }
        };
        Ok(Pki { ca_pem, issuer, tokens, now })
    }

    /// The CA's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Signs and checks ServiceAccount tokens.
    pub fn tokens(&self) -> &TokenKey {
        &self.tokens
    }

    /// A server's certificate for these names and addresses.
    ///
    /// # Errors
    /// Where a name is not a DNS name.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<KeyPairPem, PkiError> {
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into().map_err(make)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.distinguished_name = name_of("kube-apiserver", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A client's certificate for a user of one group.
    ///
    /// # Errors
    /// Where the CA's key cannot sign.
    pub fn client(&self, user: &str, group: &str) -> Result<KeyPairPem, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name_of(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<KeyPairPem, PkiError> {
        params.not_before = at(self.now - SKEW_SECONDS);
        params.not_after = at(self.now + LEAF_SECONDS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(KeyPairPem { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// TLS for a server with this certificate; clients may show one of the CA's, or none.
    ///
    /// # Errors
    /// Where the key does not fit the certificate.
    pub fn server_config(&self, pair: &KeyPairPem) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(make)?).map_err(make)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(make)?;
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(make)?];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(make)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(make)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(make)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A kubeconfig with everything in it, for a server at `url` (`https://127.0.0.1:6443`). JSON, which is YAML.
    pub fn kubeconfig(&self, url: &str, user: &str, pair: &KeyPairPem) -> String {
        let data = |pem: &str| STANDARD.encode(pem);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sealane", "cluster": {"server": url, "certificate-authority-data": data(&self.ca_pem)}}],
            "users": [{"name": user, "user": {
                "client-certificate-data": data(&pair.certificate), "client-key-data": data(&pair.key)}}],
            "contexts": [{"name": "sealane", "context": {"cluster": "sealane", "user": user}}],
            "current-context": "sealane",
        });
        format!("{config:#}\n")
    }
}

/// Who showed this certificate, which the TLS layer has verified.
pub fn peer_identity(certificate: &[u8]) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Some(Identity { user, groups })
}

fn make_ca(ca_path: &Path, key_path: &Path, now: i64) -> Result<(String, KeyPair), PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name_of("sealane", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    params.not_before = at(now - SKEW_SECONDS);
    params.not_after = at(now + CA_SECONDS);
    let key = KeyPair::generate().map_err(make)?;
    let pem = params.self_signed(&key).map_err(make)?.pem();
    // The key first: a certificate without its key would be taken for a whole pair's half and be made anew.
    files::write_private(key_path, key.serialize_pem().as_bytes())?;
    files::write_private(ca_path, pem.as_bytes())?;
    Ok((pem, key))
}

fn name_of(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common);
    name
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn make(e: impl std::fmt::Display) -> PkiError {
    PkiError::Make(e.to_string())
}

fn unusable(path: &Path, e: &dyn std::fmt::Display) -> PkiError {
    PkiError::Unusable { path: path.to_owned(), what: e.to_string() }
}
