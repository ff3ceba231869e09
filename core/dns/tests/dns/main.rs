//! The DNS state machine from outside: messages in, messages out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chain;
mod cluster;
mod codec;
mod corefile;
mod grammar;
mod kubernetes;
mod options;
mod plugins;
mod prepared;
mod upstreams;
