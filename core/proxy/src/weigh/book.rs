//! What looks at the kernel's flows tell of endpoints: how many each has, and what became of those that came.

use crate::weigh::eject::Outcome;
use crate::{Backend, FrontendKey};
use sealane_catalog::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A SYN that nobody answered for so long was sent again: TCP's first retransmission comes after a second (RFC 6298).
const UNANSWERED: Duration = Duration::from_secs(1);

/// Backends that are looked at, by protocol.
pub type Watched = Arc<BTreeSet<(Protocol, Backend)>>;

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has answered its first packet.
    Opening,
    /// It may carry data.
    Open,
    /// It ended in order; the kernel keeps it for a while.
    Over,
    /// It ended by RST, after it was answered.
    Reset,
}

/// A flow as conntrack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// conntrack's number of it, as its octets are.
    pub id: u32,
    /// Who began it.
    pub client: SocketAddr,
    /// Where that sent it to.
    pub frontend: FrontendKey,
    /// Who answers it, or should.
    pub backend: Backend,
    /// How far it has come.
    pub stage: Stage,
}

/// One look at all flows, and what ended since the last.
#[derive(Clone, Debug, Default)]
pub struct Look {
    watched: Watched,
    flows: Vec<Flow>,
    unanswered: Vec<Flow>,
}

impl Look {
    /// Takes in flows to these backends alone.
    pub fn new(watched: Watched) -> Self {
        Self { watched, ..Self::default() }
    }

    /// A flow that the kernel has.
    pub fn flow(&mut self, flow: Flow) {
        if self.is_watched(&flow) {
            self.flows.push(flow);
        }
    }

    /// A flow that the kernel had; those that were never answered tell something.
    pub fn ended(&mut self, flow: Flow) {
        if flow.stage == Stage::Opening && self.is_watched(&flow) {
            self.unanswered.push(flow);
        }
    }

    /// Connections that rules led, and that nobody has answered.
    pub(crate) fn opening(&self) -> impl Iterator<Item = &Flow> {
        let is_tcp = |flow: &&Flow| flow.frontend.protocol == Protocol::Tcp;
        self.flows.iter().filter(is_tcp).filter(|flow| flow.stage == Stage::Opening && is_led(flow))
    }

    fn is_watched(&self, flow: &Flow) -> bool {
        self.watched.contains(&(flow.frontend.protocol, flow.backend))
    }
}

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// When it was first seen.
    since: Duration,
    stage: Stage,
    /// It counted as a failure.
    failed: bool,
}

/// What an endpoint has and did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Flows that are open, or opening.
    pub live: u32,
    /// Flows that came since the last look.
    pub fresh: u32,
    /// What became of flows since the last look.
    pub outcome: Outcome,
    /// Open ones of TCP that were led to it by a Service, with when they were first seen.
    pub open: Vec<(Duration, Flow)>,
}

/// All flows to watched backends, from one look to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    known: BTreeMap<u32, Known>,
}

impl Book {
    /// Takes a look; says what each backend has and did. At the first look nothing has been done yet. Which flows are
    /// open is told where they may be moved.
    pub(crate) fn take(
        &mut self,
        look: &Look,
        now: Duration,
        first: bool,
        movable: bool,
    ) -> BTreeMap<(Protocol, Backend), Seen> {
        let mut seen: BTreeMap<(Protocol, Backend), Seen> = BTreeMap::new();
        let mut known = BTreeMap::new();
        let is_tcp = |flow: &Flow| flow.frontend.protocol == Protocol::Tcp;
        for flow in &look.flows {
            let before = self.known.get(&flow.id).copied();
            let of = seen.entry((flow.frontend.protocol, flow.backend)).or_default();
            let new = Known { since: now, stage: flow.stage, failed: false };
            let mut record = Known { stage: flow.stage, ..before.unwrap_or(new) };
            of.live += u32::from(matches!(flow.stage, Stage::Opening | Stage::Open));
            if !first {
                of.fresh += u32::from(before.is_none());
                let answered_before = before.is_some_and(|b| b.stage != Stage::Opening);
                of.outcome.answered += u32::from(flow.stage != Stage::Opening && !answered_before);
                let reset_before = before.is_some_and(|b| b.stage == Stage::Reset);
                of.outcome.reset += u32::from(flow.stage == Stage::Reset && !reset_before);
            }
            let late = now.saturating_sub(record.since) >= UNANSWERED;
            if flow.stage == Stage::Opening && is_tcp(flow) && late && !record.failed {
                record.failed = true;
                of.outcome.failed += 1;
            }
            if movable && flow.stage == Stage::Open && is_tcp(flow) && is_led(flow) {
                of.open.push((record.since, *flow));
            }
            known.insert(flow.id, record);
        }
        for flow in look.unanswered.iter().filter(|f| is_tcp(f)) {
            if !self.known.get(&flow.id).is_some_and(|k| k.failed) {
                seen.entry((flow.frontend.protocol, flow.backend)).or_default().outcome.failed += 1;
            }
        }
        self.known = known;
        seen
    }
}

