//! Master files (RFC 1035 section 5, RFC 2308 section 4, RFC 3597) in the dialect of CoreDNS's library: TTLs with
//! units, TTL and class in either order, `$GENERATE`.

use super::error::{Cause, MasterError};
use super::generate::Pattern;
use super::lexer::{Entries, Entry, Word};
use crate::message::presentation::{self, Token};
use crate::message::{CLASS_IN, Record, rtype};
use crate::name::Name;

/// How deep files may include files (as the library under CoreDNS).
const MAX_DEPTH: u8 = 7;
/// The TTL of generated records without one. `$TTL` does not reach them in CoreDNS.
const GENERATED_TTL: u32 = 3600;

/// Where included files come from: a path as it counts from where the server runs, to the file's content or why it
/// can't be had.
pub type Include<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// For sources that may include nothing.
///
/// # Errors
/// Always.
pub fn no_include(_: &str) -> Result<Vec<u8>, String> {
    Err("$INCLUDE is not allowed here".to_owned())
}

/// Reads a master file: its records in order.
///
/// `file` is the path for errors and what relative `$INCLUDE`s count from; `origin` is what `@` and relative names
/// mean before any `$ORIGIN`.
///
/// # Errors
/// The first thing that is wrong, with file and line.
pub fn parse(
    file: &str,
    text: &[u8],
    origin: &Name,
    include: &mut Include<'_>,
) -> Result<Vec<Record>, MasterError> {
    let mut out = Vec::new();
    let mut parser = Parser {
        file: file.to_owned(),
        origin: origin.clone(),
        owner: None,
        default: None,
        last_ttl: 0,
        depth: 0,
        generated: false,
    };
    parser.file(text, 1, include, &mut out)?;
    Ok(out)
}

/// The TTL for records without one.
#[derive(Clone, Copy)]
struct DefaultTtl {
    seconds: u32,
    /// `$TTL` said so, and not an earlier record.
    directed: bool,
}

struct Parser {
    file: String,
    origin: Name,
    owner: Option<Name>,
    default: Option<DefaultTtl>,
    last_ttl: u32,
    depth: u8,
    generated: bool,
}

impl Parser {
    fn file(
        &mut self,
        text: &[u8],
        first: usize,
        include: &mut Include<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), MasterError> {
        let file = self.file.clone();
        let at = |line| move |cause| MasterError { file, line, cause };
        for entry in Entries::new(text, first) {
            let entry = match entry {
                Ok(entry) => entry,
                Err((line, cause)) => return Err(at(line)(cause)),
            };
            match entry.words.first() {
                Some(word) if !entry.blank && word.text.starts_with(b"$") && !word.quoted => {
                    self.directive(&entry, include, out)?;
                }
                _ => match self.record(&entry) {
                    Ok(record) => out.push(record),
                    Err(cause) => return Err(at(entry.line)(cause)),
                },
            }
        }
        Ok(())
    }

    fn directive(
        &mut self,
        entry: &Entry<'_>,
        include: &mut Include<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), MasterError> {
        let wrong = |cause| MasterError { file: self.file.clone(), line: entry.line, cause };
        let [directive, rest @ ..] = entry.words.as_slice() else { return Ok(()) };
        let directive = String::from_utf8_lossy(&directive.text).to_ascii_uppercase();
        match (directive.as_str(), rest) {
            ("$ORIGIN", [word]) => {
                self.origin = presentation::name(&word.text, &self.origin).map_err(|e| wrong(e.into()))?;
            }
            ("$ORIGIN", _) => return Err(wrong(Cause::Directive("$ORIGIN", "one name"))),
            ("$TTL", [word]) => match presentation::seconds(&word.text) {
                Some(seconds) => self.default = Some(DefaultTtl { seconds, directed: true }),
                None => return Err(wrong(Cause::Directive("$TTL", "seconds or 1h30m"))),
            },
            ("$TTL", _) => return Err(wrong(Cause::Directive("$TTL", "seconds or 1h30m"))),
            ("$INCLUDE", [path] | [path, _]) => {
                let origin = match rest.get(1) {
                    Some(word) => {
                        presentation::name(&word.text, &self.origin).map_err(|e| wrong(e.into()))?
                    }
                    None => self.origin.clone(),
                };
                if self.depth >= MAX_DEPTH {
                    return Err(wrong(Cause::TooDeep));
                }
                let path = self.beside(&String::from_utf8_lossy(&path.text));
                let text = include(&path).map_err(|why| wrong(Cause::Include(path.clone(), why)))?;
                let mut inner = Parser {
                    file: path,
                    origin,
                    owner: None,
                    default: self.default,
                    last_ttl: 0,
                    depth: self.depth + 1,
                    generated: self.generated,
                };
                inner.file(&text, 1, include, out)?;
            }
            ("$INCLUDE", _) => return Err(wrong(Cause::Directive("$INCLUDE", "a path and maybe an origin"))),
            ("$GENERATE", _) if self.generated => {
                return Err(wrong(Cause::Generate("it can't stand in what another makes")));
            }
            ("$GENERATE", [range, _, ..]) => self.generate(entry, range, include, out)?,
            ("$GENERATE", _) => {
                return Err(wrong(Cause::Directive("$GENERATE", "a range and a record")));
            }
            _ => return Err(wrong(Cause::NoDirective(directive))),
        }
        Ok(())
    }

