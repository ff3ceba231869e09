//! The Corefile on disk: read with its imports, and looked at again when it may have changed.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::inotify;
use sealane_dns::Config;
use sealane_dns::config::{Upstream, resolv_conf};
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
    pub(crate) config: Config,
    pub(crate) files: BTreeMap<String, String>,
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

pub(crate) fn load(settings: &Settings) -> Result<Loaded, DnsError> {
    let text = read(&settings.corefile)?;
    let name = settings.corefile.display().to_string();
    let sources = sources(settings, &name, &text)?;
    let config = Config::parse(&name, &text, &sources, settings.default_port)?;
    let files: BTreeMap<String, String> = config
        .files()
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(&path).ok().map(|content| (path, content)))
        .collect();
    for to in config.blocks.iter().flat_map(|block| &block.forward).flat_map(|forward| &forward.to) {
        if let Upstream::ResolvConf(path) = to
            && files.get(path).is_none_or(|content| resolv_conf(content).is_empty())
        {
            return Err(DnsError::NoUpstream(path.clone()));
        }
    }
    let mut hasher = DefaultHasher::new();
    (&text, &sources.files).hash(&mut hasher);
    Ok(Loaded { config, files, fingerprint: hasher.finish() })
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
    hosts: Vec<HostsFile>,
}

struct HostsFile {
    path: String,
    every: Duration,
    next: Instant,
    seen: Option<(SystemTime, u64)>,
}

impl Watch {
    pub(crate) fn new(settings: &Settings, loaded: &Loaded) -> Self {
        let reload = loaded.config.blocks.iter().find_map(|block| block.reload);
        let now = Instant::now();
        let hosts = loaded.config.blocks.iter().filter_map(|block| block.hosts.as_ref());
        let hosts = hosts.filter(|hosts| !hosts.reload.is_zero()).map(|hosts| HostsFile {
            path: hosts.path.clone(),
            every: hosts.reload,
            next: now + hosts.reload,
            seen: stamp(&hosts.path),
        });
        let jitter = reload.map_or(Duration::ZERO, |reload| spread(reload.jitter));
        Watch {
            inotify: reload.and_then(|_| folder_watch(&settings.corefile)),
            interval: reload.map(|reload| reload.interval),
            next: now + reload.map_or(Duration::ZERO, |reload| reload.interval) + jitter,
            hosts: hosts.collect(),
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

    /// The hosts files that changed since the last look, by path, and what they say now.
    pub(crate) fn hosts(&mut self) -> Vec<(String, String)> {
        let now = Instant::now();
        let mut changed = Vec::new();
        for file in self.hosts.iter_mut().filter(|file| file.next <= now) {
            file.next = now + file.every;
            let stamp = stamp(&file.path);
            if stamp != file.seen {
                file.seen = stamp;
                let content = std::fs::read_to_string(&file.path).unwrap_or_default();
                changed.push((file.path.clone(), content));
            }
        }
        changed
    }
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
