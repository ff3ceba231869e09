//! The sink: what stands in the kernel, and the batches that change it.

use super::action::Action;
use super::elements::{ElementList, Elements, add_action, elements, family};
use super::layout::{self, Family, Set, TABLE, kind, octets};
use super::read;
use super::trace::Ruleset;
use crate::conntrack;
use crate::message::Messages;
use crate::netlink::{Netlink, NetlinkError};
use crate::room;
use crate::watch::Watch;
use rustix::fd::OwnedFd;
use sealane_proxy::{Change, Class, FlowTable, Frontend, FrontendKey, Installed, NodeContext, RuleSink};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a packet may take between its look-ups. Measured: with 200 us none of 228,000 flows missed.
const IN_FLIGHT: Duration = Duration::from_micros(200);
/// Elements that a set has room for at least.
const SMALLEST: usize = 1 << 10;

/// One family's table.
#[derive(Debug, Default)]
struct TableState {
    /// Numbers of the chains in force.
    actions: BTreeMap<Action, u32>,
    /// How many backends have an address.
    hairpin: BTreeMap<IpAddr, i64>,
    /// How many frontends a cluster address has.
    cluster: BTreeMap<IpAddr, i64>,
    /// Elements in a set, those counted that wait for their deletion, and its size.
    room: BTreeMap<Set, (usize, usize)>,
    /// The kernel's handle of the table and how many chains and sets it had when we left it.
    fingerprint: Option<(u64, u32)>,
}

/// Elements on their way, by set.
type Lists = BTreeMap<Set, ElementList>;

/// What a batch does to one family.
#[derive(Default)]
struct Plan {
    chains: Messages,
    delete: Lists,
    add: Lists,
    later: Lists,
    /// By how much the use of an address changes.
    cluster: BTreeMap<IpAddr, i64>,
    hairpin: BTreeMap<IpAddr, i64>,
}

/// Puts frontends into nftables. Every change costs what changed; memory is the frontends' own.
///
/// Batches are atomic; only a `replace` that exceeds what the socket may send (in a user namespace: twice
/// `net.core.wmem_max`, some thousand endpoints) is made of several, and new connections find no rules in between.
#[derive(Debug)]
pub struct NftSink {
    netlink: Netlink,
    node: NodeContext,
    tables: BTreeMap<Family, TableState>,
    installed: BTreeMap<FrontendKey, Arc<Frontend>>,
    later: Messages,
    /// What `later` takes from each set's count.
    leaving: Vec<(Family, Set, usize)>,
    applied_at: Instant,
    stale: conntrack::Stale,
}

