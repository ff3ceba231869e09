//! `view`: which queries a server block is for, beside zone and port (`plugin/view`).

use crate::chain::args::{err, one, unknown};
use crate::chain::{Peers, Plugin, Query, Setup, World};
use crate::corefile::{CorefileError, Directive};
use crate::expression::query::Asked;
use crate::expression::{self, Known, Program};

/// `view`
#[derive(Debug)]
pub struct View {
    name: String,
    conditions: Vec<Program>,
}

/// `view NAME { expr EXPRESSION }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    let name = one(line, "name")?.text.clone();
    let mut conditions = Vec::new();
    for option in line.block.iter().flatten() {
        match option.name.text.as_str() {
            "expr" if option.args.is_empty() => return err(&option.name, "'expr' needs an expression"),
            "expr" => {
                let condition = expression::read(&option.args, &Known::default())?;
                if !condition.may_hold() {
                    return err(&option.args[0], "this expression is never true or false");
                }
                conditions.push(condition);
            }
            _ => return unknown("view", option),
        }
    }
    setup.settings.view = Some(name.clone());
    setup.add(View { name, conditions });
    Ok(())
}

impl Plugin for View {
    fn accepts(&self, query: &Query, peers: Peers<'_>, world: &World) -> bool {
        let asked = Asked { query, peers, world };
        self.conditions.iter().all(|condition| condition.holds(&asked))
    }

    fn metadata(&self, label: &str, _: &Query, _: &World) -> Option<String> {
        (label == "view/name").then(|| self.name.clone())
    }
}
