//! What is done to an answer on its way up, because of what was done to the question (`reverter.go`).

use std::sync::Arc;

use super::matching::{Back, Matcher};
use crate::message::{Data, EdnsOption, Message, Record, rtype};
use crate::name::Name;

/// One thing to do to an answer.
#[derive(Clone, Debug)]
pub(super) enum OnAnswer {
    /// Owners.
    Owner(Back),
    /// Names in records' data.
    Value(Back),
    /// Seconds, at least and at most.
    Ttl(u32, u32),
    /// This code instead of that.
    Rcode(u16, u16),
    /// Aliases get another target, which is looked up.
    Cname(Arc<Alias>),
    /// The EDNS option of this code is as it was.
    Edns(u16, Option<EdnsOption>),
}

/// `cname FROM TO`
#[derive(Debug)]
pub(super) struct Alias {
    pub from: Matcher,
    pub to: String,
}

impl Alias {
    /// The other target of an alias.
    pub(super) fn target(&self, target: &Name) -> Option<Name> {
        self.from.replace(&target.to_lowercase().to_string(), &self.to)?.parse().ok()
    }
}

/// All that is done to one answer; the last rule's first.
pub(super) fn apply(rules: &[OnAnswer], message: &mut Message) {
    let sections = [&mut message.authority, &mut message.answers, &mut message.additional];
    let (mut records, mut rcode) = (0, message.rcode);
    for record in sections.into_iter().flatten() {
        records += 1;
        for rule in rules.iter().rev() {
            on_record(rule, record, &mut rcode);
        }
    }
    if records == 0 {
        rcode = rewritten(rules, rcode);
    }
    message.rcode = rcode;
    if let Some(edns) = &mut message.edns {
        revert(rules, &mut edns.options);
    }
}

/// The response code alone, of an answer without records.
pub(super) fn rewritten(rules: &[OnAnswer], mut rcode: u16) -> u16 {
    for rule in rules.iter().rev() {
        if let OnAnswer::Rcode(from, to) = rule
            && rcode == *from
        {
            rcode = *to;
        }
    }
    rcode
}

fn on_record(rule: &OnAnswer, record: &mut Record, rcode: &mut u16) {
    match rule {
        OnAnswer::Owner(back) => {
            if let Some(name) = back.name(&record.name) {
                record.name = name;
            }
        }
        OnAnswer::Value(back) => on_value(back, &mut record.data),
        OnAnswer::Ttl(least, most) => record.ttl = record.ttl.clamp(*least, *most),
        OnAnswer::Rcode(from, to) if *rcode == *from => *rcode = *to,
        OnAnswer::Rcode(..) | OnAnswer::Cname(_) | OnAnswer::Edns(..) => {}
    }
}

/// The names of data that CoreDNS rewrites: those of CNAME, DNAME, SOA (the server alone), SRV, MX, NAPTR, NS, PTR.
fn on_value(back: &Back, data: &mut Data) {
    match data {
        Data::Cname(name)
        | Data::Ns(name)
        | Data::Ptr(name)
        | Data::Mx(_, name)
        | Data::Srv(_, _, _, name) => {
            replace(back, name);
        }
        Data::Soa(soa) => replace(back, &mut soa.mname),
        Data::Other(rtype::DNAME, octets) => on_octets(back, octets, 0),
        Data::Other(rtype::NAPTR, octets) => {
            if let Some(at) = replacement(octets) {
                on_octets(back, octets, at);
            }
        }
        _ => {}
    }
}

fn replace(back: &Back, name: &mut Name) {
    if let Some(other) = back.name(name) {
        *name = other;
    }
}

/// Replaces the name that data ends with.
fn on_octets(back: &Back, octets: &mut Box<[u8]>, at: usize) {
    let name = octets.get(at..).and_then(Name::from_wire);
    if let Some(other) = name.and_then(|name| back.name(&name)) {
        *octets = [&octets[..at], other.wire()].concat().into();
    }
}

/// Where a NAPTR's replacement begins: behind order, preference and three strings (RFC 3403 section 4.1).
fn replacement(octets: &[u8]) -> Option<usize> {
    let mut at = 4;
    for _ in 0..3 {
        at += 1 + usize::from(*octets.get(at)?);
    }
    Some(at)
}

/// EDNS options as they were before rules with `revert`.
pub(super) fn revert(rules: &[OnAnswer], options: &mut Vec<EdnsOption>) {
    for rule in rules.iter().rev() {
        let OnAnswer::Edns(code, before) = rule else { continue };
        let Some(at) = options.iter().position(|(is, _)| is == code) else { continue };
        match before {
            Some(option) => options[at] = option.clone(),
            None => drop(options.remove(at)),
        }
    }
}
