//! DNS messages: RFC 1035 with EDNS0 (RFC 6891), RFC 2308's negative answers and RFC 3597's unknown types.

pub mod grpc;
mod location;
mod params;
pub mod presentation;
pub mod protobuf;
pub mod rtype;
pub(crate) mod shape;
mod suffixes;
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::name::Name;
pub use wire::{DecodeError, decode, encode, encode_within};

/// The class of everything here.
pub const CLASS_IN: u16 = 1;

/// Response codes.
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The query makes no sense.
    pub const FORMERR: u16 = 1;
    /// The server could not.
    pub const SERVFAIL: u16 = 2;
    /// No such name.
    pub const NXDOMAIN: u16 = 3;
    /// No such operation here.
    pub const NOTIMP: u16 = 4;
    /// Not for you.
    pub const REFUSED: u16 = 5;
    /// A name exists that should not: a DNAME makes one that is too long (RFC 6672 section 2.2).
    pub const YXDOMAIN: u16 = 6;
    /// Not authoritative for the zone (RFC 2136, RFC 5936).
    pub const NOTAUTH: u16 = 9;
    /// EDNS version (RFC 6891).
    pub const BADVERS: u16 = 16;

    /// How people write it.
    pub fn name(rcode: u16) -> String {
        let row = NAMES.iter().find(|row| row.0 == rcode);
        row.map_or_else(|| format!("RCODE{rcode}"), |row| row.1.to_owned())
    }

    /// The code of that name, letters' case aside; `None` where there is none.
    pub fn from_name(name: &str) -> Option<u16> {
        NAMES.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// IANA's registry. The first name of a code is the one that is written.
    const NAMES: &[(u16, &str)] = &[
        (NOERROR, "NOERROR"),
        (FORMERR, "FORMERR"),
        (SERVFAIL, "SERVFAIL"),
        (NXDOMAIN, "NXDOMAIN"),
        (NOTIMP, "NOTIMP"),
        (NOTIMP, "NOTIMPL"),
        (REFUSED, "REFUSED"),
        (YXDOMAIN, "YXDOMAIN"),
        (7, "YXRRSET"),
        (8, "NXRRSET"),
        (NOTAUTH, "NOTAUTH"),
        (10, "NOTZONE"),
        (BADVERS, "BADVERS"),
        (BADVERS, "BADSIG"),
        (17, "BADKEY"),
        (18, "BADTIME"),
        (19, "BADMODE"),
        (20, "BADNAME"),
        (21, "BADALG"),
        (22, "BADTRUNC"),
        (23, "BADCOOKIE"),
    ];
}

/// Classes (RFC 6895 section 3.2).
pub mod class {
    /// How people write it: `IN`, `CLASS42`.
    pub fn name(class: u16) -> String {
        let row = NAMES.iter().find(|row| row.0 == class);
        row.map_or_else(|| format!("CLASS{class}"), |row| row.1.to_owned())
    }

    /// The class of that name, letters' case aside; `None` where there is none.
    pub fn from_name(name: &str) -> Option<u16> {
        NAMES.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// Every class.
    pub const ANY: u16 = 255;

    const NAMES: &[(u16, &str)] = &[(1, "IN"), (2, "CS"), (3, "CH"), (4, "HS"), (254, "NONE"), (ANY, "ANY")];
}

/// The header's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Flags {
    /// It is a response (QR).
    pub response: bool,
    /// Operation, 0: query.
    pub opcode: u8,
    /// AA.
    pub authoritative: bool,
    /// TC.
    pub truncated: bool,
    /// RD.
    pub recursion_desired: bool,
    /// RA.
    pub recursion_available: bool,
    /// Z, reserved.
    pub zero: bool,
    /// AD (RFC 4035).
    pub authentic: bool,
    /// CD (RFC 4035).
    pub checking_disabled: bool,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Name, in the case in which it was asked.
    pub name: Name,
    /// Type.
    pub rtype: u16,
    /// Class.
    pub class: u16,
}

/// A record's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A
    A(Ipv4Addr),
    /// AAAA
    Aaaa(Ipv6Addr),
    /// NS
    Ns(Name),
    /// CNAME
    Cname(Name),
    /// PTR
    Ptr(Name),
    /// SOA
    Soa(Box<Soa>),
    /// MX: preference and exchange.
    Mx(u16, Name),
    /// TXT: strings of at most 255 octets.
    Txt(Vec<Box<[u8]>>),
    /// SRV: priority, weight, port, target.
    Srv(u16, u16, u16, Name),
    /// Any other type, names in it uncompressed (RFC 3597).
    Other(u16, Box<[u8]>),
}

