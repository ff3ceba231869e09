//! The Corefile: tokens, server blocks, snippets and imports ([`parse`]), and what the plugins' lines mean
//! ([`crate::config`]).
//!
//! The grammar is that of `coredns/caddy`'s package `caddyfile`. What it takes without complaint though it can't be
//! meant is refused: quotes that never end, braces that close nothing, commas inside of a zone.

mod expand;
mod lexer;
mod parser;
mod suggest;

pub use expand::{Sources, import_targets};
pub use lexer::Token;
pub use parser::{Directive, ServerBlock, parse};
pub use suggest::nearest;

/// Where something stands. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// File name as people know it.
    pub file: std::sync::Arc<str>,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What is wrong with a Corefile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct CorefileError {
    /// Where.
    pub at: Position,
    /// What, and what to do.
    pub message: String,
}

impl CorefileError {
    pub(crate) fn new(at: &Position, message: impl Into<String>) -> Self {
        CorefileError { at: at.clone(), message: message.into() }
    }
}
