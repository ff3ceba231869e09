//! What can be wrong with a master file.

use crate::message::presentation::BadData;

/// Why a text is no master file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {cause}")]
pub struct MasterError {
    /// The file, an included one where it is there.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong in a line of a master file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// `"` without its end.
    #[error("the quote that begins here has no end")]
    OpenQuote,
    /// `(` without its end.
    #[error("the parenthesis that begins here has no end")]
    OpenBrace,
    /// `)` without its beginning.
    #[error("a closing parenthesis without an opening one")]
    ExtraBrace,
    /// A line ends in `\`.
    #[error("a backslash has nothing behind it")]
    LoneBackslash,
    /// A blank line beginning before any owner was named.
    #[error("the line begins with a blank, and no owner is known yet")]
    NoOwner,
    /// The record names no type.
    #[error("there is no record type")]
    NoType,
    /// A word where a TTL, a class or a type belongs.
    #[error("\"{0}\" is no TTL, class or record type")]
    Unknown(String),
    /// OPT, AXFR, ANY…
    #[error("a zone holds no records of type {0}")]
    Meta(String),
    /// No TTL, no `$TTL`, none before.
    #[error("the record has no TTL, and there is no $TTL before it")]
    NoTtl,
    /// A directive that takes something else.
    #[error("{0} takes {1}")]
    Directive(&'static str, &'static str),
    /// `$` and something else.
    #[error("\"{0}\" is no directive ($ORIGIN, $TTL, $INCLUDE, $GENERATE)")]
    NoDirective(String),
    /// Includes in includes.
    #[error("files include files deeper than 7")]
    TooDeep,
    /// The file could not be had.
    #[error("can't include \"{0}\": {1}")]
    Include(String, String),
    /// `$GENERATE` that makes no sense.
    #[error("$GENERATE: {0}")]
    Generate(&'static str),
    /// Names and data that are none.
    #[error(transparent)]
    Data(#[from] BadData),
}
