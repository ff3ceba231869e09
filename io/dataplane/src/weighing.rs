//! Between the table and who weighs its backends: shares go one way, what is to be said the other.

use crate::Metrics;
use sealane_catalog::{Entry, NamespacedName};
use sealane_proxy::weigh::{Flow, Look, Wanted, Weigher};
use sealane_proxy::{Change, NodeContext, Table};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A weigher and its clock.
pub(crate) struct Weighing {
    weigher: Weigher,
    begun: Instant,
    observed: bool,
}

impl Weighing {
    /// Where nobody looks at flows, or at the time, all Services are spread evenly, whatever they ask for.
    pub(crate) fn new(observed: bool) -> Self {
        Self { weigher: Weigher::default(), begun: Instant::now(), observed }
    }

    /// What flows are to be looked at.
    pub(crate) fn wanted(&self) -> Wanted {
        self.weigher.wanted()
    }

    /// Has shares be as the node's place has it, before the table takes the node.
    pub(crate) fn set_node(&mut self, table: &mut Table, node: &NodeContext) {
        for name in self.weigher.names().cloned().collect::<Vec<_>>() {
            let shares = self.weigher.update(&name, table.entry(&name), node, self.begun.elapsed());
            table.set_shares(&name, shares);
        }
    }

    /// Has shares be as Services' new states have it, before the table takes those.
    pub(crate) fn update(
        &mut self,
        table: &mut Table,
        changed: &BTreeMap<NamespacedName, Option<Arc<Entry>>>,
        metrics: &Metrics,
    ) {
        if !self.observed {
            return;
        }
        for (name, entry) in changed {
            let shares = self.weigher.update(name, entry.as_deref(), table.node(), self.begun.elapsed());
            table.set_shares(name, shares);
        }
        self.tell(metrics);
    }

    /// Has shares follow a look, or the time; gives back what that changes, and connections to be moved.
    pub(crate) fn shift(&mut self, table: &mut Table, look: Option<&Look>) -> (Vec<Change>, Vec<Flow>) {
        let outcome = self.weigher.look(look, self.begun.elapsed());
        (table.weigh(outcome.shares), outcome.moves)
    }

    /// Says what is new, and counts it.
    pub(crate) fn tell(&mut self, metrics: &Metrics) {
        for news in self.weigher.take_news() {
            tracing::warn!("{news}");
        }
        metrics.weighed(self.weigher.figures());
    }
}
