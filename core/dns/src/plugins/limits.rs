//! What a query may cost: `any`, `bufsize` and `cancel`.

use std::time::Duration;

use crate::chain::args::{duration, err, no_more, no_options, number};
use crate::chain::{Context, Flow, Note, Passage, Plugin, Query, Setup};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Data, Message, Record, rtype};

/// `any`
#[derive(Debug)]
pub struct Any;

/// `any`
///
/// # Errors
/// What is wrong with the line.
pub fn any(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    no_more("any", &d.args)?;
    setup.add(Any);
    Ok(())
}

impl Plugin for Any {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
        let question = query.question();
        if question.rtype != rtype::ANY {
            return Flow::Next;
        }
        // RFC 8482 section 4.2: a HINFO record, its two strings each behind its length.
        let mut data = Vec::new();
        for text in ["ANY obsoleted", "See RFC 8482"] {
            data.push(text.len() as u8);
            data.extend_from_slice(text.as_bytes());
        }
        let record = Record::new(question.name.clone(), 8482, Data::Other(rtype::HINFO, data.into()));
        Flow::Reply(Message { answers: vec![record], ..Message::default() })
    }
}

/// `bufsize [SIZE]`
#[derive(Debug)]
pub struct Bufsize(u16);

/// `bufsize [SIZE]`: 512 to 4096 octets, 1232 where none is given.
///
/// # Errors
/// What is wrong with the line.
pub fn bufsize(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let size = match d.args.first() {
        None => 1232,
        Some(token) => {
            let size = number(token, "number of octets")?;
            if !(512..=4096).contains(&size) {
                return err(token, "'bufsize' lies between 512 and 4096");
            }
            size
        }
    };
    no_more("bufsize", d.args.get(1..).unwrap_or(&[]))?;
    setup.add(Bufsize(size));
    Ok(())
}

impl Plugin for Bufsize {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
        if let Some(edns) = &mut query.request.edns {
            edns.udp_size = edns.udp_size.min(self.0);
        }
        Flow::Next
    }
}

/// `cancel [TIMEOUT]`
#[derive(Debug)]
pub struct Cancel(Duration);

/// `cancel [TIMEOUT]`: 5001ms where none is given.
///
/// # Errors
/// What is wrong with the line.
pub fn cancel(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    let timeout = match d.args.first() {
        None => Duration::from_millis(5001),
        Some(token) => {
            let timeout = duration(token)?;
            if timeout.is_zero() {
                return err(token, "'cancel' needs a time longer than 0");
            }
            timeout
        }
    };
    no_more("cancel", d.args.get(1..).unwrap_or(&[]))?;
    setup.add(Cancel(timeout));
    Ok(())
}

impl Plugin for Cancel {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn down(&mut self, query: &mut Query, _: &mut Note, cx: &mut Context<'_>) -> Flow {
        let own = cx.now.monotonic + self.0;
        query.deadline = Some(query.deadline.map_or(own, |earlier| earlier.min(own)));
        Flow::Next
    }
}
