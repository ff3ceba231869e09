//! Filling a template in.

use std::cmp::Ordering;

use super::parser::{Operand, Piece, Pipe, Template};
use super::{Data, print};
use crate::expression::Value;

/// Longest text that a template makes, in octets: more than any record has.
const MAX_TEXT: usize = 1 << 18;

/// A value, or the data itself.
#[derive(Clone, Debug)]
enum Thing {
    Data,
    Value(Value),
}

/// How a run of pieces ended.
#[derive(PartialEq, Eq)]
enum Way {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    data: &'a dyn Data,
    names: Vec<(String, Value)>,
    out: String,
}

impl Template {
    /// The text that it makes.
    ///
    /// # Errors
    /// Why it makes none: an index that there is not, texts that are no numbers…
    pub fn fill(&self, data: &dyn Data) -> Result<String, String> {
        let mut run = Run { data, names: Vec::new(), out: String::new() };
        run.pieces(&self.0, &Thing::Data)?;
        Ok(run.out)
    }
}

fn truth(thing: &Thing) -> bool {
    let Thing::Value(value) = thing else { return true };
    match value {
        Value::Nil => false,
        Value::Bool(b) => *b,
        Value::Int(n) => *n != 0,
        Value::Float(n) => *n != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::List(list) => !list.is_empty(),
        Value::Map(map) => !map.is_empty(),
    }
}

fn value(thing: Thing) -> Result<Value, String> {
    match thing {
        Thing::Value(value) => Ok(value),
        Thing::Data => Err("'.' as a whole has no value".to_owned()),
    }
}

