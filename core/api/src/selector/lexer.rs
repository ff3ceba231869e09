//! The grammar of label selectors (`apimachinery/pkg/labels/selector.go`).

use super::{Operator, Requirement, SelectorError};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    End,
    Open,
    Close,
    Comma,
    Not,
    Equal,
    DoubleEqual,
    NotEqual,
    Greater,
    Less,
    In,
    NotIn,
    Word(String),
}

impl Token {
    fn literal(&self) -> &str {
        match self {
            Token::End => "",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equal => "=",
            Token::DoubleEqual => "==",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::In => "in",
            Token::NotIn => "notin",
            Token::Word(word) => word,
        }
    }

    fn of(text: &str) -> Option<Token> {
        Some(match text {
            "(" => Token::Open,
            ")" => Token::Close,
            "," => Token::Comma,
            "!" => Token::Not,
            "=" => Token::Equal,
            "==" => Token::DoubleEqual,
            "!=" => Token::NotEqual,
            ">" => Token::Greater,
            "<" => Token::Less,
            _ => return None,
        })
    }
}

fn special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = text.trim_start_matches(blank);
    while let Some(first) = rest.chars().next() {
        let end = if special(first) {
            // The longest of the one- and two-character symbols.
            let two = rest.get(..2).filter(|s| Token::of(s).is_some());
            two.map_or(1, str::len)
        } else {
            rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(end);
        out.push(Token::of(word).unwrap_or_else(|| match word {
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ => Token::Word(word.to_owned()),
        }));
        rest = after.trim_start_matches(blank);
    }
    out.push(Token::End);
    out
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

fn refuse<T>(found: &Token, expected: &str) -> Result<T, SelectorError> {
    Err(SelectorError(format!("found '{}', expected: {expected}", found.literal())))
}

/// Keywords are words where a value may stand.
fn as_value(token: Token) -> Token {
    match token {
        Token::In | Token::NotIn => Token::Word(token.literal().to_owned()),
        other => other,
    }
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }
    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut operator = None;
        let mut token = as_value(self.next());
        if token == Token::Not {
            operator = Some(Operator::DoesNotExist);
            token = as_value(self.next());
        }
        let Token::Word(key) = token else { return refuse(&token, "identifier") };
        if let Some(operator) = operator {
            return Requirement::checked(&key, operator, false);
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::checked(&key, Operator::Exists, false);
        }
        let token = self.next();
        match token {
            Token::In => Requirement::checked(&key, Operator::In(self.values()?), false),
            Token::NotIn => Requirement::checked(&key, Operator::NotIn(self.values()?), false),
            Token::Equal | Token::DoubleEqual => {
                Requirement::checked(&key, Operator::In(vec![self.exact_value()?]), true)
            }
            Token::NotEqual => Requirement::checked(&key, Operator::NotIn(vec![self.exact_value()?]), true),
            Token::Greater | Token::Less => {
                let value = self.exact_value()?;
                let number = value.parse::<i64>().map_err(|_| {
                    SelectorError(format!(
                        "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ))
                })?;
                let operator = if token == Token::Greater {
                    Operator::GreaterThan(number)
                } else {
                    Operator::LessThan(number)
                };
                Requirement::checked(&key, operator, false)
            }
            other => refuse(&other, "in, notin, =, ==, !=, gt, lt"),
        }
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match as_value(self.next()) {
            Token::Word(word) => Ok(word),
            other => refuse(&other, "identifier"),
        }
    }

    /// `(a, b)`; an empty place is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let open = self.next();
        if open != Token::Open {
            return refuse(&open, "'('");
        }
        let mut values = Vec::new();
        let mut wants_value = true;
        loop {
            match as_value(self.next()) {
                Token::Word(word) if wants_value => {
                    values.push(word);
                    wants_value = false;
                }
                Token::Comma => {
                    if wants_value {
                        values.push(String::new());
                    }
                    wants_value = true;
                }
                Token::Close => {
                    if wants_value {
                        values.push(String::new());
                    }
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                other if wants_value => return refuse(&other, "',', ')' or identifier"),
                other => return refuse(&other, "',' or ')'"),
            }
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut out = Vec::new();
    loop {
        match as_value(parser.peek()) {
            Token::Word(_) | Token::Not => {
                let requirement = parser.requirement();
                out.push(
                    requirement
                        .map_err(|e| SelectorError(format!("unable to parse requirement: {}", e.0)))?,
                );
                match parser.next() {
                    Token::End => return Ok(out),
                    Token::Comma => {
                        let after = as_value(parser.peek());
                        if !matches!(after, Token::Word(_) | Token::Not) {
                            return refuse(&after, "identifier after ','");
                        }
                    }
                    other => return refuse(&other, "',' or 'end of string'"),
                }
            }
            Token::End => return Ok(out),
            other => return refuse(&other, "!, identifier, or 'end of string'"),
        }
    }
}
