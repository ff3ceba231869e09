//! Go's `text/template`, as far as records need it: texts, fields, variables, pipelines, `if`, `range`, `with`, and the
//! functions of [`FUNCTIONS`]. Named templates, `call`, and what escapes for HTML and scripts are refused when read.

mod parser;
mod print;
mod run;

use crate::expression::Value;
pub use parser::Template;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Octets before the place.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

/// The functions that there are, with the least and the most arguments.
pub const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("and", 1, usize::MAX),
    ("or", 1, usize::MAX),
    ("not", 1, 1),
    ("eq", 2, usize::MAX),
    ("ne", 2, 2),
    ("lt", 2, 2),
    ("le", 2, 2),
    ("gt", 2, 2),
    ("ge", 2, 2),
    ("index", 1, usize::MAX),
    ("slice", 1, 3),
    ("len", 1, 1),
    ("print", 0, usize::MAX),
    ("println", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("parseInt", 3, 3),
];

/// What a template is filled in from.
pub trait Data {
    /// A field; `None` where there is none of that name.
    fn field(&self, name: &str) -> Option<Value>;

    /// What a field says that is a function of one text; `None` where it is not one.
    fn method(&self, name: &str, arg: &str) -> Option<Value>;
}

/// What a template may name.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Fields, and what stands below them; `None`: anything may.
    pub fields: &'a [(&'a str, Option<&'a [&'a str]>)],
    /// Fields that are functions of one text.
    pub methods: &'a [&'a str],
}
