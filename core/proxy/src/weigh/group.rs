//! The endpoints of one Service port in one family, what is known of them, and the slots that follow.

use crate::Backend;
use crate::endpoints::Fact;
use crate::weigh::book::{Flow, Seen};
use crate::weigh::eject::{Outcome, Record, most, panics};
use crate::weigh::least::fill;
use crate::weigh::options::Options;
use crate::weigh::slots::apportion;
use sealane_catalog::Protocol;
use std::collections::BTreeMap;
use std::time::Duration;

/// A port with more endpoints is spread evenly.
pub(crate) const MOST: usize = 4096;
/// The share with which a slow start begins.
const BEGINNING: f64 = 0.1;
/// How much the last look counts in what is expected to come until the next.
const NEWEST: f64 = 0.3;
/// Connections younger than that are not moved: they are not known to be long-lived.
const LONG_LIVED: Duration = Duration::from_secs(5);
/// When a scale-out is over, balanced or not.
const SETTLED: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
struct Member {
    fact: Fact,
    weight: f64,
    /// When it was first seen ready; `None`: it was there before anybody looked.
    since: Option<Duration>,
    record: Record,
    seen: Seen,
}

/// One port, one family.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub protocol: Protocol,
    members: Vec<Member>,
    /// Connections that are expected until the next look.
    coming: f64,
    /// A scale-out began then, and connections may be moved.
    moving: Option<Duration>,
    /// Some slow start is not over.
    ramping: bool,
}

