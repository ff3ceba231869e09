//! What becomes of a packet by rules that were read back. They are walked as the kernel walks them; nothing here knows how
//! they were laid out.

use super::layout::TableName;
use super::rules::{Action, Match, Rule, SavedRules};
use crate::outcomes::{End, Outcomes, TraceError};
use sealane_proxy::{Backend, Fate, Packet};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Jumps into one another, beyond which something goes round.
const DEEPEST: usize = 16;
/// By what part of it the likelihood of one way may differ from the others': probabilities have five digits.
const UNEVEN: f64 = 0.001;

/// How a walk goes on.
enum Stop {
    Accepted,
    Dropped,
    Refused,
}

/// The rules that stood in the kernel when they were read, of both families.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IptablesRules {
    pub(super) ipv4: SavedRules,
    pub(super) ipv6: SavedRules,
}

impl IptablesRules {
    /// What becomes of the first packet of a connection, before anything was learnt of its sender.
    ///
    /// # Errors
    ///
    /// The rules have something that the walk does not know, or endpoints are not equally likely.
    pub fn trace(&self, packet: &Packet<'_>) -> Result<Fate, TraceError> {
        let saved = if packet.destination.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let (mut outcomes, mut likelihoods) = (Outcomes::default(), Vec::new());
        let mut chances = vec![Vec::new()];
        while let Some(chosen) = chances.pop() {
            let mut walk = Walk::new(saved, packet, chosen);
            let end = walk.through(packet)?;
            outcomes.add(end, walk.stays);
            likelihoods.push(walk.likelihood);
            // Wherever chance was asked for the first time, the other way is one to go, too.
            chances.append(&mut walk.forks);
        }
        let runs = outcomes.runs();
        let fair = 1.0 / f64::from(runs);
        if let Some(likelihood) = likelihoods.iter().find(|l| (*l - fair).abs() > fair * UNEVEN) {
            return Err(TraceError::Unknown(format!("{likelihood} of connections for one of {runs} ways")));
        }
        outcomes.fate()
    }
}

/// One packet on one of its ways.
struct Walk<'a> {
    saved: &'a SavedRules,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    packet: &'a Packet<'a>,
    to_node: bool,
    mark: u32,
    backend: Option<Backend>,
    masquerade: bool,
    /// Seconds for which a sender that is remembered is led to a chain.
    remembers: BTreeMap<&'a str, u32>,
    stays: Option<u32>,
    /// What chance says, from the first time that it is asked.
    chosen: Vec<bool>,
    asked: usize,
    likelihood: f64,
    forks: Vec<Vec<bool>>,
}

impl<'a> Walk<'a> {
    fn new(saved: &'a SavedRules, packet: &'a Packet<'a>, chosen: Vec<bool>) -> Self {
        Self {
            saved,
            source: packet.source,
            destination: packet.destination,
            port: packet.port,
            packet,
            to_node: packet.to_node,
            mark: 0,
            backend: None,
            masquerade: false,
            remembers: BTreeMap::new(),
            stays: None,
            chosen,
            asked: 0,
            likelihood: 1.0,
            forks: Vec::new(),
        }
    }

    fn through(&mut self, packet: &Packet<'_>) -> Result<End, TraceError> {
        let begin = if packet.from_node { "OUTPUT" } else { "PREROUTING" };
        let mut hooks = vec![(TableName::Nat, begin)];
        self.enter(&hooks)?;
        hooks.clear();
        if packet.from_node {
            hooks.push((TableName::Filter, "OUTPUT"));
        }
        match (self.to_node, packet.from_node) {
            (true, _) => hooks.push((TableName::Filter, "INPUT")),
            (false, false) => hooks.push((TableName::Filter, "FORWARD")),
            (false, true) => {}
        }
        match self.enter(&hooks)? {
            Some(Stop::Dropped) => return Ok(End::Otherwise(Fate::Drop)),
            Some(Stop::Refused) => return Ok(End::Otherwise(Fate::Reject)),
            Some(Stop::Accepted) | None => {}
        }
        self.enter(&[(TableName::Nat, "POSTROUTING")])?;
        Ok(match self.backend {
            Some(backend) => End::At(backend, self.masquerade),
            None => End::Otherwise(Fate::Pass),
        })
    }

