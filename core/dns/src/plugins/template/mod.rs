//! `template`: answers made from what was asked (`plugin/template`).

mod config;
mod data;

use std::collections::{BTreeMap, VecDeque};

use config::{Line, Rule};
use data::{Matched, names};

use crate::chain::{Context, Flow, Note, Plugin, Query, Setup};
use crate::corefile::{CorefileError, Directive};
use crate::expression::Value;
use crate::message::{CLASS_IN, Data, Edns, Flags, Message, Question, Record, class, rcode, rtype};
use crate::metrics::Family;
use crate::name::Name;
use crate::zone;

static MATCHES: Family =
    Family::counter("coredns_template_matches_total", "Counter of template regex matches.");
static FAILURES: Family =
    Family::counter("coredns_template_template_failures_total", "Counter of go template failures.");
static RECORD_FAILURES: Family =
    Family::counter("coredns_template_rr_failures_total", "Counter of mis-templated RRs.");

/// Extended DNS errors (RFC 8914).
const EDE: u16 = 15;

/// All `template` lines of a server block, in their order.
#[derive(Debug)]
pub struct Template {
    rules: Vec<Rule>,
}

/// `template CLASS TYPE [ZONE...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    let rule = Rule::read(setup, line)?;
    // Other classes are refused before any plugin sees them, if nobody wants them.
    setup.settings.other_classes |= rule.class != CLASS_IN;
    match setup.earlier::<Template>() {
        Some(template) => template.rules.push(rule),
        None => setup.add(Template { rules: vec![rule] }),
    }
    Ok(())
}

/// What a rule says to a question.
enum Verdict<'a> {
    /// It is for the next rule.
    Next,
    /// It should have matched, and nobody else may.
    Failed,
    Matched(&'a Rule, Matched<'a>),
}

/// An answer in the making, while the targets of its aliases are looked up.
#[derive(Debug)]
struct Making {
    message: Message,
    /// Answers that are still to come.
    rest: VecDeque<Record>,
}

impl Plugin for Template {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        for rule in &self.rules {
            let made = match rule.matched(query, cx) {
                Verdict::Next => continue,
                Verdict::Failed => return Flow::refuse(rcode::SERVFAIL),
                Verdict::Matched(rule, matched) => {
                    let labels = format!(
                        "{},class=\"{}\",type=\"{}\"",
                        with_zone(&query.labels, &matched.zone),
                        matched.class,
                        matched.rtype
                    );
                    (rule.make(&matched), labels)
                }
            };
            let (made, labels) = made;
            cx.metrics.count(&MATCHES, &labels);
            return match made {
                Ok((message, rest)) if message.rcode != rcode::SERVFAIL => {
                    note.set(Making { message, rest });
                    go_on(query, note)
                }
                Ok(_) => Flow::refuse(rcode::SERVFAIL),
                Err(Failed { family, section, template, why }) => {
                    let template = template.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    let labels = format!("{labels},section=\"{section}\",template=\"{template}\"");
                    cx.metrics.count(family, &labels);
                    Flow::fail(rcode::SERVFAIL, why)
                }
            };
        }
        Flow::Next
    }

    fn looked_up(&mut self, query: &mut Query, note: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        if let Some(making) = note.get_mut::<Making>() {
            making.message.flags.truncated = found.flags.truncated;
            making.message.answers.extend(found.answers);
        }
        go_on(query, note)
    }
}

/// Puts answers into the message up to the next alias whose target is to be looked up.
fn go_on(query: &Query, note: &mut Note) -> Flow {
    let Some(mut making) = note.take::<Making>() else { return Flow::refuse(rcode::SERVFAIL) };
    let question = query.question();
    while let Some(record) = making.rest.pop_front() {
        let target = match &record.data {
            Data::Cname(target) if matches!(question.rtype, rtype::A | rtype::AAAA) => Some(target.clone()),
            _ => None,
        };
        making.message.answers.push(record);
        if let Some(name) = target {
            note.set(making);
            return Flow::Lookup(Question { name, ..question.clone() });
        }
    }
    Flow::Reply(making.message)
}

/// The server block's labels, with another zone in them.
fn with_zone(labels: &str, zone: &str) -> String {
    let server = labels.split(",zone=").next().unwrap_or("");
    let view = labels.split(",view=").nth(1).unwrap_or("\"\"");
    format!("{server},zone=\"{zone}\",view={view}")
}

