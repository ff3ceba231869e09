//! The saved snapshot's file: written whole or not at all, read once.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealane_catalog::{Builder, Saved, Snapshot, Source};

/// A snapshot on disk, to answer from while the API is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmStart {
    /// The file; its folder exists.
    pub path: PathBuf,
    /// An older one is not taken.
    pub max_age: Duration,
}

/// Takes the file into the builder: what is to be said of it; `None`: there is none yet.
pub(crate) fn restore(warm: &WarmStart, now: u64, builder: &mut Builder) -> Result<Option<String>, String> {
    let path = warm.path.display();
    let content = match fs::read(&warm.path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{path}: {error}")),
    };
    let saved = Saved::read(&content).map_err(|why| format!("{path}: {why}"))?;
    let (age, most) = (now.saturating_sub(saved.as_of()), warm.max_age.as_secs());
    if age > most {
        return Err(format!("{path}: it is {age} s old, and {most} s is the limit of warm_start"));
    }
    builder.restore(&saved).map_err(|why| format!("{path}: {why}"))?;
    Ok(Some(format!("the API does not answer: answering from {path}, which is {age} s old")))
}

/// Writes beside the file, then puts it into its place.
pub(crate) fn save(path: &Path, snapshot: &Snapshot, sources: &[Source], now: u64) -> Result<(), String> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(&new)?);
        sealane_catalog::save(snapshot, sources, now, &mut out)?;
        out.flush()?;
        out.get_ref().sync_data()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use sealane_api::Object;
    use sealane_catalog::{Event, NamespacedName};
    use serde_json::json;

    use super::*;

    fn known() -> Builder {
        let mut builder = Builder::new(&[Source::Services]);
        let web =
            json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.96.0.7"}});
        builder.apply(Event::RelistBegin(Source::Services));
        builder.apply(Event::Applied(Source::Services, Object::new(web)));
        builder.apply(Event::RelistEnd(Source::Services));
        builder
    }

    #[test]
    fn what_is_saved_comes_back_and_anything_else_is_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("view");
        let warm = WarmStart { path: path.clone(), max_age: Duration::from_secs(60) };
        let start = |now| {
            let mut builder = Builder::new(&[Source::Services]);
            let said = restore(&warm, now, &mut builder);
            (said, builder.publish().0)
        };
        assert_eq!(start(100).0, Ok(None));
        save(&path, &known().publish().0, &[Source::Services], 100).expect("a file");
        let (said, snapshot) = start(130);
        assert!(said.is_ok_and(|said| said.is_some_and(|said| said.ends_with("30 s old"))));
        assert!(snapshot.restored() && snapshot.as_of() == Some(100));
        assert!(snapshot.service(&NamespacedName::new("default", "web")).is_some());
        assert!(start(161).0.is_err_and(|why| why.contains("61 s old, and 60 s is the limit")));
        let content = fs::read(&path).expect("the file");
        for bad in [&content[..content.len() - 5], b"", b"sealane-catalog 2 x", &[0xff; 100]] {
            fs::write(&path, bad).expect("written");
            let (said, snapshot) = start(130);
            assert!(said.is_err_and(|why| why.contains("view: it is")));
            assert!(!snapshot.synced());
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
