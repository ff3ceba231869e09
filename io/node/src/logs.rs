//! Container logs on disk: written, rotated, read and followed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use sealane_pod::logline::{Filter, Writer, tail};
use tokio::sync::{mpsc, watch};

/// A file is rotated at this size, bytes.
const MAX_FILE: u64 = 10 << 20;
/// Files kept of one incarnation.
const MAX_FILES: u32 = 5;

/// What a reader waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Rotations so far.
    segment: u64,
    /// Bytes written in this segment.
    written: u64,
    /// Nothing more will come.
    closed: bool,
}

/// The log of one incarnation of a container.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    open: Mutex<Open>,
    progress: watch::Sender<Progress>,
    max_file: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    stdout: Writer,
    stderr: Writer,
    buffer: Vec<u8>,
}

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Log {
    /// Opens `path` for appending, folders and all.
    pub(crate) fn create(path: &Path) -> io::Result<Log> {
        Self::with_limit(path, MAX_FILE)
    }

    fn with_limit(path: &Path, max_file: u64) -> io::Result<Log> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        let open = Open { file, stdout: Writer::default(), stderr: Writer::default(), buffer: Vec::new() };
        let progress = watch::Sender::new(Progress { segment: 0, written, closed: false });
        Ok(Log { path: path.to_owned(), open: Mutex::new(open), progress, max_file })
    }

    /// Appends what a stream gave.
    pub(crate) fn write(&self, stream: Stream, data: &[u8]) {
        self.change(|open, now, out| match stream {
            Stream::Stdout => open.stdout.push("stdout", now, data, out),
            Stream::Stderr => open.stderr.push("stderr", now, data, out),
        });
    }

    /// Both streams have ended.
    pub(crate) fn close(&self) {
        self.change(|open, now, out| {
            open.stdout.finish("stdout", now, out);
            open.stderr.finish("stderr", now, out);
        });
        self.progress.send_modify(|p| p.closed = true);
    }

    fn change(&self, push: impl FnOnce(&mut Open, Timestamp, &mut Vec<u8>)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::mem::take(&mut open.buffer);
        out.clear();
        push(&mut open, Timestamp::now(), &mut out);
        let result = open.file.write_all(&out);
        if let Err(error) = result {
            tracing::warn!(path = %self.path.display(), %error, "a container's output is lost");
        }
        let wrote = out.len() as u64;
        open.buffer = out;
        let full = self.progress.borrow().written + wrote >= self.max_file;
        let rotated = full && self.rotate(&mut open).is_ok();
        if wrote > 0 {
            self.progress.send_modify(|p| {
                if rotated {
                    p.segment += 1;
                    p.written = 0;
                } else {
                    p.written += wrote;
                }
            });
        }
    }

    fn rotate(&self, open: &mut Open) -> io::Result<()> {
        for n in (1..MAX_FILES - 1).rev() {
            match fs::rename(segment(&self.path, n), segment(&self.path, n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs::rename(&self.path, segment(&self.path, 1))?;
        open.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        Ok(())
    }

    fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

fn segment(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Want {
    pub(crate) filter: Filter,
    pub(crate) tail: Option<u64>,
}

/// Everything that is on disk of a log, oldest first.
fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for n in (1..MAX_FILES).rev() {
        match File::open(segment(path, n)) {
            Ok(mut file) => file.read_to_end(&mut out).map(drop)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    File::open(path)?.read_to_end(&mut out)?;
    Ok(out)
}

/// The last lines of a log as text, at most `lines` and `bytes`: a termination message
/// (`FallbackToLogsOnError`).
pub(crate) fn last_lines(path: &Path, lines: u64, bytes: usize) -> String {
    let Ok(log) = whole(path) else { return String::new() };
    let mut filter = Filter::default();
    let mut out = Vec::new();
    for line in log[tail(&log, lines)..].split(|b| *b == b'\n') {
        filter.push(line, &mut out);
    }
    let from = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

/// Reads the log at `path` into `to`; follows `live` until it closes, where it is given. Ends early when nobody
/// listens any more.
pub(crate) async fn read(
    path: PathBuf,
    live: Option<std::sync::Arc<Log>>,
    want: Want,
    to: mpsc::Sender<io::Result<Bytes>>,
) {
    if let Err(error) = read_all(path, live, want, &to).await {
        let _ = to.send(Err(error)).await;
    }
}

async fn read_all(
    path: PathBuf,
    live: Option<std::sync::Arc<Log>>,
    want: Want,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut filter = want.filter;
    // The position is taken under the writer's lock, so that what comes after it is neither lost nor seen twice.
    let mut follow = None;
    let log = match &live {
        Some(log) => {
            let open = log.open.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = whole(&path)?;
            let mut progress = log.watch();
            let at = *progress.borrow_and_update();
            drop(open);
            let mut file = File::open(&path)?;
            io::Seek::seek(&mut file, io::SeekFrom::Start(at.written))?;
            follow = Some((file, at.segment, progress));
            bytes
        }
        None => whole(&path)?,
    };
    let start = want.tail.map_or(0, |n| tail(&log, n));
    if !send_lines(&log[start..], &mut filter, to).await {
        return Ok(());
    }
    drop(log);
    let Some((mut file, mut segment, mut progress)) = follow else { return Ok(()) };
    let mut rest = Vec::new();
    loop {
        let at = *progress.borrow_and_update();
        file.read_to_end(&mut rest)?;
        if at.segment != segment {
            segment = at.segment;
            file = File::open(&path)?;
            file.read_to_end(&mut rest)?;
        }
        let end = rest.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if end > 0 && !send_lines(&rest[..end], &mut filter, to).await {
            return Ok(());
        }
        rest.drain(..end);
        if at.closed {
            return Ok(());
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            () = to.closed() => return Ok(()),
        }
    }
}

async fn send_lines(log: &[u8], filter: &mut Filter, to: &mpsc::Sender<io::Result<Bytes>>) -> bool {
    let mut out = Vec::new();
    for line in log.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let more = filter.push(line, &mut out);
        let due = !more || out.len() >= 64 * 1024;
        if due && (to.send(Ok(Bytes::from(std::mem::take(&mut out)))).await.is_err() || !more) {
            return false;
        }
    }
    out.is_empty() || to.send(Ok(Bytes::from(out))).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn collect(mut rx: mpsc::Receiver<io::Result<Bytes>>) -> String {
        let mut out = Vec::new();
        while let Some(chunk) = rx.recv().await {
            out.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn follows_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let log = Arc::new(Log::with_limit(&path, 200).unwrap());
        log.write(Stream::Stdout, b"first\n");
        let (tx, mut rx) = mpsc::channel(16);
        tokio::spawn(read(path.clone(), Some(log.clone()), Want::default(), tx));
        assert_eq!(rx.recv().await.unwrap().unwrap(), "first\n");
        let mut want = String::new();
        for n in 0..12 {
            log.write(Stream::Stderr, format!("line {n}\n").as_bytes());
            want.push_str(&format!("line {n}\n"));
            let mut got = Vec::new();
            while !got.ends_with(b"\n") {
                got.extend_from_slice(&rx.recv().await.unwrap().unwrap());
            }
            assert_eq!(got, format!("line {n}\n").as_bytes());
        }
        log.write(Stream::Stdout, b"unfinished");
        log.close();
        assert_eq!(collect(rx).await, "unfinished");
        assert!(segment(&path, 1).exists());
        assert_eq!(last_lines(&path, 2, 4096), "line 11\nunfinished");
    }

    #[tokio::test]
    async fn tails_and_limits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = Log::create(&path).unwrap();
        log.write(Stream::Stdout, b"a\nb\nc\n");
        log.close();
        for (tail, limit, want) in
            [(None, None, "a\nb\nc\n"), (Some(2), None, "b\nc\n"), (Some(2), Some(1), "b")]
        {
            let (tx, rx) = mpsc::channel(16);
            read(path.clone(), None, Want { filter: Filter::new(false, None, limit), tail }, tx).await;
            assert_eq!(collect(rx).await, want);
        }
    }
}
