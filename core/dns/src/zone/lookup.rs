//! Answers out of a zone (RFC 1034 section 4.3.2, RFC 4592, RFC 6672, RFC 4035 section 3.1), composed as CoreDNS's
//! `plugin/file/lookup.go` composes them.
//!
//! Its order is kept where RFCs leave a choice: NS of the apex in the authority section of positive answers, the
//! SOA with its own TTL in negative ones, an alias whose target has no such type is a positive answer, ANY has no
//! records. Four things are the RFCs': an empty non-terminal is no wildcard's to answer (RFC 4592 section 2.2.2) and
//! is a closest encloser in denials, signatures of a wildcard's CNAME carry the name that was asked, and a DNAME
//! whose result is too long says so (RFC 6672 section 2.2).

use super::tree::{Node, Zone};
use crate::message::{Data, Record, rcode, rtype};
use crate::name::Name;

/// Aliases followed inside of a zone.
const MAX_ALIASES: usize = 8;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There are records.
    Success,
    /// The name has no records of that type.
    NoData,
    /// The name has no records at all, names below it have: NOERROR, and `fallthrough` takes it as NXDOMAIN.
    EmptyNonTerminal,
    /// There is no such name.
    NameError,
    /// Other servers know.
    Delegation,
    /// The zone loops, or a target could not be had.
    ServerFailure,
    /// A DNAME makes a name that is too long.
    TooLong,
}

/// An answer's sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
    /// Answer section.
    pub answer: Vec<Record>,
    /// Authority section.
    pub authority: Vec<Record>,
    /// Additional section.
    pub additional: Vec<Record>,
    /// The wildcard that it came from (CoreDNS's metadata `zone/wildcard`).
    pub wildcard: Option<Name>,
}

impl Answer {
    fn new(outcome: Outcome, answer: Vec<Record>, authority: Vec<Record>, additional: Vec<Record>) -> Self {
        Answer { outcome, answer, authority, additional, wildcard: None }
    }

    /// The response code.
    pub fn rcode(&self) -> u16 {
        match self.outcome {
            Outcome::NameError => rcode::NXDOMAIN,
            Outcome::ServerFailure => rcode::SERVFAIL,
            Outcome::TooLong => rcode::YXDOMAIN,
            Outcome::Success | Outcome::NoData | Outcome::EmptyNonTerminal | Outcome::Delegation => {
                rcode::NOERROR
            }
        }
    }

    /// AA: a bare referral is not authoritative, one behind an alias is.
    pub fn is_authoritative(&self) -> bool {
        self.outcome != Outcome::Delegation || !self.answer.is_empty()
    }

    /// Whether `fallthrough` may hand the question on.
    pub fn falls_through(&self) -> bool {
        self.answer.is_empty() && matches!(self.outcome, Outcome::NameError | Outcome::EmptyNonTerminal)
    }
}

/// An alias whose target the zone does not know: the caller asks for it (its own server first, as CoreDNS), and
/// hands what it got to [`Zone::chased`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chase {
    /// What to ask for.
    pub target: Name,
    /// Of which type.
    pub rtype: u16,
    /// The records that led there.
    pub answer: Vec<Record>,
    /// Signatures are wanted.
    pub dnssec_ok: bool,
    /// The wildcard that it came from.
    pub wildcard: Option<Name>,
}

/// What a zone says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This is the answer.
    Answer(Answer),
    /// The end of an alias is to be found first. Who follows more than eight such says SERVFAIL.
    Chase(Chase),
}

/// What asking for a [`Chase`]'s target gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chased {
    /// An answer: its response code and answer section.
    Answered(u16, Vec<Record>),
    /// Nobody answered.
    Failed,
    /// There is nobody to ask.
    Unasked,
}

/// `prefix` labels of a name moved under another: RFC 6672 section 2.2. `None`: too long.
fn moved(name: &Name, from: &Name, to: &Name) -> Option<Name> {
    let labels = name.within(from)?;
    Name::from_labels(labels.into_iter().chain(to.labels())).ok()
}

/// The name without its first label; `None` at the root.
fn parent(name: &Name) -> Option<Name> {
    let (&len, _) = name.wire().split_first()?;
    Name::from_wire(name.wire().get(1 + usize::from(len)..)?)
}

