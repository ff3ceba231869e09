//! Answers in wire form, prepared by the first client's question and handed to all others with the same one until
//! what they were made from changes.
//!
//! The general path (decode, chain of plugins, encode) makes every answer. Where all plugins on its way treat a
//! question alike each time ([`crate::chain::Passage`]) and the one that answered says what it looked at ([`Basis`]),
//! [`crate::Server::preparation`] says so, and the octets are kept in a [`Prepared`]: one a listener's thread, so that
//! nobody waits for anybody. The key is the client's message itself, without its id and with its name in lower case:
//! one look-up, and id and case are written over. What changes in the cluster comes as [`Changed`], by the same marks.

mod basis;
mod share;
mod shelf;

pub use basis::{Basis, Changed, Mark, marks};
pub use share::Share;
pub use shelf::{Prepared, Served};

use std::sync::Arc;

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
    /// What it counts as.
    pub tally: Arc<Tally>,
}

/// What one answer counts as in the metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
}
