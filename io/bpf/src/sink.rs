//! The sink: frontends in maps.

use crate::destroy::{self, Dead};
use crate::generation::{Facts, Generation, Refusal, Sizes};
use crate::pins::{self, Pins};
use crate::{BpfError, State, cgroup, links, namespace, read};
use aya::util::KernelVersion;
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, Change, Cidr, Frontend, FrontendKey, Installed, NodeContext, RuleSink};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Puts frontends into eBPF maps, and the programs that read them into a cgroup. A change costs what changed.
///
/// A connection looks up one frontend, which is exchanged whole: a changed target gets fresh places in the map of
/// backends, and the old ones are written again only when no program can be reading them. `replace` makes new maps and
/// programs, and takes the old ones away when the new ones are in force.
#[derive(Debug)]
pub struct BpfSink {
    path: PathBuf,
    cgroup: File,
    namespace: File,
    pins: Pins,
    lasting: bool,
    /// Links from outside are found.
    outward: bool,
    /// Nothing new is led.
    retired: bool,
    facts: Facts,
    installed: BTreeMap<FrontendKey, Arc<Frontend>>,
    live: Option<Generation>,
    /// Flows whose end is due.
    dead: Dead,
    destroyed: u64,
}

impl BpfSink {
    /// A sink for the processes of a cgroup of version 2 and those below it. Processes that are in none of them, and
    /// machines outside, are for packets' rules. Nothing is loaded before the first `replace`.
    ///
    /// # Errors
    ///
    /// There is no such cgroup, or no `/proc`.
    pub fn open(cgroup: &Path) -> Result<Self, BpfError> {
        Ok(Self {
            cgroup: cgroup::open(cgroup)?,
            namespace: namespace::current()?,
            pins: Pins::passing()?,
            lasting: false,
            outward: false,
            retired: false,
            path: cgroup.to_owned(),
            facts: Facts::default(),
            installed: BTreeMap::new(),
            live: None,
            dead: Dead::default(),
            destroyed: 0,
        })
    }

    /// Leads packets as well, which come in by these Ethernet links of the network namespace of the thread that opened
    /// the sink. A new flow gets the backend that any other node would lead it to. Who is to be masqueraded is marked with
    /// the node's masquerade bit, for other rules to do it.
    ///
    /// Which flows were led is known to these programs alone: when they end with the sink, connections that came in by them
    /// break, where those of sockets go on. See [`last`](Self::last).
    #[must_use]
    pub fn outside(mut self, links: impl IntoIterator<Item = String>) -> Self {
        self.facts.links = links.into_iter().collect();
        self
    }