/// `*.` in front; `None` where that is too long.
fn wildcard_of(name: &Name) -> Option<Name> {
    Name::from_labels([b"*".as_slice()].into_iter().chain(name.labels())).ok()
}

/// The name and those above it down from `origin`, `origin` first.
fn path(name: &Name, origin: &Name) -> Vec<Name> {
    let mut out = vec![name.clone()];
    while let Some(last) = out.last()
        && last != origin
        && let Some(up) = parent(last)
    {
        out.push(up);
    }
    out.reverse();
    out
}

fn renamed(records: Vec<Record>, name: &Name) -> Vec<Record> {
    records.into_iter().map(|r| Record { name: name.clone(), ..r }).collect()
}

impl Zone {
    /// What the zone says about a question; SERVFAIL where the name is not within it. AXFR and IXFR are not asked
    /// here.
    pub fn lookup(&self, name: &Name, rtype: u16, dnssec_ok: bool) -> Found {
        let name = name.to_lowercase();
        let ask = Ask { zone: self, rtype, dnssec_ok };
        if !name.is_within(self.origin()) {
            return Found::Answer(Answer::new(Outcome::ServerFailure, vec![], vec![], vec![]));
        }
        ask.lookup(&name)
    }

    /// The answer, when an alias's target was asked for.
    pub fn chased(&self, chase: Chase, got: Chased) -> Answer {
        let Chase { rtype, mut answer, dnssec_ok, wildcard, .. } = chase;
        let (outcome, records) = match got {
            Chased::Failed => (Outcome::ServerFailure, vec![]),
            Chased::Unasked => (Outcome::Success, vec![]),
            Chased::Answered(rcode::NXDOMAIN, records) => (Outcome::NameError, records),
            Chased::Answered(rcode::SERVFAIL, records) => (Outcome::ServerFailure, records),
            Chased::Answered(rcode::NOERROR, records) if records.is_empty() => (Outcome::NoData, records),
            Chased::Answered(_, records) => (Outcome::Success, records),
        };
        answer.extend(records);
        let ask = Ask { zone: self, rtype, dnssec_ok };
        let authority = match outcome {
            Outcome::NameError | Outcome::NoData => ask.apex(rtype::SOA),
            _ => ask.apex(rtype::NS),
        };
        let additional = ask.additional(&answer);
        Answer { outcome, answer, authority, additional, wildcard }
    }
}

/// A question's type and the zone that it is put to.
struct Ask<'a> {
    zone: &'a Zone,
    rtype: u16,
    dnssec_ok: bool,
}

