//! A Pod's volumes as folders on the node; what comes from the API is written so that a reader sees all of the old
//! or all of the new (`pkg/volume/util/atomic_writer.go`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, ProjectedVolumeSource, Volume};
use sealane_pod::downward::NodeFacts;
use sealane_pod::projection::{self, DEFAULT_MODE, File, Files, mode};
use sealane_pod::quantity;
use tokio::sync::watch;

use crate::objects::{Kind, Objects};

/// What a volume is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or folder.
    Path(PathBuf),
    /// A tmpfs of so many bytes; the folder is its name.
    Memory(PathBuf, u64),
}

/// A Pod's volumes by name.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) sources: BTreeMap<String, Source>,
    /// Changes of the objects that they show.
    pub(crate) subscriptions: Vec<watch::Receiver<u64>>,
    /// A token wants to be renewed then.
    pub(crate) renew_at: Option<Timestamp>,
}

/// Makes and renews volumes of one Pod.
pub(crate) struct Maker<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) pod: &'a Pod,
    pub(crate) facts: &'a NodeFacts,
    /// Folder of the Pod's volumes.
    pub(crate) folder: PathBuf,
    pub(crate) now: Timestamp,
}

impl Maker<'_> {
    /// Makes all of them. Called again, it renews what comes from the API.
    ///
    /// # Errors
    /// With a line for the FailedMount event.
    pub(crate) async fn make(&self) -> Result<Volumes, String> {
        let mut out = Volumes::default();
        let volumes = self.pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
        for volume in volumes.into_iter().flatten() {
            let source = self
                .one(volume, &mut out)
                .await
                .map_err(|e| format!("MountVolume.SetUp failed for volume {:?} : {e}", volume.name))?;
            out.sources.insert(volume.name.clone(), source);
        }
        Ok(out)
    }

    async fn one(&self, volume: &Volume, out: &mut Volumes) -> Result<Source, String> {
        let folder = self.folder.join(&volume.name);
        if let Some(empty) = &volume.empty_dir {
            fs::create_dir_all(&folder).map_err(|e| io_error("make", &folder, &e))?;
            set_mode(&folder, 0o777)?;
            self.give_group(&folder)?;
            let limit = empty.size_limit.as_ref().and_then(quantity::units).unwrap_or(self.facts.memory / 2);
            return Ok(match empty.medium.as_deref() {
                Some("Memory") => Source::Memory(folder, limit),
                _ => Source::Path(folder),
            });
        }
        if let Some(host) = &volume.host_path {
            return host_path(host).map(Source::Path);
        }
        let files = if let Some(v) = &volume.config_map {
            let default = mode(v.default_mode, DEFAULT_MODE);
            self.config_map(&v.name, v.items.as_ref(), default, v.optional == Some(true), out).await?
        } else if let Some(v) = &volume.secret {
            let name = v.secret_name.as_deref().unwrap_or_default();
            let default = mode(v.default_mode, DEFAULT_MODE);
            self.secret(name, v.items.as_ref(), default, v.optional == Some(true), out).await?
        } else if let Some(v) = &volume.downward_api {
            let default = mode(v.default_mode, DEFAULT_MODE);
            projection::downward_api(self.pod, self.facts, v.items.as_ref(), default)?
        } else if let Some(v) = &volume.projected {
            self.projected(v, &folder, out).await?
        } else {
            return Err(
                "this node has emptyDir, configMap, secret, projected, downwardAPI and hostPath volumes only"
                    .into(),
            );
        };
        write(&folder, &files).map_err(|e| io_error("write", &folder, &e))?;
        self.give_group(&folder)?;
        Ok(Source::Path(folder))
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&Vec<k8s_openapi::api::core::v1::KeyToPath>>,
        default: u32,
        optional: bool,
        out: &mut Volumes,
    ) -> Result<Files, String> {
        out.subscriptions.push(self.objects.subscribe(Kind::ConfigMap, self.namespace(), name));
        match self.objects.config_map(self.namespace(), name).await.map_err(|e| e.to_string())? {
            Some(map) => projection::config_map(&map, items, default, optional),
            None if optional => Ok(Files::new()),
            None => Err(format!("configmap {name:?} not found")),
        }
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&Vec<k8s_openapi::api::core::v1::KeyToPath>>,
        default: u32,
        optional: bool,
        out: &mut Volumes,
    ) -> Result<Files, String> {
        out.subscriptions.push(self.objects.subscribe(Kind::Secret, self.namespace(), name));
        match self.objects.secret(self.namespace(), name).await.map_err(|e| e.to_string())? {
            Some(secret) => projection::secret(&secret, items, default, optional),
            None if optional => Ok(Files::new()),
            None => Err(format!("secret {name:?} not found")),
        }
    }

    async fn projected(
        &self,
        volume: &ProjectedVolumeSource,
        folder: &Path,
        out: &mut Volumes,
    ) -> Result<Files, String> {
        let default = mode(volume.default_mode, DEFAULT_MODE);
        let mut files = Files::new();
        for source in volume.sources.iter().flatten() {
            if let Some(s) = &source.config_map {
                files.extend(
                    self.config_map(&s.name, s.items.as_ref(), default, s.optional == Some(true), out)
                        .await?,
                );
            }
            if let Some(s) = &source.secret {
                files.extend(
                    self.secret(&s.name, s.items.as_ref(), default, s.optional == Some(true), out).await?,
                );
            }
            if let Some(s) = &source.downward_api {
                files.extend(projection::downward_api(self.pod, self.facts, s.items.as_ref(), default)?);
            }
            if let Some(s) = &source.service_account_token {
                let seconds = s.expiration_seconds.unwrap_or(3600);
                let data = self.token(folder, &s.path, s.audience.as_deref(), seconds, out).await?;
                // Readable by the Pod's user alone; by all where that is not known (`serviceaccount` token mode).
                let mode = if self.fs_group().is_some() { 0o640 } else { default };
                files.insert(s.path.clone(), File { data, mode });
            }
        }
        Ok(files)
    }

    /// The token that is there, until four fifths of its life (a day at most) are over; then another.
    async fn token(
        &self,
        folder: &Path,
        path: &str,
        audience: Option<&str>,
        seconds: i64,
        out: &mut Volumes,
    ) -> Result<Vec<u8>, String> {
        let file = folder.join(path);
        let life = SignedDuration::from_secs((seconds * 4 / 5).min(24 * 3600));
        let made =
            fs::metadata(&file).and_then(|m| m.modified()).ok().and_then(|t| Timestamp::try_from(t).ok());
        let current = made.and_then(|t| t.checked_add(life).ok()).filter(|renew| *renew > self.now);
        let renew_at;
        let data = match (current, fs::read(&file)) {
            (Some(renew), Ok(data)) => {
                renew_at = Some(renew);
                data
            }
            _ => {
                renew_at = self.now.checked_add(life).ok();
                let token = self.objects.token(self.pod, audience, seconds).await;
                token.map_err(|e| format!("failed to fetch token: {e}"))?.into_bytes()
            }
        };
        out.renew_at = out.renew_at.into_iter().chain(renew_at).min();
        Ok(data)
    }

    fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        context.and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok())
    }

    /// Everything below belongs to `fsGroup`, and folders pass it on (`SetVolumeOwnership`).
    fn give_group(&self, folder: &Path) -> Result<(), String> {
        match self.fs_group() {
            Some(group) => give(folder, group).map_err(|e| io_error("give to fsGroup", folder, &e)),
            None => Ok(()),
        }
    }
}

