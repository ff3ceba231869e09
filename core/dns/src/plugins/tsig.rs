//! `tsig`: keys of signed requests; who has to sign; signed answers (`plugin/tsig`, RFC 8945).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use base64::Engine;
use ring::digest;

use crate::chain::args::{err, no_more, one, unknown};
use crate::chain::{Context, Failure, Flow, Note, Plugin, Query, Setup, Up, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{rcode, rtype};
use crate::name::Name;
use crate::tsig::Signer;

/// Operations by name.
const OPCODES: [(&str, u8); 5] = [("QUERY", 0), ("IQUERY", 1), ("STATUS", 2), ("NOTIFY", 4), ("UPDATE", 5)];

/// A shared secret. It is not shown.
#[derive(Clone, PartialEq, Eq)]
struct Secret(Box<[u8]>);

impl Debug for Secret {
    /// Two secrets look different, and neither says what it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digest = digest::digest(&digest::SHA256, &self.0);
        write!(f, "Secret({:02x?})", &digest.as_ref()[..4])
    }
}

impl Secret {
    fn parse(text: &str) -> Result<Self, String> {
        let octets = base64::engine::general_purpose::STANDARD.decode(text);
        octets.map(|octets| Secret(octets.into())).map_err(|why| format!("the secret is no base64: {why}"))
    }
}

/// Who has to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Required<T> {
    All,
    These(Vec<T>),
}

impl<T: PartialEq> Required<T> {
    fn has(&self, one: &T) -> bool {
        match self {
            Required::All => true,
            Required::These(these) => these.contains(one),
        }
    }

    /// `all`, `none`, or names.
    fn read(option: &Directive, what: &str, of: impl Fn(&str) -> Option<T>) -> Result<Self, CorefileError> {
        let Some(first) = option.args.first() else {
            return err(&option.name, format!("'{}' names no {what} (or 'all', 'none')", option.name.text));
        };
        let rest = option.args.get(1..).unwrap_or_default();
        match first.text.as_str() {
            "all" => no_more("all", rest).map(|()| Required::All),
            "none" => no_more("none", rest).map(|()| Required::These(Vec::new())),
            _ => {
                let read = |token: &crate::corefile::Token| match of(&token.text) {
                    Some(one) => Ok(one),
                    None => err(token, format!("'{}' is no {what}", token.text)),
                };
                option.args.iter().map(read).collect::<Result<_, _>>().map(Required::These)
            }
        }
    }
}

/// `tsig`
#[derive(Debug)]
pub struct Tsig {
    zones: Vec<Name>,
    /// Of the Corefile itself.
    own: Vec<(Name, Secret)>,
    /// Of each file.
    files: BTreeMap<String, Vec<(Name, Secret)>>,
    types: Required<u16>,
    opcodes: Required<u8>,
}

/// `tsig [ZONES...] { secret NAME KEY; secrets FILE; require TYPES...; require_opcode OPCODES... }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut tsig = Tsig {
        zones: setup.zones_or_own(&d.args)?,
        own: Vec::new(),
        files: BTreeMap::new(),
        types: Required::These(Vec::new()),
        opcodes: Required::These(Vec::new()),
    };
    for option in d.block.iter().flatten() {
        match (option.name.text.as_str(), option.args.as_slice()) {
            ("secret", [name, secret, rest @ ..]) => {
                no_more("secret", rest)?;
                let Ok(key) = name.text.parse::<Name>() else {
                    return err(name, format!("'{}' is no name of a key", name.text));
                };
                let secret = Secret::parse(&secret.text).or_else(|why| err(secret, why))?;
                if tsig.own.iter().any(|(known, _)| *known == key) {
                    return err(name, format!("key '{key}' is there already"));
                }
                tsig.own.push((key, secret));
            }
            ("secret", _) => return err(&option.name, "'secret' needs the name of a key and its secret"),
            ("secrets", _) => {
                let path = setup.settings.path(&one(option, "path of a file")?.text);
                tsig.files.insert(path, Vec::new());
            }
            ("require", _) => tsig.types = Required::read(option, "record type", rtype::from_name)?,
            ("require_opcode", _) => {
                let code = |name: &str| OPCODES.iter().find(|row| row.0 == name).map(|row| row.1);
                tsig.opcodes = Required::read(option, "opcode", code)?;
            }
            _ => return unknown("tsig", option),
        }
    }
    setup.add(tsig);
    Ok(())
}