impl Ask<'_> {
    fn apex(&self, rtype: u16) -> Vec<Record> {
        self.zone.apex().signed(rtype, self.dnssec_ok)
    }

    fn lookup(&self, name: &Name) -> Found {
        let zone = self.zone;
        if name == zone.origin() && matches!(self.rtype, rtype::SOA | rtype::NS) {
            let answer = self.apex(self.rtype);
            let (authority, additional) = match self.rtype {
                rtype::SOA => (self.apex(rtype::NS), vec![]),
                _ => (vec![], self.glue(zone.apex().set(rtype::NS))),
            };
            return Found::Answer(Answer::new(Outcome::Success, answer, authority, additional));
        }
        // From the apex down: aliases of subtrees and cuts come before what is below them.
        let mut closest = zone.origin().clone();
        for at in path(name, zone.origin()) {
            let Some(node) = zone.node(&at) else {
                if zone.has_below(&at) {
                    closest = at;
                }
                continue;
            };
            if &at != name
                && let Some(found) = self.redirect(name, node)
            {
                return found;
            }
            if let Some((authority, additional)) = self.cut(node, name) {
                return Found::Answer(Answer::new(Outcome::Delegation, vec![], authority, additional));
            }
            closest = at;
        }
        if &closest != name {
            return self.missing(name, &closest);
        }
        match zone.node(name) {
            Some(node) => self.at(node, name, None),
            None => self.denied(Outcome::EmptyNonTerminal, name, &closest),
        }
    }

    /// The answer of a name's own records, or of those of the wildcard that stands for it.
    fn at(&self, node: &Node, name: &Name, wildcard: Option<&Name>) -> Found {
        let own = |records| if wildcard.is_some() { renamed(records, name) } else { records };
        if self.rtype != rtype::CNAME
            && let Some(target) = alias(node.set(rtype::CNAME))
        {
            let aliases = own(node.signed(rtype::CNAME, self.dnssec_ok));
            return self.follow(aliases, target, wildcard);
        }
        if node.set(self.rtype).is_empty() {
            let mut authority = self.apex(rtype::SOA);
            if self.dnssec_ok {
                authority.extend(node.signed(rtype::NSEC, true));
            }
            let mut answer = Answer::new(Outcome::NoData, vec![], authority, vec![]);
            answer.wildcard = wildcard.cloned();
            return Found::Answer(answer);
        }
        let answer = own(node.signed(self.rtype, self.dnssec_ok));
        let additional = self.additional(&answer);
        let mut authority = self.apex(rtype::NS);
        // The name itself is not there (RFC 4035 section 3.1.3.3).
        if self.dnssec_ok
            && wildcard.is_some()
            && let Some(before) = self.zone.denying(name)
        {
            authority.extend(before.signed(rtype::NSEC, true));
        }
        let wildcard = wildcard.cloned();
        Found::Answer(Answer { outcome: Outcome::Success, answer, authority, additional, wildcard })
    }

    /// A name that is not there: the closest encloser's wildcard speaks for it, or nobody (RFC 4592 section 3.3.1).
    fn missing(&self, name: &Name, closest: &Name) -> Found {
        if let Some(wildcard) = wildcard_of(closest) {
            match self.zone.node(&wildcard) {
                // A cut at a wildcard is not defined (RFC 4592 section 4.2): its records are plain ones.
                Some(node) => return self.at(node, name, Some(&wildcard)),
                // An empty non-terminal with that name: it has no data, and so has what it stands for.
                None if self.zone.has_below(&wildcard) => {
                    let authority = self.apex(rtype::SOA);
                    return Found::Answer(Answer::new(Outcome::NoData, vec![], authority, vec![]));
                }
                None => {}
            }
        }
        self.denied(Outcome::NameError, name, closest)
    }

    /// No such name (RFC 4035 section 3.1.3.2), or one that is empty.
    fn denied(&self, outcome: Outcome, name: &Name, closest: &Name) -> Found {
        let mut authority = self.apex(rtype::SOA);
        if self.dnssec_ok
            && let Some(before) = self.zone.denying(name)
        {
            authority.extend(before.signed(rtype::NSEC, true));
            let wildcard = wildcard_of(closest).filter(|_| outcome == Outcome::NameError);
            if let Some(deny) = wildcard.and_then(|w| self.zone.denying(&w))
                && deny.name != before.name
            {
                authority.extend(deny.signed(rtype::NSEC, true));
            }
        }
        Found::Answer(Answer::new(outcome, vec![], authority, vec![]))
    }

    /// A DNAME above the name (RFC 6672 section 3.2).
    fn redirect(&self, name: &Name, node: &Node) -> Option<Found> {
        // One at most (section 2.4): the first.
        let dname = node.set(rtype::DNAME).first()?;
        let Data::Other(_, octets) = &dname.data else { return None };
        let to = Name::from_wire(octets)?;
        let mut front = vec![dname.clone()];
        if self.dnssec_ok {
            front.extend(node.signatures(rtype::DNAME).cloned());
        }
        let Some(target) = moved(name, &node.name, &to) else {
            return Some(Found::Answer(Answer::new(Outcome::TooLong, front, vec![], vec![])));
        };
        if &target == name {
            return Some(Found::Answer(Answer::new(Outcome::ServerFailure, vec![], vec![], vec![])));
        }
        front.push(Record::new(name.clone(), dname.ttl, Data::Cname(target.clone())));
        Some(if self.rtype == rtype::CNAME {
            let authority = self.apex(rtype::NS);
            Found::Answer(Answer::new(Outcome::Success, front, authority, vec![]))
        } else {
            self.follow(front, target, None)
        })
    }

    /// Follows the alias to `target` that `answer` ends in. Of several aliases at one name, which no zone should have,
    /// the first counts.
    fn follow(&self, mut answer: Vec<Record>, mut target: Name, wildcard: Option<&Name>) -> Found {
        let zone = self.zone;
        let done = |outcome, answer: Vec<Record>, authority, additional| {
            let wildcard = wildcard.cloned();
            Found::Answer(Answer { outcome, answer, authority, additional, wildcard })
        };
        for _ in 0..=MAX_ALIASES {
            if let Some((authority, additional)) = self.cut_above(&target) {
                return done(Outcome::Delegation, answer, authority, additional);
            }
            let apex = &target == zone.origin();
            let node =
                zone.node(&target).filter(|_| self.rtype != rtype::NS && (self.rtype != rtype::SOA || !apex));
            let Some(node) = node else {
                let (rtype, dnssec_ok, wildcard) = (self.rtype, self.dnssec_ok, wildcard.cloned());
                return Found::Chase(Chase { target, rtype, answer, dnssec_ok, wildcard });
            };
            let Some(next) = alias(node.set(rtype::CNAME)) else {
                if !node.set(self.rtype).is_empty() {
                    answer.extend(node.signed(self.rtype, self.dnssec_ok));
                }
                break;
            };
            answer.extend(node.signed(rtype::CNAME, self.dnssec_ok));
            target = next;
        }
        let additional = self.additional(&answer);
        done(Outcome::Success, answer, self.apex(rtype::NS), additional)
    }

    /// The first cut between the apex and a target.
    fn cut_above(&self, target: &Name) -> Option<(Vec<Record>, Vec<Record>)> {
        if !target.is_within(self.zone.origin()) {
            return None;
        }
        let nodes = path(target, self.zone.origin());
        nodes.iter().filter_map(|at| self.zone.node(at)).find_map(|node| self.cut(node, target))
    }

    /// The referral, where a node is a cut. DS at the cut itself is the parent's to answer (RFC 4035 section 3.1.4.1).
    fn cut(&self, node: &Node, name: &Name) -> Option<(Vec<Record>, Vec<Record>)> {
        let servers = node.set(rtype::NS);
        let at_cut = self.rtype == rtype::DS && &node.name == name;
        if servers.is_empty() || at_cut || &node.name == self.zone.origin() {
            return None;
        }
        let mut authority = servers.to_vec();
        if self.dnssec_ok {
            authority.extend(node.signed(rtype::DS, true));
        }
        Some((authority, self.glue(servers)))
    }

    /// Addresses of name servers below the name that they serve.
    fn glue(&self, servers: &[Record]) -> Vec<Record> {
        let targets = servers.iter().filter_map(|r| match &r.data {
            Data::Ns(target) if target.is_within(&r.name) => Some(target),
            _ => None,
        });
        targets.filter_map(|t| self.zone.node(t)).flat_map(|node| self.addresses(node)).collect()
    }

    fn addresses(&self, node: &Node) -> Vec<Record> {
        let mut out = node.signed(rtype::A, self.dnssec_ok && !node.set(rtype::A).is_empty());
        out.extend(node.signed(rtype::AAAA, self.dnssec_ok && !node.set(rtype::AAAA).is_empty()));
        out
    }

    /// Addresses of the targets that the answer names, each once.
    fn additional(&self, answer: &[Record]) -> Vec<Record> {
        let mut seen: Vec<Name> = Vec::new();
        let mut out = Vec::new();
        for record in answer {
            let target = match &record.data {
                Data::Srv(_, _, _, target) | Data::Mx(_, target) => target.clone(),
                Data::Other(rtype::SVCB | rtype::HTTPS, octets) => match bound(octets) {
                    Some(target) => target,
                    None => continue,
                },
                _ => continue,
            };
            if !target.is_within(self.zone.origin()) || seen.contains(&target) {
                continue;
            }
            if let Some(node) = self.zone.node(&target) {
                out.extend(self.addresses(node));
            }
            seen.push(target);
        }
        out
    }
}

/// Where a set of aliases leads.
fn alias(set: &[Record]) -> Option<Name> {
    match &set.first()?.data {
        Data::Cname(target) => Some(target.to_lowercase()),
        _ => None,
    }
}

/// The target of a service binding.
fn bound(octets: &[u8]) -> Option<Name> {
    let rest = octets.get(2..)?;
    let mut len = 0;
    while let Some(&label) = rest.get(len).filter(|l| **l != 0) {
        len += 1 + usize::from(label);
    }
    Name::from_wire(rest.get(..=len)?)
}