fn give(path: &Path, group: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(group))?;
    let bits = meta.permissions().mode() & 0o7777;
    if meta.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(bits | 0o2770))?;
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group)?;
        }
        Ok(())
    } else {
        fs::set_permissions(path, fs::Permissions::from_mode(bits | 0o440))
    }
}

fn io_error(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| io_error("set the mode of", path, &e))
}

/// Checks, or makes, what a hostPath volume names (`pkg/volume/hostpath`).
fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    if kind == "DirectoryOrCreate" {
        fs::create_dir_all(&path).map_err(|e| io_error("make", &path, &e))?;
    }
    if kind == "FileOrCreate" {
        let open = fs::OpenOptions::new().create(true).append(true).open(&path);
        open.map_err(|e| io_error("make", &path, &e))?;
    }
    let meta = fs::metadata(&path).map_err(|e| io_error("find", &path, &e))?;
    let t = meta.file_type();
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => t.is_dir(),
        "File" | "FileOrCreate" => t.is_file(),
        "Socket" => t.is_socket(),
        "CharDevice" => t.is_char_device(),
        "BlockDevice" => t.is_block_device(),
        _ => true,
    };
    if fits {
        Ok(path)
    } else {
        Err(format!("hostPath type check failed: {} is not a {kind}", path.display()))
    }
}

