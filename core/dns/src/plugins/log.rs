//! `log`: a line for each query (`plugin/log`).

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

#[derive(Clone, Debug)]
struct Rule {
    /// Names under which queries are logged.
    zones: Vec<Name>,
    /// With `{…}` placeholders.
    format: String,
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
    let rule = Rule { zones, format, classes };
    match setup.earlier::<Log>() {
        Some(log) => log.rules.push(rule),
        None => setup.add(Log { rules: vec![rule] }),
    }
    Ok(())
}

impl Plugin for Log {
    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        self.write(query, reply, cx);
        Up::Pass
    }

    fn failed(&mut self, query: &mut Query, _: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        let reply = query.request.reply(failure.rcode);
        self.write(query, &reply, cx);
        Up::Pass
    }
}

impl Log {
    fn write(&self, query: &mut Query, reply: &Message, cx: &mut Context<'_>) {
        let sort = classify(reply, query.question().rtype);
        let class = match sort {
            Class::NoError | Class::Delegation => Wanted::Success,
            Class::NameError | Class::NoData => Wanted::Denial,
            Class::ServerError | Class::Meta | Class::Update | Class::OtherError => Wanted::Error,
        };
        query.set_label("log/type", sort.as_str());
        query.set_label("log/class", class.as_str());
        let query = &*query;
        let name = &query.question().name;
        let rules = self.rules.iter().filter(|rule| rule.zones.iter().any(|zone| name.is_within(zone)));
        let rules = rules.filter(|rule| rule.classes.contains(&Wanted::All) || rule.classes.contains(&class));
        // What goes to the client is made of this answer once more: its size is part of the line.
        let mut bytes = None;
        for rule in rules {
            let bytes = bytes.get_or_insert_with(|| query.encoded(reply));
            let line = line(&rule.format, query, bytes, cx);
            cx.log(format!("[INFO] {line}"));
        }
    }
}

/// Fills in a format's placeholders for an answer in wire format.
fn line(format: &str, query: &Query, bytes: &[u8], cx: &Context<'_>) -> String {
    let mut text = String::with_capacity(format.len() + 64);
    let mut rest = format;
    while let Some(open) = rest.find('{') {
        text.push_str(&rest[..open]);
        let Some(close) = rest[open..].find('}') else { break };
        text.push_str(&placeholder(&rest[open + 1..open + close], query, bytes, cx));
        rest = &rest[open + close + 1..];
    }
    text.push_str(rest);
    text
}

/// What a `{…}` stands for (`plugin/pkg/replacer`).
fn placeholder(name: &str, query: &Query, bytes: &[u8], cx: &Context<'_>) -> String {
    let (question, edns) = (query.question(), query.request.edns.as_ref());
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    match name {
        "type" => rtype::name(question.rtype),
        "name" => question.name.to_lowercase().to_string(),
        "class" if question.class == 1 => "IN".into(),
        "class" => format!("CLASS{}", question.class),
        "proto" => query.transport.as_str().into(),
        "size" => query.size.to_string(),
        "remote" if query.client.is_ipv6() => format!("[{}]", query.client.ip()),
        "remote" => query.client.ip().to_string(),
        "port" => query.client.port().to_string(),
        "rcode" => rcode::name(u16::from(byte(3) & 0xf)),
        "rsize" => bytes.len().to_string(),
        "duration" => format!("{}s", cx.now.monotonic.saturating_sub(query.started).as_secs_f64()),
        ">id" => query.request.id.to_string(),
        ">opcode" => query.request.flags.opcode.to_string(),
        ">do" => edns.is_some_and(|edns| edns.dnssec_ok).to_string(),
        ">bufsize" => query.room().min(65_535).to_string(),
        ">rflags" => {
            let flags = [
                (byte(2) & 0x80, "qr"),
                (byte(2) & 4, "aa"),
                (byte(2) & 2, "tc"),
                (byte(2) & 1, "rd"),
                (byte(3) & 0x80, "ra"),
                (byte(3) & 0x20, "ad"),
                (byte(3) & 0x10, "cd"),
            ];
            let set: Vec<&str> = flags.iter().filter(|(bit, _)| *bit != 0).map(|(_, name)| *name).collect();
            set.join(",")
        }
        // `{/kubernetes/service}`: metadata.
        _ => match name.strip_prefix('/') {
            Some(label) => cx
                .peers
                .metadata(label, query, cx.world)
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| "-".into()),
            None => "-".into(),
        },
    }
}
