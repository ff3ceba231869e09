//! What becomes of a packet by the rules and elements that stand in the kernel. They are read over netlink and walked
//! as the kernel walks them (net/netfilter/nf_tables_core.c, nft_do_chain); nothing here knows how they were laid out.

use super::layout::{Family, Set, TABLE, kind, octets};
use super::read::dump_ranges;
use crate::message::{AttributeIter, Messages, flags};
use crate::netlink::{Netlink, NetlinkError};
use crate::outcomes::{End, Outcomes, TraceError};
use sealane_proxy::{Backend, Fate, Packet};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Bytes of all registers.
const REGISTERS: usize = 64;
/// Jumps into one another, as the kernel bounds them (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;
const RTN_UNICAST: u32 = 1;
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// Where a rule, or an element of a verdict map, sends a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
    /// To the next rule.
    Continue,
}

#[derive(Clone, Debug)]
enum Value {
    Bytes(Vec<u8>),
    Turn(Turn),
}

/// One expression: its name and its attributes, as they came.
type Expression = (String, Vec<u8>);

#[derive(Clone, Debug, Default)]
struct Elements {
    exact: BTreeMap<Vec<u8>, Option<Value>>,
    /// First and last key.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One family's table as it stood in the kernel.
#[derive(Clone, Debug, Default)]
struct TableRules {
    /// Base chains by hook.
    hooks: BTreeMap<u32, String>,
    rules: BTreeMap<String, Vec<Vec<Expression>>>,
    sets: BTreeMap<&'static str, Elements>,
}

/// The rules and elements that stood in the kernel when they were read.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    tables: BTreeMap<Family, TableRules>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn number(attributes: &AttributeIter<'_>, kind: u16) -> Option<u32> {
    attributes.get(kind).and_then(|v| v.try_into().ok()).map(u32::from_be_bytes)
}

fn turn(verdict: &AttributeIter<'_>) -> Result<Turn, TraceError> {
    let code = number(verdict, 1).map(u32::cast_signed);
    let chain = verdict.get(2).map(text);
    match (code, chain) {
        (Some(0), _) => Ok(Turn::Drop),
        (Some(1), _) => Ok(Turn::Accept),
        (Some(-1), _) => Ok(Turn::Continue),
        (Some(-3), Some(chain)) => Ok(Turn::Jump(chain)),
        (Some(-4), Some(chain)) => Ok(Turn::Goto(chain)),
        (Some(-5), _) => Ok(Turn::Return),
        (code, _) => Err(TraceError::Unknown(format!("verdict {code:?}"))),
    }
}

impl Ruleset {
    /// Reads both families' tables; one that is not there has no rules.
    pub(super) fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let mut tables = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            match TableRules::read(netlink, family) {
                Ok(table) => tables.insert(family, table),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
        }
        Ok(Self { tables })
    }

    /// What becomes of the first packet of a connection, before anything was learnt of its sender.
    ///
    /// # Errors
    ///
    /// The rules have something that the walk does not know, or an endpoint that is looked for is missing.
    pub fn trace(&self, packet: &Packet<'_>) -> Result<Fate, TraceError> {
        let family = if packet.destination.is_ipv4() { Family::V4 } else { Family::V6 };
        let Some(table) = self.tables.get(&family) else { return Ok(Fate::Pass) };
        let (mut outcomes, mut ways) = (Outcomes::default(), 1);
        while outcomes.runs() < ways {
            let mut walk = Walk::new(table, family, packet, outcomes.runs());
            let end = walk.through(packet)?;
            ways = ways.max(walk.choices);
            outcomes.add(end, walk.stays);
        }
        outcomes.fate()
    }
}

