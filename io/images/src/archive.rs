//! Image archives: what `docker save` writes (manifest.json) and OCI layouts (index.json), as tar, compressed or
//! not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::layer::{decompressed, digest, hex};
use crate::store::{Config, Image, ImageStore, Record};
use crate::{ImageError, normalize};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The part of an image's configuration that matters here.
#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: Option<Config>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl ImageStore {
    /// Adds the images of an archive, read from `input`; `name` is the file's name for messages. Their references
    /// are pinned.
    ///
    /// # Errors
    /// [`ImageError::Archive`] where it is none, [`ImageError::Layer`] where a layer's digest is wrong.
    pub fn load(&self, name: &str, input: &mut dyn Read) -> Result<Vec<Image>, ImageError> {
        let bad = |why: String| ImageError::Archive { name: name.to_owned(), why };
        let scratch = self.scratch()?;
        let whole = scratch.0.join("archive");
        let mut file = File::create(&whole).map_err(ImageError::io(&whole))?;
        if io::copy(input, &mut file).map_err(ImageError::io(name))? == 0 {
            return Err(bad("it is empty".into()));
        }
        let file = File::open(&whole).map_err(ImageError::io(&whole))?;
        let root = scratch.0.join("content");
        fs::create_dir(&root).map_err(ImageError::io(&root))?;
        let stream = decompressed(file).map_err(|e| bad(e.to_string()))?;
        let mut archive = tar::Archive::new(stream);
        archive.set_preserve_permissions(false);
        archive.unpack(&root).map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull => ImageError::Io { path: root.clone(), source: e },
            _ => bad("it cannot be unpacked as tar".into()),
        })?;
        let content = Content { name, root: &root };
        if root.join("manifest.json").exists() {
            self.load_docker(&content)
        } else if root.join("index.json").exists() {
            self.load_layout(&content)
        } else {
            Err(bad("there is neither manifest.json nor index.json in it".into()))
        }
    }

    fn load_docker(&self, content: &Content<'_>) -> Result<Vec<Image>, ImageError> {
        let manifest = content.json("manifest.json")?;
        let entries: Vec<DockerImage> =
            serde_json::from_value(manifest).map_err(|e| content.bad(format!("manifest.json: {e}")))?;
        let load = |entry: DockerImage| {
            let config = content.read(&entry.config)?;
            let references = entry.repo_tags.unwrap_or_default();
            let layers: Vec<PathBuf> =
                entry.layers.iter().map(|l| content.path(l)).collect::<Result<_, _>>()?;
            self.add_image(content, &config, &layers, &references)
        };
        entries.into_iter().map(load).collect()
    }

    fn load_layout(&self, content: &Content<'_>) -> Result<Vec<Image>, ImageError> {
        let index = content.json("index.json")?;
        let mut images = Vec::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let mut manifest = content.json(&blob(entry)?)?;
            // An index of platforms stands between where a multi-platform image was saved.
            if let Some(inner) = manifest["manifests"].as_array() {
                let ours = inner.iter().find(|m| is_ours(m)).or(inner.first());
                let ours = ours.ok_or_else(|| content.bad("an index in it is empty".into()))?;
                manifest = content.json(&blob(ours)?)?;
            }
            let config = content.read(&blob(&manifest["config"])?)?;
            let mut layers = Vec::new();
            for layer in manifest["layers"].as_array().into_iter().flatten() {
                layers.push(content.path(&blob(layer)?)?);
            }
            let notes = &entry["annotations"];
            let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            // A bare tag names nothing; containerd writes the whole name beside it.
            let named = names.iter().filter_map(|n| notes[*n].as_str());
            let references: Vec<String> =
                named.filter(|n| n.contains(['/', ':'])).map(str::to_owned).collect();
            images.push(self.add_image(content, &config, &layers, &references)?);
        }
        Ok(images)
    }

    fn add_image(
        &self,
        content: &Content<'_>,
        config: &[u8],
        layers: &[PathBuf],
        references: &[String],
    ) -> Result<Image, ImageError> {
        let (mut record, diff_ids) =
            record_of(config).map_err(|e| content.bad(format!("an image's configuration: {e}")))?;
        if diff_ids.len() != layers.len() {
            return Err(content.bad(format!("{} layers where {} are named", layers.len(), diff_ids.len())));
        }
        for (id, path) in diff_ids.iter().zip(layers) {
            let file = File::open(path).map_err(ImageError::io(path))?;
            record.size += self.add_layer(id, file)?;
        }
        record.references = references.iter().map(|r| normalize(r)).collect::<Result<BTreeSet<_>, _>>()?;
        record.pinned = true;
        self.put(record)
    }
}

/// A record and the layers' digests, from an image's configuration.
pub(crate) fn record_of(config: &[u8]) -> Result<(Record, Vec<String>), serde_json::Error> {
    let parsed: ConfigFile = serde_json::from_slice(config)?;
    let record = Record {
        id: format!("sha256:{}", hex(&digest(config))),
        layers: parsed.rootfs.diff_ids.clone(),
        config: parsed.config.unwrap_or_default(),
        ..Record::default()
    };
    Ok((record, parsed.rootfs.diff_ids))
}

fn is_ours(manifest: &Value) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    manifest["platform"]["os"] == "linux" && manifest["platform"]["architecture"] == architecture
}

/// A descriptor's file in a layout.
fn blob(descriptor: &Value) -> Result<String, ImageError> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    match digest.split_once(':') {
        Some((algorithm, hex)) => Ok(format!("blobs/{algorithm}/{hex}")),
        None => Err(ImageError::Layer { digest: digest.to_owned(), why: "not a digest".into() }),
    }
}

/// An unpacked archive.
struct Content<'a> {
    name: &'a str,
    root: &'a Path,
}

impl Content<'_> {
    fn bad(&self, why: String) -> ImageError {
        ImageError::Archive { name: self.name.to_owned(), why }
    }

    /// A file of the archive; links (docker saves shared layers so) are followed, but not out of it.
    fn path(&self, file: &str) -> Result<PathBuf, ImageError> {
        let missing = |_| self.bad(format!("{file} is missing"));
        let path = self.root.join(file.trim_start_matches('/')).canonicalize().map_err(missing)?;
        let root = self.root.canonicalize().map_err(ImageError::io(self.root))?;
        if path.starts_with(root) { Ok(path) } else { Err(self.bad(format!("{file} leads out of it"))) }
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path(file)?;
        fs::read(&path).map_err(ImageError::io(path))
    }

    fn json(&self, file: &str) -> Result<Value, ImageError> {
        serde_json::from_slice(&self.read(file)?).map_err(|e| self.bad(format!("{file}: {e}")))
    }
}
