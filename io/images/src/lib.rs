//! The node's images: archives, registries, layers.
//!
//! What it is for: an [`ImageStore`] in a folder, filled from OCI and docker archives ([`ImageStore::load`]) and
//! from registries ([`ImageStore::pull`]), and the images that are built in. Layers are unpacked once, each into
//! a folder of its own, ready to be an overlay's lower directory.
//!
//! What it may not know: Pods and their pull policies; those are the node's.
//!
//! Every change is one rename, so several processes may use one folder: what `sealane image load` adds, a running
//! `sealane up` finds.
//!
//! ```
//! let dir = tempfile::tempdir().unwrap();
//! let store = sealane_images::ImageStore::open(dir.path()).unwrap();
//! assert!(store.list().unwrap().is_empty());
//! assert_eq!(sealane_images::normalize("nginx").unwrap(), "docker.io/library/nginx:latest");
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod archive;
mod builtin;
mod layer;
mod registry;
mod store;

use std::path::PathBuf;

pub use builtin::{Builtin, Program};
pub use registry::{Credentials, Progress, PullOptions};
pub use store::{Config, Image, ImageStore};

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be read.
    #[error("couldn't parse image name {reference:?}: {why}")]
    Reference {
        /// As it was given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such image here.
    #[error("no image {0:?} here; `sealane image list` shows what there is")]
    Unknown(String),
    /// The registry has none of that name, or does not show it to us.
    #[error("failed to pull {reference}: {why}")]
    Pull {
        /// The whole reference.
        reference: String,
        /// What the registry said.
        why: String,
    },
    /// The file is no image archive.
    #[error(
        "{name}: not an image archive ({why}); expected what `docker save` or `skopeo copy … oci-archive:` write"
    )]
    Archive {
        /// The file's name.
        name: String,
        /// What is missing or wrong.
        why: String,
    },
    /// A layer's content is not what its digest says, or cannot be unpacked.
    #[error("layer {digest}: {why}")]
    Layer {
        /// The digest.
        digest: String,
        /// What is wrong.
        why: String,
    },
    /// The disk did not do it.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A built-in image cannot be removed.
    #[error("{0:?} is built in and cannot be removed")]
    BuiltIn(String),
}

impl ImageError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> ImageError {
        let path = path.into();
        move |source| ImageError::Io { path, source }
    }
}

/// The whole form of a reference: registry, repository and tag or digest.
///
/// # Errors
/// [`ImageError::Reference`] where it is none.
pub fn normalize(reference: &str) -> Result<String, ImageError> {
    parse(reference).map(|r| r.whole())
}

pub(crate) fn parse(reference: &str) -> Result<oci_client::Reference, ImageError> {
    reference.parse().map_err(|e: oci_client::ParseError| ImageError::Reference {
        reference: reference.to_owned(),
        why: e.to_string(),
    })
}
