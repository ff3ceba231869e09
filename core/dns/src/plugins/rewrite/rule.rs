//! The lines of `rewrite`.

use std::sync::Arc;

use super::answers::{Alias, OnAnswer};
use super::edns::EdnsRule;
use super::matching::{Back, Matcher, groups_exist, normal};
use crate::chain::args::{self, err};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::{class, rcode, rtype};

/// A line.
#[derive(Debug)]
pub(super) struct Rule {
    /// No rule behind it is looked at where it was for the question.
    pub stop: bool,
    pub field: Field,
}

/// What it changes.
#[derive(Debug)]
pub(super) enum Field {
    Name {
        from: Matcher,
        to: String,
        /// The name that was asked comes back in place of the one that was put there.
        auto: bool,
        answers: Vec<OnAnswer>,
    },
    Class(u16, u16),
    Type(u16, u16),
    Edns(EdnsRule),
    /// The question stays as it is.
    Answer(Matcher, OnAnswer),
    Cname(Arc<Alias>),
}

impl Rule {
    /// `rewrite [continue|stop] FIELD …`, all in one line or, but for `continue` and `stop`, in braces.
    pub(super) fn read(line: &Directive) -> Result<Self, CorefileError> {
        let mut words: Vec<&Token> = line.args.iter().collect();
        if words.len() < 2 {
            for option in line.block.iter().flatten() {
                args::no_options(option)?;
                words.push(&option.name);
                words.extend(&option.args);
            }
        } else {
            args::no_options(line)?;
        }
        let is = |word: &Token, text: &str| word.text.eq_ignore_ascii_case(text);
        let (stop, words) = match words.as_slice() {
            [first, rest @ ..] if is(first, "continue") => (false, rest),
            [first, rest @ ..] if is(first, "stop") => (true, rest),
            all => (true, all),
        };
        let [field, words @ ..] = words else {
            return err(&line.name, "'rewrite' needs a field: name, type, class, edns0, ttl, cname, rcode");
        };
        Ok(Rule { stop, field: Field::read(field, words)? })
    }
}

impl Field {
    fn read(field: &Token, words: &[&Token]) -> Result<Self, CorefileError> {
        match field.text.to_ascii_lowercase().as_str() {
            "name" => name(field, words),
            "class" => pair(field, words, "class", class::from_name).map(|(from, to)| Field::Class(from, to)),
            "type" => pair(field, words, "type", rtype::from_name).map(|(from, to)| Field::Type(from, to)),
            "edns0" => EdnsRule::read(field, words).map(Field::Edns),
            "ttl" => match words {
                [from, ttl] => Ok(Field::Answer(Matcher::read(None, from)?, seconds(ttl)?)),
                [kind, from, ttl] => Ok(Field::Answer(Matcher::read(Some(kind), from)?, seconds(ttl)?)),
                _ => err(field, "'ttl' takes [exact|prefix|suffix|substring|regex] NAME SECONDS|MIN-MAX"),
            },
            "rcode" => match words {
                [name, from, to] => Ok(Field::Answer(Matcher::read(None, name)?, codes(from, to)?)),
                [kind, name, from, to] => {
                    Ok(Field::Answer(Matcher::read(Some(kind), name)?, codes(from, to)?))
                }
                _ => err(field, "'rcode' takes [exact|prefix|suffix|substring|regex] NAME FROM TO"),
            },
            "cname" => cname(field, words),
            "answer" => err(field, "'answer' belongs behind a 'name' rule"),
            other => {
                let fields = "name, type, class, edns0, ttl, cname, rcode";
                err(field, format!("'{other}' is no field of 'rewrite' ({fields})"))
            }
        }
    }
}

/// `name [exact|prefix|suffix|substring|regex] FROM TO [answer …]`
fn name(field: &Token, words: &[&Token]) -> Result<Field, CorefileError> {
    let (kind, from, to, rest) = match words {
        [from, to] => (None, from, to, &[][..]),
        [kind, from, to, rest @ ..] => (Some(*kind), from, to, rest),
        _ => return err(field, "'name' takes [exact|prefix|suffix|substring|regex] FROM TO [answer …]"),
    };
    let from = Matcher::read(kind, from)?;
    if let Matcher::Regex(regex) = &from {
        groups_exist(regex, to)?;
    }
    let (mut auto, explicit) = answers(rest)?;
    let to = normal(&to.text);
    let mut answers = Vec::new();
    match &from {
        Matcher::Exact(_) => auto = true,
        // Every name with that suffix comes back, and not the one that was asked alone.
        Matcher::Suffix(suffix) if auto => {
            auto = false;
            let back = Back::Suffix(to.clone(), suffix.clone());
            answers = vec![OnAnswer::Owner(back.clone()), OnAnswer::Value(back)];
        }
        _ => {}
    }
    answers.extend(explicit);
    Ok(Field::Name { from, to, auto, answers })
}

