//! What a chain does: all frontends with the same number of backends and the same policy share one.

use sealane_proxy::{Frontend, Masquerade, Target};
use std::fmt;
use std::str::FromStr;

/// First index of the backends that those outside of the cluster get (`externalTrafficPolicy: Local`).
pub(crate) const OUTSIDE_OFFSET: u32 = 1 << 24;

/// What serves a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// One of `count` endpoints, at `offset` and behind it.
    Balance { count: u32, offset: u32 },
    /// ICMP port unreachable.
    Reject,
    /// Nothing.
    Drop,
}

/// What a chain does. Its name says it all, so that a ruleset that is read back can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Action {
    pub(crate) verdict: Verdict,
    /// Where `split`, Never.
    pub(crate) masquerade: Masquerade,
    /// Seconds.
    pub(crate) affinity: Option<u32>,
    /// Pods and the node get the verdict, the node masqueraded; others what map `outside` has for them.
    pub(crate) split: bool,
    /// Whom set `sources` does not admit is swallowed first.
    pub(crate) guarded: bool,
}

impl Action {
    /// For a target under a policy. Who is refused needs neither masquerade nor affinity: they share a chain.
    fn new(target: &Target, offset: u32, masquerade: Masquerade, affinity: Option<u32>) -> Self {
        let none = Masquerade::Never;
        let plain =
            |verdict| Self { verdict, masquerade: none, affinity: None, split: false, guarded: false };
        match target {
            Target::Balance(backends) => {
                let count = backends.len() as u32;
                Self { masquerade, affinity, ..plain(Verdict::Balance { count, offset }) }
            }
            Target::Reject => plain(Verdict::Reject),
            Target::Drop => plain(Verdict::Drop),
        }
    }

    /// For those whom map `services` serves.
    pub(crate) fn of(frontend: &Frontend) -> Self {
        let action = Self::new(&frontend.target, 0, frontend.masquerade, frontend.affinity);
        Self { split: frontend.outside.is_some(), guarded: frontend.sources.is_some(), ..action }
    }

    /// For those whom map `outside` serves.
    pub(crate) fn of_outside(frontend: &Frontend) -> Option<Self> {
        let target = frontend.outside.as_ref()?;
        Some(Self::new(target, OUTSIDE_OFFSET, Masquerade::Never, frontend.affinity))
    }

    /// Where a guarded chain sends whom it admits.
    pub(crate) fn behind_guard(self) -> Action {
        Action { guarded: false, ..self }
    }

    /// Where a split chain sends Pods, and where the node itself.
    pub(crate) fn inside(self) -> (Action, Action) {
        let pods = Action { split: false, ..self };
        let node = match self.verdict {
            Verdict::Balance { .. } => Action { masquerade: Masquerade::Always, ..pods },
            Verdict::Reject | Verdict::Drop => pods,
        };
        (pods, node)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.guarded {
            f.write_str("guarded-")?;
        }
        if self.split {
            f.write_str("split-")?;
        }
        match self.verdict {
            Verdict::Reject => f.write_str("reject")?,
            Verdict::Drop => f.write_str("drop")?,
            Verdict::Balance { count, offset: 0 } => write!(f, "balance-{count}")?,
            Verdict::Balance { count, .. } => write!(f, "balance-{count}-outside")?,
        }
        match self.masquerade {
            Masquerade::Never => {}
            Masquerade::OffCluster => f.write_str("-offcluster")?,
            Masquerade::Always => f.write_str("-masquerade")?,
        }
        match self.affinity {
            Some(seconds) => write!(f, "-affinity-{seconds}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (guarded, name) = match name.strip_prefix("guarded-") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let (split, name) = match name.strip_prefix("split-") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let mut words = name.split('-').peekable();
        let verdict = match words.next() {
            Some("reject") => Verdict::Reject,
            Some("drop") => Verdict::Drop,
            Some("balance") => {
                let count = words.next().and_then(|w| w.parse().ok()).ok_or(())?;
                let offset = words.next_if_eq(&"outside").map_or(0, |_| OUTSIDE_OFFSET);
                Verdict::Balance { count, offset }
            }
            _ => return Err(()),
        };
        let masquerade = match words.next_if(|w| *w != "affinity") {
            None => Masquerade::Never,
            Some("offcluster") => Masquerade::OffCluster,
            Some("masquerade") => Masquerade::Always,
            Some(_) => return Err(()),
        };
        let affinity = match words.next() {
            None => None,
            Some(_) => Some(words.next().and_then(|w| w.parse().ok()).ok_or(())?),
        };
        let action = Self { verdict, masquerade, affinity, split, guarded };
        if words.next().is_some() { Err(()) } else { Ok(action) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_the_chain_does() {
        let balance = |count, offset| Verdict::Balance { count, offset };
        let verdicts = [balance(1, 0), balance(250, OUTSIDE_OFFSET), Verdict::Reject, Verdict::Drop];
        for verdict in verdicts {
            for masquerade in [Masquerade::Never, Masquerade::OffCluster, Masquerade::Always] {
                for affinity in [None, Some(10_800)] {
                    for split in [false, true] {
                        for guarded in [false, true] {
                            let action = Action { verdict, masquerade, affinity, split, guarded };
                            assert_eq!(action.to_string().parse(), Ok(action));
                        }
                    }
                }
            }
        }
        for name in
            ["services", "balance", "balance-x", "balance-2-odd", "reject-affinity", "drop-affinity-1-2"]
        {
            assert_eq!(name.parse::<Action>(), Err(()), "{name}");
        }
    }
}
