//! Images that come with the program: a small root file system whose programs are all Sealane itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::store::{Config, Image, ImageStore};
use crate::{ImageError, normalize};

/// The one program of a built-in image.
#[derive(Clone, Debug)]
pub struct Program;

impl Program {
    /// Where the program is mounted inside.
    pub const PATH: &str = "/bin/sealane";
}

/// A built-in image.
#[derive(Clone, Debug)]
pub struct Builtin {
    /// `sealane/demo`.
    pub reference: String,
    /// Names under which the program can be called: links in `/bin`.
    pub commands: Vec<String>,
    /// The program's file.
    pub program: PathBuf,
    /// Its process.
    pub config: Config,
}

impl ImageStore {
    /// Adds an image that needs no archive.
    ///
    /// # Errors
    /// Where its folder cannot be written.
    pub fn add_builtin(&mut self, builtin: &Builtin) -> Result<(), ImageError> {
        let image = builtin.lay_out(&self.dir)?;
        self.builtins.push(image);
        Ok(())
    }
}

impl Builtin {
    /// Makes the root file system, where it is not there yet.
    fn lay_out(&self, dir: &Path) -> Result<Image, ImageError> {
        let whole = normalize(&self.reference)?;
        let name: String = whole.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let root = dir.join("builtin").join(&name);
        for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/run"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(ImageError::io(path))?;
        }
        let files = [
            ("bin/sealane", ""),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
            ("etc/nsswitch.conf", "hosts: files dns\n"),
        ];
        for (file, text) in files {
            let path = root.join(file);
            if !path.exists() {
                fs::write(&path, text).map_err(ImageError::io(path))?;
            }
        }
        use std::os::unix::fs::PermissionsExt;
        let tmp = root.join("tmp");
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).map_err(ImageError::io(tmp))?;
        for command in &self.commands {
            let link = root.join("bin").join(command);
            match symlink("sealane", &link) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(ImageError::Io { path: link, source: e });
                }
                _ => {}
            }
        }
        Ok(Image {
            id: format!("sha256:{}", crate::layer::hex(&crate::layer::digest(name.as_bytes()))),
            references: vec![whole],
            digests: Vec::new(),
            layers: vec![root],
            config: self.config.clone(),
            pinned: true,
            size: fs::metadata(&self.program).map_or(0, |m| m.len()),
            program: Some(self.program.clone()),
        })
    }
}
