//! Templates out of their text.

use super::{FUNCTIONS, Known, TemplateError};
use crate::expression::Value;

/// Actions within actions, at most.
const MAX_DEPTH: usize = 100;

/// A template that makes sense.
#[derive(Clone, Debug)]
pub struct Template(pub(super) Vec<Piece>);

#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(String),
    Print(Pipe),
    /// Conditions with what they are for, and what else.
    If(Vec<(Pipe, Vec<Piece>)>, Vec<Piece>),
    With(Pipe, Vec<Piece>, Vec<Piece>),
    Range(Pipe, Vec<Piece>, Vec<Piece>),
    Break,
    Continue,
}

/// `$a := command | command`
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe {
    pub names: Vec<String>,
    /// `=` and not `:=`.
    pub assigns: bool,
    pub commands: Vec<Vec<Operand>>,
}

#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// What `.` is, and fields of it.
    Dot(Vec<String>),
    /// `$name`, and fields of it; `$` alone is the data.
    Variable(String, Vec<String>),
    Value(Value),
    Function(String),
    Pipe(Box<Pipe>, Vec<String>),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(text: &str, known: Known<'_>) -> Result<Self, TemplateError> {
        let mut parser = Parser { text, at: 0, known, names: Vec::new(), moved: 0, loops: 0, depth: 0 };
        let (pieces, end) = parser.pieces()?;
        match end {
            Ending::Text => Ok(Template(pieces)),
            Ending::Else(_) | Ending::Closed => parser.fail("there is nothing here that it could end"),
        }
    }
}

