//! `header`: flags of questions and answers (`plugin/header`).

use crate::chain::args::{err, no_more, unknown};
use crate::chain::{Context, Flow, Note, Passage, Plugin, Query, Setup, Up};
use crate::corefile::{CorefileError, Directive};
use crate::message::{Flags, Message};

/// All `header` lines of a server block, in their order.
#[derive(Debug, Default)]
pub struct Header {
    query: Vec<Rule>,
    response: Vec<Rule>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    flag: Flag,
    set: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Authoritative,
    RecursionAvailable,
    RecursionDesired,
}

/// `header { query|response set|clear aa|ra|rd... }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    no_more("header", &line.args)?;
    let mut header = Header::default();
    for option in line.block.iter().flatten() {
        let rules = match option.name.text.to_ascii_lowercase().as_str() {
            "query" => &mut header.query,
            "response" => &mut header.response,
            _ => return unknown("header", option),
        };
        let [action, flags @ ..] = option.args.as_slice() else {
            return err(&option.name, format!("'{}' needs 'set' or 'clear'", option.name.text));
        };
        let set = match action.text.to_ascii_lowercase().as_str() {
            "set" => true,
            "clear" => false,
            other => return err(action, format!("'{other}' is no action (set, clear)")),
        };
        if flags.is_empty() {
            return err(action, format!("'{}' needs flags (aa, ra, rd)", action.text));
        }
        for word in flags {
            let flag = match word.text.to_ascii_lowercase().as_str() {
                "aa" => Flag::Authoritative,
                "ra" => Flag::RecursionAvailable,
                "rd" => Flag::RecursionDesired,
                other => return err(word, format!("'{other}' is no flag that can be changed (aa, ra, rd)")),
            };
            rules.push(Rule { flag, set });
        }
    }
    if header.query.is_empty() && header.response.is_empty() {
        return err(&line.name, "'header' needs a line 'query' or 'response' in braces");
    }
    match setup.earlier::<Header>() {
        Some(earlier) => {
            earlier.query.extend(header.query);
            earlier.response.extend(header.response);
        }
        None => setup.add(header),
    }
    Ok(())
}

impl Rule {
    fn apply(self, flags: &mut Flags) {
        match self.flag {
            Flag::Authoritative => flags.authoritative = self.set,
            Flag::RecursionAvailable => flags.recursion_available = self.set,
            Flag::RecursionDesired => flags.recursion_desired = self.set,
        }
    }
}

impl Plugin for Header {
    fn down(&mut self, query: &mut Query, _: &mut Note, _: &mut Context<'_>) -> Flow {
        self.query.iter().for_each(|rule| rule.apply(&mut query.request.flags));
        Flow::Next
    }

    fn up(&mut self, query: &mut Query, _: &mut Note, reply: &mut Message, _: &mut Context<'_>) -> Up {
        for rule in &self.response {
            rule.apply(&mut reply.flags);
            if rule.flag == Flag::RecursionDesired {
                // An answer's RD is its question's.
                rule.apply(&mut query.request.flags);
            }
        }
        Up::Pass
    }

    fn passage(&self) -> Passage {
        Passage::Same
    }
}
