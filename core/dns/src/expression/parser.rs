//! Expressions out of words, by the operators' strength.

use regex::Regex;

use super::functions::{self, Each};
use super::kinds;
use super::lexer::{Word, words};
use super::node::{Node, Program};
use super::query;
use super::value::Value;
use super::{ExpressionError, Known};

/// Parentheses within parentheses, at most.
const MAX_DEPTH: usize = 100;

/// Operators between two values, and how strong they are; `not` may stand before those with `true`.
const BINARY: &[(&str, u8, bool)] = &[
    ("|", 1, false),
    ("or", 10, false),
    ("||", 10, false),
    ("and", 15, false),
    ("&&", 15, false),
    ("==", 20, false),
    ("!=", 20, false),
    ("<", 20, false),
    (">", 20, false),
    ("<=", 20, false),
    (">=", 20, false),
    ("in", 20, true),
    ("matches", 20, true),
    ("contains", 20, true),
    ("startsWith", 20, true),
    ("endsWith", 20, true),
    ("..", 25, false),
    ("+", 30, false),
    ("-", 30, false),
    ("*", 60, false),
    ("/", 60, false),
    ("%", 60, false),
    ("**", 100, false),
    ("^", 100, false),
    ("??", 200, false),
];
/// `not`, and the sign of a number.
const NOT: u8 = 50;
const SIGN: u8 = 90;

/// Words that name no variable.
const KEYWORDS: &[&str] = &[
    "true",
    "false",
    "nil",
    "not",
    "and",
    "or",
    "in",
    "let",
    "if",
    "else",
    "matches",
    "contains",
    "startsWith",
    "endsWith",
];

impl Program {
    /// Reads an expression. It may name what is known, and the functions that there are.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(text: &str, known: &Known) -> Result<Self, ExpressionError> {
        let mut parser = Parser { words: words(text)?, at: 0, known: known.clone(), inside: 0, depth: 0 };
        let node = parser.whole()?;
        match parser.peek() {
            Word::End => Ok(Program(node)),
            _ => parser.fail("this is too much"),
        }
    }

    /// Whether a variable may have that name.
    pub fn is_free_name(name: &str) -> bool {
        let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        letters
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && !KEYWORDS.contains(&name)
            && functions::arity(name).is_none()
            && query::arity(name).is_none()
            && Each::named(name).is_none()
    }
}

struct Parser {
    words: Vec<(usize, Word)>,
    at: usize,
    known: Known,
    /// Predicates around this place.
    inside: usize,
    depth: usize,
}

type Parsed = Result<Node, ExpressionError>;

impl Parser {
    fn peek(&self) -> &Word {
        self.words.get(self.at).map_or(&Word::End, |(_, word)| word)
    }

    fn offset(&self) -> usize {
        self.words.get(self.at).or(self.words.last()).map_or(0, |(at, _)| *at)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ExpressionError> {
        Err(ExpressionError { at: self.offset(), message: message.into() })
    }

    fn take(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Word::Sign(is) if *is == sign);
        self.at += usize::from(there);
        there
    }

