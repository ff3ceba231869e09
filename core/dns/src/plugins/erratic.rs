//! `erratic`: answers that come late, cut, or not at all, for tests of clients (`plugin/erratic`).

use std::time::Duration;

use crate::chain::args::{duration, no_more, number, unknown};
use crate::chain::{Context, Flow, Note, Plugin, Query, Setup, World};
use crate::corefile::{CorefileError, Directive, Token};
use crate::message::{Data, Flags, Message, Record, Soa, rcode, rtype};
use crate::name::Name;

/// `erratic`
#[derive(Debug)]
pub struct Erratic {
    /// Queries so far.
    count: u64,
    /// One in so many; 0: none.
    drop: u64,
    truncate: u64,
    delay: u64,
    duration: Duration,
    large: bool,
}

/// `erratic { drop [AMOUNT] | truncate [AMOUNT] | delay [AMOUNT [DURATION]] | large }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    no_more("erratic", &d.args)?;
    let mut erratic = Erratic {
        count: 0,
        drop: 0,
        truncate: 0,
        delay: 0,
        duration: Duration::from_millis(100),
        large: false,
    };
    let amount = |token: Option<&Token>| {
        token.map_or(Ok(2), |token| number::<u32>(token, "number of queries").map(u64::from))
    };
    let mut dropping = false;
    for option in d.block.iter().flatten() {
        let name = option.name.text.as_str();
        let (first, rest) = (option.args.first(), option.args.get(1..).unwrap_or(&[]));
        match name {
            "drop" => {
                dropping = true;
                erratic.drop = amount(first)?;
                no_more(name, rest)?;
            }
            "truncate" => {
                erratic.truncate = amount(first)?;
                no_more(name, rest)?;
            }
            "delay" => {
                erratic.delay = amount(first)?;
                erratic.duration = rest.first().map_or(Ok(erratic.duration), duration)?;
                no_more(name, rest.get(1..).unwrap_or(&[]))?;
            }
            "large" => {
                erratic.large = true;
                no_more(name, &option.args)?;
            }
            _ => return unknown("erratic", option),
        }
    }
    // Without a word about it every second query is dropped.
    if !dropping && erratic.truncate == 0 && erratic.delay == 0 {
        erratic.drop = 2;
    }
    setup.add(erratic);
    Ok(())
}

impl Erratic {
    fn answer(&self, query: &Query, truncated: bool) -> Flow {
        let question = query.question();
        let record = |data| Record::new(question.name.clone(), 0, data);
        let flags = Flags { authoritative: true, truncated, ..Flags::default() };
        let answers = match question.rtype {
            rtype::A => {
                let record = record(Data::A([192, 0, 2, 53].into()));
                vec![record; if self.large { 30 } else { 1 }]
            }
            rtype::AAAA => vec![record(Data::Aaaa([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53].into()))],
            rtype::AXFR => {
                let flags = Flags { truncated: false, ..flags };
                let answers = zone(&question.name, truncated);
                return Flow::Stream(vec![Message { flags, answers, ..Message::default() }]);
            }
            _ => return Flow::refuse(rcode::SERVFAIL),
        };
        Flow::Reply(Message { flags, answers, ..Message::default() })
    }
}

/// A small zone for transfers; a cut one has no SOA at its end.
fn zone(origin: &Name, cut: bool) -> Vec<Record> {
    let soa = Soa {
        mname: Name::root().under(&["sns", "dns", "icann", "org"]),
        rname: Name::root().under(&["noc", "dns", "icann", "org"]),
        serial: 2_018_050_825,
        refresh: 7200,
        retry: 3600,
        expire: 1_209_600,
        minimum: 3600,
    };
    let (a, b) = (origin.under(&["a"]), origin.under(&["b"]));
    let soa = Record::new(origin.clone(), 0, Data::Soa(Box::new(soa)));
    let mut records = vec![
        soa.clone(),
        Record::new(origin.clone(), 0, Data::Ns(b.clone())),
        Record::new(origin.clone(), 0, Data::Ns(a.clone())),
        Record::new(a, 0, Data::Aaaa([0x2001, 0xbd8, 0, 0, 0, 0, 0, 0x53].into())),
        Record::new(b, 0, Data::Aaaa([0x2001, 0x500, 0, 0, 0, 0, 0, 0x54].into())),
    ];
    if !cut {
        records.push(soa);
    }
    records
}

impl Plugin for Erratic {
    fn down(&mut self, query: &mut Query, note: &mut Note, _: &mut Context<'_>) -> Flow {
        let number = self.count;
        self.count += 1;
        let one_in = |amount: u64| amount > 0 && number.is_multiple_of(amount);
        if one_in(self.drop) {
            return Flow::Drop;
        }
        if one_in(self.delay) {
            note.set(self.answer(query, one_in(self.truncate)));
            return Flow::Wait(self.duration);
        }
        self.answer(query, one_in(self.truncate))
    }

    fn waited(&mut self, _: &mut Query, note: &mut Note, _: &mut Context<'_>) -> Flow {
        note.take::<Flow>().unwrap_or(Flow::Drop)
    }

    /// Comes and goes, for tests of `ready`: from the third query to the fourth.
    fn ready(&self, _: &World) -> bool {
        (3..5).contains(&self.count)
    }
}
