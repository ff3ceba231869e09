//! Images made by the test: layers of files, as `docker save` archives or for the test's registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image: one layer and what to run.
#[derive(Clone, Debug)]
pub struct Image {
    /// As `kubectl run --image` names it.
    pub reference: String,
    layer: Arc<Layer>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
}

/// A layer in the forms in which it is handed out, each made once: hashing takes its time.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
    pub(crate) tar_digest: String,
    gzip: OnceLock<(Vec<u8>, String)>,
}

impl Layer {
    /// Compressed, and that form's digest. The form is what counts: nothing is made smaller.
    pub(crate) fn gzip(&self) -> &(Vec<u8>, String) {
        self.gzip.get_or_init(|| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
            gzip.write_all(&self.tar).unwrap();
            let bytes = gzip.finish().unwrap();
            let digest = digest(&bytes);
            (bytes, digest)
        })
    }
}

/// A layer's content: directories first.
#[derive(Default)]
pub(crate) struct Files {
    directories: std::collections::BTreeSet<String>,
    files: BTreeMap<String, (Vec<u8>, u32)>,
    links: BTreeMap<String, String>,
}

impl Files {
    pub(crate) fn directory(&mut self, path: &str) {
        let mut at = path;
        while !at.is_empty() {
            self.directories.insert(at.to_owned());
            at = at.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    pub(crate) fn file(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) {
        self.parent(path);
        self.files.insert(path.to_owned(), (content.into(), mode));
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.links.insert(path.to_owned(), target.to_owned());
    }

    pub(crate) fn layer(self) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for path in &self.directories {
            // /tmp is everybody's.
            let mode = if path == "tmp" { 0o1777 } else { 0o755 };
            add(&mut tar, path, EntryType::Directory, mode, &[]);
        }
        for (path, (content, mode)) in &self.files {
            add(&mut tar, path, EntryType::Regular, *mode, content);
        }
        for (path, target) in &self.links {
            let mut header = header(EntryType::Symlink, 0o777);
            tar.append_link(&mut header, path, target).unwrap();
        }
        tar.into_inner().unwrap()
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn add(tar: &mut Builder<impl std::io::Write>, path: &str, kind: EntryType, mode: u32, content: &[u8]) {
    let mut header = header(kind, mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Image {
    pub(crate) fn new(files: Files) -> Image {
        let env = strings(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        let tar = files.layer();
        let layer = Arc::new(Layer { tar_digest: digest(&tar), tar, gzip: OnceLock::new() });
        Image { reference: String::new(), layer, entrypoint: Vec::new(), cmd: Vec::new(), env }
    }

    /// The same files under a name, with what they run.
    #[must_use]
    pub fn named(&self, reference: &str, entrypoint: &[&str], cmd: &[&str]) -> Image {
        let mut image = self.clone();
        image.reference = reference.to_owned();
        image.entrypoint = strings(entrypoint);
        image.cmd = strings(cmd);
        image
    }

    /// With variables, `NAME=value`.
    #[must_use]
    pub fn with_env(mut self, variables: &[&str]) -> Image {
        self.env.extend(strings(variables));
        self
    }

    pub(crate) fn layer(&self) -> &Layer {
        &self.layer
    }

    pub(crate) fn config(&self) -> Value {
        json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": {"Env": self.env, "Entrypoint": self.entrypoint, "Cmd": self.cmd},
            "rootfs": {"type": "layers", "diff_ids": [self.layer.tar_digest]}})
    }
}

/// Writes what `docker save` of these images would; layers that they share stand in it once.
#[track_caller]
pub fn archive(path: &Path, images: &[Image]) {
    let mut tar = Builder::new(File::create(path).unwrap());
    let mut written = std::collections::BTreeSet::new();
    let mut manifest = Vec::new();
    for image in images {
        let config = image.config();
        let name = image.layer().tar_digest.replace("sha256:", "") + "/layer.tar";
        if written.insert(name.clone()) {
            add(&mut tar, &name, EntryType::Regular, 0o644, &image.layer().tar);
        }
        let config = config.to_string();
        let file = format!("{}.json", hex(config.as_bytes()));
        if written.insert(file.clone()) {
            add(&mut tar, &file, EntryType::Regular, 0o644, config.as_bytes());
        }
        manifest.push(json!({"Config": file, "RepoTags": [image.reference], "Layers": [name]}));
    }
    let manifest = Value::Array(manifest).to_string();
    add(&mut tar, "manifest.json", EntryType::Regular, 0o644, manifest.as_bytes());
    tar.finish().unwrap();
}
