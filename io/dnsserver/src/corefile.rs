//! The Corefile on disk: read with its imports, and looked at again when it may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::rand::SystemRandom;
use rustix::fs::inotify;
use sealane_dns::Config;
use sealane_dns::chain::{Block, Randomness, Want};
use sealane_dns::corefile::{Sources, import_targets};
use sha2::{Digest, Sha512};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::{DnsError, Settings, machine, tls};

/// Files and globs that a Corefile may import, in all.
const MAX_FILES: usize = 256;
/// A directory's events are waited for so long before the file is read: an editor writes several.
const SETTLE: Duration = Duration::from_millis(20);

/// A Corefile as it is written, with what it imports.
#[derive(Clone)]
pub(crate) struct Texts {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) sources: Sources,
    /// Lines for the log.
    pub(crate) warnings: Vec<String>,
    /// SHA-512 of all of it, in hexadecimal.
    pub(crate) fingerprint: String,
}

/// A configuration with the files that it needs.
pub(crate) struct Loaded {
    pub(crate) blocks: Vec<Arc<Block>>,
    /// What its plugins read.
    files: Vec<Want>,
    /// Of the Corefile and its imports.
    pub(crate) fingerprint: String,
    /// Folders of the files that it imports.
    folders: BTreeSet<PathBuf>,
    pub(crate) warnings: Vec<String>,
}

impl Loaded {
    /// What `coredns_reload_version_info` says, where the `reload` plugin is on.
    pub(crate) fn version(&self) -> Option<&str> {
        let reloads = self.blocks.iter().any(|block| block.settings.reload.is_some());
        reloads.then_some(self.fingerprint.as_str())
    }
}

fn read(path: &Path) -> Result<String, DnsError> {
    std::fs::read_to_string(path)
        .map_err(|source| DnsError::Read { path: path.display().to_string(), source })
}

pub(crate) fn load(settings: &Settings) -> Result<(Loaded, Config), DnsError> {
    compile(texts(settings, None)?, settings)
}

/// The Corefile, or `text` in its place, with its imports.
pub(crate) fn texts(settings: &Settings, text: Option<String>) -> Result<Texts, DnsError> {
    let text = text.or_else(|| settings.text.clone()).map_or_else(|| read(&settings.corefile), Ok)?;
    let name = settings.corefile.display().to_string();
    let (sources, warnings) = sources(&name, &text)?;
    let mut hash = Sha512::new();
    let imported = sources.files.iter().flat_map(|(target, files)| {
        let files = files.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]);
        std::iter::once(target.as_str()).chain(files)
    });
    for part in std::iter::once(text.as_str()).chain(imported) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let fingerprint = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    Ok(Texts { name, text, sources, warnings, fingerprint })
}

/// Reads what they say, and hands the plugins the files that they read.
pub(crate) fn compile(texts: Texts, settings: &Settings) -> Result<(Loaded, Config), DnsError> {
    let Texts { name, text, sources, mut warnings, fingerprint } = texts;
    let mut config = Config::parse(&name, &text, &sources, settings.default_port)?;
    let mut files = config.files();
    let mut handed = BTreeSet::new();
    // What is handed in may include others.
    while let Some(path) = files.iter().flat_map(paths).find(|path| !handed.contains(path)) {
        config.load(&path, content(&path).as_deref())?;
        handed.insert(path);
        files = config.files();
    }
    tls::check(&config).map_err(DnsError::Tls)?;
    for root in config.blocks.iter().filter_map(|block| block.settings.root.as_ref()) {
        warnings.extend(rootless(root)?);
    }
    let folders = sources.files.keys().map(|target| folder(Path::new(target))).collect();
    let blocks = config.blocks.clone();
    Ok((Loaded { blocks, files, fingerprint, folders, warnings }, config))
}

/// What is to be said of a `root` that is not there: it may come (`plugin/root/root.go`).
fn rootless(root: &str) -> Result<Option<String>, DnsError> {
    match std::fs::metadata(root) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Some(format!("[WARNING] plugin/root: Root path does not exist: {root}")))
        }
        Err(source) => Err(DnsError::Read { path: root.to_owned(), source }),
    }
}

fn content(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The files that are meant: one, or all below a folder.
fn paths(want: &Want) -> Vec<String> {
    if !want.folder {
        return vec![want.path.clone()];
    }
    let mut paths = Vec::new();
    walk(Path::new(&want.path), &mut paths);
    paths.sort();
    paths
}

/// The files of a folder and of those in it. Not of those that begin with `..`, which hold a mounted ConfigMap's
/// versions: links beside them lead to the files that count.
fn walk(folder: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !entry.file_name().as_encoded_bytes().starts_with(b"..") {
                walk(&path, out);
            }
        } else if path.is_file() {
            out.extend(path.into_os_string().into_string());
        }
    }
}