    /// Goes through built-in chains, whose policy is to accept, until one of them does not.
    fn enter(&mut self, hooks: &[(TableName, &str)]) -> Result<Option<Stop>, TraceError> {
        for (table, chain) in hooks {
            match self.chain(*table, chain, 0)? {
                Some(Stop::Accepted) | None => {}
                stop => return Ok(stop),
            }
        }
        Ok(None)
    }

    /// `None`: the chain's end was reached.
    fn chain(&mut self, table: TableName, name: &str, depth: usize) -> Result<Option<Stop>, TraceError> {
        if depth > DEEPEST {
            return Err(TraceError::Unknown("jumps too deep".to_owned()));
        }
        let saved = self.saved;
        for rule in saved.chain(table, name) {
            if !self.applies(rule)? {
                continue;
            }
            match &rule.action {
                Action::Accept => return Ok(Some(Stop::Accepted)),
                Action::Drop => return Ok(Some(Stop::Dropped)),
                Action::Reject => return Ok(Some(Stop::Refused)),
                Action::Return => return Ok(None),
                Action::Nothing => {}
                Action::Mark(value, mask) => self.mark = self.mark & !mask ^ value,
                Action::Masquerade => {
                    self.masquerade = true;
                    return Ok(Some(Stop::Accepted));
                }
                Action::Dnat(backend) => {
                    self.backend = Some(*backend);
                    (self.destination, self.port) = (backend.address, backend.port);
                    self.to_node = false;
                    return Ok(Some(Stop::Accepted));
                }
                Action::Jump(to) if saved.chains.contains_key(&(table, to.clone())) => {
                    if let Some(stop) = self.chain(table, to, depth + 1)? {
                        return Ok(Some(stop));
                    }
                }
                Action::Jump(to) | Action::Unknown(to) => {
                    return Err(TraceError::Unknown(format!("target {to}")));
                }
            }
        }
        Ok(None)
    }

    fn applies(&mut self, rule: &'a Rule) -> Result<bool, TraceError> {
        for (not, asked) in &rule.matches {
            if self.holds(asked, rule)? == *not {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&mut self, asked: &'a Match, rule: &'a Rule) -> Result<bool, TraceError> {
        Ok(match asked {
            Match::Source(range) => range.contains(self.source),
            Match::Destination(range) => range.contains(self.destination),
            Match::Protocol(protocol) => *protocol == self.packet.protocol,
            Match::Port(port) => *port == self.port,
            Match::Interface(name) => match name.strip_suffix('+') {
                Some(prefix) => self.packet.interface.starts_with(prefix),
                None => self.packet.interface == name,
            },
            Match::Mark(value, mask) => self.mark & mask == *value,
            Match::SourceIsLocal => self.packet.from_node,
            Match::DestinationIsLocal => self.to_node,
            // It is the first one.
            Match::State(states) => states.iter().any(|s| s == "NEW"),
            Match::Random(probability) => self.chance(*probability),
            Match::Remembered(seconds, list) => {
                // Who is not remembered goes on; it counts where the endpoint remembers those whom it gets.
                if rule.leads_to() == Some(list) {
                    self.remembers.insert(list, *seconds);
                }
                false
            }
            Match::Remember(list) => {
                self.stays = self.remembers.get(list.as_str()).copied();
                true
            }
            Match::Unknown(what) => return Err(TraceError::Unknown(format!("a match {what}"))),
        })
    }

    fn chance(&mut self, probability: f64) -> bool {
        let chosen = match self.chosen.get(self.asked) {
            Some(chosen) => *chosen,
            None => {
                self.forks.push([&self.chosen[..], &[true]].concat());
                self.chosen.push(false);
                false
            }
        };
        self.asked += 1;
        self.likelihood *= if chosen { probability } else { 1.0 - probability };
        chosen
    }
}
