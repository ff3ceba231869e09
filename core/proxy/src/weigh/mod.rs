//! Beyond kube-proxy, by annotation: which of a Service's endpoints get more new connections than others.
//!
//! All of it is one mechanism. A frontend spreads over slots, each equally likely, and an endpoint may have several;
//! from what a Service asks for ([`Options`]), from its endpoints, and from looks at the kernel's flows ([`Look`])
//! a [`Weigher`] makes their [`Shares`]. It has no clock: `now` is the time since any fixed moment.

mod book;
mod eject;
mod group;
mod least;
mod options;
mod slots;

pub use book::{Flow, Look, Stage, Watched};
pub use options::{BALANCE, EJECT, Ejection, Options, Problem, REBALANCE, SLOW_START, SPILL_OVER, WEIGHTS};

use crate::endpoints::{facts, proxied};
use crate::{Backend, FrontendKey, NodeContext, Shares};
use book::Book;
use group::{Group, MOST};
use sealane_catalog::{Entry, NamespacedName, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What is to be said once.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// An annotation is not followed.
    Problem(NamespacedName, Problem),
    /// An endpoint gets no new connections for a while.
    Ejected(NamespacedName, Backend, Duration),
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            News::Problem(name, problem) => write!(f, "Service {name}: {problem}; it is not followed"),
            News::Ejected(name, backend, time) => {
                write!(f, "Service {name}: connections to {backend} fail; it gets no new ones for {time:?}")
            }
        }
    }
}

/// What a Weigher wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: no Service asks for anything that changes by itself.
    Nothing,
    /// To be asked again as time goes by.
    Time,
    /// Flows to these backends, and those that end.
    Flows(Watched),
}

/// What follows from a look.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Services whose shares may have changed, with their shares (`None`: even).
    pub shares: Vec<(NamespacedName, Option<Shares>)>,
    /// Connections that conntrack is to forget, when shares are in force, so that their clients connect anew; and those
    /// that an endpoint which is out has not answered: the client's next SYN is led to another one.
    pub moves: Vec<Flow>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Services that ask for something.
    pub services: u64,
    /// Annotations that are not followed.
    pub problems: u64,
    /// Endpoints that are out.
    pub out: u64,
    /// Times that an endpoint was put out.
    pub ejections: u64,
    /// Connections that were moved.
    pub moved: u64,
    /// Looks at flows.
    pub looks: u64,
}

#[derive(Clone, Debug)]
struct Weighed {
    service: Arc<Service>,
    options: Options,
    problems: Vec<Problem>,
    groups: BTreeMap<(Arc<str>, bool), Group>,
    /// Connections that may be moved now.
    budget: f64,
}

/// Services that ask for something, with what is known of their endpoints.
#[derive(Clone, Debug, Default)]
pub struct Weigher {
    services: BTreeMap<NamespacedName, Weighed>,
    watched: Watched,
    book: Book,
    /// When flows were last looked at.
    looked: Option<Duration>,
    news: Vec<News>,
    ejections: u64,
    moved: u64,
    looks: u64,
}

impl Weigher {
    /// Takes a Service's new state (`None`: gone) and gives its shares: `None` where it is spread evenly, as all are
    /// that ask for nothing.
    pub fn update(
        &mut self,
        name: &NamespacedName,
        entry: Option<&Entry>,
        node: &NodeContext,
        now: Duration,
    ) -> Option<Shares> {
        let service = entry.and_then(|e| proxied(e).map(|s| (e, s)));
        let asked = service.and_then(|(entry, service)| {
            // Hardly any Service has an annotation of ours.
            let asks = service.annotations.iter().any(|(key, _)| key.starts_with("sealane.dev/"));
            let (options, problems) = asks.then(|| Options::of(service))?;
            (!options.is_empty() || !problems.is_empty()).then_some((entry, service, options, problems))
        });
        let Some((entry, service, options, mut problems)) = asked else {
            if self.services.remove(name).is_some() {
                self.watch();
            }
            return None;
        };
        let first = !self.services.contains_key(name);
        let mut before =
            self.services.remove(name).map(|w| (w.groups, w.problems, w.budget)).unwrap_or_default();
        let mut groups = BTreeMap::new();
        for port in &service.ports {
            for ipv6 in [false, true] {
                let facts = facts(entry, port, ipv6, node);
                if facts.len() > MOST && problems.is_empty() {
                    let why = format!("{} endpoints are too many to weigh, {MOST} are not", facts.len());
                    problems.push(Problem { annotation: "sealane.dev/", why });
                }
                let key = (Arc::clone(&port.name), ipv6);
                let known = before.0.remove(&key).filter(|g| g.protocol == port.protocol);
                let mut group = known.unwrap_or_else(|| Group::new(port.protocol));
                group.update(facts, &options, first, now);
                groups.insert(key, group);
            }
        }
        let fresh = problems.iter().filter(|p| !before.1.contains(p));
        self.news.extend(fresh.map(|p| News::Problem(name.clone(), p.clone())));
        let mut weighed =
            Weighed { service: Arc::clone(service), options, problems, groups, budget: before.2 };
        let shares = weighed.shares(now);
        self.services.insert(name.clone(), weighed);
        self.watch();
        shares
    }

