//! Where frontends are put into force.

use crate::{Change, Frontend, FrontendKey, NodeContext};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

/// What is in force: frontends by key, in which service and port name do not count
/// ([`Frontend::means`] compares them).
pub type Installed = BTreeMap<FrontendKey, Frontend>;

/// The kernel's table of flows (conntrack), without which no new connection gets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTable {
    /// Flows in it.
    pub entries: u64,
    /// The most that it takes (`nf_conntrack_max`); 0 where unknown.
    pub limit: u64,
    /// Packets that were lost because it was full, since the network namespace was made.
    pub dropped: u64,
}

/// Rules that stand one by one, as iptables' do; of IPv4 and IPv6 each, and of the tables filter and nat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounts {
    /// Ours, in force.
    pub total: [[u64; 2]; 2],
    /// Written when any were last written.
    pub last: [[u64; 2]; 2],
    /// How often writing all of them failed, and writing changes.
    pub failures: [(u64, u64); 2],
}

/// Carries out what the table decided. Every sink keeps this contract:
///
/// - `replace` puts exactly these frontends into force, whatever was there before;
/// - `apply` takes changes in the order in which a [`Table`](crate::Table) gave them out, all or none of them;
/// - after an error, `replace` is the way on;
/// - new connections never meet a state between two tables;
/// - `read_back` says what is truly in force, read from where packets are handled.
pub trait RuleSink {
    /// Why it could not.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Puts these frontends, and no others, into force.
    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), Self::Error>;

    /// Puts changes into force; when it returns, new connections follow them.
    fn apply(&mut self, changes: &[Change]) -> Result<(), Self::Error>;

    /// Clears away what `replace` and `apply` left: elements for packets that were on their way. Takes up to a
    /// millisecond.
    fn settle(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Forgets flows of UDP to backends that are gone since. Takes up to some milliseconds; rules are in force whether
    /// or not it succeeds, and what it failed to forget it tries again when called again.
    fn forget_flows(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Whether it ends connections of TCP to endpoints that no slice has any more, and wants to be told of those.
    fn ends_connections(&self) -> bool {
        false
    }

    /// These endpoints are in no slice any more: what is led to them ends with the next `forget_flows`.
    fn left(&mut self, _: &BTreeSet<IpAddr>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// What was forgotten of flows since this was last asked, for IPv4 and IPv6: how long it took and how many;
    /// `None`: there was no need to look.
    fn flows(&mut self) -> [Option<(std::time::Duration, u64)>; 2] {
        [None; 2]
    }

    /// Whether nobody else removed what was put into force.
    fn intact(&mut self) -> Result<bool, Self::Error> {
        Ok(true)
    }

    /// What a family has no rules for want of, in a line, while the other's are in force; `None`: all is in force.
    fn lacking(&mut self) -> Option<String> {
        None
    }

    /// Tries to put into force what [`lacking`](Self::lacking) says is not.
    fn try_lacking(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// How many rules there are, where there is more than a fixed number of them.
    fn rule_counts(&mut self) -> Option<RuleCounts> {
        None
    }

    /// How full the kernel's table of flows is, where the sink depends on one.
    fn flow_table(&mut self) -> Result<Option<FlowTable>, Self::Error> {
        Ok(None)
    }

    /// Makes room in that table: forgets connections that are over, never one that lives; gives back how many.
    fn make_room(&mut self) -> Result<u64, Self::Error> {
        Ok(0)
    }

    /// What is in force.
    fn read_back(&mut self) -> Result<Installed, Self::Error>;
}

/// A sink that keeps frontends in memory: for tests, and to trace packets without a kernel.
#[derive(Clone, Debug, Default)]
pub struct InMemorySink {
    installed: Installed,
    /// How many changes `apply` was given.
    pub changes: usize,
    /// How many times `replace` was called.
    pub replaced: usize,
}

impl RuleSink for InMemorySink {
    type Error = Infallible;

    fn replace(
        &mut self,
        _: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), Infallible> {
        self.installed = frontends.iter().map(|(k, f)| (*k, Frontend::clone(f))).collect();
        self.replaced += 1;
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Infallible> {
        for change in changes {
            match change.after() {
                Some(new) => self.installed.insert(new.key, Frontend::clone(new)),
                None => self.installed.remove(&change.key()),
            };
        }
        self.changes += changes.len();
        Ok(())
    }

    fn read_back(&mut self) -> Result<Installed, Infallible> {
        Ok(self.installed.clone())
    }
}