/// The environment, and the files that `import` lines name, theirs included; with warnings.
fn sources(name: &str, text: &str) -> Result<(Sources, Vec<String>), DnsError> {
    let env = std::env::vars_os();
    let env = env.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let random = Randomness::new(Arc::new(SystemRandom::new()));
    let interfaces = machine::interfaces();
    let mut sources = Sources { env, random, interfaces, ..Sources::default() };
    let mut warnings = Vec::new();
    let mut todo: Vec<String> = import_targets(name, text, &sources)?;
    while let Some(target) = todo.pop() {
        if sources.files.contains_key(&target) || sources.files.len() >= MAX_FILES {
            continue;
        }
        let mut found = Vec::new();
        for path in matching(Path::new(&target)) {
            let content = read(&path)?;
            let name = path.display().to_string();
            todo.extend(import_targets(&name, &content, &sources)?);
            found.push((name, content));
        }
        // A glob may match nothing; a plain name that is no file is a snippet's, or the parser's to complain of.
        let glob = target.contains(['*', '?']);
        if found.is_empty() && glob {
            warnings.push(format!("[WARNING] No files matching import glob pattern: {target}"));
        }
        if !found.is_empty() || glob {
            sources.files.insert(target, found);
        }
    }
    Ok((sources, warnings))
}

/// The folder of a path, the nearest above where it is a glob.
fn folder(path: &Path) -> PathBuf {
    let mut folder = path.parent();
    while let Some(inner) = folder.filter(|inner| inner.to_string_lossy().contains(['*', '?'])) {
        folder = inner.parent();
    }
    folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// The files of a path whose parts may hold `*` and `?`, in order. Folders are left out, such as `..data` of a
/// ConfigMap's volume.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str();
        let Some(glob) = part.to_str().filter(|part| part.contains(['*', '?'])) else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let inside = |folder: &PathBuf| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder.as_path() };
            let names =
                std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let mut names: Vec<_> =
                names.filter(|name| name.to_str().is_some_and(|name| matches(glob, name))).collect();
            names.sort();
            names
        };
        let below = found.iter().flat_map(|folder| inside(folder).into_iter().map(|name| folder.join(name)));
        found = below.collect();
    }
    found.retain(|path| path.is_file());
    found
}

/// Whether a name is of a pattern where `*` stands for any characters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let tails = name.char_indices().map(|(at, _)| &name[at..]).chain([""]);
            tails.into_iter().any(|tail| matches(rest.as_str(), tail))
        }
        Some(c) => {
            let mut chars = name.chars();
            chars.next().is_some_and(|first| c == '?' || c == first) && matches(rest.as_str(), chars.as_str())
        }
    }
}

/// Why the Corefile is worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It may have changed.
    Changed,
    /// It is asked for: reloaded as it is, changed or not.
    Asked,
}

/// Tells when files may have changed.
pub(crate) struct Watch {
    /// Of the Corefile's folder and those of its imports: a ConfigMap's volume swaps a link there.
    inotify: Option<AsyncFd<OwnedFd>>,
    interval: Option<Duration>,
    next: Instant,
    wanted: Vec<Wanted>,
}

/// A file or folder that plugins read, and what it looked like.
struct Wanted {
    want: Want,
    next: Instant,
    seen: BTreeMap<String, Option<(SystemTime, u64)>>,
}

impl Watch {
    pub(crate) fn new(settings: &Settings, loaded: &Loaded) -> Self {
        let mut watch = Watch { inotify: None, interval: None, next: Instant::now(), wanted: Vec::new() };
        watch.renew(settings, loaded);
        watch
    }

    /// Takes another configuration. What happened since the last look stays seen.
    pub(crate) fn renew(&mut self, settings: &Settings, loaded: &Loaded) {
        let reload = loaded.blocks.iter().find_map(|block| block.settings.reload);
        let now = Instant::now();
        let wanted = loaded.files.iter().filter(|want| !want.every.is_zero());
        let wanted =
            wanted.map(|want| Wanted { want: want.clone(), next: now + want.every, seen: stamps(want) });
        self.wanted = wanted.collect();
        // `plugin/reload/setup.go`: half of the jitter less up to half of it more, the same until the next reload.
        self.interval = reload.map(|reload| reload.interval - reload.jitter / 2 + spread(reload.jitter));
        self.inotify = reload.and_then(|_| {
            let known = self.inotify.take().or_else(inotify_fd)?;
            let folders = loaded.folders.iter().cloned().chain([folder(&settings.corefile)]);
            folders.for_each(|folder| watch_folder(&known, &folder));
            Some(known)
        });
        // What changed after it was read, and before it was watched, is told by nobody.
        self.next = now + if self.inotify.is_some() { SETTLE } else { self.interval.unwrap_or_default() };
    }

