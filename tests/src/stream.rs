//! Programs that go on: watched, followed, typed to.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// For one expectation.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Heard {
    text: String,
    /// Outputs that have not ended.
    open: usize,
}

type Shared = Arc<(Mutex<Heard>, Condvar)>;

/// A running program and what it has printed. Dropped, it is killed.
pub struct Stream {
    child: Child,
    input: Option<File>,
    heard: Shared,
    /// Octets that earlier expectations have used up.
    read: usize,
}

impl Stream {
    /// Starts a program with pipes; both outputs are heard as one.
    #[track_caller]
    pub fn piped(command: &mut Command) -> Stream {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let heard = Shared::default();
        listen(child.stdout.take().unwrap(), &heard);
        listen(child.stderr.take().unwrap(), &heard);
        Stream { child, input: None, heard, read: 0 }
    }

    /// Starts a program on a terminal.
    #[track_caller]
    pub fn on_terminal(command: &mut Command) -> Stream {
        let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&own).unwrap();
        unlockpt(&own).unwrap();
        let name = ptsname(&own, Vec::new()).unwrap().into_string().unwrap();
        let noctty = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let theirs = {
            use std::os::unix::fs::OpenOptionsExt;
            OpenOptions::new().read(true).write(true).custom_flags(noctty).open(name).unwrap()
        };
        let copy = || Stdio::from(theirs.try_clone().unwrap());
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        // The command keeps its ends for another start: end-of-file comes when the last is closed.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let own = File::from(own);
        let heard = Shared::default();
        listen(own.try_clone().unwrap(), &heard);
        Stream { child, input: Some(own), heard, read: 0 }
    }

    /// Types.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.input.as_mut().expect("a program on a terminal").write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` comes, from where the last expectation ended; gives what came up to its end.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        self.until(&format!("{text:?}"), |new| new.find(text).map(|at| at + text.len()))
    }

    /// Waits until a whole line passes the test; gives that line.
    #[track_caller]
    pub fn expect_line(&mut self, what: &str, passes: impl Fn(&str) -> bool) -> String {
        let taken = self.until(what, |new| {
            let mut at = 0;
            new.split_inclusive('\n').find_map(|line| {
                at += line.len();
                (line.ends_with('\n') && passes(line.trim_end())).then_some(at)
            })
        });
        taken.trim_end().lines().last().unwrap_or_default().trim_end().to_owned()
    }

    /// Waits for the program's own end; all that came since the last expectation.
    #[track_caller]
    pub fn ended(&mut self) -> (std::process::ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let (lock, bell) = &*self.heard;
        let mut heard = lock.lock().unwrap();
        while heard.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the program has not ended; it said:\n{}", heard.text);
            heard = bell.wait_timeout(heard, left).unwrap().0;
        }
        let rest = heard.text[self.read..].to_owned();
        drop(heard);
        (self.child.wait().unwrap(), rest)
    }

    /// As ^C at a terminal.
    #[track_caller]
    pub fn interrupt(mut self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        self.child.wait().unwrap();
    }

    #[track_caller]
    fn until(&mut self, what: &str, find: impl Fn(&str) -> Option<usize>) -> String {
        let deadline = Instant::now() + PATIENCE;
        let (lock, bell) = &*self.heard;
        let mut heard = lock.lock().unwrap();
        loop {
            let new = &heard.text[self.read..];
            if let Some(length) = find(new) {
                let taken = new[..length].to_owned();
                self.read += length;
                return taken;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(heard.open > 0, "it ended before {what} came; it said:\n{}", heard.text);
            assert!(!left.is_zero(), "{what} did not come in {PATIENCE:?}; it said:\n{}", heard.text);
            heard = bell.wait_timeout(heard, left).unwrap().0;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(mut from: impl Read + Send + 'static, heard: &Shared) {
    let heard = Arc::clone(heard);
    heard.0.lock().unwrap_or_else(PoisonError::into_inner).open += 1;
    std::thread::spawn(move || {
        let mut pending = Vec::new();
        let mut buffer = [0; 4096];
        // A terminal whose other end is closed reads as EIO.
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            pending.extend_from_slice(&buffer[..n]);
            let whole = match std::str::from_utf8(&pending) {
                Ok(text) => text.len(),
                // A character that is still coming; anything else is shown as it is.
                Err(e) if e.error_len().is_none() => e.valid_up_to(),
                Err(_) => pending.len(),
            };
            let rest = pending.split_off(whole);
            let mut state = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.text.push_str(&String::from_utf8_lossy(&pending));
            heard.1.notify_all();
            drop(state);
            pending = rest;
        }
        heard.0.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
        heard.1.notify_all();
    });
}
