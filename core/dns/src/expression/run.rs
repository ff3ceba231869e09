//! What an expression comes to.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use regex::Regex;

use super::functions;
use super::node::{Node, Program};
use super::value::{Value, compare, index};

/// Longest list that `..` makes.
const MAX_LIST: i64 = 100_000;

/// What an expression is about.
pub trait Scope {
    /// What a function about the query says; `None` where it is not one.
    fn call(&self, name: &str, args: &[Value]) -> Option<Result<Value, String>>;
}

type Ran = Result<Value, String>;

/// Names with their values, and the element of the list that is gone through.
struct Run<'a> {
    scope: &'a dyn Scope,
    names: Vec<(String, Value)>,
    elements: Vec<(Value, i64)>,
}

impl Program {
    /// What it comes to, with these variables.
    ///
    /// # Errors
    /// Why it comes to nothing: operands that do not go with an operator, texts that are no addresses…
    pub fn run(&self, scope: &dyn Scope, variables: &[(String, Value)]) -> Ran {
        Run { scope, names: variables.to_vec(), elements: Vec::new() }.node(&self.0)
    }

    /// Whether it comes to `true`; what comes to nothing, or to something else, does not.
    pub fn holds(&self, scope: &dyn Scope) -> bool {
        self.run(scope, &[]) == Ok(Value::Bool(true))
    }
}

fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(b) => Ok(*b),
        other => Err(format!("{} is no bool", other.kind())),
    }
}

