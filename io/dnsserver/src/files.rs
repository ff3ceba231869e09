//! Files that plugins write.

use std::io::Result;
use std::path::Path;

use sealane_dns::chain::FileWrite;

/// Writes a file beside its place, and moves it there: who reads it sees it whole or as it was.
pub(crate) fn write(file: &FileWrite) -> Result<()> {
    let place = Path::new(&file.path);
    let name = place.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let beside = place.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = std::fs::write(&beside, &file.content).and_then(|()| std::fs::rename(&beside, place));
    if written.is_err() {
        // It is of no use there, and may not even be there.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.example.org.signed");
        let file = |path: &Path, content: &str| FileWrite {
            path: path.display().to_string(),
            content: content.to_owned(),
            written: String::new(),
            failed: String::new(),
        };
        for content in ["one", "another"] {
            write(&file(&path, content)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert!(write(&file(&folder.path().join("none/file"), "x")).is_err());
        assert!(write(&file(folder.path(), "x")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    }
}
