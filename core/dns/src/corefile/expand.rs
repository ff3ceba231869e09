//! A stream of tokens with environment variables and imports in place.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::lexer::{Token, tokens};
use super::{CorefileError, Position};

/// Imports of snippets in one Corefile, at most (`caddyfile/parse.go`, `maxSnippetExpansions`).
const MAX_SNIPPETS: usize = 10_000;
/// Imports of files in one Corefile, at most (`maxFileExpansions`).
const MAX_FILES: usize = 100_000;
/// Tokens after all imports, at most: what snippets that import each other may grow to.
const MAX_TOKENS: usize = 1 << 20;

/// Imports within imports, at most. CoreDNS counts all of them alone; a circle would take long to find that way.
const MAX_DEPTH: usize = 100;

/// What a Corefile may refer to.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Environment variables, for `{$NAME}` and `{%NAME%}`.
    pub env: BTreeMap<String, String>,
    /// Files for `import`, by the path or glob as [`import_targets`] gives it: names and contents. A glob that
    /// nothing matches has an empty list, a file that is not there no entry.
    pub files: BTreeMap<String, Vec<(String, String)>>,
    /// The machine's network interfaces and their addresses, for `bind`.
    pub interfaces: BTreeMap<String, Vec<std::net::IpAddr>>,
    /// For the signatures of `dnssec`.
    pub random: crate::chain::Randomness,
}

impl Sources {
    /// Puts variables in their places (`caddyfile/parse.go`, `replaceEnvVars`): `{%NAME%}` first, then `{$NAME}`;
    /// one that is not set is empty, and what has no end or no name stays as it is.
    fn expand(&self, token: &mut Token) -> Result<(), CorefileError> {
        for (open, close) in [("{%", "%}"), ("{$", "}")] {
            let mut from = 0;
            while let Some(start) = token.text[from..].find(open).map(|i| from + i) {
                let Some(len) = token.text[start + 2..].find(close).filter(|len| *len > 0) else { break };
                let name = &token.text[start + 2..start + 2 + len];
                if let Some((name, _)) = name.split_once(':') {
                    let message =
                        format!("CoreDNS knows no default for a variable: write {open}{name}{close}");
                    return Err(CorefileError::new(&token.at, message));
                }
                let value = self.env.get(name).map_or("", String::as_str);
                token.text.replace_range(start..start + 2 + len + close.len(), value);
                from = start + value.len();
            }
        }
        Ok(())
    }
}

/// A path or glob as it is written in `file`: relative ones are looked for beside it.
fn beside(file: &str, target: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, _)) if !target.starts_with('/') => format!("{folder}/{target}"),
        _ => target.to_owned(),
    }
}

/// What `import` lines of `text` may name: files and globs, variables in place, relative ones beside `file`. Some
/// are names of snippets, for which there is no file.
///
/// # Errors
/// Where the text can't be cut into words.
pub fn import_targets(file: &str, text: &str, sources: &Sources) -> Result<Vec<String>, CorefileError> {
    let tokens = tokens(file, text)?;
    let mut out = Vec::new();
    for (at, import) in tokens.iter().enumerate().filter(|(_, token)| is_import(token)) {
        let begins = import.starts_line || at > 0 && is_open(&tokens[at - 1]);
        if let Some(target) = tokens.get(at + 1).filter(|target| begins && !target.starts_line) {
            let mut target = target.clone();
            sources.expand(&mut target)?;
            out.push(beside(file, &target.text));
        }
    }
    Ok(out)
}

pub(super) fn is_open(token: &Token) -> bool {
    token.text == "{" && !token.quoted
}
pub(super) fn is_close(token: &Token) -> bool {
    token.text == "}" && !token.quoted
}
fn is_import(token: &Token) -> bool {
    token.text == "import" && !token.quoted
}

/// Tokens that are being read: the Corefile's, or of what is imported in its middle.
struct Frame {
    /// What it was imported as: `(snippet)` or a file.
    name: String,
    tokens: Rc<[Token]>,
    next: usize,
    depth: usize,
}

/// Tokens one after the other, imports replaced by what they name.
pub(super) struct Stream<'a> {
    frames: Vec<Frame>,
    snippets: HashMap<String, Rc<[Token]>>,
    sources: &'a Sources,
    snippet_imports: usize,
    file_imports: usize,
    taken: usize,
    /// Of the last token.
    pub(super) at: Position,
}

impl<'a> Stream<'a> {
    pub(super) fn new(file: &str, text: &str, sources: &'a Sources) -> Result<Self, CorefileError> {
        let tokens = tokens(file, text)?;
        let frame = Frame { name: file.to_owned(), tokens: tokens.into(), next: 0, depth: 0 };
        let at = Position { file: file.into(), line: 1, column: 1 };
        let (snippets, frames) = (HashMap::new(), vec![frame]);
        Ok(Stream { frames, snippets, sources, snippet_imports: 0, file_imports: 0, taken: 0, at })
    }

    /// The next token as it is written, imports unread.
    fn raw(&mut self) -> Option<&Token> {
        while self.frames.last()?.next >= self.frames.last()?.tokens.len() {
            self.frames.pop();
        }
        let frame = self.frames.last()?;
        frame.tokens.get(frame.next)
    }

