//! Server blocks and directives out of tokens.

use std::collections::{BTreeMap, HashMap};

use super::lexer::{Token, tokens};
use super::{CorefileError, Position};

/// Imports within imports, at most.
const MAX_IMPORTS: usize = 16;
/// Tokens after all imports, at most: what files that import each other may grow to.
const MAX_TOKENS: usize = 1 << 20;

/// What a Corefile may refer to.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Environment variables, for `{$NAME}` and `{%NAME%}`.
    pub env: BTreeMap<String, String>,
    /// Files for `import`, by the path or glob as it is written: names and contents.
    pub files: BTreeMap<String, Vec<(String, String)>>,
    /// The machine's network interfaces and their addresses, for `bind`.
    pub interfaces: BTreeMap<String, Vec<std::net::IpAddr>>,
}

/// A line of a server block: a plugin with its arguments and, in braces, its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The plugin's name, or an option's within a block.
    pub name: Token,
    /// What follows on the line.
    pub args: Vec<Token>,
    /// The lines in braces; `None` without braces.
    pub block: Option<Vec<Directive>>,
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
    /// `cluster.local:53`, `.`, …
    pub keys: Vec<Token>,
    /// Its plugins.
    pub directives: Vec<Directive>,
}

/// Reads a Corefile; `file` is its name in messages.
///
/// # Errors
/// With line and column.
pub fn parse(file: &str, text: &str, sources: &Sources) -> Result<Vec<ServerBlock>, CorefileError> {
    let mut tokens = tokens(file, text)?;
    let mut snippets = HashMap::new();
    expand_env(&mut tokens, sources)?;
    take_snippets(&mut tokens, &mut snippets)?;
    let tokens = imports(tokens, &mut snippets, sources, 0)?;
    let mut p = Parser { tokens, at: 0 };
    let mut blocks = Vec::new();
    while p.peek().is_some() {
        blocks.push(p.server_block()?);
    }
    Ok(blocks)
}

/// What `import` lines name, as it is written there: snippets, files and globs.
///
/// # Errors
/// For a quote that never ends.
pub fn import_targets(file: &str, text: &str) -> Result<Vec<String>, CorefileError> {
    let tokens = tokens(file, text)?;
    let pairs = tokens.windows(2).filter(|pair| pair[0].text == "import" && same_line(&pair[0], &pair[1]));
    Ok(pairs.map(|pair| pair[1].text.clone()).collect())
}

fn expand_env(tokens: &mut [Token], sources: &Sources) -> Result<(), CorefileError> {
    for token in tokens {
        for (open, close) in [("{$", "}"), ("{%", "%}")] {
            let mut from = 0;
            while let Some(start) = token.text[from..].find(open).map(|i| from + i) {
                let Some(len) = token.text[start + 2..].find(close) else { break };
                let name = token.text[start + 2..start + 2 + len].to_owned();
                if name.is_empty() {
                    return Err(CorefileError::new(&token.at, format!("{open}{close} names no variable")));
                }
                let value = sources.env.get(&name).map_or("", String::as_str);
                token.text.replace_range(start..start + 2 + len + close.len(), value);
                from = start + value.len();
            }
        }
    }
    Ok(())
}

fn is_open(token: &Token) -> bool {
    token.text == "{" && !token.quoted
}
fn is_close(token: &Token) -> bool {
    token.text == "}" && !token.quoted
}

/// Takes `(name) { … }` out of the tokens.
fn take_snippets(
    tokens: &mut Vec<Token>,
    snippets: &mut HashMap<String, Vec<Token>>,
) -> Result<(), CorefileError> {
    let (mut out, mut depth, mut at) = (Vec::new(), 0usize, 0);
    while at < tokens.len() {
        let token = &tokens[at];
        let name = token.text.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
        if let (0, Some(name), false) = (depth, name, token.quoted)
            && tokens.get(at + 1).is_some_and(is_open)
        {
            let start = at + 2;
            let (mut end, mut inner) = (start, 1usize);
            while inner > 0 {
                let Some(t) = tokens.get(end) else {
                    return Err(CorefileError::new(
                        &token.at,
                        format!("snippet ({name}) has no closing brace"),
                    ));
                };
                inner = inner + usize::from(is_open(t)) - usize::from(is_close(t));
                end += 1;
            }
            if snippets.insert(name.to_owned(), tokens[start..end - 1].to_vec()).is_some() {
                return Err(CorefileError::new(&token.at, format!("there are two snippets ({name})")));
            }
            at = end;
            continue;
        }
        depth = (depth + usize::from(is_open(token))).saturating_sub(usize::from(is_close(token)));
        out.push(token.clone());
        at += 1;
    }
    *tokens = out;
    Ok(())
}

