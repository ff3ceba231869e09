//! The sink: what was written, and the changes of it.

use super::batch::{Batch, Turned, is_own, missing_jumps, removal, rules_in};
use super::layout::{
    self, CANARY, EXTERNAL, FIREWALL, FORWARD, Laid, MARK_MASQ, NODE_PORTS, OFF_CLUSTER, POSTROUTING, Rules,
    SERVICES, Shared, TableName,
};
use super::names::ServicePort;
use super::programs::{IptablesError, Programs, Variant};
use super::rules::SavedRules;
use super::trace::IptablesRules;
use crate::conntrack;
use crate::message::Messages;
use crate::netlink::{Netlink, SUBSYSTEM_NFTABLES, netlink_socket};
use crate::room;
use sealane_proxy::{Change, FlowTable, Frontend, FrontendKey, Installed, NodeContext, RuleCounts, RuleSink};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Our chains, but for those of Service ports.
const SHARED: &[(TableName, &str)] = &[
    (TableName::Nat, SERVICES),
    (TableName::Nat, NODE_PORTS),
    (TableName::Nat, POSTROUTING),
    (TableName::Nat, MARK_MASQ),
    (TableName::Nat, OFF_CLUSTER),
    (TableName::Nat, CANARY),
    (TableName::Filter, SERVICES),
    (TableName::Filter, EXTERNAL),
    (TableName::Filter, FIREWALL),
    (TableName::Filter, FORWARD),
    (TableName::Filter, CANARY),
];

/// Chains that are looked at for what others did, and what must lie in them.
const LOOKED_AT: &[(TableName, &str, &str)] = &[
    (TableName::Nat, CANARY, "-A "),
    (TableName::Nat, "PREROUTING", SERVICES),
    (TableName::Filter, CANARY, "-A "),
    (TableName::Filter, "FORWARD", SERVICES),
];

/// A Service port's frontends of one family, and what they came to.
#[derive(Debug, Default)]
struct Group {
    frontends: BTreeMap<FrontendKey, Arc<Frontend>>,
    laid: Laid,
}

/// What was written of one family.
#[derive(Debug, Default)]
struct Written {
    groups: BTreeMap<ServicePort, Group>,
    shared: BTreeMap<Shared, Rules>,
}

/// Puts frontends into iptables by its own programs, in kube-proxy's layout. A change writes the chains that it touches;
/// those that all Services share are among them where an address, or whether anybody serves it, changes.
///
/// Each table of a family changes at once. Between the two, and between the families, others may look: what is refused is
/// refused all the while.
#[derive(Debug)]
pub struct IptablesSink {
    programs: Programs,
    /// Rules of iptables are nftables', whose changes the kernel counts.
    counted: bool,
    netlink: Netlink,
    node: NodeContext,
    /// By whether it is IPv6's; what does not stand is not there.
    written: BTreeMap<bool, Written>,
    /// What the kernel had counted when it was last looked whether all stands.
    generation: Option<u32>,
    stale: conntrack::Stale,
    rules: RuleCounts,
}

impl IptablesSink {
    /// Called in the network namespace whose rules it is to write: it stays there, whichever thread uses it. Nothing is
    /// written before the first `replace`.
    ///
    /// # Errors
    ///
    /// iptables is not installed, or the kernel has no netfilter.
    pub fn open(variant: Variant) -> Result<Self, IptablesError> {
        let programs = Programs::start(variant)?;
        Ok(Self {
            counted: programs.version()?.contains("nf_tables"),
            programs,
            netlink: Netlink::new(netlink_socket()?)?,
            node: NodeContext::new(""),
            written: BTreeMap::new(),
            generation: None,
            stale: conntrack::Stale::default(),
            rules: RuleCounts::default(),
        })
    }

    /// Removes all that a sink, or kube-proxy in its iptables mode, ever wrote (`--cleanup`), but for chains that somebody
    /// else's rules lead to.
    ///
    /// # Errors
    ///
    /// iptables failed; IPv4's rules are gone where IPv6's are what could not be removed.
    pub fn clear(&mut self) -> Result<(), IptablesError> {
        self.written.clear();
        self.remove(false)?;
        if self.programs.speaks_ipv6() { self.remove(true) } else { Ok(()) }
    }

    /// The rules that stand in the kernel, to trace packets through.
    ///
    /// # Errors
    ///
    /// iptables-save failed.
    pub fn ruleset(&mut self) -> Result<IptablesRules, IptablesError> {
        Ok(IptablesRules { ipv4: self.saved(false)?, ipv6: self.saved(true)? })
    }

    fn saved(&self, ipv6: bool) -> Result<SavedRules, IptablesError> {
        self.programs.save(ipv6).map(|text| SavedRules::parse(&text))
    }

