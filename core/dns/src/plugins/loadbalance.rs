//! `loadbalance`: answers in another order each time (`plugin/loadbalance`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::chain::args::{duration, err, no_more, one, unknown};
use crate::chain::{Context, Network, Note, Passage, Plugin, Query, Setup, Up, Want, shuffle};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Message, Record, rcode, rtype};
use crate::name::Name;

/// `loadbalance`
#[derive(Debug)]
pub struct LoadBalance {
    /// `weighted`; `None`: `round_robin`.
    weights: Option<Weights>,
    /// Addresses in these networks come first, in the order of the networks.
    prefer: Vec<Network>,
}

/// How likely each address of a name is to come first.
#[derive(Debug, Default)]
struct Weights {
    path: String,
    /// Between looks at the file; zero: never again.
    reload: Duration,
    of: HashMap<Name, Vec<(IpAddr, u8)>>,
}

/// `loadbalance [round_robin | weighted FILE] { reload DURATION | prefer CIDR... }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut weights = None;
    let rest = match d.args.first() {
        None => &[][..],
        Some(token) if token.text == "round_robin" => &d.args[1..],
        Some(token) if token.text == "weighted" => {
            let Some(file) = d.args.get(1) else { return err(token, "'weighted' needs a file") };
            let path = setup.settings.path(&file.text);
            weights = Some(Weights { path, reload: Duration::from_secs(30), ..Weights::default() });
            &d.args[2..]
        }
        Some(token) => {
            return err(token, format!("'{}' is no policy (round_robin, weighted)", token.text));
        }
    };
    no_more("loadbalance", rest)?;
    let mut prefer = Vec::new();
    for option in d.block.iter().flatten() {
        match (option.name.text.as_str(), &mut weights) {
            ("reload", Some(weights)) => weights.reload = duration(one(option, "duration")?)?,
            ("reload", None) => return err(&option.name, "'reload' is for the file of 'weighted'"),
            ("prefer", _) if option.args.is_empty() => {
                return err(&option.name, "'prefer' needs a network");
            }
            ("prefer", _) => {
                for token in &option.args {
                    prefer.push(token.text.parse().or_else(|why: String| err(token, why))?);
                }
            }
            _ => return unknown("loadbalance", option),
        }
    }
    setup.add(LoadBalance { weights, prefer });
    Ok(())
}

