//! `log`: a line for each query (`plugin/log`).

use std::net::{IpAddr, Ipv6Addr};

use crate::chain::args::{self, err, unknown};
use crate::chain::{Class, Context, Failure, Note, Plugin, Query, Setup, Up, classify};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Message, rcode, rtype};
use crate::name::Name;

/// CoreDNS's formats of `log`.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" {rcode} {>rflags} {rsize} {duration}";

/// Which answers are logged (`plugin/pkg/response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Success,
    /// NXDOMAIN and NODATA.
    Denial,
    /// SERVFAIL, REFUSED and the like.
    Error,
}

impl Wanted {
    /// As metadata calls it (`log/class`).
    fn as_str(self) -> &'static str {
        match self {
            Wanted::All => "all",
            Wanted::Success => "success",
            Wanted::Denial => "denial",
            Wanted::Error => "error",
        }
    }
}

/// A piece of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// As it is.
    Text(String),
    /// One of [`PLACEHOLDERS`].
    Value(String),
    /// `{/LABEL}`: of `metadata`.
    Label(String),
}

/// What may stand in braces (`plugin/pkg/replacer`).
const PLACEHOLDERS: &[&str] = &[
    "type", "name", "class", "proto", "size", "remote", "port", "local", ">id", ">opcode", ">do", ">bufsize",
    "rcode", "rsize", "duration", ">rflags",
];

/// Those of them that an answer has.
pub(super) const OF_ANSWERS: [&str; 4] = ["rcode", "rsize", "duration", ">rflags"];

#[derive(Clone, Debug)]
struct Rule {
    /// Names under which queries are logged.
    zones: Vec<Name>,
    format: Format,
    classes: Vec<Wanted>,
}

/// All `log` lines of a server block.
#[derive(Debug)]
pub struct Log {
    rules: Vec<Rule>,
}

/// `log [NAMES...] [FORMAT] { class CLASSES... }`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let (mut names, mut format) = (&d.args[..], COMMON.to_owned());
    if let Some((last, rest)) = d.args.split_last()
        && last.text.contains('{')
    {
        names = rest;
        format = last
            .text
            .replace("{common}", COMMON)
            .replace("{combined}", &COMMON.replace("{duration}", "{duration} \"{>opcode}\""));
    }
    let zones = if names.is_empty() { vec![Name::root()] } else { args::zones(names)? };
    let mut classes = Vec::new();
    for option in d.block.iter().flatten() {
        if option.name.text != "class" {
            return unknown("log", option);
        }
        if option.args.is_empty() {
            return err(&option.name, "'class' names none (all, success, denial, error)");
        }
        for token in &option.args {
            classes.push(match token.text.as_str() {
                "all" => Wanted::All,
                "success" => Wanted::Success,
                "denial" => Wanted::Denial,
                "error" => Wanted::Error,
                other => return err(token, format!("'{other}' is no class (all, success, denial, error)")),
            });
        }
    }
    if classes.is_empty() {
        classes.push(Wanted::All);
    }
    let rule = Rule { zones, format: Format::new(&format), classes };
    match setup.earlier::<Log>() {
        Some(log) => log.rules.push(rule),
        None => setup.add(Log { rules: vec![rule] }),
    }
    Ok(())
}

impl Plugin for Log {
    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        self.write(query, Some(reply), cx);
        Up::Pass
    }

    /// Without an answer there are no flags, and no response code (`plugin/pkg/replacer`).
    fn dropped(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) {
        self.write(query, None, cx);
    }

    fn failed(&mut self, query: &mut Query, _: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        let reply = query.request.reply(failure.rcode);
        self.write(query, Some(&reply), cx);
        Up::Pass
    }
}

impl Log {
    fn write(&self, query: &mut Query, reply: Option<&Message>, cx: &mut Context<'_>) {
        // The first rule for the name decides, whether it wants the answer's class or not.
        let name = &query.question().name;
        let first = self.rules.iter().find(|rule| rule.zones.iter().any(|zone| name.is_within(zone)));
        let Some(rule) = first else { return };
        let kind = reply.map_or(Class::OtherError, |reply| classify(reply, query.question().rtype));
        let class = match kind {
            Class::NoError | Class::Delegation => Wanted::Success,
            Class::NameError | Class::NoData => Wanted::Denial,
            Class::ServerError | Class::Meta | Class::Update | Class::OtherError => Wanted::Error,
        };
        if !rule.classes.contains(&Wanted::All) && !rule.classes.contains(&class) {
            return;
        }
        query.set_label("log/type", kind.as_str());
        query.set_label("log/class", class.as_str());
        let mut fit = reply.cloned().unwrap_or_default();
        query.fit(&mut fit);
        // The client's OPT comes later.
        let edns = reply.and_then(|reply| reply.edns.clone());
        let size = reply.map_or(0, |_| Message { edns, ..fit.clone() }.len_written_out());
        let unknown: &[&str] = if reply.is_none() { &["rcode", ">rflags"] } else { &[] };
        let line = rule.format.fill(query, (&fit, size), unknown, cx);
        cx.log(format!("[INFO] {line}"));
    }
}

