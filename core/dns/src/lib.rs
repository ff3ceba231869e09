#![forbid(unsafe_code)]
#![deny(missing_docs)]
//! x
pub mod config;
pub mod corefile;
pub mod message;
pub mod name;
mod wire;