/// Why there is no answer, and what is counted for that.
struct Failed {
    family: &'static Family,
    section: &'static str,
    template: String,
    why: String,
}

impl Rule {
    fn matched<'a>(&'a self, query: &'a Query, cx: &'a Context<'_>) -> Verdict<'a> {
        let asked = query.question();
        let around = self.zones.iter().filter(|zone| asked.name.is_within(zone));
        let Some(zone) = around.max_by_key(|zone| zone.wire().len()) else { return Verdict::Next };
        let is = |own: u16, asked: u16, any: u16| own == any || asked == any || own == asked;
        if !is(self.class, asked.class, class::ANY) || !is(self.rtype, asked.rtype, rtype::ANY) {
            return Verdict::Next;
        }
        let name = asked.name.to_lowercase().to_string();
        let unmatched = || {
            let through = self.fallthrough.iter().flatten().any(|zone| asked.name.is_within(zone));
            if through { Verdict::Next } else { Verdict::Failed }
        };
        let found = self.regexes.iter().find_map(|regex| Some((regex, regex.captures(&name)?)));
        let Some((regex, captures)) = found else { return unmatched() };
        let text = |at: usize| captures.get(at).map_or("", |group| group.as_str());
        let groups: Vec<String> = (0..captures.len()).map(|at| text(at).to_owned()).collect();
        let mut named: BTreeMap<String, Value> = BTreeMap::new();
        for (at, group) in groups.iter().enumerate() {
            named.insert(at.to_string(), group.as_str().into());
        }
        for (at, name) in regex.capture_names().enumerate() {
            named.extend(name.map(|name| (name.to_owned(), text(at).into())));
        }
        let (class, rtype) = names(asked, self.class, self.rtype);
        let (zone, regex) = (zone.to_string(), regex.as_str());
        let variables = Vec::new();
        let mut matched = Matched { query, cx, zone, regex, class, rtype, groups, named, variables };
        for (name, program) in &self.variables {
            match program.run(&matched, &matched.variables) {
                Ok(value) => matched.variables.push((name.clone(), value)),
                Err(_) => return Verdict::Failed,
            }
        }
        for program in &self.conditions {
            match program.run(&matched, &matched.variables) {
                Ok(Value::Bool(true)) => {}
                Ok(_) => return unmatched(),
                Err(_) => return Verdict::Failed,
            }
        }
        Verdict::Matched(self, matched)
    }

    /// The answer, and the records that are to go into its first section.
    fn make(&self, matched: &Matched<'_>) -> Result<(Message, VecDeque<Record>), Failed> {
        if self.rcode == rcode::SERVFAIL {
            return Ok((Message { rcode: self.rcode, ..Message::default() }, VecDeque::new()));
        }
        let section = |lines: &[Line], name: &'static str| -> Result<Vec<Record>, Failed> {
            lines.iter().map(|line| line.record(matched, name)).collect()
        };
        let answers = section(&self.answer, "answer")?;
        let message = Message {
            flags: Flags { authoritative: true, ..Flags::default() },
            rcode: self.rcode,
            additional: section(&self.additional, "additional")?,
            authority: section(&self.authority, "authority")?,
            edns: self.error.as_ref().map(|(code, reason)| {
                let data = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
                Edns { udp_size: 4096, options: vec![(EDE, data.into())], ..Edns::default() }
            }),
            ..Message::default()
        };
        Ok((message, answers.into()))
    }
}

impl Line {
    fn record(&self, matched: &Matched<'_>, section: &'static str) -> Result<Record, Failed> {
        let failed = |family, why| Failed { family, section, template: self.text.clone(), why };
        let text = self
            .template
            .fill(matched)
            .map_err(|why| failed(&FAILURES, format!("template: {section}: {why}")))?;
        // What stands there without a TTL lives for an hour (`dns.NewRR`).
        let lines = format!("$TTL 3600\n{text}\n");
        let parsed = zone::parse("", lines.as_bytes(), &Name::root(), &mut zone::no_include);
        let record = match parsed {
            Ok(records) => records.into_iter().next().ok_or_else(|| "it is empty".to_owned()),
            Err(error) => Err(error.cause.to_string()),
        };
        record.map_err(|why| {
            failed(&RECORD_FAILURES, format!("template: {section}: '{text}' is no record: {why}"))
        })
    }
}