    /// Returns when the Corefile is worth a look. What it has learnt outlives being dropped half way.
    pub(crate) async fn changed(&mut self, settings: &Settings) -> Look {
        loop {
            let (next, ticking, inotify) = (self.next, self.interval.is_some(), &self.inotify);
            let folder = async {
                match inotify {
                    Some(fd) => drained(fd).await,
                    None => std::future::pending().await,
                }
            };
            let timer = async {
                if ticking { tokio::time::sleep_until(next).await } else { std::future::pending().await }
            };
            let look = tokio::select! {
                () = folder => {
                    self.next = self.next.min(Instant::now() + SETTLE);
                    continue;
                }
                () = timer => Look::Changed,
                () = settings.reload.notified() => Look::Asked,
            };
            self.next = Instant::now() + self.interval.unwrap_or_default();
            return look;
        }
    }

    /// Looks at files that plugins have come to want since, soon.
    pub(crate) fn extend(&mut self, wants: Vec<Want>) {
        for want in wants.into_iter().filter(|want| !want.every.is_zero()) {
            if !self.wanted.iter().any(|known| known.want.path == want.path) {
                self.wanted.push(Wanted { want, next: Instant::now(), seen: BTreeMap::new() });
            }
        }
    }

    /// The plugins' files that changed since the last look, and what they say now; `None`: they are gone.
    pub(crate) fn content(&mut self) -> Vec<(String, Option<String>)> {
        let now = Instant::now();
        let mut changed = Vec::new();
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.next <= now) {
            wanted.next = now + wanted.want.every;
            let stamps = stamps(&wanted.want);
            let before = std::mem::replace(&mut wanted.seen, stamps);
            let paths = before.keys().chain(wanted.seen.keys().filter(|path| !before.contains_key(*path)));
            let differ = paths.filter(|path| before.get(*path) != wanted.seen.get(*path));
            changed.extend(differ.map(|path| (path.clone(), content(path))));
        }
        changed
    }
}

fn stamps(want: &Want) -> BTreeMap<String, Option<(SystemTime, u64)>> {
    paths(want).into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn spread(jitter: Duration) -> Duration {
    let mut byte = [0u8];
    // Without random numbers every server looks at the same time, which is no harm.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    jitter.mul_f64(f64::from(byte[0]) / 256.0)
}

fn inotify_fd() -> Option<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    // The alternative is unsafe because of types that close or swap their descriptor while it is registered; an
    // `OwnedFd` that is never taken out again does neither.
    #[allow(deprecated)]
    AsyncFd::new(fd).ok()
}

/// Watches a folder, once however often it is asked for. One that can't be is looked at by the clock.
fn watch_folder(fd: &AsyncFd<OwnedFd>, folder: &Path) {
    let events = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::DELETE;
    let _ = inotify::add_watch(fd.get_ref(), folder, events);
}

/// Waits for events and throws them away.
async fn drained(fd: &AsyncFd<OwnedFd>) {
    let Ok(mut guard) = fd.readable().await else { return std::future::pending().await };
    let mut buffer = [0u8; 4096];
    while rustix::io::read(fd.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
    guard.clear_ready();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, holds) in [
            ("*", "", true),
            ("*", "..data", true),
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("a*b", "ab", true),
            ("a*b", "aébb", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("?*", "", false),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(matches(pattern, name), holds, "{pattern} {name}");
        }
        for (path, above) in [
            ("Corefile", "."),
            ("/etc/coredns/Corefile", "/etc/coredns"),
            ("/etc/coredns/custom/*.server", "/etc/coredns/custom"),
            ("parts/*/Corefile", "parts"),
            ("*/Corefile", "."),
        ] {
            assert_eq!(folder(Path::new(path)), Path::new(above), "{path}");
        }
    }

    /// Between reading a Corefile and watching it there is time for another one to come.
    #[tokio::test]
    async fn what_changed_before_it_was_watched_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::new(folder.path().join("Corefile"));
        std::fs::write(&settings.corefile, ".:1053 {\n reload 1h\n}\n").unwrap();
        let (loaded, _) = load(&settings).unwrap();
        std::fs::write(&settings.corefile, ".:1053 {\n reload 1h\n errors\n}\n").unwrap();
        let mut watch = Watch::new(&settings, &loaded);
        let look = tokio::time::timeout(Duration::from_secs(60), watch.changed(&settings)).await;
        assert_eq!(look.expect("a look before the hour is over"), Look::Changed);
    }

    #[test]
    fn files_of_a_pattern() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/x.conf", "a/x.conf", "a/y.conf", "a/z.conf/inner"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| {
            let found = matching(&folder.path().join(pattern)).into_iter();
            found
                .map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("a/*.conf"), ["a/x.conf", "a/y.conf"]);
        assert_eq!(found("*/x.conf"), ["a/x.conf", "b/x.conf"]);
        assert_eq!(found("a/x.conf"), ["a/x.conf"]);
        for none in ["a", "a/*.none", "none/*", "a/z.conf"] {
            assert_eq!(found(none), Vec::<String>::new(), "{none}");
        }
    }
}