/// Puts what `import NAME` names in its place.
fn imports(
    tokens: Vec<Token>,
    snippets: &mut HashMap<String, Vec<Token>>,
    sources: &Sources,
    depth: usize,
) -> Result<Vec<Token>, CorefileError> {
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        let starts_line = at == 0 || !same_line(&tokens[at - 1], token) || is_open(&tokens[at - 1]);
        if token.text != "import" || token.quoted || !starts_line {
            out.push(token.clone());
            at += 1;
            continue;
        }
        let Some(target) = tokens.get(at + 1).filter(|next| same_line(token, next)) else {
            return Err(CorefileError::new(&token.at, "import needs a snippet's name or a file"));
        };
        if depth == MAX_IMPORTS {
            return Err(CorefileError::new(&token.at, "imports go in circles"));
        }
        let mut end = at + 2;
        while tokens.get(end).is_some_and(|next| same_line(token, next)) {
            end += 1;
        }
        let args = &tokens[at + 2..end];
        let imported = imported(target, snippets, sources)?;
        let imported = with_arguments(imported, args);
        let imported = imports(imported, snippets, sources, depth + 1)?;
        if out.len() + imported.len() > MAX_TOKENS {
            return Err(CorefileError::new(&token.at, "imports make the configuration too large"));
        }
        out.extend(imported);
        at = end;
    }
    Ok(out)
}

fn imported(
    target: &Token,
    snippets: &mut HashMap<String, Vec<Token>>,
    sources: &Sources,
) -> Result<Vec<Token>, CorefileError> {
    if let Some(snippet) = snippets.get(&target.text) {
        return Ok(snippet.clone());
    }
    let Some(files) = sources.files.get(&target.text) else {
        let message = format!("there is no snippet ({0}) and no file {0}", target.text);
        return Err(CorefileError::new(&target.at, message));
    };
    let mut out = Vec::new();
    for (name, text) in files {
        let mut tokens = tokens(name, text)?;
        expand_env(&mut tokens, sources)?;
        take_snippets(&mut tokens, snippets)?;
        out.extend(tokens);
    }
    Ok(out)
}

/// `{args.0}` (or `{args[0]}`) stands for the import's first argument.
fn with_arguments(mut tokens: Vec<Token>, args: &[Token]) -> Vec<Token> {
    for token in tokens.iter_mut().filter(|t| t.text.contains("{args")) {
        for (i, arg) in args.iter().enumerate() {
            token.text = token.text.replace(&format!("{{args.{i}}}"), &arg.text);
            token.text = token.text.replace(&format!("{{args[{i}]}}"), &arg.text);
        }
    }
    tokens
}

fn same_line(a: &Token, b: &Token) -> bool {
    a.at.file == b.at.file && a.at.line == b.at.line
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn server_block(&mut self) -> Result<ServerBlock, CorefileError> {
        let mut keys: Vec<Token> = Vec::new();
        let (mut braces, mut wants_more) = (false, false);
        while let Some(token) = self.peek() {
            if is_open(token) {
                braces = true;
                self.at += 1;
                break;
            }
            // Without a brace the keys end with their line; a comma at its end carries on.
            if keys.last().is_some_and(|last| !same_line(last, token)) && !wants_more {
                break;
            }
            if is_close(token) {
                return Err(CorefileError::new(&token.at, "this brace closes nothing"));
            }
            let token = token.clone();
            self.at += 1;
            wants_more = token.text.ends_with(',');
            for part in token.text.split(',').filter(|part| !part.is_empty()) {
                keys.push(Token { text: part.to_owned(), ..token.clone() });
            }
        }
        let Some(last) = keys.last().cloned() else {
            let at = self.tokens.get(self.at.saturating_sub(1)).map(|t| t.at.clone());
            let at = at.unwrap_or(Position { file: "Corefile".into(), line: 1, column: 1 });
            return Err(CorefileError::new(&at, "a server block needs a zone before its brace"));
        };
        let mut directives = Vec::new();
        loop {
            match self.peek() {
                None if braces => {
                    return Err(CorefileError::new(&last.at, "this server block has no closing brace"));
                }
                None => break,
                Some(token) if is_close(token) && braces => {
                    self.at += 1;
                    break;
                }
                Some(_) => directives.push(self.directive(0)?),
            }
        }
        Ok(ServerBlock { keys, directives })
    }

    fn directive(&mut self, depth: usize) -> Result<Directive, CorefileError> {
        let Some(name) = self.next() else {
            let at = Position { file: "Corefile".into(), line: 1, column: 1 };
            return Err(CorefileError::new(&at, "a plugin's name is missing"));
        };
        if is_open(&name) || is_close(&name) {
            return Err(CorefileError::new(&name.at, format!("unexpected '{}'", name.text)));
        }
        let (mut args, mut block) = (Vec::new(), None);
        while let Some(token) = self.peek().filter(|token| same_line(&name, token)).cloned() {
            if is_close(&token) {
                break;
            }
            self.at += 1;
            if !is_open(&token) {
                args.push(token);
                continue;
            }
            if depth > 0 {
                return Err(CorefileError::new(&token.at, "an option has no block of its own"));
            }
            let mut lines = Vec::new();
            loop {
                match self.peek() {
                    None => {
                        return Err(CorefileError::new(&token.at, "this brace is never closed"));
                    }
                    Some(token) if is_close(token) => {
                        self.at += 1;
                        break;
                    }
                    Some(_) => lines.push(self.directive(depth + 1)?),
                }
            }
            block = Some(lines);
            break;
        }
        Ok(Directive { name, args, block })
    }
}
