//! The cluster's own certificate authority, certificates and tokens, kept on disk.
//!
//! What it is for: a CA made at the first start, certificates signed by it (server, client), TLS configurations
//! made of them, kubeconfig files, and the keys that sign ServiceAccount tokens.
//!
//! What it may not know: who may do what with them.
//!
//! ```
//! let dir = tempfile::tempdir().unwrap();
//! let pki = sealane_pki::Pki::open(dir.path(), 1_700_000_000).unwrap();
//! let admin = pki.client("admin", "system:masters").unwrap();
//! assert!(admin.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
//! assert!(pki.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod authority;
mod files;
mod token;

use std::path::PathBuf;

pub use authority::{Identity, KeyPairPem, Pki, peer_identity};
pub use files::write_private;
pub use token::{TokenError, TokenKey};

/// Why a key or certificate is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}; remove the folder to have new keys made (clients need the new kubeconfig then)", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}
