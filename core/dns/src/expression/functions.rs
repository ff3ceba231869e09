//! The language's own functions.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::value::{Value, compare};

/// Functions with the number of their arguments.
const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("len", 1, 1),
    ("trim", 1, 2),
    ("trimPrefix", 2, 2),
    ("trimSuffix", 2, 2),
    ("upper", 1, 1),
    ("lower", 1, 1),
    ("split", 2, 3),
    ("splitAfter", 2, 3),
    ("replace", 3, 4),
    ("repeat", 2, 2),
    ("join", 1, 2),
    ("indexOf", 2, 2),
    ("lastIndexOf", 2, 2),
    ("hasPrefix", 2, 2),
    ("hasSuffix", 2, 2),
    ("max", 1, usize::MAX),
    ("min", 1, usize::MAX),
    ("sum", 1, 1),
    ("abs", 1, 1),
    ("ceil", 1, 1),
    ("floor", 1, 1),
    ("round", 1, 1),
    ("int", 1, 1),
    ("float", 1, 1),
    ("string", 1, 1),
    ("first", 1, 1),
    ("last", 1, 1),
    ("get", 2, 2),
    ("take", 2, 2),
    ("keys", 1, 1),
    ("values", 1, 1),
    ("reverse", 1, 1),
    ("uniq", 1, 1),
    ("concat", 1, usize::MAX),
    ("flatten", 1, 1),
    ("sort", 1, 2),
    ("bitand", 2, 2),
    ("bitor", 2, 2),
    ("bitxor", 2, 2),
    ("bitnand", 2, 2),
    ("bitnot", 1, 1),
    ("bitshl", 2, 2),
    ("bitshr", 2, 2),
    ("bitushr", 2, 2),
];

/// Longest text that `repeat` makes, in octets.
const MAX_TEXT: usize = 1 << 16;

/// How many arguments a function takes; `None` where there is none of that name.
pub fn arity(name: &str) -> Option<(usize, usize)> {
    FUNCTIONS.iter().find(|row| row.0 == name).map(|row| (row.1, row.2))
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("{} is no string", other.kind())),
    }
}

fn whole(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(n) => Ok(*n),
        other => Err(format!("{} is no int", other.kind())),
    }
}

fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::List(list) => Ok(list),
        other => Err(format!("{} is no array", other.kind())),
    }
}

fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Calls one. Its arguments are as many as [`arity`] says.
pub(super) fn call(name: &str, args: Vec<Value>) -> Result<Value, String> {
    let Some(first) = args.first() else { return Err(format!("'{name}' needs an argument")) };
    match name {
        "len" => match first {
            Value::Text(text) => Ok(count(text.chars().count())),
            Value::List(list) => Ok(count(list.len())),
            Value::Map(map) => Ok(count(map.len())),
            other => Err(format!("{} has no length", other.kind())),
        },
        "max" | "min" | "sum" | "abs" | "ceil" | "floor" | "round" | "int" | "float" => numbers(name, &args),
        "string" => Ok(first.to_string().into()),
        "bitand" | "bitor" | "bitxor" | "bitnand" | "bitnot" | "bitshl" | "bitshr" | "bitushr" => {
            bits(name, &args)
        }
        "first" | "last" | "get" | "take" | "keys" | "values" | "reverse" | "uniq" | "concat" | "flatten"
        | "sort" | "join" => lists(name, &args),
        _ => texts(name, &args),
    }
}

fn texts(name: &str, args: &[Value]) -> Result<Value, String> {
    let it = text(&args[0])?;
    let second = args.get(1);
    let other = || second.map_or(Ok(""), text);
    Ok(match name {
        "trim" => match second {
            Some(chars) => {
                let chars = text(chars)?;
                it.trim_matches(|c| chars.contains(c)).into()
            }
            None => it.trim().into(),
        },
        "trimPrefix" => it.strip_prefix(other()?).unwrap_or(it).into(),
        "trimSuffix" => it.strip_suffix(other()?).unwrap_or(it).into(),
        "upper" => it.to_uppercase().into(),
        "lower" => it.to_lowercase().into(),
        "hasPrefix" => Value::Bool(it.starts_with(other()?)),
        "hasSuffix" => Value::Bool(it.ends_with(other()?)),
        "indexOf" => it.find(other()?).map_or(Value::Int(-1), count),
        "lastIndexOf" => it.rfind(other()?).map_or(Value::Int(-1), count),
        "repeat" => {
            let times =
                usize::try_from(whole(&args[1])?).map_err(|_| "repeat: less than nothing".to_owned())?;
            if it.len().saturating_mul(times) > MAX_TEXT {
                return Err("repeat: the text would be too long".to_owned());
            }
            it.repeat(times).into()
        }
        "replace" => {
            let (from, to) = (text(&args[1])?, text(&args[2])?);
            match args.get(3).map(whole).transpose()?.map(usize::try_from) {
                Some(Ok(times)) => it.replacen(from, to, times).into(),
                _ => it.replace(from, to).into(),
            }
        }
        "split" | "splitAfter" => {
            let times = args.get(2).map(whole).transpose()?.and_then(|n| usize::try_from(n).ok());
            let (by, times) = (other()?, times.unwrap_or(usize::MAX));
            if by.is_empty() {
                return Ok(Value::List(it.chars().map(|c| c.to_string().into()).collect()));
            }
            let mut parts: Vec<Value> = it.splitn(times, by).map(Value::from).collect();
            if name == "splitAfter" {
                let last = parts.len().saturating_sub(1);
                for part in &mut parts[..last] {
                    *part = format!("{part}{by}").into();
                }
            }
            Value::List(parts)
        }
        _ => return Err(format!("'{name}' is no function that there is")),
    })
}