    fn remove(&mut self, ipv6: bool) -> Result<(), IptablesError> {
        let text = match self.saved(ipv6) {
            Ok(saved) => removal(&saved, SHARED),
            // A kernel without IPv6's tables has nothing in them.
            Err(IptablesError::Failed { .. }) if ipv6 => return Ok(()),
            Err(error) => return Err(error),
        };
        self.programs.restore(ipv6, text)
    }

    /// Writes a family whole.
    fn rebuild(&mut self, ipv6: bool, frontends: Vec<Arc<Frontend>>) -> Result<(), IptablesError> {
        let mut written = Written::default();
        let wanted: BTreeSet<FrontendKey> = frontends.iter().map(|f| f.key).collect();
        for frontend in frontends {
            let group = written.groups.entry(ServicePort::of(&frontend)).or_default();
            group.frontends.insert(frontend.key, frontend);
        }
        let saved = self.saved(ipv6)?;
        // Rules outlive who wrote them: what those led from whose Services went meanwhile is not served any more.
        if !self.written.contains_key(&ipv6) {
            let left = saved.frontends();
            let left = left.keys().filter(|key| !wanted.contains(key));
            self.stale.replaced(left, std::iter::empty());
        }
        let mut batch = Batch { jumps: missing_jumps(&saved), ..Batch::default() };
        for ((table, chain), rules) in layout::static_chains(&self.node, ipv6) {
            batch.chains.insert((table, chain.to_owned()), rules);
        }
        for (port, group) in &mut written.groups {
            group.lay_out(port, &self.node);
            let own = group.laid.own.iter();
            batch.chains.extend(own.map(|(chain, rules)| ((TableName::Nat, chain.clone()), rules.clone())));
        }
        for chain in Shared::ALL {
            let (table, name) = chain.place();
            let old = saved.chain(table, name).iter().map(|rule| rule.text.clone()).collect();
            let new = written.shared_chain(chain);
            written.shared.insert(chain, new.clone());
            batch.turned.push(Turned { chain, old, new });
        }
        let stands =
            saved.chains.keys().filter(|(table, _)| *table == TableName::Nat).map(|(_, chain)| chain);
        let needed = |chain: &String| batch.chains.contains_key(&(TableName::Nat, chain.clone()));
        let gone = stands.filter(|c| (is_own(c) || *c == OFF_CLUSTER) && !needed(c)).cloned().collect();
        batch.gone = gone;
        let text = batch.text();
        let counts = rules_in(&text);
        let failures = &mut self.rules.failures[usize::from(ipv6)];
        self.programs.restore(ipv6, text).inspect_err(|_| failures.0 += 1)?;
        self.rules.last[usize::from(ipv6)] = counts;
        self.written.insert(ipv6, written);
        self.generation = None;
        Ok(())
    }

    /// A family's rules, in filter and in nat.
    fn count(&self, ipv6: bool) -> [u64; 2] {
        let mut counts = [0; 2];
        let mut add =
            |table: TableName, rules: usize| counts[usize::from(table == TableName::Nat)] += rules as u64;
        layout::static_chains(&self.node, ipv6)
            .iter()
            .for_each(|((table, _), rules)| add(*table, rules.len()));
        layout::JUMPS.iter().for_each(|jump| add(jump.0, 1));
        if let Some(written) = self.written.get(&ipv6) {
            written.shared.iter().for_each(|(chain, rules)| add(chain.place().0, rules.len()));
            let own = written.groups.values().flat_map(|group| group.laid.own.values());
            add(TableName::Nat, own.map(|rules| rules.len()).sum());
        }
        counts
    }

    /// Counts changes of nftables, where iptables' rules are among them.
    fn generation(&mut self) -> Option<u32> {
        const GET_GENERATION: u16 = SUBSYSTEM_NFTABLES << 8 | 16;
        let mut found = None;
        let mut request = Messages::default();
        request.push(GET_GENERATION, 0, 0, |_| {});
        let asked = self.netlink.ask(request, |message| {
            found = message.attributes().get(1).and_then(|v| v.try_into().ok()).map(u32::from_be_bytes);
        });
        asked.ok().and(found).filter(|_| self.counted)
    }
}

impl Group {
    fn lay_out(&mut self, port: &ServicePort, node: &NodeContext) {
        self.laid = layout::lay_out(port, self.frontends.values().map(|f| &**f), node);
    }
}

impl Written {
    fn shared_chain(&self, chain: Shared) -> Rules {
        layout::shared_chain(chain, self.groups.iter().map(|(port, group)| (port, &group.laid)))
    }

