//! The DNS state machine from outside: messages in, messages out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chain;
mod cluster;
mod codec;
mod corefile;
mod forward;
mod grammar;
mod kubernetes;
mod plugins;
mod prepared;
mod tls;
mod upstreams;
