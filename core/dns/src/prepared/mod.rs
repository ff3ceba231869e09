//! Answers in wire form, prepared by the first client's question and handed to all others with the same one until
//! what they were made from changes, or their time is over.
//!
//! The general path (decode, chain of plugins, encode) makes every answer. Where all plugins on its way treat a
//! question alike each time ([`crate::chain::Passage`]) and the one that answered says what it looked at ([`Basis`]),
//! or for how long it may be kept ([`Aging`]), [`crate::Server::preparation`] says so, and the octets are kept in a [`Prepared`]: one a listener's thread, so that
//! nobody waits for anybody. The key is the client's message itself, without its id and with its name in lower case:
//! one look-up, and id and case are written over. What changes in the cluster comes as [`Changed`], by the same marks.

mod basis;
mod share;
mod shelf;
mod wire;

pub use basis::{Basis, Changed, Mark, marks};
pub use share::Share;
pub use shelf::{Prepared, Served};

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Handle;

/// An answer that was kept for a time, which its TTLs count down: each of its records has the same one. Times are those
/// of [`crate::Now::monotonic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aging {
    /// When it was stored, and the TTL that it had then, in seconds; `None`: TTLs stay as they are.
    pub counts: Option<(Duration, u64)>,
    /// From then on the general path decides: it has ended, or is to be asked for again.
    pub until: Duration,
    /// Series that count each time that it is handed out.
    pub series: [Handle; 2],
}

impl Aging {
    /// What is left of the TTL, in seconds.
    pub fn left(stored: Duration, ttl: u64, now: Duration) -> u32 {
        let age = now.saturating_sub(stored).as_secs();
        u32::try_from(ttl.saturating_sub(age)).unwrap_or(u32::MAX)
    }
}

/// What has to be known to hand an answer out again.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// What it was made from.
    pub basis: Basis,
    /// Where in the octets the serial number of the cluster's SOA stands: it changes with every snapshot.
    pub serial_at: Option<usize>,
    /// Address records of the answer may stand in any order.
    pub rotates: bool,
    /// Queries that are not to be answered with it: somebody on the general path wants to see them.
    pub sampled: Option<Share>,
    /// It is handed out for some time alone.
    pub aging: Option<Aging>,
    /// What it counts as.
    pub tally: Arc<Tally>,
}

/// What one answer counts as in the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The server block's labels.
    pub labels: Arc<str>,
    /// The question's type.
    pub rtype: u16,
    /// DNSSEC's records were wanted (DO).
    pub dnssec_ok: bool,
    /// Response code.
    pub rcode: u16,
    /// Who answered.
    pub plugin: &'static str,
    /// The plugin's own counters.
    pub series: Vec<Handle>,
}