/// Writes `files` below `folder` behind the link `..data`, which changes at once. Does nothing where all of it is
/// there already. Says whether something changed.
pub(crate) fn write(folder: &Path, files: &Files) -> io::Result<bool> {
    fs::create_dir_all(folder)?;
    let data = folder.join("..data");
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, files)? {
        return Ok(false);
    }
    let mut n = 0u64;
    let fresh = loop {
        let name = format!("..{}_{n}", Timestamp::now().as_nanosecond());
        match fs::create_dir(folder.join(&name)) {
            Ok(()) => break name,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
            Err(e) => return Err(e),
        }
    };
    let inside = folder.join(&fresh);
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let to = inside.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&to, &file.data)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(file.mode))?;
    }
    let link = folder.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&fresh, &link)?;
    fs::rename(&link, &data)?;
    // What the reader opens: a link of the first part of each path, through `..data`.
    let tops = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(tops).collect();
    for top in &wanted {
        match symlink(Path::new("..data").join(top), folder.join(top)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(folder.join(old))?;
    }
    Ok(true)
}

fn same(data: &Path, files: &Files) -> io::Result<bool> {
    let mut have = 0;
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                have += 1;
            }
        }
    }
    if have != files.len() {
        return Ok(false);
    }
    for (path, file) in files {
        let at = data.join(path);
        let same = fs::read(&at).is_ok_and(|d| d == file.data);
        // fsGroup adds bits; they don't make it another file.
        let mode =
            fs::metadata(&at).map(|m| m.permissions().mode() & file.mode == file.mode).unwrap_or(false);
        if !same || !mode {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |d: &str| File { data: d.as_bytes().to_vec(), mode: 0o644 };
        list.iter().map(|(p, d)| ((*p).to_owned(), file(d))).collect()
    }

    #[test]
    fn swaps_atomically() {
        let dir = tempfile::tempdir().unwrap();
        let v = dir.path().join("v");
        assert!(write(&v, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        let first = fs::read_link(v.join("..data")).unwrap();
        assert_eq!(fs::read_link(v.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::read_to_string(v.join("sub/b")).unwrap(), "2");
        assert!(!write(&v, &files(&[("a", "1"), ("sub/b", "2")])).unwrap(), "nothing changed");
        assert!(write(&v, &files(&[("a", "3"), ("c", "4")])).unwrap());
        assert_ne!(fs::read_link(v.join("..data")).unwrap(), first);
        assert!(!v.join(&first).exists() && !v.join("sub").exists());
        assert_eq!(fs::read_to_string(v.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(v.join("c")).unwrap(), "4");
        assert!(write(&v, &Files::new()).unwrap());
        assert!(!v.join("a").is_symlink());
    }

    #[test]
    fn host_paths() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, kind: &str| {
            let path = dir.path().join(name).to_string_lossy().into_owned();
            host_path(&HostPathVolumeSource { path, type_: Some(kind.to_owned()) })
        };
        assert!(at("no", "").is_err());
        assert!(at("d", "DirectoryOrCreate").is_ok());
        assert!(at("d", "Directory").is_ok());
        assert!(at("d", "File").is_err());
        assert!(at("f", "FileOrCreate").is_ok());
        assert!(at("f", "File").is_ok());
    }
}
