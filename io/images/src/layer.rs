//! Layers: a tar archive, compressed or not, becomes a folder that overlayfs can take as a lower directory.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, XattrFlags};
use sha2::{Digest, Sha256};
use tar::EntryType;

use crate::ImageError;
use crate::store::ImageStore;

pub(crate) fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Counts what was read into a SHA-256.
struct Summed<R> {
    inner: R,
    sum: Sha256,
    size: u64,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.sum.update(&buffer[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

/// Decompresses by what the content begins with (media types are often wrong).
pub(crate) fn decompressed(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 4];
    let n = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let file = BufReader::with_capacity(128 << 10, file);
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(file).map_err(|e| io::Error::other(e.to_string()))?,
        ),
        _ => Box::new(file),
    })
}

impl ImageStore {
    /// Unpacks a layer whose uncompressed content has the digest `diff_id`, unless it is here. Returns its size in
    /// bytes, unpacked.
    pub(crate) fn add_layer(&self, diff_id: &str, file: File) -> Result<u64, ImageError> {
        let bad = |why: String| ImageError::Layer { digest: diff_id.to_owned(), why };
        let target = self.layer_dir(diff_id);
        let size_file = target.with_extension("size");
        if target.is_dir() {
            return Ok(fs::read_to_string(&size_file).ok().and_then(|s| s.parse().ok()).unwrap_or(0));
        }
        let scratch = self.scratch()?;
        let root = scratch.0.join("layer");
        fs::create_dir(&root).map_err(ImageError::io(&root))?;
        let stream = decompressed(file).map_err(|e| bad(e.to_string()))?;
        let mut summed = Summed { inner: stream, sum: Sha256::new(), size: 0 };
        unpack(&mut summed, &root).map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ImageError::Io { path: root.clone(), source: e }
            }
            _ => bad(full_reason(&e)),
        })?;
        // tar stops at its end marker; the digest is over everything.
        io::copy(&mut summed, &mut io::sink()).map_err(|e| bad(e.to_string()))?;
        let found = format!("sha256:{}", hex(&summed.sum.finalize()));
        if found != diff_id {
            return Err(bad(format!("its content has the digest {found}")));
        }
        fs::write(&size_file, summed.size.to_string()).map_err(ImageError::io(&size_file))?;
        match fs::rename(&root, &target) {
            // Another process was quicker.
            Err(_) if target.is_dir() => Ok(summed.size),
            Err(source) => Err(ImageError::Io { path: target, source }),
            Ok(()) => Ok(summed.size),
        }
    }
}

/// The tar crate hides the system's reason behind its own sentence.
fn full_reason(e: &io::Error) -> String {
    let mut said = e.to_string();
    let mut at = std::error::Error::source(e);
    while let Some(cause) = at {
        said = format!("{said}: {cause}");
        at = cause.source();
    }
    said
}

/// Unpacks a layer; whiteouts become overlayfs's (OCI image specification, `layer.md`; kernel `overlayfs.rst`).
fn unpack(stream: &mut dyn Read, root: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(may_give_away());
    archive.set_unpack_xattrs(false);
    archive.set_overwrite(true);
    // Folders get their times and rights last, so that read-only ones can be filled.
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.components().any(|c| c == Component::ParentDir) {
            continue;
        }
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let above = path.parent().unwrap_or(Path::new(""));
        let parent = root.join(above.strip_prefix("/").unwrap_or(above));
        if name == ".wh..wh..opq" {
            mark_opaque(&within(root, &parent)?)?;
        } else if let Some(hidden) = name.strip_prefix(".wh.") {
            let at = within(root, &parent)?.join(hidden);
            rustix::fs::mknodat(rustix::fs::CWD, &at, FileType::CharacterDevice, Mode::empty(), 0)?;
        } else {
            match entry.header().entry_type() {
                EntryType::Directory => folders.push(entry),
                // Devices come from the node, never from an image.
                EntryType::Char | EntryType::Block | EntryType::XGlobalHeader => {}
                _ => drop(entry.unpack_in(root)?),
            }
        }
    }
    folders.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut folder in folders {
        folder.unpack_in(root)?;
    }
    Ok(())
}

/// Whether files may be given to others: as root, but not in a user namespace with one user alone.
fn may_give_away() -> bool {
    let several = |map: String| map.lines().count() > 1 || map.split_whitespace().nth(2) != Some("1");
    rustix::process::geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(several)
}

/// `folder`, made where missing, if no link leads it out of `root`.
fn within(root: &Path, folder: &Path) -> io::Result<std::path::PathBuf> {
    fs::create_dir_all(folder)?;
    let real = folder.canonicalize()?;
    if real.starts_with(root.canonicalize()?) {
        Ok(real)
    } else {
        Err(io::Error::other(format!("{} leads out of the image", folder.display())))
    }
}

/// Both names: with `userxattr` (in a user namespace) overlayfs reads the second.
fn mark_opaque(folder: &Path) -> io::Result<()> {
    let trusted = rustix::fs::setxattr(folder, "trusted.overlay.opaque", b"y", XattrFlags::empty());
    let user = rustix::fs::setxattr(folder, "user.overlay.opaque", b"y", XattrFlags::empty());
    trusted.or(user).map_err(Into::into)
}