/// Whether rules led it where it is.
fn is_led(flow: &Flow) -> bool {
    (flow.frontend.address, flow.frontend.port) != (flow.backend.address, flow.backend.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn flow(id: u32, stage: Stage) -> Flow {
        let vip = FrontendKey { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: 80 };
        let backend = Backend { address: [10, 244, 0, 1].into(), port: 8080 };
        Flow { id, client: ([10, 244, 9, 9], 40_000).into(), frontend: vip, backend, stage }
    }

    #[test]
    fn what_becomes_of_flows() {
        let backend = flow(0, Stage::Open).backend;
        let watched: Watched = Arc::new([(Protocol::Tcp, backend)].into());
        let mut book = Book::default();
        let mut first = true;
        let mut take = |at: u64, flows: &[(u32, Stage)], ended: &[(u32, Stage)]| {
            let mut look = Look::new(watched.clone());
            flows.iter().for_each(|(id, stage)| look.flow(flow(*id, *stage)));
            ended.iter().for_each(|(id, stage)| look.ended(flow(*id, *stage)));
            let seen = book.take(&look, ms(at), std::mem::take(&mut first), true);
            let seen = seen.values().next().cloned().unwrap_or_default();
            let o = seen.outcome;
            (seen.live, seen.fresh, o.answered, o.failed, o.reset, seen.open.len())
        };
        use Stage::{Open, Opening, Over, Reset};
        // What was there before is only counted.
        assert_eq!(take(0, &[(1, Open), (2, Over), (3, Reset)], &[]), (1, 0, 0, 0, 0, 1));
        // One comes; one that was open ends.
        assert_eq!(take(100, &[(1, Over), (4, Opening)], &[]), (1, 1, 0, 0, 0, 0));
        // It waits for a second: counted once, and not again when it is given up.
        assert_eq!(take(1099, &[(4, Opening)], &[]), (1, 0, 0, 0, 0, 0));
        assert_eq!(take(1100, &[(4, Opening)], &[]), (1, 0, 0, 1, 0, 0));
        assert_eq!(take(1200, &[(4, Opening)], &[]), (1, 0, 0, 0, 0, 0));
        assert_eq!(take(1300, &[], &[(4, Opening)]), (0, 0, 0, 0, 0, 0));
        // Refused between two looks; those that ended in order tell nothing.
        assert_eq!(take(1400, &[], &[(5, Opening), (6, Over), (7, Open)]), (0, 0, 0, 1, 0, 0));
        // Came and went in order between two looks: answered.
        assert_eq!(take(1500, &[(8, Over), (9, Open)], &[]), (1, 2, 2, 0, 0, 1));
        assert_eq!(take(1600, &[(8, Over), (9, Reset)], &[]), (0, 0, 0, 0, 1, 0));
        assert_eq!(take(1700, &[(8, Over), (9, Reset), (10, Reset)], &[]), (0, 1, 1, 0, 1, 0));
    }

    #[test]
    fn flows_to_others_and_past_the_rules() {
        let backend = flow(0, Stage::Open).backend;
        let mut look = Look::new(Arc::new([(Protocol::Udp, backend)].into()));
        look.flow(flow(1, Stage::Open));
        assert!(Book::default().take(&look, ms(0), true, true).is_empty());
        let mut look = Look::new(Arc::new([(Protocol::Tcp, backend)].into()));
        let mut direct = flow(1, Stage::Open);
        (direct.frontend.address, direct.frontend.port) = (backend.address, backend.port);
        look.flow(direct);
        let seen = Book::default().take(&look, ms(0), true, true);
        let seen = &seen[&(Protocol::Tcp, backend)];
        assert_eq!((seen.live, seen.open.len()), (1, 0), "a load, but not ours to move");
    }
}
