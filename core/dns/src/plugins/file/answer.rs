//! Answers out of a zone, as `file`, `auto` and `secondary` give them (`plugin/file/file.go`).

use std::sync::Arc;

use crate::chain::{Flow, Note, Query};
use crate::message::{CLASS_IN, Flags, Message, Question, rcode, rtype};
use crate::name::Name;
use crate::zone::{Answer, Chase, Chased, Found, Outcome, Zone};

/// With a query whose alias's target is looked up.
#[derive(Debug)]
struct Chasing {
    zone: Arc<Zone>,
    chase: Chase,
}

/// What a zone says; names within `fallthrough` that it does not have are for the next plugin.
pub(crate) fn answer(zone: &Arc<Zone>, fallthrough: &[Name], query: &mut Query, note: &mut Note) -> Flow {
    let Question { name, rtype, .. } = query.question().clone();
    // `transfer` would have taken them.
    if matches!(rtype, rtype::AXFR | rtype::IXFR) {
        return Flow::refuse(rcode::REFUSED);
    }
    match zone.lookup(&name, rtype, query.dnssec_ok()) {
        Found::Answer(answer)
            if answer.falls_through() && fallthrough.iter().any(|zone| name.is_within(zone)) =>
        {
            Flow::Next
        }
        Found::Answer(answer) => reply(answer, query),
        Found::Chase(chase) => {
            let question = Question { name: chase.target.clone(), rtype: chase.rtype, class: CLASS_IN };
            note.set(Chasing { zone: zone.clone(), chase });
            Flow::Lookup(question)
        }
    }
}

/// The rest of the answer, with what the look-up for an alias's target gave.
pub(crate) fn chased(query: &mut Query, note: &mut Note, found: Message) -> Flow {
    let Some(Chasing { zone, chase }) = note.take() else { return Flow::refuse(rcode::SERVFAIL) };
    reply(zone.chased(chase, Chased::Answered(found.rcode, found.answers)), query)
}

fn reply(answer: Answer, query: &mut Query) -> Flow {
    if answer.outcome == Outcome::ServerFailure && answer.answer.is_empty() {
        return Flow::refuse(rcode::SERVFAIL);
    }
    if let Some(wildcard) = &answer.wildcard {
        query.set_label("zone/wildcard", wildcard.to_string());
    }
    Flow::Reply(Message {
        flags: Flags { authoritative: answer.is_authoritative(), ..Flags::default() },
        rcode: answer.rcode(),
        answers: answer.answer,
        authority: answer.authority,
        additional: answer.additional,
        ..Message::default()
    })
}
