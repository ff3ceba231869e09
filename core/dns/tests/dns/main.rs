//! The DNS state machine from outside: messages in, messages out.

mod cluster;
mod codec;
mod corefile;
mod kubernetes;
mod upstreams;
