//! `local`: the names and addresses of the machine itself, which are nobody else's business (`plugin/local`,
//! RFC 6303, RFC 6761 section 6.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::chain::args::{err, no_more, one, unknown};
use crate::chain::{Context, Flow, Note, Passage, Plugin, Query, Setup};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Message, Record, Soa, rcode, rtype};
use crate::metrics::Family;
use crate::name::Name;

static LOCALHOST: Family = Family::counter(
    "coredns_local_localhost_requests_total",
    "Counter of special localhost subdomain requests.",
);

/// A week, in seconds.
const TTL: u32 = 604_800;

/// `local`
#[derive(Debug)]
pub struct Local {
    localhost: Name,
    /// Zones with an apex of their own: `localhost` and the reverse ones.
    zones: Vec<Name>,
    pointer: Name,
    /// `localhost.` in front of any name is this machine, too: what search paths make of it.
    prefix: bool,
}

/// `local { localhost_prefix on|off }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_more("local", &d.args)?;
    let name = |labels: &[&str]| Name::root().under(labels);
    let localhost = name(&["localhost"]);
    let reverse = ["0", "127", "255"].map(|octet| name(&[octet, "in-addr", "arpa"]));
    let mut local = Local {
        zones: std::iter::once(localhost.clone()).chain(reverse).collect(),
        localhost,
        pointer: name(&["1", "0", "0", "127", "in-addr", "arpa"]),
        prefix: true,
    };
    for option in d.block.iter().flatten() {
        match option.name.text.as_str() {
            "localhost_prefix" => {
                let token = one(option, "on or off")?;
                local.prefix = match token.text.as_str() {
                    "on" => true,
                    "off" => false,
                    other => return err(token, format!("'{other}' is neither on nor off")),
                };
            }
            _ => return unknown("local", option),
        }
    }
    setup.add(local);
    Ok(())
}

fn soa(origin: Name) -> Record {
    let soa = Soa {
        mname: Name::root().under(&["localhost"]),
        rname: Name::root().under(&["root", "localhost"]),
        serial: 1,
        refresh: 0,
        retry: 0,
        expire: 0,
        minimum: TTL,
    };
    Record::new(origin, TTL, Data::Soa(Box::new(soa)))
}

impl Local {
    /// The name is this machine, but not the apex of `localhost`.
    fn is_special(&self, name: &Name) -> bool {
        let below = *name != self.localhost && name.is_within(&self.localhost);
        let mut labels = name.labels();
        let first = labels.next().is_some_and(|label| label.eq_ignore_ascii_case(b"localhost"));
        below || self.prefix && first && labels.next().is_some()
    }

    /// The machine's address of that type.
    fn address(rtype: u16) -> Option<Data> {
        match rtype {
            rtype::A => Some(Data::A(Ipv4Addr::LOCALHOST)),
            rtype::AAAA => Some(Data::Aaaa(Ipv6Addr::LOCALHOST)),
            _ => None,
        }
    }

    fn data(&self, name: &Name, rtype: u16) -> Option<Data> {
        match rtype {
            rtype::A | rtype::AAAA if *name == self.localhost => Local::address(rtype),
            rtype::NS if self.zones.contains(name) => Some(Data::Ns(self.localhost.clone())),
            rtype::SOA if self.zones.contains(name) => Some(soa(name.clone()).data),
            rtype::PTR if *name == self.pointer => Some(Data::Ptr(self.localhost.clone())),
            _ => None,
        }
    }
}

impl Plugin for Local {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let question = query.question();
        let name = &question.name;
        let mut reply = Message::default();
        let data = if self.is_special(name) {
            cx.metrics.count(&LOCALHOST, "");
            cx.debug(query, || {
                let (kind, client) = (rtype::name(question.rtype), query.client.ip());
                format!("plugin/local: Intercepting localhost query for \"{name}\" {kind}, from {client}")
            });
            reply.authority.push(soa(name.clone()));
            Local::address(question.rtype)
        } else {
            let zones = self.zones.iter().filter_map(|zone| name.zone_as_asked(zone));
            let Some(zone) = zones.max_by_key(|zone| zone.wire().len()) else { return Flow::Next };
            let known = self.zones.contains(name) || *name == self.pointer;
            reply.rcode = if known { rcode::NOERROR } else { rcode::NXDOMAIN };
            reply.authority.push(soa(zone));
            self.data(name, question.rtype)
        };
        if let Some(data) = data {
            reply.authority.clear();
            reply.answers.push(Record::new(name.clone(), TTL, data));
        }
        Flow::Reply(reply)
    }
}
