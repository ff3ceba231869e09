//! An image's layers copied into one directory, where the kernel mounts no overlay at all: slow and large, and works.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Uid};

/// Copies layers, lowest first, over each other; what an upper layer deletes (overlay's whiteouts and opaque
/// directories, Documentation/filesystems/overlayfs.rst) is deleted.
pub(crate) fn layers<P: AsRef<Path>>(layers: &[P], target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    layers.iter().try_for_each(|layer| directory(layer.as_ref(), target))
}

fn directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let found = fs::symlink_metadata(&source)?;
        let kind = FileType::from_raw_mode(found.mode());
        let whiteout = kind == FileType::CharacterDevice && found.rdev() == 0;
        let stays = kind == FileType::Directory
            && fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir())
            && !is_opaque(&source);
        if !stays {
            remove(&target)?;
        }
        if whiteout {
            continue;
        }
        match kind {
            FileType::Directory => {
                if !stays {
                    fs::create_dir(&target)?;
                }
                directory(&source, &target)?;
            }
            FileType::Symlink => std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?,
            FileType::RegularFile => drop(fs::copy(&source, &target)?),
            // Devices and pipes of an image: made where this process may.
            _ => {
                let mode = rustix::fs::Mode::from_raw_mode(found.mode());
                let _ = rustix::fs::mknodat(CWD, &target, kind, mode, found.rdev());
                continue;
            }
        }
        let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        // Ids that do not exist in this user namespace cannot be kept.
        let _ = rustix::fs::chownat(CWD, &target, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        if kind != FileType::Symlink {
            fs::set_permissions(&target, fs::Permissions::from_mode(found.mode() & 0o7777))?;
        }
    }
    Ok(())
}

fn is_opaque(directory: &Path) -> bool {
    ["user.overlay.opaque", "trusted.overlay.opaque"].iter().any(|name| {
        let mut value = [0u8; 1];
        rustix::fs::lgetxattr(directory, *name, &mut value).is_ok() && value == *b"y"
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_layers_cover_lower_ones() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in ["lower/etc", "lower/gone", "lower/swapped", "upper/etc"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for (file, text) in [
            ("lower/etc/kept", "lower"),
            ("lower/etc/covered", "lower"),
            ("lower/etc/deleted", "lower"),
            ("lower/gone/file", "lower"),
            ("upper/etc/covered", "upper"),
            ("upper/swapped", "a file now"),
        ] {
            fs::write(at(file), text).unwrap();
        }
        fs::set_permissions(at("upper/etc/covered"), fs::Permissions::from_mode(0o4751)).unwrap();
        std::os::unix::fs::symlink("/etc/kept", at("upper/link")).unwrap();
        for whiteout in ["upper/etc/deleted", "upper/gone"] {
            rustix::fs::mknodat(CWD, at(whiteout), FileType::CharacterDevice, 0o600.into(), 0).unwrap();
        }
        layers(&[at("lower"), at("upper")], &at("root")).unwrap();
        let read = |path: &str| fs::read_to_string(at(path)).ok();
        assert_eq!(read("root/etc/kept").as_deref(), Some("lower"));
        assert_eq!(read("root/etc/covered").as_deref(), Some("upper"));
        assert_eq!(read("root/swapped").as_deref(), Some("a file now"));
        assert_eq!(fs::metadata(at("root/etc/covered")).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(fs::read_link(at("root/link")).unwrap(), Path::new("/etc/kept"));
        assert!(!at("root/etc/deleted").exists() && !at("root/gone").exists());
    }
}