    fn take_name(&mut self, name: &str) -> bool {
        let there = matches!(self.peek(), Word::Name(is) if is == name);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExpressionError> {
        if self.take(sign) { Ok(()) } else { self.fail(format!("'{sign}' is missing here")) }
    }

    /// `let a = 1; …`
    fn whole(&mut self) -> Parsed {
        if !self.take_name("let") {
            return self.binary(0);
        }
        let Word::Name(name) = self.peek().clone() else { return self.fail("'let' needs a name") };
        if !Program::is_free_name(&name) || self.known.variables.contains(&name) {
            return self.fail(format!("'{name}' has a meaning already"));
        }
        self.at += 1;
        self.expect("=")?;
        let value = self.binary(0)?;
        self.expect(";")?;
        self.known.variables.push(name.clone());
        let body = self.whole()?;
        self.known.variables.pop();
        Ok(Node::Let(name, value.into(), body.into()))
    }

    fn arity(&self, name: &str) -> Option<(usize, usize)> {
        let own = self.known.functions.iter().find(|row| row.0 == name).map(|row| (row.1, row.1));
        own.or_else(|| query::arity(name)).or_else(|| functions::arity(name))
    }

    fn operator(&self) -> Option<(&'static str, u8, bool)> {
        let is = |text: &str| BINARY.iter().find(|row| row.0 == text).copied();
        match self.peek() {
            Word::Sign(sign) => is(sign),
            Word::Name(name) => is(name),
            _ => None,
        }
    }

    fn binary(&mut self, least: u8) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("this expression is nested too deeply");
        }
        let mut left = self.unary()?;
        loop {
            let begin = self.at;
            let negated = self.take_name("not");
            let Some((operator, strength, may)) =
                self.operator().filter(|row| row.1 >= least && (row.2 || !negated))
            else {
                self.at = begin;
                break;
            };
            let place = self.offset();
            self.at += 1;
            if operator == "|" {
                left = self.piped(left)?;
                continue;
            }
            let right_first = matches!(operator, "**" | "^");
            let at = self.offset();
            let right = self.binary(if right_first { strength } else { strength + 1 })?;
            if let Some(message) = kinds::mismatch(operator, &left, &right) {
                return Err(ExpressionError { at: place, message });
            }
            let node = match (operator, right) {
                ("matches", Node::Value(Value::Text(text))) => match Regex::new(&text) {
                    Ok(regex) => Node::Matches(left.into(), regex),
                    Err(_) => {
                        let message = format!("'{text}' is no regular expression");
                        return Err(ExpressionError { at, message });
                    }
                },
                (_, right) => Node::Binary(operator, left.into(), right.into()),
            };
            left = if negated && may { Node::Not(node.into()) } else { node };
        }
        // What is weakest of all.
        if least == 0 && self.take("?") {
            let yes = self.binary(0)?;
            self.expect(":")?;
            let no = self.binary(0)?;
            left = Node::Choice(left.into(), yes.into(), no.into());
        }
        self.depth -= 1;
        Ok(left)
    }

    /// `list | filter(…)`: what stands before is the first argument.
    fn piped(&mut self, first: Node) -> Parsed {
        match self.peek().clone() {
            Word::Name(name) => {
                let at = self.at;
                self.at += 1;
                let call = self.call(&name, at, Some(first))?;
                self.postfix(call)
            }
            _ => self.fail("a function's name is missing behind '|'"),
        }
    }

    fn unary(&mut self) -> Parsed {
        if self.take("!") || self.take_name("not") {
            let place = self.offset();
            let inner = self.binary(NOT)?;
            return match kinds::no_bool(&inner) {
                Some(message) => Err(ExpressionError { at: place, message }),
                None => Ok(Node::Not(inner.into())),
            };
        }
        if self.take("-") {
            return Ok(Node::Minus(self.binary(SIGN)?.into()));
        }
        if self.take("+") {
            return self.binary(SIGN);
        }
        let node = self.primary()?;
        self.postfix(node)
    }

    fn primary(&mut self) -> Parsed {
        let (begin, word) = (self.at, self.peek().clone());
        self.at += 1;
        match word {
            Word::Int(n) => Ok(Node::Value(Value::Int(n))),
            Word::Float(n) => Ok(Node::Value(Value::Float(n))),
            Word::Text(text) => Ok(Node::Value(Value::Text(text))),
            Word::Sign("(") => {
                let node = self.whole()?;
                self.expect(")")?;
                Ok(node)
            }
            Word::Sign("[") => Ok(Node::List(self.items("]")?)),
            Word::Sign("{") => self.map(),
            Word::Sign("#") if self.inside > 0 => {
                Ok(if self.take_name("index") { Node::Index } else { Node::Element })
            }
            // `.name` is `#.name`.
            Word::Sign(".") if self.inside > 0 => {
                self.at = begin;
                Ok(Node::Element)
            }
            Word::Name(name) => self.name(name, begin),
            _ => {
                self.at = begin;
                self.fail("a value is missing here")
            }
        }
    }

    fn name(&mut self, name: String, begin: usize) -> Parsed {
        match name.as_str() {
            "true" => return Ok(Node::Value(Value::Bool(true))),
            "false" => return Ok(Node::Value(Value::Bool(false))),
            "nil" => return Ok(Node::Value(Value::Nil)),
            _ if matches!(self.peek(), Word::Sign("(")) => return self.call(&name, begin, None),
            _ if self.known.variables.contains(&name) => return Ok(Node::Variable(name)),
            _ => {}
        }
        self.at = begin;
        let known = self.arity(&name).is_some();
        let hint = if known { format!("; write {name}()") } else { String::new() };
        self.fail(format!("'{name}' is no variable{hint}"))
    }

    fn call(&mut self, name: &str, begin: usize, first: Option<Node>) -> Parsed {
        self.expect("(")?;
        let mut args: Vec<Node> = first.into_iter().collect();
        if let Some(each) = Each::named(name) {
            if args.is_empty() {
                args.push(self.binary(0)?);
                if !matches!(self.peek(), Word::Sign(")")) {
                    self.expect(",")?;
                }
            }
            let body =
                if matches!(self.peek(), Word::Sign(")")) { None } else { Some(self.predicate()?.into()) };
            if body.is_none() && each.needs_body() {
                return self.fail(format!("'{name}' needs a condition"));
            }
            self.expect(")")?;
            return Ok(Node::Each(each, args.remove(0).into(), body));
        }
        args.extend(self.items(")")?);
        let after = std::mem::replace(&mut self.at, begin);
        let Some((least, most)) = self.arity(name) else {
            return self.fail(format!("'{name}' is no function that there is"));
        };
        if !(least..=most).contains(&args.len()) {
            return self.fail(format!("'{name}' does not take {} arguments", args.len()));
        }
        self.at = after;
        Ok(Node::Call(name.to_owned(), args))
    }

    /// `{# > 1}` or `# > 1`.
    fn predicate(&mut self) -> Parsed {
        self.inside += 1;
        let braces = self.take("{");
        let body = self.binary(0)?;
        if braces {
            self.expect("}")?;
        }
        self.inside -= 1;
        Ok(body)
    }

    fn items(&mut self, end: &str) -> Result<Vec<Node>, ExpressionError> {
        let mut out = Vec::new();
        while !self.take(end) {
            if !out.is_empty() {
                self.expect(",")?;
                if self.take(end) {
                    break;
                }
            }
            out.push(self.binary(0)?);
        }
        Ok(out)
    }

    fn map(&mut self) -> Parsed {
        let mut out = Vec::new();
        while !self.take("}") {
            if !out.is_empty() {
                self.expect(",")?;
                if self.take("}") {
                    break;
                }
            }
            let key = match self.peek().clone() {
                Word::Name(name) => {
                    self.at += 1;
                    Node::Value(Value::Text(name))
                }
                Word::Text(_) | Word::Int(_) | Word::Sign("(") => self.primary()?,
                _ => return self.fail("a key is missing here"),
            };
            self.expect(":")?;
            out.push((key, self.binary(0)?));
        }
        Ok(Node::Map(out))
    }

    /// Members and slices behind a value.
    fn postfix(&mut self, mut node: Node) -> Parsed {
        loop {
            let optional = self.take("?.");
            if optional || self.take(".") {
                if optional && self.take("[") {
                    let key = self.binary(0)?;
                    self.expect("]")?;
                    node = Node::Member(node.into(), key.into(), true);
                    continue;
                }
                let Word::Name(name) = self.peek().clone() else {
                    return self.fail("a member's name is missing");
                };
                self.at += 1;
                node = Node::Member(node.into(), Node::Value(Value::Text(name)).into(), optional);
            } else if self.take("[") {
                let from = if matches!(self.peek(), Word::Sign(":")) {
                    None
                } else {
                    Some(Box::new(self.binary(0)?))
                };
                if self.take(":") {
                    let to = if matches!(self.peek(), Word::Sign("]")) {
                        None
                    } else {
                        Some(self.binary(0)?.into())
                    };
                    node = Node::Slice(node.into(), from, to);
                } else if let Some(key) = from {
                    node = Node::Member(node.into(), key, false);
                }
                self.expect("]")?;
            } else {
                return Ok(node);
            }
        }
    }
}
