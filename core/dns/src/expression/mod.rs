//! Expressions of `view` and `template`: the language of expr-lang as far as questions and texts need it, with
//! CoreDNS's functions about a query (`plugin/pkg/expression`).
//!
//! There are literals, arrays, maps, `let`, `?:`, `??`, indexes and slices, arithmetic, comparison, logic, `in`, `..`,
//! `matches`, `contains`, `startsWith`, `endsWith`, pipes, predicates (`any(list, # > 1)`), and the built-in functions
//! of `functions`. Dates, JSON and Base64 are not there; what is not there is refused when it is read.

pub mod functions;
mod kinds;
mod lexer;
mod node;
mod parser;
pub mod query;
mod run;
pub mod value;

use crate::corefile::{CorefileError, Position, Token};
pub use node::Program;
pub use run::Scope;
pub use value::Value;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// Octets before the place.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

/// What an expression may name, beside the functions that all have.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Variables.
    pub variables: Vec<String>,
    /// Functions, with the number of their arguments.
    pub functions: &'static [(&'static str, usize)],
}

/// Reads an expression of several words of a Corefile, which stand for a text with single blanks between them.
///
/// # Errors
/// What is wrong, at its line and column.
pub fn read(words: &[Token], known: &Known) -> Result<Program, CorefileError> {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    Program::read(&texts.join(" "), known).map_err(|error| {
        let at = place(words, error.at);
        CorefileError::new(&at, format!("expression: {}", error.message))
    })
}

/// Where in the Corefile an octet of the joined text stands.
fn place(words: &[Token], mut offset: usize) -> Position {
    let mut last = None;
    for word in words {
        if offset <= word.text.len() {
            let before = word.text.get(..offset).map_or(0, |text| text.chars().count());
            let column = u32::try_from(before).unwrap_or(0) + u32::from(word.quoted);
            return Position { column: word.at.column + column, ..word.at.clone() };
        }
        offset -= word.text.len() + 1;
        last = Some(word);
    }
    last.map_or(Position { file: "".into(), line: 0, column: 0 }, |word| word.at.clone())
}
