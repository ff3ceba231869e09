//! How names are matched and replaced: `exact`, `prefix`, `suffix`, `substring`, `regex`. All on names as text, in lower
//! case, with their last dot, as CoreDNS does it; so a prefix ends with a dot, too.

use regex::Regex;

use crate::chain::args::{self, err};
use crate::corefile::{CorefileError, Token};
use crate::name::Name;

/// Which names a rule is for.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

/// In lower case, and with a last dot (`plugin.Name.Normalize`).
pub(super) fn normal(text: &str) -> String {
    let mut text = text.to_ascii_lowercase();
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

impl Matcher {
    /// Of `[exact|prefix|suffix|substring|regex] FROM`; without the first word it is `exact`.
    pub(super) fn read(kind: Option<&Token>, from: &Token) -> Result<Self, CorefileError> {
        let text = normal(&from.text);
        let Some(kind) = kind else { return Ok(Matcher::Exact(text)) };
        Ok(match kind.text.to_ascii_lowercase().as_str() {
            "exact" => Matcher::Exact(text),
            "prefix" => Matcher::Prefix(text),
            "suffix" => Matcher::Suffix(text),
            "substring" => Matcher::Substring(text),
            "regex" => Matcher::Regex(args::regex(from)?),
            other => {
                let kinds = "exact, prefix, suffix, substring, regex";
                return err(kind, format!("names are not matched by '{other}' ({kinds})"));
            }
        })
    }

    /// The same for `cname`, whose words are taken as they are but in `exact`.
    pub(super) fn read_cname(kind: Option<&Token>, from: &Token) -> Result<Self, CorefileError> {
        let text = from.text.to_ascii_lowercase();
        let lower = Token { text: text.clone(), ..from.clone() };
        Ok(match Matcher::read(kind, &lower)? {
            Matcher::Prefix(_) => Matcher::Prefix(text),
            Matcher::Suffix(_) => Matcher::Suffix(text),
            Matcher::Substring(_) => Matcher::Substring(text),
            other => other,
        })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Matcher::Exact(from) => name == from,
            Matcher::Prefix(from) => name.starts_with(from),
            Matcher::Suffix(from) => name.ends_with(from),
            Matcher::Substring(from) => name.contains(from),
            Matcher::Regex(regex) => regex.is_match(name),
        }
    }

    /// What becomes of a name; `None` where the rule is not for it.
    pub(super) fn replace(&self, name: &str, to: &str) -> Option<String> {
        match self {
            Matcher::Exact(from) => (name == from).then(|| to.to_owned()),
            Matcher::Prefix(from) => name.strip_prefix(from.as_str()).map(|rest| format!("{to}{rest}")),
            Matcher::Suffix(from) => name.strip_suffix(from.as_str()).map(|rest| format!("{rest}{to}")),
            Matcher::Substring(from) => name.contains(from).then(|| name.replace(from, to)),
            Matcher::Regex(regex) => filled(regex, name, to),
        }
    }
}

/// `{0}`, `{1}`… in a text, replaced by what the expression's groups took of a name.
fn filled(regex: &Regex, name: &str, to: &str) -> Option<String> {
    let groups = regex.captures(name)?;
    let mut out = to.to_owned();
    for (at, group) in groups.iter().enumerate() {
        out = out.replace(&format!("{{{at}}}"), group.map_or("", |group| group.as_str()));
    }
    Some(out)
}

/// A text refers to no group that an expression does not have.
pub(super) fn groups_exist(regex: &Regex, to: &Token) -> Result<(), CorefileError> {
    let groups = regex.captures_len();
    match (groups..=100).find(|group| to.text.contains(&format!("{{{group}}}"))) {
        Some(group) => {
            let there = groups - 1;
            err(to, format!("{{{group}}} is no group of the regular expression, which has {there}"))
        }
        None => Ok(()),
    }
}

/// How a name in an answer is written back.
#[derive(Clone, Debug)]
pub(super) enum Back {
    /// `answer name|value FROM TO`
    Regex(Regex, String),
    /// What was asked and what is below it.
    Name(Name, Name),
    /// What ends like this, on label boundaries or not.
    Suffix(String, String),
}

impl Back {
    /// The name written back; `None` where it stays as it is, or would be no name.
    pub(super) fn name(&self, name: &Name) -> Option<Name> {
        match self {
            Back::Name(from, to) => {
                let labels = name.within(from)?;
                Name::from_labels(labels.into_iter().chain(to.labels())).ok()
            }
            Back::Regex(regex, to) => filled(regex, &name.to_string(), to)?.parse().ok(),
            Back::Suffix(from, to) => {
                let text = name.to_string();
                let cut = text.len().checked_sub(from.len())?;
                let tail = text.get(cut..).filter(|tail| tail.eq_ignore_ascii_case(from))?;
                format!("{}{to}", &text[..text.len() - tail.len()]).parse().ok()
            }
        }
    }
}
