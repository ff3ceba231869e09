//! `autopath`: a client's search list is gone through here, so that it need not ask itself (`plugin/autopath`).

use std::collections::VecDeque;
use std::time::Duration;

use super::kubernetes::{Kubernetes, PodMode, RESOLV_CONF, search_domains};
use crate::chain::args::{self, err, no_options};
use crate::chain::{Context, Failure, Flow, Note, Plugin, Query, Setup, Up, Want};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Message, Question, Record, rcode};
use crate::metrics::Family;
use crate::name::Name;

static SUCCESS: Family =
    Family::counter("coredns_autopath_success_total", "Counter of requests that did autopath.");

/// `autopath`
#[derive(Debug)]
pub struct Autopath {
    /// Zones that it is for.
    pub zones: Vec<Name>,
    /// File with the search list.
    pub path: String,
    /// The list is that of the client's Pod; the file's domains come behind the cluster's.
    pub of_pods: bool,
    domains: Vec<Name>,
}

/// With a query that a search list made.
#[derive(Debug)]
struct Walk {
    /// What the client would ask next.
    names: VecDeque<Name>,
    /// What became of the first name.
    first: Option<Result<Message, Failure>>,
}

/// `autopath [ZONES...] RESOLV-CONF|@kubernetes`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let Some((source, zones)) = d.args.split_last() else {
        return err(&d.name, "'autopath' needs a resolv.conf, or '@kubernetes'");
    };
    let of_pods = source.text == "@kubernetes";
    if source.text.starts_with('@') && !of_pods {
        return err(source, format!("'{}' has no search lists ('@kubernetes' has)", source.text));
    }
    if of_pods && !setup.lines.iter().any(|line| line == "kubernetes") {
        return err(source, "there is no 'kubernetes' in this server block");
    }
    let mut zones = args::zones(zones)?;
    if zones.is_empty() {
        zones = setup.zones();
    }
    let path = if of_pods { RESOLV_CONF.to_owned() } else { source.text.clone() };
    setup.add(Autopath { zones, path, of_pods, domains: Vec::new() });
    Ok(())
}

impl Autopath {
    /// The domains of the client's search list; empty: nobody knows.
    fn search(&self, query: &Query, cx: &Context<'_>) -> Vec<Name> {
        let mut search = Vec::new();
        if self.of_pods {
            let name = &query.question().name;
            let found = cx.peers.of::<Kubernetes>().find_map(|kubernetes| {
                Some((kubernetes.zone_of(name)?, kubernetes.client_pod(query, cx.world)?))
            });
            let Some((zone, pod)) = found else { return search };
            let services = zone.under(&["svc"]);
            search.extend([services.under(&[&pod.namespace]), services, zone.clone()]);
        }
        search.extend(self.domains.iter().cloned());
        search
    }

    /// Asks for the next name, or gives up with what the first one led to.
    fn go_on(&self, mut walk: Walk, query: &mut Query, note: &mut Note) -> Up {
        let Some(name) = walk.names.pop_front() else {
            return match walk.first {
                Some(Ok(first)) => Up::Instead(Flow::Reply(first)),
                Some(Err(failure)) => Up::Instead(Flow::Fail(failure)),
                None => Up::Pass,
            };
        };
        // What the name before was answered from is not what this one is.
        (query.from_cluster, query.basis) = (false, None);
        query.ask_instead(Question { name, ..query.question().clone() });
        note.set(walk);
        Up::Instead(Flow::Next)
    }
}

impl Plugin for Autopath {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let name = &query.question().name;
        if !self.zones.iter().any(|zone| name.is_within(zone)) {
            return Flow::Next;
        }
        let mut search = self.search(query, cx).into_iter();
        let Some(first) = search.next() else { return Flow::Next };
        let Some(base) = name.within(&first).filter(|base| !base.is_empty()) else { return Flow::Next };
        let below = |domain: Name| Name::from_labels(base.iter().copied().chain(domain.labels())).ok();
        let names = search.chain([Name::root()]).filter_map(below).collect();
        note.set(Walk { names, first: None });
        Flow::Next
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let Some(mut walk) = note.take::<Walk>() else { return Up::Pass };
        if reply.rcode == rcode::NXDOMAIN {
            walk.first.get_or_insert_with(|| Ok(reply.clone()));
            return self.go_on(walk, query, note);
        }
        // That earlier names were not there is the cluster's word, and may not last.
        query.from_cluster = true;
        query.basis = None;
        let asked = &query.question().name;
        if let Some(other) = reply.answers.iter().find(|record| record.name != *asked) {
            let alias = Record::new(asked.clone(), other.ttl, Data::Cname(other.name.clone()));
            reply.answers.insert(0, alias);
        }
        cx.metrics.count(&SUCCESS, &query.labels);
        Up::Pass
    }

    fn failed(&mut self, query: &mut Query, note: &mut Note, failure: &Failure, _: &mut Context<'_>) -> Up {
        let Some(mut walk) = note.take::<Walk>() else { return Up::Pass };
        // A failure with a reason ends the search, a mere refusal does not (`autopath.go`).
        if failure.why.is_some() {
            return Up::Pass;
        }
        walk.first.get_or_insert_with(|| Err(failure.clone()));
        self.go_on(walk, query, note)
    }

    fn files(&self) -> Vec<Want> {
        vec![Want { path: self.path.clone(), folder: false, every: Duration::ZERO }]
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        if path == self.path {
            self.domains = match content {
                Some(text) => search_domains(text),
                // The cluster's domains are enough.
                None if self.of_pods => Vec::new(),
                None => return Err(format!("'autopath' cannot read {path}")),
            };
        }
        Ok(())
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        let mut kubernetes = cx.peers.of::<Kubernetes>();
        if self.of_pods && !kubernetes.any(|k| k.pods == PodMode::Verified) {
            cx.log(
                "[WARNING] plugin/autopath: @kubernetes does nothing without 'pods verified' in kubernetes",
            );
        }
    }
}
