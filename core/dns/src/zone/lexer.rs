//! A master file as entries (RFC 1035 section 5.1): a line, or the lines that parentheses or quotes hold together.

use super::error::Cause;

/// A word, as it is written without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: Vec<u8>,
    pub quoted: bool,
    /// No blank before it.
    pub glued: bool,
    /// Where it ends in [`Entry::source`], its quote included.
    pub end: usize,
}

/// The words of one entry.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// The line on which its first word stands, from 1.
    pub line: usize,
    /// It begins with a blank: the owner is the last one.
    pub blank: bool,
    pub words: Vec<Word>,
    /// The source, its comments and line ends included.
    pub source: &'a [u8],
}

/// Iterates over entries that have words.
pub(super) struct Entries<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Entries<'a> {
    pub fn new(text: &'a [u8], line: usize) -> Self {
        // An editor's byte order mark is no owner.
        Entries { text: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text), at: 0, line }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn step(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    /// One word of the entry that begins at `start`, up to its end, escapes kept; the closing quote is taken.
    fn word(&mut self, start: usize, quoted: bool, glued: bool) -> Result<Word, Cause> {
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                if quoted {
                    return Err(Cause::OpenQuote);
                }
                break;
            };
            match byte {
                b'"' if quoted => {
                    self.step();
                    break;
                }
                b'\\' => {
                    text.push(byte);
                    self.step();
                    match self.peek() {
                        // An escaped line end would be part of a name: nobody means that.
                        None | Some(b'\n' | b'\r') if !quoted => return Err(Cause::LoneBackslash),
                        Some(next) => {
                            text.push(next);
                            self.step();
                        }
                        None => return Err(Cause::OpenQuote),
                    }
                    continue;
                }
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"' if !quoted => break,
                byte => text.push(byte),
            }
            self.step();
        }
        Ok(Word { text, quoted, glued, end: self.at - start })
    }

    fn entry(&mut self) -> Result<Option<Entry<'a>>, (usize, Cause)> {
        let start = self.at;
        let mut entry = Entry {
            line: self.line,
            blank: matches!(self.peek(), Some(b' ' | b'\t')),
            words: vec![],
            source: b"",
        };
        let (mut depth, mut opened, mut glued) = (0usize, self.line, false);
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.step();
                    glued = false;
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                b' ' | b'\t' | b'\r' => {
                    glued = false;
                    self.step();
                }
                b';' => {
                    while self.peek().is_some_and(|b| b != b'\n') {
                        self.step();
                    }
                }
                b'(' | b')' => {
                    (depth, glued) = match (byte, depth) {
                        (b'(', _) => (depth + 1, false),
                        (_, 0) => return Err((self.line, Cause::ExtraBrace)),
                        _ => (depth - 1, false),
                    };
                    if depth == 1 && byte == b'(' {
                        opened = self.line;
                    }
                    self.step();
                }
                _ => {
                    let line = self.line;
                    let quoted = byte == b'"';
                    if quoted {
                        self.step();
                    }
                    if entry.words.is_empty() {
                        entry.line = line;
                    }
                    entry.words.push(self.word(start, quoted, glued).map_err(|cause| (line, cause))?);
                    glued = true;
                }
            }
        }
        if depth > 0 {
            return Err((opened, Cause::OpenBrace));
        }
        entry.source = &self.text[start..self.at];
        Ok((self.at > start).then_some(entry))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, (usize, Cause)>;
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.entry() {
                Ok(Some(entry)) if entry.words.is_empty() => {}
                Ok(entry) => return entry.map(Ok),
                Err(error) => {
                    // Nothing behind an error has a known place.
                    self.at = self.text.len();
                    return Some(Err(error));
                }
            }
        }
    }
}
