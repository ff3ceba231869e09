//! The HTTPS front door.
pub mod nodes;
pub mod streaming;