impl NftSink {
    /// Takes a socket from [`netlink_socket`](crate::netlink_socket), opened in the namespace whose rules it
    /// writes. Nothing is written before the first `replace`.
    pub fn open(socket: OwnedFd) -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Netlink::new(socket)?,
            node: NodeContext::new(""),
            tables: BTreeMap::new(),
            installed: BTreeMap::new(),
            later: Messages::default(),
            leaving: Vec::new(),
            applied_at: Instant::now(),
            stale: conntrack::Stale::default(),
        })
    }

    /// Removes both tables, and with them all that a sink ever wrote (`--cleanup`).
    pub fn clear(&mut self) -> Result<(), NetlinkError> {
        let mut messages = Messages::default();
        for family in [Family::V4, Family::V6] {
            layout::remove_table(family, &mut messages);
        }
        self.later = Messages::default();
        self.leaving.clear();
        self.tables.clear();
        self.installed.clear();
        self.netlink.transact(&messages)
    }

    /// Listens over another socket of the same network namespace to what others do to our table, for
    /// [`spawn_watched`](crate::spawn_watched).
    ///
    /// # Errors
    ///
    /// The socket failed.
    pub fn watch(&self, socket: OwnedFd) -> Result<Watch, NetlinkError> {
        Watch::new(socket, self.netlink.socket())
    }

    /// The rules and elements that stand in the kernel, to trace packets through.
    ///
    /// # Errors
    ///
    /// The socket failed.
    pub fn ruleset(&mut self) -> Result<Ruleset, NetlinkError> {
        Ruleset::read(&mut self.netlink)
    }

    /// Bytes that one batch may have.
    #[cfg(test)]
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.netlink.set_limit(limit);
    }

    /// Writes everything anew, each set with room for twice of what it holds.
    fn rebuild(&mut self) -> Result<(), NetlinkError> {
        self.later = Messages::default();
        self.leaving.clear();
        self.tables.clear();
        let mut plans: BTreeMap<Family, Plan> = BTreeMap::new();
        // IPv4 stands always; IPv6 with the first frontend or Service range that needs it.
        plans.insert(Family::V4, Plan::default());
        self.tables.insert(Family::V4, TableState::default());
        if self.node.service_cidrs.iter().any(|c| c.network().is_ipv6()) {
            plans.insert(Family::V6, Plan::default());
            self.tables.insert(Family::V6, TableState::default());
        }
        for frontend in self.installed.values() {
            let family = family(&frontend.key);
            let plan = plans.entry(family).or_default();
            let table = self.tables.entry(family).or_default();
            table.plan(plan, &self.node, None, Some(frontend));
        }
        let mut messages = Messages::default();
        let mut hooks = Messages::default();
        for (family, mut plan) in plans {
            let table = self.tables.entry(family).or_default();
            table.plan_shared(&mut plan);
            layout::recreate_table(family, &mut messages);
            for (id, set) in Set::ALL.into_iter().enumerate() {
                let length = plan.add.get(&set).map_or(0, ElementList::len);
                let size = (2 * length).next_power_of_two().max(SMALLEST);
                set.create(family, id as u32 + 1, size as u32, &mut messages);
                table.room.insert(set, (length, size));
            }
            layout::static_chains(family, &self.node, &mut messages);
            messages.append(plan.chains);
            plan.add.iter().for_each(|(set, list)| list.add(family, *set, &mut messages));
            layout::hooks(family, &self.node, &mut hooks);
        }
        // Where the kernel has no nftables for IPv6, asking fails, and there is nothing to remove.
        if !self.tables.contains_key(&Family::V6) && matches!(self.fingerprint(Family::V6), Ok(Some(_))) {
            layout::remove_table(Family::V6, &mut messages);
        }
        messages.append(hooks);
        self.netlink.transact(&messages)?;
        let families: Vec<Family> = self.tables.keys().copied().collect();
        for family in families {
            let fingerprint = self.fingerprint(family)?;
            if let Some(table) = self.tables.get_mut(&family) {
                table.fingerprint = fingerprint;
            }
        }
        self.applied_at = Instant::now();
        Ok(())
    }

    /// What tells a table from one that was removed, flushed or made again.
    fn fingerprint(&mut self, family: Family) -> Result<Option<(u64, u32)>, NetlinkError> {
        let mut request = Messages::default();
        request.push(kind::GET_TABLE, 0, family.number(), |a| a.text(1, TABLE));
        let mut found = None;
        let asked = self.netlink.ask(request, |message| {
            let attributes = message.attributes();
            let used = attributes.get(3).and_then(|v| v.try_into().ok()).map(u32::from_be_bytes);
            let handle = attributes.get(4).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes);
            found = handle.zip(used);
        });
        match asked {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(found),
        }
    }

    /// Whether every set has room for a plan; a set's elements count until their deletion is committed.
    fn fits(&self, plans: &BTreeMap<Family, Plan>) -> bool {
        plans.iter().all(|(family, plan)| {
            let Some(table) = self.tables.get(family) else { return false };
            plan.add.iter().all(|(set, list)| {
                table.room.get(set).is_some_and(|(length, size)| length + list.len() <= *size)
            })
        })
    }
}

impl TableState {
    /// The number of an action's chain, which is made if it is new.
    fn action(&mut self, family: Family, action: Action, node: &NodeContext, out: &mut Messages) -> u32 {
        if let Some(number) = self.actions.get(&action) {
            return *number;
        }
        if action.guarded {
            self.action(family, action.behind_guard(), node, out);
        } else if action.split {
            let (pods, own) = action.inside();
            self.action(family, pods, node, out);
            self.action(family, own, node, out);
        }
        // Chains stay until the next rebuild: there are as many as there are distinct numbers of backends.
        let number = self.actions.len() as u32 + 1;
        self.actions.insert(action, number);
        layout::action_chain(family, action, node, out);
        let chain = action.to_string();
        add_action(family, Set::Actions, number, &chain, out);
        // What serves those outside leads to no further map.
        if !action.split && !action.guarded {
            add_action(family, Set::Leaves, number, &chain, out);
        }
        number
    }

