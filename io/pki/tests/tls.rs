//! A handshake with the certificates made here, and keys that outlive the process.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use sealane_pki::{Identity, Pki, peer_identity};

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), String> {
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|e| e.to_string())?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|e| e.to_string())?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err("no end".into())
}

fn client_config(trust: &Pki, signer: &Pki) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trust.ca_pem().as_bytes()).unwrap()).unwrap();
    let pair = signer.client("system:node:n1", "system:nodes").unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
        )
        .unwrap()
}

#[test]
fn client_and_server_know_each_other_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), now()).unwrap();
    let again = Pki::open(dir.path(), now()).unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    let pair = again.server(&["kubernetes"], &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).unwrap();
    let mut server = ServerConnection::new(Arc::new(again.server_config(&pair).unwrap())).unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config(&first, &first)), name).unwrap();
    shake(&mut client, &mut server).unwrap();
    let shown = peer_identity(&server.peer_certificates().unwrap()[0]).unwrap();
    let groups = vec!["system:nodes".into()];
    assert_eq!(shown, Identity { user: "system:node:n1".into(), groups });
    let token = first.tokens().sign(&serde_json::json!({"exp": i64::MAX})).unwrap();
    assert!(again.tokens().verify(&token, 0).is_ok());
}

#[test]
fn strangers_are_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (Pki::open(ours.path(), now()).unwrap(), Pki::open(theirs.path(), now()).unwrap());
    let pair = ours.server(&["kubernetes"], &[]).unwrap();
    let config = Arc::new(ours.server_config(&pair).unwrap());
    let mut server = ServerConnection::new(config).unwrap();
    let mut client =
        ClientConnection::new(Arc::new(client_config(&ours, &theirs)), "kubernetes".try_into().unwrap())
            .unwrap();
    assert!(shake(&mut client, &mut server).is_err());
}

#[test]
fn keys_are_for_their_owner_and_damage_is_said() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), now()).unwrap();
    for file in ["ca.key", "sa.key"] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    std::fs::write(dir.path().join("ca.key"), "rubbish").unwrap();
    let error = Pki::open(dir.path(), now()).unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("remove the folder"), "{error}");
}