    /// As [`outside`](Self::outside), with the Ethernet links that default routes lead out by and those that have the
    /// node's addresses, which are followed.
    ///
    /// # Errors
    ///
    /// The kernel is older than 6.6.
    pub fn outward(&mut self) -> Result<(), BpfError> {
        if !KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0)) {
            return Err(BpfError::NoTcx);
        }
        self.outward = true;
        Ok(())
    }

    /// The links that packets from outside come in by now.
    fn links(&self) -> Result<Vec<String>, BpfError> {
        if !self.outward {
            return Ok(self.facts.links.clone());
        }
        let found =
            namespace::within([&self.namespace], || links::outward(&self.facts.own, &self.facts.pods))?;
        Ok(found.concat())
    }

    /// Keeps what was led where, and the programs at links, under `/sys/fs/bpf/sealane`: they go on when the sink is
    /// dropped, or its process killed, and the next sink in the same network namespace puts its own into their place
    /// between two packets. [`clear`](Self::clear) and [`remove`](Self::remove) take them away.
    ///
    /// # Errors
    ///
    /// There is no BPF file system.
    pub fn last(&mut self) -> Result<(), BpfError> {
        self.pins = Pins::lasting(&self.namespace)?;
        self.lasting = true;
        // What left while nobody looked.
        self.dead.datagrams = true;
        Ok(())
    }

    /// Takes away what an earlier sink left in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// It could not be removed.
    pub fn remove() -> Result<(), BpfError> {
        pins::remove(&namespace::current()?)
    }

    /// How many sockets were ended because their endpoint was gone.
    pub fn destroyed(&self) -> u64 {
        self.destroyed
    }

    /// The maps as they are, to trace connections through.
    ///
    /// # Errors
    ///
    /// They could not be read.
    pub fn state(&self) -> Result<State, BpfError> {
        let Some(live) = &self.live else {
            return Ok(State { pods: Vec::new(), frontends: Installed::new(), cluster: BTreeSet::new() });
        };
        let (frontends, cluster) = (read::frontends(live)?, read::cluster(live)?);
        Ok(State { pods: read::pods(live)?, frontends, cluster })
    }

    /// Leads no sockets and nothing new from outside, for rules of another kind to do it, while connections that came in
    /// from outside go on: these programs alone know where to. Of a sink that is not to last, nothing goes on.
    ///
    /// # Errors
    ///
    /// The programs could not be exchanged.
    pub fn retire(&mut self) -> Result<(), BpfError> {
        if !self.lasting || self.links()?.is_empty() {
            return self.clear();
        }
        self.installed.clear();
        self.retired = true;
        self.rebuild()?;
        // A flow of UDP has no end that would be seen; the other rules lead its next datagram.
        let Some(live) = &mut self.live else { return Ok(()) };
        let all = Dead { datagrams: true, ..Dead::default() };
        destroy::forget_tracks(&mut live.tracks, &all, &self.installed)
    }

    /// Takes the programs away.
    ///
    /// # Errors
    ///
    /// What lasts could not be removed.
    pub fn clear(&mut self) -> Result<(), BpfError> {
        self.live = None;
        self.installed.clear();
        if self.lasting {
            return pins::remove(&self.namespace);
        }
        self.pins.keep_links(&[], &[])
    }

    /// New maps and programs in the place of the old.
    fn rebuild(&mut self) -> Result<(), BpfError> {
        self.facts.links = self.links()?;
        self.pins.make()?;
        let sizes = Sizes::of(self.installed.values(), &self.facts);
        let mut fresh = Generation::load(sizes, self.facts.clone(), &self.pins)?;
        for frontend in self.installed.values() {
            match fresh.set(frontend) {
                Ok(()) => {}
                Err(Refusal::Failed(error)) => return Err(error),
                Err(Refusal::Full) => return Err(BpfError::Foreign("backends")),
            }
        }
        fresh.attach(!self.retired, &self.cgroup, &self.namespace, &self.pins)?;
        self.live = Some(fresh);
        Ok(())
    }

    /// Notes whether a change leaves flows of UDP at backends that no longer serve them.
    fn note(&mut self, before: Option<&Frontend>, after: Option<&Frontend>) {
        let Some(before) = before.filter(|f| f.key.protocol == Protocol::Udp) else { return };
        let kept: BTreeSet<Backend> = after.into_iter().flat_map(|f| f.flows_to()).copied().collect();
        self.dead.datagrams |= before.flows_to().any(|b| !kept.contains(b));
    }
}

impl RuleSink for BpfSink {
    type Error = BpfError;

    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), BpfError> {
        self.facts.own = node.addresses.iter().chain(&node.node_port_addresses).copied().collect();
        self.facts.pods = Cidr::outermost(node.pod_cidrs.iter().copied());
        self.facts.mark = 1 << (node.masquerade_bit & 31);
        self.retired = false;
        let old = std::mem::replace(&mut self.installed, frontends.clone());
        for (key, before) in &old {
            self.note(Some(before), frontends.get(key).map(|f| &**f));
        }
        self.rebuild()
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), BpfError> {
        let mut full = false;
        for change in changes {
            self.note(change.before().map(|f| &**f), change.after().map(|f| &**f));
            let key = change.key();
            match change.after() {
                Some(new) => self.installed.insert(key, new.clone()),
                None => self.installed.remove(&key),
            };
            let Some(live) = self.live.as_mut().filter(|_| !full) else {
                full = true;
                continue;
            };
            let done = match change.after() {
                Some(new) => live.set(new),
                None => live.remove(&key).map_err(Refusal::from),
            };
            match done {
                Ok(()) => {}
                Err(Refusal::Full) => full = true,
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
        if full { self.rebuild() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<(), BpfError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.tidy()
    }

    fn forget_flows(&mut self) -> Result<(), BpfError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        if !self.dead.is_empty() {
            destroy::forget_tracks(&mut live.tracks, &self.dead, &self.installed)?;
            self.destroyed += destroy::end_sockets(&self.path, &live.beliefs, &self.dead, &self.installed)?;
            self.dead = Dead::default();
        }
        Ok(())
    }

    fn ends_connections(&self) -> bool {
        true
    }

    fn left(&mut self, endpoints: &BTreeSet<IpAddr>) -> Result<(), BpfError> {
        self.dead.gone.extend(endpoints);
        Ok(())
    }

    fn intact(&mut self) -> Result<bool, BpfError> {
        match &self.live {
            Some(live) => {
                Ok(self.links()? == self.facts.links && live.is_attached(&self.cgroup, &self.namespace)?)
            }
            None => Ok(self.installed.is_empty()),
        }
    }

    fn read_back(&mut self) -> Result<Installed, BpfError> {
        self.live.as_ref().map_or_else(|| Ok(Installed::new()), read::frontends)
    }
}
