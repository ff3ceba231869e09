//! The HTTPS front door.
pub mod nodes;