    fn lay_out(&mut self, frontend: &Frontend, node: &NodeContext, out: &mut Messages) -> Elements {
        let family = family(&frontend.key);
        let inside = self.action(family, Action::of(frontend), node, out);
        let outside = Action::of_outside(frontend).map(|a| self.action(family, a, node, out));
        elements(frontend, (inside, outside))
    }

    /// Adds to a plan what leads from one state of a frontend to another.
    fn plan(
        &mut self,
        plan: &mut Plan,
        node: &NodeContext,
        old: Option<&Arc<Frontend>>,
        new: Option<&Arc<Frontend>>,
    ) {
        let before = old.map(|f| self.lay_out(f, node, &mut plan.chains)).unwrap_or_default();
        let after = new.map(|f| self.lay_out(f, node, &mut plan.chains)).unwrap_or_default();
        for ((set, key), value) in &before {
            match after.get(&(*set, key.clone())) {
                Some(same) if same == value => {}
                Some(_) => plan.delete.entry(*set).or_default().push(key.clone(), Vec::new()),
                // A packet that met the old number may be about to look its endpoint up.
                None if *set == Set::Endpoints => {
                    plan.later.entry(*set).or_default().push(key.clone(), Vec::new());
                }
                None => plan.delete.entry(*set).or_default().push(key.clone(), Vec::new()),
            }
        }
        for ((set, key), value) in after {
            let element = (set, key);
            if before.get(&element) != Some(&value) {
                plan.add.entry(set).or_default().push(element.1, value);
            }
        }
        for (frontend, by) in [(old, -1), (new, 1)] {
            if let Some(frontend) = frontend.filter(|f| f.class == Class::ClusterIp) {
                *plan.cluster.entry(frontend.key.address).or_default() += by;
            }
            for address in backend_addresses(frontend) {
                *plan.hairpin.entry(address).or_default() += by;
            }
        }
    }

    /// Adds to a plan the elements that frontends share, when all frontends are in it.
    fn plan_shared(&mut self, plan: &mut Plan) {
        for (address, by) in std::mem::take(&mut plan.cluster) {
            if let Some(come) = share(&mut self.cluster, address, by) {
                let lists = if come { &mut plan.add } else { &mut plan.delete };
                lists.entry(Set::Cluster).or_default().push(octets(address), Vec::new());
            }
        }
        for (address, by) in std::mem::take(&mut plan.hairpin) {
            if let Some(come) = share(&mut self.hairpin, address, by) {
                let lists = if come { &mut plan.add } else { &mut plan.later };
                let pair = [octets(address), octets(address)].concat();
                lists.entry(Set::Hairpin).or_default().push(pair, Vec::new());
            }
        }
    }
}

fn backend_addresses(frontend: Option<&Arc<Frontend>>) -> impl Iterator<Item = IpAddr> + '_ {
    let targets = frontend.into_iter().flat_map(|f| [Some(&f.target), f.outside.as_ref()]);
    targets.flatten().flat_map(|t| t.backends()).map(|b| b.address)
}

/// Counts the users of an address: whether it came into use, fell out of it, or neither.
fn share(counts: &mut BTreeMap<IpAddr, i64>, address: IpAddr, by: i64) -> Option<bool> {
    let count = counts.entry(address).or_default();
    let before = *count;
    *count += by;
    match (before, *count) {
        (0, 1..) => Some(true),
        (1.., 0) => {
            counts.remove(&address);
            Some(false)
        }
        (0, _) => {
            counts.remove(&address);
            None
        }
        _ => None,
    }
}