    /// Services that ask for something: with another node their shares are others.
    pub fn names(&self) -> impl Iterator<Item = &NamespacedName> {
        self.services.keys()
    }

    /// What is to be looked at next.
    pub fn wanted(&self) -> Wanted {
        let all = || self.services.values().filter(|w| !w.options.is_empty());
        if all().any(|w| w.options.needs_flows()) {
            return Wanted::Flows(Arc::clone(&self.watched));
        }
        let ramps = |w: &Weighed| w.groups.values().any(|g| g.is_ramping());
        if all().any(ramps) { Wanted::Time } else { Wanted::Nothing }
    }

    /// Takes a look (`None`: only time went by) and says what follows.
    pub fn look(&mut self, look: Option<&Look>, now: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        let since = self.looked.map_or(Duration::ZERO, |then| now.saturating_sub(then));
        let movable = self.services.values().any(|w| w.options.rebalance.is_some());
        let seen = look.map(|look| self.book.take(look, now, self.looked.is_none(), movable));
        self.looks += u64::from(look.is_some());
        self.looked = if look.is_some() { Some(now) } else { self.looked };
        for (name, weighed) in &mut self.services {
            let options = &weighed.options;
            if let Some(seen) = seen.as_ref().filter(|_| options.needs_flows()) {
                for group in weighed.groups.values_mut() {
                    for (backend, until) in group.note(seen, options, now) {
                        self.ejections += 1;
                        self.news.push(News::Ejected(name.clone(), backend, until.saturating_sub(now)));
                    }
                }
                let moved = weighed.moves(since, now);
                self.moved += moved.len() as u64;
                outcome.moves.extend(moved);
                outcome.moves.extend(look.iter().flat_map(|look| weighed.unanswered(look, now)));
            }
            outcome.shares.push((name.clone(), weighed.shares(now)));
        }
        outcome
    }

    /// What is to be said, each once.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// What is counted.
    pub fn figures(&self) -> Figures {
        let all = self.services.values();
        Figures {
            services: all.clone().filter(|w| !w.options.is_empty()).count() as u64,
            problems: all.clone().map(|w| w.problems.len() as u64).sum(),
            out: all.flat_map(|w| w.groups.values()).map(|g| g.out() as u64).sum(),
            ejections: self.ejections,
            moved: self.moved,
            looks: self.looks,
        }
    }

    /// Which backends are looked at.
    fn watch(&mut self) {
        let asking = self.services.values().filter(|w| w.options.needs_flows());
        let groups = asking.flat_map(|w| w.groups.values());
        self.watched = Arc::new(groups.flat_map(|g| g.backends().map(|b| (g.protocol, b))).collect());
        if self.watched.is_empty() {
            (self.looked, self.book) = (None, Book::default());
        }
    }
}

impl Weighed {
    fn shares(&mut self, now: Duration) -> Option<Shares> {
        let mut shares = Shares::default();
        for ((port, ipv6), group) in &mut self.groups {
            if let Some(slots) = group.slots(&self.options, now) {
                shares.set(port, *ipv6, slots);
            }
        }
        (!shares.is_even()).then_some(shares)
    }

    /// Connections that wait for endpoints which are out.
    fn unanswered(&mut self, look: &Look, now: Duration) -> Vec<Flow> {
        let mut shut = BTreeSet::new();
        for group in self.groups.values_mut() {
            let protocol = group.protocol;
            shut.extend(group.shut(&self.options, now).into_iter().map(|backend| (protocol, backend)));
        }
        let waits = |flow: &&Flow| {
            shut.contains(&(flow.frontend.protocol, flow.backend)) && is_of(&self.service, &flow.frontend)
        };
        look.opening().filter(waits).copied().collect()
    }

    /// Connections to move, after so much time since the last.
    fn moves(&mut self, since: Duration, now: Duration) -> Vec<Flow> {
        let Some(rate) = self.options.rebalance else { return Vec::new() };
        // What was not used is lost, but for a part of one.
        self.budget = self.budget.min(1.0) + rate * since.as_secs_f64();
        let mut moves = Vec::new();
        let service = &self.service;
        for group in self.groups.values_mut() {
            let left = self.budget as usize - moves.len();
            moves.extend(group.moves(&self.options, left, |flow| is_of(service, &flow.frontend), now));
        }
        self.budget -= moves.len() as f64;
        moves
    }
}

/// Whether a frontend is a Service's, be it a node port on whichever address.
fn is_of(service: &Service, frontend: &FrontendKey) -> bool {
    let balancers = service.ingress.iter().filter_map(|i| i.ip);
    let mut addresses = service.cluster_ips.iter().chain(&service.external_ips).copied().chain(balancers);
    let mut ports = service.ports.iter().filter(|p| p.protocol == frontend.protocol);
    ports.clone().any(|p| p.node_port != 0 && p.node_port == frontend.port)
        || (ports.any(|p| p.port == frontend.port) && addresses.any(|a| a == frontend.address))
}
