//! [`ImageStore`]: a folder of records and unpacked layers.
//!
//! `records/NAME.json` names an image's references and layers, `layers/HEX/` is a layer's tree, `tmp/` is where
//! both are made before they are renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::{ImageError, normalize, parse};

/// What an image says of its process (OCI image specification, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// The program and its first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, which a Pod may replace alone.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// "" where unset.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`; "" for root.
    pub user: String,
    /// `TERM`'s replacement, "" where unset.
    pub stop_signal: String,
}

/// Docker writes `null` for empty lists.
fn or_default<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// An image that is here, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// Whole references (`docker.io/library/nginx:latest`), sorted.
    pub references: Vec<String>,
    /// `REPOSITORY@sha256:…` where a registry gave it.
    pub digests: Vec<String>,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Its process.
    pub config: Config,
    /// Loaded from an archive or built in: its references stay what they are, whatever a registry says.
    pub pinned: bool,
    /// Size of its layers in bytes, unpacked.
    pub size: u64,
    /// A built-in image's program, to be mounted at [`crate::Program::PATH`].
    pub program: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub references: BTreeSet<String>,
    pub digests: BTreeSet<String>,
    pub layers: Vec<String>,
    pub config: Config,
    pub pinned: bool,
    pub size: u64,
}

/// The images in one folder.
#[derive(Debug)]
pub struct ImageStore {
    pub(crate) dir: PathBuf,
    pub(crate) builtins: Vec<Image>,
    counter: AtomicU64,
}

impl ImageStore {
    /// Opens a folder, or makes it. What an earlier process left half done is removed.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        for name in ["records", "layers", "tmp"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(ImageError::io(path))?;
        }
        let store = ImageStore { dir: dir.to_owned(), builtins: Vec::new(), counter: AtomicU64::new(0) };
        store.sweep();
        Ok(store)
    }

    /// Removes the temporary folders of processes that are gone.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.dir.join("tmp")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| n.split('-').next()).unwrap_or_default();
            if !Path::new("/proc").join(owner).exists() {
                // At the next start again, if it fails.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// A fresh folder on the same file system as the layers.
    pub(crate) fn scratch(&self) -> Result<Scratch, ImageError> {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("tmp").join(format!("{}-{n}-{:p}", std::process::id(), self));
        fs::create_dir(&path).map_err(ImageError::io(&path))?;
        Ok(Scratch(path))
    }

    pub(crate) fn layer_dir(&self, digest: &str) -> PathBuf {
        self.dir.join("layers").join(file_name(digest))
    }

    fn records(&self) -> Result<Vec<Record>, ImageError> {
        let dir = self.dir.join("records");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(ImageError::io(&dir))? {
            let path = entry.map_err(ImageError::io(&dir))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match fs::read(&path) {
                Ok(text) => match serde_json::from_slice(&text) {
                    Ok(record) => found.push(record),
                    Err(e) => tracing::warn!("{}: {e}; load the image again", path.display()),
                },
                // Removed in between.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(ImageError::Io { path, source }),
            }
        }
        Ok(found)
    }

    fn image(&self, record: Record) -> Image {
        Image {
            layers: record.layers.iter().map(|d| self.layer_dir(d)).collect(),
            id: record.id,
            references: record.references.into_iter().collect(),
            digests: record.digests.into_iter().collect(),
            config: record.config,
            pinned: record.pinned,
            size: record.size,
            program: None,
        }
    }

    /// All images, built-in ones first.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = self.builtins.clone();
        let records: BTreeMap<String, Record> =
            self.records()?.into_iter().map(|r| (r.id.clone(), r)).collect();
        images.extend(records.into_values().map(|r| self.image(r)));
        Ok(images)
    }

    /// The image of a reference, an id or a beginning of an id of at least 12 digits, if it is here.
    ///
    /// # Errors
    /// Where the reference is none, or the folder cannot be read.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
        let by_id = hex.len() >= 12 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let whole = if by_id { String::new() } else { normalize(reference)? };
        let digest =
            parse(reference).ok().and_then(|r| r.digest().map(|d| format!("{}@{d}", repository(&r))));
        let found = self.list()?.into_iter().find(|image| {
            (by_id && image.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex)))
                || image.references.contains(&whole)
                || digest.as_ref().is_some_and(|d| image.digests.contains(d))
        });
        Ok(found.filter(|image| image.layers.iter().all(|l| l.is_dir())))
    }

    /// Writes an image's record; a reference that another image had moves to this one.
    pub(crate) fn put(&self, mut record: Record) -> Result<Image, ImageError> {
        for mut other in self.records()? {
            if other.id == record.id {
                record.references.append(&mut other.references);
                record.digests.append(&mut other.digests);
                record.pinned |= other.pinned;
            } else {
                let before = other.references.len();
                other.references.retain(|r| !record.references.contains(r));
                if other.references.len() != before {
                    self.write(&other)?;
                }
            }
        }
        self.write(&record)?;
        Ok(self.image(record))
    }

    fn write(&self, record: &Record) -> Result<(), ImageError> {
        let scratch = self.scratch()?;
        let fresh = scratch.0.join("record");
        let path = self.dir.join("records").join(format!("{}.json", file_name(&record.id)));
        let text = serde_json::to_vec_pretty(record)
            .map_err(|e| ImageError::Io { path: path.clone(), source: e.into() })?;
        fs::write(&fresh, text).map_err(ImageError::io(&fresh))?;
        fs::rename(&fresh, &path).map_err(ImageError::io(&path))
    }

    /// Takes a reference away, and the image with it when it was the last one; by id, the image with all of them.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] where there is none, [`ImageError::BuiltIn`].
    pub fn remove(&self, reference: &str) -> Result<Image, ImageError> {
        let image = self.find(reference)?.ok_or_else(|| ImageError::Unknown(reference.to_owned()))?;
        if image.program.is_some() {
            return Err(ImageError::BuiltIn(reference.to_owned()));
        }
        let whole = normalize(reference).unwrap_or_default();
        let mut records = self.records()?;
        let Some(at) = records.iter().position(|r| r.id == image.id) else {
            return Err(ImageError::Unknown(reference.to_owned()));
        };
        let mut record = records.swap_remove(at);
        if record.references.remove(&whole) && !record.references.is_empty() {
            self.write(&record)?;
            return Ok(image);
        }
        let path = self.dir.join("records").join(format!("{}.json", file_name(&record.id)));
        fs::remove_file(&path).map_err(ImageError::io(&path))?;
        for layer in &record.layers {
            if !records.iter().any(|r| r.layers.contains(layer)) {
                let from = self.layer_dir(layer);
                let scratch = self.scratch()?;
                // Out of the way at once; a Pod that still runs on it keeps its files.
                if fs::rename(&from, scratch.0.join("layer")).is_err() {
                    tracing::warn!("{}: could not be removed", from.display());
                }
            }
        }
        Ok(image)
    }
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn repository(reference: &oci_client::Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// `sha256:abc` as a file's name.
fn file_name(digest: &str) -> String {
    digest.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