impl Group {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self { protocol, members: Vec::new(), coming: 0.0, moving: None, ramping: false }
    }

    /// Takes what endpoints are ready now; who was before keeps its record. At the first sight of a Service nobody is
    /// new.
    pub(crate) fn update(&mut self, facts: Vec<Fact>, options: &Options, first: bool, now: Duration) {
        let before = std::mem::take(&mut self.members);
        let mut known: BTreeMap<Backend, Member> = before.into_iter().map(|m| (m.fact.backend, m)).collect();
        let had = !known.is_empty();
        for fact in facts {
            let address = fact.backend.address.to_string();
            let weight = options.weight(&fact.pod, &address, &fact.node, &fact.zone).into();
            // Another Pod at the same address is new.
            let same = known.remove(&fact.backend).filter(|m| m.fact.pod == fact.pod);
            if same.is_none() && !first && had {
                self.moving = Some(now);
            }
            self.members.push(match same {
                Some(member) => Member { fact, weight, ..member },
                None => Member {
                    fact,
                    weight,
                    since: (!first).then_some(now),
                    record: Record::default(),
                    seen: Seen::default(),
                },
            });
        }
    }

    /// The backends.
    pub(crate) fn backends(&self) -> impl Iterator<Item = Backend> + '_ {
        self.members.iter().map(|m| m.fact.backend)
    }

    /// How many are out.
    pub(crate) fn out(&self) -> usize {
        self.members.iter().filter(|m| m.record.until().is_some()).count()
    }

    /// Whether shares change with time alone: some slow start was not over when they were last made.
    pub(crate) fn is_ramping(&self) -> bool {
        self.ramping
    }

    /// Takes what each backend has and did; gives back those that are ejected now, and until when.
    pub(crate) fn note(
        &mut self,
        seen: &BTreeMap<(Protocol, Backend), Seen>,
        options: &Options,
        now: Duration,
    ) -> Vec<(Backend, Duration)> {
        for member in &mut self.members {
            member.seen = seen.get(&(self.protocol, member.fact.backend)).cloned().unwrap_or_default();
        }
        let fresh: u32 = self.members.iter().map(|m| m.seen.fresh).sum();
        self.coming += NEWEST * (f64::from(fresh) - self.coming);
        let Some(rule) = &options.eject else { return Vec::new() };
        let mut out = self.members.iter_mut().map(|m| usize::from(m.record.is_out(now))).sum::<usize>();
        let mut ejected = Vec::new();
        let room = most(self.members.len(), rule);
        for member in &mut self.members {
            let outcome: Outcome = member.seen.outcome;
            if member.record.note(outcome, rule, now) && out < room {
                out += 1;
                member.record.eject(rule, now);
                ejected.extend(member.record.until().map(|until| (member.fact.backend, until)));
            }
        }
        ejected
    }

    /// Weights as they count now, 0 for who is out, and which part of new connections stays near.
    fn weights(&mut self, options: &Options, now: Duration) -> (Vec<f64>, f64) {
        let mut usable: Vec<bool> = self.members.iter_mut().map(|m| !m.record.is_out(now)).collect();
        let spills = options.spill_over.is_some() && self.members.iter().any(|m| m.fact.beyond);
        if let Some(rule) = &options.eject {
            for beyond in [false, true] {
                let pool = || self.members.iter().enumerate().filter(|(_, m)| m.fact.beyond == beyond);
                let (all, inside) = (pool().count(), pool().filter(|(i, _)| usable[*i]).count());
                // Where all that are near are out and others may help, they do.
                if panics(inside, all, rule) && !(spills && inside == 0 && !beyond) {
                    pool().for_each(|(i, _)| usable[i] = true);
                }
            }
        }
        let near = |i: usize| !self.members[i].fact.beyond;
        let members = self.members.iter().zip(&usable);
        let mut weights: Vec<f64> =
            members.map(|(m, usable)| if *usable { m.weight * m.ramp(options, now) } else { 0.0 }).collect();
        let places = (0..weights.len()).filter(|i| near(*i) && weights[*i] > 0.0).count();
        let part = match options.spill_over.filter(|_| spills) {
            None => 1.0,
            Some(limit) => {
                let room = f64::from(limit) * places as f64;
                let live: f64 = self.members.iter().map(|m| f64::from(m.seen.live)).sum();
                if live <= room && places > 0 { 1.0 } else { room / live.max(1.0) }
            }
        };
        if part >= 1.0 {
            (0..weights.len()).filter(|i| !near(*i)).for_each(|i| weights[i] = 0.0);
        }
        (weights, part)
    }

    /// Who gets no new connections for being out.
    pub(crate) fn shut(&mut self, options: &Options, now: Duration) -> Vec<Backend> {
        let (weights, _) = self.weights(options, now);
        let out = self
            .members
            .iter()
            .zip(weights)
            .filter(|(m, weight)| m.record.until().is_some() && *weight == 0.0);
        out.map(|(m, _)| m.fact.backend).collect()
    }

    /// The slots of each backend; `None`: one for each that is near, as without any option.
    pub(crate) fn slots(&mut self, options: &Options, now: Duration) -> Option<BTreeMap<Backend, u32>> {
        self.ramping = self.members.iter().any(|m| m.ramp(options, now) < 1.0);
        if self.members.is_empty() || self.members.len() > MOST {
            return None;
        }
        let (weights, part) = self.weights(options, now);
        let live: Vec<u32> = self.members.iter().map(|m| m.seen.live).collect();
        let mut shares = vec![0.0; weights.len()];
        for (beyond, part) in [(false, part), (true, 1.0 - part)] {
            let own = |(m, w): (&Member, &f64)| if m.fact.beyond == beyond { *w } else { 0.0 };
            let pool: Vec<f64> = self.members.iter().zip(&weights).map(own).collect();
            let poured = match options.least {
                true => fill(&live, &pool, self.coming * part),
                false => pool.clone(),
            };
            // Everybody near by is asked now and then, however much it has.
            let floor = if options.least { 1e-9 } else { 0.0 };
            let sum: f64 = poured.iter().sum();
            for (share, (poured, own)) in shares.iter_mut().zip(poured.iter().zip(&pool)) {
                if *own > 0.0 && part > 0.0 {
                    // Whole weights stay whole.
                    *share = if part < 1.0 || options.least { poured / sum * part } else { *poured };
                    *share = share.max(floor);
                }
            }
        }
        let slots = apportion(&shares);
        let even = self.members.iter().zip(&slots).all(|(m, n)| *n == u32::from(!m.fact.beyond));
        let members = self.members.iter().zip(slots).filter(|(_, n)| *n > 0);
        (!even).then(|| members.map(|(m, n)| (m.fact.backend, n)).collect())
    }

    /// Connections to be moved, at most so many: the oldest of whoever has most too many, while a scale-out goes on.
    pub(crate) fn moves(
        &mut self,
        options: &Options,
        budget: usize,
        ours: impl Fn(&Flow) -> bool,
        now: Duration,
    ) -> Vec<Flow> {
        let Some(begun) = self.moving else { return Vec::new() };
        let (weights, _) = self.weights(options, now);
        let all: f64 = weights.iter().sum();
        let live: u32 =
            self.members.iter().zip(&weights).filter(|(_, w)| **w > 0.0).map(|(m, _)| m.seen.live).sum();
        let mut over: Vec<(u32, usize)> = Vec::new();
        for (i, (member, weight)) in
            self.members.iter().zip(&weights).enumerate().filter(|(_, (_, w))| **w > 0.0)
        {
            let fair = f64::from(live) * weight / all;
            // Chance alone makes some have more.
            if f64::from(member.seen.live) > fair + (fair / 4.0).max(2.0 * fair.sqrt()) {
                over.push((member.seen.live - fair.ceil() as u32, i));
            }
        }
        if (over.is_empty() && !self.ramping) || now.saturating_sub(begun) > SETTLED {
            self.moving = None;
        }
        let mut moves = Vec::new();
        for member in &mut self.members {
            // The oldest last, to be taken first.
            member.seen.open.retain(|(since, flow)| now.saturating_sub(*since) >= LONG_LIVED && ours(flow));
            member.seen.open.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.id.cmp(&a.1.id)));
        }
        while moves.len() < budget
            && let Some(most) = over.iter_mut().max()
            && most.0 > 0
        {
            match self.members[most.1].seen.open.pop() {
                Some((_, flow)) => {
                    most.0 -= 1;
                    moves.push(flow);
                }
                None => most.0 = 0,
            }
        }
        moves
    }
}

impl Member {
    /// How far its slow start is, 0.1-1.
    fn ramp(&self, options: &Options, now: Duration) -> f64 {
        let (Some(since), Some(length)) = (self.since, options.slow_start) else { return 1.0 };
        let done = now.saturating_sub(since).as_secs_f64() / length.as_secs_f64();
        (BEGINNING + (1.0 - BEGINNING) * done).min(1.0)
    }
}