fn numbers(name: &str, args: &[Value]) -> Result<Value, String> {
    let number = |value: &Value| value.number().ok_or_else(|| format!("{} is no number", value.kind()));
    let it = &args[0];
    Ok(match name {
        "max" | "min" => {
            let all = if let [Value::List(list)] = args { list } else { args };
            let mut best = all.first().ok_or_else(|| format!("'{name}' of nothing"))?;
            let better = if name == "max" { Ordering::Greater } else { Ordering::Less };
            for value in all {
                number(value)?;
                if compare(value, best)? == Some(better) {
                    best = value;
                }
            }
            best.clone()
        }
        "sum" => {
            let all = list(it)?;
            if all.iter().all(|value| matches!(value, Value::Int(_))) {
                return all.iter().try_fold(0i64, |sum, n| Ok(sum.wrapping_add(whole(n)?))).map(Value::Int);
            }
            Value::Float(all.iter().map(number).sum::<Result<f64, String>>()?)
        }
        "abs" => match it {
            Value::Int(n) => Value::Int(n.wrapping_abs()),
            other => Value::Float(number(other)?.abs()),
        },
        "ceil" => Value::Float(number(it)?.ceil()),
        "floor" => Value::Float(number(it)?.floor()),
        "round" => Value::Float(number(it)?.round()),
        "float" => match it {
            Value::Text(text) => Value::Float(text.parse().map_err(|_| format!("'{text}' is no number"))?),
            other => Value::Float(number(other)?),
        },
        _ => match it {
            Value::Text(text) => {
                Value::Int(text.parse().map_err(|_| format!("'{text}' is no whole number"))?)
            }
            Value::Int(n) => Value::Int(*n),
            // Towards zero; what is too large is the largest.
            #[allow(clippy::cast_possible_truncation)]
            other => Value::Int(number(other)? as i64),
        },
    })
}

fn bits(name: &str, args: &[Value]) -> Result<Value, String> {
    let a = whole(&args[0])?;
    if name == "bitnot" {
        return Ok(Value::Int(!a));
    }
    let b = whole(&args[1])?;
    let by = || u32::try_from(b).map_err(|_| "bits are not shifted by less than nothing".to_owned());
    Ok(Value::Int(match name {
        "bitand" => a & b,
        "bitor" => a | b,
        "bitxor" => a ^ b,
        "bitnand" => a & !b,
        "bitshl" => a.checked_shl(by()?).unwrap_or(0),
        "bitshr" => a >> by()?.min(63),
        _ => i64::from_ne_bytes(
            u64::from_ne_bytes(a.to_ne_bytes()).checked_shr(by()?).unwrap_or(0).to_ne_bytes(),
        ),
    }))
}

