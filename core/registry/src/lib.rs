//! What the API promises: a request and what is stored become a [`Txn`] or a Status.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod txn;
pub use txn::{Expect, Txn, Write};
