//! What iptables-restore is given: chains that are written or removed, so that no packet meets half of a change.

use super::layout::{JUMPS, Rules, Shared, TableName};
use super::names::{EXT, FW, SEP, SVC, SVL};
use super::rules::SavedRules;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A chain that all share, as it was and as it is.
pub(super) struct Turned {
    pub(super) chain: Shared,
    pub(super) old: Rules,
    pub(super) new: Rules,
}

/// One family's change.
#[derive(Default)]
pub(super) struct Batch {
    /// Chains written whole.
    pub(super) chains: BTreeMap<(TableName, String), Rules>,
    /// Chains of all.
    pub(super) turned: Vec<Turned>,
    /// Chains of nat that are not needed any more.
    pub(super) gone: BTreeSet<String>,
    /// Whole rules put first into built-in chains, or taken out of them.
    pub(super) jumps: Vec<(TableName, String)>,
}

/// One table's part: chains with their rules, then commands, then chains to remove.
#[derive(Default)]
struct Section<'a> {
    chains: BTreeMap<&'a str, Vec<&'a str>>,
    commands: Vec<&'a str>,
    gone: Vec<&'a str>,
}

impl Section<'_> {
    fn write(&self, table: TableName, out: &mut String) {
        if self.chains.is_empty() && self.commands.is_empty() && self.gone.is_empty() {
            return;
        }
        // Writing into a String does not fail.
        let _ = writeln!(out, "*{}", table.name());
        for chain in self.chains.keys().chain(&self.gone) {
            // Made where it is missing, emptied where it is there.
            let _ = writeln!(out, ":{chain} - [0:0]");
        }
        for (chain, rules) in &self.chains {
            for rule in rules {
                let _ = writeln!(out, "-A {chain} {rule}");
            }
        }
        for command in &self.commands {
            let _ = writeln!(out, "{command}");
        }
        for chain in &self.gone {
            let _ = writeln!(out, "-X {chain}");
        }
        out.push_str("COMMIT\n");
    }
}

impl Batch {
    /// The text. What filter refuses is refused before nat stops leading it somewhere, and as long as nat does not yet:
    /// what nat leads to an endpoint has that as destination, and filter does not know it.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let mut before = Section::default();
        let mut after = Section::default();
        let mut nat = Section::default();
        for turned in &self.turned {
            let (table, chain) = turned.chain.place();
            let new: Vec<&str> = turned.new.iter().map(String::as_str).collect();
            if table == TableName::Nat {
                nat.chains.insert(chain, new);
                continue;
            }
            let known: BTreeSet<&str> = turned.old.iter().map(String::as_str).collect();
            let wanted: BTreeSet<&str> = new.iter().copied().collect();
            if known.is_subset(&wanted) {
                before.chains.insert(chain, new);
                continue;
            }
            if !wanted.is_subset(&known) {
                let both = new.iter().copied().chain(known.difference(&wanted).copied());
                before.chains.insert(chain, both.collect());
            }
            after.chains.insert(chain, new);
        }
        for ((table, chain), rules) in &self.chains {
            let section = if *table == TableName::Nat { &mut nat } else { &mut before };
            section.chains.insert(chain, rules.iter().map(String::as_str).collect());
        }
        for (table, command) in &self.jumps {
            let section = if *table == TableName::Nat { &mut nat } else { &mut before };
            section.commands.push(command);
        }
        nat.gone.extend(self.gone.iter().map(String::as_str));
        before.write(TableName::Filter, &mut out);
        nat.write(TableName::Nat, &mut out);
        after.write(TableName::Filter, &mut out);
        out
    }
}

/// Rules that a text writes, to filter and to nat.
pub(super) fn rules_in(text: &str) -> [u64; 2] {
    let (mut counts, mut table) = ([0; 2], 0);
    for line in text.lines() {
        match line.strip_prefix('*') {
            Some(name) => table = usize::from(name == TableName::Nat.name()),
            None => counts[table] += u64::from(line.starts_with("-A ") || line.starts_with("-I ")),
        }
    }
    counts
}

/// Whether a chain of nat is a Service port's.
pub(super) fn is_own(chain: &str) -> bool {
    [SVC, SVL, EXT, FW, SEP].iter().any(|prefix| chain.starts_with(prefix))
}

/// The jumps that are missing, as commands.
pub(super) fn missing_jumps(saved: &SavedRules) -> Vec<(TableName, String)> {
    let missing = |(table, from, to): (TableName, &str, &str)| {
        !saved.chain(table, from).iter().any(|r| r.leads_to() == Some(to))
    };
    let jumps = JUMPS.iter().filter(|(table, from, to, ..)| missing((*table, from, to)));
    jumps
        .map(|(table, from, to, comment, new)| {
            let state = if *new { "-m conntrack --ctstate NEW " } else { "" };
            (*table, format!("-I {from} 1 {state}-m comment --comment \"{comment}\" -j {to}"))
        })
        .collect()
}

