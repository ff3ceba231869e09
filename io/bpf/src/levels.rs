//! Both levels in step.

use crate::{BpfError, BpfSink};
use sealane_proxy::{Change, FlowTable, Frontend, FrontendKey, Installed, NodeContext, RuleSink};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The sockets' level, and beside it rules for packets: for what comes from outside, from processes of other cgroups,
/// and for what sockets leave to them.
#[derive(Debug)]
pub struct Levels<'a, P> {
    /// Sockets.
    pub sockets: &'a mut BpfSink,
    /// Packets.
    pub packets: &'a mut P,
}

/// Why one of them did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum LevelsError<E: std::error::Error + Send + Sync + 'static> {
    /// The sockets' level.
    #[error(transparent)]
    Sockets(BpfError),
    /// The packets' rules.
    #[error(transparent)]
    Packets(E),
    /// They lead to different endpoints.
    #[error("eBPF maps and rules for packets differ at {0}: both must be written anew")]
    Differ(FrontendKey),
}

impl<P: RuleSink> RuleSink for Levels<'_, P> {
    type Error = LevelsError<P::Error>;

    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), Self::Error> {
        self.packets.replace(node, frontends).map_err(LevelsError::Packets)?;
        self.sockets.replace(node, frontends).map_err(LevelsError::Sockets)
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Self::Error> {
        self.packets.apply(changes).map_err(LevelsError::Packets)?;
        self.sockets.apply(changes).map_err(LevelsError::Sockets)
    }

    fn settle(&mut self) -> Result<(), Self::Error> {
        self.packets.settle().map_err(LevelsError::Packets)?;
        self.sockets.settle().map_err(LevelsError::Sockets)
    }

    fn forget_flows(&mut self) -> Result<(), Self::Error> {
        // One that fails is no reason for the other to wait.
        let sockets = self.sockets.forget_flows();
        self.packets.forget_flows().map_err(LevelsError::Packets)?;
        sockets.map_err(LevelsError::Sockets)
    }

    fn ends_connections(&self) -> bool {
        self.sockets.ends_connections()
    }

    fn left(&mut self, endpoints: &BTreeSet<IpAddr>) -> Result<(), Self::Error> {
        self.sockets.left(endpoints).map_err(LevelsError::Sockets)
    }

    fn flows(&mut self) -> [Option<(Duration, u64)>; 2] {
        self.packets.flows()
    }

    fn intact(&mut self) -> Result<bool, Self::Error> {
        Ok(self.packets.intact().map_err(LevelsError::Packets)?
            && self.sockets.intact().map_err(LevelsError::Sockets)?)
    }

    fn lacking(&mut self) -> Option<String> {
        self.packets.lacking()
    }

    fn try_lacking(&mut self) -> Result<(), Self::Error> {
        self.packets.try_lacking().map_err(LevelsError::Packets)
    }

    fn flow_table(&mut self) -> Result<Option<FlowTable>, Self::Error> {
        self.packets.flow_table().map_err(LevelsError::Packets)
    }

    fn make_room(&mut self) -> Result<u64, Self::Error> {
        self.packets.make_room().map_err(LevelsError::Packets)
    }

    fn read_back(&mut self) -> Result<Installed, Self::Error> {
        let packets = self.packets.read_back().map_err(LevelsError::Packets)?;
        let sockets = self.sockets.read_back().map_err(LevelsError::Sockets)?;
        let only = sockets.keys().find(|k| !packets.contains_key(k));
        let other = packets.iter().find(|(k, f)| !sockets.get(k).is_some_and(|s| s.means(f)));
        match only.or(other.map(|(key, _)| key)) {
            Some(key) => Err(LevelsError::Differ(*key)),
            None => Ok(packets),
        }
    }
}
