//! The sink: what stands in the kernel, and the batches that change it.

use super::action::Action;
use super::elements::{self, ElementList, add_action, family};
use super::layout::{self, Family, Hold, IN_CLUSTER, Set, TABLE, kind, octets};
use super::plan::{Laid, Plan};
use super::read;
use super::trace::Ruleset;
use crate::conntrack;
use crate::message::{AttributeIter, Messages};
use crate::netlink::{Netlink, NetlinkError};
use crate::passing::packets_pass;
use crate::room;
use crate::watch::{Watch, port};
use rustix::fd::OwnedFd;
use sealane_proxy::{Change, FlowTable, Frontend, FrontendKey, Installed, NodeContext, RuleSink};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a packet may take between its look-ups. Measured: with 200 us none of 228,000 flows missed.
const IN_FLIGHT: Duration = Duration::from_micros(200);
/// Chains that nobody needs any more, beyond which all is written anew: they cost memory, and the map to them makes each
/// new one cost its size.
const UNUSED_CHAINS: usize = 1 << 10;
/// Elements that a set has room for at least.
const SMALLEST: usize = 1 << 10;

/// One family's table.
#[derive(Debug, Default)]
struct TableState {
    /// Numbers of the chains in force.
    actions: BTreeMap<Action, u32>,
    /// How many of them were needed when all was last written anew.
    needed: usize,
    /// How many slots lead to an address.
    hairpin: Users,
    /// How many frontends a cluster address has.
    cluster: Users,
    /// Elements in a set, those counted that wait for their deletion, and its size.
    room: BTreeMap<Set, (usize, usize)>,
    /// The kernel's handle of the table and how many chains and sets it had when we left it.
    fingerprint: Option<(u64, u32)>,
}

/// How many use an address.
#[derive(Debug, Default)]
struct Users {
    v4: HashMap<Ipv4Addr, u32>,
    v6: HashMap<Ipv6Addr, u32>,
}

impl Users {
    /// Whether the address came into use, fell out of it, or neither.
    fn change(&mut self, address: IpAddr, by: i64) -> Option<bool> {
        match address {
            IpAddr::V4(address) => count(&mut self.v4, address, by),
            IpAddr::V6(address) => count(&mut self.v6, address, by),
        }
    }
}

