//! Signing answers as they go out (CoreDNS's dnssec plugin): keys, signatures over sets of records, and the denials
//! that are made up for names that don't exist.

mod keys;
mod sign;
mod signer;

pub use keys::{Key, KeyError};
pub use ring::rand::SecureRandom;
pub use sign::{Rrsig, key_tag, signed_data};
pub use signer::{Signer, SignerError, Stats};
