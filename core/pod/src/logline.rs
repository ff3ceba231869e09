//! Container logs as the CRI writes them: `TIME STREAM TAG TEXT`, tag `F` for a full line, `P` for a part of one
//! (`pkg/kubelet/kuberuntime/logs`).

use jiff::Timestamp;

/// Longest text of one line; longer ones are written in parts.
pub const MAX_TEXT: usize = 16 * 1024;

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The text ends with a new line.
    pub full: bool,
    /// The text, without its new line.
    pub text: &'a [u8],
}

/// Reads one line, without its new line; `None` where it is not of the format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let full = parts.next()? == b"F";
    Some(Line { time, stream, full, text: parts.next()? })
}

/// Cuts what a stream gives into lines of the format. Keeps what is not yet a line.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    rest: Vec<u8>,
}

impl Writer {
    /// Appends `data`, which came at `now` on `stream`, to `out` as whole lines of the format.
    pub fn push(&mut self, stream: &str, now: Timestamp, data: &[u8], out: &mut Vec<u8>) {
        for piece in data.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(piece);
            let ended = self.rest.last() == Some(&b'\n');
            if ended {
                self.rest.pop();
            }
            while self.rest.len() > MAX_TEXT {
                line(out, stream, now, "P", &self.rest[..MAX_TEXT]);
                self.rest.drain(..MAX_TEXT);
            }
            if ended {
                line(out, stream, now, "F", &self.rest);
                self.rest.clear();
            }
        }
    }

    /// Writes what is left when the stream ends.
    pub fn finish(&mut self, stream: &str, now: Timestamp, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            line(out, stream, now, "P", &self.rest);
            self.rest.clear();
        }
    }
}

fn line(out: &mut Vec<u8>, stream: &str, now: Timestamp, tag: &str, text: &[u8]) {
    out.extend_from_slice(format!("{now:.9} {stream} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Which lines a reader wants, and how.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Every line begins with its time.
    pub timestamps: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// At most so many bytes more.
    pub remaining: Option<u64>,
    midline: bool,
}

impl Filter {
    /// A filter at the start of a log.
    pub fn new(timestamps: bool, since: Option<Timestamp>, limit: Option<u64>) -> Self {
        Filter { timestamps, since, remaining: limit, midline: false }
    }

    /// Appends to `out` what of `line` (without its new line) the reader gets. `false`: no more is wanted.
    pub fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(parsed) = parse(line) else { return true };
        if let Some(since) = self.since {
            match parsed.time.parse::<Timestamp>() {
                Ok(time) if time >= since => self.since = None,
                _ => return true,
            }
        }
        let start = out.len();
        if self.timestamps && !self.midline {
            out.extend_from_slice(parsed.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(parsed.text);
        if parsed.full {
            out.push(b'\n');
        }
        self.midline = !parsed.full;
        if let Some(remaining) = &mut self.remaining {
            let wrote = (out.len() - start) as u64;
            if wrote >= *remaining {
                out.truncate(start + usize::try_from(*remaining).unwrap_or(0));
                *remaining = 0;
                return false;
            }
            *remaining -= wrote;
        }
        true
    }
}

/// Where the last `lines` lines of `log` begin. A part counts with the line that it is of.
pub fn tail(log: &[u8], lines: u64) -> usize {
    if lines == 0 {
        return log.len();
    }
    let mut at = log.len();
    let mut seen = 0;
    let mut start = at;
    while at > 0 {
        let begin = log[..at - 1].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let full = parse(&log[begin..at]).is_some_and(|l| l.full);
        if (full || start == log.len()) && {
            seen += 1;
            seen > lines
        } {
            return start;
        }
        start = begin;
        at = begin;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05.5Z".parse().unwrap()
    }

    #[test]
    fn writes_lines_and_parts() {
        let mut w = Writer::default();
        let mut out = Vec::new();
        w.push("stdout", now(), b"one\ntw", &mut out);
        w.push("stdout", now(), b"o\n\n", &mut out);
        w.push("stdout", now(), &vec![b'x'; MAX_TEXT + 1], &mut out);
        w.finish("stdout", now(), &mut out);
        let lines: Vec<_> = out.split(|b| *b == b'\n').filter_map(parse).collect();
        let shape: Vec<_> = lines.iter().map(|l| (l.full, l.text.len())).collect();
        assert_eq!(shape, [(true, 3), (true, 3), (true, 0), (false, MAX_TEXT), (false, 1)]);
        assert_eq!(lines[0].time, "2026-01-02T03:04:05.500000000Z");
        assert_eq!(lines[1].text, b"two");
    }

    #[test]
    fn filters() {
        let log = b"2026-01-01T00:00:00.0Z stdout F a\n2026-01-01T00:00:01.0Z stdout P b\n\
                    2026-01-01T00:00:01.1Z stdout F c\n2026-01-01T00:00:02.0Z stderr F d";
        let read = |mut f: Filter| {
            let mut out = Vec::new();
            let _ = log.split(|b| *b == b'\n').all(|l| f.push(l, &mut out));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(read(Filter::new(false, None, None)), "a\nbc\nd\n");
        assert_eq!(
            read(Filter::new(true, "2026-01-01T00:00:01Z".parse().ok(), None)),
            "2026-01-01T00:00:01.0Z bc\n2026-01-01T00:00:02.0Z d\n"
        );
        assert_eq!(read(Filter::new(false, None, Some(3))), "a\nb");
    }

    #[test]
    fn tails() {
        let log = b"t stdout F a\nt stdout P b\nt stdout F c\nt stdout F d\n";
        for (n, want) in [(0, ""), (1, "t stdout F d\n"), (2, "t stdout P b\nt stdout F c\nt stdout F d\n")] {
            assert_eq!(&log[tail(log, n)..], want.as_bytes(), "{n}");
        }
        assert_eq!(tail(log, 3), 0);
        assert_eq!(tail(log, 9), 0);
        assert_eq!(tail(b"", 1), 0);
    }
}
