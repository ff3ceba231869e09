//! `rewrite`: the rest of the chain is asked something else than the client asked, and the client does not see it
//! (`plugin/rewrite`).

mod answers;
mod edns;
mod matching;
mod rule;

use answers::OnAnswer;
use matching::Back;
use rule::{Field, Rule};

use crate::chain::{Context, Failure, Flow, Note, Plugin, Query, Setup, Up};
use crate::corefile::{CorefileError, Directive};
use crate::message::{CLASS_IN, Data, Message, Question, Record, rcode};

/// All `rewrite` lines of a server block, in their order.
#[derive(Debug)]
pub struct Rewrite {
    rules: Vec<Rule>,
}

/// `rewrite [continue|stop] FIELD [TYPE] [(FROM TO)|TTL] [OPTIONS]`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    let rule = Rule::read(line)?;
    match &rule.field {
        Field::Edns(edns) if edns.is_echoed() => setup.settings.echoed.push(edns.code),
        // Other classes are refused before any plugin sees them, if nobody wants them.
        Field::Class(from, _) if *from != CLASS_IN => setup.settings.other_classes = true,
        _ => {}
    }
    match setup.earlier::<Rewrite>() {
        Some(rewrite) => rewrite.rules.push(rule),
        None => setup.add(Rewrite { rules: vec![rule] }),
    }
    Ok(())
}

/// What is to be done to a query's answer.
#[derive(Debug)]
struct Task {
    rules: Vec<OnAnswer>,
    /// What was asked in the end.
    asked: Question,
    /// An alias whose other target is being looked up: the answer, and the new target's place in it.
    alias: Option<(Message, usize)>,
}

impl Plugin for Rewrite {
    fn down(&mut self, query: &mut Query, note: &mut Note, cx: &mut Context<'_>) -> Flow {
        let mut rules = Vec::new();
        for rule in &self.rules {
            match on_question(&rule.field, query, cx) {
                Ok(None) => continue,
                Ok(Some(more)) => rules.extend(more),
                Err(name) => {
                    return Flow::fail(rcode::SERVFAIL, format!("invalid name after rewrite: {name}"));
                }
            }
            if rule.stop {
                break;
            }
        }
        if !rules.is_empty() {
            note.set(Task { rules, asked: query.question().clone(), alias: None });
        }
        Flow::Next
    }

    fn up(&mut self, query: &mut Query, note: &mut Note, reply: &mut Message, _: &mut Context<'_>) -> Up {
        let Some(task) = note.get_mut::<Task>() else { return Up::Pass };
        if let Some(edns) = &mut query.request.edns {
            answers::revert(&task.rules, &mut edns.options);
        }
        let Some((at, target)) = other_target(task, &reply.answers) else {
            answers::apply(&task.rules, reply);
            return Up::Pass;
        };
        let question = Question { name: target, ..task.asked.clone() };
        task.alias = Some((std::mem::take(reply), at));
        Up::Instead(Flow::Lookup(question))
    }

    /// The other target's records take the place of the old one's.
    fn looked_up(&mut self, _: &mut Query, note: &mut Note, found: Message, _: &mut Context<'_>) -> Flow {
        let task = note.take::<Task>();
        let Some((task, (mut reply, at))) =
            task.and_then(|mut task| task.alias.take().map(|alias| (task, alias)))
        else {
            return Flow::Next;
        };
        reply.answers.truncate(at + 1);
        reply.answers.retain(|record| matches!(record.data, Data::Cname(_)));
        if let (Some(Record { data: Data::Cname(target), .. }), Some(question)) =
            (reply.answers.last_mut(), found.questions.first())
        {
            *target = question.name.clone();
        }
        answers::apply(&task.rules, &mut reply);
        reply.answers.extend(found.answers);
        reply.flags.truncated = found.flags.truncated;
        Flow::Reply(reply)
    }

    fn failed(&mut self, query: &mut Query, note: &mut Note, failure: &Failure, _: &mut Context<'_>) -> Up {
        let Some(task) = note.get::<Task>() else { return Up::Pass };
        if let Some(edns) = &mut query.request.edns {
            answers::revert(&task.rules, &mut edns.options);
        }
        let rcode = answers::rewritten(&task.rules, failure.rcode);
        if rcode == failure.rcode {
            return Up::Pass;
        }
        Up::Instead(Flow::Fail(Failure { rcode, why: failure.why.clone() }))
    }
}

/// The first alias of an answer that gets another target, and that target.
fn other_target(task: &Task, answers: &[Record]) -> Option<(usize, crate::name::Name)> {
    answers.iter().enumerate().find_map(|(at, record)| {
        let Data::Cname(target) = &record.data else { return None };
        let other = |rule: &OnAnswer| match rule {
            OnAnswer::Cname(alias) => alias.target(target),
            _ => None,
        };
        task.rules.iter().rev().find_map(other).map(|target| (at, target))
    })
}

/// Changes the question; what is to be done to its answer. `None` where the rule is not for it, the text that was to
/// be its name where that is none.
fn on_question(field: &Field, query: &mut Query, cx: &Context<'_>) -> Result<Option<Vec<OnAnswer>>, String> {
    let question = query.question().clone();
    Ok(match field {
        Field::Name { from, to, auto, answers } => {
            let asked = question.name.to_lowercase();
            let Some(text) = from.replace(&asked.to_string(), to) else { return Ok(None) };
            let name: crate::name::Name = text.parse().map_err(|_| text)?;
            let mut rules = Vec::new();
            if *auto {
                let back = Back::Name(name.clone(), asked);
                rules = vec![OnAnswer::Owner(back.clone()), OnAnswer::Value(back)];
            }
            rules.extend(answers.iter().cloned());
            query.ask_instead(Question { name, ..question });
            Some(rules)
        }
        Field::Class(from, to) if question.class == *from => {
            query.ask_instead(Question { class: *to, ..question });
            Some(Vec::new())
        }
        Field::Type(from, to) if question.rtype == *from => {
            query.ask_instead(Question { rtype: *to, ..question });
            Some(Vec::new())
        }
        Field::Class(..) | Field::Type(..) => None,
        Field::Edns(rule) => rule.apply(query, cx),
        Field::Answer(matcher, rule) => {
            matcher.matches(&question.name.to_lowercase().to_string()).then(|| vec![rule.clone()])
        }
        Field::Cname(alias) => Some(vec![OnAnswer::Cname(alias.clone())]),
    })
}
