//! What a template's records and expressions are filled in from.

use std::collections::BTreeMap;

use crate::chain::{Context, Query};
use crate::expression::query::Asked;
use crate::expression::{Scope, Value};
use crate::gotemplate::{Data, Known};
use crate::message::{Flags, Message, Question, class, rtype};

/// `dns.Question`'s fields.
const QUESTION: &[&str] = &["Name", "Qtype", "Qclass"];
/// `dns.Msg`'s fields, as far as a question has them.
const MESSAGE: &[&str] = &[
    "Id",
    "Response",
    "Opcode",
    "Authoritative",
    "Truncated",
    "RecursionDesired",
    "RecursionAvailable",
    "Zero",
    "AuthenticatedData",
    "CheckingDisabled",
    "Rcode",
    "Question",
];

/// What templates may name. The variables are those of the `var` lines.
pub(super) fn with_known<T>(variables: &[String], then: impl FnOnce(Known<'_>) -> T) -> T {
    let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
    let fields: [(&str, Option<&[&str]>); 11] = [
        ("Zone", Some(&[])),
        ("Name", Some(&[])),
        ("Class", Some(&[])),
        ("Type", Some(&[])),
        ("Regex", Some(&[])),
        ("Match", Some(&[])),
        ("Group", None),
        ("Message", Some(MESSAGE)),
        ("Question", Some(QUESTION)),
        ("Remote", Some(&[])),
        ("Var", Some(&variables)),
    ];
    then(Known { fields: &fields, methods: &["Meta"] })
}

/// One query that matched.
#[derive(Debug)]
pub(super) struct Matched<'a> {
    pub query: &'a Query,
    pub cx: &'a Context<'a>,
    pub zone: String,
    pub regex: &'a str,
    pub class: String,
    pub rtype: String,
    pub groups: Vec<String>,
    pub named: BTreeMap<String, Value>,
    pub variables: Vec<(String, Value)>,
}

impl Data for Matched<'_> {
    fn field(&self, name: &str) -> Option<Value> {
        Some(match name {
            "Zone" => self.zone.clone().into(),
            "Name" => self.query.question().name.to_lowercase().to_string().into(),
            "Class" => self.class.clone().into(),
            "Type" => self.rtype.clone().into(),
            "Regex" => self.regex.into(),
            "Match" => Value::List(self.groups.iter().cloned().map(Value::Text).collect()),
            "Group" => Value::Map(self.named.clone()),
            "Message" => message(&self.query.request, self.query.question()),
            "Question" => question(self.query.question()),
            "Remote" => self.query.client.ip().to_string().into(),
            "Var" => Value::Map(self.variables.iter().cloned().collect()),
            _ => return None,
        })
    }

    fn method(&self, name: &str, arg: &str) -> Option<Value> {
        let value = || self.cx.peers.metadata(arg, self.query, self.cx.world);
        (name == "Meta").then(|| value().unwrap_or_default().into())
    }
}

impl Scope for Matched<'_> {
    fn call(&self, name: &str, args: &[Value]) -> Option<Result<Value, String>> {
        match (name, args) {
            ("group", [Value::Int(_) | Value::Text(_)]) => {
                Some(Ok(self.named.get(&args[0].to_string()).cloned().unwrap_or_else(|| "".into())))
            }
            ("group", _) => Some(Ok("".into())),
            _ => Asked { query: self.query, peers: self.cx.peers, world: self.cx.world }.call(name, args),
        }
    }
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn question(question: &Question) -> Value {
    map([
        ("Name", question.name.to_string().into()),
        ("Qtype", Value::Int(question.rtype.into())),
        ("Qclass", Value::Int(question.class.into())),
    ])
}

fn message(message: &Message, asked: &Question) -> Value {
    let Flags { response, opcode, authoritative, truncated, .. } = message.flags;
    let flags = message.flags;
    map([
        ("Id", Value::Int(message.id.into())),
        ("Response", Value::Bool(response)),
        ("Opcode", Value::Int(opcode.into())),
        ("Authoritative", Value::Bool(authoritative)),
        ("Truncated", Value::Bool(truncated)),
        ("RecursionDesired", Value::Bool(flags.recursion_desired)),
        ("RecursionAvailable", Value::Bool(flags.recursion_available)),
        ("Zero", Value::Bool(flags.zero)),
        ("AuthenticatedData", Value::Bool(flags.authentic)),
        ("CheckingDisabled", Value::Bool(flags.checking_disabled)),
        ("Rcode", Value::Int(message.rcode.into())),
        ("Question", Value::List(vec![question(asked)])),
    ])
}

/// The name of what was asked for, or where that is anything, of what the line is for.
pub(super) fn names(asked: &Question, own_class: u16, own_type: u16) -> (String, String) {
    let class = if asked.class == class::ANY { own_class } else { asked.class };
    let kind = if asked.rtype == rtype::ANY { own_type } else { asked.rtype };
    (class::name(class), rtype::name(kind))
}
