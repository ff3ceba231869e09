//! Catalog zones: what they list comes and goes with them (`plugin/secondary/catalog.go`).

use std::collections::HashSet;

use super::{Entry, Secondary};
use crate::chain::Context;
use crate::name::Name;
use crate::zone::Zone;
use crate::zone::catalog::{Member, members};

/// A zone that lists others.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Zones that its members must be in; empty: any.
    takes: Vec<Name>,
    members: Vec<Member>,
}

impl Catalog {
    /// Not read yet.
    pub(super) fn new(takes: Vec<Name>) -> Self {
        Catalog { takes, members: Vec::new() }
    }
}

/// What a member's entry becomes.
enum Change {
    /// Somebody else's it is, and stays.
    Clash,
    Stays,
    New,
    /// Another zone of the same name.
    Reset(String),
    /// It comes from another catalog; with its records where it is the same zone there.
    Moves(Name, bool),
}

impl Secondary {
    /// Takes a catalog's new version; `false`: it is no catalog.
    pub(super) fn list(&mut self, origin: &Name, zone: &Zone, cx: &mut Context<'_>) -> bool {
        let listed = match members(zone) {
            Ok(listed) => listed,
            Err(why) => {
                cx.log(format!("[ERROR] plugin/secondary: Failed to transfer `{origin}': {why}"));
                return false;
            }
        };
        let catalog = self.entry(origin).and_then(|entry| entry.catalog.as_ref());
        let takes = catalog.map(|catalog| catalog.takes.clone()).unwrap_or_default();
        let takes = |zone: &Name| takes.is_empty() || takes.iter().any(|takes| zone.is_within(takes));
        let (taken, others): (Vec<&Member>, Vec<&Member>) =
            listed.iter().partition(|member| takes(&member.zone));
        let mut entries = self.entries.iter_mut().filter(|entry| entry.origin == *origin);
        if let Some(catalog) = entries.find_map(|entry| entry.catalog.as_mut()) {
            catalog.members.clone_from(&listed);
        }
        for member in &taken {
            self.take_on(origin, member, cx);
        }
        let names: HashSet<&Name> = taken.iter().map(|member| &member.zone).collect();
        let gone = |(catalog, _): &(Name, String)| catalog == origin;
        self.entries.retain(|entry| {
            let stays = !entry.member.as_ref().is_some_and(gone) || names.contains(&entry.origin);
            if !stays {
                let zone = &entry.origin;
                cx.log(format!(
                    "[INFO] plugin/secondary: Removed catalog member zone {zone} from catalog {origin}"
                ));
            }
            stays
        });
        if !others.is_empty() {
            cx.log(format!(
                "[WARNING] plugin/secondary: Skipped {} member zones from catalog {origin}: outside configured member zones",
                others.len()
            ));
        }
        cx.log(format!(
            "[INFO] plugin/secondary: Parsed catalog zone {origin} with {} member zones",
            listed.len()
        ));
        true
    }

    fn change(&self, origin: &Name, member: &Member) -> Change {
        let Some(entry) = self.entry(&member.zone) else { return Change::New };
        let Some((catalog, id)) = &entry.member else { return Change::Clash };
        if catalog == origin {
            return if *id == member.id { Change::Stays } else { Change::Reset(id.clone()) };
        }
        let other = self.entry(catalog).and_then(|entry| entry.catalog.as_ref());
        let mut there = other.into_iter().flat_map(|catalog| &catalog.members);
        let there = there.find(|known| known.zone == member.zone);
        match there {
            Some(there) if there.moves_to.as_ref() == Some(origin) => {
                Change::Moves(catalog.clone(), *id == there.id && there.id == member.id)
            }
            _ => Change::Clash,
        }
    }

    /// Serves a catalog's zone from now on.
    fn take_on(&mut self, origin: &Name, member: &Member, cx: &mut Context<'_>) {
        let (zone, id) = (&member.zone, &member.id);
        let from = self.entry(origin).map(|entry| entry.from.clone()).unwrap_or_default();
        let mut entry = Entry::new(zone.clone(), from);
        let line = match self.change(origin, member) {
            Change::Stays => return,
            Change::Clash => {
                cx.log(format!(
                    "[WARNING] plugin/secondary: Skipping catalog member zone {zone} from {origin}: zone already exists"
                ));
                return;
            }
            Change::New => format!("Added catalog member zone {zone} from catalog {origin}"),
            Change::Reset(before) => format!(
                "Reset catalog member zone {zone} from {origin} after member ID changed from {before} to {id}"
            ),
            Change::Moves(other, same) => {
                if let Some(known) = self.entry(zone).filter(|_| same) {
                    entry.state = known.state.renewed();
                }
                let how = if same { "preserving its state" } else { "with state reset" };
                format!("Migrated catalog member zone {zone} from catalog {other} to {origin}, {how}")
            }
        };
        cx.log(format!("[INFO] plugin/secondary: {line}"));
        entry.member = Some((origin.clone(), id.clone()));
        self.entries.retain(|entry| entry.origin != *zone);
        self.enter(entry);
    }
}
