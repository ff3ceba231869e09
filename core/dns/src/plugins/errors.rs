//! `errors`: a line in the log for each query that failed (`plugin/errors`).

use crate::chain::args::{no_more, no_options};
use crate::chain::{Context, Failure, Note, Passage, Plugin, Query, Setup, Up};
use crate::corefile::{CorefileError, Directive};
use crate::message::rtype;

/// `errors`
#[derive(Debug)]
pub struct Errors;

/// `errors [stdout]`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_options(d)?;
    // `errors stdout` is an old way to write it.
    let old = d.args.first().is_some_and(|t| t.text == "stdout");
    no_more("errors", if old { &d.args[1..] } else { &d.args })?;
    setup.add(Errors);
    Ok(())
}

impl Plugin for Errors {
    fn passage(&self) -> Passage {
        Passage::Same
    }

    fn failed(&mut self, query: &mut Query, _: &mut Note, failure: &Failure, cx: &mut Context<'_>) -> Up {
        if let Some(why) = &failure.why {
            let question = query.question();
            let kind = rtype::name(question.rtype);
            cx.log(format!("[ERROR] plugin/errors: {} {} {kind}: {why}", failure.rcode, question.name));
        }
        Up::Pass
    }
}