impl TableRules {
    fn read(netlink: &mut Netlink, family: Family) -> Result<Self, NetlinkError> {
        let mut table = Self::default();
        for set in Set::ALL {
            let elements = table.sets.entry(set.name()).or_default();
            dump_ranges(netlink, family, set, |key, end, value| {
                let value = value.and_then(|v| match v.nest(2) {
                    Some(verdict) => turn(&verdict).ok().map(Value::Turn),
                    None => v.get(1).map(|bytes| Value::Bytes(bytes.to_vec())),
                });
                match end {
                    Some(end) => elements.ranges.push((key.to_vec(), end.to_vec())),
                    None => drop(elements.exact.insert(key.to_vec(), value)),
                }
            })?;
        }
        let mut request = Messages::default();
        request.push(kind::GET_CHAIN, flags::DUMP, family.number(), |a| a.text(1, TABLE));
        netlink.dump(&request, |message| {
            let attributes = message.attributes();
            if attributes.get(1).map(text).as_deref() == Some(TABLE)
                && let Some(hook) = attributes.nest(4).and_then(|h| number(&h, 1))
                && let Some(name) = attributes.get(3)
            {
                table.hooks.insert(hook, text(name));
            }
        })?;
        let mut request = Messages::default();
        request.push(kind::GET_RULE, flags::DUMP, family.number(), |a| a.text(1, TABLE));
        netlink.dump(&request, |message| {
            let attributes = message.attributes();
            let Some(chain) = attributes.get(2).map(text) else { return };
            if attributes.get(1).map(text).as_deref() != Some(TABLE) {
                return;
            }
            let list = attributes.nest(4).into_iter().flatten().filter_map(|(_, expression)| {
                let expression = AttributeIter::new(expression);
                Some((text(expression.get(1)?), expression.get(2).unwrap_or_default().to_vec()))
            });
            table.rules.entry(chain).or_default().push(list.collect());
        })?;
        Ok(table)
    }
}

/// What the rest of a chain is spared.
#[derive(Debug)]
enum Stop {
    Accepted,
    Dropped,
    Refused,
}

/// One packet on one of its ways.
struct Walk<'a> {
    table: &'a TableRules,
    family: Family,
    registers: [u8; REGISTERS],
    network: [u8; 40],
    transport: [u8; 4],
    protocol: u8,
    interface: &'a str,
    mark: u32,
    /// `ct status`.
    status: u32,
    from_node: bool,
    to_node: bool,
    /// Which of the equally likely ways.
    number: u32,
    /// How many there are.
    choices: u32,
    destination: Option<Backend>,
    masquerade: bool,
    /// Seconds for which the sender's endpoint is kept in mind.
    stays: Option<u32>,
}

impl<'a> Walk<'a> {
    fn new(table: &'a TableRules, family: Family, packet: &Packet<'a>, number: u32) -> Self {
        let mut walk = Self {
            table,
            family,
            registers: [0; REGISTERS],
            network: [0; 40],
            transport: [0; 4],
            protocol: super::elements::protocol_number(packet.protocol),
            interface: packet.interface,
            mark: 0,
            status: 0,
            from_node: packet.from_node,
            to_node: packet.to_node,
            number,
            choices: 1,
            destination: None,
            masquerade: false,
            stays: None,
        };
        walk.write_addresses(packet.source, packet.destination);
        walk.transport[2..].copy_from_slice(&packet.port.to_be_bytes());
        walk
    }

    fn write_addresses(&mut self, source: IpAddr, destination: IpAddr) {
        let at = if self.family == Family::V4 { 12 } else { 8 };
        let both = [octets(source), octets(destination)].concat();
        self.network[at..at + both.len()].copy_from_slice(&both);
    }

    fn through(&mut self, packet: &Packet<'_>) -> Result<End, TraceError> {
        let stop = self.hook(if packet.from_node { OUTPUT } else { PREROUTING })?;
        match stop {
            Some(Stop::Dropped) => return Ok(End::Otherwise(Fate::Drop)),
            Some(Stop::Refused) => return Ok(End::Otherwise(Fate::Reject)),
            Some(Stop::Accepted) | None => {}
        }
        let Some(backend) = self.destination else { return Ok(End::Otherwise(Fate::Pass)) };
        self.write_addresses(packet.source, backend.address);
        self.transport[2..].copy_from_slice(&backend.port.to_be_bytes());
        self.status |= IPS_DST_NAT;
        match self.hook(POSTROUTING)? {
            Some(Stop::Dropped | Stop::Refused) => Ok(End::Otherwise(Fate::Drop)),
            Some(Stop::Accepted) | None => Ok(End::At(backend, self.masquerade)),
        }
    }

    fn hook(&mut self, hook: u32) -> Result<Option<Stop>, TraceError> {
        match self.table.hooks.get(&hook) {
            Some(chain) => self.chain(chain, 0),
            None => Ok(None),
        }
    }