impl Run<'_> {
    fn node(&mut self, node: &Node) -> Ran {
        Ok(match node {
            Node::Value(value) => value.clone(),
            Node::Variable(name) => {
                let found = self.names.iter().rev().find(|(is, _)| is == name);
                found.map_or(Value::Nil, |(_, value)| value.clone())
            }
            Node::Element => self.elements.last().map_or(Value::Nil, |(value, _)| value.clone()),
            Node::Index => self.elements.last().map_or(Value::Nil, |(_, index)| Value::Int(*index)),
            Node::Not(inner) => Value::Bool(!truth(&self.node(inner)?)?),
            Node::Minus(inner) => match self.node(inner)? {
                Value::Int(n) => Value::Int(n.wrapping_neg()),
                Value::Float(n) => Value::Float(-n),
                other => return Err(format!("{} is no number", other.kind())),
            },
            Node::Matches(left, regex) => match self.node(left)? {
                Value::Text(text) => Value::Bool(regex.is_match(&text)),
                Value::Nil => Value::Bool(false),
                other => return Err(format!("{} is no string", other.kind())),
            },
            Node::Binary(operator, left, right) => return self.binary(operator, left, right),
            Node::Choice(condition, yes, no) => {
                let branch = if truth(&self.node(condition)?)? { yes } else { no };
                return self.node(branch);
            }
            Node::Call(name, args) => {
                let args = args.iter().map(|arg| self.node(arg)).collect::<Result<Vec<Value>, String>>()?;
                return match self.scope.call(name, &args) {
                    Some(result) => result,
                    None => functions::call(name, args),
                };
            }
            Node::Each(each, list, body) => {
                let list = match self.node(list)? {
                    Value::List(list) => list,
                    other => return Err(format!("{} is no array", other.kind())),
                };
                return each.run(list, |element, index| {
                    let Some(body) = body else { return Ok(element.clone()) };
                    self.elements.push((element.clone(), index));
                    let value = self.node(body);
                    self.elements.pop();
                    value
                });
            }
            Node::Member(of, key, optional) => {
                let of = self.node(of)?;
                if *optional && of == Value::Nil {
                    return Ok(Value::Nil);
                }
                let key = self.node(key)?;
                return member(&of, &key);
            }
            Node::Slice(of, from, to) => {
                let of = self.node(of)?;
                let mut bound =
                    |node: &Option<Box<Node>>| match node.as_ref().map(|node| self.node(node)).transpose()? {
                        None => Ok(None),
                        Some(Value::Int(n)) => Ok(Some(n)),
                        Some(other) => Err(format!("{} is no index", other.kind())),
                    };
                let (from, to) = (bound(from)?, bound(to)?);
                return slice(of, from, to);
            }
            Node::List(items) => {
                Value::List(items.iter().map(|item| self.node(item)).collect::<Result<_, String>>()?)
            }
            Node::Map(items) => {
                let mut map = BTreeMap::new();
                for (key, value) in items {
                    map.insert(self.node(key)?.to_string(), self.node(value)?);
                }
                Value::Map(map)
            }
            Node::Let(name, value, body) => {
                let value = self.node(value)?;
                self.names.push((name.clone(), value));
                let result = self.node(body);
                self.names.pop();
                return result;
            }
        })
    }

    fn binary(&mut self, operator: &str, left: &Node, right: &Node) -> Ran {
        let left = self.node(left)?;
        // What is decided already is not looked at.
        match operator {
            "and" | "&&" if !truth(&left)? => return Ok(Value::Bool(false)),
            "or" | "||" if truth(&left)? => return Ok(Value::Bool(true)),
            "and" | "&&" | "or" | "||" => return Ok(Value::Bool(truth(&self.node(right)?)?)),
            "??" if left != Value::Nil => return Ok(left),
            _ => {}
        }
        let right = self.node(right)?;
        match operator {
            "??" => Ok(right),
            "==" => Ok(Value::Bool(left.same(&right))),
            "!=" => Ok(Value::Bool(!left.same(&right))),
            "<" | ">" | "<=" | ">=" => {
                let order = compare(&left, &right)?;
                Ok(Value::Bool(match operator {
                    "<" => order == Some(Ordering::Less),
                    ">" => order == Some(Ordering::Greater),
                    "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                }))
            }
            "in" => match &right {
                Value::List(list) => Ok(Value::Bool(list.iter().any(|item| item.same(&left)))),
                Value::Map(map) => Ok(Value::Bool(map.contains_key(&left.to_string()))),
                Value::Nil => Ok(Value::Bool(false)),
                other => Err(format!("nothing is in {}", other.kind())),
            },
            "matches" | "contains" | "startsWith" | "endsWith" => texts(operator, &left, &right),
            ".." => match (&left, &right) {
                (Value::Int(from), Value::Int(to)) if to.saturating_sub(*from) < MAX_LIST => {
                    Ok(Value::List((*from..=*to).map(Value::Int).collect()))
                }
                _ => Err("'..' needs two whole numbers that are not too far apart".to_owned()),
            },
            _ => arithmetic(operator, &left, &right),
        }
    }
}

fn texts(operator: &str, left: &Value, right: &Value) -> Ran {
    let (Value::Text(left), Value::Text(right)) = (left, right) else {
        return Err(format!("'{operator}' needs two strings"));
    };
    Ok(Value::Bool(match operator {
        "contains" => left.contains(right.as_str()),
        "startsWith" => left.starts_with(right.as_str()),
        "endsWith" => left.ends_with(right.as_str()),
        _ => Regex::new(right).map_err(|_| format!("'{right}' is no regular expression"))?.is_match(left),
    }))
}

fn arithmetic(operator: &str, left: &Value, right: &Value) -> Ran {
    let wrong = || format!("'{operator}' does not go with {} and {}", left.kind(), right.kind());
    match (operator, left, right) {
        ("+", Value::Text(a), Value::Text(b)) => return Ok(Value::Text(format!("{a}{b}"))),
        ("%", Value::Int(_), Value::Int(0)) => return Err("division by zero".to_owned()),
        ("%", Value::Int(a), Value::Int(b)) => return Ok(Value::Int(a.wrapping_rem(*b))),
        ("+", Value::Int(a), Value::Int(b)) => return Ok(Value::Int(a.wrapping_add(*b))),
        ("-", Value::Int(a), Value::Int(b)) => return Ok(Value::Int(a.wrapping_sub(*b))),
        ("*", Value::Int(a), Value::Int(b)) => return Ok(Value::Int(a.wrapping_mul(*b))),
        _ => {}
    }
    let (a, b) = left.number().zip(right.number()).ok_or_else(wrong)?;
    Ok(Value::Float(match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "**" | "^" => a.powf(b),
        _ => return Err(wrong()),
    }))
}

fn member(of: &Value, key: &Value) -> Ran {
    match (of, key) {
        (Value::Map(map), key) => Ok(map.get(&key.to_string()).cloned().unwrap_or(Value::Nil)),
        (Value::List(list), Value::Int(at)) => index(list.len(), *at)
            .map(|at| list[at].clone())
            .ok_or_else(|| format!("there is no element {at}")),
        (of, key) => Err(format!("{} has no member {key}", of.kind())),
    }
}

fn slice(of: Value, from: Option<i64>, to: Option<i64>) -> Ran {
    let bound = |len: usize, at: i64| {
        let at = if at < 0 { at + i64::try_from(len).unwrap_or(0) } else { at };
        usize::try_from(at).unwrap_or(0).min(len)
    };
    let range = |len: usize| {
        let from = from.map_or(0, |at| bound(len, at));
        from..to.map_or(len, |at| bound(len, at)).max(from)
    };
    match of {
        Value::List(list) => Ok(Value::List(list[range(list.len())].to_vec())),
        Value::Text(text) => {
            // By octets, as Go has it; half a character is none.
            Ok(text.get(range(text.len())).ok_or("the slice cuts a character in two")?.into())
        }
        other => Err(format!("{} has no slices", other.kind())),
    }
}
