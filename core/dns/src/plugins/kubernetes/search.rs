//! `search collapse`: a Pod that asks for `x.com` asks for `x.com.NS.svc.ZONE` first, then for three or more other
//! names that nobody has (`ndots:5`). The first of these questions says it all: what the client would ask next is
//! known, so that it is answered now, as an alias from the name that was asked to the one that was meant.
//!
//! That is safe where the client would have come to the same end: nothing in the cluster has the asked name, and the
//! names are tried in the client's order. Where all of it ends in nothing the answer is the first one, NXDOMAIN, and
//! the client goes on by itself.

use std::collections::VecDeque;

use sealane_catalog::NamespacedName;

use super::{Kubernetes, view};
use crate::chain::{Context, Flow, Note, Query, Reply, World};
use crate::message::{Data, Message, Question, Record, rcode, rtype};
use crate::metrics::Family;
use crate::name::Name;

static COLLAPSED: Family = Family::counter(
    "sealane_dns_search_collapsed_total",
    "Queries of a search list that were answered with the name that the search was for.",
);

/// The names of a resolver's `search` lines; the last line counts (`resolv.conf(5)`).
pub(crate) fn search_domains(text: &str) -> Vec<Name> {
    let mut lists = text.lines().rev().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain"))
            .then(|| words.filter_map(|word| word.parse().ok()).collect())
    });
    lists.next().unwrap_or_default()
}

/// A search that is under way.
#[derive(Debug)]
pub(super) struct Search {
    /// What the client would ask next, in its order.
    names: VecDeque<Name>,
    /// What is said where nothing is found.
    otherwise: Reply,
    /// The name that is being looked up.
    tried: Name,
    /// Seconds: a Service that comes into being may change the answer.
    ttl: u32,
}

impl Kubernetes {
    /// The search that a question is the first step of; `None` where it is none, or leads nowhere.
    pub(super) fn search(&self, world: &World, question: &Question, reply: &Reply) -> Option<Search> {
        let (domains, view) = (self.collapse.as_ref()?, view(world));
        let addresses = matches!(question.rtype, rtype::A | rtype::AAAA);
        if reply.rcode != rcode::NXDOMAIN || !addresses || !view.snapshot.synced() {
            return None;
        }
        // No search list has the names of other clusters' Services.
        let zone = self.zone_of(&question.name).filter(|zone| !self.is_multicluster(zone))?;
        let zone = question.name.zone_as_asked(zone)?;
        let labels = question.name.within(&zone)?;
        let [base @ .., namespace, svc] = labels.as_slice() else { return None };
        // A bare word is a Service's name, and is nobody's outside of the cluster.
        let [first, .., last] = *base else { return None };
        if !svc.eq_ignore_ascii_case(b"svc") || first.starts_with(b"_") {
            return None;
        }
        let text = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        let key = NamespacedName::new(&text(namespace), &text(last));
        // Endpoints come and go below a Service: theirs are names of the cluster.
        if !self.exposed(view, &key.namespace) || view.snapshot.service(&key).is_some() {
            return None;
        }
        let below = |domain: &Name| {
            Name::from_labels(base.iter().copied().chain(domain.labels()))
                .ok()
                .filter(|n| *n != question.name)
        };
        let own = [zone.under(&["svc"]), zone.clone()];
        let mut names = VecDeque::new();
        for name in own.iter().chain(domains).chain([&Name::root()]).filter_map(below) {
            let there = || match self.zone_of(&name) {
                Some(zone) => {
                    let zone = name.zone_as_asked(zone).unwrap_or_else(Name::root);
                    self.has_records(self.view(world, &name), &zone, &name)
                }
                None => true,
            };
            if !names.contains(&name) && there() {
                names.push_back(name);
            }
        }
        (!names.is_empty()).then(|| Search {
            names,
            otherwise: reply.clone(),
            tried: Name::root(),
            ttl: self.ttl,
        })
    }
}

impl Search {
    /// Looks the next name up, or gives up.
    pub(super) fn go_on(mut self, query: &Query, note: &mut Note) -> Flow {
        let Some(name) = self.names.pop_front() else { return Flow::Reply(self.otherwise.into()) };
        self.tried = name.clone();
        note.set(self);
        Flow::Lookup(Question { name, ..query.question().clone() })
    }

    /// What came of it.
    pub(super) fn looked_up(
        self,
        query: &mut Query,
        note: &mut Note,
        found: Message,
        cx: &mut Context<'_>,
    ) -> Flow {
        match found.rcode {
            rcode::NXDOMAIN => self.go_on(query, note),
            rcode::NOERROR => {
                cx.metrics.count(&COLLAPSED, &query.labels);
                let alias = Record::new(query.question().name.clone(), self.ttl, Data::Cname(self.tried));
                // An alias to a name without such records is negative as that name is (RFC 2308 section 2.2).
                let authority = if found.answers.is_empty() { found.authority } else { Vec::new() };
                let mut reply = Message::from(Reply {
                    answers: std::iter::once(alias).chain(found.answers).collect(),
                    authority,
                    ..Reply::default()
                });
                reply.flags.truncated = found.flags.truncated;
                Flow::Reply(reply)
            }
            // A failure further on is the client's to meet, with the names that it asks for.
            _ => Flow::Reply(self.otherwise.into()),
        }
    }
}
