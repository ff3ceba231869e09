//! Pulls from registries, with oci-client.

use std::fs::File;

use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::io::AsyncWriteExt;

use crate::archive::record_of;
use crate::store::{Image, ImageStore};
use crate::{ImageError, parse};

/// A user of a registry.
#[derive(Clone)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?}, ..)", self.user)
    }
}

/// How to reach a registry.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Without TLS. Registries on this machine's loopback and those at port 80 are always spoken to so.
    pub plain_http: bool,
    /// Whatever certificate it shows.
    pub insecure: bool,
    /// Who asks.
    pub credentials: Option<Credentials>,
}

/// What a pull reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A layer begins: its digest and compressed size in bytes.
    Layer {
        /// `sha256:…`
        digest: String,
        /// Bytes to come.
        size: u64,
    },
    /// So many bytes of it are here.
    Bytes {
        /// `sha256:…`
        digest: String,
        /// Bytes so far.
        done: u64,
    },
    /// It is unpacked.
    Unpacked {
        /// `sha256:…`
        digest: String,
    },
}

impl ImageStore {
    /// Fetches an image; `progress` is told how it goes.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::Pull`] with the registry's reason, [`ImageError::Layer`].
    pub async fn pull(
        &self,
        reference: &str,
        options: &PullOptions,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, ImageError> {
        let wanted = parse(reference)?;
        let failed =
            |e: OciDistributionError| ImageError::Pull { reference: wanted.whole(), why: reason(&e) };
        let plain = options.plain_http || speaks_plain_http(wanted.resolve_registry());
        let client = Client::new(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: options.insecure,
            connect_timeout: Some(std::time::Duration::from_secs(15)),
            ..ClientConfig::default()
        });
        let auth = match &options.credentials {
            Some(c) => RegistryAuth::Basic(c.user.clone(), c.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        let (manifest, digest, config) =
            client.pull_manifest_and_config(&wanted, &auth).await.map_err(failed)?;
        let (mut record, diff_ids) = record_of(config.as_bytes()).map_err(|e| ImageError::Pull {
            reference: wanted.whole(),
            why: format!("its configuration: {e}"),
        })?;
        if diff_ids.len() != manifest.layers.len() {
            let why = format!("{} layers where {} are named", manifest.layers.len(), diff_ids.len());
            return Err(ImageError::Pull { reference: wanted.whole(), why });
        }
        for (layer, id) in manifest.layers.iter().zip(&diff_ids) {
            let size = u64::try_from(layer.size).unwrap_or(0);
            progress(Progress::Layer { digest: layer.digest.clone(), size });
            record.size += self.fetch_layer(&client, &wanted, layer, id, progress).await?;
            progress(Progress::Unpacked { digest: layer.digest.clone() });
        }
        record.references.insert(wanted.whole());
        record.digests.insert(format!("{}/{}@{digest}", wanted.registry(), wanted.repository()));
        self.put(record)
    }

    async fn fetch_layer(
        &self,
        client: &Client,
        image: &oci_client::Reference,
        layer: &OciDescriptor,
        diff_id: &str,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<u64, ImageError> {
        let scratch = self.scratch()?;
        let path = scratch.0.join("blob");
        if !self.layer_dir(diff_id).is_dir() {
            let file = tokio::fs::File::create(&path).await.map_err(ImageError::io(&path))?;
            let mut counted = Counted { file, done: 0, digest: &layer.digest, progress };
            client
                .pull_blob(image, layer, &mut counted)
                .await
                .map_err(|e| ImageError::Pull { reference: image.whole(), why: reason(&e) })?;
            counted.file.flush().await.map_err(ImageError::io(&path))?;
        } else {
            File::create(&path).map_err(ImageError::io(&path))?;
        }
        // Unpacking blocks: not on the executor's threads, and not past the folder's life.
        let file = File::open(&path).map_err(ImageError::io(&path))?;
        tokio::task::block_in_place(|| self.add_layer(diff_id, file))
    }
}

/// A file that tells how much it has been given.
struct Counted<'a> {
    file: tokio::fs::File,
    done: u64,
    digest: &'a str,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl tokio::io::AsyncWrite for Counted<'_> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let result = std::pin::Pin::new(&mut self.file).poll_write(cx, bytes);
        if let std::task::Poll::Ready(Ok(n)) = &result {
            self.done += *n as u64;
            (self.progress)(Progress::Bytes { digest: self.digest.to_owned(), done: self.done });
        }
        result
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.file).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.file).poll_shutdown(cx)
    }
}

/// Loopback registries (as for docker) and those at port 80, which no TLS server has.
fn speaks_plain_http(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let loopback = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    host == "localhost" || loopback || registry.ends_with(":80")
}

/// The error with all its causes: reqwest's own words say only which address it was.
fn reason(e: &OciDistributionError) -> String {
    let mut said = match e {
        OciDistributionError::ImageManifestNotFoundError(_) => "not found in the registry".to_owned(),
        OciDistributionError::UnauthorizedError { .. } => {
            "the registry wants a login, or there is no such image".to_owned()
        }
        other => other.to_string(),
    };
    let mut at = std::error::Error::source(e);
    while let Some(cause) = at {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        at = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    #[test]
    fn plain_http_is_for_loopback_and_port_80() {
        for (registry, plain) in [
            ("127.0.0.1:5000", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("192.168.10.33:80", true),
            ("192.168.10.33:5000", false),
            ("index.docker.io", false),
            ("localhost.example.com", false),
        ] {
            assert_eq!(super::speaks_plain_http(registry), plain, "{registry}");
        }
    }
}
