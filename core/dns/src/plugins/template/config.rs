//! The lines of `template`.

use regex::Regex;

use crate::chain::Setup;
use crate::chain::args::{self, err, number, one, unknown};
use crate::corefile::{CorefileError, Directive, Position, Token};
use crate::expression::{self, Known, Program};
use crate::gotemplate::Template;
use crate::message::{class, rcode, rtype};
use crate::name::Name;

use super::data::with_known;

/// What expressions may call beside what all may.
const FUNCTIONS: &[(&str, usize)] = &[("group", 1)];

/// One `template`.
#[derive(Debug)]
pub(super) struct Rule {
    pub class: u16,
    pub rtype: u16,
    pub zones: Vec<Name>,
    pub regexes: Vec<Regex>,
    pub variables: Vec<(String, Program)>,
    pub conditions: Vec<Program>,
    pub answer: Vec<Line>,
    pub authority: Vec<Line>,
    pub additional: Vec<Line>,
    pub rcode: u16,
    /// Code and reason (RFC 8914).
    pub error: Option<(u16, String)>,
    pub fallthrough: Option<Vec<Name>>,
}

/// A template of a record.
#[derive(Debug)]
pub(super) struct Line {
    pub template: Template,
    /// As it is written.
    pub text: String,
}

impl Rule {
    /// `template CLASS TYPE [ZONE...] { … }`
    pub(super) fn read(setup: &Setup<'_>, line: &Directive) -> Result<Self, CorefileError> {
        let [class_word, type_word, zones @ ..] = line.args.as_slice() else {
            return err(&line.name, "'template' needs a class and a type");
        };
        let known = |word: &Token, found: Option<u16>, what: &str| {
            found.map_or_else(|| err(word, format!("'{}' is no {what}", word.text)), Ok)
        };
        let mut rule = Rule {
            class: known(class_word, class::from_name(&class_word.text), "class")?,
            rtype: known(type_word, rtype::from_name(&type_word.text), "type")?,
            zones: setup.zones_or_own(zones)?,
            regexes: Vec::new(),
            variables: Vec::new(),
            conditions: Vec::new(),
            answer: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            rcode: rcode::NOERROR,
            error: None,
            fallthrough: None,
        };
        let mut names = Known { variables: Vec::new(), functions: FUNCTIONS };
        for option in line.block.iter().flatten() {
            rule.option(option, &mut names)?;
        }
        // Templates may use all variables, wherever their lines stand.
        for option in line.block.iter().flatten() {
            rule.records(option, &names.variables)?;
        }
        if rule.regexes.is_empty() {
            rule.regexes.extend(Regex::new(".*"));
        }
        Ok(rule)
    }

    fn option(&mut self, option: &Directive, names: &mut Known) -> Result<(), CorefileError> {
        let words = option.args.as_slice();
        let needs = |what: &str| err(&option.name, format!("'{}' needs {what}", option.name.text));
        match option.name.text.as_str() {
            "match" if words.is_empty() => return needs("a regular expression"),
            "match" => {
                for word in words {
                    self.regexes.push(args::regex(word)?);
                }
            }
            "answer" | "authority" | "additional" if words.is_empty() => return needs("a record"),
            "answer" | "authority" | "additional" => {}
            "var" => {
                let [name, expression @ ..] = words else { return needs("a name and an expression") };
                if expression.is_empty() {
                    return needs("a name and an expression");
                }
                if !Program::is_free_name(&name.text) || FUNCTIONS.iter().any(|row| row.0 == name.text) {
                    return err(name, format!("'{}' cannot name a variable", name.text));
                }
                self.variables.push((name.text.clone(), expression::read(expression, names)?));
                names.variables.push(name.text.clone());
            }
            "expr" if words.is_empty() => return needs("an expression"),
            "expr" => {
                let condition = expression::read(words, names)?;
                if !condition.may_hold() {
                    return err(&words[0], "this expression is never true or false");
                }
                self.conditions.push(condition);
            }
            "rcode" => {
                let word = one(option, "response code")?;
                let Some(code) = rcode::from_name(&word.text) else {
                    return err(word, format!("'{}' is no response code", word.text));
                };
                self.rcode = code;
            }
            "ederror" => {
                let (word, reason) = match words {
                    [code] => (code, ""),
                    [code, reason] => (code, reason.text.as_str()),
                    _ => return needs("a code and, in quotes where it has blanks, a reason"),
                };
                self.error = Some((number(word, "extended error code")?, reason.to_owned()));
            }
            "fallthrough" => self.fallthrough = args::fallthrough(option)?,
            _ => return unknown("template", option),
        }
        Ok(())
    }

    fn records(&mut self, option: &Directive, variables: &[String]) -> Result<(), CorefileError> {
        let section = match option.name.text.as_str() {
            "answer" => &mut self.answer,
            "authority" => &mut self.authority,
            "additional" => &mut self.additional,
            _ => return Ok(()),
        };
        for word in &option.args {
            let read = with_known(variables, |known| Template::read(&word.text, known));
            match read {
                Ok(template) => section.push(Line { template, text: word.text.clone() }),
                Err(error) => {
                    let at = place(word, error.at);
                    return Err(CorefileError::new(&at, format!("template: {}", error.message)));
                }
            }
        }
        Ok(())
    }
}

/// Where an octet of a word stands, if it has no escapes.
fn place(word: &Token, offset: usize) -> Position {
    let before = word.text.get(..offset).unwrap_or(&word.text);
    let lines = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or("").chars().count();
    let column = u32::try_from(column).unwrap_or(0);
    let line = u32::try_from(lines).unwrap_or(0);
    let from = if line == 0 { word.at.column + u32::from(word.quoted) } else { 1 };
    Position { line: word.at.line + line, column: from + column, ..word.at.clone() }
}