    /// Takes in changes of one family; what they write.
    fn plan<'a>(&mut self, changes: impl Iterator<Item = &'a Change>, node: &NodeContext) -> Batch {
        let mut touched: BTreeSet<ServicePort> = BTreeSet::new();
        for change in changes {
            if let Some(old) = change.before() {
                let port = ServicePort::of(old);
                if let Some(group) = self.groups.get_mut(&port) {
                    group.frontends.remove(&old.key);
                }
                touched.insert(port);
            }
            if let Some(new) = change.after() {
                let port = ServicePort::of(new);
                self.groups.entry(port.clone()).or_default().frontends.insert(new.key, new.clone());
                touched.insert(port);
            }
        }
        let mut batch = Batch::default();
        let mut turned: BTreeSet<Shared> = BTreeSet::new();
        for port in touched {
            let Some(group) = self.groups.get_mut(&port) else { continue };
            let old = std::mem::take(&mut group.laid);
            group.lay_out(&port, node);
            let new = &group.laid;
            turned.extend(Shared::ALL.into_iter().filter(|c| old.shared.get(c) != new.shared.get(c)));
            if old.node_ports != new.node_ports {
                turned.extend([Shared::Services, Shared::NodePorts]);
            }
            let fresh = new.own.iter().filter(|(chain, rules)| old.own.get(*chain) != Some(rules));
            batch.chains.extend(fresh.map(|(c, rules)| ((TableName::Nat, c.clone()), rules.clone())));
            batch.gone.extend(old.own.into_keys().filter(|chain| !new.own.contains_key(chain)));
            if group.frontends.is_empty() {
                self.groups.remove(&port);
            }
        }
        for chain in turned {
            let new = self.shared_chain(chain);
            let old = self.shared.insert(chain, new.clone()).unwrap_or_default();
            if old != new {
                batch.turned.push(Turned { chain, old, new });
            }
        }
        batch
    }
}

impl RuleSink for IptablesSink {
    type Error = IptablesError;

    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), IptablesError> {
        self.node = node.clone();
        let before = self.written.values().flat_map(|w| w.groups.values()).flat_map(|g| g.frontends.keys());
        self.stale.replaced(before, frontends.values());
        for ipv6 in [false, true] {
            let own = frontends.values().filter(|f| f.key.address.is_ipv6() == ipv6);
            let own: Vec<Arc<Frontend>> = own.cloned().collect();
            // IPv4 stands always; IPv6 with the first frontend that needs it.
            if ipv6 && own.is_empty() {
                self.written.remove(&true);
                if self.programs.speaks_ipv6() {
                    self.remove(true)?;
                }
            } else {
                self.rebuild(ipv6, own)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), IptablesError> {
        // Kept over a failure: what serves them then is settled by the `replace` that follows.
        self.stale.changed(changes);
        for ipv6 in [false, true] {
            let own = || changes.iter().filter(|c| c.key().address.is_ipv6() == ipv6);
            match self.written.get_mut(&ipv6) {
                Some(written) => {
                    let text = written.plan(own(), &self.node).text();
                    let counts = rules_in(&text);
                    let failures = &mut self.rules.failures[usize::from(ipv6)];
                    self.programs.restore(ipv6, text).inspect_err(|_| failures.1 += 1)?;
                    self.rules.last[usize::from(ipv6)] = counts;
                }
                None => {
                    let own: Vec<Arc<Frontend>> = own().filter_map(|c| c.after()).cloned().collect();
                    if !own.is_empty() {
                        self.rebuild(ipv6, own)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn forget_flows(&mut self) -> Result<(), IptablesError> {
        Ok(self.stale.forget(&mut self.netlink)?)
    }

    fn flows(&mut self) -> conntrack::Forgotten {
        self.stale.take()
    }

    /// Sees that a table was flushed or chains were removed, and that nothing leads to ours any more; not what was done to
    /// a single Service's chains, as kube-proxy does not.
    fn intact(&mut self) -> Result<bool, IptablesError> {
        let generation = self.generation();
        if generation.is_some() && generation == self.generation {
            return Ok(true);
        }
        for ipv6 in self.written.keys() {
            for (table, chain, wanted) in LOOKED_AT {
                match self.programs.list(*ipv6, table.name(), chain) {
                    Ok(rules) if rules.contains(wanted) => {}
                    Ok(_) | Err(IptablesError::Failed { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
        }
        self.generation = generation;
        Ok(true)
    }

    fn rule_counts(&mut self) -> Option<RuleCounts> {
        for ipv6 in [false, true] {
            let stands = self.written.contains_key(&ipv6);
            self.rules.total[usize::from(ipv6)] = if stands { self.count(ipv6) } else { [0; 2] };
        }
        Some(self.rules)
    }

    fn flow_table(&mut self) -> Result<Option<FlowTable>, IptablesError> {
        Ok(room::flow_table(&mut self.netlink).map(Some)?)
    }

    fn make_room(&mut self) -> Result<u64, IptablesError> {
        Ok(room::make_room(&mut self.netlink)?)
    }

    fn read_back(&mut self) -> Result<Installed, IptablesError> {
        let mut installed = Installed::new();
        for ipv6 in self.written.keys() {
            installed.extend(self.saved(*ipv6)?.frontends());
        }
        Ok(installed)
    }
}