impl Plugin for LoadBalance {
    fn passage(&self) -> Passage {
        if self.weights.is_none() && self.prefer.is_empty() { Passage::Shuffles } else { Passage::Varies }
    }

    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        let asked = query.question().rtype;
        if reply.rcode != rcode::NOERROR || matches!(asked, rtype::AXFR | rtype::IXFR) {
            return Up::Pass;
        }
        match &self.weights {
            // Whoever answered has put the addresses in order.
            _ if query.for_client => {}
            None => {
                for section in [&mut reply.answers, &mut reply.authority, &mut reply.additional] {
                    rotate(section, cx.random());
                }
            }
            Some(weights) if matches!(asked, rtype::A | rtype::AAAA | rtype::SRV) => {
                for section in [&mut reply.answers, &mut reply.additional] {
                    weights.first(section, cx.random());
                }
            }
            Some(_) => {}
        }
        if !self.prefer.is_empty() {
            for section in [&mut reply.answers, &mut reply.additional] {
                self.preferred_first(section);
            }
        }
        Up::Pass
    }

    fn files(&self) -> Vec<Want> {
        let want =
            |weights: &Weights| Want { path: weights.path.clone(), folder: false, every: weights.reload };
        self.weights.iter().map(want).collect()
    }

    fn file_changed(&mut self, path: &str, content: Option<&str>) -> Result<(), String> {
        let Some(weights) = self.weights.as_mut().filter(|weights| weights.path == path) else {
            return Ok(());
        };
        match content {
            Some(text) => {
                weights.of = parse(text).map_err(|why| format!("plugin/loadbalance: {path}: {why}"))?
            }
            // It may come later; where nobody looks again it never will.
            None if weights.reload.is_zero() => {
                return Err(format!("plugin/loadbalance: there is no weight file {path}"));
            }
            None => {}
        }
        Ok(())
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match record.data {
        Data::A(ip) => Some(ip.into()),
        Data::Aaaa(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Records by what they are: aliases, addresses, mail exchanges, and the rest.
fn sorted(records: &mut Vec<Record>) -> [Vec<Record>; 4] {
    let mut sorts: [Vec<Record>; 4] = Default::default();
    for record in records.drain(..) {
        let sort = match record.data {
            Data::Cname(_) => 0,
            Data::A(_) | Data::Aaaa(_) => 1,
            Data::Mx(..) => 2,
            _ => 3,
        };
        sorts[sort].push(record);
    }
    sorts
}

/// Aliases first: some resolvers need them there (`roundRobin`).
fn rotate(records: &mut Vec<Record>, random: u64) {
    let [aliases, mut addresses, mut exchanges, rest] = sorted(records);
    shuffle(&mut addresses, random);
    shuffle(&mut exchanges, random.rotate_left(32));
    records.extend(aliases.into_iter().chain(rest).chain(addresses).chain(exchanges));
}

impl Weights {
    /// Brings one address to the front, by its weight (`weightedRoundRobin`).
    fn first(&self, records: &mut Vec<Record>, random: u64) {
        if !records.iter().any(|record| address(record).is_some()) {
            return;
        }
        let [aliases, mut addresses, exchanges, rest] = sorted(records);
        let weights: Vec<u64> = addresses.iter().map(|record| self.weight(record)).collect();
        let mut drawn = random % weights.iter().sum::<u64>().max(1);
        let chosen = weights.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        addresses.swap(0, chosen.unwrap_or(0));
        records.extend(aliases.into_iter().chain(rest).chain(addresses).chain(exchanges));
    }

    /// What the file says, or 1.
    fn weight(&self, record: &Record) -> u64 {
        let known = self.of.get(&record.name).into_iter().flatten();
        known
            .filter(|(ip, _)| Some(*ip) == address(record))
            .map(|(_, weight)| u64::from(*weight))
            .next()
            .unwrap_or(1)
    }
}

impl LoadBalance {
    fn preferred_first(&self, records: &mut Vec<Record>) {
        let [aliases, mut addresses, exchanges, rest] = sorted(records);
        addresses.sort_by_key(|record| {
            let at = self.prefer.iter().position(|net| address(record).is_some_and(|ip| net.contains(ip)));
            at.unwrap_or(usize::MAX)
        });
        records.extend(aliases.into_iter().chain(addresses).chain(exchanges).chain(rest));
    }
}

/// A weight file: a name on a line, then `ADDRESS WEIGHT` on a line each; `#` begins a comment line.
fn parse(text: &str) -> Result<HashMap<Name, Vec<(IpAddr, u8)>>, String> {
    let mut of: HashMap<Name, Vec<(IpAddr, u8)>> = HashMap::new();
    let mut current = None;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name] if name.parse::<IpAddr>().is_err() => {
                let name = name
                    .parse::<Name>()
                    .map_err(|why| format!("line {number}: '{name}' is no name: {why}"))?;
                of.entry(name.clone()).or_default();
                current = Some(name);
            }
            [ip] => return Err(format!("line {number}: '{ip}' has no weight")),
            [ip, weight] => {
                let ip = ip.parse().map_err(|_| format!("line {number}: '{ip}' is no address"))?;
                let weight = weight.parse().ok().filter(|weight| *weight > 0);
                let weight =
                    weight.ok_or_else(|| format!("line {number}: a weight lies between 1 and 255"))?;
                let weights = current.as_ref().and_then(|name| of.get_mut(name));
                weights.ok_or_else(|| format!("line {number}: no name stands before it"))?.push((ip, weight));
            }
            _ => return Err(format!("line {number}: '{line}' is neither a name nor ADDRESS WEIGHT")),
        }
    }
    Ok(of)
}
