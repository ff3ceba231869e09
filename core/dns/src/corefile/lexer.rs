//! Tokens of a Corefile (Caddy v1's lexer): words between white space, quotes, comments.

use std::sync::Arc;

use super::{CorefileError, Position};

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its text, quotes and escapes resolved.
    pub text: String,
    /// Where it begins.
    pub at: Position,
    /// It was quoted: `"{"` opens no block.
    pub quoted: bool,
}

struct Cursor<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    at: Position,
}

impl Cursor<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(c)
    }
}

/// The tokens of `text`.
///
/// # Errors
/// For a quote that never ends.
pub(super) fn tokens(file: &str, text: &str) -> Result<Vec<Token>, CorefileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let at = Position { file: Arc::from(file), line: 1, column: 1 };
    let mut c = Cursor { rest: text.chars().peekable(), at };
    let mut out = Vec::new();
    while let Some(&next) = c.rest.peek() {
        if next.is_whitespace() {
            c.next();
        } else if next == '#' {
            while c.rest.peek().is_some_and(|next| *next != '\n') {
                c.next();
            }
        } else if next == '"' {
            out.push(quoted(&mut c)?);
        } else {
            let at = c.at.clone();
            let mut text = String::new();
            while let Some(next) = c.rest.peek().copied().filter(|next| !next.is_whitespace()) {
                text.push(next);
                c.next();
            }
            out.push(Token { text, at, quoted: false });
        }
    }
    Ok(out)
}

fn quoted(c: &mut Cursor<'_>) -> Result<Token, CorefileError> {
    let at = c.at.clone();
    c.next();
    let mut text = String::new();
    loop {
        match c.next() {
            None => return Err(CorefileError::new(&at, "this quote never ends")),
            Some('"') => return Ok(Token { text, at, quoted: true }),
            Some('\\') if c.rest.peek() == Some(&'"') => {
                c.next();
                text.push('"');
            }
            Some(other) => text.push(other),
        }
    }
}
