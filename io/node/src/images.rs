//! What the agent asks of the node's images; the wiring adapts what has them.

use std::path::PathBuf;

use sealane_host::runtime::Mount;
pub use sealane_pod::image::Login as Credentials;

/// An image that is unpacked on the node.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its digest, e.g. `docker.io/library/nginx@sha256:…`: the status' `imageID`.
    pub id: String,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Program where the container has no `command`.
    pub entrypoint: Vec<String>,
    /// Arguments where it has neither `command` nor `args`.
    pub cmd: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, "" for `/`.
    pub working_dir: String,
    /// `USER`.
    pub user: String,
    /// Size in bytes, for the Pulled event.
    pub size: u64,
    /// Mounts that the image brings (the built-in one: the program itself).
    pub extra_mounts: Vec<Mount>,
}

/// Why an image could not be pulled; one line.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ImageError(pub String);

/// The node's images.
pub trait Images: Send + Sync + 'static {
    /// The image where it is on the node; any form of its reference.
    fn present(&self, reference: &str) -> Option<Image>;
    /// Fetches it, with credentials where there are any.
    fn pull(
        &self,
        reference: &str,
        auth: Option<Credentials>,
    ) -> impl Future<Output = Result<Image, ImageError>> + Send;
    /// A loaded archive or built in: `imagePullPolicy: Always` is met by it.
    fn is_pinned(&self, reference: &str) -> bool;
}
