//! What an expression is made of.

use regex::Regex;

use super::functions::Each;
use super::value::Value;

/// An expression that makes sense.
#[derive(Clone, Debug)]
pub struct Program(pub(super) Node);

#[derive(Clone, Debug)]
pub(super) enum Node {
    Value(Value),
    Variable(String),
    /// A function about the query, or of the language.
    Call(String, Vec<Node>),
    /// `any(list, …)`: for each of a list's elements.
    Each(Each, Box<Node>, Option<Box<Node>>),
    /// `#`
    Element,
    /// `#index`
    Index,
    Not(Box<Node>),
    Minus(Box<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
    /// `matches` with an expression that is known.
    Matches(Box<Node>, Regex),
    Choice(Box<Node>, Box<Node>, Box<Node>),
    /// `a.b`, `a[b]`; the flag: nil has all members, and they are nil.
    Member(Box<Node>, Box<Node>, bool),
    Slice(Box<Node>, Option<Box<Node>>, Option<Box<Node>>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Let(String, Box<Node>, Box<Node>),
}
