//! Reading a plugin's line: its arguments and options, and what is said where they are wrong.

use std::time::Duration;

use regex::Regex;

use super::values;
use crate::corefile::{CorefileError, Directive, Token};
use crate::name::Name;

/// An error at a word.
///
/// # Errors
/// Always.
pub fn err<T>(token: &Token, message: impl Into<String>) -> Result<T, CorefileError> {
    Err(CorefileError::new(&token.at, message))
}

/// There are no further words on the line.
///
/// # Errors
/// Where there are.
pub fn no_more(plugin: &str, args: &[Token]) -> Result<(), CorefileError> {
    match args.first() {
        Some(extra) => err(extra, format!("'{plugin}' takes no '{}'", extra.text)),
        None => Ok(()),
    }
}

/// An error at an option that the plugin does not have.
///
/// # Errors
/// Always.
pub fn unknown<T>(plugin: &str, option: &Directive) -> Result<T, CorefileError> {
    err(&option.name, format!("option '{}' of '{plugin}' is unknown, or not Sealane's yet", option.name.text))
}

/// There are no braces behind the line, or nothing in them.
///
/// # Errors
/// Where there is.
pub fn no_options(directive: &Directive) -> Result<(), CorefileError> {
    match directive.block.iter().flatten().next() {
        Some(option) => unknown(&directive.name.text, option),
        None => Ok(()),
    }
}

/// The line's one word.
///
/// # Errors
/// Where there is none, or there are more.
pub fn one<'a>(line: &'a Directive, what: &str) -> Result<&'a Token, CorefileError> {
    match line.args.as_slice() {
        [one] => Ok(one),
        [_, extra, ..] => err(extra, format!("'{}' takes one {what}", line.name.text)),
        [] => err(&line.name, format!("'{}' needs a {what}", line.name.text)),
    }
}

/// A duration as Go writes it.
///
/// # Errors
/// Where it is none.
pub fn duration(token: &Token) -> Result<Duration, CorefileError> {
    values::duration(&token.text).or_else(|message| err(token, message))
}

/// A number, or anything else that has a text form; `what` is said to people.
///
/// # Errors
/// Where it is none.
pub fn number<T: std::str::FromStr>(token: &Token, what: &str) -> Result<T, CorefileError> {
    token.text.parse().or_else(|_| err(token, format!("'{}' is no {what}", token.text)))
}

/// Whole seconds, one at least.
///
/// # Errors
/// Where it is none.
pub fn seconds(token: &Token) -> Result<Duration, CorefileError> {
    match token.text.parse::<u32>() {
        Ok(0) => err(token, "a TTL of 0 would turn it off; leave the line out instead"),
        Ok(n) => Ok(Duration::from_secs(n.into())),
        Err(_) => err(token, format!("'{}' is no number of seconds", token.text)),
    }
}

/// Longest regular expression in octets: what CoreDNS allows.
const MAX_REGEX: usize = 10_000;

/// A regular expression in RE2's syntax, as CoreDNS has it.
///
/// # Errors
/// Where it is none, or longer than 10,000 octets.
pub fn regex(token: &Token) -> Result<Regex, CorefileError> {
    if token.text.len() > MAX_REGEX {
        return err(token, format!("a regular expression has {MAX_REGEX} characters at most"));
    }
    Regex::new(&token.text).or_else(|why| {
        let why = why.to_string();
        let last = why.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
        err(token, format!("'{}' is no regular expression: {last}", token.text))
    })
}

/// Zones, networks' reverse ones included.
///
/// # Errors
/// Where a word is none.
pub fn zones(tokens: &[Token]) -> Result<Vec<Name>, CorefileError> {
    let mut out = Vec::new();
    for token in tokens {
        out.extend(values::parse_zones(&token.text).or_else(|message| err(token, message))?);
    }
    Ok(out)
}

/// `fallthrough [ZONES...]`: the zones, the root where none is named.
///
/// # Errors
/// Where a word is none.
pub fn fallthrough(line: &Directive) -> Result<Option<Vec<Name>>, CorefileError> {
    if line.args.is_empty() { Ok(Some(vec![Name::root()])) } else { zones(&line.args).map(Some) }
}

/// The line's one word, an address with a port, or the default.
///
/// # Errors
/// Where it is none.
pub fn address(directive: &Directive, default: &str) -> Result<String, CorefileError> {
    let Some(token) = directive.args.first() else { return Ok(default.to_owned()) };
    no_more(&directive.name.text, &directive.args[1..])?;
    let port = token.text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(token.text.clone()),
        None => err(token, format!("'{}' is no address with a port", token.text)),
    }
}
