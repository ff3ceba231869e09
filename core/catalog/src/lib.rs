//! What discovery knows: immutable [`Snapshot`]s of Services and their endpoints, and what changed since the
//! last one. DNS, proxy and mesh read it; none of them reads the API.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod model;
pub use model::*;
