//! What sort of value an expression comes to, as far as that is known before it runs: what can never go together is
//! refused when it is read.

use super::functions::Each;
use super::node::{Node, Program};
use super::value::Value;

/// Sorts of values that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
    List,
    Map,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Number => "number",
            Kind::Text => "string",
            Kind::List => "array",
            Kind::Map => "map",
        }
    }
}

/// Functions, and what they say.
const CALLS: &[(Kind, &[&str])] = &[
    (Kind::Bool, &["do", "incidr", "hasPrefix", "hasSuffix"]),
    (
        Kind::Number,
        &["bufsize", "id", "opcode", "size", "len", "indexOf", "lastIndexOf", "int", "float", "abs", "sum"],
    ),
    (
        Kind::Text,
        &[
            "class",
            "client_ip",
            "metadata",
            "name",
            "port",
            "proto",
            "server_ip",
            "server_port",
            "type",
            "group",
        ],
    ),
    (
        Kind::Text,
        &["trim", "trimPrefix", "trimSuffix", "upper", "lower", "replace", "repeat", "join", "string"],
    ),
    (Kind::List, &["split", "splitAfter", "keys", "values", "uniq", "concat", "flatten", "sort", "take"]),
];

impl Program {
    /// Whether it may be true: whether it is not known to come to something else than a bool.
    pub fn may_hold(&self) -> bool {
        of(&self.0).is_none_or(|kind| kind == Kind::Bool)
    }
}

/// What a node comes to; `None` where only running tells.
pub(super) fn of(node: &Node) -> Option<Kind> {
    Some(match node {
        Node::Value(Value::Bool(_)) | Node::Not(_) | Node::Matches(..) => Kind::Bool,
        Node::Value(Value::Int(_) | Value::Float(_)) | Node::Index | Node::Minus(_) => Kind::Number,
        Node::Value(Value::Text(_)) => Kind::Text,
        Node::List(_) => Kind::List,
        Node::Map(_) => Kind::Map,
        Node::Call(name, _) => CALLS.iter().find(|row| row.1.contains(&name.as_str()))?.0,
        Node::Each(Each::All | Each::Any | Each::None | Each::One, ..) => Kind::Bool,
        Node::Each(Each::Filter | Each::Map | Each::SortBy, ..) => Kind::List,
        Node::Each(Each::Count | Each::FindIndex | Each::FindLastIndex, ..) => Kind::Number,
        Node::Binary("..", ..) => Kind::List,
        Node::Binary("+", left, right) => of(left).or_else(|| of(right))?,
        Node::Binary("-" | "*" | "/" | "%" | "**" | "^", ..) => Kind::Number,
        Node::Binary("??", ..) => return None,
        Node::Binary(..) => Kind::Bool,
        Node::Choice(_, yes, no) => of(yes).filter(|kind| of(no) == Some(*kind))?,
        Node::Slice(inner, ..) => of(inner)?,
        Node::Let(_, _, body) => of(body)?,
        _ => return None,
    })
}

/// Why an operator never goes with these operands.
pub(super) fn mismatch(operator: &str, left: &Node, right: &Node) -> Option<String> {
    use Kind::{Bool, List, Map, Number, Text};
    let (a, b) = (of(left), of(right));
    let may = |kind: Option<Kind>, kinds: &[Kind]| kind.is_none_or(|kind| kinds.contains(&kind));
    let alike = || a.zip(b).is_none_or(|(a, b)| a == b);
    let fits = match operator {
        "or" | "||" | "and" | "&&" => may(a, &[Bool]) && may(b, &[Bool]),
        "==" | "!=" => alike(),
        "<" | ">" | "<=" | ">=" | "+" => alike() && may(a, &[Number, Text]) && may(b, &[Number, Text]),
        "in" => may(b, &[List, Map]),
        "matches" | "contains" | "startsWith" | "endsWith" => may(a, &[Text]) && may(b, &[Text]),
        "??" | "|" => true,
        _ => may(a, &[Number]) && may(b, &[Number]),
    };
    let name = |kind: Option<Kind>| kind.map_or("that", Kind::as_str);
    (!fits).then(|| format!("'{operator}' never goes with {} and {}", name(a), name(b)))
}

/// Why a node is never a bool.
pub(super) fn no_bool(node: &Node) -> Option<String> {
    of(node).filter(|kind| *kind != Kind::Bool).map(|kind| format!("{} is no bool", kind.as_str()))
}
