//! `loadbalance`: answers in another order each time (`plugin/loadbalance`).

use crate::chain::args::{err, no_more, no_options};
use crate::chain::{Context, Note, Passage, Plugin, Query, Setup, Up, shuffle};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Message, Record};

/// `loadbalance round_robin`
#[derive(Debug)]
pub struct LoadBalance;

/// `loadbalance [round_robin]`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    if let Some(token) = d.args.first()
        && token.text != "round_robin"
    {
        return err(token, format!("policy '{}' is unknown, or not Sealane's yet (round_robin)", token.text));
    }
    no_more("loadbalance", d.args.get(1..).unwrap_or(&[]))?;
    setup.add(LoadBalance);
    Ok(())
}

impl Plugin for LoadBalance {
    fn passage(&self) -> Passage {
        Passage::Shuffles
    }

    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, cx: &mut Context<'_>) -> Up {
        if query.for_client {
            return Up::Pass;
        }
        rotate(&mut reply.answers, cx.now.random);
        Up::Pass
    }
}

/// Aliases first, then addresses and MX in random order each, then the rest.
fn rotate(records: &mut Vec<Record>, random: u64) {
    let (mut aliases, mut addresses, mut exchanges, mut rest) = (vec![], vec![], vec![], vec![]);
    for record in records.drain(..) {
        match record.data {
            Data::Cname(_) => aliases.push(record),
            Data::A(_) | Data::Aaaa(_) => addresses.push(record),
            Data::Mx(..) => exchanges.push(record),
            _ => rest.push(record),
        }
    }
    shuffle(&mut addresses, random);
    shuffle(&mut exchanges, random);
    records.extend(aliases.into_iter().chain(addresses).chain(exchanges).chain(rest));
}
