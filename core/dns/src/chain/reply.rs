//! Answers: made of sections, classed as CoreDNS classes them, shuffled.

use crate::message::{Data, Flags, Message, Record, rcode, rtype};

/// The sections of an answer of this server's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// Response code.
    pub rcode: u16,
    /// Answers.
    pub answers: Vec<Record>,
    /// Authority.
    pub authority: Vec<Record>,
    /// Additional.
    pub additional: Vec<Record>,
}

impl From<Reply> for Message {
    /// Authoritative, unless it is a bare refusal.
    fn from(reply: Reply) -> Self {
        let own = !matches!(reply.rcode, rcode::REFUSED | rcode::SERVFAIL) || !reply.authority.is_empty();
        Message {
            flags: Flags { authoritative: own, ..Flags::default() },
            rcode: reply.rcode,
            answers: reply.answers,
            authority: reply.authority,
            additional: reply.additional,
            ..Message::default()
        }
    }
}

/// Sorts of answers (`plugin/pkg/response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Records, or nothing at all without an SOA.
    NoError,
    /// NXDOMAIN.
    NameError,
    /// SERVFAIL, NOTIMP.
    ServerError,
    /// The name is there, the type is not.
    NoData,
    /// Name servers to ask instead.
    Delegation,
    /// A zone transfer or NOTIFY.
    Meta,
    /// A dynamic update.
    Update,
    /// Anything else that went wrong.
    OtherError,
}

impl Class {
    /// As metadata calls it (`log/type`).
    pub fn as_str(self) -> &'static str {
        match self {
            Class::NoError => "NOERROR",
            Class::NameError => "NXDOMAIN",
            Class::ServerError => "SERVERERROR",
            Class::NoData => "NODATA",
            Class::Delegation => "DELEGATION",
            Class::Meta => "META",
            Class::Update => "UPDATE",
            Class::OtherError => "OTHERERROR",
        }
    }
}

/// What sort of answer this is to a question for `asked` (`Typify`, but for signatures that have ended).
pub fn classify(reply: &Message, asked: u16) -> Class {
    match reply.flags.opcode {
        5 => return Class::Update,
        4 => return Class::Meta,
        _ if matches!(asked, rtype::AXFR | rtype::IXFR) => return Class::Meta,
        _ => {}
    }
    let soa = reply.authority.iter().any(|record| matches!(record.data, Data::Soa(_)));
    let ns = reply.authority.iter().any(|record| matches!(record.data, Data::Ns(_)));
    match (reply.rcode, reply.answers.is_empty()) {
        (rcode::NOERROR, false) => Class::NoError,
        (rcode::NXDOMAIN, false) => Class::OtherError,
        (rcode::NOERROR, true) if soa => Class::NoData,
        (rcode::NXDOMAIN, true) => Class::NameError,
        (rcode::SERVFAIL | rcode::NOTIMP, _) => Class::ServerError,
        (rcode::NOERROR, true) if ns => Class::Delegation,
        (rcode::NOERROR, true) => Class::NoError,
        _ => Class::OtherError,
    }
}

/// Fisher-Yates with a multiplicative generator from one number.
pub fn shuffle<T>(items: &mut [T], random: u64) {
    let mut state = random | 1;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bound = i as u64 + 1;
        let j = usize::try_from((state >> 33) % bound).unwrap_or(0);
        items.swap(i, j);
    }
}