/// A text with placeholders in it (`plugin/pkg/replacer`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format(Vec<Part>);

impl Format {
    /// Of a text: the innermost braces count, and those around what is no placeholder are text.
    pub(super) fn new(text: &str) -> Self {
        Format(parts(text))
    }

    /// The text for a query, with the answer as the client gets it and its size before it was made fit; `-` for what is
    /// unknown.
    pub(super) fn fill(
        &self,
        query: &Query,
        reply: (&Message, usize),
        unknown: &[&str],
        cx: &Context<'_>,
    ) -> String {
        let mut line = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Value(name) if unknown.contains(&name.as_str()) => line.push('-'),
                Part::Value(name) => line.push_str(&value(name, query, reply, cx)),
                Part::Label(label) => {
                    let value = cx.peers.metadata(label, query, cx.world).filter(|value| !value.is_empty());
                    line.push_str(value.as_deref().unwrap_or("-"));
                }
            }
        }
        line
    }
}

/// A format's pieces.
fn parts(format: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(close) = rest.find('}') {
        let (before, behind) = (&rest[..close], &rest[close + 1..]);
        let open = before.rfind('{');
        let inner = open.map(|open| &before[open + 1..]);
        let part = inner.and_then(|inner| match inner.strip_prefix('/') {
            Some(label) => Some(Part::Label(label.to_owned())),
            None => PLACEHOLDERS.contains(&inner).then(|| Part::Value(inner.to_owned())),
        });
        match (part, open) {
            (Some(part), Some(open)) => {
                text.push_str(&before[..open]);
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
            }
            _ => text.push_str(&rest[..=close]),
        }
        rest = behind;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// What a placeholder stands for; the answer as the client gets it, and its size before it was made fit.
fn value(name: &str, query: &Query, (reply, size): (&Message, usize), cx: &Context<'_>) -> String {
    let (question, edns) = (query.question(), query.request.edns.as_ref());
    let bracketed = |ip: IpAddr| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    match name {
        "type" => rtype::name(question.rtype),
        "name" => question.name.to_lowercase().to_string(),
        "class" => match question.class {
            1 => "IN".into(),
            3 => "CH".into(),
            4 => "HS".into(),
            254 => "NONE".into(),
            255 => "ANY".into(),
            other => format!("CLASS{other}"),
        },
        "proto" => query.transport.as_str().into(),
        "size" => query.size.to_string(),
        "remote" => bracketed(query.client.ip()),
        "port" => query.client.port().to_string(),
        // Where it listens on all addresses Go's sockets say so, too.
        "local" => bracketed(query.server.ip.unwrap_or(Ipv6Addr::UNSPECIFIED.into())),
        "rcode" => match rcode::name(reply.rcode) {
            unknown if unknown.starts_with("RCODE") => reply.rcode.to_string(),
            known => known,
        },
        "rsize" => size.to_string(),
        "duration" => format!("{}s", cx.now.monotonic.saturating_sub(query.started).as_secs_f64()),
        ">id" => query.request.id.to_string(),
        ">opcode" => query.request.flags.opcode.to_string(),
        ">do" => edns.is_some_and(|edns| edns.dnssec_ok).to_string(),
        ">bufsize" => query.room().to_string(),
        _ => {
            let flags = reply.flags;
            let set = [
                (flags.response, "qr"),
                (flags.authoritative, "aa"),
                (flags.truncated, "tc"),
                (flags.recursion_desired, "rd"),
                (flags.recursion_available, "ra"),
                (flags.zero, "z"),
                (flags.authentic, "ad"),
                (flags.checking_disabled, "cd"),
            ];
            let set: Vec<&str> = set.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            set.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let text = |text: &str| Part::Text(text.to_owned());
        let value = |name: &str| Part::Value(name.to_owned());
        for (format, expected) in [
            ("{type}", vec![value("type")]),
            ("A {type} b", vec![text("A "), value("type"), text(" b")]),
            ("{\"q\": \"{name}\"}", vec![text("{\"q\": \""), value("name"), text("\"}")]),
            ("A {X} {>id}", vec![text("A {X} "), value(">id")]),
            ("A } {port}{", vec![text("A } "), value("port"), text("{")]),
            ("{/log/class}{/}", vec![Part::Label("log/class".into()), Part::Label(String::new())]),
            ("{ {rcode} }", vec![text("{ "), value("rcode"), text(" }")]),
        ] {
            assert_eq!(parts(format), expected, "{format}");
        }
        // All that the two standard formats name is known.
        assert_eq!(parts(COMMON).iter().filter(|part| matches!(part, Part::Value(_))).count(), 14);
    }
}
