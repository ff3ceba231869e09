//! `acl`: who may ask what (`plugin/acl`).

use std::net::IpAddr;

use crate::chain::args::{self, err};
use crate::chain::{Context, Flow, Network, Note, Plugin, Query, Setup};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Edns, Message, rcode, rtype};
use crate::metrics::{Family, relabelled};
use crate::name::Name;

static BLOCKED: Family =
    Family::counter("coredns_acl_blocked_requests_total", "Counter of DNS requests being blocked.");
static FILTERED: Family =
    Family::counter("coredns_acl_filtered_requests_total", "Counter of DNS requests being filtered.");
static ALLOWED: Family =
    Family::counter("coredns_acl_allowed_requests_total", "Counter of DNS requests being allowed.");
static DROPPED: Family =
    Family::counter("coredns_acl_dropped_requests_total", "Counter of DNS requests being dropped.");

/// EDNS option of extended errors (RFC 8914 section 2).
const EDE: u16 = 15;
/// Extended error: blocked by the server's owner (RFC 8914 section 4.16).
const BLOCKED_CODE: u16 = 15;
/// Extended error: filtered as the client wishes (RFC 8914 section 4.18).
const FILTERED_CODE: u16 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    /// REFUSED.
    Block,
    /// An empty answer.
    Filter,
    /// No answer.
    Drop,
}

#[derive(Clone, Debug)]
struct Policy {
    action: Action,
    /// `None`: all.
    types: Option<Vec<u16>>,
    /// `None`: all.
    networks: Option<Vec<Network>>,
}

#[derive(Clone, Debug)]
struct Rule {
    zones: Vec<Name>,
    policies: Vec<Policy>,
}

/// All `acl` lines of a server block.
#[derive(Debug)]
pub struct Acl {
    rules: Vec<Rule>,
}

/// `acl [ZONES...] { ACTION [type QTYPE...] [net SOURCE...] }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let zones = if d.args.is_empty() { setup.zones() } else { args::zones(&d.args)? };
    let policies = d.block.iter().flatten().map(policy).collect::<Result<_, _>>()?;
    let rule = Rule { zones, policies };
    match setup.earlier::<Acl>() {
        Some(acl) => acl.rules.push(rule),
        None => setup.add(Acl { rules: vec![rule] }),
    }
    Ok(())
}

fn policy(line: &Directive) -> Result<Policy, CorefileError> {
    let action = match line.name.text.to_ascii_lowercase().as_str() {
        "allow" => Action::Allow,
        "block" => Action::Block,
        "filter" => Action::Filter,
        "drop" => Action::Drop,
        other => {
            let message = format!("'{other}' is no action of acl (allow, block, filter, drop)");
            return err(&line.name, message);
        }
    };
    let (mut types, mut networks) = (None::<Vec<u16>>, None::<Vec<Network>>);
    let mut every_type = false;
    let mut rest = &line.args[..];
    while let Some((section, behind)) = rest.split_first() {
        let name = section.text.to_ascii_lowercase();
        if !matches!(name.as_str(), "type" | "net") {
            return err(section, format!("'{}' is neither 'type' nor 'net'", section.text));
        }
        let begins = |text: &str| matches!(text.to_ascii_lowercase().as_str(), "type" | "net");
        let end = behind.iter().position(|token| begins(&token.text)).unwrap_or(behind.len());
        let (tokens, next) = behind.split_at(end);
        rest = next;
        if tokens.is_empty() {
            return err(section, format!("'{name}' names none"));
        }
        for token in tokens {
            match (name.as_str(), token.text.as_str()) {
                ("type", "*") => every_type = true,
                ("type", text) => match rtype::from_name(text) {
                    Some(kind) => types.get_or_insert_default().push(kind),
                    None => return err(token, format!("'{text}' is no record type")),
                },
                (_, "*") => networks.get_or_insert_default().extend(Network::ALL),
                (_, text) => match network(text) {
                    Ok(network) => networks.get_or_insert_default().push(network),
                    Err(why) => return err(token, why),
                },
            }
        }
    }
    Ok(Policy { action, types: types.filter(|_| !every_type), networks })
}

/// A network, or an address alone.
fn network(text: &str) -> Result<Network, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) => format!("{text}/{}", if ip.is_ipv4() { 32 } else { 128 }).parse(),
        Err(_) => text.parse(),
    }
}

impl Acl {
    /// What happens to a query, and the zone of the rule that says so.
    fn decide(&self, query: &Query) -> Option<(Action, &Name)> {
        let (question, client) = (query.question(), query.client.ip());
        let rules = self.rules.iter().filter_map(|rule| {
            let zones = rule.zones.iter().filter(|zone| question.name.is_within(zone));
            Some((rule, zones.max_by_key(|zone| zone.wire().len())?))
        });
        for (rule, zone) in rules {
            let found = rule.policies.iter().find(|policy| {
                policy.types.as_ref().is_none_or(|types| types.contains(&question.rtype))
                    && policy.networks.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(client)))
            });
            if let Some(policy) = found {
                return Some((policy.action, zone));
            }
        }
        None
    }
}

impl Plugin for Acl {
    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let (action, zone) = match self.decide(query) {
            None | Some((Action::Allow, _)) => {
                cx.metrics.count(&ALLOWED, &relabelled(&query.labels, "", ""));
                return Flow::Next;
            }
            Some(other) => other,
        };
        let (family, answer) = match action {
            Action::Block => (&BLOCKED, Some((rcode::REFUSED, BLOCKED_CODE))),
            Action::Filter => (&FILTERED, Some((rcode::NOERROR, FILTERED_CODE))),
            Action::Drop | Action::Allow => (&DROPPED, None),
        };
        cx.metrics.count(family, &relabelled(&query.labels, "zone", &zone.to_string()));
        match answer {
            None => Flow::Drop,
            Some((rcode, why)) => {
                let options = vec![(EDE, Box::from(why.to_be_bytes()))];
                let edns = Some(Edns { options, ..Edns::default() });
                Flow::Reply(Message { rcode, edns, ..Message::default() })
            }
        }
    }
}