/// What a run of pieces ends with.
enum Ending {
    Text,
    Closed,
    /// `else`, `else if`, `else with`: the word behind it.
    Else(Option<&'static str>),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    known: Known<'a>,
    /// Variables that are there.
    names: Vec<String>,
    /// `range` and `with` around this place: `.` is not the data there.
    moved: usize,
    loops: usize,
    depth: usize,
}

type Parsed<T> = Result<T, TemplateError>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(TemplateError { at: self.at, message: message.into() })
    }

    fn skip(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// A word of letters, if there is one.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn take(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        self.at += if there { text.len() } else { 0 };
        there
    }

    /// The end of an action, with what it trims.
    fn close(&mut self) -> Parsed<()> {
        self.skip();
        let before = self.text[..self.at].ends_with(char::is_whitespace);
        if before && self.take("-}}") {
            self.skip();
            return Ok(());
        }
        if self.take("}}") { Ok(()) } else { self.fail("'}}' is missing here") }
    }

    fn is_closed(&mut self) -> bool {
        self.skip();
        self.rest().starts_with("}}") || self.rest().starts_with("-}}")
    }

    /// Up to `end`, `else` or the text's end.
    fn pieces(&mut self) -> Parsed<(Vec<Piece>, Ending)> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("actions are nested too deeply");
        }
        let names = self.names.len();
        let mut out = Vec::new();
        let end = loop {
            let rest = self.rest();
            let Some(open) = rest.find("{{") else {
                out.push(Piece::Text(rest.to_owned()));
                self.at = self.text.len();
                break Ending::Text;
            };
            let mut text = &rest[..open];
            self.at += open + 2;
            let inner = self.rest();
            if inner.starts_with('-') && inner[1..].starts_with(char::is_whitespace) {
                text = text.trim_end();
                self.at += 1;
            }
            if !text.is_empty() {
                out.push(Piece::Text(text.to_owned()));
            }
            self.skip();
            if self.rest().starts_with("/*") {
                let Some(len) = self.rest().find("*/") else { return self.fail("this comment never ends") };
                self.at += len + 2;
                self.close()?;
                continue;
            }
            match self.action(&mut out)? {
                Some(end) => break end,
                None => continue,
            }
        };
        self.names.truncate(names);
        self.depth -= 1;
        Ok((out, end))
    }

    fn action(&mut self, out: &mut Vec<Piece>) -> Parsed<Option<Ending>> {
        let begin = self.at;
        match self.word() {
            "end" => {
                self.close()?;
                return Ok(Some(Ending::Closed));
            }
            "else" => {
                self.skip();
                let behind = self.at;
                let word = match self.word() {
                    "" => None,
                    "if" => Some("if"),
                    "with" => Some("with"),
                    _ => {
                        self.at = behind;
                        return self.fail("behind 'else' there is 'if', 'with' or nothing");
                    }
                };
                if word.is_none() {
                    self.close()?;
                }
                return Ok(Some(Ending::Else(word)));
            }
            "if" => out.push(self.choice(begin)?),
            word @ ("with" | "range") => out.push(self.moving(begin, word == "range")?),
            word @ ("break" | "continue") => {
                if self.loops == 0 {
                    self.at = begin;
                    return self.fail(format!("'{word}' stands in no 'range'"));
                }
                out.push(if word == "break" { Piece::Break } else { Piece::Continue });
                self.close()?;
            }
            word @ ("define" | "template" | "block") => {
                self.at = begin;
                return self.fail(format!("'{word}' is not there: a record needs no named templates"));
            }
            _ => {
                self.at = begin;
                let pipe = self.pipe()?;
                self.close()?;
                out.push(Piece::Print(pipe));
            }
        }
        Ok(None)
    }

    fn ended(&self, begin: usize, end: &Ending) -> Parsed<()> {
        match end {
            Ending::Text => Err(TemplateError { at: begin, message: "its 'end' is missing".to_owned() }),
            _ => Ok(()),
        }
    }

    fn choice(&mut self, begin: usize) -> Parsed<Piece> {
        let names = self.names.len();
        let (mut branches, mut other) = (Vec::new(), Vec::new());
        loop {
            let pipe = self.pipe()?;
            self.close()?;
            let (pieces, end) = self.pieces()?;
            self.ended(begin, &end)?;
            branches.push((pipe, pieces));
            match end {
                Ending::Else(Some("if")) => continue,
                Ending::Else(None) => {
                    let (pieces, end) = self.pieces()?;
                    self.ended(begin, &end)?;
                    if let Ending::Else(_) = end {
                        return self.fail("there is a second 'else'");
                    }
                    other = pieces;
                }
                Ending::Else(_) => return self.fail("'else with' belongs to 'with'"),
                _ => {}
            }
            break;
        }
        self.names.truncate(names);
        Ok(Piece::If(branches, other))
    }

    fn moving(&mut self, begin: usize, range: bool) -> Parsed<Piece> {
        let names = self.names.len();
        let pipe = self.pipe()?;
        self.close()?;
        self.moved += 1;
        self.loops += usize::from(range);
        let (body, end) = self.pieces()?;
        self.ended(begin, &end)?;
        self.moved -= 1;
        self.loops -= usize::from(range);
        let other = match end {
            Ending::Else(None) => {
                let (pieces, end) = self.pieces()?;
                self.ended(begin, &end)?;
                if let Ending::Else(_) = end {
                    return self.fail("there is a second 'else'");
                }
                pieces
            }
            Ending::Else(Some("with")) if !range => vec![self.moving(begin, false)?],
            Ending::Else(Some(word)) => return self.fail(format!("'else {word}' does not belong here")),
            _ => Vec::new(),
        };
        self.names.truncate(names);
        Ok(if range { Piece::Range(pipe, body, other) } else { Piece::With(pipe, body, other) })
    }

    /// `$a, $b := command | command`
    fn pipe(&mut self) -> Parsed<Pipe> {
        let mut pipe = Pipe::default();
        self.skip();
        let begin = self.at;
        while self.take("$") {
            pipe.names.push(self.word().to_owned());
            self.skip();
            if !self.take(",") {
                break;
            }
            self.skip();
        }
        pipe.assigns = match pipe.names.as_slice() {
            [] => false,
            _ if self.take(":=") => false,
            _ if self.rest().starts_with('=') && self.take("=") => true,
            _ => {
                self.at = begin;
                pipe.names.clear();
                false
            }
        };
        if let Some(name) = pipe.names.iter().find(|name| pipe.assigns && !self.names.contains(name)) {
            self.at = begin;
            return self.fail(format!("${name} is no variable"));
        }
        loop {
            pipe.commands.push(self.command(!pipe.commands.is_empty())?);
            self.skip();
            if !self.take("|") {
                break;
            }
        }
        if !pipe.assigns {
            self.names.extend(pipe.names.iter().cloned());
        }
        Ok(pipe)
    }

    /// A function or method with its arguments, or a value alone. What comes out of the command before is one more.
    fn command(&mut self, piped: bool) -> Parsed<Vec<Operand>> {
        let mut words = Vec::new();
        let begin = {
            self.skip();
            self.at
        };
        while !self.is_closed() && !self.rest().starts_with(['|', ')']) {
            words.push(self.operand()?);
        }
        let count = words.len().saturating_sub(1) + usize::from(piped);
        let problem = match words.first() {
            None => Some("a value is missing here".to_owned()),
            Some(Operand::Function(name)) => {
                let row = FUNCTIONS.iter().find(|row| row.0 == name);
                let fits = row.is_some_and(|row| (row.1..=row.2).contains(&count));
                (!fits).then(|| format!("'{name}' does not take {count} arguments"))
            }
            Some(Operand::Dot(fields) | Operand::Variable(_, fields)) if self.is_method(fields) => {
                (count != 1).then(|| format!("'.{}' takes one argument", fields[0]))
            }
            Some(_) if count > 0 => Some("this is no function, and takes no arguments".to_owned()),
            Some(_) => None,
        };
        match problem {
            Some(message) => Err(TemplateError { at: begin, message }),
            None => Ok(words),
        }
    }

    fn is_method(&self, fields: &[String]) -> bool {
        matches!(fields, [one] if self.known.methods.contains(&one.as_str()))
    }

    fn operand(&mut self) -> Parsed<Operand> {
        let begin = self.at;
        let Some(c) = self.rest().chars().next() else { return self.fail("'}}' is missing here") };
        Ok(match c {
            '.' if !self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let fields = self.fields()?;
                if fields.is_empty() {
                    self.at += 1;
                }
                if self.moved == 0 {
                    self.check(begin, &fields)?;
                }
                Operand::Dot(fields)
            }
            '$' => {
                self.at += 1;
                let name = self.word().to_owned();
                let fields = self.fields()?;
                if name.is_empty() {
                    self.check(begin, &fields)?;
                } else if !self.names.contains(&name) {
                    self.at = begin;
                    return self.fail(format!("${name} is no variable"));
                }
                Operand::Variable(name, fields)
            }
            '(' => {
                self.at += 1;
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return self.fail("parentheses are nested too deeply");
                }
                let pipe = self.pipe()?;
                self.skip();
                if !self.take(")") {
                    return self.fail("')' is missing here");
                }
                self.depth -= 1;
                let fields = self.fields()?;
                Operand::Pipe(pipe.into(), fields)
            }
            '"' | '`' | '\'' => Operand::Value(self.quoted(c)?),
            '0'..='9' | '-' | '+' | '.' => Operand::Value(self.number()?),
            _ => match self.word() {
                "true" => Operand::Value(Value::Bool(true)),
                "false" => Operand::Value(Value::Bool(false)),
                "nil" => Operand::Value(Value::Nil),
                name if FUNCTIONS.iter().any(|row| row.0 == name) => Operand::Function(name.to_owned()),
                name => {
                    let name = name.to_owned();
                    self.at = begin;
                    return self.fail(match name.as_str() {
                        "" => format!("'{c}' means nothing here"),
                        _ => format!("'{name}' is no function that there is"),
                    });
                }
            },
        })
    }

    /// `.a.b`; none for a dot alone.
    fn fields(&mut self) -> Parsed<Vec<String>> {
        let mut out = Vec::new();
        while self.rest().starts_with('.')
            && self.rest()[1..].starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            self.at += 1;
            out.push(self.word().to_owned());
        }
        Ok(out)
    }

    /// Fields of the data are known.
    fn check(&self, at: usize, fields: &[String]) -> Parsed<()> {
        let [first, rest @ ..] = fields else { return Ok(()) };
        if self.known.methods.contains(&first.as_str()) && rest.is_empty() {
            return Ok(());
        }
        let there = match self.known.fields.iter().find(|row| row.0 == first) {
            Some((_, None)) => true,
            Some((_, Some(below))) => rest.first().is_none_or(|field| below.contains(&field.as_str())),
            None => false,
        };
        if there {
            return Ok(());
        }
        Err(TemplateError { at, message: format!("there is no .{}", fields.join(".")) })
    }

    fn number(&mut self) -> Parsed<Value> {
        let begin = self.at;
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let more = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
        let end = rest[sign..].find(|c: char| !more(c)).map_or(rest.len(), |end| end + sign);
        let plain = rest[sign..end].replace('_', "").to_ascii_lowercase();
        let radixes = [("0x", 16), ("0o", 8), ("0b", 2)];
        let whole =
            match radixes.iter().find_map(|(prefix, radix)| Some((plain.strip_prefix(prefix)?, *radix))) {
                Some((digits, radix)) => i64::from_str_radix(digits, radix).ok(),
                None => plain.parse().ok(),
            };
        let minus = rest.starts_with('-');
        let value = match whole {
            Some(n) => Some(Value::Int(if minus { -n } else { n })),
            None => plain
                .parse()
                .ok()
                .filter(|_| plain.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
                .map(|n: f64| Value::Float(if minus { -n } else { n })),
        };
        self.at += end;
        match value {
            Some(value) => Ok(value),
            None => {
                self.at = begin;
                self.fail("this is no number")
            }
        }
    }

    /// A text, or the number of a character.
    fn quoted(&mut self, quote: char) -> Parsed<Value> {
        let begin = self.at;
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.at += at + 1;
                let mut letters = out.chars();
                return match (quote, letters.next(), letters.next()) {
                    ('\'', Some(letter), None) => Ok(Value::Int(i64::from(u32::from(letter)))),
                    ('\'', ..) => {
                        self.at = begin;
                        self.fail("single quotes are for one character; write \"…\"")
                    }
                    _ => Ok(Value::Text(out)),
                };
            }
            let escaped = if c == '\\' && quote != '`' { chars.next().map(|(_, c)| c) } else { None };
            let mut code = |digits: usize| {
                let mut value = 0;
                for _ in 0..digits {
                    value = value * 16 + chars.next()?.1.to_digit(16)?;
                }
                char::from_u32(value)
            };
            let letter = match escaped {
                None => Some(c),
                Some('n') => Some('\n'),
                Some('t') => Some('\t'),
                Some('r') => Some('\r'),
                Some(c @ ('\\' | '"' | '\'')) => Some(c),
                Some('x') => code(2),
                Some('u') => code(4),
                Some('U') => code(8),
                Some(_) => None,
            };
            match letter {
                Some(letter) => out.push(letter),
                None => {
                    self.at += at;
                    return self.fail("this escape is none");
                }
            }
        }
        self.fail("this quote never ends")
    }
}
