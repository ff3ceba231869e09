//! Server blocks and directives out of tokens (`caddyfile/parse.go`).

use super::expand::{Sources, Stream, is_close, is_open};
use super::lexer::Token;
use super::{CorefileError, Position};

/// A line of a server block: a plugin with its arguments and, in braces, its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The plugin's name, or an option's within a block.
    pub name: Token,
    /// What follows on the line.
    pub args: Vec<Token>,
    /// The lines in braces; `None` without braces.
    pub block: Option<Vec<Directive>>,
    /// Where its last word begins, the brace that ends its block included.
    pub end: Position,
}

impl Directive {
    /// Where it begins.
    pub fn at(&self) -> &Position {
        &self.name.at
    }
}

/// Keys (zones with ports) and what answers for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBlock {
    /// `cluster.local:53`, `.`, … in the file's order, one at least.
    pub keys: Vec<Token>,
    /// Its plugins' lines in the file's order.
    pub directives: Vec<Directive>,
}

/// Reads a Corefile; `file` is its name in messages and where its imports are looked for.
///
/// # Errors
/// The first thing that is wrong, with line and column.
///
/// ```
/// use sealane_dns::corefile::{Sources, parse};
/// let text = "(usual) {\n  errors\n}\n\na.example, b.example:{$PORT} {\n  import usual\n  cache 30\n}\n";
/// let env = [("PORT".to_owned(), "1053".to_owned())].into();
/// let blocks = parse("Corefile", text, &Sources { env, ..Sources::default() }).unwrap();
/// assert_eq!(blocks[0].keys[1].text, "b.example:1053");
/// assert_eq!(blocks[0].directives[1].args[0].text, "30");
/// assert_eq!(blocks[0].directives[0].at().to_string(), "Corefile:2:3");
/// ```
pub fn parse(file: &str, text: &str, sources: &Sources) -> Result<Vec<ServerBlock>, CorefileError> {
    let mut parser = Parser { stream: Stream::new(file, text, sources)? };
    let mut blocks = Vec::new();
    while parser.stream.peek()?.is_some() {
        blocks.extend(parser.server_block()?);
    }
    Ok(blocks)
}

fn err<T>(at: &Position, message: impl Into<String>) -> Result<T, CorefileError> {
    Err(CorefileError::new(at, message))
}

struct Parser<'a> {
    stream: Stream<'a>,
}

impl Parser<'_> {
    /// A block with its braces; `None` for a snippet, which is kept.
    fn server_block(&mut self) -> Result<Option<ServerBlock>, CorefileError> {
        let (keys, opened) = self.keys()?;
        let Some(first) = keys.first() else {
            return err(&self.stream.at, "a server block needs a zone, and empty quotes are none");
        };
        if let ([key], Some(brace)) = (keys.as_slice(), &opened)
            && let Some(name) = key.text.strip_prefix('(').and_then(|text| text.strip_suffix(')'))
        {
            self.stream.snippet(name, &brace.at)?;
            return Ok(None);
        }
        if let Some(key) = keys.iter().find(|key| key.text.starts_with('(')) {
            return err(&key.at, format!("a snippet is '{} {{', with its lines up to a '}}'", key.text));
        }
        if opened.is_some() {
            self.stream.opened()?;
        }
        let mut directives = Vec::new();
        while let Some(token) = self.stream.peek()? {
            if is_close(&token) {
                if opened.is_none() {
                    return err(&token.at, "this brace closes nothing");
                }
                self.stream.next()?;
                return Ok(Some(ServerBlock { keys, directives }));
            }
            if opened.is_none() && token.text.contains(['.', ':', '/']) {
                let message = format!(
                    "'{}' is no plugin; the server block '{}' has no braces and ends with the file: put its lines \
                     into braces to begin another",
                    token.text, first.text
                );
                return err(&token.at, message);
            }
            directives.push(self.directive(0)?);
        }
        match opened {
            Some(brace) => err(&brace.at, "this brace is never closed: a '}' is missing at the file's end"),
            // A single server block needs no braces; all that follows is its.
            None => Ok(Some(ServerBlock { keys, directives })),
        }
    }

    /// Keys up to the brace, or to the end of their line where there is none. A comma at a line's end carries on.
    fn keys(&mut self) -> Result<(Vec<Token>, Option<Token>), CorefileError> {
        let (mut keys, mut comma): (Vec<Token>, Option<Token>) = (Vec::new(), None);
        let mut begun = false;
        while let Some(mut token) = self.stream.peek()? {
            if is_open(&token) {
                if let Some(comma) = comma {
                    return err(&comma.at, "another zone is missing behind this comma");
                }
                if keys.is_empty() {
                    return err(&token.at, "a server block needs a zone before its brace, as in '. {'");
                }
                self.stream.next()?;
                return Ok((keys, Some(token)));
            }
            if begun && token.starts_line && comma.is_none() {
                break;
            }
            if is_close(&token) {
                return err(&token.at, "this brace closes nothing");
            }
            begun = true;
            self.stream.next()?;
            if token.text.is_empty() {
                continue;
            }
            comma = token.text.ends_with(',').then(|| token.clone());
            if comma.is_some() {
                token.text.pop();
            }
            if token.text.is_empty() || token.text.contains(',') {
                return err(&token.at, "a comma stands right behind a zone, with a space before the next");
            }
            if token.text.ends_with('{') && token.text.len() > 1 {
                return err(&token.at, "a space is missing before the brace");
            }
            keys.push(token);
        }
        match comma {
            Some(comma) => err(&comma.at, "another zone is missing behind this comma"),
            None => Ok((keys, None)),
        }
    }

    /// A plugin's line (`depth` 0) or an option's with what is in its braces.
    fn directive(&mut self, depth: usize) -> Result<Directive, CorefileError> {
        let start = self.stream.at.clone();
        let Some(name) = self.stream.next()? else { return err(&start, "a plugin's name is missing") };
        if is_open(&name) {
            return err(&name.at, "an opening brace stands at the end of the line that it belongs to");
        }
        let mut line = Directive { end: name.at.clone(), name, args: Vec::new(), block: None };
        while let Some(token) = self.stream.peek()?.filter(|token| !token.starts_line) {
            if is_close(&token) {
                if depth > 0 && line.block.is_none() {
                    // `{ max_fails 3 }`, which CoreDNS takes for options that know how many words they want.
                    break;
                }
                return err(&token.at, "this closing brace needs a line of its own");
            }
            if line.block.is_some() {
                return err(
                    &token.at,
                    format!("'{}' needs a line of its own, behind the brace's", token.text),
                );
            }
            self.stream.next()?;
            if !is_open(&token) {
                line.end = token.at.clone();
                line.args.push(token);
                continue;
            }
            if depth > 0 {
                return err(&token.at, "an option has no block of its own");
            }
            line.block = Some(self.options(&token)?);
            line.end = self.stream.at.clone();
        }
        Ok(line)
    }

    /// The lines up to the brace that closes `open`.
    fn options(&mut self, open: &Token) -> Result<Vec<Directive>, CorefileError> {
        let mut options = Vec::new();
        loop {
            match self.stream.peek()? {
                None => return err(&open.at, "this brace is never closed"),
                Some(token) if is_close(&token) => {
                    self.stream.next()?;
                    return Ok(options);
                }
                Some(_) => options.push(self.directive(1)?),
            }
        }
    }
}