    fn generate(
        &mut self,
        entry: &Entry<'_>,
        range: &Word,
        include: &mut Include<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), MasterError> {
        let wrong =
            |why| MasterError { file: self.file.clone(), line: entry.line, cause: Cause::Generate(why) };
        // What is behind the range is text into which numbers go; words are made of it after.
        let rest = entry.source.get(range.end..).unwrap_or_default();
        let pattern = Pattern::parse(&range.text, rest.trim_ascii()).map_err(wrong)?;
        for line in pattern.lines() {
            let mut inner = Parser {
                file: self.file.clone(),
                origin: self.origin.clone(),
                owner: None,
                default: Some(DefaultTtl { seconds: GENERATED_TTL, directed: false }),
                last_ttl: 0,
                depth: self.depth,
                generated: true,
            };
            inner.file(&line, entry.line, include, out)?;
        }
        Ok(())
    }

    /// A path that an included file is named by, from the folder of the file that names it.
    fn beside(&self, path: &str) -> String {
        match self.file.rsplit_once('/') {
            Some((folder, _)) if !path.starts_with('/') => format!("{folder}/{path}"),
            _ => path.to_owned(),
        }
    }

    fn record(&mut self, entry: &Entry<'_>) -> Result<Record, Cause> {
        let mut words = entry.words.as_slice();
        let mut named = false;
        if !entry.blank
            && let Some((word, rest)) = words.split_first()
        {
            self.owner = Some(presentation::name(&word.text, &self.origin)?);
            (words, named) = (rest, true);
        }
        let name = self.owner.clone().ok_or(Cause::NoOwner)?;
        let (mut ttl, mut class) = (None, None);
        let kind = loop {
            let Some((word, rest)) = words.split_first() else { return Err(Cause::NoType) };
            words = rest;
            let text = String::from_utf8_lossy(&word.text);
            if let Some(number) = class_of(&text).filter(|_| class.is_none()) {
                class = Some(number);
            } else if let Some(kind) = rtype::from_name(&text) {
                break kind;
            } else if let Some(seconds) = presentation::seconds(&word.text).filter(|_| ttl.is_none()) {
                ttl = Some(seconds);
            } else {
                return Err(Cause::Unknown(text.into_owned()));
            }
        };
        if rtype::is_meta(kind) {
            return Err(Cause::Meta(rtype::name(kind)));
        }
        let ttl = match (ttl, self.default) {
            (Some(seconds), default) => {
                // The last TTL that was said stands for those to come, where there is no $TTL (RFC 1035).
                if !default.is_some_and(|d| d.directed) {
                    self.default = Some(DefaultTtl { seconds, directed: false });
                }
                seconds
            }
            (None, Some(default)) => default.seconds,
            (None, None) if named && class.is_none() => return Err(Cause::NoTtl),
            // With a class CoreDNS's library asks for no TTL: it stays 0.
            (None, None) => self.last_ttl,
        };
        self.last_ttl = ttl;
        let tokens: Vec<Token<'_>> =
            words.iter().map(|w| Token { text: &w.text, quoted: w.quoted, glued: w.glued }).collect();
        let data = presentation::parse(kind, &tokens, &self.origin)?;
        Ok(Record { name, class: class.unwrap_or(CLASS_IN), ttl, data })
    }
}

/// RFC 1035 section 3.2.4, and `CLASS32` (RFC 3597).
fn class_of(text: &str) -> Option<u16> {
    const CLASSES: &[(&str, u16)] =
        &[("IN", 1), ("CS", 2), ("CH", 3), ("HS", 4), ("NONE", 254), ("ANY", 255)];
    if let Some(row) = CLASSES.iter().find(|row| row.0.eq_ignore_ascii_case(text)) {
        return Some(row.1);
    }
    let (prefix, number) = text.split_at_checked(5)?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    if prefix.eq_ignore_ascii_case("CLASS") && digits { number.parse().ok() } else { None }
}