impl RuleSink for NftSink {
    type Error = NetlinkError;

    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), NetlinkError> {
        self.node = node.clone();
        // Rules outlive who wrote them: what those led from whose Services went meanwhile is not served any more.
        if self.tables.is_empty() {
            for family in [Family::V4, Family::V6] {
                let left = read::udp(&mut self.netlink, family).unwrap_or_default();
                self.stale.replaced(left.iter(), std::iter::empty());
            }
        }
        self.stale.replaced(self.installed.keys(), frontends.values());
        self.installed = frontends.clone();
        self.rebuild()
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), NetlinkError> {
        self.settle()?;
        // Kept over a failure: what serves them then is settled by the `replace` that follows.
        self.stale.changed(changes);
        let mut plans: BTreeMap<Family, Plan> = BTreeMap::new();
        let mut fresh = false;
        for change in changes {
            match change.after() {
                Some(new) => self.installed.insert(new.key, new.clone()),
                None => self.installed.remove(&change.key()),
            };
            let family = family(&change.key());
            let Some(table) = self.tables.get_mut(&family) else {
                fresh = true;
                continue;
            };
            table.plan(plans.entry(family).or_default(), &self.node, change.before(), change.after());
        }
        for (family, plan) in &mut plans {
            self.tables.entry(*family).or_default().plan_shared(plan);
        }
        if fresh || !self.fits(&plans) {
            self.rebuild()?;
        } else {
            self.commit(plans)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), NetlinkError> {
        if !self.later.is_empty() {
            sleep(IN_FLIGHT.saturating_sub(self.applied_at.elapsed()));
            let later = std::mem::take(&mut self.later);
            self.netlink.transact(&later)?;
        }
        for (family, set, count) in self.leaving.drain(..) {
            if let Some((length, _)) = self.tables.get_mut(&family).and_then(|t| t.room.get_mut(&set)) {
                *length = length.saturating_sub(count);
            }
        }
        Ok(())
    }

    fn forget_flows(&mut self) -> Result<(), NetlinkError> {
        self.stale.forget(&mut self.netlink)
    }

    fn flows(&mut self) -> conntrack::Forgotten {
        self.stale.take()
    }

    fn intact(&mut self) -> Result<bool, NetlinkError> {
        let expected: Vec<(Family, Option<(u64, u32)>)> =
            self.tables.iter().map(|(f, t)| (*f, t.fingerprint)).collect();
        for (family, fingerprint) in expected {
            if self.fingerprint(family)? != fingerprint {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn flow_table(&mut self) -> Result<Option<FlowTable>, NetlinkError> {
        room::flow_table(&mut self.netlink).map(Some)
    }

    fn make_room(&mut self) -> Result<u64, NetlinkError> {
        room::make_room(&mut self.netlink)
    }

    fn read_back(&mut self) -> Result<Installed, NetlinkError> {
        let families: Vec<Family> = self.tables.keys().copied().collect();
        let mut installed = Installed::new();
        for family in families {
            installed.extend(read::frontends(&mut self.netlink, family)?);
        }
        Ok(installed)
    }
}

impl NftSink {
    /// Sends what is planned, deletions before additions, and keeps what has to wait.
    fn commit(&mut self, plans: BTreeMap<Family, Plan>) -> Result<(), NetlinkError> {
        let mut messages = Messages::default();
        let mut grown = Vec::new();
        for (family, plan) in plans {
            let table = self.tables.entry(family).or_default();
            if !plan.chains.is_empty() {
                grown.push(family);
            }
            messages.append(plan.chains);
            plan.delete.iter().for_each(|(set, list)| list.delete(family, *set, &mut messages));
            plan.add.iter().for_each(|(set, list)| list.add(family, *set, &mut messages));
            for (set, list) in &plan.later {
                list.delete(family, *set, &mut self.later);
                self.leaving.push((family, *set, list.len()));
            }
            for (set, (length, _)) in &mut table.room {
                let added = plan.add.get(set).map_or(0, ElementList::len);
                let deleted = plan.delete.get(set).map_or(0, ElementList::len);
                *length = (*length + added).saturating_sub(deleted);
            }
        }
        self.netlink.transact(&messages)?;
        self.applied_at = Instant::now();
        for family in grown {
            let fingerprint = self.fingerprint(family)?;
            if let Some(table) = self.tables.get_mut(&family) {
                table.fingerprint = fingerprint;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_proxy::contract;

    /// What a user namespace does to a batch: it is cut in many.
    #[test]
    fn small_batches_come_to_the_same() {
        let socket = std::thread::spawn(|| {
            let kind = rustix::thread::UnshareFlags::NEWNET;
            // A child thread's own namespace; the socket keeps it.
            #[allow(deprecated, reason = "the crate forbids unsafe; a network namespace shares no memory")]
            rustix::thread::unshare(kind).expect("this test makes a network namespace: run it as root");
            crate::netlink_socket().unwrap()
        });
        let mut sink = NftSink::open(socket.join().unwrap()).unwrap();
        sink.set_limit(2000);
        contract::check(&mut sink, &contract::node(), &contract::history(3, 10)).unwrap();
    }
}