/// SOA's data; times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// Primary name server.
    pub mname: Name,
    /// Mailbox.
    pub rname: Name,
    /// Serial.
    pub serial: u32,
    /// Refresh.
    pub refresh: u32,
    /// Retry.
    pub retry: u32,
    /// Expire.
    pub expire: u32,
    /// TTL of negative answers.
    pub minimum: u32,
}

impl Data {
    /// The record type.
    pub fn rtype(&self) -> u16 {
        match self {
            Data::A(_) => rtype::A,
            Data::Aaaa(_) => rtype::AAAA,
            Data::Ns(_) => rtype::NS,
            Data::Cname(_) => rtype::CNAME,
            Data::Ptr(_) => rtype::PTR,
            Data::Soa(_) => rtype::SOA,
            Data::Mx(..) => rtype::MX,
            Data::Txt(_) => rtype::TXT,
            Data::Srv(..) => rtype::SRV,
            Data::Other(rtype, _) => *rtype,
        }
    }

    /// An address of either family.
    pub fn address(ip: std::net::IpAddr) -> Self {
        match ip {
            std::net::IpAddr::V4(ip) => Data::A(ip),
            std::net::IpAddr::V6(ip) => Data::Aaaa(ip),
        }
    }
}

/// A resource record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner.
    pub name: Name,
    /// Class.
    pub class: u16,
    /// Seconds that it may be kept.
    pub ttl: u32,
    /// Type and data.
    pub data: Data,
}

impl Record {
    /// A record of class IN.
    pub fn new(name: Name, ttl: u32, data: Data) -> Self {
        Record { name, class: CLASS_IN, ttl, data }
    }
}

/// dig's line: owner, TTL, class, type, data.
impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = if self.class == CLASS_IN { "IN".to_owned() } else { format!("CLASS{}", self.class) };
        write!(f, "{} {} {class} {} ", self.name, self.ttl, rtype::name(self.data.rtype()))?;
        f.write_str(&presentation::print(&self.data))
    }
}

/// An EDNS option: code and data.
pub type EdnsOption = (u16, Box<[u8]>);

/// EDNS0's OPT record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    /// The sender's UDP payload size in octets.
    pub udp_size: u16,
    /// Version, 0.
    pub version: u8,
    /// DNSSEC records are wanted (DO).
    pub dnssec_ok: bool,
    /// Options.
    pub options: Vec<EdnsOption>,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Transaction id.
    pub id: u16,
    /// Flags.
    pub flags: Flags,
    /// Response code, EDNS's upper bits included.
    pub rcode: u16,
    /// Questions; one in all practice.
    pub questions: Vec<Question>,
    /// Answers.
    pub answers: Vec<Record>,
    /// Authority.
    pub authority: Vec<Record>,
    /// Additional, without OPT.
    pub additional: Vec<Record>,
    /// OPT.
    pub edns: Option<Edns>,
}

impl Message {
    /// A query for one name, recursion desired.
    pub fn query(id: u16, name: Name, rtype: u16) -> Self {
        Message {
            id,
            flags: Flags { recursion_desired: true, ..Flags::default() },
            questions: vec![Question { name, rtype, class: CLASS_IN }],
            ..Message::default()
        }
    }

    /// Its octets with all names written out, as Go's `Msg.Len` counts those of an answer that is not yet on its way.
    pub fn len_written_out(&self) -> usize {
        let questions: usize = self.questions.iter().map(|question| question.name.wire().len() + 4).sum();
        let records = self.answers.iter().chain(&self.authority).chain(&self.additional);
        let records: usize =
            records.map(|record| record.name.wire().len() + 10 + record.data.wire().len()).sum();
        let options = |edns: &Edns| 11 + edns.options.iter().map(|(_, data)| 4 + data.len()).sum::<usize>();
        12 + questions + records + self.edns.as_ref().map_or(0, options)
    }

    /// The empty answer to this query: id, opcode, RD, CD and question copied (RFC 1035 section 4.1.1).
    #[must_use]
    pub fn reply(&self, rcode: u16) -> Self {
        Message {
            id: self.id,
            flags: Flags {
                response: true,
                opcode: self.flags.opcode,
                recursion_desired: self.flags.recursion_desired,
                checking_disabled: self.flags.checking_disabled,
                ..Flags::default()
            },
            rcode,
            questions: self.questions.clone(),
            ..Message::default()
        }
    }
}
