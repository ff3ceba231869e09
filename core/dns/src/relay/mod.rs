//! Questions that go on to an upstream as they came, octet by octet but for the id, and answers that come back so.
//!
//! The general path (decode, chain of plugins, encode, and back) is right for every question. For a plain one on a
//! chain whose plugins all let it by ([`crate::chain::Passage::Open`]) until one hands it to an upstream
//! ([`crate::chain::Plugin::relays`]) it would write the octets that it read. [`crate::Server::relay`] says where such a
//! question goes, from the same state of the same plugins: health, policy, how many are under way.
//! [`crate::Server::relayed`] makes the answer the client's where the general path would have handed it up as it is. All
//! else goes the general way from where it is, be it a failure, an answer that is cut off, or one with other octets than
//! are expected: [`crate::Server::walk`] makes of what is known here what the general path would know by then.
//!
//! An answer's names stay compressed as the upstream did it; the general path compresses them anew. They say the same,
//! and are the same octets where the upstream compresses all that may be, as servers do.

mod wire;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub(crate) use wire::{Asked, Fit};

/// What a plugin says to a question that may go on as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaying {
    /// It is for the next plugin.
    Passes,
    /// It takes the general path; nothing has happened yet.
    Walks,
    /// It goes on as a datagram.
    Goes {
        /// To whom.
        to: SocketAddr,
        /// From which address; `None`: any.
        source: Option<IpAddr>,
        /// How long to wait.
        timeout: Duration,
    },
}

/// What a plugin has to know of an answer to say whether it is handed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Response code.
    pub rcode: u16,
    /// It has no answers.
    pub nothing: bool,
    /// How long it took.
    pub took: Duration,
    /// Whether it went over a socket that was there already; `None`: nobody says.
    pub kept: Option<bool>,
}
