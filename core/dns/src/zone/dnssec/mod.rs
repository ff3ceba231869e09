//! Signing answers as they go out (CoreDNS's dnssec plugin) and whole zones (its sign plugin): keys, signatures over
//! sets of records, and the denials of names that don't exist.

mod keys;
mod sign;
mod signer;
mod whole;

pub use keys::{Key, KeyError};
pub use ring::rand::SecureRandom;
pub use sign::{Rrsig, key_tag, signed_data};
pub use signer::{Signer, SignerError, Stats};
pub use whole::{Whole, outdated};