/// `answer (auto | (name|value FROM TO))…`, `answer` needed before the first alone.
fn answers(words: &[&Token]) -> Result<(bool, Vec<OnAnswer>), CorefileError> {
    let (mut auto, mut explicit, mut rules) = (None, false, Vec::new());
    let mut rest = words;
    if let [first, ..] = words
        && first.text != "answer"
    {
        return err(first, format!("'{}' stands where only 'answer' may", first.text));
    }
    while let [first, after @ ..] = rest {
        let (kind, after) = match after {
            [kind, after @ ..] if first.text == "answer" => (*kind, after),
            [] if first.text == "answer" => return err(first, "'answer' needs auto, name or value"),
            _ => (*first, after),
        };
        rest = after;
        // `answer name auto`, as the example of PTR has it, means `answer auto`.
        if let [word, after @ ..] = rest
            && (kind.text.as_str(), word.text.as_str()) == ("name", "auto")
        {
            (auto, rest) = (Some(*word), after);
            continue;
        }
        let rule = match kind.text.as_str() {
            "auto" => {
                auto = Some(kind);
                continue;
            }
            "name" => OnAnswer::Owner,
            "value" => OnAnswer::Value,
            other => return err(kind, format!("'answer' takes no '{other}' (auto, name, value)")),
        };
        explicit |= kind.text == "name";
        let [from, to, after @ ..] = rest else {
            return err(kind, format!("'answer {}' needs a regular expression and a name", kind.text));
        };
        rest = after;
        let regex = args::regex(from)?;
        groups_exist(&regex, to)?;
        rules.push(rule(Back::Regex(regex, normal(&to.text))));
    }
    match auto {
        Some(auto) if explicit => err(auto, "'answer auto' and 'answer name' exclude each other"),
        _ => Ok((auto.is_some(), rules)),
    }
}

fn pair(
    field: &Token,
    words: &[&Token],
    what: &str,
    known: fn(&str) -> Option<u16>,
) -> Result<(u16, u16), CorefileError> {
    let [from, to] = words else {
        return err(field, format!("'{what}' takes two of them: FROM TO"));
    };
    let one = |word: &Token| {
        known(&word.text).map_or_else(|| err(word, format!("'{}' is no {what}", word.text)), Ok)
    };
    Ok((one(from)?, one(to)?))
}

/// `30`, `30-300`, `-30`, `30-`.
fn seconds(token: &Token) -> Result<OnAnswer, CorefileError> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let range = match token.text.split_once('-') {
        None => number(&token.text).map(|ttl| (ttl, ttl)),
        Some(("", "")) => None,
        Some(("", most)) => number(most).map(|most| (0, most)),
        Some((least, "")) => number(least).map(|least| (least, i32::MAX.unsigned_abs())),
        Some((least, most)) => number(least).zip(number(most)),
    };
    match range {
        Some((least, most)) if least <= most => Ok(OnAnswer::Ttl(least, most)),
        _ => err(token, format!("'{}' is no TTL: SECONDS, MIN-MAX, MIN- or -MAX", token.text)),
    }
}

fn codes(from: &Token, to: &Token) -> Result<OnAnswer, CorefileError> {
    let code = |token: &Token| {
        let number = token.text.parse().ok().filter(|code| *code <= 23);
        let code = number.or_else(|| rcode::from_name(&token.text));
        code.map_or_else(|| err(token, format!("'{}' is no response code", token.text)), Ok)
    };
    Ok(OnAnswer::Rcode(code(from)?, code(to)?))
}

fn cname(field: &Token, words: &[&Token]) -> Result<Field, CorefileError> {
    let (kind, from, to) = match words {
        [from, to] => (None, from, to),
        [kind, from, to] => (Some(*kind), from, to),
        _ => return err(field, "'cname' takes [exact|prefix|suffix|substring|regex] FROM TO"),
    };
    let from = Matcher::read_cname(kind, from)?;
    if let Matcher::Regex(regex) = &from {
        groups_exist(regex, to)?;
    }
    let exact = matches!(from, Matcher::Exact(_));
    let to = if exact { normal(&to.text) } else { to.text.to_ascii_lowercase() };
    Ok(Field::Cname(Arc::new(Alias { from, to })))
}