fn lists(name: &str, args: &[Value]) -> Result<Value, String> {
    let it = &args[0];
    match (name, it) {
        ("keys", Value::Map(map)) => return Ok(Value::List(map.keys().cloned().map(Value::Text).collect())),
        ("values", Value::Map(map)) => return Ok(Value::List(map.values().cloned().collect())),
        ("get", Value::Map(map)) => return Ok(map.get(&args[1].to_string()).cloned().unwrap_or(Value::Nil)),
        ("reverse", Value::Text(text)) => return Ok(text.chars().rev().collect::<String>().into()),
        _ => {}
    }
    let all = list(it)?;
    Ok(match name {
        "first" => all.first().cloned().unwrap_or(Value::Nil),
        "last" => all.last().cloned().unwrap_or(Value::Nil),
        "get" => super::value::index(all.len(), whole(&args[1])?).map_or(Value::Nil, |at| all[at].clone()),
        "take" => {
            let n = usize::try_from(whole(&args[1])?).map_err(|_| "take: less than nothing".to_owned())?;
            Value::List(all.iter().take(n).cloned().collect())
        }
        "reverse" => Value::List(all.iter().rev().cloned().collect()),
        "uniq" => {
            let mut out: Vec<Value> = Vec::new();
            for value in all {
                if !out.iter().any(|known| known.same(value)) {
                    out.push(value.clone());
                }
            }
            Value::List(out)
        }
        "concat" => {
            let parts = args.iter().map(list).collect::<Result<Vec<_>, _>>()?;
            Value::List(parts.concat())
        }
        "flatten" => {
            let mut out = Vec::new();
            flatten(all, &mut out);
            Value::List(out)
        }
        "sort" => {
            let order = args.get(1).map_or(Ok("asc"), text)?;
            if let [first, rest @ ..] = all {
                rest.iter().try_for_each(|value| compare(first, value).map(|_| ()))?;
            }
            let mut out = all.to_vec();
            out.sort_by(|a, b| compare(a, b).ok().flatten().unwrap_or(Ordering::Equal));
            match order {
                "asc" => {}
                "desc" => out.reverse(),
                other => return Err(format!("sort: '{other}' is no order (asc, desc)")),
            }
            Value::List(out)
        }
        "join" => {
            let parts = all.iter().map(text).collect::<Result<Vec<&str>, String>>()?;
            parts.join(args.get(1).map_or(Ok(""), text)?).into()
        }
        _ => return Err(format!("'{name}' does not go with an array")),
    })
}

fn flatten(list: &[Value], out: &mut Vec<Value>) {
    for value in list {
        match value {
            Value::List(inner) => flatten(inner, out),
            other => out.push(other.clone()),
        }
    }
}

/// Functions that look at each element of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Each {
    All,
    Any,
    None,
    One,
    Filter,
    Map,
    Count,
    Find,
    FindIndex,
    FindLast,
    FindLastIndex,
    GroupBy,
    SortBy,
}

impl Each {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Each::All,
            "any" => Each::Any,
            "none" => Each::None,
            "one" => Each::One,
            "filter" => Each::Filter,
            "map" => Each::Map,
            "count" => Each::Count,
            "find" => Each::Find,
            "findIndex" => Each::FindIndex,
            "findLast" => Each::FindLast,
            "findLastIndex" => Each::FindLastIndex,
            "groupBy" => Each::GroupBy,
            "sortBy" => Each::SortBy,
            _ => return None,
        })
    }

    /// `count(list)` counts those that are true.
    pub(super) fn needs_body(self) -> bool {
        self != Each::Count
    }

    pub(super) fn run(
        self,
        list: Vec<Value>,
        mut body: impl FnMut(&Value, i64) -> Result<Value, String>,
    ) -> Result<Value, String> {
        let mut said = Vec::with_capacity(list.len());
        for (at, element) in (0..).zip(&list) {
            said.push(body(element, at)?);
        }
        match self {
            Each::Map => return Ok(Value::List(said)),
            Each::GroupBy => {
                let mut groups: BTreeMap<String, Value> = BTreeMap::new();
                for (key, element) in said.iter().zip(list) {
                    let group = groups.entry(key.to_string()).or_insert_with(|| Value::List(Vec::new()));
                    if let Value::List(group) = group {
                        group.push(element);
                    }
                }
                return Ok(Value::Map(groups));
            }
            Each::SortBy => {
                let mut pairs: Vec<(Value, Value)> = said.into_iter().zip(list).collect();
                pairs.sort_by(|a, b| compare(&a.0, &b.0).ok().flatten().unwrap_or(Ordering::Equal));
                return Ok(Value::List(pairs.into_iter().map(|(_, element)| element).collect()));
            }
            _ => {}
        }
        if let Some(other) = said.iter().find(|value| !matches!(value, Value::Bool(_))) {
            return Err(format!("the condition is {}, no bool", other.kind()));
        }
        let yes = |at: &usize| said[*at] == Value::Bool(true);
        let mut places = (0..said.len()).filter(yes);
        let element = |at: Option<usize>| at.map_or(Value::Nil, |at| list[at].clone());
        let place = |at: Option<usize>| at.map_or(Value::Int(-1), count);
        Ok(match self {
            Each::All => Value::Bool(places.count() == list.len()),
            Each::Any => Value::Bool(places.next().is_some()),
            Each::None => Value::Bool(places.next().is_none()),
            Each::One => Value::Bool(places.count() == 1),
            Each::Count => count(places.count()),
            Each::Filter => Value::List(places.map(|at| list[at].clone()).collect()),
            Each::Find => element(places.next()),
            Each::FindIndex => place(places.next()),
            Each::FindLast => element(places.next_back()),
            _ => place(places.next_back()),
        })
    }
}