    /// `None`: the chain's end was reached.
    fn chain(&mut self, name: &str, depth: usize) -> Result<Option<Stop>, TraceError> {
        if depth > DEEPEST {
            return Err(TraceError::Unknown("jumps too deep".to_owned()));
        }
        let table = self.table;
        for rule in table.rules.get(name).into_iter().flatten() {
            match self.rule(rule)? {
                Err(stop) => return Ok(Some(stop)),
                Ok(Turn::Continue) => {}
                Ok(Turn::Accept) => return Ok(Some(Stop::Accepted)),
                Ok(Turn::Drop) => return Ok(Some(Stop::Dropped)),
                Ok(Turn::Return) => return Ok(None),
                Ok(Turn::Goto(chain)) => return self.chain(&chain, depth + 1),
                Ok(Turn::Jump(chain)) => {
                    if let Some(stop) = self.chain(&chain, depth + 1)? {
                        return Ok(Some(stop));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Runs a rule until one of its expressions does not match or turns off.
    fn rule(&mut self, rule: &[Expression]) -> Result<Result<Turn, Stop>, TraceError> {
        for (name, data) in rule {
            match self.step(name, &AttributeIter::new(data))? {
                Step::On => {}
                Step::Break => return Ok(Ok(Turn::Continue)),
                Step::Turn(turn) => return Ok(Ok(turn)),
                Step::Stop(stop) => return Ok(Err(stop)),
            }
        }
        Ok(Ok(Turn::Continue))
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len().next_multiple_of(4)).min(REGISTERS);
        if let Some(room) = self.registers.get_mut(at..end) {
            room.fill(0);
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        }
    }

    fn load(&self, at: usize, length: usize) -> &[u8] {
        self.registers.get(at..at + length).unwrap_or_default()
    }

    fn word(&self, at: usize) -> u32 {
        self.load(at, 4).try_into().map_or(0, u32::from_ne_bytes)
    }

    fn step(&mut self, name: &str, a: &AttributeIter<'_>) -> Result<Step, TraceError> {
        let unknown = || TraceError::Unknown(format!("a form of {name}"));
        let at = |kind| register(a, kind).ok_or_else(unknown);
        match name {
            "payload" => {
                let (base, offset) = (number(a, 2), number(a, 3).unwrap_or(0) as usize);
                let header: &[u8] = match base {
                    Some(1) => &self.network,
                    Some(2) => &self.transport,
                    _ => return Err(unknown()),
                };
                let length = number(a, 4).unwrap_or(0) as usize;
                let bytes = header.get(offset..offset + length).ok_or_else(unknown)?.to_vec();
                self.store(at(1)?, &bytes);
            }
            "meta" => return self.meta(a),
            "ct" if number(a, 2) == Some(2) => self.store(at(1)?, &self.status.to_ne_bytes()),
            "fib" if number(a, 2) == Some(3) => {
                let local = match number(a, 3) {
                    Some(1) => self.from_node,
                    Some(2) => self.to_node,
                    _ => return Err(unknown()),
                };
                let kind = if local { RTN_LOCAL } else { RTN_UNICAST };
                self.store(at(1)?, &kind.to_ne_bytes());
            }
            "numgen" => {
                let modulus = number(a, 2).unwrap_or(1).max(1);
                self.choices = self.choices.max(modulus);
                let chosen = number(a, 4).unwrap_or(0) + self.number % modulus;
                self.store(at(1)?, &chosen.to_ne_bytes());
            }
            "bitwise" => {
                let length = number(a, 3).unwrap_or(0) as usize;
                let operand = |kind| a.nest(kind).and_then(|n| n.get(1)).ok_or_else(unknown);
                let (mask, xor) = (operand(4)?, operand(5)?);
                let from = self.load(at(1)?, length);
                let bytes: Vec<u8> =
                    from.iter().zip(mask.iter().zip(xor)).map(|(b, (m, x))| (b & m) ^ x).collect();
                self.store(at(2)?, &bytes);
            }
            "cmp" => {
                let value = a.nest(3).and_then(|n| n.get(1)).ok_or_else(unknown)?;
                let equal = self.load(at(1)?, value.len()) == value;
                let wanted = match number(a, 2) {
                    Some(0) => equal,
                    Some(1) => !equal,
                    _ => return Err(unknown()),
                };
                return Ok(if wanted { Step::On } else { Step::Break });
            }
            "lookup" => return self.lookup(a),
            "immediate" => {
                let verdict = a.nest(2).and_then(|d| d.nest(2)).ok_or_else(unknown)?;
                return turn(&verdict).map(Step::Turn);
            }
            "reject" => return Ok(Step::Stop(Stop::Refused)),
            "nat" if number(a, 1) == Some(1) => {
                let address = read_address(self.load(at(3)?, self.family.octets())).ok_or_else(unknown)?;
                let port = self.load(at(5)?, 2).try_into().map_or(0, u16::from_be_bytes);
                self.destination = Some(Backend { address, port });
                return Ok(Step::Stop(Stop::Accepted));
            }
            "masq" => {
                self.masquerade = true;
                return Ok(Step::Stop(Stop::Accepted));
            }
            "dynset" => {
                let timeout = a.get(6).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes);
                self.stays = timeout.map(|ms| (ms / 1000) as u32).or(self.stays);
            }
            // Counts, and changes nothing.
            "counter" => {}
            _ => return Err(TraceError::Unknown(format!("expression {name}"))),
        }
        Ok(Step::On)
    }

    fn meta(&mut self, a: &AttributeIter<'_>) -> Result<Step, TraceError> {
        match (number(a, 2), register(a, 1), register(a, 3)) {
            (Some(3), Some(to), None) => self.store(to, &self.mark.to_ne_bytes()),
            (Some(3), None, Some(from)) => self.mark = self.word(from),
            (Some(16), Some(to), None) => self.store(to, &[self.protocol]),
            // What the node sends came in by nothing.
            (Some(6), Some(_), None) if self.interface.is_empty() => return Ok(Step::Break),
            (Some(6), Some(to), None) => {
                let mut name = self.interface.as_bytes().to_vec();
                name.resize(16, 0);
                self.store(to, &name);
            }
            (key, ..) => return Err(TraceError::Unknown(format!("meta key {key:?}"))),
        }
        Ok(Step::On)
    }

    fn lookup(&mut self, a: &AttributeIter<'_>) -> Result<Step, TraceError> {
        let unknown = |what: &str| TraceError::Unknown(format!("a look-up of {what}"));
        let name = a.get(1).map(text).unwrap_or_default();
        let set = self.table.sets.get(&*name).ok_or_else(|| unknown(&name))?;
        let key = register(a, 2).ok_or_else(|| unknown(&name))?;
        let exact = set.exact.keys().next().and_then(|k| set.exact.get_key_value(self.load(key, k.len())));
        // Ranges of a concatenation: each part lies within its own.
        let within = |(first, last): &(Vec<u8>, Vec<u8>)| {
            let words = |bytes: &[u8]| -> Vec<Vec<u8>> { parts(bytes, self.family) };
            let wanted = words(self.load(key, first.len()));
            let bounds = words(first).into_iter().zip(words(last));
            wanted.iter().zip(bounds).all(|(w, (first, last))| first <= *w && *w <= last)
        };
        let found = exact.is_some() || set.ranges.iter().any(within);
        if number(a, 5).unwrap_or(0) & 1 != 0 {
            return Ok(if found { Step::Break } else { Step::On });
        }
        let value = exact.and_then(|(_, v)| v.as_ref());
        match (found, number(a, 3), value) {
            (false, ..) => Ok(Step::Break),
            (true, None, _) => Ok(Step::On),
            (true, Some(0), Some(Value::Turn(turn))) => Ok(Step::Turn(turn.clone())),
            (true, Some(_), Some(Value::Bytes(bytes))) => {
                let to = register(a, 3).ok_or_else(|| unknown(&name))?;
                self.store(to, &bytes.clone());
                Ok(Step::On)
            }
            _ => Err(unknown(&name)),
        }
    }
}

/// What an expression comes to.
enum Step {
    On,
    Break,
    Turn(Turn),
    Stop(Stop),
}

/// Where a register begins, in bytes. The kernel says the old names of 16 bytes each where one begins there
/// (nft_dump_register).
fn register(a: &AttributeIter<'_>, kind: u16) -> Option<usize> {
    match number(a, kind)? {
        wide @ 1..=4 => Some((wide as usize - 1) * 16),
        word @ 8..24 => Some((word as usize - 8) * 4),
        _ => None,
    }
}

/// Address, protocol, port, address.
fn parts(bytes: &[u8], family: Family) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut found = Vec::new();
    for length in [family.octets(), 4, 4, family.octets()] {
        let (part, behind) = rest.split_at(length.min(rest.len()));
        found.push(part.to_vec());
        rest = behind;
    }
    found
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|o| Ipv4Addr::from(o).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|o| Ipv6Addr::from(o).into()),
        _ => None,
    }
}
