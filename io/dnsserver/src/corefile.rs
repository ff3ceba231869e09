//! The Corefile on disk: read with its imports, and looked at again when it may have changed.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::inotify;
use sealane_dns::Config;
use sealane_dns::chain::{Block, Want};
use sealane_dns::corefile::{Sources, import_targets};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::{DnsError, Settings};

/// Files that a Corefile may import, in all.
const MAX_FILES: usize = 256;
/// A directory's events are waited for so long before the file is read: an editor writes several.
const SETTLE: Duration = Duration::from_millis(20);

/// A configuration with the files that it needs.
pub(crate) struct Loaded {
    pub(crate) blocks: Vec<Arc<Block>>,
    /// What its plugins read.
    pub(crate) files: Vec<Want>,
    /// Of the Corefile and its imports.
    pub(crate) fingerprint: u64,
}

impl Loaded {
    pub(crate) fn fingerprint_text(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }
}

fn read(path: &Path) -> Result<String, DnsError> {
    std::fs::read_to_string(path)
        .map_err(|source| DnsError::Read { path: path.display().to_string(), source })
}

/// Reads the Corefile, and hands its plugins the files that they read.
pub(crate) fn load(settings: &Settings) -> Result<(Loaded, Config), DnsError> {
    let text = read(&settings.corefile)?;
    let name = settings.corefile.display().to_string();
    let sources = sources(settings, &name, &text)?;
    let mut config = Config::parse(&name, &text, &sources, settings.default_port)?;
    let files = config.files();
    for path in files.iter().flat_map(paths) {
        config.load(&path, content(&path).as_deref()).map_err(DnsError::File)?;
    }
    let mut hasher = DefaultHasher::new();
    (&text, &sources.files).hash(&mut hasher);
    Ok((Loaded { blocks: config.blocks.clone(), files, fingerprint: hasher.finish() }, config))
}

fn content(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The files that are meant: one, or all of a folder.
fn paths(want: &Want) -> Vec<String> {
    if !want.folder {
        return vec![want.path.clone()];
    }
    let entries = std::fs::read_dir(&want.path).into_iter().flatten().flatten();
    let mut paths: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect();
    paths.sort();
    paths
}

/// The environment, and the files that `import` lines name, theirs included.
fn sources(settings: &Settings, name: &str, text: &str) -> Result<Sources, DnsError> {
    let env = std::env::vars_os();
    let env = env.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let mut sources = Sources { env, files: BTreeMap::new() };
    let folder = settings.corefile.parent().unwrap_or(Path::new("")).to_owned();
    let mut todo: Vec<String> = import_targets(name, text)?;
    while let Some(target) = todo.pop() {
        if sources.files.contains_key(&target) || sources.files.len() >= MAX_FILES {
            continue;
        }
        let mut found = Vec::new();
        for path in matching(&folder.join(&target)) {
            let content = read(&path)?;
            let name = path.display().to_string();
            todo.extend(import_targets(&name, &content)?);
            found.push((name, content));
        }
        // A glob may match nothing; a plain name that is no file is a snippet's, or the parser's to complain of.
        if !found.is_empty() || target.contains('*') {
            sources.files.insert(target, found);
        }
    }
    Ok(sources)
}

/// The files of a path whose last part may hold `*`, in order.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let last = pattern.file_name().and_then(|name| name.to_str()).unwrap_or("");
    if !last.contains('*') {
        return if pattern.is_file() { vec![pattern.to_owned()] } else { Vec::new() };
    }
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| glob(last, name)))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            let ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            ends.into_iter().any(|at| glob(rest, &tail[at..]))
        }),
    }
}

/// Tells when files may have changed.
pub(crate) struct Watch {
    /// Of the Corefile's folder: a ConfigMap's volume swaps a link there.
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
        let reload = loaded.blocks.iter().find_map(|block| block.settings.reload);
        let now = Instant::now();
        let wanted = loaded.files.iter().filter(|want| !want.every.is_zero());
        let wanted =
            wanted.map(|want| Wanted { want: want.clone(), next: now + want.every, seen: stamps(want) });
        let jitter = reload.map_or(Duration::ZERO, |reload| spread(reload.jitter));
        Watch {
            inotify: reload.and_then(|_| folder_watch(&settings.corefile)),
            interval: reload.map(|reload| reload.interval),
            next: now + reload.map_or(Duration::ZERO, |reload| reload.interval) + jitter,
            wanted: wanted.collect(),
        }
    }

    /// Returns when the Corefile is worth a look. What it has learnt outlives being dropped half way.
    pub(crate) async fn changed(&mut self, settings: &Settings) {
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
            tokio::select! {
                () = folder => {
                    self.next = self.next.min(Instant::now() + SETTLE);
                    continue;
                }
                () = timer => {}
                () = settings.reload.notified() => {}
            }
            self.next = Instant::now() + self.interval.unwrap_or_default();
            return;
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

fn folder_watch(corefile: &Path) -> Option<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    let folder = corefile.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let events = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::DELETE;
    inotify::add_watch(&fd, folder, events).ok()?;
    // The alternative is unsafe because of types that close or swap their descriptor while it is registered; an
    // `OwnedFd` that is never taken out again does neither.
    #[allow(deprecated)]
    AsyncFd::new(fd).ok()
}

/// Waits for events and throws them away.
async fn drained(fd: &AsyncFd<OwnedFd>) {
    let Ok(mut guard) = fd.readable().await else { return std::future::pending().await };
    let mut buffer = [0u8; 4096];
    while rustix::io::read(fd.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
    guard.clear_ready();
}
