//! The sinks that there are, of which one is in force: chosen at the start, or while connections go on.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "ebpf")]
use sealane_bpf::{BpfSink, Levels, LevelsError, cgroup2_root};
use sealane_dataplane::{
    IptablesError, IptablesSink, NetlinkError, NftSink, Variant, Watch, netlink_socket, packets_pass,
};
use sealane_proxy::config::SinkKind;
use sealane_proxy::{Change, FlowTable, Frontend, FrontendKey, Installed, NodeContext, RuleCounts, RuleSink};

/// Why rules could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkError {
    #[error(transparent)]
    Nftables(#[from] NetlinkError),
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// Programs and maps, or nftables beside them.
    #[cfg(feature = "ebpf")]
    #[error(transparent)]
    Ebpf(#[from] LevelsError<NetlinkError>),
    /// eBPF where it is not built in.
    #[error(
        "proxy mode {0} is not in this build: build Sealane with the feature ebpf, which needs clang, or choose nftables \
         or iptables"
    )]
    Absent(SinkKind),
}

/// Which sink is wanted, and which is in force.
#[derive(Clone, Debug)]
pub(crate) struct Choice(Arc<Mutex<Chosen>>);

#[derive(Debug)]
struct Chosen {
    wanted: SinkKind,
    /// Opened for what is wanted, not yet taken.
    opened: Opened,
    in_force: SinkKind,
}

impl Choice {
    fn lock(&self) -> MutexGuard<'_, Chosen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What rules are written to at present.
    pub(crate) fn in_force(&self) -> SinkKind {
        self.lock().in_force
    }

    /// Has rules written to another sink from the next time on that all are written. Called in the network namespace
    /// whose rules they are.
    pub(crate) fn want(&self, kind: SinkKind) -> Result<(), SinkError> {
        let opened = Opened::of(kind, true)?;
        let mut chosen = self.lock();
        (chosen.wanted, chosen.opened) = (kind, opened);
        Ok(())
    }
}

/// What a kind needs beside nftables' socket, which is always there.
#[derive(Debug, Default)]
struct Opened {
    iptables: Option<IptablesSink>,
    /// The level of sockets; nftables has what that leaves.
    #[cfg(feature = "ebpf")]
    sockets: Option<BpfSink>,
}

impl Opened {
    /// What `lasts` is there when this process ends, as rules are.
    fn of(kind: SinkKind, lasts: bool) -> Result<Self, SinkError> {
        let mut opened = Self::default();
        match kind {
            SinkKind::Nftables => {}
            SinkKind::Iptables => opened.iptables = Some(IptablesSink::open(Variant::Default)?),
            #[cfg(feature = "ebpf")]
            SinkKind::Ebpf => {
                let sink = cgroup2_root().and_then(|root| BpfSink::open(&root));
                let mut sink = sink.map_err(LevelsError::Sockets)?;
                let kept = if lasts { sink.last() } else { Ok(()) };
                if let Err(why) = kept.and_then(|()| sink.outward()) {
                    tracing::warn!("what comes from outside is left to nftables: {why}");
                }
                opened.sockets = Some(sink);
            }
            #[cfg(not(feature = "ebpf"))]
            SinkKind::Ebpf => {
                let _ = lasts;
                return Err(SinkError::Absent(kind));
            }
        }
        Ok(opened)
    }

    /// Takes in what was opened since.
    fn take(&mut self, newer: Opened) {
        self.iptables = newer.iptables.or(self.iptables.take());
        #[cfg(feature = "ebpf")]
        {
            self.sockets = newer.sockets.or(self.sockets.take());
        }
    }
}

/// All sinks as one: whichever is wanted is put into force before the rules of the one before are removed.
#[derive(Debug)]
pub(crate) struct Sinks {
    nftables: NftSink,
    opened: Opened,
    in_force: Option<SinkKind>,
    /// What is to be removed, and whether it has to be: it was in force; else it may be there from an earlier run.
    leaving: BTreeMap<SinkKind, bool>,
    /// Other runs may have left rules.
    cleans: bool,
    choice: Choice,
}

/// Does something with the sink of a kind.
macro_rules! on {
    ($sinks:expr, $kind:expr, $sink:ident => $call:expr) => {
        match ($kind, &mut $sinks.opened) {
            (SinkKind::Nftables, _) => {
                let $sink = &mut $sinks.nftables;
                $call.map_err(SinkError::from)
            }
            (SinkKind::Iptables, Opened { iptables: Some($sink), .. }) => $call.map_err(SinkError::from),
            #[cfg(feature = "ebpf")]
            (SinkKind::Ebpf, Opened { sockets: Some(sockets), .. }) => {
                let $sink = &mut Levels { sockets, packets: &mut $sinks.nftables };
                $call.map_err(SinkError::from)
            }
            (kind @ (SinkKind::Iptables | SinkKind::Ebpf), _) => Err(SinkError::Absent(kind)),
        }
    };
}

impl Sinks {
    /// Opens what a kind needs, in the network namespace of the calling thread, with the watch over nftables. `cleans`:
    /// what other kinds left there is removed.
    pub(crate) fn open(kind: SinkKind, cleans: bool) -> Result<(Sinks, Watch), SinkError> {
        let opened = Opened::of(kind, cleans)?;
        let nftables = NftSink::open(netlink_socket()?)?;
        let watch = nftables.watch(netlink_socket()?)?;
        let chosen = Chosen { wanted: kind, opened: Opened::default(), in_force: kind };
        let choice = Choice(Arc::new(Mutex::new(chosen)));
        let leaving = BTreeMap::new();
        Ok((Sinks { nftables, opened, in_force: None, leaving, cleans, choice }, watch))
    }