fn count<A: Eq + Hash>(users: &mut HashMap<A, u32>, address: A, by: i64) -> Option<bool> {
    let before = users.get(&address).copied().unwrap_or(0);
    let after = u32::try_from((i64::from(before) + by).max(0)).unwrap_or(u32::MAX);
    match (before, after) {
        (0, 0) => return None,
        (_, 0) => users.remove(&address),
        _ => users.insert(address, after),
    };
    ((before == 0) != (after == 0)).then_some(before == 0)
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
    /// What the kernel lacks for a family whose table does not stand for that.
    lacking: BTreeMap<Family, String>,
    /// Whether tables are left open to others although the kernel could keep those out.
    open: bool,
    /// Whether the kernel can.
    holds: bool,
    /// Families whose translations go on whoever flushes our table.
    kept: BTreeSet<Family>,
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
        // Before another of this process's is: the first has the process's number, by which others are told who holds tables.
        port(&socket)?;
        Ok(Self {
            netlink: Netlink::new(socket)?,
            node: NodeContext::new(""),
            tables: BTreeMap::new(),
            lacking: BTreeMap::new(),
            open: false,
            holds: false,
            kept: BTreeSet::new(),
            installed: BTreeMap::new(),
            later: Messages::default(),
            leaving: Vec::new(),
            applied_at: Instant::now(),
            stale: conntrack::Stale::default(),
        })
    }

    /// Leaves the tables open to whoever may write rules, as kernels before 6.9 do: what others change is written anew. For tests
    /// of that.
    #[must_use]
    pub fn left_open(mut self) -> Self {
        self.open = true;
        self
    }

    /// How tables are to be held.
    fn hold(&mut self) -> Result<Hold, NetlinkError> {
        if !self.holds {
            let mut messages = Messages::default();
            layout::try_hold(&self.keeper()?, &mut messages);
            // What is not there may come with a module: it is asked again.
            self.holds = self.netlink.transact(messages).is_ok();
        }
        Ok(match (self.holds, self.open) {
            (false, _) => Hold::Open,
            (true, true) => Hold::Released,
            (true, false) => Hold::Socket,
        })
    }

    /// Writes to tables, which somebody else may hold.
    fn write(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        match self.netlink.transact(messages) {
            Err(NetlinkError::Forbidden) => {
                let own = port(self.netlink.socket())?;
                let holders = [Family::V4, Family::V6].map(|family| self.holder(family).ok().flatten());
                let other = holders.into_iter().flatten().find(|holder| *holder != own);
                Err(other
                    .map_or(NetlinkError::Forbidden, |port| NetlinkError::Held { by: holder_name(port) }))
            }
            other => other,
        }
    }

    /// The netlink port that holds a table.
    fn holder(&mut self, family: Family) -> Result<Option<u32>, NetlinkError> {
        let mut found = None;
        self.ask_table(family, |attributes| found = number(attributes.get(7)))?;
        Ok(found)
    }

    /// Removes both tables, and with them all that a sink ever wrote (`--cleanup`). Packets that are on their way through
    /// them get to their end first: whatever else leads Services' packets leads those that come then.
    pub fn clear(&mut self) -> Result<(), NetlinkError> {
        let mut unhooked = false;
        for family in [Family::V4, Family::V6] {
            let mut messages = Messages::default();
            layout::unhook(family, &mut messages);
            // What is not there, or not whole, is led to by nobody.
            unhooked |= self.netlink.transact(messages).is_ok();
        }
        if unhooked {
            packets_pass();
        }
        let mut messages = Messages::default();
        let hold = self.hold()?;
        for family in [Family::V4, Family::V6] {
            layout::remove_table(family, hold, &mut messages);
        }
        let keeper = self.keeper()?;
        for family in std::mem::take(&mut self.kept) {
            layout::delete_table(family, &keeper, &mut messages);
        }
        self.later = Messages::default();
        self.leaving.clear();
        self.tables.clear();
        self.installed.clear();
        self.write(messages)
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

    /// The name of the table that has translations go on: this socket's own, for another's cannot be written.
    fn keeper(&self) -> Result<String, NetlinkError> {
        Ok(format!("{TABLE}-{}", port(self.netlink.socket())?))
    }

    /// Has translations go on whoever flushes our table; where the kernel cannot, they do so when rules are back.
    fn keep_translating(&mut self) -> Result<(), NetlinkError> {
        let name = self.keeper()?;
        let fresh: Vec<Family> = self.tables.keys().filter(|f| !self.kept.contains(f)).copied().collect();
        for family in fresh {
            let mut messages = Messages::default();
            layout::keep_translating(family, &name, &mut messages);
            if let Err(error) = self.netlink.transact(messages) {
                tracing::debug!(%error, "a flush of rules will interrupt connections");
            }
            self.kept.insert(family);
        }
        Ok(())
    }

    /// Writes everything anew. Each family stands alone: one that the kernel lacks keeps none of the other's rules away.
    fn rebuild(&mut self) -> Result<(), NetlinkError> {
        let hold = self.hold()?;
        self.later = Messages::default();
        self.leaving.clear();
        self.tables.clear();
        self.lacking.clear();
        let mut missing = None;
        for family in [Family::V4, Family::V6] {
            if !self.has_rules(family) {
                // Where the kernel has no nftables for IPv6, asking fails, and there is nothing to remove.
                if matches!(self.fingerprint(family), Ok(Some(_))) {
                    let mut messages = Messages::default();
                    layout::remove_table(family, hold, &mut messages);
                    self.write(messages)?;
                }
                continue;
            }
            match self.rebuild_family(family, hold) {
                Err(error @ NetlinkError::Missing { .. }) => {
                    self.lacking.insert(family, error.to_string());
                    missing.get_or_insert(error);
                }
                done => done?,
            }
        }
        self.applied_at = Instant::now();
        if let Some(error) = missing.filter(|_| self.tables.is_empty()) {
            return Err(error);
        }
        if hold == Hold::Socket { Ok(()) } else { self.keep_translating() }
    }

    /// IPv4's stand always; IPv6's with the first frontend or Service range that needs it.
    fn has_rules(&self, family: Family) -> bool {
        family == Family::V4
            || self.node.service_cidrs.iter().any(|c| c.network().is_ipv6())
            || self.installed.keys().next_back().is_some_and(|k| k.address.is_ipv6())
    }

    /// Writes one family's table anew, each set with room for twice of what it holds.
    fn rebuild_family(&mut self, family: Family, hold: Hold) -> Result<(), NetlinkError> {
        let (mut table, mut plan) = (TableState::default(), Plan::default());
        for frontend in self.installed.values().filter(|f| elements::family(&f.key) == family) {
            table.plan(&mut plan, &self.node, None, Some(frontend));
        }
        table.plan_shared(&mut plan);
        let mut messages = Messages::default();
        layout::recreate_table(family, hold, &mut messages);
        for (id, set) in Set::ALL.into_iter().enumerate() {
            let length = plan.add.get(&set).map_or(0, ElementList::len);
            let size = (2 * length).next_power_of_two().max(SMALLEST);
            set.create(family, id as u32 + 1, size as u32, &mut messages);
            table.room.insert(set, (length, size));
        }
        table.needed = table.actions.len();
        layout::static_chains(family, &self.node, &mut messages);
        messages.append(plan.chains);
        // One list after the other goes as it is written: both together are all that the kernel gets.
        plan.add.into_iter().for_each(|(set, list)| list.add(family, set, &mut messages));
        layout::hooks(family, &self.node, &mut messages);
        self.write(messages)?;
        table.fingerprint = self.fingerprint(family)?;
        self.tables.insert(family, table);
        Ok(())
    }

    /// What tells a table from one that was removed, flushed or made again.
    fn fingerprint(&mut self, family: Family) -> Result<Option<(u64, u32)>, NetlinkError> {
        let mut found = None;
        self.ask_table(family, |attributes| {
            let handle = attributes.get(4).and_then(|v| v.try_into().ok()).map(u64::from_be_bytes);
            found = handle.zip(number(attributes.get(3)));
        })?;
        Ok(found)
    }

    /// What the kernel says of our table, where it is there.
    fn ask_table(
        &mut self,
        family: Family,
        mut visit: impl FnMut(&AttributeIter<'_>),
    ) -> Result<(), NetlinkError> {
        let mut request = Messages::default();
        request.push(kind::GET_TABLE, 0, family.number(), |a| a.text(1, TABLE));
        match self.netlink.ask(request, |message| visit(&message.attributes())) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether every set has room for a plan, and there are not too many old chains; a set's elements count until their deletion is committed.
    fn fits(&self, plans: &BTreeMap<Family, Plan>) -> bool {
        plans.iter().all(|(family, plan)| {
            let Some(table) = self.tables.get(family) else { return false };
            if table.actions.len() > 2 * table.needed + UNUSED_CHAINS {
                return false;
            }
            plan.add.iter().all(|(set, list)| {
                table.room.get(set).is_some_and(|(length, size)| length + list.len() <= *size)
            })
        })
    }
}

fn number(value: Option<&[u8]>) -> Option<u32> {
    value.and_then(|v| v.try_into().ok()).map(u32::from_be_bytes)
}

/// Who has a netlink port: a process's first is its own number.
fn holder_name(port: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{port}/comm")) {
        Ok(name) => format!("process {port} ({})", name.trim()),
        Err(_) => format!("the process with netlink port {port}"),
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
        // Chains stay until all is written anew: there are as many as there were distinct numbers of backends.
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

    fn lay_out<'a>(&mut self, frontend: &'a Frontend, node: &NodeContext, out: &mut Messages) -> Laid<'a> {
        let family = family(&frontend.key);
        let inside = self.action(family, Action::of(frontend), node, out);
        let outside = Action::of_outside(frontend).map(|a| self.action(family, a, node, out));
        Laid { frontend, inside, outside }
    }

    /// Adds to a plan what leads from one state of a frontend to another.
    fn plan(
        &mut self,
        plan: &mut Plan,
        node: &NodeContext,
        old: Option<&Arc<Frontend>>,
        new: Option<&Arc<Frontend>>,
    ) {
        let old = old.map(|f| self.lay_out(f, node, &mut plan.chains));
        let new = new.map(|f| self.lay_out(f, node, &mut plan.chains));
        plan.change(old, new);
    }

    /// Adds to a plan the elements that frontends share, when all frontends are in it.
    fn plan_shared(&mut self, plan: &mut Plan) {
        for (address, by) in std::mem::take(&mut plan.cluster) {
            if let Some(come) = self.cluster.change(address, by) {
                let lists = if come { &mut plan.add } else { &mut plan.delete };
                let value = IN_CLUSTER.to_ne_bytes();
                let value: &[u8] = if come { &value } else { &[] };
                lists.entry(Set::Cluster).or_default().push(Set::Cluster, &octets(address), value);
            }
        }
        for (address, by) in std::mem::take(&mut plan.hairpin) {
            if let Some(come) = self.hairpin.change(address, by) {
                let lists = if come { &mut plan.add } else { &mut plan.later };
                let pair = [octets(address), octets(address)].concat();
                lists.entry(Set::Hairpin).or_default().push(Set::Hairpin, &pair, &[]);
            }
        }
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
            if self.lacking.contains_key(&family) {
                continue;
            }
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
            self.netlink.transact(later)?;
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
            // Gone before it could be looked at: as little intact as what is gone since.
            if fingerprint.is_none() || self.fingerprint(family)? != fingerprint {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lacking(&mut self) -> Option<String> {
        self.lacking.values().next().cloned()
    }

    fn try_lacking(&mut self) -> Result<(), NetlinkError> {
        let hold = self.hold()?;
        let families: Vec<Family> = self.lacking.keys().copied().collect();
        for family in families {
            match self.rebuild_family(family, hold) {
                Ok(()) => drop(self.lacking.remove(&family)),
                Err(NetlinkError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
        self.netlink.transact(messages)?;
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

    fn namespace() -> OwnedFd {
        let socket = std::thread::spawn(|| {
            let kind = rustix::thread::UnshareFlags::NEWNET;
            // A child thread's own namespace; the socket keeps it.
            #[allow(deprecated, reason = "the crate forbids unsafe; a network namespace shares no memory")]
            rustix::thread::unshare(kind).expect("this test makes a network namespace: run it as root");
            crate::netlink_socket().unwrap()
        });
        socket.join().unwrap()
    }

    fn replace_all(bytes: &mut [u8], what: &[u8], by: &[u8]) {
        for at in 0..bytes.len().saturating_sub(what.len()) {
            if &bytes[at..at + what.len()] == what {
                bytes[at..at + by.len()].copy_from_slice(by);
            }
        }
    }

    /// Requests for what no kernel has: it answers as one that lacks the true ones does.
    #[test]
    fn what_a_kernel_lacks_is_named() {
        let mut sink = NftSink::open(namespace()).unwrap();
        let mut table = sealane_proxy::Table::new(contract::node());
        for round in contract::history(3, 10) {
            table.update(round.iter().map(|(name, entry)| (name, entry.as_ref())));
        }
        type Distortion = fn(&mut Vec<u8>);
        let lacks: [(Distortion, &str); 5] = [
            (|b| replace_all(b, b"numgen\0", b"numgex\0"), "numgen"),
            (|b| replace_all(b, b"fib\0", b"fix\0"), "reject"),
            (|b| replace_all(b, b"\x08\0\x07\0nat\0", b"\x08\0\x07\0nax\0"), "chains of type na"),
            // The flags of set `sources`.
            (|b| replace_all(b, b"\x08\0\x03\0\0\0\0\x84", b"\x08\0\x03\0\x80\0\0\x84"), "sets like sources"),
            // The subsystem of a batch: one that takes none.
            (
                |b| {
                    if b[4..6] == [0x10, 0] {
                        b[19] = 1
                    }
                },
                "nftables (CONFIG_NF_TABLES)",
            ),
        ];
        for (distort, what) in lacks {
            sink.netlink.distort = Some(distort);
            let error = sink.replace(table.node(), table.frontends()).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, NetlinkError::Missing { .. }) && text.contains(what), "{what}: {text}");
            assert!(text.starts_with("the kernel lacks ") && !text.contains('\n'), "{text}");
        }
        // Its module is loaded: the next try gets through.
        sink.netlink.distort = None;
        sink.replace(table.node(), table.frontends()).unwrap();
        assert_eq!(sink.read_back().unwrap().len(), table.frontends().len());
    }

    /// A kernel without IPv6's part: IPv4's rules stand, follow changes, and are not written anew for the other's sake.
    #[test]
    fn a_family_that_the_kernel_lacks_keeps_none_from_the_other() {
        let mut sink = NftSink::open(namespace()).unwrap();
        let mut table = sealane_proxy::Table::new(contract::node());
        // Behind the beginning of a batch: the family of its first message.
        sink.netlink.distort = Some(|b| {
            if b.get(36) == Some(&Family::V6.number()) {
                replace_all(b, b"\x08\0\x07\0nat\0", b"\x08\0\x07\0nax\0");
            }
        });
        let of = |table: &sealane_proxy::Table, ipv6: bool| -> BTreeSet<FrontendKey> {
            table.frontends().keys().filter(|k| k.address.is_ipv6() == ipv6).copied().collect()
        };
        let (mut seen, mut stands) = (0, None);
        for round in contract::history(3, 10) {
            let changes = table.update(round.iter().map(|(name, entry)| (name, entry.as_ref())));
            match stands {
                None => sink.replace(table.node(), table.frontends()).unwrap(),
                Some(_) => sink.apply(&changes).unwrap(),
            }
            sink.settle().unwrap();
            let now = sink.fingerprint(Family::V4).unwrap().map(|(handle, _)| handle);
            assert_eq!(*stands.get_or_insert(now), now, "it is the same table");
            let installed: BTreeSet<FrontendKey> = sink.read_back().unwrap().into_keys().collect();
            assert_eq!(installed, of(&table, false));
            assert!(sink.intact().unwrap());
            if !of(&table, true).is_empty() {
                let text = sink.lacking().unwrap();
                assert!(text.contains("for IPv6") && !text.contains('\n'), "{text}");
                seen += 1;
            }
            sink.try_lacking().unwrap();
        }
        assert!(seen > 0);
        // It has come.
        sink.netlink.distort = None;
        sink.try_lacking().unwrap();
        assert_eq!(sink.lacking(), None);
        assert_eq!(sink.read_back().unwrap().len(), table.frontends().len());
    }

    /// What a user namespace does to a batch: it is cut in many.
    #[test]
    fn small_batches_come_to_the_same() {
        let mut sink = NftSink::open(namespace()).unwrap();
        sink.set_limit(2000);
        contract::check(&mut sink, &contract::node(), &contract::history(3, 10)).unwrap();
    }
}