/// The keys of a file, as named.conf has them: `key "NAME" {`, `secret "KEY";`, `};`, a line each.
fn keys(text: &str) -> Result<Vec<(Name, Secret)>, String> {
    let mut lines = text.lines().map(|line| (line, line.split_whitespace().collect::<Vec<_>>()));
    let mut keys: Vec<(Name, Secret)> = Vec::new();
    while let Some((line, words)) = lines.next() {
        let name = match words.as_slice() {
            [] => continue,
            ["key", name, ..] => name.trim_matches(['"', '{']),
            ["key"] => return Err(format!("expected key name \"{line}\"")),
            [other, ..] => return Err(format!("unexpected token \"{other}\"")),
        };
        let name: Name =
            name.parse().ok().filter(|_| !name.is_empty()).ok_or(format!("expected key name \"{line}\""))?;
        if keys.iter().any(|(known, _)| *known == name) {
            return Err(format!("key \"{name}\" redefined"));
        }
        let mut secret = None;
        for (line, words) in lines.by_ref() {
            match words.as_slice() {
                // The algorithm is the request's own.
                [] | ["algorithm", ..] => {}
                ["secret", text, ..] => secret = Some(Secret::parse(text.trim_matches(['"', ';']))?),
                ["secret"] => return Err(format!("expected secret key \"{line}\"")),
                ["}" | "};", ..] => break,
                [other, ..] => return Err(format!("unexpected token \"{other}\"")),
            }
        }
        keys.push((name.clone(), secret.ok_or_else(|| format!("expected secret for key \"{name}\""))?));
    }
    Ok(keys)
}

impl Plugin for Tsig {
    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let kind = query.question().rtype;
        let required = self.types.has(&kind) || self.opcodes.has(&query.request.flags.opcode);
        let within = self.zones.iter().any(|zone| query.question().name.is_within(zone));
        let signed = query.tsig.is_some();
        if !within || !signed && !required {
            return Flow::Next;
        }
        let Some(checked) = query.tsig.take() else {
            cx.debug(query, || format!("rejecting '{}' request without TSIG", rtype::name(kind)));
            return Flow::Reply(query.request.reply(rcode::REFUSED));
        };
        // Nobody behind sees that it is signed.
        query.request.additional.pop();
        let error = checked.error;
        query.signer = Some(Box::new(Signer::new(*checked)));
        match error {
            None => Flow::Next,
            Some(error) => {
                cx.debug(query, || format!("TSIG validation failed: {} {error}", rtype::name(kind)));
                Flow::Reply(query.request.reply(rcode::NOTAUTH))
            }
        }
    }

    /// A failure is signed, too: it is an answer of this plugin's.
    fn failed(&mut self, query: &mut Query, _: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        if query.signer.is_none() {
            return Up::Pass;
        }
        if let Some(why) = &failure.why {
            cx.log(format!("[ERROR] plugin/tsig: request handler returned an error: {why}"));
        }
        Up::Instead(Flow::Reply(query.request.reply(failure.rcode)))
    }

    fn tsig_secret(&self, key: &Name) -> Option<&[u8]> {
        let mut all = self.own.iter().chain(self.files.values().flatten());
        all.find(|(known, _)| known == key).map(|(_, secret)| &*secret.0)
    }

    fn files(&self) -> Vec<Want> {
        let want = |path: &String| Want { path: path.clone(), folder: false, every: Duration::ZERO };
        self.files.keys().map(want).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        if !self.files.contains_key(path) {
            return Ok(());
        }
        let content = content.ok_or_else(|| format!("plugin/tsig: {path} cannot be read"))?;
        let keys = keys(content).map_err(|why| format!("plugin/tsig: {path}: {why}"))?;
        let others = self.files.iter().filter(|(other, _)| *other != path).flat_map(|(_, keys)| keys);
        for (known, _) in self.own.iter().chain(others) {
            if keys.iter().any(|(key, _)| key == known) {
                return Err(format!("plugin/tsig: {path}: key \"{known}\" redefined"));
            }
        }
        self.files.insert(path.to_owned(), keys);
        Ok(())
    }
}