/// What removes all that a sink, or kube-proxy, ever wrote. A chain that somebody else's rule leads to stays, with what
/// it leads to.
pub(super) fn removal(saved: &SavedRules, shared: &[(TableName, &str)]) -> String {
    let ours = |table: TableName, chain: &str| {
        shared.contains(&(table, chain)) || table == TableName::Nat && is_own(chain)
    };
    let jump =
        |table: TableName, from: &str, to: &str| JUMPS.iter().any(|j| (j.0, j.1, j.2) == (table, from, to));
    let mut kept: BTreeSet<(TableName, &str)> = BTreeSet::new();
    let mut commands: BTreeMap<TableName, Vec<String>> = BTreeMap::new();
    for ((table, chain), rules) in saved.chains.iter().filter(|((t, c), _)| !ours(*t, c)) {
        for rule in rules {
            match rule.leads_to() {
                Some(to) if jump(*table, chain, to) => {
                    commands.entry(*table).or_default().push(format!("-D {chain} {}", rule.text));
                }
                Some(to) if ours(*table, to) => {
                    kept.insert((*table, to));
                }
                _ => {}
            }
        }
    }
    let mut open: Vec<(TableName, &str)> = kept.iter().copied().collect();
    while let Some((table, chain)) = open.pop() {
        let led = saved.chain(table, chain).iter().filter_map(|rule| rule.leads_to());
        open.extend(led.filter(|to| ours(table, to) && kept.insert((table, to))).map(|to| (table, to)));
    }
    let mut out = String::new();
    for table in [TableName::Nat, TableName::Filter] {
        let chains: Vec<&str> = saved
            .chains
            .keys()
            .filter(|(t, c)| *t == table && ours(*t, c) && !kept.contains(&(*t, c)))
            .map(|(_, c)| c.as_str())
            .collect();
        let commands = commands.get(&table);
        let commands = commands.into_iter().flatten().map(String::as_str).collect();
        Section { chains: BTreeMap::new(), commands, gone: chains }.write(table, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(chain: Shared, old: &[&str], new: &[&str]) -> Turned {
        let rules = |list: &[&str]| list.iter().map(|r| (*r).to_owned()).collect();
        Turned { chain, old: rules(old), new: rules(new) }
    }

    /// Which sections a change of filter has, before and after nat.
    #[test]
    fn what_is_refused_is_refused_in_between() {
        let table: &[(&[&str], &[&str], &str)] = &[
            (&[], &["-j A"], "*filter\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j A\nCOMMIT\n*nat"),
            (&["-j A"], &[], "*nat\n:N - [0:0]\nCOMMIT\n*filter\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"),
            (
                &["-j A", "-j B"],
                &["-j B", "-j C"],
                "*filter\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j B\n-A KUBE-SERVICES -j C\n-A KUBE-SERVICES -j \
                 A\nCOMMIT\n*nat\n:N - [0:0]\nCOMMIT\n*filter\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j B\n-A \
                 KUBE-SERVICES -j C\nCOMMIT\n",
            ),
        ];
        for (old, new, expected) in table {
            let mut batch = Batch { turned: vec![turned(Shared::Unserved, old, new)], ..Batch::default() };
            batch.chains.insert((TableName::Nat, "N".to_owned()), vec![]);
            assert!(batch.text().starts_with(expected), "{}", batch.text());
        }
        assert_eq!(Batch::default().text(), "");
    }

    #[test]
    fn rules_are_counted_by_table() {
        let text = "*filter\n:A - [0:0]\n-A A -j B\nCOMMIT\n*nat\n:C - [0:0]\n-A C -j D\n-I E 1 -j C\n-X F\nCOMMIT\n\
            *filter\n-A A -j G\nCOMMIT\n";
        assert_eq!(rules_in(text), [2, 2]);
    }

    #[test]
    fn chains_are_emptied_before_they_go() {
        let mut batch = Batch::default();
        batch.chains.insert((TableName::Nat, "KUBE-SVC-A".to_owned()), vec!["-j KUBE-SEP-B".to_owned()]);
        batch.gone.insert("KUBE-SEP-A".to_owned());
        assert_eq!(
            batch.text(),
            "*nat\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-A - [0:0]\n-A KUBE-SVC-A -j KUBE-SEP-B\n-X KUBE-SEP-A\nCOMMIT\n"
        );
    }

    #[test]
    fn others_keep_what_is_theirs() {
        let saved = SavedRules::parse(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:CNI - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - \
             [0:0]\n:KUBE-SEP-A - [0:0]\n:KUBE-OTHER - [0:0]\n-A PREROUTING -m comment --comment \"x y\" -j \
             KUBE-SERVICES\n-A PREROUTING -j CNI\n-A CNI -j KUBE-MARK-MASQ\nCOMMIT\n",
        );
        let shared = [(TableName::Nat, "KUBE-SERVICES"), (TableName::Nat, "KUBE-MARK-MASQ")];
        assert_eq!(
            removal(&saved, &shared),
            "*nat\n:KUBE-SEP-A - [0:0]\n:KUBE-SERVICES - [0:0]\n-D PREROUTING -m comment --comment \"x y\" -j \
             KUBE-SERVICES\n-X KUBE-SEP-A\n-X KUBE-SERVICES\nCOMMIT\n"
        );
        assert!(missing_jumps(&saved).iter().all(|(_, j)| !j.starts_with("-I PREROUTING")));
        assert_eq!(missing_jumps(&saved).len(), JUMPS.len() - 1);
    }
}