    fn advance(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
    }

    /// The next token, which stays the next. An `import` at a line's beginning is never seen.
    pub(super) fn peek(&mut self) -> Result<Option<Token>, CorefileError> {
        loop {
            let Some(token) = self.raw().cloned() else { return Ok(None) };
            if !is_import(&token) || !token.starts_line {
                return self.expanded(token).map(Some);
            }
            self.advance();
            self.import(&token)?;
        }
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Option<Token>, CorefileError> {
        let Some(token) = self.peek()? else { return Ok(None) };
        self.advance();
        self.taken += 1;
        self.at = token.at.clone();
        if self.taken > MAX_TOKENS {
            return Err(CorefileError::new(&token.at, "imports make the configuration too large"));
        }
        Ok(Some(token))
    }

    /// Reads an `import` right behind a server block's brace: it needs no new line there.
    pub(super) fn opened(&mut self) -> Result<(), CorefileError> {
        let import = self.raw().filter(|next| is_import(next) && !next.starts_line).cloned();
        import.map_or(Ok(()), |import| {
            self.advance();
            self.import(&import)
        })
    }

    fn expanded(&self, mut token: Token) -> Result<Token, CorefileError> {
        self.sources.expand(&mut token)?;
        Ok(token)
    }

    /// Goes on with what an import names. The word itself has been read.
    fn import(&mut self, import: &Token) -> Result<(), CorefileError> {
        let Some(target) = self.raw().filter(|next| !next.starts_line).cloned() else {
            return Err(CorefileError::new(&import.at, "import needs a snippet's name or a file"));
        };
        let target = self.expanded(target)?;
        self.advance();
        let depth = self.frames.last().map_or(0, |frame| frame.depth) + 1;
        if target.text.is_empty() {
            return Err(CorefileError::new(&target.at, "import needs a name that is not empty"));
        }
        if let Some(extra) = self.frames.last().and_then(|frame| frame.tokens.get(frame.next))
            && !extra.starts_line
        {
            let message = format!("import takes one name and no arguments: '{}' is too many", extra.text);
            return Err(CorefileError::new(&extra.at, message));
        }
        if let Some(snippet) = self.snippets.get(&target.text).cloned() {
            self.snippet_imports += 1;
            if self.snippet_imports > MAX_SNIPPETS {
                return Err(CorefileError::new(&target.at, "there are too many imports"));
            }
            return self.enter(format!("({})", target.text), snippet, &target, depth);
        }
        self.import_files(&target, depth)
    }

    fn import_files(&mut self, target: &Token, depth: usize) -> Result<(), CorefileError> {
        let pattern = beside(&target.at.file, &target.text);
        if pattern.matches('*').count() > 1
            || pattern.matches('?').count() > 1
            || (pattern.contains('[') && pattern.contains(']'))
        {
            let message = format!("import's '{}' may hold one '*' and one '?', and no [...]", target.text);
            return Err(CorefileError::new(&target.at, message));
        }
        let Some(files) = self.sources.files.get(&pattern) else {
            let near = super::suggest::nearest(&target.text, self.snippets.keys().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!("; did you mean ({near})?"));
            let message = format!(
                "there is no snippet ({}) before this line, and no file {pattern}{hint}",
                target.text
            );
            return Err(CorefileError::new(&target.at, message));
        };
        self.file_imports += 1;
        if self.file_imports > MAX_FILES {
            return Err(CorefileError::new(&target.at, "there are too many imports"));
        }
        // The first is read first: it goes on top.
        for (name, text) in files.iter().rev() {
            self.enter(name.clone(), tokens(name, text)?.into(), target, depth)?;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        name: String,
        tokens: Rc<[Token]>,
        target: &Token,
        depth: usize,
    ) -> Result<(), CorefileError> {
        if depth > MAX_DEPTH {
            return Err(CorefileError::new(&target.at, "imports are nested too deep, or go in circles"));
        }
        if self.frames.iter().any(|frame| frame.name == name && frame.next > 0) {
            return Err(CorefileError::new(&target.at, format!("{name} imports itself")));
        }
        self.frames.push(Frame { name, tokens, next: 0, depth });
        Ok(())
    }

    /// Keeps the tokens up to the brace that matches one just read as a snippet.
    pub(super) fn snippet(&mut self, name: &str, at: &Position) -> Result<(), CorefileError> {
        if self.snippets.contains_key(name) {
            return Err(CorefileError::new(at, format!("there are two snippets ({name})")));
        }
        let (mut tokens, mut depth) = (Vec::new(), 1usize);
        loop {
            let Some(token) = self.raw().cloned() else {
                return Err(CorefileError::new(at, format!("snippet ({name}) has no closing brace")));
            };
            self.advance();
            depth = depth + usize::from(is_open(&token)) - usize::from(is_close(&token));
            if depth == 0 {
                break;
            }
            let first = tokens.is_empty();
            tokens.push(Token { starts_line: token.starts_line || first, ..token });
        }
        self.snippets.insert(name.to_owned(), tokens.into());
        Ok(())
    }
}