impl Run<'_> {
    fn pieces(&mut self, pieces: &[Piece], dot: &Thing) -> Result<Way, String> {
        let names = self.names.len();
        let mut way = Way::On;
        for piece in pieces {
            way = self.piece(piece, dot)?;
            if self.out.len() > MAX_TEXT {
                return Err("the text would be too long".to_owned());
            }
            if way != Way::On {
                break;
            }
        }
        self.names.truncate(names);
        Ok(way)
    }

    fn piece(&mut self, piece: &Piece, dot: &Thing) -> Result<Way, String> {
        let names = self.names.len();
        let way = match piece {
            Piece::Text(text) => {
                self.out.push_str(text);
                Way::On
            }
            Piece::Print(pipe) => {
                let found = self.pipe(pipe, dot)?;
                if pipe.names.is_empty() {
                    let text = print::plain(&value(found)?);
                    self.out.push_str(&text);
                }
                // A variable stays until the pieces around it end.
                return Ok(Way::On);
            }
            Piece::If(branches, other) => {
                let mut chosen = other;
                for (pipe, pieces) in branches {
                    if truth(&self.pipe(pipe, dot)?) {
                        chosen = pieces;
                        break;
                    }
                }
                self.pieces(chosen, dot)?
            }
            Piece::With(pipe, pieces, other) => {
                let found = self.pipe(pipe, dot)?;
                if truth(&found) { self.pieces(pieces, &found)? } else { self.pieces(other, dot)? }
            }
            Piece::Range(pipe, pieces, other) => self.range(pipe, pieces, other, dot)?,
            Piece::Break => Way::Break,
            Piece::Continue => Way::Continue,
        };
        self.names.truncate(names);
        Ok(way)
    }

    fn range(&mut self, pipe: &Pipe, pieces: &[Piece], other: &[Piece], dot: &Thing) -> Result<Way, String> {
        let silent = Pipe { names: Vec::new(), ..pipe.clone() };
        let items: Vec<(Value, Value)> = match value(self.pipe(&silent, dot)?)? {
            Value::List(list) => (0..).map(Value::Int).zip(list).collect(),
            Value::Map(map) => map.into_iter().map(|(key, value)| (Value::Text(key), value)).collect(),
            Value::Int(n) => (0..n.min(10_000)).map(|n| (Value::Int(n), Value::Int(n))).collect(),
            Value::Nil => Vec::new(),
            other => return Err(format!("range does not go over {}", other.kind())),
        };
        if items.is_empty() {
            return self.pieces(other, dot);
        }
        for (key, item) in items {
            let names = self.names.len();
            let own = match pipe.names.as_slice() {
                [] => vec![],
                [only] => vec![(only, item.clone())],
                [first, second, ..] => vec![(first, key), (second, item.clone())],
            };
            for (name, value) in own {
                self.name(name, value, pipe.assigns);
            }
            let way = self.pieces(pieces, &Thing::Value(item))?;
            if !pipe.assigns {
                self.names.truncate(names);
            }
            if way == Way::Break {
                break;
            }
        }
        Ok(Way::On)
    }

    fn name(&mut self, name: &str, value: Value, assigns: bool) {
        match self.names.iter_mut().rev().find(|(is, _)| assigns && is == name) {
            Some((_, old)) => *old = value,
            None => self.names.push((name.to_owned(), value)),
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Thing) -> Result<Thing, String> {
        let mut found: Option<Thing> = None;
        for command in &pipe.commands {
            found = Some(self.command(command, found, dot)?);
        }
        let found = found.unwrap_or(Thing::Value(Value::Nil));
        if let Some(name) = pipe.names.first() {
            self.name(name, value(found.clone())?, pipe.assigns);
        }
        Ok(found)
    }

    fn command(&mut self, words: &[Operand], piped: Option<Thing>, dot: &Thing) -> Result<Thing, String> {
        let Some((first, rest)) = words.split_first() else { return Ok(Thing::Value(Value::Nil)) };
        match first {
            // What is decided already is not looked at.
            Operand::Function(name) if name == "and" || name == "or" => {
                let mut last = Thing::Value(Value::Nil);
                for word in rest {
                    last = self.operand(word, dot)?;
                    if truth(&last) == (name == "or") {
                        return Ok(last);
                    }
                }
                Ok(piped.unwrap_or(last))
            }
            Operand::Function(name) => {
                let mut args =
                    rest.iter().map(|word| self.operand(word, dot)).collect::<Result<Vec<_>, _>>()?;
                args.extend(piped);
                if name == "not" {
                    return Ok(Thing::Value(Value::Bool(!args.first().is_some_and(truth))));
                }
                let args = args.into_iter().map(value).collect::<Result<Vec<Value>, String>>()?;
                call(name, &args).map(Thing::Value)
            }
            Operand::Dot(fields) | Operand::Variable(_, fields) if !rest.is_empty() || piped.is_some() => {
                let arg = match rest.first() {
                    Some(word) => Some(self.operand(word, dot)?),
                    None => piped,
                };
                let (Some(Thing::Value(Value::Text(arg))), [method]) = (arg, fields.as_slice()) else {
                    return Err("a method takes one text".to_owned());
                };
                let found = self.data.method(method, &arg);
                found.map(Thing::Value).ok_or_else(|| format!("'.{method}' is no function"))
            }
            only => self.operand(only, dot),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Thing) -> Result<Thing, String> {
        match operand {
            Operand::Value(value) => Ok(Thing::Value(value.clone())),
            Operand::Dot(fields) => self.fields(dot.clone(), fields),
            Operand::Variable(name, fields) if name.is_empty() => self.fields(Thing::Data, fields),
            Operand::Variable(name, fields) => {
                let found = self.names.iter().rev().find(|(is, _)| is == name);
                let found = found.map_or(Value::Nil, |(_, value)| value.clone());
                self.fields(Thing::Value(found), fields)
            }
            Operand::Pipe(pipe, fields) => {
                let found = self.pipe(pipe, dot)?;
                self.fields(found, fields)
            }
            // A function that stands as an argument is called without any.
            Operand::Function(name) => match name.as_str() {
                "print" | "println" => call(name, &[]).map(Thing::Value),
                _ => Err(format!("'{name}' needs arguments; write ({name} …)")),
            },
        }
    }

    fn fields(&self, mut thing: Thing, fields: &[String]) -> Result<Thing, String> {
        for field in fields {
            thing = Thing::Value(match &thing {
                Thing::Data => self.data.field(field).ok_or_else(|| format!("there is no .{field}"))?,
                // What a map does not have is empty.
                Thing::Value(Value::Map(map)) => map.get(field).cloned().unwrap_or_else(|| "".into()),
                Thing::Value(other) => return Err(format!("{} has no field {field}", other.kind())),
            });
        }
        Ok(thing)
    }
}

fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    match (name, args) {
        ("eq", [first, rest @ ..]) => {
            for other in rest {
                if same(first, other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("ne", [a, b]) => Ok(Value::Bool(!same(a, b)?)),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = order(a, b)?;
            Ok(Value::Bool(match name {
                "lt" => order == Some(Ordering::Less),
                "le" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                "gt" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }))
        }
        ("index", [of, keys @ ..]) => keys.iter().try_fold(of.clone(), |of, key| match (&of, key) {
            (Value::List(list), Value::Int(at)) => {
                let found = usize::try_from(*at).ok().and_then(|at| list.get(at));
                found.cloned().ok_or_else(|| format!("index out of range: {at}"))
            }
            (Value::Map(map), Value::Text(key)) => Ok(map.get(key).cloned().unwrap_or_else(|| "".into())),
            (Value::Text(text), Value::Int(at)) => {
                let found = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
                found.map(|b| Value::Int((*b).into())).ok_or_else(|| format!("index out of range: {at}"))
            }
            (of, key) => Err(format!("{} has no index {}", of.kind(), key.kind())),
        }),
        ("slice", [of, bounds @ ..]) => slice(of, bounds),
        ("len", [Value::Text(text)]) => Ok(size(text.len())),
        ("len", [Value::List(list)]) => Ok(size(list.len())),
        ("len", [Value::Map(map)]) => Ok(size(map.len())),
        ("len", [other, ..]) => Err(format!("{} has no length", other.kind())),
        ("print" | "println", args) => Ok(print::all(args, name == "println").into()),
        ("printf", [Value::Text(format), rest @ ..]) => print::formatted(format, rest).map(Value::Text),
        ("parseInt", [Value::Text(text), Value::Int(base), Value::Int(bits)]) => {
            parse_int(text, *base, *bits)
        }
        _ => Err(format!("'{name}' does not take these arguments")),
    }
}

fn size(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Whole numbers and others are not compared, nor numbers and texts.
fn same(a: &Value, b: &Value) -> Result<bool, String> {
    if std::mem::discriminant(a) == std::mem::discriminant(b) || *a == Value::Nil || *b == Value::Nil {
        return Ok(a == b);
    }
    Err("incompatible types for comparison".to_owned())
}

fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(a.cmp(b))),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn slice(of: &Value, bounds: &[Value]) -> Result<Value, String> {
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(Value::Int(n)) => usize::try_from(*n).map_err(|_| format!("index out of range: {n}")),
        Some(other) => Err(format!("{} is no index", other.kind())),
    };
    match of {
        Value::Text(text) => {
            let range = bound(0, 0)?..bound(1, text.len())?;
            text.get(range).map(Value::from).ok_or_else(|| "slice out of range".to_owned())
        }
        Value::List(list) => {
            let range = bound(0, 0)?..bound(1, list.len())?;
            list.get(range)
                .map(|part| Value::List(part.to_vec()))
                .ok_or_else(|| "slice out of range".to_owned())
        }
        other => Err(format!("{} has no slices", other.kind())),
    }
}

/// Go's `strconv.ParseUint`: digits alone, in a base of 2 to 36 or, with 0, what their prefix says.
fn parse_int(text: &str, base: i64, bits: i64) -> Result<Value, String> {
    let wrong = || format!("parseInt: parsing {text:?}: invalid syntax");
    let lower = text.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2), ("0", 8)];
    let (digits, radix) = match base {
        0 => {
            let found =
                prefixed.iter().find_map(|(prefix, radix)| Some((lower.strip_prefix(prefix)?, *radix)));
            found.filter(|(digits, _)| !digits.is_empty()).unwrap_or((lower.as_str(), 10))
        }
        2..=36 => (lower.as_str(), u32::try_from(base).map_err(|_| wrong())?),
        _ => return Err(format!("parseInt: parsing {text:?}: invalid base {base}")),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(wrong());
    }
    let most = match bits {
        0 | 64 => u64::MAX,
        1..64 => (1 << bits) - 1,
        _ => return Err(format!("parseInt: parsing {text:?}: invalid bit size {bits}")),
    };
    let range = || format!("parseInt: parsing {text:?}: value out of range");
    let value = u64::from_str_radix(digits, radix).ok().filter(|value| *value <= most).ok_or_else(range)?;
    // What does not fit is told by its digits.
    Ok(i64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Int))
}
