//! `minimal`: answers without authority and additional records, where they are not what is asked for
//! (`plugin/minimal`).

use crate::chain::args::{no_more, no_options};
use crate::chain::{Class, Context, Note, Passage, Plugin, Query, Setup, Up, classify};
use crate::corefile::{CorefileError, Directive};
use crate::message::Message;

/// `minimal`
#[derive(Debug)]
pub struct Minimal;

/// `minimal`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    no_more("minimal", &line.args)?;
    no_options(line)?;
    setup.add(Minimal);
    Ok(())
}

impl Plugin for Minimal {
    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, _: &mut Context<'_>) -> Up {
        // Denials need their SOA, delegations their name servers.
        if classify(reply, query.question().rtype) == Class::NoError {
            reply.authority.clear();
            reply.additional.clear();
            reply.edns = None;
        }
        Up::Pass
    }

    fn passage(&self) -> Passage {
        Passage::Same
    }
}