    /// By which the sink can be changed later.
    pub(crate) fn choice(&self) -> Choice {
        self.choice.clone()
    }

    fn now(&self) -> SinkKind {
        self.in_force.unwrap_or_else(|| self.choice.in_force())
    }

    /// Removes what a kind wrote.
    fn clear(&mut self, kind: SinkKind) -> Result<(), SinkError> {
        match kind {
            SinkKind::Nftables => Ok(self.nftables.clear()?),
            SinkKind::Iptables => clear_iptables(self.opened.iptables.take()),
            SinkKind::Ebpf => {
                // What came in from outside by the programs goes on by them as long as this process is there.
                #[cfg(feature = "ebpf")]
                match &mut self.opened.sockets {
                    Some(sink) => sink.retire(),
                    None => BpfSink::remove(),
                }
                .map_err(LevelsError::Sockets)?;
                // What stood beside them may be what is in force now.
                if self.now() == SinkKind::Nftables { Ok(()) } else { Ok(self.nftables.clear()?) }
            }
        }
    }
}

fn clear_iptables(sink: Option<IptablesSink>) -> Result<(), SinkError> {
    match sink.map_or_else(|| IptablesSink::open(Variant::Default), Ok) {
        // Who has no iptables has no rules of its.
        Err(IptablesError::Missing(_)) => Ok(()),
        opened => Ok(opened?.clear()?),
    }
}

/// Removes every kind's rules (`--cleanup`).
pub(crate) fn clear_all() -> Result<(), SinkError> {
    let (mut sinks, _) = Sinks::open(SinkKind::Nftables, false)?;
    SinkKind::ALL.into_iter().try_for_each(|kind| sinks.clear(kind))
}

impl RuleSink for Sinks {
    type Error = SinkError;

    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), SinkError> {
        let (wanted, opened) = {
            let mut chosen = self.choice.lock();
            (chosen.wanted, mem::take(&mut chosen.opened))
        };
        self.opened.take(opened);
        let before = self.in_force;
        if let Err(error) = on!(self, wanted, sink => sink.replace(node, frontends)) {
            // As long as the new one cannot, the old one goes on.
            if let Some(old) = before.filter(|old| *old != wanted) {
                on!(self, old, sink => sink.replace(node, frontends))?;
            }
            return Err(error);
        }
        self.in_force = Some(wanted);
        match before {
            Some(old) => drop(self.leaving.insert(old, true)),
            None if self.cleans => self.leaving.extend(SinkKind::ALL.map(|kind| (kind, false))),
            None => {}
        }
        self.leaving.remove(&wanted);
        if wanted == SinkKind::Ebpf {
            // Stands beside it.
            self.leaving.remove(&SinkKind::Nftables);
        }
        if before.is_some_and(|old| old != wanted) {
            tracing::info!(mode = %wanted, "the service rules are another mode's now");
        }
        self.choice.lock().in_force = wanted;
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), SinkError> {
        on!(self, self.now(), sink => sink.apply(changes))
    }

    fn settle(&mut self) -> Result<(), SinkError> {
        on!(self, self.now(), sink => sink.settle())?;
        // A packet that went past the new rules just before they were there still meets the old ones.
        if self.leaving.values().any(|was_in_force| *was_in_force) {
            packets_pass();
        }
        for (kind, must) in mem::take(&mut self.leaving) {
            match self.clear(kind) {
                Err(error) if must => {
                    self.leaving.insert(kind, true);
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "what {kind} may have left was not removed"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn forget_flows(&mut self) -> Result<(), SinkError> {
        on!(self, self.now(), sink => sink.forget_flows())
    }

    fn ends_connections(&self) -> bool {
        self.now() == SinkKind::Ebpf
    }

    fn left(&mut self, endpoints: &BTreeSet<IpAddr>) -> Result<(), SinkError> {
        on!(self, self.now(), sink => sink.left(endpoints))
    }

    fn flows(&mut self) -> [Option<(std::time::Duration, u64)>; 2] {
        on!(self, self.now(), sink => Ok::<_, SinkError>(sink.flows())).unwrap_or_default()
    }

    fn intact(&mut self) -> Result<bool, SinkError> {
        on!(self, self.now(), sink => sink.intact())
    }

    fn lacking(&mut self) -> Option<String> {
        on!(self, self.now(), sink => Ok::<_, SinkError>(sink.lacking())).unwrap_or_default()
    }

    fn try_lacking(&mut self) -> Result<(), SinkError> {
        on!(self, self.now(), sink => sink.try_lacking())
    }

    fn rule_counts(&mut self) -> Option<RuleCounts> {
        on!(self, self.now(), sink => Ok::<_, SinkError>(sink.rule_counts())).unwrap_or_default()
    }

    fn flow_table(&mut self) -> Result<Option<FlowTable>, SinkError> {
        on!(self, self.now(), sink => sink.flow_table())
    }

    fn make_room(&mut self) -> Result<u64, SinkError> {
        on!(self, self.now(), sink => sink.make_room())
    }

    fn read_back(&mut self) -> Result<Installed, SinkError> {
        on!(self, self.now(), sink => sink.read_back())
    }
}
