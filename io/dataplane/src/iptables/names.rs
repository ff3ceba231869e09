//! Names of chains: kube-proxy's own.

use sealane_catalog::{NamespacedName, Protocol};
use sealane_proxy::{Backend, Frontend};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// What leads from KUBE-SERVICES to all endpoints.
pub(super) const SVC: &str = "KUBE-SVC-";
/// The same to those of this node.
pub(super) const SVL: &str = "KUBE-SVL-";
/// Where packets for external addresses go.
pub(super) const EXT: &str = "KUBE-EXT-";
/// Whom a load balancer's address admits.
pub(super) const FW: &str = "KUBE-FW-";
/// One endpoint.
pub(super) const SEP: &str = "KUBE-SEP-";

/// Characters of the hash that a name has.
const HASH: usize = 16;
/// A comment's length, its end included (XT_MAX_COMMENT_LEN).
const COMMENT: usize = 256;

/// A Service's port, whose chains are its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServicePort {
    service: NamespacedName,
    port: Arc<str>,
    protocol: Protocol,
}

impl ServicePort {
    /// Whose port a frontend is.
    pub(super) fn of(frontend: &Frontend) -> Self {
        Self {
            service: frontend.service.clone(),
            port: frontend.port_name.clone(),
            protocol: frontend.key.protocol,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// One of its chains, by the prefix: base32 of SHA-256, which kube-proxy cuts to 16 characters.
    pub(super) fn chain(&self, prefix: &str) -> String {
        format!("{prefix}{}", hash(&format!("{self}{}", protocol(self.protocol))))
    }

    /// An endpoint's chain.
    pub(super) fn endpoint_chain(&self, backend: &Backend) -> String {
        format!("{SEP}{}", hash(&format!("{self}{}{backend}", protocol(self.protocol))))
    }

    /// A comment about it, as an argument: quoted, and nothing in it that could end the quotes or the line.
    pub(super) fn comment(&self, text: impl FnOnce(&str) -> String) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() || " ./:-_<>[],".contains(c) { c } else { '?' };
        let shown: String = text(&self.to_string()).chars().map(legal).take(COMMENT - 1).collect();
        format!("-m comment --comment \"{shown}\"")
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service.namespace, self.service.name)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A protocol as iptables and the hash write it.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    let bit = |at: usize| usize::from(digest[at / 8] >> (7 - at % 8) & 1);
    let digit = |place: usize| (0..5).fold(0, |value, at| value << 1 | bit(place * 5 + at));
    (0..HASH).map(|place| char::from(ALPHABET[digit(place)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, protocol: Protocol) -> ServicePort {
        let (service, port) = name.split_once(':').unwrap_or((name, ""));
        let (namespace, name) = service.split_once('/').unwrap();
        ServicePort { service: NamespacedName::new(namespace, name), port: port.into(), protocol }
    }

    /// Names that kube-proxy gave: those of its own tests, and of articles about it.
    #[test]
    fn names_are_kube_proxys() {
        let table = [
            ("default/backend:grpc", SVC, "KUBE-SVC-EHPSUHUW2JIVMPQD"),
            ("ns2/svc2:p80", SVC, "KUBE-SVC-GNZBNJ2PO5MGZ6GT"),
            ("ns2/svc2:p80", EXT, "KUBE-EXT-GNZBNJ2PO5MGZ6GT"),
            ("ns3/svc3:p80", SVC, "KUBE-SVC-X27LE4BHSL4DOUIK"),
            ("ns5/svc5:p80", FW, "KUBE-FW-NUKIZ6OKUXPJNT4C"),
            ("default/kubernetes:https", SVC, "KUBE-SVC-NPX46M4PTMTKRN6Y"),
            ("kube-system/kube-dns:dns-tcp", SVC, "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ];
        for (name, prefix, expected) in table {
            assert_eq!(port(name, Protocol::Tcp).chain(prefix), expected, "{name}");
        }
        assert_eq!(port("kube-system/kube-dns:dns", Protocol::Udp).chain(SVC), "KUBE-SVC-TCOU7JCQXEZGVUNU");
        let endpoints = [
            ("default/backend:grpc", "10.80.128.247:8000", "KUBE-SEP-MPFDKKCFY2PBGU4S"),
            ("default/backend:grpc", "10.80.153.167:8000", "KUBE-SEP-LMG22MVGXQA364F6"),
            ("default/backend:grpc", "10.80.167.226:8000", "KUBE-SEP-EX64MF3TTLO7J5EC"),
            ("ns4/svc4:p80", "10.180.0.5:80", "KUBE-SEP-C6EBXVWJJZMIWKLZ"),
            ("ns2/svc2:p80", "10.180.0.2:80", "KUBE-SEP-RS4RBKLTHTF2IUXJ"),
        ];
        for (name, endpoint, expected) in endpoints {
            let at: std::net::SocketAddr = endpoint.parse().unwrap();
            let backend = Backend { address: at.ip(), port: at.port() };
            assert_eq!(port(name, Protocol::Tcp).endpoint_chain(&backend), expected, "{endpoint}");
        }
    }

    #[test]
    fn nothing_ends_a_comment_but_its_end() {
        let odd = port("de\"fault\n-A/x'$(y):p", Protocol::Tcp);
        assert_eq!(
            odd.comment(|name| format!("{name} cluster IP")),
            "-m comment --comment \"de?fault?-A/x???y?:p cluster IP\""
        );
        let long = odd.comment(|_| "x".repeat(1000));
        assert_eq!(long.len(), "-m comment --comment \"\"".len() + COMMENT - 1);
    }
}
