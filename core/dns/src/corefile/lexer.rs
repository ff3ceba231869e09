//! Tokens of a Corefile, as `coredns/caddy`'s `caddyfile/lexer.go` cuts them: words between white space, quotes,
//! comments.

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
    /// It is the first of its line: a directive's or an option's name, not an argument.
    pub starts_line: bool,
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

    /// The rest of the line, without its end.
    fn line(&mut self) -> String {
        let mut text = String::new();
        while self.rest.peek().is_some_and(|c| *c != '\n') {
            text.extend(self.next());
        }
        text
    }
}

/// The tokens of `text`, without a byte order mark where there is one.
///
/// # Errors
/// For a quote that never ends, and a `#` inside of a line's words.
pub(super) fn tokens(file: &str, text: &str) -> Result<Vec<Token>, CorefileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let at = Position { file: Arc::from(file), line: 1, column: 1 };
    let mut c = Cursor { rest: text.chars().peekable(), at };
    let (mut out, mut line) = (Vec::new(), 0);
    while let Some(&next) = c.rest.peek() {
        if next.is_whitespace() {
            c.next();
            continue;
        }
        if next == '#' {
            c.line();
            continue;
        }
        // A quoted word may end on a later line than it begins on: what follows there is still this line's.
        let starts_line = c.at.line != line;
        let (at, quoted) = (c.at.clone(), next == '"');
        let text = if quoted { quote(&mut c)? } else { word(&mut c)? };
        line = c.at.line;
        out.push(Token { text, at, quoted, starts_line });
    }
    Ok(out)
}

fn word(c: &mut Cursor<'_>) -> Result<String, CorefileError> {
    let mut text = String::new();
    while let Some(next) = c.rest.peek().copied() {
        match next {
            // A carriage return is nothing at all, not even white space.
            '\r' => {
                c.next();
            }
            '#' => {
                // Caddy ends the word here, but takes up reading behind the next space of the comment.
                let at = c.at.clone();
                let comment = c.line();
                let hidden = comment.split_whitespace().nth(1);
                if hidden.is_some_and(|word| !word.starts_with('#')) {
                    let message = format!(
                        "a '#' right behind '{text}' is read one way by CoreDNS and another by people; put a space \
                         before the comment, or the word into quotes"
                    );
                    return Err(CorefileError::new(&at, message));
                }
            }
            next if next.is_whitespace() => break,
            next => {
                text.push(next);
                c.next();
            }
        }
    }
    Ok(text)
}

/// From quote to quote. `\"` is a quote, any other backslash is itself.
fn quote(c: &mut Cursor<'_>) -> Result<String, CorefileError> {
    let at = c.at.clone();
    c.next();
    let mut text = String::new();
    loop {
        match c.next() {
            Some('"') => return Ok(text),
            Some('\\') => match c.next() {
                Some('"') => text.push('"'),
                Some(other) => text.extend(['\\', other]),
                None => return Err(CorefileError::new(&at, "this quote never ends")),
            },
            Some(other) => text.push(other),
            None => return Err(CorefileError::new(&at, "this quote never ends")),
        }
    }
}
