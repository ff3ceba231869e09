//! `dns64`: IPv6 addresses for what has IPv4 ones alone (RFC 6147, `plugin/dns64`).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::chain::args::{err, no_more, one, unknown};
use crate::chain::{Class, Context, Flow, Note, Plugin, Query, Setup, Up, classify};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::{CLASS_IN, Data, Message, Question, Record, rtype};
use crate::metrics::Family;

static TRANSLATED: Family = Family::counter(
    "coredns_dns64_requests_translated_total",
    "Counter of DNS requests translated by dns64.",
);

/// The TTL of what was denied without an SOA, in seconds (RFC 6147 section 5.1.7).
const DENIAL_TTL: u32 = 600;

/// `dns64`
#[derive(Debug)]
pub struct Dns64 {
    prefix: Prefix,
    /// What has IPv6 addresses gets others, too.
    translate_all: bool,
    /// Who asks over IPv4 is answered, too.
    allow_ipv4: bool,
}

/// What stands before the IPv4 address (RFC 6052 section 2.2).
#[derive(Clone, Copy, Debug)]
struct Prefix {
    octets: [u8; 16],
    /// In octets: 4 to 12.
    len: usize,
}

/// `dns64 [PREFIX] { [translate_all] [prefix PREFIX] [allow_ipv4] }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    let well_known = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    let well_known = Prefix { octets: well_known.octets(), len: 12 };
    let mut dns64 = Dns64 { prefix: well_known, translate_all: false, allow_ipv4: false };
    if let [word, rest @ ..] = line.args.as_slice() {
        no_more("dns64", rest)?;
        dns64.prefix = Prefix::read(word)?;
    }
    for option in line.block.iter().flatten() {
        match option.name.text.as_str() {
            "prefix" => dns64.prefix = Prefix::read(one(option, "prefix")?)?,
            "translate_all" => {
                no_more("translate_all", &option.args)?;
                dns64.translate_all = true;
            }
            "allow_ipv4" => {
                no_more("allow_ipv4", &option.args)?;
                dns64.allow_ipv4 = true;
            }
            _ => return unknown("dns64", option),
        }
    }
    setup.add(dns64);
    Ok(())
}

impl Prefix {
    fn read(word: &Token) -> Result<Self, CorefileError> {
        let parsed = word.text.split_once('/').and_then(|(address, bits)| {
            Some((address.parse::<Ipv6Addr>().ok()?, bits.parse::<u8>().ok().filter(|bits| *bits <= 128)?))
        });
        let Some((address, bits)) = parsed else {
            return err(word, format!("'{}' is no IPv6 prefix (64:ff9b::/96)", word.text));
        };
        if !(32..=96).contains(&bits) || bits % 8 != 0 {
            return err(word, "a prefix of dns64 has 32, 40, 48, 56, 64, 72, 80, 88 or 96 bits");
        }
        Ok(Prefix { octets: address.octets(), len: usize::from(bits / 8) })
    }

    /// The IPv6 address of an IPv4 one. The ninth octet stays zero unless it is the prefix's own.
    fn address(self, ip: Ipv4Addr) -> Ipv6Addr {
        let mut out = [0; 16];
        out[..self.len].copy_from_slice(&self.octets[..self.len]);
        let places = (self.len..16).filter(|at| *at != 8);
        for (at, octet) in places.zip(ip.octets()) {
            out[at] = octet;
        }
        out.into()
    }
}

/// With a question for IPv6 addresses, and then how long its denial lives.
#[derive(Debug)]
struct Asked {
    ttl: u32,
}

impl Plugin for Dns64 {
    fn down(&mut self, query: &mut Query, note: &mut Note, _: &mut Context<'_>) -> Flow {
        let question = query.question();
        let family = self.allow_ipv4 || query.client.ip().to_canonical().is_ipv6();
        if family && question.rtype == rtype::AAAA && question.class == CLASS_IN {
            note.set(Asked { ttl: DENIAL_TTL });
        }
        Flow::Next
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, _: &mut Context<'_>) -> Up {
        let Some(asked) = note.get_mut::<Asked>() else { return Up::Pass };
        let question = query.question();
        let there = reply.answers.iter().any(|record| matches!(record.data, Data::Aaaa(_)));
        if classify(reply, question.rtype) == Class::NameError || there && !self.translate_all {
            return Up::Pass;
        }
        for record in reply.authority.iter().filter(|record| matches!(record.data, Data::Soa(_))) {
            asked.ttl = record.ttl;
        }
        Up::Instead(Flow::Lookup(Question { rtype: rtype::A, ..question.clone() }))
    }

    fn looked_up(
        &mut self,
        query: &mut Query,
        note: &mut Note,
        found: Message,
        cx: &mut Context<'_>,
    ) -> Flow {
        let ttl = note.take::<Asked>().map_or(DENIAL_TTL, |asked| asked.ttl);
        let server = query.labels.split(",zone=").next().unwrap_or("");
        cx.metrics.count(&TRANSLATED, server);
        let translated = |record: Record| match record.data {
            Data::A(ip) => {
                Record { ttl: record.ttl.min(ttl), data: Data::Aaaa(self.prefix.address(ip)), ..record }
            }
            _ => record,
        };
        let mut reply = Message {
            answers: found.answers.into_iter().map(translated).collect(),
            authority: found.authority,
            additional: found.additional,
            ..Message::default()
        };
        reply.flags.truncated = found.flags.truncated;
        Flow::Reply(reply)
    }
}
